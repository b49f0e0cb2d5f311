//! One entry of the table, and what its states and errors mean.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
};

use netconn_common::{IPPROTO_TCP, IPPROTO_UDP, Owner, TcpRecord, Totals, attribution, mark, role, tcp_state};
use netconn_model::{
    event::{CloseReason, Direction, End, Failure},
    filter::Subject,
};

use crate::process::Process;

pub(super) const AF_INET6: u16 = 10;

/// What only flows of datagrams have. Apart, so that TCP connections are no larger for it.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged {
    /// Datagrams sent; `UNKNOWN_U64` if they are not counted.
    pub packets_sent: u64,
    /// Datagrams received; `UNKNOWN_U64` if they are not counted.
    pub packets_received: u64,
    /// When the last one was seen, nanoseconds since boot.
    pub last_ns: u64,
    /// What its first ICMP message was.
    pub icmp: Option<Icmp>,
    /// It stands for all that its socket exchanges with ends that have no flow of their own.
    pub folded: bool,
    /// Its socket is a raw one, which no dump shows.
    pub raw: bool,
}

/// An ICMP message, of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub r#type: u8,
    /// Code.
    pub code: u8,
    /// Identifier, of echo requests and replies.
    pub id: Option<u16>,
}

/// A connection, flow of datagrams or listener.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The kernel's number for the socket.
    pub socket: u64,
    /// Which life of the socket.
    pub generation: u32,
    /// Number of the last record applied.
    pub sequence: u32,
    /// One of `netconn_common::role`; listeners and attempts that are older than netconn are recognised.
    pub role: u32,
    /// One of `netconn_common::tcp_state`; sockets of datagrams are `ESTABLISHED` or `CLOSE`.
    pub state: u8,
    /// Number of the protocol, as in the IP header.
    pub protocol: u8,
    /// Network namespace, its inode; `UNKNOWN_U32` if that cannot be read.
    pub namespace: u32,
    /// This end.
    pub local: End,
    /// The other end; none on listeners.
    pub remote: Option<End>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// The owner's process, if known.
    pub process: Option<Rc<Process>>,
    /// When it began, nanoseconds since boot; 0: before netconn. No other flow of a socket has the same.
    pub born_ns: u64,
    /// When it was connected, nanoseconds since boot; 0: not, or before netconn.
    pub established_ns: u64,
    /// When its state was last told, nanoseconds since boot.
    pub(super) changed_ns: u64,
    /// Number of the last comparison with the kernel in which it was there.
    pub(super) compared: u32,
    /// Counters as of the last change of state, or as the kernel told them since.
    pub totals: Totals,
    /// What only flows of datagrams have.
    pub exchanged: Option<Box<Exchanged>>,
    /// Bits of `netconn_common::mark` that any record had.
    pub(super) marks: u32,
    /// It was there before netconn.
    pub preexisting: bool,
    /// `IP Connect` or `IP Listen` was given.
    pub announced: bool,
    /// It is accepted and waits, or has waited, for its acceptor.
    pub(super) waiting: bool,
    /// Number of the last dump of the table before its owner changed.
    pub(super) owned_in: u32,
    /// Number of the last dump of the table before or in which it was seen.
    pub(super) seen: u32,
}

impl Connection {
    pub(super) fn new(record: &TcpRecord, process: Option<Rc<Process>>) -> Self {
        let old = record.old_state;
        let role = match (record.state.role, old) {
            (role::UNKNOWN, tcp_state::LISTEN) => role::LISTENER,
            (role::UNKNOWN, tcp_state::SYN_SENT) => role::ACTIVE,
            (role::UNKNOWN, tcp_state::SYN_RECV) => role::PASSIVE,
            (known, _) => known,
        };
        // A life that netconn saw begin has a time of birth; where there was no memory for it, a child's first change.
        let is_child = record.state.generation == 0 && old == tcp_state::SYN_RECV;
        let preexisting = record.state.born_ns == 0 && !is_child;
        Self {
            socket: record.socket,
            generation: record.state.generation,
            sequence: 0,
            role,
            state: old,
            protocol: IPPROTO_TCP,
            namespace: record.namespace,
            local: End { address: address(record.family, &record.local_address), port: record.local_port },
            remote: None,
            owner: record.state.owner,
            process,
            born_ns: record.state.born_ns,
            established_ns: 0,
            changed_ns: record.header.time_ns,
            compared: 0,
            totals: record.totals,
            exchanged: None,
            marks: 0,
            preexisting,
            announced: false,
            waiting: false,
            owned_in: 0,
            seen: 0,
        }
    }

