//! What there is, whether or not anything happens to it: all TCP and UDP sockets, and the open files that are sockets.
//! Run by the daemon when it reads the iterator's file.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::{
    bpf_seq_write, bpf_skc_to_tcp_sock, bpf_skc_to_tcp_timewait_sock, bpf_sock_from_file,
};
use netconn_common::{
    AF_INET, AF_INET6, AF_PACKET, AF_XDP, CountersRecord, DatagramSocketState, FileRecord, IPPROTO_TCP, MISSING, Owner,
    PacketSocketRecord, SocketState, TcpRecord, TcpSocketState, UNKNOWN_U32, UdpSocketRecord, attribution,
    datagram_mark, kind, mark, role, setting, tcp_state,
};

use crate::{
    datagram, emit,
    kernel::{
        DEVICE_INDEX, FILE_INODE, FILE_PRIVATE, HAS_PROBE_READ, HAS_SOCK_FROM_FILE, HAS_SOCKET_COOKIE,
        HAS_SOCKET_STORAGE, INODE_NUMBER, NET_INODE, SOCK_FAMILY, SOCK_LOCAL_PORT, SOCK_NET, SOCK_PROTOCOL, SOCK_STATE,
        SOCKET_FILE, SOCKET_SOCK, TIME_WAIT_STATE, XDP_DEVICE, follow, has, member, probe,
    },
    maps::{DUMP, ENDED, SOCKETS_BY_ADDRESS, SPARE},
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

/// `struct bpf_iter__udp`, `net/ipv4/udp.c`.
#[repr(C)]
pub struct UdpContext {
    meta: *const Meta,
    udp_sk: *const u8,
    uid: u32,
}

/// Every TCP socket of the reader's network namespace, as a record that says in which state it is; or what a snapshot wants
/// beside the daemon's table: minisocks in TIME_WAIT, and how much connections have moved. Half-open minisocks are left out.
/// From 6.1 on the socket is locked meanwhile, so that the record is exactly the state after the socket's last event.
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
        let Some(record) = DUMP.get_ptr_mut(0) else { return 0 };
        if tcp::setting(setting::SCAN_COUNTERS) {
            let full = bpf_skc_to_tcp_sock(sk.cast_mut().cast());
            if !full.is_null() {
                count(seq, TcpSock::new(full.cast_const().cast()));
                return 0;
            }
        }
        if tcp::setting(setting::SCAN_TIME_WAIT) {
            let minisock = bpf_skc_to_tcp_timewait_sock(sk.cast_mut().cast());
            if !minisock.is_null() {
                let state = member::<u8>(minisock.cast_const().cast(), &TIME_WAIT_STATE, tcp_state::TIME_WAIT);
                tcp::fill_minisock(record, Sock::new(sk), state, emit::now());
                bpf_seq_write(seq.cast(), record.cast(), size_of::<TcpRecord>() as u32);
            }
            return 0;
        }
        let full = bpf_skc_to_tcp_sock(sk.cast_mut().cast());
        if full.is_null() || tcp::setting(setting::SCAN_COUNTERS) {
            return 0;
        }
        let tcp = TcpSock::new(full.cast_const().cast());
        let sock = tcp.sock();
        if !sock.is_tcp() {
            return 0;
        }
        let kept = if is_passing() { spare(3) } else { sock.state_or_new() };
        // Without memory it is known by its cookie, if there are cookies.
        let has_memory = !kept.is_null();
        let kept = if has_memory || !has(&HAS_SOCKET_COOKIE) { kept } else { spare(3) };
        if kept.is_null() {
            return 0;
        }
        let kept = &mut *kept;
        let now = sock.tcp_state();
        if tcp::setting(setting::FIRST_DUMP) {
            catch_up(kept, sock, now);
        } else {
            tcp::be_child(kept, now, emit::now());
        }
        let state = &mut kept.state;
        state.generation = if has_memory { state.generation.max(1) } else { 0 };
        if now == tcp_state::LISTEN {
            state.role = role::LISTENER;
        }
        // What is half open may be left out, see `Table::end_dump`.
        if now != tcp_state::SYN_RECV {
            state.marks |= mark::REPORTED;
        }
        let number = sock.number(state);
        tcp::fill(record, sock, tcp, number, state, now, now, emit::now());
        bpf_seq_write(seq.cast(), record.cast(), size_of::<TcpRecord>() as u32);
    }
    0
}

