//! The owner of an accepted connection: not the packet that completed it, but the process that accepts it, and the one that
//! uses it when it was passed on. Until then a child has its listener's owner.

use core::ffi::c_int;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_LISTEN_CB},
    macros::{btf_tracepoint, cgroup_sock_addr, fexit, sock_ops},
    programs::{BtfTracePointContext, FExitContext, SockAddrContext, SockOpsContext},
};
use netconn_common::{Owner, SocketState, attribution, role, tcp_state};

use crate::programs::{
    datagram, emit,
    kernel::{ACCEPT_PARAMETERS, context},
    life,
    maps::SOCKETS_BY_ADDRESS,
    sock::{Sock, TcpSock, cgroup_socket},
    storage::tcp_storage,
    task,
};

/// `struct bpf_sock_ops`, `include/uapi/linux/bpf.h`. Runs after a socket has begun to listen, and before a child's state
/// becomes ESTABLISHED (`tcp_call_bpf` in `include/net/tcp.h`).
///
/// Lets children inherit their listener's owner where tracing programs cannot use socket storage (5.10): programs on cgroups
/// can, and the kernel clones the storage with the socket.
#[sock_ops]
pub fn inherit(ctx: SockOpsContext) -> u32 {
    let operation = ctx.op();
    if operation != BPF_SOCK_OPS_TCP_LISTEN_CB && operation != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        return 1;
    }
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    let Some(tcp) = TcpSock::of_cgroup(socket) else { return 1 };
    let sock = tcp.sock();
    if operation == BPF_SOCK_OPS_TCP_LISTEN_CB {
        let heritage = tcp_storage(socket.cast(), true);
        if !heritage.is_null() {
            // Children inherit the place of their listener's state, not its owner, which may change.
            // SAFETY: not null.
            unsafe { (*heritage).state.number = sock.address() };
        }
        return 1;
    }
    let (kept, heritage) = (sock.state_or_new(), tcp_storage(socket.cast(), false));
    if kept.is_null() || heritage.is_null() {
        return 1;
    }
    // SAFETY: not null.
    let (state, listener) = unsafe { (&mut (*kept).state, (*heritage).state.number) };
    if state.role == role::PASSIVE
        && state.owner.tgid == 0
        && let Some(listener) = SOCKETS_BY_ADDRESS.get_ptr(listener)
    {
        // SAFETY: a pointer to a value of the map.
        state.owner = Owner { how: attribution::LISTENER, ..unsafe { (*listener).state.owner } };
    }
    1
}

/// `struct sock *inet_csk_accept(…)`, `net/ipv4/inet_connection_sock.c`: four parameters in 6.1, two in 6.12.
#[fexit(function = "inet_csk_accept")]
pub fn inet_csk_accept(ctx: FExitContext) -> i32 {
    let sock = returned(&ctx);
    if !sock.is_null() {
        accepted(Sock::new(sock), None);
    }
    0
}

/// Loads the return value, which stands behind the parameters.
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

/// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`. `accept` asks for the peer's name if its caller wants it (`do_accept`
/// in `net/socket.c`); so does `getpeername`.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    asked(&ctx)
}

/// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`. The same over IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    asked(&ctx)
}

#[inline(always)]
fn asked(ctx: &SockAddrContext) -> i32 {
    if let Some(tcp) = TcpSock::of_cgroup(cgroup_socket(ctx)) {
        accepted(tcp.sock(), Some(ctx));
    }
    1 // allowed
}

/// Makes the current process the owner of a connection that it has accepted or (`asks`, the context of a program on cgroups)
/// asks for its peer.
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
        life::accept_if_missed(kept, tcp_state::ESTABLISHED, emit::now());
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

/// `TP_PROTO(struct sock *sk)`, `include/trace/events/tcp.h`: something was received, by the current task unless the kernel
/// itself reads (kTLS, KCM, sockmap).
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

/// Returns whether a socket came out of a listener. Of those older than netconn, only those that nobody has open wait to be
/// accepted.
#[inline(always)]
fn may_be_accepted(state: &SocketState) -> bool {
    state.role == role::PASSIVE || (state.role == role::UNKNOWN && state.owner.tgid == 0)
}

/// Notes that the current process uses a connection: the first process that uses an accepted one owns it from then on.
#[inline(always)]
fn used(sock: Sock, how: u32) {
    let kept = sock.state();
    if kept.is_null() {
        return;
    }
    // SAFETY: not null. The owner is written without the socket's lock, as in `accepted`.
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
