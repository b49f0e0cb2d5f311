//! The commands as people use them: their output, their exit codes and their error messages.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{Daemon, Events, Installed, Netns, connected, long, moment, netconn, reset, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// Checks that a netconn command has ended with this exit code and one sentence with `message` on standard error.
fn fails(output: &Output, code: i32, message: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(message), "{error}");
    assert_eq!(
        error.trim_end().lines().filter(|line| line.starts_with("netconn: ")).count(),
        1,
        "one sentence: {error}"
    );
}

fn run(arguments: &[&str]) -> Output {
    Command::new(netconn()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a `netconn run` that must fail to start, with a temporary socket and state folder unless the arguments name
/// them.
fn start(arguments: &[&str]) -> Output {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(netconn());
    command.arg("run").args(arguments);
    if !arguments.contains(&"--socket") {
        command.arg("--socket").arg(folder.path().join("sock"));
    }
    if !arguments.contains(&"--state-dir") {
        // Else a daemon of this machine and the test would share their state.
        command.arg("--state-dir").arg(folder.path());
    }
    command.output().unwrap()
}

#[test]
fn what_keeps_the_daemon_from_starting_is_said() {
    fails(&start(&["--events", "/nonexistent/x"]), 74, "cannot write events to /nonexistent/x: No such file");
    fails(&start(&["--socket", "/proc/netconn/sock"]), 74, "cannot listen at /proc/netconn/sock: ");
    fails(&start(&["--state-dir", "/proc/netconn"]), 74, "cannot keep the daemon's state in /proc/netconn: ");
    fails(&start(&["--config", "/nonexistent.toml"]), 78, "cannot read the configuration /nonexistent.toml: ");
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("netconn.toml");
    fs::write(&config, "evnets = ['-']\n").unwrap();
    let output = start(&["--config", config.to_str().unwrap()]);
    fails(&output, 78, "unknown field `evnets`");
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 1"));
    let output = start(&["--without-hook", "inet_sock_set_state"]);
    fails(&output, 69, "tp_btf/inet_sock_set_state cannot be attached: left out on request");
    let output = start(&["--loud"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unexpected argument '--loud'"));
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let output = start(&["--socket", socket.to_str().unwrap()]);
    fails(&output, 78, "a netconn daemon already listens at ");
    assert!(daemon.text(&["list", "--format", "json"]).contains("\"complete\":true"));
    daemon.stop();
    assert!(!socket.exists());
}

/// Returns a command that runs as the user nobody, with one group: its number.
fn nobody(group: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", &group.to_string(), "--clear-groups"]);
    command
}

#[test]
fn nobody_else_can_stop_the_next_start() {
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
    let installed = Installed::new();
    let killed = Daemon::start_installed(&installed, "group = \"daemon\"").end();
    let state = killed.history().0.parent().unwrap().to_owned();
    let (lock, id) = (state.join("lock"), state.join("sensor-id"));
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // Everybody reaches the state folder; it is closed by its own mode. Then what the first version of netconn left.
    chmod(state.parent().unwrap(), 0o755);
    chmod(&state, 0o755);
    chmod(&lock, 0o644);
    chmod(&id, 0o600);
    // Holds the lock for as long as its input is open.
    let mut holder = nobody(65_534);
    holder.args(["flock", "--shared"]).arg(&lock).args(["cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut holder = holder.spawn().unwrap();
    let is_free = || Command::new("flock").arg("--nonblock").arg(&lock).arg("true").status().unwrap().success();
    until(10_000, || "nobody does not lock it".into(), || !is_free());
    let daemon = killed.start();
    assert!(holder.try_wait().unwrap().is_none(), "the lock was held all the time");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let can = |group: u32, arguments: &[&str], path: &Path| {
        nobody(group).args(arguments).arg(path).output().unwrap().status.success()
    };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&state), mode(&lock), mode(&id)), (0o750, 0o600, 0o644));
    let socket = daemon.socket();
    let socket_lock = socket.with_file_name("sock.lock");
    for group in [65_534, group] {
        for lock in [&lock, &socket_lock] {
            // Whoever can open it can lock it.
            assert!(!can(group, &["test", "-r"], lock) && !can(group, &["test", "-w"], lock));
        }
        assert!(!can(group, &["touch"], &state.join("planted")));
        assert!(!can(group, &["touch"], &daemon.history().0.join("planted")));
    }
    // Members of the group still read the id and the history; others do not.
    let segment = daemon.history().0.join(daemon.history().names().remove(0));
    for path in [&id, &segment] {
        assert!(can(group, &["cat"], path), "{}", path.display());
        assert!(!can(65_534, &["cat"], path), "{}", path.display());
    }
    // One daemon for each folder, as before.
    let pid = daemon.pid();
    fails(&start(&["--state-dir", state.to_str().unwrap()]), 74, &format!(", process {pid}: stop it, or choose"));
    // What belongs to another user is refused in one sentence.
    let killed = daemon.end();
    std::os::unix::fs::chown(&id, Some(65_534), None).unwrap();
    fails(&start(&["--state-dir", state.to_str().unwrap()]), 74, "'sensor-id' in it belongs to user 'nobody'");
    drop(killed);
}

#[test]
fn missing_privileges_are_reported() {
    let folder = TempDir::new().unwrap();
    // Every user can run this copy.
    let copy = folder.path().join("netconn");
    fs::copy(netconn(), &copy).unwrap();
    // The root of a user namespace has all capabilities, but none in the initial namespace, where the kernel checks
    // them.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(&copy).args(["run", "--state-dir"]).arg(folder.path());
    let output = command.arg("--socket").arg(folder.path().join("sock")).output().unwrap();
    fails(&output, 77, "the kernel refuses bpf(): Operation not permitted");
    // Nobody must be able to reach the copy; a temporary folder is closed to others.
    std::os::unix::fs::chown(folder.path(), Some(65534), None).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy).args(arguments);
        command.output().unwrap()
    };
    fails(
        &as_nobody(&["run"]),
        77,
        "missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE and CAP_SYS_ADMIN: run netconn as root (sudo)",
    );
    let daemon = Daemon::start();
    let open = Path::new(&daemon.socket()).parent().unwrap().to_owned();
    // The permission of the socket itself is tested, not that of its folder.
    fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    let socket = daemon.socket();
    let output = as_nobody(&["list", "--socket", socket.to_str().unwrap()]);
    fails(&output, 77, "permission_denied: ");
}

#[test]
fn without_a_daemon_clients_say_what_to_do() {
    for command in ["list", "watch"] {
        let output = run(&[command, "--socket", "/nonexistent/sock"]);
        fails(&output, 69, "sensor_offline: no netconn daemon listens at /nonexistent/sock; start it with");
    }
    fails(
        &run(&["list", "--port", "no-such"]),
        2,
        "--port: 'no-such' is not a port, a range like 8000-8100 or a service",
    );
    fails(&run(&["watch", "--state", "up"]), 2, "--state: 'up' is not a state: use established");
    assert_eq!(run(&["list", "--prot"]).status.code(), Some(2));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn doctor_proves_itself_with_and_without_a_daemon() {
    let alone = run(&["doctor", "--socket", "/nonexistent/sock"]);
    let text = String::from_utf8(alone.stdout).unwrap();
    // Nothing is recorded without a daemon.
    assert_eq!(alone.status.code(), Some(69), "{text}");
    let parts = [
        "ok  kernel ",
        "no  daemon ",
        "ok  tp_btf/inet_sock_set_state ",
        "  helper/bpf_probe_read ",
        "of this process (",
    ];
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
    let daemon = Daemon::start();
    let text = daemon.text(&["doctor"]);
    for part in ["ok  daemon ", "ok  records ", "events written, none lost", "ok  iter/tcp ", "of this process ("] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Returns the local port in a line of a table.
fn port(line: &str) -> u16 {
    line.split_whitespace().nth(2).unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn options_of_list_that_make_no_sense_are_named() {
    for (arguments, message) in [
        (&["--sort", "size"][..], "'size' is not a column; there are protocol, state, ended,"),
        (&["--closed", "soon"], "'soon' is not a duration like 90s, 5m or 1h 30m"),
        (&["--count", "--sort", "pid"], "the argument '--count' cannot be used with '--sort <COLUMN>'"),
        (&["--group-by", "colour"], "invalid value 'colour' for '--group-by <BY>'"),
    ] {
        let output = run(&[&["list"], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn lists_are_in_the_form_that_was_asked_for() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let inode = namespace.inode.to_string();
    namespace.run(|| {
        let listeners: Vec<_> = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap()).into();
        let client = std::net::TcpStream::connect(listeners[1].local_addr().unwrap()).unwrap();
        let list = |more: &[&str]| daemon.text(&[&["list", "--namespace", &inode], more].concat());

        let table = list(&[]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert!(lines[0].starts_with("PROTO  STATE "), "{table}");
        assert!(lines[1].starts_with("tcp    LISTENING    127.0.0.1:"), "sorted: {table}");
        assert!(lines[2].starts_with("tcp    LISTENING    [::1]:"), "{table}");
        assert!(lines[3].contains("ESTABLISHED  [::1]:"), "{table}");
        assert!(!table.contains('\x1b'), "no colours in a pipe");
        let starts: Vec<_> = lines.iter().map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(starts[0], Some("STATE"));

        assert_eq!(list(&["-H"]).lines().count(), 4);
        assert_eq!(list(&["-l"]).lines().count(), 3);
        assert_eq!(list(&["-tulpn"]).lines().count(), 3, "what everybody types");
        assert_eq!(list(&["-4"]).lines().count(), 2);
        assert_eq!(list(&["-u"]).lines().count(), 1, "no UDP");
        assert_eq!(list(&["--state", "established", "--direction", "in"]).lines().count(), 2);
        let grouped = list(&["--group-by", "state"]);
        assert!(grouped.starts_with("LISTENING (2)\nPROTO ") && grouped.contains("\n\nESTABLISHED (2)\n"), "{grouped}");
        let extended = list(&["-e"]);
        assert!(["KNOWN BY", "SENT", "RECEIVED"].iter().all(|heading| extended.contains(heading)), "{extended}");

        assert_eq!(list(&["--count"]), "4\n");
        assert_eq!(list(&["--count", "-l"]), "2\n");
        assert_eq!(list(&["--count", "--format", "json"]), "{\"count\":4}\n");
        assert_eq!(list(&["--count", "--group-by", "local"]), "3 ::1\n1 127.0.0.1\n");
        let states = list(&["--count", "--group-by", "state", "--format", "csv"]);
        assert_eq!(states, "count,state\n2,ESTABLISHED\n2,LISTENING\n");
        // A hyphen before a column reverses the order.
        let ports = list(&["-H", "-l", "--sort", "-local-port"]);
        let ports: Vec<u16> = ports.lines().map(port).collect();
        assert!(ports.is_sorted_by(|one, other| one > other), "{ports:?}");

        let json: serde_json::Value = serde_json::from_str(&list(&["--format", "json"])).unwrap();
        assert_eq!(json["complete"], true);
        assert_eq!(json["connections"].as_array().unwrap().len(), 4);
        let row = &json["connections"][0];
        for key in ["state", "protocol", "local_address", "local_port", "pid", "process_name", "executable"] {
            assert!(row.get(key).is_some(), "{key}: {row}");
        }
        assert_eq!(list(&["--format", "ndjson"]).lines().count(), 4);
        let csv = list(&["--format", "csv"]);
        assert!(csv.starts_with("state,protocol,direction,local_address,local_port,"), "{csv}");
        assert_eq!(csv.lines().count(), 5);
        let json: serde_json::Value =
            serde_json::from_str(&list(&["--format", "json", "--sort=-state,-local_port"])).unwrap();
        assert_eq!(json["complete"], true, "what stands around the rows stays: {json}");
        let states: Vec<_> = json["connections"].as_array().unwrap().iter().map(|row| row["state"].clone()).collect();
        assert_eq!(states, ["ESTABLISHED", "ESTABLISHED", "LISTENING", "LISTENING"]);
        drop(client);
    });
    let nothing = daemon.run(&["list", "--namespace", "4294967294", "-e"]);
    // As `grep`; only with `-e`.
    assert_eq!(nothing.status.code(), Some(1));
    assert_eq!(daemon.run(&["list", "--namespace", "4294967294"]).status.code(), Some(0));
    assert_eq!(daemon.run(&["list", "--namespace", "4294967294", "-e", "--format", "json"]).status.code(), Some(1));
}

/// A `netconn run --events -` whose standard output this test reads.
struct Piped {
    process: Child,
    folder: TempDir,
}

impl Piped {
    fn start(options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut command = Command::new(netconn());
        command.args(["run", "--no-history", "--events", "-", "--socket"]).arg(path("sock"));
        command.arg("--state-dir").arg(path("state")).args(options);
        let process = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        Self { process, folder }
    }

    /// Reads the first line and closes the pipe, as `head -n 1` does.
    fn close(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_daemon_whose_only_reader_goes_ends_with_an_error() {
    let namespace = Netns::new();
    let mut daemon = Piped::start(&[]);
    assert!(daemon.close().starts_with("{\"event.type\":\"Sensor Start\","));
    // The daemon notices the closed pipe when it writes the next event.
    let mut ended = None;
    let log = daemon.folder.path().join("log");
    namespace.run(|| {
        until(
            30_000,
            || fs::read_to_string(&log).unwrap(),
            || {
                drop(TcpListener::bind("127.0.0.1:0").unwrap());
                ended = daemon.process.try_wait().unwrap();
                ended.is_some()
            },
        );
    });
    assert_eq!(ended.unwrap().code(), Some(74), "{}", daemon.log());
    assert!(daemon.log().contains("nobody reads the events any more"), "{}", daemon.log());
}

#[test]
fn a_reader_that_goes_costs_the_other_outputs_nothing() {
    let namespace = Netns::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut daemon = Piped::start(&["--events", file.path().to_str().unwrap()]);
    daemon.close();
    let log = daemon.folder.path().join("log");
    let told = || Events::so_far(file.path()).of("Data Loss").with("loss.output", "-");
    namespace.run(|| {
        until(
            30_000,
            || fs::read_to_string(&log).unwrap(),
            || {
                drop(TcpListener::bind("127.0.0.1:0").unwrap());
                assert!(daemon.process.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&log).unwrap());
                told().len() == 1
            },
        );
    });
    let pid = Pid::from_raw(i32::try_from(daemon.process.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(daemon.process.wait().unwrap().success(), "{}", daemon.log());
    let events = Events::read(file.path());
    let lost = events.of("Data Loss").with("loss.output", "-");
    // At once, and the rest at the end. `Sensor Start` was read; the report of the end itself is lost as well.
    assert!(lost.with("loss.stage", "sink").len() == 2 && lost.len() == 2, "{lost:#?}");
    // All of this namespace's events came after the reader had gone.
    let ours = events.within(&namespace).len() as u64;
    assert!(ours > 0 && lost.sum("loss.count") >= ours, "{} of {ours}", lost.sum("loss.count"));
    assert_eq!(events.0[events.len() - 1]["event.type"], "Sensor Stop");
    let log = daemon.log();
    assert_eq!(log.lines().filter(|line| line.contains("nobody reads - any more")).count(), 1, "{log}");
}

#[test]
fn a_full_disk_does_not_keep_the_daemon_from_starting() {
    let namespace = Netns::new();
    // A file system without room for even an empty file.
    let folder = TempDir::new().unwrap();
    let options = "nr_inodes=2,size=4096";
    nix::mount::mount(Some("none"), folder.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options)).unwrap();
    let _mounted = Mounted(folder.path());
    let filler = folder.path().join("filler");
    fs::write(&filler, "").unwrap();
    let events = folder.path().join("events");
    let daemon = Daemon::start_with(&["--events", events.to_str().unwrap(), "--events", "/dev/full"]);
    let outputs = || daemon.health()["outputs"].as_array().unwrap()[1..].to_vec();
    let told = || format!("{:#?} {}", outputs(), daemon.log());
    until(10_000, told, || outputs().iter().all(|output| output["lost_disk"].as_u64() > Some(0)));
    assert!(outputs().iter().all(|output| output["state"] == "failing"), "{}", told());
    assert!(String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap().contains("cannot be written at the moment"));
    fs::remove_file(&filler).unwrap();
    namespace.run(|| {
        until(10_000, told, || {
            drop(TcpListener::bind("127.0.0.1:0").unwrap());
            outputs()[0]["written"].as_u64() > Some(0)
        });
    });
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn signals_that_ask_for_nothing_do_not_end_the_daemon() {
    let daemon = Daemon::start();
    let renamed = daemon.event_file().with_extension("1");
    for signal in [Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGPIPE, Signal::SIGVTALRM, Signal::SIGXFSZ, Signal::SIGIO]
    {
        daemon.signal(signal);
    }
    until(10_000, || daemon.log(), || daemon.log().contains("ignored SIGUSR2"));
    fs::rename(daemon.event_file(), &renamed).unwrap();
    daemon.signal(Signal::SIGUSR1);
    until(10_000, || daemon.log(), || daemon.event_file().exists());
    daemon.signal(Signal::SIGQUIT);
    let events = daemon.stop();
    assert_eq!(events.0[events.len() - 1]["event.type"], "Sensor Stop");
}

#[test]
fn events_name_the_host_as_it_is_called() {
    let folder = TempDir::new().unwrap();
    let events = folder.path().join("events");
    // In a UTS namespace of its own, so that this machine keeps its name. The shell becomes the daemon.
    let script = format!(
        "echo before > /proc/sys/kernel/hostname; \
         exec {} run --no-history --events {} --socket {}/sock --state-dir {}/state 2>/dev/null",
        netconn().display(),
        events.display(),
        folder.path().display(),
        folder.path().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--uts", "bash", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::null());
    // Ends the daemon when it is dropped.
    let mut daemon = Piped { process: command.spawn().unwrap(), folder };
    let pid = daemon.process.id().to_string();
    let namespace = Netns::new();
    let names = || {
        let events = if events.exists() { Events::so_far(&events) } else { Events(Vec::new()) };
        events.values("endpoint.name").into_iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until(20_000, || "no event".into(), || names().contains(&"before".to_owned()));
    let rename = "echo after > /proc/sys/kernel/hostname";
    let renamed = Command::new("nsenter").args(["--uts", "--target", &pid, "bash", "-c", rename]).status().unwrap();
    assert!(renamed.success());
    namespace.run(|| {
        until(
            10_000,
            || format!("{:?}", names()),
            || {
                drop(TcpListener::bind("127.0.0.1:0").unwrap());
                names().contains(&"after".to_owned())
            },
        );
    });
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGTERM).unwrap();
    assert!(daemon.process.wait().unwrap().success());
}

#[test]
fn every_output_has_the_same_whole_lines() {
    let namespace = Netns::new();
    let folder = TempDir::new().unwrap();
    let second = folder.path().join("second");
    fs::write(&second, "{\"event.type\":\"IP Conn").unwrap(); // torn by a power cut
    let daemon = Daemon::start_with(&["--events", second.to_str().unwrap()]);
    namespace.run(|| drop(TcpListener::bind("127.0.0.1:0").unwrap()));
    // Rotation: the file is renamed, and SIGHUP makes the daemon open a new one.
    let since = Instant::now();
    while Events::so_far(&second).within(&namespace).len() < 2 {
        assert!(since.elapsed() < long(20_000), "written");
        thread::sleep(Duration::from_millis(5));
    }
    let rotated = folder.path().join("second.1");
    fs::rename(&second, &rotated).unwrap();
    daemon.signal(Signal::SIGHUP);
    let since = Instant::now();
    while !second.exists() {
        assert!(since.elapsed() < long(5000), "{}", daemon.log());
        thread::sleep(Duration::from_millis(5));
    }
    namespace.run(|| drop(TcpListener::bind("127.0.0.1:0").unwrap()));
    let all = daemon.stop();
    let (old, new) = (Events::read(&rotated), Events::read(&second));
    assert_eq!([old.0, new.0].concat(), all.0);
    assert_eq!(all.0[0]["event.type"], "Sensor Start");
    assert_eq!(all.0[all.len() - 1]["event.type"], "Sensor Stop");
    let mut ids = all.values("event.id");
    ids.dedup();
    assert_eq!(ids.len(), all.len());
}

#[test]
fn messages_of_the_programs_reach_the_log_on_request_only() {
    let namespace = Netns::new();
    for (options, logged) in [(&[][..], false), (&["--ebpf-log", "debug"][..], true)] {
        let daemon = Daemon::start_with(options);
        namespace.run(|| drop(TcpListener::bind("127.0.0.1:0").unwrap()));
        let since = Instant::now();
        // Without the option this waits for three seconds, because no condition shows that a message does not come.
        while !daemon.log().contains("closed from state 10") && since.elapsed() < long(3000) {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(daemon.log().contains("closed from state 10"), logged, "{}", daemon.log());
    }
}

#[test]
fn what_has_ended_is_shown_on_request() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    namespace.run(|| {
        let (listener, client, server) = connected("127.0.0.1");
        reset(client);
        drop(server);
        let to = listener.local_addr().unwrap();
        drop(listener);
        assert!(TcpStream::connect(to).is_err());
        // This connection leaves a minisock.
        let (_listener, client, server) = connected("127.0.0.1");
        drop(client);
        drop(server);
    });
    moment();
    let path = format!("/v1/connections?format=ndjson&namespace={}", namespace.inode);
    let shown = |rows: Vec<Value>| -> Vec<String> {
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let keys = ["state", "direction", "close_reason", "failure_reason"];
        let mut shown: Vec<_> = rows.iter().map(|row| keys.map(|key| text(row, key)).join(" ")).collect();
        shown.sort();
        shown
    };
    assert_eq!(shown(daemon.rows(&path)), ["TIME_WAIT OUTGOING - -"]);
    let expected = [
        "CLOSED INCOMING remote -",
        "CLOSED INCOMING reset_by_remote -",
        "CLOSED OUTGOING - refused",
        "CLOSED OUTGOING reset_by_local -",
        "TIME_WAIT OUTGOING - -",
    ];
    let rows = daemon.rows(&format!("{path}&closed=60"));
    for row in rows.iter().filter(|row| row["state"] == "CLOSED") {
        assert_eq!(row["pid"], std::process::id(), "{row}");
        assert!(row["ended_at"].as_str() >= row["started_at"].as_str(), "{row}");
    }
    assert_eq!(shown(rows), expected);
    // A request with a state and `closed` returns both. A connection in TIME_WAIT counts as closed, too.
    let both = shown(daemon.rows(&format!("{path}&closed=60&state=established")));
    assert_eq!(both, [&expected[..3], &["CLOSED OUTGOING local -"], &expected[3..4]].concat());
    assert_eq!(shown(daemon.rows(&format!("{path}&closed=0"))), ["TIME_WAIT OUTGOING - -"]);
    let inode = namespace.inode.to_string();
    // Without `-e` too, a table says when and why each has ended.
    let text = daemon.text(&["list", "-H", "--namespace", &inode, "--closed", "1m"]);
    for ending in ["closed remote ", "closed reset_by_remote ", "closed reset_by_local ", "refused "] {
        let line = text.lines().find(|line| line.contains(&format!("  {ending}")));
        let clock = line.and_then(|line| line.split_once(ending)?.1.split_whitespace().next());
        assert!(clock.is_some_and(|clock| clock.len() == 8 && clock.matches(':').count() == 2), "{ending}: {text}");
    }
    let failed = daemon.text(&["list", "-H", "--namespace", &inode, "--closed", "1m", "--failed"]);
    assert!(failed.lines().count() == 1 && failed.contains("  refused "), "{failed}");
    let error = daemon.ask(&format!("{path}&closed=soon")).unwrap_err();
    assert!(error.contains("closed: 'soon' is not a number of seconds"), "{error}");
}

#[test]
fn bytes_of_living_connections_are_fresh() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    namespace.run(|| {
        let (_listener, mut client, mut server) = connected("::1");
        for total in [1000, 101_000] {
            client.write_all(&vec![0; if total == 1000 { 1000 } else { 100_000 }]).unwrap();
            let mut rest = if total == 1000 { 1000 } else { 100_000 };
            while rest > 0 {
                rest -= server.read(&mut [0; 65_536]).unwrap();
            }
            for row in daemon.list(namespace.inode) {
                let moved = (row["bytes_sent"].as_u64(), row["bytes_received"].as_u64());
                match row["direction"].as_str() {
                    Some("OUTGOING") => assert_eq!(moved, (Some(total), Some(0))),
                    Some("INCOMING") => assert_eq!(moved, (Some(0), Some(total))),
                    _ => assert_eq!(moved, (None, None), "a listener moves nothing"),
                }
            }
        }
    });
}
