//! The process of an accepted connection: the one that accepted it, in every way, or the one that uses it after it was
//! passed on.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, RawFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::Stdio,
    thread,
    time::Duration,
};

use netconn_tests::{Daemon, Events, Forked, Netns, actor, hand_over, long, moment, pause, received, step, until};
use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::socket::{
        setsockopt,
        sockopt::{ReuseAddr, ReusePort},
    },
    unistd::gettid,
};
use serde_json::Value;

/// Number of connections of each kind.
const COUNT: usize = 12;

/// How a server treats a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// `accept` with an address, which runs the getpeername hook.
    Asks,
    /// `accept` without an address, then it reads.
    Reads,
    /// `accept` without an address, then it writes.
    Writes,
    /// `accept` without an address, then it only holds the connection.
    Waits,
}

/// Accepts a connection without its address, which std does not offer.
fn accept_blindly(listener: &TcpListener) -> TcpStream {
    // SAFETY: with null pointers `accept` writes no address; the new descriptor has no other owner.
    unsafe {
        let descriptor: RawFd = libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut());
        assert!(descriptor >= 0);
        TcpStream::from_raw_fd(descriptor)
    }
}

/// Accepts connections for ever, and sends each client the process id: at once, or after the client has sent a byte.
fn work(listener: &TcpListener, manner: Manner) {
    let mut held = Vec::new();
    loop {
        let mut stream = match manner {
            Manner::Asks => listener.accept().unwrap().0,
            _ => accept_blindly(listener),
        };
        match manner {
            Manner::Asks | Manner::Writes => stream.write_all(&std::process::id().to_ne_bytes()).unwrap(),
            Manner::Reads => {
                let _ = stream.read(&mut [0]);
                let _ = stream.write_all(&std::process::id().to_ne_bytes());
            }
            Manner::Waits => {}
        }
        // A closed connection would leave the table before the test has looked.
        held.push(stream);
    }
}

/// Reads the process id that [`work`] sends.
fn read_pid(stream: &mut TcpStream) -> u32 {
    let mut pid = [0; 4];
    stream.read_exact(&mut pid).unwrap();
    u32::from_ne_bytes(pid)
}

/// Returns the only event of a kind about the accepted end of a connection.
fn accepted(events: &Events, kind: &str, client_port: u16) -> Value {
    events.of(kind).with("event.network.direction", "INCOMING").with("remote.port.number", client_port).one().clone()
}

/// Waits until the row of each accepted connection names its process.
fn rows_become_right(daemon: &Daemon, namespace: u64, expected: &[(u16, u32)]) {
    let list = || daemon.list(namespace);
    until(
        10_000,
        || format!("{expected:?}: {:#?}", list()),
        || {
            let rows = list();
            expected.iter().all(|(port, pid)| {
                let is_it =
                    |row: &Value| row["direction"] == "INCOMING" && row["remote_port"] == *port && row["pid"] == *pid;
                rows.iter().any(is_it)
            })
        },
    );
}

#[test]
fn the_worker_that_accepts_has_the_connection() {
    for (manner, words) in [
        (Manner::Asks, &["accept"][..]),
        (Manner::Reads, &["accept", "receive"]),
        (Manner::Writes, &["accept", "send", "scan"]),
        (Manner::Waits, &["accept", "scan"]),
    ] {
        let namespace = Netns::new();
        let daemon = Daemon::shared();
        let mut expected = Vec::new();
        namespace.run(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let workers: Vec<_> = (0..3).map(|_| Forked::new(|_| work(&listener, manner))).collect();
            if manner == Manner::Waits {
                // The server never sends its process id, so there must be one server only.
                drop(workers);
                let worker = Forked::new(|_| work(&listener, manner));
                let clients: Vec<_> = (0..COUNT).map(|_| TcpStream::connect(to).unwrap()).collect();
                expected = clients.iter().map(|client| (client.local_addr().unwrap().port(), worker.pid)).collect();
                rows_become_right(daemon, namespace.inode, &expected);
                return;
            }
            let mut clients: Vec<_> = (0..COUNT).map(|_| TcpStream::connect(to).unwrap()).collect();
            for client in &mut clients {
                if manner == Manner::Reads {
                    client.write_all(&[1]).unwrap();
                }
                expected.push((client.local_addr().unwrap().port(), read_pid(client)));
            }
            rows_become_right(daemon, namespace.inode, &expected);
            assert!(expected.iter().all(|(_, pid)| workers.iter().any(|worker| worker.pid == *pid)));
        });
        moment();
        let events = daemon.events().within(&namespace);
        assert_eq!(events.of("IP Listen").one()["src.process.pid"], std::process::id(), "the listener is the test's");
        for (port, pid) in expected {
            let close = accepted(&events, "IP Close", port);
            assert_eq!(close["src.process.pid"], pid, "{manner:?}");
            let how = close["src.process.attribution"].as_str().unwrap();
            assert!(words.contains(&how), "{manner:?}: {how}");
            // The `IP Connect` already has the process if it accepts, or reads, at once.
            let connect = accepted(&events, "IP Connect", port);
            if matches!(manner, Manner::Asks | Manner::Reads) {
                assert_eq!(connect["src.process.pid"], pid, "{manner:?}: {connect}");
                assert_eq!(connect["src.process.parent.pid"], std::process::id());
            }
        }
    }
}

