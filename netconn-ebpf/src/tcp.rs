//! TCP: one record for each change of a connection's or listener's state.

use core::ffi::c_int;

use aya_ebpf::{
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};
use aya_log_ebpf::{debug, warn};
use netconn_common::{
    Owner, SocketState, TcpRecord, TcpSocketState, Totals, UNKNOWN_U32, attribution, kind, mark, role, setting,
    tcp_state,
};

use crate::{
    attempt, emit,
    kernel::{HAS_SOCKET_COOKIE, has},
    maps::{MPTCP_OWNERS, NESTING, SETTINGS, SPARE},
    sock::{Sock, TcpSock, made_up},
    task,
};

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, `include/trace/events/sock.h`.
/// Runs under the socket's lock, in the process that acts on it or in an interrupt.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let Some(nesting) = NESTING.get_ptr_mut(0) else { return 0 };
    // SAFETY: not null, and this CPU's own; volatile, because an interrupt looks at it.
    unsafe { (&raw mut (*nesting).running).write_volatile(1) };
    set_state(&ctx, 0);
    // SAFETY: as above.
    unsafe { (&raw mut (*nesting).running).write_volatile(0) };
    0
}

/// The same, for what the kernel does not let the program above do: when it is interrupted and a packet changes the
/// state of another socket, the kernel skips it (`__bpf_trace_run` in `kernel/trace/bpf_trace.c`), but not this one.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state_nested(ctx: BtfTracePointContext) -> i32 {
    let Some(nesting) = NESTING.get_ptr_mut(0) else { return 0 };
    // SAFETY: as above; packets do not interrupt the handling of packets, so nobody else counts here.
    unsafe {
        if (&raw const (*nesting).running).read_volatile() == 0 {
            return 0;
        }
        (*nesting).done += 1;
    }
    set_state(&ctx, 1);
    0
}

/// Handles a change of state; `nesting` is the number of the spare state to use.
#[inline(always)]
fn set_state(ctx: &BtfTracePointContext, nesting: u32) {
    let sock = Sock::new(ctx.arg::<*const u8>(0));
    let old = ctx.arg::<c_int>(1) as u8;
    let new = ctx.arg::<c_int>(2) as u8;
    // MPTCP reports changes to the same state.
    if old == new {
        return;
    }
    if !sock.is_tcp() {
        if sock.is_mptcp() {
            connection(sock, new);
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
            unsafe { accept(&mut *kept, now) };
        }
        return;
    }
    // `tcp_connect` will report it, with its port; that the attempt begins is noted now.
    if new == tcp_state::SYN_SENT && setting(setting::CONNECT_HOOK) {
        let kept = sock.state_or_new();
        if !kept.is_null() {
            // SAFETY: as above.
            unsafe { begin(&mut *kept, new, now) };
        }
        return;
    }
    if change(sock, old, new, now, old == tcp_state::CLOSE, nesting).is_none() {
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
        change(sock, tcp_state::CLOSE, tcp_state::SYN_SENT, emit::now(), false, 2);
    }
    0
}

/// An MPTCP connection as a whole is no connection on the wire, but its further paths belong to whom it belongs to.
#[inline(always)]
fn connection(sock: Sock, new: u8) {
    let key = sock.address();
    if new == tcp_state::CLOSE {
        // An error means that it was not ours to know.
        let _ = MPTCP_OWNERS.remove(key);
    } else if new == tcp_state::SYN_SENT {
        // An error means that the table is full; the owner of further paths is then not known.
        let _ = MPTCP_OWNERS.insert(key, task::current(attribution::CONNECT), 0);
    }
}

/// Marks a path of an MPTCP connection that is not its first. Such paths are opened by a thread of the kernel.
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

/// A new life of a socket begins, by the current process: it connects or listens.
#[inline(always)]
pub fn begin(kept: &mut TcpSocketState, new: u8, now: u64) {
    let state = &mut kept.state;
    state.born_ns = now;
    if new == tcp_state::SYN_SENT && state.marks & mark::UNSENT != 0 {
        // It began when `connect` was called, by the same process.
        state.marks = 0;
        return;
    }
    let is_listener = new == tcp_state::LISTEN;
    state.owner = task::current(if is_listener { attribution::LISTENER } else { attribution::CONNECT });
    state.established_ns = 0;
    state.generation = state.generation.wrapping_add(1);
    state.sequence = 0;
    state.role = if is_listener { role::LISTENER } else { role::ACTIVE };
    state.marks = 0;
    kept.used = u32::from(!is_listener);
    kept.ends = 0;
}

/// The first life of a socket that came out of a listener, whose owner it has inherited.
#[inline(always)]
fn accept(kept: &mut TcpSocketState, now: u64) {
    let state = &mut kept.state;
    if state.owner.tgid != 0 {
        state.owner.how = attribution::LISTENER;
    }
    // The number was the listener's. A made-up one is made now, while nobody else has the child: it may be accepted on
    // another CPU before it is ESTABLISHED here (inet_csk_complete_hashdance, net/ipv4/inet_connection_sock.c).
    state.number = 0;
    if !has(&HAS_SOCKET_COOKIE) {
        made_up(state);
    }
    state.born_ns = now;
    state.established_ns = 0;
    state.generation = 1;
    state.sequence = 0;
    state.role = role::PASSIVE;
    state.marks = 0;
    kept.used = 0;
    kept.ends = 0;
}

/// Makes up for a missed `LISTEN -> SYN_RECV`: what is not listening and has a listener's state has inherited it.
#[inline(always)]
pub fn be_child(kept: &mut TcpSocketState, current: u8, now: u64) {
    if kept.state.role == role::LISTENER && current != tcp_state::LISTEN {
        accept(kept, now);
    }
}

