//! Checks of the daemon from outside: who has started it, what the kernel lets it do, whether it is the program that is installed, and
//! whether this user may read what it makes. All of it is read from `/proc`, which needs no privilege, but for the path of its program.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use netconn_model::{
    config::Config,
    health::Health,
    segment_name::{self, SegmentName},
};
use nix::{
    sys::stat::Mode,
    unistd::{AccessFlags, Gid, Group, Uid, User, access, geteuid},
};
use procfs::process::{Process, Status};

use crate::{
    doctor::{Check, Mark, join},
    kernel::preflight::{self, Capability, CapabilitySet},
    process::cgroup::Cgroup,
};

/// The unit of the package.
const UNIT: &str = "netconn.service";
/// Where units are, systemd.unit(5).
const UNIT_FOLDERS: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// The folder that says that systemd manages this host, sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
/// `SECCOMP_MODE_DISABLED` in `include/uapi/linux/seccomp.h`.
const SECCOMP_DISABLED: u32 = 0;
/// What the child of the daemon keeps: it enters network namespaces, and reads `/proc` of other users.
const OF_CHILD: [Capability; 2] = [Capability::SysAdmin, Capability::SysPtrace];
/// What a program that was replaced or removed has behind its path, `d_path` in `fs/d_path.c`.
const DELETED: &str = " (deleted)";

/// Checks a running daemon from outside.
pub fn service(health: &Health, socket: &Path) -> Vec<Check> {
    let process = daemon_process(health);
    let mut checks = Vec::new();
    let mut advice = RESTART_BY_HAND;
    match process.and_then(|process| Observed::read(&process)) {
        Ok(observed) => {
            let start = Start::of(&observed, Path::new(BOOTED).exists());
            let is_unit = matches!(start.by, Starter::Unit);
            if is_unit {
                advice = RESTART_UNIT;
            }
            checks.push(start.check());
            // Before 5.19 the daemon needs it to read maps.
            let is_needed = preflight::kernel_version().is_some_and(|version| version < (5, 19));
            let kept: &[Capability] = if is_needed { &[Capability::Bpf] } else { &[] };
            checks.push(hardening(&observed.threads, &observed.children, kept, is_unit));
            checks.push(versions(&health.version, &observed.program, advice));
        }
        Err(reason) => {
            checks.push(Check::new(Mark::Fair, "service", format!("what runs cannot be looked at: {reason}")));
            checks.push(versions(&health.version, &Err(reason), advice));
        }
    }
    let history = health.history.as_ref().map(|history| Path::new(&history.output.path));
    checks.push(readable(Some(socket), history));
    checks
}

/// Checks what can be known of the service while no daemon answers at this socket.
pub fn without_daemon(socket: &Path) -> Vec<Check> {
    let is_installed = UNIT_FOLDERS.iter().any(|folder| Path::new(folder).join(UNIT).exists());
    let mut checks = Vec::new();
    if is_installed && Path::new(BOOTED).exists() {
        let finding = format!(
            "{UNIT} is installed, but nobody answers at {}: `systemctl status netconn` says why, `sudo systemctl enable --now netconn` \
             starts it",
            socket.display()
        );
        checks.push(Check::new(Mark::Fair, "service", finding));
    }
    let history = Config::load(None).unwrap_or_default().state_dir.join(segment_name::FOLDER);
    // Its parents may be closed to this user: that it is not there can be said only if the kernel says so.
    let is_absent = fs::symlink_metadata(&history).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if !is_absent {
        checks.push(readable(None, Some(&history)));
    }
    checks
}

/// Returns the daemon's process, or why it cannot be found.
fn daemon_process(health: &Health) -> Result<Process, String> {
    if health.own_pid_namespace != preflight::is_in_pid_namespace() {
        return Err("it is in another pid namespace; run doctor there".into());
    }
    let pid = i32::try_from(health.pid).unwrap_or(0);
    Process::new(pid).map_err(|error| format!("/proc/{pid} cannot be read: {error}"))
}

