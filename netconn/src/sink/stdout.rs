//! Events on standard output. Unlike a file it cannot be opened again, and when its reader has gone, nobody can read it.

use std::io;

use netconn_model::fact::LossStage;

use crate::{
    line_file::{LineFile, WriteFailure},
    sink::{Batch, OutputError, STDOUT, Sink},
};

/// Standard output.
pub(super) struct StdoutSink(LineFile);

impl StdoutSink {
    /// Duplicates the descriptor of standard output.
    ///
    /// # Errors
    ///
    /// When it is closed, or the system gives no descriptor.
    pub(super) fn open() -> Result<Self, OutputError> {
        LineFile::stdout().map(Self).map_err(|error| OutputError::new(STDOUT.to_owned(), "", error))
    }
}

impl Sink for StdoutSink {
    fn name(&self) -> String {
        STDOUT.to_owned()
    }

    // Most often it is redirected to a file.
    fn loss_stage(&self) -> LossStage {
        LossStage::Disk
    }

    fn write(&mut self, batch: &Batch) -> Result<(), WriteFailure> {
        self.0.write(&batch.lines)
    }

    fn advice(&self, error: &io::Error) -> &'static str {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space",
            _ => "",
        }
    }

    fn ends_daemon(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::BrokenPipe
    }
}
