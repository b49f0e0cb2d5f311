//! UDP sockets, bound, connected and idle: lists equal `ss`, and flows survive restarts of the daemon.

use std::{
    collections::{HashMap, HashSet},
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
};

use netconn_tests::{
    Daemon, Echo, Events, Netns, Socket as Row, between, connected, deliver, ended_flows, kernel, long, moment,
    netconn, rows, ss_udp, totals, udp, udp_sockets, unbound, until,
};
use serde_json::Value;
use socket2::Domain;

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

/// Returns the rows of a `netconn list` of a namespace.
fn list(daemon: &Daemon, namespace: &Netns, options: &[&str]) -> Vec<Value> {
    let inode = namespace.inode.to_string();
    let text = daemon.text(&[&["list", "--format", "json", "--namespace", &inode], options].concat());
    let object: Value = serde_json::from_str(&text).unwrap();
    object["connections"].as_array().unwrap().clone()
}

/// Compares `netconn list -u` with `ss -uanp`, and returns the difference. The list must have each socket of `ss`, with
/// one of its processes. Its other rows may only be flows of unconnected sockets, which `ss` does not know.
fn difference(daemon: &Daemon, namespace: &Netns) -> Option<String> {
    let (sockets, found) = (ss_udp(namespace), list(daemon, namespace, &["-u"]));
    // A flow of an unconnected socket has its local port, which tells it from a connected socket.
    let here: HashSet<&str> =
        sockets.iter().filter(|((_, _, to), _)| to.is_none()).map(|((_, at, _), _)| port_of(at)).collect();
    let mut left: Vec<(Row, u64)> =
        found.iter().map(|row| (rows(std::slice::from_ref(row)).remove(0), row["pid"].as_u64().unwrap_or(0))).collect();
    let mut missing = Vec::new();
    for (socket, pids) in &sockets {
        let is_it = |(row, pid): &(Row, u64)| row == socket && pids.iter().any(|one| u64::from(*one) == *pid);
        match left.iter().position(is_it) {
            Some(place) => drop(left.swap_remove(place)),
            None => missing.push(socket),
        }
    }
    left.retain(|((state, at, _), _)| state != "ESTABLISHED" || !here.contains(port_of(at)));
    let is_equal = missing.is_empty() && left.is_empty();
    (!is_equal).then(|| format!("only ss has {missing:#?}, only netconn has {left:#?}; {found:#?}"))
}

fn port_of(end: &str) -> &str {
    end.rsplit_once(' ').unwrap().1
}

/// Waits until the list equals that of `ss`. The process of a socket may be known a little later than the socket.
fn equals_ss(daemon: &Daemon, namespace: &Netns) {
    until(5000, || difference(daemon, namespace).unwrap_or_default(), || difference(daemon, namespace).is_none());
}

#[test]
fn lists_equal_ss() {
    let namespace = Netns::new();
    namespace.run(|| {
        let earlier = Echo::start("127.0.0.1", 0);
        let before = udp_sockets();
        let daemon = Daemon::start();
        equals_ss(&daemon, &namespace);
        let later = Echo::start("127.0.0.1", 0);
        let after = udp_sockets();
        equals_ss(&daemon, &namespace);
        // Unconnected sockets of both times are used, then connected ones.
        for echo in [&earlier, &later] {
            exchange(&before[0], echo, 1);
            exchange(&after[1], echo, 1);
        }
        for all in [&before, &after] {
            // The fifth of `udp_sockets` is connected to the first.
            all[4].send(&[0; 10]).unwrap();
            all[0].recv(&mut [0; 100]).unwrap();
        }
        equals_ss(&daemon, &namespace);
        options(&daemon, &namespace);
        // The lists are also equal after some are closed, one of them during a flow.
        drop((before, earlier));
        equals_ss(&daemon, &namespace);
        drop((after, later));
        let left = || list(&daemon, &namespace, &["-u"]);
        until(5000, || format!("{:#?}", left()), || left().is_empty());
    });
}

