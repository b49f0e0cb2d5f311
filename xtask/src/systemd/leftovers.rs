//! Finds what a package has left behind: files, accounts, BPF programs and maps.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::guest::Guest;

/// Files that apt, dpkg, useradd and systemd write for any package, and for any service.
const NOT_ITS_OWN: [&str; 10] = [
    "/etc/.pwd.lock",
    "/etc/ld.so.cache",
    "/var/cache/",
    "/var/lib/apt/",
    "/var/lib/dpkg/",
    "/var/lib/systemd/",
    "/var/log/",
    "/var/tmp/",
    "/run/",
    "/tmp/",
];
/// How long the kernel may take to free what nobody holds any more.
const FREED: Duration = Duration::from_secs(20);

/// What there is on a system.
pub(super) struct Snapshot {
    /// A line for each file, with a checksum for those that hold accounts and settings.
    files: BTreeSet<String>,
    programs: BTreeSet<u64>,
    maps: BTreeSet<u64>,
}

impl Snapshot {
    pub(super) fn take(guest: &Guest) -> Result<Self> {
        let paths = guest.ok("find / -xdev ! -type s; find /etc -xdev -type f ! -name '*-' -exec sha256sum {} +")?;
        // In /run also what other names have it in them: units, sockets, drop-ins.
        let run = guest.ok("find /run /dev/shm -xdev | grep netconn || true")?;
        let files = paths.lines().filter(|line| !is_of_others(line)).chain(run.lines()).map(str::to_owned).collect();
        Ok(Self { files, programs: objects("prog")?, maps: objects("map")? })
    }

    /// Fails with a list of what there is beside this, or instead of it.
    pub(super) fn compare(&self, guest: &Guest) -> Result<()> {
        let now = Self::take(guest)?;
        let files: Vec<&String> = now.files.symmetric_difference(&self.files).collect();
        if !files.is_empty() {
            bail!("left or changed: {files:#?}");
        }
        // The kernel frees programs after a grace period.
        let since = Instant::now();
        loop {
            let left: Vec<String> = [("prog", &self.programs), ("map", &self.maps)]
                .into_iter()
                .map(|(kind, before)| -> Result<_> {
                    Ok(unheld(kind)?.difference(before).map(|id| format!("{kind} {id}")).collect::<Vec<_>>())
                })
                .collect::<Result<Vec<_>>>()?
                .concat();
            if left.is_empty() {
                return Ok(());
            }
            if since.elapsed() > FREED {
                bail!("the kernel still has {}", left.join(", "));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Whether a line is of a file that any package and any service changes.
fn is_of_others(line: &str) -> bool {
    let path = line.find('/').map_or(line, |begin| &line[begin..]);
    // Files that useradd and groupadd leave when they change an account.
    let is_backup = path.starts_with("/etc/") && path.ends_with('-');
    let is_ours = path.contains("netconn");
    is_backup || (!is_ours && NOT_ITS_OWN.iter().any(|other| path.starts_with(other)))
}

/// Returns the ids of all BPF programs or maps of this kernel, which the guest shares.
fn objects(kind: &str) -> Result<BTreeSet<u64>> {
    Ok(listed(kind)?.iter().filter_map(|object| object["id"].as_u64()).collect())
}

/// Returns the ids of programs or maps that no process holds and that this mount namespace has no pins of. Those of systemd
/// are left out, which attaches them to the cgroups of services.
fn unheld(kind: &str) -> Result<BTreeSet<u64>> {
    // First: what is made meanwhile is held by a process that is looked at later.
    let all = listed(kind)?;
    let held = held(&format!("{kind}_id:"));
    let is_of_systemd = |object: &Value| object["name"].as_str().is_some_and(|name| name.starts_with("sd_"));
    let is_pinned = |object: &Value| object["pinned"].as_array().is_some_and(|pins| !pins.is_empty());
    Ok(all
        .iter()
        .filter(|object| !is_of_systemd(object) && !is_pinned(object))
        .filter_map(|object| object["id"].as_u64())
        .filter(|id| !held.contains(id))
        .collect())
}

fn listed(kind: &str) -> Result<Vec<Value>> {
    let output =
        Command::new("bpftool").args([kind, "show", "--json", "--bpffs"]).output().context("cannot run bpftool")?;
    if !output.status.success() {
        bail!("bpftool {kind} show: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Returns the ids that follow a word in the descriptions of all open files.
fn held(word: &str) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        // Processes that have ended meanwhile hold nothing.
        for file in fs::read_dir(process.path().join("fdinfo")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse::<u64>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_its_own_is_left_out() {
        for line in ["/etc/passwd-", "/var/log/dpkg.log", "/var/lib/dpkg/status", "abc  /etc/ld.so.cache"] {
            assert!(is_of_others(line), "{line}");
        }
        for line in
            ["/etc/netconn/netconn.toml", "abc  /etc/passwd", "/var/lib/dpkg/info/netconn.list", "/var/log/netconn"]
        {
            assert!(!is_of_others(line), "{line}");
        }
    }
}
