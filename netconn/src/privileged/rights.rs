//! Capabilities of this process: `capabilities(7)`. They belong to a thread: these functions are called while there is one.

use std::{fs, io};

/// Attaches programs to cgroups. The numbers of the bits are those of `include/uapi/linux/capability.h`.
pub const NET_ADMIN: u64 = 1 << 12;
/// Looks at processes of others.
pub const SYS_PTRACE: u64 = 1 << 19;
/// Enters network namespaces.
pub const SYS_ADMIN: u64 = 1 << 21;
/// Loads programs that read the kernel's memory.
pub const PERFMON: u64 = 1 << 38;
/// Loads programs and makes maps.
pub const BPF: u64 = 1 << 39;

/// More than the number of capabilities.
const NUMBERS: libc::c_ulong = 64;
/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapHead {
    version: u32,
    pid: libc::c_int,
}

/// Half of the sets: 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapSets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn sets() -> io::Result<[CapSets; 2]> {
    let mut sets = [CapSets::default(); 2];
    let head = CapHead { version: VERSION, pid: 0 };
    // SAFETY: the kernel writes two halves, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const head, &raw mut sets) })?;
    Ok(sets)
}

/// Returns the effective capabilities of the calling thread.
///
/// # Errors
///
/// What the system says.
pub fn effective() -> io::Result<u64> {
    let [low, high] = sets()?;
    Ok(u64::from(low.effective) | u64::from(high.effective) << 32)
}

/// Returns the permitted capabilities of the calling thread.
///
/// # Errors
///
/// What the system says.
pub fn permitted() -> io::Result<u64> {
    let [low, high] = sets()?;
    Ok(u64::from(low.permitted) | u64::from(high.permitted) << 32)
}

/// Leaves the calling thread these of its capabilities, and gives none to programs that it starts.
///
/// # Errors
///
/// When the thread has not all of them.
pub fn limit_to(capabilities: u64) -> io::Result<()> {
    let half = |bits: u64| {
        let bits = bits as u32;
        CapSets { effective: bits, permitted: bits, inheritable: 0 }
    };
    let halves = [half(capabilities & u64::from(u32::MAX)), half(capabilities >> 32)];
    let head = CapHead { version: VERSION, pid: 0 };
    // SAFETY: system calls with numbers, and with pointers to values that outlive the calls.
    unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        check(libc::syscall(libc::SYS_capset, &raw const head, &raw const halves))
    }
}

/// Empties the bounding set, so that no program that is started gets any capability. Without `CAP_SETPCAP` it stays as it is: then
/// `no_new_privs` prevents that alone.
pub fn empty_bounding_set() {
    for number in 0..NUMBERS {
        // SAFETY: a system call without pointers. Numbers that the kernel does not know are refused.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
}

/// Has no program that is started get more rights than this process.
///
/// # Errors
///
/// What the system says.
pub fn no_new_privileges() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs().map_err(io::Error::from)
}

/// Returns whether the system call `bpf` takes `CAP_BPF` also for what is loaded already, as before kernel 5.19 if
/// `kernel.unprivileged_bpf_disabled` is set. That can be set later, so old kernels count in any case.
pub fn needs_bpf(kernel: Option<(u32, u32)>) -> bool {
    if kernel.is_none_or(|kernel| kernel < (5, 19)) {
        return true;
    }
    // `BPF_MAP_LOOKUP_ELEM` of no map: a kernel that allows the call says EBADF.
    const LOOKUP: libc::c_int = 1;
    let asked = std::thread::spawn(|| -> io::Result<bool> {
        limit_to(0)?;
        let attributes = [u32::MAX, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the kernel reads as many bytes as are told, which outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP, &raw const attributes, size_of_val(&attributes)) };
        Ok(result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM))
    });
    asked.join().is_ok_and(|needs| needs.unwrap_or(true))
}

/// Checks that no thread of this process has other capabilities than these, or may get more.
///
/// # Errors
///
/// Names the thread.
pub fn verify(capabilities: u64) -> Result<(), String> {
    let unread = |error: io::Error| format!("the threads of this process cannot be looked at: {error}");
    for entry in fs::read_dir("/proc/self/task").map_err(unread)?.flatten() {
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let member = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        for name in ["CapEff:", "CapPrm:"] {
            if member(name).and_then(|bits| u64::from_str_radix(bits, 16).ok()) != Some(capabilities) {
                let found = member(name).unwrap_or("nothing");
                return Err(format!(
                    "thread {} has {name} {found} instead of {capabilities:x}",
                    entry.file_name().display()
                ));
            }
        }
        if member("NoNewPrivs:") != Some("1") {
            return Err(format!("thread {} has no no_new_privs", entry.file_name().display()));
        }
    }
    Ok(())
}

/// Returns the names of those of the capabilities that netconn uses.
pub fn names(capabilities: u64) -> Vec<&'static str> {
    [
        (BPF, "CAP_BPF"),
        (PERFMON, "CAP_PERFMON"),
        (NET_ADMIN, "CAP_NET_ADMIN"),
        (SYS_PTRACE, "CAP_SYS_PTRACE"),
        (SYS_ADMIN, "CAP_SYS_ADMIN"),
    ]
    .into_iter()
    .filter(|(bit, _)| capabilities & bit != 0)
    .map(|(_, name)| name)
    .collect()
}
