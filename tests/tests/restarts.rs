//! What survives the daemon when it is stopped, or killed at any moment, and started again.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use netconn_tests::{
    Daemon, Ending, Forked, Netns, connected, disconnect, moment, pause, reset, rows, ss, step, until,
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Returns the rows by their two ends.
fn by_ends(rows: Vec<Value>) -> HashMap<String, Value> {
    let key = |row: &Value| {
        format!("{} {} {} {}", row["local_address"], row["local_port"], row["remote_address"], row["remote_port"])
    };
    rows.into_iter().map(|row| (key(&row), row)).collect()
}

/// Returns the second, within its minute, in which a connection began. The last digits differ between daemons, because
/// each measures the difference of the kernel's clocks again.
fn started(row: &Value) -> f64 {
    let text = row["started_at"].as_str().unwrap_or_else(|| panic!("{row}"));
    text[17..text.len() - 1].parse().unwrap()
}

/// Returns whether the socket storage of connections is pinned here, which needs 5.11.
fn is_kept(daemon: &Daemon) -> bool {
    let health = daemon.health();
    let pin = health["hooks"].as_array().unwrap().iter().find(|hook| hook["hook"] == "pin/SOCKETS").unwrap().clone();
    let is_kept = pin["verdict"] == "attached";
    assert!(is_kept || pin["reason"].as_str().unwrap().contains("socket storage"), "{pin}");
    is_kept
}

#[test]
fn what_lives_is_the_same_after_a_restart() {
    let namespace = Netns::new();
    namespace.run(|| {
        let daemon = Daemon::start();
        let is_kept = is_kept(&daemon);
        let (listener, client, server) = connected("127.0.0.1");
        let to = listener.local_addr().unwrap();
        // This socket has its second life.
        let again = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        again.connect(&to.into()).unwrap();
        let first = listener.accept().unwrap();
        disconnect(&again);
        again.connect(&to.into()).unwrap();
        let second = listener.accept().unwrap();
        // Another process than the listener's accepts this connection.
        let mut child = Forked::new(|mut channel| {
            let (stream, _) = listener.accept().unwrap();
            let _ = (&stream).read(&mut [0; 1]);
            step(&mut channel);
            pause(&mut channel);
            drop(stream);
        });
        let mut theirs = TcpStream::connect(to).unwrap();
        theirs.write_all(b"x").unwrap();
        child.wait();
        moment();
        let before = by_ends(daemon.list(namespace.inode));
        assert_eq!(ss(&namespace), rows(&daemon.list_all(namespace.inode)));
        let mut daemon = daemon;
        // Nothing that survives may depend on a clean end.
        for end in [Daemon::kill, Daemon::end] {
            daemon = end(daemon).start();
            let after = by_ends(daemon.list(namespace.inode));
            assert_eq!(ss(&namespace), rows(&daemon.list_all(namespace.inode)));
            assert_eq!(before.len(), after.len());
            for (ends, row) in &before {
                for key in ["connection_id", "pid", "attribution", "direction", "bytes_sent", "user"] {
                    if is_kept {
                        assert_eq!(row.get(key), after[ends].get(key), "{key}");
                    }
                }
                if is_kept {
                    assert!((started(row) - started(&after[ends])).abs() < 0.000_1, "{row} {}", after[ends]);
                }
            }
        }
        // Each `IP Close` has a duration, because the beginning of its connection is still known.
        drop((first, second, again, theirs, server));
        child.go();
        child.join();
        drop(client);
        moment();
        let events = daemon.stop().within(&namespace);
        if is_kept {
            let closes = events.of("IP Close");
            assert_eq!(closes.len(), 8, "{closes:#?}");
            for close in &closes.0 {
                assert!(close["event.network.durationMs"].as_f64().unwrap() > 0.0, "{close}");
            }
            let connects = events.of("IP Connect");
            for id in closes.values("event.connection.id") {
                let same = connects.0.iter().filter(|event| event["event.connection.id"] == id).count();
                assert!(same >= 1, "{id} was reported with another id");
            }
        }
    });
}

