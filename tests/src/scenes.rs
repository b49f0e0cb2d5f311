//! What tests do with sockets, and what they ask of the events about them.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{Daemon, Events, Netns, long};

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
        for (field, value) in connect.as_object().unwrap() {
            let of_its_own = ["event.type", "event.time", "timestamp", "event.id"].contains(&field.as_str());
            assert!(of_its_own || close[field] == *value, "IP Close repeats {field}");
        }
        assert!(close["event.network.durationMs"].as_f64().unwrap() >= 0.0);
        close
    };
    (end("OUTGOING"), end("INCOMING"))
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
