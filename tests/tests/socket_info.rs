//! Queues, timers and TCP's own figures in lists. The oracle is `ss -tanoi`.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

use netconn_tests::{Daemon, Netns, connected, until};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// What `ss` says of each TCP or UDP socket of a namespace, by its ends.
fn by_ss(namespace: &Netns, protocol: &str) -> BTreeMap<String, String> {
    let text = namespace.exec("ss", &["-HanoiO", protocol]);
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let remote = if words[4].ends_with(":*") { "" } else { words[4] };
            (format!("{} {remote}", words[3]), line.to_owned())
        })
        .collect()
}

/// The rows of a namespace, by their ends as `ss` writes them.
fn listed(daemon: &Daemon, namespace: &Netns, protocol: &str) -> BTreeMap<String, Value> {
    let rows =
        daemon.rows(&format!("/v1/connections?format=ndjson&info=1&protocol={protocol}&namespace={}", namespace.inode));
    let end = |row: &Value, side: &str| {
        let address = row.get(format!("{side}_address"))?.as_str()?;
        Some(format!("{address}:{}", row[format!("{side}_port")]))
    };
    rows.into_iter()
        .map(|row| (format!("{} {}", end(&row, "local").unwrap(), end(&row, "remote").unwrap_or_default()), row))
        .collect()
}

/// Returns the number behind a name, as `cwnd:10`.
fn figure(line: &str, name: &str) -> Option<f64> {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))?;
    word.split(['/', ',', ')']).next()?.parse().ok()
}

