//! Every way in which a connection begins or fails to begin.

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{
    Daemon, Events, Forked, Netns, Pair, closes, disconnect, events_of, failure, give_up_soon, long, moment, pause,
    rows, ss, start, step, until,
};
use nix::{
    libc,
    poll::{PollFd, PollFlags, poll},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::{getpid, gettid},
};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// `IPPROTO_MPTCP`, `include/uapi/linux/in.h`.
const IPPROTO_MPTCP: i32 = 262;

fn outgoing(events: &Events) -> Events {
    events.of("IP Connect").with("event.network.direction", "OUTGOING")
}

/// Calls `connect` and returns its errno, or 0.
fn try_connect(socket: &Socket, to: &str) -> i32 {
    let to: SocketAddr = to.parse().unwrap();
    socket.connect(&to.into()).map_or_else(|error| error.raw_os_error().unwrap(), |()| 0)
}

fn nonblocking(to: &str) -> Socket {
    let domain = Domain::for_address(to.parse().unwrap());
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Drops everything that comes into a namespace, except the neighbour discovery of IPv6.
fn silence(namespace: &Netns) {
    namespace.exec("nft", &["add table inet t"]);
    namespace.exec("nft", &["add chain inet t in { type filter hook input priority 0; policy drop; }"]);
    namespace.exec("nft", &["add rule inet t in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"]);
}

/// Waits for at least `count` events in a namespace and returns all. Some come later, when the daemon has asked the
/// routing tables.
fn asked_for(daemon: &Daemon, namespace: &Netns, count: usize) -> Events {
    // Without trampolines no hook reports the errno, and the daemon repeats the look-up of the route.
    let events = || daemon.events().within(namespace);
    until(10_000, || format!("{:#?}", events()), || events().len() >= count);
    moment();
    events()
}

#[test]
fn attempts_that_find_no_route_have_the_errno_that_connect_gives() {
    let namespace = Netns::new();
    for kind in ["unreachable", "prohibit", "blackhole"] {
        // The lengths of the words differ, so each kind of route has its own network.
        let number = kind.len();
        namespace.ip(&["route", "add", kind, &format!("10.{number}.0.0/16")]);
        namespace.ip(&["-6", "route", "add", kind, &format!("fd{number:02}::/16")]);
    }
    let to = [
        "192.0.2.1:80",
        "10.11.0.1:80",
        "10.8.0.1:80",
        "10.9.0.1:80",
        "[fd11::1]:80",
        "[fd08::1]:80",
        "[fd09::1]:80",
        "[2001:db8::1]:80",
        "[::ffff:10.8.0.2]:80",
        "224.0.0.1:80",
    ];
    let daemon = Daemon::shared();
    let errnos: Vec<_> = namespace.run(|| to.map(|to| try_connect(&nonblocking(to), to))).into();
    let events = asked_for(daemon, &namespace, to.len());
    assert_eq!(events.len(), to.len());
    for (to, errno) in to.iter().zip(errnos) {
        let to: SocketAddr = to.parse().unwrap();
        let attempts = outgoing(&events).with("dst.ip.address", to.ip().to_canonical().to_string());
        let attempt = attempts.one();
        assert_eq!(attempt["event.network.errno"], errno, "{to}");
        let (status, reason) = match errno {
            libc::ENETUNREACH => ("FAILURE", "net_unreachable"),
            libc::EHOSTUNREACH => ("FAILURE", "host_unreachable"),
            libc::EACCES => ("BLOCKED", "blocked"),
            _ => ("FAILURE", "other"),
        };
        assert_eq!(attempt["event.network.connectionStatus"], status, "{to}");
        assert_eq!(attempt["event.network.failureReason"], reason, "{to}");
        assert_eq!(attempt["dst.port.number"], 80);
        assert_eq!(attempt["src.process.pid"], std::process::id());
        assert_eq!(attempt["src.process.attribution"], "connect");
    }
}

#[test]
fn one_socket_may_fail_often_and_then_succeed_or_listen() {
    let (namespace, daemon) = (Netns::new(), Daemon::shared());
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        for _ in 0..3 {
            assert_eq!(try_connect(&socket, "192.0.2.1:80"), libc::ENETUNREACH);
        }
        socket.connect(&to.into()).unwrap();
        disconnect(&socket);
        assert_eq!(try_connect(&socket, "192.0.2.2:80"), libc::ENETUNREACH);
        drop(socket);
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(try_connect(&other, "192.0.2.3:80"), libc::ENETUNREACH);
        other.listen(1).unwrap();
    });
    // There are six attempts, the accepted end of the successful one, two closes, and two listeners with their ends.
    let events = asked_for(daemon, &namespace, 6 + 3 + 4);
    let all = outgoing(&events);
    let failed = all.with("event.network.errno", libc::ENETUNREACH);
    assert_eq!(
        (all.len(), failed.len(), all.with("event.network.connectionStatus", "SUCCESS").len()),
        (6, 5, 1),
        "{events:#?}"
    );
    for (address, count) in [("192.0.2.1", 3), ("192.0.2.2", 1), ("192.0.2.3", 1)] {
        assert_eq!(failed.with("dst.ip.address", address).len(), count);
    }
    // One socket, but a life for each attempt.
    let ids: HashSet<String> = all.values("event.connection.id").iter().map(ToString::to_string).collect();
    assert_eq!(ids.len(), 6, "each is an attempt of its own");
    assert_eq!(events.of("IP Listen").len(), 2);
    assert_eq!(events.of("IP Listen End").len(), 2);
    assert_eq!(events.of("IP Close").with("event.network.direction", "OUTGOING").len(), 1);
}

