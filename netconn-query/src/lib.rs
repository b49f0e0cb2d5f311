//! The language of searches: its syntax and its rules. Nothing here depends on data or on an engine.
//!
//! [`parse`] turns a text into a [`Query`] and reports everything that is wrong with it; [`check`] compares the query with the
//! existing fields; [`printer`] writes its canonical form, which parses to the same query. The names of the language are in
//! [`catalogue`] and [`keyword`]; [`facts`] says what each command does to rows.

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
pub mod alias;
pub mod fields;
pub mod short;
pub mod address;
pub mod text_pattern;
pub mod value;
pub mod function;
pub mod check;
pub mod evaluate;

pub use ast::Query;
pub use check::{AnswerColumns, Checked, check};
pub use diagnostic::{Diagnostic, Severity};
pub use fields::Fields;
pub use parser::{Parsed, parse};
