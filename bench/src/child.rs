//! Child processes that the kernel kills when this process ends.

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

/// Time limit for a process to exit after its signal.
const END: Duration = Duration::from_secs(20);

/// A running process; it is killed when this value is dropped. Start it on the main thread: the kernel kills it when
/// the thread that started it exits (`PR_SET_PDEATHSIG`).
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Starts a command with an empty signal mask.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        // SAFETY: the closure makes only system calls that are async-signal-safe, as code between fork and exec must.
        unsafe {
            // `Workspace` blocks signals in this process, and a child would inherit the mask.
            command.pre_exec(|| {
                set_pdeathsig(Signal::SIGKILL)?;
                Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
            });
        }
        let program = command.get_program().to_owned();
        command.spawn().map(Self).with_context(|| format!("cannot run {}", program.display()))
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    /// Waits until the process exits by itself. Returns its status and its peak resident memory in kB.
    pub(crate) fn finish(self) -> Result<(ExitStatus, u64)> {
        // `drop` would kill by process id, which the kernel may have reused after `wait4`.
        let this = ManuallyDrop::new(self);
        let mut status = 0;
        // SAFETY: `rusage` has only integer fields, for which all zeros is a valid value.
        let mut usage: libc::rusage = unsafe { mem::zeroed() };
        // SAFETY: both pointers are to locals that outlive the call.
        if unsafe { libc::wait4(this.pid().as_raw(), &raw mut status, 0, &raw mut usage) } < 0 {
            return Err(io::Error::last_os_error()).context("the process is gone");
        }
        Ok((ExitStatus::from_raw(status), usage.ru_maxrss.unsigned_abs()))
    }

    /// Sends a signal that ends the process and waits for its exit.
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
        // Both fail only if the process has exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates a file for a process to write to.
pub(crate) fn create_file(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Polls a condition until it holds. Returns an error that names `what` after the time limit.
pub(crate) fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    while !holds()? {
        if since.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
