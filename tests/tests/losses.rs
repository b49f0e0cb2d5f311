//! Losses are counted exactly, reported, and repaired. The tests force them with the smallest possible ring and a
//! stopped daemon.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{Daemon, Ending, Netns, active_opens, exactly, long, moment, reset, rows, ss, until};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
        stat::Mode,
    },
    unistd::mkfifo,
};
use serde::Deserialize;
use serde_json::Value;
use socket2::SockRef;
use tempfile::TempDir;

/// A ring with room for 20 records.
const SMALLEST_RING: &str = "ring_bytes = 4096";

/// The fields of an event that these tests need: there are too many events to keep all fields.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "event.type")]
    kind: String,
    #[serde(rename = "event.network.direction")]
    direction: Option<String>,
    #[serde(rename = "event.network.connectionStatus")]
    status: Option<String>,
    #[serde(rename = "event.network.namespace", default)]
    namespace: u64,
    #[serde(rename = "event.network.preexisting", default)]
    preexisting: bool,
    #[serde(rename = "src.process.pid")]
    pid: Option<u32>,
    #[serde(rename = "loss.stage")]
    stage: Option<String>,
    #[serde(rename = "loss.output")]
    output: Option<String>,
    #[serde(rename = "loss.count", default)]
    count: u64,
    #[serde(rename = "loss.outgoing", default)]
    outgoing: u64,
    #[serde(rename = "loss.incoming", default)]
    incoming: u64,
    #[serde(rename = "loss.from", default)]
    from: u64,
    #[serde(rename = "loss.to", default)]
    to: u64,
}

/// Waits until no more records are lost and the table is repaired; returns the health.
fn settle(daemon: &Daemon) -> Value {
    let since = Instant::now();
    let mut last = daemon.health();
    loop {
        // The time is fixed, because only a span without another loss shows that the losses are over.
        thread::sleep(Duration::from_millis(if long(1) == Duration::from_millis(1) { 1200 } else { 3000 }));
        let before = std::mem::replace(&mut last, daemon.health());
        if last["complete"] == true && before["records"]["lost"] == last["records"]["lost"] {
            return last;
        }
        assert!(since.elapsed() < long(20_000), "{last:#}");
    }
}

