//! `iter/task_file`: the open files of all processes that are sockets.

use netconn_common::{
    AF_INET, AF_INET6, FileRecord, IPPROTO_TCP, Owner, SocketState, TcpSocketState, attribution, role, setting,
    tcp_state,
};

use crate::programs::{
    iter::{
        Meta, Reader,
        file::{typed_sock, untyped_sock},
        packet_socket,
    },
    kernel::{
        FILE_INODE, HAS_SOCK_FROM_FILE, HAS_SOCKET_STORAGE, INODE_NUMBER, SOCK_FAMILY, SOCK_LOCAL_PORT, SOCK_PROTOCOL,
        SOCK_STATE, Typed, has, probe_member,
    },
    maps::{ENDED, SOCKETS_BY_ADDRESS, spare},
    settings,
    sock::Sock,
    storage,
    task::Task,
};

/// `struct bpf_iter__task_file`, `kernel/bpf/task_iter.c`.
#[repr(C)]
pub struct TaskFileContext {
    meta: *const Meta,
    task: *const u8,
    fd: u64,
    file: *const u8,
}

/// `struct bpf_iter__task_file`, `kernel/bpf/task_iter.c`. Writes every open file of every process that is a socket, in all
/// network namespaces, or the part of them that the settings ask for.
///
/// A TCP socket without an owner, because it is older than netconn, is assigned to the first process that has it open: its
/// children will inherit that owner. With `SCAN_OWNERS`, so is a listener or accepted connection whose owner has ended or was only
/// inherited. An outgoing connection keeps the owner that connected: who has it now is written only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn dump_files(ctx: *const TaskFileContext) -> i32 {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let (task, file, descriptor, reader) =
        unsafe { ((*ctx).task, (*ctx).file, (*ctx).fd as u32, Reader::of((*ctx).meta)) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    let (task, file) = (Task::new(task), Typed::new(file));
    if settings::any(setting::SCAN_PACKET_SOCKETS) {
        packet_socket::write(reader, task, file);
        return 0;
    }
    if settings::any(setting::SCAN_ALL_SOCKETS) {
        write_any_socket(reader, task, file, descriptor);
        return 0;
    }
    let Some(OpenTcpSocket { kept, socket, tcp_state, local_port }) = open_tcp_socket(file) else {
        let is_watched = settings::any(setting::DATAGRAMS | setting::KEEP_NOTHING);
        if is_watched && !settings::any(setting::SCAN_ATTEMPTS) {
            write_datagram_socket(reader, task, file, descriptor);
        }
        return 0;
    };
    if settings::any(setting::SCAN_ATTEMPTS) && tcp_state != tcp_state::SYN_SENT {
        return 0;
    }
    let owners_only = settings::any(setting::SCAN_OWNERS);
    // SAFETY: not null. Written without the socket's lock: a child that is created at this moment may inherit a half-written
    // owner, and then belongs to nobody who exists.
    let state = unsafe { &mut (*kept).state };
    let is_unknown = state.owner.tgid == 0;
    let is_unsure = owners_only && is_unsure(state);
    if owners_only && !is_unknown && !is_unsure {
        return 0;
    }
    let owner = task.owner(attribution::SCAN);
    if is_unknown || (is_unsure && matches!(state.role, role::PASSIVE | role::LISTENER)) {
        state.owner = owner;
    }
    let inode = inode(file);
    reader.write(&FileRecord { socket, owner, inode, descriptor, local_port, tcp_state, reserved: 0 });
    0
}

/// Writes an open file that is a socket, of whatever family: who has it open is known by its inode.
#[inline(always)]
fn write_any_socket(reader: Reader, task: Task, file: Typed, descriptor: u32) {
    let socket = if has(&HAS_SOCK_FROM_FILE) {
        let Some(sk) = typed_sock(file) else { return };
        let sock = Sock::new(sk.as_ptr::<u8>());
        if sock.is_inet() { sock.file_number() } else { 0 }
    } else {
        if untyped_sock(file).is_none() {
            return;
        }
        0
    };
    let (owner, inode) = (task.owner(attribution::SCAN), inode(file));
    reader.write(&FileRecord { socket, owner, inode, descriptor, local_port: 0, tcp_state: 0, reserved: 0 });
}

/// Returns the inode of a file.
#[inline(always)]
fn inode(file: Typed) -> u64 {
    file.follow(&FILE_INODE).member(&INODE_NUMBER, 0)
}

