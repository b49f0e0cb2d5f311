//! Runs other connection tracers, if they are installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use xtask::packages;

use crate::{
    child::{self, Running},
    hooks,
    table::BenchReport,
    workspace::Workspace,
};

/// Time limit for a peer to load its BPF programs.
const LOADED: Duration = Duration::from_secs(15);
/// Pause in which a peer attaches its loaded programs. Nothing reports when it has done so.
const ATTACHED: Duration = Duration::from_millis(500);
/// Mounts tracefs in the peer's mount namespace if it is missing: peers find tracepoints there.
const MOUNT: &str =
    "[ -d /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing; exec \"$0\" \"$@\"";
/// Paths at which distributions install bpftrace's tcplife.
const SCRIPTS: [&str; 3] = ["/usr/sbin/tcplife.bt", "/usr/bin/tcplife.bt", "/usr/share/bpftrace/tools/tcplife.bt"];

/// A program that traces connections.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    command: Vec<String>,
}

/// Returns the peers that are installed and can load their programs. The report names the others.
pub(crate) fn installed(workspace: &Workspace, report: &mut BenchReport) -> Vec<Peer> {
    let mut found = Vec::new();
    for name in ["tcplife", "tcpstates"] {
        if packages::is_installed(name) {
            found.push(Peer { name, command: vec![name.to_owned()] });
        } else {
            report.note(format!("peer not installed: {name} (package libbpf-tools)"));
        }
    }
    match SCRIPTS.iter().find(|script| Path::new(script).exists()) {
        Some(script) if packages::is_installed("bpftrace") => {
            found.push(Peer { name: "tcplife.bt", command: vec!["bpftrace".into(), (*script).into()] });
        }
        _ => report.note("peer not installed: tcplife.bt (package bpftrace)"),
    }
    // Tried once: a peer may be installed and still not run on this kernel.
    found.retain(|peer| match peer.start(workspace).and_then(RunningPeer::stop) {
        Ok(_) => true,
        Err(error) => {
            report.note(format!("peer does not run here: {}: {error:#}", peer.name));
            false
        }
    });
    found
}

/// A running peer.
#[derive(Debug)]
pub(crate) struct RunningPeer {
    process: Running,
    folder: PathBuf,
}

/// The output of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerOutput {
    /// Number of lines, without the heading.
    pub(crate) lines: usize,
    /// Number of lost events that the peer reported.
    pub(crate) lost: u64,
}

impl Peer {
    /// Starts the peer and waits until its programs are attached.
    pub(crate) fn start(&self, workspace: &Workspace) -> Result<RunningPeer> {
        let folder = workspace.empty_folder("peer")?;
        let mut command = Command::new("unshare");
        // `unshare` and `sh` both end in an exec, so the process id is that of the peer.
        command.args(["--mount", "sh", "-c", MOUNT]).args(&self.command).stdin(Stdio::null());
        command.stdout(child::create_file(&folder.join("out"))?).stderr(child::create_file(&folder.join("err"))?);
        let mut process = Running::start(&mut command)?;
        child::wait_until("the programs are loaded", LOADED, || {
            if let Some(status) = process.0.try_wait()? {
                let message = fs::read_to_string(folder.join("err"))?;
                bail!("{status}: {}", message.lines().last().unwrap_or_default());
            }
            Ok(hooks::has_programs(process.pid()))
        })?;
        // A program is loaded before it is attached, and a peer may still fail in between.
        thread::sleep(ATTACHED);
        if let Some(status) = process.0.try_wait()? {
            let message = fs::read_to_string(folder.join("err"))?;
            bail!("{status}: {}", message.lines().last().unwrap_or_default());
        }
        Ok(RunningPeer { process, folder })
    }
}

impl RunningPeer {
    /// Stops the peer with SIGINT, as Ctrl-C does, so that it writes its buffered lines.
    pub(crate) fn stop(self) -> Result<PeerOutput> {
        let Self { process, folder } = self;
        process.end(Signal::SIGINT)?;
        let lines = fs::read(folder.join("out"))?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        let errors = fs::read_to_string(folder.join("err"))?;
        let lost = errors.lines().filter_map(lost).sum();
        fs::remove_dir_all(&folder)?;
        Ok(PeerOutput { lines: lines.saturating_sub(1), lost })
    }
}

/// Reads the number in `lost 12 events on CPU #1` (libbpf-tools) or `Lost 12 events` (bpftrace).
fn lost(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace().skip_while(|word| !word.eq_ignore_ascii_case("lost"));
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read() {
        assert_eq!(lost("lost 1098 events on CPU #1"), Some(1098));
        assert_eq!(lost("Lost 3 events"), Some(3));
        assert_eq!(lost("libbpf: something else"), None);
    }
}
