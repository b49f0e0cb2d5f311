//! Progress of a search: counters that its readers increase.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use datafusion::{datasource::source::DataSourceExec, physical_plan::ExecutionPlan};

use crate::engine::error::shown;

/// Most bad lines whose places are told.
const BAD_LINES_MAX: usize = 10;

/// Counters of one search, readable at any time from any thread.
#[derive(Debug, Default)]
pub struct SearchProgress {
    rows: AtomicU64,
    bytes: AtomicU64,
    bytes_all: AtomicU64,
    files: AtomicU64,
    files_all: AtomicU64,
    files_pruned: AtomicU64,
    bad_lines: AtomicU64,
    wrong_values: AtomicU64,
    lost: AtomicU64,
    cut: AtomicBool,
    /// Events without a time, which are in no range.
    untimed: AtomicU64,
    /// Places of the first bad lines, by file; without a number if it could not be told.
    bad: Mutex<BTreeMap<PathBuf, BTreeSet<u64>>>,
    /// Number of these places.
    told: AtomicUsize,
    /// The Parquet scans of the running plan, which keep their own metrics. The whole plan must not be kept here: its
    /// NDJSON readers hold this object, and the cycle would never be freed.
    parquet: OnceLock<Vec<Arc<dyn ExecutionPlan>>>,
    /// Messages about files that could not be read. A lock is cheap enough: few files have one.
    notes: Mutex<BTreeSet<String>>,
}

/// The values of [`SearchProgress`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressSnapshot {
    /// Events read, counted before any filter.
    pub rows: u64,
    /// Bytes read from disk, before decompression.
    pub bytes: u64,
    /// Size of all files of the search, bytes.
    pub bytes_all: u64,
    /// Files read to the end.
    pub files: u64,
    /// Files to read.
    pub files_all: u64,
    /// Files left out because none of their events is in the time range.
    pub files_pruned: u64,
    /// Lines that are not a JSON object.
    pub bad_lines: u64,
    /// Values left out because they do not have their field's type.
    pub wrong_values: u64,
    /// Events of the range that are known to be lost: the sum of `loss.count` of `Data Loss` events. Complete at the
    /// end.
    pub lost: u64,
    /// Whether the answer was cut after [`Search::max_rows`](crate::engine::Search::max_rows) rows because the query
    /// has no limit of its own. Complete at the end.
    pub cut: bool,
    /// One sentence for each file that was not read, or not completely.
    pub notes: Vec<String>,
}

impl SearchProgress {
    /// Reads all counters.
    pub fn snapshot(&self) -> ProgressSnapshot {
        let mut notes: Vec<String> = unpoisoned(&self.notes).iter().cloned().collect();
        notes.extend(unpoisoned(&self.bad).iter().map(|(path, lines)| {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            let (word, are) =
                if lines.len() == 1 { ("line", "is no JSON object") } else { ("lines", "are no JSON objects") };
            format!("{}: {word} {} {are}.", shown(path), lines.join(", "))
        }));
        match self.untimed.load(Ordering::Relaxed) {
            0 => {}
            1 => notes.push("1 event has no event.time, so it is in no range of time.".to_owned()),
            events => notes.push(format!("{events} events have no event.time, so they are in no range of time.")),
        }
        // The counters are independent of each other and only shown, so `Relaxed` is enough everywhere here.
        let files_all = self.files_all.load(Ordering::Relaxed);
        let mut scanned = ScanMetrics::default();
        self.parquet.get().into_iter().flatten().for_each(|reader| scanned.add(reader));
        ProgressSnapshot {
            rows: self.rows.load(Ordering::Relaxed) + scanned.rows,
            bytes: self.bytes.load(Ordering::Relaxed) + scanned.bytes,
            bytes_all: self.bytes_all.load(Ordering::Relaxed),
            // DataFusion counts a file twice if two partitions read parts of it.
            files: (self.files.load(Ordering::Relaxed) + scanned.files).min(files_all),
            files_all,
            files_pruned: self.files_pruned.load(Ordering::Relaxed),
            bad_lines: self.bad_lines.load(Ordering::Relaxed),
            wrong_values: self.wrong_values.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            cut: self.cut.load(Ordering::Relaxed),
            notes,
        }
    }

    /// Registers the Parquet scans of the plan that is about to run.
    pub(crate) fn runs(&self, plan: &Arc<dyn ExecutionPlan>) {
        let mut readers = Vec::new();
        // Without recursion: plans of long queries are deep (docs/search-engine.md).
        let mut rest = vec![plan];
        while let Some(plan) = rest.pop() {
            if plan.is::<DataSourceExec>() {
                readers.push(Arc::clone(plan));
            }
            rest.extend(plan.children());
        }
        // A search runs one plan: later calls change nothing.
        let _ = self.parquet.set(readers);
    }

    pub(crate) fn lost(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn expect(&self, files: u64, bytes: u64) {
        self.files_all.fetch_add(files, Ordering::Relaxed);
        self.bytes_all.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn prune(&self, files: u64) {
        self.files_pruned.fetch_add(files, Ordering::Relaxed);
    }

    pub(crate) fn finish(&self, files: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
    }

    pub(crate) fn bad_lines(&self, lines: u64) {
        self.bad_lines.fetch_add(lines, Ordering::Relaxed);
    }

    /// Whether places of bad lines are still asked for.
    pub(crate) fn wants_bad_lines(&self) -> bool {
        self.told.load(Ordering::Relaxed) < BAD_LINES_MAX
    }

    /// Notes the place of a bad line.
    pub(crate) fn bad_line(&self, path: &Path, number: Option<u64>) {
        let Some(number) = number else { return };
        if self.told.fetch_add(1, Ordering::Relaxed) < BAD_LINES_MAX {
            unpoisoned(&self.bad).entry(path.to_owned()).or_default().insert(number);
        }
    }

    /// Counts events without a time.
    pub(crate) fn untimed(&self, events: u64) {
        self.untimed.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn wrong_values(&self, values: u64) {
        self.wrong_values.fetch_add(values, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, sentence: String) {
        unpoisoned(&self.notes).insert(sentence);
    }
}

/// Locks. A panic while a lock was held cannot have broken what is in it: the only change is an insertion.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sums of the metrics of Parquet scans.
#[derive(Default)]
struct ScanMetrics {
    rows: u64,
    bytes: u64,
    files: u64,
}

impl ScanMetrics {
    fn add(&mut self, reader: &Arc<dyn ExecutionPlan>) {
        let Some(metrics) = reader.metrics() else { return };
        let named = |name| metrics.sum_by_name(name).map_or(0, |value| value.as_usize() as u64);
        self.bytes += named("bytes_scanned");
        self.files += named("files_processed");
        // Rows that the pushed-down filter drops were read as well.
        self.rows += metrics.output_rows().unwrap_or(0) as u64 + named("pushdown_rows_pruned");
    }
}
