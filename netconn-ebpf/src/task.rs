//! Everything that reads `task_struct`.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf,
    bpf_get_current_uid_gid,
};
use netconn_common::Owner;

use crate::kernel::{
    CGROUP_NODE, CGROUPS_DEFAULT, CREDENTIALS_UID, HAS_CURRENT_TASK, HAS_PROBE_READ, NODE_ID, SIGNAL_LIVE,
    TASK_CGROUPS, TASK_COMM, TASK_CREDENTIALS, TASK_LEADER, TASK_MEMORY, TASK_PARENT, TASK_PID, TASK_SIGNAL,
    TASK_START, TASK_TGID, follow, has, member, probe,
};

/// A `task_struct` whose type the verifier knows.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    /// Takes the argument of a tracepoint.
    pub fn new(task: *const u8) -> Self {
        Self(task)
    }

    /// Process id.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        // SAFETY: the type holds a typed pointer.
        unsafe { member(self.0, &TASK_TGID, 0) }
    }

    /// Thread id.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        // SAFETY: as above.
        unsafe { member(self.0, &TASK_PID, 0) }
    }

    /// The first thread of the process.
    #[inline(always)]
    pub fn leader(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { follow(self.0, &TASK_LEADER) })
    }

    /// The parent; a thread of its process.
    #[inline(always)]
    pub fn parent(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { follow(self.0, &TASK_PARENT) })
    }

    /// Start of this thread, `CLOCK_BOOTTIME` nanoseconds.
    #[inline(always)]
    pub fn start_ns(self) -> u64 {
        // SAFETY: as above.
        unsafe { member(self.0, &TASK_START, 0) }
    }

    /// Name of this thread.
    #[inline(always)]
    pub fn comm(self) -> [u8; 16] {
        // SAFETY: as above; two loads, because one load may take eight bytes at most.
        unsafe { member::<[u64; 2]>(self.0, &TASK_COMM, [0; 2]) }.map_bytes()
    }

    /// Threads of the process that have not ended.
    #[inline(always)]
    pub fn live_threads(self) -> i32 {
        // SAFETY: as above.
        unsafe { member(follow(self.0, &TASK_SIGNAL), &SIGNAL_LIVE, 0) }
    }

    /// The process as the owner of a socket known by `how`.
    #[inline(always)]
    pub fn owner(self, how: u32) -> Owner {
        let leader = self.leader();
        // SAFETY: as above.
        let (uid, cgroup) = unsafe {
            let cgroup = follow(follow(self.0, &TASK_CGROUPS), &CGROUPS_DEFAULT);
            (
                member(follow(self.0, &TASK_CREDENTIALS), &CREDENTIALS_UID, 0),
                member(follow(cgroup, &CGROUP_NODE), &NODE_ID, 0),
            )
        };
        Owner { start_ns: leader.start_ns(), cgroup, tgid: self.tgid(), tid: self.tid(), uid, how, comm: leader.comm() }
    }

    /// The typed pointer itself.
    pub fn as_ptr(self) -> *const u8 {
        self.0
    }
}

trait MapBytes {
    fn map_bytes(self) -> [u8; 16];
}

impl MapBytes for [u64; 2] {
    #[inline(always)]
    fn map_bytes(self) -> [u8; 16] {
        // SAFETY: both are 16 bytes of plain data.
        unsafe { core::mem::transmute(self) }
    }
}

/// Whether the current task is one of a process: threads of the kernel have no memory of their own.
#[inline(always)]
pub fn is_process() -> bool {
    if has(&HAS_CURRENT_TASK) {
        // SAFETY: the helper gives a typed pointer to the current task.
        let task = unsafe { bpf_get_current_task_btf() };
        // SAFETY: as above.
        return unsafe { !follow(task.cast_const().cast(), &TASK_MEMORY).is_null() };
    }
    // SAFETY: no preconditions.
    let task = unsafe { bpf_get_current_task() };
    !has(&HAS_PROBE_READ) || probe::<u64>(task + u64::from(TASK_MEMORY.load())).is_some_and(|memory| memory != 0)
}

/// Process id of the current process.
#[inline(always)]
pub fn current_tgid() -> u32 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// The process that runs now, as the owner of a socket known by `how`.
#[inline(always)]
pub fn current(how: u32) -> Owner {
    // SAFETY: these helpers have no preconditions.
    let (pid_tgid, uid, cgroup) =
        unsafe { (bpf_get_current_pid_tgid(), bpf_get_current_uid_gid() as u32, bpf_get_current_cgroup_id()) };
    let mut owner =
        Owner { start_ns: 0, cgroup, tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32, uid, how, comm: [0; 16] };
    if has(&HAS_CURRENT_TASK) {
        // SAFETY: the helper gives a typed pointer to the current task.
        let leader = Task::new(unsafe { bpf_get_current_task_btf() }.cast()).leader();
        owner.start_ns = leader.start_ns();
        // Not the thread's name: workers of io_uring are called iou-wrk-<pid>.
        owner.comm = leader.comm();
    } else if has(&HAS_PROBE_READ) {
        // SAFETY: no preconditions.
        let task = unsafe { bpf_get_current_task() };
        let leader = probe::<u64>(task + u64::from(TASK_LEADER.load())).unwrap_or(0);
        owner.start_ns = probe(leader + u64::from(TASK_START.load())).unwrap_or(0);
        owner.comm = probe(leader + u64::from(TASK_COMM.load())).unwrap_or([0; 16]);
    }
    owner
}