/// Connects and resets a hundred connections as fast as possible, ten times a second.
fn flood(to: SocketAddr, end: &AtomicBool, made: &AtomicU64) {
    while !end.load(Ordering::Relaxed) {
        for _ in 0..100 {
            if let Ok(stream) = TcpStream::connect(to) {
                made.fetch_add(1, Ordering::Relaxed);
                reset(stream);
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn every_attempt_is_reported_or_counted() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured(SMALLEST_RING);
    // Records of this machine's other connections may be lost, too, so the initial namespace is counted as well.
    let (others, ours) = (active_opens(), namespace.run(active_opens));
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    // The thread that accepts checks the end flag at least ten times a second.
    SockRef::from(&listener).set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let to = listener.local_addr().unwrap();
    let (end, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut watched = Vec::new();
    thread::scope(|scope| {
        let _ending = Ending(&end);
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                let _ = listener.accept();
            }
        });
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                namespace.enter();
                flood(to, &end, &made);
            });
        }
        for second in 0..5 {
            let (listener, client, server) = namespace.run(|| netconn_tests::connected("127.0.0.2"));
            let ends = [client.local_addr().unwrap().to_string(), listener.local_addr().unwrap().to_string()];
            let port = client.local_addr().unwrap().port();
            watched.push((listener, client, server, ends, port));
            // The times are fixed: they are the length of the flood, and a stopped daemon cannot report that its ring
            // is full.
            if second == 2 {
                daemon.signal(Signal::SIGSTOP);
                thread::sleep(Duration::from_secs(5));
                daemon.signal(Signal::SIGCONT);
            } else {
                thread::sleep(Duration::from_secs(1));
            }
            // The table has each of these connections during the flood.
            for (_, _, _, ends, port) in &watched {
                let path = format!("/v1/connections?format=ndjson&state=established&port={port}");
                let found = rows(&daemon.rows(&path));
                let ends = ends.clone().map(|end| end.replace(':', " "));
                let state = "ESTABLISHED".to_owned();
                let mut expected = vec![
                    (state.clone(), ends[0].clone(), Some(ends[1].clone())),
                    (state, ends[1].clone(), Some(ends[0].clone())),
                ];
                expected.sort();
                assert_eq!(found, expected);
            }
        }
    });
    let health = settle(&daemon);
    assert!(health["records"]["lost"].as_u64().unwrap() > 0, "this test is about losses: {health:#}");
    assert_eq!(ss(&namespace), rows(&daemon.list_all(namespace.inode)), "repaired");
    drop((watched, listener));
    moment();
    settle(&daemon);
    // The kernel's own count is the truth that reported and lost attempts must add up to.
    let opened = active_opens() - others + namespace.run(active_opens) - ours;
    let killed = daemon.end();
    let text = fs::read_to_string(killed.event_file()).unwrap();
    let events: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| events.iter().filter(|event| event.kind == kind).collect::<Vec<_>>();
    let losses = of("Data Loss");
    assert!(losses.iter().all(|loss| loss.stage.as_deref() == Some("ring") && loss.from <= loss.to));
    assert!(losses.iter().all(|loss| loss.count >= loss.outgoing + loss.incoming));
    // Not by their source ports, as in `Events::attempts`: without trampolines a port comes with a later record, which may be lost.
    let is_attempt = |event: &&&Line| event.direction.as_deref() == Some("OUTGOING") && !event.preexisting;
    let reported = of("IP Connect").iter().filter(is_attempt).count() as u64;
    let lost: u64 = losses.iter().map(|loss| loss.outgoing).sum();
    assert!(lost > 0, "this test is about losses");
    let flood = made.load(Ordering::Relaxed);
    assert_eq!(reported + lost, opened, "{reported} reported, {lost} lost; the flood has connected {flood} times");
    // A connection with an `IP Connect` also has an `IP Close`.
    let ours = |kind: &str| of(kind).into_iter().filter(|event| event.namespace == namespace.inode).collect::<Vec<_>>();
    let connects = ours("IP Connect").iter().filter(|event| event.status.as_deref() == Some("SUCCESS")).count();
    assert_eq!(ours("IP Close").len(), connects);
    assert_eq!(ours("IP Listen").len(), ours("IP Listen End").len());
}

#[test]
fn a_storm_of_processes_costs_no_connection() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    daemon.signal(Signal::SIGSTOP);
    // Long arguments fill the ring of processes with few processes.
    let long_arguments = "x".repeat(4000);
    for _ in 0..300 {
        let status = Command::new("true").arg(&long_arguments).status().unwrap();
        assert!(status.success());
    }
    namespace.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..20 {
            drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            drop(listener.accept().unwrap());
        }
    });
    daemon.signal(Signal::SIGCONT);
    let health = settle(&daemon);
    assert!(health["records"]["lost_processes"].as_u64().unwrap() > 0, "{health:#}");
    assert_eq!(health["records"]["lost_sockets"], 0, "{health:#}");
    let events = daemon.stop();
    let connects = events.within(&namespace).of("IP Connect");
    assert_eq!(connects.len(), 40);
    assert!(connects.values("src.process.pid").iter().all(|pid| *pid == std::process::id()));
    let losses = events.of("Data Loss");
    assert_eq!(losses.sum("loss.count"), 0, "no event is missing: {losses:#?}");
}

