//! UDP flows: their processes, ends, directions and totals, compared with tcpdump.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{
    Capture, Daemon, Echo, Events, Forked, Netns, Pair, Random, between, deliver, ended_flows, kernel, long, moment,
    pause, step, totals, udp, unbound, until,
};
use nix::{
    libc,
    sys::socket::{
        setsockopt,
        sockopt::{UdpGroSegment, UdpGsoSegment},
    },
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Sizes of the datagrams of an exchange in bytes: empty, one byte, a first packet of QUIC, one that is more than most
/// frames hold, and the largest of IPv4.
const SIZES: [usize; 5] = [0, 1, 1200, 9000, 65_507];

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

/// Waits for the `IP Close` of all UDP flows of a namespace: see [`ended_flows`].
fn ended(namespace: &Netns, count: usize) -> Events {
    ended_flows(Daemon::shared(), namespace, "UDP", count, |_| true)
}

#[test]
fn every_exchange_is_a_flow_at_either_end() {
    for (server, family, to) in [
        ("127.0.0.1", Domain::IPV4, "127.0.0.1"),
        ("::1", Domain::IPV6, "::1"),
        // An IPv6 socket at one end, and IPv4 at the other.
        ("::", Domain::IPV4, "127.0.0.1"),
        ("127.0.0.1", Domain::IPV6, "::ffff:127.0.0.1"),
    ] {
        exchange(server, family, to, false);
        exchange(server, family, to, true);
    }
}

fn exchange(server: &str, family: Domain, to: &str, is_connected: bool) {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let capture = Capture::start(&namespace, "lo");
    let what = format!("{to} is connected to: {is_connected}");
    let (mut client_port, mut server_port, mut server_pid, mut took) = (0, 0, 0, Duration::ZERO);
    namespace.run(|| {
        let echo = Echo::start(server, 0);
        let client = unbound(family);
        let to = SocketAddr::new(to.parse().unwrap(), echo.port());
        if is_connected {
            client.connect(to).unwrap();
        }
        let since = Instant::now();
        for size in SIZES {
            let datagram = vec![0; size];
            let sent = if is_connected { client.send(&datagram) } else { client.send_to(&datagram, to) };
            assert_eq!(sent.unwrap(), size);
            assert_eq!(client.recv_from(&mut vec![0; 65_536]).unwrap().0, size);
            // The time is fixed, because the duration of the flow is compared with the sum.
            thread::sleep(Duration::from_millis(10));
        }
        took = since.elapsed();
        (client_port, server_port, server_pid) = (port(&client), echo.port(), echo.process.pid);
    });
    let wire = capture.end(&namespace, "127.0.0.1").udp();

    let closes = ended(&namespace, 2);
    let bytes = SIZES.iter().sum::<usize>() as u64;
    for (local, remote, direction, pid, attribution) in [
        (client_port, server_port, "OUTGOING", std::process::id(), if is_connected { "connect" } else { "send" }),
        (server_port, client_port, "INCOMING", server_pid, "receive"),
    ] {
        let close = between(&closes, local, remote);
        assert_eq!(totals(&close), (5, bytes, 5, bytes), "{what}: {close:#}");
        assert_eq!(totals(&close), wire.of(&close), "{what}: {close:#}");
        assert_eq!(close["event.network.direction"], direction, "{what}: {close:#}");
        assert_eq!(close["event.network.protocolName"], "udp");
        assert_eq!(close["event.network.closeReason"], "local");
        assert_eq!(close["src.process.pid"], pid, "{what}: {close:#}");
        assert_eq!(close["src.process.attribution"], attribution, "{what}: {close:#}");
        // src is the initiator in the events of both ends.
        assert_eq!(close["src.port.number"], client_port);
        assert_eq!(close["dst.port.number"], server_port);
        let duration = close["event.network.durationMs"].as_f64().unwrap();
        assert!(duration >= 40.0 && duration <= took.as_secs_f64() * 1000.0, "{duration} of {took:?}");
    }
    let hashes = closes.values("event.network.communityId");
    assert!(hashes[0].is_string() && hashes[0] == hashes[1], "{what}: {hashes:?}");
    // Only the server's socket was bound by the program.
    let events = || daemon.events().within(&namespace);
    until(5000, || format!("{:#?}", events()), || !events().of("IP Listen End").is_empty());
    for kind in ["IP Listen", "IP Listen End"] {
        let event = events().of(kind).one().clone();
        assert_eq!(
            (&event["local.port.number"], &event["event.network.protocol"]),
            (&server_port.into(), &"UDP".into())
        );
        assert_eq!(event["src.process.pid"], server_pid, "{event:#}");
        assert!(event.get("remote.ip.address").is_none());
    }
}

#[test]
fn bytes_are_those_on_the_wire() {
    let pair = Pair::new();
    let daemon = Daemon::shared();
    for (here, there) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let capture = Capture::start(&pair.here, "cable");
        let client = pair.here.run(|| udp((here, 0)));
        let server = pair.there.run(|| udp((there, 0)));
        let to = server.local_addr().unwrap();
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for number in 0..500 {
            // Most datagrams are as large as those of QUIC; every fiftieth is fragmented.
            let size = if number % 50 == 0 { 8000 } else { random.below(1453) };
            let from = deliver(&client, (&server, to), size);
            deliver(&server, (&client, from), random.below(1453));
        }
        drop((client, server));
        let wire = capture.end(&pair.here, "10.0.0.2").udp();
        for (namespace, address) in [(&pair.here, here), (&pair.there, there)] {
            let close =
                ended_flows(daemon, namespace, "UDP", 1, |event| event["local.ip.address"] == address).one().clone();
            let (sent, _, received, _) = totals(&close);
            assert_eq!((sent, received), (500, 500), "{close:#}");
            assert_eq!(totals(&close), wire.of(&close), "{close:#}");
        }
    }
}

