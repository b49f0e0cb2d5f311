//! One entry of the tables: a TCP connection, a listener, a flow of datagrams or a bound UDP socket.

mod flow;
mod outcome;
mod succession;
mod tcp;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
};

use netconn_common::{
    AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Owner, Totals, UNKNOWN_U32, UNKNOWN_U64,
    attribution, mark, role, tcp_state,
};
use netconn_model::{
    fact::{Direction, End, Failure},
    filter::Subject,
    state::UNCONNECTED,
};

pub use self::outcome::failure_of;
pub(super) use self::outcome::{close_reason, failure};
pub use self::succession::{Party, Succession};
use crate::process::Process;

/// The facts that only flows of datagrams have. They are boxed, so that TCP connections are no larger for them.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged {
    /// Datagrams sent; `UNKNOWN_U64` if they are not counted.
    pub packets_sent: u64,
    /// Datagrams received; `UNKNOWN_U64` if they are not counted.
    pub packets_received: u64,
    /// Time of the last datagram, nanoseconds since boot; 0 if unknown.
    pub last_ns: u64,
    /// The flow's first ICMP message.
    pub icmp: Option<Icmp>,
    /// The errno that the program got because the peer refuses datagrams or cannot be reached, as ICMP says; 0: none.
    pub refused: u32,
    /// The flow is folded: it stands for everything that its socket exchanges with peers without a flow of their own.
    pub folded: bool,
    /// The socket is a raw socket (`SOCK_RAW`), which no dump shows.
    pub raw: bool,
}

/// An ICMP message, of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub r#type: u8,
    /// Code.
    pub code: u8,
    /// Identifier of an echo request or reply.
    pub id: Option<u16>,
}

/// A connection, flow of datagrams or listener.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Number of the socket, unique until the next boot: its cookie or, where BPF programs cannot make cookies (before
    /// 5.12), a number that the programs have given it. Never an address or an inode.
    pub socket: u64,
    /// Life of the socket, counted from 1: `connect` to `AF_UNSPEC` ends one life and the next `connect` begins another.
    /// 0 if the kernel had no memory to count in, and of flows and bound UDP sockets, which have one life only.
    pub generation: u32,
    /// Sequence number of the last record applied, counted within the life.
    pub sequence: u32,
    /// One of `netconn_common::role`. It is inferred for listeners and attempts that are older than netconn.
    pub role: u32,
    /// One of `netconn_common::tcp_state`; sockets of datagrams are `ESTABLISHED` or `UNCONNECTED`.
    pub state: u8,
    /// Protocol number, as in the IP header.
    pub protocol: u8,
    /// Inode of the network namespace; `UNKNOWN_U32` if it cannot be read.
    pub namespace: u32,
    /// Local end.
    pub local: End,
    /// Remote end; none for listeners.
    pub remote: Option<End>,
    /// Index of the network device that the socket is bound to, or over which its link-local addresses are reached; 0: none.
    pub device: u32,
    /// The process that owns the socket, as the kernel reported it.
    pub owner: Owner,
    /// The owner's entry in the table of processes, if it has one.
    pub process: Option<Rc<Process>>,
    /// The other process, if one has begun it and another has it now. Boxed, because few have one.
    pub succession: Option<Box<Succession>>,
    /// Start of the attempt, listener or flow, nanoseconds since boot; 0: before netconn. It differs between any two flows
    /// of a socket.
    pub born_ns: u64,
    /// When the connection was established, nanoseconds since boot; 0: not yet, or before netconn.
    pub established_ns: u64,
    /// Time of the last state change, nanoseconds since boot.
    pub(super) changed_ns: u64,
    /// Number of the last comparison with the kernel that found the entry there.
    pub(super) compared: u32,
    /// Counters as of the last state change, or as read from the kernel since.
    pub totals: Totals,
    /// The facts that only flows of datagrams have.
    pub exchanged: Option<Box<Exchanged>>,
    /// Bits of `netconn_common::mark` that any record had.
    pub(super) marks: u32,
    /// The connection existed before netconn started.
    pub preexisting: bool,
    /// Its `IP Connect` or `IP Listen` event was emitted.
    pub announced: bool,
    /// It is in the queue of those that wait for their owner, or has been.
    pub(super) waiting: bool,
    /// Number of the last dump that had begun when the owner changed.
    pub(super) owned_in: u32,
    /// Number of the last dump that had begun when a record was applied.
    pub(super) seen: u32,
}

impl Connection {
    /// Returns an entry with nothing but the number of its socket.
    fn blank(socket: u64, process: Option<Rc<Process>>) -> Self {
        Self {
            socket,
            generation: 0,
            sequence: 0,
            role: role::UNKNOWN,
            state: UNCONNECTED,
            protocol: 0,
            namespace: UNKNOWN_U32,
            local: End { address: Ipv4Addr::UNSPECIFIED.into(), port: 0 },
            remote: None,
            device: 0,
            owner: Owner::default(),
            process,
            succession: None,
            born_ns: 0,
            established_ns: 0,
            changed_ns: 0,
            compared: 0,
            totals: Totals::UNKNOWN,
            exchanged: None,
            marks: 0,
            preexisting: false,
            announced: false,
            waiting: false,
            owned_in: 0,
            seen: 0,
        }
    }

    /// Returns whether this is an attempt whose local port is not known yet.
    pub(super) fn lacks_port(&self) -> bool {
        self.state == tcp_state::SYN_SENT && self.local.port == 0
    }

