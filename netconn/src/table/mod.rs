//! The live table: every TCP connection and listener, by the kernel's own identity, changed by the kernel's records.
//!
//! One thread owns it. It decides when something is an event; what the event looks like is not its business.

mod connection;

use std::rc::Rc;

use hashbrown::HashMap;
use netconn_common::{Owner, TcpRecord, attribution, role, tcp_state};

pub use connection::Connection;

use crate::{
    event::{CloseReason, Failure, Outcome},
    process::Process,
};

/// What a record means to somebody who watches connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attempt has its outcome, or a connection was accepted.
    Connect(Outcome),
    /// An established connection has ended; with the errno, 0 if none.
    Close(CloseReason, u32),
    /// A socket listens.
    Listen,
    /// It listens no more.
    ListenEnd,
}

/// All connections and listeners.
#[derive(Debug, Default)]
pub struct Table {
    /// Entries; `None` are free.
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
    by_socket: HashMap<u64, u32, foldhash::fast::RandomState>,
    /// Slots of listeners by network namespace and port.
    listeners: HashMap<(u32, u16), Vec<u32>, foldhash::fast::RandomState>,
    /// Dumps begun so far.
    dumps: u32,
    /// While a dump is taken: sockets that have ended since, and the life that ended.
    ended: Option<HashMap<u64, u32, foldhash::fast::RandomState>>,
}