/// What the kernel says of the daemon.
#[derive(Debug)]
struct Observed {
    threads: Vec<Status>,
    children: Vec<Status>,
    /// Path of its cgroup.
    cgroup: String,
    /// Process id of its parent.
    parent: i32,
    /// Name of its parent.
    parent_name: Option<String>,
    /// Its user.
    uid: u32,
    /// The user who had logged in; none for what systemd starts.
    login: Option<u32>,
    program: Result<PathBuf, String>,
}

impl Observed {
    fn read(process: &Process) -> Result<Self, String> {
        let pid = process.pid();
        let unreadable =
            |what: &str, error: &dyn std::fmt::Display| format!("/proc/{pid}/{what} cannot be read: {error}");
        let status = process.status().map_err(|error| unreadable("status", &error))?;
        let tasks = process.tasks().map_err(|error| unreadable("task", &error))?.flatten();
        let (mut threads, mut children) = (Vec::new(), Vec::new());
        for task in tasks {
            // A thread or child that ends meanwhile.
            threads.extend(task.status());
            let pids = task.children().unwrap_or_default();
            children.extend(pids.into_iter().filter_map(|pid| Process::new(pid.try_into().ok()?).ok()?.status().ok()));
        }
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let parent_name = Process::new(status.ppid).ok().and_then(|parent| Some(parent.status().ok()?.name));
        // `INVALID_UID` in `include/linux/uidgid.h`: nobody has logged in.
        let login = process.loginuid().ok().filter(|uid| *uid != u32::MAX);
        let program = process.exe().map_err(|error| unreadable("exe", &error));
        let cgroup = cgroup_of_unit(&cgroup).to_owned();
        Ok(Self { threads, children, cgroup, parent: status.ppid, parent_name, uid: status.euid, login, program })
    }
}

/// Returns the path of the hierarchy that systemd keeps, in the text of `/proc/PID/cgroup` (cgroups(7)): its own one of v1, else v2.
fn cgroup_of_unit(text: &str) -> &str {
    let path_of = |controllers: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.strip_prefix(controllers)?.strip_prefix(':')
        })
    };
    path_of("name=systemd").or_else(|| path_of("")).unwrap_or_default()
}

/// Who has started the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Starter {
    /// systemd, by the unit of the package.
    Unit,
    /// systemd, by another unit.
    OtherUnit(String),
    /// The runtime of this container.
    Container(String),
    /// Somebody, in a session or by another program.
    Hand { login: Option<String>, parent: Option<String>, unit: Option<String> },
}

#[derive(Debug)]
struct Start {
    by: Starter,
    user: String,
    /// Whether systemd manages this host.
    booted: bool,
}

impl Start {
    fn of(observed: &Observed, booted: bool) -> Self {
        let Cgroup { unit, container, .. } = Cgroup::new(observed.cgroup.clone());
        // A unit such as cron.service may hold what somebody else has started: what systemd starts has it as its parent, and no login.
        let of_systemd = observed.parent == 1 && observed.login.is_none();
        let by = match (unit, container) {
            (Some(unit), _) if unit == UNIT => Starter::Unit,
            (_, Some(container)) => Starter::Container(container),
            (Some(unit), _) if of_systemd && unit.ends_with(".service") => Starter::OtherUnit(unit),
            (unit, _) => {
                let parent = observed.parent_name.as_ref().map(|name| format!("{name} (pid {})", observed.parent));
                Starter::Hand { login: observed.login.map(account), parent, unit }
            }
        };
        Self { by, user: account(observed.uid), booted }
    }