#[test]
fn udp_sockets_that_are_gone_before_a_repair_are_told_or_counted() {
    const COUNT: u64 = 500;
    for level in ["flows", "sockets"] {
        let namespace = Netns::new();
        let daemon = Daemon::start_configured(&format!("{SMALLEST_RING}\nflows = '{level}'"));
        let made = || daemon.health()["lost_events"].clone();
        let before = made();
        // The sockets are bound and closed while nobody reads the ring; in the level of sockets they are connected and used, too.
        daemon.signal(Signal::SIGSTOP);
        namespace.run(|| {
            let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            for _ in 0..COUNT {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                if level == "sockets" {
                    socket.connect(server.local_addr().unwrap()).unwrap();
                    for _ in 0..2 {
                        socket.send(&[0; 10]).unwrap();
                        server.send_to(&[0; 10], socket.local_addr().unwrap()).unwrap();
                        socket.recv(&mut [0; 10]).unwrap();
                    }
                }
            }
        });
        daemon.signal(Signal::SIGCONT);
        settle(&daemon);
        let after = made();
        let lost = |name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap();
        let (outgoing, closes, listeners) = (lost("outgoing"), lost("closes"), lost("listeners"));
        let all = daemon.stop();
        let told = all.of("Data Loss");
        let sum = told.sum("loss.count");
        assert!(sum >= listeners + outgoing + closes && listeners > 0, "this test is about losses: {told:#?}");
        let events = all.within(&namespace).with("event.network.protocol", "UDP");
        let of = |kind: &str| events.of(kind).len() as u64;
        // The server is one of them.
        assert_eq!(of("IP Listen") + of("IP Listen End") + listeners, 2 * (COUNT + 1), "{level}: {told:#?}");
        if level == "sockets" {
            let outgoing_of = |kind: &str| events.of(kind).with("event.network.direction", "OUTGOING").len() as u64;
            let found = (outgoing_of("IP Connect") + outgoing, outgoing_of("IP Close") + closes);
            assert_eq!(found, (COUNT, COUNT), "{told:#?}");
        }
    }
}

#[test]
fn a_loss_is_repaired_by_itself() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured(SMALLEST_RING);
    let held: Vec<_> = namespace.run(|| {
        daemon.signal(Signal::SIGSTOP);
        let held = (0..100).map(|_| netconn_tests::connected("127.0.0.1")).collect();
        daemon.signal(Signal::SIGCONT);
        held
    });
    // The event file is read, because a snapshot would repair the table itself.
    until(20_000, || daemon.log(), || daemon.events().within(&namespace).of("IP Connect").len() == 200);
    assert_eq!(ss(&namespace), rows(&daemon.list_all(namespace.inode)));
    let output = daemon.run(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && text.contains("the table was repaired"), "{text}");
    let metrics = daemon.ask("/metrics").unwrap();
    let lost = metrics.lines().find_map(|line| line.strip_prefix("netconn_records_lost_total{kind=\"sockets\"} "));
    assert!(lost.is_some_and(|count| count.parse::<u64>().unwrap() > 0), "{metrics}");
    drop(held);
}

/// A named pipe as an output: it is stuck until the test reads it.
struct SlowOutput {
    folder: TempDir,
}

