//! Records of UDP sockets: bound or connected, used by another process, closed.

use std::rc::Rc;

use hashbrown::HashSet;
use netconn_common::{
    FlowKey, IPPROTO_UDP, Owner, OwnerRecord, RefusedRecord, ReleasedRecord, UdpSocketRecord, attribution,
    datagram_mark,
};
use netconn_model::fact::{CloseReason, End, Outcome};

use super::{EntryKind, Flows, entries::Entry, folded_key, is_vague};
use crate::{
    process::{Key, Process},
    table::{Change, Connection, Effects, Orphans, announce, connection::address, failure_of, finish, owner::unknown},
};

impl Flows {
    /// Applies the record of a UDP socket that was bound or connected.
    pub fn apply_socket(&mut self, record: &UdpSocketRecord, effects: &mut impl Effects) {
        if self.recent.has_socket(record.socket) {
            return;
        }
        let now = record.header.time_ns;
        if let Some(slot) = self.update_or_insert(record, now, effects)
            && let Some(entry) = self.entries.get_mut(slot)
        {
            announce(&mut entry.connection, now, effects);
        }
    }

    /// Applies a change of a socket's owner: the first process that uses it. Returns `false` if there is no such socket here.
    pub fn apply_owner(&mut self, record: &OwnerRecord, effects: &mut impl Effects) -> bool {
        let OwnerRecord { header, socket, owner, .. } = record;
        let is_known = self.entries.socket(*socket).is_some();
        if is_known {
            self.set_owner(*socket, owner, header.time_ns, effects);
        }
        is_known
    }

    /// Applies the record of a refusal. The event of the flow tells it, if it is still held back; else the event of the flow's end
    /// does.
    pub fn apply_refused(&mut self, record: &RefusedRecord, effects: &mut impl Effects) {
        let RefusedRecord { header, socket, remote_address, error, remote_port, family } = record;
        let (Some(failure), Some(socket)) = (failure_of(*error), self.entries.socket(*socket)) else { return };
        let remote = End { address: address(*family, remote_address), port: *remote_port };
        let mut candidates = socket.flows.iter().copied().chain(socket.connected);
        let found = if remote.port != 0 {
            candidates.find(|slot| self.entries.get(*slot).is_some_and(|entry| entry.connection.remote == Some(remote)))
        } else {
            // The socket is not connected. Which of several peers it was the kernel does not say.
            candidates.next().filter(|_| candidates.next().is_none())
        };
        let Some(entry) = found.and_then(|slot| self.entries.get_mut(slot)) else { return };
        let connection = &mut entry.connection;
        if let Some(exchanged) = connection.exchanged.as_mut().filter(|exchanged| !exchanged.raw) {
            exchanged.refused = *error;
        }
        if connection.refusal().is_some() && !connection.announced {
            connection.announced = true;
            let began_ns = connection.up_since(header.time_ns);
            effects.emit(Change::Connect(Outcome::Failure(failure, *error)), connection, began_ns);
        }
    }

    /// Applies the record of a socket that was closed.
    pub fn apply_close(&mut self, record: &ReleasedRecord, effects: &mut impl Effects) {
        let now = record.header.time_ns;
        // Also for sockets without entries: the record of their first flow may still come.
        self.recent.add_socket(record.socket);
        self.dumps.note_end(record.socket, 0);
        let Some(socket) = self.entries.socket(record.socket) else { return };
        // Copied, because ending an entry changes the list.
        let (slots, is_folded) = (socket.slots().collect::<Vec<u32>>(), socket.is_folded);
        let has_folded_flow = self.entries.slot_of(&folded_key(record.socket)).is_some();
        for slot in slots {
            self.end(slot, CloseReason::Local, now, effects);
        }
        // The kernel folded the socket and the record was lost: what was exchanged with further peers is only in the
        // map.
        if is_folded && !has_folded_flow {
            self.end_unreported(&folded_key(record.socket), now, effects);
        }
    }