#[test]
fn the_thread_that_accepts_is_named() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let tid = namespace.run(|| {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let to = listener.local_addr().unwrap();
        let accept = move || {
            let _held = listener.accept().unwrap();
            moment();
            gettid()
        };
        let server = thread::spawn(accept);
        let _client = TcpStream::connect(to).unwrap();
        server.join().unwrap()
    });
    moment();
    let events = daemon.events().within(&namespace);
    let connect = events.of("IP Connect").with("event.network.direction", "INCOMING").one().clone();
    assert_eq!(connect["src.process.pid"], std::process::id());
    assert_eq!(connect["src.process.tid"], tid.as_raw());
    assert_eq!(connect["src.process.attribution"], "accept");
}

#[test]
fn a_program_that_inherited_the_listener_has_what_it_accepts() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let pid = namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let descriptor = listener.as_raw_fd();
        let mut command = actor();
        command.args(["accept", &descriptor.to_string()]).stdin(Stdio::piped());
        // SAFETY: the function only makes a system call, which is allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // std sets close-on-exec on every descriptor.
                libc::fcntl(descriptor, libc::F_SETFD, 0);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        rows_become_right(daemon, namespace.inode, &[(client.local_addr().unwrap().port(), child.id())]);
        drop(child.stdin.take());
        child.wait().unwrap();
        child.id()
    });
    moment();
    let events = daemon.events().within(&namespace);
    let connect = events.of("IP Connect").with("event.network.direction", "INCOMING").one().clone();
    assert_eq!(connect["src.process.pid"], pid);
    assert_eq!(connect["src.process.name"], "actor");
    assert!(connect["src.process.cmdline"].as_str().unwrap().contains("accept"));
    assert!(connect["src.process.image.path"].as_str().unwrap().ends_with("/actor"));
}

#[test]
fn process_ids_are_those_of_the_host_also_of_containers() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let pid = namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The next child of this thread is process 1 of a new namespace.
        unshare(CloneFlags::CLONE_NEWPID).unwrap();
        let mut child = Forked::new(|mut channel| {
            let (mut stream, _) = listener.accept().unwrap();
            let own = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.write_all(&std::process::id().to_ne_bytes()).unwrap();
            pause(&mut channel);
            drop((stream, own));
        });
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(read_pid(&mut client), 1, "that is how it sees itself");
        child.go();
        let pid = child.pid;
        child.join();
        pid
    });
    moment();
    let events = daemon.events().within(&namespace);
    let by_child = events.of("IP Connect").with("src.process.pid", pid);
    assert_eq!(by_child.with("event.network.direction", "INCOMING").one()["src.process.attribution"], "accept");
    assert_eq!(by_child.with("event.network.direction", "OUTGOING").one()["src.process.attribution"], "connect");
}

