//! Runs the netconn daemon with its usual options and reads its `/v1/health`.

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
    workspace::Workspace,
};

/// Time limit for the daemon to start, and to write pending events.
const LONG: Duration = Duration::from_secs(60);
/// Pause after a start or an exit, in which the kernel frees programs and namespaces, and after a load. It is longer
/// than the daemon holds back the event of an accepted connection.
const SETTLE: Duration = Duration::from_millis(300);

/// Options of a daemon.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DaemonSetup {
    /// Whether the daemon writes events to a file; otherwise it only keeps its table.
    pub(crate) events: bool,
    /// Whether the daemon keeps a history, as it does by default.
    pub(crate) history: bool,
    /// Content of the configuration file.
    pub(crate) config: &'static str,
}

/// All events to a file, without a history.
pub(crate) const FULL: DaemonSetup = DaemonSetup { events: true, history: false, config: "" };

/// A running daemon; it is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct BenchDaemon {
    pub(crate) process: Running,
    folder: PathBuf,
    /// Time from spawn until `/v1/health` reported a complete table.
    pub(crate) ready_after: Duration,
}

/// The response of `/v1/health`.
#[derive(Debug)]
pub(crate) struct HealthReport(Value);

/// Removes a daemon's pinned BPF objects, which outlive it on purpose. The next daemon has another state folder and
/// would not find them.
fn unpin(folder: &Path) {
    let id = fs::read_to_string(folder.join("state/sensor-id")).unwrap_or_default();
    for pin in fs::read_dir("/sys/fs/bpf/netconn").into_iter().flatten().flatten() {
        if !id.is_empty() && pin.file_name().to_string_lossy().starts_with(id.trim()) {
            let _ = fs::remove_file(pin.path());
        }
    }
}

