//! The lives of a TCP socket: one begins with `connect`, `listen`, or when the socket comes out of a listener.

use netconn_common::{TcpSocketState, attribution, mark, role, tcp_state};

use crate::programs::{
    kernel::{HAS_SOCKET_COOKIE, has},
    storage::made_up,
    task,
};

/// Begins a new life: the current process connects or listens.
#[inline(always)]
pub fn begin(kept: &mut TcpSocketState, new: u8, now: u64) {
    let state = &mut kept.state;
    state.born_ns = now;
    if new == tcp_state::SYN_SENT && state.marks & mark::UNSENT != 0 {
        // This life began when `connect` was called, by the same process.
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

/// Begins the first life of a socket that came out of a listener, and has inherited the listener's state.
#[inline(always)]
pub fn accept(kept: &mut TcpSocketState, now: u64) {
    let state = &mut kept.state;
    if state.owner.tgid != 0 {
        state.owner.how = attribution::LISTENER;
    }
    // The number was the listener's. Where it is made up, that happens now, while nobody else has the child: it may be
    // accepted on another CPU before it is ESTABLISHED here (inet_csk_complete_hashdance, net/ipv4/inet_connection_sock.c).
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

/// Makes up for a missed `LISTEN -> SYN_RECV`: a socket that does not listen but has a listener's state has inherited it.
#[inline(always)]
pub fn accept_if_missed(kept: &mut TcpSocketState, current: u8, now: u64) {
    if kept.state.role == role::LISTENER && current != tcp_state::LISTEN {
        accept(kept, now);
    }
}
