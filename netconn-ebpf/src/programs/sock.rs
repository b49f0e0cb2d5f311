//! Reads `struct sock`, `struct tcp_sock` and the sockets that programs on cgroups are given.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
    programs::SockAddrContext,
};
use netconn_common::{AF_INET, AF_INET6, IPPROTO_TCP, MISSING, Totals, UNKNOWN_U32, UNKNOWN_U64};

use crate::programs::kernel::{
    BUFFER_CONTROL, CONNECTION_PROTOCOL_DATA, EXTENDED_ERROR, HAS_PROBE_READ, HAS_SOCKET_COOKIE, INET_SOURCE_PORT,
    MPTCP_FIRST, NET_INODE, SOCK_COOKIE, SOCK_ERROR_QUEUE, SOCK_FLAGS, SOCK_LOCAL_V4, SOCK_LOCAL_V6, SOCK_LOCK_OWNED,
    SOCK_NET, SOCK_REMOTE_PORT, SOCK_REMOTE_V4, SOCK_REMOTE_V6, SUBFLOW_CONNECTION, TCP_BYTES_RECEIVED,
    TCP_BYTES_RETRANSMITTED, TCP_BYTES_SENT, TCP_IS_MPTCP, TCP_RETRANSMITS, TCP_SEGMENTS_RECEIVED, TCP_SEGMENTS_SENT,
    TCP_SMOOTHED_RTT, Typed, accessors, has, probe_member,
};

/// `IPPROTO_MPTCP` in `include/uapi/linux/in.h`.
const IPPROTO_MPTCP: u16 = 262;
/// Bit of `sk_flags` that `tcp_fin` sets when the peer's FIN has arrived (`SOCK_DONE`, the second of `enum sock_flags`
/// in `include/net/sock.h`).
const SOCK_DONE: u64 = 1 << 1;

