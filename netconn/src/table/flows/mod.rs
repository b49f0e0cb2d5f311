//! Flows of datagrams (UDP, ICMP, raw sockets) and UDP sockets. The kernel counts flows in a map; this decides what is an
//! event.
//!
//! Records report at once what has begun and ended. Any of them may be lost: the map is the truth, and the table is
//! compared with it from time to time (`sweep`).

mod dump;
mod entries;
mod recent;
mod socket;
mod sweep;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use netconn_common::{
    FOLDED_FROM, Flow, FlowKey, FlowRecord, IPPROTO_UDP, Owner, UdpSocketRecord, attribution, datagram_mark, role,
};
use netconn_model::{fact::CloseReason, state::UNCONNECTED};

use self::{
    entries::{Entries, Entry, EntryKind},
    recent::RecentEnds,
};
use super::{
    Connection, Effects, announce,
    coverage::{Dumps, Unreadable},
    finish,
    pending::Pending,
};

/// How long the event of a flow is held back for its process to be seen, if only the process that made or bound the socket
/// is known. The process that receives is seen within microseconds, like one that accepts.
const OWNER_WAIT_NS: u64 = 200_000_000;

/// How long the event of a flow that this host began is held back for the answer that the peer refuses it: as long as records
/// gather, so that few events are later for it. A refusal that comes later is told when the flow ends.
const REFUSAL_WAIT_NS: u64 = 10_000_000;

/// How long after a question to many hosts an answer to it can begin. SSDP gives hosts five seconds at most (`MX` in the UPnP Device
/// Architecture 1.1), and no other such protocol more. A sweep, ten seconds later at most, tells that it was asked again.
const ANSWER_NS: u64 = 15_000_000_000;

/// Which flows are kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Flows that the kernel's map has room for.
    pub flows: usize,
    /// A flow ends when it has had no datagram for this long, nanoseconds.
    pub idle_ns: u64,
    /// The same if both ends have sent, nanoseconds.
    pub idle_both_ns: u64,
    /// Whether datagrams are counted. If not, connected UDP sockets stand for flows.
    pub counts: bool,
}

/// All flows and UDP sockets.
#[derive(Debug)]
pub struct Flows {
    limits: Limits,
    entries: Entries,
    /// When netconn began to capture, nanoseconds since boot.
    began_ns: u64,
    /// Comparisons with the kernel's map so far.
    sweeps: u32,
    dumps: Dumps,
    /// When the last dump began, nanoseconds since boot.
    dump_began_ns: u64,
    unreadable: Unreadable,
    recent: RecentEnds,
    pending: Pending,
    /// Flows that wait for a refusal: in a queue of their own, because each has its deadlines in order.
    hesitating: Pending,
    /// The kernel reports refusals.
    sees_refusals: bool,
    /// Numbers of sockets that the kernel is still to fold.
    to_fold: Vec<u64>,
    /// Number of folded flows.
    folded: usize,
    /// The last sweep has left flows that have ended to the next.
    is_unfinished: bool,
}

impl Flows {
    /// Returns an empty table. What is older than `began_ns`, nanoseconds since boot, existed before netconn.
    pub fn new(limits: Limits, began_ns: u64) -> Self {
        Self {
            limits,
            entries: Entries::default(),
            began_ns,
            sweeps: 0,
            dumps: Dumps::default(),
            dump_began_ns: 0,
            unreadable: Unreadable::default(),
            recent: RecentEnds::default(),
            pending: Pending::default(),
            hesitating: Pending::default(),
            sees_refusals: false,
            to_fold: Vec::new(),
            folded: 0,
            is_unfinished: false,
        }
    }

    /// Changes after how many nanoseconds without a datagram a flow ends: one in which one end has sent, and one in which both have.
    pub fn set_idle(&mut self, idle_ns: u64, idle_both_ns: u64) {
        (self.limits.idle_ns, self.limits.idle_both_ns) = (idle_ns, idle_both_ns);
    }

    /// Holds events of flows back from now on for a moment, in which the peer may refuse them.
    pub fn expect_refusals(&mut self) {
        self.sees_refusals = true;
    }

    /// Returns the number of flows that the kernel counts.
    pub fn len(&self) -> usize {
        self.entries.flow_count()
    }

