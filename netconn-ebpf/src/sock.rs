//! Everything that reads `struct sock`, and the state that is kept with each socket.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_sk_storage_get, bpf_skc_to_tcp_sock},
};
use netconn_common::{
    AF_INET, AF_INET6, Destination, Owner, SocketState, TcpSocketState, Totals, UNKNOWN_U32, UNKNOWN_U64, feature,
};

use crate::{
    emit,
    kernel::{
        CONNECTION_PROTOCOL_DATA, HAS_PROBE_READ, HAS_SOCKET_COOKIE, HAS_SOCKET_STORAGE, INET_SOURCE_PORT, MPTCP_FIRST,
        NET_INODE, SOCK_COOKIE, SOCK_DEVICE, SOCK_ERROR, SOCK_FAMILY, SOCK_FLAGS, SOCK_LOCAL_PORT, SOCK_LOCAL_V4,
        SOCK_LOCAL_V6, SOCK_LOCK_OWNED, SOCK_MARK, SOCK_NET, SOCK_PROTOCOL, SOCK_REMOTE_PORT, SOCK_REMOTE_V4,
        SOCK_REMOTE_V6, SOCK_STATE, SUBFLOW_CONNECTION, TCP_BYTES_RECEIVED, TCP_BYTES_RETRANSMITTED, TCP_BYTES_SENT,
        TCP_IS_MPTCP, TCP_RETRANSMITS, TCP_SEGMENTS_RECEIVED, TCP_SEGMENTS_SENT, TCP_SMOOTHED_RTT, follow, has, member,
        probe,
    },
    maps::{SOCKETS, SOCKETS_BY_ADDRESS},
};

const IPPROTO_TCP: u16 = netconn_common::IPPROTO_TCP as u16;
/// `IPPROTO_MPTCP` in `include/uapi/linux/in.h`.
const IPPROTO_MPTCP: u16 = 262;
/// Bit of `sk_flags` that `tcp_fin` sets when the peer's FIN has arrived (`SOCK_DONE`, the second of `enum sock_flags`
/// in `include/net/sock.h`).
const SOCK_DONE: u64 = 1 << 1;

/// A `struct sock` whose type the verifier knows.
#[derive(Clone, Copy)]
pub struct Sock(*const u8);

/// A `struct tcp_sock` whose type the verifier knows: the same object, seen as its outermost type.
#[derive(Clone, Copy)]
pub struct TcpSock(*const u8);

/// This end and the other end.
pub struct Ends {
    /// IPv4 in the first four bytes.
    pub local_address: [u64; 2],
    /// IPv4 in the first four bytes.
    pub remote_address: [u64; 2],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
}

impl TcpSock {
    /// Takes a typed pointer to a `struct tcp_sock`.
    pub fn new(tcp: *const u8) -> Self {
        Self(tcp)
    }

    /// The same socket as its innermost type.
    pub fn sock(self) -> Sock {
        Sock(self.0)
    }

    /// Whether this is a path of an MPTCP connection.
    #[inline(always)]
    fn is_path(self) -> bool {
        // SAFETY: the type holds a typed pointer.
        unsafe { member::<u8>(self.0, &TCP_IS_MPTCP, 0) != 0 }
    }

    /// The address of the MPTCP connection of which this is a further path, not its first (`mptcp_subflow_ctx` and
    /// `struct mptcp_sock` in `net/mptcp/protocol.h`).
    #[inline(always)]
    pub fn joined(self) -> Option<u64> {
        if !self.is_path() || !has(&HAS_PROBE_READ) {
            return None;
        }
        // SAFETY: as above.
        let context: u64 = unsafe { member(self.0, &CONNECTION_PROTOCOL_DATA, 0) };
        let connection: u64 = probe(context + u64::from(SUBFLOW_CONNECTION.load()))?;
        let first: u64 = probe(connection + u64::from(MPTCP_FIRST.load()))?;
        (first != 0 && first != self.0 as u64).then_some(connection)
    }

    /// What a program on cgroups is given as a socket; `None` if it is of another protocol.
    #[inline(always)]
    pub fn of_cgroup(socket: *mut bpf_sock) -> Option<Self> {
        if socket.is_null() {
            return None;
        }
        // SAFETY: the helper takes any typed socket and gives null for those that are not full TCP sockets.
        let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
        (!tcp.is_null()).then_some(Self(tcp.cast()))
    }
}

