//! Binds the daemon's socket: one daemon for each path, usable by root and by one group.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::stat::{Mode, umask},
    unistd::Group,
};
use thiserror::Error;
use tokio::net::UnixListener;
use tracing::info;

/// Why the daemon cannot listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon listens there.
    #[error("a netconn daemon already listens at {}: stop it, or choose another --socket", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
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

/// A bound socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Held for as long as the daemon runs; released by the kernel however it ends.
    _lock: Flock<File>,
}

impl Socket {
    /// Binds `path` for root and the members of `group`, after removing the socket of a daemon that was killed. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When another daemon listens there, or the system refuses it.
    pub fn bind(path: &Path, group: &str) -> Result<Self, BindError> {
        let fail = |error: io::Error| BindError::System { path: path.to_owned(), error };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(fail)?;
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
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// Returns the listener that accepts clients.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If that fails, the next daemon removes it.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata.file_type().is_socket()
}

/// Locks a file beside the socket: of two daemons that start at the same time, one fails here.
fn lock(path: &Path) -> Result<Flock<File>, BindError> {
    // The lock file is never removed: a daemon that starts could have it open already, and lock a file without a name.
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&name);
    let file = file.map_err(|error| BindError::System { path: path.to_owned(), error })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => BindError::Taken { path: path.to_owned() },
        errno => BindError::System { path: path.to_owned(), error: errno.into() },
    })
}

/// Lets the group use the socket, if there is one of that name.
fn share(path: &Path, group: &str) -> io::Result<()> {
    match Group::from_name(group) {
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
