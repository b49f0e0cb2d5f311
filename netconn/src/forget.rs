//! Removes what a daemon leaves when it has ended: its state and history, the maps that are kept for the next one, its socket.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use netconn_model::segment_name;
use nix::fcntl::Flock;
use thiserror::Error;

use crate::{
    kernel::keep,
    lock_file::{self, LockError},
    state_dir,
};

/// Sockets of this host, `Documentation/filesystems/proc.rst`.
const SOCKETS: &str = "/proc/net/unix";
/// `__SO_ACCEPTCON`, `include/linux/net.h`: the flag of sockets that listen.
const LISTENS: u32 = 1 << 16;

/// Why nothing, or not everything, is removed.
#[derive(Debug, Error)]
pub enum ForgetError {
    /// A daemon uses it.
    #[error(
        "a netconn daemon runs and uses {}{}: stop it first (`systemctl disable --now netconn.socket netconn.service`, or SIGTERM)",
        path.display(),
        lock_file::process(*.pid)
    )]
    Running {
        /// What it uses.
        path: PathBuf,
        /// Its process, if it is known.
        pid: Option<i32>,
    },
    /// Another program listens at the socket: systemd, which would start the daemon for the next client.
    #[error(
        "{} is listened at, by systemd for example: stop that first (`systemctl disable --now netconn.socket netconn.service`)",
        path.display()
    )]
    Listening {
        /// The socket.
        path: PathBuf,
    },
    /// The system refuses it.
    #[error("cannot remove {}: {error}", path.display())]
    System {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Something to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remnant {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, in words.
    pub what: String,
    /// Whether it is a folder of which only the empty folder is removed, and which otherwise stays.
    is_emptied: bool,
}

/// What there is to remove, in the order in which it is removed. While this exists, no daemon can start with the same state.
#[derive(Debug)]
pub struct Remnants {
    /// All of it.
    pub found: Vec<Remnant>,
    /// Pins of sensors whose state is elsewhere: they are not removed.
    pub others: Vec<PathBuf>,
    _locks: Vec<Flock<fs::File>>,
}

impl Remnants {
    /// Finds what the daemon with this state folder and this socket has left.
    ///
    /// # Errors
    ///
    /// When a daemon runs there, or when this user may not look.
    pub fn find(state_dir: &Path, socket: &Path) -> Result<Self, ForgetError> {
        let mut locks = Vec::new();
        let socket_lock = lock_file::of_socket(socket);
        for path in [state_dir.join(state_dir::LOCK), socket_lock.clone()] {
            match lock_file::hold(&path) {
                Ok(lock) => locks.extend(lock),
                Err(LockError::Held(pid)) => return Err(ForgetError::Running { path, pid }),
                Err(LockError::System(error)) => return Err(ForgetError::System { path, error }),
            }
        }
        if is_listened_at(socket) {
            return Err(ForgetError::Listening { path: socket.to_owned() });
        }
        let mut found = Vec::new();
        let id = state_dir::known_id(state_dir);
        let pins = present(keep::FOLDER.as_ref(), keep::pinned())?;
        let is_own = |pin: &PathBuf| {
            let name = pin.file_name().unwrap_or_default().to_string_lossy();
            id.as_ref().is_some_and(|id| name.strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with('-')))
        };
        let (own, others): (Vec<_>, Vec<_>) = pins.into_iter().partition(is_own);
        found.extend(own.into_iter().map(|path| whole(path, "a map that is kept in the kernel")));
        if others.is_empty() && Path::new(keep::FOLDER).exists() {
            found.push(emptied(keep::FOLDER.as_ref(), "the folder of these maps"));
        }
        let history = state_dir.join(segment_name::FOLDER);
        if let Some(size) = size(&history)? {
            found.push(whole(history, &size));
        }
        for name in state_dir::files() {
            let path = state_dir.join(&name);
            if fs::symlink_metadata(&path).is_ok() {
                found.push(whole(path, if name == state_dir::ID { "the id of this sensor" } else { "a lock" }));
            }
        }
        if state_dir.exists() {
            found.push(emptied(state_dir, "the state folder"));
        }
        for (path, what) in
            [(socket.to_owned(), "the socket"), (lock_file::turn_path(&socket_lock), "a lock"), (socket_lock, "a lock")]
        {
            if fs::symlink_metadata(&path).is_ok() {
                found.push(whole(path, what));
            }
        }
        if let Some(folder) = socket.parent().filter(|folder| folder.file_name() == Some(OsStr::new("netconn"))) {
            found.extend(folder.exists().then(|| emptied(folder, "the folder of the socket")));
        }
        Ok(Self { found, others, _locks: locks })
    }

    /// Removes all of it. Returns the folders that stay because they have files that are not the daemon's, or a file system is
    /// mounted there.
    ///
    /// # Errors
    ///
    /// The first refusal of the system; what comes before it is removed.
    pub fn remove(&self) -> Result<Vec<&Path>, ForgetError> {
        let mut kept = Vec::new();
        for Remnant { path, is_emptied, .. } in &self.found {
            let result = if *is_emptied { fs::remove_dir(path) } else { remove_whole(path) };
            match result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error)
                    if *is_emptied
                        && matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) =>
                {
                    kept.push(path.as_path());
                }
                result => result.map_err(|error| ForgetError::System { path: path.clone(), error })?,
            }
        }
        Ok(kept)
    }
}