impl BenchDaemon {
    /// Starts a daemon and waits until its table is complete.
    pub(crate) fn start(workspace: &Workspace, setup: DaemonSetup) -> Result<Self> {
        let folder = workspace.empty_folder("daemon")?;
        let path = |name: &str| folder.join(name);
        let mut command = Command::new(workspace.netconn());
        command.arg("run").arg("--socket").arg(path("socket")).arg("--state-dir").arg(path("state"));
        if setup.events {
            command.arg("--events").arg(path("events"));
        }
        // Always pass a configuration, so that the daemon does not read this machine's.
        fs::write(path("config"), setup.config)?;
        if !setup.history {
            command.arg("--no-history");
        }
        command.arg("--config").arg(path("config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(child::create_file(&path("log"))?);
        let since = Instant::now();
        let mut daemon = Self { process: Running::start(&mut command)?, folder, ready_after: Duration::ZERO };
        // The socket exists before the table is complete, so a response alone is not enough.
        while !daemon.health().is_ok_and(|health| health.is_complete()) {
            if let Some(status) = daemon.process.0.try_wait()? {
                bail!("the daemon ended: {status}: {}", daemon.log());
            }
            if since.elapsed() > LONG {
                bail!("the daemon is not ready within {} s: {}", LONG.as_secs(), daemon.log());
            }
            // A short pause, because `ready_after` is a figure.
            thread::sleep(Duration::from_millis(1));
        }
        daemon.ready_after = since.elapsed();
        thread::sleep(SETTLE);
        Ok(daemon)
    }

    /// Stops the daemon and removes its events and pinned objects.
    pub(crate) fn stop(self) -> Result<()> {
        let Self { process, folder, .. } = self;
        // A clean end, so that a daemon that fails at its end fails the benchmark.
        let status = process.end(Signal::SIGTERM)?;
        if !status.success() {
            bail!("the daemon ended: {status}: {}", fs::read_to_string(folder.join("log"))?);
        }
        // After a flood the file has gigabytes.
        let _ = fs::remove_file(folder.join("events"));
        unpin(&folder);
        thread::sleep(SETTLE);
        Ok(())
    }

    /// Returns the path of the daemon's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Returns the path of the file of events.
    pub(crate) fn events(&self) -> PathBuf {
        self.folder.join("events")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Sends a GET request for a path and returns the body of the response.
    pub(crate) fn get(&self, path: &str) -> Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.socket())?;
        // HTTP/1.0: the daemon closes the connection behind the answer, and does not divide the body into chunks.
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

    /// Requests `/v1/health`.
    pub(crate) fn health(&self) -> Result<HealthReport> {
        Ok(HealthReport(serde_json::from_slice(&self.get("/v1/health")?)?))
    }

    /// Waits until the daemon has handled all records up to now and written their events, and returns its health then.
    pub(crate) fn settle(&self) -> Result<HealthReport> {
        thread::sleep(SETTLE);
        // The engine empties the ring before it responds, so `events` counts all records up to now.
        // The number is taken once: on a busy machine other processes cause events all the time.
        let events = self.health()?.number("/events");
        let mut health = self.health()?;
        child::wait_until("the daemon has written all events", LONG, || {
            health = self.health()?;
            Ok(health.has_written(events))
        })?;
        Ok(health)
    }

    /// Returns the number of rows that a snapshot has for a network namespace.
    pub(crate) fn rows(&self, namespace: u64) -> Result<usize> {
        let answer = self.get(&format!("/v1/connections?format=ndjson&namespace={namespace}"))?;
        Ok(answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count())
    }

    /// Returns the CPU seconds that the daemon has used, including threads that have exited.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let time = clock_gettime(clock_getcpuclockid(self.process.pid())?)?;
        Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
    }

    /// Returns the resident memory in megabytes (10^6 bytes).
    pub(crate) fn resident_megabytes(&self) -> Result<f64> {
        let kilobytes = Process::new(self.process.pid().as_raw())?.status()?.vmrss.context("no VmRSS")?;
        Ok(kilobytes as f64 * 1024.0 / 1e6)
    }

    /// Returns the number of voluntary and involuntary context switches of all its threads.
    pub(crate) fn switches(&self) -> Result<u64> {
        let mut sum = 0;
        for task in Process::new(self.process.pid().as_raw())?.tasks()? {
            let status = task?.status()?;
            sum += status.voluntary_ctxt_switches.unwrap_or(0) + status.nonvoluntary_ctxt_switches.unwrap_or(0);
        }
        Ok(sum)
    }

    /// Returns how many lines of the file of events match a regular expression. It runs `grep`, which reads gigabytes
    /// per second; this program is built without optimisation.
    pub(crate) fn count_events(&self, pattern: &str) -> Result<usize> {
        let mut grep = Command::new("grep");
        // The C locale spares decoding UTF-8. The status is ignored: it is 1 if no line matches.
        let output = grep.env("LC_ALL", "C").args(["-cE", pattern]).arg(self.events()).output()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().context("grep printed no number")
    }
}

impl HealthReport {
    /// Returns whether the table has every socket of the kernel.
    pub(crate) fn is_complete(&self) -> bool {
        self.0["complete"] == true
    }

    /// Returns the number at a JSON pointer, or 0 if there is none.
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Returns the number of records that the kernel could not put into the ring.
    pub(crate) fn lost_records(&self) -> u64 {
        self.number("/records/lost")
    }

    /// Returns the number of events that the output dropped or could not write.
    pub(crate) fn lost_events(&self) -> u64 {
        self.number("/outputs/0/lost_queue") + self.number("/outputs/0/lost_disk")
    }

    /// Returns the number of lost records and lost events.
    pub(crate) fn lost(&self) -> u64 {
        self.lost_records() + self.lost_events()
    }

    /// Returns whether the output has written or lost at least `events` events. Without an output this is true.
    fn has_written(&self, events: u64) -> bool {
        let done = self.number("/outputs/0/written") + self.lost_events();
        self.0.pointer("/outputs/0").is_none() || done >= events
    }
}
