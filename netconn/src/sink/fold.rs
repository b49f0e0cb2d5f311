//! Keeps a flood from pushing old evidence out of the history.
//!
//! As long as less than half of the room is taken, everything is kept. Then each origin has a bucket of bytes, an eighth of the
//! room, that fills up again with half of the room in the time that the history is to reach back. Events that find a bucket
//! empty are folded: not written, but counted by origin, and told by `Data Loss` events.
//!
//! The origins of a connection are the end that began it, and whose it is here. An outgoing one is of its user and its process. An
//! incoming one is of the remote end, of the process that serves it, because a remote end can have many addresses, and of the
//! user of that process, because a user can be both ends in a network namespace of its own. Only root as the user of a server is
//! not asked: whoever floods one service must not have the others folded. A process has half a bucket, so that it cannot use up
//! that of its user. A user id that may be one of many of the same user has half a bucket, too, and shares a whole one with its block
//! (`sink/shares.rs`).

use std::{collections::HashMap, net::IpAddr, time::Duration};

use foldhash::fast::RandomState;

use crate::{
    process::Key,
    sink::{EventClass, EventCounts, EventNote, EventOrigin, shares::block},
    store::Scarcity,
};

/// A full bucket is this part of the room.
const CAPACITY_PART: u64 = 8;
/// In the time that the history is to reach back, a bucket is filled this many times.
const FILLINGS: u128 = 4;
/// The user id of root.
const ROOT: u32 = 0;
/// Most buckets.
const BUCKETS_MAX: usize = 4096;
/// Most origins of which what was folded is counted apart between two reports; others count together.
const ORIGINS_MAX: usize = 64;
/// Levels are counted in thousandths of bytes, because a converted event may have few bytes.
const PER_BYTE: u64 = 1000;

/// Who has caused events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloodOrigin {
    /// A user, by Unix user id; `None`: it is not known.
    User(Option<u32>),
    /// The users of a block of ids, by its number. What it lacks room for is counted as of the user.
    Block(u32),
    /// A process.
    Process(Key),
    /// A remote end: an address, or the first address of a network of which one host has many.
    Remote(IpAddr),
    /// Several, too many to be told apart.
    Several,
}

/// Events of an origin that were folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// How many.
    pub counts: EventCounts,
    /// When the first of them was, since boot.
    pub from: Duration,
    /// When the last of them was, since boot.
    pub to: Duration,
}

/// What was folded since it was last asked for, by origin.
pub type Folds = HashMap<FloodOrigin, Fold, RandomState>;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of bytes that are left.
    level: u64,
    /// As of when, since boot.
    at: Duration,
}

/// How much a bucket holds, and how fast it fills up.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Thousandths of bytes.
    capacity: u64,
    /// Time in which the history is to be pushed out at the fastest.
    floor: Duration,
}

