//! Checks a query against the fields that there are: names, numbers of arguments, and what is written in texts that mean
//! something (regular expressions, networks, spans of time).

mod scope;
mod literal;
mod call;
mod expression;
mod command;

use std::collections::HashSet;

use crate::{ast::Query, diagnostic::Diagnostic, fields::Fields};

/// What a check has found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// All that is wrong, or had to be interpreted, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// The columns of the answer.
    pub columns: Columns,
}

/// The columns that a query has in the end, as far as they are known without running it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Columns {
    /// All fields of the events, and these.
    Events {
        /// Columns that commands have added.
        added: Vec<String>,
    },
    /// These, in this order.
    Named(Vec<String>),
    /// These, and others that only the data know: after `dataset`, `transpose` and `compare`.
    Partly(Vec<String>),
}

/// Checks a query.
pub fn check(query: &Query, fields: &Fields) -> Checked {
    let mut checker = Checker { fields, diagnostics: Vec::new(), parameters: Vec::new(), told: HashSet::new() };
    let scope = checker.query(query);
    let mut diagnostics = checker.diagnostics;
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    // A shortcut makes one comparison for each of its fields.
    diagnostics.dedup_by(|one, other| one.span == other.span && one.message == other.message);
    Checked { diagnostics, columns: scope.columns() }
}

struct Checker<'a> {
    fields: &'a Fields,
    diagnostics: Vec<Diagnostic>,
    /// Parameters of the lambdas around.
    parameters: Vec<String>,
    /// Unknown names that were told: once is enough.
    told: HashSet<String>,
}

/// Where an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The filter before the first command.
    FirstFilter,
    /// Another command, row by row.
    Row,
    /// What is made of a group.
    Aggregates,
    /// Within an aggregate.
    InAggregate,
    /// A key of `group` or `top`.
    Key,
}
