//! Losses are counted exactly, reported, and repaired. The tests force them with the smallest possible ring and a
//! stopped daemon.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{Daemon, Ending, Netns, long, moment, reset, rows, ss, until};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;
use socket2::SockRef;

/// A ring with room for 20 records.
const SMALLEST_RING: &str = "ring_bytes = 4096";

/// Returns the number of attempts in the caller's network namespace by the kernel's counter (`nstat TcpActiveOpens`).
fn active_opens() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let column = lines.next().unwrap().position(|name| name == "ActiveOpens").unwrap();
    lines.next().unwrap().nth(column).unwrap().parse().unwrap()
}

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
    #[serde(rename = "loss.stage")]
    stage: Option<String>,
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
