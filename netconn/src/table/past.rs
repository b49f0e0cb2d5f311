//! Connections that have ended lately: for clients that ask for them, and because the kernel keeps some as minisocks
//! (TIME_WAIT) that have addresses only, so that their owner must be remembered.

use std::{collections::VecDeque, hash::BuildHasher as _};

use hashbrown::{HashMap, HashSet};
use netconn_common::{TcpRecord, tcp_state};
use netconn_model::fact::{CloseReason, End, Outcome};

use super::{Change, Connection};

/// How long ended connections are remembered, nanoseconds. The kernel keeps minisocks for a minute (`TCP_TIMEWAIT_LEN` in
/// `include/net/tcp.h`).
pub const KEPT_NS: u64 = 600_000_000_000;
/// Connections that are remembered at most: 20 MB.
pub const ENTRIES_MAX: usize = 65_536;

/// Network namespace and both ends. They identify a minisock.
pub type Ends = (u32, End, End);

/// A connection that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The connection as it was then.
    pub connection: Connection,
    /// When it ended, nanoseconds since boot.
    pub ended_ns: u64,
    /// How it ended: a close, or the failure of an attempt.
    pub change: Change,
}

/// Connections that have ended lately, oldest first.
#[derive(Debug, Default)]
pub struct EndedConnections {
    entries: VecDeque<Ended>,
    /// Number of the oldest entry, counted from the first that was ever added.
    first: u64,
    /// Numbers by a hash of their ends, of the entries that may be left as minisocks.
    by_ends: HashMap<u64, u64, foldhash::fast::RandomState>,
}

impl EndedConnections {
    /// Adds a connection if this change is its end, at `now` (nanoseconds since boot).
    pub fn note(&mut self, change: Change, connection: &Connection, now: u64) {
        if !matches!(change, Change::Close(..) | Change::Connect(Outcome::Failure(..))) {
            return;
        }
        // Here as well as in ticks: a burst of ends must not push out what is still young while old ends take room.
        self.forget(now);
        if self.entries.len() >= ENTRIES_MAX {
            self.forget_oldest();
        }
        let entry = Ended { connection: connection.clone(), ended_ns: now, change };
        if let Some(key) = self.key(&entry) {
            // Replaces an earlier connection between the same ends: the kernel keeps one minisock of them, the later.
            self.by_ends.insert(key, self.first + self.entries.len() as u64);
        }
        self.entries.push_back(entry);
    }

