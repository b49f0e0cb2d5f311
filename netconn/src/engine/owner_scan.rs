//! Scans of open files for the owners of sockets that no hook reports: a server that accepts and waits, a descriptor that was
//! handed over, a listener whose process went to the background.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::engine::{run::Engine, schedule::nanoseconds};

/// Shortest time between two scans.
const PAUSE: Duration = Duration::from_secs(1);
/// Scans take at most 1/`SHARE` of the engine's time.
const SHARE: u32 = 50;
/// Scans for an owner that is not found, each after twice the pause of the one before.
const TRIES: u32 = 5;

impl Engine {
    /// Scans for owners if it is time to, or if the owner of a socket has ended.
    pub(super) fn scan_owners_if_due(&mut self, now: u64) {
        // `take_ended` returns each process once: it must not be asked before a scan is allowed, or these processes
        // would be forgotten.
        if self.schedule.owner_scans.is_allowed(now) {
            let ended = self.state.processes.take_ended(now);
            let ended = self.state.table.owners_among(ended);
            if !ended.is_empty() || self.schedule.owner_scans.is_due(now) {
                self.scan_owners(&ended);
            }
        }
    }

    /// Scans open files for the owners of sockets, also of those whose owner has `ended`.
    pub(super) fn scan_owners(&mut self, ended: &[(u32, u64)]) {
        let since = Instant::now();
        let found = self.scan(|capture, meanwhile| capture.owners(ended, meanwhile));
        let now = self.state.clock.now();
        match found {
            Ok(files) => self.state.apply_files(&files, ended, now, &mut self.publisher),
            Err(error) => warn!("cannot scan open files: {error}"),
        }
        // Also after an error: whatever made the scan fail has cost its time too.
        self.schedule.owner_scans.scanned(now, since.elapsed());
    }
}

/// When to scan. Times are in nanoseconds since boot.
#[derive(Debug, Default)]
pub(super) struct OwnerScans {
    /// No scan is allowed before.
    not_before_ns: u64,
    /// When to scan again for an owner that was not found.
    again_ns: Option<u64>,
    /// Scans since one was last wanted.
    tries: u32,
}

impl OwnerScans {
    /// Returns whether a scan is allowed at `now`.
    pub(super) fn is_allowed(&self, now: u64) -> bool {
        now >= self.not_before_ns
    }

    /// Returns whether it is time to scan again for an owner that was not found.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.is_allowed(now) && self.again_ns.is_some_and(|again| now >= again)
    }

    /// Notes a scan that ended at `now`.
    pub(super) fn scanned(&mut self, now: u64, took: Duration) {
        self.not_before_ns = now + nanoseconds(PAUSE.max(took * SHARE));
        self.tries += 1;
        // The minimum keeps the shift below 64 bits: scans for ended owners count too, and `tries` has no other limit.
        let pause = nanoseconds(PAUSE) << self.tries.min(TRIES);
        self.again_ns = (self.tries < TRIES).then_some(now + pause);
    }

    /// Asks for scans: a connection has no owner of its own yet.
    pub(super) fn want(&mut self, now: u64) {
        self.tries = 0;
        // Keeps an earlier time: connections that keep coming must not put the scan off for ever.
        self.again_ns.get_or_insert(now + nanoseconds(PAUSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn scans_become_rarer_and_end() {
        let mut scans = OwnerScans::default();
        assert!(scans.is_allowed(0) && !scans.is_due(0), "nobody wants one");
        scans.want(0);
        let mut done = Vec::new();
        for second in 0..200 {
            if scans.is_due(second * SECOND) {
                scans.scanned(second * SECOND, Duration::from_millis(1));
                done.push(second);
            }
        }
        assert_eq!(done, [1, 3, 7, 15, 31]);
        scans.want(200 * SECOND);
        assert!(scans.is_due(201 * SECOND));
    }

    #[test]
    fn a_long_scan_is_followed_by_a_long_pause() {
        let mut scans = OwnerScans::default();
        scans.scanned(0, Duration::from_millis(100));
        assert!(!scans.is_allowed(4 * SECOND));
        assert!(scans.is_allowed(5 * SECOND));
    }
}
