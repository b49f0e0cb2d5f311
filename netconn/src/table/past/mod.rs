//! Connections that have ended lately: for clients that ask for them, and because the kernel keeps some as minisocks
//! (TIME_WAIT) that have addresses only, so that their owner must be remembered.

mod queue;

use std::hash::BuildHasher as _;

use hashbrown::{HashMap, HashSet};
use netconn_common::{TcpRecord, tcp_state};
use netconn_model::fact::{CloseReason, End, Outcome};

use self::queue::ChunkedQueue;
use super::{Change, Connection, Exchanged, Succession};
use crate::{process::Past, shrink::shrink_if_sparse};

/// How long ended connections are remembered, nanoseconds. The kernel keeps minisocks for a minute (`TCP_TIMEWAIT_LEN` in
/// `include/net/tcp.h`).
pub const KEPT_NS: u64 = 600_000_000_000;
/// Bytes of all that is remembered at most, with the texts of the processes: 60,000 connections of few processes.
pub const BYTES_MAX: usize = 16 << 20;
/// Bytes that flows may take with their processes, even if connections fill the rest.
const FLOW_BYTES: usize = BYTES_MAX / 4;
/// Bytes of an entry of `by_ends`: key, value, and a control byte for each of the places, of which half are empty on average
/// after the map has doubled.
const BY_ENDS_BYTES: usize = 2 * 17;

/// Bytes that the C library adds to an allocation, rounding included.
const ALLOCATION: usize = 16;

/// Network namespace and both ends. They identify a minisock.
pub type Ends = (u32, End, End);

/// What the kernel keeps of a connection that is over, without an owner and counters: 48 bytes instead of the 232 of its record.
#[derive(Clone, Copy, Debug)]
pub struct Minisock {
    /// Namespace and ends.
    pub between: Ends,
    /// State, one of [`tcp_state`].
    pub state: u8,
}

impl Minisock {
    /// Returns the minisock of a record; `None` if it has no remote end, which no minisock lacks.
    pub fn of(record: &TcpRecord) -> Option<Self> {
        let shown = bare_connection_of(record);
        Some(Self { between: ends(&shown)?, state: shown.state })
    }
}

/// A connection that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The connection as it was then.
    pub connection: Connection,
    /// When it ended, nanoseconds since boot.
    pub ended_ns: u64,
    /// The latest end of it and all entries before it: an attempt whose reason had to be found out comes after others that ended
    /// later.
    until_ns: u64,
    /// How it ended: a close, or the failure of an attempt.
    pub change: Change,
}

/// Connections and flows that have ended lately. They are kept apart, because flows are many and must not push connections
/// out. Both together take [`BYTES_MAX`] at most; either may use what the other leaves of it.
#[derive(Debug, Default)]
pub struct EndedLately {
    /// Connections, and attempts that failed.
    pub connections: EndedConnections,
    /// Flows of datagrams.
    pub flows: EndedConnections,
}

impl EndedLately {
    /// Adds a connection if this change is its end, at `now` (nanoseconds since boot).
    pub fn note(&mut self, change: Change, connection: &Connection, now: u64) {
        let is_end = match change {
            Change::Close(..) => true,
            // A flow that is refused goes on as long as its socket: the next datagram may be answered.
            Change::Connect(Outcome::Failure(..)) => !connection.is_flow(),
            _ => false,
        };
        if !is_end {
            return;
        }
        let are_flows = connection.is_flow();
        let past = if are_flows { &mut self.flows } else { &mut self.connections };
        past.process_bytes += connection.processes().map(|process| process.remember(kind(are_flows))).sum::<usize>();
        let until_ns = past.entries.back().map_or(now, |last| last.until_ns.max(now));
        past.push(Ended { connection: connection.clone(), ended_ns: now, until_ns, change });
        // Here as well as in ticks: a burst of ends must not push out what is still young while old ends take room.
        self.forget(now);
        while self.bytes() > BYTES_MAX {
            let flows_go = self.flows.bytes() > FLOW_BYTES || self.connections.is_empty();
            self.forget_oldest(flows_go);
        }
    }