/// Every UDP socket of the reader's network namespace.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
pub fn dump_udp(ctx: *const UdpContext) -> i32 {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    unsafe {
        let socket = (*ctx).udp_sk;
        if socket.is_null() {
            return 0; // the end
        }
        let seq = (*(*ctx).meta).seq;
        let sock = Sock::new(socket);
        let is_connected = sock.tcp_state() == tcp_state::ESTABLISHED;
        let kept = datagram::traced(sock, !is_passing());
        if tcp::setting(setting::FIRST_DUMP) && !is_connected && !kept.is_null() && (*kept).born_ns == 0 {
            // It was there before, so nobody was told that it was bound; whoever watches is, that it ends.
            (*kept).marks |= datagram_mark::BOUND;
        }
        let kept = if kept.is_null() { DatagramSocketState::default() } else { *kept };
        let ends = sock.ends(0);
        let mut record = UdpSocketRecord {
            header: emit::header(kind::UDP_SOCKET, emit::now()),
            socket: sock.cookie(),
            file: sock.file_number(),
            state: DatagramSocketState { namespace: sock.namespace(), ..kept },
            local_address: [0; 16],
            remote_address: [0; 16],
            local_port: ends.local_port,
            remote_port: ends.remote_port,
            family: ends.family,
            protocol: sock.protocol(),
            marks: kept.marks | if is_connected { datagram_mark::CONNECTED } else { 0 },
            reserved: 0,
        };
        (&raw mut record.local_address).cast::<[u64; 2]>().write_unaligned(ends.local_address);
        (&raw mut record.remote_address).cast::<[u64; 2]>().write_unaligned(ends.remote_address);
        bpf_seq_write(seq.cast(), ptr::from_mut(&mut record).cast(), size_of::<UdpSocketRecord>() as u32);
    }
    0
}

/// Tells how much a connection has moved, and in which state it is.
///
/// # Safety
///
/// `seq` must be that of the iterator that runs.
#[inline(always)]
unsafe fn count(seq: *mut c_void, tcp: TcpSock) {
    let sock = tcp.sock();
    if !sock.is_tcp() {
        return;
    }
    let Some(socket) = sock.known_number() else { return };
    let (bytes_sent, bytes_received) = sock.moved(tcp);
    let mut record = CountersRecord {
        header: emit::header(kind::COUNTERS, 0),
        socket,
        bytes_sent,
        bytes_received,
        state: u32::from(sock.tcp_state()),
        reserved: 0,
    };
    // SAFETY: the caller's contract; the record is on the stack.
    unsafe { bpf_seq_write(seq.cast(), ptr::from_mut(&mut record).cast(), size_of::<CountersRecord>() as u32) };
}

/// Corrects what an earlier daemon kept with a socket for what has happened to it since, unseen.
#[inline(always)]
fn catch_up(kept: &mut TcpSocketState, sock: Sock, now: u8) {
    let was_listener = kept.state.role == role::LISTENER;
    let is_listener = now == tcp_state::LISTEN;
    if was_listener && !is_listener {
        // Accepted meanwhile: when is not known.
        tcp::be_child(kept, now, 0);
    } else if kept.state.generation != 0 && is_another(kept, sock, now) {
        let state = &mut kept.state;
        state.owner = Owner::default();
        (state.born_ns, state.established_ns) = (0, 0);
        state.generation = state.generation.wrapping_add(1);
        (state.sequence, state.role) = (0, role::UNKNOWN);
        (kept.used, kept.ends) = (0, 0);
    }
    if !is_listener && now != tcp_state::SYN_SENT {
        kept.ends = sock.connected();
    }
    let state = &mut kept.state;
    // Of FINs only what the state tells: who was first decides how the connection is said to end.
    state.marks &= mark::SUBFLOW | mark::CLOSED_LOCALLY | mark::CLOSED_REMOTELY;
    match now {
        tcp_state::FIN_WAIT1 | tcp_state::FIN_WAIT2 => state.marks |= mark::CLOSED_LOCALLY,
        tcp_state::CLOSE_WAIT | tcp_state::LAST_ACK => state.marks |= mark::CLOSED_REMOTELY,
        _ => {}
    }
}

/// Whether a socket has begun another life since something was kept with it.
#[inline(always)]
fn is_another(kept: &TcpSocketState, sock: Sock, now: u8) -> bool {
    let state = &kept.state;
    match now {
        tcp_state::LISTEN => state.role != role::LISTENER,
        tcp_state::SYN_SENT => state.established_ns != 0,
        _ => kept.ends != 0 && kept.ends != sock.connected(),
    }
}

