//! Sockets of datagrams (UDP, ICMP, raw): whose they are, that they are bound to receive, and that they are closed.
//!
//! Only programs on cgroups run there on every kernel. Where they cannot be told whom a packet belongs to, its socket says
//! it: who used it first, else who bound or made it.

use core::{
    ffi::{c_int, c_void},
    mem::offset_of,
    ptr,
};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get},
    macros::{btf_tracepoint, cgroup_sock, cgroup_sock_addr},
    programs::{BtfTracePointContext, SockAddrContext, SockContext},
};
use netconn_common::{
    AF_INET, AF_INET6, DatagramSocketState, IPPROTO_UDP, OwnerRecord, ReleasedRecord, UNKNOWN_U32, UdpSocketRecord,
    attribution, datagram_mark, feature, kind, setting, tcp_state,
};

use crate::{
    emit,
    kernel::{HAS_PROBE_READ, HAS_SOCKET_STORAGE, NET_INODE, SOCK_NET, context, has, probe},
    maps::DATAGRAM_SOCKETS,
    sock::Sock,
    task, tcp,
};

/// `enum sock_type` in `include/linux/net.h`.
pub const SOCK_DGRAM: u32 = 2;
/// As above.
pub const SOCK_RAW: u32 = 3;

/// A socket of an Internet protocol is made (`inet_create` in `net/ipv4/af_inet.c`), not by the kernel itself.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    if is_of_datagrams(ctx.sock) {
        let kept = storage(ctx.as_ptr(), true);
        if !kept.is_null() {
            let owner = task::current(attribution::CREATE);
            let namespace = namespace(ctx.as_ptr());
            // SAFETY: not null, and nobody else has the socket yet.
            unsafe {
                *kept = DatagramSocketState { owner, born_ns: emit::now(), namespace, ..DatagramSocketState::default() }
            };
        }
    }
    1 // allowed
}

/// `bind` has succeeded (`__inet_bind` in `net/ipv4/af_inet.c`).
#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    if is_udp(ctx.sock) {
        const ADDRESS: usize = offset_of!(bpf_sock, src_ip4);
        // SAFETY: the kernel gives a valid context; this member may be read by this type of program.
        let address = unsafe { context!(ctx.as_ptr(), "u32", ADDRESS) };
        bound(&ctx, [address as u32, 0, 0, 0], AF_INET);
    }
    1 // allowed
}

/// The same over IPv6 (`__inet6_bind` in `net/ipv6/af_inet6.c`).
#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    if is_udp(ctx.sock) {
        const ADDRESS: usize = offset_of!(bpf_sock, src_ip6);
        // SAFETY: as above.
        let address = unsafe {
            [
                context!(ctx.as_ptr(), "u32", ADDRESS) as u32,
                context!(ctx.as_ptr(), "u32", ADDRESS + 4) as u32,
                context!(ctx.as_ptr(), "u32", ADDRESS + 8) as u32,
                context!(ctx.as_ptr(), "u32", ADDRESS + 12) as u32,
            ]
        };
        bound(&ctx, address, AF_INET6);
    }
    1 // allowed
}

#[inline(always)]
fn bound(ctx: &SockContext, address: [u32; 4], family: u16) {
    const PORT: usize = offset_of!(bpf_sock, src_port);
    let Some(kept) = kept_or_new(ctx.as_ptr()) else { return };
    kept.marks |= datagram_mark::BOUND;
    kept.born_ns = emit::now();
    if kept.marks & datagram_mark::USED == 0 {
        kept.owner = task::current(attribution::LISTENER);
    }
    // SAFETY: the kernel gives a valid context; this member may be read by this type of program.
    let port = unsafe { context!(ctx.as_ptr(), "u32", PORT) } as u16;
    let place = Place { local_address: address, local_port: port, family, ..Place::default() };
    tell(cookie(ctx.as_ptr()), kept, place);
}

