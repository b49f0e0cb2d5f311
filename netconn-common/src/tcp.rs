//! TCP: the state kept with each socket, and the records about it.

use bytemuck::{Pod, Zeroable};

use crate::{Address, Header, Owner, UNKNOWN_U32, UNKNOWN_U64, address};

/// States of a TCP socket, as in the kernel's `include/net/tcp_states.h`.
pub mod tcp_state {
    /// Connected.
    pub const ESTABLISHED: u8 = 1;
    /// A SYN was sent and is not answered yet.
    pub const SYN_SENT: u8 = 2;
    /// A connection is being accepted, or opened from both sides.
    pub const SYN_RECV: u8 = 3;
    /// Closed here first, the FIN is not acknowledged.
    pub const FIN_WAIT1: u8 = 4;
    /// Closed here first, the FIN is acknowledged.
    pub const FIN_WAIT2: u8 = 5;
    /// Both ends have closed; the kernel keeps the address pair for a minute.
    pub const TIME_WAIT: u8 = 6;
    /// Not connected.
    pub const CLOSE: u8 = 7;
    /// The peer has closed first, this end has not.
    pub const CLOSE_WAIT: u8 = 8;
    /// The peer has closed first, then this end; the FIN is not acknowledged.
    pub const LAST_ACK: u8 = 9;
    /// Waits for connections.
    pub const LISTEN: u8 = 10;
    /// Both ends closed at the same time.
    pub const CLOSING: u8 = 11;
    // 12 (`TCP_NEW_SYN_RECV`) is not here: it is the state of half-open minisocks, which are written as SYN_RECV.
}

/// Roles of a socket, in [`SocketState::role`].
pub mod role {
    // Kept with sockets: a number that changes its meaning raises `STATE_VERSION`. `Unreported` has room for four.
    /// The socket is older than netconn.
    pub const UNKNOWN: u32 = 0;
    /// The socket connects.
    pub const ACTIVE: u32 = 1;
    /// The socket came out of a listener.
    pub const PASSIVE: u32 = 2;
    /// The socket listens.
    pub const LISTENER: u32 = 3;
}

/// Bits of [`SocketState::marks`]: what has happened to a socket in this life.
pub mod mark {
    // Kept with sockets, see `STATE_VERSION`.
    /// This end sent the first FIN.
    pub const CLOSED_LOCALLY: u32 = 1;
    /// The peer sent the first FIN.
    pub const CLOSED_REMOTELY: u32 = 2;
    /// A process that held the socket's lock changed the state, not a packet or a timer.
    pub const IN_PROCESS: u32 = 4;
    /// `connect` was called, and no SYN has been sent yet.
    pub const UNSENT: u32 = 8;
    /// The socket is a further path (`MP_JOIN`) of an MPTCP connection.
    pub const SUBFLOW: u32 = 16;
    /// A record of this life has reached the ring, or a dump.
    pub const REPORTED: u32 = 32;
}

/// The part of a socket's state that its records carry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SocketState {
    /// The process that owns the socket.
    pub owner: Owner,
    /// Stands for the cookie where cookies cannot be read: unique until the next boot. 0: none is assigned yet.
    pub number: u64,
    /// When this life of the socket began: SYN sent, SYN answered, `listen` called. 0: before netconn.
    pub born_ns: u64,
    /// When the socket was connected; 0: not yet, or before netconn.
    pub established_ns: u64,
    /// Counts the lives of the socket, from 1: `connect` to `AF_UNSPEC` ends one. 0: there was no memory to count in, and
    /// nothing else here is known but what this record itself is about.
    pub generation: u32,
    /// Counts the records of this life, from 1.
    pub sequence: u32,
    /// One of [`role`].
    pub role: u32,
    /// Bits of [`mark`].
    pub marks: u32,
}

impl SocketState {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        owner: Owner::UNKNOWN,
        number: 0,
        born_ns: 0,
        established_ns: 0,
        generation: 0,
        sequence: 0,
        role: role::UNKNOWN,
        marks: 0,
    };
}

/// The destination of an attempt.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Destination {
    /// The address given to `connect`.
    pub address: Address,
    /// The port given to `connect`, host byte order.
    pub port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
}