    /// Takes peers and owners of UDP sockets from a scan, in case their records were lost.
    pub fn refresh(&mut self, sockets: &[UdpSocketRecord], now: u64, effects: &mut impl Effects) {
        for record in sockets {
            // An owner whose record was lost releases the events that wait for it.
            self.update_owner(record, now, effects);
            let (bound, connected) =
                self.entries.socket(record.socket).map_or((None, None), |socket| (socket.bound, socket.connected));
            if let Some(entry) = bound.and_then(|slot| self.entries.get_mut(slot)) {
                entry.connection.set_peer(record);
            }
            // The record that `connect` makes may come before the socket has a port.
            if let Some(entry) = connected.and_then(|slot| self.entries.get_mut(slot))
                && entry.connection.local.port == 0
            {
                entry.connection.local = Connection::from_udp_socket(record, None).local;
            }
        }
    }

    /// Updates the entry of a UDP socket or, if there is none and the socket is worth one, adds it and returns its slot.
    pub(super) fn update_or_insert(
        &mut self,
        record: &UdpSocketRecord,
        now: u64,
        effects: &mut impl Effects,
    ) -> Option<u32> {
        let kind = self.update(record, now, effects)?;
        let process = effects.process(&record.state.owner);
        let connection = self.new_connection(record, kind, process);
        Some(self.entries.insert(kind, connection))
    }

    /// Updates the entry of a UDP socket. Returns the kind of the entry that is missing.
    fn update(&mut self, record: &UdpSocketRecord, now: u64, effects: &mut impl Effects) -> Option<EntryKind> {
        // Without a number nothing can be found again.
        if record.socket == 0 || record.protocol != u16::from(IPPROTO_UDP) {
            return None;
        }
        let socket = self.entries.socket(record.socket);
        let (bound, connected) = socket.map_or((None, None), |socket| (socket.bound, socket.connected));
        if let Some(entry) = bound.and_then(|slot| self.entries.get_mut(slot)) {
            entry.connection.set_peer(record);
        }
        // An unconnected socket is one entry, a kind of listener.
        if record.marks & datagram_mark::CONNECTED == 0 {
            return bound.is_none().then_some(EntryKind::Bound);
        }
        // Where datagrams are counted, the flow is the entry: it comes with the first datagram.
        if self.limits.counts {
            return None;
        }
        if let Some(slot) = connected {
            let remote = Connection::from_udp_socket(record, None).remote;
            if self.entries.get(slot).is_some_and(|entry| entry.connection.remote == remote) {
                return None;
            }
            // It was connected to another peer without being closed.
            self.end(slot, CloseReason::Local, now, effects);
        }
        Some(EntryKind::Connected)
    }

    fn new_connection(&self, record: &UdpSocketRecord, kind: EntryKind, process: Option<Rc<Process>>) -> Connection {
        let born_ns = record.state.born_ns;
        let mut connection = Connection::from_udp_socket(record, process);
        connection.preexisting = born_ns < self.began_ns;
        if kind == EntryKind::Connected {
            connection = connection.into_uncounted_flow();
            // The socket had another peer before: this flow is younger than the socket.
            // The earlier flow had the time of birth of the socket, and ids of connections are made of it.
            if self.recent.has_flow(record.socket, born_ns) {
                connection.born_ns = record.header.time_ns;
            }
        }
        connection
    }

    /// Takes the owner of a socket from a scan, if a process has used it and that is not known yet.
    pub(super) fn update_owner(&mut self, record: &UdpSocketRecord, now: u64, effects: &mut impl Effects) {
        let owner = &record.state.owner;
        let Some(socket) = self.entries.socket(record.socket) else { return };
        // Where programs keep the owner with the socket: the owner that a flow began with has ended, and a scan, be it of an
        // earlier daemon, has found who has the socket now. Elsewhere a scan knows nothing better than who is the oldest.
        let is_kept = record.file == record.socket;
        if is_kept && owner.how == attribution::SCAN && socket.owner.as_ref().map(Key::of) != Some(Key::of(owner)) {
            self.pass_on(record.socket, owner, |_| true, now, effects);
        } else if socket.owner.is_none() && !is_vague(owner) {
            self.set_owner(record.socket, owner, now, effects);
        }
    }