#[test]
fn what_happened_meanwhile_is_not_mistaken() {
    let namespace = Netns::new();
    namespace.run(|| {
        let daemon = Daemon::start();
        if !is_kept(&daemon) {
            return; // Nothing outlives the daemon here, so nothing can be mistaken.
        }
        let (listener, client, server) = connected("127.0.0.1");
        let to = listener.local_addr().unwrap();
        let again = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        again.connect(&to.into()).unwrap();
        let first = listener.accept().unwrap();
        moment();
        let before = by_ends(daemon.list(namespace.inode));
        let killed = daemon.kill();
        // While no daemon runs, a socket begins another life, a connection is accepted, one ends, and one is half
        // closed.
        disconnect(&again);
        again.connect(&to.into()).unwrap();
        let second = listener.accept().unwrap();
        drop(first);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let daemon = killed.start();
        assert_eq!(ss(&namespace), rows(&daemon.list_all(namespace.inode)));
        let after = by_ends(daemon.list(namespace.inode));
        let ids = |rows: &HashMap<String, Value>| -> HashMap<String, String> {
            rows.iter().map(|(ends, row)| (row["connection_id"].to_string(), ends.clone())).collect()
        };
        for (id, ends) in ids(&after) {
            assert!(ids(&before).get(&id).is_none_or(|earlier| *earlier == ends), "{id} is of {ends} now");
        }
        let port = again.local_addr().unwrap().as_socket().unwrap().port();
        let new: Vec<_> =
            after.values().filter(|row| row["local_port"] == port || row["remote_port"] == port).collect();
        assert_eq!(new.len(), 2, "{after:#?}");
        for row in new {
            assert!(row.get("started_at").is_none(), "nobody saw it begin: {row}");
            assert_eq!(row["pid"], std::process::id(), "{row}");
        }
        drop(server);
        drop(client);
        moment();
        let events = daemon.stop().within(&namespace);
        let closes = events.of("IP Close");
        let reasons = closes.values("event.network.closeReason");
        assert!(reasons.contains(&"local".into()) && reasons.contains(&"remote".into()), "{closes:#?}");
        drop((second, again));
    });
}

#[test]
fn no_line_is_torn_however_often_it_is_killed() {
    let namespace = Netns::new();
    let (going, end) = (AtomicBool::new(false), AtomicBool::new(false));
    let daemon = thread::scope(|scope| {
        let _ending = Ending(&end);
        let mut daemon = Daemon::start();
        scope.spawn(|| {
            namespace.enter();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            while !end.load(Ordering::Relaxed) {
                if !going.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                drop(listener.accept().unwrap());
                reset(client);
            }
        });
        for pause in [7, 23, 50, 80, 110] {
            going.store(true, Ordering::Relaxed);
            // The times are fixed, so that the kills come at different moments.
            thread::sleep(Duration::from_millis(pause));
            let killed = daemon.kill();
            going.store(false, Ordering::Relaxed);
            // After a power cut, the file may end with part of a line.
            let mut file = OpenOptions::new().append(true).open(killed.event_file()).unwrap();
            file.write_all(b"{\"event.type\":\"IP Connect\",\"event.ca").unwrap();
            daemon = killed.start();
        }
        daemon
    });
    let events = daemon.stop();
    assert_eq!(events.of("Sensor Start").len(), 6);
    assert!(events.within(&namespace).of("IP Close").len() > 100);
    let mut ids: Vec<String> = events.values("event.id").iter().map(ToString::to_string).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids of events are unique over restarts");
}

#[test]
fn kills_cost_nothing_that_was_written() {
    let namespace = Netns::new();
    let mut daemon = Daemon::start();
    for round in 0..6 {
        namespace.run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            for _ in 0..50 {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                drop(listener.accept().unwrap());
                reset(client);
            }
            // A port where nothing listens, and an address without a route: only the first sends a SYN.
            assert!(TcpStream::connect(("127.0.0.1", 9)).is_err());
            assert!(TcpStream::connect("192.0.2.1:80").is_err());
        });
        // A kill loses what is not written. The attempt without a route is told as soon as the routing table has been asked.
        let unsent = || daemon.events().within(&namespace).of("IP Connect").with("dst.ip.address", "192.0.2.1").len();
        until(10_000, || format!("{} in round {round}", unsent()), || unsent() == round + 1);
        let told = daemon.events().within(&namespace);
        assert_eq!(told.attempts(), namespace.active_opens(), "round {round}");
        daemon = daemon.kill().start();
    }
    let events = daemon.stop().within(&namespace);
    assert_eq!((events.attempts(), namespace.active_opens()), (6 * 51, 6 * 51));
    let unsent = events.of("IP Connect").with("dst.ip.address", "192.0.2.1");
    assert_eq!(unsent.len(), 6);
    assert!(unsent.0.iter().all(|event| event.get("src.port.number").is_none()), "{unsent:#?}");
}
