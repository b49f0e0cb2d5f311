//! An output: a file or standard output, written in whole lines by a thread of its own.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use thiserror::Error;
use tracing::{info, warn};

use crate::precedence;

/// Batches that wait for a writer.
const BATCHES_MAX: usize = 1024;
/// Bytes that wait for a writer: a second of 20,000 events.
const WAITING_BYTES_MAX: u64 = 32 << 20;
/// What every event begins with, so that a torn last line of ours is told from another file's.
const EVENT_START: &[u8] = b"{\"event.type\":";
/// Longest line that is looked for at the end of a file.
const LINE_MAX: u64 = 1 << 20;
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
    /// The reader of standard output has gone away.
    pub closed: AtomicBool,
}

/// What a writer is to do.
enum Order {
    Write(Batch),
    /// Open the file anew.
    Reopen,
}

/// Events ready to be written: whole lines.
struct Batch {
    lines: Bytes,
    events: u64,
}

/// A running output.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    queue: SyncSender<Order>,
    counters: Arc<Counters>,
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
        let mut target = Target::open(path).map_err(fail)?;
        target.write(first).map_err(|failed| fail(failed.error))?;
        let counters = Arc::new(Counters::default());
        counters.written.store(1, Ordering::Relaxed);
        let (queue, orders) = sync_channel(BATCHES_MAX);
        let writer = Writer { path: path.to_owned(), target, counters: Arc::clone(&counters), failing: false };
        let thread = thread::Builder::new().name("netconn-output".into());
        let run = move || {
            precedence::take();
            writer.run(&orders);
        };
        let writer = thread.spawn(run).map_err(fail)?;
        Ok(Self { path: path.to_owned(), queue, counters, writer })
    }

    /// Where it writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What became of its events.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Hands over whole lines. If too much waits already, they are dropped and counted.
    pub fn send(&self, lines: &Bytes, events: u64) {
        let length = lines.len() as u64;
        let waiting = self.counters.waiting.fetch_add(length, Ordering::Relaxed);
        let batch = Batch { lines: lines.clone(), events };
        if waiting + length > WAITING_BYTES_MAX || self.queue.try_send(Order::Write(batch)).is_err() {
            self.counters.waiting.fetch_sub(length, Ordering::Relaxed);
            self.counters.lost_queue.fetch_add(events, Ordering::Relaxed);
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
    /// The last write failed, and that was said.
    failing: bool,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Write(batch) => self.write(&batch),
                Order::Reopen => self.open_again(),
            }
        }
    }

    fn open_again(&mut self) {
        match Target::open(&self.path) {
            Ok(target) => {
                self.target = target;
                info!("opened {} again", self.path.display());
            }
            Err(error) => warn!("cannot open {} again, still writing to the old file: {error}", self.path.display()),
        }
    }

    fn write(&mut self, batch: &Batch) {
        let path = self.path.display();
        match self.target.write(&batch.lines) {
            Ok(()) => {
                self.counters.written.fetch_add(batch.events, Ordering::Relaxed);
                if self.failing {
                    self.failing = false;
                    warn!("events are written to {path} again");
                }
            }
            Err(failed) => {
                let written = batch.lines[..failed.written].iter().filter(|byte| **byte == b'\n').count() as u64;
                self.counters.written.fetch_add(written, Ordering::Relaxed);
                self.counters.lost_disk.fetch_add(batch.events.saturating_sub(written), Ordering::Relaxed);
                if failed.error.kind() == io::ErrorKind::BrokenPipe {
                    self.counters.closed.store(true, Ordering::Relaxed);
                } else if !self.failing {
                    warn!("events are lost: cannot write to {path}: {}{}", failed.error, advice(&failed.error));
                }
                self.failing = true;
            }
        }
        self.counters.waiting.fetch_sub(batch.lines.len() as u64, Ordering::Relaxed);
    }
}

/// An open file or standard output.
struct Target {
    file: File,
    /// A regular file can be cut back to whole lines.
    regular: bool,
    /// A line was begun that could neither be ended nor taken back.
    torn: bool,
}

/// A write that failed.
struct Failed {
    error: io::Error,
    /// Bytes of whole lines that were written before.
    written: usize,
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return Ok(Self { file, regular: false, torn: false });
        }
        // Read too, for its last line. Commands and accounts are in it: not for everybody.
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path).or_else(|error| {
                // A pipe or terminal may be open for writing only.
                if error.kind() == io::ErrorKind::PermissionDenied {
                    OpenOptions::new().append(true).open(path).map_err(|_| error)
                } else {
                    Err(error)
                }
            })?;
        let regular = file.metadata()?.is_file();
        if regular {
            mend(&mut file)?;
        }
        Ok(Self { file, regular, torn: false })
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        if self.torn {
            self.write_all(b"\n").map_err(|(error, _)| Failed { error, written: 0 })?;
            self.torn = false;
        }
        self.write_all(lines).map_err(|(error, written)| {
            let whole = lines[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            if written > whole {
                self.torn = !self.cut((written - whole) as u64);
            }
            Failed { error, written: whole }
        })
    }

    /// Writes everything, or gives the error and how much was written before.
    fn write_all(&mut self, mut rest: &[u8]) -> Result<(), (io::Error, usize)> {
        let length = rest.len();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), length - rest.len())),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err((error, length - rest.len())),
            }
        }
        Ok(())
    }

    /// Takes back the last `bytes` bytes; `false` if that cannot be done.
    fn cut(&mut self, bytes: u64) -> bool {
        self.regular
            && self.file.metadata().is_ok_and(|metadata| {
                metadata.len().checked_sub(bytes).is_some_and(|length| self.file.set_len(length).is_ok())
            })
    }
}

/// Sees to it that a file ends with a whole line: a torn event is removed, another unfinished line is ended.
fn mend(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(());
    }
    let start = length.saturating_sub(LINE_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(LINE_MAX).read_to_end(&mut end)?;
    let line_start = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let last = &end[line_start..];
    if last.is_empty() {
        return Ok(());
    }
    if last.starts_with(EVENT_START) || EVENT_START.starts_with(last) {
        file.set_len(start + line_start as u64)
    } else {
        file.write_all(b"\n")
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
            output.send(&Bytes::from(format!("{number}\n")), 1);
        }
        assert!(output.finish(soon()));
        let text = fs::read_to_string(&path).unwrap();
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(text, format!("{{\"event.type\":\"Sensor Start\"}}\n{expected}"));
    }

    #[test]
    fn a_torn_event_is_removed_and_other_text_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        for (before, after) in [
            ("", "x\n"),
            ("a\n", "a\nx\n"),
            ("a\n{\"event.type\":\"IP Co", "a\nx\n"),
            ("{\"eve", "x\n"),
            ("a\nnotes", "a\nnotes\nx\n"),
        ] {
            fs::write(&path, before).unwrap();
            assert!(Output::open(&path, b"x\n").unwrap().finish(soon()));
            assert_eq!(fs::read_to_string(&path).unwrap(), after, "{before:?}");
        }
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
            target: Target {
                file: OpenOptions::new().append(true).open("/dev/full").unwrap(),
                regular: false,
                torn: false,
            },
            counters: Arc::default(),
            failing: false,
        };
        writer.write(&Batch { lines: Bytes::from_static(b"a\nb\n"), events: 2 });
        assert_eq!(writer.counters.lost_disk.load(Ordering::Relaxed), 2);
        assert_eq!(writer.counters.written.load(Ordering::Relaxed), 0);
    }
}