#[test]
fn sockets_that_nobody_bound_are_listed_when_they_have_a_port() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    namespace.run(|| {
        let echo = Echo::start("127.0.0.1", 0);
        let sockets = [unbound(Domain::IPV4), unbound(Domain::IPV6)];
        equals_ss(&daemon, &namespace);
        exchange(&sockets[0], &echo, 1);
        sockets[1].send_to(&[0; 10], ("::ffff:127.0.0.1", echo.port())).unwrap();
        sockets[1].recv(&mut [0; 100]).unwrap();
        // `ss` shows the sockets as UNCONN. No program has bound them, so they have no `IP Listen`.
        equals_ss(&daemon, &namespace);
        assert_eq!(daemon.events().within(&namespace).of("IP Listen").one()["local.port.number"], echo.port());
    });
}

/// Checks the options that select rows, with UDP sockets and a TCP connection.
fn options(daemon: &Daemon, namespace: &Netns) {
    let _tcp = connected("127.0.0.1");
    let unconnected = ss_udp(namespace).into_iter().filter(|(socket, _)| socket.0 == "UNCONNECTED").count();
    assert!(unconnected >= 12, "{unconnected}");
    let count = |options: &[&str], state: &str, protocol: &str| {
        let found = list(daemon, namespace, options);
        assert!(found.iter().all(|row| row["protocol"] == protocol), "{options:?}: {found:#?}");
        assert!(state.is_empty() || found.iter().all(|row| row["state"] == state), "{options:?}: {found:#?}");
        found.len()
    };
    for options in [&["-u", "--state", "unconnected"][..], &["--state", "unconn"], &["-u", "-l"]] {
        assert_eq!(count(options, "UNCONNECTED", "UDP"), unconnected, "{options:?}");
    }
    let all = count(&["-u"], "", "UDP");
    assert_eq!(count(&["-u", "--state", "established"], "ESTABLISHED", "UDP"), all - unconnected);
    assert_eq!(count(&["-t"], "", "TCP"), 3);
    assert_eq!(count(&["-t", "-l"], "LISTENING", "TCP"), 1);
    assert_eq!(list(daemon, namespace, &[]).len(), all + 3, "everything, if nothing is chosen");
    assert_eq!(list(daemon, namespace, &["-l"]).len(), unconnected + 1, "as ss -l");
    let inode = namespace.inode.to_string();
    let table = daemon.text(&["list", "-u", "-H", "--namespace", &inode]);
    assert_eq!(table.lines().filter(|line| line.contains("UNCONN")).count(), unconnected, "{table}");
    let csv = daemon.text(&["list", "-u", "--format", "csv", "--namespace", &inode]);
    assert_eq!(csv.lines().count(), all + 1, "{csv}");
    let pid = std::process::id();
    for row in list(daemon, namespace, &["-u", "-l", "--pid", &pid.to_string()]) {
        assert_eq!(row["pid"], pid);
        assert!(row.get("remote_address").is_none() && row.get("remote_port").is_none(), "{row:#}");
    }
}

#[test]
fn bound_sockets_are_listeners() {
    let namespace = Netns::new();
    let before = namespace.run(|| udp("127.0.0.1:0"));
    let daemon = Daemon::start();
    let after = namespace.run(|| udp("[::]:0"));
    let ports = [port(&before), port(&after)];
    let events = |kind: &str| daemon.events().within(&namespace).of(kind);
    until(5000, || format!("{:#?}", events("IP Listen")), || events("IP Listen").len() == 2);
    drop((before, after));
    until(5000, || format!("{:#?}", events("IP Listen End")), || events("IP Listen End").len() == 2);
    for (port, is_earlier, address) in [(ports[0], true, "127.0.0.1"), (ports[1], false, "::")] {
        let listen = events("IP Listen").with("local.port.number", port).one().clone();
        assert_eq!(listen["event.network.preexisting"] == true, is_earlier, "{listen:#}");
        assert_eq!((&listen["event.network.protocol"], &listen["local.ip.address"]), (&"UDP".into(), &address.into()));
        assert_eq!(listen["src.process.pid"], std::process::id(), "{listen:#}");
        let end = events("IP Listen End").with("local.port.number", port).one().clone();
        assert_eq!(end["event.connection.id"], listen["event.connection.id"]);
    }
    assert!(events("IP Connect").is_empty(), "nothing was sent");
}

