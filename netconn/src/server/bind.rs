//! Binds the daemon's socket: one daemon for each path, usable by root and by one group.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::Flock,
    sys::stat::{Mode, umask},
    unistd::Group,
};
use thiserror::Error;
use tokio::net::UnixListener;
use tracing::{info, warn};

use crate::lock_file::{self, LockError};

/// Mode of a new folder for the socket.
const FOLDER_MODE: u32 = 0o755;

/// Why the daemon cannot listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon listens there.
    #[error("a netconn daemon already listens at {}{}: stop it, or choose another --socket", path.display(), lock_file::process(*.pid))]
    Taken {
        /// The socket.
        path: PathBuf,
        /// The other daemon's process, if it is known.
        pid: Option<i32>,
    },
    /// Something other than a socket has that path.
    #[error("{} is there and is no socket: remove it, or choose another --socket", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses it.
    #[error("cannot listen at {}: {error}; choose another --socket", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A bound socket. Its file is removed when this is dropped, unless a manager of services has made it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// This daemon has made the file.
    is_own: bool,
    /// Held for as long as the daemon runs; released by the kernel however it ends.
    _lock: Flock<File>,
}

impl Socket {
    /// Takes the socket that a manager of services has made, or binds `path` as [`Socket::bind`] does. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// Those of [`Socket::bind`].
    pub fn open(path: &Path, group: &str, given: Option<StdListener>) -> Result<Self, BindError> {
        let Some(listener) = given else { return Self::bind(path, group) };
        let address = listener.local_addr().ok();
        // Where it really is: another daemon there is found by the lock beside it.
        let wanted = path;
        let path = address.as_ref().and_then(|address| address.as_pathname()).unwrap_or(wanted);
        let fail = |error: io::Error| BindError::System { path: path.to_owned(), error };
        let lock = lock(path)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let listener = UnixListener::from_std(listener).map_err(fail)?;
        info!("the socket {} was handed over: its clients wait while no daemon runs", path.display());
        if !is_same_file(path, wanted) {
            warn!(
                "the setting or option `socket` says {}, but the manager of services has made {}: clients reach the daemon at the latter; \
                 change `ListenStream=` of netconn.socket, or the setting",
                wanted.display(),
                path.display()
            );
        }
        Ok(Self { listener, path: path.to_owned(), is_own: false, _lock: lock })
    }

    /// Binds `path` for root and the members of `group`, after removing the socket of a daemon that was killed. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When another daemon listens there, or the system refuses it.
    pub fn bind(path: &Path, group: &str) -> Result<Self, BindError> {
        let fail = |error: io::Error| BindError::System { path: path.to_owned(), error };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            // The mode whatever the umask allows: nobody else may put a socket there.
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(fail)?;
        }
        // Before the old socket is looked at: of two daemons only the one with the lock may remove it.
        let lock = lock(path)?;
        // Not through a symbolic link: what is removed is the name itself. A daemon cannot be alive behind the socket,
        // because it would hold the lock.
        match fs::symlink_metadata(path) {
            Ok(metadata) if is_socket(&metadata) => fs::remove_file(path).map_err(fail)?,
            Ok(_) => return Err(BindError::NoSocket { path: path.to_owned() }),
            Err(_) => {}
        }
        // Until the group is set, nobody else may connect. The mask belongs to the process; no other thread creates
        // files yet.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = StdListener::bind(path);
        umask(before);
        let listener = bound.map_err(fail)?;
        share(path, group).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let listener = UnixListener::from_std(listener).map_err(fail)?;
        Ok(Self { listener, path: path.to_owned(), is_own: true, _lock: lock })
    }

    /// Returns the path at which clients connect.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the listener that accepts clients.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_own {
            // If that fails, the next daemon removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether both paths name one file, also through symbolic links (`/var/run`).
fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    one == other || identity(one).is_some_and(|found| identity(other) == Some(found))
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata.file_type().is_socket()
}

/// Locks a file beside the socket: of two daemons that start at the same time, one fails here.
fn lock(path: &Path) -> Result<Flock<File>, BindError> {
    lock_file::lock(&lock_file::of_socket(path)).map_err(|error| match error {
        LockError::Held(pid) => BindError::Taken { path: path.to_owned(), pid },
        LockError::System(error) => BindError::System { path: path.to_owned(), error },
    })
}

/// Lets the group use the socket, if there is one of that name.
fn share(path: &Path, group: &str) -> io::Result<()> {
    match Group::from_name(group) {
        // A service that has the group as its own may not be allowed to change groups.
        Ok(Some(found)) if fs::symlink_metadata(path)?.gid() == found.gid.as_raw() => {}
        Ok(Some(found)) => chown(path, None, Some(found.gid.as_raw()))?,
        // An error of the account database is treated as a missing group: root can still use the socket.
        _ => info!("there is no group '{group}': only root can use {}", path.display()),
    }
    // Last, when the group is right: for a moment the group of root could connect otherwise.
    fs::set_permissions(path, Permissions::from_mode(0o660))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_daemon_for_each_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/netconn.sock");
        let first = Socket::bind(&path, "no-such-group").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = Socket::bind(&path, "no-such-group").unwrap_err().to_string();
        assert!(error.starts_with("a netconn daemon already listens at "), "{error}");
        assert!(error.contains(&format!(", process {}: ", std::process::id())), "{error}");
        drop(first);
        assert!(!path.exists());
        drop(StdListener::bind(&path).unwrap()); // as a daemon that was killed leaves it
        assert!(path.exists());
        Socket::bind(&path, "no-such-group").unwrap();
    }

    #[tokio::test]
    async fn other_files_are_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, "x"), Err(BindError::NoSocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(matches!(Socket::bind(Path::new("/proc/x/y"), "x"), Err(BindError::System { .. })));
    }
}
