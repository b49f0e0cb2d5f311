//! Requests to the operating system: keep little freed memory, take it back, run a thread before others, allow more open files,
//! keep signals away from a thread, say what this host is called, tell what a peer has not read.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
    sync::atomic::{AtomicI32, Ordering},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::{SigSet, SigmaskHow, Signal},
};
use tracing::debug;

/// Nice value of threads that must not fall behind (`setpriority(2)`: -20 to 19). It has 28 times the weight of an ordinary
/// thread: 29,154 against 1,024 in `sched_prio_to_weight` of `kernel/sched/core.c`.
const NICE: i32 = -15;

/// Allocations from this size on have a mapping of their own, which goes back to the system when they are freed: hash tables of
/// 100,000 connections. Below it are the parts of snapshots and batches of events, for which a mapping each time costs more.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 4 << 20;
/// Free memory at the end of an arena that the C library keeps. There is an arena for each thread.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 1 << 20;

/// Bounds the freed memory that the C library keeps (`mallopt(3)`). By itself the GNU allocator raises both limits when a large
/// block is freed, to 32 and 64 MiB: after a burst each thread keeps that much.
pub fn bound_free_memory() {
    #[cfg(target_env = "gnu")]
    for (option, bytes) in [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_BYTES)] {
        // SAFETY: `mallopt` takes no pointers. No other thread runs yet.
        let _ = unsafe { libc::mallopt(option, bytes) };
    }
}

/// Returns freed memory to the system (`malloc_trim(3)`). The GNU allocator keeps free blocks that lie below used ones: after a
/// dump of 100,000 sockets that is a tenth of the daemon's memory. Other allocators return memory by themselves.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes no pointers and locks the arenas that it trims.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Raises the priority of the calling thread. The threads that read records and write events have the same work to do later if
/// they are delayed, and when many processes compete for the CPUs, a delay loses records: up to a million in
/// `tests/tests/soak.rs` without its pauses, on two CPUs.
pub fn raise_thread_priority() {
    // SAFETY: a system call without pointers; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        debug!("cannot raise the priority of a thread: {}", io::Error::last_os_error());
    }
}

/// Nice value that threads go back to with [`lower_thread_priority`]; none: they start with it.
static ORDINARY: AtomicI32 = AtomicI32::new(NONE);
/// No nice value.
const NONE: i32 = i32::MAX;

/// Lets threads raise their priority after this process has lost its capabilities. Where that cannot be, this thread takes the higher
/// priority now, and those that it starts begin with it: [`lower_thread_priority`] is for those of them that may wait.
pub fn keep_priority() {
    /// `RLIMIT_NICE` counts from the lowest priority on: 20 minus the nice value.
    const LIMIT: u64 = (20 - NICE) as u64;
    let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: LIMIT };
    // SAFETY: a system call with a pointer to a value that outlives it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NICE, &raw const limit) } == 0 {
        return;
    }
    // SAFETY: a system call without pointers.
    let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: a system call without pointers.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } == 0 {
        ORDINARY.store(before, Ordering::Relaxed);
    }
}

/// Gives the calling thread the priority that the process was started with. A thread does so for which nobody waits, and whose work
/// strangers decide.
pub fn lower_thread_priority() {
    let ordinary = ORDINARY.load(Ordering::Relaxed);
    if ordinary != NONE {
        // SAFETY: a system call without pointers; it takes no privilege. An error means that the thread has it already.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, ordinary) };
    }
}

/// Allows this process `files` open files, or as many as the system allows it. The usual limit of 1,024 is that of programs that call
/// `select(2)`, which cannot take more.
pub fn raise_file_limit(files: u64) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft.max(files.min(hard)), hard));
    if let Err(error) = raised {
        debug!("cannot raise the limit of open files: {error}");
    }
}

/// Returns what this host is called now (`uname(2)`), in the daemon's own UTS namespace.
pub fn host_name() -> String {
    let name = nix::sys::utsname::uname().map(|names| names.nodename().to_string_lossy().into_owned());
    name.unwrap_or_else(|_| "localhost".into())
}

/// Keeps signals from the calling thread for as long as it lives: they wait, and arrive when it is dropped.
///
/// The verifier gives up with `EAGAIN` when the thread that loads a program has a signal to handle (`do_check` in
/// `kernel/bpf/verifier.c`), and aya's tests for features of the kernel, whose answers it keeps, load programs too. Threads
/// and children that begin meanwhile inherit the mask, so a guard must not live longer than what needs it.
#[derive(Debug)]
pub struct NoSignals {
    before: Option<SigSet>,
    /// A mask belongs to a thread: the guard must not be dropped on another one.
    _thread: std::marker::PhantomData<*const ()>,
}

impl NoSignals {
    /// Blocks all signals that can be blocked. Guards can be nested.
    pub fn new() -> Self {
        let mut signals = SigSet::all();
        // The kernel ends a process that blocks it when the filter of system calls denies one.
        signals.remove(Signal::SIGSYS);
        let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let before = before.inspect_err(|error| debug!("cannot block signals: {error}")).ok();
        Self { before, _thread: std::marker::PhantomData }
    }
}

impl Default for NoSignals {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NoSignals {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.before.as_ref().map(SigSet::thread_set_mask) {
            debug!("cannot unblock signals: {error}");
        }
    }
}

/// Returns how much memory the messages take that the peer of a Unix socket has not read to their end (`SIOCOUTQ`, which is
/// `TIOCOUTQ`): `unix_outq_len` in `net/unix/af_unix.c`. It falls when the peer has read a message, which is what one write
/// has written.
///
/// # Errors
///
/// When the descriptor is no socket.
pub fn unread_by_peer(socket: impl AsFd) -> io::Result<i32> {
    let mut bytes = 0;
    // SAFETY: this request writes one `int`, which lives until the call is over.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn signals_wait_until_the_last_guard_is_dropped() {
        // Its default action, to do nothing, is what makes this test harmless.
        let is_blocked = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGURG);
        assert!(!is_blocked());
        let outer = NoSignals::new();
        drop(NoSignals::new());
        assert!(is_blocked(), "the inner guard restores what the outer one has set");
        raise(Signal::SIGURG).unwrap();
        drop(outer);
        assert!(!is_blocked());
    }
}
