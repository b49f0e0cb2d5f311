//! What the planning of one query shares between its commands and its queries: names of hidden columns, and warnings.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use netconn_query::ast::Span;

use super::rows::HIDDEN;

/// Something that the person who asked should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// One sentence.
    pub message: String,
    /// The place in the query, if it is about one.
    pub span: Option<Span>,
    /// What to write instead, if anything is known.
    pub suggestion: Option<String>,
}

/// State of the planning of one query. It is shared by futures that may change threads, so its members lock.
#[derive(Debug, Default)]
pub(crate) struct Planning {
    hidden: AtomicUsize,
    warnings: Mutex<Vec<Warning>>,
}

impl Planning {
    /// Returns a name that no column has yet and that no query can write.
    pub(crate) fn hidden(&self) -> String {
        // Only that numbers differ matters, so no order between threads is needed.
        format!("{HIDDEN}{}", self.hidden.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a warning, unless it is there already.
    pub(crate) fn warn(&self, warning: Warning) {
        // A list of warnings is whole after a panic as well, so a poisoned lock is used.
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Returns all warnings so far.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
