//! The records, byte for byte.

use bytemuck::{Pod, Zeroable};

use crate::{UNKNOWN_U32, UNKNOWN_U64};

/// Kinds of records, in [`Header::kind`].
pub mod kind {
    /// A [`TcpRecord`](super::TcpRecord): a TCP socket changed its state.
    pub const TCP: u32 = 1;
    /// An [`ExecRecord`](super::ExecRecord): a process runs a new program.
    pub const EXEC: u32 = 2;
    /// A [`ForkRecord`](super::ForkRecord): a process was born.
    pub const FORK: u32 = 3;
    /// An [`ExitRecord`](super::ExitRecord): the last thread of a process has ended.
    pub const EXIT: u32 = 4;
    /// A [`CgroupRecord`](super::CgroupRecord): a cgroup was made.
    pub const CGROUP: u32 = 5;
    /// An [`OwnerRecord`](super::OwnerRecord): a socket has another owner, or the same one known better.
    pub const OWNER: u32 = 6;
    /// An [`UnsentRecord`](super::UnsentRecord): an attempt has failed before anything was sent.
    pub const UNSENT: u32 = 7;
    /// A [`CountersRecord`](super::CountersRecord); never in a ring, only from `iter/tcp`.
    pub const COUNTERS: u32 = 8;
    /// A [`FlowRecord`](crate::FlowRecord): the first datagram of a flow.
    pub const FLOW: u32 = 9;
    /// A [`DatagramRecord`](crate::DatagramRecord): a socket of datagrams was bound to receive.
    pub const BOUND: u32 = 10;
    /// A [`ReleasedRecord`](crate::ReleasedRecord): a socket of datagrams was closed.
    pub const RELEASED: u32 = 11;
    /// No record: a datagram that was not counted, because there was room neither for its flow nor for one that stands for
    /// all of its socket; only in the table of lost records.
    pub const UNCOUNTED: u32 = 12;
    /// One more than the highest kind: the length of the table of lost records.
    pub const COUNT: u32 = 13;
}

/// How the process of a socket is known, in [`Owner::how`]; higher numbers are not better.
pub mod attribution {
    /// It is not.
    pub const UNKNOWN: u32 = 0;
    /// It called `connect`.
    pub const CONNECT: u32 = 1;
    /// It called `accept`, or was the first to ask a connection that came in for its peer.
    pub const ACCEPT: u32 = 2;
    /// It was the first to send.
    pub const SEND: u32 = 3;
    /// It was the first to receive.
    pub const RECEIVE: u32 = 4;
    /// It called `listen` on the socket that the connection came through.
    pub const LISTENER: u32 = 5;
    /// It was found among the open files.
    pub const SCAN: u32 = 6;
    /// It made the socket, of datagrams, and nobody was seen to use it.
    pub const CREATE: u32 = 7;
}

/// What a socket is, in [`SocketState::role`].
pub mod role {
    /// It was there before netconn.
    pub const UNKNOWN: u32 = 0;
    /// It connects to somebody.
    pub const ACTIVE: u32 = 1;
    /// It came out of a listener.
    pub const PASSIVE: u32 = 2;
    /// It waits for connections.
    pub const LISTENER: u32 = 3;
}

/// What has happened to a socket, bits of [`SocketState::marks`].
pub mod mark {
    /// This end sent the first FIN.
    pub const CLOSED_LOCALLY: u32 = 1;
    /// The peer sent the first FIN.
    pub const CLOSED_REMOTELY: u32 = 2;
    /// The state was changed by a process that held the socket's lock, not by a packet or a timer.
    pub const IN_PROCESS: u32 = 4;
    /// `connect` was called, and no SYN has been sent yet.
    pub const UNSENT: u32 = 8;
    /// A further path (`MP_JOIN`) of an MPTCP connection.
    pub const SUBFLOW: u32 = 16;
    /// A record of this life of the socket has reached the ring, or a dump.
    pub const TOLD: u32 = 32;
}

/// Bits of [`ExecRecord::flags`].
pub mod exec {
    /// The path was longer than what is kept; its first components are missing.
    pub const PATH_CUT: u32 = 2;
    /// The arguments were longer than what is kept; the last are missing.
    pub const ARGUMENTS_CUT: u32 = 4;
    /// The program's file had no name any more (`memfd_create`, deleted).
    pub const DELETED: u32 = 8;

