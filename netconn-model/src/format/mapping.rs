//! Tables of mappings: each line says how a member of another format is made of fields of netconn.

use std::net::IpAddr;

use netconn_common::{IPPROTO_ICMP, IPPROTO_ICMPV6};
use nix::errno::Errno;

use crate::{
    fact::{CloseReason, ConnectionStatus, Direction, EventKind, Failure, protocol_number},
    field::{Event, Field},
    format::value::{Datum, TimeForm},
    holder::Holder,
    moment::Moment,
    row::{Row, RowField},
};

/// How the value of a member is made of an event.
pub(super) type OfEvent = for<'a> fn(&Facts<'a>) -> Datum<'a>;

/// How the value of a member is made of a row.
pub(super) type OfRow = for<'a> fn(&RowFacts<'a>) -> Datum<'a>;

/// A line of a table: how a member of another format is made.
#[derive(Clone, Copy, Debug)]
pub struct Mapping<From: 'static, Make> {
    /// Their name; in formats of nested objects, dots separate the names on the way, and `[]` marks a list of one object.
    pub theirs: &'static str,
    /// Their type.
    pub r#type: &'static str,
    /// Our fields that it is made from; empty for what is the same in all events.
    pub ours: &'static [From],
    /// How it is made, in Markdown.
    pub rule: &'static str,
    pub(super) make: Make,
}

/// A line of the table of an event.
pub type EventMapping = Mapping<Field, OfEvent>;

/// A line of the table of a row.
pub type RowMapping = Mapping<RowField, OfRow>;

/// Makes a line of the table of an event.
pub(super) const fn map(
    theirs: &'static str,
    r#type: &'static str,
    ours: &'static [Field],
    rule: &'static str,
    make: OfEvent,
) -> EventMapping {
    Mapping { theirs, r#type, ours, rule, make }
}

/// Makes a line of the table of a row.
pub(super) const fn map_row(
    theirs: &'static str,
    r#type: &'static str,
    ours: &'static [RowField],
    rule: &'static str,
    make: OfRow,
) -> RowMapping {
    Mapping { theirs, r#type, ours, rule, make }
}

/// What rows are mapped from.
#[derive(Clone, Copy, Debug)]
pub struct RowFacts<'a> {
    pub(super) row: &'a Row<'a>,
    /// One of the processes that have the socket, where each has a row of its own.
    pub(super) holder: Option<&'a Holder<'a>>,
}

/// What events are mapped from: the event, and what follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub(super) event: &'a Event<'a>,
    /// Number of the protocol in the header of IP.
    pub(super) protocol: Option<u8>,
}

