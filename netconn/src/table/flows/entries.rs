//! Where flows and sockets of datagrams are kept: by what the kernel calls them, and by their socket.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};
use netconn_common::{FlowKey, Owner};

use crate::table::Connection;

/// What has ended is remembered until so much has ended since, in case that a record of it comes late.
const RECENT_MAX: usize = 32_768;
/// Or until so long has passed.
const RECENT_NS: u64 = 10_000_000_000;

/// Room for so many entries, or in a queue, is not given back when there are none.
const KEPT_FREE: usize = 1024;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A flow that the kernel counts.
    Flow(FlowKey),
    /// A socket that was bound to receive.
    Bound,
    /// A connected socket whose datagrams are not counted.
    Connected,
}

/// A flow or a socket.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) connection: Connection,
    pub(super) kind: Kind,
    /// Place of a flow among those of its socket.
    place: usize,
}

/// What is known of a socket.
#[derive(Debug, Default)]
pub(super) struct Socket {
    /// Slots of its flows.
    pub(super) flows: Vec<u32>,
    /// Slot of the socket itself, if it was bound.
    pub(super) bound: Option<u32>,
    /// Slot of the socket itself, if it is connected and nothing is counted.
    pub(super) connected: Option<u32>,
    /// Who was the first to use it, once that was told.
    pub(super) owner: Option<Owner>,
    /// The kernel was told to fold what it exchanges with new ends, or does so by itself.
    pub(super) is_folded: bool,
}

impl Socket {
    /// Slots of everything that is known of it.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.flows.iter().copied().chain(self.connected).chain(self.bound)
    }
}

/// All entries.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// `None` are free.
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_key: HashMap<FlowKey, u32, foldhash::fast::RandomState>,
    sockets: HashMap<u64, Socket, foldhash::fast::RandomState>,
}

impl Entries {
    /// Number of flows that the kernel counts.
    pub(super) fn flows(&self) -> usize {
        self.by_key.len()
    }

    /// Number of all entries.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot of a flow.
    pub(super) fn slot_of(&self, key: &FlowKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// What is known of a socket.
    pub(super) fn socket(&self, socket: u64) -> Option<&Socket> {
        self.sockets.get(&socket)
    }

    /// As [`socket`](Self::socket), to be changed.
    pub(super) fn socket_mut(&mut self, socket: u64) -> Option<&mut Socket> {
        self.sockets.get_mut(&socket)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Entries from a slot on, with their slots.
    pub(super) fn beginning_at(&self, slot: usize) -> impl Iterator<Item = (u32, &Entry)> {
        (0_u32..).zip(&self.slots).skip(slot).filter_map(|(slot, entry)| Some((slot, entry.as_ref()?)))
    }

    /// Adds an entry, of which there must not be another yet, and gives its slot.
    pub(super) fn insert(&mut self, kind: Kind, connection: Connection) -> u32 {
        let number = connection.socket;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // There are no more than sockets and the kernel's map have room for, far from 2^32.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let socket = self.sockets.entry(number).or_default();
        let place = socket.flows.len();
        match kind {
            Kind::Flow(key) => {
                socket.flows.push(slot);
                self.by_key.insert(key, slot);
            }
            Kind::Bound => socket.bound = Some(slot),
            Kind::Connected => socket.connected = Some(slot),
        }
        if let Some(free) = self.slots.get_mut(slot as usize) {
            *free = Some(Entry { connection, kind, place });
        }
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        let socket = self.sockets.get_mut(&entry.connection.socket)?;
        match entry.kind {
            Kind::Flow(key) => {
                self.by_key.remove(&key);
                // Those of one socket are in no order, so that ten thousand of them can go one by one.
                if entry.place < socket.flows.len() {
                    socket.flows.swap_remove(entry.place);
                }
                if let Some(moved) = socket.flows.get(entry.place)
                    && let Some(Some(moved)) = self.slots.get_mut(*moved as usize)
                {
                    moved.place = entry.place;
                }
            }
            Kind::Bound => socket.bound = None,
            Kind::Connected => socket.connected = None,
        }
        if socket.slots().next().is_none() {
            self.sockets.remove(&entry.connection.socket);
        }
        if self.len() == 0 && self.slots.len() > KEPT_FREE {
            *self = Self::default(); // Gives memory back.
        }
        Some(entry)
    }
}

/// Flows and sockets that have ended lately. Records of one socket may come in another order than they were made in, when
/// processors make them at the same time.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Socket and beginning of a flow, 0 for the socket itself.
    now: HashSet<(u64, u64), foldhash::fast::RandomState>,
    /// Those before them.
    before: HashSet<(u64, u64), foldhash::fast::RandomState>,
    /// When those became the ones before, nanoseconds since boot.
    aged_ns: u64,
}

impl Recent {
    pub(super) fn add_flow(&mut self, socket: u64, first_ns: u64) {
        self.add((socket, first_ns));
    }

    pub(super) fn add_socket(&mut self, socket: u64) {
        self.add((socket, 0));
    }

    fn add(&mut self, what: (u64, u64)) {
        if self.now.len() >= RECENT_MAX {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.insert(what);
    }

    pub(super) fn has_flow(&self, socket: u64, first_ns: u64) -> bool {
        self.now.contains(&(socket, first_ns)) || self.before.contains(&(socket, first_ns))
    }

    pub(super) fn has_socket(&self, socket: u64) -> bool {
        self.has_flow(socket, 0)
    }

    /// Forgets what has ended long before `now`.
    pub(super) fn age(&mut self, now: u64) {
        if now.saturating_sub(self.aged_ns) >= RECENT_NS {
            self.before = std::mem::take(&mut self.now);
            self.aged_ns = now;
        }
    }
}

/// Entries in the order in which they were added here; they may be gone, and others be in their slots, when their turn
/// comes.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Queued>);

/// An entry that waits for something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    slot: u32,
    socket: u64,
    born_ns: u64,
    /// Nanoseconds since boot.
    pub(super) until_ns: u64,
}

impl Queue {
    pub(super) fn push(&mut self, slot: u32, connection: &Connection, until_ns: u64) {
        let (socket, born_ns) = (connection.socket, connection.born_ns);
        self.0.push_back(Queued { slot, socket, born_ns, until_ns });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first entry that nobody was told of yet; those before it are forgotten.
    pub(super) fn first(&mut self, entries: &Entries) -> Option<Queued> {
        while let Some(first) = self.0.front() {
            let entry = entries.get(first.slot).map(|entry| &entry.connection);
            let is_same = |entry: &&Connection| entry.socket == first.socket && entry.born_ns == first.born_ns;
            if entry.filter(is_same).is_some_and(|entry| !entry.announced) {
                return Some(*first);
            }
            self.0.pop_front();
        }
        if self.0.capacity() > KEPT_FREE {
            self.0 = VecDeque::new();
        }
        None
    }

    /// The entry that [`first`](Self::first) gave, which leaves the queue.
    pub(super) fn pop<'a>(&mut self, entries: &'a mut Entries) -> Option<&'a mut Connection> {
        let first = self.0.pop_front()?;
        entries.get_mut(first.slot).map(|entry| &mut entry.connection)
    }
}
