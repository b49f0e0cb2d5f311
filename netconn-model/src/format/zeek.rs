//! Zeek's `conn.log`: one line for each connection or flow that has ended, and for each attempt of TCP that failed.

use netconn_common::{IPPROTO_TCP, IPPROTO_UDP};

use crate::{
    fact::{CloseReason, Failure},
    field::Field,
    format::{
        EventFormat, FormatRecord, WriteEvent,
        mapping::{EventMapping, Facts, map},
        syntax::Syntax,
        value::{Datum, TimeForm, push_time},
    },
    moment::Moment,
};

const ABOUT: &str = "`Conn::Info` of Zeek 8 (`scripts/base/protocols/conn/main.zeek`, read at 9.1.0-dev, 2026-08-21). Bytes are payload, as in \
     Zeek; `orig_ip_bytes` and `resp_ip_bytes` are not there, because the kernel does not count them for each socket. Texts of \
     columns are escaped as Zeek does (`\\xNN`; `-` is not set, `(empty)` an empty text). Zeek has names for connections only: \
     the columns from `process.pid` on are additions, which its readers take as they come.";

/// As JSON.
pub(super) const JSON: EventFormat = EventFormat {
    name: "zeek",
    meaning: "Zeek's conn.log as JSON, one line for each connection that has ended or failed",
    about: ABOUT,
    heading: None,
    write: WriteEvent::Mapped { syntax: Syntax::Flat, records: &[&CONN], choose },
};

/// As columns.
pub(super) const TSV: EventFormat = EventFormat {
    name: "zeek-tsv",
    meaning: "Zeek's conn.log as columns separated by tabs, with its head",
    about: ABOUT,
    heading: Some(head),
    write: WriteEvent::Mapped { syntax: Syntax::Tabs, records: &[&CONN], choose },
};

