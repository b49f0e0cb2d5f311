//! Names of the user ids and cgroup ids in the kernel's records.

use std::{collections::HashMap, rc::Rc};

use netconn_common::Owner;

use crate::process::{
    cgroup::{self, Cgroup, Cgroups},
    lookup::{self, Lookup, LookupAnswer, LookupQuestion},
};

/// Shortest time between two reads of the accounts that unknown user ids cause, and between two scans of the cgroups that
/// unknown cgroups cause.
pub const LOOKUP_PAUSE_NS: u64 = 10_000_000_000;
/// How many cgroups may be created after a scan before the next one, which forgets those that were removed.
const CGROUPS_NEW_MAX: usize = 4096;

/// Accounts and cgroups, kept up to date by a [`Lookup`] thread.
#[derive(Debug)]
pub struct Names {
    users: HashMap<u32, Rc<str>>,
    cgroups: Cgroups,
    lookup: Lookup,
    version: NamesVersion,
    /// When an unknown user id last caused a question, nanoseconds since boot.
    users_asked_ns: u64,
    /// As above, for an unknown cgroup.
    cgroups_asked_ns: u64,
    /// Number of cgroups after the last scan.
    cgroups_scanned: usize,
    /// Cgroups created since the running scan was requested: it may have missed them.
    cgroups_made: Option<Vec<(u64, Vec<u8>)>>,
}

/// Changes with each answer of the look-up thread: until then, what was not found will not be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamesVersion(u64);

impl Names {
    /// Reads accounts and cgroups; this may take a while.
    pub fn new(lookup: Lookup) -> Self {
        let mut names = Self {
            users: HashMap::new(),
            cgroups: Cgroups::default(),
            lookup,
            version: NamesVersion::default(),
            users_asked_ns: 0,
            cgroups_asked_ns: 0,
            cgroups_scanned: 0,
            cgroups_made: None,
        };
        // Read here rather than by the thread: the dump that follows at once needs the names.
        names.answer(LookupAnswer::Users(lookup::users()));
        names.answer(LookupAnswer::Cgroups(cgroup::scan()));
        names
    }

    /// Returns what changes when names become known or are forgotten.
    pub fn version(&self) -> NamesVersion {
        self.version
    }

    /// Returns the account name of a socket's owner. If it is unknown, accounts are read again for later calls.
    pub fn user(&mut self, owner: &Owner, now_ns: u64) -> Option<Rc<str>> {
        let known = self.users.get(&owner.user()?).cloned();
        // The pause bounds the reads that ids without an account cause (containers use them): each would cause one
        // otherwise.
        if known.is_none()
            && now_ns.saturating_sub(self.users_asked_ns) > LOOKUP_PAUSE_NS
            && self.lookup.ask(LookupQuestion::Users)
        {
            // Only a question that was queued counts: one that was refused is asked again for the next event.
            self.users_asked_ns = now_ns;
        }
        known
    }

    /// Returns the cgroup of a socket's owner. If it is unknown, because its record was lost or the kernel forbids the programs
    /// to read its name, cgroups are scanned for later calls.
    pub fn cgroup(&mut self, owner: &Owner, now_ns: u64) -> Option<Rc<Cgroup>> {
        let known = self.cgroups.get(owner.cgroup).cloned();
        // The pause bounds the scans that cgroups cause which have been removed since.
        if known.is_none()
            && owner.cgroup != 0
            && now_ns.saturating_sub(self.cgroups_asked_ns) > LOOKUP_PAUSE_NS
            && self.scan_cgroups()
        {
            self.cgroups_asked_ns = now_ns;
        }
        known
    }

    /// Adds a cgroup that was just created.
    pub fn add_cgroup(&mut self, id: u64, path: &[u8]) {
        self.cgroups.add(id, path);
        // The kernel reports no removals, and inodes of removed cgroups are not needed any more. Scanning only when the map has
        // doubled keeps the cost of scans in proportion to the cgroups created.
        let has_doubled = self.cgroups.len() > self.cgroups_scanned * 2 + CGROUPS_NEW_MAX;
        // A scan that so many were created since will not be answered: a busy engine drops answers.
        let is_lost = self.cgroups_made.as_ref().is_some_and(|made| made.len() >= CGROUPS_NEW_MAX);
        if (has_doubled && self.cgroups_made.is_none()) || is_lost {
            // A refused question is asked again for the next cgroup. What was collected goes in any case: a later scan finds it.
            self.cgroups_made = None;
            self.scan_cgroups();
        }
        if let Some(made) = &mut self.cgroups_made {
            // The scan may have passed the parent folder already. `answer` adds what it missed.
            made.push((id, path.to_vec()));
        }
    }

