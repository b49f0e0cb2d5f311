//! Functions that work row by row over values. Callers check the number of arguments by the catalogue.

mod number;
mod text;
mod format;
mod network;
mod array;
pub mod time;
pub mod date;
mod place;
mod table;

use std::sync::Arc;

pub use array::contains;
use ipnet::IpNet;
use regex::Regex;
pub use table::{
    ADDRESS, AS_NUMBER, AS_TEXT, CONTAINS, CUT, Code, EXTRACT, HACKLIST, LambdaKind, MATCH, MOMENT, NET_IPSUBNET,
    ORDER, PLACES, Place, Planned, Returns, RowFunction, Run, SPAN, code, takes_elements, wants_elements,
};

/// Largest number of `reduce` within one another: each may be planned twice, so the time doubles with each level.
pub const REDUCE_MAX: usize = 8;

/// Returns the message about more than [`REDUCE_MAX`] of them.
pub fn too_many_reduces() -> String {
    format!("reduce is nested too deeply: {REDUCE_MAX} levels are allowed, so split it with let")
}

/// Compiled patterns. The caller of a function keeps them from one row to the next.
pub trait Patterns {
    /// Returns the compiled expression; `None` if the pattern is not valid.
    fn regex(&self, pattern: &str) -> Option<Arc<Regex>>;

    /// Returns the network; `None` if the text is not one.
    fn network(&self, text: &str) -> Option<IpNet>;
}