    /// Longest component of a path with its NUL, `NAME_MAX + 1` in `include/uapi/linux/limits.h`.
    pub const COMPONENT_MAX: usize = 256;
    /// Bytes of the path that are kept, a power of two.
    pub const PATH_MAX: usize = 1024;
    /// Components of the path that are kept.
    pub const DEPTH_MAX: usize = 40;
    /// Bytes of the arguments that are kept, a power of two.
    pub const ARGUMENTS_MAX: usize = 4096;
}

/// What every record begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Header {
    /// Nanoseconds since boot, suspend counted in (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

/// The process that a socket belongs to, as it was when it became known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Owner {
    /// Start of the process (of its first thread), `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Its cgroup (v2): the inode of the directory in the cgroup file system.
    pub cgroup: u64,
    /// Process id in the initial pid namespace; 0 when unknown.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Unix user id in the initial user namespace.
    pub uid: u32,
    /// One of [`attribution`].
    pub how: u32,
    /// Name of the first thread, NUL-padded.
    pub comm: [u8; 16],
}

/// What is kept with a socket for as long as it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SocketState {
    /// Whom it belongs to.
    pub owner: Owner,
    /// A number that no other socket of this boot has, where cookies cannot be read; 0: none given yet.
    pub number: u64,
    /// When this life of the socket began: SYN sent, SYN answered, `listen` called. 0: before netconn.
    pub born_ns: u64,
    /// When it was connected; 0: not yet, or before netconn.
    pub established_ns: u64,
    /// Counts the lives of the socket, from 1 (`connect` to `AF_UNSPEC` ends one); 0: there was no memory to count in,
    /// and nothing else here is known but what this record itself is about.
    pub generation: u32,
    /// Counts the records of this life, from 1.
    pub sequence: u32,
    /// One of [`role`].
    pub role: u32,
    /// Bits of [`mark`].
    pub marks: u32,
}

/// Where `connect` was asked to go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Destination {
    /// IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Host byte order.
    pub port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
}

/// The value of the maps that keep something with a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Kept {
    /// What records tell.
    pub state: SocketState,
    /// With [`mark::UNSENT`]: where the attempt goes, which the socket itself only knows once there is a route.
    pub destination: Destination,
    /// 1: a process has used a socket that came out of a listener, or it came out of none. Not a mark, because it is
    /// not written under the socket's lock.
    pub used: u32,
    /// Between which ends this life was connected: the other end's IPv4 address, its port, and this end's. A socket that
    /// has others when netconn begins has lived another life meanwhile. 0: not connected yet, or not known.
    pub ends: u64,
}

/// What is kept with sockets outlives the daemon; to be raised whenever the meaning of a member of [`Kept`] changes, so
/// that another version does not take it for its own.
pub const KEPT_VERSION: u32 = 1;

/// Lives of sockets of which no record reached the ring, in the map [`UNTOLD`](crate::map::UNTOLD): by [`role`] those
/// that were attempts only, then those that were up.
pub type Untold = [[u64; 2]; 4];

/// What is known on each CPU of `inet_sock_set_state` running in an interrupt of itself, which the kernel does not allow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Nesting {
    /// 1 while the program runs.
    pub running: u64,
    /// Runs that the kernel did not allow and that the second program has done instead.
    pub done: u64,
}

/// The counters of a TCP connection; [`UNKNOWN_U64`](crate::UNKNOWN_U64) and
/// [`UNKNOWN_U32`](crate::UNKNOWN_U32) where the kernel has none.
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
    /// The socket's cookie, or where that cannot be read a number that is as good until the next boot.
    pub socket: u64,
    /// What is kept with the socket, as it is after this change.
    pub state: SocketState,
    /// Its counters.
    pub totals: Totals,
    /// Inode of the network namespace.
    pub namespace: u32,
    /// The socket's pending error (`sk_err`), 0 or a positive errno.
    pub error: u32,
    /// This end's address; IPv4 in the first four bytes.
    pub local_address: [u8; 16],
    /// The other end's address; IPv4 in the first four bytes.
    pub remote_address: [u8; 16],
    /// This end's port, host byte order; 0 when not chosen yet.
    pub local_port: u16,
    /// The other end's port, host byte order.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// State before, one of [`tcp_state`](crate::tcp_state).
    pub old_state: u8,
    /// State after.
    pub new_state: u8,
}

