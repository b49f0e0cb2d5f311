//! The live table: every TCP connection and listener, by the kernel's own identity, changed by the kernel's records.
//!
//! One thread owns it. It decides when something is an event; what the event looks like is not its business.

mod connection;
mod dump;
pub mod flows;
pub mod past;

use std::{collections::VecDeque, rc::Rc};

pub use connection::{Connection, Exchanged, Icmp, failure_of};
pub use dump::{Compared, Covered};
use hashbrown::{HashMap, HashSet};
use netconn_common::{
    FileRecord, Owner, OwnerRecord, TcpRecord, UNKNOWN_U32, UnsentRecord, attribution, role, tcp_state,
};
use netconn_model::event::{CloseReason, Failure, Outcome};

use crate::process::Process;

/// How long an accepted connection waits for its acceptor before it is told as its listener's owner's. Whoever waits in
/// `accept`, or for the first bytes, is known within microseconds or a round trip; a server that is busy for longer is
/// found in the snapshot and when the connection ends.
const ACCEPT_WAIT_NS: u64 = 200_000_000;

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
    /// When netconn began, nanoseconds since boot.
    began_ns: u64,
    /// Dumps begun so far.
    dumps: u32,
    /// Comparisons with the kernel so far.
    comparisons: u32,
    /// Inodes of the network namespaces that the last dump could not read, and of which it left connections.
    unreadable: HashSet<u32>,
    /// While a dump is taken: sockets that have ended since, and the life that ended.
    ended: Option<HashMap<u64, u32, foldhash::fast::RandomState>>,
    /// Whether the kernel tells who accepts.
    acceptors: bool,
    /// Accepted connections that wait for their acceptor, oldest first.
    waiting: VecDeque<Waiting>,
    /// What dumps have found and nobody was told of yet.
    backlog: VecDeque<Backlog>,
}

/// What a dump has found, by slot and life.
#[derive(Debug)]
struct Backlog {
    slot: u32,
    socket: u64,
    generation: u32,
}

/// An accepted connection that is not announced yet.
#[derive(Debug)]
struct Waiting {
    slot: u32,
    socket: u64,
    generation: u32,
    /// Nanoseconds since boot.
    until_ns: u64,
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

    /// What is older than this was there before netconn, also if an earlier daemon has left word of when it began.
    pub fn start(&mut self, began_ns: u64) {
        self.began_ns = began_ns;
    }

    /// From now on the kernel tells who accepts a connection.
    pub fn expect_acceptors(&mut self) {
        self.acceptors = true;
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
        let mut process = Some(process);
        let known = self.by_socket.get(&record.socket).copied();
        let slot = match known {
            Some(slot) if self.is_same_life(slot, record) => slot,
            // The end of the life before was lost, or it belongs to a socket older than netconn.
            Some(slot) => {
                if let Some(mut earlier) = self.remove(slot) {
                    finish(&mut earlier, CloseReason::Unknown, now, &mut emit);
                }
                self.add(record, &mut process)
            }
            None => self.add(record, &mut process),
        };
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else { return };
        let is_counted = connection.generation != 0 && record.state.generation != 0;
        if is_counted && connection.sequence > record.state.sequence {
            connection.seen = self.dumps;
            return; // A dump of something to which more has happened since.
        }
        connection.seen = self.dumps;
        connection.update(record);
        if let Some(process) = process.take()
            && connection.learn(record, self.dumps)
        {
            connection.process = process(&connection.owner);
        }
        if !connection.announced && connection.is_up() {
            let waits = self.acceptors && connection.waits_for_acceptor() && record.new_state != tcp_state::CLOSE;
            if !waits && record.old_state == record.new_state {
                // From a dump: there may be a hundred thousand, see `announce_found`.
                let (socket, generation) = (connection.socket, connection.generation);
                self.backlog.push_back(Backlog { slot, socket, generation });
            } else if !waits {
                announce(connection, now, &mut emit);
            } else if !connection.waiting {
                connection.waiting = true;
                let (socket, generation) = (connection.socket, connection.generation);
                self.waiting.push_back(Waiting { slot, socket, generation, until_ns: now + ACCEPT_WAIT_NS });
            }
        }
        if record.new_state == tcp_state::CLOSE
            && let Some(connection) = self.remove(slot)
        {
            let change = end(&connection, record);
            emit(change, &connection, now);
        }
    }