fn choose(facts: &Facts<'_>) -> Option<&'static FormatRecord> {
    facts.is_last().then_some(&CONN)
}

/// Appends the head of a log.
fn head(out: &mut Vec<u8>) {
    let now = jiff::Timestamp::now().as_nanosecond();
    out.extend_from_slice(
        b"#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n#open\t",
    );
    push_time(out, Moment(i64::try_from(now).unwrap_or(i64::MAX)), TimeForm::Hyphens);
    for (name, of) in [
        ("fields", (|mapping| mapping.theirs) as fn(&EventMapping) -> &'static str),
        ("types", |mapping| mapping.r#type),
    ] {
        out.extend_from_slice(b"\n#");
        out.extend_from_slice(name.as_bytes());
        for mapping in CONN.mappings {
            out.push(b'\t');
            out.extend_from_slice(of(mapping).as_bytes());
        }
    }
    out.push(b'\n');
}

static CONN: FormatRecord = FormatRecord {
    title: "conn.log",
    mappings: &[
        map(
            "ts",
            "time",
            &[Field::Timestamp, Field::DurationMs],
            "When it began, seconds. Of an attempt that failed, when it did; of a flow that ended by silence, later by that silence, which is not known.",
            |facts| {
                let began = facts.duration_ns().and_then(|duration| facts.moment()?.0.checked_sub(duration));
                began.or(facts.moment().map(|moment| moment.0)).map_or(Datum::Absent, Datum::Seconds)
            },
        ),
        map("uid", "string", &[Field::ConnectionId], "`C` and 17 digits of base 62 of a hash (SHA-1).", |facts| {
            facts.event.connection_id.as_deref().map_or(Datum::Absent, Datum::Uid)
        }),
        map(
            "id.orig_h",
            "addr",
            &[Field::SrcAddress],
            "The initiator; of a folded flow that began here, this end.",
            |facts| facts.source().address.into(),
        ),
        map("id.orig_p", "port", &[Field::SrcPort, Field::IcmpType], "Of ICMP, the type, as in Zeek.", |facts| {
            if facts.is_icmp() { facts.event.icmp_type.into() } else { facts.source().port.into() }
        }),
        map(
            "id.resp_h",
            "addr",
            &[Field::DstAddress],
            "The responder; of a folded flow that the peers began, this end.",
            |facts| facts.destination().address.into(),
        ),
        map("id.resp_p", "port", &[Field::DstPort, Field::IcmpCode], "Of ICMP, the code, as in Zeek.", |facts| {
            if facts.is_icmp() { facts.event.icmp_code.into() } else { facts.destination().port.into() }
        }),
        map(
            "proto",
            "enum",
            &[Field::Protocol],
            "`tcp`, `udp`, `icmp`, else `unknown_transport`.",
            |facts| match facts.protocol {
                Some(IPPROTO_TCP) => "tcp".into(),
                Some(IPPROTO_UDP) => "udp".into(),
                _ if facts.is_icmp() => "icmp".into(),
                Some(_) => "unknown_transport".into(),
                None => Datum::Absent,
            },
        ),
        map("duration", "interval", &[Field::DurationMs], "Seconds.", |facts| {
            facts.duration_ns().map_or(Datum::Absent, Datum::Seconds)
        }),
        map(
            "orig_bytes",
            "count",
            &[Field::BytesSent, Field::BytesReceived],
            "Payload bytes of the initiator: sent when `OUTGOING`, received when `INCOMING`.",
            |facts| facts.source_bytes().into(),
        ),
        map(
            "resp_bytes",
            "count",
            &[Field::BytesSent, Field::BytesReceived],
            "Payload bytes of the responder.",
            |facts| facts.destination_bytes().into(),
        ),
        map(
            "conn_state",
            "string",
            &[Field::CloseReason, Field::FailureReason],
            "`REJ`: refused. `S0`: another failure before an answer, or a flow that only its initiator sent in. `SF`: closed by either end, or a flow in both directions. `RSTO`, `RSTR`: reset by initiator, responder. `S1`: the peer fell silent. `SHR`: only the responder sent. `OTH`: ICMP, raw sockets, existed before netconn started, or the end was not seen.",
            conn_state,
        ),
        map("local_orig", "bool", &[Field::Direction], "Whether the initiator is on this host.", |facts| {
            facts.event.direction.map(|_| facts.is_outgoing() || facts.is_loopback()).into()
        }),
        map("local_resp", "bool", &[Field::Direction], "Whether the responder is on this host.", |facts| {
            facts.event.direction.map(|_| facts.is_incoming() || facts.is_loopback()).into()
        }),
        map("missed_bytes", "count", &[], "0: the kernel counts what it delivers.", |_| Datum::Integer(0)),
        map(
            "orig_pkts",
            "count",
            &[Field::PacketsSent, Field::PacketsReceived],
            "Segments or datagrams of the initiator.",
            |facts| facts.source_packets().into(),
        ),
        map(
            "resp_pkts",
            "count",
            &[Field::PacketsSent, Field::PacketsReceived],
            "Segments or datagrams of the responder.",
            |facts| facts.destination_packets().into(),
        ),
        map("ip_proto", "count", &[Field::Protocol], "Number of the protocol.", |facts| facts.protocol.into()),
        map("community_id", "string", &[Field::CommunityId], "As it is.", |facts| facts.event.community_id.into()),
        map("process.pid", "count", &[Field::ProcessPid], "Addition: the process of this host.", |facts| {
            facts.event.pid.into()
        }),
        map("process.name", "string", &[Field::ProcessName], "Addition.", |facts| {
            facts.event.process_name.as_ref().into()
        }),
        map("process.executable", "string", &[Field::ProcessPath], "Addition.", |facts| {
            facts.event.executable.as_ref().into()
        }),
        map("process.command_line", "string", &[Field::ProcessCmdline], "Addition.", |facts| {
            facts.event.command_line.as_ref().into()
        }),
        map("process.user", "string", &[Field::ProcessUser], "Addition.", |facts| facts.event.user.as_ref().into()),
        map("container.id", "string", &[Field::ContainerId], "Addition.", |facts| {
            facts.event.container_id.as_ref().into()
        }),
        map("failure", "string", &[Field::FailureReason], "Addition: why an attempt failed.", |facts| {
            facts.event.failure.map(Failure::name).into()
        }),
        map("host", "string", &[Field::EndpointName], "Addition: name of this host.", |facts| {
            facts.event.endpoint_name.as_ref().into()
        }),
        map("event_id", "string", &[Field::EventId], "Addition: identity of the event.", |facts| {
            facts.event.id.as_ref().into()
        }),
    ],
};

fn conn_state<'a>(facts: &Facts<'a>) -> Datum<'a> {
    let event = facts.event;
    if facts.is_icmp() || event.raw == Some(true) || event.preexisting == Some(true) {
        return "OTH".into();
    }
    // A reset of one end is that of the initiator or of the responder, by who began.
    let reset_by = |is_local: bool| if is_local == facts.is_outgoing() { "RSTO" } else { "RSTR" };
    Datum::Text(match (event.failure, event.close_reason) {
        // Before the flows: a refused flow ends, too.
        (Some(Failure::Refused), _) => "REJ",
        (Some(Failure::Reset), _) => reset_by(false),
        (Some(_), _) => "S0",
        (None, _) if event.is_of_datagrams() => {
            let sent = |bytes: Option<u64>, packets: Option<u64>| packets.or(bytes).is_some_and(|count| count != 0);
            let by_source = sent(facts.source_bytes(), facts.source_packets());
            let by_destination = sent(facts.destination_bytes(), facts.destination_packets());
            match (by_source, by_destination) {
                (true, true) => "SF",
                (true, false) => "S0",
                (false, true) => "SHR",
                (false, false) => "OTH",
            }
        }
        (None, Some(CloseReason::Local | CloseReason::Remote)) => "SF",
        (None, Some(CloseReason::ResetByLocal)) => reset_by(true),
        (None, Some(CloseReason::ResetByRemote)) => reset_by(false),
        (None, Some(CloseReason::TimedOut)) => "S1",
        (None, Some(CloseReason::Idle | CloseReason::NamespaceGone | CloseReason::Unknown) | None) => "OTH",
    })
}
