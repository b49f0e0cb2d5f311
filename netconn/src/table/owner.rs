//! Owners of connections: changes that the kernel reports, and owners that have ended.

use hashbrown::HashSet;
use netconn_common::{FileRecord, Owner, OwnerRecord, attribution, role, tcp_state};

use super::{Connection, Effects, Table, announce};

impl Table {
    /// Applies a change of a socket's owner.
    pub fn apply_owner(&mut self, record: &OwnerRecord, effects: &mut impl Effects) {
        self.set_owner(record.socket, Some(record.generation), &record.owner, record.header.time_ns, effects);
    }

    /// Takes the process that has a socket open, if the socket's owner is not known for sure or is one of the `ended`
    /// processes, by id and start.
    pub fn apply_file(&mut self, file: &FileRecord, ended: &[(u32, u64)], now: u64, effects: &mut impl Effects) {
        let known = self.by_socket.get(&file.socket).and_then(|slot| self.connections.get(*slot));
        // The owner may have become known since the kernel was asked.
        let is_unsure = |entry: &Connection| {
            matches!(entry.owner.how, attribution::LISTENER | attribution::UNKNOWN)
                || ended.contains(&(entry.owner.tgid, entry.owner.start_ns))
        };
        if known.is_some_and(is_unsure) {
            self.set_owner(file.socket, None, &file.owner, now, effects);
        }
    }

    /// Sets the owner of this life of a socket; of any life if `generation` is `None`.
    fn set_owner(&mut self, socket: u64, generation: Option<u32>, owner: &Owner, now: u64, effects: &mut impl Effects) {
        let slot = self.by_socket.get(&socket);
        let Some(connection) = slot.and_then(|slot| self.connections.get_mut(*slot)) else { return };
        // The record is about an earlier life whose end was applied meanwhile, or about one whose beginning was lost.
        if generation.is_some_and(|life| life != connection.generation) {
            return;
        }
        connection.owner = *owner;
        // A dump that is running may have read the socket before: it must not put the old owner back.
        connection.owned_in = self.dumps.begun();
        connection.process = effects.process(owner);
        // What the event waited for is there.
        if connection.waiting && !connection.announced {
            announce(connection, now, effects);
        }
    }

    /// Returns those of some ended processes, by id and start, that own a listener or accepted connection which a process
    /// must have open, because the kernel would have closed it otherwise.
    pub fn owners_among(&self, processes: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
        if processes.is_empty() {
            return processes;
        }
        let mut processes: HashSet<_> = processes.into_iter().collect();
        let is_open = |entry: &&Connection| {
            matches!(entry.state, tcp_state::LISTEN | tcp_state::ESTABLISHED | tcp_state::CLOSE_WAIT)
                // An outgoing connection stays with the process that connected, even after that has ended.
                && entry.role != role::ACTIVE
        };
        let owners = self.connections.iter().filter(is_open).map(|entry| (entry.owner.tgid, entry.owner.start_ns));
        // `take` returns each process once, however many sockets it owned.
        owners.filter_map(|owner| processes.take(&owner)).collect()
    }

    /// Returns the owners of listeners and accepted connections, by id and start, that are no known processes.
    pub fn unknown_owners(&self, is_known: impl Fn(&Owner) -> bool) -> Vec<(u32, u64)> {
        let owners = self.connections.iter().map(|entry| &entry.owner).filter(|owner| owner.tgid != 0);
        let gone: HashSet<_> =
            owners.filter(|owner| !is_known(owner)).map(|owner| (owner.tgid, owner.start_ns)).collect();
        self.owners_among(gone.into_iter().collect())
    }
}