/// Everything that is kept with a TCP socket for as long as it lives: the value of the maps
/// [`SOCKETS`](crate::map::SOCKETS) and [`SOCKETS_BY_ADDRESS`](crate::map::SOCKETS_BY_ADDRESS).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct TcpSocketState {
    /// The part that records carry.
    pub state: SocketState,
    /// With [`mark::UNSENT`]: the destination of the attempt, which the socket itself knows only once there is a route.
    pub destination: Destination,
    /// 1: a process has used a socket that came out of a listener, or the socket came out of none. Not a mark, because it
    /// is written without the socket's lock.
    pub used: u32,
    /// The ends of this life's connection, packed: remote IPv4 address, remote port, local port. A socket that has other
    /// ends when netconn begins has lived another life meanwhile. 0: not connected yet, or unknown.
    pub ends: u64,
}

impl TcpSocketState {
    /// The state of a socket when nothing is known.
    pub const UNKNOWN: Self = Self {
        state: SocketState::UNKNOWN,
        destination: Destination { address: address::UNSPECIFIED, port: 0, family: 0 },
        used: 0,
        ends: 0,
    };
}

/// Version of what outlives the daemon in pinned maps. Raise it whenever the meaning of a member of [`TcpSocketState`],
/// [`DatagramSocketState`](crate::DatagramSocketState), [`Flow`](crate::Flow) or [`FlowKey`](crate::FlowKey) changes,
/// so that no other version of netconn reads it as its own.
pub const STATE_VERSION: u32 = 2;

/// Lives of sockets without any record in the ring, in the map [`UNREPORTED`](crate::map::UNREPORTED): by [`role`],
/// first those that were attempts only, then those that were established.
pub type Unreported = [[u64; 2]; 4];

/// On each CPU: whether `inet_sock_set_state` runs, and how often an interrupt wanted to run it again meanwhile, which the
/// kernel does not allow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Nesting {
    /// 1 while the program runs.
    pub running: u64,
    /// Runs that the kernel did not allow and that the second program has done instead.
    pub done: u64,
}

/// The counters of a TCP connection; [`UNKNOWN_U64`] and [`UNKNOWN_U32`] where the kernel has none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Totals {
    /// Payload bytes sent, each counted once.
    pub bytes_sent: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Segments sent, all kinds.
    pub segments_sent: u32,
    /// Segments received, all kinds.
    pub segments_received: u32,
    /// Smoothed round-trip time in microseconds; 0: never measured.
    pub rtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
}

impl Totals {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        bytes_sent: UNKNOWN_U64,
        bytes_received: UNKNOWN_U64,
        segments_sent: UNKNOWN_U32,
        segments_received: UNKNOWN_U32,
        rtt_us: 0,
        retransmits: UNKNOWN_U32,
    };
}

/// A TCP socket changed its state, or (from `iter/tcp`, with both states the same) is in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct TcpRecord {
    /// Time and kind.
    pub header: Header,
    /// The socket's cookie, or where cookies cannot be read its [`SocketState::number`]; 0 for minisocks.
    pub socket: u64,
    /// The socket's state after this change.
    pub state: SocketState,
    /// The counters.
    pub totals: Totals,
    /// Inode of the network namespace, [`UNKNOWN_U32`] if it cannot be read.
    pub namespace: u32,
    /// The socket's pending error (`sk_err`), 0 or a positive errno.
    pub error: u32,
    /// Local address.
    pub local_address: Address,
    /// Remote address.
    pub remote_address: Address,
    /// Local port, host byte order; 0 if none is chosen yet.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// State before, one of [`tcp_state`].
    pub old_state: u8,
    /// State after, one of [`tcp_state`].
    pub new_state: u8,
    /// Index of the network device that the socket is bound to (`SO_BINDTODEVICE`, VRF), or over which its link-local address is
    /// reached; 0: none.
    pub device: u32,
    /// Zero.
    pub reserved: u32,
}

/// The byte counters and the state of a connection, from `iter/tcp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct CountersRecord {
    /// Time (0) and kind.
    pub header: Header,
    /// As [`TcpRecord::socket`].
    pub socket: u64,
    /// As [`Totals::bytes_sent`].
    pub bytes_sent: u64,
    /// As [`Totals::bytes_received`].
    pub bytes_received: u64,
    /// One of [`tcp_state`].
    pub state: u32,
    /// Zero.
    pub reserved: u32,
}

/// An attempt failed before anything was sent: there was no route, or the host's policy forbade it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct UnsentRecord {
    /// The attempt; both states are `CLOSE`, `error` is the errno of `connect`, or [`UNKNOWN_U32`].
    pub attempt: TcpRecord,
    /// The socket's mark (`SO_MARK`), by which routes are chosen.
    pub mark: u32,
    /// Zero.
    pub reserved: u32,
}
