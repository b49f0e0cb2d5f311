//! One conversion of a closed segment to Parquet, by a child process: `netconn-search --convert -`.
//!
//! The child is not trusted. It has a user of its own and no path: it reads the segment from a descriptor and writes to another
//! one. What it makes becomes part of the history only after its report has been compared with the files.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek as _},
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use netconn_model::{
    health::{Confinement, Enforcement},
    segment_name::SegmentName,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::{geteuid, pipe2},
};
use serde::Deserialize;
use thiserror::Error;

use crate::{
    line_file::MODE,
    store::{
        confine::{self, OptionalLayers, Restraint},
        converter_user::{self, ConverterUser},
        directory,
    },
};

/// How much is kept of the child's output, bytes.
const TAIL_BYTES: usize = 4096;
/// How many parts of that length are read at once: a child that never stops writing must not hold up the keeper.
const TAIL_READS: usize = 64;
/// Bytes that are read at once when lines are counted.
const READ_BYTES: usize = 256 << 10;
/// Name of the Parquet file until it is part of the history, in a folder of its own.
const MADE_NAME: &str = "made";
/// What a Parquet file may have beyond twice the length of its segment, bytes: its footer names each column of each part.
const FILE_SURPLUS: u64 = 16 << 20;

/// Why a segment is not converted.
#[derive(Debug, Error)]
pub(super) enum ConvertError {
    /// The system refused something: to start the child, for example.
    #[error("it cannot be run: {0}")]
    System(#[from] io::Error),
    /// The child ended with an error before it had read anything of the segment: whatever is wrong, it is not the segment.
    #[error(
        "it ended with {status} before it read the segment: {output}; is it of this version of netconn ({})? Both are installed \
         together",
        env!("CARGO_PKG_VERSION")
    )]
    Unable {
        /// Exit code or signal.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
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
    /// Time of the earliest event, epoch milliseconds; `None` if no line has one.
    first: Option<i64>,
    /// Time of the latest event.
    last: Option<i64>,
    /// Size of the Parquet file, bytes.
    bytes: u64,
    /// How far it has confined itself.
    #[serde(default)]
    landlock: Enforcement,
    #[serde(default)]
    seccomp: Enforcement,
}

/// A running conversion. Dropping it kills the child and removes its work directory.
#[derive(Debug)]
pub(super) struct Converter {
    /// FROM of the segment.
    pub(super) from: u64,
    directory: PathBuf,
    work: WorkDirectory,
    /// Opened before the child runs, apart from its own descriptor: a segment that is removed meanwhile stays readable.
    segment: File,
    /// The child's own descriptor: its position says whether the child has read.
    input: File,
    user: Option<ConverterUser>,
    /// What it has told before it ran the program.
    layers: Option<OptionalLayers>,
    child: Child,
    started: Instant,
    stdout: PipeTail,
    stderr: PipeTail,
}

/// A segment that has become Parquet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConvertedSegment {
    pub(super) name: SegmentName,
    /// How the child was confined.
    pub(super) confinement: Confinement,
}

impl Converter {
    /// Starts to convert the segment `from` of the history in `directory`.
    pub(super) fn start(program: &Path, directory: &Path, from: u64) -> Result<Self, ConvertError> {
        Self::start_with(program, &["--convert".as_ref(), "-".as_ref()], directory, from)
    }

