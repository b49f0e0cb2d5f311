//! Actions on sockets that several tests share, and the checks of the events they cause.

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

/// Waits for longer than the kernel takes to deliver on loopback and the daemon takes to read a record. The time is
/// fixed because many callers check that nothing more happens, which no condition can show.
pub fn moment() {
    thread::sleep(long(50));
}

/// Makes unanswered attempts in the caller's namespace fail after three seconds, that is after one retransmitted SYN.
/// From 6.5 on the kernel retransmits four more times at first (`tcp_syn_linear_timeouts`,
/// Documentation/networking/ip-sysctl.rst), so this is turned off.
pub fn give_up_soon() {
    fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1").unwrap();
    let linear = Path::new("/proc/sys/net/ipv4/tcp_syn_linear_timeouts");
    if linear.exists() {
        fs::write(linear, "0").unwrap();
    }
}

/// Runs a function in a namespace and returns the events that it causes there.
pub fn events_of(namespace: &Netns, function: impl FnOnce() + Send) -> Events {
    let daemon = Daemon::shared();
    let before = daemon.events().within(namespace).len();
    namespace.run(function);
    moment();
    // The daemon may be shared: events of earlier calls in this namespace are left out.
    let mut events = daemon.events().within(namespace);
    events.0.drain(..before);
    events
}

/// Returns the one failed attempt, and checks that it has no other event: no second outcome, no close.
pub fn failure(events: &Events) -> Value {
    let attempt = events.of("IP Connect").with("event.network.connectionStatus", "FAILURE").one().clone();
    assert_eq!(attempt["event.network.direction"], "OUTGOING");
    assert_eq!(attempt["src.process.pid"], std::process::id());
    assert_eq!(attempt["src.process.attribution"], "connect");
    let same = events.with("event.connection.id", attempt["event.connection.id"].clone());
    assert_eq!(same.len(), 1, "exactly one event of a failed attempt");
    attempt
}

/// Returns the `IP Close` of the outgoing and of the incoming end of the only connection.
pub fn closes(events: &Events) -> (Value, Value) {
    let closes = events.of("IP Close");
    let connects = events.of("IP Connect").with("event.network.connectionStatus", "SUCCESS");
    assert_eq!((connects.len(), closes.len()), (2, 2), "{events:#?}");
    let end = |direction| {
        let close = closes.with("event.network.direction", direction).one().clone();
        let connect = connects.with("event.network.direction", direction).one().clone();
        repeats(&close, &connect, &[]);
        assert!(close["event.network.durationMs"].as_f64().unwrap() >= 0.0);
        close
    };
    (end("OUTGOING"), end("INCOMING"))
}

/// Checks that an `IP Close` repeats every field of its `IP Connect`.
fn repeats(close: &Value, connect: &Value, but: &[&str]) {
    for (field, value) in connect.as_object().unwrap() {
        let is_left_out = but.iter().any(|name| field.strip_prefix("event.network.") == Some(name));
        let of_its_own = is_left_out || ["event.type", "event.time", "timestamp", "event.id"].contains(&field.as_str());
        assert!(of_its_own || close[field] == *value, "IP Close repeats {field}: {close:#} {connect:#}");
    }
}

/// Waits for the `IP Close` of `count` flows of a protocol in a namespace and returns them. Checks that there are no
/// more, and that each repeats its `IP Connect`. Flows for which `is_wanted` is false are left out.
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
    // An unexpected event would come now.
    moment();
    let (connects, closes) = (events("IP Connect"), events("IP Close"));
    assert_eq!(closes.len(), count, "{}", found());
    for close in &closes.0 {
        let connect = connects.with("event.connection.id", close["event.connection.id"].clone()).one().clone();
        if close["event.network.connectionStatus"] == "FAILURE" {
            // An ICMP error answered: before the `IP Connect` was due, or after it.
            assert_eq!(
                (&close["event.network.protocol"], &close["event.network.bytesReceived"]),
                (&"UDP".into(), &0.into())
            );
            repeats(close, &connect, &["connectionStatus", "failureReason", "errno"]);
        } else {
            let is_raw = connect["event.network.raw"] == true;
            let status = if is_raw { Value::Null } else { "SUCCESS".into() };
            assert_eq!(connect["event.network.connectionStatus"], status, "{connect:#}");
            repeats(close, &connect, &[]);
        }
        assert!(close["event.network.durationMs"].as_f64().is_some_and(|time| time >= 0.0), "{close:#}");
    }
    closes
}

