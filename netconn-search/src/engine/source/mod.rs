//! Where events come from: files and folders, as one table.

pub(crate) mod find;
pub(crate) mod progress;
pub(crate) mod lines;
pub(crate) mod record;
pub(crate) mod losses;
pub(crate) mod shape;
pub(crate) mod ndjson;
pub(crate) mod parquet;
pub(crate) mod table;