/// Every open file that is a TCP socket, of all processes in all network namespaces. A socket that belongs to nobody
/// yet, because it is older than netconn, belongs to the first that is found: its children will inherit that. So does,
/// if that is asked for, one whose owner has ended or has only inherited it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn dump_files(ctx: *const TaskFileContext) -> i32 {
    // SAFETY: as above.
    unsafe {
        let (task, file) = ((*ctx).task, (*ctx).file);
        if task.is_null() || file.is_null() {
            return 0;
        }
        let seq = (*(*ctx).meta).seq;
        if tcp::setting(setting::SCAN_PACKET_SOCKETS) {
            past_hooks(seq, task, file);
            return 0;
        }
        let Some(Open { kept, socket, tcp_state, local_port }) = open(file) else {
            let is_watched = tcp::setting(setting::DATAGRAMS | setting::KEEP_NOTHING);
            if is_watched && !tcp::setting(setting::SCAN_ATTEMPTS | setting::SCAN_OWNERS) {
                of_datagrams(seq, task, file, (*ctx).fd as u32);
            }
            return 0;
        };
        if tcp::setting(setting::SCAN_ATTEMPTS) && tcp_state != tcp_state::SYN_SENT {
            return 0;
        }
        let owners_only = tcp::setting(setting::SCAN_OWNERS);
        let state = &mut (*kept).state;
        let is_open = state.owner.tgid == 0 || (owners_only && is_unsure(state));
        if owners_only && !is_open {
            return 0;
        }
        let owner = Task::new(task).owner(attribution::SCAN);
        // Not under the socket's lock: a child that is made at this moment may inherit a half-written owner, and is
        // then owned by nobody who exists.
        if is_open {
            state.owner = owner;
        }
        let mut record = FileRecord { socket, owner, descriptor: (*ctx).fd as u32, local_port, tcp_state, reserved: 0 };
        bpf_seq_write(seq.cast(), ptr::from_mut(&mut record).cast(), size_of::<FileRecord>() as u32);
    }
    0
}

/// Tells of an open file that is a socket of datagrams. Like one of TCP it belongs to the first that is found if it belongs to
/// nobody yet.
///
/// # Safety
///
/// `seq` must be that of the iterator that runs, the others what its context holds.
#[inline(always)]
unsafe fn of_datagrams(seq: *mut c_void, task: *const u8, file: *const u8, descriptor: u32) {
    // SAFETY: typed pointers, and what the helper and their members give.
    unsafe {
        let mut owner = Task::new(task).owner(attribution::SCAN);
        let (socket, local_port);
        if has(&HAS_SOCK_FROM_FILE) {
            let Some(sk) = typed(file) else { return };
            let sock = Sock::new(sk);
            if !sock.is_inet() || sock.is_tcp() || sock.is_mptcp() {
                return;
            }
            let kept = datagram::traced(sock, !is_passing());
            if !kept.is_null() {
                (*kept).namespace = sock.namespace();
                if (*kept).owner.tgid == 0 {
                    (*kept).owner = owner;
                } else {
                    owner = (*kept).owner;
                }
            }
            (socket, local_port) = (sock.file_number(), sock.bound_port());
        } else {
            // What has an Internet protocol, and is not TCP's.
            let Some(sk) = untyped(file) else { return };
            let family: u16 = probe(sk + u64::from(SOCK_FAMILY.load())).unwrap_or(0);
            let protocol: u16 = probe(sk + u64::from(SOCK_PROTOCOL.load())).unwrap_or(0);
            if !matches!(family, AF_INET | AF_INET6) || protocol == u16::from(IPPROTO_TCP) {
                return;
            }
            // See `UdpSocketRecord::file`.
            socket = sk;
            local_port = probe(sk + u64::from(SOCK_LOCAL_PORT.load())).unwrap_or(0);
        }
        let tcp_state = tcp_state::CLOSE;
        let mut record = FileRecord { socket, owner, descriptor, local_port, tcp_state, reserved: 0 };
        bpf_seq_write(seq.cast(), ptr::from_mut(&mut record).cast(), size_of::<FileRecord>() as u32);
    }
}

/// Tells of an open file that is a socket which no hook sees.
///
/// # Safety
///
/// As for [`of_datagrams`].
#[inline(always)]
unsafe fn past_hooks(seq: *mut c_void, task: *const u8, file: *const u8) {
    // SAFETY: typed pointers, and what the helper and their members give.
    unsafe {
        let (address, family, namespace): (u64, u16, u32);
        if has(&HAS_SOCK_FROM_FILE) {
            let Some(sk) = typed(file) else { return };
            family = member(sk, &SOCK_FAMILY, 0);
            namespace = Sock::new(sk).namespace();
            address = sk as u64;
        } else {
            let Some(sk) = untyped(file) else { return };
            family = probe(sk + u64::from(SOCK_FAMILY.load())).unwrap_or(0);
            let net: u64 = probe(sk + u64::from(SOCK_NET.load())).unwrap_or(0);
            namespace = probe(net + u64::from(NET_INODE.load())).unwrap_or(UNKNOWN_U32);
            address = sk;
        }
        if !matches!(family, AF_PACKET | AF_XDP) {
            return;
        }
        let inode = member(follow(file, &FILE_INODE), &INODE_NUMBER, 0);
        let device = if family == AF_XDP { xdp_device(address) } else { UNKNOWN_U32 };
        let owner = Task::new(task).owner(attribution::SCAN);
        let mut record = PacketSocketRecord { inode, owner, namespace, device, family, reserved: [0; 3] };
        bpf_seq_write(seq.cast(), ptr::from_mut(&mut record).cast(), size_of::<PacketSocketRecord>() as u32);
    }
}

