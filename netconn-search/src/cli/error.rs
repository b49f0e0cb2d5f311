//! Errors of the command line, and how errors are reported: as text on standard error, as JSON on standard output.

use std::{path::PathBuf, time::Duration};

use netconn_model::{config::ConfigError, term};
use netconn_query::Diagnostic;
use thiserror::Error;

use crate::{engine::SearchError, range::RangeError};

/// A query that cannot be run, with diagnostics that point at its parts.
#[derive(Debug, Error)]
#[error("the query cannot be read")]
pub(super) struct RefusedQuery {
    /// The text of the query.
    pub(super) text: String,
    /// The errors in it, and warnings.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// The search took longer than `--timeout` allows.
#[derive(Clone, Copy, Debug, Error)]
#[error(
    "the search did not end within {}: narrow the time range or the filter, or raise --timeout",
    term::duration(self.0)
)]
pub(super) struct TimedOut(pub(super) Duration);

/// The user pressed Ctrl-C.
#[derive(Clone, Copy, Debug, Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Options that cannot be combined, or a missing one; the text says what to do.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub(super) struct WrongUse(pub(super) String);

/// The daemon has no history to search.
#[derive(Clone, Debug, Error)]
#[error(
    "there is no history in {}: start the daemon (`netconn run`) with `history = true`, or name files with --file",
    folder.display()
)]
pub(super) struct NoHistory {
    /// The folder where the history would be.
    pub(super) folder: PathBuf,
}

/// Writes an error to standard error: the diagnostics of a refused query, or one sentence.
pub(super) fn report(error: &anyhow::Error) {
    match error.downcast_ref::<RefusedQuery>() {
        Some(RefusedQuery { text, diagnostics }) => {
            for diagnostic in diagnostics {
                netconn_model::tell!("{}", diagnostic.render(text));
            }
        }
        // Paths and values in a message may hold control characters.
        // Only the reader of the configuration shows the place of an error, in several lines.
        None if error.is::<ConfigError>() => {
            let lines: Vec<_> = sentence(error).lines().map(|line| term::sanitize(line).into_owned()).collect();
            netconn_model::tell!("netconn: {}", lines.join("\n"));
        }
        None => netconn_model::tell!("netconn: {}", term::sanitize(&sentence(error))),
    }
}

/// Returns an error in the form of the daemon's socket: a code, a sentence and, for a refused query, its diagnostics.
pub(super) fn to_json(error: &anyhow::Error) -> serde_json::Value {
    let (code, diagnostics) = match error.downcast_ref::<RefusedQuery>() {
        Some(RefusedQuery { text, diagnostics }) => {
            ("bad_request", diagnostics.iter().map(|diagnostic| diagnostic.report(text)).collect())
        }
        None if error.is::<WrongUse>() || error.is::<RangeError>() => ("bad_request", Vec::new()),
        None if error.is::<TimedOut>() => ("timeout", Vec::new()),
        None => ("command_failed", Vec::new()),
    };
    serde_json::json!({ "error": { "code": code, "message": sentence(error), "diagnostics": diagnostics } })
}

/// Joins an error and its causes into one sentence.
fn sentence(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    // `{:#}` would repeat causes that a message already contains.
    for cause in error.chain() {
        causes.push(cause.to_string());
        // The message of a `SearchError` already contains its causes.
        if cause.is::<SearchError>() {
            break;
        }
    }
    causes.join(": ")
}

/// Converts an error of the engine; one with a span becomes a diagnostic at its place in the query.
pub(super) fn located(error: SearchError, text: &str) -> anyhow::Error {
    match error {
        SearchError::Query { message, span } => {
            RefusedQuery { text: text.into(), diagnostics: vec![Diagnostic::error(span, message)] }.into()
        }
        error => error.into(),
    }
}

/// Formats a diagnostic as one line, for the warnings of a JSON answer.
pub(super) fn diagnostic_line(diagnostic: &Diagnostic, text: &str) -> String {
    let report = diagnostic.report(text);
    let suggestion = report.suggestion.map(|suggestion| format!("; write: {suggestion}")).unwrap_or_default();
    format!("{} (line {}, column {}){suggestion}", report.message, report.line, report.column)
}
