//! An output: a file, standard output or the history, written in whole lines by a thread of its own.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvError, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    line_file::{Failed, LineFile},
    os,
    store::{self, Status},
};

/// Batches that wait for a writer.
const BATCHES_MAX: usize = 1024;
/// Bytes that wait for a writer: a second of 20,000 events.
const WAITING_BYTES_MAX: u64 = 32 << 20;
/// An output that cannot be used.
#[derive(Debug, Error)]
#[error("cannot write events to {}: {error}{}", path.display(), advice(error))]
pub struct OutputError {
    path: PathBuf,
    error: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space or choose another --events path"
        }
        io::ErrorKind::NotFound => "; make its folder first",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "; choose another --events path",
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    }
}

/// What became of the events of an output.
#[derive(Debug, Default)]
pub struct Counters {
    /// Written.
    pub written: AtomicU64,
    /// Dropped because too much waited.
    pub lost_queue: AtomicU64,
    /// Not written because of an error.
    pub lost_disk: AtomicU64,
    /// Bytes that wait.
    waiting: AtomicU64,
    /// The last write failed, and that was said.
    pub failing: AtomicBool,
    /// The reader of standard output has gone away.
    pub closed: AtomicBool,
}

/// Events ready to be written: whole lines, which all outputs share.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The lines.
    pub lines: Bytes,
    /// How many they are.
    pub events: u64,
    /// The earliest `event.time` among them, epoch milliseconds.
    pub earliest: i64,
}

/// What a writer is to do.
enum Order {
    Write(Batch),
    /// Open the file anew.
    Reopen,
}

/// A running output.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    queue: SyncSender<Order>,
    counters: Arc<Counters>,
    /// How the history is, if it is that.
    history: Option<Arc<Status>>,
    writer: JoinHandle<()>,
}

impl Output {
    /// Whether so little waits that more may be sent that need not be sent now.
    pub fn has_room(&self) -> bool {
        self.counters.waiting.load(Ordering::Relaxed) < WAITING_BYTES_MAX / 8
    }

    /// Opens `path` for appending (`-` is standard output), writes `first` to it, so that what cannot be written is
    /// known at once, and starts its thread. A torn last line that an earlier run left is removed.
    ///
    /// # Errors
    ///
    /// When the path cannot be opened or written.
    pub fn open(path: &Path, first: &[u8]) -> Result<Self, OutputError> {
        let fail = |error| OutputError { path: path.to_owned(), error };
        let mut file = LineFile::open(path).map_err(fail)?;
        file.write(first).map_err(|failed| fail(failed.error))?;
        let output = Self::start(path, Target::File(file), None).map_err(fail)?;
        output.counters.written.store(1, Ordering::Relaxed);
        Ok(output)
    }

    /// The history as an output, with `first` as its first events. What cannot be written is lost and counted from the
    /// beginning: it is no reason not to start.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn history(settings: store::Settings, first: &Batch) -> Result<Self, OutputError> {
        let folder = settings.folder.clone();
        let fail = |error| OutputError { path: folder.clone(), error };
        let history = store::Writer::start(settings).map_err(fail)?;
        let status = Arc::clone(history.status());
        let output = Self::start(&folder, Target::History(Box::new(history)), Some(status)).map_err(fail)?;
        output.send(first);
        Ok(output)
    }

    fn start(path: &Path, target: Target, history: Option<Arc<Status>>) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let (queue, orders) = sync_channel(BATCHES_MAX);
        let writer = Writer { path: path.to_owned(), target, counters: Arc::clone(&counters) };
        let thread = thread::Builder::new().name("netconn-output".into());
        let run = move || {
            os::raise_thread_priority();
            writer.run(&orders);
        };
        let writer = thread.spawn(run)?;
        Ok(Self { path: path.to_owned(), queue, counters, history, writer })
    }

    /// Where it writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What became of its events.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How the history is, if it is that.
    pub fn history_status(&self) -> Option<&Status> {
        self.history.as_deref()
    }

    /// Hands over whole lines. If too much waits already, they are dropped and counted.
    pub fn send(&self, batch: &Batch) {
        let length = batch.lines.len() as u64;
        let waiting = self.counters.waiting.fetch_add(length, Ordering::Relaxed);
        if waiting + length > WAITING_BYTES_MAX || self.queue.try_send(Order::Write(batch.clone())).is_err() {
            self.counters.waiting.fetch_sub(length, Ordering::Relaxed);
            self.counters.lost_queue.fetch_add(batch.events, Ordering::Relaxed);
        }
    }

    /// Opens the file anew after what waits, for log rotation; `false` if too much waits.
    pub fn reopen(&self) -> bool {
        self.queue.try_send(Order::Reopen).is_ok()
    }

    /// Writes what waits and ends the thread; `false` if that is not done by `deadline`.
    pub fn finish(self, deadline: Instant) -> bool {
        let Self { queue, writer, .. } = self;
        drop(queue);
        while !writer.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        writer.join().is_ok()
    }
}