/// An end of a connection, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownEnd {
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(event: &'a Event<'a>) -> Self {
        let protocol = event.protocol.as_deref().and_then(protocol_number);
        // Events have one name for both; the address tells which it is.
        let is_v6 = event.local_address.or(event.remote_address).is_some_and(|address| address.is_ipv6());
        let protocol = if protocol == Some(IPPROTO_ICMP) && is_v6 { Some(IPPROTO_ICMPV6) } else { protocol };
        Self { event, protocol }
    }

    pub(super) fn is(&self, kind: EventKind) -> bool {
        self.event.is(kind)
    }

    pub(super) fn is_icmp(&self) -> bool {
        matches!(self.protocol, Some(IPPROTO_ICMP | IPPROTO_ICMPV6))
    }

    pub(super) fn is_incoming(&self) -> bool {
        self.event.direction == Some(Direction::Incoming)
    }

    pub(super) fn is_outgoing(&self) -> bool {
        self.event.direction == Some(Direction::Outgoing)
    }

    /// Whether the event is of a listener or a bound socket.
    pub(super) fn is_listener(&self) -> bool {
        matches!(self.event.kind, Some(EventKind::Listen | EventKind::ListenEnd))
    }

    /// Whether the event is of a packet socket.
    pub(super) fn is_packet_socket(&self) -> bool {
        matches!(self.event.kind, Some(EventKind::PacketSocket | EventKind::PacketSocketEnd))
    }

    /// Whether the event is an attempt that failed, or the end of a flow that was refused.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self.event.status, Some(ConnectionStatus::Failure | ConnectionStatus::Blocked))
    }

    /// Whether the event is the last of its connection or flow: its end, or a failure of TCP, which no end follows.
    pub(super) fn is_last(&self) -> bool {
        self.is(EventKind::Close) || (self.is(EventKind::Connect) && self.is_failure() && !self.event.is_of_datagrams())
    }

    pub(super) fn is_reset(&self) -> bool {
        matches!(self.event.close_reason, Some(CloseReason::ResetByLocal | CloseReason::ResetByRemote))
            || self.event.failure == Some(Failure::Reset)
    }

    /// Whether both ends are on this host, by a loopback address or the same address twice.
    pub(super) fn is_loopback(&self) -> bool {
        let is = |address: Option<IpAddr>| address.is_some_and(|address| address.is_loopback());
        let (local, remote) = (self.event.local_address, self.event.remote_address);
        is(local) || is(remote) || (remote.is_some() && local == remote)
    }

    fn local(&self) -> KnownEnd {
        KnownEnd { address: self.event.local_address, port: self.event.local_port }
    }

    /// Who began; of a flow of many ends that this host began, this end.
    pub(super) fn source(&self) -> KnownEnd {
        let source = KnownEnd { address: self.event.src_address, port: self.event.src_port };
        if source == KnownEnd::default() && self.event.folded == Some(true) && self.is_outgoing() {
            return self.local();
        }
        source
    }

    /// The responder; also where a socket listens.
    pub(super) fn destination(&self) -> KnownEnd {
        let destination = KnownEnd { address: self.event.dst_address, port: self.event.dst_port };
        let is_here = self.is_listener() || (self.event.folded == Some(true) && self.is_incoming());
        if destination == KnownEnd::default() && is_here { self.local() } else { destination }
    }

    /// Returns the first of two values if this host began, the second if the peer did.
    fn by_role<T>(&self, own: Option<T>, other: Option<T>) -> Option<T> {
        match self.event.direction? {
            Direction::Outgoing => own,
            Direction::Incoming => other,
        }
    }

    /// Bytes that the initiator has sent.
    pub(super) fn source_bytes(&self) -> Option<u64> {
        self.by_role(self.event.bytes_sent, self.event.bytes_received)
    }

    /// Bytes that the responder has sent.
    pub(super) fn destination_bytes(&self) -> Option<u64> {
        self.by_role(self.event.bytes_received, self.event.bytes_sent)
    }

    /// Packets that the initiator has sent.
    pub(super) fn source_packets(&self) -> Option<u64> {
        self.by_role(self.event.packets_sent, self.event.packets_received)
    }

    /// Packets that the responder has sent.
    pub(super) fn destination_packets(&self) -> Option<u64> {
        self.by_role(self.event.packets_received, self.event.packets_sent)
    }

    /// Bytes of both directions, if both are known.
    pub(super) fn bytes(&self) -> Option<u64> {
        Some(self.event.bytes_sent?.saturating_add(self.event.bytes_received?))
    }

    /// Packets of both directions, if both are known.
    pub(super) fn packets(&self) -> Option<u64> {
        Some(self.event.packets_sent?.saturating_add(self.event.packets_received?))
    }

    /// The moment of the event; of the milliseconds, if that is all there is.
    pub(super) fn moment(&self) -> Option<Moment> {
        self.event.time.or_else(|| self.event.time_ms?.checked_mul(1_000_000).map(Moment))
    }

    pub(super) fn milliseconds(&self) -> Option<i64> {
        self.event.time_ms.or_else(|| self.event.time.map(Moment::milliseconds))
    }

    /// Length of the connection or flow, nanoseconds.
    pub(super) fn duration_ns(&self) -> Option<i64> {
        i64::try_from(self.event.duration?.nanoseconds).ok()
    }

    /// When what ends began. Not of a flow that was silent at its end: its length is known, but not how long it was silent.
    pub(super) fn start(&self) -> Option<Moment> {
        if !self.is(EventKind::Close) || self.event.close_reason == Some(CloseReason::Idle) {
            return None;
        }
        self.moment()?.0.checked_sub(self.duration_ns()?).map(Moment)
    }

    pub(super) fn time(&self, form: TimeForm) -> Datum<'a> {
        self.moment().map_or(Datum::Absent, |moment| Datum::Time(moment, form))
    }

    fn errno(&self) -> Option<Errno> {
        let errno = Errno::from_raw(i32::try_from(self.event.errno?).ok()?);
        (errno != Errno::UnknownErrno).then_some(errno)
    }

    /// The last part of the path of the executable.
    pub(super) fn file_name(path: Option<&'a str>) -> Datum<'a> {
        path.map(|path| path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)).into()
    }

    /// A moment given in epoch milliseconds.
    pub(super) fn time_of(milliseconds: Option<i64>, form: TimeForm) -> Datum<'a> {
        let moment = milliseconds.and_then(|milliseconds| milliseconds.checked_mul(1_000_000)).map(Moment);
        moment.map_or(Datum::Absent, |moment| Datum::Time(moment, form))
    }
}

/// The name of the errno: `ECONNREFUSED`.
pub(super) fn errno_name<'a>(facts: &Facts<'a>) -> Datum<'a> {
    match facts.errno() {
        Some(errno) => Datum::Made(format!("{errno:?}")),
        None => facts.event.failure.map(Failure::name).into(),
    }
}

/// What the errno means: `Connection refused`.
pub(super) fn errno_text<'a>(facts: &Facts<'a>) -> Datum<'a> {
    facts.errno().map(Errno::desc).into()
}

/// A sentence on an event of the sensor itself.
pub(super) fn message<'a>(facts: &Facts<'a>) -> Datum<'a> {
    let event = facts.event;
    match event.kind {
        Some(EventKind::DataLoss) => {
            let count = event.loss_count.unwrap_or(0);
            let stage = event.loss_stage.map_or("unknown", |stage| stage.name());
            Datum::Made(match &event.loss_output {
                Some(output) => format!("{count} events were lost at the stage {stage} of {output}"),
                None => format!("{count} events were lost at the stage {stage}"),
            })
        }
        Some(EventKind::SensorStart) => Datum::Text("the sensor started"),
        Some(EventKind::SensorStop) => Datum::Text("the sensor stopped"),
        _ => Datum::Absent,
    }
}

/// Puts tables behind one another; `LENGTH` is how many lines they have together.
pub(super) const fn joined<const LENGTH: usize>(tables: &[&[EventMapping]]) -> [EventMapping; LENGTH] {
    let mut all = [tables[0][0]; LENGTH];
    let (mut table, mut place) = (0, 0);
    while table < tables.len() {
        let mut line = 0;
        while line < tables[table].len() {
            all[place] = tables[table][line];
            place += 1;
            line += 1;
        }
        table += 1;
    }
    assert!(place == LENGTH, "LENGTH is the number of lines");
    all
}