    /// A socket has another owner. `process` and `emit` are as for [`apply`](Self::apply).
    pub fn own(
        &mut self,
        record: &OwnerRecord,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        emit: impl FnMut(Change, &Connection, u64),
    ) {
        let now = record.header.time_ns;
        self.change_owner(record.socket, Some(record.generation), &record.owner, now, process, emit);
    }

    /// A process has a socket open whose owner was not known for sure, or is one of those that have `ended`.
    pub fn found(
        &mut self,
        file: &FileRecord,
        ended: &[(u32, u64)],
        now: u64,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        emit: impl FnMut(Change, &Connection, u64),
    ) {
        let known = self.by_socket.get(&file.socket).and_then(|slot| self.slots.get(*slot as usize)?.as_ref());
        // Somebody may have used it since the kernel was asked.
        let is_unsure = |entry: &Connection| {
            matches!(entry.owner.how, attribution::LISTENER | attribution::UNKNOWN)
                || ended.contains(&(entry.owner.tgid, entry.owner.start_ns))
        };
        if known.is_some_and(is_unsure) {
            self.change_owner(file.socket, None, &file.owner, now, process, emit);
        }
    }

    fn change_owner(
        &mut self,
        socket: u64,
        generation: Option<u32>,
        owner: &Owner,
        now: u64,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        let Some(slot) = self.by_socket.get(&socket) else { return };
        let Some(Some(connection)) = self.slots.get_mut(*slot as usize) else { return };
        if generation.is_some_and(|life| life != connection.generation) {
            return;
        }
        connection.owner = *owner;
        connection.owned_in = self.dumps;
        connection.process = process(owner);
        if connection.waiting && !connection.announced {
            announce(connection, now, &mut emit);
        }
    }

    /// An attempt has failed before anything was sent. Where the kernel does not tell why, nothing is emitted and the
    /// attempt is given back, for the caller to find out.
    pub fn unsent(
        &mut self,
        record: &UnsentRecord,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) -> Option<Connection> {
        let attempt = &record.attempt;
        let now = attempt.header.time_ns;
        // The end of the life before was lost.
        let is_earlier = |entry: &Connection| entry.generation <= attempt.state.generation;
        if let Some(slot) = self.by_socket.get(&attempt.socket).copied()
            && self.slots.get(slot as usize).is_some_and(|entry| entry.as_ref().is_some_and(is_earlier))
            && let Some(mut earlier) = self.remove(slot)
        {
            finish(&mut earlier, CloseReason::Unknown, now, &mut emit);
        }
        let mut connection = Connection::new(attempt, process(&attempt.state.owner));
        connection.update(attempt);
        if attempt.error == UNKNOWN_U32 {
            return Some(connection);
        }
        let failure = failure_of(attempt.error).unwrap_or(Failure::Other);
        emit(Change::Connect(Outcome::Failure(failure, attempt.error)), &connection, now);
        None
    }

    /// Whether dumps have found something that nobody was told of yet.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Announces some of what dumps have found. Whatever happens to the others meanwhile announces them too.
    pub fn announce_found(&mut self, limit: usize, now: u64, mut emit: impl FnMut(Change, &Connection, u64)) {
        for Backlog { slot, socket, generation } in self.backlog.drain(..limit.min(self.backlog.len())) {
            if let Some(Some(connection)) = self.slots.get_mut(slot as usize)
                && connection.socket == socket
                && connection.generation == generation
                && !connection.announced
            {
                announce(connection, now, &mut emit);
            }
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
        }
    }

