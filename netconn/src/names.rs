//! Names of the user ids and cgroup ids in the kernel's records.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    time::{Duration, Instant},
};

use netconn_common::Owner;

use crate::{
    interfaces::Interfaces,
    patience::Patience,
    process::{
        Key,
        cgroup::{self, Cgroup, Cgroups, V1Cgroups},
        lookup::{self, Lookup, LookupAnswer},
    },
};

/// Shortest time between two scans of the cgroups that unknown cgroups cause.
pub const LOOKUP_PAUSE_NS: u64 = 10_000_000_000;
/// How long the name of an account is taken for granted.
pub const KNOWN_NS: u64 = 600_000_000_000;
/// How long it is taken for granted that a user id has no account, and how long an answer is waited for before the question is
/// repeated.
const UNKNOWN_NS: u64 = 60_000_000_000;
/// Most user ids that are remembered: containers have ids without accounts, and who may map ids uses as many as they like.
const ACCOUNTS_MAX: usize = 65_536;
/// How long the names of a namespace's interfaces are waited for where nobody else waits meanwhile.
const INTERFACES_PATIENCE: Duration = Duration::from_secs(2);
/// How many cgroups may be created after a scan before the next one, which forgets those that were removed.
const CGROUPS_NEW_MAX: usize = 4096;

/// Accounts and cgroups, kept up to date by the threads of a [`Lookup`].
#[derive(Debug)]
pub struct Names {
    /// By user id.
    accounts: HashMap<u32, Account>,
    cgroups: Cgroups,
    interfaces: Interfaces,
    /// For answers about interfaces; `None`: nobody else waits meanwhile.
    patience: Option<Patience>,
    /// What hierarchies of v1 say of processes; none where v2 is alone.
    v1: Option<V1Cgroups>,
    lookup: Lookup,
    version: NamesVersion,
    /// When an unknown cgroup last caused a question, nanoseconds since boot.
    cgroups_asked_ns: u64,
    /// Number of cgroups after the last scan.
    cgroups_scanned: usize,
    scans: Scans,
}

/// Scans of the cgroups that were asked for and are not answered yet.
#[derive(Debug, Default)]
struct Scans {
    /// How many they are.
    unanswered: usize,
    /// How many of them, the first ones, were asked for before [`Self::made`] begins: they may lack cgroups that nobody remembers.
    outdated: usize,
    /// Cgroups created since the first of the others was asked for: it may have missed them.
    made: Vec<(u64, Vec<u8>)>,
}

/// What is known of a user id.
#[derive(Debug)]
struct Account {
    /// Kept while it is asked for again.
    name: Option<Rc<str>>,
    /// When it is asked for again, if somebody wants it, nanoseconds since boot.
    until_ns: u64,
}

/// Changes with each answer that brings something new: until then, what was not found will not be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamesVersion(u64);

impl Names {
    /// Reads the accounts of this machine's file, and cgroups; this may take a while.
    pub fn new(lookup: Lookup) -> Self {
        let mut names = Self {
            accounts: HashMap::new(),
            cgroups: Cgroups::default(),
            interfaces: Interfaces::default(),
            patience: Some(Patience::default()),
            v1: cgroup::has_v1().then(V1Cgroups::default),
            lookup,
            version: NamesVersion::default(),
            cgroups_asked_ns: 0,
            cgroups_scanned: 0,
            scans: Scans::default(),
        };
        // Read here rather than by the threads: the dump that follows at once needs the names, and so does the first event of
        // each account.
        names.take(LookupAnswer::AccountFile(lookup::accounts_of_file()), 0);
        names.replace_cgroups(cgroup::scan());
        names
    }

    /// Returns what changes when names become known or are forgotten.
    pub fn version(&self) -> NamesVersion {
        self.version
    }

    /// Returns the account name of a socket's owner. If it is unknown, or known for long, it is asked for, for later calls.
    pub fn user(&mut self, owner: &Owner, now_ns: u64) -> Option<Rc<str>> {
        self.account(owner.user()?, now_ns)
    }

