//! Writes a query as the language wants it: parsed again it is the same. For `--explain`, for saved queries, and for the
//! suggestions beside what was written otherwise.

mod word;
mod expression;
mod command;

pub use expression::expression;
pub use word::{name, text};

use crate::ast::Query;

/// The query in one line.
pub fn line(query: &Query) -> String {
    command::query(query, " ")
}

/// The query with each command in a line of its own; subqueries stay within their line.
pub fn lines(query: &Query) -> String {
    command::query(query, "\n")
}
