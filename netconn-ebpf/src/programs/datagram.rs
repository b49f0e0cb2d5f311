//! Datagram sockets (UDP, ICMP, raw): their owners, when they are bound or connected, and when they are closed.
//!
//! Only programs on cgroups run there on every kernel. Where they do not see which process sends or receives a packet, the
//! owner of its socket stands for it: the process that used the socket first, else the one that bound or created it.

use core::{
    ffi::{c_int, c_void},
    mem::offset_of,
};

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    macros::{btf_tracepoint, cgroup_sock, cgroup_sock_addr},
    programs::{BtfTracePointContext, SockAddrContext, SockContext},
};
use netconn_common::{
    AF_INET, AF_INET6, Address, DatagramSocketState, IPPROTO_UDP, OwnerRecord, RefusedRecord, ReleasedRecord,
    UdpSocketRecord, address, attribution, datagram_mark, kind, role, setting, tcp_state,
};

use crate::programs::{
    emit,
    kernel::{HAS_SOCKET_STORAGE, context, context_v4, context_v6, has},
    settings,
    sock::{Sock, cgroup_socket},
    storage::{cgroup_cookie, cgroup_device, cgroup_namespace, datagram_storage},
    task,
};

/// `SOCK_DGRAM` of `enum sock_type` in `include/linux/net.h`.
pub const SOCK_DGRAM: u32 = 2;
/// `SOCK_RAW` of `enum sock_type` in `include/linux/net.h`.
pub const SOCK_RAW: u32 = 3;

/// `struct bpf_sock`, `include/uapi/linux/bpf.h`. A process creates an IPv4 or IPv6 socket (`inet_create` in
/// `net/ipv4/af_inet.c`); not the kernel itself.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    if is_datagram(ctx.sock) {
        let kept = datagram_storage(ctx.as_ptr(), true);
        if !kept.is_null() {
            let owner = task::current(attribution::CREATE);
            let namespace = cgroup_namespace(ctx.as_ptr());
            // SAFETY: not null, and nobody else has the socket yet.
            unsafe { *kept = DatagramSocketState { owner, born_ns: emit::now(), namespace, ..Default::default() } };
        }
    }
    1 // allowed
}

/// `struct bpf_sock`, `include/uapi/linux/bpf.h`. `bind` has succeeded (`__inet_bind` in `net/ipv4/af_inet.c`).
#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    if is_udp(ctx.sock) {
        // SAFETY: this type of program may read the member.
        bound(&ctx, unsafe { context_v4::<{ offset_of!(bpf_sock, src_ip4) }>(ctx.as_ptr()) }, AF_INET);
    }
    1 // allowed
}

/// `struct bpf_sock`, `include/uapi/linux/bpf.h`. The same over IPv6 (`__inet6_bind` in `net/ipv6/af_inet6.c`).
#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    if is_udp(ctx.sock) {
        // SAFETY: this type of program may read the member.
        bound(&ctx, unsafe { context_v6::<{ offset_of!(bpf_sock, src_ip6) }>(ctx.as_ptr()) }, AF_INET6);
    }
    1 // allowed
}

/// Reports a UDP socket that was bound.
#[inline(always)]
fn bound(ctx: &SockContext, local_address: Address, family: u16) {
    const PORT: usize = offset_of!(bpf_sock, src_port);
    let Some(kept) = kept_or_new(ctx.as_ptr()) else { return };
    kept.marks |= datagram_mark::BOUND;
    kept.born_ns = emit::now();
    if kept.marks & datagram_mark::USED == 0 {
        kept.owner = task::current(attribution::LISTENER);
    }
    // SAFETY: this type of program may read the member.
    let local_port = unsafe { context!(ctx.as_ptr(), "u32", PORT) } as u16;
    let ends = KnownEnds { local_address, local_port, family, ..Default::default() };
    if !report(cgroup_cookie(ctx.as_ptr()), kept, ends, cgroup_device(ctx.as_ptr())) {
        kept.marks |= datagram_mark::BINDING_LOST;
    }
}

/// Handles a call of `connect` for a socket that is not TCP, with the address and port (host byte order) given.
#[inline(always)]
pub fn connecting(ctx: &SockAddrContext, remote_address: Address, remote_port: u16, family: u16) {
    let socket = cgroup_socket(ctx);
    if socket.is_null() || !is_datagram(socket) || !settings::any(setting::DATAGRAMS) {
        return;
    }
    let Some(kept) = kept_or_new(socket.cast()) else { return };
    used(kept, attribution::CONNECT, || cgroup_cookie(ctx.as_ptr()));
    kept.marks &= !datagram_mark::REPORTED;
    kept.refused = 0;
    if settings::any(setting::SOCKETS_ONLY) && !settings::any(setting::RECEIVE_HOOK) && is_udp(socket) {
        kept.counted = 1;
        // The local end is known if the socket was bound to an address before; else the kernel chooses one after this.
        // SAFETY: not null, and members that this type of program may read.
        let local_address = unsafe {
            if family == AF_INET { address::of_v4((*socket).src_ip4) } else { address::of_words((*socket).src_ip6) }
        };
        let is_bound = local_address != address::UNSPECIFIED;
        // SAFETY: not null, and a member that this type of program may read.
        let local_port = if is_bound { unsafe { (*socket).src_port as u16 } } else { 0 };
        let marks = datagram_mark::CONNECTED;
        let ends = KnownEnds { local_address, local_port, remote_address, remote_port, family, marks };
        note_peer(report(cgroup_cookie(ctx.as_ptr()), kept, ends, cgroup_device(socket.cast())), kept);
    }
}

