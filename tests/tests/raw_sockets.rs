//! Raw sockets that speak TCP or UDP: scanners and sniffers are not told as connections.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};

use netconn_tests::{Daemon, Events, Netns, Pair, Raw, ended_flows, moment, rows, ss, totals, until};
use serde_json::Value;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// Waits for the `IP Close` of the flows of raw sockets in a namespace.
fn ended_raw(namespace: &Netns, protocol: &str, count: usize) -> Events {
    ended_flows(Daemon::shared(), namespace, protocol, count, |event| event["event.network.raw"] == true)
}

/// Returns the rows of a namespace that these options of `netconn list` select.
fn listed(namespace: &Netns, options: &[&str]) -> Vec<Value> {
    let inode = namespace.inode.to_string();
    let own = ["list", "--format", "json", "--namespace", &inode];
    let text = Daemon::shared().text(&[&own, options].concat());
    let found: Value = serde_json::from_str(&text).unwrap();
    found["connections"].as_array().unwrap().clone()
}

/// Returns the events of a namespace that are not of raw sockets.
fn others(namespace: &Netns) -> Events {
    let mut events = Daemon::shared().events().within(namespace);
    events.0.retain(|event| event.get("event.network.raw").is_none());
    events
}

#[test]
fn a_scan_by_raw_packets_is_no_connection() {
    // Before the sockets: it must see who creates them.
    Daemon::shared();
    let pair = Pair::new();
    let _open = pair.there.run(|| TcpListener::bind((THERE, 80)).unwrap());
    let scanner = pair.here.run(|| Raw::new(6));
    for port in [79, 80, 81] {
        scanner.send_syn(at(HERE, 40_000), at(THERE, port));
    }
    moment();
    // As many as ss has, in its own words.
    assert_eq!(rows(&listed(&pair.here, &["--tcp"])), ss(&pair.here));
    assert_eq!(ss(&pair.here), []);
    let known = pair.here.exec("ss", &["-wanH"]);
    assert!(known.contains("UNCONN") && known.lines().count() == 1, "{known}");
    let raw = listed(&pair.here, &["--raw"]);
    assert_eq!(raw.len(), 3, "{raw:#?}");
    for row in &raw {
        assert_eq!(
            (&row["raw"], &row["protocol"], &row["state"]),
            (&true.into(), &"TCP".into(), &"UNCONNECTED".into())
        );
        assert_eq!(row["pid"], std::process::id());
    }
    assert_eq!(listed(&pair.here, &["-w", "-t"]).len(), 3);
    assert_eq!(listed(&pair.here, &["-w", "-u"]).len(), 0);
    assert_eq!(listed(&pair.here, &["--state", "established"]).len(), 0);
    assert_eq!(listed(&pair.here, &[]).len(), 3);
    let inode = pair.here.inode.to_string();
    let table = Daemon::shared().text(&["list", "--namespace", &inode]);
    assert_eq!(table.matches("raw/tcp").count(), 3, "{table}");
    drop(scanner);
    let closes = ended_raw(&pair.here, "TCP", 3);
    for port in [79, 80, 81] {
        let of_port = closes.with("dst.port.number", port);
        let close = of_port.one();
        // A SYN, and the answer of the peer: behind the IP header.
        let (sent, _, received, _) = totals(close);
        assert_eq!((sent, received), (1, 1), "{close:#}");
        assert_eq!(close["event.network.direction"], "OUTGOING");
        assert!(close.get("event.network.connectionStatus").is_none(), "{close:#}");
    }
    let others = others(&pair.here);
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn a_raw_sniffer_doubles_no_connection() {
    // Before the sockets: it must see who creates them.
    Daemon::shared();
    let pair = Pair::new();
    let _sniffer = pair.there.run(|| Raw::new(6));
    let listener = pair.there.run(|| TcpListener::bind((THERE, 80)).unwrap());
    let client = pair.here.run(|| TcpStream::connect((THERE, 80)).unwrap());
    let server = listener.accept().unwrap().0;
    moment();
    assert_eq!(rows(&listed(&pair.there, &["--tcp"])), ss(&pair.there));
    assert_eq!(listed(&pair.there, &["--raw"]).len(), 1);
    let connects = others(&pair.there).of("IP Connect");
    assert_eq!(connects.one()["event.network.connectionStatus"], "SUCCESS");
    // It waits for a process that receives.
    let raw = || Daemon::shared().events().within(&pair.there).with("event.network.raw", true);
    until(5000, || "no event of the sniffer".into(), || !raw().is_empty());
    let raw = raw().one().clone();
    assert_eq!((&raw["event.type"], &raw["event.network.direction"]), (&"IP Connect".into(), &"INCOMING".into()));
    assert!(raw.get("event.network.connectionStatus").is_none(), "{raw:#}");
    drop((client, server));
}

#[test]
fn raw_udp_is_no_flow_of_udp() {
    // Before the sockets: it must see who creates them.
    Daemon::shared();
    let pair = Pair::new();
    let socket = pair.here.run(|| Raw::new(17));
    // Ports 4000 and 9, eight bytes, no checksum.
    socket.send(THERE, &[0x0f, 0xa0, 0, 9, 0, 8, 0, 0]);
    let own = pair.here.run(|| UdpSocket::bind((HERE, 0)).unwrap());
    own.send_to(b"x", (THERE, 9)).unwrap();
    moment();
    let udp = listed(&pair.here, &["--udp"]);
    assert!(udp.iter().all(|row| row.get("raw").is_none() && row["local_port"] != 4000), "{udp:#?}");
    assert_eq!(listed(&pair.here, &["--raw", "--udp"]).len(), 1);
    drop(socket);
    let closes = ended_raw(&pair.here, "UDP", 1);
    let close = closes.one();
    assert_eq!((&close["local.port.number"], &close["remote.port.number"]), (&4000.into(), &9.into()), "{close:#}");
    assert!(close.get("event.network.connectionStatus").is_none(), "{close:#}");
}
