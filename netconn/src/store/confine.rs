//! What the converter is not allowed to do, and how it yields to everybody else. It reads text that strangers put into command
//! lines, and its work is never urgent.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::store::converter_user::ConverterUser;

/// The descriptor that the converter writes the Parquet file to. Its input is the segment, its output the report.
pub(super) const PARQUET_DESCRIPTOR: libc::c_int = 3;
/// Most memory that the converter may write to, bytes. Its address space is not limited: threads and allocators reserve far more
/// than they use.
const MEMORY_MAX: u64 = 1 << 30;
/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)`, `include/uapi/linux/ioprio.h`: reads and writes when nobody else does.
const IO_IDLE: libc::c_int = 3 << 13;
/// `IOPRIO_WHO_PROCESS`, which means a thread.
const IO_OF_PROCESS: libc::c_int = 1;
/// More than the number of capabilities, `include/uapi/linux/capability.h`.
const CAPABILITIES: libc::c_ulong = 64;
/// `_LINUX_CAPABILITY_VERSION_3`, `include/uapi/linux/capability.h`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// System calls that reach other processes, the network or much of the kernel. They are denied from the first instruction on and
/// whatever program is installed; `netconn-search` itself goes further before it reads the segment. What the loader needs
/// (`open`, `mmap`, `execve`) is not among them, nor what the change of the user prevents already.
const DENIED: [libc::c_long; 21] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    // Makes sockets without the two above.
    libc::SYS_io_uring_setup,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_mknodat,
];

/// What is taken from the converter before it runs. All of it is looked up before `fork`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restraint {
    /// The daemon, with which it must end.
    pub(super) parent: u32,
    /// Its own user; `None`: it keeps the daemon's, which is not root then.
    pub(super) user: Option<ConverterUser>,
    /// Largest file that it may write, bytes.
    pub(super) file_max: u64,
}

/// Returns the program that denies [`DENIED`]; `None` on architectures that seccompiler does not know.
pub(super) fn filter() -> Option<BpfProgram> {
    let rules = DENIED.map(|call| (call, Vec::new())).into();
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let machine = std::env::consts::ARCH.try_into().ok()?;
    SeccompFilter::new(rules, SeccompAction::Allow, denied, machine).ok()?.try_into().ok()
}

/// The head of `capset`, `include/uapi/linux/capability.h`.
#[repr(C)]
struct CapabilityHead {
    version: u32,
    pid: libc::c_int,
}

/// Half of the sets of `capset`: 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What may fail of the confinement: the child goes on without it, and the daemon tells. A byte in the pipe between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OptionalLayers {
    /// Its bounding set of capabilities is empty.
    pub(super) empty_bounding_set: bool,
    /// The filter holds.
    pub(super) first_filter: bool,
}

impl OptionalLayers {
    pub(super) fn byte(self) -> u8 {
        u8::from(self.empty_bounding_set) | u8::from(self.first_filter) << 1
    }

    /// Reads what a child has written before `exec`; `None` if it has written nothing.
    pub(super) fn read(mut pipe: impl io::Read) -> Option<Self> {
        let mut byte = [0];
        pipe.read_exact(&mut byte).ok()?;
        let [byte] = byte;
        Some(Self { empty_bounding_set: byte & 1 != 0, first_filter: byte & 2 != 0 })
    }
}

/// Takes rights and resources from a child between `fork` and `exec`, and gives it the file to write. What only saves resources
/// may fail, and so may the [`OptionalLayers`], which it writes to the pipe `told`.
///
/// # Errors
///
/// When the child could keep rights, or outlive the daemon, whose next run would convert the same segment at the same time.
pub(super) fn before_exec(
    restraint: &Restraint,
    filter: Option<&BpfProgram>,
    (parquet, told): (BorrowedFd<'_>, BorrowedFd<'_>),
) -> io::Result<()> {
    let mut empty_bounding_set = true;
    // Hard as well, so that the child cannot raise them.
    let limit = |value: u64| libc::rlimit { rlim_cur: value, rlim_max: value };
    let [memory, file, no_core_dump, one_process] = [MEMORY_MAX, restraint.file_max, 0, 1].map(limit);
    let nothing = CapabilitySets { effective: 0, permitted: 0, inheritable: 0 };
    let capabilities = (CapabilityHead { version: CAPABILITY_VERSION, pid: 0 }, [nothing; 2]);
    // SAFETY: system calls with numbers, and with pointers to values that outlive the calls. Nothing is allocated, which
    // would not be safe after `fork` in a process with threads.
    unsafe {
        libc::setrlimit(libc::RLIMIT_DATA, &raw const memory);
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core_dump);
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const file);
        // While the child is root: without `CAP_SETPCAP` it is refused. Numbers that this kernel does not know are refused
        // with EINVAL.
        for capability in 0..CAPABILITIES {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            empty_bounding_set &= libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) != 1;
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if let Some(ConverterUser { uid, gid }) = restraint.user {
            // System calls and not the functions of the C library, which make all threads of a process change their user
            // and wait for them: after `fork` there are none. The user last, because it takes the right to the others.
            check(libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()))?;
            check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
            // One process: nothing that it could start goes on to write when it has ended. Counted by user, so only for a
            // user that has no other.
            libc::setrlimit(libc::RLIMIT_NPROC, &raw const one_process);
        }
        // Inheritable ones survive the change of the user, and all do if it stays.
        check(libc::syscall(libc::SYS_capset, &raw const capabilities.0, &raw const capabilities.1))?;
        // No program that the child could start gets any back by its set-user-ID bit or file capabilities.
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        // After the change of the user, which clears it (`commit_creds`, kernel/cred.c). The parent in this sense is the
        // thread that forked, the keeper: it kills the child itself before it ends.
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into())?;
        if libc::getppid().cast_unsigned() != restraint.parent {
            // The daemon ended before the signal was set.
            return Err(io::ErrorKind::Interrupted.into());
        }
        // The copy is not closed by `exec`.
        if parquet.as_raw_fd() == PARQUET_DESCRIPTOR {
            check(libc::fcntl(PARQUET_DESCRIPTOR, libc::F_SETFD, 0).into())?;
        } else {
            check(libc::dup2(parquet.as_raw_fd(), PARQUET_DESCRIPTOR).into())?;
        }
        // The daemon's own descriptors are closed by `exec` anyway; this is for those that libraries have opened. They
        // are marked, not closed: the standard library still needs its pipe to report a failed `exec`. Kernels before
        // 5.11 do not know the flag.
        let first = PARQUET_DESCRIPTOR.cast_unsigned() + 1;
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    // May fail, on kernels without filters: the user is the fence, and this is a second one. It allocates nothing.
    let first_filter = filter.is_some_and(|filter| seccompiler::apply_filter(filter).is_ok());
    let byte = OptionalLayers { empty_bounding_set, first_filter }.byte();
    // SAFETY: a system call with a pointer to one byte, which outlives it. If it fails, the daemon reads nothing.
    unsafe { libc::write(told.as_raw_fd(), (&raw const byte).cast(), 1) };
    Ok(())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives a process idle priority for CPUs and disks. This must happen after `exec`: until then the child holds the daemon's locks,
/// and a child that gets no CPU time cannot even die when the daemon does, so that the next daemon would find them held.
pub(super) fn give_idle_priority(process: u32) {
    // `struct sched_param` of the kernel, which is this number. By system call, because musl has the function but no call.
    let idle: libc::c_int = 0;
    // All threads that it has by now; later ones inherit the priority of the thread that starts them.
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        // Each call may fail, for example because the thread has ended: the child then only takes more than it should.
        // SAFETY: system calls with numbers, and with a pointer to a value that outlives the call.
        unsafe {
            libc::setpriority(libc::PRIO_PROCESS, thread, 19);
            libc::syscall(libc::SYS_sched_setscheduler, thread, libc::SCHED_IDLE, &raw const idle);
            libc::syscall(libc::SYS_ioprio_set, IO_OF_PROCESS, thread, IO_IDLE);
        }
    }
    // When memory is short, the kernel ends it first. That may fail if it has ended already.
    let _ = fs::write(format!("/proc/{process}/oom_score_adj"), "1000");
}
