//! How urgent a conversion is: it runs when nobody else wants the processor, unless the history fills up meanwhile.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7)`, `include/uapi/linux/ioprio.h`: the last of those that do not wait for idle disks.
const IO_LAST: libc::c_int = 2 << 13 | 7;
/// `IOPRIO_WHO_PROCESS`, which means a thread.
const IO_OF_PROCESS: libc::c_int = 1;

/// Lets a process that has idle priority run beside others, with this niceness; and one that rests, because it could not be given that
/// priority, go on without (`netconn-search` on SIGURG; a program that does not know it ignores that signal).
pub(super) fn hurry(process: u32, niceness: libc::c_int) {
    // `struct sched_param` of the kernel, which is this number. By system call, because musl has the function but no call.
    let normal: libc::c_int = 0;
    // All threads that it has by now; later ones inherit the priority of the thread that starts them.
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        // Each call may fail, for example because the thread has ended: the conversion then only takes longer.
        // SAFETY: system calls with numbers, and with a pointer to a value that outlives the call.
        unsafe {
            libc::syscall(libc::SYS_sched_setscheduler, thread, libc::SCHED_BATCH, &raw const normal);
            libc::setpriority(libc::PRIO_PROCESS, thread, niceness);
            libc::syscall(libc::SYS_ioprio_set, IO_OF_PROCESS, thread, IO_LAST);
        }
    }
    if let Ok(process) = process.try_into() {
        // It may have ended: the caller has not waited for it, so that its number is not another's.
        let _ = kill(Pid::from_raw(process), Signal::SIGURG);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::store::confine::give_idle_priority;

    /// Returns the niceness and the scheduling policy of a process (`man proc_pid_stat`).
    fn seen(process: u32) -> (i64, i64) {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        // Behind the name, which may contain spaces, the first is field 3.
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').map(str::parse::<i64>).collect();
        (fields[19 - 3].clone().unwrap(), fields[41 - 3].clone().unwrap())
    }

    #[test]
    fn a_process_that_rests_is_told_to_hurry() {
        let script = "trap 'exit 7' URG; echo; while :; do sleep 0.01; done";
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        // It handles the signal from then on.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        hurry(child.id(), 19);
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn a_hurried_process_has_no_idle_priority() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        give_idle_priority(child.id());
        let idle = seen(child.id());
        hurry(child.id(), 19);
        let hurried = seen(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((idle, hurried), ((19, libc::SCHED_IDLE.into()), (19, libc::SCHED_BATCH.into())));
    }
}