impl SlowOutput {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        mkfifo(&folder.path().join("slow"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("slow")
    }

    /// Opens the reading end: what was written can be read after the daemon has ended, too.
    fn open(&self) -> fs::File {
        let mut file = fs::OpenOptions::new();
        // Without a writer, a blocking open would wait for one.
        let file = file.read(true).custom_flags(nix::libc::O_NONBLOCK).open(self.path()).unwrap();
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
        file
    }
}

/// Returns what a daemon that ends writes to each output: the whole lines.
fn parsed(text: &str) -> Vec<Line> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the number of attempts that events tell, and of those that they say an output has lost.
fn attempts(events: &[Line], output: &Path) -> (u64, u64) {
    let is_attempt = |event: &&Line| {
        event.kind == "IP Connect" && event.direction.as_deref() == Some("OUTGOING") && !event.preexisting
    };
    let losses = events.iter().filter(|event| event.output.as_deref() == output.to_str());
    (events.iter().filter(is_attempt).count() as u64, losses.map(|loss| loss.outgoing).sum())
}

fn attempts_within(events: &[Line], namespace: &Netns, pid: Option<u32>) -> u64 {
    let is_ours = |event: &&Line| {
        event.namespace == namespace.inode
            && event.kind == "IP Connect"
            && event.direction.as_deref() == Some("OUTGOING")
            && (pid.is_none() || event.pid == pid)
    };
    events.iter().filter(is_ours).count() as u64
}

#[test]
fn a_flood_of_fat_events_costs_other_processes_nothing() {
    exactly(|| {
        let namespace = Netns::new();
        let slow = SlowOutput::new();
        let mut reader = slow.open();
        let daemon = Daemon::start_with(&["--events", slow.path().to_str().unwrap()]);
        // Each of these characters takes six bytes in an event, in the command line of the process and of its parent.
        let fat = "\u{1}".repeat(4000);
        let attempts_for_ever = "while :; do : < /dev/tcp/127.0.0.1/1; done";
        let mut command = namespace.command("bash", &["-c", r#"bash -c "$0" "$1"; :"#, attempts_for_ever, &fat]);
        // A process group of its own, so that the child of the shell ends with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut flood = command.stderr(Stdio::null()).spawn().unwrap();
        let output = |name: &str| daemon.health()["outputs"][1][name].as_u64().unwrap();
        until(60_000, || format!("nothing is lost: {:#}", daemon.health()), || output("lost_queue") > 0);
        namespace.run(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            for _ in 0..300 {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                drop((listener.accept().unwrap(), client));
            }
        });
        let group = nix::unistd::Pid::from_raw(i32::try_from(flood.id()).unwrap());
        nix::sys::signal::killpg(group, Signal::SIGKILL).unwrap();
        flood.wait().unwrap();
        let opened = namespace.run(active_opens);
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let settled = || {
            let health = daemon.health();
            let sum = |output: &Value| {
                ["written", "lost_queue", "lost_sink", "lost_disk"]
                    .iter()
                    .filter_map(|name| output[name].as_u64())
                    .sum::<u64>()
            };
            health["outputs"].as_array().unwrap().iter().all(|output| sum(output) >= health["events"].as_u64().unwrap())
        };
        until(30_000, || daemon.log(), settled);
        let killed = daemon.end();
        let (told, whole) =
            (parsed(&reading.join().unwrap()), parsed(&fs::read_to_string(killed.event_file()).unwrap()));
        // This test is about queues: what the kernel did not store is no part of it.
        if told.iter().any(|event| event.stage.as_deref() == Some("ring")) {
            return false;
        }
        let losses: Vec<_> = told.iter().filter_map(|event| Some((event.stage.as_deref()?, event.count))).collect();
        let of_other = attempts_within(&told, &namespace, Some(std::process::id()));
        assert_eq!(of_other, 300, "of the other process; lost: {losses:?}");
        let (slow_told, slow_lost) = attempts(&told, &slow.path());
        assert!(slow_lost > 0, "this test is about losses");
        let (all, lost) = attempts(&whole, &killed.event_file());
        assert_eq!(slow_told + slow_lost, all + lost, "{slow_told} told, {slow_lost} lost");
        if lost == 0 {
            assert_eq!(attempts_within(&whole, &namespace, None), opened);
        }
        true
    });
}

/// Makes 200 attempts in a namespace, each of which is accepted and closed, and returns their number by the kernel's count.
fn two_hundred_attempts(namespace: &Netns) -> u64 {
    namespace.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..200 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop((listener.accept().unwrap(), client));
        }
        active_opens()
    })
}

#[test]
fn what_a_stuck_output_has_not_written_at_the_end_is_told() {
    let namespace = Netns::new();
    let slow = SlowOutput::new();
    let mut reader = slow.open();
    let last = slow.folder.path().join("last");
    let daemon = Daemon::start_with(&["--events", slow.path().to_str().unwrap(), "--events", last.to_str().unwrap()]);
    let opened = two_hundred_attempts(&namespace);
    let killed = daemon.end();
    let log = killed.log();
    let unwritten: Vec<_> = log.lines().filter(|line| line.contains("took too long")).collect();
    assert!(unwritten.len() == 1 && unwritten[0].contains(slow.path().to_str().unwrap()), "{unwritten:#?}");
    let number = unwritten[0].split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap();
    // A connection has four events, and 64 KiB fit into the pipe.
    assert!(number > 600, "{unwritten:#?}");
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let told = parsed(&text);
    let slow_told = attempts(&told, &slow.path()).0;
    for path in [killed.event_file(), last] {
        let whole = parsed(&fs::read_to_string(path).unwrap());
        assert_eq!(attempts_within(&whole, &namespace, None), opened);
        assert!(whole.last().is_some_and(|event| event.kind == "Sensor Stop"));
        let (all, lost) = attempts(&whole, &slow.path());
        assert_eq!(slow_told + lost, all, "{slow_told} told, {lost} lost");
        let events: u64 = whole.iter().filter(|event| event.output.is_some()).map(|event| event.count).sum();
        // Before the end it may have lost some of what others have made.
        assert!(events >= number, "the log says {number}, the events {events}");
        assert!(whole.iter().all(|event| event.output.is_none() || event.output.as_deref() == slow.path().to_str()));
    }
}

