//! Events in the history of this host, which `netconn search` reads.

use std::{io, sync::Arc, time::Duration};

use netconn_model::{
    config::Config,
    fact::LossStage,
    health::{Health, HistoryHealth, OutputHealth},
    segment_name,
};

use crate::{
    line_file::WriteFailure,
    sink::{Batch, OutputError, Sink, SinkStatus},
    store::{HistoryLimits, HistorySettings, HistoryStatus, HistoryTiming, HistoryWriter},
};

/// The history of this host.
pub(super) struct HistorySink {
    destination: String,
    writer: HistoryWriter,
}

impl HistorySink {
    /// Starts the thread that looks after the history; files are created with the first batch.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(super) fn start(config: &Config, timing: HistoryTiming) -> Result<Self, OutputError> {
        let age = Duration::from_secs(u64::from(config.history_days) * 86_400);
        let settings = HistorySettings {
            directory: config.state_dir.join(segment_name::FOLDER),
            group: config.group.clone(),
            limits: HistoryLimits::new(config.history_bytes, age, timing),
            timing,
        };
        let destination = settings.directory.display().to_string();
        match HistoryWriter::start(settings) {
            Ok(writer) => Ok(Self { destination, writer }),
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
        Arc::<HistoryStatus>::clone(self.writer.status())
    }

    // A full or broken disk is no reason to capture nothing: the other outputs and the socket still work.
    fn is_required(&self) -> bool {
        false
    }

    fn write(&mut self, batch: &Batch) -> Result<(), WriteFailure> {
        self.writer.write(&batch.lines)
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

impl SinkStatus for HistoryStatus {
    fn report(&self, counts: OutputHealth, health: &mut Health) {
        health.history = Some(HistoryHealth {
            output: counts,
            bytes: self.bytes(),
            files: self.files(),
            oldest: self.oldest(),
            full: self.is_full(),
            conversion: self.conversion(),
            waiting: self.waiting(),
            converted: self.converted(),
            failures: self.failures(),
            overdue: self.overdue(),
            confinement: self.confinement(),
        });
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

    #[test]
    fn errors_say_what_to_do() {
        let advice = |kind| advice(&io::Error::from(kind));
        assert_eq!(advice(io::ErrorKind::StorageFull), "; free some space");
        assert_eq!(advice(io::ErrorKind::QuotaExceeded), "; free some space");
        assert_eq!(advice(io::ErrorKind::NotADirectory), "; make it a directory that root can write");
    }
}
