//! Connects the counters of a search to the progress line.

use std::sync::{Arc, OnceLock};

use crate::{
    engine::{ProgressSnapshot, SearchProgress},
    output::progress::{ProgressCounts, ProgressLine},
};

/// The progress line of a search. It starts before the files are known, because listing them takes time as well;
/// dropping it removes the line.
pub(super) struct WatchedSearch {
    counters: Arc<OnceLock<Arc<SearchProgress>>>,
    _line: ProgressLine,
}

impl WatchedSearch {
    /// Starts a line that shows nothing read yet.
    pub(super) fn start() -> Self {
        let counters = Arc::new(OnceLock::<Arc<SearchProgress>>::new());
        let counts = Arc::clone(&counters);
        let counts =
            move || counts.get().map_or_else(ProgressCounts::default, |progress| counts_of(&progress.snapshot()));
        Self { counters, _line: ProgressLine::start(counts) }
    }

    /// Shows these counters from now on.
    pub(super) fn watch(&self, progress: &Arc<SearchProgress>) {
        // A search has one set of counters: later calls change nothing.
        let _ = self.counters.set(Arc::clone(progress));
    }
}

/// Returns the counters that the line shows.
fn counts_of(read: &ProgressSnapshot) -> ProgressCounts {
    ProgressCounts {
        events: read.rows,
        bytes: read.bytes,
        files_done: read.files,
        files: read.files_all,
        bytes_all: read.bytes_all,
    }
}
