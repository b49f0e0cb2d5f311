//! What the fuzz targets do with an input. `netconn/tests/corpus.rs` includes the same files.

pub mod btf;
pub mod records;
