//! Checks what netconn needs of the machine before it loads anything, in the order in which things fail, each with a
//! sentence that says what to do.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use netconn_model::health::MissingCapability;
use nix::sys::{
    statfs::{CGROUP2_SUPER_MAGIC, Statfs, statfs},
    utsname::uname,
};
use procfs::process::MountInfo;
use thiserror::Error;

/// Oldest kernel that has everything indispensable: ring buffers (5.8), `bpf_ktime_get_boot_ns` (5.8),
/// iterators over sockets and files (5.9, 5.10).
pub const OLDEST_KERNEL: (u32, u32) = (5, 10);
/// The file in which the kernel describes its own types.
pub const BTF_FILE: &str = "/sys/kernel/btf/vmlinux";
/// Inode of the root of the hierarchy of cgroups v2, of which all others are parts: the first of its file system.
const CGROUP_ROOT_INODE: u64 = 1;
const LOCKDOWN_FILE: &str = "/sys/kernel/security/lockdown";

/// A capability that netconn uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Loads programs and makes maps.
    Bpf,
    /// Loads programs that read the kernel's memory.
    Perfmon,
    /// Loads and attaches programs on cgroups.
    NetAdmin,
    /// Reads `/proc` of processes that may more than this one.
    SysPtrace,
    /// Enters other network namespaces. It stands in for [`Self::Bpf`] and [`Self::Perfmon`], too.
    SysAdmin,
}

impl Capability {
    /// All of them, the indispensable ones first.
    pub const ALL: [Self; 5] = [Self::Bpf, Self::Perfmon, Self::NetAdmin, Self::SysPtrace, Self::SysAdmin];

    /// Name in `capabilities(7)`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// What is missing without it; `None`: netconn cannot run.
    pub fn without(self) -> Option<&'static str> {
        match self {
            Self::Bpf | Self::Perfmon => None,
            Self::NetAdmin => Some("no hook on cgroups is attached: no datagrams, no attempts that send nothing"),
            Self::SysPtrace => Some(
                "executables of processes that are older than netconn are missing, and it is not known which network namespaces there \
                 are",
            ),
            Self::SysAdmin => Some(
                "no other network namespace is entered: sockets there that are older than netconn, or whose records were lost, are \
                 missing, and so are reasons of attempts that send nothing, figures of sockets, names of interfaces, and packet \
                 sockets that nobody has open",
            ),
        }
    }

    /// Number of its bit in the capability sets, `include/uapi/linux/capability.h`.
    fn bit(self) -> u32 {
        match self {
            Self::Bpf => 39,
            Self::Perfmon => 38,
            Self::NetAdmin => 12,
            Self::SysPtrace => 19,
            Self::SysAdmin => 21,
        }
    }
}

/// The capabilities that a process has.
#[derive(Clone, Copy, Debug)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// Returns those of this process.
    pub fn of_this_process() -> Self {
        let status = procfs::process::Process::myself().and_then(|process| process.status());
        // Unknown without /proc: then the kernel itself decides when the programs are loaded.
        Self(status.map_or(u64::MAX, |status| status.capeff))
    }

    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Adds those of a set as `/proc/PID/status` has it.
    pub fn with_bits(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    /// Takes these away.
    pub fn without_these(self, others: &[Capability]) -> Self {
        Self(others.iter().fold(self.0, |set, other| set & !(1 << other.bit())))
    }

    /// Returns whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the names of those that netconn uses, and how many others there are.
    pub fn names(self) -> String {
        let named = Capability::ALL.into_iter().filter(|capability| self.0 >> capability.bit() & 1 != 0);
        let names = named.map(Capability::name).collect::<Vec<_>>().join(", ");
        let others = self.without_these(&Capability::ALL).0.count_ones();
        match (&*names, others) {
            ("", 0) => "no capability".into(),
            ("", 1) => "1 other capability".into(),
            ("", others) => format!("{others} other capabilities"),
            (_, 0) => names,
            (_, others) => format!("{names} and {others} others"),
        }
    }

    /// A set of all.
    #[cfg(test)]
    pub const ALL: Self = Self(u64::MAX);

    /// Returns a set of these.
    #[cfg(test)]
    pub fn with(capabilities: &[Capability]) -> Self {
        Self(capabilities.iter().fold(0, |set, capability| set | 1 << capability.bit()))
    }

    /// Returns whether it has a capability, or another that stands in for it.
    pub fn has(self, capability: Capability) -> bool {
        let has = |bit: u32| self.0 >> bit & 1 != 0;
        // `bpf_capable` and `perfmon_capable` in include/linux/capability.h; programs on packets of cgroups are an exception to
        // what `bpf_net_capable` in kernel/bpf/syscall.c allows.
        let is_implied = matches!(capability, Capability::Bpf | Capability::Perfmon) && has(Capability::SysAdmin.bit());
        has(capability.bit()) || is_implied
    }

    /// Returns which of these it lacks.
    pub fn missing(self, wanted: &[Capability]) -> Vec<Capability> {
        wanted.iter().copied().filter(|capability| !self.has(*capability)).collect()
    }
}