/// How much a connection has moved so far, and how it is, from `iter/tcp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct CountersRecord {
    /// Time and kind.
    pub header: Header,
    /// As [`TcpRecord::socket`].
    pub socket: u64,
    /// As [`Totals::bytes_sent`].
    pub bytes_sent: u64,
    /// As [`Totals::bytes_received`].
    pub bytes_received: u64,
    /// One of [`tcp_state`](super::tcp_state).
    pub state: u32,
    /// 0.
    pub reserved: u32,
}

/// A socket has another owner, or the same one known better.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct OwnerRecord {
    /// Time and kind.
    pub header: Header,
    /// As [`TcpRecord::socket`].
    pub socket: u64,
    /// Whom it belongs to now.
    pub owner: Owner,
    /// As [`SocketState::generation`].
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// An attempt has failed before anything was sent: there was no route, or the host's policy forbade it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct UnsentRecord {
    /// The attempt; both states are `CLOSE`, `error` is what `connect` returned, or
    /// [`UNKNOWN_U32`](crate::UNKNOWN_U32).
    pub attempt: TcpRecord,
    /// The socket's mark (`SO_MARK`), by which routes are chosen.
    pub mark: u32,
    /// Index of the network device that the socket is bound to, 0: none.
    pub device: u32,
}

/// An open file that is a socket, from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct FileRecord {
    /// As [`TcpRecord::socket`]; of a socket of datagrams as [`DatagramRecord::file`](crate::DatagramRecord::file).
    pub socket: u64,
    /// Who has the file open.
    pub owner: Owner,
    /// Its descriptor there.
    pub descriptor: u32,
    /// The socket's own port, host byte order; 0 when not chosen yet.
    pub local_port: u16,
    /// One of [`tcp_state`](crate::tcp_state).
    pub tcp_state: u8,
    /// Zero.
    pub reserved: u8,
}

/// An open file that is a socket past all hooks, of the family `AF_PACKET` or `AF_XDP`, from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct PacketRecord {
    /// Inode of the file, as in `/proc/net/packet`.
    pub inode: u64,
    /// Who has the file open.
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

/// A process runs a new program. `path_length` bytes follow: the components of the program's path from the last to the
/// first, each ended by NUL; then `arguments_length` bytes: the
/// arguments, each ended by NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ExecRecord {
    /// Time and kind.
    pub header: Header,
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Start of its parent.
    pub parent_start_ns: u64,
    /// Process id.
    pub tgid: u32,
    /// Process id of its parent.
    pub parent_tgid: u32,
    /// Unix user id.
    pub uid: u32,
    /// Bits of [`exec`].
    pub flags: u32,
    /// Bytes of path that follow.
    pub path_length: u32,
    /// Bytes of arguments that follow the path.
    pub arguments_length: u32,
    /// The process's new name, NUL-padded.
    pub comm: [u8; 16],
}

/// A process was born: it is what its origin is until it runs another program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ForkRecord {
    /// Time and kind.
    pub header: Header,
    /// Start of the new process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Start of the process that called `fork`.
    pub origin_start_ns: u64,
    /// Start of the parent, another one after `clone` with `CLONE_PARENT`.
    pub parent_start_ns: u64,
    /// Process id of the new process.
    pub tgid: u32,
    /// Process id of the one that called `fork`.
    pub origin_tgid: u32,
    /// Process id of the parent.
    pub parent_tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// The last thread of a process has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ExitRecord {
    /// Time and kind.
    pub header: Header,
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Process id.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// A cgroup (v2) was made. `path_length` bytes follow: its path below the root of the hierarchy, ended by NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct CgroupRecord {
    /// Time and kind.
    pub header: Header,
    /// Inode of its directory, as in [`Owner::cgroup`].
    pub id: u64,
    /// Bytes of path that follow.
    pub path_length: u32,
    /// Zero.
    pub reserved: u32,
}
