//! What netconn's eBPF programs and its daemon must agree on: the records in the ring buffer, the
//! state kept with each socket, the members of kernel structures that are read.
//!
//! Everything that crosses the boundary is plain old data: `#[repr(C)]`, no padding, no `bool`, no
//! enum. `bytemuck::Pod` proves that at compile time.
#![no_std]

mod datagrams;
mod members;
mod record;

pub use datagrams::{
    BEGUN_BITS, DatagramRecord, Datagrams, FLOWS_PER_SOCKET, FOLDED_FROM, Flow, FlowKey, FlowRecord, IPPROTO_ICMP,
    IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, ReleasedRecord, datagram,
};
pub use record::{
    CgroupRecord, CountersRecord, Destination, ExecRecord, ExitRecord, FileRecord, ForkRecord, Header, KEPT_VERSION,
    Kept, Nesting, Owner, OwnerRecord, PacketRecord, SocketState, TcpRecord, Totals, UnsentRecord, Untold, attribution,
    exec, kind, mark, role,
};

/// Stands for "not known" in every integer of a record, so that 0 stays a value: all ones.
pub const UNKNOWN_U32: u32 = u32::MAX;
/// [`UNKNOWN_U32`] for 64 bits.
pub const UNKNOWN_U64: u64 = u64::MAX;

/// Offset of a structure member that the running kernel does not have. The verifier sees the constant and drops the
/// code that would read there.
pub const MISSING: u32 = u32::MAX;

/// Family of sockets that exchange whole frames with network devices (`AF_PACKET` in `include/linux/socket.h`).
pub const AF_PACKET: u16 = 17;
/// Family of sockets that take frames from a device before the network stack does (`AF_XDP`, as above).
pub const AF_XDP: u16 = 44;

/// See [`feature::SOCKET_STORAGE`].
pub const NO_MEMORY: u32 = 2;

/// States of a TCP socket, as in the kernel's `include/net/tcp_states.h`.
pub mod tcp_state {
    /// Connected.
    pub const ESTABLISHED: u8 = 1;
    /// A connection attempt waits for its answer.
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
}

/// Names of the maps of the eBPF object.
pub mod map {
    /// The ring buffer of records about sockets.
    pub const RECORDS: &str = "RECORDS";
    /// The ring buffer of records about processes and cgroups: a storm of them costs no connection.
    pub const PROCESSES: &str = "PROCESSES";
    /// [`crate::Kept`] in each socket's storage.
    pub const SOCKETS: &str = "SOCKETS";
    /// [`crate::Untold`] per CPU.
    pub const UNTOLD: &str = "UNTOLD";
    /// `[u64; kind::COUNT]` per CPU: records that found the ring full, by kind.
    pub const LOST: &str = "LOST";
    /// [`crate::Nesting`] per CPU.
    pub const NESTING: &str = "NESTING";
    /// [`crate::Kept`] by address of the socket, where socket storage cannot be used.
    pub const SOCKETS_BY_ADDRESS: &str = "SOCKETS_BY_ADDRESS";
    /// Start by process id: processes that have ended, and own sockets that others have open.
    pub const ENDED: &str = "ENDED";
    /// [`crate::Datagrams`] in each socket's storage.
    pub const DATAGRAMS: &str = "DATAGRAMS";
    /// [`crate::Flow`] by [`crate::FlowKey`].
    pub const FLOWS: &str = "FLOWS";
    /// [`crate::Flow`] by socket cookie: sockets that have more flows than there is room for, and what they exchange with
    /// ends that have no flow of their own.
    pub const FOLDED: &str = "FOLDED";
    /// `[u32; 1]`, its bits are [`crate::setting`]s that become known only while programs are attached.
    pub const SETTINGS: &str = "SETTINGS";
}

/// Bits of the value in the map [`map::SETTINGS`].
pub mod setting {
    /// `fentry/tcp_connect` is attached and reports attempts, with their source port.
    pub const CONNECT_HOOK: u32 = 1;
    /// `iter/task_file` gives attempts only: less to read when there are many connections.
    pub const SCAN_ATTEMPTS: u32 = 2;
    /// `iter/task_file` gives sockets only whose owner is not known for sure, and finds them one: see
    /// [`map::ENDED`].
    pub const SCAN_OWNERS: u32 = 4;
    /// `iter/tcp` gives the minisocks of connections that are over (TIME_WAIT), instead of sockets.
    pub const SCAN_TIME_WAIT: u32 = 8;
    /// `iter/tcp` gives how much each connection has moved, instead of sockets.
    pub const SCAN_COUNTERS: u32 = 16;
    /// `iter/tcp` is read for the first time: what is kept with sockets is an earlier daemon's.
    pub const FIRST_DUMP: u32 = 32;
    /// Sockets of datagrams are watched.
    pub const DATAGRAMS: u32 = 1024;
    /// Datagrams are not counted: that a socket of datagrams is connected is told.
    pub const SOCKETS_ONLY: u32 = 128;
    /// With the bit before: the tracepoints of sending and receiving are there, and tell it with the socket's own port.
    pub const TOLD_BY_USE: u32 = 256;
    /// Nobody stays to need it later: the iterators keep nothing with sockets, where these have cookies to be known by.
    pub const PASSING: u32 = 64;
    /// `iter/task_file` gives sockets that no hook sees, as [`crate::PacketRecord`]s, instead of all others.
    pub const SCAN_PACKET: u32 = 512;
}

/// Names of the read-only globals that say what the running kernel allows; 0 or 1.
pub mod feature {
    /// The current task can be had as a typed pointer (`bpf_get_current_task_btf`, from 5.11 on).
    pub const CURRENT_TASK: &str = "HAS_CURRENT_TASK";
    /// Socket storage can be used by tracing programs (`bpf_sk_storage_get_tracing`, from 5.11 on);
    /// [`NO_MEMORY`](super::NO_MEMORY): it could, but there is never memory for it, to test what is done then.
    pub const SOCKET_STORAGE: &str = "HAS_SOCKET_STORAGE";
    /// Socket cookies can be read by tracing programs (`bpf_get_socket_ptr_cookie`, from 5.12 on).
    pub const SOCKET_COOKIE: &str = "HAS_SOCKET_COOKIE";
    /// Number of parameters of `inet_csk_accept`: what it returns stands behind them.
    pub const ACCEPT_PARAMETERS: &str = "ACCEPT_PARAMETERS";
    /// A file's socket can be had (`bpf_sock_from_file`, from 5.11 on).
    pub const SOCK_FROM_FILE: &str = "HAS_SOCK_FROM_FILE";
    /// `bpf_probe_read_kernel` and its like are allowed: not under lockdown=confidentiality. The kernel forbids only the
    /// reading of its own memory then, but aya 0.14 replaces also `bpf_probe_read_user` by an older helper that reads
    /// both (`sanitize_functions` in aya-obj).
    pub const PROBE_READ: &str = "HAS_PROBE_READ";
}
