//! Flows against the kernel's map, and sockets of datagrams against the kernel's table.

use std::{collections::HashSet, rc::Rc};

use netconn_common::{DatagramRecord, Flow, FlowKey, IPPROTO_UDP, Owner, UNKNOWN_U32, datagram};

use super::{Dump, FOLDED_FROM, Flows, entries::Kind, is_vague};
use crate::{
    event::CloseReason,
    process::Process,
    table::{Change, Connection},
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
            socket.is_none_or(|socket| socket.flows.len() < self.limits.flows / FOLDED_FROM / 2)
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

    /// Takes the UDP sockets of a dump that was taken since [`begin_dump`](Self::begin_dump) of these `namespaces`, after
    /// all records of the ring that came meanwhile were handled. What is not among them has ended unseen. `process`, `take`
    /// and `emit` are as for [`begin`](Self::begin).
    pub fn end_dump(
        &mut self,
        sockets: &[DatagramRecord],
        namespaces: &HashSet<u64>,
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
        let is_gone = |connection: &Connection| {
            connection.protocol == IPPROTO_UDP
                && !connection.exchanged.as_ref().is_some_and(|exchanged| exchanged.raw)
                && connection.changed_ns < began_ns
                && (connection.namespace == UNKNOWN_U32 || namespaces.contains(&u64::from(connection.namespace)))
                && !found.contains(&connection.socket)
        };
        let entries = self.entries.beginning_at(0).filter(|(_, entry)| is_gone(&entry.connection));
        let gone: Vec<u32> = entries.map(|(slot, _)| slot).collect();
        for slot in gone {
            self.end(slot, CloseReason::Unknown, now, &mut take, &mut emit);
        }
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
            // Where only `connect` tells of it, it has no port then.
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

/// Cookies are counted from 1; what is larger is the address of a socket that has none yet (5.10).
const COOKIE_MAX: u64 = 1 << 62;

/// Whether a socket of a dump is one that is told of: one that is known by the same number as long as it lives; bound, or connected; of those that are older than netconn nobody
/// knows whether they were bound, or got a port because they sent.
fn is_told(record: &DatagramRecord, is_first: bool) -> bool {
    // Where nothing is kept with sockets (5.10) all seem older.
    let is_older = record.kept.born_ns == 0 && (record.address == 0 || is_first);
    let is_bound = record.marks & (datagram::CONNECTED | datagram::BOUND) != 0 || is_older;
    is_bound && record.socket < COOKIE_MAX
}
