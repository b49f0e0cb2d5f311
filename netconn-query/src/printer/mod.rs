//! Writes a query in its canonical form, which parses to the same query: for `--explain`, saved queries, and
//! suggestions.

mod word;
mod expression;
mod command;

pub use expression::expression;
pub use word::{name, text};

use crate::ast::Query;

/// Returns the query in one line.
pub fn line(query: &Query) -> String {
    command::query(query, " ")
}

/// Returns the query with each command in its own line; subqueries stay in the line of their command.
pub fn lines(query: &Query) -> String {
    command::query(query, "\n")
}