#[test]
fn attempts_without_waiting_have_the_same_outcomes() {
    let pair = Pair::new();
    silence(&pair.there);
    pair.there.exec("nft", &["add rule inet t in tcp dport 80 accept"]);
    pair.there.exec("nft", &["add rule inet t in tcp dport 81 reject with tcp reset"]);
    pair.there.exec("nft", &["add rule inet t in tcp dport 82 reject with icmpx type host-unreachable"]);
    pair.there.exec("nft", &["add rule inet t in tcp dport 83 reject with icmpx type admin-prohibited"]);
    for address in ["10.0.0.2", "fd00::2"] {
        let address: IpAddr = address.parse().unwrap();
        let daemon = Daemon::shared();
        let listener = pair.there.run(|| TcpListener::bind((address, 80)).unwrap());
        pair.here.run(|| {
            give_up_soon();
            let sockets: Vec<_> = (80..85).map(|port| start((address, port).into())).collect();
            // The attempt to port 84 ends after one retransmitted SYN, that is after three seconds.
            let is_open = |row: &Value| row["state"] == "SYN_SENT";
            let list = || daemon.list(pair.here.inode);
            until(20_000, || format!("{:#?}, ss: {:#?}", list(), ss(&pair.here)), || !list().iter().any(is_open));
            drop(sockets);
        });
        drop(listener);
        moment();
        let events = outgoing(&daemon.events().within(&pair.here)).with("dst.ip.address", address.to_string());
        assert_eq!(events.len(), 5, "{events:#?}");
        for (port, reason, errno) in [
            (80, None, None),
            (81, Some("refused"), Some(111)),
            (82, Some("host_unreachable"), Some(113)),
            // ICMP and ICMPv6 have different errors for it (icmp_err_convert, tab_unreach).
            (83, if address.is_ipv4() { Some("host_unreachable") } else { Some("blocked") }, None),
            (84, Some("timed_out"), Some(110)),
        ] {
            let of_port = events.with("dst.port.number", port);
            let event = of_port.one();
            assert_eq!(event["event.network.failureReason"].as_str(), reason, "{event:#}");
            if errno.is_some() {
                assert_eq!(event["event.network.errno"].as_i64(), errno, "{event:#}");
            }
            assert_eq!(event["src.process.pid"], std::process::id());
        }
    }
}

/// Waits for the outcome of an attempt, `milliseconds` at most, as a program does that does not wait in `connect`; returns what
/// `SO_ERROR` says then, and closes the socket.
fn outcome(socket: Socket, milliseconds: u16) -> Option<i32> {
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], milliseconds).unwrap();
    socket.take_error().unwrap().and_then(|error| error.raw_os_error())
}