impl Sock {
    /// Takes the argument of a tracepoint or function.
    pub fn new(sock: *const u8) -> Self {
        Self(sock)
    }

    /// Whether this is a TCP socket: `inet_sock_set_state` also reports MPTCP (262), SCTP (132) and DCCP (33), whose
    /// states mean other things.
    #[inline(always)]
    pub fn is_tcp(self) -> bool {
        // SAFETY: the type holds a typed pointer.
        unsafe { member::<u16>(self.0, &SOCK_PROTOCOL, IPPROTO_TCP) == IPPROTO_TCP }
    }

    /// The socket as TCP's own type; `None` for minisocks (half-open, TIME_WAIT).
    #[inline(always)]
    pub fn tcp(self) -> Option<TcpSock> {
        // SAFETY: the helper takes any typed socket and gives null for those that are not full TCP sockets.
        let tcp = unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) };
        (!tcp.is_null()).then_some(TcpSock(tcp.cast()))
    }

    /// Whether the current task holds the socket's lock, so that it is the one that acts on it.
    #[inline(always)]
    pub fn is_owned(self) -> bool {
        // SAFETY: as above.
        unsafe { member::<u32>(self.0, &SOCK_LOCK_OWNED, 0) != 0 }
    }

    /// Pending error, 0 or a positive errno.
    #[inline(always)]
    pub fn error(self) -> u32 {
        // SAFETY: as above.
        unsafe { member(self.0, &SOCK_ERROR, 0) }
    }

    /// Inode of the network namespace.
    #[inline(always)]
    pub fn namespace(self) -> u32 {
        // SAFETY: as above.
        unsafe { member(follow(self.0, &SOCK_NET), &NET_INODE, UNKNOWN_U32) }
    }

    /// A number that no other socket of this boot has: the socket's cookie, or one that is kept in its state.
    #[inline(always)]
    pub fn number(self, state: &mut SocketState) -> u64 {
        if has(&HAS_SOCKET_COOKIE) {
            // SAFETY: the helper takes any typed socket.
            return unsafe { bpf_get_socket_cookie(self.0.cast_mut().cast()) };
        }
        made_up(state)
    }

    /// The number, if the socket has one.
    #[inline(always)]
    pub fn known_number(self) -> Option<u64> {
        if has(&HAS_SOCKET_COOKIE) {
            // SAFETY: the helper takes any typed socket.
            return Some(unsafe { bpf_get_socket_cookie(self.0.cast_mut().cast()) });
        }
        let kept = self.state();
        // SAFETY: checked.
        let number = if kept.is_null() { 0 } else { unsafe { (*kept).state.number } };
        (number != 0).then_some(number)
    }

    /// The cookie; where it cannot be asked for, the one that the socket has been given already, else 0.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        if has(&HAS_SOCKET_COOKIE) {
            // SAFETY: the helper takes any typed socket.
            return unsafe { bpf_get_socket_cookie(self.0.cast_mut().cast()) };
        }
        // SAFETY: as above.
        unsafe { member(self.0, &SOCK_COOKIE, 0) }
    }

    /// What open files and dumps of sockets of datagrams have in common, see `UdpSocketRecord::file`.
    #[inline(always)]
    pub fn file_number(self) -> u64 {
        if has(&HAS_SOCKET_COOKIE) { self.cookie() } else { self.address() }
    }

    /// Protocol, as in the IP header.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        // SAFETY: as above.
        unsafe { member(self.0, &SOCK_PROTOCOL, 0) }
    }

    /// The same in a program on cgroups, whose context stands for the socket.
    #[inline(always)]
    pub fn number_in_cgroup(self, context: *mut c_void, state: &mut SocketState) -> u64 {
        if has(&HAS_SOCKET_COOKIE) {
            // SAFETY: the helper takes the context of programs on cgroups.
            return unsafe { bpf_get_socket_cookie(context) };
        }
        made_up(state)
    }

    /// Addresses and ports of a socket or minisock.
    #[inline(always)]
    pub fn ends(self, source_port: u16) -> Ends {
        // SAFETY: as above; addresses of IPv6 are read in two halves, because a load may take eight bytes at most.
        unsafe {
            let family: u16 = member(self.0, &SOCK_FAMILY, 0);
            let (local_address, remote_address) = if family == AF_INET6 {
                (member(self.0, &SOCK_LOCAL_V6, [0; 2]), member(self.0, &SOCK_REMOTE_V6, [0; 2]))
            } else {
                let local: u32 = member(self.0, &SOCK_LOCAL_V4, 0);
                let remote: u32 = member(self.0, &SOCK_REMOTE_V4, 0);
                ([u64::from(local).to_le(), 0], [u64::from(remote).to_le(), 0])
            };
            // 0 after the port was given back.
            let bound: u16 = member(self.0, &SOCK_LOCAL_PORT, 0);
            let remote_port: u16 = member(self.0, &SOCK_REMOTE_PORT, 0);
            Ends {
                local_address,
                remote_address,
                local_port: if bound == 0 { source_port } else { bound },
                remote_port: u16::from_be(remote_port),
                family,
            }
        }
    }

    /// What [`TcpSocketState::ends`] says of a connected socket.
    #[inline(always)]
    pub fn connected(self) -> u64 {
        // SAFETY: as above; `skc_daddr` of IPv6 sockets is the same for all but IPv4-mapped addresses.
        unsafe {
            let remote: u32 = member(self.0, &SOCK_REMOTE_V4, 0);
            let remote_port: u16 = member(self.0, &SOCK_REMOTE_PORT, 0);
            u64::from(remote) << 32 | u64::from(remote_port) << 16 | u64::from(self.bound_port())
        }
    }

    /// The port that segments are sent from, host byte order; stale before one is chosen.
    #[inline(always)]
    pub fn source_port(self, tcp: TcpSock) -> u16 {
        // SAFETY: as above.
        u16::from_be(unsafe { member(tcp.0, &INET_SOURCE_PORT, 0) })
    }

    /// State, one of `netconn_common::tcp_state`.
    #[inline(always)]
    pub fn tcp_state(self) -> u8 {
        // SAFETY: as above.
        unsafe { member(self.0, &SOCK_STATE, 0) }
    }

    /// Whether this is a socket of IPv4 or IPv6.
    #[inline(always)]
    pub fn is_inet(self) -> bool {
        // SAFETY: as above.
        matches!(unsafe { member::<u16>(self.0, &SOCK_FAMILY, 0) }, AF_INET | AF_INET6)
    }

    /// The port this socket is bound to, 0 when none is chosen.
    #[inline(always)]
    pub fn bound_port(self) -> u16 {
        // SAFETY: as above.
        unsafe { member(self.0, &SOCK_LOCAL_PORT, 0) }
    }

    /// Payload bytes sent and received, see [`Self::totals`].
    #[inline(always)]
    pub fn moved(self, tcp: TcpSock) -> (u64, u64) {
        let totals = self.totals(tcp);
        (totals.bytes_sent, totals.bytes_received)
    }

    /// Counters, payload only: the kernel counts the peer's FIN as a received byte, and what was sent again twice.
    #[inline(always)]
    pub fn totals(self, tcp: TcpSock) -> Totals {
        // SAFETY: as above.
        unsafe {
            let flags: u64 = member(self.0, &SOCK_FLAGS, 0);
            let sent: u64 = member(tcp.0, &TCP_BYTES_SENT, UNKNOWN_U64);
            let again: u64 = member(tcp.0, &TCP_BYTES_RETRANSMITTED, 0);
            let received: u64 = member(tcp.0, &TCP_BYTES_RECEIVED, UNKNOWN_U64);
            let fin = u64::from(flags & SOCK_DONE != 0 && received != UNKNOWN_U64 && received != 0);
            Totals {
                bytes_sent: if sent == UNKNOWN_U64 { sent } else { sent.wrapping_sub(again) },
                bytes_received: received.wrapping_sub(fin),
                segments_sent: member(tcp.0, &TCP_SEGMENTS_SENT, UNKNOWN_U32),
                segments_received: member(tcp.0, &TCP_SEGMENTS_RECEIVED, UNKNOWN_U32),
                // In eighths of a microsecond, `srtt_us` in include/linux/tcp.h.
                rtt_us: member::<u32>(tcp.0, &TCP_SMOOTHED_RTT, 0) >> 3,
                retransmits: member(tcp.0, &TCP_RETRANSMITS, UNKNOWN_U32),
            }
        }
    }

    /// The socket's mark (`SO_MARK`).
    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: as above.
        unsafe { member(self.0, &SOCK_MARK, 0) }
    }

    /// Index of the network device that the socket is bound to; 0: none.
    #[inline(always)]
    pub fn device(self) -> u32 {
        // SAFETY: as above.
        unsafe { member(self.0, &SOCK_DEVICE, 0) }
    }

    /// The socket's address, which is also that of its outermost type.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Whether this is an MPTCP connection as a whole, which its paths make up.
    #[inline(always)]
    pub fn is_mptcp(self) -> bool {
        // SAFETY: as above.
        unsafe { member::<u16>(self.0, &SOCK_PROTOCOL, 0) == IPPROTO_MPTCP }
    }

    /// What is kept with this socket; null if there is nothing.
    #[inline(always)]
    pub fn state(self) -> *mut TcpSocketState {
        if has(&HAS_SOCKET_STORAGE) {
            self.storage(0)
        } else {
            SOCKETS_BY_ADDRESS.get_ptr_mut(self.0 as u64).unwrap_or(ptr::null_mut())
        }
    }

    /// What is kept with this socket, made if there is nothing; null if there is no room for it.
    #[inline(always)]
    pub fn state_or_new(self) -> *mut TcpSocketState {
        if has(&HAS_SOCKET_STORAGE) {
            return self.storage(BPF_SK_STORAGE_GET_F_CREATE);
        }
        let key = self.0 as u64;
        if let Some(state) = SOCKETS_BY_ADDRESS.get_ptr_mut(key) {
            return state;
        }
        // An error means that the table is full; the look-up below then says so.
        let _ = SOCKETS_BY_ADDRESS.insert(key, NEW, 0);
        SOCKETS_BY_ADDRESS.get_ptr_mut(key).unwrap_or(ptr::null_mut())
    }

    /// Forgets the state of a socket that has ended. Socket storage does that by itself when the socket is freed, and
    /// must keep it until then: the same socket may be connected again.
    #[inline(always)]
    pub fn forget(self) {
        if !has(&HAS_SOCKET_STORAGE) {
            let _ = SOCKETS_BY_ADDRESS.remove(self.0 as u64);
        }
    }

    #[inline(always)]
    fn storage(self, flags: u32) -> *mut TcpSocketState {
        if HAS_SOCKET_STORAGE.load() == feature::NO_MEMORY {
            return ptr::null_mut();
        }
        // SAFETY: the helper takes any typed full socket, which is what tracepoints of TCP give; the map's value is a
        // TcpSocketState.
        unsafe {
            bpf_sk_storage_get(
                (&raw const SOCKETS).cast_mut().cast(),
                self.0.cast_mut().cast(),
                ptr::null_mut(),
                u64::from(flags),
            )
            .cast()
        }
    }
}

/// A number that no other socket of this boot has, where cookies cannot be read.
#[inline(always)]
pub fn made_up(state: &mut SocketState) -> u64 {
    if state.number == 0 {
        // Two CPUs may see the same nanosecond, one does not. The time lasts for two years of uptime.
        // SAFETY: the helper has no preconditions.
        state.number = emit::now() << 8 | u64::from(unsafe { bpf_get_smp_processor_id() } & 255);
    }
    state.number
}

/// Lives in .rodata: a copy on the stack would take a fifth of it.
static NEW: TcpSocketState = TcpSocketState {
    state: SocketState {
        owner: Owner { start_ns: 0, cgroup: 0, tgid: 0, tid: 0, uid: 0, how: 0, comm: [0; 16] },
        number: 0,
        born_ns: 0,
        established_ns: 0,
        generation: 0,
        sequence: 0,
        role: 0,
        marks: 0,
    },
    destination: Destination { address: [0; 16], port: 0, family: 0 },
    used: 0,
    ends: 0,
};
