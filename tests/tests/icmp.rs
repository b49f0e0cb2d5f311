//! ICMP and other protocols besides TCP and UDP: ping with both kinds of sockets, raw sockets, and a scanner.

use std::{
    env, fs,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

use netconn_tests::{Capture, Daemon, Events, Netns, Packet, Pair, Wire, ended_flows, long, moment, totals};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// How ping is run. `ping_group_range` is the range of groups that may open ping sockets (`SOCK_DGRAM` of ICMP).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// As root without the right to ping sockets, so that it opens a raw socket.
    Raw,
    /// As nobody, with a setuid program of root that also opens a raw socket.
    Setuid,
    /// As nobody, with a ping socket.
    Unprivileged,
}

/// Runs ping in a namespace to its end, and returns its process id.
fn ping(namespace: &Netns, kind: Kind, arguments: &[&str]) -> u32 {
    // `1 0` is an empty range: no group may open a ping socket, so ping falls back to a raw one.
    let range = if kind == Kind::Unprivileged { "0 2147483647" } else { "1 0" };
    namespace.exec("sysctl", &["-q", "-w", &format!("net.ipv4.ping_group_range={range}")]);
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let as_nobody = |program: &str| namespace.command("setpriv", &[&nobody[..], &[program], arguments].concat());
    let folder = tempfile::tempdir().unwrap();
    let mut command = match kind {
        Kind::Raw => namespace.command("ping", arguments),
        Kind::Setuid => as_nobody(setuid(folder.path(), "ping").to_str().unwrap()),
        Kind::Unprivileged => as_nobody("ping"),
    };
    let mut ping = command.stdout(Stdio::null()).spawn().unwrap();
    let status = ping.wait().unwrap();
    assert!(status.success(), "{kind:?} {arguments:?}: {status}");
    ping.id()
}

