//! Events in a file that somebody else reads and rotates.

use std::{
    io,
    path::{Path, PathBuf},
};

use netconn_model::fact::LossStage;
use tracing::{info, warn};

use crate::{
    line_file::{LineFile, WriteFailure},
    sink::{Batch, OutputError, Sink},
};

/// A file, named pipe or device.
pub(super) struct FileSink {
    path: PathBuf,
    file: LineFile,
}

impl FileSink {
    /// Opens a file for appending and removes the torn last line of an earlier run.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or repaired.
    pub(super) fn open(path: &Path) -> Result<Self, OutputError> {
        let file = LineFile::open(path)
            .map_err(|error| OutputError::new(path.display().to_string(), advice(&error), error))?;
        Ok(Self { path: path.to_owned(), file })
    }
}

impl Sink for FileSink {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn loss_stage(&self) -> LossStage {
        LossStage::Disk
    }

    fn write(&mut self, batch: &Batch) -> Result<(), WriteFailure> {
        self.file.write(&batch.lines)
    }

    fn reopen(&mut self) {
        let path = self.path.display();
        // The old file is closed only when the new one is open: a failed rotation loses no event.
        match LineFile::open(&self.path) {
            Ok(file) => {
                self.file = file;
                info!("opened {path} again");
            }
            Err(error) => warn!("cannot open {path} again, still writing to the old file: {error}"),
        }
    }

    fn advice(&self, error: &io::Error) -> &'static str {
        advice(error)
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space or choose another --events path"
        }
        io::ErrorKind::NotFound => "; create its directory first",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "; choose another --events path",
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sink::Output;

    fn refused(path: &str) -> String {
        let first = Batch::of_daemon(Bytes::from_static(b"x\n"), 0);
        let opened = FileSink::open(Path::new(path)).and_then(|sink| Output::start(Box::new(sink), &first));
        opened.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_cannot_be_written_is_known_at_once() {
        assert_eq!(
            refused("/dev/full"),
            "cannot write events to /dev/full: No space left on device (os error 28); free some space or choose another \
             --events path"
        );
        let error = refused("/nonexistent/events");
        assert!(error.ends_with("; create its directory first"), "{error}");
        let error = refused("/");
        assert!(error.ends_with("; name a file in it"), "{error}");
    }

    #[test]
    fn a_reopened_file_is_the_one_of_that_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("events"), folder.path().join("events.1"));
        let batch = |lines| Batch::of_daemon(Bytes::from_static(lines), 0);
        let mut sink = FileSink::open(&path).unwrap();
        sink.write(&batch(b"a\n")).unwrap();
        std::fs::rename(&path, &old).unwrap();
        sink.write(&batch(b"b\n")).unwrap();
        sink.reopen();
        sink.write(&batch(b"c\n")).unwrap();
        assert_eq!(std::fs::read_to_string(old).unwrap(), "a\nb\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "c\n");
    }
}
