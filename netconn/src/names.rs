//! Names of the user ids and cgroup ids in the kernel's records.

use std::{collections::HashMap, rc::Rc};

use netconn_common::Owner;

use crate::process::{
    cgroup::{self, Cgroup, Cgroups},
    lookup::{self, Lookup, LookupAnswer, LookupQuestion},
};

/// Shortest time between two reads of the accounts that unknown user ids cause.
const USERS_PAUSE_NS: u64 = 10_000_000_000;
/// How many cgroups may be created after a scan before the next one, which forgets those that were removed.
const CGROUPS_NEW_MAX: usize = 4096;

/// Accounts and cgroups, kept up to date by a [`Lookup`] thread.
#[derive(Debug)]
pub struct Names {
    users: HashMap<u32, Rc<str>>,
    cgroups: Cgroups,
    lookup: Lookup,
    users_asked_ns: u64,
    /// Number of cgroups after the last scan.
    cgroups_scanned: usize,
    /// Cgroups created since the running scan was requested: it may have missed them.
    cgroups_made: Option<Vec<(u64, Vec<u8>)>>,
}

impl Names {
    /// Reads accounts and cgroups; this may take a while.
    pub fn new(lookup: Lookup) -> Self {
        let mut names = Self {
            users: HashMap::new(),
            cgroups: Cgroups::default(),
            lookup,
            users_asked_ns: 0,
            cgroups_scanned: 0,
            cgroups_made: None,
        };
        // Read here rather than by the thread: the dump that follows at once needs the names.
        names.answer(LookupAnswer::Users(lookup::users()));
        names.answer(LookupAnswer::Cgroups(cgroup::scan()));
        names
    }

    /// Returns the account name of a user id. If it is unknown, accounts are read again for the next call.
    pub fn user(&mut self, uid: u32, now_ns: u64) -> Option<Rc<str>> {
        let known = self.users.get(&uid).cloned();
        // The pause bounds the reads that ids without an account cause (containers use them): each would cause one
        // otherwise.
        if known.is_none()
            && now_ns.saturating_sub(self.users_asked_ns) > USERS_PAUSE_NS
            && self.lookup.ask(LookupQuestion::Users)
        {
            // Only a question that was queued counts: one that was refused is asked again for the next event.
            self.users_asked_ns = now_ns;
        }
        known
    }

    /// Returns the cgroup of a socket's owner.
    pub fn cgroup(&self, owner: &Owner) -> Option<Rc<Cgroup>> {
        self.cgroups.get(owner.cgroup).cloned()
    }

    /// Adds a cgroup that was just created.
    pub fn add_cgroup(&mut self, id: u64, path: &[u8]) {
        self.cgroups.add(id, path);
        if let Some(made) = self.cgroups_made.as_mut().filter(|made| made.len() < CGROUPS_NEW_MAX) {
            // The scan may have passed the parent folder already. `answer` adds what it missed.
            made.push((id, path.to_vec()));
        // Also when too many wait for the answer of a scan, which the engine may have been too busy to take. The kernel
        // reports no removals, and inodes of removed cgroups are not needed any more. Scanning only when the map has
        // doubled keeps the cost of scans in proportion to the cgroups created.
        } else if self.cgroups.len() > self.cgroups_scanned * 2 + CGROUPS_NEW_MAX
            && self.lookup.ask(LookupQuestion::Cgroups)
        {
            self.cgroups_made = Some(vec![(id, path.to_vec())]);
        }
    }

    /// Takes over a result of the look-up thread.
    pub fn answer(&mut self, answer: LookupAnswer) {
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
    use super::*;

    #[test]
    fn an_answer_that_never_comes_costs_no_memory() {
        let mut names = Names::new(Lookup::start(drop).unwrap());
        (0..100_000).for_each(|id| names.add_cgroup(id << 32, b"/a"));
        assert!(names.cgroups_made.is_some_and(|made| made.len() <= CGROUPS_NEW_MAX));
    }
}