fn whole(path: PathBuf, what: &str) -> Remnant {
    Remnant { path, what: what.to_owned(), is_emptied: false }
}

fn emptied(path: &Path, what: &str) -> Remnant {
    Remnant { path: path.to_owned(), what: what.to_owned(), is_emptied: true }
}

/// Removes a file, or a folder with everything in it. A history that somebody keeps on another disk, behind a symbolic link, is
/// removed there too.
fn remove_whole(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        return fs::remove_dir_all(path);
    }
    if kind.is_symlink() && path.file_name() == Some(OsStr::new(segment_name::FOLDER)) {
        match fs::canonicalize(path) {
            Ok(target) => fs::remove_dir_all(target)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    fs::remove_file(path)
}

/// Returns how large the history is, in words; `None` if there is none.
fn size(history: &Path) -> Result<Option<String>, ForgetError> {
    let Some(entries) = present(history, fs::read_dir(history).map(Some))? else { return Ok(None) };
    let sizes: Vec<u64> = entries.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).collect();
    let megabytes = sizes.iter().sum::<u64>() as f64 / 1e6;
    Ok(Some(format!("the history: {} files, {megabytes:.1} MB", sizes.len())))
}

/// Returns what was read, or nothing if it is not there.
fn present<T: Default>(path: &Path, result: io::Result<T>) -> Result<T, ForgetError> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(T::default())
        }
        result => result.map_err(|error| ForgetError::System { path: path.to_owned(), error }),
    }
}

/// Returns whether a process of this network namespace listens at a Unix socket. If the list cannot be read, nobody does.
fn is_listened_at(socket: &Path) -> bool {
    let text = fs::read(SOCKETS).unwrap_or_default();
    listeners(&String::from_utf8_lossy(&text)).any(|path| Path::new(path) == socket)
}

/// Returns the paths of the listening sockets of a list like [`SOCKETS`].
fn listeners(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut fields = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let path = fields.nth(3)?;
        (flags & LISTENS != 0).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    /// Makes a state folder as a daemon leaves it.
    fn state(folder: &Path) -> PathBuf {
        let state = folder.join("state");
        fs::create_dir_all(state.join("events/.convert")).unwrap();
        fs::write(state.join("events/events-1767225600000.ndjson"), "{}\n").unwrap();
        fs::write(state.join("sensor-id"), "00000000-0000-0000-0000-000000000000\n").unwrap();
        fs::write(state.join("lock"), "").unwrap();
        state
    }

    #[test]
    fn nothing_of_the_daemon_is_left_and_all_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let (state, socket) = (state(folder.path()), folder.path().join("netconn/sock"));
        fs::create_dir(folder.path().join("netconn")).unwrap();
        fs::write(folder.path().join("netconn/sock.lock"), "").unwrap();
        drop(UnixListener::bind(&socket).unwrap());
        let remnants = Remnants::find(&state, &socket).unwrap();
        assert!(remnants.remove().unwrap().is_empty());
        drop(remnants);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // Nothing is there any more, which is no error.
        assert_eq!(Remnants::find(&state, &socket).unwrap().remove().unwrap().len(), 0);
    }

    #[test]
    fn a_folder_with_other_files_stays_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let (state, socket) = (state(folder.path()), folder.path().join("sock"));
        fs::write(state.join("notes"), "mine").unwrap();
        let remnants = Remnants::find(&state, &socket).unwrap();
        assert_eq!(remnants.remove().unwrap(), [state.as_path()]);
        let left: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes"]);
        assert!(folder.path().exists(), "a folder that is not the daemon's stays, empty or not");
    }

    #[test]
    fn a_history_elsewhere_is_removed_there() {
        let folder = tempfile::tempdir().unwrap();
        let (state, disk) = (state(folder.path()), folder.path().join("disk"));
        fs::rename(state.join("events"), &disk).unwrap();
        symlink(&disk, state.join("events")).unwrap();
        Remnants::find(&state, &folder.path().join("sock")).unwrap().remove().unwrap();
        assert!(!disk.exists() && !state.exists());
    }

    #[test]
    fn whoever_uses_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (state, socket) = (state(folder.path()), folder.path().join("sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(matches!(Remnants::find(&state, &socket), Err(ForgetError::Listening { .. })));
        drop(listener);
        let lock = lock_file::lock(&state.join("lock")).unwrap();
        let error = Remnants::find(&state, &socket).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}: stop it first", std::process::id())), "{error}");
        drop(lock);
        // From the look on no daemon can start there.
        let _remnants = Remnants::find(&state, &socket).unwrap();
        assert!(matches!(lock_file::lock(&state.join("lock")), Err(LockError::Held(_))));
    }

    #[test]
    fn only_sockets_that_listen_count() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20417 /run/netconn/netconn.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20418 /run/other\n\
            0000000000000000: 00000003 00000000 00010000 0001 03 20419\n";
        assert_eq!(listeners(text).collect::<Vec<_>>(), ["/run/netconn/netconn.sock"]);
    }
}
