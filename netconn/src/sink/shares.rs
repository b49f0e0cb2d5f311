//! How much of a queue each process and each user takes, so that a flood by one of them costs others nothing.
//!
//! A process may take at most two and a half times what is free ("Dynamic queue length thresholds for shared-memory packet
//! switches", Choudhury and Hahne, 1998), and a user four times as much. One process alone fills five sevenths of a queue, the
//! processes of one user ten elevenths, and with each more that floods the shares become smaller by themselves. Both are
//! limited: a user can fork, and one process must not take all that is its user's.
//!
//! A user may have many user ids: 65,536 of them belong to each user of rootless containers (`/etc/subuid`), and each would begin with a
//! share of its own. So ids from 65,536 on are in blocks of 65,536: an id may take as much as a process, and a block twice as much. A range
//! of that length lies in two blocks, which leave a thirty-sixth of the queue to others. Ids of directory services, which can be
//! neighbours in a block, keep room beside one of them that floods. The other candidates tell less: a user makes as many cgroups in
//! its own as it likes, records do not have the owner of the user namespace, and `/etc/subuid` need not say what a directory service has lent.
//!
//! The number is between two tests: a server that ends ten thousand flows at once, whose events take up to 23 MB of the 32 MiB
//! of an output, needs five sevenths; another process of the same user needs room beside a flood, so it is no more.

use std::{collections::HashMap, hash::Hash};

use foldhash::fast::RandomState;

use crate::{
    process::Key,
    sink::{EventNote, EventOrigin},
};

/// Kept free for events of the daemon itself: a `Data Loss` has to find room when it is needed most. As long as the longest event,
/// and small beside what waits for a client (256 KiB).
const RESERVE: u64 = 16 << 10;

/// How many halves of what is free a process may take.
const PROCESS_HALVES: u64 = 5;
/// The same for a user.
const USER_HALVES: u64 = 20;
/// The same for a user id that may be one of many of the same user.
const BLOCK_USER_HALVES: u64 = 5;
/// The same for a block of them.
const BLOCK_HALVES: u64 = 10;
/// Bits of a user id that tell those of a block apart.
const BLOCK_BITS: u32 = 16;

/// Returns the block of a user id that may be one of many of the same user. Those below are given one by one: to people, services, and
/// by systemd.
pub(super) fn block(user: Option<u32>) -> Option<u32> {
    user.map(|user| user >> BLOCK_BITS).filter(|block| *block != 0)
}

/// Bytes in a queue, by origin. Origins that are not known share one entry.
#[derive(Debug, Default)]
pub struct Shares {
    processes: HashMap<Option<Key>, u64, RandomState>,
    users: HashMap<Option<u32>, u64, RandomState>,
    blocks: HashMap<u32, u64, RandomState>,
}

impl Shares {
    /// Counts an event, if its origin may take this much of a queue that has `free` bytes left; returns whether it may.
    pub fn admit(&mut self, note: &EventNote, bytes: u64, free: u64) -> bool {
        if note.origin.is_none() {
            return bytes <= free;
        }
        bytes + RESERVE <= free && self.admit_part(note, bytes, free)
    }

    /// Does the same where nothing is kept free for the daemon itself, in whatever unit.
    pub fn admit_part(&mut self, note: &EventNote, bytes: u64, free: u64) -> bool {
        let Some(EventOrigin { process, user, .. }) = note.origin else { return bytes <= free };
        let taken = |share: Option<&u64>| share.copied().unwrap_or_default() + bytes;
        let block = block(user);
        let user_halves = if block.is_some() { BLOCK_USER_HALVES } else { USER_HALVES };
        let is_admitted = bytes <= free
            && 2 * taken(self.processes.get(&process)) <= PROCESS_HALVES * free
            && 2 * taken(self.users.get(&user)) <= user_halves * free
            && block.is_none_or(|block| 2 * taken(self.blocks.get(&block)) <= BLOCK_HALVES * free);
        if is_admitted {
            *self.processes.entry(process).or_default() += bytes;
            *self.users.entry(user).or_default() += bytes;
            if let Some(block) = block {
                *self.blocks.entry(block).or_default() += bytes;
            }
        }
        is_admitted
    }

    /// Takes an event out that was counted and has left the queue.
    pub(super) fn remove(&mut self, note: &EventNote, bytes: u64) {
        let Some(EventOrigin { process, user, .. }) = note.origin else { return };
        subtract(&mut self.processes, &process, bytes);
        subtract(&mut self.users, &user, bytes);
        if let Some(block) = block(user) {
            subtract(&mut self.blocks, &block, bytes);
        }
    }

    /// Forgets everything: the queue is empty.
    pub fn clear(&mut self) {
        self.processes.clear();
        self.users.clear();
        self.blocks.clear();
    }
}