/// `connect` is called for a socket that is not TCP's, with the address and port (host byte order) given.
#[inline(always)]
pub fn connecting(ctx: &SockAddrContext, address: [u32; 4], port: u16, family: u16) {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if socket.is_null() || !is_of_datagrams(socket) || !tcp::setting(setting::DATAGRAMS) {
        return;
    }
    let Some(kept) = kept_or_new(socket.cast()) else { return };
    used(kept, attribution::CONNECT, || cookie(ctx.as_ptr()));
    kept.marks &= !datagram_mark::REPORTED;
    if tcp::setting(setting::SOCKETS_ONLY) && !tcp::setting(setting::RECEIVE_HOOK) && is_udp(socket) {
        kept.counted = 1;
        let marks = datagram_mark::CONNECTED;
        // This end is known if it was bound to an address before; else the kernel chooses after this.
        // SAFETY: not null, and members that may be read.
        let local_address = unsafe {
            let [a, b, c, d] = (*socket).src_ip6;
            if family == AF_INET { [(*socket).src_ip4, 0, 0, 0] } else { [a, b, c, d] }
        };
        // SAFETY: as above.
        let local_port = if local_address == [0; 4] { 0 } else { unsafe { (*socket).src_port as u16 } };
        let place = Place { local_address, local_port, remote_address: address, remote_port: port, family, marks };
        tell(cookie(ctx.as_ptr()), kept, place);
    }
}

/// A datagram is sent to an address that comes with it (`udp_sendmsg` in `net/ipv4/udp.c`).
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    uses(&ctx, attribution::SEND)
}

/// The same over IPv6 (`udpv6_sendmsg` in `net/ipv6/udp.c`).
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    uses(&ctx, attribution::SEND)
}

/// A datagram was received by a process that wants to know from whom (`udp_recvmsg` in `net/ipv4/udp.c`).
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    uses(&ctx, attribution::RECEIVE)
}

/// The same over IPv6 (`udpv6_recvmsg` in `net/ipv6/udp.c`).
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    uses(&ctx, attribution::RECEIVE)
}

#[inline(always)]
fn uses(ctx: &SockAddrContext, how: u32) -> i32 {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if !socket.is_null() {
        let kept = storage(socket.cast(), true);
        if !kept.is_null() {
            // SAFETY: not null; see `used`.
            used(unsafe { &mut *kept }, how, || cookie(ctx.as_ptr()));
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

/// The current process has sent or received something with a socket that is not TCP's.
#[inline(always)]
pub fn used_by(sock: Sock, how: u32) {
    let kept = traced(sock, false);
    if kept.is_null() {
        return;
    }
    // SAFETY: not null.
    let kept = unsafe { &mut *kept };
    used(kept, how, || sock.known_number().unwrap_or(0));
    if tcp::settings(setting::SOCKETS_ONLY | setting::RECEIVE_HOOK)
        && kept.marks & datagram_mark::REPORTED == 0
        && sock.protocol() == u16::from(IPPROTO_UDP)
        && sock.tcp_state() == tcp_state::ESTABLISHED
    {
        kept.counted = 1;
        kept.marks |= datagram_mark::REPORTED;
        let ends = sock.ends(0);
        let place = Place {
            local_address: words(ends.local_address),
            remote_address: words(ends.remote_address),
            local_port: ends.local_port,
            remote_port: ends.remote_port,
            family: ends.family,
            marks: datagram_mark::CONNECTED,
        };
        tell(sock.known_number().unwrap_or(0), kept, place);
    }
}

/// The current process uses a socket. The first that does so has it from then on, as with connections that are accepted.
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
        emit::record_of_datagrams(kind::OWNER, |slot: *mut OwnerRecord| {
            // SAFETY: the ring gave room for one record.
            unsafe { slot.write(record) };
        });
    }
}

/// The last process that had a socket has closed it (`inet_release` in `net/ipv4/af_inet.c`).
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    if !is_of_datagrams(ctx.sock) {
        return 1;
    }
    let kept = storage(ctx.as_ptr(), false);
    let (counted, marks) = if kept.is_null() {
        // On 5.10 nothing can be kept with what is older than netconn, but the daemon may know it.
        (u32::from(!has(&HAS_SOCKET_STORAGE)), 0)
    } else {
        // SAFETY: not null.
        unsafe { ((*kept).counted, (*kept).marks) }
    };
    if counted != 0 || marks & datagram_mark::BOUND != 0 {
        let socket = cookie(ctx.as_ptr());
        emit::record_of_datagrams(kind::RELEASED, |record: *mut ReleasedRecord| {
            let header = emit::header(kind::RELEASED, emit::now());
            // SAFETY: the ring gave room for one record.
            unsafe { record.write(ReleasedRecord { header, socket }) };
        });
    }
    1 // allowed
}