#[test]
fn what_the_kernel_cuts_or_joins_counts_in_pieces() {
    const PIECE: usize = 1200;
    const PART: usize = 10 * PIECE + 300;
    for is_joined in [false, true] {
        let namespace = Netns::new();
        let capture = Capture::start(&namespace, "lo");
        let (client_port, server_port) = namespace.run(|| {
            let (client, server) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
            // The kernel cuts what `send_to` gets into datagrams of this size.
            setsockopt(&client, UdpGsoSegment, &i32::try_from(PIECE).unwrap()).unwrap();
            setsockopt(&server, UdpGroSegment, &is_joined).unwrap();
            for _ in 0..10 {
                assert_eq!(client.send_to(&[0; PART], server.local_addr().unwrap()).unwrap(), PART);
                let mut received = 0;
                while received < PART {
                    let length = server.recv(&mut [0; 65_536]).unwrap();
                    assert!(is_joined || length <= PIECE, "the kernel has not cut");
                    received += length;
                }
            }
            (port(&client), port(&server))
        });
        let wire = capture.end(&namespace, "127.0.0.1").udp();
        let closes = ended(&namespace, 2);
        let (client, server) = (between(&closes, client_port, server_port), between(&closes, server_port, client_port));
        let bytes = 10 * PART as u64;
        assert_eq!(totals(&client), (110, bytes, 0, 0), "joined: {is_joined}: {client:#}");
        assert_eq!(totals(&server), (0, 0, 110, bytes), "joined: {is_joined}: {server:#}");
        // Loopback does not split the datagrams, so tcpdump has seen larger ones, but as many bytes.
        assert_eq!(wire.totals().1, bytes);
    }
}

#[test]
fn multicast_is_a_flow_of_each_that_gets_it() {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
    let pair = Pair::new();
    let daemon = Daemon::shared();
    let capture = Capture::start(&pair.here, "cable");
    let member = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((GROUP, 5007)).into()).unwrap();
        socket.join_multicast_v4(&GROUP, &Ipv4Addr::new(10, 0, 0, 2)).unwrap();
        socket.set_read_timeout(Some(long(10_000))).unwrap();
        UdpSocket::from(socket)
    };
    let members = pair.there.run(|| [member(), member()]);
    let sender = pair.here.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        // The namespace has no route to the group.
        socket.set_multicast_if_v4(&Ipv4Addr::new(10, 0, 0, 1)).unwrap();
        UdpSocket::from(socket)
    });
    for size in [100, 200, 300] {
        assert_eq!(sender.send_to(&vec![0; size], (GROUP, 5007)).unwrap(), size);
        for member in &members {
            assert_eq!(member.recv(&mut [0; 1000]).unwrap(), size);
        }
    }
    drop((members, sender));
    let wire = capture.end(&pair.here, "10.0.0.2").udp();

    let sent = ended_flows(daemon, &pair.here, "UDP", 1, |_| true).one().clone();
    assert_eq!(totals(&sent), (3, 600, 0, 0), "{sent:#}");
    assert_eq!(totals(&sent), wire.of(&sent));
    assert_eq!((&sent["remote.ip.address"], &sent["remote.port.number"]), (&"239.1.2.3".into(), &5007.into()));
    assert_eq!(sent["local.ip.address"], "10.0.0.1");
    let received = ended_flows(daemon, &pair.there, "UDP", 2, |_| true);
    for close in &received.0 {
        assert_eq!(totals(close), (0, 0, 3, 600), "{close:#}");
        assert_eq!(close["event.network.direction"], "INCOMING");
        assert_eq!(close["remote.ip.address"], "10.0.0.1");
        assert_eq!(close["src.process.pid"], std::process::id());
    }
    assert_ne!(received.0[0]["event.connection.id"], received.0[1]["event.connection.id"]);
}

