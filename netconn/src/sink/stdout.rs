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

    fn loss_stage(&self) -> LossStage {
        if self.0.has_reader() { LossStage::Sink } else { LossStage::Disk }
    }

    fn write(&mut self, batch: &Batch, is_given_up: &dyn Fn() -> bool) -> Result<(), WriteFailure> {
        self.0.write_unless(&batch.lines, is_given_up)
    }

    fn advice(&self, error: &io::Error) -> &'static str {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space",
            _ => "",
        }
    }

    fn is_gone(&self, error: &io::Error) -> bool {
        // A terminal that was closed answers with EIO.
        let is_closed_terminal = || self.0.has_reader() && error.raw_os_error() == Some(libc::EIO);
        matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) || is_closed_terminal()
    }
}
