//! Writes a [`TcpRecord`].

use core::{mem::offset_of, ptr};

use netconn_common::{Address, SocketState, TcpRecord, Totals, kind, tcp_state};

use crate::programs::{
    emit,
    sock::{Sock, TcpSock},
};

/// The change that a record reports.
pub struct Change {
    /// Identifies the socket; 0 for minisocks.
    pub number: u64,
    pub old: u8,
    pub new: u8,
    pub time_ns: u64,
}

/// Writes every member of a record; `tcp` is the socket as its outermost type, `None` for minisocks, which have addresses
/// but neither counters nor errors.
///
/// # Safety
///
/// `record` must be valid for writes; its old content is not read.
#[inline(always)]
pub unsafe fn write(record: *mut TcpRecord, sock: Sock, tcp: Option<TcpSock>, state: &SocketState, change: Change) {
    let Change { number, old, new, time_ns } = change;
    let ends = sock.ends(tcp.map_or(0, TcpSock::source_port));
    // SAFETY: the caller's contract. Member by member, because a whole record would take half of the stack first.
    unsafe {
        (*record).header = emit::header(kind::TCP, time_ns);
        (*record).socket = number;
        // Said to be apart, because else the compiler calls `memmove`, of which the verifier looks at every round.
        ptr::copy_nonoverlapping(state, &raw mut (*record).state, 1);
        (*record).totals = tcp.map_or(Totals::UNKNOWN, TcpSock::totals);
        (*record).namespace = sock.namespace();
        (*record).error = if tcp.is_some() { sock.error() } else { 0 };
        write_address(&raw mut (*record).local_address, ends.local_address);
        write_address(&raw mut (*record).remote_address, ends.remote_address);
        // inet_sport still has the port of the socket's life before.
        (*record).local_port = if new == tcp_state::SYN_SENT { sock.bound_port() } else { ends.local_port };
        (*record).remote_port = ends.remote_port;
        (*record).family = ends.family;
        (*record).old_state = old;
        (*record).new_state = new;
        (*record).device = sock.device();
        (*record).reserved = 0;
    }
}

const _: () = assert!(offset_of!(TcpRecord, local_address) % 8 == 0 && offset_of!(TcpRecord, remote_address) % 8 == 0);

/// Writes an address of a record in two halves: bytes would be copied one by one.
///
/// # Safety
///
/// `slot` must be a member of a [`TcpRecord`] that is valid for writes.
#[inline(always)]
pub unsafe fn write_address(slot: *mut Address, halves: [u64; 2]) {
    // SAFETY: the caller's contract; these members are aligned to 8 bytes, see above.
    unsafe { slot.cast::<[u64; 2]>().write(halves) };
}
