//! A daemon under test.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Events, History, Installed, long, netconn, until};

/// Milliseconds that a daemon may take for an answer: it has no place to wait for, and a busy machine is slow.
const ANSWER: u64 = 60_000;
/// The user that daemons become in tests of that. No account has this number.
pub const USER: u32 = 61_000;

/// A running daemon with its own socket, state folder and event file. It is killed when dropped.
pub struct Daemon {
    folder: TempDir,
    process: Child,
    program: PathBuf,
    options: Vec<String>,
}

impl Daemon {
    /// Starts a daemon that writes events, and waits until it listens.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a daemon with more options. It keeps no history; tests of the history use [`Daemon::start_installed`].
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_program(netconn(), &[options, &["--no-history"]].concat())
    }

    /// Starts a daemon without a history that becomes [`USER`].
    pub fn start_as_user(options: &[&str]) -> Self {
        Self::start_with(&[options, &["--user", &USER.to_string()]].concat())
    }

    /// Starts a daemon that keeps a history, with the text of its configuration file. The history works in seconds
    /// instead of minutes (`--test-fast-history`).
    pub fn start_installed(installed: &Installed, settings: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), settings).unwrap();
        // The daemon's folder does not exist yet, so the file lies elsewhere until the daemon has read it.
        let (_, path) = file.keep().unwrap();
        let daemon =
            Self::start_program(installed.netconn(), &["--test-fast-history", "--config", path.to_str().unwrap()]);
        // `Killed::start` reads it there.
        fs::rename(path, daemon.folder.path().join("config")).unwrap();
        daemon
    }

    /// Starts a daemon without a history by a script that prepares its surroundings, in a mount namespace of its own. The
    /// script is followed by the daemon's command line; it must leave the process id as it is.
    pub fn start_within(script: &str) -> Self {
        Self::start_program(program_of(script), &["--no-history"])
    }

    /// Starts a daemon as [`Daemon::start_within`] does and returns as [`Daemon::spawned`] does.
    pub fn spawned_within(script: &str) -> Self {
        Self::spawned_program(program_of(script))
    }

    /// Starts a daemon without a history and returns as soon as SIGHUP and SIGTERM do not end it any more; see
    /// [`Daemon::wait`].
    pub fn spawned() -> Self {
        Self::spawned_program(netconn())
    }

    fn spawned_program(program: PathBuf) -> Self {
        let folder = TempDir::new().unwrap();
        let options = vec!["--no-history".to_owned()];
        let daemon = Self { process: Self::spawn(&program, folder.path(), &options), folder, program, options };
        let since = Instant::now();
        // Blocked or caught; a program that has just been executed does neither.
        let holds_out = || {
            let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
            let mask = |name: &str| {
                let digits = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                u64::from_str_radix(digits.trim(), 16).unwrap()
            };
            let mask = mask("SigBlk:") | mask("SigCgt:");
            [Signal::SIGHUP, Signal::SIGTERM].iter().all(|signal| mask >> (*signal as i32 - 1) & 1 != 0)
        };
        while !holds_out() {
            assert!(since.elapsed() < long(20_000), "SIGHUP would end it: {}", daemon.log());
            thread::sleep(Duration::from_micros(100));
        }
        daemon
    }

    fn start_program(program: PathBuf, options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let mut daemon = Self { process: Self::spawn(&program, folder.path(), &options), folder, program, options };
        daemon.wait();
        daemon
    }

    /// Starts a daemon without a history, with the text of its configuration file.
    pub fn start_configured(settings: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), settings).unwrap();
        let (_, path) = file.keep().unwrap();
        let daemon = Self::start_with(&["--config", path.to_str().unwrap()]);
        // `Killed::start` reads it there.
        fs::rename(path, daemon.folder.path().join("config")).unwrap();
        daemon
    }

    /// Ends the daemon with SIGKILL and keeps its folder for the next one: see [`Killed::start`].
    pub fn kill(mut self) -> Killed {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        Killed(self)
    }

    /// Ends the daemon with SIGTERM and keeps its folder for the next one.
    pub fn end(mut self) -> Killed {
        self.signal(Signal::SIGTERM);
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        Killed(self)
    }

    /// Waits until the daemon has ended by itself, with success.
    pub fn ended(mut self) -> Killed {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < long(20_000), "the daemon does not end: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{status}: {}", self.log());
        Killed(self)
    }

    fn spawn(program: &Path, folder: &Path, options: &[String]) -> Child {
        let path = |name: &str| folder.join(name);
        let mut command = Command::new(program);
        command.arg("run").arg("--events").arg(path("events")).arg("--socket").arg(path("sock"));
        command.arg("--state-dir").arg(path("state")).args(options);
        // Root gives the daemon its folder; it is the user of the test, or that of `NETCONN_TEST_USER`.
        let named =
            options.iter().position(|option| option == "--user").and_then(|place| options.get(place + 1)).cloned();
        let of_all = std::env::var("NETCONN_TEST_USER").ok().filter(|user| named.is_none() && !user.is_empty());
        if let Some(user) = &of_all {
            command.args(["--user", user]);
        }
        if let Some(user) = named.or(of_all).and_then(|user| user.parse().ok()) {
            std::os::unix::fs::chown(folder, Some(user), Some(user)).unwrap();
        }
        // Guests leave a hook out to test the code for kernels that do not have it.
        if let Ok(hook) = std::env::var("NETCONN_TEST_WITHOUT")
            && !hook.is_empty()
        {
            command.args(["--without-hook", &hook]);
        }
        let log = fs::File::create(path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        loop {
            match command.spawn() {
                // The child of another thread has the script of `start_within` open until it executes its own program.
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
                started => return started.unwrap(),
            }
        }
    }

    /// Waits until the daemon listens.
    pub fn wait(&mut self) {
        let since = Instant::now();
        while self.ask("/v1/health").is_err() {
            // A daemon that has ended would otherwise be waited for until the time limit.
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && since.elapsed() < long(20_000), "the daemon does not start: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the daemon that the tests of this program share if they only look at events of their own namespaces: a
    /// start takes seconds on an emulated machine. It ends with the program.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Daemon> = OnceLock::new();
        extern "C" fn end() {
            if let Some(daemon) = SHARED.get() {
                let log = daemon.log();
                log.lines().filter(|line| line.contains(" WARN ")).for_each(|line| eprintln!("{line}"));
                // Nobody reads its events any more, and a clean end takes longer.
                daemon.signal(Signal::SIGKILL);
                daemon.unpin();
                let _ = fs::remove_dir_all(daemon.folder.path());
            }
        }
        SHARED.get_or_init(|| {
            // SAFETY: `end` may be called at any time, and it stays valid until the program ends.
            unsafe { libc::atexit(end) };
            Self::start()
        })
    }

    /// Returns the id in its state folder.
    pub fn sensor_id(&self) -> String {
        fs::read_to_string(self.folder.path().join("state/sensor-id")).unwrap_or_default().trim().to_owned()
    }

    /// Removes the pinned maps, which outlive a daemon for the next one. There is no next one: the state folder is
    /// removed.
    fn unpin(&self) {
        let id = self.sensor_id();
        let folders = ["/sys/fs/bpf/netconn".to_owned(), format!("/sys/fs/bpf/netconn-{USER}")];
        let pins = folders.iter().flat_map(fs::read_dir).flatten().flatten();
        for pin in pins.filter(|pin| !id.is_empty() && pin.file_name().to_string_lossy().starts_with(&id)) {
            let _ = fs::remove_file(pin.path());
        }
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns the path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    /// Returns the path of its event file.
    pub fn event_file(&self) -> PathBuf {
        self.folder.path().join("events")
    }

    /// Returns its history.
    pub fn history(&self) -> History {
        History(self.folder.path().join("state/events"))
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Runs a netconn command that connects to this daemon.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(netconn()).args(arguments).arg("--socket").arg(self.socket()).output().unwrap()
    }

    /// Runs a netconn command that must succeed, and returns its standard output.
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns a snapshot's rows of one network namespace, except those in TIME_WAIT.
    pub fn list(&self, namespace: u64) -> Vec<Value> {
        self.list_all(namespace).into_iter().filter(|row| row["state"] != "TIME_WAIT").collect()
    }

    /// Returns a snapshot's rows of one network namespace.
    pub fn list_all(&self, namespace: u64) -> Vec<Value> {
        self.rows(&format!("/v1/connections?format=ndjson&namespace={namespace}"))
    }

    /// Requests a path from the daemon's socket and returns the lines of the body as JSON.
    pub fn rows(&self, path: &str) -> Vec<Value> {
        self.ask(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the answer of `/v1/health`.
    pub fn health(&self) -> Value {
        serde_json::from_str(&self.ask("/v1/health").unwrap()).unwrap()
    }

    /// Returns how often the kernel has not run a BPF program of this daemon. This is rare, but happens on some
    /// machines (docs/decisions.md, "The table is compared with the kernel"): the table is repaired, but the record
    /// that the program would have written is unknown.
    pub fn missed_runs(&self) -> u64 {
        self.health()["records"]["missed_runs"].as_u64().unwrap()
    }

    /// Requests a path from the daemon's socket. Returns the body; the error is the failed connection, or the whole
    /// answer if its status is not 200.
    pub fn ask(&self, path: &str) -> Result<String, String> {
        let mut stream = UnixStream::connect(self.socket()).map_err(|error| error.to_string())?;
        // Whoever listens may never accept. A large answer comes in parts, each within this time.
        stream.set_read_timeout(Some(long(ANSWER))).unwrap();
        // HTTP/1.0: the daemon closes the connection behind the answer, and does not divide the body into chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
            _ => Err(answer),
        }
    }

    /// Begins to listen to all events. What can be read is the rest of the head of the answer, and its body.
    pub fn stream(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(long(ANSWER))).unwrap();
        write!(stream, "GET /v1/events HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        // The status comes when the daemon has the client.
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert!(status.ends_with(b" 200"));
        // Events may come at any time.
        stream.set_read_timeout(None).unwrap();
        stream
    }

    /// Returns the events of all records that the kernel has written so far; the daemon goes on.
    pub fn events(&self) -> Events {
        self.wait_until_written();
        Events::so_far(&self.event_file())
    }

    /// Waits until the events that the daemon has made are in the file. The daemon reads the rings before it answers a
    /// request for its health. A fixed pause would not do: a busy disk, as after a long build, delays the write for
    /// longer.
    fn wait_until_written(&self) {
        let made = self.health()["events"].as_u64().unwrap();
        let settled = || {
            let health = self.health();
            // The first output is that of `--events`.
            let output = &health["outputs"][0];
            ["written", "lost_queue", "lost_disk"].iter().map(|name| output[name].as_u64().unwrap()).sum::<u64>()
        };
        until(30_000, || format!("{made} events are made, {} are written", settled()), || settled() >= made);
    }

    /// Returns the daemon's child that is converting a segment, if there is one. The privileged child is none.
    pub fn converter(&self) -> Option<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).ok()?;
        let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
        let all: String = children.collect();
        let is_privileged =
            |child: &&str| fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "netconn-priv\n");
        all.split_whitespace().find(|child| !is_privileged(child))?.parse().ok()
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }

    /// Ends the daemon with SIGTERM, checks that it succeeds within a second, and returns its events.
    pub fn stop(mut self) -> Events {
        self.terminate();
        Events::read(&self.event_file())
    }

    /// Ends the daemon as [`Daemon::stop`] does and returns its events of one kind. It skips the others, because
    /// hundreds of thousands of events need gigabytes of memory.
    pub fn stop_for(mut self, kind: &str) -> Events {
        self.terminate();
        Events::read_only(&self.event_file(), kind)
    }

    fn terminate(&mut self) {
        let since = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.process.wait().unwrap();
        assert!(since.elapsed() < long(1000), "it took {:?} to stop", since.elapsed());
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An error means that a test has ended it already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.unpin();
    }
}