    /// Forgets what ended long before `now`, nanoseconds since boot.
    pub fn forget(&mut self, now: u64) {
        for are_flows in [false, true] {
            let past = |all: &Self| if are_flows { all.flows.oldest_ns() } else { all.connections.oldest_ns() };
            while past(self).is_some_and(|ended_ns| now.saturating_sub(ended_ns) > KEPT_NS) {
                self.forget_oldest(are_flows);
            }
        }
    }

    /// Returns how many bytes everything that is remembered takes.
    pub fn bytes(&self) -> usize {
        self.connections.bytes() + self.flows.bytes()
    }

    fn forget_oldest(&mut self, of_flows: bool) {
        let past = if of_flows { &mut self.flows } else { &mut self.connections };
        let Some(Ended { connection, .. }) = past.forget_oldest() else { return };
        let bytes: usize = connection.processes().map(|process| process.forget(kind(of_flows))).sum();
        past.process_bytes = past.process_bytes.saturating_sub(bytes);
    }
}

fn kind(are_flows: bool) -> Past {
    if are_flows { Past::Flows } else { Past::Connections }
}

/// Connections, or flows, that have ended lately, oldest first.
#[derive(Debug, Default)]
pub struct EndedConnections {
    entries: ChunkedQueue<Ended>,
    /// Number of the oldest entry, counted from the first that was ever added.
    first: u64,
    /// Numbers by a hash of their ends, of the entries that may be left as minisocks.
    by_ends: HashMap<u64, u64, foldhash::fast::RandomState>,
    /// Bytes of all entries, without their processes.
    entry_bytes: usize,
    /// Bytes of the processes that entries refer to. They are counted in full although most of them live: when they end, only
    /// the entries keep them in memory. A process of connections and of flows counts for both, so that neither kind takes the
    /// room of the other.
    process_bytes: usize,
}

impl EndedConnections {
    fn bytes(&self) -> usize {
        self.entry_bytes + self.process_bytes
    }

    fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    fn oldest_ns(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.ended_ns)
    }

    fn push(&mut self, entry: Ended) {
        self.entry_bytes += entry.bytes();
        if let Some(key) = self.key(&entry) {
            // Replaces an earlier connection between the same ends: the kernel keeps one minisock of them, the later.
            self.by_ends.insert(key, self.next_number());
        }
        self.entries.push_back(entry);
    }

    fn forget_oldest(&mut self) -> Option<Ended> {
        let entry = self.entries.pop_front()?;
        self.entry_bytes = self.entry_bytes.saturating_sub(entry.bytes());
        // A later connection may have the same ends.
        if let Some(key) = self.key(&entry)
            && self.by_ends.get(&key) == Some(&self.first)
        {
            self.by_ends.remove(&key);
            shrink_if_sparse(&mut self.by_ends);
        }
        // Numbers are never used again, so that the cursor of a snapshot stays valid.
        self.first += 1;
        Some(entry)
    }

    /// Returns the key in `by_ends` of an entry that the kernel may keep as a minisock. The end that closes first does, see
    /// `tcp_time_wait` in `net/ipv4/tcp_minisocks.c`.
    fn key(&self, entry: &Ended) -> Option<u64> {
        // With an errno the connection was reset, and a reset leaves no minisock.
        let Ended { connection, change: Change::Close(_, 0), .. } = entry else { return None };
        let stays = matches!(connection.state, tcp_state::FIN_WAIT2 | tcp_state::CLOSING);
        if stays { Some(self.hash(&ends(connection)?)) } else { None }
    }

    fn hash(&self, ends: &Ends) -> u64 {
        self.by_ends.hasher().hash_one(ends)
    }

    /// Returns the last connection between two ends that may be left as a minisock.
    fn get(&self, between: &Ends) -> Option<&Connection> {
        // By a hash, which is a fifth of the size of the ends. The ends are compared below, because two may have one
        // hash.
        let number = self.by_ends.get(&self.hash(between))?;
        let entry = self.entries.get(usize::try_from(number.checked_sub(self.first)?).ok()?)?;
        (ends(&entry.connection)? == *between).then_some(&entry.connection)
    }

    /// Returns the connection that has become a minisock, in the minisock's state.
    pub fn connection_of(&self, minisock: &Minisock) -> Connection {
        let Minisock { between, state } = *minisock;
        match self.get(&between) {
            // A copy, because minisocks are shown beside the entry that stays remembered as ended.
            Some(known) => Connection { state, ..known.clone() },
            None => Connection::of_minisock(between, state),
        }
    }

    /// Returns the minisocks of connections that ended after `from_ns` and are not among those `known`. Connections whose end
    /// was not observed are left out: their end time is unknown.
    pub fn minisocks_since(&self, from_ns: u64, known: &HashSet<Ends>) -> Vec<Minisock> {
        let later = self.ended_since(from_ns);
        let is_observed = |entry: &&Ended| {
            !matches!(entry.change, Change::Close(CloseReason::Unknown | CloseReason::NamespaceGone, _))
        };
        let stay = later.filter(is_observed).filter(|entry| self.key(entry).is_some());
        let missing = stay.filter_map(|entry| ends(&entry.connection)).filter(|between| !known.contains(between));
        missing.map(|between| Minisock { between, state: tcp_state::TIME_WAIT }).collect()
    }

    /// Returns the numbers of the sockets that ended after `from_ns`.
    pub fn sockets_since(&self, from_ns: u64) -> HashSet<u64> {
        self.ended_since(from_ns).map(|entry| entry.connection.socket).collect()
    }

    /// Returns the entries that ended at `from_ns` or later, the latest first.
    fn ended_since(&self, from_ns: u64) -> impl Iterator<Item = &Ended> {
        // From the latest backwards: a scan takes a tenth of a second, and 65,536 entries need not be walked for it.
        let last = self.entries.iter().rev().take_while(move |entry| entry.until_ns >= from_ns);
        last.filter(move |entry| entry.ended_ns >= from_ns)
    }

    /// Returns the number of the entry that is added next.
    pub fn next_number(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Returns the entries from a number on, with their numbers.
    pub fn from_number(&self, number: u64) -> impl Iterator<Item = (u64, &Ended)> {
        // Entries before `first` have been forgotten since the cursor was made: the walk goes on with the oldest that
        // is left.
        let skipped = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (number.max(self.first)..).zip(self.entries.iter_from(skipped))
    }
}

impl Ended {
    /// Returns how many bytes the entry takes, without its process.
    fn bytes(&self) -> usize {
        let Connection { exchanged, succession, .. } = &self.connection;
        let exchanged = if exchanged.is_some() { size_of::<Exchanged>() + ALLOCATION } else { 0 };
        let succession = if succession.is_some() { size_of::<Succession>() + ALLOCATION } else { 0 };
        size_of::<Self>() + BY_ENDS_BYTES + exchanged + succession
    }
}

/// Returns the connection as far as its minisock shows it: neither the owner nor the counters.
pub fn bare_connection_of(minisock: &TcpRecord) -> Connection {
    let mut shown = Connection::from_tcp(minisock, None);
    shown.update(minisock);
    shown
}

