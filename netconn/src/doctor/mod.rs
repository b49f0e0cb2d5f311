//! The checks of `netconn doctor`: this machine, its hooks, the daemon, and the proof that a connection is seen.

mod daemon;
mod proof;

use std::fs;

pub use daemon::daemon;
use netconn_model::health::{HookStatus, Verdict};
pub use proof::{prove, prove_alone};

use crate::{
    kernel::preflight::{self, Lockdown},
    process::lookup,
};

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Good,
    /// Something is missing, and netconn does something else instead.
    Fair,
    /// It does not work.
    Bad,
}

/// A check.
#[derive(Clone, Debug)]
pub struct Check {
    /// The outcome.
    pub mark: Mark,
    /// What was checked.
    pub subject: String,
    /// What was found, and what to do.
    pub finding: String,
}

impl Check {
    fn new(mark: Mark, subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { mark, subject: subject.into(), finding: finding.into() }
    }
}

/// Checks what netconn needs from this machine.
pub fn machine() -> Vec<Check> {
    let release = preflight::kernel_release();
    let outcome = |subject, found: Result<String, String>| match found {
        Ok(finding) => Check::new(Mark::Good, subject, finding),
        Err(finding) => Check::new(Mark::Bad, subject, finding),
    };
    let kernel = preflight::check_kernel(&release).map(|()| release.clone()).map_err(|error| error.to_string());
    let btf = preflight::read_btf().map(|data| format!("{} kB", data.len() / 1000)).map_err(|error| error.to_string());
    let lockdown = Lockdown::of_this_kernel();
    // Under this lockdown programs may not read the kernel's memory: paths of executables come from /proc, where they
    // may be gone.
    let mark = if lockdown == Lockdown::Confidentiality { Mark::Fair } else { Mark::Good };
    let lockdown = Check::new(mark, "lockdown", lockdown.name());
    let cgroups = preflight::cgroup_root().map_or_else(
        || {
            Check::new(
                Mark::Fair,
                "cgroups",
                "no cgroup v2 is mounted: units and containers are not known, nor attempts without a route",
            )
        },
        |path| {
            let place = format!("v2 at {}", path.display());
            // In a namespace the root that is mounted is that of the container: programs attached there see nothing of
            // the host.
            if !preflight::is_in_cgroup_namespace() {
                return Check::new(Mark::Good, "cgroups", place);
            }
            let finding = format!(
                "{place}, of a cgroup namespace: datagrams, and attempts without a route, are seen of this container only; run \
                 netconn outside of it, or give it the host's (--cgroupns=host)"
            );
            Check::new(Mark::Fair, "cgroups", finding)
        },
    );
    vec![outcome("kernel", kernel), outcome("type information", btf), lockdown, cgroups, accounts()]
}

/// Checks where names of accounts come from.
fn accounts() -> Check {
    if lookup::IS_STATIC {
        let finding = "this program is linked statically and cannot ask what nsswitch.conf names: it knows the accounts of \
                       /etc/passwd only, others (LDAP, SSSD, systemd's dynamic users) stay numbers";
        return Check::new(Mark::Fair, "accounts", finding);
    }
    let text = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    let services = text.lines().find_map(|line| line.trim().strip_prefix("passwd:"));
    // What the C library does without the file or the line (nsswitch.conf(5)).
    let services =
        services.map_or_else(|| "files".into(), |services| services.split_whitespace().collect::<Vec<_>>().join(" "));
    Check::new(Mark::Good, "accounts", format!("names come from {services} (nsswitch.conf)"))
}

/// Checks whether this user may load eBPF programs.
pub fn permission() -> Check {
    match preflight::check_capabilities() {
        Ok(()) => Check::new(Mark::Good, "permission", "eBPF programs may be loaded"),
        // Only `Fair`: users without privileges may still ask a daemon.
        Err(error) => Check::new(Mark::Fair, "permission", error.to_string()),
    }
}

/// Returns the verdict on each hook.
pub fn hooks(hooks: &[HookStatus]) -> Vec<Check> {
    hooks
        .iter()
        .map(|hook| {
            let instead = hook.instead.as_deref().unwrap_or("nothing");
            match &hook.verdict {
                Verdict::Attached => Check::new(Mark::Good, &hook.hook, &hook.fact),
                Verdict::Unneeded { reason } => {
                    Check::new(Mark::Good, &hook.hook, format!("{}: not needed, {reason}", hook.fact))
                }
                Verdict::Unsupported { reason } => {
                    Check::new(Mark::Fair, &hook.hook, format!("{}: {reason}; instead: {instead}", hook.fact))
                }
                Verdict::Failed { reason } => {
                    Check::new(Mark::Bad, &hook.hook, format!("{}: {reason}; instead: {instead}", hook.fact))
                }
            }
        })
        .collect()
}
