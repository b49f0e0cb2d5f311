//! Threads that run before others.

use std::io;

use tracing::debug;

/// Niceness (`setpriority`, -20 to 19): a share of the processor's time as of 28 others together (29,154 to 1,024 in
/// `sched_prio_to_weight`, `kernel/sched/core.c`).
const NICE: i32 = -15;

/// Lets this thread run before others. To delay the threads that read records and write events saves no work, but in a
/// flood by many processes they would get so small a part of the time that much is lost: a million records in
/// `tests/tests/soak.rs` without its pauses, on two processors.
pub fn take() {
    // SAFETY: a plain system call; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        debug!("no precedence for a thread: {}", io::Error::last_os_error());
    }
}
