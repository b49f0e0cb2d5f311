//! Builds netconn and shows the connections of this machine as they happen.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
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

/// Runs the daemon, and `netconn watch` beside it, until Ctrl-C.
fn show(netconn: &Path) -> Result<()> {
    // Ctrl-C sends SIGINT to all three processes. This one ignores it and exits after the two children.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    // Blocked signals are inherited, hence `spawn`, which unblocks them.
    let mut daemon = spawn(Command::new(netconn).arg("run").stdin(Stdio::null()))?;
    let since = Instant::now();
    while !does_respond(netconn) {
        if let Some(status) = daemon.try_wait()? {
            bail!("the daemon ended: {status}");
        }
        if since.elapsed() > READY {
            stop(&mut daemon)?;
            bail!("the daemon did not listen at {SOCKET} within {} s", READY.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!();
    eprintln!("Connections of this machine as they happen; Ctrl-C ends this. In another terminal, as root:");
    eprintln!("  {} list", netconn.display());
    eprintln!();
    let mut watch = spawn(Command::new(netconn).arg("watch"))?;
    loop {
        if let Some(status) = daemon.try_wait()? {
            // Another daemon may use the socket, so that this one failed to start and `watch` is connected to the
            // other.
            let _ = watch.kill();
            let _ = watch.wait();
            return if status.success() { Ok(()) } else { bail!("the daemon ended: {status}") };
        }
        // Ctrl-C, or a reader that has gone: the daemon was started for it only.
        if watch.try_wait()?.is_some() {
            return stop(&mut daemon);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Starts a command with an empty signal mask.
fn spawn(command: &mut Command) -> Result<Child> {
    // SAFETY: the closure only calls sigprocmask, which is async-signal-safe, as code between fork and exec must be.
    unsafe {
        command.pre_exec(|| Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?));
    }
    command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))
}

/// Returns whether a daemon responds at the default socket.
fn does_respond(netconn: &Path) -> bool {
    let silent = Command::new(netconn).args(["list", "-H"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    silent.is_ok_and(|status| status.success())
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