/// Waits until the kernel has told a socket that its peer refuses datagrams.
fn is_refused(socket: &UdpSocket) {
    let error = socket.recv(&mut [0]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
}

/// Whether the kernel reports refusals (`inet_sk_error_report`).
fn reports_refusals() -> bool {
    kernel() >= (5, 14)
}

#[test]
fn a_peer_that_refuses_is_no_success() {
    if !reports_refusals() {
        return;
    }
    Daemon::shared();
    let pair = Pair::new();
    for (own, peer) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let open = || {
            let socket = pair.here.run(|| udp((own, 0)));
            socket.connect((peer, 9)).unwrap();
            socket.send(b"x").unwrap();
            is_refused(&socket);
            socket
        };
        // The first waits until the two hosts know each other.
        open();
        let socket = open();
        let own_port = port(&socket);
        // It goes on, and is refused again: that is no further event.
        socket.send(b"xy").unwrap();
        is_refused(&socket);
        moment();
        let is_own = |event: &Value| event["local.port.number"] == own_port;
        let mut events = Daemon::shared().events().within(&pair.here);
        events.0.retain(is_own);
        let connect = events.of("IP Connect").one().clone();
        let row = Daemon::shared().list(pair.here.inode).into_iter().find(|row| row["local_port"] == own_port).unwrap();
        assert_eq!(row["failure_reason"], "refused", "{row:#}");
        drop(socket);
        let close = || {
            let mut events = Daemon::shared().events().within(&pair.here).of("IP Close");
            events.0.retain(is_own);
            events
        };
        until(5000, || "no IP Close".into(), || !close().is_empty());
        let close = close().one().clone();
        for event in [&connect, &close] {
            assert_eq!(event["event.network.connectionStatus"], "FAILURE", "{event:#}");
            assert_eq!(event["event.network.failureReason"], "refused", "{event:#}");
            assert_eq!(event["event.network.errno"], libc::ECONNREFUSED, "{event:#}");
            assert_eq!(event["event.network.direction"], "OUTGOING");
        }
        assert_eq!(totals(&close), (2, 3, 0, 0), "{close:#}");
    }
}

#[test]
fn a_refusal_that_comes_late_is_told_at_the_end() {
    if !reports_refusals() {
        return;
    }
    Daemon::shared();
    for is_answered in [false, true] {
        let namespace = Netns::new();
        namespace.run(|| {
            let (client, server) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
            client.connect(server.local_addr().unwrap()).unwrap();
            client.send(b"x").unwrap();
            let (_, from) = server.recv_from(&mut [0; 10]).unwrap();
            if is_answered {
                server.send_to(b"yes", from).unwrap();
                assert_eq!(client.recv(&mut [0; 10]).unwrap(), 3);
            }
            // The event is out by now.
            thread::sleep(long(100));
            drop(server);
            client.send(b"x").unwrap();
            is_refused(&client);
        });
        // Not `ended_flows`: this end does not repeat what the beginning said.
        let outgoing = |kind: &str| {
            Daemon::shared().events().within(&namespace).of(kind).with("event.network.direction", "OUTGOING")
        };
        until(5000, || "no IP Close".into(), || !outgoing("IP Close").is_empty());
        assert_eq!(outgoing("IP Connect").one()["event.network.connectionStatus"], "SUCCESS");
        let close = outgoing("IP Close").one().clone();
        assert_eq!(close["event.network.errno"], libc::ECONNREFUSED, "{close:#}");
        let (status, reason) = if is_answered { ("SUCCESS", None) } else { ("FAILURE", Some("refused")) };
        assert_eq!(close["event.network.connectionStatus"], status, "{close:#}");
        assert_eq!(close["event.network.failureReason"].as_str(), reason, "{close:#}");
        // Who asks for failures gets it, too.
        let ask = format!("/v1/connections?format=ndjson&closed=600&failed=true&namespace={}", namespace.inode);
        assert_eq!(Daemon::shared().rows(&ask).len(), usize::from(reason.is_some()), "{is_answered}");
    }
}