/// Both ends of a socket, as far as it is known.
#[derive(Default)]
struct Place {
    local_address: [u32; 4],
    remote_address: [u32; 4],
    local_port: u16,
    remote_port: u16,
    family: u16,
    /// Bits of [`datagram`] beside those that are kept.
    marks: u32,
}

/// The cookie of the socket that the context of a program on cgroups stands for.
#[inline(always)]
fn cookie(context: *mut c_void) -> u64 {
    // SAFETY: the helper takes the context of programs on cgroups.
    unsafe { bpf_get_socket_cookie(context) }
}

/// Tells what is known of a socket.
#[inline(always)]
fn tell(socket: u64, kept: &DatagramSocketState, place: Place) {
    emit::record_of_datagrams(kind::UDP_SOCKET, |slot: *mut UdpSocketRecord| {
        let record = UdpSocketRecord {
            header: emit::header(kind::UDP_SOCKET, emit::now()),
            socket,
            file: 0,
            state: *kept,
            local_address: bytes(place.local_address),
            remote_address: bytes(place.remote_address),
            local_port: place.local_port,
            remote_port: place.remote_port,
            family: place.family,
            protocol: u16::from(IPPROTO_UDP),
            marks: kept.marks | place.marks,
            reserved: 0,
        };
        // SAFETY: the ring gave room for one record.
        unsafe { slot.write(record) };
    });
}

#[inline(always)]
fn bytes(address: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { core::mem::transmute(address) }
}

#[inline(always)]
fn words(address: [u64; 2]) -> [u32; 4] {
    // SAFETY: as above.
    unsafe { core::mem::transmute(address) }
}

#[inline(always)]
fn is_of_datagrams(socket: *mut bpf_sock) -> bool {
    // SAFETY: the kernel gives a valid socket; the verifier knows its members' types.
    matches!(unsafe { (*socket).type_ }, SOCK_DGRAM | SOCK_RAW)
}

#[inline(always)]
fn is_udp(socket: *mut bpf_sock) -> bool {
    // SAFETY: as above.
    unsafe { (*socket).type_ == SOCK_DGRAM && (*socket).protocol == u32::from(IPPROTO_UDP) }
}

/// What is kept with a socket; made, if there is nothing, for one that is older than netconn.
#[inline(always)]
fn kept_or_new<'a>(socket: *mut c_void) -> Option<&'a mut DatagramSocketState> {
    let kept = storage(socket, true);
    if kept.is_null() {
        return None;
    }
    // SAFETY: not null. Members are written whole; who reads a half-written owner has one that does not exist.
    let kept = unsafe { &mut *kept };
    if kept.namespace == 0 {
        kept.namespace = namespace(socket);
    }
    Some(kept)
}

/// What is kept with a socket, or null; `socket` is one whose type the verifier knows, or the context that stands for it.
#[inline(always)]
pub fn storage(socket: *mut c_void, creates: bool) -> *mut DatagramSocketState {
    if HAS_SOCKET_STORAGE.load() == feature::NO_MEMORY {
        return ptr::null_mut();
    }
    let flags = if creates { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: the caller's contract; the map's value is a DatagramSocketState.
    unsafe {
        bpf_sk_storage_get((&raw const DATAGRAM_SOCKETS).cast_mut().cast(), socket, ptr::null_mut(), flags).cast()
    }
}

/// What is kept with a socket that a tracing program has; null where these cannot use what is kept with sockets.
#[inline(always)]
pub fn traced(sock: Sock, creates: bool) -> *mut DatagramSocketState {
    if !has(&HAS_SOCKET_STORAGE) {
        return ptr::null_mut();
    }
    storage(sock.address() as *mut c_void, creates)
}

/// Inode of a socket's network namespace. The verifier does not let programs on cgroups read the members of a socket, nor add
/// to a pointer to it: its beginning is read as a whole.
#[inline(always)]
pub fn namespace(socket: *mut c_void) -> u32 {
    const WORDS: usize = 8;
    if !has(&HAS_PROBE_READ) {
        return UNKNOWN_U32;
    }
    let word = SOCK_NET.load() as usize / size_of::<u64>();
    let inode = probe::<[u64; WORDS]>(socket as u64)
        .and_then(|head| (word < WORDS).then(|| head[word]))
        .and_then(|net| probe::<u32>(net + u64::from(NET_INODE.load())));
    inode.unwrap_or(UNKNOWN_U32)
}
