//! Entries that are not announced yet: they wait for their owner to be known, or for the outputs to have room.

use std::collections::VecDeque;

use super::{Connection, Effects, announce, slots::Slots};
use crate::shrink::KEPT_CAPACITY;

/// Entries that are not announced yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Entries that wait for their owner.
    waiting: Queue,
    /// Entries that dumps have found: there may be a hundred thousand, so they are announced little by little.
    backlog: Queue,
}

impl Pending {
    /// Holds an entry back until its owner is known, `until_ns` at most. Deadlines must come in order.
    pub(super) fn wait(&mut self, slot: u32, connection: &mut Connection, until_ns: u64) {
        connection.waiting = true;
        self.waiting.push(slot, connection, until_ns);
    }

    /// Holds an entry back until there is room for its event.
    pub(super) fn defer(&mut self, slot: u32, connection: &Connection) {
        // Due at once: only the outputs decide how long it waits.
        self.backlog.push(slot, connection, 0);
    }

    /// Returns whether entries may be left that dumps have found.
    pub(super) fn has_backlog(&self) -> bool {
        // May say yes for entries that are announced or gone: `announce_backlog` drops those.
        !self.backlog.0.is_empty()
    }

    /// Returns when the next entry has waited long enough, nanoseconds since boot.
    pub(super) fn next_deadline<T: AsRef<Connection>>(&mut self, slots: &Slots<T>) -> Option<u64> {
        self.waiting.first(slots).map(|held| held.until_ns)
    }

    /// Announces the entries that have waited long enough, and returns how many there were.
    pub(super) fn announce_overdue<T: AsRef<Connection> + AsMut<Connection>>(
        &mut self,
        slots: &mut Slots<T>,
        now: u64,
        effects: &mut impl Effects,
    ) -> usize {
        self.waiting.announce(slots, (usize::MAX, now), now, effects)
    }

    /// Announces at most `limit` entries that dumps have found.
    pub(super) fn announce_backlog<T: AsRef<Connection> + AsMut<Connection>>(
        &mut self,
        slots: &mut Slots<T>,
        limit: usize,
        now: u64,
        effects: &mut impl Effects,
    ) {
        self.backlog.announce(slots, (limit, now), now, effects);
    }

    /// Announces everything that is held back.
    pub(super) fn announce_all<T: AsRef<Connection> + AsMut<Connection>>(
        &mut self,
        slots: &mut Slots<T>,
        now: u64,
        effects: &mut impl Effects,
    ) {
        for queue in [&mut self.waiting, &mut self.backlog] {
            queue.announce(slots, (usize::MAX, u64::MAX), now, effects);
        }
    }

    /// Returns whether no entry is in a queue, not even one that has gone.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.0.is_empty() && self.backlog.0.is_empty()
    }
}

/// Entries in the order in which they were added. By the time it is their turn they may have been announced, or be gone
/// and their slots used again.
#[derive(Debug, Default)]
struct Queue(VecDeque<Held>);

/// An entry that is not announced yet: its slot, and the identity that distinguishes it from a later one in the same slot.
#[derive(Clone, Copy, Debug)]
struct Held {
    slot: u32,
    generation: u32,
    socket: u64,
    born_ns: u64,
    /// When it is to be announced, nanoseconds since boot.
    until_ns: u64,
}

impl Held {
    /// Returns whether `connection` is the entry that was held back, and still is.
    fn is_held(&self, connection: &Connection) -> bool {
        let Connection { socket, generation, born_ns, announced, .. } = connection;
        // Flows of one socket have generation 0 and differ in their birth; lives of a TCP socket differ in the
        // generation.
        (*socket, *generation, *born_ns) == (self.socket, self.generation, self.born_ns) && !announced
    }
}

impl Queue {
    fn push(&mut self, slot: u32, connection: &Connection, until_ns: u64) {
        let Connection { socket, generation, born_ns, .. } = *connection;
        self.0.push_back(Held { slot, generation, socket, born_ns, until_ns });
    }

    /// Returns the first entry that is still to be announced; those before it leave the queue.
    fn first<T: AsRef<Connection>>(&mut self, slots: &Slots<T>) -> Option<Held> {
        while let Some(first) = self.0.front() {
            // Entries leave the queue lazily: to search it for each that is announced or removed early would cost a
            // walk each time.
            if slots.get(first.slot).is_some_and(|entry| first.is_held(entry.as_ref())) {
                return Some(*first);
            }
            self.0.pop_front();
        }
        // After a start it held all connections. `pop_front` never shrinks it.
        if self.0.capacity() > KEPT_CAPACITY {
            self.0 = VecDeque::new();
        }
        None
    }

    /// Announces at most `limit` entries with a deadline until `due_ns`, as of `now`, and returns how many there were.
    fn announce<T: AsRef<Connection> + AsMut<Connection>>(
        &mut self,
        slots: &mut Slots<T>,
        (limit, due_ns): (usize, u64),
        now: u64,
        effects: &mut impl Effects,
    ) -> usize {
        let mut count = 0;
        while count < limit
            && let Some(first) = self.first(slots).filter(|first| first.until_ns <= due_ns)
        {
            // Before it is announced, so that the loop ends: each turn takes one entry out.
            self.0.pop_front();
            if let Some(entry) = slots.get_mut(first.slot) {
                announce(entry.as_mut(), now, effects);
                count += 1;
            }
        }
        count
    }
}
