//! What needs a kernel to be tested. The harness: a netconn daemon of one's own, network namespaces, what `ss` says.
//!
//! The order of the modules is the order of dependency: each uses only those above it.
//!
//! Root is needed. Everything here panics when something is wrong: it is for tests only.

mod forked;
mod netns;
mod ss;
mod capture;
mod events;
mod history;
mod daemon;
mod scenes;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

pub use capture::{Capture, Packet, Wire, totals};
pub use daemon::{Daemon, Killed};
pub use events::Events;
pub use forked::{Forked, actor, pause, step};
pub use history::{History, Installed};
pub use netns::{Netns, Pair};
pub use scenes::{
    Echo, between, closes, connected, deliver, disconnect, ended_flows, events_of, failure, give_up_soon, moment,
    reset, start, udp, udp_sockets, unbound,
};
pub use ss::{Socket, rows, ss, ss_udp};

/// The netconn binary that was built beside the tests.
pub fn netconn() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop(); // deps
    path.pop();
    path.push("netconn");
    assert!(path.exists(), "{} is not built: run the tests by `cargo xtask test`", path.display());
    path
}

/// Waits until something holds, for at most so many milliseconds of this machine; says `what` if it never does.
pub fn until(milliseconds: u64, what: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < long(milliseconds), "{}", what());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Does what can only be exact if the kernel runs all programs (see [`Daemon::missed_runs`]): once more when `is_done` says
/// that it has not, and once more.
pub fn exactly(is_done: impl Fn() -> bool) {
    assert!((0..3).any(|_| is_done()), "three times the kernel has not run all programs");
}

/// A time that is long on this machine: emulated ones are slower.
pub fn long(milliseconds: u64) -> Duration {
    let slowness = std::env::var("NETCONN_TEST_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    Duration::from_millis(milliseconds * slowness)
}

/// Version of the running kernel, its first two numbers.
pub fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Says to threads of a scope that they shall end, once it is dropped: also by a panic, which would otherwise wait for them
/// for ever.
#[derive(Debug)]
pub struct Ending<'a>(pub &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A small generator of numbers (xorshift64*): the same workload in each run.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number, below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % limit
    }
}