/// Returns what is missing without each of these capabilities.
pub fn lacks_of(missing: &[Capability]) -> Vec<MissingCapability> {
    let lack = |capability: &Capability| MissingCapability {
        capability: capability.name().to_owned(),
        without: capability.without().unwrap_or("netconn does not run").to_owned(),
    };
    missing.iter().map(lack).collect()
}

/// Returns the names as in a sentence.
pub fn names_of(capabilities: &[Capability]) -> String {
    let names: Vec<&str> = capabilities.iter().map(|capability| capability.name()).collect();
    match &*names {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        _ => names.concat(),
    }
}

/// Why netconn cannot trace on this machine.
#[derive(Debug, Error)]
pub enum Unfit {
    /// The kernel lacks indispensable features.
    #[error(
        "this kernel is {found}, netconn needs {}.{} or newer: boot a newer kernel",
        OLDEST_KERNEL.0,
        OLDEST_KERNEL.1
    )]
    KernelTooOld {
        /// The kernel's release.
        found: String,
    },
    /// Neither root nor the capabilities that stand in for it.
    #[error("missing {}: run netconn as root (sudo), or give it these capabilities", names_of(missing))]
    NotPermitted {
        /// All that are missing, also those that it can do without.
        missing: Vec<Capability>,
    },
    /// The kernel does not describe its types.
    #[error(
        "{BTF_FILE} cannot be read ({error}): netconn needs a kernel built with CONFIG_DEBUG_INFO_BTF=y and /sys mounted"
    )]
    NoBtf {
        /// What the system said.
        error: io::Error,
    },
}

/// Restrictions of root by the kernel (lockdown, `security/lockdown/Kconfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// No restriction, or unknown because securityfs is not mounted.
    None,
    /// Root must not change the kernel.
    Integrity,
    /// Root must not read the kernel's memory either.
    Confidentiality,
}

impl Lockdown {
    /// Reads the lockdown of the running kernel.
    pub fn of_this_kernel() -> Self {
        Self::parse(&fs::read_to_string(LOCKDOWN_FILE).unwrap_or_default())
    }

    /// Parses `none [integrity] confidentiality`.
    fn parse(text: &str) -> Self {
        if text.contains("[confidentiality]") {
            Self::Confidentiality
        } else if text.contains("[integrity]") {
            Self::Integrity
        } else {
            Self::None
        }
    }

    /// The kernel's own word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        }
    }
}

/// Returns the release of the running kernel, `6.1.0-18-amd64`.
pub fn kernel_release() -> String {
    uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns the version of the running kernel, `(6, 1)`; `None` if its release says none.
pub fn kernel_version() -> Option<(u32, u32)> {
    version(&kernel_release())
}

/// Checks that this kernel is new enough.
///
/// # Errors
///
/// [`Unfit::KernelTooOld`]; a release that cannot be read counts as new enough.
pub fn check_kernel(release: &str) -> Result<(), Unfit> {
    match version(release) {
        // Only the oldest version is asked for: everything newer is found out from BTF, because of backports.
        Some(version) if version < OLDEST_KERNEL => Err(Unfit::KernelTooOld { found: release.to_owned() }),
        _ => Ok(()),
    }
}

/// Checks that this process may load eBPF programs.
///
/// # Errors
///
/// [`Unfit::NotPermitted`] with the names of what is missing.
pub fn check_capabilities() -> Result<(), Unfit> {
    check_effective(CapabilitySet::of_this_process())
}

fn check_effective(effective: CapabilitySet) -> Result<(), Unfit> {
    let missing = effective.missing(&Capability::ALL);
    let is_indispensable = |capability: &Capability| capability.without().is_none();
    if missing.iter().any(is_indispensable) { Err(Unfit::NotPermitted { missing }) } else { Ok(()) }
}

/// Reads the kernel's description of its types.
///
/// # Errors
///
/// [`Unfit::NoBtf`].
pub fn read_btf() -> Result<Vec<u8>, Unfit> {
    fs::read(Path::new(BTF_FILE)).map_err(|error| Unfit::NoBtf { error })
}

/// A mounted root of cgroups v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Whether it is the root of the host's hierarchy, and not that of a cgroup namespace: of a container.
    pub is_of_host: bool,
}

/// Returns the root of the cgroup v2 hierarchy, also on hosts that have both versions: that of the host if it is mounted anywhere,
/// else that of this process's cgroup namespace; `None` if neither is mounted.
pub fn cgroup_root() -> Option<CgroupRoot> {
    let mounts = procfs::process::Process::myself().and_then(|process| process.mountinfo()).ok()?;
    root_among(mounts)
}

