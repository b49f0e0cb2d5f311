//! Flows of datagrams (UDP, ICMP, raw sockets), and the sockets that wait for some: the kernel counts flows in a map, this
//! decides what is an event.
//!
//! Records tell at once what began and ended. Any of them may be lost: the map is the truth, and is compared with from
//! time to time (`sweep`).

mod entries;
mod made;
mod sweep;

use std::rc::Rc;

use hashbrown::HashSet;
use netconn_common::{
    DatagramRecord, FOLDED_FROM, Flow, FlowKey, FlowRecord, IPPROTO_UDP, Owner, OwnerRecord, ReleasedRecord,
    attribution, datagram,
};
use netconn_model::{event::CloseReason, state::UNCONNECTED};

use self::entries::{Entries, Entry, Kind, Queue, Recent};
use super::{Change, Connection, announce, finish};
use crate::process::Process;

/// How long a flow waits to be told whose it is, if only who made or bound its socket is known: whoever receives does so
/// within microseconds, as with connections that are accepted.
const OWNER_WAIT_NS: u64 = 200_000_000;

/// What flows are kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Flows that the kernel has room for.
    pub flows: usize,
    /// A flow without datagrams for so long has ended, nanoseconds.
    pub idle_ns: u64,
    /// The same if both ends have sent.
    pub idle_both_ns: u64,
    /// Whether datagrams are counted; else connected sockets stand for flows.
    pub counts: bool,
}

/// All flows, and sockets of datagrams.
#[derive(Debug)]
pub struct Flows {
    limits: Limits,
    entries: Entries,
    /// When netconn began, nanoseconds since boot.
    began_ns: u64,
    /// Comparisons with the kernel so far.
    sweeps: u32,
    /// While a dump is taken.
    dump: Option<Dump>,
    recent: Recent,
    /// Flows that wait for their owner.
    waiting: Queue,
    /// What was there before netconn and nobody was told of yet.
    backlog: Queue,
    /// Sockets that the kernel has not been told to fold yet.
    folds: Vec<u64>,
    /// Flows that are folded.
    folded: usize,
    /// Number of dumps so far.
    dumps: u32,
    /// More has ended than the last sweep has told.
    unfinished: bool,
    /// Inodes of the network namespaces that the last dump could not read, and of which it left something.
    unreadable: HashSet<u32>,
}

/// A dump that is being taken.
#[derive(Debug)]
struct Dump {
    /// When it was begun, nanoseconds since boot.
    began_ns: u64,
    /// Sockets that were closed since.
    released: HashSet<u64, foldhash::fast::RandomState>,
}

impl Flows {
    /// No flows yet. What is older than `began_ns` was there before netconn.
    pub fn new(limits: Limits, began_ns: u64) -> Self {
        Self {
            limits,
            entries: Entries::default(),
            began_ns,
            sweeps: 0,
            dump: None,
            recent: Recent::default(),
            waiting: Queue::default(),
            backlog: Queue::default(),
            folds: Vec::new(),
            folded: 0,
            dumps: 0,
            unfinished: false,
            unreadable: HashSet::default(),
        }
    }

    /// Number of flows that the kernel counts.
    pub fn len(&self) -> usize {
        self.entries.flows()
    }

    /// Whether the kernel counts none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is any entry at all.
    pub fn has_any(&self) -> bool {
        self.entries.len() != 0
    }

    /// Number of flows that are folded.
    pub fn folded(&self) -> usize {
        self.folded
    }

    /// Whether the last sweep has left something to the next.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Number of sockets that wait for datagrams.
    pub fn bound_sockets(&self) -> usize {
        self.entries.beginning_at(0).filter(|(_, entry)| entry.kind == Kind::Bound).count()
    }

    /// Number of flows of each protocol that there is, by its number in the IP header.
    pub fn protocols(&self) -> impl Iterator<Item = (u8, usize)> {
        let mut counts = [0; 256];
        for (_, entry) in self.entries.beginning_at(0).filter(|(_, entry)| entry.kind != Kind::Bound) {
            if let Some(count) = counts.get_mut(usize::from(entry.connection.protocol)) {
                *count += 1;
            }
        }
        (0..=u8::MAX).zip(counts).filter(|(_, count)| *count != 0)
    }