/// Returns the namespace and ends of a connection; `None` for listeners.
pub fn ends(connection: &Connection) -> Option<Ends> {
    Some((connection.namespace, connection.local, connection.remote?))
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use netconn_common::{Flow, FlowKey};
    use netconn_model::fact::Failure;

    use super::*;
    use crate::process::Process;

    fn connection(port: u16, state: u8) -> Connection {
        let mut record = TcpRecord::zeroed();
        (record.family, record.local_port, record.remote_port, record.new_state) = (2, port, 80, state);
        let mut connection = Connection::from_tcp(&record, None);
        connection.update(&record);
        connection.owner.tgid = u32::from(port);
        connection
    }

    fn minisock(port: u16) -> Minisock {
        let mut record = TcpRecord::zeroed();
        (record.family, record.local_port, record.remote_port) = (2, port, 80);
        (record.old_state, record.new_state) = (tcp_state::TIME_WAIT, tcp_state::TIME_WAIT);
        Minisock::of(&record).unwrap()
    }

    #[test]
    fn a_minisock_is_small() {
        // A slow client keeps a list of them.
        assert_eq!(size_of::<Minisock>(), 48);
    }

    #[test]
    fn what_ended_is_found_and_forgotten() {
        let mut lately = EndedLately::default();
        let close = Change::Close(CloseReason::Local, 0);
        lately.note(Change::Connect(Outcome::Success), &connection(1, tcp_state::ESTABLISHED), 5);
        lately.note(close, &connection(1, tcp_state::FIN_WAIT2), 10);
        lately.note(Change::Connect(Outcome::Failure(Failure::Refused, 111)), &connection(2, tcp_state::SYN_SENT), 20);
        lately.note(Change::Close(CloseReason::Remote, 0), &connection(3, tcp_state::LAST_ACK), 30);
        assert_eq!(lately.connections.from_number(0).map(|(number, _)| number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(
            (
                lately.connections.connection_of(&minisock(1)).owner.tgid,
                lately.connections.connection_of(&minisock(1)).state
            ),
            (1, tcp_state::TIME_WAIT)
        );
        assert_eq!(lately.connections.connection_of(&minisock(3)).owner.tgid, 0, "who closed last leaves no minisock");
        assert_eq!(lately.connections.minisocks_since(10, &HashSet::new()).len(), 1);
        assert_eq!(lately.connections.minisocks_since(11, &HashSet::new()).len(), 0);
        let known = HashSet::from_iter([minisock(1).between]);
        assert_eq!(lately.connections.minisocks_since(10, &known).len(), 0);
        // Found to be gone when the kernel was asked about everything: it may have ended long before.
        lately.note(Change::Close(CloseReason::Unknown, 0), &connection(4, tcp_state::FIN_WAIT2), 15);
        assert_eq!(lately.connections.minisocks_since(11, &HashSet::new()).len(), 0);
        // The same ends again, by another process.
        lately.note(close, &Connection { generation: 7, ..connection(1, tcp_state::FIN_WAIT2) }, 40);
        lately.forget(15 + KEPT_NS);
        assert_eq!(lately.connections.from_number(0).map(|(number, _)| number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(lately.connections.connection_of(&minisock(1)).generation, 7);
        lately.forget(41 + KEPT_NS);
        assert_eq!(lately.connections.from_number(0).count(), 0);
        assert_eq!(lately.connections.connection_of(&minisock(1)).owner.tgid, 0);
    }

    #[test]
    fn an_attempt_that_is_reported_late_hides_nothing() {
        let mut lately = EndedLately::default();
        let close = Change::Close(CloseReason::Local, 0);
        lately.note(close, &connection(1, tcp_state::FIN_WAIT2), 100);
        lately.note(close, &Connection { socket: 7, ..connection(2, tcp_state::FIN_WAIT2) }, 200);
        // It failed when it was made, and the routing tables have answered only now.
        let failure = Change::Connect(Outcome::Failure(Failure::NetUnreachable, 101));
        lately.note(failure, &Connection { socket: 8, ..connection(3, tcp_state::CLOSE) }, 50);
        assert_eq!(lately.connections.sockets_since(150), HashSet::from_iter([7]));
        assert_eq!(lately.connections.minisocks_since(100, &HashSet::new()).len(), 2);
        assert_eq!(lately.connections.sockets_since(201), HashSet::new());
    }

    /// Ends `count` connections at `now`, each of a process of its own with a command line of this length.
    fn end(lately: &mut EndedLately, count: usize, line: usize, now: u64) {
        for number in 0..count {
            let mut connection = connection(number as u16, tcp_state::FIN_WAIT2);
            connection.process = Some(Process::with_command_line(number as u32, &"x".repeat(line)));
            lately.note(Change::Close(CloseReason::Local, 0), &connection, now);
        }
    }

    #[test]
    fn memory_is_bounded_in_bytes() {
        let mut lately = EndedLately::default();
        end(&mut lately, 100_000, 10, 1);
        let count = lately.connections.entries.len();
        assert!((25_000..40_000).contains(&count), "{count}");
        // Long command lines count too: a count alone would let 65,536 of them take 280 MB.
        end(&mut lately, 20_000, 4096, 2);
        let count = lately.connections.entries.len();
        assert!((3000..4000).contains(&count) && lately.bytes() <= BYTES_MAX, "{count}, {}", lately.bytes());
        lately.forget(3 + KEPT_NS);
        assert_eq!((lately.bytes(), lately.connections.process_bytes), (0, 0));
        assert_eq!(lately.connections.entries.capacity(), 0);
        assert!(lately.connections.by_ends.capacity() <= 1024, "{}", lately.connections.by_ends.capacity());
    }

    fn flow(number: u16) -> Connection {
        let key = FlowKey { socket: u64::from(number), protocol: 17, ..FlowKey::zeroed() };
        Connection::from_flow(&key, &Flow::zeroed(), None)
    }

    #[test]
    fn flows_and_connections_leave_each_other_a_share() {
        let close = Change::Close(CloseReason::Local, 0);
        let mut lately = EndedLately::default();
        (0..65_000).for_each(|number| lately.note(close, &flow(number), 1));
        let alone = lately.flows.bytes();
        assert!(alone > BYTES_MAX - 1000 && alone <= BYTES_MAX);
        end(&mut lately, 100_000, 10, 1);
        assert!(lately.flows.bytes() <= FLOW_BYTES && lately.flows.bytes() > FLOW_BYTES - 1000);
        let connections = lately.connections.bytes();
        (0..65_000).for_each(|number| lately.note(close, &flow(number), 1));
        assert_eq!(lately.connections.bytes() / 1000, connections / 1000, "flows push out flows only");
        // The same with processes: the flows are few, and their command lines are long.
        for number in 0..20_000_u16 {
            let process = Process::with_command_line(number.into(), &"x".repeat(4096));
            lately.note(close, &Connection { process: Some(process), ..flow(number) }, 1);
        }
        assert_eq!(lately.connections.bytes() / 1000, connections / 1000, "also with their processes");
        assert!(lately.flows.entries.len() > 100 && lately.bytes() <= BYTES_MAX, "{}", lately.flows.entries.len());
        lately.forget(2 + KEPT_NS);
        assert_eq!(lately.bytes(), 0);
    }

    #[test]
    fn a_process_counts_once() {
        let mut lately = EndedLately::default();
        let mut ended = connection(1, tcp_state::FIN_WAIT2);
        ended.process = Some(Process::with_command_line(1, &"x".repeat(4096)));
        for port in 0..100 {
            ended.local.port = port;
            lately.note(Change::Close(CloseReason::Local, 0), &ended, 1);
        }
        let bytes = lately.connections.process_bytes;
        assert!(bytes > 4096 && bytes < 5000, "{bytes}");
        // For each kind, because each may be all that keeps it in memory.
        (0..100).for_each(|number| {
            lately.note(
                Change::Close(CloseReason::Local, 0),
                &Connection { process: ended.process.clone(), ..flow(number) },
                1,
            );
        });
        assert_eq!((lately.connections.process_bytes, lately.flows.process_bytes), (bytes, bytes));
        lately.forget(2 + KEPT_NS);
        assert_eq!(lately.bytes(), 0);
    }
}