/// Checks that a row says of a socket what `ss` says.
#[track_caller]
fn compare(row: &Value, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (receive, send): (u64, u64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    let names = if words[0] == "LISTEN" { ["backlog", "backlog_limit"] } else { ["receive_queue", "send_queue"] };
    assert_eq!((row[names[0]].as_u64(), row[names[1]].as_u64()), (Some(receive), Some(send)), "{row}\n{line}");
    let timer = line.split("timer:(").nth(1).map(|rest| rest.split(',').next().unwrap());
    let timer = timer.map(|timer| match timer {
        "on" => "retransmit",
        "timewait" => "time_wait",
        "persist" => "probe",
        other => other,
    });
    assert_eq!(row["timer"].as_str(), timer, "{row}\n{line}");
    // Of a listener the kernel shows what its connections begin with, which says nothing of it.
    if words[0] == "LISTEN" {
        return;
    }
    for (member, name, unit) in [
        ("rtt_us", "rtt", 1000.0),
        ("min_rtt_us", "minrtt", 1000.0),
        ("retransmit_timeout_us", "rto", 1000.0),
        ("congestion_window", "cwnd", 1.0),
        ("slow_start_threshold", "ssthresh", 1.0),
        ("segment_size", "mss", 1.0),
        ("delivered", "delivered", 1.0),
        ("lost", "lost", 1.0),
        ("unacknowledged", "unacked", 1.0),
        ("bytes_retransmitted", "bytes_retrans", 1.0),
    ] {
        // ss leaves out what is 0.
        let mine = row.get(member).and_then(Value::as_f64).filter(|number| *number != 0.0);
        let its = figure(line, name).filter(|number| *number != 0.0);
        // ss rounds to microseconds, and prints three digits.
        let is_same =
            mine.zip(its).map_or(mine.is_none() && its.is_none(), |(mine, its)| (mine - its * unit).abs() <= 1.0);
        assert!(is_same, "{member}: {mine:?}, {name}: {its:?}\n{row}\n{line}");
    }
}

#[test]
fn queues_timers_and_figures_are_those_of_ss() {
    let daemon = Daemon::shared();
    let namespace = Netns::new();
    let (mut unread, waiting, udp) = namespace.run(|| {
        let mut unread = connected("127.0.0.1");
        unread.1.write_all(&[1; 5000]).unwrap();
        let waiting = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        waiting.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        waiting.listen(3).unwrap();
        let waiting: TcpListener = waiting.into();
        let clients = [(); 2].map(|()| TcpStream::connect(waiting.local_addr().unwrap()).unwrap());
        let udp = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        udp[0].send_to(&[1; 700], udp[1].local_addr().unwrap()).unwrap();
        (unread, (waiting, clients), udp)
    });
    let end = |address: std::net::SocketAddr| address.to_string();
    let ends = format!("{} {}", end(unread.2.local_addr().unwrap()), end(unread.2.peer_addr().unwrap()));
    let is_there = || by_ss(&namespace, "-t").get(&ends).is_some_and(|line| line.contains(" 5000 "));
    until(5000, || "the bytes arrive".into(), is_there);
    let check = || {
        let (theirs, rows) = (by_ss(&namespace, "-t"), listed(daemon, &namespace, "tcp"));
        assert_eq!(theirs.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>());
        theirs.iter().for_each(|(ends, line)| compare(&rows[ends], line));
        rows
    };
    let rows = check();
    assert_eq!(rows[&ends]["receive_queue"], 5000);
    let listener = format!("{} ", end(waiting.0.local_addr().unwrap()));
    assert_eq!((&rows[&listener]["backlog"], &rows[&listener]["backlog_limit"]), (&2.into(), &3.into()));
    assert_eq!(rows[&ends]["congestion_control"].as_str().map(|name| theirs_has(&namespace, &ends, name)), Some(true));
    // UDP has queues too.
    let (theirs, rows) = (by_ss(&namespace, "-u"), listed(daemon, &namespace, "udp"));
    let receiver = format!("{} ", end(udp[1].local_addr().unwrap()));
    let queue = theirs[&receiver].split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    assert!(queue >= 700);
    let row = rows.iter().find(|(ends, _)| ends.starts_with(&receiver)).unwrap().1;
    assert_eq!(row["receive_queue"], queue, "{row}");
    // Without a network nothing is acknowledged: the timer runs.
    unread.2.read_exact(&mut [0; 5000]).unwrap();
    namespace.ip(&["link", "set", "lo", "down"]);
    unread.1.write_all(&[1; 300]).unwrap();
    let sender = format!("{} {}", end(unread.1.local_addr().unwrap()), end(unread.1.peer_addr().unwrap()));
    let is_sent_again = || {
        let rows = listed(daemon, &namespace, "tcp");
        let row = &rows[&sender];
        row["timer"] == "retransmit"
            && row["timer_retries"].as_u64() >= Some(2)
            && row["retransmits"].as_u64() >= Some(2)
    };
    until(10_000, || format!("{:?}", listed(daemon, &namespace, "tcp").get(&sender)), is_sent_again);
    let row = &listed(daemon, &namespace, "tcp")[&sender];
    assert_eq!(row["send_queue"], 300);
    assert!(by_ss(&namespace, "-t")[&sender].contains("timer:(on,"));
    // Asked for by an option, a column or the condition, and not shown unasked.
    let inode = namespace.inode.to_string();
    let list = |arguments: &[&str]| daemon.text(&[&["list", "-t", "--namespace", &inode], arguments].concat());
    assert!(list(&["-o", "-W"]).contains("retransmit "));
    assert!(list(&["-iW"]).lines().next().unwrap().contains("RECV-Q  SEND-Q"));
    assert!(list(&["--sort=-send-q", "-qHW"]).lines().next().unwrap().contains(&end(unread.1.local_addr().unwrap())));
    assert_eq!(list(&["--count", "send_queue = 300 and retransmits > 1"]), "1\n");
    assert!(!list(&["--format", "json"]).contains("receive_queue"));
    assert!(
        !list(&["--format", "csv"]).contains("receive_queue")
            && list(&["--format", "csv", "-q"]).contains("receive_queue")
    );
    drop((unread, waiting, udp));
}

fn theirs_has(namespace: &Netns, ends: &str, word: &str) -> bool {
    by_ss(namespace, "-t")[ends].split_whitespace().any(|found| found == word)
}

#[test]
fn a_summary_counts_what_ss_counts() {
    let daemon = Daemon::shared();
    let namespace = Netns::new();
    let held = namespace.run(|| (["127.0.0.1", "::1"].map(connected), UdpSocket::bind("127.0.0.1:0").unwrap()));
    let inode = namespace.inode.to_string();
    let text = daemon.text(&["list", "-s", "--format", "ndjson", "--namespace", &inode]);
    let counts: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |protocol: &str, state: &str, member: &str| {
        counts.iter().find(|line| line["protocol"] == protocol && line["state"] == state).unwrap()[member]
            .as_u64()
            .unwrap()
    };
    let ss = |arguments: &[&str]| namespace.exec("ss", arguments).lines().count() as u64;
    assert_eq!(count("TCP", "ESTABLISHED", "count"), ss(&["-Htn", "state", "established"]));
    assert_eq!(count("TCP", "ESTABLISHED", "ipv6"), ss(&["-Htn6", "state", "established"]));
    assert_eq!(count("TCP", "LISTENING", "ipv4"), ss(&["-Htln4"]));
    assert_eq!(count("UDP", "UNCONNECTED", "count"), ss(&["-Huan"]));
    assert!(daemon.text(&["list", "-s", "--namespace", &inode]).contains("ESTABLISHED     2     2    4"));
    drop(held);
}
