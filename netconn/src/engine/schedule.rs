//! When the engine does what it does besides handling records and commands: all its time stamps, and what is due.

use std::time::Duration;

use crate::engine::owner_scan::OwnerScans;

/// Records of one connection come close together: after the first, others are waited for this long, because one wake-up for
/// many records costs less than one for each. A client receives an event this late at most. At 1,000 connections a
/// second, 10 ms take a fifth of the daemon's time less than 5 ms; 15 ms would take a third less, but half of the events
/// would be late by 8 ms or more.
pub(super) const GATHER: Duration = Duration::from_millis(10);
/// Longest sleep, and time between two ticks while no records come.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// Time between two ticks while records come. Looking for losses takes 0.2 ms.
const BUSY_TICK: Duration = Duration::from_millis(250);
/// Time between two comparisons with the kernel while records come. A comparison takes a tenth of a second for 100,000
/// connections.
const COMPARISON: Duration = Duration::from_secs(60);
/// Time between two sweeps of flows.
const SWEEP: Duration = Duration::from_secs(10);
/// Time between two requests to the system to take back freed memory. One takes 7 ms with 200,000 small blocks, of which most are free.
const RELEASE: Duration = Duration::from_secs(60);
/// The same after a snapshot has ended: a client that asks all the time would otherwise cause one in each tick.
const RELEASE_SOON: Duration = Duration::from_secs(5);
/// Longest pause between two dumps that fail.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// All time stamps of the engine, in nanoseconds since boot.
pub(super) struct Schedule {
    started_ns: u64,
    /// When losses were last looked for, and the number of records received by then.
    looked_for_losses: (u64, u64),
    /// When the table was last compared with the kernel, and the number of records received by then.
    compared: (u64, u64),
    /// When flows were last compared with the kernel.
    swept_ns: u64,
    /// When the system was last asked to take back freed memory.
    released_ns: u64,
    /// There may be much of it.
    wants_release: bool,
    /// When a dump that failed is tried again, and the pause before the try after that.
    retry: (u64, Duration),
    /// When open files are scanned for owners.
    pub(super) owner_scans: OwnerScans,
    /// Scans for packet sockets.
    pub(super) packet_scans: ScanPace,
}

impl Schedule {
    /// Returns a schedule that starts at `now`.
    pub(super) fn new(now: u64) -> Self {
        Self {
            started_ns: now,
            looked_for_losses: (now, 0),
            // The dump at the start is as good as a comparison.
            compared: (now, 0),
            swept_ns: now,
            released_ns: now,
            wants_release: false,
            retry: (0, TICK),
            owner_scans: OwnerScans::default(),
            packet_scans: ScanPace::default(),
        }
    }

    /// Returns how long the engine has been running.
    pub(super) fn uptime(&self, now: u64) -> Duration {
        since(self.started_ns, now)
    }

    /// Returns the time between two ticks, with this number of `records` received so far.
    pub(super) fn tick_pause(&self, records: u64) -> Duration {
        // Nothing can be lost that nothing was written for: without records the slow pace is enough.
        if records == self.looked_for_losses.1 { TICK } else { BUSY_TICK }
    }

    pub(super) fn is_tick_due(&self, now: u64, records: u64) -> bool {
        since(self.looked_for_losses.0, now) >= self.tick_pause(records)
    }

    /// Notes that losses are looked for now, and returns when they were before.
    pub(super) fn look_for_losses(&mut self, now: u64, records: u64) -> u64 {
        // Each tick ends with a look for losses, so this is the time of the tick as well.
        std::mem::replace(&mut self.looked_for_losses, (now, records)).0
    }

    /// Returns whether it is time for a comparison with the kernel. Nothing can be missed while no records come.
    pub(super) fn is_comparison_due(&self, now: u64, records: u64) -> bool {
        since(self.compared.0, now) >= COMPARISON && self.compared.1 != records
    }

    pub(super) fn compared(&mut self, now: u64, records: u64) {
        self.compared = (now, records);
    }

    pub(super) fn is_sweep_due(&self, now: u64) -> bool {
        since(self.swept_ns, now) >= SWEEP
    }

    pub(super) fn swept(&mut self, now: u64) {
        self.swept_ns = now;
    }

