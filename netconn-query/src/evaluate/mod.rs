//! A filter over one event, with the verdict that a search gives: for rules, subscriptions and everything else that looks at events one by
//! one. Patterns, networks and numbers are compiled once; what needs more than one event is refused.
//!
//! Conditions are true or false, never missing: `a = null` asks whether a is missing, `!=` is exactly not `=`, and a missing value is
//! neither less nor greater than another. Kinds of values are known before the first event, by the table of fields; so `'443'`
//! equals 443 in a field of numbers and is a text in one of texts.
//!
//! A search ends with an error when a sum of whole numbers is beyond 64 bits. Here the event does not match, and
//! [`Predicate::verdict`] says why.

mod relation;
mod node;
mod condition;
mod call;
mod lambda;
mod compile;
mod event;
mod row;

use std::{cell::Cell, net::IpAddr};

use condition::Condition;
use netconn_model::field::Field;
use node::Row;
pub use row::{fields_of_rows, without_fields_of_events};
use thiserror::Error;

use crate::{
    alias,
    ast::Query,
    diagnostic::{Diagnostic, has_errors},
    fields::Fields,
    parser::parse,
    short,
    value::{Value, ValueKind},
};

/// The fields of an event, as a filter reads them.
pub trait EventFields {
    /// Returns the value of a field, of the type that the table of fields says; `None` if the event does not have it. Numbers
    /// beyond `i64` are missing.
    fn value(&self, field: Field) -> Option<Value<'_>>;

    /// Returns the address in a field, if the event holds it as an address and [`EventFields::value`] gives its usual text; a filter
    /// that lists addresses and networks then compares without the text.
    fn address(&self, _field: Field) -> Option<IpAddr> {
        None
    }

    /// Returns the value of a field that the table of fields does not have, of the kind that [`Predicate::compile`] was given.
    fn other(&self, _name: &str) -> Option<Value<'_>> {
        None
    }
}

/// A sum of whole numbers was beyond 64 bits, so there is no verdict.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a sum is beyond the largest whole number (2^63): multiply by 1.0 first, to count with 64-bit floats")]
pub struct SumBeyond;

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Predicate {
    condition: Condition,
}

/// A compiled filter, with warnings about what had to be interpreted.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The filter.
    pub predicate: Predicate,
    /// Warnings, in the order of the text.
    pub warnings: Vec<Diagnostic>,
}

impl Predicate {
    /// Reads and compiles a filter over events that have the fields of the schema only.
    ///
    /// # Errors
    ///
    /// What is wrong with it, with the warnings, in the order of the text.
    pub fn parse(text: &str) -> Result<Compiled, Vec<Diagnostic>> {
        let parsed = parse(text);
        let Some(mut query) = parsed.query else { return Err(parsed.diagnostics) };
        let mut diagnostics = parsed.diagnostics;
        short::expand(&mut query, |_| false);
        diagnostics.extend(alias::sentinel_one(&mut query));
        match Self::compile(&query, &[]) {
            Ok(compiled) => {
                diagnostics.extend(compiled.warnings);
                diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
                Ok(Compiled { predicate: compiled.predicate, warnings: diagnostics })
            }
            Err(found) => {
                diagnostics.extend(found);
                diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
                Err(diagnostics)
            }
        }
    }

    /// Compiles a filter: a query without commands, or with `filter` only. `others` are the fields that events have besides those
    /// of the schema; a field that is in neither is always missing, which a warning says.
    ///
    /// # Errors
    ///
    /// What is wrong with the filter or needs more than one event, with the warnings, in the order of the text.
    pub fn compile(query: &Query, others: &[(&str, ValueKind)]) -> Result<Compiled, Vec<Diagnostic>> {
        let fields = Fields::new(others.iter().map(|(name, _)| *name));
        // The checker reports what is wrong for any engine; the compiler adds what a single event cannot answer, and
        // relies on the checker for the rest.
        let mut diagnostics = crate::check(query, &fields).diagnostics;
        // Compiled even with errors, so that all of them are reported at once.
        let condition = compile::filter(query, others, &mut diagnostics);
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        if has_errors(&diagnostics) {
            return Err(diagnostics);
        }
        Ok(Compiled { predicate: Self { condition }, warnings: diagnostics })
    }

    /// Whether the filter matches an event.
    pub fn matches<E: EventFields + ?Sized>(&self, event: &E) -> bool {
        self.verdict(event) == Ok(true)
    }

    /// Returns whether the filter matches an event, and tells "no" from "cannot be decided".
    ///
    /// # Errors
    ///
    /// [`SumBeyond`], if the filter adds numbers of the event that are too large.
    pub fn verdict<E: EventFields + ?Sized>(&self, event: &E) -> Result<bool, SumBeyond> {
        // A cell instead of a `Result` in each node keeps the evaluation of conditions free of error paths.
        let beyond = Cell::new(false);
        let holds = self.condition.holds(&Row { event, elements: None, beyond: &beyond });
        if beyond.get() { Err(SumBeyond) } else { Ok(holds) }
    }
}
