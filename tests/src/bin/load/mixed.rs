//! Makes what a busy host makes, for as long as is asked for: short HTTP connections of processes that come and go with
//! command lines of their own, attempts that fail, datagrams to many ports, connections that are held for minutes, bursts.

use std::{
    collections::VecDeque,
    env, fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use socket2::{SockAddr, Socket};

use crate::traffic::{self, Kind};

/// Processes that connect at the same time.
const WORKERS: u64 = 4;
/// Attempts of each of them before the next process takes its place.
const ATTEMPTS: u64 = 20;
/// Threads that serve.
const SERVERS: usize = 4;
/// Bytes by which command lines differ at most.
const LINE_BYTES: u64 = 1500;
/// Ports that datagrams go to.
const UDP_PORTS: u64 = 2000;
/// Period in which the held connections come and go.
const HELD_PERIOD: Duration = Duration::from_secs(240);
/// Pause between two changes of the held connections.
const HELD_PAUSE: Duration = Duration::from_millis(100);
/// Time between two bursts.
const BURST_PERIOD: Duration = Duration::from_secs(30);
/// A port where nothing listens.
const CLOSED_PORT: u16 = 9;
/// An address without a route: of TEST-NET-1.
const NO_ROUTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Attempts a second.
    pub(crate) rate: u64,
    /// The duration.
    pub(crate) duration: Duration,
    /// Connections that are held at most.
    pub(crate) held: usize,
    /// Connections of a burst.
    pub(crate) burst: usize,
}

/// Makes mixed load and prints the attempts that the kernel has counted, and the namespace they were made in.
pub(crate) fn mixed(amount: Amount) -> io::Result<()> {
    let (listener, port) = traffic::listen()?;
    let listener = Arc::new(listener);
    let until = Instant::now() + amount.duration;
    for _ in 0..SERVERS {
        let listener = Arc::clone(&listener);
        // They end with the process: `accept` has no time limit.
        thread::spawn(move || while serve(&listener).is_ok() {});
    }
    let has_ended = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        let holder = scope.spawn(|| hold(amount.held, &has_ended));
        let burster = scope.spawn(|| burst(port, amount.burst, until));
        let workers = work(port, amount.rate, until);
        has_ended.store(true, Ordering::Relaxed);
        let join = |thread: thread::ScopedJoinHandle<'_, io::Result<()>>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        };
        workers.and(join(holder)).and(join(burster))
    });
    outcome?;
    println!("{}", json!({"active_opens": active_opens()?, "namespace": namespace()?}));
    Ok(())
}

/// Serves a connection, whatever its client does.
fn serve(listener: &Socket) -> io::Result<()> {
    let (mut server, _) = listener.accept()?;
    let mut buffer = [0; 1024];
    // A client that resets is one of those that were asked for.
    if matches!(server.read(&mut buffer), Ok(1..)) {
        let _ = server.write_all(&buffer);
    }
    Ok(())
}

/// Keeps [`WORKERS`] processes at work, each with a command line of its own.
fn work(port: u16, rate: u64, until: Instant) -> io::Result<()> {
    let mut workers: VecDeque<Child> = VecDeque::new();
    let mut number = 0;
    while Instant::now() < until {
        if workers.len() as u64 == WORKERS
            && let Some(mut oldest) = workers.pop_front()
        {
            oldest.wait()?;
        }
        number += 1;
        let line = "x".repeat((number * 7919 % LINE_BYTES) as usize);
        let mut command = Command::new(env::current_exe()?);
        command.args(["mixed-worker", &port.to_string(), &(rate / WORKERS).max(1).to_string(), &number.to_string()]);
        workers.push_back(command.arg(line).stdin(Stdio::null()).spawn()?);
    }
    workers.into_iter().try_for_each(|mut worker| worker.wait().map(drop))
}

/// Makes the attempts of one process, at its part of the rate.
pub(crate) fn worker(port: u16, rate: u64, number: u64) -> io::Result<()> {
    let pause = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX);
    let since = Instant::now();
    let destinations = traffic::destinations(port);
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for attempt in 0..ATTEMPTS {
        thread::sleep((pause * attempt as u32).saturating_sub(since.elapsed()));
        let choice = number * ATTEMPTS + attempt;
        match attempt % 10 {
            0 => _ = TcpStream::connect((Ipv4Addr::LOCALHOST, CLOSED_PORT)),
            1 if choice % 20 == 1 => _ = TcpStream::connect((NO_ROUTE, 80)),
            1..=3 => {
                let udp_port = 10_000 + choice * 7919 % UDP_PORTS;
                // An answer of ICMP that the port is closed is one of the outcomes that are asked for.
                let _ = datagrams.send_to(b"x", (Ipv4Addr::LOCALHOST, udp_port as u16));
            }
            4 => traffic::client(Kind::Rst, &destinations[choice as usize % destinations.len()])?,
            _ => request(&destinations[choice as usize % destinations.len()])?,
        }
    }
    Ok(())
}

/// Asks for a page and reads the answer.
fn request(to: &SockAddr) -> io::Result<()> {
    let mut client = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    client.connect(to)?;
    client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    client.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Holds connections to itself: their number rises to `most` and falls to nothing, again and again.
fn hold(most: usize, has_ended: &AtomicBool) -> io::Result<()> {
    let (listener, port) = traffic::listen()?;
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
    let since = Instant::now();
    let mut held = VecDeque::new();
    while !has_ended.load(Ordering::Relaxed) {
        let phase = since.elapsed().as_secs_f64() / HELD_PERIOD.as_secs_f64() % 1.0;
        let wanted = (most as f64 * (1.0 - (2.0 * phase - 1.0).abs())) as usize;
        while held.len() < wanted {
            held.push_back((traffic::connect(&to)?, listener.accept()?.0));
        }
        held.drain(..held.len() - wanted);
        thread::sleep(HELD_PAUSE);
    }
    Ok(())
}

/// Makes `count` connections at once, again and again.
fn burst(port: u16, count: usize, until: Instant) -> io::Result<()> {
    let destinations = traffic::destinations(port);
    let mut next = Instant::now() + BURST_PERIOD;
    while next < until {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        destinations.iter().cycle().take(count).try_for_each(request)?;
        next += BURST_PERIOD;
    }
    Ok(())
}

/// Returns how many attempts with TCP this network namespace has counted (`Tcp: … ActiveOpens` of `/proc/net/snmp`).
fn active_opens() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ActiveOpens");
    found.and_then(|(_, value)| value.parse().ok()).ok_or_else(|| io::Error::other("/proc/net/snmp has no ActiveOpens"))
}

/// Returns the inode of this network namespace.
fn namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}
