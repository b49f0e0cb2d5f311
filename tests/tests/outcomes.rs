//! Every outcome of an attempt and every way a connection closes, over IPv4, IPv6 and IPv4-mapped addresses, all in
//! this process.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream},
};

use netconn_tests::{
    Daemon, Netns, Pair, closes, connected, disconnect, events_of, failure, give_up_soon, moment, reset, start,
};
use socket2::{Domain, Socket, Type};

#[test]
fn both_ends_count_the_same_bytes_on_every_kind_of_address() {
    for (listen, connect, shown) in [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("::", "::ffff:127.0.0.1", "127.0.0.1"),
        ("::", "127.0.0.1", "127.0.0.1"),
    ] {
        let namespace = Netns::new();
        let events = events_of(&namespace, || {
            let listener = TcpListener::bind((listen, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut client = TcpStream::connect((connect.parse::<IpAddr>().unwrap(), port)).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(&[1; 1234]).unwrap();
            server.read_exact(&mut [0; 1234]).unwrap();
            server.write_all(&[2; 100_000]).unwrap();
            client.read_exact(&mut [0; 100_000]).unwrap();
            drop(client);
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
        });
        let (out, r#in) = closes(&events);
        for (end, sent, received) in [(&out, 1234, 100_000), (&r#in, 100_000, 1234)] {
            assert_eq!(end["event.network.bytesSent"], sent, "{connect}");
            assert_eq!(end["event.network.bytesReceived"], received, "{connect}");
            assert_eq!(end["src.ip.address"], shown);
            assert_eq!(end["dst.ip.address"], shown);
            assert!(end["event.network.packetsSent"].as_u64().unwrap() >= 3);
            assert!(end["event.network.rttUs"].as_u64().unwrap() > 0);
        }
        // Both ends name the same two ports, from their own side.
        assert_eq!(out["src.port.number"], r#in["remote.port.number"]);
        assert_eq!(out["dst.port.number"], r#in["local.port.number"]);
        assert_eq!(out["event.network.closeReason"], "local");
        assert_eq!(r#in["event.network.closeReason"], "remote");
        let any = if listen == "::" { "::" } else { shown };
        assert_eq!(events.of("IP Listen").one()["local.ip.address"], any);
        assert_eq!(events.of("IP Listen End").len(), 1);
    }
}

#[test]
fn refused() {
    for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let namespace = Netns::new();
        let events = events_of(&namespace, || {
            assert!(TcpStream::connect((address.parse::<IpAddr>().unwrap(), 9)).is_err());
        });
        let attempt = failure(&events);
        assert_eq!(attempt["event.network.failureReason"], "refused", "{address}");
        assert_eq!(attempt["event.network.errno"], 111);
        assert_eq!(attempt["dst.port.number"], 9);
        assert!(attempt["src.port.number"].as_u64().unwrap() > 0);
    }
}

#[test]
fn timed_out() {
    let pair = Pair::new();
    // Every SYN is dropped on arrival.
    pair.there.exec("nft", &["add table inet t"]);
    pair.there.exec("nft", &["add chain inet t in { type filter hook input priority 0; policy drop; }"]);
    pair.there.exec("nft", &["add rule inet t in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"]);
    for address in ["10.0.0.2", "fd00::2"] {
        let events = events_of(&pair.here, || {
            // Both families read the setting of IPv4 in this namespace.
            give_up_soon();
            assert!(TcpStream::connect((address.parse::<IpAddr>().unwrap(), 80)).is_err());
        });
        let attempt = failure(&events);
        assert_eq!(attempt["event.network.failureReason"], "timed_out", "{address}");
        assert_eq!(attempt["event.network.errno"], 110);
        assert_eq!(attempt["dst.ip.address"], address);
    }
}

#[test]
fn unreachable() {
    let pair = Pair::new();
    // No host has this address, so the neighbour is not found.
    let events = events_of(&pair.here, || assert!(TcpStream::connect("10.0.0.9:80").is_err()));
    let attempt = failure(&events);
    assert_eq!(attempt["event.network.failureReason"], "host_unreachable");
    assert_eq!(attempt["event.network.errno"], 113);
    // The router has no route and answers with an ICMP error.
    // Without it the attempt would fail here, not at the router.
    pair.here.ip(&["route", "add", "default", "via", "10.0.0.2"]);
    pair.there.exec("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    let events = events_of(&pair.here, || assert!(TcpStream::connect("203.0.113.1:80").is_err()));
    let attempt = failure(&events);
    assert_eq!(attempt["event.network.failureReason"], "net_unreachable");
    assert_eq!(attempt["event.network.errno"], 101);
}

#[test]
fn closed_before_the_answer() {
    let pair = Pair::new();
    pair.there.exec("nft", &["add table inet t"]);
    pair.there.exec("nft", &["add chain inet t in { type filter hook input priority 0; policy drop; }"]);
    let daemon = Daemon::shared();
    pair.here.run(|| {
        let socket = start("10.0.0.2:80".parse().unwrap());
        moment();
        let rows = daemon.list(pair.here.inode);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        assert_eq!(rows[0]["state"], "SYN_SENT");
        assert_eq!(rows[0]["pid"], std::process::id());
        drop(socket);
    });
    moment();
    assert!(daemon.list(pair.here.inode).is_empty());
    let attempt = failure(&daemon.events().within(&pair.here));
    assert_eq!(attempt["event.network.failureReason"], "aborted");
    assert!(attempt.get("event.network.errno").is_none());
}

#[test]
fn reset_by_either_side() {
    for by_client in [true, false] {
        let namespace = Netns::new();
        let events = events_of(&namespace, || {
            let (_listener, client, server) = connected("127.0.0.1");
            let (first, second) = if by_client { (client, server) } else { (server, client) };
            reset(first);
            moment();
            drop(second);
        });
        let (out, r#in) = closes(&events);
        let (by, of) = if by_client { (out, r#in) } else { (r#in, out) };
        assert_eq!(by["event.network.closeReason"], "reset_by_local");
        assert_eq!(of["event.network.closeReason"], "reset_by_remote");
        assert_eq!(of["event.network.errno"], 104);
    }
}

#[test]
fn unread_data_resets() {
    let namespace = Netns::new();
    let events = events_of(&namespace, || {
        let (_listener, mut client, server) = connected("::1");
        // Closing with unread data sends RST instead of FIN (RFC 1122, 4.2.2.13).
        client.write_all(b"never read").unwrap();
        moment();
        drop(server);
        moment();
    });
    let (out, r#in) = closes(&events);
    assert_eq!(r#in["event.network.closeReason"], "reset_by_local");
    assert_eq!(r#in["event.network.bytesReceived"], 10);
    assert_eq!(out["event.network.closeReason"], "reset_by_remote");
}

#[test]
fn half_closed_connections_go_on() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    namespace.run(|| {
        let (_listener, client, mut server) = connected("127.0.0.1");
        client.shutdown(Shutdown::Write).unwrap();
        moment();
        let mut states: Vec<_> = daemon.list(namespace.inode).iter().map(|row| row["state"].clone()).collect();
        states.sort_by_key(ToString::to_string);
        assert_eq!(states, ["CLOSE_WAIT", "FIN_WAIT2", "LISTENING"]);
        server.write_all(&[0; 5000]).unwrap();
        drop(server);
        moment();
    });
    let (out, r#in) = closes(&daemon.events().within(&namespace));
    assert_eq!(out["event.network.closeReason"], "local");
    assert_eq!(out["event.network.bytesReceived"], 5000);
    assert_eq!(r#in["event.network.closeReason"], "remote");
    assert_eq!(r#in["event.network.bytesSent"], 5000);
}

#[test]
fn a_listener_that_closes_is_no_failure() {
    let namespace = Netns::new();
    let events = events_of(&namespace, || {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        moment();
        drop(listener); // It still has a connection that was never accepted.
        moment();
        drop(client);
    });
    assert!(events.with("event.network.connectionStatus", "FAILURE").is_empty());
    let listen = events.of("IP Listen").one().clone();
    let end = events.of("IP Listen End").one().clone();
    assert_eq!(listen["event.connection.id"], end["event.connection.id"]);
    for event in [&listen, &end] {
        assert_eq!(event["src.process.pid"], std::process::id());
        assert!(event.get("remote.ip.address").is_none());
        assert!(event.get("event.network.connectionStatus").is_none());
    }
    let (out, r#in) = closes(&events);
    assert_eq!(out["event.network.closeReason"], "reset_by_remote");
    assert_eq!(r#in["event.network.closeReason"], "reset_by_local");
}

#[test]
fn a_socket_that_connects_again_is_another_connection() {
    let namespace = Netns::new();
    let events = events_of(&namespace, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        for round in 0..3 {
            socket.connect(&to.into()).unwrap();
            let (server, _) = listener.accept().unwrap();
            if round < 2 {
                disconnect(&socket);
            }
            drop(server);
        }
    });
    let out = events.with("event.network.direction", "OUTGOING");
    assert_eq!((out.of("IP Connect").len(), out.of("IP Close").len()), (3, 3));
    let mut ids = out.of("IP Connect").values("event.connection.id");
    ids.dedup();
    assert_eq!(ids.len(), 3, "each has an id of its own");
    let mut ports = out.of("IP Connect").values("src.port.number");
    ports.dedup();
    assert_eq!(ports.len(), 3, "none has the port of the one before");
}
