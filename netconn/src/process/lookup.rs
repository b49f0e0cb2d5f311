//! Threads for slow look-ups (accounts can be on a network, cgroups are a directory tree): the engine never waits for them.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    unistd::{Uid, User},
};

use crate::{interfaces, os, process::cgroup};

/// Most user ids in the queue; further ones are refused and asked for again later.
const USERS_MAX: usize = 1024;
/// Most questions for cgroups in the queue.
const SCANS_MAX: usize = 16;
/// Most network namespaces in the queue.
const NAMESPACES_MAX: usize = 16;
/// The accounts of this machine alone.
const ACCOUNT_FILE: &str = "/etc/passwd";
/// How often the file is looked at.
const FILE_PAUSE: Duration = Duration::from_secs(1);

/// An answer of a thread.
#[derive(Debug)]
pub enum LookupAnswer {
    /// The name of the account that has this Unix user id; `None` if no account has it.
    User(u32, nix::Result<Option<String>>),
    /// User ids and names of the accounts in the file: it has changed.
    AccountFile(Vec<(u32, String)>),
    /// Inode and path of each cgroup.
    Cgroups(Vec<(u64, String)>),
    /// Index and name of each interface of the network namespace with this inode.
    Interfaces(u32, io::Result<Vec<(u32, String)>>),
}

/// Sends questions to the threads, and receives their answers.
#[derive(Debug)]
pub struct Lookup {
    users: SyncSender<u32>,
    cgroups: SyncSender<()>,
    interfaces: SyncSender<u32>,
    answers: Receiver<LookupAnswer>,
}

impl Lookup {
    /// Starts the threads; they call `wake` when there is an answer.
    ///
    /// # Errors
    ///
    /// When the system cannot start a thread.
    pub fn start(wake: impl Fn() + Clone + Send + 'static) -> io::Result<Self> {
        Self::start_with(wake, account, ACCOUNT_FILE.into())
    }

    fn start_with(
        wake: impl Fn() + Clone + Send + 'static,
        look_up: impl Fn(u32) -> nix::Result<Option<String>> + Send + 'static,
        file: PathBuf,
    ) -> io::Result<Self> {
        // Not bounded: there is one answer for each question, and the questions are bounded.
        let (sender, answers) = channel();
        let (users, user_questions) = sync_channel(USERS_MAX);
        let (cgroups, cgroup_questions) = sync_channel(SCANS_MAX);
        let (interfaces, interface_questions) = sync_channel(NAMESPACES_MAX);
        let to_engine = Answers { sender, wake };
        let of_users = to_engine.clone();
        // The threads end when the `Lookup` is dropped. Nobody joins them: a look-up may take long.
        thread::Builder::new().name("netconn-users".into()).spawn(move || {
            os::lower_thread_priority();
            while let Ok(uid) = user_questions.recv() {
                of_users.send(LookupAnswer::User(uid, look_up(uid)));
            }
        })?;
        let of_interfaces = to_engine.clone();
        // Whoever makes many processes or namespaces makes its searches slow.
        thread::Builder::new().name("netconn-links".into()).spawn(move || {
            os::lower_thread_priority();
            while let Ok(namespace) = interface_questions.recv() {
                of_interfaces.send(LookupAnswer::Interfaces(namespace, interfaces::read(namespace)));
            }
        })?;
        // A thread of its own for what this machine answers by itself: a directory service that hangs would keep units, containers
        // and new accounts of the file from events too.
        thread::Builder::new()
            .name("netconn-local".into())
            .spawn(move || answer_locally(&cgroup_questions, &file, &to_engine))?;
        Ok(Self { users, cgroups, interfaces, answers })
    }

    /// Returns one without threads, that never answers.
    #[cfg(test)]
    pub fn deaf() -> Self {
        let (users, user_questions) = sync_channel(1);
        let (cgroups, cgroup_questions) = sync_channel(1);
        let (interfaces, interface_questions) = sync_channel(NAMESPACES_MAX);
        let (sender, answers) = channel();
        // Their ends would be noticed.
        Box::leak(Box::new((user_questions, cgroup_questions, interface_questions, sender)));
        Self { users, cgroups, interfaces, answers }
    }

    /// Asks for the account of a user id; returns `false` if the queue is full.
    pub fn ask_user(&self, uid: u32) -> bool {
        self.users.try_send(uid).is_ok()
    }

    /// Asks for all cgroups; returns `false` if the queue is full.
    pub fn ask_cgroups(&self) -> bool {
        self.cgroups.try_send(()).is_ok()
    }

    /// Asks for the interfaces of a network namespace, by its inode; returns `false` if the queue is full.
    pub fn ask_interfaces(&self, namespace: u32) -> bool {
        self.interfaces.try_send(namespace).is_ok()
    }

    /// Returns the next answer; waits for it until `patience` is over.
    pub fn next_answer(&self, patience: Duration) -> Option<LookupAnswer> {
        self.answers.recv_timeout(patience).ok()
    }
}

