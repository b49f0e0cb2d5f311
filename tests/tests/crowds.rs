//! A server with ten thousand clients, and more flows than `max_flows`: nothing is lost, and the totals stay exact.

use std::{
    collections::HashMap,
    io::IoSlice,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use netconn_tests::{Daemon, Echo, Events, Netns, connected, deliver, long, moment, totals, udp, until};
use nix::{
    libc,
    sys::{
        signal::Signal,
        socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg},
    },
};
use serde_json::Value;

/// `max_flows` in the tests with too many flows. A socket may have a quarter of it.
const MOST: usize = 1024;

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

/// Returns one of 65,536 loopback addresses.
fn address(number: usize) -> Ipv4Addr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// Returns the events of a kind about UDP flows of a local port.
fn of_port(events: &Events, kind: &str, port: u16) -> Events {
    events.of(kind).with("event.network.protocol", "UDP").with("local.port.number", port)
}

#[test]
fn a_server_has_a_flow_with_each_of_its_clients() {
    // Emulated machines are too slow for more.
    let count = if long(1) == Duration::from_millis(1) { 10_000 } else { 1000 };
    let namespace = Netns::new();
    // With room for everything, however late the daemon reads: this test is about what is told when nothing is lost.
    let daemon = Daemon::start_configured("ring_bytes = 33554432");
    let size = |number: usize| number % 1000;
    let (mut expected, mut server_port, mut server_pid) = (HashMap::new(), 0, 0);
    namespace.run(|| {
        let echo = Echo::start("0.0.0.0", 0);
        (server_port, server_pid) = (echo.port(), echo.process.pid);
        for number in 0..count {
            let client = udp((address(number), 0));
            client.send_to(&vec![0; size(number)], ("127.0.0.1", server_port)).unwrap();
            assert_eq!(client.recv(&mut [0; 1500]).unwrap(), size(number));
            expected.insert(client.local_addr().unwrap().to_string(), size(number) as u64);
        }
        assert_eq!(expected.len(), count);
        let port = server_port.to_string();
        let inode = namespace.inode.to_string();
        let rows = || {
            let text =
                daemon.text(&["list", "-u", "-H", "--state", "established", "--port", &port, "--namespace", &inode]);
            text.lines().count()
        };
        until(20_000, || format!("{} flows; {:#}", rows(), daemon.health()), || rows() == count);
    });
    // All flows of the server end at once with its socket.
    until(20_000, || format!("{:#}", daemon.health()), || daemon.list(namespace.inode).is_empty());
    let all = daemon.stop();
    assert!(all.of("Data Loss").is_empty(), "{:#?}", all.of("Data Loss"));
    let events = all.within(&namespace);
    for kind in ["IP Connect", "IP Close"] {
        let served = of_port(&events, kind, server_port);
        assert_eq!(served.len(), count, "{kind}");
        assert_eq!(served.with("event.network.direction", "INCOMING").len(), count, "{kind}");
        assert_eq!(served.with("src.process.pid", server_pid).len(), count, "{kind}");
        assert!(served.0.iter().all(|event| event.get("event.network.folded").is_none()), "{kind}");
        let clients = events.of(kind).with("remote.port.number", server_port);
        assert_eq!(clients.with("event.network.direction", "OUTGOING").len(), count, "{kind}");
        assert_eq!(clients.with("src.process.pid", std::process::id()).len(), count, "{kind}");
    }
    for close in &of_port(&events, "IP Close", server_port).0 {
        let client = format!("{}:{}", close["remote.ip.address"].as_str().unwrap(), close["remote.port.number"]);
        let bytes = expected.remove(&client).unwrap_or_else(|| panic!("{client} comes twice, or is none"));
        assert_eq!(totals(close), (1, bytes, 1, bytes), "{close:#}");
    }
    for close in &events.of("IP Close").with("remote.port.number", server_port).0 {
        let bytes = close["event.network.bytesSent"].as_u64().unwrap();
        assert_eq!(totals(close), (1, bytes, 1, bytes), "{close:#}");
    }
    // One for each client, which was bound to its address, and one for the server.
    assert_eq!(events.of("IP Listen").len(), count + 1);
    assert_eq!(events.of("IP Listen End").len(), count + 1);
}

/// Returns the totals of several flows together, in the same form as [`totals`].
fn sums(closes: &Events) -> (u64, u64, u64, u64) {
    let sum = |name: &str| closes.sum(&format!("event.network.{name}"));
    (sum("packetsSent"), sum("bytesSent"), sum("packetsReceived"), sum("bytesReceived"))
}

