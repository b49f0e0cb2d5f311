//! One conversion of a closed segment to Parquet, by a child process: `netconn-search --convert`.
//!
//! The child is not trusted. It works in a directory of its own, beside a second link to the segment, and what it makes becomes
//! part of the history only after its report has been compared with the files.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use netconn_model::segment_name::SegmentName;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    line_file::MODE,
    store::{confine, directory},
};

/// How much is kept of the child's output, bytes.
const TAIL_BYTES: usize = 4096;
/// How many parts of that length are read at once: a child that never stops writing must not hold up the keeper.
const TAIL_READS: usize = 64;
/// Bytes that are read at once when lines are counted.
const READ_BYTES: usize = 256 << 10;

/// Why a segment is not converted.
#[derive(Debug, Error)]
pub(super) enum ConvertError {
    /// The system refused something: to start the child, for example.
    #[error("it cannot be run: {0}")]
    System(#[from] io::Error),
    /// The child ended with an error.
    #[error("it ended with {status}: {output}")]
    Ended {
        /// Exit code or signal.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// The child hangs.
    #[error("it was not done within {} s", .0.as_secs())]
    TooLong(Duration),
    /// The child reports success, but its files say something else.
    #[error("{0}")]
    Untrue(String),
}

/// What the child reports: one line of JSON.
#[derive(Debug, Deserialize)]
struct ConversionReport {
    /// Number of rows, one for each line of the segment.
    rows: u64,
    /// Size of the Parquet file, bytes.
    bytes: u64,
    /// The Parquet file, with or without its directory.
    file: PathBuf,
}

/// A running conversion. Dropping it kills the child and removes its work directory.
#[derive(Debug)]
pub(super) struct Converter {
    /// FROM of the segment.
    pub(super) from: u64,
    directory: PathBuf,
    work: WorkDirectory,
    child: Child,
    started: Instant,
    stdout: PipeTail,
    stderr: PipeTail,
}

impl Converter {
    /// Starts to convert the segment `from` of the history in `directory`.
    pub(super) fn start(program: &Path, directory: &Path, from: u64) -> Result<Self, ConvertError> {
        let work = WorkDirectory::create(directory, from)?;
        let mut command = Command::new(program);
        // A relative path: without capabilities the child may have no access to the directories above.
        command.arg("--convert").arg(format!("./{}", SegmentName::Segment { from })).current_dir(&work.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Asked before `fork`: the child compares it with its parent of that moment.
        let parent = std::process::id();
        // SAFETY: `before_exec` makes system calls only and allocates nothing.
        unsafe { command.pre_exec(move || confine::before_exec(parent)) };
        let mut child = command.spawn()?;
        // `spawn` returns after `exec`: the standard library waits until the pipe for its error is closed.
        confine::give_idle_priority(child.id());
        let (stdout, stderr) = (PipeTail::new(child.stdout.take())?, PipeTail::new(child.stderr.take())?);
        Ok(Self { from, directory: directory.to_owned(), work, child, started: Instant::now(), stdout, stderr })
    }

    /// Returns the outcome, or `None` while the child works. After `limit` the child is killed.
    pub(super) fn poll(&mut self, limit: Duration) -> Option<Result<SegmentName, ConvertError>> {
        // Before the child may be waited for: it blocks when a pipe is full.
        self.stdout.read();
        self.stderr.read();
        match self.child.try_wait() {
            // The keeper polls instead of waiting, because it still has to keep the limits meanwhile.
            Ok(None) if self.started.elapsed() < limit => None,
            Ok(None) => {
                self.kill();
                Some(Err(ConvertError::TooLong(limit)))
            }
            Ok(Some(status)) => {
                // What it wrote last.
                self.stdout.read();
                self.stderr.read();
                Some(self.outcome(status))
            }
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Checks the report of a child that has ended, and makes its file part of the history.
    fn outcome(&self, status: ExitStatus) -> Result<SegmentName, ConvertError> {
        if !status.success() {
            let tail = if self.stderr.tail.is_empty() { &self.stdout } else { &self.stderr };
            return Err(ConvertError::Ended { status, output: tail.text() });
        }
        let output = self.stdout.text();
        // The last line only: libraries may write to standard output as well.
        let line = output.lines().last().unwrap_or_default();
        let report: ConversionReport = serde_json::from_str(line)
            .map_err(|error| ConvertError::Untrue(format!("its answer is no report ({error}): {line}")))?;
        let name = verify(&self.work.0, self.from, &report)?;
        let made = self.work.0.join(name.to_string());
        // Mode and durability first, then the name: from the rename on, readers count this file and not the segment.
        directory::share(&made, None, MODE)?;
        // The child has synced it too, but soon the segment is removed, and this is the only other copy.
        File::open(&made)?.sync_all()?;
        fs::rename(made, self.directory.join(name.to_string()))?;
        // Otherwise a power cut could undo the rename after the segment was removed.
        directory::sync(&self.directory)?;
        Ok(name)
    }

    fn kill(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory with a second link to a segment. It is removed when this is dropped, and by the next daemon.
#[derive(Debug)]
struct WorkDirectory(PathBuf);

impl WorkDirectory {
    fn create(directory: &Path, from: u64) -> io::Result<Self> {
        // A folder of this name is of a killed child; no other one runs, because the keeper starts one at a time.
        directory::remove_work(directory)?;
        let work = Self(directory.join(directory::WORK_NAME));
        DirBuilder::new().mode(0o700).create(&work.0)?;
        let segment = SegmentName::Segment { from }.to_string();
        // A link and not the path above: the child needs no access outside its folder, and a segment that is removed
        // meanwhile stays readable.
        fs::hard_link(directory.join(&segment), work.0.join(segment))?;
        Ok(work)
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        // The next conversion removes what is left.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Compares a report with the files in the work directory, and returns the name of the Parquet file if it holds the whole
/// segment.
fn verify(work: &Path, from: u64, report: &ConversionReport) -> Result<SegmentName, ConvertError> {
    let untrue = |reason: String| Err(ConvertError::Untrue(reason));
    // Only the file name: the child must not name a file outside its folder.
    let name = report.file.file_name().and_then(|name| name.to_str()).and_then(SegmentName::parse);
    let Some(name @ SegmentName::Converted { from: reported_from, .. }) = name else {
        return untrue(format!("{} is no name of a converted segment", report.file.display()));
    };
    // Else it could replace another segment by this one.
    if reported_from != from {
        return untrue(format!("it made {name}, which is not of {}", SegmentName::Segment { from }));
    }
    let path = work.join(name.to_string());
    // A symbolic link has another length than the file that it names.
    let bytes = fs::symlink_metadata(&path)?.len();
    if bytes != report.bytes || !directory::is_parquet(&path) {
        return untrue(format!("{name} is not whole: {bytes} bytes of {}", report.bytes));
    }
    // Counted anew and last, because it reads the whole segment.
    let lines = count_lines(&work.join(SegmentName::Segment { from }.to_string()))?;
    if lines != report.rows {
        return untrue(format!("{name} has {} rows for {lines} lines", report.rows));
    }
    Ok(name)
}

fn count_lines(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut lines = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(lines),
            length => {
                let read = buffer.get(..length).unwrap_or_default();
                lines += read.iter().filter(|byte| **byte == b'\n').count() as u64;
            }
        }
    }
}

/// The last bytes that a child has written to a pipe.
#[derive(Debug)]
struct PipeTail {
    tail: Vec<u8>,
    pipe: Option<File>,
}

impl PipeTail {
    fn new(pipe: Option<impl Into<OwnedFd>>) -> io::Result<Self> {
        let Some(pipe) = pipe else { return Ok(Self { tail: Vec::new(), pipe: None }) };
        let pipe = pipe.into();
        // Only this end: the child has another description of the pipe and still blocks.
        fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { tail: Vec::new(), pipe: Some(File::from(pipe)) })
    }

    /// Reads what is in the pipe, without waiting for more.
    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut part = [0; TAIL_BYTES];
        for _ in 0..TAIL_READS {
            match pipe.read(&mut part) {
                // `WouldBlock` is the usual end. Other errors need no handling: the status of the child decides.
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    self.tail.extend_from_slice(part.get(..length).unwrap_or_default());
                    let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
                    self.tail.drain(..surplus);
                }
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.tail).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: u64 = 1_767_225_600_000;
    const FILE: &str = "events-1767225600000-1767225699999.parquet";

    /// A folder with a segment of two lines and a file for it.
    fn converted(parquet: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SegmentName::Segment { from: FROM }.to_string()), "a\nb\n").unwrap();
        fs::write(folder.path().join(FILE), parquet).unwrap();
        folder
    }

    #[test]
    fn a_report_is_compared_with_the_files() {
        let whole = "PAR1 ab PAR1";
        let check = |parquet: &str, rows, bytes, file: &str| {
            let report = ConversionReport { rows, bytes, file: file.into() };
            verify(converted(parquet).path(), FROM, &report).map_err(|error| error.to_string())
        };
        assert_eq!(
            check(whole, 2, 12, FILE),
            Ok(SegmentName::Converted { from: FROM, to: 1_767_225_699_999, earliest: FROM })
        );
        assert_eq!(check(whole, 2, 12, &format!("./{FILE}")).map(SegmentName::from), Ok(FROM));
        for (parquet, rows, bytes, file, expected) in [
            (whole, 2, 12, "events.parquet", "events.parquet is no name of a converted segment"),
            (whole, 2, 12, "events-1767225600001-1767225699999.parquet", "which is not of events-1767225600000.ndjson"),
            (whole, 1, 12, FILE, "has 1 rows for 2 lines"),
            (whole, 2, 13, FILE, "is not whole: 12 bytes of 13"),
            ("PAR1 ab rubbish", 2, 15, FILE, "is not whole"),
            (whole, 2, 12, "events-1767225600000-1767225699998.parquet", "No such file"),
        ] {
            let error = check(parquet, rows, bytes, file).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Runs a shell script as the converter until it is done, and checks that nothing but its result is left.
    fn run(script: &str, limit: Duration) -> Result<SegmentName, ConvertError> {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SegmentName::Segment { from: FROM }.to_string()), "a\nb\n").unwrap();
        let program = folder.path().join("script");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut converter = Converter::start(&program, folder.path(), FROM)?;
        loop {
            if let Some(outcome) = converter.poll(limit) {
                drop(converter);
                let count = if outcome.is_ok() { 3 } else { 2 };
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), count, "{outcome:?}");
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_child_is_believed_only_when_it_is_done() {
        const LONG: Duration = Duration::from_secs(60);
        let make = format!("printf 'PAR1 ab PAR1' > {FILE}");
        let report = format!("{make}; echo '{{\"rows\":2,\"first\":1,\"last\":2,\"bytes\":12,\"file\":\"{FILE}\"}}'");
        run(&report, LONG).unwrap();
        run(&format!("echo some words; yes | head -c 1000000; {report}"), LONG).unwrap();
        // It gets a low priority before long, and has a directory of its own.
        let gentle = "[ \"$1 $2\" = '--convert ./events-1767225600000.ndjson' ] && [ -e \"$2\" ] && [ $(nice) = 19 ]";
        run(&format!("sleep 0.3; {gentle} && {report}"), LONG).unwrap();
        let failed = run("echo because >&2; exit 3", LONG).unwrap_err().to_string();
        assert_eq!(failed, "it ended with exit status: 3: because");
        let failed = run("echo nonsense", LONG).unwrap_err().to_string();
        assert!(failed.starts_with("its answer is no report") && failed.ends_with(": nonsense"), "{failed}");
        let failed = run("exec sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(failed, ConvertError::TooLong(_)), "{failed}");
    }
}