    /// When the next accepted connection has waited long enough, nanoseconds since boot.
    pub fn next_deadline(&mut self) -> Option<u64> {
        while let Some(Waiting { slot, socket, generation, until_ns }) = self.waiting.front() {
            let entry = self.slots.get(*slot as usize)?.as_ref();
            let is_same = |entry: &&Connection| entry.socket == *socket && entry.generation == *generation;
            if entry.filter(is_same).is_some_and(|entry| !entry.announced) {
                return Some(*until_ns);
            }
            self.waiting.pop_front();
        }
        None
    }

    /// Announces the accepted connections that have waited long enough, as their listener's owner's.
    pub fn announce_overdue(&mut self, now: u64, mut emit: impl FnMut(Change, &Connection, u64)) {
        while self.next_deadline().is_some_and(|deadline| deadline <= now)
            && let Some(waiting) = self.waiting.pop_front()
        {
            if let Some(Some(connection)) = self.slots.get_mut(waiting.slot as usize) {
                announce(connection, now, &mut emit);
            }
        }
    }

    /// Announces all accepted connections that wait: the daemon ends.
    pub fn announce_all(&mut self, now: u64, emit: impl FnMut(Change, &Connection, u64)) {
        for waiting in &mut self.waiting {
            waiting.until_ns = now;
        }
        self.announce_overdue(now, emit);
    }

    /// The number of entries in each state that there is.
    pub fn states(&self) -> impl Iterator<Item = (u8, usize)> {
        let mut counts = [0; 16];
        for entry in self.slots.iter().flatten() {
            if let Some(count) = counts.get_mut(usize::from(entry.state)) {
                *count += 1;
            }
        }
        (0..).zip(counts).filter(|(_, count)| *count != 0)
    }

    /// Whether there are attempts whose own port is not known yet.
    pub fn has_attempts_without_port(&self) -> bool {
        self.slots.iter().flatten().any(Connection::lacks_port)
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

    /// Adds the entry that a record begins.
    fn add<F: FnOnce(&Owner) -> Option<Rc<Process>>>(&mut self, record: &TcpRecord, process: &mut Option<F>) -> u32 {
        let connection = self.begin(record, |owner| process.take().and_then(|process| process(owner)));
        self.insert(connection)
    }

    /// The entry that a record begins. Where the kernel could not hand the listener's owner down, it is the owner of the
    /// listener with the same port.
    fn begin(&self, record: &TcpRecord, process: impl FnOnce(&Owner) -> Option<Rc<Process>>) -> Connection {
        let mut owner = record.state.owner;
        let mut connection = Connection::new(record, None);
        connection.preexisting |= connection.born_ns < self.began_ns;
        if owner.tgid == 0
            && connection.role == role::PASSIVE
            && let Some(listener) = self.listener(&connection)
            && listener.owner.tgid != 0
        {
            owner = Owner { how: attribution::LISTENER, ..listener.owner };
        }
        connection.owner = owner;
        connection.process = process(&owner);
        connection
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

/// Tells that a connection or listener is up.
fn announce(connection: &mut Connection, now: u64, emit: &mut impl FnMut(Change, &Connection, u64)) {
    connection.announced = true;
    let change = if connection.role == role::LISTENER { Change::Listen } else { Change::Connect(Outcome::Success) };
    emit(change, connection, connection.up_since(now));
}

/// The events of a life whose end was not seen.
fn finish(connection: &mut Connection, reason: CloseReason, now: u64, emit: &mut impl FnMut(Change, &Connection, u64)) {
    if !connection.announced && connection.is_up() {
        announce(connection, now, emit);
    }
    let change = match (connection.role, connection.announced) {
        (role::LISTENER, _) => Change::ListenEnd,
        (_, true) => Change::Close(reason, 0),
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
