//! Reads the kernel's run counts and run times of the BPF programs of a process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{FromRawFd as _, OwnedFd},
    process::Command,
};

use anyhow::{Context as _, Result};
use nix::{libc, unistd::Pid};

/// `BPF_ENABLE_STATS` of `enum bpf_cmd`, and `BPF_STATS_RUN_TIME` (linux/bpf.h; from Linux 5.8 on).
const ENABLE_STATS: libc::c_long = 32;
const RUN_TIME: u32 = 0;

/// Makes the kernel count program runs while this value lives, as `kernel.bpf_stats_enabled` does. The kernel stops
/// when the file descriptor is closed, so it also stops if this process is killed.
#[derive(Debug)]
pub(crate) struct Counting {
    _stats: OwnedFd,
}

impl Counting {
    /// Starts counting.
    pub(crate) fn start() -> Result<Self> {
        let kind = RUN_TIME;
        // SAFETY: the attribute is one word, which outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, ENABLE_STATS, &raw const kind, size_of_val(&kind)) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error).context("cannot count program runs")?;
        // SAFETY: the system call has just returned this descriptor, and nothing else owns it.
        Ok(Self { _stats: unsafe { OwnedFd::from_raw_fd(fd) } })
    }
}

/// Number of runs and run time of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Runs {
    pub(crate) count: u64,
    pub(crate) nanoseconds: u64,
}

/// Runs of several programs by program id.
pub(crate) type RunsById = BTreeMap<u32, Runs>;

/// Reads the runs so far of a process's hooks. A hook is a program with an open link; iterators are left out.
pub(crate) fn runs(pid: Pid) -> Result<RunsById> {
    let (mut found, mut linked) = (RunsById::new(), BTreeSet::new());
    for text in descriptors(pid)? {
        let number = |name: &str| field(&text, name)?.parse::<u64>().ok();
        let Some(id) = number("prog_id").and_then(|id| u32::try_from(id).ok()) else { continue };
        // A descriptor is either of a link or of a program; only the latter has the counters.
        if field(&text, "link_type").is_some_and(|kind| kind != "iter") {
            linked.insert(id);
        } else if let (Some(count), Some(nanoseconds)) = (number("run_cnt"), number("run_time_ns")) {
            found.insert(id, Runs { count, nanoseconds });
        }
    }
    found.retain(|id, _| linked.contains(id));
    Ok(found)
}

/// Returns the runs between two readings.
pub(crate) fn since(before: &RunsById, after: &RunsById) -> RunsById {
    let less = |(id, after): (&u32, &Runs)| {
        // A program that was attached in between had no runs before.
        let before = before.get(id).copied().unwrap_or_default();
        (*id, Runs { count: after.count - before.count, nanoseconds: after.nanoseconds - before.nanoseconds })
    };
    after.iter().map(less).collect()
}

/// Returns the sum over all programs.
pub(crate) fn total(runs: &RunsById) -> Runs {
    let sum = |of: fn(&Runs) -> u64| runs.values().map(of).sum();
    Runs { count: sum(|runs| runs.count), nanoseconds: sum(|runs| runs.nanoseconds) }
}

/// Formats name, mean run time, and runs per connection of each program that ran, the most expensive first.
pub(crate) fn describe(runs: &RunsById, connections: usize) -> String {
    let mut ran: Vec<_> = runs.iter().filter(|(_, runs)| runs.count > 0).collect();
    ran.sort_by_key(|(_, runs)| std::cmp::Reverse(runs.nanoseconds));
    let word = |(id, runs): &(&u32, &Runs)| {
        let mean = runs.nanoseconds as f64 / runs.count as f64;
        format!("{} {mean:.0} ns x {:.2}", name(**id), runs.count as f64 / connections as f64)
    };
    ran.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Returns the name of a program according to bpftool, or its id if bpftool is not installed.
fn name(id: u32) -> String {
    let output = Command::new("bpftool").args(["prog", "show", "id", &id.to_string()]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut words = text.split_whitespace().skip_while(|word| *word != "name");
    words.nth(1).map_or_else(|| id.to_string(), str::to_owned)
}

/// Returns whether a process has an open BPF program.
pub(crate) fn has_programs(pid: Pid) -> bool {
    descriptors(pid).is_ok_and(|texts| texts.iter().any(|text| field(text, "prog_id").is_some()))
}

fn descriptors(pid: Pid) -> Result<Vec<String>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"))?;
    // Skip descriptors that the process has closed since the folder was read.
    Ok(entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect())
}

/// Returns the value of a field in the text of `/proc/PID/fdinfo/FD`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "flags:\t02\nprog_id:\t12\nrun_cnt:\t3\n";
        assert_eq!(field(text, "run_cnt"), Some("3"));
        assert_eq!(field(text, "run"), None);
    }

    #[test]
    fn runs_are_subtracted_and_added() {
        let one = |count, nanoseconds| Runs { count, nanoseconds };
        let (before, after) = (RunsById::from([(1, one(2, 20))]), RunsById::from([(1, one(5, 80)), (2, one(1, 7))]));
        let ran = since(&before, &after);
        assert_eq!(ran, RunsById::from([(1, one(3, 60)), (2, one(1, 7))]));
        assert_eq!(total(&ran), one(4, 67));
    }
}
