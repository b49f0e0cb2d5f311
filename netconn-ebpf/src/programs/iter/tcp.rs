//! `iter/tcp`: all TCP sockets, or the minisocks of half-open connections and of those that are over, or the counters of all
//! connections.

use aya_ebpf::helpers::generated::bpf_skc_to_tcp_timewait_sock;
use netconn_common::{
    CountersRecord, Owner, SocketState, TcpSocketState, attribution, kind, mark, role, setting, tcp_state,
};

use crate::programs::{
    emit,
    iter::{Meta, Reader},
    kernel::{HAS_SOCKET_COOKIE, TIME_WAIT_STATE, Typed, has},
    life,
    maps::{DUMP, spare},
    settings,
    sock::{Sock, TcpSock},
    storage,
    tcp_record::{self, Change},
};

/// `TCP_NEW_SYN_RECV` in `include/net/tcp_states.h`: the state of minisocks of half-open connections (`struct request_sock`), which
/// `ss` and `/proc/net/tcp` show as SYN_RECV.
const NEW_SYN_RECV: u8 = 12;

/// `struct bpf_iter__tcp`, `net/ipv4/tcp_ipv4.c`; aya-ebpf has no contexts of iterators.
#[repr(C)]
pub struct TcpContext {
    meta: *const Meta,
    sk_common: *const u8,
    uid: u32,
}

/// `struct bpf_iter__tcp`, `net/ipv4/tcp_ipv4.c`. Visits every socket and minisock of the reader's network namespace, and
/// writes what the settings ask for. From 6.1 on the socket is locked meanwhile, so that
/// the record is exactly the state after the socket's last event.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn dump_tcp(ctx: *const TcpContext) -> i32 {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let (sk, uid, reader) = unsafe { ((*ctx).sk_common, (*ctx).uid, Reader::of((*ctx).meta)) };
    if sk.is_null() {
        return 0; // the end
    }
    let sock = Sock::new(sk);
    match sock.tcp() {
        Some(tcp) if settings::any(setting::SCAN_COUNTERS) => write_counters(reader, tcp),
        // With minisocks alone, sockets are not wanted.
        Some(tcp) if !settings::any(setting::SCAN_TIME_WAIT) => write_socket(reader, tcp, uid),
        Some(_) => {}
        None => write_minisock(reader, sock),
    }
    0
}

/// Writes a minisock, if its kind is wanted: a half-open connection, or one that is over.
#[inline(always)]
fn write_minisock(reader: Reader, sock: Sock) {
    let state = if sock.tcp_state() == NEW_SYN_RECV {
        settings::any(setting::SCAN_HALF_OPEN).then_some(tcp_state::SYN_RECV)
    } else if settings::any(setting::SCAN_TIME_WAIT) {
        state_of_ended(sock)
    } else {
        None
    };
    let (Some(state), Some(record)) = (state, DUMP.get_ptr_mut(0)) else { return };
    let change = Change { number: 0, old: state, new: state, time_ns: emit::now() };
    // SAFETY: not null, and this CPU's own.
    unsafe {
        tcp_record::write(record, sock, None, &SocketState::UNKNOWN, change);
        reader.write(&*record);
    }
}

/// Returns the state of a minisock in TIME_WAIT, or in FIN_WAIT2 without a process.
#[inline(always)]
fn state_of_ended(sock: Sock) -> Option<u8> {
    // SAFETY: the helper takes any typed socket and returns null for those that are no minisocks of this kind.
    let minisock = unsafe { bpf_skc_to_tcp_timewait_sock(sock.as_ptr()) };
    (!minisock.is_null()).then(|| Typed::new(minisock).member(&TIME_WAIT_STATE, tcp_state::TIME_WAIT))
}

