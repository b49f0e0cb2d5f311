//! Events in a file that somebody else reads and rotates.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use netconn_model::{
    fact::LossStage,
    health::{Health, OutputHealth, OutputState},
};
use tracing::{info, warn};

use crate::{
    line_file::{FilePlace, LineFile, WriteFailure},
    sink::{Batch, OutputError, Sink, SinkStatus, is_full},
};

/// Pause between two looks whether the file is still at its path.
const LOOK: Duration = Duration::from_secs(2);

/// A file, named pipe or device.
pub(super) struct FileSink {
    path: PathBuf,
    /// None: the file system had no room for a new file. It is tried again with each batch.
    file: Option<LineFile>,
    status: Arc<FileStatus>,
    looked: Instant,
    /// What the last look has found. A rotation renames the file and asks for a new one a moment later: only what two looks have
    /// found is told.
    seen: FilePlace,
}

impl FileSink {
    /// Opens a file for appending and removes the torn last line of an earlier run.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or repaired, unless only the file system is full: that may pass.
    pub(super) fn open(path: &Path) -> Result<Self, OutputError> {
        let file = match LineFile::open(path) {
            Ok(file) => Some(file),
            Err(error) if is_full(&error) => None,
            Err(error) => return Err(OutputError::new(path.display().to_string(), advice(&error), error)),
        };
        Ok(Self { path: path.to_owned(), file, status: Arc::default(), looked: Instant::now(), seen: FilePlace::Here })
    }

    /// Looks whether the file is still at its path, if it is time to.
    fn look_if_due(&mut self) {
        if self.looked.elapsed() >= LOOK {
            self.look();
        }
    }

    fn look(&mut self) {
        self.looked = Instant::now();
        let found = self.file.as_ref().map_or(FilePlace::Here, |file| file.place(&self.path));
        let is_settled = std::mem::replace(&mut self.seen, found) == found;
        // It is written on: a rotation may take its time, and whoever has renamed the file may still want its events.
        if is_settled && self.status.set(found) != found && found != FilePlace::Here {
            let what = if found == FilePlace::Removed { "has been removed" } else { "has another name now" };
            warn!("{} {what}, and its events still go there: send SIGUSR1 to open it anew", self.path.display());
        }
    }
}

impl Sink for FileSink {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn loss_stage(&self) -> LossStage {
        if self.file.as_ref().is_some_and(LineFile::has_reader) { LossStage::Sink } else { LossStage::Disk }
    }

    fn status(&self) -> Arc<dyn SinkStatus> {
        // Without the type, the compiler would look for a clone of `Arc<dyn SinkStatus>`.
        Arc::<FileStatus>::clone(&self.status)
    }

    fn write(&mut self, batch: &Batch, is_given_up: &dyn Fn() -> bool) -> Result<(), WriteFailure> {
        self.look_if_due();
        let file = match &mut self.file {
            Some(file) => file,
            missing => missing.insert(LineFile::open(&self.path)?),
        };
        file.write_unless(&batch.lines, is_given_up)
    }

    fn reopen(&mut self) {
        let path = self.path.display();
        // The old file is closed only when the new one is open: a failed rotation loses no event.
        match LineFile::open(&self.path) {
            Ok(file) => {
                self.file = Some(file);
                self.seen = FilePlace::Here;
                self.status.set(FilePlace::Here);
                info!("opened {path} again");
            }
            Err(error) => warn!("cannot open {path} again, still writing to the old file: {error}"),
        }
    }

    fn due(&self) -> Option<Duration> {
        Some(LOOK.saturating_sub(self.looked.elapsed()))
    }

    fn on_due(&mut self) {
        self.look();
    }

    fn advice(&self, error: &io::Error) -> &'static str {
        advice(error)
    }
}

/// Where the file is, for health reports.
#[derive(Debug, Default)]
struct FileStatus {
    is_renamed: AtomicBool,
    is_removed: AtomicBool,
}

impl FileStatus {
    /// Notes where the file is, and returns where it was.
    fn set(&self, place: FilePlace) -> FilePlace {
        let was_removed = self.is_removed.swap(place == FilePlace::Removed, Ordering::Relaxed);
        let was_renamed = self.is_renamed.swap(place == FilePlace::Renamed, Ordering::Relaxed);
        match (was_removed, was_renamed) {
            (true, _) => FilePlace::Removed,
            (false, true) => FilePlace::Renamed,
            (false, false) => FilePlace::Here,
        }
    }
}

impl SinkStatus for FileStatus {
    fn report(&self, counts: OutputHealth, health: &mut Health) {
        let state = match counts.state {
            OutputState::Open if self.is_removed.load(Ordering::Relaxed) => OutputState::Removed,
            OutputState::Open if self.is_renamed.load(Ordering::Relaxed) => OutputState::Renamed,
            state => state,
        };
        health.outputs.push(OutputHealth { state, ..counts });
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
        let first = Batch::of_daemon(Bytes::from_static(b"x\n"));
        let opened = FileSink::open(Path::new(path)).and_then(|sink| Output::start(Box::new(sink), &first));
        opened.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_path_is_known_at_once() {
        let error = refused("/nonexistent/events");
        assert!(error.ends_with("; create its directory first"), "{error}");
        let error = refused("/");
        assert!(error.ends_with("; name a file in it"), "{error}");
    }

    #[test]
    fn a_full_disk_may_pass() {
        let first = Batch::of_daemon(Bytes::from_static(b"x\n"));
        let sink = FileSink::open(Path::new("/dev/full")).unwrap();
        let output = Output::start(Box::new(sink), &first).unwrap();
        // The thread of the output tries again.
        let until = Instant::now() + Duration::from_secs(10);
        while output.is_writing() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((output.lost().refused.events, output.is_writing()), (1, false));
        assert_eq!(output.close().wait(Instant::now() + Duration::from_secs(10)), 0);
    }

    #[test]
    fn a_file_that_is_not_at_its_path_any_more_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let mut sink = FileSink::open(&path).unwrap();
        let state = |sink: &FileSink| sink.status.set(sink.seen);
        sink.look();
        assert_eq!(state(&sink), FilePlace::Here);
        std::fs::rename(&path, folder.path().join("events.1")).unwrap();
        sink.look();
        assert!(!sink.status.is_renamed.load(Ordering::Relaxed), "a rotation may be under way");
        sink.look();
        assert!(sink.status.is_renamed.load(Ordering::Relaxed));
        sink.reopen();
        assert_eq!(state(&sink), FilePlace::Here);
        std::fs::remove_file(&path).unwrap();
        (0..2).for_each(|_| sink.look());
        assert!(sink.status.is_removed.load(Ordering::Relaxed));
    }

    #[test]
    fn a_reopened_file_is_the_one_of_that_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("events"), folder.path().join("events.1"));
        let batch = |lines| Batch::of_daemon(Bytes::from_static(lines));
        let mut sink = FileSink::open(&path).unwrap();
        sink.write(&batch(b"a\n"), &|| false).unwrap();
        std::fs::rename(&path, &old).unwrap();
        sink.write(&batch(b"b\n"), &|| false).unwrap();
        sink.reopen();
        sink.write(&batch(b"c\n"), &|| false).unwrap();
        assert_eq!(std::fs::read_to_string(old).unwrap(), "a\nb\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "c\n");
    }
}
