//! Processes, from birth to end, so that nothing has to be looked up later; and new cgroups.

use core::ptr;

use aya_ebpf::{
    helpers::generated::{bpf_get_current_uid_gid, bpf_probe_read_kernel_str, bpf_probe_read_user},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use netconn_common::{CgroupRecord, ExecRecord, ExitRecord, ForkRecord, exec, kind};

use crate::programs::{
    emit, image,
    kernel::{
        BINPRM_FILE, CGROUP_NODE, CGROUP_ROOT, CGROUP_ROOT_HIERARCHY, HAS_PROBE_READ, MEMORY_ARGUMENTS_END,
        MEMORY_ARGUMENTS_START, NODE_ID, Typed, has,
    },
    maps::{CGROUP, CGROUP_PATH_MAX, EXEC, ExecScratch},
    path,
    task::Task,
};

/// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, `include/trace/events/sched.h`.
/// Runs in the process, when its new memory is complete.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const u8>(0));
    let binprm = Typed::new(ctx.arg::<*const u8>(2));
    let Some(scratch) = EXEC.get_ptr_mut(0) else { return 0 };
    // SAFETY: not null, and this CPU's own; a process in exec is not interrupted by another exec on the same CPU,
    // because BPF programs run with migration and, for per-CPU data of one program, recursion excluded.
    let scratch = unsafe { &mut *scratch };
    let parent = task.parent().leader();
    scratch.record = ExecRecord {
        header: emit::process_header(kind::EXEC),
        start_ns: task.start_ns(),
        parent_start_ns: parent.start_ns(),
        tgid: task.tgid(),
        parent_tgid: parent.tgid(),
        // SAFETY: the helper has no preconditions.
        uid: unsafe { bpf_get_current_uid_gid() } as u32,
        flags: 0,
        path_length: 0,
        arguments_length: 0,
        comm: task.comm(),
        image: image::of(binprm.follow(&BINPRM_FILE)),
    };
    let mut total = size_of::<ExecRecord>();
    // Without this feature the daemon looks up path and arguments.
    if has(&HAS_PROBE_READ) {
        path::write_components(binprm.follow(&BINPRM_FILE), scratch);
        // SAFETY: a valid reference; volatile, so that the verifier sees the check that follows.
        let path_length = unsafe { ptr::read_volatile(&raw const scratch.record.path_length) } as usize;
        if path_length > exec::PATH_MAX + exec::COMPONENT_MAX {
            return 0;
        }
        total += path_length + arguments(task, scratch, path_length);
    }
    if total <= size_of::<ExecScratch>() {
        // SAFETY: the scratch space is as long as its type.
        unsafe { emit::bytes(kind::EXEC, ptr::from_ref(scratch).cast(), total) };
    }
    debug!(&ctx, "exec by {}", task.tgid());
    0
}

/// Copies the arguments to `scratch.data` at `offset`, at most `ARGUMENTS_MAX` bytes, and returns their length.
#[inline(always)]
fn arguments(task: Task, scratch: &mut ExecScratch, offset: usize) -> usize {
    let memory = task.memory();
    let start: u64 = memory.member(&MEMORY_ARGUMENTS_START, 0);
    let end: u64 = memory.member(&MEMORY_ARGUMENTS_END, 0);
    let mut length = end.wrapping_sub(start);
    if length > exec::ARGUMENTS_MAX as u64 {
        length = exec::ARGUMENTS_MAX as u64;
        scratch.record.flags |= exec::ARGUMENTS_CUT;
    }
    // SAFETY: data has room for ARGUMENTS_MAX bytes behind the longest path.
    unsafe {
        let to = (&raw mut scratch.data).cast::<u8>().add(offset);
        if bpf_probe_read_user(to.cast(), length as u32, start as *const _) != 0 {
            return 0;
        }
        scratch.record.arguments_length = length as u32;
        length as usize
    }
}

/// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`, `include/trace/events/sched.h`.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let origin = Task::new(ctx.arg::<*const u8>(0));
    let child = Task::new(ctx.arg::<*const u8>(1));
    let tgid = child.tgid();
    if tgid != child.tid() {
        return 0; // a thread
    }
    let parent = child.parent().leader();
    let header = emit::process_header(kind::FORK);
    emit::record(kind::FORK, |record: *mut ForkRecord| {
        // SAFETY: the ring gave room for one record; every member is written.
        unsafe {
            *record = ForkRecord {
                header,
                start_ns: child.start_ns(),
                origin_start_ns: origin.leader().start_ns(),
                parent_start_ns: parent.start_ns(),
                tgid,
                origin_tgid: origin.tgid(),
                parent_tgid: parent.tgid(),
                reserved: 0,
            };
        }
    });
    0
}

/// `TP_PROTO(struct task_struct *p)`, `include/trace/events/sched.h`. Runs before the process's files are closed.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg::<*const u8>(0));
    // do_exit in kernel/exit.c has already subtracted this thread.
    if task.live_threads() != 0 {
        return 0;
    }
    let header = emit::process_header(kind::EXIT);
    emit::record(kind::EXIT, |record: *mut ExitRecord| {
        // SAFETY: the ring gave room for one record; every member is written.
        unsafe {
            *record = ExitRecord { header, start_ns: task.leader().start_ns(), tgid: task.tgid(), reserved: 0 };
        }
    });
    0
}

/// `TP_PROTO(struct cgroup *cgrp, const char *path)`, `include/trace/events/cgroup.h`.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup = Typed::new(ctx.arg::<*const u8>(0));
    let path = ctx.arg::<*const u8>(1);
    let hierarchy: u32 = cgroup.follow(&CGROUP_ROOT).member(&CGROUP_ROOT_HIERARCHY, 0);
    let id: u64 = cgroup.follow(&CGROUP_NODE).member(&NODE_ID, 0);
    // The default hierarchy, which is v2, has the number 0 (cgroup_init in kernel/cgroup/cgroup.c).
    if hierarchy != 0 || !has(&HAS_PROBE_READ) {
        return 0;
    }
    let Some(scratch) = CGROUP.get_ptr_mut(0) else { return 0 };
    // SAFETY: not null, and this CPU's own; the helper writes at most CGROUP_PATH_MAX bytes.
    unsafe {
        let scratch = &mut *scratch;
        let copied = bpf_probe_read_kernel_str((&raw mut scratch.path).cast(), CGROUP_PATH_MAX as u32, path.cast());
        if copied <= 0 || copied > CGROUP_PATH_MAX as i64 {
            return 0;
        }
        scratch.record =
            CgroupRecord { header: emit::process_header(kind::CGROUP), id, path_length: copied as u32, reserved: 0 };
        emit::bytes(kind::CGROUP, ptr::from_ref(scratch).cast(), size_of::<CgroupRecord>() + copied as usize);
    }
    0
}
