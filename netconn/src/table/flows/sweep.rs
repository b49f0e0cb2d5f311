//! Flows against the kernel's map, and sockets of datagrams against the kernel's table.

use std::{collections::HashSet, rc::Rc};

use netconn_common::{DatagramRecord, FOLDED_FROM, Flow, FlowKey, IPPROTO_UDP, Owner, UNKNOWN_U32, datagram};
use netconn_model::event::CloseReason;

use super::{
    Dump, Flows,
    entries::{Entry, Kind},
    is_vague,
};
use crate::{
    process::Process,
    table::{Change, Connection, Covered, dump::SETTLED_NS},
};

/// Ends that a sweep tells at most, 7 MB of events; the rest lies safely in the kernel's map until the next.
const ENDS_AT_ONCE: usize = 8192;

impl Flows {
    /// Takes all flows of the kernel, as they were at `now` or later, before any record of the ring that came meanwhile is
    /// handled: what they have moved, those of which no record came, and those that nothing was exchanged in for long
    /// enough. `process`, `take` and `emit` are as for [`begin`](Self::begin).
    pub fn sweep(
        &mut self,
        kernel: &[(FlowKey, Flow)],
        now: u64,
        process: impl Fn(&Owner) -> Option<Rc<Process>>,
        mut take: impl FnMut(&FlowKey) -> Option<Flow>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        self.sweeps = self.sweeps.wrapping_add(1);
        let (mut met, mut ended) = (0, 0);
        self.unfinished = false;
        let has_room = kernel.len() < self.limits.flows / 4 * 3;
        for (key, flow) in kernel {
            if key.version == 0 && flow.first_ns == 0 {
                // Nothing was folded yet, and nothing will be if the socket is gone.
                if self.entries.socket(key.socket).is_none() {
                    take(key);
                }
                continue;
            }
            let Some((slot, is_new)) = self.meet(key, flow, &process, &mut emit) else {
                if self.entries.slot_of(key).is_none() {
                    take(key); // It was told to have ended.
                }
                continue;
            };
            met += 1;
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            entry.connection.compared = self.sweeps;
            entry.connection.count(flow);
            let over =
                self.over(key, flow, now).or_else(|| self.unfolded(key, has_room).then_some((CloseReason::Idle, now)));
            if let Some((reason, at)) = over.filter(|_| ended < ENDS_AT_ONCE) {
                self.end(slot, reason, at, &mut take, &mut emit);
                met -= 1;
                ended += 1;
            } else if over.is_some() {
                self.unfinished = true;
            } else if is_new && let Some(entry) = self.entries.get(slot) {
                // There may be many, see `announce_found`.
                self.backlog.push(slot, &entry.connection, 0);
            }
        }
        // Usually all were met.
        if met < self.len() {
            self.end_unmet(now, &mut take, &mut emit);
        }
        self.recent.age(now);
    }

    /// Whether what stands for many ends of a socket can end, so that they have flows of their own again: the socket has
    /// few others, and there is room.
    fn unfolded(&self, key: &FlowKey, has_room: bool) -> bool {
        let is_few = || {
            let socket = self.entries.socket(key.socket);
            socket.is_none_or(|socket| socket.flows.len() < self.limits.flows / FOLDED_FROM as usize / 2)
        };
        key.version == 0 && has_room && is_few()
    }

    /// Whether a flow is over by now, why and when.
    fn over(&self, key: &FlowKey, flow: &Flow, now: u64) -> Option<(CloseReason, u64)> {
        if self.recent.has_socket(key.socket) {
            return Some((CloseReason::Local, now));
        }
        let is_both = flow.packets_sent != 0 && flow.packets_received != 0;
        let idle_ns = if is_both { self.limits.idle_both_ns } else { self.limits.idle_ns };
        let over_ns = flow.last_ns.saturating_add(idle_ns);
        (over_ns <= now).then_some((CloseReason::Idle, over_ns))
    }