impl Table {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.by_socket.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_socket.is_empty()
    }

    /// Entries from a slot on, with their slots. Whoever walks the table in parts sees each entry that lives all the
    /// while exactly once.
    pub fn from_slot(&self, slot: usize) -> impl Iterator<Item = (usize, &Connection)> {
        self.slots.iter().enumerate().skip(slot).filter_map(|(slot, entry)| Some((slot, entry.as_ref()?)))
    }

    /// Applies a record. `process` finds the process of an owner; `emit` is called for each event that follows, in
    /// order, with the connection as it is then.
    pub fn apply(
        &mut self,
        record: &TcpRecord,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        let now = record.header.time_ns;
        let known = self.by_socket.get(&record.socket).copied();
        let slot = match known {
            Some(slot) if self.is_same_life(slot, record) => slot,
            // The end of the life before was lost, or it belongs to a socket older than netconn.
            Some(slot) => {
                if let Some(earlier) = self.remove(slot) {
                    finish(&earlier, now, &mut emit);
                }
                self.add(record, process)
            }
            None => self.add(record, process),
        };
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else { return };
        let is_counted = connection.generation != 0 && record.state.generation != 0;
        if is_counted && connection.sequence > record.state.sequence {
            connection.seen = self.dumps;
            return; // A dump of something to which more has happened since.
        }
        connection.seen = self.dumps;
        connection.update(record);
        if !connection.announced && connection.is_up() {
            connection.announced = true;
            let change =
                if connection.role == role::LISTENER { Change::Listen } else { Change::Connect(Outcome::Success) };
            emit(change, connection, connection.up_since(now));
        }
        if record.new_state == tcp_state::CLOSE
            && let Some(connection) = self.remove(slot)
        {
            emit(end(&connection, record), &connection, now);
        }
    }

    /// A dump of all sockets is about to be taken: from here on ended sockets are remembered.
    pub fn begin_dump(&mut self) {
        self.dumps = self.dumps.wrapping_add(1);
        self.ended = Some(HashMap::default());
    }

    /// Forgets that a dump was to be taken.
    pub fn abandon_dump(&mut self) {
        self.ended = None;
    }

    /// Takes the records of a dump that was taken since [`begin_dump`](Self::begin_dump), after all records of the
    /// ring that came meanwhile were applied. A socket's number of life and record tell which of the two is newer, so
    /// nothing is missed and nothing comes twice. Entries for which `is_covered` holds and that are not in the dump have
    /// ended unseen. `process` and `emit` are as for [`apply`](Self::apply).
    pub fn end_dump(
        &mut self,
        mut dump: Vec<TcpRecord>,
        is_covered: impl Fn(&Connection) -> bool,
        mut process: impl FnMut(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        let ended = self.ended.take().unwrap_or_default();
        // Listeners first: they tell who began the connections that are older than netconn.
        dump.sort_by_key(|record| record.new_state != tcp_state::LISTEN);
        for record in &mut dump {
            let is_unknown = record.state.role == role::UNKNOWN && record.new_state != tcp_state::LISTEN;
            if is_unknown && record.new_state != tcp_state::SYN_SENT {
                let is_incoming = self.listeners.contains_key(&(record.namespace, record.local_port));
                record.state.role = if is_incoming { role::PASSIVE } else { role::ACTIVE };
            }
            let is_over = ended.get(&record.socket).is_some_and(|life| *life >= record.state.generation);
            // A child that is not connected yet is not reported, see `inet_sock_set_state`.
            let is_half = record.new_state == tcp_state::SYN_RECV && record.state.role == role::PASSIVE;
            if !is_over && !is_half && record.new_state != tcp_state::CLOSE {
                self.apply(record, &mut process, &mut emit);
            }
        }
        let vanished: Vec<u32> = (0_u32..)
            .zip(&self.slots)
            .filter_map(|(slot, entry)| Some((slot, entry.as_ref()?)))
            .filter(|(_, entry)| entry.seen != self.dumps && is_covered(entry))
            .map(|(slot, _)| slot)
            .collect();
        let now = dump.iter().map(|record| record.header.time_ns).max().unwrap_or(0);
        for slot in vanished {
            if let Some(entry) = self.remove(slot) {
                finish(&entry, now.max(entry.established_ns), &mut emit);
            }
        }
    }

    /// Whether there are attempts whose own port is not known yet.
    pub fn has_attempts_without_port(&self) -> bool {
        self.slots.iter().flatten().any(|entry| entry.state == tcp_state::SYN_SENT && entry.local.port == 0)
    }

    /// Sets the port of an attempt, if it is not known yet.
    pub fn set_port(&mut self, socket: u64, port: u16) {
        if let Some(slot) = self.by_socket.get(&socket)
            && let Some(Some(entry)) = self.slots.get_mut(*slot as usize)
            && entry.local.port == 0
        {
            entry.local.port = port;
        }
    }

    fn is_same_life(&self, slot: u32, record: &TcpRecord) -> bool {
        let is_same = |known: u32| known == 0 || record.state.generation == 0 || known == record.state.generation;
        matches!(self.slots.get(slot as usize), Some(Some(entry)) if is_same(entry.generation))
    }

    /// Adds the entry that a record begins. Where the kernel could not hand the listener's owner down, it is the owner
    /// of the listener with the same port.
    fn add(&mut self, record: &TcpRecord, process: impl FnOnce(&Owner) -> Option<Rc<Process>>) -> u32 {
        let mut owner = record.state.owner;
        let mut connection = Connection::new(record, None);
        if owner.tgid == 0
            && connection.role == role::PASSIVE
            && let Some(listener) = self.listener(&connection)
            && listener.owner.tgid != 0
        {
            owner = Owner { how: attribution::LISTENER, ..listener.owner };
        }
        connection.owner = owner;
        connection.process = process(&owner);
        self.insert(connection)
    }

    /// The listener that a connection came through, as far as addresses tell: the one of its own address, else of any.
    fn listener(&self, connection: &Connection) -> Option<&Connection> {
        let slots = self.listeners.get(&(connection.namespace, connection.local.port))?;
        let entries = || slots.iter().filter_map(|slot| self.slots.get(*slot as usize)?.as_ref());
        let address = connection.local.address;
        entries()
            .find(|entry| entry.local.address == address)
            .or_else(|| entries().find(|entry| entry.local.address.is_unspecified()))
    }

    fn insert(&mut self, connection: Connection) -> u32 {
        let socket = connection.socket;
        let listens_at = connection.is_listener().then_some((connection.namespace, connection.local.port));
        let slot = if let Some(slot) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(slot as usize) {
                *place = Some(connection);
            }
            slot
        } else {
            self.slots.push(Some(connection));
            // More than 2^32 sockets do not fit into any machine's memory.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        };
        self.by_socket.insert(socket, slot);
        if let Some(at) = listens_at {
            self.listeners.entry(at).or_default().push(slot);
        }
        slot
    }

    fn remove(&mut self, slot: u32) -> Option<Connection> {
        let connection = self.slots.get_mut(slot as usize)?.take()?;
        self.by_socket.remove(&connection.socket);
        let listens_at = (connection.namespace, connection.local.port);
        if connection.is_listener()
            && let Some(slots) = self.listeners.get_mut(&listens_at)
        {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.listeners.remove(&listens_at);
            }
        }
        if let Some(ended) = &mut self.ended {
            ended.insert(connection.socket, connection.generation);
        }
        self.free.push(slot);
        Some(connection)
    }
}

/// The events of a life whose end was not seen.
fn finish(connection: &Connection, now: u64, emit: &mut impl FnMut(Change, &Connection, u64)) {
    let change = match (connection.role, connection.announced) {
        (role::LISTENER, _) => Change::ListenEnd,
        (_, true) => Change::Close(CloseReason::Unknown, 0),
        (_, false) => Change::Connect(Outcome::Failure(Failure::Other, 0)),
    };
    emit(change, connection, now);
}

/// What the last record of a life means.
fn end(connection: &Connection, record: &TcpRecord) -> Change {
    match (connection.role, connection.announced) {
        (role::LISTENER, _) => Change::ListenEnd,
        (_, true) => {
            let (reason, errno) = connection::close_reason(record, connection.marks);
            Change::Close(reason, errno)
        }
        (_, false) => {
            let (failure, errno) = connection::failure(record);
            Change::Connect(Outcome::Failure(failure, errno))
        }
    }
}

#[cfg(test)]
mod tests;