/// A server, and a client that sends each datagram from another address, like many clients.
struct Crowd {
    server: UdpSocket,
    client: UdpSocket,
    count: usize,
}

impl Crowd {
    fn new() -> Self {
        Self { server: udp("127.0.0.1:0"), client: udp("0.0.0.0:0"), count: 0 }
    }

    /// Sends a datagram of ten bytes from each of `more` new addresses; the server answers each with twenty bytes.
    fn grow(&mut self, more: usize) {
        // `IP_PKTINFO` exists for IPv4 only.
        let SocketAddr::V4(to) = self.server.local_addr().unwrap() else { panic!("no IPv4") };
        for number in self.count..self.count + more {
            let from = address(number);
            send_from(&self.client, from, to);
            let sender = self.server.recv_from(&mut [0; 100]).unwrap().1;
            assert_eq!(sender.ip(), from);
            deliver(&self.server, (&self.client, sender), 20);
        }
        self.count += more;
    }

    /// Closes the sockets; returns the server's and the client's port, and the number of the client's addresses.
    fn end(self) -> (u16, u16, u64) {
        (port(&self.server), port(&self.client), self.count as u64)
    }
}

/// Sends ten bytes from any address of this machine, chosen by `IP_PKTINFO`.
fn send_from(socket: &UdpSocket, from: Ipv4Addr, to: SocketAddrV4) {
    let source = libc::in_addr { s_addr: u32::from(from).to_be() };
    let information = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: libc::in_addr { s_addr: 0 } };
    let messages = [ControlMessage::Ipv4PacketInfo(&information)];
    let to = SockaddrIn::from(to);
    let sent = sendmsg(socket.as_raw_fd(), &[IoSlice::new(&[0; 10])], &messages, MsgFlags::empty(), Some(&to));
    assert_eq!(sent.unwrap(), 10);
}

/// Returns two sockets; the first has sent a datagram to the second.
fn pair_of_sockets() -> (UdpSocket, UdpSocket) {
    let (from, to) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
    deliver(&from, (&to, to.local_addr().unwrap()), 10);
    (from, to)
}

/// Returns the folded rows of a namespace.
fn folded(daemon: &Daemon, namespace: &Netns) -> Vec<Value> {
    let mut rows = daemon.list_all(namespace.inode);
    rows.retain(|row| row["folded"] == true);
    rows
}

/// Checks the flows of a crowd that has ended: one is folded and counts for all clients without their own flow, and the
/// totals of all together are exact. Returns the number of clients with their own flow.
fn is_all_there(events: &Events, (server_port, client_port, count): (u16, u16, u64)) -> u64 {
    let is_folded = |events: &Events, is_folded: bool| {
        let mut events = events.clone();
        events.0.retain(|event| (event["event.network.folded"] == true) == is_folded);
        events
    };
    let (connects, closes) = (of_port(events, "IP Connect", server_port), of_port(events, "IP Close", server_port));
    let connect = is_folded(&connects, true).one().clone();
    let close = is_folded(&closes, true).one().clone();
    assert_eq!(connect["event.connection.id"], close["event.connection.id"]);
    for event in [&connect, &close] {
        for field in ["remote.ip.address", "remote.port.number"] {
            assert!(event.get(field).is_none(), "{field}: {event:#}");
        }
        assert_eq!(event["src.process.pid"], std::process::id(), "{event:#}");
        assert_eq!(event["event.network.direction"], "INCOMING", "{event:#}");
    }
    let singles = is_folded(&closes, false);
    assert_eq!(is_folded(&connects, false).len(), singles.len());
    for single in &singles.0 {
        assert_eq!(totals(single), (1, 20, 1, 10), "{single:#}");
    }
    let own = singles.len() as u64;
    let rest = count - own;
    assert_eq!(totals(&close), (rest, rest * 20, rest, rest * 10), "{own} have flows of their own: {close:#}");
    assert_eq!(sums(&closes), (count, count * 20, count, count * 10));
    // The other end is one flow, or a single and a folded one if there was no room.
    assert_eq!(sums(&of_port(events, "IP Close", client_port)), (count, count * 10, count, count * 20));
    own
}

