//! Checks a query against the existing fields: names, numbers of arguments, and texts that are more than values
//! (regular expressions, networks, spans of time).

mod scope;
mod literal;
mod constant;
mod moment;
mod call;
mod expression;
mod command;

use std::collections::HashSet;

use crate::{ast::Query, diagnostic::Diagnostic, fields::Fields};

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Errors and warnings, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// The columns of the answer.
    pub columns: AnswerColumns,
}

/// The columns of the answer, as far as they are known without running the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerColumns {
    /// All fields of the events, and the added columns.
    Events {
        /// Columns that commands have added to the events.
        added: Vec<String>,
    },
    /// Exactly these, in this order.
    Named(Vec<String>),
    /// These, and others that only the data decide: after `dataset`, `transpose` and `compare`.
    Partly(Vec<String>),
}

/// Checks a query.
pub fn check(query: &Query, fields: &Fields) -> Checked {
    let mut checker = Checker {
        fields,
        diagnostics: Vec::new(),
        parameters: Vec::new(),
        told: HashSet::new(),
        over_rows: false,
        reduces: 0,
    };
    let scope = checker.query(query);
    let mut diagnostics = checker.diagnostics;
    // Subqueries and commands are checked out of the order of the text. The sort is stable.
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    // A shortcut becomes a comparison for each of its fields, all at the same place.
    diagnostics.dedup_by(|one, other| one.span == other.span && one.message == other.message);
    Checked { diagnostics, columns: scope.columns() }
}

struct Checker<'a> {
    fields: &'a Fields,
    diagnostics: Vec<Diagnostic>,
    /// Parameters of the enclosing lambdas.
    parameters: Vec<String>,
    /// Unknown names that were reported: once is enough.
    told: HashSet<String>,
    /// Whether the place is in an argument or a key of a function over rows.
    over_rows: bool,
    /// Number of enclosing lambdas of `reduce`.
    reduces: usize,
}

/// Where an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The filter before the first command.
    FirstFilter,
    /// A command that handles rows one by one.
    Row,
    /// A column of a group outside of its aggregates' arguments.
    Aggregates,
    /// An argument of an aggregate.
    InAggregate,
    /// A key of `group` or `top`.
    Key,
}
