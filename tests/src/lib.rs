//! The harness of the tests that need a kernel: it starts netconn daemons, makes network namespaces, and reads `ss` and
//! tcpdump.
//!
//! The order of the modules is the order of dependency: each uses only those above it.
//!
//! The tests need root. The harness panics on any error, because only tests use it.

mod forked;
mod netns;
mod raw;
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
pub use daemon::{Daemon, Killed, USER};
pub use events::Events;
pub use forked::{Forked, Orphan, actor, hand_over, pause, received, step};
pub use history::{History, Installed};
pub use netns::{Netns, Pair, active_opens};
pub use raw::Raw;
pub use scenes::{
    Echo, between, closes, connected, deferring, deliver, disconnect, ended_flows, events_of, failure, give_up_soon,
    moment, reset, start, udp, udp_sockets, unbound,
};
pub use ss::{Socket, rows, ss, ss_udp};

/// Returns the path of the netconn binary that was built beside the tests.
pub fn netconn() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop(); // deps
    path.pop();
    path.push("netconn");
    assert!(path.exists(), "{} is not built: run the tests by `cargo xtask test`", path.display());
    path
}

/// Polls `holds` every 10 ms until it is true; panics with the message `what` after `milliseconds`, scaled by [`long`].
pub fn until(milliseconds: u64, what: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < long(milliseconds), "{}", what());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a test whose exact numbers need the kernel to run every BPF program (see [`Daemon::missed_runs`]) and to store
/// what they emit. The test returns `false` if the kernel has missed a run; it is then repeated, at most twice.
pub fn exactly(is_done: impl Fn() -> bool) {
    assert!((0..3).any(|_| is_done()), "three times the kernel has not run all programs");
}

/// Returns a duration, multiplied on slow (emulated) machines by `NETCONN_TEST_SLOWNESS`.
pub fn long(milliseconds: u64) -> Duration {
    let slowness = std::env::var("NETCONN_TEST_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    Duration::from_millis(milliseconds * slowness)
}

/// Returns the major and the minor version of the running kernel.
pub fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Sets a flag when it is dropped, so that the threads of a scope end. This also works for a panic, which would
/// otherwise wait for these threads for ever.
#[derive(Debug)]
pub struct Ending<'a>(pub &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A small random number generator (xorshift64*) with a fixed seed, so that each run has the same workload.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns the next number, which is below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        // The upper 31 bits: the lower ones of this generator are weaker. They fit any `usize`.
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % limit
    }
}