/// Returns a program that runs a script in a mount namespace of its own, and then a daemon.
fn program_of(script: &str) -> PathBuf {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "#!/bin/sh\n[ \"$INSIDE\" ] || INSIDE=1 exec unshare --mount --propagation private \"$0\" \"$@\"\n\
         set -e\n{script}\nexec {} \"$@\"\n",
        netconn().display()
    );
    fs::write(file.path(), text).unwrap();
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // An open file cannot be run.
    file.into_temp_path().keep().unwrap()
}

/// A daemon that has ended, with its folder.
pub struct Killed(Daemon);

impl Killed {
    /// Returns its log.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Starts the next daemon with the same socket, state folder and event file.
    pub fn start(self) -> Daemon {
        let Self(mut daemon) = self;
        let config = daemon.folder.path().join("config");
        if let Some(option) = daemon.options.iter().position(|option| option == "--config") {
            daemon.options[option + 1] = config.to_str().unwrap().into();
        }
        daemon.process = Daemon::spawn(&daemon.program, daemon.folder.path(), &daemon.options);
        daemon.wait();
        daemon
    }

    /// Returns the history as the daemon left it.
    pub fn history(&self) -> History {
        self.0.history()
    }

    /// Returns the path of the event file. A torn last line is still there; the next daemon removes it.
    pub fn event_file(&self) -> PathBuf {
        self.0.event_file()
    }
}