#[test]
fn a_socket_with_too_many_flows_is_folded() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured(&format!("max_flows = {MOST}"));
    let (crowd, earlier, later) = namespace.run(|| {
        let earlier = pair_of_sockets();
        let mut crowd = Crowd::new();
        // The crowd has more flows than its share, but fewer than there is room for. The daemon finds out at a sweep:
        // before a snapshot, or every ten seconds.
        crowd.grow(MOST / 4 + 44);
        until(
            30_000,
            || format!("nothing is folded: {:#}; {}", daemon.health(), daemon.log()),
            || {
                let is_folded = !folded(&daemon, &namespace).is_empty();
                if !is_folded && crowd.count < MOST / 2 {
                    crowd.grow(10);
                }
                is_folded
            },
        );
        crowd.grow(MOST);
        let rows = folded(&daemon, &namespace);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        assert_eq!(rows[0]["local_port"], port(&crowd.server));
        assert!(rows[0].get("remote_address").is_none() && rows[0].get("remote_port").is_none(), "{:#}", rows[0]);
        // Other sockets keep their flows and get new ones.
        let later = pair_of_sockets();
        deliver(&earlier.0, (&earlier.1, earlier.1.local_addr().unwrap()), 15);
        (crowd.end(), ports(&earlier), ports(&later))
    });
    until(15_000, || format!("{:#}", daemon.health()), || daemon.list(namespace.inode).is_empty());
    let warnings =
        daemon.log().lines().filter(|line| line.contains(" WARN ") && line.contains("too many flows")).count();
    assert_eq!(warnings, 1, "{}", daemon.log());
    let all = daemon.stop();
    assert!(all.of("Data Loss").is_empty(), "{:#?}", all.of("Data Loss"));
    let events = all.within(&namespace);
    let own = is_all_there(&events, crowd);
    assert!(own as usize >= MOST / 4 && (own as usize) < MOST * 3 / 4, "{own}");
    for ((from, to), datagrams, bytes) in [(earlier, 2, 25), (later, 1, 10)] {
        for kind in ["IP Connect", "IP Close"] {
            assert_eq!(of_port(&events, kind, from).one()["remote.port.number"], to);
            assert_eq!(of_port(&events, kind, to).one()["remote.port.number"], from);
        }
        assert_eq!(totals(of_port(&events, "IP Close", from).one()), (datagrams, bytes, 0, 0));
        assert_eq!(totals(of_port(&events, "IP Close", to).one()), (0, 0, datagrams, bytes));
    }
}

fn ports((from, to): &(UdpSocket, UdpSocket)) -> (u16, u16) {
    (port(from), port(to))
}

#[test]
fn nothing_is_lost_when_there_is_no_room_at_all() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured(&format!("max_flows = {MOST}"));
    let (crowd, late) = namespace.run(|| {
        let mut crowd = Crowd::new();
        // The crowd grows faster than the daemon sweeps.
        crowd.grow(MOST * 3 / 2);
        let late = pair_of_sockets();
        // TCP is not affected.
        drop(connected("127.0.0.1"));
        moment();
        (crowd.end(), ports(&late))
    });
    until(15_000, || format!("{:#}", daemon.health()), || daemon.list(namespace.inode).is_empty());
    let all = daemon.stop();
    assert!(all.of("Data Loss").is_empty(), "{:#?}", all.of("Data Loss"));
    let events = all.within(&namespace);
    let own = is_all_there(&events, crowd);
    assert!(own as usize <= MOST, "{own}");
    assert_eq!(sums(&of_port(&events, "IP Close", late.0)), (1, 10, 0, 0));
    assert_eq!(sums(&of_port(&events, "IP Close", late.1)), (0, 0, 1, 10));
    let tcp = events.with("event.network.protocol", "TCP");
    assert_eq!((tcp.of("IP Connect").len(), tcp.of("IP Close").len()), (2, 2), "{tcp:#?}");
}