fn root_among(mounts: impl IntoIterator<Item = MountInfo>) -> Option<CgroupRoot> {
    let mut own = None;
    for mount in mounts.into_iter().filter(|mount| mount.fs_type == "cgroup2") {
        // The path of a mount that lies below a later one leads to that: to another file system.
        if !statfs(&mount.mount_point).is_ok_and(|system| is_cgroup2(&system)) {
            continue;
        }
        // In a namespace of its own, a container that has been given the host's hierarchy finds it as `/../..`.
        if fs::metadata(&mount.mount_point).is_ok_and(|root| root.ino() == CGROUP_ROOT_INODE) {
            return Some(CgroupRoot { path: mount.mount_point, is_of_host: true });
        }
        // Programs at the mount of a part of the hierarchy would miss the sockets of all others.
        if mount.root == "/" && own.is_none() {
            own = Some(CgroupRoot { path: mount.mount_point, is_of_host: false });
        }
    }
    own
}

fn is_cgroup2(system: &Statfs) -> bool {
    system.filesystem_type() == CGROUP2_SUPER_MAGIC
}

/// Returns whether this process has a pid namespace of its own: the kernel's records have the process ids of the first one, `/proc`
/// and the iterators over processes those of this one. The first namespace's number is `PROC_PID_INIT_INO` in
/// `include/linux/proc_ns.h`.
pub fn is_in_pid_namespace() -> bool {
    const FIRST: u64 = 0xefff_fffc;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() != FIRST)
}

/// What a pid namespace of its own costs, and what to do.
pub const PID_NAMESPACE: &str = "netconn runs in a pid namespace of its own: process ids are those of the host, and executables, arguments and open files of \
     processes that are older than netconn are not found; run it on the host, or give the container the host's (--pid=host)";

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_named() {
        assert!(check_kernel("5.10.0-8-amd64").is_ok());
        assert!(check_kernel("6.18.44-fc-v657").is_ok());
        assert!(check_kernel("10.0").is_ok());
        assert!(check_kernel("strange").is_ok());
        let error = check_kernel("4.18.0-553.el8").unwrap_err().to_string();
        assert_eq!(error, "this kernel is 4.18.0-553.el8, netconn needs 5.10 or newer: boot a newer kernel");
    }

    #[test]
    fn missing_capabilities_are_named() {
        let check = |bits: &[u32]| check_effective(CapabilitySet(bits.iter().fold(0, |set, bit| set | 1 << bit)));
        assert!(check(&[Capability::SysAdmin.bit()]).is_ok());
        assert!(check(&[39, 38]).is_ok(), "the rest costs hooks, not the start");
        let error = check(&[39, 12]).unwrap_err().to_string();
        assert_eq!(
            error,
            "missing CAP_PERFMON, CAP_SYS_PTRACE and CAP_SYS_ADMIN: run netconn as root (sudo), or give it these capabilities"
        );
        let error = check(&[]).unwrap_err().to_string();
        let all = "missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE and CAP_SYS_ADMIN: run";
        assert!(error.starts_with(all), "{error}");
        assert_eq!(names_of(&[Capability::NetAdmin]), "CAP_NET_ADMIN");
    }

    #[test]
    fn a_mount_that_another_one_hides_is_not_taken() {
        let mount = |at: &Path, root: &str| {
            let at = at.display();
            MountInfo::from_line(&format!("36 25 0:31 {root} {at} rw,nosuid shared:9 - cgroup2 cgroup2 rw")).unwrap()
        };
        let Some(root) = cgroup_root() else { return }; // There is no cgroup v2 here.
        // By its path, a mount at /proc is hidden: what is there is another file system.
        let hidden = mount(Path::new("/proc"), "/");
        assert_eq!(root_among([hidden.clone(), mount(&root.path, "/")]), Some(root.clone()));
        assert_eq!(root_among([hidden, mount(Path::new("/nonexistent"), "/")]), None);
        // As a container with a namespace of its own sees what it was given of the host.
        let part =
            fs::read_dir(&root.path).unwrap().flatten().find(|entry| entry.path().is_dir()).map(|entry| entry.path());
        let Some(part) = part else { return }; // There are no cgroups here.
        let own = CgroupRoot { path: part.clone(), is_of_host: false };
        assert_eq!(root_among([mount(&part, "/")]), Some(own));
        assert_eq!(root_among([mount(&part, "/part")]), None);
        if root.is_of_host {
            assert_eq!(root_among([mount(&part, "/"), mount(&root.path, "/../..")]), Some(root));
        }
    }

    #[test]
    fn lockdown_is_read() {
        assert_eq!(Lockdown::parse("[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(Lockdown::parse("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(Lockdown::parse("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
        assert_eq!(Lockdown::parse(""), Lockdown::None);
    }
}
