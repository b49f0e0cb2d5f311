//! The table against what the kernel has: dumps, and owners that are no more.

use std::rc::Rc;

use hashbrown::{HashMap, HashSet};
use netconn_common::{CountersRecord, Owner, TcpRecord, attribution, role, tcp_state};
use netconn_model::event::CloseReason;

use super::{Change, Connection, Table, finish};
use crate::process::Process;

/// How old a connection must be for the kernel's table to have it.
pub(super) const SETTLED_NS: u64 = 10_000_000;

/// What a dump has seen of the kernel.
#[derive(Debug, Default)]
pub struct Covered {
    /// Inodes of the network namespaces that were read.
    pub namespaces: std::collections::HashSet<u64>,
    /// Another dump follows at once, and says what is gone.
    pub is_first_of_two: bool,
    /// Sockets that somebody has open, in any namespace; `None`: not known.
    pub held: Option<HashSet<u64>>,
}

/// What a comparison of the table with the kernel has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Changes that were missed although nobody has counted them.
    pub missed: usize,
    /// Whether there are attempts whose own port is not known yet.
    pub lacks_ports: bool,
    /// Whether there are connections in a namespace that could be read before and cannot be now: only a dump can tell whether
    /// they are still there.
    pub needs_dump: bool,
}

impl Table {
    /// A dump of all sockets is about to be taken: from here on ended sockets are remembered.
    pub fn begin_dump(&mut self) {
        self.dumps = self.dumps.saturating_add(1);
        self.ended = Some(HashMap::default());
    }

    /// Forgets that a dump was to be taken.
    pub fn abandon_dump(&mut self) {
        self.ended = None;
    }

