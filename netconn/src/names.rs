//! Names for the numbers in the kernel's records: accounts and cgroups.

use std::{collections::HashMap, rc::Rc};

use netconn_common::Owner;

use crate::process::{
    cgroup::{self, Cgroup, Cgroups},
    lookup::{self, Answer, Lookup, Question},
};

/// How long to wait before accounts are read again because of an unknown user id.
const USERS_AGAIN_NS: u64 = 10_000_000_000;
/// cgroups made since the last scan before the removed ones are swept out.
const CGROUPS_AGAIN: usize = 4096;

/// Accounts and cgroups, kept up to date by a [`Lookup`] thread.
#[derive(Debug)]
pub struct Names {
    users: HashMap<u32, Rc<str>>,
    cgroups: Cgroups,
    lookup: Lookup,
    users_asked_ns: u64,
    /// Number of cgroups after the last scan, and those made since a scan was asked for.
    cgroups_scanned: usize,
    cgroups_made: Option<Vec<(u64, Vec<u8>)>>,
}

impl Names {
    /// Reads accounts and cgroups; this may take a while.
    pub fn new(lookup: Lookup) -> Self {
        let mut directory = Self {
            users: HashMap::new(),
            cgroups: Cgroups::default(),
            lookup,
            users_asked_ns: 0,
            cgroups_scanned: 0,
            cgroups_made: None,
        };
        directory.answer(Answer::Users(lookup::users()));
        directory.answer(Answer::Cgroups(cgroup::scan()));
        directory
    }

    /// Account name of a user id. If it is unknown, accounts are read again, for the next time.
    pub fn user(&mut self, uid: u32, now_ns: u64) -> Option<Rc<str>> {
        let known = self.users.get(&uid).cloned();
        if known.is_none()
            && now_ns.saturating_sub(self.users_asked_ns) > USERS_AGAIN_NS
            && self.lookup.ask(Question::Users)
        {
            self.users_asked_ns = now_ns;
        }
        known
    }

    /// The cgroup of a socket's owner.
    pub fn cgroup(&self, owner: &Owner) -> Option<Rc<Cgroup>> {
        self.cgroups.get(owner.cgroup).cloned()
    }

    /// A cgroup was made.
    pub fn add_cgroup(&mut self, id: u64, path: &[u8]) {
        self.cgroups.add(id, path);
        if let Some(made) = &mut self.cgroups_made {
            made.push((id, path.to_vec()));
        } else if self.cgroups.len() > self.cgroups_scanned * 2 + CGROUPS_AGAIN && self.lookup.ask(Question::Cgroups) {
            self.cgroups_made = Some(vec![(id, path.to_vec())]);
        }
    }

    /// Takes an answer of the look-up thread.
    pub fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Users(found) if found.is_empty() => {} // Not readable now; what is known stays.
            Answer::Users(found) => self.users = found.into_iter().map(|(uid, name)| (uid, name.into())).collect(),
            Answer::Cgroups(found) => {
                self.cgroups.replace(found);
                self.cgroups_scanned = self.cgroups.len();
                for (id, path) in self.cgroups_made.take().unwrap_or_default() {
                    self.cgroups.add(id, &path);
                }
            }
        }
    }
}