    /// Forgets entries that ended long before `now`.
    pub fn forget(&mut self, now: u64) {
        while self.entries.front().is_some_and(|entry| now.saturating_sub(entry.ended_ns) > KEPT_NS) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        // A later connection may have the same ends.
        if let Some(key) = self.key(&entry)
            && self.by_ends.get(&key) == Some(&self.first)
        {
            self.by_ends.remove(&key);
        }
        self.first += 1;
        if self.entries.is_empty() {
            // Gives memory back. `first` stays: numbers are never used again, so that the cursor of a snapshot stays
            // valid.
            (self.entries, self.by_ends) = Default::default();
        }
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
    pub fn connection_of(&self, minisock: &TcpRecord) -> Connection {
        let shown = bare_connection_of(minisock);
        match ends(&shown).and_then(|ends| self.get(&ends)) {
            // A copy, because minisocks are shown beside the entry that stays remembered as ended.
            Some(known) => Connection { state: minisock.new_state, ..known.clone() },
            None => shown,
        }
    }

    /// Returns the connections that became minisocks after `from_ns` and are not among those `known`. Connections whose end
    /// was not observed are left out: their end time is unknown.
    pub fn minisocks_since(&self, from_ns: u64, known: &HashSet<Ends>) -> Vec<Connection> {
        // From the latest backwards: a scan takes a tenth of a second, and 65,536 entries need not be walked for it.
        let later = self.entries.iter().rev().take_while(|entry| entry.ended_ns >= from_ns);
        let is_observed = |entry: &&Ended| {
            !matches!(entry.change, Change::Close(CloseReason::Unknown | CloseReason::NamespaceGone, _))
        };
        let stay = later.filter(is_observed).filter(|entry| self.key(entry).is_some()).map(|entry| &entry.connection);
        let missing = stay.filter(|connection| ends(connection).is_some_and(|ends| !known.contains(&ends)));
        missing.map(|connection| Connection { state: tcp_state::TIME_WAIT, ..connection.clone() }).collect()
    }

    /// Returns the numbers of the sockets that ended after `from_ns`.
    pub fn sockets_since(&self, from_ns: u64) -> HashSet<u64> {
        let later = self.entries.iter().rev().take_while(|entry| entry.ended_ns >= from_ns);
        later.map(|entry| entry.connection.socket).collect()
    }

    /// Returns the entries from a number on, with their numbers.
    pub fn from_number(&self, number: u64) -> impl Iterator<Item = (u64, &Ended)> {
        // Entries before `first` have been forgotten since the cursor was made: the walk goes on with the oldest that
        // is left.
        let skipped = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (number.max(self.first)..).zip(self.entries.iter().skip(skipped))
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
    use netconn_model::fact::Failure;

    use super::*;

    fn connection(port: u16, state: u8) -> Connection {
        let mut record = TcpRecord::zeroed();
        (record.family, record.local_port, record.remote_port, record.new_state) = (2, port, 80, state);
        let mut connection = Connection::from_tcp(&record, None);
        connection.update(&record);
        connection.owner.tgid = u32::from(port);
        connection
    }

    fn minisock(port: u16) -> TcpRecord {
        let mut record = TcpRecord::zeroed();
        (record.family, record.local_port, record.remote_port) = (2, port, 80);
        (record.old_state, record.new_state) = (tcp_state::TIME_WAIT, tcp_state::TIME_WAIT);
        record
    }

    #[test]
    fn what_ended_is_found_and_forgotten() {
        let mut past = EndedConnections::default();
        let close = Change::Close(CloseReason::Local, 0);
        past.note(Change::Connect(Outcome::Success), &connection(1, tcp_state::ESTABLISHED), 5);
        past.note(close, &connection(1, tcp_state::FIN_WAIT2), 10);
        past.note(Change::Connect(Outcome::Failure(Failure::Refused, 111)), &connection(2, tcp_state::SYN_SENT), 20);
        past.note(Change::Close(CloseReason::Remote, 0), &connection(3, tcp_state::LAST_ACK), 30);
        assert_eq!(past.from_number(0).map(|(number, _)| number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(
            (past.connection_of(&minisock(1)).owner.tgid, past.connection_of(&minisock(1)).state),
            (1, tcp_state::TIME_WAIT)
        );
        assert_eq!(past.connection_of(&minisock(3)).owner.tgid, 0, "who closed last leaves no minisock");
        assert_eq!(past.minisocks_since(10, &HashSet::new()).len(), 1);
        assert_eq!(past.minisocks_since(11, &HashSet::new()).len(), 0);
        let known = ends(&past.connection_of(&minisock(1))).into_iter().collect();
        assert_eq!(past.minisocks_since(10, &known).len(), 0);
        // Found to be gone when the kernel was asked about everything: it may have ended long before.
        past.note(Change::Close(CloseReason::Unknown, 0), &connection(4, tcp_state::FIN_WAIT2), 15);
        assert_eq!(past.minisocks_since(11, &HashSet::new()).len(), 0);
        // The same ends again, by another process.
        past.note(close, &Connection { generation: 7, ..connection(1, tcp_state::FIN_WAIT2) }, 40);
        past.forget(15 + KEPT_NS);
        assert_eq!(past.from_number(0).map(|(number, _)| number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(past.connection_of(&minisock(1)).generation, 7);
        past.forget(41 + KEPT_NS);
        assert_eq!(past.from_number(0).count(), 0);
        assert_eq!(past.connection_of(&minisock(1)).owner.tgid, 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut past = EndedConnections::default();
        for number in 0..=ENTRIES_MAX {
            past.note(Change::Close(CloseReason::Local, 0), &connection(number as u16, tcp_state::FIN_WAIT2), 1);
        }
        assert_eq!(past.from_number(0).count(), ENTRIES_MAX);
        assert!(size_of::<Ended>() <= 320, "{}", size_of::<Ended>());
    }
}