/// Reports a change of state, with which a life of the socket may begin; `None` if this is no full TCP socket.
#[inline(always)]
fn change(sock: Sock, old: u8, new: u8, now: u64, begins: bool, nesting: u32) -> Option<()> {
    let tcp = sock.tcp()?;
    let kept = sock.state_or_new();
    let has_memory = !kept.is_null();
    let kept = if has_memory { kept } else { SPARE.get_ptr_mut(nesting)? };
    // SAFETY: not null; the socket's lock makes this the only writer of what is kept with it, and what is spare is this
    // CPU's own.
    let kept = unsafe { &mut *kept };
    if !has_memory {
        *kept = TcpSocketState::default();
    }
    if begins && new == tcp_state::LISTEN {
        let number = sock.number(&mut kept.state);
        attempt::end(sock, tcp, kept, number, UNKNOWN_U32);
    }
    if begins || (!has_memory && old == tcp_state::CLOSE) {
        begin(kept, new, now);
    }
    if old != tcp_state::CLOSE {
        be_child(kept, old, now);
    }
    let state = &mut kept.state;
    // Life 0: the socket's own memory is exhausted, and the daemon has to remember.
    state.generation = if has_memory { state.generation.max(1) } else { 0 };
    report(sock, tcp, state, old, new, now);
    if new == tcp_state::ESTABLISHED {
        kept.ends = sock.connected();
    }
    Some(())
}

/// Whether a process has a socket that came out of a listener. With Fast Open that may be before the handshake is over.
#[inline(always)]
fn is_accepted(state: &SocketState) -> bool {
    !matches!(state.owner.how, attribution::LISTENER | attribution::UNKNOWN)
}

#[inline(always)]
fn report(sock: Sock, tcp: TcpSock, state: &mut SocketState, old: u8, new: u8, now: u64) {
    // A child that could not be put into the tables (tcp_v4_syn_recv_sock) was no connection for anybody.
    if new == tcp_state::CLOSE && old == tcp_state::SYN_RECV && state.role == role::PASSIVE && !is_accepted(state) {
        return;
    }
    state.sequence = state.sequence.wrapping_add(1);
    // Whatever changes has been sent: the run that would have noted it may have been missed.
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
    let is_told = emit::record(kind::TCP, |record: *mut TcpRecord| {
        // SAFETY: the ring gave room for one record.
        unsafe { fill(record, sock, tcp, number, state, old, new, now) }
    });
    if is_told {
        state.marks |= mark::REPORTED;
    } else if new == tcp_state::CLOSE && state.marks & mark::REPORTED == 0 {
        let was_attempt = old == tcp_state::SYN_SENT || (old == tcp_state::SYN_RECV && state.role == role::ACTIVE);
        emit::untold(state.role, !was_attempt);
    }
}

/// Writes every member of a record of the socket `number` that goes from `old` to `new`.
///
/// # Safety
///
/// `record` must be valid for writes; what it holds is not read.
#[inline(always)]
pub unsafe fn fill(
    record: *mut TcpRecord,
    sock: Sock,
    tcp: TcpSock,
    number: u64,
    state: &SocketState,
    old: u8,
    new: u8,
    now: u64,
) {
    let ends = sock.ends(sock.source_port(tcp));
    // SAFETY: the caller's contract.
    unsafe {
        (*record).header = emit::header(kind::TCP, now);
        (*record).socket = number;
        (*record).state = *state;
        (*record).totals = sock.totals(tcp);
        (*record).namespace = sock.namespace();
        (*record).error = sock.error();
        (&raw mut (*record).local_address).cast::<[u64; 2]>().write_unaligned(ends.local_address);
        (&raw mut (*record).remote_address).cast::<[u64; 2]>().write_unaligned(ends.remote_address);
        // inet_sport still has the port of the socket's life before.
        (*record).local_port = if new == tcp_state::SYN_SENT { sock.bound_port() } else { ends.local_port };
        (*record).remote_port = ends.remote_port;
        (*record).family = ends.family;
        (*record).old_state = old;
        (*record).new_state = new;
    }
}

/// Writes every member of a record of a minisock, which has no state of its own but its addresses.
///
/// # Safety
///
/// As for [`fill`].
#[inline(always)]
pub unsafe fn fill_minisock(record: *mut TcpRecord, sock: Sock, state: u8, now: u64) {
    let ends = sock.ends(0);
    // SAFETY: the caller's contract.
    unsafe {
        (*record).header = emit::header(kind::TCP, now);
        (*record).socket = 0;
        (*record).state = SocketState::default();
        (*record).totals = Totals::UNKNOWN;
        (*record).namespace = sock.namespace();
        (*record).error = 0;
        (&raw mut (*record).local_address).cast::<[u64; 2]>().write_unaligned(ends.local_address);
        (&raw mut (*record).remote_address).cast::<[u64; 2]>().write_unaligned(ends.remote_address);
        (*record).local_port = ends.local_port;
        (*record).remote_port = ends.remote_port;
        (*record).family = ends.family;
        (*record).old_state = state;
        (*record).new_state = state;
    }
}

/// Returns whether any of these bits of `netconn_common::setting` is set.
#[inline(always)]
pub fn setting(bits: u32) -> bool {
    SETTINGS.get(0).is_some_and(|set| set & bits != 0)
}

/// Returns whether all of these bits of `netconn_common::setting` are set.
#[inline(always)]
pub fn settings(bits: u32) -> bool {
    SETTINGS.get(0).is_some_and(|set| set & bits == bits)
}