    /// Takes the records of a dump that was taken since [`begin_dump`](Self::begin_dump), after all records of the
    /// ring that came meanwhile were applied. A socket's number of life and record tell which of the two is newer, so
    /// nothing is missed and nothing comes twice. What is not in the dump although it `covered` it has ended unseen.
    /// `process` and `emit` are as for [`apply`](Self::apply).
    pub fn end_dump(
        &mut self,
        mut dump: Vec<TcpRecord>,
        covered: &Covered,
        mut process: impl FnMut(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        let ended = self.ended.take().unwrap_or_default();
        // Listeners first: they tell who began the connections that are older than netconn.
        dump.sort_by_key(|record| record.new_state != tcp_state::LISTEN);
        for record in &mut dump {
            record.state.role = self.role_in_dump(record);
            let is_over = ended.get(&record.socket).is_some_and(|life| *life >= record.state.generation);
            if !is_over && is_shown(record) {
                self.apply(record, &mut process, &mut emit);
            }
        }
        let Covered { namespaces, is_first_of_two, held } = covered;
        if *is_first_of_two {
            return;
        }
        // A namespace that nobody is in and that has no name cannot be read. As long as somebody has a socket of it open
        // it is there.
        let there: HashSet<u32> = held.as_ref().map_or_else(HashSet::default, |held| {
            let entries =
                held.iter().filter_map(|socket| self.slots.get(*self.by_socket.get(socket)? as usize)?.as_ref());
            entries.map(|entry| entry.namespace).collect()
        });
        let is_gone = |entry: &Connection| held.is_some() && !there.contains(&entry.namespace);
        let vanished: Vec<(u32, CloseReason)> = (0_u32..)
            .zip(&self.slots)
            .filter_map(|(slot, entry)| Some((slot, entry.as_ref()?)))
            // A dump has no sockets for which there is no storage.
            .filter(|(_, entry)| entry.generation != 0 && entry.seen != self.dumps)
            .filter_map(|(slot, entry)| {
                let is_read = namespaces.contains(&u64::from(entry.namespace));
                let reason = if is_read { CloseReason::Unknown } else { CloseReason::NamespaceGone };
                (is_read || is_gone(entry)).then_some((slot, reason))
            })
            .collect();
        let now = dump.iter().map(|record| record.header.time_ns).max().unwrap_or(0);
        for (slot, reason) in vanished {
            if let Some(mut entry) = self.remove(slot) {
                let now = now.max(entry.established_ns);
                finish(&mut entry, reason, now, &mut emit);
            }
        }
        let left = self.slots.iter().flatten().map(|entry| entry.namespace);
        self.unreadable = left.filter(|namespace| !namespaces.contains(&u64::from(*namespace))).collect();
    }

    /// Another dump is wanted of what cannot be read, see [`Compared::needs_dump`].
    pub fn doubt_unreadable(&mut self) {
        self.unreadable.clear();
    }

    /// Takes how much connections have moved, as the kernel has told for all of the `namespaces` from `since_ns` on, after
    /// which all records were applied. Gives how many changes that shows to be missed although nobody has counted them.
    /// `is_over` tells whether a socket has ended since then.
    ///
    /// The kernel counts what it does not run a program for, but not each: `recursion_misses` came with 5.12, and there are
    /// machines where programs do not run in interrupts of protected processes.
    pub fn compare(
        &mut self,
        counters: &[CountersRecord],
        namespaces: &std::collections::HashSet<u64>,
        since_ns: u64,
        is_over: impl Fn(u64) -> bool,
    ) -> Compared {
        self.comparisons = self.comparisons.wrapping_add(1);
        let (mut met, mut missed, mut lacks_ports, mut needs_dump) = (0, 0, false, false);
        for CountersRecord { socket, bytes_sent, bytes_received, state, .. } in counters {
            let slot = self.by_socket.get(socket).map_or(usize::MAX, |slot| *slot as usize);
            if let Some(Some(entry)) = self.slots.get_mut(slot) {
                (entry.totals.bytes_sent, entry.totals.bytes_received) = (*bytes_sent, *bytes_received);
                met += usize::from(entry.compared != self.comparisons);
                entry.compared = self.comparisons;
                lacks_ports |= entry.lacks_port();
                missed += usize::from(entry.changed_ns < since_ns && u32::from(entry.state) != *state);
            } else {
                // Half open is not in the table. Of listeners nobody remembers whether one has ended since.
                let may_be_absent = [tcp_state::SYN_RECV, tcp_state::LISTEN].map(u32::from).contains(state);
                missed += usize::from(!may_be_absent && !is_over(*socket));
            }
        }
        let is_absent = |entry: &&Connection| {
            // Attempts and children are in the kernel's table a moment after they begin.
            let is_settled = entry.changed_ns + SETTLED_NS < since_ns;
            is_settled
                && entry.compared != self.comparisons
                // A dump cannot say that one is gone for which there was no memory.
                && entry.generation != 0
                && entry.state != tcp_state::SYN_RECV
        };
        // Usually all were met; to look through a table for nothing costs milliseconds.
        if met < self.by_socket.len() {
            for entry in self.slots.iter().flatten().filter(is_absent) {
                if namespaces.contains(&u64::from(entry.namespace)) {
                    missed += 1;
                } else {
                    // Others outlive their process: nobody has them open, and so they say nothing about the namespace.
                    let is_open = matches!(
                        entry.state,
                        tcp_state::LISTEN | tcp_state::SYN_SENT | tcp_state::ESTABLISHED | tcp_state::CLOSE_WAIT
                    );
                    needs_dump |= is_open && !self.unreadable.contains(&entry.namespace);
                }
            }
            lacks_ports = self.has_attempts_without_port();
        }
        Compared { missed, lacks_ports, needs_dump }
    }

    /// Those of some ended processes, by id and start, that own a listener or an accepted connection that somebody must
    /// have open: the kernel would have closed it otherwise.
    pub fn owners_among(&self, processes: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
        if processes.is_empty() {
            return processes;
        }
        let mut processes: HashSet<_> = processes.into_iter().collect();
        let is_open = |entry: &&Connection| {
            matches!(entry.state, tcp_state::LISTEN | tcp_state::ESTABLISHED | tcp_state::CLOSE_WAIT)
                && entry.role != role::ACTIVE
        };
        let owners = self.slots.iter().flatten().filter(is_open).map(|entry| (entry.owner.tgid, entry.owner.start_ns));
        owners.filter_map(|owner| processes.take(&owner)).collect()
    }

    /// Owners, by id and start, that are no known process any more.
    pub fn owners_without(&self, is_known: impl Fn(&Owner) -> bool) -> Vec<(u32, u64)> {
        let owners = self.slots.iter().flatten().map(|entry| &entry.owner).filter(|owner| owner.tgid != 0);
        let gone: HashSet<_> =
            owners.filter(|owner| !is_known(owner)).map(|owner| (owner.tgid, owner.start_ns)).collect();
        self.owners_among(gone.into_iter().collect())
    }

    /// A connection of a dump as it would be in the table, of which this needs the listeners only; `None` if it would not
    /// be there. For whoever looks once: a table of all costs more than the dump.
    pub fn dumped(
        &self,
        record: &mut TcpRecord,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
    ) -> Option<Connection> {
        record.state.role = self.role_in_dump(record);
        if !is_shown(record) {
            return None;
        }
        let mut connection = self.begin(record, process);
        connection.update(record);
        Some(connection)
    }

    /// Who began a connection of a dump: of those that are older than netconn the listeners tell.
    pub(super) fn role_in_dump(&self, record: &TcpRecord) -> u32 {
        if record.state.role != role::UNKNOWN || matches!(record.new_state, tcp_state::LISTEN | tcp_state::SYN_SENT) {
            return record.state.role;
        }
        let is_incoming = self.listeners.contains_key(&(record.namespace, record.local_port));
        if is_incoming { role::PASSIVE } else { role::ACTIVE }
    }
}

/// Whether a record of a dump is a connection: a child that is not connected yet is not reported, see
/// `inet_sock_set_state`.
pub(super) fn is_shown(record: &TcpRecord) -> bool {
    let is_half = record.new_state == tcp_state::SYN_RECV
        && record.state.role == role::PASSIVE
        && matches!(record.state.owner.how, attribution::LISTENER | attribution::UNKNOWN);
    !is_half && record.new_state != tcp_state::CLOSE
}
