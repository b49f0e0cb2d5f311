//! Owners of connections: changes that the kernel reports, and owners that have ended.

use hashbrown::HashSet;
use netconn_common::{FileRecord, IPPROTO_TCP, Owner, OwnerRecord, attribution, role};

use super::{Connection, Effects, Table, announce};
use crate::process::Key;

impl Table {
    /// Applies a change of a socket's owner.
    pub fn apply_owner(&mut self, record: &OwnerRecord, effects: &mut impl Effects) {
        self.set_owner(record.socket, Some(record.generation), &record.owner, record.header.time_ns, effects);
    }

    /// Takes the process that has a socket open, if the socket's owner is not known for sure or is one of the processes that
    /// have `ended`.
    pub fn apply_file(&mut self, file: &FileRecord, ended: &HashSet<Key>, now: u64, effects: &mut impl Effects) {
        let slot = self.by_socket.get(&file.socket);
        let Some(connection) = slot.and_then(|slot| self.connections.get_mut(*slot)) else { return };
        // The owner may have become known since the kernel was asked.
        let is_inherited = connection.owner.how == attribution::LISTENER && connection.role != role::LISTENER;
        if is_inherited || connection.owner.tgid == 0 {
            self.set_owner(file.socket, None, &file.owner, now, effects);
        } else if ended.contains(&Key::of(connection.holder().0)) && !ended.contains(&Key::of(&file.owner)) {
            connection.pass_on(&file.owner, effects.process(&file.owner));
            // As in `set_owner`.
            connection.owned_in = self.dumps.begun();
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
        // Who began it stays known, unless that is who has it again.
        if connection.originator().is_none_or(|(first, _)| Key::of(first) == Key::of(owner)) {
            connection.succession = None;
        }
        // A dump that is running may have read the socket before: it must not put the old owner back.
        connection.owned_in = self.dumps.begun();
        connection.process = effects.process(owner);
        // What the event waited for is there.
        if connection.waiting && !connection.announced {
            announce(connection, now, effects);
        }
    }

    /// Adds the connections and listeners that processes which have `ended` have left to others.
    pub fn find_orphans(&self, ended: &HashSet<Key>, orphans: &mut Orphans) {
        self.connections.iter().for_each(|entry| orphans.look(ended, entry));
    }

    /// Returns the holders of open connections and listeners that are no known processes.
    pub fn unknown_holders(&self, is_known: impl Fn(&Owner) -> bool) -> impl Iterator<Item = Key> {
        unknown(self.connections.iter(), is_known)
    }
}

/// Returns the holders of open sockets that are no known processes.
pub(super) fn unknown<'a>(
    connections: impl Iterator<Item = &'a Connection>,
    is_known: impl Fn(&Owner) -> bool,
) -> impl Iterator<Item = Key> {
    let holders = connections.filter(|entry| entry.is_open()).map(|entry| entry.holder().0);
    holders.filter(move |owner| owner.tgid != 0 && !is_known(owner)).map(Key::of)
}

/// Sockets that processes have left open for others when they ended.
#[derive(Debug, Default)]
pub struct Orphans {
    /// The processes that have ended.
    pub processes: HashSet<Key>,
    /// The owners that the kernel keeps for these sockets: it knows who began an outgoing connection, not who had it last.
    pub owners: HashSet<Key>,
    /// Whether one is a flow or a UDP socket.
    pub has_datagrams: bool,
}

impl Orphans {
    /// Adds the socket of a connection if it is open and its holder has `ended`.
    pub(super) fn look(&mut self, ended: &HashSet<Key>, connection: &Connection) {
        let holder = Key::of(connection.holder().0);
        if connection.is_open() && ended.contains(&holder) {
            self.processes.insert(holder);
            self.owners.extend([holder, Key::of(&connection.owner)]);
            self.has_datagrams |= connection.protocol != IPPROTO_TCP;
        }
    }
}
