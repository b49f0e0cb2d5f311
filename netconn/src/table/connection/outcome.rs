//! What errno values and last records say about how an attempt failed or a connection ended.

use netconn_common::{TcpRecord, mark, role, tcp_state};
use netconn_model::fact::{CloseReason, Failure};

/// Returns the failure that an errno of `connect` means; `None` if it has no name of its own.
pub fn failure_of(errno: u32) -> Option<Failure> {
    Some(match i32::try_from(errno).ok()? {
        libc::ECONNREFUSED => Failure::Refused,
        libc::ETIMEDOUT => Failure::TimedOut,
        libc::EHOSTUNREACH | libc::EHOSTDOWN => Failure::HostUnreachable,
        libc::ENETUNREACH | libc::ENETDOWN => Failure::NetUnreachable,
        libc::ECONNRESET => Failure::Reset,
        libc::EPERM | libc::EACCES => Failure::Blocked,
        // `ss -K` and BPF programs that destroy sockets (tcp_abort in net/ipv4/tcp.c).
        libc::ECONNABORTED => Failure::Aborted,
        _ => return None,
    })
}

/// Returns why an attempt failed, from its last record, and the errno, 0 if none.
pub(in crate::table) fn failure(record: &TcpRecord) -> (Failure, u32) {
    let errno = record.error;
    let failure = match errno {
        // tcp_v4_connect gave up before it had a port (`failure:` in net/ipv4/tcp_ipv4.c); connect returns EADDRNOTAVAIL.
        0 if record.local_port == 0 => return (Failure::NoPorts, libc::EADDRNOTAVAIL.unsigned_abs()),
        0 if record.state.marks & mark::IN_PROCESS != 0 => Failure::Aborted,
        errno => failure_of(errno).unwrap_or(Failure::Other),
    };
    (failure, errno)
}

/// Returns how a connection ended, from its last record and the marks of all its records, and the errno, 0 if none.
pub(in crate::table) fn close_reason(record: &TcpRecord, marks: u32) -> (CloseReason, u32) {
    let errno = record.error;
    match i32::try_from(errno).unwrap_or(i32::MAX) {
        // tcp_reset in net/ipv4/tcp_input.c: EPIPE when the peer had closed already.
        libc::ECONNRESET | libc::EPIPE => return (CloseReason::ResetByRemote, errno),
        libc::ETIMEDOUT => return (CloseReason::TimedOut, errno),
        libc::ECONNABORTED => return (CloseReason::ResetByLocal, errno),
        _ => {}
    }
    let closed_remotely = marks & mark::CLOSED_REMOTELY != 0;
    match record.old_state {
        tcp_state::FIN_WAIT2 | tcp_state::CLOSING | tcp_state::TIME_WAIT => (CloseReason::Local, 0),
        tcp_state::LAST_ACK if closed_remotely || record.state.role == role::UNKNOWN => (CloseReason::Remote, 0),
        tcp_state::LAST_ACK => (CloseReason::Unknown, 0),
        // Retransmission gave up with the error that ICMP had reported (tcp_write_err in net/ipv4/tcp_timer.c).
        _ if errno != 0 => (CloseReason::TimedOut, errno),
        // No FIN was exchanged: SO_LINGER 0, data left unread, AF_UNSPEC, a listener that closed before accepting.
        _ => (CloseReason::ResetByLocal, 0),
    }
}