/// The way back from a thread.
#[derive(Clone)]
struct Answers<W> {
    sender: Sender<LookupAnswer>,
    wake: W,
}

impl<W: Fn()> Answers<W> {
    fn send(&self, answer: LookupAnswer) {
        // An error means that the engine has ended.
        if self.sender.send(answer).is_ok() {
            (self.wake)();
        }
    }
}

fn answer_locally<W: Fn()>(cgroup_questions: &Receiver<()>, file: &Path, answers: &Answers<W>) {
    os::lower_thread_priority();
    let mut stamp = file_stamp(file);
    loop {
        match cgroup_questions.recv_timeout(FILE_PAUSE) {
            Ok(()) => answers.send(LookupAnswer::Cgroups(cgroup::scan())),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        // So that an account that is made now has its name in its first event: who connects does not wait for an answer.
        let now = file_stamp(file);
        if now != stamp {
            stamp = now;
            answers.send(LookupAnswer::AccountFile(accounts_of(file)));
        }
    }
}

/// Returns what changes with the file of accounts: `useradd` replaces it, an editor may write into it.
fn file_stamp(file: &Path) -> Option<(u64, i64, i64, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
}

/// Asks the system (`getpwuid_r`, and so all that nsswitch.conf names) for the account of a user id. May take long.
fn account(uid: u32) -> nix::Result<Option<String>> {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(user) => Ok(user.map(|user| user.name)),
        // Some services say so that there is no such account (getpwuid_r(3), ERRORS).
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Returns user ids and names of the accounts in the file, in its order; none if it cannot be read.
pub fn accounts_of_file() -> Vec<(u32, String)> {
    accounts_of(ACCOUNT_FILE.as_ref())
}

fn accounts_of(file: &Path) -> Vec<(u32, String)> {
    // Not all of it need be UTF-8: comments have the letters of whoever wrote them.
    let text = fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(account_of_line).collect()
}

fn account_of_line(line: &str) -> Option<(u32, String)> {
    let mut parts = line.split(':');
    let name = parts.next().filter(|name| !name.is_empty())?;
    // Lines of NIS (`+::::::`) have no number.
    Some((parts.nth(1)?.parse().ok()?, name.to_owned()))
}

/// Whether this program is linked statically. Such a program cannot load the libraries that nsswitch.conf names: it knows the
/// accounts of /etc/passwd only.
pub const IS_STATIC: bool = cfg!(any(target_env = "musl", target_feature = "crt-static"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_asked_for_one_by_one() {
        const STRANGER: u32 = 4_123_456_789;
        let lookup = Lookup::start(|| ()).unwrap();
        for uid in [0, STRANGER] {
            assert!(lookup.ask_user(uid));
        }
        let name = || match lookup.next_answer(Duration::from_secs(60)) {
            Some(LookupAnswer::User(uid, name)) => (uid, name.unwrap()),
            other => panic!("{other:?}"),
        };
        assert_eq!(name(), (0, Some("root".into())));
        assert_eq!(name(), (STRANGER, None));
    }

    #[test]
    fn a_directory_service_that_hangs_hides_no_change_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passwd");
        fs::write(&file, "root:x:0:0::/:/bin/sh\n").unwrap();
        let (release, hangs) = channel::<()>();
        let service = move |_| {
            let _ = hangs.recv();
            Ok(None)
        };
        let lookup = Lookup::start_with(|| (), service, file.clone()).unwrap();
        assert!(lookup.ask_user(5));
        // The thread takes the stamp of the file when it starts.
        assert!(lookup.ask_cgroups());
        assert!(matches!(lookup.next_answer(Duration::from_secs(60)), Some(LookupAnswer::Cgroups(_))));
        fs::write(&file, "root:x:0:0::/:/bin/sh\nnew:x:7:7::/:/bin/sh\n").unwrap();
        let answer = lookup.next_answer(Duration::from_secs(60));
        assert!(
            matches!(&answer, Some(LookupAnswer::AccountFile(found)) if found.contains(&(7, "new".into()))),
            "{answer:?}"
        );
        drop(release);
        assert!(matches!(lookup.next_answer(Duration::from_secs(60)), Some(LookupAnswer::User(5, Ok(None)))));
    }

    #[test]
    fn no_account_of_the_file_is_left_out() {
        assert!(accounts_of_file().contains(&(0, "root".into())));
        let of = |line| account_of_line(line);
        // sysinfo left out such shells, and such numbers.
        assert_eq!(of("memcache:x:108:112:Memcached,,,:/nonexistent:/bin/false"), Some((108, "memcache".into())));
        assert_eq!(of("big:x:4000000000:1::/:/bin/sh"), Some((4_000_000_000, "big".into())));
        assert_eq!((of("+::::::"), of(""), of("x"), of("x:y:-1:")), (None, None, None, None));
    }
}
