//! Names of the maps of the eBPF object.

/// The ring buffer of records about sockets.
pub const RECORDS: &str = "RECORDS";
/// The ring buffer of records about processes and cgroups: a storm of them takes no room from sockets.
pub const PROCESSES: &str = "PROCESSES";
/// [`crate::TcpSocketState`] in each TCP socket's storage.
pub const SOCKETS: &str = "SOCKETS";
/// [`crate::TcpSocketState`] by the socket's address, where programs cannot use socket storage.
pub const SOCKETS_BY_ADDRESS: &str = "SOCKETS_BY_ADDRESS";
/// [`crate::DatagramSocketState`] in each datagram socket's storage.
pub const DATAGRAM_SOCKETS: &str = "DATAGRAM_SOCKETS";
/// [`crate::Flow`] by [`crate::FlowKey`].
pub const FLOWS: &str = "FLOWS";
/// [`crate::Flow`] by socket cookie: the folded flow of each socket that has more flows than there is room for.
pub const FOLDED: &str = "FOLDED";
/// [`crate::Unreported`] per CPU.
pub const UNREPORTED: &str = "UNREPORTED";
/// `[u64; kind::COUNT]` per CPU: records that found their ring full, by kind.
pub const LOST: &str = "LOST";
/// [`crate::Nesting`] per CPU.
pub const NESTING: &str = "NESTING";
/// Start of each ended process that owns sockets which other processes still have open, by process id.
pub const ENDED: &str = "ENDED";
/// `[u32; 1]`: bits of [`crate::setting`].
pub const SETTINGS: &str = "SETTINGS";