    /// Entries from a slot on, with their slots, as [`Table::from_slot`](super::Table::from_slot) gives them. Of a socket
    /// that was bound and is connected now its flow tells more.
    pub fn from_slot(&self, slot: usize) -> impl Iterator<Item = (usize, &Connection)> {
        let is_shown = |entry: &Entry| {
            let connection = &entry.connection;
            entry.kind != Kind::Bound
                || connection.remote.is_none()
                || self
                    .entries
                    .socket(connection.socket)
                    .is_none_or(|socket| socket.flows.is_empty() && socket.connected.is_none())
        };
        let entries = self.entries.beginning_at(slot).filter(move |(_, entry)| is_shown(entry));
        entries.map(|(slot, entry)| (slot as usize, &entry.connection))
    }

    /// Whether an entry shows this socket, or it has ended lately. One that is not connected is more than its flows: it may
    /// hear of anybody else.
    pub fn shows(&self, record: &DatagramRecord) -> bool {
        if self.recent.has_socket(record.socket) {
            return true;
        }
        let is_connected = record.marks & datagram::CONNECTED != 0;
        self.entries.socket(record.socket).is_some_and(|socket| {
            socket.bound.is_some() || (is_connected && (socket.connected.is_some() || !socket.flows.is_empty()))
        })
    }

