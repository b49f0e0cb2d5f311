//! One conversion of a closed segment: a child process of little precedence, few rights and limited memory, what it says, and
//! whether that is true. The child works in a folder of its own, beside a second name of the segment: what it makes gets into the
//! history only when it is known to be right.

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

use crate::{line_file::MODE, store::folder};

/// Memory that the child may write to, bytes: threads and allocators reserve much more than that, so it is not its address space.
const MEMORY_MAX: u64 = 1 << 30;
/// Of what it says, so much is kept.
const SAID_MAX: usize = 4096;
/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)`, `include/uapi/linux/ioprio.h`: it reads and writes when nobody else does.
const IO_IDLE: libc::c_int = 3 << 13;
const IO_OF_PROCESS: libc::c_int = 1;
/// More capabilities than there are, `include/uapi/linux/capability.h`.
const CAPABILITIES: libc::c_ulong = 64;

/// Why a segment is not converted.
#[derive(Debug, Error)]
pub(super) enum ConvertError {
    /// It could not be started, or watched.
    #[error("it cannot be run: {0}")]
    System(#[from] io::Error),
    /// It has failed.
    #[error("it ended with {status}: {said}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// It hangs.
    #[error("it was not done within {} s", .0.as_secs())]
    TooLong(Duration),
    /// It says that it is done, and is not.
    #[error("{0}")]
    Untrue(String),
}

/// What the child says when it is done: one line of JSON.
#[derive(Debug, Deserialize)]
struct Report {
    /// Lines of the segment, each of which is a row.
    rows: u64,
    /// Bytes of the Parquet file.
    bytes: u64,
    /// The Parquet file, with or without its folder.
    file: PathBuf,
}

/// A child that converts a segment.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) from: u64,
    folder: PathBuf,
    /// Where the child works; gone with this.
    work: Work,
    child: Child,
    since: Instant,
    out: Said,
    errors: Said,
}

impl Running {
    /// Starts one.
    pub(super) fn start(program: &Path, folder: &Path, from: u64) -> Result<Self, ConvertError> {
        let work = Work::prepare(folder, from)?;
        let mut command = Command::new(program);
        // Relative to a folder that it is put into: it may have no way through those above it.
        command.arg("--convert").arg(format!("./{}", SegmentName::Segment { from })).current_dir(&work.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let parent = std::process::id();
        // SAFETY: only system calls are made between fork and exec, and nothing is allocated.
        unsafe { command.pre_exec(move || restrain(parent)) };
        let mut child = command.spawn()?;
        let (out, errors) = (Said::new(child.stdout.take())?, Said::new(child.stderr.take())?);
        yield_to_all(child.id());
        // When memory is short it goes first.
        let _ = fs::write(format!("/proc/{}/oom_score_adj", child.id()), "1000");
        Ok(Self { from, folder: folder.to_owned(), work, child, since: Instant::now(), out, errors })
    }

    /// Whether it is done, and well: `None` while it works. Longer than `limit` it does not.
    pub(super) fn poll(&mut self, limit: Duration) -> Option<Result<SegmentName, ConvertError>> {
        self.out.read();
        self.errors.read();
        match self.child.try_wait() {
            Ok(None) if self.since.elapsed() < limit => None,
            Ok(None) => {
                self.kill();
                Some(Err(ConvertError::TooLong(limit)))
            }
            Ok(Some(status)) => {
                self.out.read();
                self.errors.read();
                Some(self.outcome(status))
            }
            Err(error) => Some(Err(error.into())),
        }
    }

    fn outcome(&self, status: ExitStatus) -> Result<SegmentName, ConvertError> {
        if !status.success() {
            let said = if self.errors.0.is_empty() { &self.out } else { &self.errors };
            return Err(ConvertError::Ended { status, said: said.text() });
        }
        let said = self.out.text();
        let line = said.lines().last().unwrap_or_default();
        let report: Report = serde_json::from_str(line)
            .map_err(|error| ConvertError::Untrue(format!("its answer is no report ({error}): {line}")))?;
        let name = verify(&self.work.0, self.from, &report)?;
        let made = self.work.0.join(name.to_string());
        folder::share(&made, None, MODE)?;
        // It has done that; but the segment will go, and this is the last chance.
        File::open(&made)?.sync_all()?;
        fs::rename(made, self.folder.join(name.to_string()))?;
        folder::sync(&self.folder)?;
        Ok(name)
    }

    /// Ends it.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder with a segment in it; removed when dropped, and when a daemon starts.
#[derive(Debug)]
struct Work(PathBuf);

impl Work {
    fn prepare(folder: &Path, from: u64) -> io::Result<Self> {
        folder::remove_work(folder)?;
        let work = Self(folder.join(folder::WORK));
        DirBuilder::new().mode(0o700).create(&work.0)?;
        let segment = SegmentName::Segment { from }.to_string();
        fs::hard_link(folder.join(&segment), work.0.join(segment))?;
        Ok(work)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // The next conversion removes what is left.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether all of the segment is in the file that the child has made.
fn verify(work: &Path, from: u64, report: &Report) -> Result<SegmentName, ConvertError> {
    let untrue = |what: String| Err(ConvertError::Untrue(what));
    let name = report.file.file_name().and_then(|name| name.to_str()).and_then(SegmentName::parse);
    let Some(name @ SegmentName::Converted { from: its, .. }) = name else {
        return untrue(format!("{} is no name of a converted segment", report.file.display()));
    };
    if its != from {
        return untrue(format!("it made {name}, which is not of {}", SegmentName::Segment { from }));
    }
    let path = work.join(name.to_string());
    let bytes = fs::symlink_metadata(&path)?.len();
    if bytes != report.bytes || !folder::is_parquet(&path) {
        return untrue(format!("{name} is not whole: {bytes} bytes of {}", report.bytes));
    }
    let lines = lines(&work.join(SegmentName::Segment { from }.to_string()))?;
    if lines != report.rows {
        return untrue(format!("{name} has {} rows for {lines} lines", report.rows));
    }
    Ok(name)
}

fn lines(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let mut lines = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(lines),
            length => lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
}

/// Lets a child work only when nobody else does. Not before it is another program: until then it has the daemon's locks, and who
/// has no time cannot even die when the daemon does, so that the next one would find them taken.
fn yield_to_all(process: u32) {
    let idle = libc::sched_param { sched_priority: 0 };
    // Its first thread, and others if it was that quick; those to come are like the one that starts them.
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        // SAFETY: system calls with numbers, and a pointer to a value that lives long enough.
        unsafe {
            libc::setpriority(libc::PRIO_PROCESS, thread, 19);
            libc::sched_setscheduler(thread.cast_signed(), libc::SCHED_IDLE, &raw const idle);
            libc::syscall(libc::SYS_ioprio_set, IO_OF_PROCESS, thread, IO_IDLE);
        }
    }
}

/// Takes from the child what it does not need, between fork and exec. What the kernel refuses here would only have made it
/// gentler; but it must not outlive the daemon, whose next run would convert the same segment.
fn restrain(parent: u32) -> io::Result<()> {
    let memory = libc::rlimit { rlim_cur: MEMORY_MAX, rlim_max: MEMORY_MAX };
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: system calls with numbers, and pointers to values that live long enough.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::getppid().cast_unsigned() != parent {
            return Err(io::ErrorKind::Interrupted.into()); // The daemon has ended before that.
        }
        libc::setrlimit(libc::RLIMIT_DATA, &raw const memory);
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::umask(0o777 & !MODE);
        // Everything that the daemon opens is closed by exec anyway; libraries' files too, from now on.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // It reads what strangers have put into command lines: root without any capability is enough.
        for capability in 0..CAPABILITIES {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    Ok(())
}

/// The end of what a child has written to a pipe so far.
#[derive(Debug)]
struct Said(Vec<u8>, Option<File>);

impl Said {
    fn new(pipe: Option<impl Into<OwnedFd>>) -> io::Result<Self> {
        let Some(pipe) = pipe else { return Ok(Self(Vec::new(), None)) };
        let pipe = pipe.into();
        fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self(Vec::new(), Some(File::from(pipe))))
    }

    /// Takes what is there. A child that never stops to write is not listened to for ever.
    fn read(&mut self) {
        let Self(said, Some(pipe)) = self else { return };
        let mut part = [0; SAID_MAX];
        for _ in 0..64 {
            match pipe.read(&mut part) {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    said.extend_from_slice(&part[..length]);
                    let surplus = said.len().saturating_sub(SAID_MAX);
                    said.drain(..surplus);
                }
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().to_owned()
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
            let report = Report { rows, bytes, file: file.into() };
            verify(converted(parquet).path(), FROM, &report).map_err(|error| error.to_string())
        };
        assert_eq!(check(whole, 2, 12, FILE), Ok(SegmentName::Converted { from: FROM, to: 1_767_225_699_999 }));
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

    /// Runs a shell script as the converter, until it is done; whether the folder has another file then.
    fn run(script: &str, limit: Duration) -> Result<SegmentName, ConvertError> {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SegmentName::Segment { from: FROM }.to_string()), "a\nb\n").unwrap();
        let program = folder.path().join("script");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut running = Running::start(&program, folder.path(), FROM)?;
        loop {
            if let Some(outcome) = running.poll(limit) {
                drop(running);
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
        // It is gentle before long, and has the folder for its own.
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