/// Writes a socket's state, and catches up with what has happened to it unseen. If no process is known, the record has the user of
/// the socket.
#[inline(always)]
fn write_socket(reader: Reader, tcp: TcpSock, uid: u32) {
    let Some(record) = DUMP.get_ptr_mut(0) else { return };
    let sock = tcp.sock();
    if !sock.is_tcp() {
        return;
    }
    let kept = if settings::keeps_nothing() { storage::spare(spare::DUMP_SOCKETS) } else { sock.state_or_new() };
    // Without memory the socket is identified by its cookie, where it has one.
    let has_memory = !kept.is_null();
    let kept = if has_memory || !has(&HAS_SOCKET_COOKIE) { kept } else { storage::spare(spare::DUMP_SOCKETS) };
    if kept.is_null() {
        return;
    }
    // SAFETY: not null. From 6.1 on the socket's lock makes this the only writer; a stand-in is this CPU's own.
    let kept = unsafe { &mut *kept };
    let now = sock.tcp_state();
    if settings::any(setting::FIRST_DUMP) {
        catch_up(kept, sock, now);
    } else {
        life::accept_if_missed(kept, now, emit::now());
    }
    let state = &mut kept.state;
    state.generation = if has_memory { state.generation.max(1) } else { 0 };
    if now == tcp_state::LISTEN {
        state.role = role::LISTENER;
    }
    // A dump may leave out what is half open, see `Table::end_dump`.
    if now != tcp_state::SYN_RECV {
        state.marks |= mark::REPORTED;
    }
    let number = sock.number(state);
    let change = Change { number, old: now, new: now, time_ns: emit::now() };
    // SAFETY: not null, and this CPU's own.
    unsafe {
        tcp_record::write(record, sock, Some(tcp), state, change);
        if state.owner.tgid == 0 {
            ((*record).state.owner.uid, (*record).state.owner.how) = (uid, attribution::USER);
        }
        reader.write(&*record);
    }
}

/// Writes the counters and the state of a connection.
#[inline(always)]
fn write_counters(reader: Reader, tcp: TcpSock) {
    let sock = tcp.sock();
    if !sock.is_tcp() {
        return;
    }
    let Some(socket) = sock.known_number() else { return };
    let totals = tcp.totals();
    reader.write(&CountersRecord {
        header: emit::header(kind::COUNTERS, 0),
        socket,
        bytes_sent: totals.bytes_sent,
        bytes_received: totals.bytes_received,
        state: u32::from(sock.tcp_state()),
        reserved: 0,
    });
}

/// Corrects the state that an earlier daemon kept with a socket by what has happened to the socket since, unseen.
#[inline(always)]
fn catch_up(kept: &mut TcpSocketState, sock: Sock, now: u8) {
    let was_listener = kept.state.role == role::LISTENER;
    let is_listener = now == tcp_state::LISTEN;
    if was_listener && !is_listener {
        // The socket was accepted meanwhile, at an unknown time.
        life::accept_if_missed(kept, now, 0);
    } else if kept.state.generation != 0 && is_another(kept, sock, now) {
        let state = &mut kept.state;
        state.owner = Owner::default();
        (state.born_ns, state.established_ns) = (0, 0);
        state.generation = state.generation.wrapping_add(1);
        (state.sequence, state.role) = (0, role::UNKNOWN);
        (kept.used, kept.ends) = (0, 0);
    }
    if !is_listener && now != tcp_state::SYN_SENT {
        kept.ends = sock.packed_ends();
    }
    let state = &mut kept.state;
    // Only the state tells of FINs: which end was first decides the reason of the close.
    state.marks &= mark::SUBFLOW | mark::CLOSED_LOCALLY | mark::CLOSED_REMOTELY;
    match now {
        tcp_state::FIN_WAIT1 | tcp_state::FIN_WAIT2 => state.marks |= mark::CLOSED_LOCALLY,
        tcp_state::CLOSE_WAIT | tcp_state::LAST_ACK => state.marks |= mark::CLOSED_REMOTELY,
        _ => {}
    }
}

/// Returns whether a socket has begun another life since something was kept with it.
#[inline(always)]
fn is_another(kept: &TcpSocketState, sock: Sock, now: u8) -> bool {
    let state = &kept.state;
    match now {
        tcp_state::LISTEN => state.role != role::LISTENER,
        tcp_state::SYN_SENT => state.established_ns != 0,
        _ => kept.ends != 0 && kept.ends != sock.packed_ends(),
    }
}