    /// As [`Self::user`], for a Unix user id.
    pub fn account(&mut self, uid: u32, now_ns: u64) -> Option<Rc<str>> {
        let account = self.accounts.get(&uid);
        let name = account.and_then(|account| account.name.clone());
        // Only a question that was queued counts: one that was refused is asked again for the next event.
        if account.is_none_or(|account| account.until_ns <= now_ns) && self.lookup.ask_user(uid) {
            self.keep(uid, Account { name: name.clone(), until_ns: now_ns.saturating_add(UNKNOWN_NS) }, now_ns);
        }
        name
    }

    /// Has the names of interfaces waited for as long as they take, however many namespaces there are: for a command that lists.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { patience: None, ..self }
    }

    /// Returns the name of an interface, by the inode of its network namespace and its index there; the index itself if no name is
    /// known. 0 stands for no interface.
    ///
    /// A name that is not known is waited for, because most sockets have one event, which must have it; but not longer than a
    /// [`Patience`] allows. After that, and for what has no name, events have the index.
    pub fn interface(&mut self, namespace: u32, index: u32, now_ns: u64) -> Option<Rc<str>> {
        if self.interfaces.is_due(namespace, index, now_ns)
            && (self.patience.is_none() || self.interfaces.may_look(now_ns))
            && self.lookup.ask_interfaces(namespace)
        {
            self.interfaces.asked(namespace, now_ns);
            let began = Instant::now();
            let limit = self.patience.as_ref().map_or(INTERFACES_PATIENCE, |patience| patience.left(began));
            let mut is_answered = false;
            while !is_answered && let Some(answer) = self.lookup.next_answer(limit.saturating_sub(began.elapsed())) {
                is_answered = matches!(answer, LookupAnswer::Interfaces(of, _) if of == namespace);
                self.take(answer, now_ns);
            }
            if let Some(patience) = &mut self.patience {
                patience.spend(Instant::now(), began.elapsed());
            }
        }
        self.interfaces.name(namespace, index)
    }

    /// Waits until the accounts of these owners are known, as long as `limit` in all: a directory service may hang.
    pub fn settle<'a>(&mut self, owners: impl Iterator<Item = &'a Owner>, now_ns: u64, limit: Duration) {
        let until = Instant::now() + limit;
        let mut waiting = HashSet::new();
        for owner in owners {
            let Some(uid) = owner.user() else { continue };
            // Those of the file are known; whoever else is not there yet is asked for once.
            if !self.accounts.contains_key(&uid) {
                self.user(owner, now_ns);
                if self.accounts.contains_key(&uid) {
                    waiting.insert(uid);
                }
            }
        }
        while !waiting.is_empty() {
            let Some(answer) = self.lookup.next_answer(until.saturating_duration_since(Instant::now())) else { return };
            if let LookupAnswer::User(uid, _) = answer {
                waiting.remove(&uid);
            }
            self.take(answer, now_ns);
        }
    }

    /// Keeps what is known of a user id.
    fn keep(&mut self, uid: u32, account: Account, now_ns: u64) {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&uid) {
            self.accounts.retain(|_, account| account.name.is_some() && account.until_ns > now_ns);
            // Asked for again when they are wanted.
            if self.accounts.len() >= ACCOUNTS_MAX {
                self.accounts.clear();
            }
        }
        self.accounts.insert(uid, account);
    }

    /// Returns the cgroup of a socket's owner. If it is unknown, because its record was lost or the kernel forbids the programs
    /// to read its name, cgroups are scanned for later calls. Where v1 is mounted, it has the unit and the container of that too.
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
        let has_container = known.as_ref().is_some_and(|cgroup| cgroup.container.is_some());
        let Some(v1) = self.v1.as_mut().filter(|_| owner.tgid != 0 && !has_container) else { return known };
        // Read here and not by a thread: most processes have one connection, whose event must have it.
        v1.of(Key::of(owner), (owner.cgroup, known.as_ref()), now_ns).or(known)
    }

    /// Returns how long the cgroup of a process is taken for granted.
    pub fn cgroup_age_ns(&self) -> u64 {
        if self.v1.is_some() { cgroup::V1_AGE_NS } else { KNOWN_NS }
    }

    /// Adds a cgroup that was just created.
    pub fn add_cgroup(&mut self, id: u64, path: &[u8]) {
        self.cgroups.add(id, path);
        // The kernel reports no removals, and inodes of removed cgroups are not needed any more. Scanning only when the map has
        // doubled keeps the cost of scans in proportion to the cgroups created.
        let has_doubled = self.cgroups.len() > self.cgroups_scanned * 2 + CGROUPS_NEW_MAX;
        // What waits for the answer of a scan has an end, also if the answer takes long. A later scan finds it.
        let is_full = self.scans.made.len() >= CGROUPS_NEW_MAX;
        if is_full {
            self.scans.made.clear();
            self.scans.outdated = self.scans.unanswered;
        }
        if is_full || (has_doubled && self.scans.unanswered == 0) {
            // A refused question is asked again for the next cgroup.
            self.scan_cgroups();
        }
        if self.scans.unanswered > self.scans.outdated {
            // The scan may have passed the parent folder already. `answer_scan` adds what it missed.
            self.scans.made.push((id, path.to_vec()));
        }
    }

    /// Asks for a scan of all cgroups; returns `false` if the queue is full.
    fn scan_cgroups(&mut self) -> bool {
        let is_asked = self.lookup.ask_cgroups();
        self.scans.unanswered += usize::from(is_asked);
        is_asked
    }

    /// Takes over the answer of a scan, in the order in which scans were asked for.
    fn answer_scan(&mut self, found: Vec<(u64, String)>) {
        self.scans.unanswered = self.scans.unanswered.saturating_sub(1);
        if self.scans.outdated > 0 {
            self.scans.outdated -= 1;
            // It may lack some that were created since and that nobody remembers: all that are known stay.
            found.into_iter().for_each(|(id, path)| self.cgroups.add(id, path.as_bytes()));
            return;
        }
        // First the scan, then what was created meanwhile: the other way round the scan would remove it.
        self.replace_cgroups(found);
        self.scans.made.iter().for_each(|(id, path)| self.cgroups.add(*id, path));
        // The next scan may miss the same ones: it was asked for before it was known what this one has found.
        if self.scans.unanswered == 0 {
            self.scans.made = Vec::new();
        }
    }

    fn replace_cgroups(&mut self, found: Vec<(u64, String)>) {
        self.cgroups.replace(found);
        self.cgroups_scanned = self.cgroups.len();
    }

    /// Takes over the answers of the look-up threads that are there.
    pub fn take_answers(&mut self, now_ns: u64) {
        while let Some(answer) = self.lookup.next_answer(Duration::ZERO) {
            self.take(answer, now_ns);
        }
    }

    /// Takes over an answer.
    fn take(&mut self, answer: LookupAnswer, now_ns: u64) {
        match answer {
            LookupAnswer::User(uid, found) => {
                let before = self.accounts.get(&uid).and_then(|account| account.name.clone());
                let name = match found {
                    // Without a copy if it is the same, as nearly always.
                    Ok(name) if name.as_deref() == before.as_deref() => before.clone(),
                    Ok(name) => name.map(Into::into),
                    // The service does not answer at the moment: what it has said before holds.
                    Err(_) => before.clone(),
                };
                self.version.0 += u64::from(name != before);
                let age = if name.is_some() { KNOWN_NS } else { UNKNOWN_NS };
                self.keep(uid, Account { name, until_ns: now_ns.saturating_add(age) }, now_ns);
            }
            LookupAnswer::AccountFile(found) => {
                self.version.0 += 1;
                // Others may have gone with the change. All are asked for when they are wanted, also those of the file: it is only
                // one of the services that the system asks.
                self.accounts.values_mut().for_each(|account| account.until_ns = 0);
                // Of two names for one id the first is the one that the system returns, so it is the last to be kept.
                for (uid, name) in found.into_iter().take(ACCOUNTS_MAX).rev() {
                    self.accounts.insert(uid, Account { name: Some(name.into()), until_ns: 0 });
                }
            }
            LookupAnswer::Cgroups(found) => {
                self.version.0 += 1;
                self.answer_scan(found);
            }
            LookupAnswer::Interfaces(namespace, found) => self.interfaces.take(namespace, found),
        }
    }

    /// As [`Self::take_answers`], for an answer that a test makes.
    #[cfg(test)]
    pub(crate) fn learn(&mut self, answer: LookupAnswer, now_ns: u64) {
        self.take(answer, now_ns);
    }
}

