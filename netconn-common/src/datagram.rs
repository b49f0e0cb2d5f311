//! Datagram sockets (UDP, ICMP, raw sockets of any protocol): the state kept with each, their flows, and their records.

use bytemuck::{Pod, Zeroable};

use crate::{Address, Header, Owner};

/// Bits of [`DatagramSocketState::marks`] and [`UdpSocketRecord::marks`].
pub mod datagram_mark {
    /// The socket was bound by `bind`, so it is there to receive.
    pub const BOUND: u32 = 1;
    /// A process was seen to send or receive with the socket.
    pub const USED: u32 = 2;
    /// The socket is connected: `remote_address` and `remote_port` are its peer.
    pub const CONNECTED: u32 = 4;
    /// A record has reported that the socket is connected.
    pub const REPORTED: u32 = 8;
    /// The record that the socket was bound was lost, and no dump has found the socket since.
    pub const BINDING_LOST: u32 = 16;
    /// The same for the record that it was connected.
    pub const PEER_LOST: u32 = 32;
}

/// What is kept with a datagram socket for as long as it lives: the value of the map
/// [`DATAGRAM_SOCKETS`](crate::map::DATAGRAM_SOCKETS).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct DatagramSocketState {
    /// The process that used the socket first, else the one that bound or created it.
    pub owner: Owner,
    /// When the socket was created or bound; 0: before netconn.
    pub born_ns: u64,
    /// Inode of the network namespace, [`UNKNOWN_U32`](crate::UNKNOWN_U32) if it cannot be read.
    pub namespace: u32,
    /// Bits of [`datagram_mark`].
    pub marks: u32,
    /// 1: a flow or record of the socket was reported, so its end must be reported as well. Not a mark, because packets set
    /// it in interrupts.
    pub counted: u16,
    /// 1: the kernel has reported an error of the socket (`inet_sk_error_report`) since it was connected last.
    pub refused: u16,
    /// Flows begun in the current period of a second, in the lower [`BEGUN_BITS`] bits; above them the lowest bits of the
    /// period's number.
    pub begun: u32,
}

/// Bits of [`DatagramSocketState::begun`] that count.
pub const BEGUN_BITS: u32 = 20;

/// A socket that has more than this part (a quarter) of the flows that there is room for has its further flows folded into
/// one: by the daemon, which sees how many the socket has, and by the kernel, when as many begin within a second.
pub const FOLDED_FROM: u32 = 4;

/// Name of the read-only global with the number of flows of one socket that may begin within a second.
pub const FLOWS_PER_SOCKET: &str = "FLOWS_PER_SOCKET";

/// Identity of a flow: a socket, the other end, and the protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FlowKey {
    /// The socket's cookie.
    pub socket: u64,
    /// Remote address; zeros in a folded flow.
    pub remote_address: Address,
    /// Remote port, host byte order; 0 for protocols without ports, and in a folded flow.
    pub remote_port: u16,
    /// Protocol of the packets, as in the IP header; 0 in a folded flow.
    pub protocol: u8,
    /// Version of IP, 4 or 6. 0: a folded flow, which stands for everything that its socket exchanges with ends that have no
    /// flow of their own.
    pub version: u8,
    /// Zero.
    pub reserved: u32,
}

/// Bits of [`Flow::marks`].
pub mod flow_mark {
    /// This host sent the first datagram; else the other end did.
    pub const OUTGOING: u8 = 1;
    /// The socket is a raw socket.
    pub const RAW: u8 = 2;
}

/// A flow's beginning and its counters so far: the value of the map [`FLOWS`](crate::map::FLOWS).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Flow {
    /// Time of the first datagram, `CLOCK_BOOTTIME` nanoseconds, with the number of the CPU in the lowest eight bits, so that
    /// no other flow of the socket has the same. 0: no datagram yet; the daemon wants the socket folded.
    pub first_ns: u64,
    /// Time of the last datagram.
    pub last_ns: u64,
    /// Payload bytes sent: for UDP and ICMP without their header of 8 bytes, for others everything behind the IP header.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Datagrams sent; each piece counts of those that the kernel cuts (`UDP_SEGMENT`).
    pub packets_sent: u64,
    /// Datagrams received.
    pub packets_received: u64,
    /// Owner of the socket at the first datagram.
    pub owner: Owner,
    /// Local address in the first datagram.
    pub local_address: Address,
    /// Inode of the network namespace, [`UNKNOWN_U32`](crate::UNKNOWN_U32) if it cannot be read.
    pub namespace: u32,
    /// Local port, host byte order; 0 for protocols without ports.
    pub local_port: u16,
    /// Identifier of the first ICMP echo request or reply; 0 otherwise.
    pub icmp_id: u16,
    /// Type of the first ICMP message; 0 otherwise.
    pub icmp_type: u8,
    /// Code of the first ICMP message; 0 otherwise.
    pub icmp_code: u8,
    /// Bits of [`flow_mark`].
    pub marks: u8,
    /// Protocol of the packets, as in the IP header.
    pub protocol: u8,
    /// Index of the network device that the socket is bound to or, of a link-local address, of the device of the first datagram;
    /// 0: none.
    pub device: u32,
}

/// A flow has begun.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct FlowRecord {
    /// Time of the first datagram, and kind.
    pub header: Header,
    /// The flow's identity.
    pub key: FlowKey,
    /// The flow with its first datagram.
    pub flow: Flow,
}

/// A UDP socket: it was bound or connected (from the ring), or it exists (from `iter/udp`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct UdpSocketRecord {
    /// Time and kind.
    pub header: Header,
    /// The socket's cookie; 0 where programs cannot ask for it (5.10) and the socket has none yet.
    pub socket: u64,
    /// Matches [`FileRecord::socket`](crate::FileRecord::socket): the socket's cookie, or where programs cannot ask for it
    /// its address in the kernel, which must not be shown to anybody. 0 in the ring.
    pub file: u64,
    /// What is kept with the socket.
    pub state: DatagramSocketState,
    /// Local address.
    pub local_address: Address,
    /// Remote address, if connected.
    pub remote_address: Address,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order, if connected.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// The socket's protocol.
    pub protocol: u16,
    /// Bits of [`datagram_mark`], those kept with the socket and [`CONNECTED`](datagram_mark::CONNECTED).
    pub marks: u32,
    /// As [`TcpRecord::device`](crate::TcpRecord::device).
    pub device: u32,
}

/// The kernel has reported an error of a UDP socket: an ICMP message says that the peer refuses or cannot be reached.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct RefusedRecord {
    /// Time and kind.
    pub header: Header,
    /// The socket's cookie.
    pub socket: u64,
    /// The peer, if the socket is connected; zeros if not.
    pub remote_address: Address,
    /// The errno that the program gets.
    pub error: u32,
    /// Port of the peer, host byte order.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
}

/// The last process that had a datagram socket open has closed it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ReleasedRecord {
    /// Time and kind.
    pub header: Header,
    /// The socket's cookie.
    pub socket: u64,
}
