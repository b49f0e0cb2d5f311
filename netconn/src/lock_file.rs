//! Lock files of the daemon. Whoever can open a file can lock it and so stop the next start, so only the daemon's own user can
//! open these.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

/// Why a lock cannot be had.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it; its id, if the system says.
    Held(Option<i32>),
    /// The system refuses it.
    System(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Returns the words that follow what a process has locked: `, process 12`, or nothing if it is unknown.
pub fn process(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(", process {pid}"))
}

/// Locks a file, and creates it if need be. The kernel releases the lock however the daemon ends.
///
/// The file is never removed: another daemon could have opened it already, and would lock a file without a name. The exception
/// is a file that other users could open, as earlier versions made it: they may hold its lock for ever.
///
/// # Errors
///
/// When another process has the lock, or when the system refuses it.
pub fn lock(path: &Path) -> Result<Flock<File>, LockError> {
    // A third round would mean that somebody keeps changing the file.
    for _ in 0..2 {
        let file = match open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => match create(path) {
                // Another daemon was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                created => return take(created?),
            },
            // What a symbolic link names is nobody's lock.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return replace(path),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if metadata.file_type().is_fifo() {
            return replace(path);
        }
        if metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0 {
            return take(file);
        }
        // Held until the new file is locked, so that of two daemons only one replaces it, unless a stranger holds it.
        let _old = match take(file) {
            Err(LockError::Held(None)) => None,
            old => Some(old?),
        };
        return replace(path);
    }
    Err(LockError::Held(None))
}

/// Opens a lock file without following links and without waiting: others may have put anything there.
fn open(path: &Path) -> io::Result<File> {
    // Without `O_CREAT`: with it, kernels refuse files of others in folders like /tmp (`fs.protected_regular`).
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn replace(path: &Path) -> Result<Flock<File>, LockError> {
    fs::remove_file(path)?;
    take(create(path)?)
}

fn take(file: File) -> Result<Flock<File>, LockError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| match errno {
        Errno::EWOULDBLOCK => LockError::Held(holder(&file)),
        errno => LockError::System(errno.into()),
    })
}

/// Returns the process of this user that holds the lock of a file.
fn holder(file: &File) -> Option<i32> {
    let inode = file.metadata().ok()?.ino();
    // By inode only: the device that the kernel prints is not always that of `stat`, on btrfs for example.
    let locks = procfs::locks().unwrap_or_default().into_iter().filter(|lock| lock.inode == inode);
    let is_ours =
        |pid: &i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == geteuid().as_raw());
    locks.filter_map(|lock| lock.pid).find(is_ours)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn it_is_taken_once_and_kept_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = lock(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let inode = first.metadata().unwrap().ino();
        let held = lock(&path).unwrap_err();
        assert!(matches!(held, LockError::Held(Some(pid)) if pid.cast_unsigned() == std::process::id()), "{held:?}");
        drop(first);
        assert_eq!(lock(&path).unwrap().metadata().unwrap().ino(), inode);
        assert!(matches!(lock(Path::new("/proc/netconn/lock")), Err(LockError::System(_))));
    }

    #[test]
    fn what_others_could_open_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let target = folder.path().join("target");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        // The first daemon still has the old file: the next one must not go on beside it.
        let old = take(open(&path).unwrap()).unwrap();
        assert!(matches!(lock(&path), Err(LockError::Held(Some(_)))));
        drop(old);
        let new = lock(&path).unwrap();
        assert!(new.metadata().unwrap().ino() != before && mode(&path) == 0o600);
        drop(new);
        fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        lock(&path).unwrap();
        assert!(!target.exists() && mode(&path) == 0o600);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        lock(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }
}