#[test]
fn what_the_own_firewall_rejects_has_the_errno_that_the_program_gets() {
    let (pair, daemon) = (Pair::new(), Daemon::shared());
    let rules = [
        "tcp dport 81 reject with tcp reset",
        "tcp dport 82 reject with icmpx type port-unreachable",
        "tcp dport 83 reject with icmpx type host-unreachable",
        "tcp dport 84 reject with icmpx type admin-prohibited",
    ];
    pair.here.exec("nft", &["add table inet t"]);
    pair.here.exec("nft", &["add chain inet t out { type filter hook output priority 0; }"]);
    for rule in rules {
        pair.here.exec("nft", &[&format!("add rule inet t out {rule}")]);
    }
    for address in ["10.0.0.2", "fd00::2"] {
        let address: IpAddr = address.parse().unwrap();
        // Over IPv6 the program is told with the second SYN, a second later.
        let seen: Vec<_> =
            (81..=84).map(|port| (port, pair.here.run(|| outcome(start((address, port).into()), 4000)))).collect();
        moment();
        let events = outgoing(&daemon.events().within(&pair.here)).with("dst.ip.address", address.to_string());
        for (port, errno) in seen {
            let of_port = events.with("dst.port.number", port);
            let event = of_port.one();
            assert!(errno.is_some(), "{event:#}");
            assert_eq!(event["event.network.errno"].as_i64(), errno.map(i64::from), "{event:#}");
            let reason = match errno {
                Some(libc::ECONNREFUSED) => "refused",
                Some(libc::EHOSTUNREACH) => "host_unreachable",
                Some(libc::EACCES) => "blocked",
                other => panic!("{other:?}"),
            };
            assert_eq!(event["event.network.failureReason"], reason, "{event:#}");
        }
    }
    // Who gives up by itself is told so.
    silence(&pair.there);
    pair.here.run(|| outcome(start(("10.0.0.2".parse::<IpAddr>().unwrap(), 90).into()), 100));
    moment();
    let events = outgoing(&daemon.events().within(&pair.here)).with("dst.port.number", 90);
    assert_eq!(events.one()["event.network.failureReason"], "aborted");
}

#[test]
fn without_a_free_port_the_attempt_says_so() {
    let namespace = Netns::new();
    let events = events_of(&namespace, || {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40001").unwrap();
        let listener = TcpListener::bind("127.0.0.1:8083").unwrap();
        let to = listener.local_addr().unwrap();
        // They use up both ports of the range.
        let _held: Vec<_> = (0..2).map(|_| TcpStream::connect(to).unwrap()).collect();
        let error = TcpStream::connect(to).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    });
    let attempt = failure(&events);
    // Told, and not in the kernel's count of attempts: no SYN was sent.
    assert_eq!((events.attempts(), namespace.active_opens()), (2, 2));
    assert_eq!(attempt["event.network.failureReason"], "no_ports");
    assert_eq!(attempt["event.network.errno"], libc::EADDRNOTAVAIL);
    assert_eq!(attempt["dst.port.number"], 8083);
}

#[test]
fn a_bound_socket_connects_from_where_it_is_bound() {
    let pair = Pair::new();
    silence(&pair.there);
    let daemon = Daemon::shared();
    pair.here.run(|| {
        let socket = nonblocking("10.0.0.2:80");
        socket.bind(&"10.0.0.1:4242".parse::<SocketAddr>().unwrap().into()).unwrap();
        assert_eq!(try_connect(&socket, "10.0.0.2:80"), libc::EINPROGRESS);
        let list = daemon.list_all(pair.here.inode);
        assert_eq!(rows(&list), ss(&pair.here));
        assert_eq!((&list[0]["local_port"], &list[0]["state"]), (&4242.into(), &"SYN_SENT".into()));
    });
    moment();
    let attempt = failure(&daemon.events().within(&pair.here));
    assert_eq!((&attempt["src.ip.address"], &attempt["src.port.number"]), (&"10.0.0.1".into(), &4242.into()));
    assert_eq!(attempt["event.network.failureReason"], "aborted");
}

extern "C" fn ignore(_: libc::c_int) {}

#[test]
fn an_attempt_that_a_signal_interrupts_goes_on() {
    let pair = Pair::new();
    silence(&pair.there);
    let daemon = Daemon::shared();
    let listener = pair.there.run(|| TcpListener::bind("10.0.0.2:80").unwrap());
    pair.here.run(|| {
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        let (sender, receiver) = channel();
        thread::scope(|scope| {
            let attempt = scope.spawn(move || {
                sender.send(gettid()).unwrap();
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let result = try_connect(&socket, "10.0.0.2:80");
                (socket, result)
            });
            let thread = receiver.recv().unwrap();
            // The time is fixed, because no condition shows that the thread is inside of `connect`.
            thread::sleep(long(100));
            // Not `pthread_kill`: what musl names a thread by cannot be sent to another thread.
            let (pid, tid) = (getpid().as_raw(), thread.as_raw());
            // SAFETY: sends a signal that has a handler.
            assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, Signal::SIGUSR1 as i32) }, 0);
            let (socket, result) = attempt.join().unwrap();
            assert_eq!(result, libc::EINTR);
            pair.there.exec("nft", &["flush ruleset"]);
            // The kernel retransmits the SYN after a second.
            until(5000, || "it does not go on".into(), || socket.peer_addr().is_ok());
        });
    });
    drop(listener);
    moment();
    let events = daemon.events().within(&pair.here);
    let connect = outgoing(&events).one().clone();
    assert_eq!(connect["event.network.connectionStatus"], "SUCCESS");
    assert!(connect["event.network.connectLatencyUs"].as_u64().unwrap() > 500_000);
    assert_eq!(events.with("event.network.direction", "OUTGOING").of("IP Close").len(), 1);
}