#[test]
fn a_reader_that_comes_back_at_the_end_knows_what_it_has_missed() {
    let namespace = Netns::new();
    let slow = SlowOutput::new();
    let mut reader = slow.open();
    let daemon = Daemon::start_with(&["--events", slow.path().to_str().unwrap()]);
    let opened = two_hundred_attempts(&namespace);
    let log = daemon.event_file().with_file_name("log");
    let reading = thread::spawn(move || {
        // The output is given up then, and the daemon is about to write its last events.
        while !fs::read_to_string(&log).unwrap().contains("took too long") {
            thread::sleep(Duration::from_millis(1));
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let killed = daemon.end();
    let text = reading.join().unwrap();
    assert!(text.ends_with('\n'), "no line is torn");
    let (told, whole) = (parsed(&text), parsed(&fs::read_to_string(killed.event_file()).unwrap()));
    assert_eq!(attempts_within(&whole, &namespace, None), opened);
    let (all, lost) = attempts(&whole, &slow.path());
    let (slow_told, slow_lost) = attempts(&told, &slow.path());
    assert!(lost > 0, "this test is about losses");
    assert_eq!((slow_told + lost, slow_lost), (all, lost));
    assert!(told.last().is_some_and(|event| event.kind == "Sensor Stop"), "{}", killed.log());
}

/// Holds connections that began before the daemon: their events are a backlog of more than a queue has room for at once.
fn backlog(namespace: &Netns) -> Vec<impl Sized> {
    const PAIRS: u64 = 2500;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard).unwrap();
    namespace.run(|| (0..PAIRS).map(|_| netconn_tests::connected("127.0.0.1")).collect())
}

#[test]
fn a_stuck_output_holds_up_no_other() {
    let namespace = Netns::new();
    let held = backlog(&namespace);
    let slow = SlowOutput::new();
    let mut reader = slow.open();
    let daemon = Daemon::start_with(&["--events", slow.path().to_str().unwrap()]);
    let connects = |text: &str| {
        let is_ours = |event: &Line| event.kind == "IP Connect" && event.namespace == namespace.inode;
        parsed(text).iter().filter(|event| is_ours(event)).count()
    };
    // The pipe is never read.
    let told = || connects(&fs::read_to_string(daemon.event_file()).unwrap());
    until(30_000, || format!("{} of {} are told", told(), 2 * held.len()), || told() == 2 * held.len());
    let killed = daemon.end();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let whole = fs::read_to_string(killed.event_file()).unwrap();
    let lost = |name: &str| -> u64 {
        parsed(&whole).iter().filter(|event| event.output.as_deref() == Some(name)).map(|event| event.count).sum()
    };
    // Each of the others was sent to the pipe, too, except for those that tell of its loss and what came after them.
    let all = parsed(&whole).iter().filter(|event| event.output.is_none() && event.kind != "Sensor Stop").count();
    assert_eq!(parsed(&text).len() as u64 + lost(slow.path().to_str().unwrap()), all as u64);
    assert_eq!(lost(killed.event_file().to_str().unwrap()), 0);
    drop(held);
}

#[test]
fn the_end_of_the_daemon_loses_no_backlog() {
    let namespace = Netns::new();
    let held = backlog(&namespace);
    let slow = SlowOutput::new();
    let _reader = slow.open();
    let daemon = Daemon::start_with(&["--events", slow.path().to_str().unwrap()]);
    // At once, while most of it is not announced.
    let killed = daemon.end();
    let whole = parsed(&fs::read_to_string(killed.event_file()).unwrap());
    let is_ours = |event: &&Line| event.kind == "IP Connect" && event.namespace == namespace.inode;
    assert_eq!(whole.iter().filter(is_ours).count(), 2 * held.len(), "{}", killed.log());
    assert!(whole.iter().all(|event| event.output.as_deref() != killed.event_file().to_str()));
    assert!(whole.last().is_some_and(|event| event.kind == "Sensor Stop"));
}
