//! The table against what the kernel has: dumps, and owners that are no more.

use std::rc::Rc;

use hashbrown::{HashMap, HashSet};
use netconn_common::{Owner, TcpRecord, attribution, role, tcp_state};

use super::{Change, Connection, Table, finish};
use crate::process::Process;

impl Table {
    /// A dump of all sockets is about to be taken: from here on ended sockets are remembered.
    pub fn begin_dump(&mut self) {
        self.dumps = self.dumps.wrapping_add(1);
        self.ended = Some(HashMap::default());
    }

    /// Forgets that a dump was to be taken.
    pub fn abandon_dump(&mut self) {
        self.ended = None;
    }

    /// Takes the records of a dump that was taken since [`begin_dump`](Self::begin_dump), after all records of the
    /// ring that came meanwhile were applied. A socket's number of life and record tell which of the two is newer, so
    /// nothing is missed and nothing comes twice. Entries for which `is_covered` holds and that are not in the dump have
    /// ended unseen. `process` and `emit` are as for [`apply`](Self::apply).
    pub fn end_dump(
        &mut self,
        mut dump: Vec<TcpRecord>,
        is_covered: impl Fn(&Connection) -> bool,
        mut process: impl FnMut(&Owner) -> Option<Rc<Process>>,
        mut emit: impl FnMut(Change, &Connection, u64),
    ) {
        let ended = self.ended.take().unwrap_or_default();
        // Listeners first: they tell who began the connections that are older than netconn.
        dump.sort_by_key(|record| record.new_state != tcp_state::LISTEN);
        for record in &mut dump {
            let is_unknown = record.state.role == role::UNKNOWN && record.new_state != tcp_state::LISTEN;
            if is_unknown && record.new_state != tcp_state::SYN_SENT {
                let is_incoming = self.listeners.contains_key(&(record.namespace, record.local_port));
                record.state.role = if is_incoming { role::PASSIVE } else { role::ACTIVE };
            }
            let is_over = ended.get(&record.socket).is_some_and(|life| *life >= record.state.generation);
            // A child that is not connected yet is not reported, see `inet_sock_set_state`.
            let how = record.state.owner.how;
            let is_half = record.new_state == tcp_state::SYN_RECV
                && record.state.role == role::PASSIVE
                && matches!(how, attribution::LISTENER | attribution::UNKNOWN);
            if !is_over && !is_half && record.new_state != tcp_state::CLOSE {
                self.apply(record, &mut process, &mut emit);
            }
        }
        let vanished: Vec<u32> = (0_u32..)
            .zip(&self.slots)
            .filter_map(|(slot, entry)| Some((slot, entry.as_ref()?)))
            // A dump has no sockets for which there is no storage.
            .filter(|(_, entry)| entry.generation != 0 && entry.seen != self.dumps && is_covered(entry))
            .map(|(slot, _)| slot)
            .collect();
        let now = dump.iter().map(|record| record.header.time_ns).max().unwrap_or(0);
        for slot in vanished {
            if let Some(mut entry) = self.remove(slot) {
                let now = now.max(entry.established_ns);
                finish(&mut entry, now, &mut emit);
            }
        }
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
}