    /// Returns whether the event should be held back until the accepting process is known.
    pub(super) fn waits_for_acceptor(&self) -> bool {
        // What existed before netconn was accepted long ago, and no process accepts subflows: the kernel adds them to
        // the MPTCP socket.
        self.role == role::PASSIVE && !self.preexisting && !self.is_accepted() && !self.is_subflow()
    }

    /// Returns whether the process that uses the socket is known, not only the one that listens.
    fn is_accepted(&self) -> bool {
        !matches!(self.owner.how, attribution::LISTENER | attribution::UNKNOWN | attribution::USER)
    }

    /// Returns whether this is an additional subflow of an MPTCP connection.
    pub fn is_subflow(&self) -> bool {
        self.marks & mark::SUBFLOW != 0
    }

    /// Returns whether this is, or was, an established connection or a listener, and not a mere attempt.
    pub(super) fn is_up(&self) -> bool {
        match self.role {
            role::LISTENER => true,
            // A Fast Open server may answer, and close, before the handshake is complete.
            role::PASSIVE => self.state != tcp_state::SYN_RECV || self.is_accepted(),
            _ => !matches!(self.state, tcp_state::SYN_SENT | tcp_state::SYN_RECV | tcp_state::CLOSE),
        }
    }

    /// Returns since when it is up, nanoseconds since boot; `now` if that is not known.
    pub(super) fn up_since(&self, now: u64) -> u64 {
        match (self.role, self.established_ns) {
            // A flow is up with its first datagram.
            _ if self.is_flow() && self.born_ns != 0 => self.born_ns,
            (role::LISTENER, _) if self.born_ns != 0 => self.born_ns,
            (role::LISTENER, _) | (_, 0) => now,
            (_, established) => established,
        }
    }

    /// Returns which end initiated it; `None` for listeners and for connections that are older than netconn.
    pub fn direction(&self) -> Option<Direction> {
        match self.role {
            role::ACTIVE => Some(Direction::Outgoing),
            role::PASSIVE => Some(Direction::Incoming),
            _ => None,
        }
    }

    /// Returns whether this is a flow of datagrams.
    pub fn is_flow(&self) -> bool {
        self.exchanged.is_some()
    }

    /// Returns whether this is what a raw socket exchanges. ICMP counts as itself: who pings as root uses a raw socket, others
    /// a ping socket.
    pub fn is_raw(&self) -> bool {
        self.exchanged.as_ref().is_some_and(|exchanged| exchanged.raw)
            && !matches!(self.protocol, IPPROTO_ICMP | IPPROTO_ICMPV6)
    }

    /// Returns why nothing came of a flow: the peer refuses datagrams, or cannot be reached, and has never sent any.
    pub fn refusal(&self) -> Option<Failure> {
        let Exchanged { refused, packets_received, .. } = self.exchanged.as_deref()?;
        let is_unanswered = matches!(*packets_received, 0 | UNKNOWN_U64);
        if *refused != 0 && is_unanswered { failure_of(*refused) } else { None }
    }

    /// Returns the state in rows: a raw socket has none of its own, whatever it speaks.
    pub fn shown_state(&self) -> u8 {
        if self.is_raw() { UNCONNECTED } else { self.state }
    }

    /// Returns whether this is a flow of datagrams or a UDP socket.
    fn is_datagram(&self) -> bool {
        self.is_flow() || self.protocol != IPPROTO_TCP
    }

    /// Returns whether this is a flow of datagrams with ports, of which each datagram is counted.
    pub fn is_counted(&self) -> bool {
        let packets = self.exchanged.as_ref().map(|exchanged| exchanged.packets_sent);
        self.has_ports() && packets.is_some_and(|packets| packets != UNKNOWN_U64)
    }

    /// Returns whether its protocol has ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, IPPROTO_TCP | IPPROTO_UDP)
    }

    /// Returns whether this is a TCP listener or a bound UDP socket.
    pub fn is_listener(&self) -> bool {
        self.role == role::LISTENER
    }

    /// Returns the view of this connection that filters match, without what only a directory or a table of processes knows: the
    /// process as its events name it, which [`encode::subject`](crate::encode::subject) replaces for rows.
    pub fn subject(&self) -> Subject<'_> {
        let identity = self.process.as_deref().map(|process| &process.identity);
        Subject {
            state: Some(self.shown_state()),
            // Only what an event or the row of an ended connection says; both know it beside the connection.
            failed: false,
            // A UDP socket can be connected after it was bound.
            listening: self.is_listener() && self.remote.is_none(),
            protocol: self.protocol,
            raw: self.is_raw(),
            interface: None,
            direction: self.direction(),
            local: self.local,
            remote: self.remote,
            pid: (self.owner.tgid != 0).then_some(self.owner.tgid),
            // The name as of the last `exec`. Callers with the names at hand replace it by the name when the socket was
            // used.
            process: identity.map(|identity| &*identity.name),
            executable: identity.and_then(|identity| identity.path.as_deref()),
            user: None,
            uid: self.owner.user(),
            container: None,
            unit: None,
            namespace: (self.namespace != UNKNOWN_U32).then_some(self.namespace),
        }
    }
}

impl AsRef<Self> for Connection {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl AsMut<Self> for Connection {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

/// Returns the address in a record; IPv4-mapped IPv6 addresses become IPv4.
pub(super) fn address(family: u16, bytes: &[u8; 16]) -> IpAddr {
    if family == AF_INET6 {
        // A socket of `AF_INET6` can speak IPv4. Both ends of such a connection must look the same in filters and ids.
        Ipv6Addr::from(*bytes).to_canonical()
    } else {
        // IPv4 is in the first four bytes, in network byte order.
        let [a, b, c, d, ..] = *bytes;
        Ipv4Addr::new(a, b, c, d).into()
    }
}