#[test]
fn answers_to_a_question_to_many_are_not_incoming() {
    Daemon::shared();
    for (to, port) in [("239.255.255.250", 1900), ("10.0.0.255", 1901), ("255.255.255.255", 1902)] {
        let pair = Pair::new();
        let server = pair.there.run(|| {
            let server = udp(("0.0.0.0", port));
            let to: Ipv4Addr = to.parse().unwrap();
            if to.is_multicast() {
                server.join_multicast_v4(&to, &Ipv4Addr::new(10, 0, 0, 2)).unwrap();
            }
            server
        });
        let other = pair.there.run(|| udp("10.0.0.2:2000"));
        pair.here.ip(&["route", "add", "default", "dev", "cable"]);
        let client = pair.here.run(|| udp("0.0.0.0:0"));
        client.set_broadcast(true).unwrap();
        client.send_to(b"who?", (to, port)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 10]).unwrap();
        // The answer has the server's own address. Then somebody sends who was not asked.
        server.send_to(b"me", from).unwrap();
        assert_eq!(client.recv(&mut [0; 10]).unwrap(), 2);
        other.send_to(b"you?", from).unwrap();
        assert_eq!(client.recv(&mut [0; 10]).unwrap(), 4);
        drop((client, server, other));
        let closes = ended_flows(Daemon::shared(), &pair.here, "UDP", 3, |_| true);
        for (remote, remote_port, direction) in
            [(to, port, "OUTGOING"), ("10.0.0.2", port, "OUTGOING"), ("10.0.0.2", 2000, "INCOMING")]
        {
            let with = closes.with("remote.ip.address", remote).with("remote.port.number", remote_port);
            let close = with.one();
            assert_eq!(close["event.network.direction"], direction, "{to}: {close:#}");
        }
    }
}

#[test]
fn who_sends_first_decides_the_direction() {
    let namespace = Netns::new();
    let capture = Capture::start(&namespace, "lo");
    let (first_port, second_port) = namespace.run(|| {
        let (first, second) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
        // Both connect, which sends no datagram.
        first.connect(second.local_addr().unwrap()).unwrap();
        second.connect(first.local_addr().unwrap()).unwrap();
        first.send(&[0; 10]).unwrap();
        // `recv` takes no address, so it runs no recvmsg hook.
        assert_eq!(second.recv(&mut [0; 100]).unwrap(), 10);
        second.send(&[0; 20]).unwrap();
        assert_eq!(first.recv(&mut [0; 100]).unwrap(), 20);
        (port(&first), port(&second))
    });
    let wire = capture.end(&namespace, "127.0.0.1").udp();
    let closes = ended(&namespace, 2);
    for (local, remote, direction, expected) in
        [(first_port, second_port, "OUTGOING", (1, 10, 1, 20)), (second_port, first_port, "INCOMING", (1, 20, 1, 10))]
    {
        let close = between(&closes, local, remote);
        assert_eq!(close["event.network.direction"], direction, "{close:#}");
        assert_eq!((totals(&close), totals(&close)), (expected, wire.of(&close)));
        assert_eq!(close["src.process.pid"], std::process::id(), "{close:#}");
        assert_eq!(close["src.process.attribution"], "connect", "{close:#}");
    }
}

#[test]
fn connecting_again_is_another_flow() {
    let namespace = Netns::new();
    let (client_port, ports) = namespace.run(|| {
        let (client, first, second) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"), udp("127.0.0.1:0"));
        for (server, size) in [(&first, 10), (&second, 20), (&first, 30)] {
            client.connect(server.local_addr().unwrap()).unwrap();
            client.send(&vec![0; size]).unwrap();
            assert_eq!(server.recv(&mut [0; 100]).unwrap(), size);
        }
        (port(&client), [port(&first), port(&second)])
    });
    // The client has one flow for each remote end, although it connects to one twice; each server has one.
    let closes = ended(&namespace, 4);
    for (port, expected) in [(ports[0], (2, 40, 0, 0)), (ports[1], (1, 20, 0, 0))] {
        let close = between(&closes, client_port, port);
        assert_eq!(totals(&close), expected, "{close:#}");
    }
}