/// Notes whether a record has reported the peer of a socket.
#[inline(always)]
fn note_peer(is_reported: bool, kept: &mut DatagramSocketState) {
    kept.marks =
        if is_reported { kept.marks & !datagram_mark::PEER_LOST } else { kept.marks | datagram_mark::PEER_LOST };
}

/// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`. A datagram is sent to an address that comes with it (`udp_sendmsg` in
/// `net/ipv4/udp.c`).
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    uses(&ctx, attribution::SEND)
}

/// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`. The same over IPv6 (`udpv6_sendmsg` in `net/ipv6/udp.c`).
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    uses(&ctx, attribution::SEND)
}

/// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`. A process that asks for the sender has received a datagram
/// (`udp_recvmsg` in `net/ipv4/udp.c`).
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    uses(&ctx, attribution::RECEIVE)
}

/// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`. The same over IPv6 (`udpv6_recvmsg` in `net/ipv6/udp.c`).
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    uses(&ctx, attribution::RECEIVE)
}

#[inline(always)]
fn uses(ctx: &SockAddrContext, how: u32) -> i32 {
    let socket = cgroup_socket(ctx);
    if !socket.is_null() {
        let kept = datagram_storage(socket.cast(), true);
        if !kept.is_null() {
            // SAFETY: not null; members are written whole.
            used(unsafe { &mut *kept }, how, || cgroup_cookie(ctx.as_ptr()));
        }
    }
    1 // allowed
}

/// `TP_PROTO(struct sock *sk, int ret, int flags)`, `include/trace/events/sock.h`, from 6.3 on: something was received. It
/// sees every way to receive, on raw sockets too, and costs less than the programs above, for which the kernel locks the
/// socket once more.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    if ctx.arg::<c_int>(1) > 0 && sock.is_inet() && !sock.is_tcp() {
        used_by(sock, attribution::RECEIVE);
    }
    0
}

/// Handles that the current process has sent or received something with a socket that is not TCP.
#[inline(always)]
pub fn used_by(sock: Sock, how: u32) {
    let kept = sock.datagram_state(false);
    if kept.is_null() {
        return;
    }
    // SAFETY: not null; members are written whole.
    let kept = unsafe { &mut *kept };
    used(kept, how, || sock.known_number().unwrap_or(0));
    if settings::all(setting::SOCKETS_ONLY | setting::RECEIVE_HOOK)
        && kept.marks & datagram_mark::REPORTED == 0
        && sock.protocol() == u16::from(IPPROTO_UDP)
        && sock.tcp_state() == tcp_state::ESTABLISHED
    {
        kept.counted = 1;
        kept.marks |= datagram_mark::REPORTED;
        let ends = sock.ends(0);
        let ends = KnownEnds {
            local_address: address::of_halves(ends.local_address),
            remote_address: address::of_halves(ends.remote_address),
            local_port: ends.local_port,
            remote_port: ends.remote_port,
            family: ends.family,
            marks: datagram_mark::CONNECTED,
        };
        note_peer(report(sock.known_number().unwrap_or(0), kept, ends, sock.device()), kept);
    }
}

/// Notes that the current process uses a socket: the first process that does so owns it from then on, as with accepted
/// connections.
#[inline(always)]
fn used(kept: &mut DatagramSocketState, how: u32, socket: impl FnOnce() -> u64) {
    // Two threads may both be the first, and either may win.
    if kept.marks & datagram_mark::USED != 0 || !task::is_process() {
        return;
    }
    kept.marks |= datagram_mark::USED;
    kept.owner = task::current(how);
    if kept.counted != 0 || kept.marks & datagram_mark::BOUND != 0 {
        let record = OwnerRecord {
            header: emit::header(kind::OWNER, emit::now()),
            socket: socket(),
            owner: kept.owner,
            generation: 0,
            reserved: 0,
        };
        emit::datagram_record(kind::OWNER, |slot: *mut OwnerRecord| {
            // SAFETY: the ring gave room for one record.
            unsafe { slot.write(record) };
        });
    }
}