#[test]
fn watch_shows_udp() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let mut command = Command::new(netconn());
    command.args(["watch", "-u", "--format", "ndjson", "--count=2", "--direction", "outgoing"]);
    command.arg("--namespace").arg(namespace.inode.to_string()).arg("--socket").arg(daemon.socket());
    let watch = thread::spawn(move || command.output().unwrap());
    // The stream begins when the daemon has read the request.
    until(5000, || "nobody watches".into(), || daemon.ask("/v1/health").unwrap().contains("\"clients\":1"));
    let server_port = namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let (client, server) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
        deliver(&client, (&server, server.local_addr().unwrap()), 10);
        port(&server)
    });
    let output = watch.join().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let events = Events(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
    assert_eq!(events.values("event.type"), ["IP Connect", "IP Close"]);
    assert_eq!(events.with("event.network.protocol", "UDP").with("remote.port.number", server_port).len(), 2);
}

#[test]
fn what_is_silent_ends() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured("flow_idle_seconds = 2\nflow_idle_both_seconds = 4");
    namespace.run(|| {
        let echo = Echo::start("127.0.0.1", 0);
        let (both, one, sink) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"), udp("127.0.0.1:0"));
        let to = sink.local_addr().unwrap();
        for _ in 0..3 {
            both.send_to(&[0; 10], echo.address).unwrap();
            both.recv(&mut [0; 100]).unwrap();
            deliver(&one, (&sink, to), 10);
            // The time is fixed, because the duration of the flow is compared with the sum.
            thread::sleep(long(20));
        }
        // All sockets stay open, and no request is made, so the daemon ends the flows by itself.
        let closes = ended_flows(&daemon, &namespace, "UDP", 4, |_| true);
        for (local, remote, expected, idle) in [
            (port(&both), echo.port(), (3, 30, 3, 30), 4000.0),
            (echo.port(), port(&both), (3, 30, 3, 30), 4000.0),
            (port(&one), to.port(), (3, 30, 0, 0), 2000.0),
            (to.port(), port(&one), (0, 0, 3, 30), 2000.0),
        ] {
            let close = between(&closes, local, remote);
            assert_eq!(close["event.network.closeReason"], "idle", "{close:#}");
            assert_eq!(totals(&close), expected, "{close:#}");
            // The duration is from the first to the last datagram. The event's time is when the flow became idle.
            let duration = close["event.network.durationMs"].as_f64().unwrap();
            assert!(duration >= long(40).as_secs_f64() * 1000.0, "{close:#}");
            let id = close["event.connection.id"].clone();
            let connect = daemon.events().of("IP Connect").with("event.connection.id", id).one().clone();
            let time = |event: &Value| event["event.time"].as_f64().unwrap();
            // The event's time less that of the last datagram.
            let silent = time(&close) - time(&connect) - duration;
            assert!((silent - idle).abs() <= 2.0, "{silent} ms of silence: {close:#}");
        }
        let rows = list(&daemon, &namespace, &["-u", "--state", "established"]);
        assert!(rows.is_empty(), "{rows:#?}");
        // A later datagram begins another flow, with its own totals.
        deliver(&one, (&sink, to), 7);
        let earlier: HashSet<_> = closes.values("event.connection.id").iter().map(ToString::to_string).collect();
        let (one_port, sink_port) = (port(&one), to.port());
        drop((one, sink));
        let is_new = |event: &Value| !earlier.contains(&event["event.connection.id"].to_string());
        let closes = ended_flows(&daemon, &namespace, "UDP", 2, is_new);
        let close = between(&closes, one_port, sink_port);
        assert_eq!(totals(&close), (1, 7, 0, 0));
        assert_eq!(close["event.network.closeReason"], "local");
    });
}