/// Index of the network device of an `AF_XDP` socket (`struct xdp_sock` in `include/net/xdp_sock.h`), of which the verifier
/// knows no more than that it is a socket.
#[inline(always)]
fn xdp_device(address: u64) -> u32 {
    if !has(&HAS_PROBE_READ) || XDP_DEVICE.load() == MISSING || DEVICE_INDEX.load() == MISSING {
        return UNKNOWN_U32;
    }
    match probe::<u64>(address + u64::from(XDP_DEVICE.load())) {
        Some(0) => 0,
        Some(device) => probe(device + u64::from(DEVICE_INDEX.load())).unwrap_or(UNKNOWN_U32),
        None => UNKNOWN_U32,
    }
}

/// Whether nothing is to be kept with sockets.
#[inline(always)]
fn is_passing() -> bool {
    has(&HAS_SOCKET_COOKIE) && tcp::setting(setting::KEEP_NOTHING)
}

/// Stands for what is kept with a socket; never null. `index` is the iterator's own.
#[inline(always)]
fn spare(index: u32) -> *mut TcpSocketState {
    let Some(kept) = SPARE.get_ptr_mut(index) else { return ptr::null_mut() };
    // SAFETY: not null, and this CPU's own.
    unsafe { *kept = TcpSocketState::default() };
    kept
}

/// Whether somebody else may have the socket than its state says: it was only inherited, or its owner has ended.
#[inline(always)]
fn is_unsure(state: &SocketState) -> bool {
    let (is_child, is_listener) = (state.role == role::PASSIVE, state.role == role::LISTENER);
    if is_child && state.owner.how == attribution::LISTENER {
        return true;
    }
    // SAFETY: the daemon does not change an entry while it reads the iterator.
    let ended = unsafe { ENDED.get(state.owner.tgid) };
    (is_child || is_listener) && ended.is_some_and(|start_ns| *start_ns == state.owner.start_ns)
}

/// The `struct sock` behind a file, from 5.11 on.
///
/// # Safety
///
/// `file` must be a typed pointer.
#[inline(always)]
unsafe fn typed(file: *const u8) -> Option<*const u8> {
    // SAFETY: the caller's contract, and what the helper gives.
    unsafe {
        let socket = bpf_sock_from_file(file.cast_mut().cast());
        if socket.is_null() {
            return None;
        }
        let sk = follow(socket.cast_const().cast(), &SOCKET_SOCK);
        (!sk.is_null()).then_some(sk)
    }
}

/// The same before: what hangs on a file is a socket if the file hangs on it (`sock_alloc_file` in `net/socket.c`).
///
/// # Safety
///
/// As for [`typed`].
#[inline(always)]
unsafe fn untyped(file: *const u8) -> Option<u64> {
    if !has(&HAS_PROBE_READ) {
        return None;
    }
    // SAFETY: the caller's contract.
    let socket: u64 = unsafe { member(file, &FILE_PRIVATE, 0) };
    let back: u64 = probe(socket + u64::from(SOCKET_FILE.load()))?;
    if socket == 0 || back != file as u64 {
        return None;
    }
    probe(socket + u64::from(SOCKET_SOCK.load()))
}

/// A TCP socket that is an open file.
struct Open {
    /// Not null.
    kept: *mut TcpSocketState,
    socket: u64,
    tcp_state: u8,
    local_port: u16,
}

/// The TCP socket behind a file.
#[inline(always)]
fn open(file: *const u8) -> Option<Open> {
    // SAFETY: a typed pointer, and what the helper and its members give.
    unsafe {
        if has(&HAS_SOCK_FROM_FILE) {
            let sock = Sock::new(typed(file)?);
            if !sock.is_inet() || !sock.is_tcp() {
                return None;
            }
            let kept = if is_passing() { spare(4) } else { sock.state() };
            if kept.is_null() {
                return None;
            }
            let socket = sock.number(&mut (*kept).state);
            return Some(Open { kept, socket, tcp_state: sock.tcp_state(), local_port: sock.bound_port() });
        }
        if has(&HAS_SOCKET_STORAGE) {
            return None;
        }
        // A TCP socket if `iter/tcp` found it before.
        let sk = untyped(file)?;
        let kept = SOCKETS_BY_ADDRESS.get_ptr_mut(sk)?;
        let tcp_state = probe(sk + u64::from(SOCK_STATE.load()))?;
        let local_port = probe(sk + u64::from(SOCK_LOCAL_PORT.load()))?;
        let socket = (*kept).state.number;
        (socket != 0).then_some(Open { kept, socket, tcp_state, local_port })
    }
}