/// Makes a copy of a program that runs as root for every user.
fn setuid(folder: &Path, program: &str) -> PathBuf {
    let found =
        env::split_paths(&env::var_os("PATH").unwrap()).map(|path| path.join(program)).find(|path| path.exists());
    let copy = folder.join(program);
    fs::copy(found.unwrap(), &copy).unwrap();
    for (path, mode) in [(folder, 0o755), (&copy, 0o4755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    copy
}

/// Waits for the `IP Close` of `count` ICMP flows of a process: see [`ended_flows`].
fn of_process(daemon: &Daemon, namespace: &Netns, pid: u32, count: usize) -> Events {
    ended_flows(daemon, namespace, "ICMP", count, |event| event["src.process.pid"] == pid)
}

fn has_no_ports(event: &Value) {
    for field in ["local.port.number", "remote.port.number", "src.port.number", "dst.port.number"] {
        assert!(event.get(field).is_none(), "{field}: {event:#}");
    }
}

#[test]
fn each_ping_is_a_flow() {
    for kind in [Kind::Raw, Kind::Setuid, Kind::Unprivileged] {
        // The last size does not fit into a frame.
        for (to, size, echo) in [("10.0.0.2", 100, 8), ("fd00::2", 56, 128), ("10.0.0.2", 3000, 8)] {
            let pair = Pair::new();
            let daemon = Daemon::shared();
            let capture = Capture::start(&pair.here, "cable");
            let pid = ping(&pair.here, kind, &["-n", "-c", "3", "-i", "0.2", "-s", &size.to_string(), to]);
            // Neighbour discovery of the kernel is ICMPv6, too, and is left out.
            let is_echo = |packet: &Packet| matches!(packet.icmp, Some((0 | 8 | 128 | 129, ..)));
            let wire = capture.end(&pair.here, "10.0.0.2").only(is_echo);

            let close = of_process(daemon, &pair.here, pid, 1).one().clone();
            let what = format!("{kind:?} to {to}: {close:#}");
            assert_eq!(totals(&close), (3, 3 * size, 3, 3 * size), "{what}");
            assert_eq!(totals(&close), wire.of(&close), "{what}");
            assert_eq!(close["event.network.direction"], "OUTGOING", "{what}");
            assert_eq!(close["event.network.protocolName"], "icmp", "{what}");
            assert_eq!(close["event.network.closeReason"], "local", "{what}");
            assert_eq!(close["remote.ip.address"], to, "{what}");
            has_no_ports(&close);
            let (kind_sent, code, id) = first_echo(&wire, to);
            assert_eq!((kind_sent, code), (echo, 0), "tcpdump has seen an echo");
            for (field, value) in [("icmpType", echo.into()), ("icmpCode", code.into()), ("icmpId", id)] {
                assert_eq!(close[format!("event.network.{field}")], value, "{field}: {what}");
            }
            assert!(close["event.network.communityId"].as_str().is_some_and(|id| id.starts_with("1:")), "{what}");
            assert_eq!(close["src.process.name"], "ping", "{what}");
            let user = if kind == Kind::Raw { "root" } else { "nobody" };
            assert_eq!(close["src.process.user"], user, "{what}");
            // The kernel answers at the other end, so there is no process.
            let there = daemon.events().within(&pair.there).with("event.network.protocol", "ICMP");
            assert!(there.0.iter().all(|event| event.get("src.process.pid").is_none()), "{there:#?}");
        }
    }
}

/// Returns the type, the code and the identifier of the first echo request to an address.
fn first_echo(wire: &Wire, to: &str) -> (u8, u8, u16) {
    let to: IpAddr = to.parse().unwrap();
    let echoes = wire.only(|packet| packet.to.ip() == to && matches!(packet.icmp, Some((8 | 128, ..))));
    echoes.0[0].icmp.unwrap()
}

#[test]
fn two_pings_at_once_are_two_flows() {
    let pair = Pair::new();
    let daemon = Daemon::shared();
    pair.here.exec("sysctl", &["-q", "-w", "net.ipv4.ping_group_range=0 2147483647"]);
    let capture = Capture::start(&pair.here, "cable");
    // A ping socket only gets the answers to its own requests.
    let pings = [3, 5].map(|count| {
        let count = count.to_string();
        let mut command = pair.here.command("ping", &["-n", "-c", &count, "-i", "0.2", "10.0.0.2"]);
        command.stdout(Stdio::null()).spawn().unwrap()
    });
    let pids = pings.map(|mut ping| {
        assert!(ping.wait().unwrap().success());
        ping.id()
    });
    let wire = capture.end(&pair.here, "10.0.0.2").icmp();
    for (pid, count) in pids.into_iter().zip([3, 5]) {
        let close = of_process(daemon, &pair.here, pid, 1).one().clone();
        assert_eq!(totals(&close), (count, count * 56, count, count * 56), "{close:#}");
        let id = &close["event.network.icmpId"];
        let same = wire.only(|packet| packet.icmp.is_some_and(|(kind, _, found)| kind == 8 && *id == found));
        assert_eq!(same.0.len() as u64, count, "{id}: {wire:?}");
    }
}

/// Returns a raw socket whose receive calls fail after ten seconds, scaled by [`long`].
fn raw(family: Domain, protocol: u8) -> Socket {
    let socket = Socket::new(family, Type::RAW, Some(Protocol::from(i32::from(protocol)))).unwrap();
    socket.set_read_timeout(Some(long(10_000))).unwrap();
    socket
}

/// Sends a packet with these bytes.
fn send(socket: &Socket, to: &str, bytes: &[u8]) {
    let to = SocketAddr::new(to.parse().unwrap(), 0);
    assert_eq!(socket.send_to(bytes, &to.into()).unwrap(), bytes.len());
}

/// Waits for a packet and returns its bytes; those of IPv4 begin with the IP header.
fn receive(socket: &Socket) -> Vec<u8> {
    let mut buffer = [MaybeUninit::new(0); 4096];
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    // SAFETY: all bytes are initialized with zeros.
    buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

#[test]
fn other_protocols_have_their_number() {
    for protocol in [47, 253] {
        for (here, there, family, header) in
            [("10.0.0.1", "10.0.0.2", Domain::IPV4, 20), ("fd00::1", "fd00::2", Domain::IPV6, 0)]
        {
            let pair = Pair::new();
            let daemon = Daemon::shared();
            let capture = Capture::start(&pair.here, "cable");
            // A raw socket needs no port: it gets all packets of its protocol in its namespace.
            let client = pair.here.run(|| raw(family, protocol));
            let server = pair.there.run(|| raw(family, protocol));
            for size in [50, 60, 70] {
                send(&client, there, &vec![0; size]);
                assert_eq!(receive(&server).len(), header + size);
            }
            send(&server, here, &[0; 33]);
            assert_eq!(receive(&client).len(), header + 33);
            drop((client, server));
            let number = protocol.to_string();
            let wire = capture.end(&pair.here, "10.0.0.2").only(|packet| packet.protocol == protocol);
            for (namespace, direction, expected) in
                [(&pair.here, "OUTGOING", (3, 180, 1, 33)), (&pair.there, "INCOMING", (1, 33, 3, 180))]
            {
                let close = ended_flows(daemon, namespace, &number, 1, |_| true).one().clone();
                assert_eq!(totals(&close), expected, "{close:#}");
                assert_eq!(totals(&close), wire.of(&close), "{close:#}");
                assert_eq!(close["event.network.direction"], direction, "{close:#}");
                assert_eq!(close["event.network.protocolName"], number.as_str());
                assert_eq!(close["src.process.pid"], std::process::id(), "{close:#}");
                has_no_ports(&close);
                assert!(close.get("event.network.icmpType").is_none(), "{close:#}");
            }
        }
    }
}

/// Returns an echo request with a payload of four bytes.
fn echo_request(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut message = vec![8, 0, 0, 0, high, low, 0, 1, 1, 2, 3, 4];
    // The checksum of RFC 1071.
    let words = message.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    // The carry is added twice: the first addition may carry again.
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

#[test]
fn a_raw_scanner_has_a_flow_with_each_host() {
    const HOSTS: u8 = 20;
    let pair = Pair::new();
    let daemon = Daemon::shared();
    let host = |number: u8| format!("10.0.0.{}", 100 + number);
    for number in 0..HOSTS {
        pair.there.ip(&["address", "add", &format!("{}/24", host(number)), "dev", "cable"]);
    }
    let capture = Capture::start(&pair.here, "cable");
    let scanner = pair.here.run(|| raw(Domain::IPV4, 1));
    for number in 0..HOSTS {
        send(&scanner, &host(number), &echo_request(4711));
        // The echo reply comes after an IPv4 header of 20 bytes.
        let answer = receive(&scanner);
        assert_eq!((answer[20], answer.len()), (0, 32));
    }
    let rows = daemon.list(pair.here.inode);
    let is_its_own = |row: &&Value| row["protocol"] == "ICMP" && row["pid"] == std::process::id();
    assert_eq!(rows.iter().filter(is_its_own).count(), usize::from(HOSTS), "{rows:#?}");
    drop(scanner);
    let wire = capture.end(&pair.here, "10.0.0.2").icmp();
    let closes = of_process(daemon, &pair.here, std::process::id(), HOSTS.into());
    for number in 0..HOSTS {
        let close = closes.with("remote.ip.address", host(number)).one().clone();
        assert_eq!((totals(&close), totals(&close)), ((1, 4, 1, 4), wire.of(&close)), "{close:#}");
        assert_eq!(close["event.network.icmpType"], 8);
        assert_eq!(close["event.network.icmpId"], 4711);
    }
}

#[test]
fn who_is_only_sent_to_has_incoming_flows() {
    let pair = Pair::new();
    let daemon = Daemon::shared();
    // A raw socket also receives packets that another process, or the kernel, answers.
    let listener = pair.here.run(|| raw(Domain::IPV4, 1));
    let pid = thread::scope(|scope| {
        // It receives from the beginning: the flow's event only waits 0.2 s for the process.
        let hearing = scope.spawn(|| [receive(&listener)[20], receive(&listener)[20]]);
        let pid = ping(&pair.there, Kind::Unprivileged, &["-n", "-c", "2", "-i", "0.2", "-s", "10", "10.0.0.1"]);
        assert_eq!(hearing.join().unwrap(), [8, 8], "echo requests");
        pid
    });
    drop(listener);
    let close = of_process(daemon, &pair.here, std::process::id(), 1).one().clone();
    assert_eq!(totals(&close), (0, 0, 2, 20), "{close:#}");
    assert_eq!(close["event.network.direction"], "INCOMING", "{close:#}");
    assert_eq!((&close["src.ip.address"], &close["dst.ip.address"]), (&"10.0.0.2".into(), &"10.0.0.1".into()));
    assert_eq!(totals(of_process(daemon, &pair.there, pid, 1).one()), (2, 20, 2, 20));
}

#[test]
fn icmp_can_be_asked_for_alone() {
    let pair = Pair::new();
    let daemon = Daemon::shared();
    let scanner = pair.here.run(|| raw(Domain::IPV4, 1));
    send(&scanner, "10.0.0.2", &echo_request(1));
    receive(&scanner);
    let other = pair.here.run(|| raw(Domain::IPV4, 253));
    send(&other, "10.0.0.2", &[0; 10]);
    moment();
    // The kernel has its own flows for neighbour discovery, so only those of this process are listed.
    let (inode, pid) = (pair.here.inode.to_string(), std::process::id());
    let text = daemon.text(&["list", "--icmp", "--format", "json", "--namespace", &inode, "--pid", &pid.to_string()]);
    let found: Value = serde_json::from_str(&text).unwrap();
    let rows = found["connections"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!((&rows[0]["protocol"], &rows[0]["state"]), (&"ICMP".into(), &"ESTABLISHED".into()));
    assert_eq!(rows[0]["remote_address"], "10.0.0.2");
    assert!(rows[0].get("local_port").is_none() && rows[0].get("remote_port").is_none(), "{:#}", rows[0]);
    assert_eq!(rows[0]["pid"], pid);
    let mut all = daemon.list(pair.here.inode);
    all.retain(|row| row["pid"] == pid);
    let mut protocols: Vec<_> = all.iter().map(|row| row["protocol"].as_str().unwrap()).collect();
    protocols.sort_unstable();
    assert_eq!(protocols, ["253", "ICMP"]);
}
