//! Events in the history of this host, which `netconn search` reads.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use netconn_model::{
    config::Config,
    fact::LossStage,
    health::{Health, HistoryHealth, OutputHealth},
    segment_name,
};

use crate::{
    clock::since_boot,
    line_file::WriteFailure,
    sink::{
        Batch, EventCounts, Folds, OutputError, Sink, SinkStatus,
        fold::{self, FloodGuard},
        history_limits,
    },
    store::{HistoryLimits, HistorySettings, HistoryStatus, HistoryTiming, HistoryWriter},
};

/// The history of this host.
pub(super) struct HistorySink {
    destination: String,
    writer: HistoryWriter,
    guard: FloodGuard,
    status: Arc<HistorySinkStatus>,
}

/// What the engine can ask about the history.
#[derive(Debug)]
struct HistorySinkStatus {
    history: Arc<HistoryStatus>,
    /// A lock, because the engine takes out what the thread of the output puts in: at most once for each batch, and only while
    /// something is folded.
    folds: Mutex<FoldAccount>,
}

#[derive(Debug, Default)]
struct FoldAccount {
    /// What the engine has not told yet.
    untold: Folds,
    /// Since the start.
    total: EventCounts,
}

impl HistorySink {
    /// Starts the thread that looks after the history; files are created with the first batch.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(super) fn start(config: &Config, timing: HistoryTiming) -> Result<Self, OutputError> {
        let settings = HistorySettings {
            directory: config.state_dir.join(segment_name::FOLDER),
            group: config.group.clone(),
            limits: history_limits(config, timing),
            timing,
        };
        let destination = settings.directory.display().to_string();
        match HistoryWriter::start(settings) {
            Ok(writer) => {
                let folds = Mutex::default();
                let status = Arc::new(HistorySinkStatus { history: Arc::clone(writer.status()), folds });
                Ok(Self { destination, writer, guard: FloodGuard::default(), status })
            }
            Err(error) => Err(OutputError::new(destination, "", error)),
        }
    }
}

impl Sink for HistorySink {
    fn name(&self) -> String {
        segment_name::HISTORY.to_owned()
    }

    fn destination(&self) -> String {
        self.destination.clone()
    }

    fn loss_stage(&self) -> LossStage {
        LossStage::Disk
    }

    fn status(&self) -> Arc<dyn SinkStatus> {
        // Without the type, the compiler would look for a clone of `Arc<dyn SinkStatus>`.
        Arc::<HistorySinkStatus>::clone(&self.status)
    }

    fn select(&mut self, batch: &Batch) -> (Option<Batch>, EventCounts) {
        let (scarcity, mut position) = (self.status.history.scarcity(), self.status.history.written());
        if scarcity.part_at(position + batch.lines.len() as u64) == 0 {
            // There is room for everybody.
            return (Some(batch.clone()), EventCounts::default());
        }
        let now = since_boot();
        let mut folds = Vec::new();
        let (kept, folded) = batch.split(|note| {
            let next = position + u64::from(note.length);
            let part = scarcity.part_at(next);
            if part != 0
                && let Err(origin) = self.guard.take(note, part, (&scarcity, now))
            {
                folds.push((origin, note.class));
                return false;
            }
            position = next;
            true
        });
        if !folds.is_empty() {
            let mut account = self.status.folds();
            account.total += folded;
            folds.into_iter().for_each(|(origin, class)| fold::count(&mut account.untold, origin, class, now));
        }
        (kept, folded)
    }

    // A full or broken disk is no reason to capture nothing: the other outputs and the socket still work.
    fn is_required(&self) -> bool {
        false
    }

    // It writes to files of its own, which no reader holds up.
    fn write(&mut self, batch: &Batch, _: &dyn Fn() -> bool) -> Result<(), WriteFailure> {
        self.writer.write(&batch.lines)
    }

    fn limit_history(&mut self, limits: HistoryLimits) {
        self.writer.set_limits(limits);
    }

    fn due(&self) -> Option<Duration> {
        self.writer.due()
    }

    fn on_due(&mut self) {
        self.writer.close_if_due();
    }

    fn advice(&self, error: &io::Error) -> &'static str {
        advice(error)
    }
}

impl HistorySinkStatus {
    fn folds(&self) -> MutexGuard<'_, FoldAccount> {
        self.folds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkStatus for HistorySinkStatus {
    fn report(&self, counts: OutputHealth, health: &mut Health) {
        let history = &self.history;
        let EventCounts { events, outgoing, incoming } = self.folds().total;
        health.history = Some(HistoryHealth {
            output: counts,
            bytes: history.bytes(),
            files: history.files(),
            oldest: history.oldest(),
            full: history.is_full(),
            conversion: history.conversion(),
            waiting: history.waiting(),
            converted: history.converted(),
            failures: history.failures(),
            folded: events,
            folded_outgoing: outgoing,
            folded_incoming: incoming,
            overdue: history.overdue(),
            confinement: history.confinement(),
        });
    }

    fn take_folds(&self) -> Folds {
        std::mem::take(&mut self.folds().untold)
    }
}

/// Returns what to do about an error of the history's folder, to be put behind its message.
fn advice(error: &io::Error) -> &'static str {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        "; free some space"
    } else {
        "; make it a directory that root can write"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{EventClass, EventNote, EventOrigin};

    #[test]
    fn a_flood_waits_for_nobody_to_be_folded() {
        let state = tempfile::tempdir().unwrap();
        let config = Config { history_bytes: 1 << 20, state_dir: state.path().to_owned(), ..Config::default() };
        let mut sink = HistorySink::start(&config, HistoryTiming::FAST).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let by = |user| {
            let origin = EventOrigin { process: None, user: Some(user), beginner: None };
            EventNote { length: 1024, class: EventClass::Outgoing, origin: Some(origin) }
        };
        let first = Batch { lines: line.clone().into(), notes: vec![by(0)].into() };
        sink.write(&first, &|| false).unwrap();
        // At once, so that the keeper may not have looked at the folder yet. Ten times what the history may take.
        let flood = Batch { lines: line.repeat(10_000).into(), notes: vec![by(99); 10_000].into() };
        let (kept, folded) = sink.select(&flood);
        assert_eq!(kept.unwrap().events() + folded.outgoing, 10_000);
        assert!(folded.outgoing > 7000, "{folded:?}");
        let (kept, others) = sink.select(&first);
        assert_eq!((kept.unwrap().events(), others), (1, EventCounts::default()));
        let status = sink.status();
        let sum: u64 = status.take_folds().values().map(|fold| fold.counts.outgoing).sum();
        assert_eq!((sum, status.take_folds().len()), (folded.outgoing, 0));
    }

    #[test]
    fn errors_say_what_to_do() {
        let advice = |kind| advice(&io::Error::from(kind));
        assert_eq!(advice(io::ErrorKind::StorageFull), "; free some space");
        assert_eq!(advice(io::ErrorKind::QuotaExceeded), "; free some space");
        assert_eq!(advice(io::ErrorKind::NotADirectory), "; make it a directory that root can write");
    }
}
