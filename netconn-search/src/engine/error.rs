//! What can go wrong while a query is planned and run, in words that say what to do.

use std::{io, path::PathBuf};

use datafusion::error::DataFusionError;
use netconn_query::ast::Span;
use thiserror::Error;

/// A search that could not be answered.
#[derive(Debug, Error)]
pub enum SearchError {
    /// The query asks for something that cannot be.
    #[error("{message}")]
    Query {
        /// One sentence: what is wrong and what to do.
        message: String,
        /// Where in the query.
        span: Span,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}: {}", path.display(), reason(source))]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {}", path.display(), reason(source))]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to search.
    #[error("there are no events in {}: no .ndjson, .parquet, .ndjson.gz or .ndjson.zst file was found", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A file is neither NDJSON nor Parquet.
    #[error("cannot read {}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The query needs more memory than it may have, on disk as well as in memory.
    #[error("the query needs more than the {} MB of memory that it may use: raise --memory-limit, narrow the filter or the time, or group by fewer values ({detail})", limit / 1_000_000)]
    Memory {
        /// Bytes that it may use.
        limit: usize,
        /// What asked for more.
        detail: String,
    },
    /// The engine failed.
    #[error("the query failed: {0}")]
    Engine(DataFusionError),
}

/// Result of planning and running.
pub type Result<T> = std::result::Result<T, SearchError>;

impl SearchError {
    /// An error at a place of the query.
    pub(crate) fn query(message: impl Into<String>, span: Span) -> Self {
        Self::Query { message: message.into(), span }
    }

    /// An error of the engine: those of a limit are told apart.
    pub(crate) fn engine(error: DataFusionError, limit: usize) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(detail) => {
                let detail = detail.lines().next().unwrap_or_default();
                // A list of consumers would follow.
                let detail = detail.split(" with top memory consumers").next().unwrap_or(detail).to_owned();
                Self::Memory { limit, detail }
            }
            _ => Self::Engine(error),
        }
    }
}

impl From<DataFusionError> for SearchError {
    fn from(error: DataFusionError) -> Self {
        Self::Engine(error)
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "permission denied (join the group of the folder, or run as root)".to_owned()
        }
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        _ => error.to_string(),
    }
}