    fn start_with(program: &Path, arguments: &[&OsStr], directory: &Path, from: u64) -> Result<Self, ConvertError> {
        let user = converter_user::choose()?;
        // Opened by the daemon, and run by its descriptor: the child's user may have no access to the folders above, such
        // as /root.
        let program_file = File::open(program)?;
        let mode = program_file.metadata()?.mode();
        let program_file = apart(&program_file)?;
        if user.is_some() && mode & 0o001 == 0 {
            let reason = format!(
                "{} can be run by root alone (mode {:o}), and it runs as another user: `chmod 755` it",
                program.display(),
                mode & 0o7777
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason).into());
        }
        let path = directory.join(SegmentName::Segment { from }.to_string());
        let open = || OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let (segment, input) = (open()?, open()?);
        let work = WorkDirectory::create(directory)?;
        let parquet = OpenOptions::new().write(true).create_new(true).mode(0o600).open(work.made())?;
        // The link stays valid until `exec`, which follows it before it closes the descriptor.
        let mut command = Command::new(format!("/proc/self/fd/{}", program_file.as_raw_fd()));
        command.arg0(program).args(arguments).current_dir("/");
        // Nothing in the environment of the daemon is meant for it: options can be set there, and libraries loaded.
        command.env_clear().stdin(Stdio::from(input.try_clone()?)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let file_max = segment.metadata()?.len().saturating_mul(2).saturating_add(FILE_SURPLUS);
        // The process id is asked for before `fork`: the child compares it with its parent of that moment.
        let restraint = Restraint { parent: std::process::id(), user, file_max };
        let filter = confine::filter();
        let (told, own_end) = pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from)?;
        let telling = apart(&own_end)?;
        // With a writer left in this process, the pipe of a child that tells nothing would never end.
        drop(own_end);
        // SAFETY: `before_exec` makes system calls only and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                confine::before_exec(&restraint, filter.as_ref(), (parquet.as_fd(), telling.as_fd()))
            });
        }
        let mut child = command.spawn()?;
        // Closes this process's descriptors of the Parquet file and of the pipe's end.
        drop(command);
        let layers = OptionalLayers::read(File::from(told));
        // `spawn` returns after `exec`: the standard library waits until the pipe for its error is closed.
        confine::give_idle_priority(child.id());
        let (stdout, stderr) = (PipeTail::new(child.stdout.take())?, PipeTail::new(child.stderr.take())?);
        let (directory, started) = (directory.to_owned(), Instant::now());
        Ok(Self { from, directory, work, segment, input, user, layers, child, started, stdout, stderr })
    }

    /// Returns the process id of the child.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Returns the outcome, or `None` while the child works. After `limit` the child is killed.
    pub(super) fn poll(&mut self, limit: Duration) -> Option<Result<ConvertedSegment, ConvertError>> {
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
    fn outcome(&self, status: ExitStatus) -> Result<ConvertedSegment, ConvertError> {
        if !status.success() {
            let tail = if self.stderr.tail.is_empty() { &self.stdout } else { &self.stderr };
            let output = tail.text();
            // An earlier version, for example, takes the segment from a path.
            let has_read = (&self.input).stream_position()? != 0;
            return Err(if has_read {
                ConvertError::Ended { status, output }
            } else {
                ConvertError::Unable { status, output }
            });
        }
        let output = self.stdout.text();
        // The last line only: libraries may write to standard output as well.
        let line = output.lines().last().unwrap_or_default();
        let report: ConversionReport = serde_json::from_str(line)
            .map_err(|error| ConvertError::Untrue(format!("its answer is no report ({error}): {line}")))?;
        let made = self.work.made();
        let name = verify(&made, &self.segment, self.from, &report)?;
        // Mode and durability first, then the name: from the rename on, readers count this file and not the segment.
        directory::share(&made, None, MODE)?;
        // The child has synced it too, but soon the segment is removed, and this is the only other copy.
        File::open(&made)?.sync_all()?;
        fs::rename(made, self.directory.join(name.to_string()))?;
        // Otherwise a power cut could undo the rename after the segment was removed.
        directory::sync(&self.directory)?;
        let uid = self.user.map_or_else(|| geteuid().as_raw(), |user| user.uid);
        let ConversionReport { landlock, seccomp, .. } = report;
        let confinement = Confinement {
            uid,
            has_own_user: self.user.is_some(),
            landlock,
            seccomp,
            empty_bounding_set: self.layers.map(|layers| layers.empty_bounding_set),
            first_filter: self.layers.map(|layers| layers.first_filter),
        };
        Ok(ConvertedSegment { name, confinement })
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

/// Returns a descriptor of the same file whose number is not the one that the Parquet file gets in the child.
fn apart(file: impl AsFd) -> io::Result<OwnedFd> {
    let number = fcntl(file.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(confine::PARQUET_DESCRIPTOR + 1))?;
    // SAFETY: it was made just now, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The directory of the Parquet file that is being made. It is removed when this is dropped, and by the next daemon.
#[derive(Debug)]
struct WorkDirectory(PathBuf);

impl WorkDirectory {
    fn create(directory: &Path) -> io::Result<Self> {
        // A folder of this name is of a killed child; no other one runs, because the keeper starts one at a time.
        directory::remove_work(directory)?;
        let work = Self(directory.join(directory::WORK_NAME));
        DirBuilder::new().mode(0o700).create(&work.0)?;
        Ok(work)
    }

    /// Returns the path of the Parquet file.
    fn made(&self) -> PathBuf {
        self.0.join(MADE_NAME)
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        // The next conversion removes what is left.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Compares a report with the Parquet file and its segment, and returns the name of the Parquet file if it holds the whole
/// segment.
fn verify(made: &Path, segment: &File, from: u64, report: &ConversionReport) -> Result<SegmentName, ConvertError> {
    let untrue = |reason: String| Err(ConvertError::Untrue(reason));
    let name = SegmentName::converted(from, report.first.zip(report.last));
    let bytes = fs::symlink_metadata(made)?.len();
    if bytes != report.bytes || !directory::is_parquet(made) {
        return untrue(format!("{name} is not whole: {bytes} bytes of {}", report.bytes));
    }
    // Counted anew and last, because it reads the whole segment.
    let lines = count_lines(segment)?;
    if lines != report.rows {
        return untrue(format!("{name} has {} rows for {lines} lines", report.rows));
    }
    Ok(name)
}

fn count_lines(mut segment: &File) -> io::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut lines = 0;
    loop {
        match segment.read(&mut buffer)? {
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const FROM: u64 = 1_767_225_600_000;
    const LAST: i64 = 1_767_225_699_999;

    /// A folder with a segment of two lines.
    fn history() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SegmentName::Segment { from: FROM }.to_string()), "a\nb\n").unwrap();
        folder
    }

    #[test]
    fn a_report_is_compared_with_the_files() {
        let check = |parquet: &str, rows, bytes, (first, last)| {
            let folder = history();
            let made = folder.path().join(MADE_NAME);
            fs::write(&made, parquet).unwrap();
            let segment = File::open(folder.path().join(SegmentName::Segment { from: FROM }.to_string())).unwrap();
            let (landlock, seccomp) = (Enforcement::None, Enforcement::None);
            let report = ConversionReport { rows, bytes, first, last, landlock, seccomp };
            verify(&made, &segment, FROM, &report).map_err(|error| error.to_string())
        };
        let whole = "PAR1 ab PAR1";
        for (first, last, to, earliest) in [
            (Some(FROM.cast_signed()), Some(LAST), LAST.cast_unsigned(), FROM),
            (Some(7), Some(LAST), LAST.cast_unsigned(), 7),
            (None, None, FROM, FROM),
            (Some(-7), Some(10_000_000_000_000), 9_999_999_999_999, 0),
        ] {
            assert_eq!(check(whole, 2, 12, (first, last)), Ok(SegmentName::Converted { from: FROM, to, earliest }));
        }
        for (parquet, rows, bytes, expected) in [
            (whole, 1, 12, "has 1 rows for 2 lines"),
            (whole, 2, 13, "is not whole: 12 bytes of 13"),
            ("PAR1 ab rubbish", 2, 15, "is not whole"),
        ] {
            let error = check(parquet, rows, bytes, (Some(LAST), Some(LAST))).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Runs a shell script as the converter until it is done, and checks that nothing but its result is left. The script may
    /// start no other program.
    fn run(script: &str, limit: Duration) -> Result<ConvertedSegment, ConvertError> {
        let folder = history();
        // Nobody else may enter this one.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let mut converter =
            Converter::start_with("/bin/sh".as_ref(), &["-c".as_ref(), script.as_ref()], folder.path(), FROM)?;
        loop {
            if let Some(outcome) = converter.poll(limit) {
                drop(converter);
                let count = if outcome.is_ok() { 2 } else { 1 };
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), count, "{outcome:?}");
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_child_is_believed_only_when_it_is_done() {
        const LONG: Duration = Duration::from_secs(60);
        let make = "printf 'PAR1 ab PAR1' >&3";
        let report =
            format!("{make}; echo '{{\"rows\":2,\"first\":1,\"last\":{LAST},\"bytes\":12,\"landlock\":\"partial\"}}'");
        let made = run(&report, LONG).unwrap();
        assert_eq!(made.name, SegmentName::Converted { from: FROM, to: LAST.cast_unsigned(), earliest: 1 });
        let Confinement { uid, has_own_user, landlock, seccomp, empty_bounding_set, first_filter } = made.confinement;
        assert_eq!((landlock, seccomp), (Enforcement::Partial, Enforcement::None));
        assert_eq!(has_own_user, geteuid().is_root());
        // Every user may set a filter.
        assert_eq!((empty_bounding_set, first_filter), (Some(has_own_user), Some(true)));
        assert_eq!(uid == geteuid().as_raw(), !has_own_user);
        let much = "i=0; while [ $i -lt 20000 ]; do echo many words; i=$((i + 1)); done";
        run(&format!("{much}; {report}"), LONG).unwrap();
        // It reads the segment and has none of the daemon's environment: cargo sets this variable.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let input = "read a; read b; [ $a$b = ab ] && [ -z \"$CARGO_MANIFEST_DIR\" ]";
        run(&format!("{input} && {report}"), LONG).unwrap();
        let failed = run("read a; echo because >&2; exit 3", LONG).unwrap_err().to_string();
        assert_eq!(failed, "it ended with exit status: 3: because");
        // As a netconn-search that takes the segment from a path.
        let failed = run("echo no such file >&2; exit 66", LONG).unwrap_err();
        assert!(matches!(failed, ConvertError::Unable { .. }), "{failed:?}");
        let failed = failed.to_string();
        assert!(
            failed.starts_with("it ended with exit status: 66 before it read the segment: no such file; is it"),
            "{failed}"
        );
        let failed = run("echo nonsense", LONG).unwrap_err().to_string();
        assert!(failed.starts_with("its answer is no report") && failed.ends_with(": nonsense"), "{failed}");
        let failed = run("exec /bin/sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(failed, ConvertError::TooLong(_)), "{failed}");
    }

    #[test]
    fn a_child_tells_what_it_could_not_take_from_itself() {
        for (empty_bounding_set, first_filter) in [(true, true), (true, false), (false, true), (false, false)] {
            let layers = OptionalLayers { empty_bounding_set, first_filter };
            assert_eq!(OptionalLayers::read(&[layers.byte()][..]), Some(layers));
        }
        assert_eq!(OptionalLayers::read(&[][..]), None);
    }

    #[test]
    fn a_program_that_only_root_can_run_is_an_error_that_says_so() {
        if !geteuid().is_root() {
            return; // The converter has the daemon's user.
        }
        let folder = history();
        let program = folder.path().join("program");
        fs::copy("/bin/true", &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let error = Converter::start(&program, folder.path(), FROM).unwrap_err().to_string();
        assert!(error.contains("can be run by root alone (mode 700)") && error.contains("`chmod 755` it"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
    }
}
