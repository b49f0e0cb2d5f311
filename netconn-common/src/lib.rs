//! What netconn's eBPF programs and its daemon must agree on: the records in the ring buffers, the values of the maps, and
//! the members of kernel structures that the programs read.
//!
//! Everything that crosses the boundary is plain old data: `#[repr(C)]`, no padding, no `bool`, no enum. `bytemuck::Pod`
//! proves that at compile time.
#![no_std]

// In the order of dependency, which `cargo xtask tidy` checks.
pub mod address;
mod members;
mod record;
mod tcp;
mod datagram;
mod process;
pub mod map;
pub mod setting;
pub mod feature;

pub use address::Address;
pub use datagram::{
    BEGUN_BITS, DatagramSocketState, FLOWS_PER_SOCKET, FOLDED_FROM, Flow, FlowKey, FlowRecord, RefusedRecord,
    ReleasedRecord, UdpSocketRecord, datagram_mark, flow_mark,
};
pub use process::{CgroupRecord, ExecRecord, ExitRecord, ForkRecord, ImageFile, TaskRecord, exec};
pub use record::{FileRecord, Header, Owner, OwnerRecord, PacketSocketRecord, attribution, kind};
pub use tcp::{
    CountersRecord, Destination, Nesting, STATE_VERSION, SocketState, TcpRecord, TcpSocketState, Totals, Unreported,
    UnsentRecord, mark, role, tcp_state,
};

/// Stands for "unknown" in every integer of a record, so that 0 stays a value: all ones.
pub const UNKNOWN_U32: u32 = u32::MAX;
/// [`UNKNOWN_U32`] for 64 bits.
pub const UNKNOWN_U64: u64 = u64::MAX;

/// Offset of a structure member that the running kernel does not have. The verifier sees the constant and drops the
/// code that would read there.
pub const MISSING: u32 = u32::MAX;

/// `AF_INET` in `include/linux/socket.h`: IPv4.
pub const AF_INET: u16 = 2;
/// `AF_INET6` in `include/linux/socket.h`: IPv6.
pub const AF_INET6: u16 = 10;
/// `AF_PACKET` in `include/linux/socket.h`: whole frames to and from network devices.
pub const AF_PACKET: u16 = 17;
/// `AF_XDP` in `include/linux/socket.h`: frames taken from a device before the network stack sees them.
pub const AF_XDP: u16 = 44;

/// `IPPROTO_ICMP` in `include/uapi/linux/in.h`.
pub const IPPROTO_ICMP: u8 = 1;
/// `IPPROTO_TCP` in `include/uapi/linux/in.h`.
pub const IPPROTO_TCP: u8 = 6;
/// `IPPROTO_UDP` in `include/uapi/linux/in.h`.
pub const IPPROTO_UDP: u8 = 17;
/// `IPPROTO_ICMPV6` in `include/uapi/linux/in6.h`.
pub const IPPROTO_ICMPV6: u8 = 58;