    /// Returns whether it is time to give freed memory back; if so, it is noted as done. `is_wanted` says that there may be much of it,
    /// until it is given back.
    pub(super) fn take_release(&mut self, now: u64, is_wanted: bool) -> bool {
        self.wants_release |= is_wanted;
        let is_due = since(self.released_ns, now) >= if self.wants_release { RELEASE_SOON } else { RELEASE };
        if is_due {
            (self.released_ns, self.wants_release) = (now, false);
        }
        is_due
    }

    /// Notes that a dump has failed, and returns the pause until it is tried again.
    pub(super) fn dump_failed(&mut self, now: u64) -> Duration {
        // The pause doubles: a dump that fails may cost as much as one that succeeds.
        let pause = self.retry.1;
        self.retry = (now + nanoseconds(pause), (pause * 2).min(RETRY_MAX));
        pause
    }

    pub(super) fn dump_succeeded(&mut self) {
        self.retry = (0, TICK);
    }

    /// Returns whether it is time to try a dump again that has failed.
    pub(super) fn is_retry_due(&self, now: u64) -> bool {
        self.retry.0 <= now
    }
}

/// Returns the time between two moments in nanoseconds since boot.
fn since(earlier_ns: u64, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(earlier_ns))
}

/// Returns a duration in nanoseconds.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Shortest time between two scans of open files of a kind.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Scans of a kind take at most 1/`SHARE` of the engine's time.
const SHARE: u32 = 50;

/// Bounds what scans cost that strangers can cause.
#[derive(Debug, Default)]
pub(super) struct ScanPace {
    /// No scan is allowed before, nanoseconds since boot.
    not_before_ns: u64,
}

impl ScanPace {
    /// Returns whether a scan is allowed at `now`.
    pub(super) fn is_allowed(&self, now: u64) -> bool {
        now >= self.not_before_ns
    }

    /// Notes a scan that ended at `now`.
    pub(super) fn scanned(&mut self, now: u64, took: Duration) {
        self.not_before_ns = now + nanoseconds(PAUSE.max(took * SHARE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn ticks_are_closer_while_records_come() {
        let mut schedule = Schedule::new(5 * SECOND);
        assert!(!schedule.is_tick_due(5 * SECOND + SECOND / 2, 0) && schedule.is_tick_due(6 * SECOND, 0));
        assert!(schedule.is_tick_due(5 * SECOND + SECOND / 2, 1));
        assert_eq!(schedule.look_for_losses(6 * SECOND, 1), 5 * SECOND);
        assert!(!schedule.is_tick_due(6 * SECOND + SECOND / 2, 1));
    }

    #[test]
    fn the_table_is_compared_if_records_came() {
        let mut schedule = Schedule::new(0);
        assert!(!schedule.is_comparison_due(60 * SECOND, 0) && !schedule.is_comparison_due(59 * SECOND, 1));
        assert!(schedule.is_comparison_due(60 * SECOND, 1));
        schedule.compared(60 * SECOND, 1);
        assert!(!schedule.is_comparison_due(200 * SECOND, 1));
    }

    #[test]
    fn memory_is_not_given_back_in_each_tick() {
        let mut schedule = Schedule::new(0);
        // A client that asks for lists without a pause, for a minute.
        let count = (1..=240).filter(|quarter| schedule.take_release(quarter * SECOND / 4, true)).count();
        assert_eq!(count, 12);
        assert!(schedule.take_release(65 * SECOND, true), "after the last list");
        let count = (261..=481).filter(|quarter| schedule.take_release(quarter * SECOND / 4, false)).count();
        assert_eq!(count, 0);
        assert!(schedule.take_release(125 * SECOND, false));
        assert!(
            !schedule.take_release(127 * SECOND, true) && schedule.take_release(130 * SECOND, false),
            "it is still wanted"
        );
    }

    #[test]
    fn failing_dumps_become_rarer() {
        let mut schedule = Schedule::new(0);
        let pauses: Vec<u64> = (0..8).map(|_| schedule.dump_failed(0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(!schedule.is_retry_due(59 * SECOND) && schedule.is_retry_due(60 * SECOND));
        schedule.dump_succeeded();
        assert_eq!(schedule.dump_failed(0).as_secs(), 1);
    }
}