#[test]
fn a_shared_socket_belongs_to_whom_used_it_first() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let mut flows = Vec::new();
    let mut shared_port = 0;
    namespace.run(|| {
        let sinks = [udp("127.0.0.1:0"), udp("127.0.0.1:0")];
        let shared = udp("127.0.0.1:0");
        let mut children = sinks.each_ref().map(|sink| {
            Forked::new(|mut channel| {
                pause(&mut channel);
                shared.send_to(&[0; 10], sink.local_addr().unwrap()).unwrap();
                step(&mut channel);
                pause(&mut channel);
            })
        });
        for child in &mut children {
            child.go();
            child.wait();
        }
        shared_port = port(&shared);
        flows = sinks.each_ref().map(|sink| (port(sink), children[0].pid)).into();
        // The socket lives until the last process closes it.
        drop(shared);
        let [first, second] = children;
        // The first user ends: its flow must go on with the socket, not with the process.
        drop(first);
        let rows = daemon.list(namespace.inode);
        assert!(rows.iter().any(|row| row["local_port"] == shared_port), "{rows:#?}");
        drop(second);
    });
    let is_its_own = |event: &Value| event["local.port.number"] == shared_port;
    let closes = ended_flows(daemon, &namespace, "UDP", 2, is_its_own);
    for (sink, pid) in flows {
        let close = between(&closes, shared_port, sink);
        assert_eq!(close["src.process.pid"], pid, "{close:#}");
        assert_eq!(totals(&close), (1, 10, 0, 0));
    }
    let listen = daemon.events().within(&namespace).of("IP Listen").with("local.port.number", shared_port);
    assert_eq!(listen.one()["src.process.pid"], std::process::id(), "who bound it");
}

#[test]
fn equal_addresses_in_two_namespaces_are_two_flows() {
    let namespaces = [Netns::new(), Netns::new()];
    let held = namespaces.each_ref().map(|namespace| {
        namespace.run(|| {
            let echo = Echo::start("127.0.0.1", 5300);
            let client = udp("127.0.0.1:5301");
            (echo, client)
        })
    });
    for (number, (_, client)) in held.iter().enumerate() {
        for _ in 0..=number {
            client.send_to(&[0; 10], "127.0.0.1:5300").unwrap();
            assert_eq!(client.recv(&mut [0; 100]).unwrap(), 10);
        }
    }
    let pids = held.each_ref().map(|(echo, _)| echo.process.pid);
    drop(held);
    for ((namespace, pid), datagrams) in namespaces.iter().zip(pids).zip(1..) {
        let closes = ended(namespace, 2);
        assert_eq!(between(&closes, 5300, 5301)["src.process.pid"], pid);
        for close in &closes.0 {
            assert_eq!(totals(close), (datagrams, datagrams * 10, datagrams, datagrams * 10), "{close:#}");
        }
    }
}

#[test]
fn of_several_sockets_at_one_port_it_is_the_one_that_was_chosen() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let mut expected = Vec::new();
    namespace.run(|| {
        let pid = |_: &[u8]| std::process::id().to_ne_bytes().to_vec();
        let servers: Vec<_> = (0..4).map(|_| Echo::answering("127.0.0.1", 5302, pid)).collect();
        // All clients exist at once, so that each has its own port.
        let clients: Vec<_> = (0..40).map(|_| unbound(Domain::IPV4)).collect();
        for client in &clients {
            client.send_to(&[0; 10], "127.0.0.1:5302").unwrap();
            let mut pid = [0; 4];
            client.recv(&mut pid).unwrap();
            expected.push((port(client), u32::from_ne_bytes(pid)));
        }
        assert!(expected.iter().all(|(_, pid)| servers.iter().any(|server| server.process.pid == *pid)));
    });
    let is_served = |event: &Value| event["local.port.number"] == 5302;
    let closes = ended_flows(daemon, &namespace, "UDP", 40, is_served);
    for (client, pid) in &expected {
        let close = between(&closes, 5302, *client);
        assert_eq!(close["src.process.pid"], *pid, "{close:#}");
        assert_eq!(totals(&close), (1, 4, 1, 10));
    }
    let chosen: HashSet<_> = expected.iter().map(|(_, pid)| pid).collect();
    assert!(chosen.len() > 1, "the kernel spreads 40 clients");
}

/// Two flows of a socket that begin at the same time on two of up to 256 processors have different ids: each has the number of its
/// processor in the lowest byte of its beginning.
#[test]
fn the_beginning_of_a_flow_has_the_number_of_its_processor() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    namespace.run(|| {
        for _ in 0..20 {
            udp("127.0.0.1:0").send_to(b"x", "127.0.0.1:9").unwrap();
        }
    });
    let flows = || daemon.events().within(&namespace).of("IP Connect").with("event.network.protocol", "UDP");
    until(10_000, || format!("{} flows", flows().len()), || flows().len() >= 20);
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    // `0-1`, or `0` where there is one.
    let last: u64 = text.trim().rsplit('-').next().unwrap().parse().unwrap();
    for id in flows().values("event.connection.id") {
        let began: u64 = id.as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        assert!(began % 256 <= last, "{id}: there are processors 0 to {last}");
    }
}