#[test]
fn a_socket_may_connect_to_itself_and_two_to_each_other() {
    let namespace = Netns::new();
    let events = events_of(&namespace, || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:45999".parse::<SocketAddr>().unwrap().into()).unwrap();
        assert_eq!(try_connect(&socket, "127.0.0.1:45999"), 0);
    });
    let connect = events.of("IP Connect").one().clone();
    assert_eq!(
        (&connect["event.network.direction"], &connect["event.network.connectionStatus"]),
        (&"OUTGOING".into(), &"SUCCESS".into())
    );
    assert_eq!(connect["src.port.number"], connect["dst.port.number"]);
    assert_eq!(events.of("IP Close").len(), 1);

    let pair = Pair::new();
    silence(&pair.here);
    silence(&pair.there);
    let daemon = Daemon::shared();
    let attempt = |namespace: &Netns, from: &str, to: &str| {
        namespace.run(|| {
            let socket = nonblocking(to);
            socket.bind(&from.parse::<SocketAddr>().unwrap().into()).unwrap();
            assert_eq!(try_connect(&socket, to), libc::EINPROGRESS);
            socket
        })
    };
    let one = attempt(&pair.here, "10.0.0.1:7001", "10.0.0.2:7002");
    let other = attempt(&pair.there, "10.0.0.2:7002", "10.0.0.1:7001");
    // Both first SYNs were dropped. A retransmitted one now meets an end in SYN_SENT: a simultaneous open.
    for namespace in [&pair.here, &pair.there] {
        namespace.exec("nft", &["flush ruleset"]);
    }
    until(8000, || "they do not meet".into(), || one.peer_addr().is_ok() && other.peer_addr().is_ok());
    moment();
    for namespace in [&pair.here, &pair.there] {
        assert_eq!(rows(&daemon.list_all(namespace.inode)), ss(namespace));
    }
    drop((one, other));
    moment();
    let all = daemon.events();
    for namespace in [&pair.here, &pair.there] {
        let events = all.within(namespace);
        let connect = events.of("IP Connect").one().clone();
        assert_eq!(
            (&connect["event.network.direction"], &connect["event.network.connectionStatus"]),
            (&"OUTGOING".into(), &"SUCCESS".into())
        );
        assert_eq!(events.of("IP Close").len(), 1);
    }
}

/// Connects with TCP Fast Open: the data is sent with the SYN if the server has given a cookie before.
fn send_fast(to: SocketAddr, data: &[u8]) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    assert_eq!(socket.send_to_with_flags(data, &to.into(), libc::MSG_FASTOPEN).unwrap(), data.len());
    socket
}

fn set_option(descriptor: &impl std::os::fd::AsRawFd, level: i32, option: i32, value: i32) {
    // SAFETY: these options take an `int`, which lives for the call.
    let result = unsafe {
        libc::setsockopt(descriptor.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as u32)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn connections_that_open_fast_are_like_others() {
    let namespace = Netns::new();
    let mut sent_with_syn = false;
    let events = events_of(&namespace, || {
        fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_option(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 5);
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; 10]).unwrap();
                stream.write_all(b"hello").unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            }
        });
        let finish = |socket: Socket| {
            let mut stream = TcpStream::from(socket);
            stream.read_exact(&mut [0; 5]).unwrap();
        };
        // The first connection gets the cookie, the second one sends its data with the SYN.
        finish(send_fast(to, &[1; 10]));
        finish(send_fast(to, &[1; 10]));
        // With this option `connect` returns at once, and the SYN is sent with the first bytes.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        set_option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
        socket.connect(&to.into()).unwrap();
        moment();
        assert_eq!(socket.send(&[1; 10]).unwrap(), 10);
        finish(socket);
        server.join().unwrap();
        let netstat = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        sent_with_syn = !netstat.is_empty();
    });
    assert!(sent_with_syn);
    for (direction, sent, received) in [("OUTGOING", 10, 5), ("INCOMING", 5, 10)] {
        let one_end = events.with("event.network.direction", direction);
        let connects = one_end.of("IP Connect");
        assert_eq!(connects.with("event.network.connectionStatus", "SUCCESS").len(), 3, "{direction}");
        assert_eq!(connects.len(), 3, "{direction}");
        assert_eq!(connects.with("src.process.pid", std::process::id()).len(), 3);
        let closes = one_end.of("IP Close");
        assert_eq!(closes.len(), 3);
        for close in &closes.0 {
            assert_eq!(close["event.network.bytesSent"], sent, "{close:#}");
            assert_eq!(close["event.network.bytesReceived"], received, "{close:#}");
        }
    }
    let accepted = events.of("IP Connect").with("event.network.direction", "INCOMING");
    assert_eq!(accepted.with("src.process.attribution", "accept").len(), 3);
}