    /// Returns whether the kernel counts no flows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether there is any entry at all: a flow or a UDP socket.
    pub fn has_any(&self) -> bool {
        self.entries.slots.len() != 0
    }

    /// Returns the number of folded flows.
    pub fn folded(&self) -> usize {
        self.folded
    }

    /// Returns whether the last sweep has left flows that have ended to the next.
    pub fn is_unfinished(&self) -> bool {
        self.is_unfinished
    }

    /// Returns the number of bound UDP sockets.
    pub fn bound_sockets(&self) -> usize {
        self.entries.iter().filter(|entry| entry.kind == EntryKind::Bound).count()
    }

    /// Returns the number of flows of each protocol that has any, by protocol number.
    pub fn protocols(&self) -> impl Iterator<Item = (u8, usize)> {
        let mut counts = [0; 256];
        for entry in self.entries.iter().filter(|entry| entry.kind != EntryKind::Bound) {
            if let Some(count) = counts.get_mut(usize::from(entry.connection.protocol)) {
                *count += 1;
            }
        }
        (0..=u8::MAX).zip(counts).filter(|(_, count)| *count != 0)
    }

    /// Returns the entries from a slot on, with their slots, like [`Table::from_slot`](super::Table::from_slot). A bound
    /// socket that is connected now is left out if it has a flow, which says more.
    pub fn from_slot(&self, slot: usize) -> impl Iterator<Item = (usize, &Connection)> {
        let is_shown = |entry: &Entry| {
            let connection = &entry.connection;
            let has_flow = || {
                let socket = self.entries.socket(connection.socket);
                socket.is_some_and(|socket| !socket.flows.is_empty() || socket.connected.is_some())
            };
            entry.kind != EntryKind::Bound || connection.remote.is_none() || !has_flow()
        };
        let entries = self.entries.slots.starting_at(slot).filter(move |(_, entry)| is_shown(entry));
        entries.map(|(slot, entry)| (slot as usize, &entry.connection))
    }

    /// Returns whether a snapshot already shows this socket, or it has ended lately. An unconnected socket needs a row of
    /// its own even when it has flows: other peers may send to it.
    pub fn shows(&self, record: &UdpSocketRecord) -> bool {
        if self.recent.has_socket(record.socket) {
            return true;
        }
        let is_connected = record.marks & datagram_mark::CONNECTED != 0;
        self.entries.socket(record.socket).is_some_and(|socket| {
            socket.bound.is_some() || (is_connected && (socket.connected.is_some() || !socket.flows.is_empty()))
        })
    }

    /// Returns whether the socket with this number has a flow.
    pub fn has_flow(&self, socket: u64) -> bool {
        self.entries.socket(socket).is_some_and(|socket| !socket.flows.is_empty())
    }

