//! Bits of the value in the map [`SETTINGS`](crate::map::SETTINGS): what becomes known only while programs are attached,
//! and, for the iterators, what the reader wants of this run.
//!
//! The iterators have one program for several purposes, because each program costs time when it is loaded. The daemon reads
//! one iterator at a time and sets the bits of its purpose for as long as that takes.

/// `fentry/tcp_connect` is attached and reports attempts with their source port, so that `inet_sock_set_state` need not.
pub const CONNECT_HOOK: u32 = 1 << 0;
/// `tp_btf/sock_recv_length` is attached, and with it `sock_send_length`: with [`SOCKETS_ONLY`], connected UDP sockets are
/// reported at their first use, with the port that the kernel has chosen, instead of at `connect`.
pub const RECEIVE_HOOK: u32 = 1 << 1;
/// Datagram sockets are watched.
pub const DATAGRAMS: u32 = 1 << 2;
/// Datagrams are not counted, so no flow shows connected UDP sockets: they are reported themselves.
pub const SOCKETS_ONLY: u32 = 1 << 3;
/// The iterators keep nothing with sockets, because no daemon stays to use it later. Only where sockets have cookies to be
/// identified by.
pub const KEEP_NOTHING: u32 = 1 << 4;
/// `iter/tcp` or `iter/udp` is read for the first time: what is kept with sockets is an earlier daemon's.
pub const FIRST_DUMP: u32 = 1 << 5;
/// `iter/tcp` writes the minisocks of connections that are over (TIME_WAIT) instead of sockets.
pub const SCAN_TIME_WAIT: u32 = 1 << 6;
/// `iter/tcp` writes a [`CountersRecord`](crate::CountersRecord) of each connection instead of sockets.
pub const SCAN_COUNTERS: u32 = 1 << 7;
/// `iter/task_file` writes attempts only: there is less to read when there are many connections.
pub const SCAN_ATTEMPTS: u32 = 1 << 8;
/// `iter/task_file` writes only the sockets whose owner is uncertain or has ended, see [`ENDED`](crate::map::ENDED), with each
/// process that has them open. Listeners, accepted connections and datagram sockets get the first of these as their owner.
pub const SCAN_OWNERS: u32 = 1 << 9;
/// `iter/task_file` writes every socket, of any family and protocol: a [`FileRecord`](crate::FileRecord) without port and state, and
/// with the number 0 unless it is a socket of IP.
pub const SCAN_ALL_SOCKETS: u32 = 1 << 12;
/// `iter/tcp` writes the minisocks of half-open connections (SYN_RECV) too, whatever else it writes.
pub const SCAN_HALF_OPEN: u32 = 1 << 11;
/// `iter/task_file` writes packet sockets, as [`PacketSocketRecord`](crate::PacketSocketRecord)s, instead of all others.
pub const SCAN_PACKET_SOCKETS: u32 = 1 << 10;