/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6` in `include/uapi/linux/errqueue.h`.
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// A `struct sock` whose type the verifier knows.
#[derive(Clone, Copy)]
pub struct Sock(Typed);

/// A `struct tcp_sock` whose type the verifier knows: the same object as its [`Sock`], seen as its outermost type.
#[derive(Clone, Copy)]
pub struct TcpSock(Typed);

/// Both ends of a socket.
pub struct Ends {
    /// In two halves, see `address::of_halves`: a load takes eight bytes at most.
    pub local_address: [u64; 2],
    /// In two halves.
    pub remote_address: [u64; 2],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
}

impl TcpSock {
    /// Casts a socket; `None` if it is no full TCP socket (another protocol, or a minisock: half-open, TIME_WAIT).
    #[inline(always)]
    fn cast<T>(socket: *mut T) -> Option<Self> {
        // SAFETY: the helper takes any typed socket and returns null for those that are not full TCP sockets.
        let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
        (!tcp.is_null()).then_some(Self(Typed::new(tcp)))
    }

    /// Casts the socket that a program on cgroups is given; `None` if it is of another protocol.
    #[inline(always)]
    pub fn of_cgroup(socket: *mut bpf_sock) -> Option<Self> {
        if socket.is_null() { None } else { Self::cast(socket) }
    }

    /// The same socket as its innermost type.
    #[inline(always)]
    pub fn sock(self) -> Sock {
        Sock(self.0)
    }

    /// The address of the MPTCP connection of which this is a further path, not its first (`mptcp_subflow_ctx` and
    /// `struct mptcp_sock` in `net/mptcp/protocol.h`).
    #[inline(always)]
    pub fn joined(self) -> Option<u64> {
        if self.0.member(&TCP_IS_MPTCP, 0_u8) == 0 || !has(&HAS_PROBE_READ) {
            return None;
        }
        let context: u64 = self.0.member(&CONNECTION_PROTOCOL_DATA, 0);
        let connection: u64 = probe_member(context, &SUBFLOW_CONNECTION)?;
        let first: u64 = probe_member(connection, &MPTCP_FIRST)?;
        (first != 0 && first != self.0.address()).then_some(connection)
    }
}

impl Sock {
    /// Takes the argument of a tracepoint or function.
    #[inline(always)]
    pub fn new<T>(sock: *const T) -> Self {
        Self(Typed::new(sock))
    }

    accessors! {
        /// `AF_INET`, `AF_INET6` or another family.
        family: u16 = SOCK_FAMILY or 0;
        /// Protocol, as in the IP header; 262 for MPTCP.
        protocol: u16 = SOCK_PROTOCOL or 0;
        /// State, one of `netconn_common::tcp_state`.
        tcp_state: u8 = SOCK_STATE or 0;
        /// Local port, host byte order; 0 if none is chosen, or it was given back.
        bound_port: u16 = SOCK_LOCAL_PORT or 0;
        /// Pending error, 0 or a positive errno.
        error: u32 = SOCK_ERROR or 0;
        /// Error that the attempt will fail with unless it is answered, 0 or a positive errno.
        soft_error: u32 = SOCK_SOFT_ERROR or 0;
        /// Mark (`SO_MARK`).
        mark: u32 = SOCK_MARK or 0;
        /// Index of the network device that the socket is bound to; 0: none.
        device: u32 = SOCK_DEVICE or 0;
    }

    /// The errno of the first ICMP message in the queue of errors; 0 if there is none.
    #[inline(always)]
    pub fn queued_error(self) -> u32 {
        let offset = SOCK_ERROR_QUEUE.load();
        if [offset, BUFFER_CONTROL.load(), EXTENDED_ERROR.load()].contains(&MISSING) {
            return 0;
        }
        let first = self.0.follow(&SOCK_ERROR_QUEUE);
        // An empty queue points to itself (`__skb_queue_head_init` in include/linux/skbuff.h).
        if first.address() == self.0.address() + u64::from(offset) {
            return 0;
        }
        // `struct sock_extended_err`, include/uapi/linux/errqueue.h: the errno, then the origin in a byte.
        let error: u64 = first.control(&BUFFER_CONTROL, &EXTENDED_ERROR);
        if matches!((error >> 32) as u8, ORIGIN_ICMP | ORIGIN_ICMP6) { error as u32 } else { 0 }
    }

    /// Whether this is a TCP socket: `inet_sock_set_state` also reports MPTCP (262), SCTP (132) and DCCP (33), whose
    /// states mean other things.
    #[inline(always)]
    pub fn is_tcp(self) -> bool {
        self.protocol() == u16::from(IPPROTO_TCP)
    }

    /// Whether this is an MPTCP connection as a whole, which consists of several TCP sockets, its paths.
    #[inline(always)]
    pub fn is_mptcp(self) -> bool {
        self.protocol() == IPPROTO_MPTCP
    }

    /// Whether this is an IPv4 or IPv6 socket.
    #[inline(always)]
    pub fn is_inet(self) -> bool {
        matches!(self.family(), AF_INET | AF_INET6)
    }

    /// Whether the current task holds the socket's lock, so that it is the one that acts on it.
    #[inline(always)]
    pub fn is_owned(self) -> bool {
        self.0.member(&SOCK_LOCK_OWNED, 0_u32) != 0
    }

    /// Inode of the network namespace.
    #[inline(always)]
    pub fn namespace(self) -> u32 {
        self.0.follow(&SOCK_NET).member(&NET_INODE, UNKNOWN_U32)
    }

    /// The socket as its outermost type; `None` for minisocks (half-open, TIME_WAIT).
    #[inline(always)]
    pub fn tcp(self) -> Option<TcpSock> {
        TcpSock::cast(self.0.as_ptr::<u8>())
    }

    /// The socket's address, which is also that of its outermost type.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0.address()
    }

    /// The typed pointer, for helpers.
    #[inline(always)]
    pub fn as_ptr<T>(self) -> *mut T {
        self.0.as_ptr()
    }

    /// The cookie. Where programs cannot ask for it: the one that the socket has already, else 0.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        if has(&HAS_SOCKET_COOKIE) {
            // SAFETY: the helper takes any typed socket.
            return unsafe { bpf_get_socket_cookie(self.as_ptr()) };
        }
        self.0.member(&SOCK_COOKIE, 0)
    }

    /// The number that open files and dumps of datagram sockets have in common, see `UdpSocketRecord::file`.
    #[inline(always)]
    pub fn file_number(self) -> u64 {
        if has(&HAS_SOCKET_COOKIE) { self.cookie() } else { self.address() }
    }

    /// Both ends of a socket or minisock; `source_port` is the local port if the socket has none any more.
    #[inline(always)]
    pub fn ends(self, source_port: u16) -> Ends {
        let family = self.family();
        let (local_address, remote_address) = if family == AF_INET6 {
            (self.0.member(&SOCK_LOCAL_V6, [0; 2]), self.0.member(&SOCK_REMOTE_V6, [0; 2]))
        } else {
            let halves = |word: u32| [u64::from(word).to_le(), 0];
            (halves(self.0.member(&SOCK_LOCAL_V4, 0)), halves(self.0.member(&SOCK_REMOTE_V4, 0)))
        };
        let bound = self.bound_port();
        Ends {
            local_address,
            remote_address,
            local_port: if bound == 0 { source_port } else { bound },
            remote_port: u16::from_be(self.0.member(&SOCK_REMOTE_PORT, 0)),
            family,
        }
    }

    /// The ends of a connected socket, packed as in `TcpSocketState::ends`.
    #[inline(always)]
    pub fn packed_ends(self) -> u64 {
        // `skc_daddr` of IPv6 sockets is the same for all but IPv4-mapped addresses.
        let remote: u32 = self.0.member(&SOCK_REMOTE_V4, 0);
        let remote_port: u16 = self.0.member(&SOCK_REMOTE_PORT, 0);
        u64::from(remote) << 32 | u64::from(remote_port) << 16 | u64::from(self.bound_port())
    }
}

impl TcpSock {
    /// The port that segments are sent from, host byte order; stale before one is chosen.
    #[inline(always)]
    pub fn source_port(self) -> u16 {
        u16::from_be(self.0.member(&INET_SOURCE_PORT, 0))
    }

    /// Counters, payload only: the kernel counts the peer's FIN as a received byte, and retransmitted bytes twice.
    #[inline(always)]
    pub fn totals(self) -> Totals {
        let flags: u64 = self.0.member(&SOCK_FLAGS, 0);
        let sent = self.0.member(&TCP_BYTES_SENT, UNKNOWN_U64);
        let again: u64 = self.0.member(&TCP_BYTES_RETRANSMITTED, 0);
        let received = self.0.member(&TCP_BYTES_RECEIVED, UNKNOWN_U64);
        let fin = u64::from(flags & SOCK_DONE != 0 && received != UNKNOWN_U64 && received != 0);
        Totals {
            bytes_sent: if sent == UNKNOWN_U64 { sent } else { sent.wrapping_sub(again) },
            bytes_received: received.wrapping_sub(fin),
            segments_sent: self.0.member(&TCP_SEGMENTS_SENT, UNKNOWN_U32),
            segments_received: self.0.member(&TCP_SEGMENTS_RECEIVED, UNKNOWN_U32),
            // In eighths of a microsecond, `srtt_us` in include/linux/tcp.h.
            rtt_us: self.0.member(&TCP_SMOOTHED_RTT, 0_u32) >> 3,
            retransmits: self.0.member(&TCP_RETRANSMITS, UNKNOWN_U32),
        }
    }
}

/// The socket of a program on cgroup hooks with addresses; null if there is none.
#[inline(always)]
pub fn cgroup_socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}
