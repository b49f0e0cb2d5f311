//! What there is, whether or not anything happens to it: all TCP sockets, and the open files that are TCP sockets.
//! Run by the daemon when it reads the iterator's file.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_skc_to_tcp_sock, bpf_sock_from_file};
use netconn_common::{FileRecord, TcpRecord, attribution, role, setting, tcp_state};

use crate::{
    emit,
    kernel::{HAS_SOCK_FROM_FILE, SOCKET_SOCK, follow, has},
    maps::DUMP,
    sock::{Sock, TcpSock},
    task::Task,
    tcp,
};

/// `struct bpf_iter_meta`, `include/linux/bpf.h`.
#[repr(C)]
pub struct Meta {
    seq: *mut c_void,
    session_id: u64,
    seq_num: u64,
}

/// `struct bpf_iter__tcp`, `net/ipv4/tcp_ipv4.c`; aya-ebpf has no contexts of iterators.
#[repr(C)]
pub struct TcpContext {
    meta: *const Meta,
    sk_common: *const u8,
    uid: u32,
}

/// `struct bpf_iter__task_file`, `kernel/bpf/task_iter.c`.
#[repr(C)]
pub struct TaskFileContext {
    meta: *const Meta,
    task: *const u8,
    fd: u64,
    file: *const u8,
}

/// Every TCP socket of the reader's network namespace, as a record that says in which state it is. Half-open and
/// TIME_WAIT minisocks are left out. From 6.1 on the socket is locked meanwhile, so that the record is exactly the
/// state after the socket's last event.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn dump_tcp(ctx: *const TcpContext) -> i32 {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    unsafe {
        let sk = (*ctx).sk_common;
        if sk.is_null() {
            return 0; // the end
        }
        let seq = (*(*ctx).meta).seq;
        let full = bpf_skc_to_tcp_sock(sk.cast_mut().cast());
        if full.is_null() {
            return 0;
        }
        let tcp = TcpSock::new(full.cast_const().cast());
        let sock = tcp.sock();
        if !sock.is_tcp() {
            return 0;
        }
        let Some(record) = DUMP.get_ptr_mut(0) else { return 0 };
        let known = sock.state_or_new();
        if known.is_null() {
            return 0;
        }
        let state = &mut *known;
        state.generation = state.generation.max(1);
        let now = sock.tcp_state();
        if now == tcp_state::LISTEN {
            state.role = role::LISTENER;
        }
        tcp::be_child(state, now, emit::now());
        tcp::fill(record, sock, tcp, state, now, now, emit::now());
        bpf_seq_write(seq.cast(), record.cast(), size_of::<TcpRecord>() as u32);
    }
    0
}

/// Every open file that is a TCP socket, of all processes in all network namespaces. A socket that belongs to nobody
/// yet, because it is older than netconn, belongs to the first that is found: its children will inherit that.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn dump_files(ctx: *const TaskFileContext) -> i32 {
    // SAFETY: as above.
    unsafe {
        let (task, file) = ((*ctx).task, (*ctx).file);
        if task.is_null() || file.is_null() || !has(&HAS_SOCK_FROM_FILE) {
            return 0;
        }
        let seq = (*(*ctx).meta).seq;
        let socket = bpf_sock_from_file(file.cast_mut().cast());
        if socket.is_null() {
            return 0;
        }
        let sk = follow(socket.cast_const().cast(), &SOCKET_SOCK);
        if sk.is_null() {
            return 0;
        }
        let sock = Sock::new(sk);
        if !sock.is_inet() || !sock.is_tcp() {
            return 0;
        }
        let now = sock.tcp_state();
        if tcp::setting(setting::SCAN_ATTEMPTS) && now != tcp_state::SYN_SENT {
            return 0;
        }
        let state = sock.state();
        if state.is_null() {
            return 0;
        }
        let owner = Task::new(task).owner(attribution::SCAN);
        // Not under the socket's lock: a child that is made at this moment may inherit a half-written owner, and is
        // then owned by nobody who exists.
        if (*state).owner.tgid == 0 {
            (*state).owner = owner;
        }
        let mut record = FileRecord {
            socket: sock.number(&mut *state),
            owner,
            descriptor: (*ctx).fd as u32,
            local_port: sock.bound_port(),
            tcp_state: now,
            reserved: 0,
        };
        bpf_seq_write(seq.cast(), ptr::from_mut(&mut record).cast(), size_of::<FileRecord>() as u32);
    }
    0
}
