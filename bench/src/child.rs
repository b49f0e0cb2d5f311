//! Processes that end when this one does, however that happens.

use std::{
    fs::File,
    io,
    mem::{self, ManuallyDrop},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    libc,
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
    },
    unistd::Pid,
};

/// How long a process may take to end.
const END: Duration = Duration::from_secs(20);

/// A running process, killed when dropped. To be started by the main thread: it ends with the thread that started it.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Starts a command, with signals as they are by default.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        // SAFETY: both system calls may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                set_pdeathsig(Signal::SIGKILL)?;
                Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
            });
        }
        let program = command.get_program().to_owned();
        command.spawn().map(Self).with_context(|| format!("cannot run {}", program.display()))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    /// Waits until it ends by itself; the most memory that was resident, kB.
    pub(crate) fn finish(self) -> Result<(ExitStatus, u64)> {
        // Not dropped: its id may be another's then.
        let this = ManuallyDrop::new(self);
        let mut status = 0;
        // SAFETY: a structure of numbers.
        let mut usage: libc::rusage = unsafe { mem::zeroed() };
        // SAFETY: two pointers to values that live long enough; nobody else waits for this child.
        if unsafe { libc::wait4(this.pid().as_raw(), &raw mut status, 0, &raw mut usage) } < 0 {
            return Err(io::Error::last_os_error()).context("the process is gone");
        }
        Ok((ExitStatus::from_raw(status), usage.ru_maxrss.unsigned_abs()))
    }

    /// Sends it a signal that ends it, and waits for that.
    pub(crate) fn end(mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        let since = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if since.elapsed() > END {
                bail!("process {} did not end within {} s", self.0.id(), END.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file for a process to write to.
pub(crate) fn file(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Waits until something holds; an error if it never does.
pub(crate) fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    while !holds()? {
        if since.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
