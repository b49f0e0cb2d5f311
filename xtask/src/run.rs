//! Builds netconn and shows the connections of this machine as they happen.

use std::{
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::Pid,
};
use xtask::{cargo, check, is_root, root};

/// The daemon's default socket.
const SOCKET: &str = "/run/netconn/netconn.sock";
/// Time limit for the daemon to listen.
const READY: Duration = Duration::from_secs(20);
/// Time limit for the daemon to exit before it is killed.
const END: Duration = Duration::from_secs(5);

/// Builds netconn as the calling user, then runs it as root: through sudo, this calls itself with `built` set.
pub(crate) fn run(built: bool) -> Result<()> {
    if !built {
        check(&mut cargo(&["build", "--release", "--package", "netconn", "--package", "xtask"]))?;
    }
    if is_root() {
        return show(&root().join("target/release/netconn"));
    }
    if built {
        bail!("sudo did not run this as root");
    }
    eprintln!("netconn needs root to load eBPF programs: asking sudo");
    let xtask = root().join("target/release/xtask");
    let error = Command::new("sudo").arg("--").arg(xtask).args(["run", "--built"]).exec();
    Err(error).context("cannot run sudo: run `cargo xtask run` as root")
}

/// Runs the daemon, and `netconn watch` beside it, until Ctrl-C, or until somebody ends this or closes its terminal.
fn show(netconn: &Path) -> Result<()> {
    if let Some(pid) = listener(Path::new(SOCKET)) {
        bail!(
            "a netconn daemon runs already, process {pid}: `{} watch` shows what it sees; to stop it, run `sudo kill {pid}`",
            netconn.display()
        );
    }
    // Ctrl-C and a terminal that closes send their signal to all three processes, others to this one alone. It ends after the
    // two children in any case.
    let ends = EndSignals::block()?;
    // It keeps no history: this is a look, and nobody asked for 2 GiB of it.
    let mut daemon = spawn(Command::new(netconn).args(["run", "--no-history"]).stdin(Stdio::null()))?;
    let since = Instant::now();
    while listener(Path::new(SOCKET)) != i32::try_from(daemon.id()).ok() {
        if let Some(status) = daemon.try_wait()? {
            // It has said why, and which process is in its way.
            bail!("the daemon ended: {status}");
        }
        if ends.has_come()? {
            return stop(&mut daemon);
        }
        if since.elapsed() > READY {
            stop(&mut daemon)?;
            bail!("the daemon did not listen at {SOCKET} within {} s", READY.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!();
    eprintln!(
        "Connections of this machine as they happen; Ctrl-C ends this. It keeps no history. In another terminal, as root:"
    );
    eprintln!("  {} list", netconn.display());
    eprintln!();
    let mut watch = spawn(Command::new(netconn).args(["watch", "--once"]))?;
    loop {
        if let Some(status) = daemon.try_wait()? {
            let _ = watch.kill();
            let _ = watch.wait();
            return if status.success() { Ok(()) } else { bail!("the daemon ended: {status}") };
        }
        // The daemon was started for `watch` only: its reader may have gone.
        if watch.try_wait()?.is_some() {
            return stop(&mut daemon);
        }
        if ends.has_come()? {
            let _ = watch.kill();
            let _ = watch.wait();
            return stop(&mut daemon);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The signals that end this program, after its children.
struct EndSignals(SignalFd);

impl EndSignals {
    /// Keeps them from ending this process at once.
    fn block() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Returns whether one has come.
    fn has_come(&self) -> Result<bool> {
        Ok(self.0.read_signal()?.is_some())
    }
}

/// Starts a command with an empty signal mask, which the kernel ends if this process is killed.
fn spawn(command: &mut Command) -> Result<Child> {
    // SAFETY: the closure only calls prctl and sigprocmask, which are async-signal-safe, as code between fork and exec must be.
    unsafe {
        command.pre_exec(|| {
            set_pdeathsig(Signal::SIGTERM)?;
            // Blocked signals are inherited.
            Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
        });
    }
    command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))
}

/// Returns the process that listens at a socket, if any does.
fn listener(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    // That of the process that called `listen` (unix(7)).
    Some(getsockopt(&stream, PeerCredentials).ok()?.pid())
}

fn stop(daemon: &mut Child) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGTERM)?;
    let since = Instant::now();
    while daemon.try_wait()?.is_none() {
        if since.elapsed() > END {
            // Repeated until it has exited, which does no harm.
            daemon.kill()?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::net::UnixListener};

    use nix::sys::pthread::{pthread_kill, pthread_self};

    use super::*;

    #[test]
    fn who_listens_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        assert_eq!(listener(&path), None);
        let held = UnixListener::bind(&path).unwrap();
        assert_eq!(listener(&path), i32::try_from(std::process::id()).ok());
        drop(held);
        assert_eq!(listener(&path), None, "the file of one that was killed");
    }

    #[test]
    fn a_signal_to_end_is_seen_and_does_not_end() {
        let ends = EndSignals::block().unwrap();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            assert!(!ends.has_come().unwrap());
            // Only this thread has them blocked.
            pthread_kill(pthread_self(), signal).unwrap();
            assert!(ends.has_come().unwrap(), "{signal}");
        }
    }

    #[test]
    fn children_end_with_their_parent() {
        // A thread is the parent here, as far as the kernel's signal at its end is concerned. The shell hears it: nothing is blocked.
        let (mut child, mut out) = thread::spawn(|| {
            let script = "trap 'echo ended; exit' TERM; echo ready; while :; do sleep 0.05; done";
            let mut child = spawn(Command::new("sh").args(["-c", script]).stdout(Stdio::piped())).unwrap();
            let mut out = child.stdout.take().unwrap();
            let mut ready = [0; 6];
            out.read_exact(&mut ready).unwrap();
            (child, out)
        })
        .join()
        .unwrap();
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ended\n");
        child.wait().unwrap();
    }
}