impl Share {
    fn of(origin: FloodOrigin, scarcity: &Scarcity) -> Self {
        let has_half = match origin {
            FloodOrigin::Process(_) => true,
            FloodOrigin::User(user) => block(user).is_some(),
            FloodOrigin::Block(_) | FloodOrigin::Remote(_) | FloodOrigin::Several => false,
        };
        let parts = if has_half { 2 * CAPACITY_PART } else { CAPACITY_PART };
        // At least one, so that there is something to divide by.
        let capacity = (scarcity.room().saturating_mul(PER_BYTE) / parts).max(1);
        Self { capacity, floor: scarcity.floor() }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FloodGuard {
    buckets: HashMap<FloodOrigin, Bucket, RandomState>,
}

impl FloodGuard {
    /// Takes the bytes of an event, of which the history keeps `part` thousandths, from the buckets of its origins. Returns the
    /// origin whose bucket has too little: then nothing is taken.
    pub(super) fn take(
        &mut self,
        note: &EventNote,
        part: u64,
        (scarcity, now): (&Scarcity, Duration),
    ) -> Result<(), FloodOrigin> {
        // What the daemon tells of itself is never folded.
        let Some(origin) = &note.origin else { return Ok(()) };
        let cost = u64::from(note.length) * part;
        let origins = origins(origin);
        let mut known = origins.into_iter().flatten();
        if let Some(empty) = known.find(|origin| self.bucket(*origin, scarcity, now).level < cost) {
            // Whoever reads of it knows users, and no blocks.
            let is_block = matches!(empty, FloodOrigin::Block(_));
            return Err(if is_block { FloodOrigin::User(origin.user) } else { empty });
        }
        for origin in origins.into_iter().flatten() {
            let bucket = self.bucket(origin, scarcity, now);
            bucket.level = bucket.level.saturating_sub(cost);
        }
        Ok(())
    }

    /// Returns the bucket of an origin, filled up to now.
    fn bucket(&mut self, origin: FloodOrigin, scarcity: &Scarcity, now: Duration) -> &mut Bucket {
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&origin) {
            self.forget_fullest(scarcity, now);
        }
        let share = Share::of(origin, scarcity);
        let bucket = self.buckets.entry(origin).or_insert(Bucket { level: share.capacity, at: now });
        bucket.fill(share, now);
        bucket
    }

    /// Forgets the fuller half of the buckets: whoever uses little finds a full one again, and loses nothing.
    fn forget_fullest(&mut self, scarcity: &Scarcity, now: Duration) {
        let Self { buckets } = self;
        buckets.iter_mut().for_each(|(origin, bucket)| bucket.fill(Share::of(*origin, scarcity), now));
        let mut levels: Vec<u64> = buckets.values().map(|bucket| bucket.level).collect();
        let (emptier, median, _) = levels.select_nth_unstable(BUCKETS_MAX / 2);
        let median = *median;
        // Of those that are equal as many go as must.
        let mut left = BUCKETS_MAX / 2 - emptier.iter().filter(|level| **level < median).count();
        buckets.retain(|_, bucket| {
            let is_kept = bucket.level < median || (bucket.level == median && left > 0);
            left -= usize::from(is_kept && bucket.level == median);
            is_kept
        });
    }
}

impl Bucket {
    /// Lets flow in what has come since it was last looked at.
    fn fill(&mut self, Share { capacity, floor }: Share, now: Duration) {
        // Nanoseconds times thousandths of bytes need more than 64 bits.
        let (refill, floor) = (u128::from(capacity) * FILLINGS, floor.as_nanos().max(1));
        let added = now.saturating_sub(self.at).as_nanos() * refill / floor;
        self.level = u64::try_from(added).unwrap_or(u64::MAX).saturating_add(self.level).min(capacity);
        // Parts of a thousandth are left for the next time.
        self.at += Duration::from_nanos(u64::try_from(added * floor / refill).unwrap_or(u64::MAX));
    }
}

/// Returns whose buckets an event is taken from.
fn origins(EventOrigin { process, user, beginner }: &EventOrigin) -> [Option<FloodOrigin>; 4] {
    let remote = beginner.map(|remote| FloodOrigin::Remote(network(remote)));
    let is_server_of_root = remote.is_some() && *user == Some(ROOT);
    let asked = (!is_server_of_root).then_some(FloodOrigin::User(*user));
    [remote, asked, block(*user).map(FloodOrigin::Block), process.map(FloodOrigin::Process)]
}

/// Returns the first address of the network that one host has: the loopback network, or 64 bits of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.is_loopback() => IpAddr::V4([127, 0, 0, 0].into()),
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (!0 << 64)).into()),
    }
}

