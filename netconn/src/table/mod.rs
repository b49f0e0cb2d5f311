//! The live table: every TCP connection and listener, by the number of its socket, changed by the kernel's records; and, in
//! [`flows`], the same for datagrams.
//!
//! One thread owns the tables. They decide what is an event and when; [`Effects`] carries it out.

mod change;
mod compare;
mod connection;
mod coverage;
mod dump;
mod effects;
pub mod flows;
mod owner;
pub mod past;
mod pending;
mod slots;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use hashbrown::{HashMap, HashSet};
use netconn_common::{Owner, TcpRecord, UNKNOWN_U32, UnsentRecord, attribution, role, tcp_state};
use netconn_model::fact::{CloseReason, Failure, Outcome};

pub use self::{
    change::Change,
    compare::Comparison,
    connection::{Connection, Exchanged, Icmp, Party, Succession, failure_of},
    coverage::Coverage,
    effects::{Effects, Silent},
    owner::Orphans,
};
use self::{
    change::{announce, finish, last_change},
    coverage::{Dumps, Unreadable},
    past::{Ends, ends},
    pending::Pending,
    slots::Slots,
};
use crate::shrink::shrink_if_sparse;

/// How long the event of an accepted connection is held back for the accepting process to be seen; after that the
/// listener's owner is reported. A process that waits in `accept`, or for the first bytes, is seen within microseconds or
/// a round trip; a server that is busy for longer is seen in snapshots and when the connection ends.
const ACCEPT_WAIT_NS: u64 = 200_000_000;

/// All TCP connections and listeners.
#[derive(Debug, Default)]
pub struct Table {
    connections: Slots<Connection>,
    /// Slots by socket number.
    by_socket: HashMap<u64, u32, foldhash::fast::RandomState>,
    /// Slots of listeners by network namespace and port.
    listeners: HashMap<(u32, u16), Vec<u32>, foldhash::fast::RandomState>,
    /// When netconn began to capture, nanoseconds since boot.
    began_ns: u64,
    dumps: Dumps,
    /// Comparisons with the kernel so far.
    comparisons: u32,
    unreadable: Unreadable,
    /// The kernel reports which process accepts.
    has_acceptors: bool,
    pending: Pending,
}

impl Table {
    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Returns whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets when the capture began, nanoseconds since boot. Connections that are older existed before netconn, although
    /// an earlier daemon may have left their time of birth in the kernel.
    pub fn set_began(&mut self, began_ns: u64) {
        self.began_ns = began_ns;
    }

    /// Holds events of accepted connections back from now on until the accepting process is known.
    pub fn expect_acceptors(&mut self) {
        self.has_acceptors = true;
    }

    /// Returns the entries from a slot on, with their slots. A caller that walks the table in parts sees each entry that
    /// stays all the while exactly once.
    pub fn from_slot(&self, slot: usize) -> impl Iterator<Item = (usize, &Connection)> {
        self.connections.starting_at(slot).map(|(slot, entry)| (slot as usize, entry))
    }

    /// Applies a TCP record.
    pub fn apply(&mut self, record: &TcpRecord, effects: &mut impl Effects) {
        let now = record.header.time_ns;
        let known = self.by_socket.get(&record.socket).copied();
        // Finds the entry of this life, or makes one: the first record that arrives need not be the first that was
        // written.
        let (slot, is_new) = match known {
            Some(slot) if self.is_same_life(slot, record) => (slot, false),
            known => {
                // The end of the earlier life was lost, or that life belongs to a socket older than netconn.
                if let Some(mut earlier) = known.and_then(|slot| self.remove(slot)) {
                    finish(&mut earlier, CloseReason::Unknown, now, effects);
                }
                (self.insert(self.new_connection(record, effects)), true)
            }
        };
        let Some(connection) = self.connections.get_mut(slot) else { return };
        // Also if the record turns out to be outdated: the socket exists, and a dump must not take it for gone.
        connection.seen = self.dumps.begun();
        // Without memory there are no sequence numbers, and records are taken in the order in which they arrive.
        let is_counted = connection.generation != 0 && record.state.generation != 0;
        if is_counted && connection.sequence > record.state.sequence {
            return; // A dump read the socket before the change that is applied already.
        }
        connection.update(record);
        // A new entry has taken its owner from the record already.
        if !is_new && connection.update_owner(record, self.dumps.begun()) {
            connection.process = effects.process(&connection.owner);
        }
        // Decides when the event of the beginning is emitted: now, when the acceptor is known, or when the outputs have
        // room.
        if !connection.announced && connection.is_up() {
            // A last record ends the wait: the beginning must precede the end.
            let waits = self.has_acceptors && connection.waits_for_acceptor() && record.new_state != tcp_state::CLOSE;
            // Only iterators write records without a change.
            let is_from_dump = record.old_state == record.new_state;
            match (waits, is_from_dump) {
                // In the queue already: a second place there would put the deadline off.
                (true, _) if connection.waiting => {}
                (true, _) => self.pending.wait(slot, connection, now + ACCEPT_WAIT_NS),
                // The next dump may queue it again. That does no harm: the queue skips what is announced.
                (false, true) => self.pending.defer(slot, connection),
                (false, false) => announce(connection, now, effects),
            }
        }
        // Last, so that the end carries the totals, the owner and the marks of this record.
        if record.new_state == tcp_state::CLOSE
            && let Some(connection) = self.remove(slot)
        {
            effects.emit(last_change(&connection, record), &connection, now);
        }
    }

