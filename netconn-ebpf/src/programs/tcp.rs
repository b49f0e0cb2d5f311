//! TCP: one record for each change of a connection's or listener's state.

use core::ffi::c_int;

use aya_ebpf::{
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};
use aya_log_ebpf::{debug, warn};
use netconn_common::{
    Owner, SocketState, TcpRecord, TcpSocketState, UNKNOWN_U32, attribution, kind, mark, role, setting, tcp_state,
};

use crate::programs::{
    attempt, emit, life,
    maps::{MPTCP_OWNERS, NESTING, SPARE, spare},
    settings,
    sock::{Sock, TcpSock},
    task,
    tcp_record::{self, Change},
};

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, `include/trace/events/sock.h`.
/// Runs under the socket's lock, in the process that acts on it or in an interrupt.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let Some(nesting) = NESTING.get_ptr_mut(0) else { return 0 };
    // SAFETY: not null, and this CPU's own; volatile, because an interrupt reads it.
    unsafe { (&raw mut (*nesting).running).write_volatile(1) };
    set_state(&ctx, spare::STATE);
    // SAFETY: still this CPU's own.
    unsafe { (&raw mut (*nesting).running).write_volatile(0) };
    0
}

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, `include/trace/events/sock.h`.
/// Does what the kernel does not let the program above do: when a packet interrupts that one and changes the state of
/// another socket, the kernel skips it (`__bpf_trace_run` in `kernel/trace/bpf_trace.c`), but not this one.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state_nested(ctx: BtfTracePointContext) -> i32 {
    let Some(nesting) = NESTING.get_ptr_mut(0) else { return 0 };
    // SAFETY: not null, and this CPU's own. Packets do not interrupt the handling of packets, so nobody else counts here.
    unsafe {
        if (&raw const (*nesting).running).read_volatile() == 0 {
            return 0;
        }
        (*nesting).done += 1;
    }
    set_state(&ctx, spare::NESTED);
    0
}

/// Handles a change of state; `spare` is the stand-in for a state for which there is no memory.
#[inline(always)]
fn set_state(ctx: &BtfTracePointContext, spare: u32) {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    let old = ctx.arg::<c_int>(1) as u8;
    let new = ctx.arg::<c_int>(2) as u8;
    // MPTCP reports changes to the same state.
    if old == new {
        return;
    }
    if !sock.is_tcp() {
        if sock.is_mptcp() {
            own_mptcp(sock, new);
        }
        return;
    }
    let now = emit::now();
    // The child has its listener's state by BPF_F_CLONE. Its addresses and cookie are not its own yet (before 6.18,
    // inet_csk_clone_lock in net/ipv4/inet_connection_sock.c), and it may still fail: no record.
    if (old, new) == (tcp_state::LISTEN, tcp_state::SYN_RECV) {
        // Where the state is found by the socket's address, it may be that of a socket that was there before.
        sock.forget();
        let kept = sock.state_or_new();
        if !kept.is_null() {
            // SAFETY: not null; the socket's lock makes this the only writer.
            unsafe { life::accept(&mut *kept, now) };
        }
        return;
    }
    // `tcp_connect` will report the attempt, with its port; its beginning is noted now.
    if new == tcp_state::SYN_SENT && settings::any(setting::CONNECT_HOOK) {
        let kept = sock.state_or_new();
        if !kept.is_null() {
            // SAFETY: not null; the socket's lock makes this the only writer.
            unsafe { life::begin(&mut *kept, new, now) };
        }
        return;
    }
    if change(sock, old, new, now, old == tcp_state::CLOSE, spare).is_none() {
        warn!(ctx, "not a full TCP socket: {} -> {}", old, new);
    }
    if new == tcp_state::CLOSE {
        debug!(ctx, "closed from state {}", old);
        sock.forget();
    }
}

/// `int tcp_connect(struct sock *sk)`, `net/ipv4/tcp_output.c`: the source port is chosen, the SYN is about to leave.
#[fentry(function = "tcp_connect")]
pub fn tcp_connect(ctx: FEntryContext) -> i32 {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    if sock.is_tcp() {
        change(sock, tcp_state::CLOSE, tcp_state::SYN_SENT, emit::now(), false, spare::CONNECT);
    }
    0
}

/// Remembers the owner of an MPTCP connection. It is no connection on the wire, but its further paths have the same owner.
#[inline(always)]
fn own_mptcp(sock: Sock, new: u8) {
    let key = sock.address();
    if new == tcp_state::CLOSE {
        // An error means that its owner was not known.
        let _ = MPTCP_OWNERS.remove(key);
    } else if new == tcp_state::SYN_SENT {
        // An error means that the table is full; the owner of further paths is then unknown.
        let _ = MPTCP_OWNERS.insert(key, task::current(attribution::CONNECT), 0);
    }
}