#[cfg(test)]
mod tests {
    use netconn_common::UNKNOWN_U32;

    use super::*;

    /// Returns names that take no answer unless a test hands it to them.
    fn unanswered() -> Names {
        Names::new(Lookup::start(|| ()).unwrap())
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
            assert!(names.scans.made.len() <= CGROUPS_NEW_MAX);
        }
        // The answers of scans that were asked for before something was forgotten take nothing away; the last one brings the map
        // back to what there is.
        let (unanswered, outdated) = (names.scans.unanswered, names.scans.outdated);
        assert_eq!((unanswered - outdated, outdated > 0), (1, true));
        for answer in 1..=unanswered {
            let before = names.cgroups.len();
            names.take(LookupAnswer::Cgroups(vec![(7, "/y".into())]), 0);
            assert_eq!(names.cgroups.len() >= before, answer < unanswered);
            assert!(names.cgroups.get(7).is_some() && names.cgroups.get(1 << 40 | 19_999).is_some());
        }
        assert!(names.cgroups.len() <= 1 + CGROUPS_NEW_MAX, "{}", names.cgroups.len());
        assert_eq!((names.scans.unanswered, names.scans.made.capacity()), (0, 0));
    }

    #[test]
    fn a_cgroup_that_two_scans_have_missed_stays() {
        let mut names = unanswered();
        assert!(names.scan_cgroups() && names.scan_cgroups());
        names.add_cgroup(1 << 41, b"/new");
        // Both have passed its parent before it was created.
        for _ in 0..2 {
            names.take(LookupAnswer::Cgroups(vec![(7, "/y".into())]), 0);
            assert!(names.cgroups.get(1 << 41).is_some());
        }
        names.add_cgroup(1 << 42, b"/later");
        assert!(names.scans.made.is_empty(), "no scan runs");
    }

    #[test]
    fn a_cgroup_whose_record_was_lost_is_found_by_a_scan() {
        let mut names = unanswered();
        let (lost, now) = (owner(0, 1 << 40), 2 * LOOKUP_PAUSE_NS);
        assert!(names.cgroup(&lost, now).is_none());
        assert_eq!(names.scans.unanswered, 1, "asked for");
        names.add_cgroup(1 << 41, b"/new");
        let version = names.version();
        names.take(LookupAnswer::Cgroups(vec![(1 << 40, "/lost".into())]), now);
        assert_ne!(names.version(), version, "members that lack a name are made again");
        assert_eq!(names.cgroup(&lost, now).unwrap().path, "/lost");
        assert_eq!(names.cgroup(&owner(0, 1 << 41), now).unwrap().path, "/new", "made while the scan ran");
        // A cgroup that no scan finds causes one scan in each pause.
        let removed = owner(0, 1 << 42);
        assert!(names.cgroup(&removed, now + 1).is_none() && names.scans.unanswered == 0);
        assert!(names.cgroup(&removed, now + 2 * LOOKUP_PAUSE_NS).is_none() && names.scans.unanswered == 1);
    }

    /// A user id that no machine has.
    const STRANGER: u32 = 4_000_000_000;

    #[test]
    fn an_account_that_is_made_later_becomes_known() {
        let (mut names, owner) = (unanswered(), owner(STRANGER, 0));
        assert_eq!(names.user(&owner, 1), None);
        let version = names.version();
        names.take(LookupAnswer::User(STRANGER, Ok(None)), 1);
        assert_eq!(names.version(), version, "nothing new");
        assert_eq!(names.accounts[&STRANGER].until_ns, 1 + UNKNOWN_NS, "not asked for until then");
        assert_eq!(names.user(&owner, 2 + UNKNOWN_NS), None);
        assert_eq!(names.accounts[&STRANGER].until_ns, 2 + 2 * UNKNOWN_NS, "asked again");
        let now = 3 + UNKNOWN_NS;
        names.take(LookupAnswer::User(STRANGER, Ok(Some("new".into()))), now);
        assert_ne!(names.version(), version, "members that lack a name are made again");
        assert_eq!(names.user(&owner, now).as_deref(), Some("new"));
        // The name stays while it is asked for again, and when the service does not answer.
        let later = now + KNOWN_NS;
        assert_eq!(names.user(&owner, later).as_deref(), Some("new"));
        names.take(LookupAnswer::User(STRANGER, Err(nix::errno::Errno::EIO)), later);
        assert_eq!(names.user(&owner, later).as_deref(), Some("new"));
        names.take(LookupAnswer::User(STRANGER, Ok(None)), later);
        assert_eq!(names.user(&owner, later), None, "removed");
        names.take(LookupAnswer::AccountFile(vec![(STRANGER, "first".into()), (STRANGER, "second".into())]), later);
        assert_eq!(names.user(&owner, later).as_deref(), Some("first"));
    }

    #[test]
    fn the_start_waits_for_accounts_but_not_for_ever() {
        let mut names = unanswered();
        let owner = owner(STRANGER, 0);
        names.settle([&owner, &Owner::UNKNOWN].into_iter(), 0, Duration::from_secs(60));
        assert_eq!(names.accounts[&STRANGER].until_ns, UNKNOWN_NS, "answered");
        // A thread that never answers.
        let (since, limit) = (Instant::now(), Duration::from_millis(50));
        names.lookup = Lookup::deaf();
        names.accounts.clear();
        names.settle([&owner].into_iter(), 0, limit);
        assert!((limit..limit * 100).contains(&since.elapsed()));
    }

    #[test]
    fn names_of_interfaces_are_waited_for_but_not_for_ever() {
        let own = u32::try_from(crate::kernel::iterate::own_namespace().unwrap()).unwrap();
        let mut names = unanswered().patient();
        assert_eq!(names.interface(own, 1, 1).as_deref(), Some("lo"), "in the first event");
        assert_eq!((names.interface(own, 0, 1), names.interface(own, 999_999, 2).as_deref()), (None, Some("999999")));
        assert_eq!(names.interface(1, 1, 3).as_deref(), Some("1"), "no such namespace");
        // A thread that never answers: strangers' namespaces, each new.
        let mut names = unanswered();
        names.lookup = Lookup::deaf();
        let since = Instant::now();
        for namespace in 1..1000 {
            assert_eq!(names.interface(namespace, 7, u64::from(namespace) * 1_000_000_000).as_deref(), Some("7"));
        }
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        // The answer comes later.
        names.take(LookupAnswer::Interfaces(1, Ok(vec![(7, "eth0".into())])), 2);
        assert_eq!(names.interface(1, 7, 1_000_000_001).as_deref(), Some("eth0"));
    }

    #[test]
    fn what_is_remembered_of_accounts_is_bounded() {
        let mut names = unanswered();
        for uid in 0..100_000 {
            names.take(LookupAnswer::User(uid, Ok((uid % 3 == 0).then(|| "x".to_owned()))), 1);
            assert!(names.accounts.len() <= ACCOUNTS_MAX);
        }
    }
}
