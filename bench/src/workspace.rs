//! The folder on disk and the network namespace in which everything is measured.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        statfs::{FsType, TMPFS_MAGIC, statfs},
    },
    unistd::Pid,
};
use xtask::{check, command};

/// File systems in memory, on which users do not keep events: tmpfs, and ramfs (`linux/magic.h`).
const MEMORY: [FsType; 2] = [TMPFS_MAGIC, FsType(0x8584_58f6)];

/// The folder, the network namespace, and the built programs.
#[derive(Debug)]
pub(crate) struct Workspace {
    folder: PathBuf,
    programs: PathBuf,
    /// Inode of the network namespace, as in rows of snapshots; 0 before `enter_namespace`.
    pub(crate) namespace: u64,
    /// Held because two benchmarks at the same time would disturb each other.
    _lock: File,
}

impl Workspace {
    /// Creates the folder beside the built programs. It is removed on Ctrl-C; children exit with this process.
    pub(crate) fn create() -> Result<Self> {
        let this = env::current_exe()?;
        let target = this.parent().and_then(Path::parent).context("this program is not in a target folder")?;
        let lock = File::create(target.join("bench.lock"))?;
        // The lock ends with the process, also when it is killed.
        if lock.try_lock().is_err() {
            bail!("another `cargo xtask bench` runs");
        }
        let folder = target.join("bench");
        // A benchmark that was killed has left its folder.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        remove_when_interrupted(folder.clone())?;
        if MEMORY.contains(&statfs(&folder)?.filesystem_type()) {
            eprintln!(
                "{} is in memory: set CARGO_TARGET_DIR to a folder on disk for realistic figures",
                folder.display()
            );
        }
        Ok(Self { folder, programs: target.join("release"), namespace: 0, _lock: lock })
    }

    /// Moves the main thread and the processes that it starts into a new network namespace. The kernel frees the
    /// previous one with all its sockets, including those in TIME_WAIT.
    pub(crate) fn enter_namespace(&mut self) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        check(&mut command("ip", &["link", "set", "lo", "up"]))?;
        self.namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(())
    }

    /// Returns a path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns a path in a second folder, which later runs reuse.
    pub(crate) fn reused_path(&self, name: &str) -> PathBuf {
        self.folder.with_file_name("bench-kept").join(name)
    }

    /// Creates an empty folder in the folder.
    pub(crate) fn empty_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Returns the path of netconn, built with the release profile.
    pub(crate) fn netconn(&self) -> PathBuf {
        self.programs.join("netconn")
    }

    /// Returns the path of netconn-search, built with the profile of releases.
    pub(crate) fn search(&self) -> PathBuf {
        self.programs.with_file_name("search").join("netconn-search")
    }

    /// Returns the path of the load generator.
    pub(crate) fn load(&self) -> PathBuf {
        self.programs.join("load")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Removes a folder before a signal ends this process.
fn remove_when_interrupted(folder: PathBuf) -> Result<()> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    // Block them before other threads start: an unblocked thread would receive them.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        let _ = fs::remove_dir_all(&folder);
        // Then let the same signal end this process, so that the parent sees the right exit status.
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&signals), None);
        let _ = kill(Pid::this(), signal);
    });
    Ok(())
}
