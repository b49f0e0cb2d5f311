//! Where everything happens: a folder on disk, and a network namespace that goes with this process.

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

/// File systems that are memory: no events of users are kept there. The second is ramfs (`linux/magic.h`).
const MEMORY: [FsType; 2] = [TMPFS_MAGIC, FsType(0x8584_58f6)];

/// The folder, the namespace, and the programs that were built.
#[derive(Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    programs: PathBuf,
    /// Inode of the network namespace, as rows give it; 0 before there is one.
    pub(crate) namespace: u64,
    /// Two benches would measure each other.
    _lock: File,
}

impl Place {
    /// Makes the folder beside the built programs. On Ctrl-C it is removed; children end because this process does.
    pub(crate) fn make() -> Result<Self> {
        let this = env::current_exe()?;
        let target = this.parent().and_then(Path::parent).context("xtask is not in a target folder")?;
        let lock = File::create(target.join("bench.lock"))?;
        if lock.try_lock().is_err() {
            bail!("another `cargo xtask bench` runs");
        }
        let folder = target.join("bench");
        // What is left of one that was killed.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        remove_when_interrupted(folder.clone())?;
        if MEMORY.contains(&statfs(&folder)?.filesystem_type()) {
            eprintln!("{} is in memory: with a CARGO_TARGET_DIR on disk figures would mean more", folder.display());
        }
        Ok(Self { folder, programs: target.join("release"), namespace: 0, _lock: lock })
    }

    /// Moves the main thread, and all that it starts, into a new network namespace: what was in the one before, like
    /// connections in TIME_WAIT, is gone with it.
    pub(crate) fn enter_namespace(&mut self) -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        check(&mut command("ip", &["link", "set", "lo", "up"]))?;
        self.namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(())
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The same for what is not made anew each time.
    pub(crate) fn kept(&self, name: &str) -> PathBuf {
        self.folder.with_file_name("bench-kept").join(name)
    }

    /// A folder in it that is empty.
    pub(crate) fn empty(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// The netconn that users run.
    pub(crate) fn netconn(&self) -> PathBuf {
        self.programs.join("netconn")
    }

    /// netconn-search, as it is released.
    pub(crate) fn search(&self) -> PathBuf {
        self.programs.with_file_name("search").join("netconn-search")
    }

    /// The generator of load.
    pub(crate) fn load(&self) -> PathBuf {
        self.programs.join("load")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Signals that end this process first remove a folder.
fn remove_when_interrupted(folder: PathBuf) -> Result<()> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    // Before there are other threads, which would take them.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        let _ = fs::remove_dir_all(&folder);
        // Now it may end this process, as whoever sent it expects.
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&signals), None);
        let _ = kill(Pid::this(), signal);
    });
    Ok(())
}
