//! Conditions of `netconn list` and `netconn watch`: of ss, of the language of searches, and their negation. The oracle is `ss`.

use std::{collections::BTreeSet, net::TcpListener, process::Stdio, thread};

use netconn_tests::{Daemon, Netns, Socket, connected, long, rows, until};
use serde_json::Value;

/// Returns what `ss` shows of TCP with a condition: local and remote ends, a line each.
fn by_ss(namespace: &Netns, condition: &str) -> BTreeSet<String> {
    // A condition with states replaces the option for all of them.
    let all = if condition.contains("state") || condition.contains("exclude") { "-tnH" } else { "-tanH" };
    let text = namespace.exec("sh", &["-c", &format!("ss {all} {condition}")]);
    // The state is left out where only one is shown.
    let ends = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[words.len() - 2..].join(" ")
    };
    text.lines().map(ends).collect()
}

/// Returns what a list of a namespace shows, as `ss` writes it.
fn listed(daemon: &Daemon, namespace: &Netns, arguments: &[&str]) -> BTreeSet<String> {
    let inode = namespace.inode.to_string();
    let text = daemon.text(&[&["list", "--format", "json", "-t", "--namespace", &inode], arguments].concat());
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let end = |end: String| {
        let (address, port) = end.split_once(' ').unwrap();
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    let line = |(_, local, remote): Socket| {
        let local = end(local);
        // ss writes `*` for the other end of a listener of either version.
        let any = if local.starts_with('[') { "[::]:*" } else { "0.0.0.0:*" };
        format!("{local} {}", remote.map_or_else(|| any.to_owned(), end))
    };
    rows(object["connections"].as_array().unwrap()).into_iter().map(line).collect()
}

#[test]
fn conditions_of_ss_select_what_ss_selects() {
    let daemon = Daemon::shared();
    let namespace = Netns::new();
    let (held, other) = namespace.run(|| {
        let held = ["127.0.0.1", "127.0.0.1", "::1"].map(connected);
        held[1].1.shutdown(std::net::Shutdown::Write).unwrap(); // FIN_WAIT2 and CLOSE_WAIT
        (held, TcpListener::bind("127.0.0.1:443").unwrap())
    });
    let port = held[0].0.local_addr().unwrap().port();
    let all = || listed(daemon, &namespace, &[]);
    until(10_000, || format!("{:?}", all()), || all() == by_ss(&namespace, ""));
    for condition in [
        format!("sport = :{port}"),
        format!("dport = :{port}"),
        format!("dport != :{port}"),
        format!("'( dport = :{port} or sport = :{port} )'"),
        format!("'( dport = :{port} or sport = :{port} )' and not dst 127.0.0.1:{port}"),
        "sport = :https".into(),
        "sport lt :1024".into(),
        "src 127/8".into(),
        "src [::1] dst [::1]".into(),
        "dst [::1]".into(),
        "'!' src 127.0.0.1".into(),
        "state established".into(),
        "state listening".into(),
        "state fin-wait-2 state close-wait".into(),
        "exclude listening exclude established".into(),
        format!("state connected dport = :{port}"),
    ] {
        let expected = by_ss(&namespace, &condition);
        // As the shell splits it, and as one word.
        let plain = condition.replace('\'', "");
        let words: Vec<&str> = plain.split(' ').collect();
        assert_eq!(listed(daemon, &namespace, &words), expected, "{condition}");
        assert_eq!(listed(daemon, &namespace, &[&plain]), expected, "{condition}");
        assert!(!expected.is_empty(), "{condition} selects nothing");
    }
    // The options and the language say the same.
    let remote = by_ss(&namespace, &format!("dport = :{port}"));
    let text = port.to_string();
    assert_eq!(listed(daemon, &namespace, &["--remote-port", &text]), remote);
    assert_eq!(listed(daemon, &namespace, &[&format!("remote.port.number = {port}")]), remote);
    let local = by_ss(&namespace, &format!("sport = :{port}"));
    assert_eq!(listed(daemon, &namespace, &["--local-port", &text]), local);
    let others = by_ss(&namespace, &format!("sport != :{port} and dport != :{port}"));
    assert_eq!(listed(daemon, &namespace, &["--not-port", &text]), others);
    assert_eq!(listed(daemon, &namespace, &["--port", &format!("!{text}")]), others);
    let language = format!("not (local.port.number = {port} or remote.port.number = {port})");
    assert_eq!(listed(daemon, &namespace, &[&language]), others);
    assert_eq!(listed(daemon, &namespace, &["--not-listening"]), by_ss(&namespace, "state connected"));
    assert_eq!(listed(daemon, &namespace, &["--port", "https"]), by_ss(&namespace, "sport = :443"));
    assert_eq!(listed(daemon, &namespace, &["--not-process", "*"]).len(), 0, "all processes are known");
    drop((held, other));
}

#[test]
fn counts_groups_and_exit_codes_are_those_of_what_a_condition_selects() {
    let daemon = Daemon::shared();
    let namespace = Netns::new();
    let held = namespace.run(|| connected("127.0.0.1"));
    let port = held.0.local_addr().unwrap().port();
    let inode = namespace.inode.to_string();
    let list = |arguments: &[&str]| {
        let output = daemon.run(&[&["list", "--namespace", &inode], arguments].concat());
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    let condition = format!("dst.port.number = {port}");
    // Both ends are here, and the listener has no role.
    assert_eq!(list(&["--count", &condition]).0, "2\n");
    assert_eq!(list(&["--count", "--group-by", "direction", "state established"]).0, "1 INCOMING\n1 OUTGOING\n");
    assert_eq!(list(&["-e", "dst.port.number = 1"]).2, Some(1));
    assert_eq!(list(&["-e", &condition]).2, Some(0));
    let (out, error, code) = list(&["dst.port.nubmer = 443"]);
    assert!(out.lines().count() < 2 && code == Some(0) && error.contains("dst.port.number"), "{out}{error}");
    let (out, error, code) = list(&["dst.port.number ="]);
    assert!(out.is_empty() && code == Some(65) && error.starts_with("error: "), "{out}{error}{code:?}");
    let (_, error, code) = list(&["event.type = 'IP Connect'"]);
    assert!(error.contains("a field of events that connections in a list do not have") && code == Some(0), "{error}");
    let (_, error, code) = list(&["-tK"]);
    assert!(error.contains("netconn: instead of -K: netconn only looks") && code == Some(2), "{error}");
}

#[test]
fn a_stream_has_only_events_for_which_the_condition_holds() {
    let daemon = Daemon::shared();
    let namespace = Netns::new();
    let (wanted, unwanted) = namespace.run(|| [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap())).into();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let condition = format!(
        "event.type = 'IP Connect' and dst.port.number = {} and event.network.namespace = {} and event.network.direction = 'OUTGOING'",
        port(&wanted),
        namespace.inode
    );
    let watch = std::process::Command::new(netconn_tests::netconn())
        .args(["watch", "--format", "ndjson", "--count", "1", "--socket"])
        .arg(daemon.socket())
        .arg(&condition)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The client is there once the daemon streams to it.
    thread::sleep(long(500));
    namespace.run(|| {
        for listener in [&unwanted, &wanted] {
            drop(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        }
    });
    let output = watch.wait_with_output().unwrap();
    let events: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["dst.port.number"], port(&wanted));
}
