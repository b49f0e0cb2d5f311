//! Events that the configuration keeps from being made: rules and the limit per second. What is told, excluded and folded together is
//! what has happened.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

use netconn_tests::{Daemon, Events, Netns, netconn, reset, rows, ss, until};
use serde_json::Value;

/// Returns the number of attempts in a namespace by the kernel's counter (`nstat TcpActiveOpens`).
fn active_opens(namespace: &Netns) -> u64 {
    let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let column = lines.next().unwrap().position(|name| name == "ActiveOpens").unwrap();
    lines.next().unwrap().nth(column).unwrap().parse().unwrap()
}

/// Connects to a new listener and resets the connection, this often.
fn flood(namespace: &Netns, times: usize) {
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..times {
            reset(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            drop(listener.accept());
        }
    });
}

/// Returns the number of attempts that events tell.
fn attempts(events: &Events, namespace: &Netns) -> u64 {
    events.within(namespace).of("IP Connect").with("event.network.direction", "OUTGOING").len() as u64
}

#[test]
fn what_a_rule_excludes_is_no_event_and_is_counted() {
    let namespace = Netns::new();
    // What happens elsewhere on this machine is excluded as well.
    let others = format!("event.network.namespace != {}", namespace.inode);
    // A rule may name what only the process and the sensor tell.
    let rule = format!("dst.port.number = 4443 and src.process.pid = {} and endpoint.os = 'linux'", std::process::id());
    let daemon = Daemon::start_configured(&format!("exclude = [\"{others}\", \"{rule}\"]"));
    let mut stream = daemon.stream();
    // At once: the daemon waits for its clients when it ends.
    let reading = thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let (listener, held) = namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:4443").unwrap();
        for _ in 0..100 {
            drop(TcpStream::connect("127.0.0.1:4443").unwrap());
            drop(listener.accept().unwrap());
        }
        let held = (TcpStream::connect("127.0.0.1:4443").unwrap(), listener.accept().unwrap());
        (listener, held)
    });
    flood(&namespace, 50);
    let opened = active_opens(&namespace);
    let told = daemon.events();
    assert_eq!((attempts(&told, &namespace), opened), (50, 151));
    let namespaces = told.values("event.network.namespace");
    assert!(namespaces.iter().all(|inode| inode.is_null() || *inode == namespace.inode));
    // The other namespaces of this machine may have attempts of their own.
    let excluded = daemon.health()["excluded_events"]["outgoing"].as_u64().unwrap();
    assert!(excluded >= 101, "{excluded}");
    assert!(daemon.ask("/metrics").unwrap().contains("\nnetconn_events_excluded_total "));
    // The table has all.
    assert_eq!(ss(&namespace), rows(&daemon.list_all(namespace.inode)));
    assert_eq!(told.of("Sensor Start").one()["sensor.exclude"], format!("{others}\n{rule}"));
    drop((held, listener));
    let events = daemon.stop();
    assert!(events.of("Sensor Stop").one()["sensor.excluded"].as_u64().unwrap() >= 2 * 101);
    let text = reading.join().unwrap();
    assert!(text.contains("IP Connect") && !text.contains("\"dst.port.number\":4443"), "{text}");
}

#[test]
fn what_one_rule_leaves_its_opposite_excludes() {
    let namespace = Netns::new();
    // Two daemons divide the attempts of this namespace by their port. Nothing else is excluded, so that the counts are exact.
    let excluding = |rule: &str| {
        let rule = format!("event.network.namespace = {} and {rule}", namespace.inode);
        Daemon::start_configured(&format!("exclude = [\"{rule}\"]"))
    };
    let (low, high) = (excluding("src.port.number >= 46000"), excluding("not (src.port.number >= 46000)"));
    flood(&namespace, 300);
    let told = [&low, &high].map(|daemon| attempts(&daemon.events(), &namespace));
    assert_eq!((told[0] + told[1], active_opens(&namespace)), (300, 300), "{told:?}");
    for (daemon, other) in [(&low, told[1]), (&high, told[0])] {
        assert_eq!(daemon.health()["excluded_events"]["outgoing"].as_u64(), Some(other), "what the other has told");
    }
}

#[test]
fn what_exceeds_the_limit_is_folded_by_kind() {
    let namespace = Netns::new();
    // Only this namespace has events, so that the folded ones are its own, too.
    let rule = format!("event.network.namespace != {}", namespace.inode);
    let daemon = Daemon::start_configured(&format!("exclude = [\"{rule}\"]\nevent_limit_per_second = 70"));
    flood(&namespace, 2000);
    // Another process beside the flood.
    let refused = namespace.command("bash", &["-c", ": < /dev/tcp/127.0.0.1/1"]).output().unwrap();
    assert!(!refused.status.success());
    let opened = active_opens(&namespace);
    assert_eq!(opened, 2001);
    let folded = |events: &Events| events.of("Data Loss").with("loss.stage", "fold");
    let sum = || {
        let events = daemon.events();
        attempts(&events, &namespace) + folded(&events).sum("loss.outgoing")
    };
    until(10_000, || format!("{} of {opened}", sum()), || sum() == opened);
    let health = daemon.health();
    let events = daemon.stop();
    assert_eq!(events.of("Sensor Start").one()["sensor.eventLimit"], 70);
    let folds = folded(&events);
    assert_eq!(folds.sum("loss.outgoing"), health["folded_events"]["outgoing"].as_u64().unwrap());
    let kinds = folds.values("loss.eventType");
    assert!(kinds.contains(&Value::from("IP Connect")) && kinds.contains(&Value::from("IP Close")), "{kinds:?}");
    // One for each kind and second, of no output.
    assert!(folds.len() < 100 && folds.values("loss.output").iter().all(Value::is_null), "{}", folds.len());
    let connects = events.within(&namespace).of("IP Connect");
    // Each connection has two ends; nobody has accepted the last one.
    let of_connects = folds.with("loss.eventType", "IP Connect").sum("loss.count");
    assert_eq!(connects.len() as u64 + of_connects, 2 * 2000 + 1);
    assert!(connects.len() < 2000, "this test is about a limit");
    let failures = connects.with("event.network.connectionStatus", "FAILURE");
    assert_eq!(failures.len(), 1, "the flood of one process hides no other");
}

#[test]
fn a_wrong_rule_is_an_error_of_the_configuration() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "exclude = [\"dst.port.number = 53\", \"dst.port.number = = 1\"]").unwrap();
    for command in ["run", "config"] {
        let output = Command::new(netconn()).args([command, "--config"]).arg(file.path()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains("exclude in the configuration: rule 2 cannot be used"), "{text}");
        assert!(text.contains("dst.port.number = = 1") && text.contains('^'), "{text}");
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "exclude = [\"dst.port.number = 53\"]\nevent_limit_per_second = 9").unwrap();
    let output = Command::new(netconn()).args(["config", "--config"]).arg(file.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("dst.port.number = 53") && text.contains("event_limit_per_second = 9 # "), "{text}");
}