    /// Asks for a scan of all cgroups; returns `false` if the queue is full.
    fn scan_cgroups(&mut self) -> bool {
        let is_asked = self.lookup.ask(LookupQuestion::Cgroups);
        if is_asked {
            // Kept if a scan runs already: its answer may still come.
            self.cgroups_made.get_or_insert_default();
        }
        is_asked
    }

    /// Takes over a result of the look-up thread.
    pub fn answer(&mut self, answer: LookupAnswer) {
        self.version.0 += 1;
        match answer {
            LookupAnswer::Users(found) if found.is_empty() => {} // The accounts cannot be read at the moment: the known ones stay.
            LookupAnswer::Users(found) => {
                self.users = found.into_iter().map(|(uid, name)| (uid, name.into())).collect();
            }
            LookupAnswer::Cgroups(found) => {
                // First the scan, then what was created meanwhile: the other way round the scan would remove it.
                self.cgroups.replace(found);
                self.cgroups_scanned = self.cgroups.len();
                for (id, path) in self.cgroups_made.take().unwrap_or_default() {
                    self.cgroups.add(id, &path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netconn_common::UNKNOWN_U32;

    use super::*;

    /// Returns names whose look-up thread answers nothing.
    fn unanswered() -> Names {
        Names::new(Lookup::start(drop).unwrap())
    }

    fn owner(uid: u32, cgroup: u64) -> Owner {
        Owner { tgid: 1, uid, cgroup, ..Owner::default() }
    }

    #[test]
    fn an_unknown_user_is_not_root() {
        let mut names = unanswered();
        assert_eq!(names.user(&owner(0, 0), 0).as_deref(), Some("root"));
        assert_eq!(names.user(&owner(UNKNOWN_U32, 0), 0), None);
        assert_eq!(names.user(&Owner::UNKNOWN, 0), None);
    }

    #[test]
    fn what_waits_for_a_scan_is_bounded_though_its_answer_never_comes() {
        let mut names = unanswered();
        for id in 0..20_000_u64 {
            names.add_cgroup(1 << 40 | id, b"/x");
            assert!(names.cgroups_made.as_ref().is_none_or(|made| made.len() <= CGROUPS_NEW_MAX));
        }
        // A scan that is answered brings the map back to what there is.
        names.answer(LookupAnswer::Cgroups(vec![(7, "/y".into())]));
        assert!(names.cgroups.len() <= 1 + CGROUPS_NEW_MAX, "{}", names.cgroups.len());
    }

    #[test]
    fn a_cgroup_whose_record_was_lost_is_found_by_a_scan() {
        let mut names = unanswered();
        let (lost, now) = (owner(0, 1 << 40), 2 * LOOKUP_PAUSE_NS);
        assert!(names.cgroup(&lost, now).is_none());
        assert!(names.cgroups_made.is_some(), "asked for");
        names.add_cgroup(1 << 41, b"/new");
        let version = names.version();
        names.answer(LookupAnswer::Cgroups(vec![(1 << 40, "/lost".into())]));
        assert_ne!(names.version(), version, "members that lack a name are made again");
        assert_eq!(names.cgroup(&lost, now).unwrap().path, "/lost");
        assert_eq!(names.cgroup(&owner(0, 1 << 41), now).unwrap().path, "/new", "made while the scan ran");
        // A cgroup that no scan finds causes one scan in each pause.
        let removed = owner(0, 1 << 42);
        assert!(names.cgroup(&removed, now + 1).is_none() && names.cgroups_made.is_none());
        assert!(names.cgroup(&removed, now + 2 * LOOKUP_PAUSE_NS).is_none() && names.cgroups_made.is_some());
    }
}
