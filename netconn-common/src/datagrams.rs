//! Records and map values of sockets that send datagrams: UDP, ICMP, and raw sockets of any protocol.

use bytemuck::{Pod, Zeroable};

use crate::{Header, Owner};

/// `IPPROTO_ICMP` in `include/uapi/linux/in.h`.
pub const IPPROTO_ICMP: u8 = 1;
/// `IPPROTO_TCP` in `include/uapi/linux/in.h`.
pub const IPPROTO_TCP: u8 = 6;
/// `IPPROTO_UDP` in `include/uapi/linux/in.h`.
pub const IPPROTO_UDP: u8 = 17;
/// `IPPROTO_ICMPV6` in `include/uapi/linux/in6.h`.
pub const IPPROTO_ICMPV6: u8 = 58;

/// Bits of [`Datagrams::marks`] and [`DatagramRecord::marks`].
pub mod datagram {
    /// `bind` was called for it: it is there to receive.
    pub const BOUND: u32 = 1;
    /// Some process has been seen to send or receive with it.
    pub const USED: u32 = 2;
    /// It is connected: `remote_address` and `remote_port` say to whom.
    pub const CONNECTED: u32 = 4;
    /// That it is connected was told.
    pub const TOLD: u32 = 8;
}

/// What is kept with a socket of datagrams for as long as it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Datagrams {
    /// Whom it belongs to: who used it first, else who bound or made it.
    pub owner: Owner,
    /// When it was made or bound; 0: before netconn.
    pub born_ns: u64,
    /// Inode of its network namespace, [`UNKNOWN_U32`](crate::UNKNOWN_U32) if that cannot be read.
    pub namespace: u32,
    /// Bits of [`datagram`].
    pub marks: u32,
    /// 1: a flow of it was counted, so that whoever watches wants to know when it ends. Not a mark, because packets set it.
    pub counted: u32,
    /// Flows begun in a period of a second, in the lower [`BEGUN_BITS`] bits; above them the lowest bits of the period's number.
    pub begun: u32,
}

/// Bits of [`Datagrams::begun`] that count.
pub const BEGUN_BITS: u32 = 20;

/// A socket with more than this part of all flows that there may be has them folded: by the daemon, which sees how many it
/// has, and by the kernel, when as many begin within a second.
pub const FOLDED_FROM: u32 = 4;

/// Name of the global that says how many flows of one socket may begin within a second.
pub const FLOWS_PER_SOCKET: &str = "FLOWS_PER_SOCKET";

/// What one flow is: a socket and the other end. Everything else of the packets is the same, or does not matter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FlowKey {
    /// The socket's cookie.
    pub socket: u64,
    /// The other end's address; IPv4 in the first four bytes. Zeros in a folded flow.
    pub remote_address: [u8; 16],
    /// The other end's port, host byte order; 0 for protocols without, and in a folded flow.
    pub remote_port: u16,
    /// Of the packets, as in the IP header; 0 in a folded flow.
    pub protocol: u8,
    /// Version of IP, 4 or 6; 0: a folded flow, which stands for all that its socket exchanges with ends that have no flow
    /// of their own.
    pub version: u8,
    /// Zero.
    pub reserved: u32,
}

/// A flow so far: how it began, and what it has moved. The value of the map [`FLOWS`](crate::map::FLOWS).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Flow {
    /// When the first datagram was seen, `CLOCK_BOOTTIME` nanoseconds, with the number of the processor in the lowest six
    /// bits: no other flow of the socket has the same. 0: none was seen yet, of a socket that is to be folded.
    pub first_ns: u64,
    /// When the last one was.
    pub last_ns: u64,
    /// Payload bytes sent: of UDP and ICMP without their header of 8 bytes, of others all behind the IP header.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Datagrams sent; of those that the kernel cuts (`UDP_SEGMENT`) each piece.
    pub packets_sent: u64,
    /// Datagrams received.
    pub packets_received: u64,
    /// Whose the socket was at the first datagram.
    pub owner: Owner,
    /// This end's address in the first datagram; IPv4 in the first four bytes.
    pub local_address: [u8; 16],
    /// Inode of the network namespace, [`UNKNOWN_U32`](crate::UNKNOWN_U32) if that cannot be read.
    pub namespace: u32,
    /// This end's port, host byte order; 0 for protocols without.
    pub local_port: u16,
    /// Identifier of the first ICMP echo request or reply; 0 otherwise.
    pub icmp_id: u16,
    /// Type of the first ICMP message; 0 otherwise.
    pub icmp_type: u8,
    /// Code of the first ICMP message; 0 otherwise.
    pub icmp_code: u8,
    /// 1: this host sent the first datagram; 0: the other end.
    pub is_outgoing: u8,
    /// Of the packets, as in the IP header.
    pub protocol: u8,
    /// 1: of a raw socket.
    pub is_raw: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// A flow has begun.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct FlowRecord {
    /// Time of the first datagram, and kind.
    pub header: Header,
    /// Which flow.
    pub key: FlowKey,
    /// With its first datagram.
    pub flow: Flow,
}

/// A socket of datagrams: it was bound (from the ring), or it is there (from `iter/udp`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct DatagramRecord {
    /// Time and kind.
    pub header: Header,
    /// The socket's cookie; 0 where that cannot be asked for (5.10) and it has none yet.
    pub socket: u64,
    /// What [`FileRecord::socket`](crate::FileRecord::socket) says of it: its cookie, or where that cannot be asked for its
    /// address in the kernel, which nobody else is to see. 0 in the ring.
    pub file: u64,
    /// What is kept with it.
    pub kept: Datagrams,
    /// This end's address; IPv4 in the first four bytes.
    pub local_address: [u8; 16],
    /// The other end's address, if connected.
    pub remote_address: [u8; 16],
    /// This end's port, host byte order.
    pub local_port: u16,
    /// The other end's port, host byte order, if connected.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// The socket's protocol.
    pub protocol: u16,
    /// Bits of [`datagram`], as they are now.
    pub marks: u32,
    /// Zero.
    pub reserved: u32,
}

/// A socket of datagrams was closed by the last process that had it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ReleasedRecord {
    /// Time and kind.
    pub header: Header,
    /// The socket's cookie.
    pub socket: u64,
}
