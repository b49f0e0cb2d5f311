//! Compares the table with `ss` while connections begin, change and end at random.

use std::{
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{Daemon, Ending, Netns, Random, Socket as TcpRow, long, rows, ss, until};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

const WORKERS: usize = 6;
const MOMENTS: usize = 20;
const CONNECTIONS: usize = 2500;
/// SYNs to this port are dropped.
const SILENT_PORT: u16 = 81;

/// What a worker holds until it drops it.
#[expect(dead_code, reason = "held, not looked at")]
enum Held {
    Both(TcpStream, TcpStream),
    Attempt(Socket),
    Listener(TcpListener),
}

/// Does one random step.
fn step(random: &mut Random, held: &mut Vec<Held>, servers: &[TcpListener], connections: &AtomicUsize) {
    let server = &servers[random.below(servers.len())];
    let to = server.local_addr().unwrap();
    // Each has up to two descriptors, so that six workers stay below the usual limit of 1,024.
    if held.len() > 70 {
        return drop(held.swap_remove(random.below(held.len())));
    }
    match random.below(12) {
        0..=4 => {
            // An IPv6 wildcard listener also accepts IPv4.
            let address: IpAddr = match to.ip() {
                IpAddr::V6(any) if any.is_unspecified() => {
                    ["::1", "127.0.0.1", "::ffff:127.0.0.2"][random.below(3)].parse().unwrap()
                }
                other => other,
            };
            let client = TcpStream::connect((address, to.port())).unwrap();
            let (server, _) = server.accept().unwrap();
            connections.fetch_add(1, Ordering::Relaxed);
            held.push(Held::Both(client, server));
        }
        5 => {
            let to: SocketAddr =
                ["127.0.0.1", "::1"].map(|ip| (ip.parse::<IpAddr>().unwrap(), SILENT_PORT).into())[random.below(2)];
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&to.into());
            held.push(Held::Attempt(socket));
        }
        6 => held.push(Held::Listener(TcpListener::bind(("127.0.0.3", 0)).unwrap())),
        7 => drop(TcpStream::connect("127.0.0.1:9").unwrap_err()),
        _ if held.is_empty() => {}
        8 => {
            let index = random.below(held.len());
            if let Held::Both(client, server) = &held[index] {
                let end = if random.below(2) == 0 { client } else { server };
                let _ = end.shutdown(Shutdown::Write);
            }
        }
        9 => {
            let index = random.below(held.len());
            if let Held::Both(client, _) = &held[index] {
                SockRef::from(client).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(held.swap_remove(index));
        }
        _ => drop(held.swap_remove(random.below(held.len()))),
    }
}

/// What happens to the daemon between two comparisons.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Nothing,
    /// It is stopped until records are lost.
    Stopped,
    /// It misses some changes, and no counter shows that.
    Unseen,
    /// It is killed and started again while the workers go on.
    Killed,
}

#[test]
fn the_table_equals_ss_at_any_moment() {
    churn(Daemon::start(), MOMENTS, Trouble::Nothing);
}

#[test]
fn the_table_equals_ss_after_any_loss() {
    churn(Daemon::start_configured("ring_bytes = 4096"), MOMENTS / 2, Trouble::Stopped);
}

#[test]
fn the_table_equals_ss_after_any_restart() {
    // Each start takes seconds on an emulated machine.
    let moments = if long(1) == Duration::from_millis(1) { MOMENTS / 2 } else { MOMENTS / 5 };
    churn(Daemon::start(), moments, Trouble::Killed);
}

