//! Connections that are over on this end, but that the kernel keeps as minisocks (TIME_WAIT): a minisock has addresses
//! only, so whose it was is remembered here.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::Connection;
use crate::event::End;

/// `TCP_TIMEWAIT_LEN` in `include/net/tcp.h`, and a little more.
const KEPT_NS: u64 = 61_000_000_000;
/// Connections remembered, to bound memory. Those that ended before them are shown without their process.
const MAX: usize = 65_536;

/// Network namespace and both ends: nothing else is in TIME_WAIT with the same.
pub(super) type Ends = (u32, End, End);

/// See above.
#[derive(Debug, Default)]
pub(super) struct Past {
    by_ends: HashMap<Ends, (Connection, u64), foldhash::fast::RandomState>,
    /// When each ended, oldest first.
    order: VecDeque<(u64, Ends)>,
}

impl Past {
    /// Remembers a connection that ended at `now`.
    pub(super) fn add(&mut self, connection: Connection, now: u64) {
        self.forget(now);
        if self.order.len() >= MAX {
            self.forget_oldest();
        }
        if let Some(ends) = ends(&connection) {
            self.order.push_back((now, ends));
            self.by_ends.insert(ends, (connection, now));
        }
    }

    /// Forgets what the kernel has forgotten at `now`.
    pub(super) fn forget(&mut self, now: u64) {
        while self.order.front().is_some_and(|(ended, _)| now.saturating_sub(*ended) > KEPT_NS) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((ended, ends)) = self.order.pop_front() else { return };
        // The same ends may have had another connection since.
        if self.by_ends.get(&ends).is_some_and(|(_, last)| *last == ended) {
            self.by_ends.remove(&ends);
        }
        if self.order.is_empty() {
            (self.by_ends, self.order) = Default::default();
        }
    }

    /// The last connection between two ends.
    pub(super) fn get(&self, ends: &Ends) -> Option<&Connection> {
        self.by_ends.get(ends).map(|(connection, _)| connection)
    }

    /// Those that ended at `from_ns` or later.
    pub(super) fn since(&self, from_ns: u64) -> impl Iterator<Item = &Connection> {
        let later = self.order.iter().rev().take_while(move |(ended, _)| *ended >= from_ns);
        later.filter_map(|(_, ends)| self.get(ends))
    }
}

/// Between which ends a connection is.
pub(super) fn ends(connection: &Connection) -> Option<Ends> {
    Some((connection.namespace, connection.local, connection.remote?))
}
