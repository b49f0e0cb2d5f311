//! The daemon as a service: what it tells its manager, the socket that it is handed, its log in the journal, and settings that change
//! while it runs. The tests take the place of systemd, by the protocols of sd_notify(3) and sd_listen_fds(3).

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::AsRawFd as _,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{Daemon, Ending, Events, Netns, long, netconn, until};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// A manager of services that takes messages.
struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { folder, socket }
    }

    /// Starts a daemon that is told of this manager, which wants to hear of it so often.
    fn start(&self, watchdog: Duration, script: &str) -> Daemon {
        Daemon::start_within(&self.script(watchdog, script))
    }

    /// Returns a script that names this manager to the daemon behind it.
    fn script(&self, watchdog: Duration, script: &str) -> String {
        let path = self.folder.path().join("notify");
        format!(
            "export NOTIFY_SOCKET={} WATCHDOG_USEC={} WATCHDOG_PID=$$\n{script}",
            path.display(),
            watchdog.as_micros()
        )
    }

    /// Returns the next message; none within this time.
    fn next(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut bytes = [0; 4096];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Some(String::from_utf8(bytes[..length].to_vec()).unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns the messages until one has this line, with it.
    fn until(&self, line: &str) -> Vec<String> {
        let since = Instant::now();
        let mut messages = Vec::<String>::new();
        while !messages.last().is_some_and(|message| lines(message).any(|other| other == line)) {
            assert!(since.elapsed() < long(20_000), "no {line}: {messages:?}");
            messages.extend(self.next(Duration::from_millis(100)));
        }
        messages
    }

    /// Forgets messages until none has come for this time.
    fn forget(&self, quiet: Duration) {
        let since = Instant::now();
        while let Some(message) = self.next(quiet) {
            assert!(since.elapsed() < long(20_000), "it goes on: {message}");
        }
    }

    /// Returns the next status that tells numbers.
    fn numbers(&self) -> String {
        let since = Instant::now();
        loop {
            let message = self.next(Duration::from_millis(100)).unwrap_or_default();
            if let Some(status) = value(&message, "STATUS").filter(|status| status.contains(" connections, ")) {
                return status.to_owned();
            }
            assert!(since.elapsed() < long(20_000), "no numbers");
        }
    }
}

fn lines(message: &str) -> impl Iterator<Item = &str> {
    message.split('\n')
}

/// Returns the value of a line like `STATUS=…`.
fn value<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    lines(message).find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// Returns how a status ends, by what a daemon's health says of losses.
fn losses(daemon: &Daemon) -> String {
    let health = daemon.health();
    let sum = |of: &Value, names: &[&str]| names.iter().map(|name| of[name].as_u64().unwrap_or(0)).sum::<u64>();
    let never_made = sum(&health["lost_events"], &["outgoing", "incoming", "closes", "listeners"]);
    let outputs = health["outputs"].as_array().unwrap().iter();
    let lost = never_made + outputs.map(|output| sum(output, &["lost_queue", "lost_disk", "lost_sink"])).sum::<u64>();
    match (lost, health["records"]["lost"].as_u64().unwrap()) {
        (0, 0) => ", none lost".to_owned(),
        (lost, records) => format!(", {lost} lost; {records} records of the kernel lost"),
    }
}

#[test]
fn the_manager_hears_of_start_status_reload_and_end() {
    let manager = Manager::new();
    let namespace = Netns::new();
    let listener = || namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let mut held = vec![listener()];
    let file = ConfigFile::new("");
    let script = format!("set -- \"$@\" --config {}", file.path().display());
    let daemon = manager.start(Duration::from_secs(2), &script);
    let start = manager.until("READY=1");
    // Loading takes seconds on a slow machine: more time is asked for before it begins.
    let extended =
        |message: &String| value(message, "EXTEND_TIMEOUT_USEC").is_some_and(|usec| usec.parse::<u64>().unwrap() != 0);
    assert!(extended(&start[0]) && start[0].starts_with("STATUS="), "{start:?}");
    // The table is complete and the socket answers.
    assert_eq!(daemon.health()["complete"], true);
    assert_eq!(daemon.list(namespace.inode).len(), 1);
    let since = Instant::now();
    loop {
        // Those of before READY=1 have given way to its status, and come again although they may not have changed.
        let told = manager.numbers();
        let connections: usize = told.split(' ').next().unwrap().parse().unwrap();
        // What was lost in the last second may not be told yet.
        let losses = losses(&daemon);
        if connections >= held.len() && told.ends_with(&losses) {
            break;
        }
        assert!(since.elapsed() < long(60_000), "{told}: {} listeners{losses}", held.len());
        // Another status.
        held.push(listener());
    }

    for (text, result) in [
        (
            "ring_bytes = 8388608\n",
            "the configuration was read again; changed: nothing; from the next start on: ring_bytes",
        ),
        ("exclud = []\n", "the configuration was read again and cannot be used; nothing has changed: "),
    ] {
        file.write(text);
        daemon.signal(Signal::SIGHUP);
        let reloading = manager.until("RELOADING=1");
        let told: u128 = value(reloading.last().unwrap(), "MONOTONIC_USEC").unwrap().parse().unwrap();
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        assert!(told <= Duration::from(now).as_micros(), "{told} {now}");
        let done = manager.until("READY=1");
        let done = done.last().unwrap();
        let status = value(done, "STATUS").unwrap();
        // Two lines: READY=1 and all of the status.
        assert!(status.starts_with(result) && lines(done).count() == 2, "{done}");
        // The result does not stay for ever.
        manager.numbers();
    }

    daemon.stop();
    manager.until("STOPPING=1");
    drop(held);
}

#[test]
fn a_reload_does_not_complete_a_start() {
    let manager = Manager::new();
    let daemon = Daemon::spawned_within(&manager.script(Duration::from_secs(60), ""));
    // It arrives when the programs are loaded, while the engine reads all sockets.
    daemon.signal(Signal::SIGHUP);
    let messages = manager.until("READY=1");
    let is_reload = |message: &String| lines(message).any(|line| line == "RELOADING=1");
    assert!(!messages.iter().any(is_reload), "{messages:?}");
    assert_eq!(value(messages.last().unwrap(), "STATUS"), Some("the table of connections is complete"), "{messages:?}");
    until(20_000, || daemon.log(), || daemon.log().contains("was read again; changed: nothing"));
}

#[test]
fn a_busy_engine_feeds_the_watchdog_and_a_stuck_one_does_not() {
    let watchdog = long(4000);
    let manager = Manager::new();
    // The last word of the command line is an option.
    let daemon = manager.start(watchdog, "set -- \"$@\" --fault stuck");
    manager.until("READY=1");
    manager.until("WATCHDOG=1");
    let (is_over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let namespace = Netns::new();
    thread::scope(|scope| {
        let _ending = Ending(&is_over);
        for _ in 0..4 {
            scope.spawn(|| {
                namespace.run(|| {
                    // Nobody listens: each attempt is a connection that fails.
                    while !is_over.load(Ordering::Relaxed) {
                        let _ = TcpStream::connect("127.0.0.1:9");
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let since = Instant::now();
        while since.elapsed() < watchdog * 2 || made.load(Ordering::Relaxed) < 10_000 {
            assert!(since.elapsed() < long(60_000), "{made:?} attempts are no flood");
            let message = manager.next(watchdog);
            assert!(
                message.is_some(),
                "the watchdog would end it; {} attempts: {}",
                made.load(Ordering::Relaxed),
                daemon.log()
            );
        }
    });
    daemon.signal(Signal::SIGUSR1);
    // Until the signal has reached the engine.
    manager.forget(watchdog);
    assert_eq!(manager.next(watchdog), None);
    // What systemd sends then.
    daemon.signal(Signal::SIGABRT);
}

/// Asks a daemon for its health, and waits for the answer.
fn ask(socket: &Path) -> Result<String, std::io::Error> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(long(30_000)))?;
    write!(stream, "GET /v1/health HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A daemon that was handed a socket, as systemd does; it is ended when dropped.
struct Activated<'a> {
    folder: &'a TempDir,
    process: Child,
}

impl<'a> Activated<'a> {
    fn start(folder: &'a TempDir, listener: &UnixListener) -> Self {
        let path = |name: &str| folder.path().join(name);
        let script = format!(
            "exec 3<&{}; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" run --no-history --socket \"$1\" --state-dir \"$2\"",
            listener.as_raw_fd()
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script]).args([netconn(), path("unused"), path("state")]).stdin(Stdio::null());
        let log = fs::OpenOptions::new().append(true).create(true).open(path("log")).unwrap();
        Self { folder, process: command.stdout(Stdio::null()).stderr(log).spawn().unwrap() }
    }

    /// Ends it in order.
    fn end(mut self) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Activated<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_restart_refuses_no_client_of_a_socket_that_was_handed_over() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("given.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    // Before the first daemon and between two of them a client waits in the backlog.
    for round in 0..3 {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| ask(&path));
            thread::sleep(Duration::from_millis(200));
            assert!(!waiting.is_finished(), "nobody can have answered");
            let daemon = Activated::start(&folder, &listener);
            let answer = waiting.join().unwrap();
            assert!(
                answer.as_ref().is_ok_and(|answer| answer.contains(" 200 ")),
                "{round}: {answer:?} {}",
                daemon.log()
            );
            let text = daemon.log();
            assert!(text.contains(&format!("the socket {} was handed over", path.display())), "{text}");
            // The option names another one.
            let unused = folder.path().join("unused");
            let warning =
                format!("`socket` says {}, but the manager of services has made {}", unused.display(), path.display());
            assert!(text.contains(&warning), "{text}");
            assert!(text.contains(&format!("listening at {};", path.display())), "{text}");
            daemon.end();
        });
        assert!(path.exists(), "it is not the daemon's");
    }
    // What outlives a daemon is for the next one; there is none.
    let id = fs::read_to_string(folder.path().join("state/sensor-id")).unwrap();
    for pin in fs::read_dir("/sys/fs/bpf/netconn").into_iter().flatten().flatten() {
        if pin.file_name().to_string_lossy().starts_with(id.trim()) {
            let _ = fs::remove_file(pin.path());
        }
    }
}

#[test]
fn the_journal_gets_priorities_and_other_logs_do_not() {
    let script = |stream: &str| format!("export JOURNAL_STREAM={stream}");
    let log = |daemon: Daemon| {
        daemon.signal(Signal::SIGUSR2);
        daemon.signal(Signal::SIGHUP);
        until(20_000, || daemon.log(), || daemon.log().contains("was read again"));
        daemon.end().log()
    };
    let journal = log(Daemon::start_within(&script("$(stat -L -c %d:%i /proc/self/fd/2)")));
    let is_marked = |line: &str| ["<3>", "<4>", "<6>"].iter().any(|mark| line.starts_with(mark));
    assert!(journal.lines().all(is_marked), "{journal}");
    assert!(journal.lines().any(|line| line.starts_with("<6>ignored SIGUSR2: ")), "{journal}");
    let plain = log(Daemon::start_within(&script("1:2")));
    assert!(!plain.contains('<') && plain.contains(" INFO ignored SIGUSR2: "), "{plain}");
}

#[test]
fn an_error_in_the_journal_has_a_priority() {
    let script =
        "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)\nexec \"$0\" config --check --config \"$1\"";
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("netconn.toml");
    fs::write(&path, "x = 1\n").unwrap();
    let mut command = Command::new("sh");
    let output = command.args(["-c", script]).arg(netconn()).arg(&path).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(text.lines().count() > 1 && text.lines().all(|line| line.starts_with("<3>")), "{text}");
}

/// A configuration file that a daemon reads, and reads again.
struct ConfigFile {
    folder: TempDir,
}

impl ConfigFile {
    fn new(text: &str) -> Self {
        let file = Self { folder: TempDir::new().unwrap() };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("netconn.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    /// Writes another text and has a daemon read it; returns what the log says of that.
    fn reload(&self, daemon: &Daemon, text: &str) -> String {
        self.write(text);
        let before = daemon.log().len();
        daemon.signal(Signal::SIGHUP);
        let said = || daemon.log()[before..].to_owned();
        // The last line of a reload, whole.
        let is_over = |said: &str| said.split_once("was read again").is_some_and(|(_, rest)| rest.contains('\n'));
        until(20_000, said, || is_over(&said()));
        said()
    }
}

/// Makes a listener and returns its port.
fn listen(namespace: &Netns) -> u16 {
    namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
}

/// Returns the ports of the listeners that events tell of in a namespace.
fn ports(events: &Events, namespace: &Netns) -> Vec<u16> {
    let events = events.within(namespace).of("IP Listen");
    events.values("local.port.number").iter().map(|port| u16::try_from(port.as_u64().unwrap()).unwrap()).collect()
}

#[test]
fn a_reload_takes_over_rules_and_limits_and_names_what_needs_a_restart() {
    let file = ConfigFile::new("");
    let daemon = Daemon::start_with(&["--config", file.path().to_str().unwrap()]);
    let namespace = Netns::new();
    let before = listen(&namespace);
    until(20_000, || daemon.log(), || ports(&daemon.events(), &namespace) == [before]);
    let rule =
        format!("endpoint.os = 'linux' and event.type in ('IP Listen', 'IP Listen End') and local.port.number > {}", 0);
    let text =
        format!("exclude = [\"{rule}\"]\nevent_limit_per_second = 900\nring_bytes = 8388608\nsite_id = 'north'\n");
    let said = file.reload(&daemon, &text);
    assert!(said.contains("was read again; changed: exclude, event_limit_per_second, site_id"), "{said}");
    assert!(said.contains("hold from the next start on: ring_bytes"), "{said}");
    listen(&namespace);
    // The first is told, what came after the reload is not, and both are counted.
    until(20_000, || daemon.health().to_string(), || daemon.health()["excluded_events"]["events"].as_u64() >= Some(2));
    assert_eq!(ports(&daemon.events(), &namespace), [before]);

    // A wrong file changes nothing, and the place is named.
    for (wrong, place) in [
        (
            "event_limit_per_second = 7\nhistory_days = 0\n",
            "netconn.toml: line 2: history_days = 0: it must be from 1 to 36500",
        ),
        ("event_limit_per_second = 7\nexclud = []\n", "netconn.toml: TOML parse error at line 2, column 1"),
        ("\nexclude = ['src.port.number =']\n", "netconn.toml:2: exclude in the configuration: rule 1 cannot be used"),
    ] {
        let said = file.reload(&daemon, wrong);
        assert!(said.contains("cannot be used; nothing has changed: ") && said.contains(place), "{said}");
        listen(&namespace);
    }
    assert_eq!(ports(&daemon.events(), &namespace), [before]);

    let said = file.reload(&daemon, "flow_idle_seconds = 5\n");
    assert!(said.contains("changed: exclude, event_limit_per_second, site_id, flow_idle_seconds"), "{said}");
    let after = listen(&namespace);
    until(20_000, || daemon.log(), || ports(&daemon.events(), &namespace) == [before, after]);
}

#[test]
fn a_reload_takes_more_out_of_command_lines() {
    let file = ConfigFile::new("");
    let daemon = Daemon::start_with(&["--config", file.path().to_str().unwrap()]);
    let namespace = Netns::new();
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read; exit 0", listener.local_addr().unwrap().port());
    let arguments = ["-c", &script, "x", "corp-12345"];
    let mut child = namespace.command("bash", &arguments).stdin(Stdio::piped()).spawn().unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let line = || {
        let rows = daemon.list(namespace.inode);
        let row = rows.iter().find(|row| row["direction"] == "OUTGOING" && row["state"] == "ESTABLISHED").unwrap();
        let real = fs::read_to_string(format!("/proc/{}/cmdline", row["pid"])).unwrap();
        assert!(real.ends_with("x\0corp-12345\0"), "{real}");
        (row["command_line"].as_str().unwrap().to_owned(), row["command_line_redacted"].as_bool())
    };
    let (expected, hidden) = (format!("bash -c {script} x corp-12345"), format!("bash -c {script} x ***"));
    assert_eq!(line(), (expected.clone(), None));
    let said = file.reload(&daemon, "\nredact_patterns = ['a(b']\n");
    let place = "netconn.toml:2: redact_patterns in the configuration: pattern 1 is no";
    assert!(said.contains("nothing has changed: ") && said.contains(place), "{said}");
    assert_eq!(line(), (expected, None));
    // Of a process that is known already.
    let said = file.reload(&daemon, "redact_patterns = ['corp-[0-9]+']\n");
    assert!(said.contains("changed: redact_patterns\n"), "{said}");
    assert_eq!(line(), (hidden.clone(), Some(true)));
    drop((accepted, child.stdin.take()));
    child.wait().unwrap();
    let closed = || {
        let events = daemon.events();
        let events = events.within(&namespace).of("IP Close").with("event.network.direction", "OUTGOING");
        events.values("src.process.cmdline")
    };
    until(20_000, || format!("{:?}", closed()), || closed() == [Value::from(hidden.as_str())]);
}

#[test]
fn outputs_come_and_go_while_the_daemon_runs() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let setting = |names: &[&str]| {
        let paths: Vec<_> = names.iter().map(|name| format!("'{}'", path(name).display())).collect();
        format!("events = [{}]\n", paths.join(", "))
    };
    let file = ConfigFile::new(&setting(&["one"]));
    // Without the harness's own `--events`.
    let script = format!("shift 3\nset -- run \"$@\" --config {}", file.path().display());
    let daemon = Daemon::start_within(&script);
    let namespace = Netns::new();
    let told = |name: &str, port: u16| {
        let seen = || ports(&Events::so_far(&path(name)), &namespace);
        until(20_000, || format!("{port} in {name}: {:?}", seen()), || seen().contains(&port));
    };
    let kinds = |name: &str| -> Vec<String> {
        let events = Events::so_far(&path(name));
        events.0.iter().map(|event| event["event.type"].as_str().unwrap().to_owned()).collect()
    };
    let first = listen(&namespace);
    told("one", first);
    let said = file.reload(&daemon, &setting(&["one", "two"]));
    assert!(said.contains("changed: events"), "{said}");
    let second = listen(&namespace);
    told("one", second);
    told("two", second);
    assert_eq!(kinds("two")[0], "Sensor Start");
    // One that cannot be opened changes nothing.
    let said = file.reload(&daemon, &format!("events = ['{}']\n", path("no/folder").display()));
    assert!(said.contains("nothing has changed: cannot write events to "), "{said}");
    file.reload(&daemon, &setting(&["two"]));
    let third = listen(&namespace);
    told("two", third);
    let last = || kinds("one").last().cloned();
    until(20_000, || format!("{:?}", last()), || last().as_deref() == Some("Sensor Stop"));
    assert!(!ports(&Events::so_far(&path("one")), &namespace).contains(&third));
    let outputs = daemon.health()["outputs"].clone();
    assert_eq!(
        (outputs.as_array().unwrap().len(), &outputs[0]["path"]),
        (1, &path("two").display().to_string().into())
    );
    // The sum of both files is whole: each listener is told once in each file that was there.
    let ended = daemon.end();
    assert_eq!(ports(&Events::read(&path("one")), &namespace), [first, second], "{}", ended.log());
    assert_eq!(ports(&Events::read(&path("two")), &namespace), [second, third]);
    assert_eq!(kinds("two").last().map(String::as_str), Some("Sensor Stop"));
}

/// Runs `netconn config` with these files as /etc/netconn, in a mount namespace of its own.
fn config(files: &[(&str, &str)], arguments: &str) -> Output {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    // A copy of /etc takes its place, so that nothing is made in the real one.
    let script = "t=$1; mkdir -p $t/etc/netconn && cp /etc/passwd /etc/group $t/etc/ && mount --bind $t/etc /etc && exec $2 config $3";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(folder.path()).arg(netconn()).arg(arguments).output().unwrap()
}

#[test]
fn drop_ins_change_single_settings_and_are_named() {
    let main = ("etc/netconn/netconn.toml", "history_days = 7\nmax_flows = 2048\n");
    let late = ("etc/netconn/conf.d/20-late.toml", "# ours\nhistory_days = 9\n");
    let early = ("etc/netconn/conf.d/10-early.toml", "history_days = 8\nsite_id = 'a'\n");
    let files = [main, late, early];
    let output = config(&files, "");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "history_days = 9 # /etc/netconn/conf.d/20-late.toml:2",
        "max_flows = 2048 # /etc/netconn/netconn.toml:2",
        "site_id = \"a\" # /etc/netconn/conf.d/10-early.toml:2",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let output = config(&files, "--check");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert_eq!(
        text,
        "nothing is wrong in /etc/netconn/netconn.toml, /etc/netconn/conf.d/10-early.toml, /etc/netconn/conf.d/20-late.toml\n"
    );
    let output = config(&[main, ("etc/netconn/conf.d/10-early.toml", "\n\nmax_flows = 3\n")], "--check");
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "netconn: /etc/netconn/conf.d/10-early.toml: line 3: max_flows = 3: it must be from 1024 to 1048576\n"
    );
    let output = config(&[], "--check");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.ends_with("all settings have their defaults\n"), "{text}");
}
