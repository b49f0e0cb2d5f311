//! Dumps of the kernel's UDP sockets: they fill the table at the start and repair it after records were lost.

use std::collections::HashSet;

use netconn_common::{IPPROTO_UDP, UdpSocketRecord, datagram_mark};

use super::Flows;
use crate::table::{
    Connection, Coverage, Effects,
    coverage::{SETTLED_NS, is_read},
};

impl Flows {
    /// Begins a dump of UDP sockets: from here on closed ones are noted. `now` is in nanoseconds since boot.
    pub fn begin_dump(&mut self, now: u64) {
        self.dumps.begin();
        self.dump_began_ns = now;
    }

    /// Forgets the dump that was begun.
    pub fn abandon_dump(&mut self) {
        self.dumps.abandon();
    }

    /// Applies a dump that was taken since [`begin_dump`](Self::begin_dump). All records that came meanwhile must have been
    /// applied. Entries that are not in the dump, although it covers them, have ended unseen.
    pub fn end_dump(&mut self, sockets: &[UdpSocketRecord], coverage: &Coverage, now: u64, effects: &mut impl Effects) {
        // Asked before `end`, after which no dump is the first.
        let is_first = self.dumps.is_first();
        let Some(closed) = self.dumps.end() else { return };
        let mut found: hashbrown::HashSet<u64, foldhash::fast::RandomState> = hashbrown::HashSet::default();
        for record in sockets {
            // Also of sockets that get no entry: they may have flows, which are not gone.
            found.insert(record.socket);
            let is_closed = closed.contains_key(&record.socket) || self.recent.has_socket(record.socket);
            if is_closed || !is_shown(record, is_first) {
                continue;
            }
            // Before the socket is added: a new entry has its owner from the record.
            self.update_owner(record, now, effects);
            if let Some(slot) = self.update_or_insert(record, now, effects)
                && let Some(entry) = self.entries.get(slot)
            {
                self.pending.defer(slot, &entry.connection);
            }
        }
        let verdicts = coverage.judge(self.entries.connections());
        let entries = self.entries.slots.starting_at(0).map(|(slot, entry)| (slot, &entry.connection));
        let gone: Vec<_> = entries
            // What began during the dump may be missing from it.
            .filter(|(_, connection)| connection.changed_ns < self.dump_began_ns)
            .filter_map(|(slot, connection)| {
                // Flows of ICMP and raw sockets have sockets that no dump of UDP shows: the map of flows decides about
                // these.
                let is_absent = is_in_dumps(connection) && !found.contains(&connection.socket);
                Some((slot, verdicts.end_of(connection, is_absent)?))
            })
            .collect();
        for (slot, reason) in gone {
            self.end(slot, reason, now, effects);
        }
        self.unreadable.note(self.entries.connections(), coverage);
    }

    /// Returns whether a scan of UDP `sockets` in these `namespaces` shows that a dump is needed: an entry is not among
    /// them, or is in a namespace that could be read before and cannot be read now. All records up to the end of the scan,
    /// which began at `since_ns`, must have been applied.
    pub fn needs_dump(&self, sockets: &[UdpSocketRecord], namespaces: &HashSet<u64>, since_ns: u64) -> bool {
        let found: HashSet<u64> = sockets.iter().map(|record| record.socket).collect();
        let is_doubtful = |connection: &Connection| {
            if is_read(namespaces, connection.namespace) {
                is_in_dumps(connection) && !found.contains(&connection.socket)
            } else {
                !self.unreadable.contains(connection.namespace)
            }
        };
        // A socket gets its number a moment before it is in the kernel's table.
        let mut settled = self.entries.connections().filter(|connection| connection.changed_ns + SETTLED_NS < since_ns);
        settled.any(is_doubtful)
    }

    /// Returns whether there are entries in a namespace that was not read.
    pub fn has_unreadable(&self, namespaces: &HashSet<u64>) -> bool {
        self.entries.connections().any(|connection| !is_read(namespaces, connection.namespace))
    }

    /// Makes [`needs_dump`](Self::needs_dump) ask for a dump again if there are entries in namespaces that cannot be read.
    pub fn doubt_unreadable(&mut self) {
        self.unreadable.doubt();
    }
}

/// Returns whether dumps contain the socket of an entry.
fn is_in_dumps(connection: &Connection) -> bool {
    connection.protocol == IPPROTO_UDP && !connection.exchanged.as_ref().is_some_and(|exchanged| exchanged.raw)
}

/// Returns whether a socket of a dump is worth an entry: it has a number, and is bound or connected. Sockets that are older
/// than netconn are taken to be bound: the kernel does not know whether they were, or got a port because they have sent.
fn is_shown(record: &UdpSocketRecord, is_first: bool) -> bool {
    // On 5.10 nothing is kept with sockets: all seem older.
    let is_older = record.state.born_ns == 0 && (record.file == record.socket || is_first);
    let is_bound = record.marks & (datagram_mark::CONNECTED | datagram_mark::BOUND) != 0 || is_older;
    is_bound && record.socket != 0
}
