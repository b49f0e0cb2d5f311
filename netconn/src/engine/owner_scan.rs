//! Scans of open files for the owners of sockets that no hook reports: a server that accepts and waits, a descriptor that was
//! handed over, a listener whose process went to the background.

use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use netconn_common::FileRecord;
use tracing::warn;

use crate::{
    engine::{
        publisher::Publisher,
        run::Engine,
        schedule::{PAUSE, ScanPace, nanoseconds},
        state::State,
    },
    kernel::iterate::oldest,
    process::Key,
    table::Orphans,
};

/// Scans for an owner that is not found, each after twice the pause of the one before.
const TRIES: u32 = 5;
/// Processes that one scan looks for at most: the kernel's map has room for 1,024 ([`netconn_common::map::ENDED`]).
const ENDED_MAX: usize = 1000;

impl Engine {
    /// Scans for owners if it is time to, or if processes have ended and left sockets open.
    pub(super) fn scan_owners_if_due(&mut self, now: u64) {
        let scans = &mut self.schedule.owner_scans;
        // `take_ended` returns each process once: it must not be asked before a scan is allowed.
        if !scans.is_allowed(now) {
            return;
        }
        // Most processes end without an open socket, and are not among these.
        let ended = self.state.processes.take_ended(now);
        if !ended.is_empty() {
            let ended = self.state.orphans(&ended).processes;
            if !ended.is_empty() {
                scans.add_ended(ended);
                return self.scan_owners();
            }
        }
        if self.schedule.owner_scans.is_due(now) {
            self.scan_owners();
        }
    }

    /// Scans open files for the owners of sockets, also of those whose owner has ended.
    pub(super) fn scan_owners(&mut self) {
        let since = Instant::now();
        // Sockets that were closed meanwhile, or were found by the scan before, need no owner any more.
        let orphans = self.state.orphans(self.schedule.owner_scans.ended());
        let is_done = self.find_owners(&orphans).inspect_err(|error| warn!("cannot scan open files: {error}")).is_ok();
        let now = self.state.clock.now();
        let left = if is_done { self.state.orphans(&orphans.processes).processes } else { orphans.processes };
        // Also after an error: whatever made the scan fail has cost its time too.
        self.schedule.owner_scans.scanned(now, since.elapsed(), left, is_done);
        self.publisher.flush(&self.state.clock);
    }

    /// Applies who has orphans open, and accepted connections of which the listener's owner is known only.
    fn find_owners(&mut self, orphans: &Orphans) -> std::io::Result<()> {
        // One scan only: whoever leaves many sockets open must not keep the engine from commands. The next one goes on.
        let (pass, is_last) = self.schedule.owner_scans.next_pass(&orphans.owners);
        let files = self.scan(|capture, meanwhile| capture.owners(&pass, meanwhile))?;
        self.state.apply_files(&files, &orphans.processes, &mut self.publisher);
        self.schedule.owner_scans.passed(&pass, is_last);
        // Where iterators cannot tell which sockets an ended process has owned, all are read.
        if orphans.has_datagrams && !self.capture.has_cookies() {
            let (sockets, _) = self.scan(|capture, meanwhile| capture.datagrams(meanwhile))?;
            let now = self.state.clock.now();
            let (_, flows, mut effects) = self.state.tables(&mut self.publisher);
            for socket in sockets.iter().filter(|socket| socket.state.owner.tgid != 0) {
                flows.apply_holder(socket.socket, &socket.state.owner, &orphans.processes, now, &mut effects);
            }
        }
        Ok(())
    }
}

impl State {
    /// Returns the open sockets of processes that have `ended`.
    fn orphans(&self, ended: &HashSet<Key>) -> Orphans {
        let mut orphans = Orphans::default();
        if !ended.is_empty() {
            self.table.find_orphans(ended, &mut orphans);
            self.flows.find_orphans(ended, &mut orphans);
        }
        orphans
    }

    /// Applies what a scan of open files has found, also for the sockets of processes that have `ended`.
    fn apply_files(&mut self, files: &[FileRecord], ended: &HashSet<Key>, publisher: &mut Publisher) {
        // Several processes may have a socket: the oldest stands for them.
        let oldest = oldest(files, |file| file.socket);
        let now = self.clock.now();
        let (table, flows, mut effects) = self.tables(publisher);
        for file in oldest.into_values() {
            if !flows.apply_holder(file.socket, &file.owner, ended, now, &mut effects) {
                table.apply_file(file, ended, now, &mut effects);
            }
        }
    }
}

/// When to scan. Times are in nanoseconds since boot.
#[derive(Debug, Default)]
pub(super) struct OwnerScans {
    pace: ScanPace,
    /// When to scan again for an owner that was not found.
    again_ns: Option<u64>,
    /// Scans since one was last wanted.
    tries: u32,
    /// Processes that have ended and whose sockets have no other owner yet.
    ended: HashSet<Key>,
    /// Owners that were searched for since all were: one scan has room for [`ENDED_MAX`].
    searched: HashSet<Key>,
    /// There are connections without an owner of their own.
    has_ownerless: bool,
}

impl OwnerScans {
    /// Adds processes that have ended and left sockets open: scans are wanted until their owners are found.
    pub(super) fn add_ended(&mut self, ended: impl IntoIterator<Item = Key>) {
        let before = self.ended.len();
        self.ended.extend(ended);
        if self.ended.len() != before {
            self.tries = 0;
        }
    }

    /// Returns the processes that have ended and whose sockets have no other owner yet.
    fn ended(&self) -> &HashSet<Key> {
        &self.ended
    }

    /// Returns whether a scan is allowed at `now`.
    pub(super) fn is_allowed(&self, now: u64) -> bool {
        self.pace.is_allowed(now)
    }