/// Runs workers that make, change and end connections, and compares the table with `ss` at `moments` moments.
fn churn(mut daemon: Daemon, moments: usize, trouble: Trouble) {
    let namespace = Netns::new();
    namespace.exec("nft", &["add table inet t"]);
    namespace.exec("nft", &["add chain inet t in { type filter hook input priority 0; }"]);
    namespace.exec("nft", &[&format!("add rule inet t in tcp dport {SILENT_PORT} drop")]);
    let is_emulated = long(1) != Duration::from_millis(1);
    let connections_wanted = if is_emulated { CONNECTIONS / 10 } else { CONNECTIONS };
    // Each step holds it shared; a comparison holds it exclusively, so that no step runs meanwhile.
    let pause = RwLock::new(());
    let (end, connections) = (AtomicBool::new(false), AtomicUsize::new(0));
    let daemon = thread::scope(|scope| {
        let _ending = Ending(&end);
        for worker in 0..WORKERS {
            let (namespace, pause, end, connections) = (&namespace, &pause, &end, &connections);
            scope.spawn(move || {
                namespace.enter();
                let servers = ["127.0.0.1:0", "[::1]:0", "[::]:0"].map(|address| TcpListener::bind(address).unwrap());
                let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ worker as u64);
                let mut held = Vec::new();
                while !end.load(Ordering::Relaxed) {
                    if is_emulated {
                        // A starting daemon needs CPU time, too.
                        thread::sleep(Duration::from_millis(5));
                    }
                    let _going = pause.read().unwrap();
                    step(&mut random, &mut held, &servers, connections);
                }
            });
        }
        let mut seen = std::collections::HashSet::new();
        for moment in 1..=moments {
            let is_done = || connections.load(Ordering::Relaxed) >= connections_wanted * moment / moments;
            until(120_000, || format!("{} connections", connections.load(Ordering::Relaxed)), is_done);
            match trouble {
                Trouble::Nothing | Trouble::Unseen => {}
                Trouble::Stopped => {
                    daemon.signal(Signal::SIGSTOP);
                    // The time is fixed, because a stopped daemon cannot report that its ring is full. The first stop
                    // is as long as one in a debugger.
                    thread::sleep(Duration::from_millis(if moment == 1 && !is_emulated { 5000 } else { 100 }));
                    daemon.signal(Signal::SIGCONT);
                }
                // The workers go on meanwhile, so the new daemon finds a table that it has never seen.
                Trouble::Killed => daemon = daemon.kill().start(),
            }
            let _still = pause.write().unwrap();
            // The states are collected: a run in which none of them occurred would prove little.
            seen.extend(compare(&daemon, &namespace, moment));
        }
        for state in ["ESTABLISHED", "LISTENING", "SYN_SENT", "CLOSE_WAIT", "FIN_WAIT2"] {
            assert!(seen.contains(state), "no moment had a socket in {state}");
        }
        daemon
    });
    let since = Instant::now();
    // All sockets were dropped with the workers; what is left was missed.
    while !daemon.list(namespace.inode).is_empty() {
        let left = daemon.list(namespace.inode);
        assert!(since.elapsed() < long(5000), "left in the table: {left:#?}; ss: {:#?}", ss(&namespace));
        thread::sleep(Duration::from_millis(50));
    }
    match trouble {
        Trouble::Nothing => {}
        Trouble::Stopped | Trouble::Unseen => {
            return assert!(!daemon.stop_for("Data Loss").is_empty(), "this test is about losses");
        }
        // A connection that begins and ends while no daemon runs is not recorded. Reading the events checks that no
        // line is torn.
        Trouble::Killed => return drop(daemon.stop_for("Data Loss")),
    }
    let missed_runs = daemon.missed_runs();
    let all = daemon.stop();
    // Records may be lost on an emulated machine, and after a missed run on any other. A connection that began and
    // ended during the loss is not in the events, so the numbers are not compared then.
    if !all.of("Data Loss").is_empty() && (is_emulated || missed_runs != 0) {
        return;
    }
    let events = all.within(&namespace);
    let connects = events.of("IP Connect").with("event.network.connectionStatus", "SUCCESS").len();
    assert_eq!(connects, 2 * connections.load(Ordering::Relaxed));
    assert_eq!(events.of("IP Close").len(), connects);
    assert_eq!(events.of("IP Listen").len(), events.of("IP Listen End").len());
}

