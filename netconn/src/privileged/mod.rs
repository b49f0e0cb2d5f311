//! What the daemon may do, and the child that does for it what takes a privilege.
//!
//! The daemon loads and attaches its programs and has no capability from then on. What goes on to take one is done by a child that is
//! forked before anything else: it opens files and sockets in other network namespaces and hands their descriptors over, and reads
//! which executables processes have. It takes requests of a fixed size over a socket pair, parses nothing, and has `CAP_SYS_ADMIN` (to
//! enter namespaces) and `CAP_SYS_PTRACE` (to look at processes of others) only. Commands that run without a daemon do the same by
//! themselves: [`ask`] is the one way for both.

pub mod rights;
pub mod filter;
mod paths;
mod request;
mod open;
mod server;
mod client;
pub mod namespaces;
pub mod account;

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    path::PathBuf,
    sync::OnceLock,
};

use netconn_model::{
    config::{Config, SystemCallFilter},
    health::Enforcement,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tracing::warn;

pub use self::open::NetFile;
use self::{
    account::Account,
    client::Client,
    request::{Answer, Kind, PIDS_MAX, Request, UNKNOWN_LENGTH},
};

/// Capabilities of the child, as far as the daemon has them at its start.
pub const OF_CHILD: u64 = rights::SYS_ADMIN | rights::SYS_PTRACE;

/// The connection to the child of this process, if it has one.
static CHILD: OnceLock<Client> = OnceLock::new();

/// The child, for health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildStatus {
    /// Its process id.
    pub pid: u32,
    /// Its capabilities, a bit each.
    pub capabilities: u64,
    /// It still answers.
    pub is_alive: bool,
    /// Requests that it has not answered, in time or at all.
    pub failures: u64,
}

/// Forks the child with those of the capabilities [`OF_CHILD`] that this process has; without any, there is none. It becomes
/// `account`, if that is given, and ends with this process. To be called while this process has one thread.
///
/// # Errors
///
/// When the system gives no process.
pub fn fork(account: Option<&Account>, filter: SystemCallFilter) -> io::Result<()> {
    let capabilities = rights::permitted()? & OF_CHILD;
    if capabilities == 0 {
        return Ok(());
    }
    let kind = SockType::SeqPacket;
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    let parent = std::process::id();
    // SAFETY: this process has one thread, so the child may do whatever the parent could.
    match unsafe { libc::fork() } {
        0 => {
            drop(ours);
            server::run(&theirs, parent, capabilities, (account, filter))
        }
        pid if pid > 0 => {
            let child = Client::new(ours, pid.cast_unsigned(), capabilities)?;
            // It is set once: a daemon starts once in a process.
            let _ = CHILD.set(child);
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps this process, from its only thread on, from writing elsewhere than in its folders, and from other system calls than those of
/// its list. Returns how far the first goes, and whether there is a list: the daemon goes on with less, and says so.
pub fn confine(config: &Config) -> (Enforcement, bool) {
    let landlock = paths::restrict(config);
    let has_filter = filter::restrict(filter::Who::Daemon, config.seccomp).unwrap_or_else(|error| {
        warn!("there is no filter of system calls: {error}");
        false
    });
    (landlock, has_filter)
}

/// Returns the state of the child, if there is one.
pub fn child() -> Option<ChildStatus> {
    CHILD.get().map(Client::status)
}

/// Makes a request to the child, or does what it asks for where there is no child.
fn ask(request: &Request, descriptors: &[RawFd]) -> io::Result<Answer> {
    match CHILD.get() {
        Some(child) => child.ask(request, descriptors),
        None => open::perform(request, descriptors),
    }
}

/// Makes a request that is answered with one descriptor.
fn ask_for_one(request: &Request, descriptors: &[RawFd]) -> io::Result<OwnedFd> {
    ask(request, descriptors)?.descriptors.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the executables of processes, in their order; `None` for those that have none or have ended, and for those that may not be
/// looked at.
pub fn executables(pids: &[u32]) -> Vec<Option<PathBuf>> {
    let mut found = Vec::with_capacity(pids.len());
    while found.len() < pids.len() {
        let rest = pids.get(found.len()..).unwrap_or_default();
        let mut request = Request::of(Kind::Executables);
        for (to, pid) in request.pids.iter_mut().zip(rest.iter().take(PIDS_MAX)) {
            *to = *pid;
        }
        // An answer may have fewer than were asked for: paths can be long.
        let Some(paths) = ask(&request, &[]).ok().map(|answer| paths(&answer.data)).filter(|paths| !paths.is_empty())
        else {
            break;
        };
        found.extend(paths.into_iter().take(rest.len()));
    }
    found.resize(pids.len(), None);
    found
}

/// Reads the texts of an answer: each has its length in two bytes before it.
fn paths(mut data: &[u8]) -> Vec<Option<PathBuf>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut paths = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = u16::from_ne_bytes(*length);
        let path = if length == UNKNOWN_LENGTH { None } else { rest.get(..usize::from(length)) };
        data = rest.get(path.map_or(0, <[u8]>::len)..).unwrap_or_default();
        paths.push(path.map(|path| std::ffi::OsStr::from_bytes(path).into()));
    }
    paths
}

/// Returns whether another process opens files in namespaces for this one.
fn has_child() -> bool {
    CHILD.get().is_some()
}

/// Returns the number of a descriptor for a request.
fn number(descriptor: &impl std::os::fd::AsFd) -> RawFd {
    descriptor.as_fd().as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_keep_their_order() {
        let own = std::process::id();
        // No process has the number 0 or such a high one.
        let pids: Vec<u32> =
            (0..PIDS_MAX as u32 * 2 + 3).map(|place| if place % 2 == 0 { own } else { 5_000_000 }).collect();
        let found = executables(&pids);
        let path = std::env::current_exe().unwrap();
        assert_eq!(found.len(), pids.len());
        for (pid, found) in pids.iter().zip(found) {
            assert_eq!(found, (*pid == own).then(|| path.clone()));
        }
        assert!(executables(&[]).is_empty());
    }

    #[test]
    fn damaged_texts_do_no_harm() {
        assert_eq!(paths(&[1]), []);
        assert_eq!(paths(&[9, 0, b'a']), [None], "cut off");
        assert_eq!(paths(&[1, 0, b'a', 255, 255, 0, 0]), [Some("a".into()), None, Some("".into())]);
    }
}
