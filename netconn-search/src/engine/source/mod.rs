//! Reads events from files and folders and presents them to the query engine as one table.

pub(crate) mod find;
pub(crate) mod progress;
pub(crate) mod lines;
pub(crate) mod record;
pub(crate) mod losses;
pub(crate) mod sensor;
pub(crate) mod shape;
pub(crate) mod ndjson;
pub(crate) mod parquet;
pub(crate) mod table;
