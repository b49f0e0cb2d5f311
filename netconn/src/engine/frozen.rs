//! What a snapshot keeps while its client reads, and a bound for all snapshots together.

use std::{
    mem::size_of,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use hashbrown::{HashMap, HashSet};
use netconn_common::UdpSocketRecord;

use crate::{
    encode::holders::Holders,
    kernel::{other_socket::OtherSockets, socket_info::SocketInfos},
    table::past::{Ends, Minisock},
};

/// Bytes that the facts of all snapshots take before the next snapshot has to wait: a list of 28,000 connections in TIME_WAIT,
/// which is all local ports towards one server, takes 1.3 MB, and 3 MB with those that have ended. What goes beyond is one snapshot.
const BYTES_MAX: usize = 48 << 20;
/// The same for all users but root together: a third is kept for root.
const OTHERS_MAX: usize = 32 << 20;
/// The same for each user but root.
const EACH_MAX: usize = 12 << 20;

/// Counts the facts of all snapshots. The engine adds, and any thread that drops the last part of a snapshot subtracts.
#[derive(Debug, Default)]
pub(super) struct FrozenTotal {
    /// Locked for a look-up only: when a snapshot is begun, and when it ends.
    held: Mutex<Held>,
    has_ended: AtomicBool,
}

/// Bytes that are held.
#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// By user; root is not among them.
    users: HashMap<u32, usize>,
}

impl FrozenTotal {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next snapshot of a user has to wait until another one ends, and whose has to. `None` is root.
    pub(super) fn is_full(&self, user: Option<u32>) -> Option<SnapshotsFull> {
        let held = self.held();
        let Some(user) = user else { return (held.all >= BYTES_MAX).then_some(SnapshotsFull::OfAll) };
        let others: usize = held.users.values().sum();
        if held.users.get(&user).is_some_and(|own| *own >= EACH_MAX) {
            Some(SnapshotsFull::OfUser(user))
        } else if others >= OTHERS_MAX || held.all >= BYTES_MAX {
            Some(SnapshotsFull::OfAll)
        } else {
            None
        }
    }

    fn add(&self, user: Option<u32>, bytes: usize) {
        let mut held = self.held();
        held.all += bytes;
        if let Some(user) = user {
            *held.users.entry(user).or_default() += bytes;
        }
    }

    fn subtract(&self, user: Option<u32>, bytes: usize) {
        let mut held = self.held();
        held.all = held.all.saturating_sub(bytes);
        if let Some(user) = user
            && let Some(own) = held.users.get_mut(&user)
        {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                // There is no end of users.
                held.users.remove(&user);
            }
        }
    }

    /// Returns whether a snapshot has ended since the last call, so that there may be memory to give back.
    pub(super) fn take_ended(&self) -> bool {
        self.has_ended.swap(false, Ordering::Relaxed)
    }
}

/// Other snapshots are read so slowly that there is no memory for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotsFull {
    /// Those of the same user.
    OfUser(u32),
    /// Those of several users.
    OfAll,
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

/// Sockets that are no connections.
#[derive(Debug, Default)]
pub(super) struct Others {
    pub(super) found: OtherSockets,
    /// Who has each open, by inode, if that is wanted.
    pub(super) holders: Option<Holders>,
    /// Whether rows have queues.
    pub(super) info: bool,
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
    /// What the kernel alone knows could not be read.
    pub(super) is_partial: bool,
    /// What the kernel measures of sockets, if it is asked for.
    pub(super) infos: Option<SocketInfos>,
    /// Who has each socket open, if that is wanted.
    pub(super) holders: Option<Holders>,
    /// Whether rows list who has their socket open, and not only its inode.
    pub(super) lists_holders: bool,
    /// Sockets that are no connections, if they are wanted.
    pub(super) others: Option<Others>,
    /// Only those are wanted.
    pub(super) has_no_connections: bool,
}

/// Facts that were read when the snapshot was begun and stay the same for all its parts.
#[derive(Debug)]
pub struct Frozen {
    pub(super) facts: FrozenFacts,
    bytes: usize,
    /// Whose snapshot it is; `None`: root's.
    user: Option<u32>,
    total: Arc<FrozenTotal>,
}

impl Frozen {
    /// Keeps facts until the last part of their snapshot has been made.
    pub(super) fn new(mut facts: FrozenFacts, user: Option<u32>, total: &Arc<FrozenTotal>) -> Self {
        let FrozenFacts { minisocks, udp_sockets, minisock_ends, infos, holders, others, .. } = &mut facts;
        // They grew by doubling, and a slow client keeps them for long.
        minisocks.shrink_to_fit();
        udp_sockets.shrink_to_fit();
        let bytes = minisocks.capacity() * size_of::<Minisock>()
            + udp_sockets.capacity() * size_of::<UdpSocketRecord>()
            + minisock_ends.allocation_size()
            + infos.as_ref().map_or(0, SocketInfos::bytes)
            + holders.as_ref().map_or(0, Holders::bytes)
            + others
                .as_ref()
                .map_or(0, |others| others.found.bytes() + others.holders.as_ref().map_or(0, Holders::bytes));
        total.add(user, bytes);
        Self { facts, bytes, user, total: Arc::clone(total) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.total.subtract(self.user, self.bytes);
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
        let begin = |user| {
            let facts = FrozenFacts { minisocks: minisocks.clone(), ..FrozenFacts::default() };
            (0..9)
                .map_while(|_| match total.is_full(user) {
                    Some(_) => None,
                    None => Some(Frozen::new(
                        FrozenFacts { minisocks: facts.minisocks.clone(), ..FrozenFacts::default() },
                        user,
                        &total,
                    )),
                })
                .collect::<Vec<_>>()
        };
        let first = begin(Some(1000));
        assert_eq!(first.len(), 2, "12 MB each, and the second begins below the share");
        assert_eq!(total.is_full(Some(1000)), Some(SnapshotsFull::OfUser(1000)));
        let second = begin(Some(1001));
        assert_eq!((second.len(), total.is_full(Some(1002))), (1, Some(SnapshotsFull::OfAll)), "all others together");
        let mut root = begin(None);
        assert_eq!((root.len(), total.is_full(None)), (2, Some(SnapshotsFull::OfAll)), "what is kept for root");
        assert!(!total.take_ended());
        root.pop();
        assert!(total.is_full(None).is_none() && total.take_ended() && !total.take_ended());
        drop((first, second, root));
        let held = total.held();
        assert!(held.all == 0 && held.users.is_empty());
    }
}