/// Counts an event that was folded.
pub(super) fn count(folds: &mut Folds, origin: FloodOrigin, class: EventClass, now: Duration) {
    let is_full = folds.len() >= ORIGINS_MAX && !folds.contains_key(&origin);
    let origin = if is_full { FloodOrigin::Several } else { origin };
    let fold = folds.entry(origin).or_insert(Fold { counts: EventCounts::default(), from: now, to: now });
    fold.counts.add(class);
    fold.to = now;
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const BYTES: u64 = 1000;
    /// Sixteen events of 1,000 bytes fit into a bucket, eight into that of a process, and 64 or 32 more come in an hour.
    fn scarcity() -> Scarcity {
        Scarcity::of_room(128 * BYTES, HOUR)
    }

    fn note(tgid: u32, user: u32, beginner: Option<&str>) -> EventNote {
        let origin = EventOrigin {
            process: Some(Key { tgid, start_ns: 0 }),
            user: Some(user),
            beginner: beginner.map(|address| address.parse().unwrap()),
        };
        EventNote { length: BYTES as u32, class: EventClass::Outgoing, origin: Some(origin) }
    }

    /// Returns how many of 100 events are kept.
    fn kept(guard: &mut FloodGuard, note: impl Fn(u32) -> EventNote, now: Duration) -> usize {
        (0..100).filter(|number| guard.take(&note(*number), 1000, (&scarcity(), now)).is_ok()).count()
    }

    #[test]
    fn nobody_has_more_than_a_share() {
        let mut guard = FloodGuard::default();
        assert_eq!(kept(&mut guard, |_| note(1, 99, None), HOUR), 8, "one process");
        assert_eq!(kept(&mut guard, |_| note(2, 99, None), HOUR), 8, "another one of the same user");
        assert_eq!(kept(&mut guard, |number| note(number, 99, None), HOUR), 0, "whatever process of the same user");
        assert_eq!(kept(&mut guard, |number| note(100 + number, 99, Some("192.0.2.7")), HOUR), 0, "at either end");
        assert_eq!(kept(&mut guard, |_| note(7, 0, None), HOUR), 8, "another user");
        assert_eq!(kept(&mut guard, |_| note(8, 0, None), HOUR), 8, "which one of its processes cannot use up");
        // Incoming connections of services of root are of the remote end and of the service.
        assert_eq!(kept(&mut guard, |_| note(9, 0, Some("192.0.2.1")), HOUR), 8);
        assert_eq!(kept(&mut guard, |number| note(1000 + number, 0, Some("192.0.2.1")), HOUR), 8, "forked services");
        let spread = |number: u32| note(2000 + number, 0, Some(&format!("2001:db8::{number}")));
        assert_eq!(kept(&mut guard, spread, HOUR), 16, "one network");
        let loopback = |number: u32| note(3000 + number, 0, Some(&format!("127.0.{number}.1")));
        assert_eq!(kept(&mut guard, loopback, HOUR), 16);
        assert!(guard.take(&EventNote::of_daemon(1000), 1000, (&scarcity(), HOUR)).is_ok());
        // Ids that belong to one user of containers, and two users of a directory service.
        assert_eq!(kept(&mut guard, |number| note(5000 + number, 200_000 + number, None), HOUR), 16);
        assert_eq!(kept(&mut guard, |number| note(6000 + number, 300_001, None), HOUR), 8, "half");
        assert_eq!(kept(&mut guard, |number| note(7000 + number, 300_002, None), HOUR), 8);
        let folded = guard.take(&note(1, 300_003, None), 1000, (&scarcity(), HOUR));
        assert_eq!(folded, Err(FloodOrigin::User(Some(300_003))));
    }

    #[test]
    fn a_bucket_fills_up_again() {
        let mut guard = FloodGuard::default();
        let flood = |_| note(1, 99, None);
        assert_eq!(kept(&mut guard, flood, HOUR), 8);
        assert_eq!(kept(&mut guard, flood, HOUR + HOUR / 8), 4, "four times in an hour");
        assert_eq!(kept(&mut guard, flood, 9 * HOUR), 8, "no more than a bucket");
        // What a tenth is left of counts as a tenth.
        let kept = (0..100).filter(|_| guard.take(&note(1, 99, None), 100, (&scarcity(), 20 * HOUR)).is_ok()).count();
        assert_eq!(kept, 80);
        // In steps shorter than a millisecond of those in which something comes.
        let mut now = 30 * HOUR;
        let events = (0..72_000).filter(|_| {
            now += Duration::from_micros(50_500);
            guard.take(&note(1, 99, None), 1000, (&scarcity(), now)).is_ok()
        });
        let kept = events.count();
        assert!((38..=41).contains(&kept), "{kept}");
    }

    #[test]
    fn there_is_an_end_of_buckets_and_those_of_floods_stay() {
        let mut guard = FloodGuard::default();
        assert_eq!(kept(&mut guard, |number| note(1 + number % 2, 99, None), HOUR), 16);
        for tgid in 3..20_000 {
            let _ = guard.take(&note(tgid, 1000 + tgid, None), 1, (&scarcity(), HOUR));
            assert!(guard.buckets.len() <= BUCKETS_MAX);
        }
        assert_eq!(kept(&mut guard, |_| note(1, 99, None), HOUR), 0);
    }

    #[test]
    fn what_is_folded_is_counted_by_origin() {
        let mut folds = Folds::default();
        for user in 0..100 {
            for second in [1, 3] {
                count(&mut folds, FloodOrigin::User(Some(user)), EventClass::Outgoing, Duration::from_secs(second));
            }
        }
        assert_eq!(folds.len(), ORIGINS_MAX + 1);
        assert_eq!(folds[&FloodOrigin::Several].counts.outgoing, 72);
        let counts = EventCounts { events: 2, outgoing: 2, incoming: 0 };
        let fold = Fold { counts, from: Duration::from_secs(1), to: Duration::from_secs(3) };
        assert_eq!(folds[&FloodOrigin::User(Some(5))], fold);
    }
}
