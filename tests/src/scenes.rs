//! What tests do with sockets, and what they ask of the events about them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    os::fd::{AsRawFd as _, RawFd},
    path::Path,
    thread,
    time::Duration,
};

use nix::libc;
use serde_json::Value;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{Daemon, Events, Forked, Netns, long, until};

/// Waits for longer than a daemon takes to see anything, and than loopback takes for anything.
pub fn moment() {
    thread::sleep(long(50));
}

/// Lets attempts of the caller's namespace that get no answer fail after three seconds: one repetition. From 6.5 on the
/// kernel repeats four more times before it counts (`tcp_syn_linear_timeouts`, Documentation/networking/ip-sysctl.rst).
pub fn give_up_soon() {
    fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1").unwrap();
    let linear = Path::new("/proc/sys/net/ipv4/tcp_syn_linear_timeouts");
    if linear.exists() {
        fs::write(linear, "0").unwrap();
    }
}

/// Events in a namespace that a function causes.
pub fn events_of(namespace: &Netns, function: impl FnOnce() + Send) -> Events {
    let daemon = Daemon::shared();
    let before = daemon.events().within(namespace).len();
    namespace.run(function);
    moment();
    let mut events = daemon.events().within(namespace);
    events.0.drain(..before);
    events
}

/// The one attempt that failed, and nothing else of it: no second outcome, no close.
pub fn failure(events: &Events) -> Value {
    let attempt = events.of("IP Connect").with("event.network.connectionStatus", "FAILURE").one().clone();
    assert_eq!(attempt["event.network.direction"], "OUTGOING");
    assert_eq!(attempt["src.process.pid"], std::process::id());
    assert_eq!(attempt["src.process.attribution"], "connect");
    let same = events.with("event.connection.id", attempt["event.connection.id"].clone());
    assert_eq!(same.len(), 1, "exactly one event of a failed attempt");
    attempt
}

/// The close of the outgoing and of the incoming end of the one connection there was.
pub fn closes(events: &Events) -> (Value, Value) {
    let closes = events.of("IP Close");
    let connects = events.of("IP Connect").with("event.network.connectionStatus", "SUCCESS");
    assert_eq!((connects.len(), closes.len()), (2, 2), "{events:#?}");
    let end = |direction| {
        let close = closes.with("event.network.direction", direction).one().clone();
        let connect = connects.with("event.network.direction", direction).one().clone();
        repeats(&close, &connect);
        assert!(close["event.network.durationMs"].as_f64().unwrap() >= 0.0);
        close
    };
    (end("OUTGOING"), end("INCOMING"))
}

/// Checks that an `IP Close` has every field of its `IP Connect`.
fn repeats(close: &Value, connect: &Value) {
    for (field, value) in connect.as_object().unwrap() {
        let of_its_own = ["event.type", "event.time", "timestamp", "event.id"].contains(&field.as_str());
        assert!(of_its_own || close[field] == *value, "IP Close repeats {field}: {close:#} {connect:#}");
    }
}

/// The ends of the flows of a protocol in a namespace, once there are so many and not more: each has a beginning, and the
/// same fields. The flows of ends that are not wanted here are left out by the filter.
pub fn ended_flows(
    daemon: &Daemon,
    namespace: &Netns,
    protocol: &str,
    count: usize,
    is_wanted: impl Fn(&Value) -> bool,
) -> Events {
    let events = |kind: &str| {
        let mut events = daemon.events().within(namespace).with("event.network.protocol", protocol).of(kind);
        events.0.retain(&is_wanted);
        events
    };
    let found = || format!("{count} ends are expected: {:#?}", daemon.events().within(namespace));
    until(20_000, found, || events("IP Close").len() >= count);
    // What should not come would come now.
    moment();
    let (connects, closes) = (events("IP Connect"), events("IP Close"));
    assert_eq!(closes.len(), count, "{}", found());
    for close in &closes.0 {
        let connect = connects.with("event.connection.id", close["event.connection.id"].clone()).one().clone();
        assert_eq!(connect["event.network.connectionStatus"], "SUCCESS");
        repeats(close, &connect);
        assert!(close["event.network.durationMs"].as_f64().is_some_and(|time| time >= 0.0), "{close:#}");
    }
    closes
}

/// The one event about a flow between these two ports, seen from the first.
pub fn between(events: &Events, local: u16, remote: u16) -> Value {
    events.with("local.port.number", local).with("remote.port.number", remote).one().clone()
}