    /// Sockets of which the kernel is to fold what they exchange with new ends; each is given once.
    pub fn take_folds(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.folds)
    }

    /// A flow has begun. `process` finds the process of an owner; `take` takes a flow out of the kernel's map; `emit` is
    /// called for each event that follows, in order, with the flow as it is then.
    pub fn begin(
        &mut self,
        record: &FlowRecord,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        take: impl FnMut(&FlowKey) -> Option<Flow>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        let FlowRecord { header, key, flow } = record;
        let Some((slot, true)) = self.meet(key, flow, process, &mut emit) else { return };
        if self.recent.has_socket(key.socket) {
            self.end(slot, CloseReason::Local, header.time_ns, take, &mut emit);
        } else {
            self.tell_or_wait(slot, header.time_ns, &mut emit);
        }
    }

    /// A socket was bound to receive, or is connected.
    pub fn bound(
        &mut self,
        record: &DatagramRecord,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        if self.recent.has_socket(record.socket) {
            return;
        }
        let now = record.header.time_ns;
        if let Some(kind) = self.meet_socket(record, now, &mut emit) {
            let connection = self.made(record, kind, process(&record.kept.owner));
            let slot = self.entries.insert(kind, connection);
            self.tell(slot, now, &mut emit);
        }
    }

    /// A socket has another owner: who was the first to use it. `process` and `emit` are as for [`begin`](Self::begin).
    /// `false` if there is no such socket here.
    pub fn own(
        &mut self,
        record: &OwnerRecord,
        process: impl Fn(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) -> bool {
        let OwnerRecord { header, socket, owner, .. } = record;
        if self.entries.socket(*socket).is_none() {
            return false;
        }
        self.set_owner(*socket, owner, header.time_ns, process, &mut emit);
        true
    }

    fn set_owner(
        &mut self,
        socket: u64,
        owner: &Owner,
        now: u64,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        emit: &mut impl FnMut(Change, &Connection, u64),
    ) {
        let Some(known) = self.entries.socket_mut(socket) else { return };
        known.owner = Some(*owner);
        let slots: Vec<u32> = known.slots().collect();
        let found = process(owner);
        for slot in slots {
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            let connection = &mut entry.connection;
            if !is_vague(&connection.owner) {
                continue;
            }
            connection.owner = *owner;
            connection.process.clone_from(&found);
            if connection.waiting && !connection.announced {
                announce(connection, now, emit);
            }
        }
    }

    /// A socket was closed. `take` and `emit` are as for [`begin`](Self::begin).
    pub fn released(
        &mut self,
        record: &ReleasedRecord,
        mut take: impl FnMut(&FlowKey) -> Option<Flow>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        let now = record.header.time_ns;
        self.recent.add_socket(record.socket);
        if let Some(dump) = &mut self.dump {
            dump.released.insert(record.socket);
        }
        let Some(socket) = self.entries.socket(record.socket) else { return };
        let (slots, is_folded) = (socket.slots().collect::<Vec<u32>>(), socket.is_folded);
        let has_folded = self.folded_slot(record.socket).is_some();
        for slot in slots {
            self.end(slot, CloseReason::Local, now, &mut take, &mut emit);
        }
        if is_folded && !has_folded {
            self.end_untold(&folded(record.socket), now, &mut take, &mut emit);
        }
    }

    /// Ends what the kernel has folded of a socket that was closed, if nobody was told that it had begun.
    fn end_untold(
        &mut self,
        key: &FlowKey,
        now: u64,
        mut take: impl FnMut(&FlowKey) -> Option<Flow>,
        emit: &mut impl FnMut(Change, &Connection, u64),
    ) {
        let Some(flow) = take(key).filter(|flow| flow.first_ns != 0) else { return };
        if !self.recent.has_flow(key.socket, flow.first_ns) {
            self.recent.add_flow(key.socket, flow.first_ns);
            let mut connection = Connection::of_flow(key, &flow, None);
            connection.preexisting = flow.first_ns < self.began_ns;
            finish(&mut connection, CloseReason::Local, now.max(flow.last_ns), emit);
        }
    }

    fn folded_slot(&self, socket: u64) -> Option<u32> {
        let slots = &self.entries.socket(socket)?.flows;
        let is_folded = |slot: &&u32| {
            self.entries.get(**slot).is_some_and(|entry| matches!(entry.kind, Kind::Flow(key) if key.version == 0))
        };
        slots.iter().find(is_folded).copied()
    }

    /// When the next flow has waited long enough for its owner, nanoseconds since boot.
    pub fn next_deadline(&mut self) -> Option<u64> {
        self.waiting.first(&self.entries).map(|waiting| waiting.until_ns)
    }

    /// Announces the flows that have waited long enough, as far as their owner is known.
    pub fn announce_overdue(&mut self, now: u64, mut emit: impl FnMut(Change, &Connection, u64)) {
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            if let Some(connection) = self.waiting.pop(&mut self.entries) {
                announce(connection, now, &mut emit);
            }
        }
    }

    /// Announces all flows that wait: the daemon ends.
    pub fn announce_all(&mut self, now: u64, mut emit: impl FnMut(Change, &Connection, u64)) {
        self.announce_overdue(u64::MAX, &mut emit);
        self.announce_found(usize::MAX, now, emit);
    }

    /// Whether something was there before netconn that nobody was told of yet.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Announces some of what was there before netconn. Whatever happens to the others meanwhile announces them too.
    pub fn announce_found(&mut self, limit: usize, now: u64, mut emit: impl FnMut(Change, &Connection, u64)) {
        for _ in 0..limit {
            if self.backlog.first(&self.entries).is_none() {
                return;
            }
            if let Some(connection) = self.backlog.pop(&mut self.entries) {
                announce(connection, now, &mut emit);
            }
        }
    }

    /// Finds a flow of the kernel's, or adds it; whether it was added. `None` if it has ended already.
    fn meet(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        emit: &mut impl FnMut(Change, &Connection, u64),
    ) -> Option<(u32, bool)> {
        if let Some(slot) = self.entries.slot_of(key) {
            let born_ns = self.entries.get(slot)?.connection.born_ns;
            // Two processors may both have been the first to fold something.
            if key.version == 0 {
                return Some((slot, false));
            }
            if born_ns >= flow.first_ns {
                return (born_ns == flow.first_ns).then_some((slot, false));
            }
            // Somebody else has taken the earlier one out of the map.
            self.end(slot, CloseReason::Unknown, flow.first_ns, |_| None, emit);
        }
        if self.recent.has_flow(key.socket, flow.first_ns) {
            return None;
        }
        let mut connection = Connection::of_flow(key, flow, None);
        connection.preexisting = flow.first_ns < self.began_ns;
        if is_vague(&connection.owner)
            && let Some(owner) = self.entries.socket(key.socket).and_then(|socket| socket.owner)
        {
            connection.owner = owner;
        }
        connection.process = process(&connection.owner);
        let slot = self.entries.insert(Kind::Flow(*key), connection);
        self.fold(key);
        Some((slot, true))
    }

    /// Notes that a socket has too many flows, or that this one is what was folded already.
    fn fold(&mut self, key: &FlowKey) {
        let is_folded = key.version == 0;
        self.folded += usize::from(is_folded);
        let Some(socket) = self.entries.socket_mut(key.socket) else { return };
        if !socket.is_folded && (is_folded || socket.flows.len() > self.limits.flows / FOLDED_FROM as usize) {
            socket.is_folded = true;
            if !is_folded {
                self.folds.push(key.socket);
            }
        }
    }

    /// Takes what a record says of a socket that is known already; else says what it is, if it is anything that is told.
    fn meet_socket(
        &mut self,
        record: &DatagramRecord,
        now: u64,
        emit: &mut impl FnMut(Change, &Connection, u64),
    ) -> Option<Kind> {
        if record.socket == 0 || record.protocol != u16::from(IPPROTO_UDP) {
            return None;
        }
        let socket = self.entries.socket(record.socket);
        let (bound, connected) = socket.map_or((None, None), |socket| (socket.bound, socket.connected));
        let is_connected = record.marks & datagram::CONNECTED != 0;
        if let Some(entry) = bound.and_then(|slot| self.entries.get_mut(slot)) {
            entry.connection.follow(record);
        }
        if !is_connected {
            return bound.is_none().then_some(Kind::Bound);
        }
        if self.limits.counts {
            return None;
        }
        let made = Connection::of_datagrams(record, None);
        if let Some(slot) = connected {
            if self.entries.get(slot).is_some_and(|entry| entry.connection.remote == made.remote) {
                return None;
            }
            // Connected to somebody else without being closed.
            self.end(slot, CloseReason::Local, now, |_| None, emit);
        }
        Some(Kind::Connected)
    }

    /// The entry of a socket.
    fn made(&self, record: &DatagramRecord, kind: Kind, process: Option<Rc<Process>>) -> Connection {
        let born_ns = record.kept.born_ns;
        let mut connection = Connection::of_datagrams(record, process);
        connection.preexisting = born_ns < self.began_ns;
        if kind == Kind::Connected {
            connection = connection.uncounted();
            // The socket is as old as before, and this is not what it was connected to then.
            if self.recent.has_flow(record.socket, born_ns) {
                connection.born_ns = record.header.time_ns;
            }
        }
        connection
    }

    /// Tells of a flow, or lets it wait for whoever uses it.
    fn tell_or_wait(&mut self, slot: u32, now: u64, emit: &mut impl FnMut(Change, &Connection, u64)) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        let connection = &mut entry.connection;
        let is_young = connection.born_ns.saturating_add(OWNER_WAIT_NS) > now;
        if is_vague(&connection.owner) && is_young {
            connection.waiting = true;
            self.waiting.push(slot, connection, now + OWNER_WAIT_NS);
        } else {
            announce(connection, now, emit);
        }
    }

    fn tell(&mut self, slot: u32, now: u64, emit: &mut impl FnMut(Change, &Connection, u64)) {
        if let Some(entry) = self.entries.get_mut(slot) {
            announce(&mut entry.connection, now, emit);
        }
    }

    /// Ends an entry, with the totals that the kernel has of it at last.
    fn end(
        &mut self,
        slot: u32,
        reason: CloseReason,
        now: u64,
        mut take: impl FnMut(&FlowKey) -> Option<Flow>,
        emit: &mut impl FnMut(Change, &Connection, u64),
    ) {
        let Some(Entry { mut connection, kind, .. }) = self.entries.remove(slot) else { return };
        if let Kind::Flow(key) = kind {
            if key.version == 0 {
                self.folded -= 1;
                // From now on new ends have flows of their own again.
                if let Some(socket) = self.entries.socket_mut(key.socket) {
                    socket.is_folded = false;
                }
            }
            if let Some(flow) = take(&key).filter(|flow| key.version == 0 || flow.first_ns == connection.born_ns) {
                connection.count(&flow);
            }
        }
        if kind != Kind::Bound {
            self.recent.add_flow(connection.socket, connection.born_ns);
        } else if connection.state != UNCONNECTED {
            // A listener to everybody who watches, also if it is connected now.
            (connection.state, connection.remote) = (UNCONNECTED, None);
        }
        let last_ns = connection.exchanged.as_ref().map_or(0, |exchanged| exchanged.last_ns);
        finish(&mut connection, reason, now.max(last_ns), emit);
    }
}

/// Whether whoever uses a socket of datagrams first is not known yet, only who made or bound it.
fn is_vague(owner: &Owner) -> bool {
    matches!(owner.how, attribution::LISTENER | attribution::CREATE | attribution::UNKNOWN)
}

/// What the kernel has folded of a socket.
fn folded(socket: u64) -> FlowKey {
    FlowKey { socket, ..FlowKey::default() }
}

#[cfg(test)]
mod tests;
