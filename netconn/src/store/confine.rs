//! What the converter is not allowed to do, and how it yields to everybody else. It reads text that strangers put into command
//! lines, and its work is never urgent.

use std::{fs, io};

use crate::line_file::MODE;

/// Most memory that the converter may write to, bytes. Its address space is not limited: threads and allocators reserve far more
/// than they use.
const MEMORY_MAX: u64 = 1 << 30;
/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)`, `include/uapi/linux/ioprio.h`: reads and writes when nobody else does.
const IO_IDLE: libc::c_int = 3 << 13;
/// `IOPRIO_WHO_PROCESS`, which means a thread.
const IO_OF_PROCESS: libc::c_int = 1;
/// More than the number of capabilities, `include/uapi/linux/capability.h`.
const CAPABILITIES: libc::c_ulong = 64;

/// Takes rights and resources from a child between `fork` and `exec`. Most of it may fail: the child is only less confined
/// then. But it must end with the daemon, whose next run would convert the same segment at the same time.
///
/// # Errors
///
/// When the child could outlive its parent.
pub(super) fn before_exec(parent: u32) -> io::Result<()> {
    let memory = libc::rlimit { rlim_cur: MEMORY_MAX, rlim_max: MEMORY_MAX };
    let no_core_dump = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: system calls with numbers, and with pointers to values that outlive the calls. Nothing is allocated,
    // which would not be safe after `fork` in a process with threads.
    unsafe {
        // The parent in this sense is the thread that forked, the keeper: it kills the child itself before it ends.
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::getppid().cast_unsigned() != parent {
            // The daemon ended before the signal was set.
            return Err(io::ErrorKind::Interrupted.into());
        }
        // Both limits are hard as well, so that the child cannot raise them.
        libc::setrlimit(libc::RLIMIT_DATA, &raw const memory);
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core_dump);
        // What the child creates is closed to others from its first byte on.
        libc::umask(0o777 & !MODE);
        // The daemon's own descriptors are closed by `exec` anyway; this is for those that libraries have opened. They
        // are marked, not closed: the standard library still needs its pipe to report a failed `exec`. Kernels before
        // 5.11 do not know the flag.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // The child stays root, to read the segment, but without any capability. Numbers that this kernel does not know
        // are refused with EINVAL. Without `CAP_SETPCAP` all are refused.
        for capability in 0..CAPABILITIES {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        // After the capabilities: no program that the child could start gets any back by its set-user-ID bit or file
        // capabilities.
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    Ok(())
}

/// Gives a process idle priority for CPUs and disks. This must happen after `exec`: until then the child holds the daemon's locks,
/// and a child that gets no CPU time cannot even die when the daemon does, so that the next daemon would find them held.
pub(super) fn give_idle_priority(process: u32) {
    let idle = libc::sched_param { sched_priority: 0 };
    // All threads that it has by now; later ones inherit the priority of the thread that starts them.
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        // Each call may fail, for example because the thread has ended: the child then only takes more than it should.
        // SAFETY: system calls with numbers, and with a pointer to a value that outlives the call.
        unsafe {
            libc::setpriority(libc::PRIO_PROCESS, thread, 19);
            libc::sched_setscheduler(thread.cast_signed(), libc::SCHED_IDLE, &raw const idle);
            libc::syscall(libc::SYS_ioprio_set, IO_OF_PROCESS, thread, IO_IDLE);
        }
    }
    // When memory is short, the kernel ends it first. That may fail if it has ended already.
    let _ = fs::write(format!("/proc/{process}/oom_score_adj"), "1000");
}