/// Marks a path of an MPTCP connection that is not its first, and gives it the connection's owner: a thread of the kernel
/// opens such paths.
#[inline(always)]
fn join(path: TcpSock, state: &mut SocketState) {
    let Some(connection) = path.joined() else { return };
    state.marks |= mark::SUBFLOW;
    // SAFETY: entries are not changed, only removed.
    if let Some(owner) = unsafe { MPTCP_OWNERS.get(connection) } {
        state.owner = *owner;
    } else if state.role == role::ACTIVE {
        state.owner = Owner::default();
    }
}

/// Reports a change of state, with which a life of the socket may begin; `None` if this is no full TCP socket.
#[inline(always)]
fn change(sock: Sock, old: u8, new: u8, now: u64, begins: bool, spare: u32) -> Option<()> {
    let tcp = sock.tcp()?;
    let kept = sock.state_or_new();
    let has_memory = !kept.is_null();
    let kept = if has_memory { kept } else { SPARE.get_ptr_mut(spare)? };
    // SAFETY: not null. The socket's lock makes this the only writer of what is kept with it, and a stand-in is this CPU's
    // own.
    let kept = unsafe { &mut *kept };
    if !has_memory {
        *kept = TcpSocketState::default();
    }
    if begins && new == tcp_state::LISTEN {
        let number = sock.number(&mut kept.state);
        attempt::end(sock, tcp, kept, number, UNKNOWN_U32);
    }
    if begins || (!has_memory && old == tcp_state::CLOSE) {
        life::begin(kept, new, now);
    }
    if old != tcp_state::CLOSE {
        life::accept_if_missed(kept, old, now);
    }
    let is_failure = (old, new) == (tcp_state::SYN_SENT, tcp_state::CLOSE) && sock.error() == 0;
    let rejection = if is_failure { attempt::rejection(sock) } else { 0 };
    let state = &mut kept.state;
    // Generation 0: there is no memory for the socket's state, and the daemon has to remember.
    state.generation = if has_memory { state.generation.max(1) } else { 0 };
    report(sock, tcp, state, (old, new, now), rejection);
    if new == tcp_state::ESTABLISHED {
        kept.ends = sock.packed_ends();
    }
    Some(())
}

/// Returns whether a process has a socket that came out of a listener. With Fast Open that may be before the handshake is
/// over.
#[inline(always)]
fn is_accepted(state: &SocketState) -> bool {
    !matches!(state.owner.how, attribution::LISTENER | attribution::UNKNOWN)
}

/// Notes a change of state in the socket's state, and writes the record; `rejection` is the errno if the socket has none itself.
#[inline(always)]
fn report(sock: Sock, tcp: TcpSock, state: &mut SocketState, (old, new, now): (u8, u8, u64), rejection: u32) {
    // A child that could not be put into the tables (tcp_v4_syn_recv_sock) was no connection for anybody.
    if new == tcp_state::CLOSE && old == tcp_state::SYN_RECV && state.role == role::PASSIVE && !is_accepted(state) {
        return;
    }
    state.sequence = state.sequence.wrapping_add(1);
    // A socket that changes its state has sent its SYN: the run that would have noted that may have been missed.
    state.marks &= !(mark::IN_PROCESS | mark::UNSENT);
    if sock.is_owned() {
        state.marks |= mark::IN_PROCESS;
    }
    match new {
        tcp_state::ESTABLISHED => state.established_ns = now,
        tcp_state::FIN_WAIT1 => state.marks |= mark::CLOSED_LOCALLY,
        tcp_state::CLOSE_WAIT => state.marks |= mark::CLOSED_REMOTELY,
        _ => {}
    }
    if matches!(new, tcp_state::SYN_SENT | tcp_state::ESTABLISHED) {
        join(tcp, state);
    }
    let number = sock.number(state);
    let is_reported = emit::record(kind::TCP, |record: *mut TcpRecord| {
        let change = Change { number, old, new, time_ns: now };
        // SAFETY: the ring gave room for one record.
        unsafe {
            tcp_record::write(record, sock, Some(tcp), state, change);
            if rejection != 0 {
                (*record).error = rejection;
            }
        }
    });
    if is_reported {
        state.marks |= mark::REPORTED;
    } else if new == tcp_state::CLOSE && state.marks & mark::REPORTED == 0 {
        let was_attempt = old == tcp_state::SYN_SENT || (old == tcp_state::SYN_RECV && state.role == role::ACTIVE);
        emit::unreported(state.role, !was_attempt);
    }
}