    /// Takes the process that has a socket open, if the socket's holder is one of the processes that have `ended` or is not
    /// known. Returns `false` if there is no such socket here.
    pub fn apply_holder(
        &mut self,
        socket: u64,
        owner: &Owner,
        ended: &HashSet<Key>,
        now: u64,
        effects: &mut impl Effects,
    ) -> bool {
        let is_here = self.entries.socket(socket).is_some();
        if is_here && !ended.contains(&Key::of(owner)) {
            let is_orphan = |holder: &Owner| holder.tgid == 0 || ended.contains(&Key::of(holder));
            self.pass_on(socket, owner, is_orphan, now, effects);
        }
        is_here
    }

    /// Adds the flows and UDP sockets that processes which have `ended` have left to others.
    pub fn find_orphans(&self, ended: &HashSet<Key>, orphans: &mut Orphans) {
        self.entries.connections().for_each(|connection| orphans.look(ended, connection));
    }

    /// Returns the holders of flows and UDP sockets that are no known processes.
    pub fn unknown_holders(&self, is_known: impl Fn(&Owner) -> bool) -> impl Iterator<Item = Key> {
        unknown(self.entries.connections(), is_known)
    }

    /// Notes that a process has a socket now: those of the socket's entries whose holder is an orphan's, by `is_orphan`, and flows
    /// that begin later, are its own.
    fn pass_on(
        &mut self,
        socket: u64,
        owner: &Owner,
        is_orphan: impl Fn(&Owner) -> bool,
        now: u64,
        effects: &mut impl Effects,
    ) {
        let Some(known) = self.entries.socket(socket) else { return };
        let slots: Vec<u32> = known.slots().collect();
        let process = effects.process(owner);
        let mut is_passed_on = false;
        for slot in slots {
            let Some(Entry { connection, kind, .. }) = self.entries.get_mut(slot) else { continue };
            let holder = connection.holder().0;
            if Key::of(holder) == Key::of(owner) || !is_orphan(holder) {
                continue;
            }
            is_passed_on = true;
            // Nobody was seen to use it before: the first who is known to have it is its owner.
            if connection.owner.tgid == 0 || (is_vague(&connection.owner) && *kind != EntryKind::Bound) {
                connection.owner = *owner;
                connection.process.clone_from(&process);
            } else {
                connection.pass_on(owner, process.clone());
            }
            if connection.waiting && !connection.announced {
                announce(connection, now, effects);
            }
        }
        if is_passed_on && let Some(known) = self.entries.socket_mut(socket) {
            known.owner = Some(*owner);
        }
    }

    fn set_owner(&mut self, socket: u64, owner: &Owner, now: u64, effects: &mut impl Effects) {
        let Some(known) = self.entries.socket_mut(socket) else { return };
        // Kept with the socket, for flows that begin later.
        known.owner = Some(*owner);
        let slots: Vec<u32> = known.slots().collect();
        let process = effects.process(owner);
        for slot in slots {
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            let connection = &mut entry.connection;
            // One hand-over: the first process that uses the socket stays its owner.
            if !is_vague(&connection.owner) {
                continue;
            }
            connection.owner = *owner;
            connection.process.clone_from(&process);
            if connection.waiting && !connection.announced {
                announce(connection, now, effects);
            }
        }
    }

    /// Reports the folded flow of a socket that was closed, if the record of the flow's beginning was lost.
    fn end_unreported(&mut self, key: &FlowKey, now: u64, effects: &mut impl Effects) {
        // Time 0: the daemon asked for folding, and no datagram came.
        let Some(flow) = effects.take_flow(key).filter(|flow| flow.first_ns != 0) else { return };
        if !self.recent.has_flow(key.socket, flow.first_ns) {
            self.recent.add_flow(key.socket, flow.first_ns);
            let mut connection = Connection::from_flow(key, &flow, None);
            connection.preexisting = flow.first_ns < self.began_ns;
            finish(&mut connection, CloseReason::Local, now.max(flow.last_ns), effects);
        }
    }
}
