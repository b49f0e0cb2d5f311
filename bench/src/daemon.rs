//! A netconn daemon as users run it, and what it says of itself.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::Signal,
    time::{clock_getcpuclockid, clock_gettime},
};
use procfs::process::Process;
use serde_json::Value;

use crate::{
    child::{self, Running},
    place::Place,
};

/// How long it may take to start, and to write what it was told.
const LONG: Duration = Duration::from_secs(60);
/// How long the machine is left alone after a start or an end (programs are freed, namespaces dissolved), and the daemon
/// after a load: longer than an accepted connection waits to be told.
const SETTLE: Duration = Duration::from_millis(300);

/// How a daemon is started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// Without: the table alone.
    pub(crate) events: bool,
    /// With a history, as by default; without, nothing of it is measured.
    pub(crate) history: bool,
    /// Lines of a configuration file.
    pub(crate) config: &'static str,
}

/// Full events to a file: how it is usually run.
pub(crate) const FULL: Setup = Setup { events: true, history: false, config: "" };

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) process: Running,
    folder: PathBuf,
    /// From spawn until it said that it knows everything.
    pub(crate) ready_after: Duration,
}

/// What `/v1/health` answers.
#[derive(Debug)]
pub(crate) struct Health(Value);

/// Removes what outlives a daemon on purpose: the next one has another state folder.
fn unpin(folder: &Path) {
    let id = fs::read_to_string(folder.join("state/sensor-id")).unwrap_or_default();
    for pin in fs::read_dir("/sys/fs/bpf/netconn").into_iter().flatten().flatten() {
        if !id.is_empty() && pin.file_name().to_string_lossy().starts_with(id.trim()) {
            let _ = fs::remove_file(pin.path());
        }
    }
}

impl Daemon {
    /// Starts one and waits until its table is complete.
    pub(crate) fn start(place: &Place, setup: Setup) -> Result<Self> {
        let folder = place.empty("daemon")?;
        let path = |name: &str| folder.join(name);
        let mut command = Command::new(place.netconn());
        command.arg("run").arg("--socket").arg(path("socket")).arg("--state-dir").arg(path("state"));
        if setup.events {
            command.arg("--events").arg(path("events"));
        }
        // Always a file, so that none of the machine's is read.
        fs::write(path("config"), setup.config)?;
        if !setup.history {
            command.arg("--no-history");
        }
        command.arg("--config").arg(path("config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(child::file(&path("log"))?);
        let since = Instant::now();
        let mut daemon = Self { process: Running::start(&mut command)?, folder, ready_after: Duration::ZERO };
        while !daemon.health().is_ok_and(|health| health.is_complete()) {
            if let Some(status) = daemon.process.0.try_wait()? {
                bail!("the daemon ended: {status}: {}", daemon.log());
            }
            if since.elapsed() > LONG {
                bail!("the daemon is not ready within {} s: {}", LONG.as_secs(), daemon.log());
            }
            thread::sleep(Duration::from_millis(1));
        }
        daemon.ready_after = since.elapsed();
        thread::sleep(SETTLE);
        Ok(daemon)
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        let Self { process, folder, .. } = self;
        let status = process.end(Signal::SIGTERM)?;
        if !status.success() {
            bail!("the daemon ended: {status}: {}", fs::read_to_string(folder.join("log"))?);
        }
        // Gigabytes, after a flood.
        let _ = fs::remove_file(folder.join("events"));
        unpin(&folder);
        thread::sleep(SETTLE);
        Ok(())
    }

    /// Where clients find it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Its file of events.
    pub(crate) fn events(&self) -> PathBuf {
        self.folder.join("events")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// What its socket answers to a path.
    pub(crate) fn get(&self, path: &str) -> Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.socket())?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("no answer")?;
        if !answer.starts_with(b"HTTP/1.0 200") {
            bail!("{path}: {}", String::from_utf8_lossy(&answer));
        }
        answer.drain(..head + 4);
        Ok(answer)
    }

    /// How it is.
    pub(crate) fn health(&self) -> Result<Health> {
        Ok(Health(serde_json::from_slice(&self.get("/v1/health")?)?))
    }

    /// How it is when it has handled all that happened so far, and all events of that are written. Other processes may go
    /// on meanwhile.
    pub(crate) fn settled(&self) -> Result<Health> {
        thread::sleep(SETTLE);
        // The engine empties the ring before it answers.
        let events = self.health()?.number("/events");
        let mut health = self.health()?;
        child::until("the daemon has written all events", LONG, || {
            health = self.health()?;
            Ok(health.has_written(events))
        })?;
        Ok(health)
    }

    /// Rows of its snapshot that are in a network namespace.
    pub(crate) fn rows(&self, namespace: u64) -> Result<usize> {
        let answer = self.get(&format!("/v1/connections?format=ndjson&namespace={namespace}"))?;
        Ok(answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count())
    }

    /// Processor seconds that it has used, its threads that ended counted in.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let time = clock_gettime(clock_getcpuclockid(self.process.pid())?)?;
        Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
    }

    /// Resident memory in megabytes (of a million bytes).
    pub(crate) fn resident_megabytes(&self) -> Result<f64> {
        let kilobytes = Process::new(self.process.pid().as_raw())?.status()?.vmrss.context("no VmRSS")?;
        Ok(kilobytes as f64 * 1024.0 / 1e6)
    }

    /// How often its threads have given their processor away, or had to.
    pub(crate) fn switches(&self) -> Result<u64> {
        let mut sum = 0;
        for task in Process::new(self.process.pid().as_raw())?.tasks()? {
            let status = task?.status()?;
            sum += status.voluntary_ctxt_switches.unwrap_or(0) + status.nonvoluntary_ctxt_switches.unwrap_or(0);
        }
        Ok(sum)
    }

    /// How many lines of its file of events match a regular expression. `grep` reads gigabytes a second; this program is
    /// not even optimised.
    pub(crate) fn count_events(&self, pattern: &str) -> Result<usize> {
        let mut grep = Command::new("grep");
        let output = grep.env("LC_ALL", "C").args(["-cE", pattern]).arg(self.events()).output()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().context("grep does not count")
    }
}

impl Health {
    /// Whether its table holds everything that the kernel has.
    pub(crate) fn is_complete(&self) -> bool {
        self.0["complete"] == true
    }

    /// A number, by its JSON pointer.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Records that the kernel could not hand over.
    pub(crate) fn lost_records(&self) -> u64 {
        self.number("/records/lost")
    }

    /// Events that outputs did not take or write.
    pub(crate) fn lost_events(&self) -> u64 {
        self.number("/outputs/0/lost_queue") + self.number("/outputs/0/lost_disk")
    }

    /// Both.
    pub(crate) fn lost(&self) -> u64 {
        self.lost_records() + self.lost_events()
    }

    /// Whether so many events are written or lost, if any are to be written.
    fn has_written(&self, events: u64) -> bool {
        let done = self.number("/outputs/0/written") + self.lost_events();
        self.0.pointer("/outputs/0").is_none() || done >= events
    }
}