    fn check(&self) -> Check {
        let user = &self.user;
        let (mark, finding) = match &self.by {
            Starter::Unit => (Mark::Good, format!("{UNIT}, as user {user}")),
            Starter::OtherUnit(unit) => (Mark::Good, format!("{unit} (not {UNIT}), as user {user}")),
            Starter::Container(id) => (Mark::Good, format!("in the container {id}, as user {user}")),
            Starter::Hand { login, parent, unit } => {
                let by = login.as_ref().map(|login| format!(" by {login}")).unwrap_or_default();
                let from = parent.as_ref().map(|parent| format!(" from {parent}")).unwrap_or_default();
                let of = unit.as_ref().map(|unit| format!(" in {unit}")).unwrap_or_default();
                let started = format!("started by hand{by}{from}{of}, as user {user}");
                if self.booted {
                    let cost = "nobody starts it again after a failure or with this host; `sudo systemctl enable --now netconn`, when \
                                this one has ended, does so";
                    (Mark::Fair, format!("{started}: {cost}"))
                } else {
                    (Mark::Good, format!("{started}; systemd does not run here"))
                }
            }
        };
        Check::new(mark, "service", finding)
    }
}

/// Returns the name of an account with its number.
fn account(uid: u32) -> String {
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    name.map_or_else(|| uid.to_string(), |name| format!("{name} ({uid})"))
}

/// Checks what each thread of the daemon may do, and its children. `kept` is what its threads may keep after the start.
fn hardening(threads: &[Status], children: &[Status], kept: &[Capability], is_unit: bool) -> Check {
    let mut found = BTreeMap::<String, usize>::new();
    for thread in threads {
        if let Some(more) = more_than(thread, kept) {
            *found.entry(more).or_default() += 1;
        }
    }
    let all = threads.len();
    let mut parts: Vec<String> = found
        .iter()
        .map(|(more, count)| match *count {
            count if count == all => format!("each of {all} threads {more}"),
            count => format!("{count} of {all} threads: it {more}"),
        })
        .collect();
    parts.extend(children.iter().filter_map(|child| {
        let more = more_than(child, &OF_CHILD)?;
        Some(format!("its child {} ({}) {more}", child.pid, child.name))
    }));
    if !parts.is_empty() {
        let advice = if is_unit {
            "`systemctl cat netconn` shows drop-ins that take something from the unit, `journalctl -u netconn` what this kernel refuses"
        } else {
            "netconn.service confines it"
        };
        return Check::new(Mark::Fair, "hardening", format!("{}; {advice}", parts.join("; ")));
    }
    let held = threads.iter().fold(CapabilitySet::NONE, |held, thread| held.with_bits(thread.capeff | thread.capprm));
    let mut finding = format!("{all} threads, none of root, with {}, no_new_privs", held.names());
    if threads.iter().all(|thread| thread.seccomp.is_some()) {
        finding.push_str(", a filter of system calls");
    }
    for child in children {
        let held = CapabilitySet::NONE.with_bits(child.capeff | child.capprm);
        finding.push_str(&format!("; child {} ({}) with {}", child.pid, child.name, held.names()));
    }
    Check::new(Mark::Good, "hardening", finding)
}

