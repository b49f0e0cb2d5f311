//! The language: its syntax and what may be said in it. Nothing here knows of data or of an engine.
//!
//! [`parse`] makes a [`Query`] of a text and tells all that is wrong with it; [`check`] compares it with the fields that there
//! are; [`printer`] writes it as the language wants it, so that parsing that gives the same query again.

pub mod ast;
pub mod pattern;
pub mod facts;
pub mod walk;
pub mod diagnostic;
pub mod keyword;
mod lexer;
pub mod catalogue;
pub mod old;
pub mod duration;
pub mod printer;
pub mod parser;
pub mod fields;
pub mod check;

pub use ast::Query;
pub use check::{Checked, Columns, check};
pub use diagnostic::{Diagnostic, Severity};
pub use fields::Fields;
pub use parser::{Parsed, parse};