/// Sends `count` datagrams of ten bytes and receives their answers.
fn exchange(client: &UdpSocket, echo: &Echo, count: usize) {
    for _ in 0..count {
        client.send_to(&[0; 10], echo.address).unwrap();
        assert_eq!(client.recv(&mut [0; 100]).unwrap(), 10);
    }
}

#[test]
fn flows_outlive_the_daemon() {
    for end in [Daemon::kill, Daemon::end] {
        let namespace = Netns::new();
        namespace.run(|| {
            let daemon = Daemon::start();
            let echo = Echo::start("127.0.0.1", 0);
            let (stays, goes) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
            exchange(&stays, &echo, 3);
            exchange(&goes, &echo, 2);
            let ids = |daemon: &Daemon| -> HashMap<String, String> {
                let found = list(daemon, &namespace, &["-u"]);
                let ends = |row: &Value| format!("{} {}", row["local_port"], row["remote_port"]);
                found.iter().map(|row| (ends(row), row["connection_id"].to_string())).collect()
            };
            // There are two flows with two ends each, and three bound sockets.
            until(5000, || format!("{:#?}", ids(&daemon)), || ids(&daemon).len() == 7);
            let before = ids(&daemon);
            let known = daemon.events().within(&namespace).of("IP Connect").len();
            assert_eq!(known, 4);

            let killed = end(daemon);
            let (stays_port, goes_port) = (port(&stays), port(&goes));
            drop(goes);
            let daemon = killed.start();
            exchange(&stays, &echo, 4);
            // The socket that was closed meanwhile is gone, and the others have the same ids as before.
            let goes_ends = [format!("{goes_port} {}", echo.port()), format!("{goes_port} null")];
            let mut expected = before.clone();
            expected.retain(|ends, _| !goes_ends.contains(ends));
            until(15_000, || format!("{expected:#?} {:#?}", ids(&daemon)), || ids(&daemon) == expected);
            let is_gone = |event: &Value| event["local.port.number"] == goes_port;
            let gone = ended_flows_after(&daemon, &namespace, 1, is_gone).one().clone();
            assert_eq!(gone["event.connection.id"].to_string(), before[&goes_ends[0]], "{gone:#}");
            assert_eq!(gone["event.network.closeReason"], "unknown");
            assert_eq!(totals(&gone), (2, 20, 2, 20), "{gone:#}");

            drop((stays, echo));
            let closes = ended_flows_after(&daemon, &namespace, 4, |_| true);
            let close = between(&closes, stays_port, gone["remote.port.number"].as_u64().unwrap().try_into().unwrap());
            assert_eq!(totals(&close), (7, 70, 7, 70), "{close:#}");
            assert_eq!(close["src.process.pid"], std::process::id(), "{close:#}");
            // No flow has a second id, and each begins once: an event that repeats a beginning is marked as
            // preexisting.
            let connects = daemon.events().within(&namespace).of("IP Connect");
            let began: Vec<_> =
                connects.0.iter().filter(|event| event["event.network.preexisting"] != true).cloned().collect();
            assert_eq!(began.len(), 4, "{connects:#?}");
            let ids: HashSet<_> = connects.values("event.connection.id").iter().map(ToString::to_string).collect();
            assert_eq!(ids.len(), 4, "{connects:#?}");
        });
    }
}

/// Waits for the `IP Close` of `count` UDP flows and returns them. Unlike [`ended_flows`], it allows for a second
/// `IP Connect` by another daemon.
fn ended_flows_after(daemon: &Daemon, namespace: &Netns, count: usize, is_wanted: impl Fn(&Value) -> bool) -> Events {
    let closes = || {
        let mut events = daemon.events().within(namespace).of("IP Close").with("event.network.protocol", "UDP");
        events.0.retain(&is_wanted);
        events
    };
    until(15_000, || format!("{count}: {:#?}", daemon.events().within(namespace)), || closes().len() >= count);
    moment();
    assert_eq!(closes().len(), count, "{:#?}", closes());
    closes()
}

