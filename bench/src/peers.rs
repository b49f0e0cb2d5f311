//! Other programs that trace connections, if they are installed.

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
    place::Place,
    table::Report,
};

/// How long one may take until its programs are loaded.
const LOADED: Duration = Duration::from_secs(15);
/// And from then until they are attached, which nothing tells.
const ATTACHED: Duration = Duration::from_millis(500);
/// A peer's tracepoints are found through tracefs: if it is not mounted, it is for that process alone.
const MOUNT: &str =
    "[ -d /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing; exec \"$0\" \"$@\"";
/// Where bpftrace's own tools may be.
const SCRIPTS: [&str; 3] = ["/usr/sbin/tcplife.bt", "/usr/bin/tcplife.bt", "/usr/share/bpftrace/tools/tcplife.bt"];

/// A program that tells of connections.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    command: Vec<String>,
}

/// Those that are installed and can be loaded; the others are named in the report.
pub(crate) fn tracers(place: &Place, report: &mut Report) -> Vec<Peer> {
    let mut found = Vec::new();
    for name in ["tcplife", "tcpstates"] {
        if packages::is_there(name) {
            found.push(Peer { name, command: vec![name.to_owned()] });
        } else {
            report.note(format!("peer not installed: {name} (package libbpf-tools)"));
        }
    }
    match SCRIPTS.iter().find(|script| Path::new(script).exists()) {
        Some(script) if packages::is_there("bpftrace") => {
            found.push(Peer { name: "tcplife.bt", command: vec!["bpftrace".into(), (*script).into()] });
        }
        _ => report.note("peer not installed: tcplife.bt (package bpftrace)"),
    }
    found.retain(|peer| match peer.start(place).and_then(Tracing::stop) {
        Ok(_) => true,
        Err(error) => {
            report.note(format!("peer does not run here: {}: {error:#}", peer.name));
            false
        }
    });
    found
}

/// A peer at work.
#[derive(Debug)]
pub(crate) struct Tracing {
    process: Running,
    folder: PathBuf,
}

/// What a peer told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// Lines, without the heading.
    pub(crate) lines: usize,
    /// Events that it says it has lost.
    pub(crate) lost: u64,
}

impl Peer {
    /// Starts it and waits until it is attached.
    pub(crate) fn start(&self, place: &Place) -> Result<Tracing> {
        let folder = place.empty("peer")?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", MOUNT]).args(&self.command).stdin(Stdio::null());
        command.stdout(child::file(&folder.join("out"))?).stderr(child::file(&folder.join("err"))?);
        let mut process = Running::start(&mut command)?;
        child::until("the programs are loaded", LOADED, || {
            if let Some(status) = process.0.try_wait()? {
                let said = fs::read_to_string(folder.join("err"))?;
                bail!("{status}: {}", said.lines().last().unwrap_or_default());
            }
            Ok(hooks::has_programs(process.pid()))
        })?;
        thread::sleep(ATTACHED);
        if let Some(status) = process.0.try_wait()? {
            let said = fs::read_to_string(folder.join("err"))?;
            bail!("{status}: {}", said.lines().last().unwrap_or_default());
        }
        Ok(Tracing { process, folder })
    }
}

impl Tracing {
    /// Ends it as Ctrl-C does, so that it writes what it has.
    pub(crate) fn stop(self) -> Result<Told> {
        let Self { process, folder } = self;
        process.end(Signal::SIGINT)?;
        let lines = fs::read(folder.join("out"))?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        let errors = fs::read_to_string(folder.join("err"))?;
        let lost = errors.lines().filter_map(lost).sum();
        fs::remove_dir_all(&folder)?;
        Ok(Told { lines: lines.saturating_sub(1), lost })
    }
}

/// The number in `lost 12 events on CPU #1` (libbpf-tools), `Lost 12 events` (bpftrace).
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
