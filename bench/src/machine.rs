//! Describes the machine: its CPUs, its load and its number of sockets.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use procfs::{CpuInfo, CpuTime, Current as _, CurrentSI as _, KernelStats, LoadAverage, Meminfo};
use serde_json::{Value, json};
use xtask::command;

use crate::Bench;

/// Number of sockets in other namespaces up to which figures are not disturbed.
const FEW: usize = 1000;

/// Returns the seconds that all CPUs together were busy since boot: user, system and interrupts, without the time that
/// a hypervisor stole.
pub(crate) fn busy_seconds() -> Result<f64> {
    let CpuTime { user, nice, system, irq, softirq, .. } = KernelStats::current()?.total;
    let ticks = user + nice + system + irq.unwrap_or(0) + softirq.unwrap_or(0);
    Ok(ticks as f64 / procfs::ticks_per_second() as f64)
}

/// Returns the share of the CPU time between two readings that the hypervisor gave to other guests.
fn stolen(before: &CpuTime, after: &CpuTime) -> f64 {
    let all = |time: &CpuTime| {
        let CpuTime { user, nice, system, idle, iowait, irq, softirq, steal, .. } = time;
        user + nice + system + idle + [iowait, irq, softirq, steal].iter().filter_map(|part| **part).sum::<u64>()
    };
    let part = after.steal.unwrap_or(0).saturating_sub(before.steal.unwrap_or(0));
    part as f64 / all(after).saturating_sub(all(before)).max(1) as f64
}

/// Returns the number of TCP sockets of this network namespace according to `ss`, including TIME_WAIT. Connections in
/// SYN-RECV are left out because they have no socket yet.
pub(crate) fn sockets() -> Result<usize> {
    let output = Command::new("ss").arg("-tanH").stderr(Stdio::inherit()).output().context("cannot run ss")?;
    if !output.status.success() {
        bail!("ss: {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter(|line| !line.starts_with("SYN-RECV")).count())
}

/// The state of the machine before the first measurement.
pub(crate) struct MachineState {
    load: f32,
    elsewhere: String,
    total: CpuTime,
}

impl MachineState {
    /// Reads the state. Call this before `enter_namespace`, because the number of sockets is that of the namespace.
    pub(crate) fn read() -> Result<Self> {
        let sockets = fs::read_to_string("/proc/net/sockstat")?;
        let elsewhere = sockets.lines().find_map(|line| line.strip_prefix("TCP: ")).unwrap_or_default();
        Ok(Self {
            load: LoadAverage::current()?.one,
            elsewhere: elsewhere.to_owned(),
            total: KernelStats::current()?.total,
        })
    }

    /// Returns a warning if existing sockets disturb the figures.
    pub(crate) fn warning(&self) -> Option<String> {
        // Pairs of a name and a number, as in `inuse 5 orphan 0 tw 2 alloc 9 mem 1`.
        let words: Vec<&str> = self.elsewhere.split_whitespace().collect();
        let after = |name: &str| words.iter().skip_while(|word| **word != name).nth(1)?.parse::<usize>().ok();
        let sockets = after("alloc")? + after("tw")?;
        (sockets > FEW).then(|| {
            format!("{sockets} sockets existed before: the figures of memory, lists, starts and repairs include them")
        })
    }

    /// Returns the description that is printed above the table. Call this after the last measurement.
    pub(crate) fn about(&self, bench: &Bench) -> Result<Value> {
        let processors = CpuInfo::current()?;
        let commit = command("git", &["describe", "--always", "--dirty"]).output();
        let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        let stolen = stolen(&self.total, &KernelStats::current()?.total);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(json!({
            "kernel": release.trim(),
            "machine": format!(
                "{} x {}, {:.0} GB",
                processors.num_cores(),
                processors.model_name(0).unwrap_or("unknown processor"),
                Meminfo::current()?.mem_total as f64 / 1e9,
            ),
            "commit": commit,
            "rounds": bench.rounds,
            "load before": format!("{:.2}", self.load),
            "sockets elsewhere before": self.elsewhere,
            "stolen by the hypervisor": format!("{:.1} %", stolen * 100.0),
        }))
    }
}