/// `TP_PROTO(const struct sock *sk)`, `include/trace/events/sock.h`, from 5.14 on: a program will get an error. Reports the first
/// of a UDP socket since it was connected last: a program that goes on sending would cause one with each datagram.
#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn inet_sk_error_report(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    let error = sock.error();
    if error == 0 || sock.protocol() != u16::from(IPPROTO_UDP) || !sock.is_inet() {
        return 0;
    }
    let kept = sock.datagram_state(false);
    // SAFETY: not null.
    if kept.is_null() || unsafe { (*kept).refused } != 0 {
        return 0;
    }
    // SAFETY: not null; nobody else writes this member at the same time but to reset it.
    unsafe { (*kept).refused = 1 };
    let ends = sock.ends(0);
    emit::datagram_record(kind::REFUSED, |slot: *mut RefusedRecord| {
        let record = RefusedRecord {
            header: emit::header(kind::REFUSED, emit::now()),
            socket: sock.known_number().unwrap_or(0),
            remote_address: address::of_halves(ends.remote_address),
            error,
            remote_port: ends.remote_port,
            family: ends.family,
        };
        // SAFETY: the ring gave room for one record.
        unsafe { slot.write(record) };
    });
    0
}

/// `struct bpf_sock`, `include/uapi/linux/bpf.h`. The last process that had a socket open has closed it (`inet_release` in
/// `net/ipv4/af_inet.c`).
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    if !is_datagram(ctx.sock) {
        return 1; // allowed
    }
    let kept = datagram_storage(ctx.as_ptr(), false);
    let (counted, marks) = if kept.is_null() {
        // On 5.10 nothing can be kept with a socket that is older than netconn, but the daemon may know it.
        (u16::from(!has(&HAS_SOCKET_STORAGE)), 0)
    } else {
        // SAFETY: not null.
        unsafe { ((*kept).counted, (*kept).marks) }
    };
    if counted != 0 || marks & datagram_mark::BOUND != 0 {
        let socket = cgroup_cookie(ctx.as_ptr());
        emit::datagram_record(kind::RELEASED, |record: *mut ReleasedRecord| {
            let header = emit::header(kind::RELEASED, emit::now());
            // SAFETY: the ring gave room for one record.
            unsafe { record.write(ReleasedRecord { header, socket }) };
        });
    }
    // Nothing has both its events any more: dumps only find what there is. On 5.10 a dump cannot note that it has found the socket.
    if has(&HAS_SOCKET_STORAGE) {
        if marks & datagram_mark::BINDING_LOST != 0 {
            emit::unreported(role::LISTENER, false);
        }
        if marks & datagram_mark::PEER_LOST != 0 {
            emit::unreported(role::ACTIVE, true);
        }
    }
    1 // allowed
}

/// Both ends of a socket, as far as they are known.
#[derive(Default)]
struct KnownEnds {
    local_address: Address,
    remote_address: Address,
    local_port: u16,
    remote_port: u16,
    family: u16,
    /// Bits of [`datagram_mark`] beside those that are kept.
    marks: u32,
}

/// Reports a UDP socket. Returns whether there was room for the record.
#[inline(always)]
fn report(socket: u64, kept: &DatagramSocketState, ends: KnownEnds, device: u32) -> bool {
    emit::datagram_record(kind::UDP_SOCKET, |slot: *mut UdpSocketRecord| {
        let record = UdpSocketRecord {
            header: emit::header(kind::UDP_SOCKET, emit::now()),
            socket,
            file: 0,
            state: *kept,
            local_address: ends.local_address,
            remote_address: ends.remote_address,
            local_port: ends.local_port,
            remote_port: ends.remote_port,
            family: ends.family,
            protocol: u16::from(IPPROTO_UDP),
            marks: kept.marks | ends.marks,
            device,
        };
        // SAFETY: the ring gave room for one record.
        unsafe { slot.write(record) };
    })
}

/// Returns whether a socket of a program on cgroups is a datagram socket.
#[inline(always)]
fn is_datagram(socket: *mut bpf_sock) -> bool {
    // SAFETY: the kernel gives a valid socket; the verifier knows its members' types.
    matches!(unsafe { (*socket).type_ }, SOCK_DGRAM | SOCK_RAW)
}

/// Returns whether a socket of a program on cgroups is a UDP socket.
#[inline(always)]
fn is_udp(socket: *mut bpf_sock) -> bool {
    // SAFETY: the kernel gives a valid socket; the verifier knows its members' types.
    unsafe { (*socket).type_ == SOCK_DGRAM && (*socket).protocol == u32::from(IPPROTO_UDP) }
}

/// Returns what is kept with a socket of a program on cgroups, created if there is nothing: for one older than netconn.
#[inline(always)]
fn kept_or_new<'a>(socket: *mut c_void) -> Option<&'a mut DatagramSocketState> {
    let kept = datagram_storage(socket, true);
    if kept.is_null() {
        return None;
    }
    // SAFETY: not null. Members are written whole; a reader of a half-written owner has one that does not exist.
    let kept = unsafe { &mut *kept };
    if kept.namespace == 0 {
        kept.namespace = cgroup_namespace(socket);
    }
    Some(kept)
}