#[test]
fn cookies_of_the_handshake_change_nothing() {
    let namespace = Netns::new();
    let events = events_of(&namespace, || {
        // 2: always, not only when the queue is full. Such a handshake leaves no minisock in SYN_RECV.
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[0; 100]).unwrap();
        server.read_exact(&mut [0; 100]).unwrap();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    });
    let (out, r#in) = closes(&events);
    assert_eq!((&out["event.network.bytesSent"], &r#in["event.network.bytesReceived"]), (&100.into(), &100.into()));
}

#[test]
fn what_is_never_accepted_is_its_listeners() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        // This connection is reset before it is accepted.
        netconn_tests::reset(TcpStream::connect(to).unwrap());
        let waiting = TcpStream::connect(to).unwrap();
        // The time is fixed: it is longer than the 0.2 s that the daemon waits for an acceptor.
        thread::sleep(Duration::from_millis(400));
        assert_eq!(rows(&daemon.list_all(namespace.inode)), ss(&namespace));
        drop((waiting, listener));
    });
    moment();
    let events = daemon.events().within(&namespace);
    let accepted = events.with("event.network.direction", "INCOMING");
    assert_eq!((accepted.of("IP Connect").len(), accepted.of("IP Close").len()), (2, 2));
    for connect in &accepted.of("IP Connect").0 {
        assert_eq!(connect["event.network.connectionStatus"], "SUCCESS");
        assert_eq!(
            (&connect["src.process.pid"], &connect["src.process.attribution"]),
            (&std::process::id().into(), &"listener".into())
        );
    }
    let reset = accepted.of("IP Close").with("event.network.closeReason", "reset_by_remote");
    assert_eq!(reset.one()["event.network.errno"], 104);
}

#[test]
fn what_nobody_accepts_is_reported_while_much_else_happens() {
    let (namespace, daemon) = (Netns::new(), Daemon::shared());
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(1500) {
            drop(TcpStream::connect("127.0.0.1:9").unwrap_err());
            thread::sleep(Duration::from_micros(500));
        }
    });
    moment();
    // The event is held back for 0.2 s of the 1.5 s, so most of the others come after it.
    let connects = daemon.events().within(&namespace).of("IP Connect");
    let place = connects.0.iter().position(|event| event["event.network.direction"] == "INCOMING").unwrap();
    assert!(place < connects.len() * 2 / 3, "the {place}th of {}", connects.len());
}

#[test]
fn a_full_queue_leaves_attempts_waiting() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    namespace.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:8084".parse::<SocketAddr>().unwrap().into()).unwrap();
        // A queue of length 0 takes one connection; the kernel drops further SYNs.
        socket.listen(0).unwrap();
        let clients: Vec<_> = (0..5).map(|_| start("127.0.0.1:8084".parse().unwrap())).collect();
        moment();
        let kernel = ss(&namespace);
        assert_eq!(rows(&daemon.list_all(namespace.inode)), kernel);
        assert!(kernel.iter().any(|(state, ..)| state == "SYN_SENT"));
        drop(clients);
    });
    moment();
    let events = daemon.events().within(&namespace);
    assert_eq!(outgoing(&events).len(), 5, "each attempt has its outcome");
    let established = outgoing(&events).with("event.network.connectionStatus", "SUCCESS").len();
    assert_eq!(outgoing(&events).with("event.network.failureReason", "aborted").len(), 5 - established);
    assert_eq!(events.of("IP Close").with("event.network.direction", "OUTGOING").len(), established);
}