    /// Returns the numbers of the sockets that the kernel is to fold, and forgets them.
    pub fn take_sockets_to_fold(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.to_fold)
    }

    /// Applies the record of a new flow.
    pub fn apply_flow(&mut self, record: &FlowRecord, effects: &mut impl Effects) {
        let FlowRecord { header, key, flow } = record;
        // A sweep was faster than the record, or the flow is over already.
        let Some((slot, true)) = self.find_or_insert(key, flow, effects) else { return };
        // Two CPUs wrote the records, and the end of the socket came first: the flow is reported all the same, then
        // ended.
        if self.recent.has_socket(key.socket) {
            self.end(slot, CloseReason::Local, header.time_ns, effects);
        } else {
            self.announce_or_wait(slot, header.time_ns, effects);
        }
    }

    /// Returns whether entries that sweeps or dumps have found are not announced yet.
    pub fn has_backlog(&self) -> bool {
        self.pending.has_backlog()
    }

    /// Announces at most `limit` of the entries that sweeps and dumps have found. The end of one of the others announces it
    /// too.
    pub fn announce_backlog(&mut self, limit: usize, now: u64, effects: &mut impl Effects) {
        self.pending.announce_backlog(&mut self.entries.slots, limit, now, effects);
    }

    /// Returns when the next flow has waited long enough for its process, or for a refusal, nanoseconds since boot.
    pub fn next_deadline(&mut self) -> Option<u64> {
        let queues = [&mut self.pending, &mut self.hesitating];
        queues.into_iter().filter_map(|queue| queue.next_deadline(&self.entries.slots)).min()
    }

    /// Announces the flows that have waited long enough, with what is known.
    pub fn announce_overdue(&mut self, now: u64, effects: &mut impl Effects) {
        for queue in [&mut self.pending, &mut self.hesitating] {
            queue.announce_overdue(&mut self.entries.slots, now, effects);
        }
    }

    /// Announces everything that is held back: the daemon ends.
    pub fn announce_all(&mut self, now: u64, effects: &mut impl Effects) {
        for queue in [&mut self.pending, &mut self.hesitating] {
            queue.announce_all(&mut self.entries.slots, now, effects);
        }
    }

    /// Finds the entry of a flow of the kernel, or adds it; the second value says that it was added. Returns `None` if the
    /// flow has ended already.
    fn find_or_insert(&mut self, key: &FlowKey, flow: &Flow, effects: &mut impl Effects) -> Option<(u32, bool)> {
        if let Some(slot) = self.entries.slot_of(key) {
            let born_ns = self.entries.get(slot)?.connection.born_ns;
            // Two processors may both have been the first to fold a socket, with two times of birth.
            if key.version == 0 {
                return Some((slot, false));
            }
            if born_ns >= flow.first_ns {
                // An older flow than the known one: the record, or what a sweep read, is outdated.
                return (born_ns == flow.first_ns).then_some((slot, false));
            }
            // The kernel's map has dropped the earlier flow: its final counters are lost.
            self.end_with(slot, CloseReason::Unknown, flow.first_ns, None, effects);
        }
        if self.recent.has_flow(key.socket, flow.first_ns) {
            return None;
        }
        let mut connection = Connection::from_flow(key, flow, None);
        connection.preexisting = flow.first_ns < self.began_ns;
        let socket = self.entries.socket(key.socket);
        if socket.and_then(|socket| socket.asked).is_some_and(|asked| is_answer(&connection, asked)) {
            connection.role = role::ACTIVE;
        }
        // The record may be older than the owner that the socket has by now. Who was found to have the socket is right about all
        // that begins later, because the owner before has ended.
        if let Some(owner) = socket.and_then(|socket| socket.owner)
            && (is_vague(&connection.owner) || owner.how == attribution::SCAN)
        {
            connection.owner = owner;
        }
        connection.process = effects.process(&connection.owner);
        let slot = self.entries.insert(EntryKind::Flow(*key), connection);
        self.note_question(slot);
        self.note_flow(key);
        Some((slot, true))
    }

    /// Notes when a flow that asks many hosts at once has last done so.
    fn note_question(&mut self, slot: u32) {
        let Some(Entry { connection, .. }) = self.entries.get(slot) else { return };
        let Some(port) = asked_port(connection) else { return };
        let last_ns = connection.exchanged.as_ref().map_or(0, |exchanged| exchanged.last_ns).max(connection.born_ns);
        let number = connection.socket;
        if let Some(socket) = self.entries.socket_mut(number)
            && socket.asked.is_none_or(|(_, before_ns)| before_ns < last_ns)
        {
            socket.asked = Some((port, last_ns));
        }
    }

    /// Notes that a flow was added: a socket with too many is to be folded.
    fn note_flow(&mut self, key: &FlowKey) {
        let is_folded = key.version == 0;
        self.folded += usize::from(is_folded);
        let Some(socket) = self.entries.socket_mut(key.socket) else { return };
        if !socket.is_folded && (is_folded || socket.flows.len() > self.limits.flows / FOLDED_FROM as usize) {
            socket.is_folded = true;
            // A folded flow shows that the kernel folds the socket already: for lack of room, or because many flows
            // began in one second.
            if !is_folded {
                self.to_fold.push(key.socket);
            }
        }
    }

    /// Announces a flow, or holds it back until a process uses its socket, or the peer may have refused it.
    fn announce_or_wait(&mut self, slot: u32, now: u64, effects: &mut impl Effects) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        let connection = &mut entry.connection;
        // A flow whose record comes late has waited long enough.
        let is_young = connection.born_ns.saturating_add(OWNER_WAIT_NS) > now;
        let may_be_refused = self.sees_refusals
            && connection.role == role::ACTIVE
            && connection.protocol == IPPROTO_UDP
            && !connection.is_raw();
        if is_vague(&connection.owner) && is_young {
            self.pending.wait(slot, connection, now + OWNER_WAIT_NS);
        } else if may_be_refused && is_young {
            self.hesitating.wait(slot, connection, now + REFUSAL_WAIT_NS);
        } else {
            announce(connection, now, effects);
        }
    }

    /// Ends an entry. A flow is taken out of the kernel's map, with its final counters.
    fn end(&mut self, slot: u32, reason: CloseReason, now: u64, effects: &mut impl Effects) {
        // Taken out in every case: a flow that stayed in the map would come back with the next sweep.
        let final_flow = match self.entries.get(slot) {
            Some(Entry { kind: EntryKind::Flow(key), .. }) => effects.take_flow(key),
            _ => None,
        };
        self.end_with(slot, reason, now, final_flow, effects);
    }

    /// Ends an entry with these final counters.
    fn end_with(
        &mut self,
        slot: u32,
        reason: CloseReason,
        now: u64,
        final_flow: Option<Flow>,
        effects: &mut impl Effects,
    ) {
        let Some(Entry { mut connection, kind, .. }) = self.entries.remove(slot) else { return };
        if let EntryKind::Flow(key) = kind {
            if key.version == 0 {
                self.folded -= 1;
                // From now on new peers of the socket have flows of their own again.
                if let Some(socket) = self.entries.socket_mut(key.socket) {
                    socket.is_folded = false;
                }
            }
            // The map may have begun a later flow under the same key since: its counters are not of this one. Of a
            // folded flow two CPUs may have noted two times of birth.
            if let Some(flow) = final_flow.filter(|flow| key.version == 0 || flow.first_ns == connection.born_ns) {
                connection.set_counters(&flow);
            }
        }
        if kind != EntryKind::Bound {
            // Late records of this flow must not begin it again.
            self.recent.add_flow(connection.socket, connection.born_ns);
        } else if connection.state != UNCONNECTED {
            // It was announced as a listener, so it ends as one, even if it is connected now.
            (connection.state, connection.remote) = (UNCONNECTED, None);
        }
        let last_ns = connection.exchanged.as_ref().map_or(0, |exchanged| exchanged.last_ns);
        // The last datagram may be later than the record of the end: another CPU counted it.
        finish(&mut connection, reason, now.max(last_ns), effects);
    }
}

