//! Where encoded events go. A [`Sink`] is one way of writing them: a file, standard output, the history. An [`Output`] runs a
//! sink in a thread of its own behind a bounded queue; a full queue drops new events and counts them, so that the engine never
//! waits. A [`Stream`] is a client of the daemon's socket that listens to events.
//!
//! To add a sink, implement [`Sink`] in a new file and open it in [`open`]; nothing else asks what a sink is.

mod batch;
mod shares;
mod fold;
mod counters;
mod pace;
mod writer;
mod output;
mod file;
mod stdout;
mod history;
mod stream;

use std::{fmt::Debug, io, path::Path, sync::Arc, time::Duration};

pub use batch::{Batch, EventClass, EventCounts, EventNote, EventOrigin};
pub use counters::OutputLosses;
pub use fold::{FloodOrigin, Fold, Folds};
use netconn_model::{
    config::Config,
    fact::LossStage,
    health::{Health, OutputHealth},
};
pub use output::{Closing, Output, OutputError, POLL};
pub use shares::Shares;
pub use stream::{Stream, StreamMemory};

use crate::{
    line_file::WriteFailure,
    sink::{file::FileSink, history::HistorySink, stdout::StdoutSink},
    store::{HistoryLimits, HistoryTiming},
};

/// Names standard output in `--events` and in the configuration.
const STDOUT: &str = "-";

/// A way of writing events. It lives in the thread of its [`Output`], so that it may block.
pub trait Sink: Send {
    /// Returns what `loss.output` of a `Data Loss` event calls it.
    fn name(&self) -> String;

    /// Returns where it writes, for messages and health reports: a path or an address.
    fn destination(&self) -> String {
        self.name()
    }

    /// Returns the stage at which events are lost when [`Sink::write`] fails.
    fn loss_stage(&self) -> LossStage;

    /// Returns what the engine can ask about the sink while its thread owns it.
    fn status(&self) -> Arc<dyn SinkStatus> {
        Arc::new(CountsOnly)
    }

    /// Whether the daemon refuses to start when the first batch cannot be written, unless the file system is full. Otherwise those
    /// events are lost and counted, and later batches are tried.
    fn is_required(&self) -> bool {
        true
    }

    /// Returns what of a batch is to be written, and counts of the rest, which the sink tells by [`SinkStatus::take_folds`].
    fn select(&mut self, batch: &Batch) -> (Option<Batch>, EventCounts) {
        (Some(batch.clone()), EventCounts::default())
    }

    /// Writes a batch. A sink that waits for a reader gives up soon after `is_given_up` has begun to return `true`.
    ///
    /// # Errors
    ///
    /// When not all of it could be written; the failure says how many bytes of whole lines were. The kind of its error is
    /// [`GIVEN_UP`](crate::line_file::GIVEN_UP) if the sink has given up.
    fn write(&mut self, batch: &Batch, is_given_up: &dyn Fn() -> bool) -> Result<(), WriteFailure>;

    /// Opens the destination again, for log rotation, and logs the outcome.
    fn reopen(&mut self) {}

    /// Takes over other limits, if it is a history.
    fn limit_history(&mut self, _: HistoryLimits) {}

    /// Returns how long to wait for the next batch before [`Sink::on_due`] is called.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// Does what is due without a batch.
    fn on_due(&mut self) {}

    /// Returns what to do about a write error, to be put behind its message: empty, or beginning with a semicolon.
    fn advice(&self, error: &io::Error) -> &'static str;

    /// Whether a write error means that nobody can ever read this output again. It gets no more events then.
    fn is_gone(&self, _: &io::Error) -> bool {
        false
    }
}

/// What the engine can ask about a sink while the thread of its output owns it.
pub trait SinkStatus: Debug + Send + Sync {
    /// Adds the sink to a health report. `counts` is what its output has counted.
    fn report(&self, counts: OutputHealth, health: &mut Health) {
        health.outputs.push(counts);
    }

    /// Returns what the sink has folded since this was last called.
    fn take_folds(&self) -> Folds {
        Folds::default()
    }
}

/// The status of a sink about which there is nothing to say but the counts of its output.
#[derive(Debug)]
struct CountsOnly;

impl SinkStatus for CountsOnly {}

/// Returns whether an error means that the file system, or somebody's part of it, is full: that may pass.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Opens an entry of `events`.
///
/// # Errors
///
/// When it cannot be opened.
pub fn open_path(path: &Path) -> Result<Box<dyn Sink>, OutputError> {
    Ok(if path == Path::new(STDOUT) { Box::new(StdoutSink::open()?) } else { Box::new(FileSink::open(path)?) })
}

/// Returns the limits of the history that a configuration gives.
pub fn history_limits(config: &Config, timing: HistoryTiming) -> HistoryLimits {
    let age = Duration::from_secs(u64::from(config.history_days) * 86_400);
    let floor = Duration::from_secs(u64::from(config.history_floor_hours) * 3600);
    HistoryLimits::new(config.history_bytes, age, timing).with_floor(floor)
}

/// Opens all outputs of a configuration, and writes `first` to each of them.
///
/// # Errors
///
/// When an output cannot be opened, when a required one cannot be written, or when the system gives no thread.
pub fn open(config: &Config, timing: HistoryTiming, first: &Batch) -> Result<Vec<Output>, OutputError> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    for path in &config.events {
        sinks.push(open_path(path)?);
    }
    if config.history {
        sinks.push(Box::new(HistorySink::start(config, timing)?));
    }
    // Only now, when all of them could be opened: a wrong path leaves no `Sensor Start` in the files before it.
    sinks.into_iter().map(|sink| Output::start(sink, first)).collect()
}
