//! The system calls that the daemon and its child may make: all others fail with EPERM, and the log has their number.
//!
//! The kernel sends SIGSYS for a call that is not in the list (`SECCOMP_RET_TRAP`). The handler writes the number to standard error and
//! has the call return EPERM, so that a call which was forgotten here is an error of what needed it, and no silent end.

use std::{
    collections::BTreeMap,
    io, ptr,
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
};

use netconn_model::config::SystemCallFilter;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Whom a list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The daemon, and what it starts: the converter takes more from itself.
    Daemon,
    /// The privileged child.
    Child,
}

/// Calls that were denied so far.
static DENIED: AtomicU64 = AtomicU64::new(0);
/// The last one; -1: none.
static LAST: AtomicI32 = AtomicI32::new(-1);
/// Whether a number was told, a bit each: a call in a loop fills no log.
static TOLD: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

/// Returns how many calls were denied, and the number of the last one.
pub fn denied() -> (u64, Option<i32>) {
    (DENIED.load(Ordering::Relaxed), Some(LAST.load(Ordering::Relaxed)).filter(|number| *number >= 0))
}

/// `SYS_SECCOMP`, the reason of a SIGSYS that the kernel sends for a filter, `include/uapi/asm-generic/siginfo.h`.
const OF_FILTER: libc::c_int = 1;
/// Where the number of the call is in `siginfo_t` of 64-bit machines (`_sigsys` there).
const NUMBER_AT: usize = 24;

/// Handles SIGSYS. It may run at any moment, so it only writes and counts.
extern "C" fn tell(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives both, for as long as the handler runs; `siginfo_t` is 128 bytes long.
    let (code, number) =
        unsafe { ((*info).si_code, ptr::read_unaligned(info.byte_add(NUMBER_AT).cast::<libc::c_int>())) };
    if code != OF_FILTER {
        return; // Somebody has sent it.
    }
    // SAFETY: the registers with which the thread goes on; the kernel returns from the call with what is in this one.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            /// `REG_RAX` of `ucontext.h`.
            const RAX: usize = 13;
            (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[RAX] = -libc::c_longlong::from(libc::EPERM);
        }
        #[cfg(target_arch = "aarch64")]
        {
            (*context.cast::<libc::ucontext_t>()).uc_mcontext.regs[0] = i64::from(-libc::EPERM).cast_unsigned();
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = context;
    }
    DENIED.fetch_add(1, Ordering::Relaxed);
    LAST.store(number, Ordering::Relaxed);
    let place = usize::try_from(number).unwrap_or(0);
    let bit = 1 << (place % 64);
    let is_told = TOLD.get(place / 64).is_some_and(|bits| bits.fetch_or(bit, Ordering::Relaxed) & bit != 0);
    if !is_told {
        let mut digits = [b' '; 8];
        let mut rest = number.unsigned_abs();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let parts = [
            b"ERROR netconn: the filter of system calls has denied call number" as &[u8],
            &digits,
            b": please report it; seccomp = \"log\" in the configuration lets such calls pass\n",
        ];
        let parts = parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
        // SAFETY: a system call with pointers to values that outlive it; it is in both lists.
        unsafe { libc::writev(libc::STDERR_FILENO, parts.as_ptr(), 3) };
    }
}

/// Has the calling thread, and those that it starts, make no other system calls than those of the list. Returns `false` where there is
/// no filter for this machine, or none is wanted.
///
/// # Errors
///
/// When the kernel has no filters.
pub(super) fn restrict(who: Who, mode: SystemCallFilter) -> io::Result<bool> {
    let (denied, Ok(machine)) = (
        match mode {
            SystemCallFilter::Off => return Ok(false),
            SystemCallFilter::Log => SeccompAction::Log,
            SystemCallFilter::Enforce => SeccompAction::Trap,
        },
        std::env::consts::ARCH.try_into(),
    ) else {
        return Ok(false);
    };
    let handler = SigHandler::SigAction(tell);
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO | SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only writes to memory that it may write to at any moment.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    // A blocked one would end the process.
    let mut sys = SigSet::empty();
    sys.add(Signal::SIGSYS);
    sys.thread_unblock()?;
    let rules = match who {
        Who::Daemon => CALLS.iter().chain(OLD_CALLS).map(|call| (*call, Vec::new())).collect(),
        Who::Child => of_child()?,
    };
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, machine).map_err(io::Error::other)?;
    let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    Ok(true)
}

/// Returns the calls of the child, some with conditions on their arguments.
fn of_child() -> io::Result<BTreeMap<libc::c_long, Vec<SeccompRule>>> {
    let rule = |argument, value: libc::c_int| -> io::Result<SeccompRule> {
        let value = u64::from(value.cast_unsigned());
        let condition =
            SeccompCondition::new(argument, Width::Dword, SeccompCmpOp::Eq, value).map_err(io::Error::other)?;
        SeccompRule::new(vec![condition]).map_err(io::Error::other)
    };
    /// `BPF_ITER_CREATE` of `enum bpf_cmd`.
    const ITER_CREATE: libc::c_int = 33;
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        CHILD_CALLS.iter().chain(OLD_CHILD_CALLS).map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_setns, vec![rule(1, libc::CLONE_NEWNET)?]);
    rules.insert(libc::SYS_socket, vec![rule(0, libc::AF_NETLINK)?, rule(0, libc::AF_INET6)?]);
    rules.insert(libc::SYS_bpf, vec![rule(0, ITER_CREATE)?]);
    Ok(rules)
}

/// Calls of the child without conditions: to open, read and hand over, memory, the end.
const CHILD_CALLS: &[libc::c_long] = &[
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_fcntl,
    libc::SYS_capget,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls that only x86-64 has beside the newer ones; musl makes them.
#[cfg(target_arch = "x86_64")]
const OLD_CHILD_CALLS: &[libc::c_long] = &[libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CHILD_CALLS: &[libc::c_long] = &[];

/// Calls of the daemon, of the libraries that look up names of accounts, and of the converter until it has its own list. Not among them:
/// all that changes the system, mounts, other processes' memory, keys, users, namespaces.
const CALLS: &[libc::c_long] = &[
    // Files.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_umask,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_utimensat,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_memfd_create,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads and processes.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_getparam,
    libc::SYS_sched_setparam,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_getpriority,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_getcpu,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrandom,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getpgid,
    libc::SYS_setpgid,
    libc::SYS_getsid,
    libc::SYS_setsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // Sockets and waiting.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Maps and iterators; what the converter takes from itself.
    libc::SYS_bpf,
    libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

/// Calls that only x86-64 has beside the newer ones; C libraries make some of them.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_getdents,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_getpgrp,
    libc::SYS_time,
    libc::SYS_alarm,
    libc::SYS_pause,
    libc::SYS_arch_prctl,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_signalfd,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[libc::c_long] = &[];