/// A process of its own with a UDP socket that sends back whatever it is sent; killed when dropped.
#[derive(Debug)]
pub struct Echo {
    /// The process.
    pub process: Forked,
    /// Its socket's address.
    pub address: SocketAddr,
}

impl Echo {
    /// Starts one in the caller's namespace. Port 0: any that is free.
    pub fn start(address: &str, port: u16) -> Self {
        Self::answering(address, port, <[u8]>::to_vec)
    }

    /// Starts one that answers something else. Several may share a port.
    pub fn answering(address: &str, port: u16, answer: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let mut process = Forked::new(|mut channel| {
            close_all_but(channel.as_raw_fd());
            let socket = Socket::new(Domain::for_address((address, port).into()), Type::DGRAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&SocketAddr::from((address, port)).into()).unwrap();
            let socket = UdpSocket::from(socket);
            channel.write_all(&socket.local_addr().unwrap().port().to_ne_bytes()).unwrap();
            let mut datagram = vec![0; 65_536];
            loop {
                let (length, from) = socket.recv_from(&mut datagram).unwrap();
                // Whoever sent it may be gone.
                let _ = socket.send_to(&answer(&datagram[..length]), from);
            }
        });
        let mut port = [0; 2];
        process.channel.read_exact(&mut port).unwrap();
        Self { process, address: (address, u16::from_ne_bytes(port)).into() }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Closes what this process has inherited, but for one descriptor: the test's sockets shall end when the test closes them.
fn close_all_but(descriptor: RawFd) {
    for (first, last) in [(3, descriptor - 1), (descriptor + 1, RawFd::MAX)] {
        // SAFETY: the child uses none of them, and ends without dropping what has them.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// A UDP socket that gives up when it waits for too long: what a test waits for may never come.
pub fn udp(address: impl ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(long(10_000))).unwrap();
    socket
}

/// A UDP socket of a family that is not bound: it gets a port when it sends first, or is connected.
pub fn unbound(family: Domain) -> UdpSocket {
    let socket = Socket::new(family, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_read_timeout(Some(long(10_000))).unwrap();
    socket.into()
}

/// UDP sockets of all kinds that `ss` shows; none of them has sent anything.
pub fn udp_sockets() -> Vec<UdpSocket> {
    let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let bound = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"].map(udp);
    let to = bound.each_ref().map(|socket| SocketAddr::from(([127, 0, 0, 1], port(socket))));
    // Connected, and bound before or not; over IPv6 to IPv4 too.
    let one = unbound(Domain::IPV4);
    one.connect(to[0]).unwrap();
    let two = udp("127.0.0.1:0");
    two.connect(to[1]).unwrap();
    let three = unbound(Domain::IPV6);
    three.connect(("::ffff:127.0.0.1", to[0].port())).unwrap();
    let four = unbound(Domain::IPV6);
    four.connect(("::1", port(&bound[2]))).unwrap();
    // Two at one port.
    let shared = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket
    };
    let first = shared();
    first.bind(&"127.0.0.3:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let second = shared();
    second.bind(&first.local_addr().unwrap()).unwrap();
    let mut all = Vec::from(bound);
    all.extend([one, two, three, four, first.into(), second.into()]);
    all
}

/// Sends a datagram of so many bytes from one socket and waits until the other one has it; gives whom it came from.
pub fn deliver(from: &UdpSocket, to: (&UdpSocket, SocketAddr), length: usize) -> SocketAddr {
    assert_eq!(from.send_to(&vec![0; length], to.1).unwrap(), length);
    let (received, sender) = to.0.recv_from(&mut vec![0; 65_536]).unwrap();
    assert_eq!(received, length);
    sender
}

/// A listener, and both ends of a connection through it.
pub fn connected(address: &str) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (listener, client, server)
}

/// A close that sends RST instead of FIN.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Starts to connect and does not wait.
pub fn start(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&to.into());
    socket
}

/// `connect` to `AF_UNSPEC` ends a connection and keeps the socket.
pub fn disconnect(socket: &Socket) {
    // SAFETY: an all-zero address is one of family AF_UNSPEC.
    let nowhere = unsafe {
        let mut storage = socket2::SockAddrStorage::zeroed();
        storage.view_as::<[u8; 16]>().fill(0);
        socket2::SockAddr::new(storage, 16)
    };
    socket.connect(&nowhere).unwrap();
}