/// Each path of an MPTCP connection is a TCP connection of its own; all but the first are marked as subflows.
#[test]
fn further_paths_of_mptcp_connections_are_marked() {
    if !std::path::Path::new("/proc/sys/net/mptcp").exists() {
        // Debian builds 5.10 without MPTCP.
        assert!(Socket::new(Domain::IPV4, Type::STREAM, Some(IPPROTO_MPTCP.into())).is_err());
        return;
    }
    let pair = Pair::new();
    // The cable gets a second pair of addresses.
    for (namespace, number) in [(&pair.here, 1), (&pair.there, 2)] {
        namespace.ip(&["address", "add", &format!("10.0.1.{number}/24"), "dev", "cable"]);
        namespace.exec("ip", &["mptcp", "limits", "set", "subflow", "4", "add_addr_accepted", "4"]);
    }
    pair.here.exec("ip", &["mptcp", "endpoint", "add", "10.0.1.1", "dev", "cable", "subflow"]);
    let daemon = Daemon::shared();
    let mut server = pair.there.run(|| {
        Forked::new(|mut channel| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(IPPROTO_MPTCP.into())).unwrap();
            socket.bind(&"0.0.0.0:8085".parse::<SocketAddr>().unwrap().into()).unwrap();
            socket.listen(8).unwrap();
            step(&mut channel);
            let listener = TcpListener::from(socket);
            let (mut one, _) = listener.accept().unwrap();
            one.write_all(&[0; 1000]).unwrap();
            let (mut plain, _) = listener.accept().unwrap();
            plain.write_all(&[0; 1000]).unwrap();
            pause(&mut channel);
        })
    });
    server.wait();
    pair.here.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(IPPROTO_MPTCP.into())).unwrap();
        socket.connect(&"10.0.0.2:8085".parse::<SocketAddr>().unwrap().into()).unwrap();
        let mut client = TcpStream::from(socket);
        client.read_exact(&mut [0; 1000]).unwrap();
        client.write_all(&[0; 1000]).unwrap();
        // The kernel opens the second path.
        let is_path = |row: &&Value| row["direction"] == "OUTGOING" && row["state"] == "ESTABLISHED";
        let list = || daemon.list(pair.here.inode);
        until(5000, || format!("no second path: {:#?}", list()), || list().iter().filter(is_path).count() == 2);
        assert_eq!(rows(&daemon.list(pair.here.inode)), ss(&pair.here));
        // This client does not use MPTCP.
        let mut plain = TcpStream::connect("10.0.0.2:8085").unwrap();
        plain.read_exact(&mut [0; 1000]).unwrap();
    });
    moment();
    let pid = server.pid;
    drop(server);
    moment();
    let all = daemon.events();
    let out = outgoing(&all.within(&pair.here));
    assert_eq!(out.len(), 3, "two paths and a plain connection: {out:#?}");
    let further = out.with("event.network.subflow", true);
    assert_eq!(further.one()["src.ip.address"], "10.0.1.1");
    assert_eq!(out.with("src.process.pid", std::process::id()).len(), 3, "the kernel's own path is the process's too");
    let r#in = all.within(&pair.there).of("IP Connect");
    assert_eq!(r#in.len(), 3);
    assert_eq!(r#in.with("src.process.pid", pid).len(), 3, "{:#?}", r#in);
    assert_eq!(r#in.with("event.network.subflow", true).one()["src.ip.address"], "10.0.1.1");
}

#[test]
fn an_id_that_is_used_again_is_another_process() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let pid = namespace.run(|| {
        let refused = |_| drop(TcpStream::connect("127.0.0.1:9").unwrap_err());
        let first = Forked::new(refused);
        let pid = first.pid;
        first.join();
        // The time is fixed: `startTime` is in milliseconds, and those of the two processes must differ.
        thread::sleep(long(50));
        let second = Forked::with_pid(pid, refused);
        assert_eq!(second.pid, pid);
        second.join();
        pid
    });
    moment();
    let attempts = daemon.events().within(&namespace).of("IP Connect").with("src.process.pid", pid);
    assert_eq!(attempts.len(), 2);
    let uids: HashSet<String> = attempts.values("src.process.uid").iter().map(ToString::to_string).collect();
    assert_eq!(uids.len(), 2, "{attempts:#?}");
    assert!(attempts.0[0]["src.process.startTime"].as_u64() < attempts.0[1]["src.process.startTime"].as_u64());
}
