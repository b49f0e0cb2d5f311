//! Half-open connections: a SYN was answered, and the peer says nothing more.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
};

use netconn_tests::{Daemon, Pair, Raw, deferring, moment, rows, ss, until};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

#[test]
fn a_flood_of_syns_is_listed_as_ss_lists_it() {
    const COUNT: u8 = 200;
    let daemon = Daemon::shared();
    let pair = Pair::new();
    // The senders do not exist, and the host on the way to them forwards nothing: nobody resets what nobody asked for.
    pair.there.ip(&["route", "add", "10.1.0.0/16", "via", "10.0.0.1"]);
    let listeners = pair.there.run(|| {
        // Without cookies, which would leave nothing half-open once there are many.
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "0").unwrap();
        fs::write("/proc/sys/net/ipv4/tcp_max_syn_backlog", "4096").unwrap();
        let listener = |address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            listener.bind(&address.into()).unwrap();
            listener.listen(1024).unwrap();
            listener
        };
        // One of both families: it has IPv4 addresses in the form of IPv6.
        [listener("10.0.0.2:80"), listener("[::]:81")]
    });
    let flood = pair.here.run(Raw::spoofing);
    for number in 1..=COUNT {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, number), 1000 + u16::from(number));
        flood.send_spoofed_syn(from, SocketAddrV4::new(THERE, 80 + u16::from(number) % 2));
    }
    let half_open = || ss(&pair.there).iter().filter(|(state, ..)| state == "SYN_RECV").count();
    until(10_000, || format!("{:#?}", ss(&pair.there)), || half_open() == usize::from(COUNT));
    let list = daemon.list_all(pair.there.inode);
    assert_eq!(rows(&list), ss(&pair.there));
    let is_half_open = |row: &&Value| row["state"] == "SYN_RECV";
    for row in list.iter().filter(is_half_open) {
        assert_eq!((&row["direction"], &row["attribution"]), (&"INCOMING".into(), &"listener".into()), "{row:#}");
        assert_eq!(row["pid"], std::process::id(), "{row:#}");
    }
    let count = |filter: &str| daemon.rows(&format!("/v1/connections?namespace={}&{filter}", pair.there.inode)).len();
    assert_eq!(count("format=ndjson&state=syn-recv"), usize::from(COUNT));
    assert_eq!(count("format=ndjson&state=syn-recv&port=1002"), 1);
    assert_eq!(count("format=ndjson&state=established"), 0);
    // What the kernel measures of them: the answer is sent again, timer:(on,…) of `ss -o`.
    let timers = pair.there.exec("ss", &["-Htno", "state", "syn-recv"]).matches("timer:(on,").count();
    let measured =
        daemon.rows(&format!("/v1/connections?namespace={}&format=ndjson&state=syn-recv&info=1", pair.there.inode));
    let has_timer = |row: &&Value| row["timer"] == "retransmit" && row["receive_queue"] == 0;
    assert_eq!((measured.iter().filter(has_timer).count(), timers), (usize::from(COUNT), usize::from(COUNT)));
    // Nobody has a connection: there is no event but those of the listeners.
    let events = daemon.events().within(&pair.there);
    assert_eq!(events.of("IP Listen").len(), events.len(), "{events:#?}");
    drop(listeners);
}

#[test]
fn a_listener_that_waits_for_data_leaves_connections_half_open() {
    let daemon = Daemon::shared();
    let pair = Pair::new();
    let (listener, address) = pair.there.run(|| deferring("10.0.0.2:80"));
    let mut client = pair.here.run(|| TcpStream::connect(address).unwrap());
    assert_eq!(rows(&daemon.list_all(pair.there.inode)), ss(&pair.there));
    assert!(ss(&pair.there).iter().any(|(state, ..)| state == "SYN_RECV"));
    client.write_all(b"x").unwrap();
    let server = listener.accept().unwrap();
    moment();
    assert_eq!(rows(&daemon.list_all(pair.there.inode)), ss(&pair.there));
    assert!(ss(&pair.there).iter().all(|(state, ..)| state != "SYN_RECV"));
    drop((client, server));
}
