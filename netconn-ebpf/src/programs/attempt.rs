//! Attempts that fail before a SYN is sent: no route, or forbidden. No socket changes its state then.
//!
//! The destination is noted when `connect` is called. If the next thing that happens to the socket is not `SYN_SENT`, the
//! attempt has failed.

use core::{ffi::c_int, mem::offset_of};

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    macros::{btf_tracepoint, cgroup_sock_addr, fexit},
    programs::{BtfTracePointContext, FExitContext, SockAddrContext},
};
use netconn_common::{
    AF_INET, AF_INET6, Address, Destination, TcpSocketState, UNKNOWN_U32, UnsentRecord, kind, mark, tcp_state,
};

use crate::programs::{
    datagram, emit,
    kernel::{SOCKET_SOCK, Typed, context, context_v4, context_v6},
    life,
    sock::{Sock, TcpSock, cgroup_socket},
    tcp_record::{self, Change},
};

/// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`. Runs before routing (`tcp_v4_pre_connect`, `net/ipv4/tcp_ipv4.c`),
/// under the socket's lock.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: this type of program may read the member.
    called(&ctx, unsafe { context_v4::<{ offset_of!(bpf_sock_addr, user_ip4) }>(ctx.as_ptr()) }, AF_INET)
}

/// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`. The same over IPv6 (`tcp_v6_pre_connect`), also to IPv4-mapped
/// addresses.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: this type of program may read the member.
    called(&ctx, unsafe { context_v6::<{ offset_of!(bpf_sock_addr, user_ip6) }>(ctx.as_ptr()) }, AF_INET6)
}

/// Notes the destination of `connect`.
#[inline(always)]
fn called(ctx: &SockAddrContext, address: Address, family: u16) -> i32 {
    const PORT: usize = offset_of!(bpf_sock_addr, user_port);
    // SAFETY: this type of program may read the member.
    let port = u16::from_be(unsafe { context!(ctx.as_ptr(), "u32", PORT) } as u16);
    let Some(tcp) = TcpSock::of_cgroup(cgroup_socket(ctx)) else {
        datagram::connecting(ctx, address, port, family);
        return 1; // allowed
    };
    let sock = tcp.sock();
    let kept = sock.state_or_new();
    if kept.is_null() {
        return 1; // allowed
    }
    // SAFETY: not null; the socket's lock makes this the only writer.
    let kept = unsafe { &mut *kept };
    let number = sock.number_in_cgroup(ctx.as_ptr(), &mut kept.state);
    end(sock, tcp, kept, number, UNKNOWN_U32);
    life::begin(kept, tcp_state::SYN_SENT, emit::now());
    kept.state.marks = mark::UNSENT;
    kept.destination = Destination { address, port, family };
    1 // allowed
}

/// `int __inet_stream_connect(struct socket *sock, struct sockaddr *uaddr, int addr_len, int flags, int is_sendmsg)`,
/// `net/ipv4/af_inet.c`: the result of `connect`.
#[fexit(function = "__inet_stream_connect")]
pub fn inet_stream_connect(ctx: FExitContext) -> i32 {
    let result = ctx.arg::<c_int>(5);
    if result < 0 {
        let sock = Sock::new(Typed::new(ctx.arg::<*const u8>(0)).follow(&SOCKET_SOCK).as_ptr::<u8>());
        finish(sock, result.unsigned_abs());
    }
    0
}

/// Returns the error that the kernel keeps for a program that does not wait in `connect`, 0 if there is none. A firewall of this
/// host rejects the SYN while `connect` holds the socket's lock; the attempt then goes on, and fails only with the next SYN
/// (`tcp_v4_err` in `net/ipv4/tcp_ipv4.c`). Most programs close the socket before, and have taken the first of the two by `SO_ERROR`.
#[inline(always)]
pub fn rejection(sock: Sock) -> u32 {
    let soft = sock.soft_error();
    if soft != 0 { soft } else { sock.queued_error() }
}

/// `TP_PROTO(struct sock *sk)`, `include/trace/events/tcp.h`: nothing will happen to the socket any more.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    finish(sock, UNKNOWN_U32);
    sock.forget();
    0
}

/// Ends the attempt of a socket, if one waits: whatever the socket was asked for is over.
#[inline(always)]
fn finish(sock: Sock, errno: u32) {
    let kept = sock.state();
    // SAFETY: not null. Either the socket's lock makes this the only writer, or that nobody else has the socket any more.
    if kept.is_null() || unsafe { (*kept).state.marks } & mark::UNSENT == 0 {
        return;
    }
    // SAFETY: not null, and the only writer.
    let kept = unsafe { &mut *kept };
    if sock.tcp_state() != tcp_state::CLOSE {
        // The SYN was sent, but that was missed.
        kept.state.marks &= !mark::UNSENT;
        return;
    }
    if let Some(tcp) = sock.tcp() {
        let number = sock.number(&mut kept.state);
        end(sock, tcp, kept, number, errno);
    }
}

/// Reports an attempt that still waits for its SYN as failed.
#[inline(always)]
pub fn end(sock: Sock, tcp: TcpSock, kept: &mut TcpSocketState, number: u64, errno: u32) {
    if kept.state.marks & mark::UNSENT == 0 {
        return;
    }
    kept.state.marks = 0;
    kept.state.sequence = kept.state.sequence.wrapping_add(1);
    let state = &kept.state;
    let address: [u64; 2] = bytemuck::cast(kept.destination.address);
    let (port, family) = (kept.destination.port, kept.destination.family);
    emit::record(kind::UNSENT, |record: *mut UnsentRecord| {
        let change = Change { number, old: tcp_state::CLOSE, new: tcp_state::CLOSE, time_ns: state.born_ns };
        // SAFETY: the ring gave room for one record.
        unsafe {
            let attempt = &raw mut (*record).attempt;
            tcp_record::write(attempt, sock, Some(tcp), state, change);
            (*attempt).header.kind = kind::UNSENT;
            (*attempt).error = errno;
            tcp_record::write_address(&raw mut (*attempt).remote_address, address);
            (*attempt).remote_port = port;
            (*attempt).family = family;
            // inet_sport may be that of the socket's life before.
            (*attempt).local_port = sock.bound_port();
            (*record).mark = sock.mark();
            (*record).reserved = 0;
        }
    });
}
