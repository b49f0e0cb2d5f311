//! Reads events from files and folders and presents them to the query engine as one table.

/// The byte order mark in UTF-8. Some programs write it at the beginning of a file; concatenated files have it in the
/// middle.
pub(crate) const BOM: &[u8] = "\u{feff}".as_bytes();

pub(crate) mod find;
pub(crate) mod progress;
mod objects;
pub(crate) mod lines;
pub(crate) mod record;
pub(crate) mod losses;
pub(crate) mod sensor;
pub(crate) mod shape;
pub(crate) mod ndjson;
pub(crate) mod events;
pub(crate) mod parquet;
pub(crate) mod table;
