//! Makes connections one after the other, as fast as possible or at a fixed rate. Both ends are threads of this
//! process.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use socket2::Socket;

use crate::traffic::{self, Kind};

/// How many connections clients may be ahead of servers. The listener's queue takes more; in a full one SYNs are
/// dropped and retransmitted.
const AHEAD_MAX: usize = 1024;
/// After how many connections a client compares itself with the servers.
const LOOK_EVERY: usize = 64;

/// Returns the numbers of client and of server threads. Without data a client never waits, and one thread of each keeps
/// two CPUs busy; with data that takes several.
fn threads(kind: Kind) -> (usize, usize) {
    match kind {
        Kind::Rst | Kind::Fin => (1, 1),
        Kind::Http => (4, 2),
    }
}

/// Makes `count` connections as fast as possible.
pub(crate) fn flood(kind: Kind, count: usize) -> io::Result<()> {
    let (clients, servers) = threads(kind);
    run(kind, count, (clients, servers), |number, served| {
        // Looking at a counter that other threads write costs time, so it is not done for each connection.
        if number.is_multiple_of(LOOK_EVERY) {
            while number.saturating_sub(served.load(Ordering::Relaxed)) > AHEAD_MAX {
                thread::sleep(Duration::from_micros(100));
            }
        }
    })
}

/// Makes `count` connections, `rate` in each second. A late connection does not delay the next.
pub(crate) fn paced(kind: Kind, rate: usize, count: usize) -> io::Result<()> {
    let since = Instant::now();
    run(kind, count, threads(kind), |number, _| {
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        thread::sleep(due.saturating_sub(since.elapsed()));
    })
}

/// Makes `count` connections with these threads, each connection after `wait` has returned for its number. Prints the
/// elapsed time and the CPU time as JSON.
fn run(
    kind: Kind,
    count: usize,
    (clients, servers): (usize, usize),
    wait: impl Fn(usize, &AtomicUsize) + Sync,
) -> io::Result<()> {
    let (listener, port) = traffic::listen()?;
    let destinations = traffic::destinations(port);
    let (begun, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let client = || -> io::Result<()> {
        loop {
            let number = begun.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            wait(number, &served);
            traffic::client(kind, &destinations[number % destinations.len()])?;
        }
    };
    let taken = AtomicUsize::new(0);
    // Servers count before they accept: none waits for a connection that another one takes.
    let server = || serve(kind, &listener, count, &taken, &served);
    let (since, cpu_before) = (Instant::now(), cpu_seconds()?);
    thread::scope(|scope| {
        let servers: Vec<_> = (0..servers).map(|_| scope.spawn(server)).collect();
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        for thread in clients.into_iter().chain(servers) {
            // The other threads would wait for one that has failed, so the process ends.
            if let Err(error) = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))) {
                eprintln!("load: {error}");
                std::process::exit(1);
            }
        }
    });
    let (seconds, cpu_seconds) = (since.elapsed().as_secs_f64(), cpu_seconds()? - cpu_before);
    let pid = std::process::id();
    println!("{}", json!({"pid": pid, "connections": count, "seconds": seconds, "cpu_seconds": cpu_seconds}));
    Ok(())
}

/// Serves connections until all threads together have taken `count`.
fn serve(kind: Kind, listener: &Socket, count: usize, taken: &AtomicUsize, served: &AtomicUsize) -> io::Result<()> {
    while taken.fetch_add(1, Ordering::Relaxed) < count {
        traffic::serve(kind, listener)?;
        served.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Returns the CPU time of this process so far in seconds, in user space and in the kernel.
pub(crate) fn cpu_seconds() -> io::Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}
