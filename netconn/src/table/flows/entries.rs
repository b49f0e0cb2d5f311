//! Storage of flows and UDP sockets, indexed by the kernel's key of the flow and by socket.

use hashbrown::HashMap;
use netconn_common::{FlowKey, Owner};

use crate::{
    shrink::shrink_if_sparse,
    table::{Connection, slots::Slots},
};

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A flow that the kernel counts.
    Flow(FlowKey),
    /// A bound UDP socket.
    Bound,
    /// A connected UDP socket whose datagrams are not counted.
    Connected,
}

/// A flow or a UDP socket.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) connection: Connection,
    pub(super) kind: EntryKind,
    /// Index of a flow in [`Socket::flows`].
    index: usize,
}

impl AsRef<Connection> for Entry {
    fn as_ref(&self) -> &Connection {
        &self.connection
    }
}

impl AsMut<Connection> for Entry {
    fn as_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// The entries of a socket.
#[derive(Debug, Default)]
pub(super) struct Socket {
    /// Slots of its flows.
    pub(super) flows: Vec<u32>,
    /// Slot of the bound socket.
    pub(super) bound: Option<u32>,
    /// Slot of the connected socket, if datagrams are not counted.
    pub(super) connected: Option<u32>,
    /// The first process that used it, once that is known.
    pub(super) owner: Option<Owner>,
    /// The port at which it has asked many hosts at once, and when it last did, nanoseconds since boot, as far as is known.
    pub(super) asked: Option<(u16, u64)>,
    /// The kernel folds what it exchanges with new peers, or will.
    pub(super) is_folded: bool,
}

impl Socket {
    /// Returns the slots of all its entries.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.flows.iter().copied().chain(self.connected).chain(self.bound)
    }
}

/// All entries.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) slots: Slots<Entry>,
    by_key: HashMap<FlowKey, u32, foldhash::fast::RandomState>,
    /// By socket number.
    sockets: HashMap<u64, Socket, foldhash::fast::RandomState>,
}

impl Entries {
    /// Returns the number of flows that the kernel counts.
    pub(super) fn flow_count(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn slot_of(&self, key: &FlowKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(super) fn socket(&self, socket: u64) -> Option<&Socket> {
        self.sockets.get(&socket)
    }

    pub(super) fn socket_mut(&mut self, socket: u64) -> Option<&mut Socket> {
        self.sockets.get_mut(&socket)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot)
    }

    /// Returns all entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter()
    }

    /// Returns the connections of all entries.
    pub(super) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().map(|entry| &entry.connection)
    }

    /// Adds an entry and returns its slot. There must not be an entry for the same flow or socket.
    pub(super) fn insert(&mut self, kind: EntryKind, connection: Connection) -> u32 {
        let socket = self.sockets.entry(connection.socket).or_default();
        // The index is where `push` puts the flow below; of other kinds nobody reads it.
        let slot = self.slots.insert(Entry { connection, kind, index: socket.flows.len() });
        match kind {
            EntryKind::Flow(key) => {
                socket.flows.push(slot);
                self.by_key.insert(key, slot);
            }
            EntryKind::Bound => socket.bound = Some(slot),
            EntryKind::Connected => socket.connected = Some(slot),
        }
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.slots.remove(slot)?;
        let socket = self.sockets.get_mut(&entry.connection.socket)?;
        match entry.kind {
            EntryKind::Flow(key) => {
                self.by_key.remove(&key);
                // The flows of a socket are in no order, so that ten thousand of them can be removed one by one.
                if entry.index < socket.flows.len() {
                    socket.flows.swap_remove(entry.index);
                }
                // `swap_remove` has moved the last flow here; nothing was moved if this was the last.
                if let Some(moved) = socket.flows.get(entry.index)
                    && let Some(moved) = self.slots.get_mut(*moved)
                {
                    moved.index = entry.index;
                }
            }
            EntryKind::Bound => socket.bound = None,
            EntryKind::Connected => socket.connected = None,
        }
        // A socket without entries is forgotten, and its owner with it.
        if socket.slots().next().is_none() {
            self.sockets.remove(&entry.connection.socket);
        }
        shrink_if_sparse(&mut self.by_key);
        shrink_if_sparse(&mut self.sockets);
        Some(entry)
    }
}