/// Writes an open file that is a datagram socket, and assigns the socket to the process if it has no owner or, with
/// `SCAN_OWNERS`, if the owner has ended: flows that begin later belong to the process. With `SCAN_OWNERS` no other is written.
#[inline(always)]
fn write_datagram_socket(reader: Reader, task: Task, file: Typed, descriptor: u32) {
    let owner = task.owner(attribution::SCAN);
    let owners_only = settings::any(setting::SCAN_OWNERS);
    let (socket, local_port);
    if has(&HAS_SOCK_FROM_FILE) {
        let Some(sk) = typed_sock(file) else { return };
        let sock = Sock::new(sk.as_ptr::<u8>());
        if !sock.is_inet() || sock.is_tcp() || sock.is_mptcp() {
            return;
        }
        let kept = sock.datagram_state(!settings::keeps_nothing());
        if kept.is_null() {
            if owners_only {
                return;
            }
        } else {
            // SAFETY: not null; members are written whole.
            let kept = unsafe { &mut *kept };
            kept.namespace = sock.namespace();
            if kept.owner.tgid == 0 || (owners_only && has_ended(&kept.owner)) {
                kept.owner = owner;
            } else if owners_only {
                return;
            }
        }
        (socket, local_port) = (sock.file_number(), sock.bound_port());
    } else {
        // Nothing is kept with sockets that iterators can read: the daemon reads all of them.
        if owners_only {
            return;
        }
        // A socket of an Internet protocol other than TCP.
        let Some(sk) = untyped_sock(file) else { return };
        let family: u16 = probe_member(sk, &SOCK_FAMILY).unwrap_or(0);
        let protocol: u16 = probe_member(sk, &SOCK_PROTOCOL).unwrap_or(0);
        if !matches!(family, AF_INET | AF_INET6) || protocol == u16::from(IPPROTO_TCP) {
            return;
        }
        // See `UdpSocketRecord::file`.
        socket = sk;
        local_port = probe_member(sk, &SOCK_LOCAL_PORT).unwrap_or(0);
    }
    let (inode, tcp_state) = (inode(file), tcp_state::CLOSE);
    reader.write(&FileRecord { socket, owner, inode, descriptor, local_port, tcp_state, reserved: 0 });
}

/// Returns whether a socket may have another owner than its state says: the owner was only inherited, or has ended.
#[inline(always)]
fn is_unsure(state: &SocketState) -> bool {
    (state.role == role::PASSIVE && state.owner.how == attribution::LISTENER) || has_ended(&state.owner)
}

/// Returns whether an owner is one of the processes that the daemon knows to have ended.
#[inline(always)]
fn has_ended(owner: &Owner) -> bool {
    // SAFETY: the daemon does not change an entry while it reads the iterator.
    let ended = unsafe { ENDED.get(owner.tgid) };
    ended.is_some_and(|start_ns| *start_ns == owner.start_ns)
}

/// A TCP socket that is an open file.
struct OpenTcpSocket {
    /// Not null.
    kept: *mut TcpSocketState,
    socket: u64,
    tcp_state: u8,
    local_port: u16,
}

/// Returns the TCP socket behind a file.
#[inline(always)]
fn open_tcp_socket(file: Typed) -> Option<OpenTcpSocket> {
    if has(&HAS_SOCK_FROM_FILE) {
        let sock = Sock::new(typed_sock(file)?.as_ptr::<u8>());
        if !sock.is_inet() || !sock.is_tcp() {
            return None;
        }
        let kept = if settings::keeps_nothing() { storage::spare(spare::DUMP_FILES) } else { sock.state() };
        if kept.is_null() {
            return None;
        }
        // SAFETY: not null.
        let socket = sock.number(unsafe { &mut (*kept).state });
        return Some(OpenTcpSocket { kept, socket, tcp_state: sock.tcp_state(), local_port: sock.bound_port() });
    }
    if has(&HAS_SOCKET_STORAGE) {
        return None;
    }
    // It is a TCP socket if `iter/tcp` found it before.
    let sk = untyped_sock(file)?;
    let kept = SOCKETS_BY_ADDRESS.get_ptr_mut(sk)?;
    let tcp_state = probe_member(sk, &SOCK_STATE)?;
    let local_port = probe_member(sk, &SOCK_LOCAL_PORT)?;
    // SAFETY: a pointer to a value of the map.
    let socket = unsafe { (*kept).state.number };
    (socket != 0).then_some(OpenTcpSocket { kept, socket, tcp_state, local_port })
}