struct Writer {
    path: PathBuf,
    target: Target,
    counters: Arc<Counters>,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            match self.next(orders) {
                Ok(Order::Write(batch)) => self.write(&batch),
                Ok(Order::Reopen) => self.open_again(),
                Err(RecvError) => return,
            }
        }
    }

    /// The next order; what is due meanwhile is done.
    fn next(&mut self, orders: &Receiver<Order>) -> Result<Order, RecvError> {
        loop {
            let Target::History(history) = &mut self.target else { return orders.recv() };
            let Some(due) = history.due() else { return orders.recv() };
            match orders.recv_timeout(due) {
                Ok(order) => return Ok(order),
                Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
                Err(RecvTimeoutError::Timeout) => history.close_if_due(),
            }
        }
    }

    fn open_again(&mut self) {
        // The history looks after its files by itself.
        let Target::File(file) = &mut self.target else { return };
        match LineFile::open(&self.path) {
            Ok(again) => {
                *file = again;
                info!("opened {} again", self.path.display());
            }
            Err(error) => warn!("cannot open {} again, still writing to the old file: {error}", self.path.display()),
        }
    }

    fn write(&mut self, batch: &Batch) {
        let path = self.path.display();
        match self.target.write(batch) {
            Ok(()) => {
                self.counters.written.fetch_add(batch.events, Ordering::Relaxed);
                if self.counters.failing.swap(false, Ordering::Relaxed) {
                    warn!("events are written to {path} again");
                }
            }
            Err(failed) => {
                let written = batch.lines[..failed.written].iter().filter(|byte| **byte == b'\n').count() as u64;
                self.counters.written.fetch_add(written, Ordering::Relaxed);
                self.counters.lost_disk.fetch_add(batch.events.saturating_sub(written), Ordering::Relaxed);
                if failed.error.kind() == io::ErrorKind::BrokenPipe {
                    self.counters.closed.store(true, Ordering::Relaxed);
                } else if !self.counters.failing.load(Ordering::Relaxed) {
                    let advice = self.target.advice(&failed.error);
                    warn!("events are lost: cannot write to {path}: {}{advice}", failed.error);
                }
                self.counters.failing.store(true, Ordering::Relaxed);
            }
        }
        self.counters.waiting.fetch_sub(batch.lines.len() as u64, Ordering::Relaxed);
    }
}

/// Where a writer writes.
enum Target {
    File(LineFile),
    History(Box<store::Writer>),
}

impl Target {
    fn write(&mut self, batch: &Batch) -> Result<(), Failed> {
        match self {
            Self::File(file) => file.write(&batch.lines),
            Self::History(history) => history.write(&batch.lines, batch.earliest),
        }
    }

    /// What to do about an error.
    fn advice(&self, error: &io::Error) -> &'static str {
        match self {
            Self::File(_) => advice(error),
            Self::History(_) if error.kind() == io::ErrorKind::StorageFull => "; free some space",
            Self::History(_) => "; make it a folder that root can write",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let output = Output::open(&path, b"{\"event.type\":\"Sensor Start\"}\n").unwrap();
        for number in 0..1000 {
            output.send(&Batch { lines: format!("{number}\n").into(), events: 1, earliest: 0 });
        }
        assert!(output.finish(soon()));
        let text = fs::read_to_string(&path).unwrap();
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(text, format!("{{\"event.type\":\"Sensor Start\"}}\n{expected}"));
    }

    #[test]
    fn a_full_disk_is_known_at_once() {
        let error = Output::open(Path::new("/dev/full"), b"x\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot write events to /dev/full: No space left on device (os error 28); free some space or choose another \
             --events path"
        );
        let error = Output::open(Path::new("/nonexistent/events"), b"x\n").unwrap_err().to_string();
        assert!(error.ends_with("; make its folder first"), "{error}");
        let error = Output::open(Path::new("/"), b"x\n").unwrap_err().to_string();
        assert!(error.ends_with("; name a file in it"), "{error}");
    }

    #[test]
    fn what_cannot_be_written_later_is_counted() {
        let mut writer = Writer {
            path: "/dev/full".into(),
            target: Target::File(LineFile::open(Path::new("/dev/full")).unwrap()),
            counters: Arc::default(),
        };
        writer.write(&Batch { lines: Bytes::from_static(b"a\nb\n"), events: 2, earliest: 0 });
        assert_eq!(writer.counters.lost_disk.load(Ordering::Relaxed), 2);
        assert_eq!(writer.counters.written.load(Ordering::Relaxed), 0);
    }
}
