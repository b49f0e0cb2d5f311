//! Lock files of the daemon. Whoever can open a file can lock it and so stop the next start, so only the daemon's own user can
//! open these.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

/// What follows the name of a lock file in the name of the file whose lock gives the turn to replace it.
const TURN_SUFFIX: &str = ".new";
/// How long a daemon waits for its turn. Turns take less than a millisecond, but a process may be stopped in one.
const TURN_MAX: Duration = Duration::from_secs(1);
/// Pause between two tries to get it.
const TURN_PAUSE: Duration = Duration::from_millis(5);

/// How long a daemon waits for a lock that no living process has taken. The daemon that took it was killed, and a child that it had
/// just forked has it until it executes its program: milliseconds, more on a busy machine.
const ORPHAN_MAX: Duration = Duration::from_secs(2);

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
/// The file is not removed when the daemon ends: another one could have opened it already, and would lock a file without a name.
/// A file that other users could open, as earlier versions made it, is replaced: they may hold its lock for ever.
///
/// # Errors
///
/// When another process has the lock, or when the system refuses it.
pub fn lock(path: &Path) -> Result<Flock<File>, LockError> {
    let until = Instant::now() + ORPHAN_MAX;
    loop {
        match lock_now(path) {
            Err(LockError::Held(None)) if Instant::now() < until => thread::sleep(TURN_PAUSE),
            locked => return locked,
        }
    }
}

fn lock_now(path: &Path) -> Result<Flock<File>, LockError> {
    // A third round would mean that somebody keeps changing the file.
    for _ in 0..2 {
        match open_own(path)? {
            Some(file) => {
                let lock = take(file)?;
                // Replaced since it was opened: by a daemon that is starting too.
                if is_named(&lock, path)? {
                    return Ok(lock);
                }
            }
            None => return replace(path),
        }
    }
    Err(LockError::Held(None))
}

/// Locks a file if there is one, whoever may open it: for whoever removes it. Returns `None` if there is none.
///
/// # Errors
///
/// When another process has the lock, or when the system refuses it.
pub fn hold(path: &Path) -> Result<Option<Flock<File>>, LockError> {
    match open(path) {
        Ok(file) => match take(file) {
            // Of a daemon of another user.
            Err(LockError::Held(None)) => Err(LockError::Held(any_holder(path))),
            held => held.map(Some),
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        // No daemon has a lock like that.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the process that holds the lock of a file, of whatever user.
fn any_holder(path: &Path) -> Option<i32> {
    let inode = fs::symlink_metadata(path).ok()?.ino();
    procfs::locks().ok()?.into_iter().filter(|lock| lock.inode == inode).find_map(|lock| lock.pid)
}

/// Returns the path of the lock file of a daemon's socket.
pub fn of_socket(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Opens the lock file, and creates it if there is none. Returns `None` if there is one that others could have opened.
fn open_own(path: &Path) -> io::Result<Option<File>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create(path) {
            // Another daemon was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return open_own(path),
            created => return created.map(Some),
        },
        // What a symbolic link names is nobody's lock.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let is_own = metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    Ok((is_own && !metadata.file_type().is_fifo()).then_some(file))
}

/// Opens a lock file without following links and without waiting: others may have put anything there.
fn open(path: &Path) -> io::Result<File> {
    // Without `O_CREAT`: with it, kernels refuse files of others in folders like /tmp (`fs.protected_regular`).
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Replaces a lock file that others could open. Of several daemons one at a time does that: whoever comes later finds the file of
/// the first.
fn replace(path: &Path) -> Result<Flock<File>, LockError> {
    let _turn = Turn::wait(path)?;
    // Looked at again: another daemon may have replaced it before this one had its turn.
    if let Some(file) = open_own(path)? {
        return take(file);
    }
    // Held until the new file is locked, so that a daemon of an earlier version is noticed, unless a stranger holds it.
    let _old = match open(path) {
        // A link or a pipe: no daemon locks that.
        Err(_) => None,
        Ok(file) => match take(file) {
            Err(LockError::Held(None)) => None,
            old => Some(old?),
        },
    };
    fs::remove_file(path)?;
    // A daemon that needs no turn, because there is no file now, may be faster.
    match open_own(path)? {
        Some(file) => take(file),
        None => Err(LockError::Held(None)),
    }
}

/// The turn of a daemon to replace a lock file: the lock of another file beside it, which is removed with the turn.
struct Turn {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Turn {
    fn wait(path: &Path) -> Result<Self, LockError> {
        let path = turn_path(path);
        let until = Instant::now() + TURN_MAX;
        loop {
            let file = open_own(&path)?.ok_or_else(|| {
                let reason = format!("{} is not the daemon's: remove it", path.display());
                io::Error::new(io::ErrorKind::PermissionDenied, reason)
            })?;
            match take(file) {
                Ok(lock) if is_named(&lock, &path)? => return Ok(Self { path, _lock: lock }),
                // Its turn is over, and the file is gone.
                Ok(_) => {}
                Err(LockError::Held(pid)) if Instant::now() > until => return Err(LockError::Held(pid)),
                Err(LockError::Held(_)) => thread::sleep(TURN_PAUSE),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is locked. If it stays, the next turn uses it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Returns the path of the file whose lock gives the turn to replace the lock file at `path`.
pub fn turn_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TURN_SUFFIX);
    name.into()
}

/// Returns whether a path still names this file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let file = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (file.dev(), file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
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
    fn a_child_of_a_killed_daemon_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        drop(lock(&path).unwrap());
        // flock(1) takes the lock and ends; the background process has the open file for a moment.
        let script = "exec 9<>\"$1\"; flock -n 9; sleep 0.3 & exit 0";
        let status = std::process::Command::new("sh").args(["-c", script, "sh"]).arg(&path).status().unwrap();
        assert!(status.success());
        let since = Instant::now();
        assert!(matches!(lock_now(&path), Err(LockError::Held(None))));
        lock(&path).unwrap();
        assert!(since.elapsed() < ORPHAN_MAX, "{:?}", since.elapsed());
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
        // A daemon of an earlier version has the old file: the next one must not go on beside it.
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
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn of_two_daemons_that_replace_it_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let make_foreign = || {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        };
        make_foreign();
        // The second has found the old file, too, and comes to replace it when the first has done so.
        assert!(open_own(&path).unwrap().is_none());
        let first = lock(&path).unwrap();
        assert!(matches!(replace(&path), Err(LockError::Held(Some(_)))));
        drop(first);
        // All at the same moment, again and again.
        for _ in 0..50 {
            make_foreign();
            let start = std::sync::Barrier::new(4);
            let locks: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            lock(&path)
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(locks.iter().filter(|lock| lock.is_ok()).count(), 1, "{locks:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_stranger_puts_in_the_way_is_named() {
        if !geteuid().is_root() {
            return; // Nobody else's files can be made.
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        for name in [path.clone(), turn_path(&path)] {
            fs::write(&name, "").unwrap();
            std::os::unix::fs::chown(&name, Some(65_534), None).unwrap();
        }
        let error = lock(&path).unwrap_err();
        assert!(
            matches!(&error, LockError::System(error) if error.to_string().contains("lock.new is not the daemon's")),
            "{error:?}"
        );
        fs::remove_file(turn_path(&path)).unwrap();
        lock(&path).unwrap();
    }
}
