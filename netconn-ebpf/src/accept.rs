//! Who has an accepted connection: not the packet that completed it, but the process that accepts it, and the one that
//! uses it when it was handed on.

use core::ffi::c_int;

use aya_ebpf::{
    EbpfContext as _,
    macros::{btf_tracepoint, cgroup_sock_addr, fexit},
    programs::{BtfTracePointContext, FExitContext, SockAddrContext},
};
use netconn_common::{SocketState, attribution, role, tcp_state};

use crate::{
    datagram, emit,
    kernel::{ACCEPT_PARAMETERS, context},
    sock::{Sock, TcpSock},
    task, tcp,
};

/// `struct sock *inet_csk_accept(…)`, `net/ipv4/inet_connection_sock.c`: four parameters in 6.1, two in 6.12.
#[fexit(function = "inet_csk_accept")]
pub fn inet_csk_accept(ctx: FExitContext) -> i32 {
    let sock = returned(&ctx);
    if !sock.is_null() {
        accepted(Sock::new(sock), None);
    }
    0
}

/// What the function returned stands behind its parameters.
#[inline(always)]
fn returned(ctx: &FExitContext) -> *const u8 {
    if ACCEPT_PARAMETERS.load() == 2 {
        // SAFETY: the context holds three words then.
        unsafe { context!(ctx.as_ptr(), "u64", 16) as *const u8 }
    } else {
        // SAFETY: the context holds five words then.
        unsafe { context!(ctx.as_ptr(), "u64", 32) as *const u8 }
    }
}

/// `accept` asks for the peer's name if its caller wants it (`do_accept` in `net/socket.c`); so does `getpeername`.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    asked(&ctx)
}

/// The same over IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    asked(&ctx)
}

#[inline(always)]
fn asked(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    if let Some(tcp) = TcpSock::of_cgroup(unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }) {
        accepted(tcp.sock(), Some(ctx));
    }
    1 // allowed
}

/// The current process has accepted a connection, or (with the context of a program on cgroups) asks one that came in for
/// its peer.
#[inline(always)]
fn accepted(sock: Sock, asks: Option<&SockAddrContext>) {
    let kept = sock.state();
    if kept.is_null() {
        return;
    }
    // SAFETY: not null. The owner is written without the socket's lock; a record that is made at this moment may have a
    // half-written one, and the daemon takes only what comes with the record below.
    let kept = unsafe { &mut *kept };
    if asks.is_none() {
        tcp::be_child(kept, tcp_state::ESTABLISHED, emit::now());
    }
    let state = &mut kept.state;
    let is_open = may_be_accepted(state) && matches!(state.owner.how, attribution::LISTENER | attribution::UNKNOWN);
    if asks.is_none() || is_open {
        state.owner = task::current(attribution::ACCEPT);
        let number = match asks {
            Some(ctx) => sock.number_in_cgroup(ctx.as_ptr(), state),
            None => sock.number(state),
        };
        emit::owner(number, state);
    }
}

/// `TP_PROTO(struct sock *sk)`, `include/trace/events/tcp.h`: something was received, by the task that called unless
/// the kernel itself reads (kTLS, KCM, sockmap).
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn tcp_rcv_space_adjust(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    if sock.is_owned() {
        used(sock, attribution::RECEIVE);
    }
    0
}

/// `TP_PROTO(struct sock *sk, int ret, int flags)`, `include/trace/events/sock.h`, from 6.3 on: something was sent.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    if ctx.arg::<c_int>(1) > 0 && sock.is_inet() {
        if sock.is_tcp() {
            used(sock, attribution::SEND);
        } else {
            datagram::used_by(sock, attribution::SEND);
        }
    }
    0
}

/// Whether a socket came out of a listener; of those older than netconn, only what nobody has open waits to be accepted.
#[inline(always)]
fn may_be_accepted(state: &SocketState) -> bool {
    state.role == role::PASSIVE || (state.role == role::UNKNOWN && state.owner.tgid == 0)
}

/// The current process uses a connection. The first that does so with one that came in has it from then on.
#[inline(always)]
fn used(sock: Sock, how: u32) {
    let kept = sock.state();
    if kept.is_null() {
        return;
    }
    // SAFETY: not null; as in `accepted`.
    let kept = unsafe { &mut *kept };
    if kept.used != 0 || !may_be_accepted(&kept.state) || !task::is_process() {
        return;
    }
    kept.used = 1;
    let owner = &kept.state.owner;
    if owner.tgid == task::current_tgid() && owner.how != attribution::LISTENER {
        return;
    }
    kept.state.owner = task::current(how);
    let number = sock.number(&mut kept.state);
    emit::owner(number, &kept.state);
}
