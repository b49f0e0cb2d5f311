//! `iter/task`: all processes.

use netconn_common::TaskRecord;

use crate::programs::{
    image,
    iter::{Meta, Reader},
    kernel::MEMORY_PROGRAM,
    task::Task,
};

/// `struct bpf_iter__task`, `kernel/bpf/task_iter.c`.
#[repr(C)]
pub struct TaskContext {
    meta: *const Meta,
    task: *const u8,
}

/// `struct bpf_iter__task`, `kernel/bpf/task_iter.c`. Writes every process: the kernel shows its threads as well.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn dump_tasks(ctx: *const TaskContext) -> i32 {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let (task, reader) = unsafe { ((*ctx).task, Reader::of((*ctx).meta)) };
    if task.is_null() {
        return 0;
    }
    let task = Task::new(task);
    if task.tgid() != task.tid() {
        return 0;
    }
    let parent = task.parent().leader();
    reader.write(&TaskRecord {
        start_ns: task.start_ns(),
        parent_start_ns: parent.start_ns(),
        tgid: task.tgid(),
        parent_tgid: parent.tgid(),
        // Threads of the kernel have none.
        image: image::of(task.memory().follow(&MEMORY_PROGRAM)),
    });
    0
}