    /// Applies the failure of an attempt that has sent nothing. If the kernel does not report the reason, nothing is emitted
    /// and the attempt is returned, for the caller to find the reason.
    pub fn apply_unsent(&mut self, record: &UnsentRecord, effects: &mut impl Effects) -> Option<Connection> {
        let attempt = &record.attempt;
        let now = attempt.header.time_ns;
        let known = self.by_socket.get(&attempt.socket).copied();
        // A later life has begun before this record arrived: its entry stays.
        let is_earlier = |entry: &Connection| entry.generation <= attempt.state.generation;
        // The end of the earlier life was lost.
        if let Some(slot) = known.filter(|slot| self.connections.get(*slot).is_some_and(is_earlier))
            && let Some(mut earlier) = self.remove(slot)
        {
            finish(&mut earlier, CloseReason::Unknown, now, effects);
        }
        let mut connection = Connection::from_tcp(attempt, effects.process(&attempt.state.owner));
        connection.update(attempt);
        // No trampolines: nothing reported what `connect` returned. The routing tables are asked.
        if attempt.error == UNKNOWN_U32 {
            return Some(connection);
        }
        let failure = failure_of(attempt.error).unwrap_or(Failure::Other);
        effects.emit(Change::Connect(Outcome::Failure(failure, attempt.error)), &connection, now);
        None
    }

    /// Returns whether dumps have found connections that are not announced yet.
    pub fn has_backlog(&self) -> bool {
        self.pending.has_backlog()
    }

    /// Announces at most `limit` of the connections that dumps have found. A change of one of the others announces it too.
    pub fn announce_backlog(&mut self, limit: usize, now: u64, effects: &mut impl Effects) {
        self.pending.announce_backlog(&mut self.connections, limit, now, effects);
    }

    /// Returns when the next accepted connection has waited long enough for its process, nanoseconds since boot.
    pub fn next_deadline(&mut self) -> Option<u64> {
        self.pending.next_deadline(&self.connections)
    }

    /// Announces the accepted connections that have waited long enough, with their listener's owner, and returns how many
    /// there were.
    pub fn announce_overdue(&mut self, now: u64, effects: &mut impl Effects) -> usize {
        self.pending.announce_overdue(&mut self.connections, now, effects)
    }

    /// Announces everything that is held back: the daemon ends.
    pub fn announce_all(&mut self, now: u64, effects: &mut impl Effects) {
        self.pending.announce_all(&mut self.connections, now, effects);
    }

    /// Returns the number of entries in each state that has any.
    pub fn states(&self) -> impl Iterator<Item = (u8, usize)> {
        // States are below 14 (`TCP_MAX_STATES` in `include/net/tcp_states.h`).
        let mut counts = [0; 16];
        for entry in self.connections.iter() {
            if let Some(count) = counts.get_mut(usize::from(entry.state)) {
                *count += 1;
            }
        }
        (0..).zip(counts).filter(|(_, count)| *count != 0)
    }

    /// Returns whether there are attempts whose local port is not known yet.
    pub fn has_attempts_without_port(&self) -> bool {
        self.connections.iter().any(Connection::lacks_port)
    }

