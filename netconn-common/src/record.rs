//! What all records share, and the records about a socket's owner.

use bytemuck::{Pod, Zeroable};

use crate::UNKNOWN_U32;

/// Kinds of records, in [`Header::kind`].
pub mod kind {
    /// A [`TcpRecord`](crate::TcpRecord): a TCP socket changed its state.
    pub const TCP: u32 = 1;
    /// An [`ExecRecord`](crate::ExecRecord): a process runs a new program.
    pub const EXEC: u32 = 2;
    /// A [`ForkRecord`](crate::ForkRecord): a process was born.
    pub const FORK: u32 = 3;
    /// An [`ExitRecord`](crate::ExitRecord): the last thread of a process has ended.
    pub const EXIT: u32 = 4;
    /// A [`CgroupRecord`](crate::CgroupRecord): a cgroup was created.
    pub const CGROUP: u32 = 5;
    /// An [`OwnerRecord`](crate::OwnerRecord): a socket has another owner, or more is known of the same one.
    pub const OWNER: u32 = 6;
    /// An [`UnsentRecord`](crate::UnsentRecord): an attempt failed before anything was sent.
    pub const UNSENT: u32 = 7;
    /// A [`CountersRecord`](crate::CountersRecord); never in a ring, only from `iter/tcp`.
    pub const COUNTERS: u32 = 8;
    /// A [`FlowRecord`](crate::FlowRecord): the first datagram of a flow.
    pub const FLOW: u32 = 9;
    /// A [`UdpSocketRecord`](crate::UdpSocketRecord): a UDP socket was bound or connected.
    pub const UDP_SOCKET: u32 = 10;
    /// A [`ReleasedRecord`](crate::ReleasedRecord): a datagram socket was closed.
    pub const RELEASED: u32 = 11;
    /// Not a record but a counter in the table of lost records: datagrams that were not counted, because there was room
    /// neither for their flow nor for a folded one.
    pub const UNCOUNTED: u32 = 12;
    /// A [`RefusedRecord`](crate::RefusedRecord): the peer of a UDP socket refuses its datagrams.
    pub const REFUSED: u32 = 13;
    /// One more than the highest kind: the length of the table of lost records.
    pub const COUNT: u32 = 14;
}

/// How the owner of a socket is known, in [`Owner::how`]; higher numbers are not better.
pub mod attribution {
    // Owners are kept with sockets and outlive the daemon: if a number changes its meaning, raise `STATE_VERSION`.
    /// The owner is unknown.
    pub const UNKNOWN: u32 = 0;
    /// The process called `connect`.
    pub const CONNECT: u32 = 1;
    /// The process called `accept`, or was the first to ask an incoming connection for its peer.
    pub const ACCEPT: u32 = 2;
    /// The process was the first to send.
    pub const SEND: u32 = 3;
    /// The process was the first to receive.
    pub const RECEIVE: u32 = 4;
    /// The process called `listen` on the socket that the connection came through, or bound the UDP socket.
    pub const LISTENER: u32 = 5;
    /// A scan of open files found the process.
    pub const SCAN: u32 = 6;
    /// The process created the datagram socket, and nobody was seen to use it.
    pub const CREATE: u32 = 7;
    /// No process is known, but the user of the socket: [`Owner::uid`](crate::Owner::uid). From iterators and `sock_diag` only.
    pub const USER: u32 = 8;
}

/// What every record begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Header {
    /// Nanoseconds since boot, suspend included (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

/// The process that owns a socket, as it was when it became known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Owner {
    /// Start of the process (of its first thread), `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Cgroup (v2) of the process: the inode of its directory in the cgroup file system.
    pub cgroup: u64,
    /// Process id in the initial pid namespace; 0 if the owner is unknown.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Unix user id in the initial user namespace, or [`UNKNOWN_U32`]; see [`Owner::user`].
    pub uid: u32,
    /// One of [`attribution`].
    pub how: u32,
    /// Name of the first thread, NUL-padded.
    pub comm: [u8; 16],
}

impl Owner {
    /// Nobody is known.
    pub const UNKNOWN: Self =
        Self { start_ns: 0, cgroup: 0, tgid: 0, tid: 0, uid: 0, how: attribution::UNKNOWN, comm: [0; 16] };

    /// Returns the owner of a socket of which the user alone is known.
    pub fn of_user(uid: u32) -> Self {
        Self { uid, how: attribution::USER, ..Self::UNKNOWN }
    }

    /// Returns the Unix user id, if it is known.
    pub fn user(&self) -> Option<u32> {
        ((self.tgid != 0 || self.how == attribution::USER) && self.uid != UNKNOWN_U32).then_some(self.uid)
    }
}

/// A socket has another owner, or more is known of the same one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct OwnerRecord {
    /// Time and kind.
    pub header: Header,
    /// As [`TcpRecord::socket`](crate::TcpRecord::socket).
    pub socket: u64,
    /// The owner from now on.
    pub owner: Owner,
    /// As [`SocketState::generation`](crate::SocketState::generation); 0 for datagram sockets.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// An open file that is a socket, from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct FileRecord {
    /// As [`TcpRecord::socket`](crate::TcpRecord::socket); for a datagram socket as
    /// [`UdpSocketRecord::file`](crate::UdpSocketRecord::file).
    pub socket: u64,
    /// The process that has the file open.
    pub owner: Owner,
    /// Inode of the file, as `ls -l /proc/PID/fd` shows it; 0 if it cannot be read.
    pub inode: u64,
    /// The descriptor in that process.
    pub descriptor: u32,
    /// Local port, host byte order; 0 if none is chosen yet.
    pub local_port: u16,
    /// One of [`tcp_state`](crate::tcp_state); `CLOSE` for datagram sockets.
    pub tcp_state: u8,
    /// Zero.
    pub reserved: u8,
}

/// An open file that is a packet socket (`AF_PACKET` or `AF_XDP`), from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct PacketSocketRecord {
    /// Inode of the file, as in `/proc/net/packet`.
    pub inode: u64,
    /// The process that has the file open.
    pub owner: Owner,
    /// Inode of the network namespace, or [`UNKNOWN_U32`](crate::UNKNOWN_U32).
    pub namespace: u32,
    /// Index of the network device that an `AF_XDP` socket is bound to, 0: none; or
    /// [`UNKNOWN_U32`](crate::UNKNOWN_U32).
    pub device: u32,
    /// [`AF_PACKET`](crate::AF_PACKET) or [`AF_XDP`](crate::AF_XDP).
    pub family: u16,
    /// Zero.
    pub reserved: [u16; 3],
}