/// Returns whether no process was seen to use the socket: only the one that made or bound it is known.
fn is_vague(owner: &Owner) -> bool {
    matches!(owner.how, attribution::LISTENER | attribution::CREATE | attribution::UNKNOWN | attribution::USER)
}

/// Returns the port of a flow that asks many hosts at once: of multicast or broadcast. The length of an IPv4 network is not known
/// here, so that of broadcasts within one only those are known whose last byte is 255.
fn asked_port(flow: &Connection) -> Option<u16> {
    let remote = flow.remote.filter(|_| flow.role == role::ACTIVE && flow.protocol == IPPROTO_UDP && !flow.is_raw())?;
    let is_many = match remote.address {
        IpAddr::V4(address) => address.is_multicast() || address.octets()[3] == u8::MAX,
        IpAddr::V6(address) => address.is_multicast(),
    };
    is_many.then_some(remote.port)
}

/// Returns whether a flow that another host began is the answer to what its socket has asked many hosts at this port, at this time.
/// Among peers, which all use the same port (mDNS responders), nobody can tell. Later than [`ANSWER_NS`] nobody answers: from that port
/// a host may as well begin something itself.
fn is_answer(flow: &Connection, (port, asked_ns): (u16, u64)) -> bool {
    let is_incoming = flow.role == role::PASSIVE && flow.protocol == IPPROTO_UDP && !flow.is_raw();
    let is_soon = flow.born_ns.saturating_sub(asked_ns) <= ANSWER_NS;
    is_incoming && is_soon && flow.local.port != port && flow.remote.is_some_and(|remote| remote.port == port)
}

/// Returns the key of the folded flow of a socket.
fn folded_key(socket: u64) -> FlowKey {
    FlowKey { socket, ..FlowKey::default() }
}