    /// Sets the local port of an attempt, if it is not known yet.
    pub fn set_port(&mut self, socket: u64, port: u16) {
        let slot = self.by_socket.get(&socket);
        if let Some(entry) = slot.and_then(|slot| self.connections.get_mut(*slot))
            // A record may have brought it since the scan, and is right about an entry that has lived on.
            && entry.local.port == 0
        {
            entry.local.port = port;
        }
    }

    fn is_same_life(&self, slot: u32, record: &TcpRecord) -> bool {
        // Life 0 is unknown, so it cannot contradict: without memory a socket has one entry for all its lives.
        let is_same = |known: u32| known == 0 || record.state.generation == 0 || known == record.state.generation;
        self.connections.get(slot).is_some_and(|entry| is_same(entry.generation))
    }

    /// Returns the entry that a record begins. If the kernel could not hand the listener's owner down to an accepted
    /// connection, the owner is taken from the listener with the same port.
    fn new_connection(&self, record: &TcpRecord, effects: &impl Effects) -> Connection {
        let mut connection = Connection::from_tcp(record, None);
        connection.preexisting |= connection.born_ns < self.began_ns;
        if connection.owner.tgid == 0
            && connection.role == role::PASSIVE
            && let Some(listener) = self.listener_of(&connection)
            && listener.owner.tgid != 0
        {
            // Marked as such, so that a process that uses the connection replaces it.
            connection.owner = Owner { how: attribution::LISTENER, ..listener.owner };
        }
        connection.process = effects.process(&connection.owner);
        connection
    }

    /// Returns the listener that a connection came through, as far as addresses show: the one of its local address, else
    /// one of the unspecified address.
    fn listener_of(&self, connection: &Connection) -> Option<&Connection> {
        let slots = self.listeners.get(&(connection.namespace, connection.local.port))?;
        let listeners = || slots.iter().filter_map(|slot| self.connections.get(*slot));
        let address = connection.local.address;
        listeners()
            .find(|entry| entry.local.address == address)
            .or_else(|| listeners().find(|entry| entry.local.address.is_unspecified()))
    }

    /// Returns the half-open connection between these ends. Nobody has accepted it, so it belongs to the listener's process.
    pub fn half_open(&self, between: Ends) -> Connection {
        let mut connection = Connection::of_minisock(between, tcp_state::SYN_RECV);
        connection.role = role::PASSIVE;
        if let Some(listener) = self.listener_of(&connection).filter(|listener| listener.owner.tgid != 0) {
            connection.owner = Owner { how: attribution::LISTENER, ..listener.owner };
            connection.process.clone_from(&listener.process);
        }
        connection
    }

    /// Returns those of these half-open connections that are in the table by now.
    pub fn completed(&self, half_open: &HashSet<Ends>) -> HashSet<Ends> {
        let is_there = |connection: &Connection| ends(connection).filter(|between| half_open.contains(between));
        if half_open.is_empty() { HashSet::new() } else { self.connections.iter().filter_map(is_there).collect() }
    }

    fn insert(&mut self, connection: Connection) -> u32 {
        let socket = connection.socket;
        // Read before the slot takes the connection. Several sockets can listen on one port (other addresses,
        // `SO_REUSEPORT`).
        let listens_at = connection.is_listener().then_some((connection.namespace, connection.local.port));
        let slot = self.connections.insert(connection);
        self.by_socket.insert(socket, slot);
        if let Some(at) = listens_at {
            self.listeners.entry(at).or_default().push(slot);
        }
        slot
    }

    fn remove(&mut self, slot: u32) -> Option<Connection> {
        let connection = self.connections.remove(slot)?;
        self.by_socket.remove(&connection.socket);
        shrink_if_sparse(&mut self.by_socket);
        let listens_at = (connection.namespace, connection.local.port);
        if connection.is_listener()
            && let Some(slots) = self.listeners.get_mut(&listens_at)
        {
            // The key was made of the same members: a listener keeps role, namespace and local end, see
            // `Connection::update`.
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.listeners.remove(&listens_at);
            }
        }
        // A dump that is being taken may still contain this life.
        self.dumps.note_end(connection.socket, connection.generation);
        Some(connection)
    }
}
