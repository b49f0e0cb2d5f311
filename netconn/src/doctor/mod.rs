//! The checks of `netconn doctor`: this machine, its hooks, the daemon, and the proof that a connection is seen.

mod daemon;
mod proof;
mod service;

use std::{
    fs,
    process::{Command, Stdio},
};

pub use daemon::daemon;
use netconn_model::{
    config::Config,
    health::{HookStatus, Verdict},
};
use nix::unistd::{Group, User, getegid, geteuid, getgroups, getuid};
pub use proof::{prove, prove_alone};
pub use service::{service, without_daemon};

use crate::{
    kernel::preflight::{self, Capability, CapabilitySet, Lockdown, PID_NAMESPACE},
    process::{cgroup, lookup},
    search_program,
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
    let mut checks = vec![outcome("kernel", kernel), outcome("type information", btf), lockdown, cgroups()];
    checks.extend(pid_namespace(preflight::is_in_pid_namespace()));
    checks.extend([accounts(), search_program(), group()]);
    checks
}

/// Checks the hierarchies of cgroups.
fn cgroups() -> Check {
    // The kernel tells the cgroup of v2 with each record; that of v1 is looked up.
    let of_v1 = "units and containers that v1 alone has are looked up in /proc, too late for processes that end within milliseconds";
    let v1 = if cgroup::has_v1() { format!("; v1 is mounted too: {of_v1}") } else { String::new() };
    let Some(root) = preflight::cgroup_root() else {
        let missing = "no cgroup v2 is mounted: datagrams and attempts without a route are not seen";
        let names = if v1.is_empty() { "units and containers are not known" } else { of_v1 };
        return Check::new(Mark::Fair, "cgroups", format!("{missing}; {names}"));
    };
    let mut finding = format!("v2 at {}{v1}", root.path.display());
    // Programs that are attached to the root of a container see nothing of the host.
    if !root.is_of_host {
        finding.push_str(
            "; of a cgroup namespace: datagrams, and attempts without a route, are seen of this container only; run netconn outside \
             of it, or mount the host's /sys/fs/cgroup (--cgroupns=host does that)",
        );
    }
    let mark = if !root.is_of_host || !v1.is_empty() { Mark::Fair } else { Mark::Good };
    Check::new(mark, "cgroups", finding)
}

/// Checks the pid namespace; `None` if it is the first one.
fn pid_namespace(is_own: bool) -> Option<Check> {
    is_own.then(|| Check::new(Mark::Fair, "processes", PID_NAMESPACE))
}

/// Checks whether the program is there that searches the history and converts it.
fn search_program() -> Check {
    let found = match search_program::find() {
        Ok(found) => found,
        Err(error) => {
            let finding = format!(
                "{error}; `netconn search` and `netconn hunt` need it, and the history stays NDJSON without it"
            );
            return Check::new(Mark::Fair, "netconn-search", finding);
        }
    };
    let output = Command::new(&found).arg("--version").stdin(Stdio::null()).output();
    let version = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(output) => format!("it fails: {}", output.status),
        Err(error) => format!("it cannot be run: {error}"),
    };
    // `netconn-search 0.1.0`
    let is_same = version.rsplit(' ').next() == Some(env!("CARGO_PKG_VERSION"));
    let advice = if is_same { "" } else { "; install the one that was built with this netconn" };
    let mark = if is_same { Mark::Good } else { Mark::Bad };
    Check::new(mark, "netconn-search", format!("{version} ({}){advice}", found.display()))
}

/// Checks the group whose members may use the daemon and read the history.
fn group() -> Check {
    // A configuration that cannot be read is told by the commands that need it.
    let name = Config::load(None).unwrap_or_default().group;
    let group = Group::from_name(&name).ok().flatten();
    let user = User::from_uid(getuid()).ok().flatten().map(|user| user.name);
    let is_root = geteuid().is_root();
    let Some(group) = group else {
        let advice = format!(
            "`groupadd -r {name} && usermod -aG {name} USER` as root, before the daemon starts, lets others do so"
        );
        let finding =
            format!("there is no group '{name}': only root may use the daemon and read the history; {advice}");
        return Check::new(Mark::Fair, "group", finding);
    };
    // The session has what the account had when it began.
    let is_in_session = getegid() == group.gid || getgroups().is_ok_and(|groups| groups.contains(&group.gid));
    if is_root || is_in_session {
        let members = if group.mem.is_empty() { "no further account".to_owned() } else { group.mem.join(", ") };
        return Check::new(Mark::Good, "group", format!("root and the group '{name}' may use the daemon: {members}"));
    }
    let user = user.unwrap_or_else(|| "USER".into());
    let advice = join(&group, &user);
    Check::new(Mark::Fair, "group", format!("root and the group '{name}' may use the daemon, and {advice}"))
}

/// Returns how a user comes to use what a group may use.
fn join(group: &Group, user: &str) -> String {
    let name = &group.name;
    if group.mem.iter().any(|member| member == user) {
        format!("{user} has been added to '{name}' since this session began: log in again")
    } else {
        format!("{user} is not in '{name}': `sudo usermod -aG {name} {user}`, then log in again; or use sudo")
    }
}

/// Returns all that was found in a sentence, and the worst mark.
pub fn summary(checks: &[Check]) -> Check {
    let of = |mark| checks.iter().filter(move |check| check.mark == mark);
    let names = |mark| of(mark).map(|check| &*check.subject).collect::<Vec<_>>().join(", ");
    let (good, fair, bad) = (of(Mark::Good).count(), of(Mark::Fair).count(), of(Mark::Bad).count());
    let mut finding = format!("{good} of {} checks are well", checks.len());
    if fair != 0 {
        finding.push_str(&format!("; {fair} with less: {}", names(Mark::Fair)));
    }
    if bad != 0 {
        finding.push_str(&format!("; {bad} not: {}", names(Mark::Bad)));
    }
    let mark = if bad != 0 {
        Mark::Bad
    } else if fair != 0 {
        Mark::Fair
    } else {
        Mark::Good
    };
    Check::new(mark, "all", finding)
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
    // Only `Fair`: users without privileges may still ask a daemon.
    if let Err(error) = preflight::check_capabilities() {
        return Check::new(Mark::Fair, "permission", error.to_string());
    }
    let missing = CapabilitySet::of_this_process().missing(&Capability::ALL);
    if missing.is_empty() {
        return Check::new(Mark::Good, "permission", "eBPF programs may be loaded");
    }
    let costs = missing
        .iter()
        .map(|capability| format!("without {}, {}", capability.name(), capability.without().unwrap_or_default()));
    let costs = costs.collect::<Vec<_>>().join("; ");
    Check::new(
        Mark::Fair,
        "permission",
        format!("eBPF programs may be loaded; {costs}: run netconn as root, or give it these"),
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_is_not_well() {
        let check = |mark, subject: &str| Check::new(mark, subject, "");
        let mut checks = vec![check(Mark::Good, "kernel"), check(Mark::Good, "lockdown")];
        let of = |checks: &[Check]| (summary(checks).mark, summary(checks).finding);
        assert_eq!(of(&checks), (Mark::Good, "2 of 2 checks are well".into()));
        checks.push(check(Mark::Fair, "group"));
        assert_eq!(of(&checks), (Mark::Fair, "2 of 3 checks are well; 1 with less: group".into()));
        checks.push(check(Mark::Bad, "daemon"));
        assert_eq!(of(&checks), (Mark::Bad, "2 of 4 checks are well; 1 with less: group; 1 not: daemon".into()));
    }
}
