//! Flows and UDP sockets that have ended lately. Two processors may write records of one socket at the same time, so that
//! a record can arrive after the one that its socket was closed.

use hashbrown::HashSet;

/// Ends after which older ones are forgotten.
const ENDS_MAX: usize = 32_768;
/// Time after which older ends are forgotten, nanoseconds.
const KEPT_NS: u64 = 10_000_000_000;

/// Socket number and time of birth of a flow; 0 for the socket itself.
type Ends = HashSet<(u64, u64), foldhash::fast::RandomState>;

/// Flows and UDP sockets that have ended lately, in two generations, of which the older is dropped as a whole.
#[derive(Debug, Default)]
pub(super) struct RecentEnds {
    young: Ends,
    old: Ends,
    /// When the young became the old, nanoseconds since boot.
    aged_ns: u64,
}

impl RecentEnds {
    pub(super) fn add_flow(&mut self, socket: u64, born_ns: u64) {
        // A flood shortens the memory rather than let it grow; `aged_ns` stays, so that `age` may shorten it once more.
        if self.young.len() >= ENDS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert((socket, born_ns));
    }

    pub(super) fn add_socket(&mut self, socket: u64) {
        self.add_flow(socket, 0);
    }

    pub(super) fn has_flow(&self, socket: u64, born_ns: u64) -> bool {
        self.young.contains(&(socket, born_ns)) || self.old.contains(&(socket, born_ns))
    }

    pub(super) fn has_socket(&self, socket: u64) -> bool {
        self.has_flow(socket, 0)
    }

    /// Forgets old ends if it is time to; `now` in nanoseconds since boot.
    pub(super) fn age(&mut self, now: u64) {
        // Each end is kept for one to two periods, without a time for each.
        if now.saturating_sub(self.aged_ns) >= KEPT_NS {
            self.old = std::mem::take(&mut self.young);
            self.aged_ns = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_long_ago_is_forgotten() {
        const SECOND: u64 = 1_000_000_000;
        let began = 1000 * SECOND;
        let mut recent = RecentEnds::default();
        recent.age(began);
        recent.add_flow(1, 5);
        recent.age(began + SECOND);
        recent.age(began + 10 * SECOND);
        assert!(recent.has_flow(1, 5) && !recent.has_socket(1));
        recent.age(began + 20 * SECOND);
        assert!(!recent.has_flow(1, 5));
    }
}