/// Subtracts from an entry, and removes it when nothing is left: there is no end of processes.
fn subtract<K: Eq + Hash>(shares: &mut HashMap<K, u64, RandomState>, key: &K, bytes: u64) {
    if let Some(share) = shares.get_mut(key) {
        *share = share.saturating_sub(bytes);
        if *share == 0 {
            shares.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::EventClass;

    const LIMIT: u64 = 1 << 20;
    const BYTES: u64 = 1000;

    fn note(tgid: u32, user: u32) -> EventNote {
        let process = Some(Key { tgid, start_ns: 0 });
        let origin = Some(EventOrigin { process, user: Some(user), beginner: None });
        EventNote { length: u32::try_from(BYTES).unwrap(), class: EventClass::Outgoing, origin }
    }

    /// Fills a queue that nobody empties until these origins, each in turn, get no more; returns the parts they have then.
    fn filled(shares: &mut Shares, queued: &mut u64, notes: &[EventNote]) -> Vec<f64> {
        let mut parts = vec![0.0; notes.len()];
        loop {
            let before = *queued;
            for (note, part) in notes.iter().zip(&mut parts) {
                if shares.admit(note, BYTES, LIMIT - *queued) {
                    *queued += BYTES;
                    *part += BYTES as f64 / LIMIT as f64;
                }
            }
            if before == *queued {
                return parts;
            }
        }
    }

    fn is_about(part: f64, expected: f64) -> bool {
        (part - expected).abs() < 0.01
    }

    #[test]
    fn a_process_that_floods_leaves_room_for_others() {
        let (mut shares, mut queued) = (Shares::default(), 0);
        let parts = filled(&mut shares, &mut queued, &[note(1, 0)]);
        assert!(is_about(parts[0], 5.0 / 7.0), "{parts:?}");
        let others: Vec<_> = (0..100).map(|_| note(2, 0)).collect();
        assert!(
            others.iter().all(|other| shares.admit(other, BYTES, LIMIT - queued)),
            "another process of the same user"
        );
    }

    #[test]
    fn a_user_whose_processes_flood_leaves_room_for_others() {
        let (mut shares, mut queued) = (Shares::default(), 0);
        let forks: Vec<_> = (1..1000).map(|tgid| note(tgid, 1000)).collect();
        let parts = filled(&mut shares, &mut queued, &forks);
        assert!(is_about(parts.iter().sum(), 10.0 / 11.0), "{}", parts.iter().sum::<f64>());
        let parts = filled(&mut shares, &mut queued, &[note(5000, 0)]);
        assert!(parts[0] > 0.04, "{parts:?}");
    }

    #[test]
    fn a_user_with_many_ids_leaves_room_for_others() {
        let (mut shares, mut queued) = (Shares::default(), 0);
        // A range of `useradd`: it begins at 100,000 plus a multiple of its length, and so lies in two blocks.
        let range: Vec<_> = (0..65_536).step_by(16).map(|number| note(number + 1, 100_000 + number)).collect();
        let parts = filled(&mut shares, &mut queued, &range);
        assert!(is_about(parts.iter().sum(), 35.0 / 36.0), "{}", parts.iter().sum::<f64>());
        let victim = filled(&mut shares, &mut queued, &[note(200_000, 0)]);
        // Without blocks nothing was left but the reserve.
        assert!(victim[0] > 0.005, "{victim:?}");
        // One user of a directory service leaves its neighbours room.
        let (mut shares, mut queued) = (Shares::default(), 0);
        let forks: Vec<_> = (1..1000).map(|tgid| note(tgid, 1_200_000_001)).collect();
        filled(&mut shares, &mut queued, &forks);
        let parts = filled(&mut shares, &mut queued, &[note(5000, 1_200_000_002)]);
        assert!(parts[0] > 0.1, "{parts:?}");
    }

    #[test]
    fn what_has_left_the_queue_counts_no_more() {
        let (mut shares, mut queued) = (Shares::default(), 0);
        filled(&mut shares, &mut queued, &[note(1, 0)]);
        assert!(!shares.admit(&note(1, 0), BYTES, LIMIT - queued));
        for _ in 0..queued / BYTES {
            shares.remove(&note(1, 0), BYTES);
        }
        assert!(shares.admit(&note(1, 0), BYTES, LIMIT));
        shares.remove(&note(1, 0), BYTES);
        assert!(shares.admit(&note(1, 100_000), BYTES, LIMIT));
        shares.remove(&note(1, 100_000), BYTES);
        assert!(shares.processes.is_empty() && shares.users.is_empty() && shares.blocks.is_empty());
    }

    #[test]
    fn the_daemon_itself_has_a_reserve() {
        let mut shares = Shares::default();
        assert!(!shares.admit(&note(1, 0), BYTES, RESERVE));
        assert!(shares.admit(&EventNote::of_daemon(1000), BYTES, RESERVE));
        assert!(!shares.admit(&EventNote::of_daemon(1000), BYTES, BYTES - 1));
    }
}
