//! The code that each fuzz target runs on an input. `netconn/tests/corpus.rs` includes the same files.

pub mod btf;
pub mod records;
