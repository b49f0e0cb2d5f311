//! Dumps of the kernel's TCP sockets: they fill the table at the start and repair it after records were lost.

use netconn_common::{TcpRecord, attribution, role, tcp_state};

use super::{Connection, Coverage, Effects, Table, finish};

impl Table {
    /// Begins a dump of all sockets: from here on the ends of sockets are noted.
    pub fn begin_dump(&mut self) {
        self.dumps.begin();
    }

    /// Forgets the dump that was begun.
    pub fn abandon_dump(&mut self) {
        self.dumps.abandon();
    }

    /// Applies a dump that was taken since [`begin_dump`](Self::begin_dump). All records that came meanwhile must have been
    /// applied. Connections that are not in the dump, although it covers them, have ended unseen.
    ///
    /// The life and the sequence number of a socket show whether the dump or the table is newer, so that nothing is missed
    /// and nothing is reported twice.
    pub fn end_dump(&mut self, mut dump: Vec<TcpRecord>, coverage: &Coverage, effects: &mut impl Effects) {
        let ended = self.dumps.end().unwrap_or_default();
        // Listeners come first: they show which end initiated the connections that are older than netconn.
        dump.sort_by_key(|record| record.new_state != tcp_state::LISTEN);
        for record in &mut dump {
            record.state.role = self.role_in_dump(record);
            // A later life of the same socket is not over: `connect` to `AF_UNSPEC` keeps the number.
            let has_ended = ended.get(&record.socket).is_some_and(|life| *life >= record.state.generation);
            if !has_ended && is_shown(record) {
                self.apply(record, effects);
            }
        }
        if coverage.is_first_of_two {
            return;
        }
        // What is left was not in the dump: it is gone, or it is where the dump could not look.
        let verdicts = coverage.judge(self.connections.iter());
        // Collected first, because removing changes what is walked.
        let gone: Vec<_> = self
            .connections
            .starting_at(0)
            // A dump has no sockets for which the kernel had no memory.
            .filter(|(_, entry)| entry.generation != 0 && entry.seen != self.dumps.begun())
            .filter_map(|(slot, entry)| Some((slot, verdicts.end_of(entry, true)?)))
            .collect();
        // The time of the dump, as the kernel wrote it: the end was before, nobody knows when.
        let now = dump.iter().map(|record| record.header.time_ns).max().unwrap_or(coverage.begun_ns);
        for (slot, reason) in gone {
            if let Some(mut entry) = self.remove(slot) {
                // A connection must not end before it was established: a record that came during the dump may be later
                // than its last record.
                let now = now.max(entry.established_ns);
                finish(&mut entry, reason, now, effects);
            }
        }
        self.unreadable.note(self.connections.iter(), coverage);
    }

    /// Makes the next comparison ask for a dump if there are connections in namespaces that cannot be read, see
    /// [`Comparison::needs_dump`](super::Comparison::needs_dump).
    pub fn doubt_unreadable(&mut self) {
        self.unreadable.doubt();
    }

    /// Returns the connection that a record of a dump means, without adding it; `None` if it would not be added. The table
    /// needs the listeners only. For a single snapshot this costs less than a table of all connections.
    pub fn connection_in_dump(&self, record: &mut TcpRecord, effects: &impl Effects) -> Option<Connection> {
        record.state.role = self.role_in_dump(record);
        if !is_shown(record) {
            return None;
        }
        let mut connection = self.new_connection(record, effects);
        connection.update(record);
        Some(connection)
    }

    /// Returns the role of a socket in a dump. For sockets that are older than netconn it is inferred: a connection to a
    /// port with a listener is incoming.
    fn role_in_dump(&self, record: &TcpRecord) -> u32 {
        // A listener shows its role by its state; an attempt is outgoing whatever listens on its port.
        if record.state.role != role::UNKNOWN || matches!(record.new_state, tcp_state::LISTEN | tcp_state::SYN_SENT) {
            return record.state.role;
        }
        let is_incoming = self.listeners.contains_key(&(record.namespace, record.local_port));
        if is_incoming { role::PASSIVE } else { role::ACTIVE }
    }
}

/// Returns whether a record of a dump is a connection. Half-open connections are not reported, see `inet_sock_set_state`.
fn is_shown(record: &TcpRecord) -> bool {
    // With an owner of its own it is a Fast Open connection that a process has accepted already.
    let is_half_open = record.new_state == tcp_state::SYN_RECV
        && record.state.role == role::PASSIVE
        && matches!(record.state.owner.how, attribution::LISTENER | attribution::UNKNOWN | attribution::USER);
    !is_half_open && record.new_state != tcp_state::CLOSE
}