#[test]
fn what_is_handed_over_belongs_to_whom_uses_it() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let (port, pid) = namespace.run(|| {
        let (here, there) = UnixStream::pair().unwrap();
        let mut receiver = Forked::new(|mut channel| {
            let mut stream = TcpStream::from(received(&there));
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            step(&mut channel);
            pause(&mut channel);
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let port = client.local_addr().unwrap().port();
        rows_become_right(daemon, namespace.inode, &[(port, std::process::id())]);
        hand_over(&here, &stream);
        // The receiver has the connection open, so it goes on.
        drop(stream);
        client.write_all(&[1]).unwrap();
        receiver.wait();
        rows_become_right(daemon, namespace.inode, &[(port, receiver.pid)]);
        receiver.go();
        let pid = receiver.pid;
        receiver.join();
        (port, pid)
    });
    moment();
    let events = daemon.events().within(&namespace);
    let connect = accepted(&events, "IP Connect", port);
    assert_eq!(
        (&connect["src.process.attribution"], &connect["src.process.pid"]),
        (&"accept".into(), &std::process::id().into())
    );
    let close = accepted(&events, "IP Close", port);
    assert_eq!((&close["src.process.attribution"], &close["src.process.pid"]), (&"receive".into(), &pid.into()));
}

#[test]
fn what_a_process_leaves_behind_belongs_to_whom_has_it_open() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    namespace.run(|| {
        // This is how servers go to the background: the process that listens and accepts ends, and its child goes on.
        let mut first = Forked::new(|mut channel| {
            let listener = TcpListener::bind("127.0.0.1:8081").unwrap();
            step(&mut channel);
            let accepted = listener.accept().unwrap();
            let child = Forked::new(|_| {
                let _held = (&listener, &accepted);
                // The child lives until the test kills it; the time only limits its life if the test fails before.
                thread::sleep(long(15_000));
            });
            channel.write_all(&child.pid.to_ne_bytes()).unwrap();
            pause(&mut channel);
            // Dropping it would kill the child, which must outlive this process.
            std::mem::forget(child);
        });
        first.wait();
        let client = TcpStream::connect("127.0.0.1:8081").unwrap();
        let mut pid = [0; 4];
        first.channel.read_exact(&mut pid).unwrap();
        let second = u32::from_ne_bytes(pid);
        let port = client.local_addr().unwrap().port();
        rows_become_right(daemon, namespace.inode, &[(port, first.pid)]);
        first.go();
        first.join();
        rows_become_right(daemon, namespace.inode, &[(port, second)]);
        let rows = daemon.list(namespace.inode);
        let listener = rows.iter().find(|row| row["state"] == "LISTENING").unwrap();
        assert_eq!((&listener["pid"], &listener["attribution"]), (&second.into(), &"scan".into()));
        // Later connections through the listener belong to the child.
        let later = TcpStream::connect("127.0.0.1:8081").unwrap();
        rows_become_right(daemon, namespace.inode, &[(later.local_addr().unwrap().port(), second)]);
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(second).unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        );
    });
}

#[test]
fn of_several_listeners_at_one_port_it_is_the_one_that_was_chosen() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let mut expected = Vec::new();
    namespace.run(|| {
        let listen = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            setsockopt(&socket, ReuseAddr, &true).unwrap();
            setsockopt(&socket, ReusePort, &true).unwrap();
            socket.bind(&"127.0.0.1:8082".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
            socket.listen(64).unwrap();
            TcpListener::from(socket)
        };
        let mut servers: Vec<_> = (0..4)
            .map(|_| {
                Forked::new(|mut channel| {
                    let listener = listen();
                    step(&mut channel);
                    pause(&mut channel);
                    work(&listener, Manner::Asks);
                })
            })
            .collect();
        // All listeners must exist before the first SYN: the kernel chooses among them then.
        servers.iter_mut().for_each(Forked::wait);
        let mut clients: Vec<_> = (0..COUNT * 2).map(|_| TcpStream::connect("127.0.0.1:8082").unwrap()).collect();
        // The time is fixed: without an acceptor within 0.2 s, the daemon reports the listener's owner.
        thread::sleep(Duration::from_millis(500));
        servers.iter_mut().for_each(Forked::go);
        expected = clients.iter_mut().map(|client| (client.local_addr().unwrap().port(), read_pid(client))).collect();
        rows_become_right(daemon, namespace.inode, &expected);
    });
    moment();
    let events = daemon.events().within(&namespace);
    for (port, pid) in &expected {
        let connect = accepted(&events, "IP Connect", *port);
        assert_eq!(connect["src.process.attribution"], "listener");
        assert_eq!(connect["src.process.pid"], *pid, "the exact listener, not another one of the same address");
        assert_eq!(accepted(&events, "IP Close", *port)["src.process.attribution"], "accept");
    }
    let chosen: std::collections::HashSet<_> = expected.iter().map(|(_, pid)| pid).collect();
    assert!(chosen.len() > 1, "the kernel spreads {} connections", expected.len());
}