/// Returns what a thread may do beyond what it should, as the rest of a sentence; `None` if there is nothing.
fn more_than(status: &Status, kept: &[Capability]) -> Option<String> {
    let mut parts = Vec::new();
    if status.euid == 0 {
        parts.push("is root".to_owned());
    }
    let held = CapabilitySet::NONE.with_bits(status.capeff | status.capprm).without_these(kept);
    if !held.is_empty() {
        parts.push(format!("has {}", held.names()));
    }
    let bounds = CapabilitySet::NONE.with_bits(status.capbnd.unwrap_or(0)).without_these(&Capability::ALL);
    if !bounds.is_empty() {
        parts.push(format!("has {} in the bounding set", bounds.names()));
    }
    // Old kernels do not tell one of these, or have no filters.
    if status.nonewprivs == Some(0) {
        parts.push("is without no_new_privs".to_owned());
    }
    if status.seccomp == Some(SECCOMP_DISABLED) {
        parts.push("is without a filter of system calls".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

const RESTART_UNIT: &str = "`sudo systemctl restart netconn`";
const RESTART_BY_HAND: &str = "end it and start it again";

/// Checks whether the daemon is the program that is installed. That of `netconn-search` is compared with this one by another check.
fn versions(daemon: &str, program: &Result<PathBuf, String>, restart: &str) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    if daemon != own {
        let finding = format!("the daemon is netconn {daemon}, and this program is {own}: {restart}");
        return Check::new(Mark::Fair, "versions", finding);
    }
    match program {
        Ok(path) => match path.to_string_lossy().strip_suffix(DELETED) {
            Some(path) => {
                let finding = format!(
                    "both are {own}, but {path} was replaced or removed after the daemon had started from it: {restart}"
                );
                Check::new(Mark::Fair, "versions", finding)
            }
            None => Check::new(Mark::Good, "versions", format!("the daemon and this program are {own}")),
        },
        Err(_) => {
            let finding = format!(
                "the daemon and this program are {own}; only root can read whether its file was replaced since it started"
            );
            Check::new(Mark::Good, "versions", finding)
        }
    }
}

/// Checks whether this user may use the socket and read the history.
fn readable(socket: Option<&Path>, history: Option<&Path>) -> Check {
    let user = User::from_uid(geteuid()).ok().flatten().map_or_else(|| geteuid().to_string(), |user| user.name);
    let mut may = Vec::new();
    let mut refused = Vec::new();
    if let Some(socket) = socket {
        match access(socket, AccessFlags::R_OK | AccessFlags::W_OK) {
            Ok(()) => may.push(format!("use {}", socket.display())),
            Err(error) => refused.push(refusal(socket, error, &user)),
        }
    }
    if let Some(history) = history {
        match first_unreadable(history) {
            None => may.push(format!("read the history in {}", history.display())),
            Some((path, error)) => refused.push(refusal(&path, error, &user)),
        }
    }
    if refused.is_empty() {
        return Check::new(Mark::Good, "access", format!("{user} may {}", may.join(" and ")));
    }
    Check::new(Mark::Fair, "access", refused.join("; "))
}

/// Returns the first of the history's folder and files that this user may not read.
fn first_unreadable(history: &Path) -> Option<(PathBuf, nix::Error)> {
    if let Err(error) = access(history, AccessFlags::R_OK | AccessFlags::X_OK) {
        return Some((history.to_owned(), error));
    }
    let files = fs::read_dir(history).into_iter().flatten().flatten();
    let segments = files.filter(|file| file.file_name().to_str().and_then(SegmentName::parse).is_some());
    segments.map(|file| file.path()).find_map(|path| match access(&path, AccessFlags::R_OK) {
        // One that was converted or removed meanwhile.
        Ok(()) | Err(nix::Error::ENOENT) => None,
        Err(error) => Some((path, error)),
    })
}

/// Says that this user may not use a path, and what to do.
fn refusal(path: &Path, error: nix::Error, user: &str) -> String {
    if error != nix::Error::EACCES {
        return format!("{} cannot be read: {error}", path.display());
    }
    // The folder above that lets nobody pass is the first of which anything is known.
    let known = path.ancestors().find_map(|path| Some((path, nix::sys::stat::stat(path).ok()?)));
    let Some((closed, stat)) = known else { return format!("{user} may not use {}: use sudo", path.display()) };
    let is_for_group = Mode::from_bits_truncate(stat.st_mode).intersects(Mode::S_IRGRP | Mode::S_IXGRP);
    let group = Group::from_gid(Gid::from_raw(stat.st_gid)).ok().flatten().filter(|_| is_for_group && stat.st_gid != 0);
    let advice = group.map_or_else(|| "use sudo".to_owned(), |group| join(&group, user));
    let mode = stat.st_mode & 0o7777;
    format!("{user} may not use {} (mode {mode:o} of {}): {advice}", path.display(), closed.display())
}

#[cfg(test)]
mod tests {
    use procfs::FromBufRead as _;

    use super::*;

    /// What Linux 6.18 says of a thread of the unit, with these in place of its own.
    fn status(name: &str, uid: u32, (held, bounds): (u64, u64), (no_new_privs, seccomp): (u8, u8)) -> Status {
        let text = format!(
            "Name:\t{name}\nUmask:\t0027\nState:\tS (sleeping)\nTgid:\t700\nNgid:\t0\nPid:\t701\nPPid:\t1\nTracerPid:\t0\n\
             Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\nFDSize:\t64\nGroups:\t{uid} \nNStgid:\t700\n\
             NSpid:\t701\nNSpgid:\t700\nNSsid:\t700\nKthread:\t0\nVmPeak:\t   81920 kB\nVmSize:\t   81920 kB\nVmLck:\t       0 kB\n\
             VmPin:\t       0 kB\nVmHWM:\t   20480 kB\nVmRSS:\t   20480 kB\nRssAnon:\t    9000 kB\nRssFile:\t   11480 kB\n\
             RssShmem:\t       0 kB\nVmData:\t   20000 kB\nVmStk:\t     132 kB\nVmExe:\t    8000 kB\nVmLib:\t    2000 kB\n\
             VmPTE:\t     120 kB\nVmSwap:\t       0 kB\nHugetlbPages:\t       0 kB\nCoreDumping:\t0\nTHP_enabled:\t1\n\
             untag_mask:\t0xffffffffffffffff\nThreads:\t7\nSigQ:\t0/30000\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n\
             SigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004003\nCapInh:\t0000000000000000\n\
             CapPrm:\t{held:016x}\nCapEff:\t{held:016x}\nCapBnd:\t{bounds:016x}\nCapAmb:\t0000000000000000\n\
             NoNewPrivs:\t{no_new_privs}\nSeccomp:\t{seccomp}\nSeccomp_filters:\t1\nSpeculation_Store_Bypass:\tvulnerable\n\
             SpeculationIndirectBranch:\tconditional enabled\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\nMems_allowed:\t1\n\
             Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t10\nnonvoluntary_ctxt_switches:\t1\n"
        );
        Status::from_buf_read(text.as_bytes()).unwrap()
    }

    const BPF: u64 = 1 << 39;
    const OF_CHILD_BITS: u64 = 1 << 21 | 1 << 19;

    #[test]
    fn the_hardening_names_what_is_missing_of_it() {
        let well = || status("netconn", 998, (0, 0), (1, 2));
        let child = || status("netconn-child", 998, (OF_CHILD_BITS, 0), (1, 2));
        let check = |threads: &[Status], children: &[Status], kept: &[Capability]| {
            let Check { mark, finding, .. } = hardening(threads, children, kept, true);
            (mark, finding)
        };
        let (mark, finding) = check(&[well(), well()], &[child()], &[]);
        let expected = "2 threads, none of root, with no capability, no_new_privs, a filter of system calls; child 701 \
                        (netconn-child) with CAP_SYS_PTRACE, CAP_SYS_ADMIN";
        assert_eq!((mark, &*finding), (Mark::Good, expected));
        // What the unit gives, and a kernel before 5.19.
        let given = BPF | 1 << 38 | 1 << 12 | OF_CHILD_BITS;
        let old = || status("netconn", 998, (BPF, given), (1, 2));
        let (mark, finding) = check(&[old()], &[], &[Capability::Bpf]);
        assert!(mark == Mark::Good && finding.contains("1 threads, none of root, with CAP_BPF, "), "{finding}");
        for (ill, expected) in [
            (old(), "1 of 2 threads: it has CAP_BPF; `systemctl cat"),
            (status("netconn", 0, (0, 0), (1, 2)), "1 of 2 threads: it is root; "),
            (status("netconn", 998, (0, 0), (0, 2)), "it is without no_new_privs; "),
            (status("netconn", 998, (0, 0), (1, 0)), "it is without a filter of system calls; "),
            (status("netconn", 998, (0, given | 1), (1, 2)), "it has 1 other capability in the bounding set; "),
        ] {
            let (mark, finding) = check(&[well(), ill], &[], &[]);
            assert!(mark == Mark::Fair && finding.contains(expected), "{finding}");
        }
        let root = || status("netconn", 0, (0x1ff_ffff_ffff, 0x1ff_ffff_ffff), (0, 0));
        let (_, finding) = check(&[root(), root()], &[status("x", 998, (1, 0), (1, 2))], &[]);
        let expected = "each of 2 threads is root, has CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN and 36 others, \
                        has 36 other capabilities in the bounding set, is without no_new_privs, is without a filter of system calls; \
                        its child 701 (x) has 1 other capability; ";
        assert!(finding.starts_with(expected), "{finding}");
    }

    #[test]
    fn who_has_started_the_daemon_is_told() {
        let observed = |cgroup: &str, parent, login| Observed {
            threads: Vec::new(),
            children: Vec::new(),
            cgroup: cgroup_of_unit(cgroup).to_owned(),
            parent,
            parent_name: Some("sudo".into()),
            uid: 0,
            login,
            program: Err(String::new()),
        };
        let container = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let of_container = format!("0::/system.slice/docker-{container}.scope\n");
        for (cgroup, parent, login, mark, expected) in [
            ("0::/system.slice/netconn.service\n", 1, None, Mark::Good, "netconn.service, as user root (0)"),
            (
                "4:memory:/\n1:name=systemd:/system.slice/netconn.service\n0::/\n",
                1,
                None,
                Mark::Good,
                "netconn.service, as user root (0)",
            ),
            (
                "0::/system.slice/own.service\n",
                1,
                None,
                Mark::Good,
                "own.service (not netconn.service), as user root (0)",
            ),
            (
                "0::/system.slice/ssh.service\n",
                1,
                Some(0),
                Mark::Fair,
                "started by hand by root (0) from sudo (pid 1) in ssh.service, as user root (0): nobody starts it again",
            ),
            (
                "0::/user.slice/user-1000.slice/session-3.scope\n",
                77,
                None,
                Mark::Fair,
                "started by hand from sudo (pid 77) in session-3.scope, as user root (0): nobody",
            ),
            (&of_container, 0, None, Mark::Good, "in the container 0123456789ab"),
        ] {
            let check = Start::of(&observed(cgroup, parent, login), true).check();
            assert!(check.mark == mark && check.finding.starts_with(expected), "{}", check.finding);
        }
        let check = Start::of(&observed("0::/\n", 77, None), false).check();
        let expected = "started by hand from sudo (pid 77), as user root (0); systemd does not run here";
        assert_eq!((check.mark, &*check.finding), (Mark::Good, expected));
    }

    #[test]
    fn an_old_daemon_under_a_new_program_is_told() {
        let own = env!("CARGO_PKG_VERSION");
        let check = |version: &str, program| {
            let Check { mark, finding, .. } = versions(version, &program, RESTART_UNIT);
            (mark, finding)
        };
        assert_eq!(check(own, Ok("/usr/bin/netconn".into())).0, Mark::Good);
        let (mark, finding) = check(own, Ok("/usr/bin/netconn (deleted)".into()));
        let expected = "but /usr/bin/netconn was replaced or removed after the daemon had started from it: `sudo systemctl restart netconn`";
        assert!(mark == Mark::Fair && finding.ends_with(expected), "{finding}");
        let (mark, finding) = check("0.0.9", Err("denied".into()));
        assert!(mark == Mark::Fair && finding.starts_with("the daemon is netconn 0.0.9, and this"), "{finding}");
        let (mark, finding) = check(own, Err("denied".into()));
        assert!(
            mark == Mark::Good
                && finding.ends_with("only root can read whether its file was replaced since it started")
        );
    }
}
