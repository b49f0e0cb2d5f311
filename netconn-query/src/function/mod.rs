//! Functions that work row by row over values. Their arguments are as many as the catalogue says: callers check it.

mod number;
mod text;
mod format;
mod network;
mod array;
pub mod time;
mod table;

use std::sync::Arc;

pub use array::contains;
use ipnet::IpNet;
use regex::Regex;
pub use table::{
    AS_NUMBER, AS_TEXT, CONTAINS, CUT, Code, EXTRACT, HACKLIST, LambdaKind, MATCH, MOMENT, NET_IPSUBNET, ORDER, Place,
    Planned, Returns, RowFunction, Run, code,
};

/// Compiled patterns: whoever calls functions keeps them from one row to the next.
pub trait Patterns {
    /// Returns the compiled expression; `None` if it is none.
    fn regex(&self, pattern: &str) -> Option<Arc<Regex>>;

    /// Returns the network; `None` if it is none.
    fn network(&self, text: &str) -> Option<IpNet>;
}
