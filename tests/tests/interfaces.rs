//! Network interfaces: of link-local addresses, and of sockets that are bound to one.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener};

use netconn_tests::{Daemon, Netns, Pair, moment};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Returns the local and remote ends of TCP as `ss` writes them, with the interface, sorted.
fn ends_of_ss(namespace: &Netns) -> Vec<(String, String)> {
    let text = namespace.exec("ss", &["-tanH"]);
    let mut ends: Vec<_> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[3].to_owned(), words[4].to_owned())
        })
        .collect();
    ends.sort();
    ends
}

/// Returns the same ends of rows. `ss` has the interface at the own end only.
fn ends_of(rows: &[Value]) -> Vec<(String, String)> {
    let end = |row: &Value, side: &str, interface: Option<&str>| {
        let Some(address) = row[format!("{side}_address")].as_str() else { return "0.0.0.0:*".to_owned() };
        let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let interface = interface.map(|name| format!("%{name}")).unwrap_or_default();
        format!("{address}{interface}:{}", row[format!("{side}_port")])
    };
    let mut ends: Vec<_> =
        rows.iter().map(|row| (end(row, "local", row["interface"].as_str()), end(row, "remote", None))).collect();
    ends.sort();
    ends
}

#[test]
fn link_local_addresses_have_their_interface() {
    let daemon = Daemon::shared();
    let pair = Pair::new();
    for (namespace, address) in [(&pair.here, "fe80::a1/64"), (&pair.there, "fe80::a2/64")] {
        namespace.ip(&["address", "add", address, "dev", "cable", "nodad"]);
    }
    let at = |address: &str, port: u16| {
        let index = if_nametoindex("cable").unwrap();
        SocketAddr::from(SocketAddrV6::new(address.parse::<Ipv6Addr>().unwrap(), port, 0, index))
    };
    let listener = pair.there.run(|| TcpListener::bind("[::]:80").unwrap());
    let client = pair.here.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.connect(&at("fe80::a2", 80).into()).unwrap();
        socket
    });
    let server = listener.accept().unwrap();
    moment();
    for (namespace, remote) in [(&pair.here, "fe80::a2"), (&pair.there, "fe80::a1")] {
        let rows = daemon.rows(&format!("/v1/connections?format=ndjson&namespace={}&listening=false", namespace.inode));
        let ss: Vec<_> = ends_of_ss(namespace).into_iter().filter(|(local, _)| local.contains("fe80")).collect();
        assert_eq!(ends_of(&rows), ss);
        assert!(ss[0].0.contains("%cable"), "{ss:?}");
        let inode = namespace.inode.to_string();
        let count = |remote: &str| {
            daemon.text(&["list", "--count", "--namespace", &inode, "--remote", remote]).trim().to_owned()
        };
        assert_eq!(count(&format!("{remote}%cable")), "1");
        assert_eq!(count(remote), "1");
        assert_eq!(count(&format!("{remote}%lo")), "0");
        let table = daemon.text(&["list", "-n", "--namespace", &inode]);
        assert!(table.contains(&format!("[{remote}%cable]:")), "{table}");
        let connects = daemon.events().within(namespace).of("IP Connect").with("remote.ip.address", remote);
        assert_eq!(connects.one()["event.network.interface"], "cable");
    }
    drop((client, server));
}

#[test]
fn sockets_bound_to_an_interface_say_so() {
    let daemon = Daemon::shared();
    let pair = Pair::new();
    let bound = |kind: Type, address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::for_address(address), kind, None).unwrap();
        socket.bind_device(Some(b"cable")).unwrap();
        socket.bind(&address.into()).unwrap();
        socket
    };
    let held = pair.here.run(|| {
        let tcp = bound(Type::STREAM, "0.0.0.0:80");
        tcp.listen(1).unwrap();
        [tcp, bound(Type::DGRAM, "0.0.0.0:81")]
    });
    moment();
    let rows = daemon.list(pair.here.inode);
    let tcp: Vec<_> = rows.iter().filter(|row| row["protocol"] == "TCP").cloned().collect();
    assert_eq!(ends_of(&tcp), ends_of_ss(&pair.here));
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert!(rows.iter().all(|row| row["interface"] == "cable"), "{rows:#?}");
    let listens = daemon.events().within(&pair.here).of("IP Listen");
    assert_eq!(listens.len(), 2);
    assert!(listens.values("event.network.interface").iter().all(|name| name == "cable"), "{listens:#?}");
    drop(held);
}
