//! Reads the text of a query: from the command line, a file, standard input, or a saved query.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

use thiserror::Error;

use crate::{
    home,
    saved::{SavedError, SavedQueries},
};

/// Longest query, bytes. A larger file is probably not a query but, say, a file of events.
const BYTES_MAX: u64 = 1 << 20;

/// Why a query cannot be read.
#[derive(Debug, Error)]
pub(super) enum QueryError {
    /// The file or standard input cannot be read.
    #[error("cannot read the query from {name}")]
    Read {
        /// The file, or standard input.
        name: String,
        /// What the system reported.
        source: io::Error,
    },
    /// The text is too long.
    #[error("the query in {name} is longer than {BYTES_MAX} bytes")]
    Long {
        /// The file, or standard input.
        name: String,
    },
    /// The text is not UTF-8.
    #[error("the query in {name} is not UTF-8 text")]
    NoText {
        /// The file, or standard input.
        name: String,
    },
}

/// Returns the query that an argument stands for: `@FILE` reads it from a file, `-` from standard input.
pub(super) fn text(argument: &str) -> Result<String, QueryError> {
    if argument == "-" {
        return read("standard input".into(), io::stdin().lock());
    }
    let Some(path) = argument.strip_prefix('@').map(PathBuf::from) else { return Ok(argument.to_owned()) };
    let name = path.display().to_string();
    match fs::File::open(&path) {
        Ok(file) => read(name, file),
        Err(source) => Err(QueryError::Read { name, source }),
    }
}

/// Reads a query, limited to [`BYTES_MAX`].
fn read(name: String, from: impl io::Read) -> Result<String, QueryError> {
    let mut bytes = Vec::new();
    // One byte more than allowed, to detect a text that is too long.
    if let Err(source) = from.take(BYTES_MAX + 1).read_to_end(&mut bytes) {
        return Err(QueryError::Read { name, source });
    }
    if bytes.len() as u64 > BYTES_MAX {
        return Err(QueryError::Long { name });
    }
    String::from_utf8(bytes).map_err(|_| QueryError::NoText { name })
}

/// Returns the saved queries of this user.
pub(super) fn saved() -> Result<SavedQueries, SavedError> {
    home::queries().map(SavedQueries::new).ok_or(SavedError::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_come_from_files_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let error = |argument: &str| text(argument).unwrap_err().to_string();
        fs::write(path("q.pq"), "a = 1").unwrap();
        fs::write(path("bytes"), b"a\xff").unwrap();
        fs::write(path("long"), vec![b' '; 1 + (1 << 20)]).unwrap();
        assert_eq!(text("a@b = 1").unwrap(), "a@b = 1");
        assert_eq!(text(&format!("@{}", path("q.pq"))).unwrap(), "a = 1");
        assert!(error(&format!("@{}", path("missing"))).ends_with("missing"));
        assert!(error(&format!("@{}", path("bytes"))).ends_with("bytes is not UTF-8 text"));
        assert!(error(&format!("@{}", path("long"))).contains("is longer than 1048576 bytes"));
    }
}
