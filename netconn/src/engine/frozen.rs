//! What a snapshot keeps while its client reads, and a bound for all snapshots together.

use std::{
    mem::size_of,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use hashbrown::HashSet;
use netconn_common::UdpSocketRecord;

use crate::table::past::{Ends, Minisock};

/// Bytes that the facts of all snapshots take before the next snapshot has to wait: a list of 28,000 connections in TIME_WAIT,
/// which is all local ports towards one server, takes 1.3 MB. What goes beyond is one snapshot.
const BYTES_MAX: usize = 48 << 20;

/// Counts the facts of all snapshots. The engine adds, and any thread that drops the last part of a snapshot subtracts.
#[derive(Debug, Default)]
pub(super) struct FrozenTotal {
    bytes: AtomicUsize,
    has_ended: AtomicBool,
}

impl FrozenTotal {
    /// Whether the next snapshot has to wait until another one ends.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= BYTES_MAX
    }

    /// Returns whether a snapshot has ended since the last call, so that there may be memory to give back.
    pub(super) fn take_ended(&self) -> bool {
        self.has_ended.swap(false, Ordering::Relaxed)
    }
}

/// Which connections are shown although they have ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndedRange {
    /// Those that ended since then, nanoseconds since boot.
    pub(super) since_ns: u64,
    /// Number of the first connection that ended after the snapshot was begun. Without this bound a slow client would never
    /// reach the end while connections end faster than it reads.
    pub(super) connections_until: u64,
    /// The same of flows.
    pub(super) flows_until: u64,
}

/// The facts themselves.
#[derive(Debug, Default)]
pub(super) struct FrozenFacts {
    pub(super) minisocks: Vec<Minisock>,
    /// UDP sockets that no entry of the tables shows.
    pub(super) udp_sockets: Vec<UdpSocketRecord>,
    /// Ends of the minisocks, if what has ended is shown too: such connections are not shown twice.
    pub(super) minisock_ends: HashSet<Ends>,
    pub(super) ended: Option<EndedRange>,
}

/// Facts that were read when the snapshot was begun and stay the same for all its parts.
#[derive(Debug)]
pub struct Frozen {
    pub(super) facts: FrozenFacts,
    bytes: usize,
    total: Arc<FrozenTotal>,
}

impl Frozen {
    /// Keeps facts until the last part of their snapshot has been made.
    pub(super) fn new(mut facts: FrozenFacts, total: &Arc<FrozenTotal>) -> Self {
        let FrozenFacts { minisocks, udp_sockets, minisock_ends, ended: _ } = &mut facts;
        // They grew by doubling, and a slow client keeps them for long.
        minisocks.shrink_to_fit();
        udp_sockets.shrink_to_fit();
        let bytes = minisocks.capacity() * size_of::<Minisock>()
            + udp_sockets.capacity() * size_of::<UdpSocketRecord>()
            + minisock_ends.allocation_size();
        total.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { facts, bytes, total: Arc::clone(total) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.total.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.total.has_ended.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netconn_model::fact::End;

    use super::*;

    #[test]
    fn all_snapshots_together_are_bounded() {
        let end = End { address: Ipv4Addr::LOCALHOST.into(), port: 1 };
        let minisocks = vec![Minisock { between: (1, end, end), state: 6 }; 250_000];
        let total = Arc::new(FrozenTotal::default());
        let facts = || FrozenFacts { minisocks: minisocks.clone(), ..FrozenFacts::default() };
        let mut held = Vec::new();
        while !total.is_full() {
            held.push(Frozen::new(facts(), &total));
        }
        assert_eq!(held.len(), 5, "12 MB each");
        assert!(!total.take_ended());
        held.pop();
        assert!(!total.is_full() && total.take_ended() && !total.take_ended());
        held.clear();
        assert_eq!(total.bytes.load(Ordering::Relaxed), 0);
    }
}