    /// Ends the flows that the kernel had no more at `now`.
    fn end_unmet(
        &mut self,
        now: u64,
        mut take: impl FnMut(&FlowKey) -> Option<Flow>,
        emit: &mut impl FnMut(Change, &Connection, u64),
    ) {
        let unmet: Vec<u32> = self
            .entries
            .beginning_at(0)
            .filter(|(_, entry)| {
                let connection = &entry.connection;
                matches!(entry.kind, Kind::Flow(_)) && connection.compared != self.sweeps && connection.born_ns < now
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in unmet {
            self.end(slot, CloseReason::Unknown, now, &mut take, emit);
        }
    }

    /// A dump of the sockets of datagrams is about to be taken: from here on closed ones are remembered.
    pub fn begin_dump(&mut self, now: u64) {
        self.dump = Some(Dump { began_ns: now, released: hashbrown::HashSet::default() });
    }

    /// Forgets that a dump was to be taken.
    pub fn abandon_dump(&mut self) {
        self.dump = None;
    }

    /// Whether something is not among the UDP `sockets` that the kernel has told of these `namespaces` from `since_ns` on,
    /// after which all records were handled, or is in a namespace that could be read before and cannot be now: only a dump
    /// can tell whether it has ended.
    pub fn needs_dump(&self, sockets: &[DatagramRecord], namespaces: &HashSet<u64>, since_ns: u64) -> bool {
        let found: HashSet<u64> = sockets.iter().map(|record| record.socket).collect();
        let is_absent = |connection: &Connection| match where_is(connection, namespaces) {
            Where::Read => is_of_udp(connection) && !found.contains(&connection.socket),
            Where::Unreadable => !self.unreadable.contains(&connection.namespace),
        };
        let mut entries = self.entries.beginning_at(0).map(|(_, entry)| &entry.connection);
        entries.any(|connection| connection.changed_ns + SETTLED_NS < since_ns && is_absent(connection))
    }

    /// Whether there is anything in a namespace that is not among these.
    pub fn has_unreadable(&self, namespaces: &HashSet<u64>) -> bool {
        let mut entries = self.entries.beginning_at(0).map(|(_, entry)| &entry.connection);
        entries.any(|connection| where_is(connection, namespaces) == Where::Unreadable)
    }

    /// Another dump is wanted of what cannot be read, see [`needs_dump`](Self::needs_dump).
    pub fn doubt_unreadable(&mut self) {
        self.unreadable.clear();
    }

    /// Takes the UDP sockets of a dump that was taken since [`begin_dump`](Self::begin_dump), after all records of the ring
    /// that came meanwhile were handled. What is not among them although it `covered` it has ended unseen. `process`, `take`
    /// and `emit` are as for [`begin`](Self::begin).
    pub fn end_dump(
        &mut self,
        sockets: &[DatagramRecord],
        covered: &Covered,
        now: u64,
        process: impl Fn(&Owner) -> Option<Rc<Process>>,
        mut take: impl FnMut(&FlowKey) -> Option<Flow>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        let Some(Dump { began_ns, released }) = self.dump.take() else { return };
        let is_first = self.dumps == 0;
        self.dumps += 1;
        let mut found: hashbrown::HashSet<u64, foldhash::fast::RandomState> = hashbrown::HashSet::default();
        for record in sockets {
            found.insert(record.socket);
            if released.contains(&record.socket) || self.recent.has_socket(record.socket) || !is_told(record, is_first)
            {
                continue;
            }
            self.learn(record, now, &process, &mut emit);
            if let Some(kind) = self.meet_socket(record, now, &mut emit) {
                let connection = self.made(record, kind, process(&record.kept.owner));
                let slot = self.entries.insert(kind, connection);
                if let Some(entry) = self.entries.get(slot) {
                    self.backlog.push(slot, &entry.connection, 0);
                }
            }
        }
        let Covered { namespaces, held, .. } = covered;
        let there: Option<HashSet<u32>> = held.as_ref().map(|held| {
            let entries = self.entries.beginning_at(0).map(|(_, entry)| &entry.connection);
            entries
                .filter(|connection| held.contains(&connection.socket))
                .map(|connection| connection.namespace)
                .collect()
        });
        let gone: Vec<(u32, CloseReason)> = self
            .entries
            .beginning_at(0)
            .filter(|(_, entry)| entry.connection.changed_ns < began_ns)
            .filter_map(|(slot, Entry { connection, .. })| match where_is(connection, namespaces) {
                Where::Read => (is_of_udp(connection) && !found.contains(&connection.socket))
                    .then_some((slot, CloseReason::Unknown)),
                // As long as somebody has a socket of it open, a namespace is there.
                Where::Unreadable => there
                    .as_ref()
                    .is_some_and(|there| !there.contains(&connection.namespace))
                    .then_some((slot, CloseReason::NamespaceGone)),
            })
            .collect();
        for (slot, reason) in gone {
            self.end(slot, reason, now, &mut take, &mut emit);
        }
        let left = self.entries.beginning_at(0).map(|(_, entry)| &entry.connection);
        let unreadable = left.filter(|connection| where_is(connection, namespaces) == Where::Unreadable);
        self.unreadable = unreadable.map(|connection| connection.namespace).collect();
    }

    /// Takes to whom sockets are connected by now, and whose they are if the record of that was lost. `process` and `emit`
    /// are as for [`begin`](Self::begin).
    pub fn follow(
        &mut self,
        sockets: &[DatagramRecord],
        now: u64,
        process: impl Fn(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        for record in sockets {
            self.learn(record, now, &process, &mut emit);
            let (bound, connected) =
                self.entries.socket(record.socket).map_or((None, None), |socket| (socket.bound, socket.connected));
            if let Some(entry) = bound.and_then(|slot| self.entries.get_mut(slot)) {
                entry.connection.follow(record);
            }
            // Where only `connect` tells of it, it may have no port then.
            if let Some(entry) = connected.and_then(|slot| self.entries.get_mut(slot))
                && entry.connection.local.port == 0
            {
                entry.connection.local = Connection::of_datagrams(record, None).local;
            }
        }
    }

    /// Takes the owner of a socket as the kernel has it, if it was used.
    fn learn(
        &mut self,
        record: &DatagramRecord,
        now: u64,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
        emit: &mut impl FnMut(Change, &Connection, u64),
    ) {
        let owner = &record.kept.owner;
        let is_unknown = self.entries.socket(record.socket).is_some_and(|socket| socket.owner.is_none());
        if is_unknown && !is_vague(owner) {
            self.set_owner(record.socket, owner, now, process, emit);
        }
    }
}

/// What a dump knows of an entry's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// It was read, or the entry is in none that is known.
    Read,
    /// Nobody is in it and it has no name, or it is gone.
    Unreadable,
}

fn where_is(connection: &Connection, namespaces: &HashSet<u64>) -> Where {
    let is_read = connection.namespace == UNKNOWN_U32 || namespaces.contains(&u64::from(connection.namespace));
    if is_read { Where::Read } else { Where::Unreadable }
}

/// Whether a dump has its socket.
fn is_of_udp(connection: &Connection) -> bool {
    connection.protocol == IPPROTO_UDP && !connection.exchanged.as_ref().is_some_and(|exchanged| exchanged.raw)
}

/// Whether a socket of a dump is one that is told of: known by a number, and bound or connected. Of those that are older than
/// netconn nobody knows whether they were bound, or got a port because they sent.
fn is_told(record: &DatagramRecord, is_first: bool) -> bool {
    // Where nothing is kept with sockets (5.10) all seem older.
    let is_older = record.kept.born_ns == 0 && (record.file == record.socket || is_first);
    let is_bound = record.marks & (datagram::CONNECTED | datagram::BOUND) != 0 || is_older;
    is_bound && record.socket != 0
}
