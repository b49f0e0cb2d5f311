//! Datagrams of real programs: a resolver and its clients, iperf3, traceroute, nping and hping3.

use std::{
    collections::HashMap,
    process::{Child, Stdio},
};

use netconn_tests::{Capture, Daemon, Events, Netns, Pair, between, ended_flows, ss_udp, totals, until};
use serde_json::Value;

const QUERIES: usize = 100;

/// A server program. It is killed when dropped.
struct Server(Child);

impl Server {
    /// Starts a program and waits until it has a UDP socket at `end` (`ADDRESS PORT`).
    fn start(namespace: &Netns, program: &str, arguments: &[&str], end: &str) -> Self {
        let mut command = namespace.command(program, arguments);
        let server = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        let sockets = || ss_udp(namespace);
        until(
            10_000,
            || format!("{program} has not {end}: {:#?}", sockets()),
            || sockets().iter().any(|((_, at, _), _)| at == end),
        );
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, whether it succeeds or not. Returns its process id and its standard output.
fn run(namespace: &Netns, program: &str, arguments: &[&str]) -> (u32, String) {
    let child = namespace.command(program, arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    (pid, String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
}

/// Waits for the `IP Close` of `count` flows of a process and returns them: see [`ended_flows`].
fn of_process(daemon: &Daemon, namespace: &Netns, protocol: &str, pid: u32, count: usize) -> Events {
    ended_flows(daemon, namespace, protocol, count, |event| event["src.process.pid"] == pid)
}

#[test]
fn each_query_is_a_flow_of_whom_asked() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let options = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--user=root",
        "--pid-file=",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--address=/example.test/192.0.2.7",
        "--local=/test/",
    ];
    let resolver = Server::start(&namespace, "dnsmasq", &options, "127.0.0.1 53");
    let capture = Capture::start(&namespace, "lo");
    let mut asked = HashMap::new();
    for number in 0..QUERIES {
        let name = format!("{}.example.test", "x".repeat(1 + number % 60));
        // Each query has its own port: the resolver would have one flow for two queries from the same port.
        let from = format!("127.0.0.1#{}", 20_000 + number);
        let (pid, text) = run(&namespace, "dig", &["@127.0.0.1", "-b", &from, "+short", "+tries=1", &name, "A"]);
        assert_eq!(text, "192.0.2.7\n", "{name}");
        asked.insert(u64::from(pid), name);
    }
    assert_eq!(asked.len(), QUERIES, "each dig is a process of its own");
    let wire = capture.end(&namespace, "127.0.0.1").udp();
    assert_eq!(wire.0.len(), 2 * QUERIES);
    // The flows of the resolver end with its socket.
    let resolver_pid = resolver.0.id();
    drop(resolver);

    let closes = ended_flows(&daemon, &namespace, "UDP", 2 * QUERIES, |_| true);
    let (asking, serving) = (closes.with("remote.port.number", 53), closes.with("local.port.number", 53));
    assert_eq!((asking.len(), serving.len()), (QUERIES, QUERIES));
    for close in &asking.0 {
        let pid = close["src.process.pid"].as_u64().unwrap_or_else(|| panic!("no process: {close:#}"));
        let name = asked.remove(&pid).unwrap_or_else(|| panic!("{pid} is none, or has two flows: {close:#}"));
        assert!(close["src.process.cmdline"].as_str().unwrap().contains(&name), "{close:#}");
        assert_eq!(close["src.process.image.path"], "/usr/bin/dig");
        assert_eq!(close["src.process.attribution"], "connect");
        assert_eq!(close["event.network.direction"], "OUTGOING");
        assert_eq!(totals(close), wire.of(close), "{close:#}");
        let (sent, _, received, _) = totals(close);
        assert_eq!((sent, received), (1, 1), "{close:#}");
        let port = u16::try_from(close["local.port.number"].as_u64().unwrap()).unwrap();
        let other = between(&serving, 53, port);
        assert_eq!(other["src.process.pid"], resolver_pid, "{other:#}");
        assert_eq!(other["event.network.direction"], "INCOMING");
        assert_eq!(totals(&other), wire.of(&other), "{other:#}");
        assert_eq!(other["event.network.communityId"], close["event.network.communityId"]);
    }
    assert!(daemon.stop().of("Data Loss").is_empty());
}

#[test]
fn iperf3_moves_what_tcpdump_has_counted() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    // The server ends after one run. It waits for the client with TCP, and opens its UDP port during the run.
    let mut server = namespace.command("iperf3", &["--server", "--one-off", "--bind", "127.0.0.1"]);
    let mut server = Server(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let is_ready = || namespace.exec("ss", &["-tlnH"]).contains(":5201");
    until(10_000, || "iperf3 does not listen".into(), is_ready);
    let capture = Capture::start(&namespace, "lo");
    // Each side sends 10,000 datagrams, at a rate that loopback and the capture can handle.
    let options = ["--client", "127.0.0.1", "--udp", "--bitrate", "100M", "--length", "1200", "--bytes", "12M"];
    let (pid, text) = run(&namespace, "iperf3", &[&options[..], &["--bidir", "--json"]].concat());
    let said: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(said.get("error").is_none(), "{text}");
    let server_pid = server.0.id();
    assert!(server.0.wait().unwrap().success());
    let wire = capture.end(&namespace, "127.0.0.1").udp();

    let closes = ended_flows(daemon, &namespace, "UDP", 4, |_| true);
    let client = closes.with("src.process.pid", pid);
    assert_eq!((client.len(), closes.with("src.process.pid", server_pid).len()), (2, 2), "{closes:#?}");
    assert_eq!(client.with("event.network.direction", "OUTGOING").len(), 2, "{closes:#?}");
    let mut counted = 0;
    for close in &closes.0 {
        assert_eq!(totals(close), wire.of(close), "{close:#}");
        counted += totals(close).0;
    }
    assert_eq!(counted, wire.totals().0, "nothing passed that no flow has");
    let sent = said["end"]["sum_sent"]["bytes"].as_u64().unwrap();
    assert!(client.sum("event.network.bytesSent") >= sent, "{sent} by its own words");
}

#[test]
fn each_probe_of_traceroute_is_a_flow() {
    let pair = Pair::new();
    let daemon = Daemon::shared();
    let capture = Capture::start(&pair.here, "cable");
    let (pid, text) = run(&pair.here, "traceroute", &["-n", "-w", "1", "10.0.0.2"]);
    assert!(text.contains(" 1  10.0.0.2 "), "{text}");
    let wire = capture.end(&pair.here, "10.0.0.2").udp();
    assert!(wire.0.len() >= 3, "{wire:?}");
    let closes = of_process(daemon, &pair.here, "UDP", pid, wire.0.len());
    for packet in &wire.0 {
        let close = between(&closes, packet.from.port(), packet.to.port());
        // The answers are ICMP messages, which do not count for the UDP flow.
        assert_eq!(totals(&close), (1, packet.payload, 0, 0), "{close:#}");
        assert_eq!(totals(&close), wire.of(&close));
        assert!(close["src.process.image.path"].as_str().unwrap().contains("traceroute"), "{close:#}");
    }

    let capture = Capture::start(&pair.here, "cable");
    let (pid, text) = run(&pair.here, "traceroute", &["-I", "-n", "-w", "1", "10.0.0.2"]);
    assert!(text.contains(" 1  10.0.0.2 "), "{text}");
    let wire = capture.end(&pair.here, "10.0.0.2").icmp();
    let close = of_process(daemon, &pair.here, "ICMP", pid, 1).one().clone();
    assert_eq!(totals(&close), wire.of(&close), "{close:#}");
    assert_eq!(close["event.network.icmpType"], 8, "{close:#}");
}

#[test]
fn packets_made_by_hand_are_flows() {
    let pair = Pair::new();
    let daemon = Daemon::shared();
    let to = "10.0.0.2";
    let (udp, icmp) = (["--udp", "-p", "5353"], ["--icmp"]);
    let nping = |options: &[&str]| {
        let rest = ["--send-ip", "-c", "3", "--delay", "50ms", "--data-length", "20", to];
        run(&pair.here, "nping", &[options, &rest[..]].concat()).0
    };
    let hping = |options: &[&str]| {
        let rest = ["-c", "3", "-i", "u50000", "-d", "50", to];
        run(&pair.here, "hping3", &[options, &rest[..]].concat()).0
    };
    // --keep: hping3 would otherwise change its port with each packet, and each would be a flow.
    let hping_udp = ["--udp", "-p", "5354", "--keep", "--baseport", "4000"];
    let cases: [(&str, &dyn Fn() -> u32, &str, u64); 4] = [
        ("nping, UDP", &|| nping(&udp), "UDP", 20),
        ("nping, ICMP", &|| nping(&icmp), "ICMP", 20),
        ("hping3, UDP", &|| hping(&hping_udp), "UDP", 50),
        ("hping3, 253", &|| hping(&["--rawip", "--ipproto", "253"]), "253", 50),
    ];
    for (name, case, protocol, size) in cases {
        let capture = Capture::start(&pair.here, "cable");
        let pid = case();
        let wire = capture.end(&pair.here, to);
        let close = of_process(daemon, &pair.here, protocol, pid, 1).one().clone();
        assert_eq!(close["remote.ip.address"], to, "{name}: {close:#}");
        assert_eq!(close["event.network.direction"], "OUTGOING", "{name}");
        let (sent, sent_bytes, ..) = totals(&close);
        assert_eq!((sent, sent_bytes), (3, 3 * size), "{name}: {close:#}");
        // The programs read the answers from the device, not from the sending socket, so the flow has received nothing.
        let (seen, seen_bytes, ..) = wire.of(&close);
        assert_eq!((sent, sent_bytes), (seen, seen_bytes), "{name}: {close:#}");
    }
}