/// Returns the only event of a flow from this local to this remote port.
pub fn between(events: &Events, local: u16, remote: u16) -> Value {
    events.with("local.port.number", local).with("remote.port.number", remote).one().clone()
}

/// A child process with a UDP socket that answers each datagram. It is killed when dropped.
#[derive(Debug)]
pub struct Echo {
    /// The child process.
    pub process: Forked,
    /// The address of its socket.
    pub address: SocketAddr,
}

impl Echo {
    /// Starts a process in the caller's namespace that sends each datagram back. Port 0 stands for any free port.
    pub fn start(address: &str, port: u16) -> Self {
        Self::answering(address, port, <[u8]>::to_vec)
    }

    /// Starts a process that answers each datagram with `answer`. Several may share a port.
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
                // The sender may be closed already.
                let _ = socket.send_to(&answer(&datagram[..length]), from);
            }
        });
        let mut port = [0; 2];
        process.channel.read_exact(&mut port).unwrap();
        Self { process, address: (address, u16::from_ne_bytes(port)).into() }
    }

    /// Returns the port of its socket.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Closes all inherited descriptors except one, so that a socket of the test ends when the test closes it.
fn close_all_but(descriptor: RawFd) {
    for (first, last) in [(3, descriptor - 1), (descriptor + 1, RawFd::MAX)] {
        // SAFETY: the child does not use these descriptors, and ends by `_exit` without dropping their owners.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// Returns a bound UDP socket whose receive calls fail after ten seconds, scaled by [`long`].
pub fn udp(address: impl ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(long(10_000))).unwrap();
    socket
}

/// Returns a listener that the kernel wakes only with the first data of a client (`TCP_DEFER_ACCEPT`, see tcp(7)): until then a
/// connection is half-open at its end. Returns its address as well.
pub fn deferring(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    let seconds: libc::c_int = 60;
    // SAFETY: the kernel reads as many bytes as the length says.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Returns an unbound UDP socket: it gets a port with its first datagram, or when it is connected. Its receive calls
/// fail after ten seconds, scaled by [`long`].
pub fn unbound(family: Domain) -> UdpSocket {
    let socket = Socket::new(family, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_read_timeout(Some(long(10_000))).unwrap();
    socket.into()
}

/// Returns UDP sockets of all kinds that `ss` shows; none of them has sent a datagram.
pub fn udp_sockets() -> Vec<UdpSocket> {
    let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let bound = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"].map(udp);
    let to = bound.each_ref().map(|socket| SocketAddr::from(([127, 0, 0, 1], port(socket))));
    // Connected sockets: bound before or not, and an IPv6 socket to an IPv4-mapped address.
    let one = unbound(Domain::IPV4);
    one.connect(to[0]).unwrap();
    let two = udp("127.0.0.1:0");
    two.connect(to[1]).unwrap();
    let three = unbound(Domain::IPV6);
    three.connect(("::ffff:127.0.0.1", to[0].port())).unwrap();
    let four = unbound(Domain::IPV6);
    four.connect(("::1", port(&bound[2]))).unwrap();
    // Two sockets at one port.
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

/// Sends a datagram of `length` bytes from one socket, receives it at the other, and returns the sender's address.
pub fn deliver(from: &UdpSocket, to: (&UdpSocket, SocketAddr), length: usize) -> SocketAddr {
    assert_eq!(from.send_to(&vec![0; length], to.1).unwrap(), length);
    let (received, sender) = to.0.recv_from(&mut vec![0; 65_536]).unwrap();
    assert_eq!(received, length);
    sender
}

/// Returns a listener, and the client's and the server's end of a connection through it.
pub fn connected(address: &str) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (listener, client, server)
}

/// Closes a connection with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Starts to connect, without waiting for the outcome.
pub fn start(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    // EINPROGRESS: the outcome comes later.
    let _ = socket.connect(&to.into());
    socket
}

/// Ends a connection by `connect` to `AF_UNSPEC`, which keeps the socket.
pub fn disconnect(socket: &Socket) {
    // SAFETY: an all-zero address is one of family AF_UNSPEC.
    let nowhere = unsafe {
        let mut storage = socket2::SockAddrStorage::zeroed();
        storage.view_as::<[u8; 16]>().fill(0);
        socket2::SockAddr::new(storage, 16)
    };
    socket.connect(&nowhere).unwrap();
}
