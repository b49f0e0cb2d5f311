//! Errors of planning and running a query, with messages that say what to do.

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
};

use datafusion::error::DataFusionError;
use netconn_query::ast::Span;
use thiserror::Error;

/// The folder in which the kernel shows the open files of this thread. Nobody types it, so a file in it is the copy of standard
/// input, which has no other name.
pub(crate) const OPEN_FILES: &str = "/proc/thread-self/fd";

/// Returns how messages name a file.
pub(crate) fn shown(path: &Path) -> Cow<'_, str> {
    if path.starts_with(OPEN_FILES) { "standard input".into() } else { path.to_string_lossy() }
}

/// Why a search failed.
#[derive(Debug, Error)]
pub enum SearchError {
    /// The query cannot be planned or run.
    #[error("{message}")]
    Query {
        /// One sentence that says what is wrong and what to do.
        message: String,
        /// The part of the query that the message is about.
        span: Span,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}: {}", shown(path), reason(source))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {}", shown(path), reason(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// A folder holds no file with events.
    #[error(
        "there are no events in {}: no .ndjson or .parquet file was found, nor one of .ndjson.gz, .zst, .bz2 or .xz",
        shown(path)
    )]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A file has a format that cannot be read.
    #[error("cannot read {}: {why}", shown(path))]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The query needs more memory than allowed, and cannot spill to disk.
    #[error("the query needs more than the allowed {} MB of memory: raise --memory-limit, narrow the filter or the time range, or group by fewer values ({detail})", limit / 1_000_000)]
    Memory {
        /// The limit, bytes.
        limit: usize,
        /// The operator that asked for more.
        detail: String,
    },
    /// DataFusion reported another error.
    #[error("the query failed: {0}")]
    Engine(DataFusionError),
}

/// The result of planning and running a query.
pub type Result<T> = std::result::Result<T, SearchError>;

impl SearchError {
    /// Creates an error about a part of the query.
    pub(crate) fn query(message: impl Into<String>, span: Span) -> Self {
        Self::Query { message: message.into(), span }
    }

    /// Converts an error of DataFusion; `limit` is the memory limit in bytes, for the error that it is exhausted.
    pub(crate) fn engine(error: DataFusionError, limit: usize) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(detail) => {
                let detail = detail.lines().next().unwrap_or_default();
                // DataFusion lists all consumers after this; one sentence is enough.
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

/// Describes an I/O error, with a hint where there is one.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "permission denied (join the group of the folder, or run as root)".to_owned()
        }
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        _ => error.to_string(),
    }
}