    /// Returns the processes that the next scan searches for, start by id, of these owners; and whether they are the last of them that
    /// were not searched for.
    fn next_pass(&mut self, owners: &HashSet<Key>) -> (HashMap<u32, u64>, bool) {
        self.searched.retain(|key| owners.contains(key));
        let (mut pass, mut is_last) = (HashMap::new(), true);
        for key in owners.iter().filter(|key| !self.searched.contains(*key)) {
            // The kernel's map has one start for each process id.
            if pass.len() < ENDED_MAX && !pass.contains_key(&key.tgid) {
                pass.insert(key.tgid, key.start_ns);
            } else {
                is_last = false;
            }
        }
        (pass, is_last)
    }

    /// Notes a scan that has searched for these.
    fn passed(&mut self, pass: &HashMap<u32, u64>, is_last: bool) {
        if is_last {
            self.searched = HashSet::new();
        } else {
            self.searched.extend(pass.iter().map(|(tgid, start_ns)| Key::new(*tgid, *start_ns)));
        }
    }

    /// Returns whether it is time to scan again for an owner that was not found.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.is_allowed(now) && self.again_ns.is_some_and(|again| now >= again)
    }

    /// Notes a scan that ended at `now`, after which the sockets of these processes that have `ended` have no other owner. One that
    /// has failed is repeated until one has not.
    fn scanned(&mut self, now: u64, took: Duration, ended: HashSet<Key>, is_done: bool) {
        self.pace.scanned(now, took);
        self.ended = ended;
        if is_done && !self.searched.is_empty() {
            // No try is over before all were searched for.
            self.again_ns = Some(now + nanoseconds(PAUSE));
            return;
        }
        self.tries += 1;
        // The minimum keeps the shift below 64 bits: scans for ended owners count too, and `tries` has no other limit.
        let pause = nanoseconds(PAUSE) << self.tries.min(TRIES);
        let is_wanted = self.tries < TRIES && (self.has_ownerless || !self.ended.is_empty());
        self.again_ns = (!is_done || is_wanted).then_some(now + pause);
        if self.again_ns.is_none() {
            // No process has these sockets: they are on their way in a message, or the kernel's own.
            self.ended = HashSet::new();
            self.has_ownerless = false;
        }
    }

    /// Asks for scans: a connection has no owner of its own yet.
    pub(super) fn want(&mut self, now: u64) {
        self.tries = 0;
        self.has_ownerless = true;
        // Keeps an earlier time: connections that keep coming must not put the scan off for ever.
        self.again_ns.get_or_insert(now + nanoseconds(PAUSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn scans_become_rarer_and_end() {
        let mut scans = OwnerScans::default();
        assert!(scans.is_allowed(0) && !scans.is_due(0), "nobody wants one");
        scans.want(0);
        let mut done = Vec::new();
        for second in 0..200 {
            if scans.is_due(second * SECOND) {
                scans.scanned(second * SECOND, Duration::from_millis(1), HashSet::new(), true);
                done.push(second);
            }
        }
        assert_eq!(done, [1, 3, 7, 15, 31]);
        scans.want(200 * SECOND);
        assert!(scans.is_due(201 * SECOND));
    }

    #[test]
    fn a_long_scan_is_followed_by_a_long_pause() {
        let mut scans = OwnerScans::default();
        scans.scanned(0, Duration::from_millis(100), HashSet::new(), true);
        assert!(!scans.is_allowed(4 * SECOND));
        assert!(scans.is_allowed(5 * SECOND));
    }

    #[test]
    fn many_owners_are_searched_for_by_one_scan_after_the_other() {
        let mut scans = OwnerScans::default();
        // Two have one id: the kernel's map has room for one of them.
        let mut owners: HashSet<Key> = (1..=2500).map(|tgid| Key::new(tgid, 1)).collect();
        owners.insert(Key::new(7, 2));
        scans.add_ended(owners.clone());
        let (mut found, mut now) = (HashSet::new(), 0);
        while scans.tries == 0 {
            let (pass, is_last) = scans.next_pass(&owners);
            assert!((1..=ENDED_MAX).contains(&pass.len()));
            found.extend(pass.iter().map(|(tgid, start_ns)| Key::new(*tgid, *start_ns)));
            scans.passed(&pass, is_last);
            scans.scanned(now, Duration::from_millis(1), owners.clone(), true);
            assert!(!scans.is_allowed(now + SECOND - 1), "commands come between");
            now += SECOND;
            assert_eq!(scans.is_due(now), !is_last);
        }
        assert_eq!((found, now), (owners, 3 * SECOND));
        assert!(scans.searched.is_empty());
    }

    #[test]
    fn a_scan_that_fails_forgets_nothing() {
        let (mut scans, took) = (OwnerScans::default(), Duration::from_millis(1));
        let ended: HashSet<Key> = [Key::new(7, 1), Key::new(8, 1)].into_iter().collect();
        scans.add_ended(ended.clone());
        let mut second = 0;
        for _ in 0..20 {
            scans.scanned(second * SECOND, took, ended.clone(), false);
            second += 1;
            while !scans.is_due(second * SECOND) {
                second += 1;
                assert!(second < 1000);
            }
            assert_eq!(scans.ended(), &ended);
        }
        // One is found, and the other is given up after some tries.
        let left: HashSet<Key> = [Key::new(8, 1)].into_iter().collect();
        scans.add_ended([Key::new(9, 1)]);
        for tries in 1..=TRIES {
            scans.scanned(second * SECOND, took, left.clone(), true);
            assert_eq!(scans.ended().len(), usize::from(tries < TRIES));
        }
        assert!(!scans.is_due(u64::MAX));
    }
}