/// Compares the table with `ss` while no worker runs, and returns the states of the sockets.
fn compare(daemon: &Daemon, namespace: &Netns, moment: usize) -> Vec<String> {
    // The workers are paused, but the kernel's timers end sockets in TIME_WAIT. So `ss` is read before and after the
    // table: the table must have every socket that is in both, and no socket that is in neither. On a busy machine the
    // last packets on loopback may still be on their way, so only a difference that lasts is an error.
    let since = Instant::now();
    let (missing, more, after) = loop {
        thread::sleep(long(20));
        let before = ss(namespace);
        let table = rows(&daemon.list_all(namespace.inode));
        let after = ss(namespace);
        let missing = only(&common(&before, &after), &table);
        let more = only(&only(&table, &before), &after);
        if missing.is_empty() && more.is_empty() || since.elapsed() > long(2000) {
            break (missing, more, after);
        }
    };
    assert!(
        missing.is_empty() && more.is_empty(),
        "moment {moment}: only ss has {missing:#?}, only netconn has {more:#?}; {:#}; {}",
        daemon.health(),
        daemon.log()
    );
    after.into_iter().map(|(state, _, _)| state).collect()
}

/// Returns the sockets that `one` has and `other` does not. Both must be sorted; equal sockets are counted.
fn only(one: &[TcpRow], other: &[TcpRow]) -> Vec<TcpRow> {
    let mut other = other.iter().peekable();
    let is_only = |socket: &&TcpRow| {
        while other.next_if(|next| *next < *socket).is_some() {}
        other.next_if_eq(socket).is_none()
    };
    one.iter().filter(is_only).cloned().collect()
}

/// Returns the sockets that both lists have.
fn common(one: &[TcpRow], other: &[TcpRow]) -> Vec<TcpRow> {
    only(one, &only(one, other))
}

#[test]
fn the_table_equals_ss_whatever_is_not_seen() {
    churn(Daemon::start_with(&["--fault", "unseen"]), MOMENTS / 2, Trouble::Unseen);
}

#[test]
fn what_was_there_before_is_there() {
    let namespace = Netns::new();
    namespace.run(|| {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        let halved = TcpStream::connect(("::1", port)).unwrap();
        let (other, _) = listener.accept().unwrap();
        halved.shutdown(Shutdown::Write).unwrap();
        let waiting = TcpStream::connect(("::1", port)).unwrap(); // It is never accepted.

        let daemon = Daemon::start();
        assert_eq!(ss(&namespace), rows(&daemon.list_all(namespace.inode)));
        for row in daemon.list(namespace.inode) {
            assert_eq!(row["pid"], std::process::id(), "{row}");
            assert!(row.get("started_at").is_none(), "no start is invented");
        }
        // The child socket that was not accepted is no process's open file, so it belongs to the listener's owner.
        let found: Vec<_> = daemon.list(namespace.inode).iter().map(|row| row["attribution"].clone()).collect();
        assert_eq!(found.iter().filter(|how| *how == "scan").count(), 6);
        assert_eq!(found.iter().filter(|how| *how == "listener").count(), 1);
        // A later child of a listener that is older than the daemon also belongs to the listener's owner.
        let later = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let found = daemon.list(namespace.inode);
        let heirs = found.iter().filter(|row| row["attribution"] == "listener" && row["pid"] == std::process::id());
        assert_eq!(heirs.count(), 2);
        drop((client, server, halved, other, waiting, later, listener));
        // Lets the last packets pass on loopback. The time is fixed, because the events are read only after the
        // daemon's end.
        thread::sleep(long(50));

        let events = daemon.stop().within(&namespace);
        let before = events.with("event.network.preexisting", true);
        assert_eq!(before.of("IP Listen").len(), 1);
        assert_eq!(before.of("IP Listen End").len(), 1);
        assert_eq!(before.of("IP Connect").len(), 6);
        assert_eq!(before.of("IP Close").len(), 6);
        assert_eq!(before.of("IP Connect").with("event.network.direction", "INCOMING").len(), 3);
        assert!(before.0.iter().all(|event| event.get("event.network.durationMs").is_none()));
        let after = events.of("IP Connect").0.len() - 6;
        assert_eq!(after, 2, "the later connection has both its ends");
    });
}