    /// Whether it is an attempt whose own port is not known yet.
    pub(super) fn lacks_port(&self) -> bool {
        self.state == tcp_state::SYN_SENT && self.local.port == 0
    }

    /// Takes what a record says.
    pub(super) fn update(&mut self, record: &TcpRecord) {
        self.sequence = record.state.sequence;
        self.marks |= record.state.marks;
        if record.state.established_ns != 0 {
            self.established_ns = record.state.established_ns;
        }
        self.changed_ns = record.header.time_ns;
        self.totals = record.totals;
        // A listener is one from the beginning: the table finds it as such.
        if self.role == role::UNKNOWN && record.state.role != role::LISTENER {
            self.role = record.state.role;
        }
        let local = End { address: address(record.family, &record.local_address), port: record.local_port };
        let remote = End { address: address(record.family, &record.remote_address), port: record.remote_port };
        // `tcp_disconnect` and the end of a bound socket clear what was known. Listeners are found by their port.
        if self.role != role::LISTENER && (local.port != 0 || self.local.port == 0) {
            self.local = local;
        }
        if self.role != role::LISTENER && (remote.port != 0 || self.remote.is_none()) {
            self.remote = Some(remote);
        }
        // At its end an entry stays in the state it ended in, for those who still look.
        if record.new_state != tcp_state::CLOSE {
            self.state = record.new_state;
        }
    }

    /// Takes the owner of a record where it says more than is known; whether it did. Changes of owners have records of
    /// their own: others may carry half of one, unless they come from a dump or nothing was known.
    pub(super) fn learn(&mut self, record: &TcpRecord, dumps: u32) -> bool {
        let owner = record.state.owner;
        // What a dump says may be older than a change of owner since it began.
        let is_dump = record.old_state == record.new_state && self.owned_in != dumps;
        let is_better = owner.tgid != 0
            && owner != self.owner
            && (self.owner.tgid == 0 || (is_dump && owner.how != attribution::LISTENER));
        if is_better {
            self.owner = owner;
        }
        is_better
    }

    /// Whether the process that accepts it is worth waiting for.
    pub(super) fn waits_for_acceptor(&self) -> bool {
        self.role == role::PASSIVE && !self.preexisting && !self.is_accepted() && !self.is_subflow()
    }

    /// Whether the process that has it is known, not only the one that listens.
    fn is_accepted(&self) -> bool {
        !matches!(self.owner.how, attribution::LISTENER | attribution::UNKNOWN)
    }

    /// Whether it is a further path of an MPTCP connection.
    pub fn is_subflow(&self) -> bool {
        self.marks & mark::SUBFLOW != 0
    }

    /// Whether this is, or was, a connection or listener, not just an attempt.
    pub(super) fn is_up(&self) -> bool {
        match self.role {
            role::LISTENER => true,
            // A server may answer before the handshake is over (Fast Open), and be gone before it is.
            role::PASSIVE => self.state != tcp_state::SYN_RECV || self.is_accepted(),
            _ => !matches!(self.state, tcp_state::SYN_SENT | tcp_state::SYN_RECV | tcp_state::CLOSE),
        }
    }

    pub(super) fn up_since(&self, now: u64) -> u64 {
        match (self.role, self.established_ns) {
            _ if self.is_flow() && self.born_ns != 0 => self.born_ns,
            (role::LISTENER, _) if self.born_ns != 0 => self.born_ns,
            (role::LISTENER, _) | (_, 0) => now,
            (_, established) => established,
        }
    }

    /// Who began it; unknown for connections that are older than netconn.
    pub fn direction(&self) -> Option<Direction> {
        match self.role {
            role::ACTIVE => Some(Direction::Outgoing),
            role::PASSIVE => Some(Direction::Incoming),
            _ => None,
        }
    }

    /// Whether it consists of datagrams.
    pub fn is_flow(&self) -> bool {
        self.exchanged.is_some()
    }

