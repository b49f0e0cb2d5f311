//! Attempts that fail before a SYN is sent: no route, or forbidden. No socket changes its state then.
//!
//! What `connect` was asked for is noted when it is called. If the next thing that happens to the socket is not
//! `SYN_SENT`, the attempt has failed.

use core::{ffi::c_int, mem::offset_of};

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    macros::{btf_tracepoint, cgroup_sock_addr, fexit},
    programs::{BtfTracePointContext, FExitContext, SockAddrContext},
};
use netconn_common::{
    AF_INET, AF_INET6, Destination, TcpSocketState, UNKNOWN_U32, UnsentRecord, kind, mark, tcp_state,
};

use crate::{
    datagram, emit,
    kernel::{SOCKET_SOCK, context, follow},
    sock::{Sock, TcpSock},
    tcp,
};

/// Runs before routing (`tcp_v4_pre_connect`, `net/ipv4/tcp_ipv4.c`), under the socket's lock.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    const ADDRESS: usize = offset_of!(bpf_sock_addr, user_ip4);
    // SAFETY: the kernel gives a valid context; this member may be read by this type of program.
    let address = unsafe { context!(ctx.as_ptr(), "u32", ADDRESS) };
    called(&ctx, [address as u32, 0, 0, 0], AF_INET)
}

/// The same over IPv6 (`tcp_v6_pre_connect`), also to IPv4-mapped addresses.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    const ADDRESS: usize = offset_of!(bpf_sock_addr, user_ip6);
    // SAFETY: as above.
    let address = unsafe {
        [
            context!(ctx.as_ptr(), "u32", ADDRESS) as u32,
            context!(ctx.as_ptr(), "u32", ADDRESS + 4) as u32,
            context!(ctx.as_ptr(), "u32", ADDRESS + 8) as u32,
            context!(ctx.as_ptr(), "u32", ADDRESS + 12) as u32,
        ]
    };
    called(&ctx, address, AF_INET6)
}

#[inline(always)]
fn called(ctx: &SockAddrContext, address: [u32; 4], family: u16) -> i32 {
    const PORT: usize = offset_of!(bpf_sock_addr, user_port);
    // SAFETY: as above.
    let (port, socket) = unsafe { (context!(ctx.as_ptr(), "u32", PORT), (*ctx.sock_addr).__bindgen_anon_1.sk) };
    let Some(tcp) = TcpSock::of_cgroup(socket) else {
        datagram::connecting(ctx, address, u16::from_be(port as u16), family);
        return 1;
    };
    let sock = tcp.sock();
    let kept = sock.state_or_new();
    if kept.is_null() {
        return 1;
    }
    // SAFETY: not null; the socket's lock makes this the only writer.
    let kept = unsafe { &mut *kept };
    let number = sock.number_in_cgroup(ctx.as_ptr(), &mut kept.state);
    end(sock, tcp, kept, number, UNKNOWN_U32);
    tcp::begin(kept, tcp_state::SYN_SENT, emit::now());
    kept.state.marks = mark::UNSENT;
    // SAFETY: both are 16 bytes of plain data.
    let address = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(address) };
    kept.destination = Destination { address, port: u16::from_be(port as u16), family };
    1 // allowed
}

/// `int __inet_stream_connect(struct socket *sock, struct sockaddr *uaddr, int addr_len, int flags, int is_sendmsg)`,
/// `net/ipv4/af_inet.c`: what `connect` returns.
#[fexit(function = "__inet_stream_connect")]
pub fn inet_stream_connect(ctx: FExitContext) -> i32 {
    let result = ctx.arg::<c_int>(5);
    if result < 0 {
        // SAFETY: the first argument is a typed pointer.
        let sock = Sock::new(unsafe { follow(ctx.arg::<*const u8>(0), &SOCKET_SOCK) });
        over(sock, result.unsigned_abs());
    }
    0
}

/// `TP_PROTO(struct sock *sk)`, `include/trace/events/tcp.h`: nothing will happen to the socket any more.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    over(sock, UNKNOWN_U32);
    sock.forget();
    0
}

/// Whatever a socket was asked for is over.
#[inline(always)]
fn over(sock: Sock, errno: u32) {
    let kept = sock.state();
    // SAFETY: checked; the socket's lock, or that nobody else has the socket any more, makes this the only writer.
    if kept.is_null() || unsafe { (*kept).state.marks } & mark::UNSENT == 0 {
        return;
    }
    if sock.tcp_state() != tcp_state::CLOSE {
        // It was sent, but that was missed.
        // SAFETY: as above.
        unsafe { (*kept).state.marks &= !mark::UNSENT };
        return;
    }
    if let Some(tcp) = sock.tcp() {
        // SAFETY: as above.
        let kept = unsafe { &mut *kept };
        let number = sock.number(&mut kept.state);
        end(sock, tcp, kept, number, errno);
    }
}

/// If an attempt waits for its SYN, it has failed.
#[inline(always)]
pub fn end(sock: Sock, tcp: TcpSock, kept: &mut TcpSocketState, number: u64, errno: u32) {
    if kept.state.marks & mark::UNSENT == 0 {
        return;
    }
    kept.state.marks = 0;
    kept.state.sequence = kept.state.sequence.wrapping_add(1);
    let TcpSocketState { state, destination, .. } = kept;
    emit::record(kind::UNSENT, |record: *mut UnsentRecord| {
        // SAFETY: the ring gave room for one record.
        unsafe {
            let attempt = &raw mut (*record).attempt;
            tcp::fill(attempt, sock, tcp, number, state, tcp_state::CLOSE, tcp_state::CLOSE, state.born_ns);
            (*attempt).header.kind = kind::UNSENT;
            (*attempt).error = errno;
            (*attempt).remote_address = destination.address;
            (*attempt).remote_port = destination.port;
            (*attempt).family = destination.family;
            // inet_sport may be that of the socket's life before.
            (*attempt).local_port = sock.bound_port();
            (*record).mark = sock.mark();
            (*record).device = sock.device();
        }
    });
}