/// The BPF programs fold by themselves between sweeps. A flood at one port must not fold the flows of other sockets.
#[test]
fn a_flood_at_one_port_leaves_room_for_others_while_the_daemon_is_stopped() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured(&format!("max_flows = {MOST}"));
    let (crowd, late) = namespace.run(|| {
        let mut crowd = Crowd::new();
        daemon.signal(Signal::SIGSTOP);
        // The daemon is stopped, so only the BPF programs can fold.
        crowd.grow(MOST * 3 / 2);
        let late: Vec<_> = (0..10).map(|_| pair_of_sockets()).collect();
        daemon.signal(Signal::SIGCONT);
        moment();
        (crowd.end(), late.iter().map(ports).collect::<Vec<_>>())
    });
    until(15_000, || format!("{:#}", daemon.health()), || daemon.list(namespace.inode).is_empty());
    let all = daemon.stop();
    assert!(all.of("Data Loss").is_empty(), "{:#?}", all.of("Data Loss"));
    let events = all.within(&namespace);
    // The programs limit the new flows of a socket in each second, and the flood may have taken several.
    let own = is_all_there(&events, crowd) as usize;
    assert!((MOST / 4..MOST).contains(&own), "{own}");
    for (from, to) in late {
        for kind in ["IP Connect", "IP Close"] {
            assert_eq!(of_port(&events, kind, from).one()["remote.port.number"], to);
            assert_eq!(of_port(&events, kind, to).one()["remote.port.number"], from);
        }
    }
}

/// With more sockets than `max_flows` nothing can be folded: the datagrams that are not counted are reported.
#[test]
fn what_no_flow_counts_is_reported_and_tcp_is_as_before() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured(&format!("max_flows = {MOST}"));
    let late = namespace.run(|| {
        let server = udp("127.0.0.1:0");
        daemon.signal(Signal::SIGSTOP);
        for _ in 0..MOST * 2 {
            deliver(&udp("127.0.0.1:0"), (&server, server.local_addr().unwrap()), 10);
        }
        let accepted = connected("127.0.0.1");
        daemon.signal(Signal::SIGCONT);
        until(15_000, || format!("{:#}", daemon.health()), || daemon.health()["flows"]["uncounted"].as_u64() > Some(0));
        drop((server, accepted));
        until(15_000, || format!("{:#}", daemon.health()), || daemon.list(namespace.inode).is_empty());
        // Now there is room for flows again.
        ports(&pair_of_sockets())
    });
    until(15_000, || format!("{:#}", daemon.health()), || daemon.list(namespace.inode).is_empty());
    let uncounted = daemon.health()["flows"]["uncounted"].as_u64().unwrap();
    let said = " datagrams were counted in no flow: a larger max_flows";
    until(10_000, || daemon.log(), || daemon.log().contains(said));
    let all = daemon.stop();
    let losses = all.of("Data Loss");
    assert_eq!(losses.sum("loss.count"), uncounted);
    assert_eq!(losses.with("loss.stage", "flows").len(), losses.len(), "{losses:#?}");
    let events = all.within(&namespace);
    // An earlier socket may have had the same port, but not with the same remote end.
    let late = of_port(&events, "IP Close", late.0).with("remote.port.number", late.1);
    assert_eq!(sums(&late), (1, 10, 0, 0));
    let tcp = events.with("event.network.protocol", "TCP");
    for kind in ["IP Connect", "IP Close"] {
        assert_eq!(tcp.of(kind).with("src.process.pid", std::process::id()).len(), 2, "{tcp:#?}");
    }
}

/// Records of flows that do not fit into the ring are no loss: the daemon finds the flows in the kernel's map.
#[test]
fn a_full_ring_costs_flows_nothing() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured("ring_bytes = 4096");
    let flows = namespace.run(|| {
        daemon.signal(Signal::SIGSTOP);
        let pairs: Vec<_> = (0..100).map(|_| pair_of_sockets()).collect();
        let flows: Vec<_> = pairs.iter().map(ports).collect();
        daemon.signal(Signal::SIGCONT);
        let count = || daemon.events().within(&namespace).of("IP Connect").len();
        until(20_000, || format!("{}: {:#}", count(), daemon.health()), || count() == 200);
        daemon.signal(Signal::SIGSTOP);
        drop(pairs);
        daemon.signal(Signal::SIGCONT);
        flows
    });
    until(20_000, || format!("{:#}", daemon.health()), || daemon.list(namespace.inode).is_empty());
    let all = daemon.stop();
    assert!(all.of("Data Loss").is_empty(), "{:#?}", all.of("Data Loss"));
    let events = all.within(&namespace);
    for (from, to) in flows {
        for port in [from, to] {
            assert_eq!(of_port(&events, "IP Connect", port).one()["src.process.pid"], std::process::id());
        }
        assert_eq!(totals(of_port(&events, "IP Close", from).one()), (1, 10, 0, 0));
        assert_eq!(totals(of_port(&events, "IP Close", to).one()), (0, 0, 1, 10));
    }
}
