//! Reads `task_struct`.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf,
    bpf_get_current_uid_gid,
};
use netconn_common::{Owner, UNKNOWN_U32};

use crate::programs::kernel::{
    CGROUP_NODE, CGROUPS_DEFAULT, CREDENTIALS_UID, HAS_CURRENT_TASK, HAS_PROBE_READ, NODE_ID, SIGNAL_LIVE,
    TASK_CGROUPS, TASK_COMM, TASK_CREDENTIALS, TASK_LEADER, TASK_MEMORY, TASK_PARENT, TASK_SIGNAL, TASK_START, Typed,
    accessors, has, probe_member,
};

/// A `task_struct` whose type the verifier knows.
#[derive(Clone, Copy)]
pub struct Task(Typed);

impl Task {
    /// Takes the argument of a tracepoint.
    #[inline(always)]
    pub fn new(task: *const u8) -> Self {
        Self(Typed::new(task))
    }

    accessors! {
        /// Process id.
        tgid: u32 = TASK_TGID or 0;
        /// Thread id.
        tid: u32 = TASK_PID or 0;
        /// Start of this thread, `CLOCK_BOOTTIME` nanoseconds.
        start_ns: u64 = TASK_START or 0;
    }

    /// The first thread of the process.
    #[inline(always)]
    pub fn leader(self) -> Self {
        Self(self.0.follow(&TASK_LEADER))
    }

    /// The parent; a thread of its process.
    #[inline(always)]
    pub fn parent(self) -> Self {
        Self(self.0.follow(&TASK_PARENT))
    }

    /// The process's memory; null for threads of the kernel.
    #[inline(always)]
    pub fn memory(self) -> Typed {
        self.0.follow(&TASK_MEMORY)
    }

    /// Name of this thread, NUL-padded.
    #[inline(always)]
    pub fn comm(self) -> [u8; 16] {
        // Two loads, because one load takes eight bytes at most.
        bytemuck::cast(self.0.member(&TASK_COMM, [0_u64; 2]))
    }

    /// Threads of the process that have not ended.
    #[inline(always)]
    pub fn live_threads(self) -> i32 {
        self.0.follow(&TASK_SIGNAL).member(&SIGNAL_LIVE, 0)
    }

    /// The process as the owner of a socket known by `how`.
    #[inline(always)]
    pub fn owner(self, how: u32) -> Owner {
        let leader = self.leader();
        let cgroup = self.0.follow(&TASK_CGROUPS).follow(&CGROUPS_DEFAULT);
        Owner {
            start_ns: leader.start_ns(),
            cgroup: cgroup.follow(&CGROUP_NODE).member(&NODE_ID, 0),
            tgid: self.tgid(),
            tid: self.tid(),
            // 0 would be root.
            uid: self.0.follow(&TASK_CREDENTIALS).member(&CREDENTIALS_UID, UNKNOWN_U32),
            how,
            comm: leader.comm(),
        }
    }
}

/// The current task, where it can be had as a typed pointer.
#[inline(always)]
fn current_task() -> Task {
    // SAFETY: the helper has no preconditions.
    Task::new(unsafe { bpf_get_current_task_btf() }.cast_const().cast())
}

/// Address of the current task.
#[inline(always)]
fn current_address() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// Returns whether the current task belongs to a process: threads of the kernel have no memory of their own.
#[inline(always)]
pub fn is_process() -> bool {
    if has(&HAS_CURRENT_TASK) {
        return !current_task().memory().is_null();
    }
    let task = current_address();
    !has(&HAS_PROBE_READ) || probe_member::<u64>(task, &TASK_MEMORY).is_some_and(|memory| memory != 0)
}

/// Returns the id of the current process.
#[inline(always)]
pub fn current_tgid() -> u32 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// Returns the current process as the owner of a socket known by `how`.
#[inline(always)]
pub fn current(how: u32) -> Owner {
    // SAFETY: these helpers have no preconditions.
    let (pid_tgid, uid, cgroup) =
        unsafe { (bpf_get_current_pid_tgid(), bpf_get_current_uid_gid() as u32, bpf_get_current_cgroup_id()) };
    let mut owner =
        Owner { start_ns: 0, cgroup, tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32, uid, how, comm: [0; 16] };
    if has(&HAS_CURRENT_TASK) {
        let leader = current_task().leader();
        owner.start_ns = leader.start_ns();
        // Not the thread's name: workers of io_uring are called iou-wrk-<pid>.
        owner.comm = leader.comm();
    } else if has(&HAS_PROBE_READ) {
        let leader = probe_member::<u64>(current_address(), &TASK_LEADER).unwrap_or(0);
        owner.start_ns = probe_member(leader, &TASK_START).unwrap_or(0);
        owner.comm = probe_member(leader, &TASK_COMM).unwrap_or([0; 16]);
    }
    owner
}