#[test]
fn fewer_flow_events_are_emitted_on_request() {
    for level in ["sockets", "off"] {
        let namespace = Netns::new();
        let daemon = Daemon::start_configured(&format!("flows = '{level}'"));
        let (client_port, server_port) = namespace.run(|| {
            let (client, server, other) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"), unbound(Domain::IPV4));
            let to = server.local_addr().unwrap();
            client.connect(to).unwrap();
            client.send(&[0; 10]).unwrap();
            server.recv(&mut [0; 100]).unwrap();
            deliver(&other, (&server, to), 10);
            let ports = (port(&client), port(&server));
            drop((client, server, other));
            // The events of TCP are emitted at every level, and come after those of the datagrams.
            drop(connected("127.0.0.1"));
            ports
        });
        let events = || daemon.events().within(&namespace);
        let tcp = || events().with("event.network.protocol", "TCP").of("IP Close");
        until(5000, || format!("{level}: {:#?}", events()), || tcp().len() == 2);
        let found = || events().with("event.network.protocol", "UDP");
        // Nothing can be waited for here: the events of TCP show that earlier records were read.
        if level == "off" {
            moment();
            assert!(found().is_empty(), "{:#?}", found());
            continue;
        }
        until(5000, || format!("{:#?}", found()), || found().len() >= 6);
        moment();
        let found = found();
        for kind in ["IP Listen", "IP Listen End"] {
            let listeners = found.of(kind);
            assert_eq!(listeners.len(), 2, "{found:#?}");
            assert_eq!(listeners.with("local.port.number", server_port).len(), 1, "{found:#?}");
        }
        assert_eq!(between(&found.of("IP Connect"), client_port, server_port)["src.process.attribution"], "connect");
        let close = between(&found.of("IP Close"), client_port, server_port);
        assert!(close.get("event.network.bytesSent").is_none(), "nothing is counted: {close:#}");
        assert_eq!(found.len(), 6, "{found:#?}");
    }
}

#[test]
fn without_flows_lists_equal_ss_too() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured("flows = 'sockets'");
    namespace.run(|| {
        let held = udp_sockets();
        equals_ss(&daemon, &namespace);
        // The connect hook runs before an unbound socket gets its address and port.
        let connects = daemon.events().within(&namespace).of("IP Connect").with("remote.port.number", port(&held[0]));
        for event in &connects.0 {
            assert_ne!(event["local.ip.address"], "0.0.0.0", "unknown is left out: {event:#}");
        }
    });
}

/// The kernel's own sockets are bound like others, but no hook runs when they are closed (`inet_release` in
/// `net/ipv4/af_inet.c`). The next list finds out, even if their namespace has ended with them.
#[test]
fn a_socket_of_the_kernel_ends_when_its_device_does() {
    let [stays, goes] = [Netns::new(), Netns::passing()];
    let daemon = Daemon::start();
    let device = ["type", "vxlan", "id", "5", "dev", "lo", "dstport", "4789"];
    for namespace in [&stays, &goes] {
        namespace.ip(&[&["link", "add", "vxlan0"], &device[..]].concat());
        namespace.ip(&["link", "set", "vxlan0", "up"]);
        let rows = || list(&daemon, namespace, &["-u"]);
        until(5000, || format!("{:#?}", rows()), || rows().len() == 1);
        assert_eq!(rows()[0]["local_port"], 4789);
    }
    stays.ip(&["link", "del", "vxlan0"]);
    let mut inodes = vec![stays.inode];
    // Before 5.12 the sockets of a namespace without a name cannot be listed.
    if kernel() >= (5, 12) {
        inodes.push(goes.inode);
    }
    drop(goes);
    let rows = || {
        let all = daemon.rows("/v1/connections?format=ndjson");
        all.into_iter().filter(|row| inodes.iter().any(|inode| row["namespace"] == *inode)).collect::<Vec<_>>()
    };
    until(5000, || format!("{:#?}", rows()), || rows().is_empty());
    let all = daemon.stop();
    for inode in inodes {
        let events = all.with("event.network.namespace", inode);
        assert_eq!((events.of("IP Listen").len(), events.of("IP Listen End").len()), (1, 1), "{events:#?}");
    }
}