    /// Whether its ends have ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, IPPROTO_TCP | IPPROTO_UDP)
    }

    /// Whether it waits for connections, or datagrams.
    pub fn is_listener(&self) -> bool {
        self.role == role::LISTENER
    }

    /// This connection as a filter sees it, but for the names that only a directory knows.
    pub fn subject(&self) -> Subject<'_> {
        let identity = self.process.as_deref().map(|process| &process.identity);
        Subject {
            state: Some(self.state),
            // A socket of datagrams can be connected after it was bound.
            listening: self.is_listener() && self.remote.is_none(),
            protocol: self.protocol,
            direction: self.direction(),
            local: self.local,
            remote: self.remote,
            pid: (self.owner.tgid != 0).then_some(self.owner.tgid),
            process: identity.map(|identity| &*identity.name),
            executable: identity.and_then(|identity| identity.path.as_deref()),
            user: None,
            uid: (self.owner.tgid != 0).then_some(self.owner.uid),
            container: None,
            unit: None,
            namespace: (self.namespace != netconn_common::UNKNOWN_U32).then_some(self.namespace),
        }
    }
}

/// An address of a record; IPv4-mapped IPv6 is given as IPv4.
pub(super) fn address(family: u16, bytes: &[u8; 16]) -> IpAddr {
    if family == AF_INET6 {
        Ipv6Addr::from(*bytes).to_canonical()
    } else {
        let [a, b, c, d, ..] = *bytes;
        Ipv4Addr::new(a, b, c, d).into()
    }
}

/// What an errno of `connect` means; `None` if it has no name of its own.
pub fn failure_of(errno: u32) -> Option<Failure> {
    Some(match i32::try_from(errno).ok()? {
        libc::ECONNREFUSED => Failure::Refused,
        libc::ETIMEDOUT => Failure::TimedOut,
        libc::EHOSTUNREACH | libc::EHOSTDOWN => Failure::HostUnreachable,
        libc::ENETUNREACH | libc::ENETDOWN => Failure::NetUnreachable,
        libc::ECONNRESET => Failure::Reset,
        libc::EPERM | libc::EACCES => Failure::Blocked,
        // `ss -K` and BPF programs that destroy sockets (tcp_abort in net/ipv4/tcp.c).
        libc::ECONNABORTED => Failure::Aborted,
        _ => return None,
    })
}

/// Why an attempt failed, from its last record.
pub(super) fn failure(record: &TcpRecord) -> (Failure, u32) {
    let errno = record.error;
    let failure = match errno {
        // tcp_v4_connect gave up before it had a port (`failure:` in net/ipv4/tcp_ipv4.c); connect returns EADDRNOTAVAIL.
        0 if record.local_port == 0 => return (Failure::NoPorts, libc::EADDRNOTAVAIL.unsigned_abs()),
        0 if record.state.marks & mark::IN_PROCESS != 0 => Failure::Aborted,
        errno => failure_of(errno).unwrap_or(Failure::Other),
    };
    (failure, errno)
}

/// How a connection ended, from its last record and the marks of all, and the errno behind it, 0 if none.
pub(super) fn close_reason(record: &TcpRecord, marks: u32) -> (CloseReason, u32) {
    let errno = record.error;
    match i32::try_from(errno).unwrap_or(i32::MAX) {
        // tcp_reset in net/ipv4/tcp_input.c: EPIPE when the peer had closed already.
        libc::ECONNRESET | libc::EPIPE => return (CloseReason::ResetByRemote, errno),
        libc::ETIMEDOUT => return (CloseReason::TimedOut, errno),
        libc::ECONNABORTED => return (CloseReason::ResetByLocal, errno),
        _ => {}
    }
    let closed_remotely = marks & mark::CLOSED_REMOTELY != 0;
    match record.old_state {
        tcp_state::FIN_WAIT2 | tcp_state::CLOSING | tcp_state::TIME_WAIT => (CloseReason::Local, 0),
        tcp_state::LAST_ACK if closed_remotely || record.state.role == role::UNKNOWN => (CloseReason::Remote, 0),
        tcp_state::LAST_ACK => (CloseReason::Unknown, 0),
        // Retransmission gave up with the error that ICMP had told (tcp_write_err in net/ipv4/tcp_timer.c).
        _ if errno != 0 => (CloseReason::TimedOut, errno),
        // No FIN was exchanged: SO_LINGER 0, data left unread, AF_UNSPEC, a listener that closed before accepting.
        _ => (CloseReason::ResetByLocal, 0),
    }
}
