//! Suricata's EVE: `flow`, one line for each connection or flow that has ended, and for each attempt of TCP that failed.

use netconn_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use crate::{
    fact::{CloseReason, EventKind, Failure},
    field::Field,
    format::{
        EventFormat, FormatRecord, WriteEvent,
        mapping::{self, Facts, map},
        syntax::Syntax,
        value::{Datum, TimeForm, number_of},
    },
};

pub(super) const FORMAT: EventFormat = EventFormat {
    name: "eve",
    meaning: "Suricata's EVE, flow records as JSON, one line for each connection that has ended or failed",
    about: "EVE of Suricata 8 (`src/output-json-flow.c` and `etc/schema.json`, read at 9.0.0-dev, 2026-07-08). Suricata counts the bytes of \
     IP packets in `flow.bytes_toserver` and `flow.bytes_toclient`; netconn knows the payload and writes that there: \
     `netconn.bytes_kind` says so. The object `netconn` is an addition; all other members are in Suricata's schema.",
    heading: None,
    write: WriteEvent::Mapped { syntax: Syntax::Nested, records: &[&FLOW, &ENGINE], choose },
};

fn choose(facts: &Facts<'_>) -> Option<&'static FormatRecord> {
    match facts.event.kind {
        Some(EventKind::DataLoss | EventKind::SensorStart | EventKind::SensorStop) => Some(&ENGINE),
        _ => facts.is_last().then_some(&FLOW),
    }
}

static FLOW: FormatRecord = FormatRecord {
    title: "flow",
    mappings: &[
        map("timestamp", "string", &[Field::Timestamp], "With microseconds and `+0000`.", |facts| {
            facts.time(TimeForm::Microseconds)
        }),
        map("flow_id", "integer", &[Field::ConnectionId], "53 bits of a hash (SHA-1).", |facts| {
            facts.event.connection_id.as_deref().map(number_of).into()
        }),
        map("in_iface", "string", &[Field::Interface], "As it is.", |facts| facts.event.interface.as_ref().into()),
        map("event_type", "string", &[], "`flow`.", |_| "flow".into()),
        map(
            "src_ip",
            "string",
            &[Field::SrcAddress],
            "The initiator; of a folded flow that began here, this end.",
            |facts| facts.source().address.into(),
        ),
        map("src_port", "integer", &[Field::SrcPort], "Of TCP and UDP.", |facts| ports(facts, facts.source().port)),
        map(
            "dest_ip",
            "string",
            &[Field::DstAddress],
            "The responder; of a folded flow that the peers began, this end.",
            |facts| facts.destination().address.into(),
        ),
        map("dest_port", "integer", &[Field::DstPort], "Of TCP and UDP.", |facts| {
            ports(facts, facts.destination().port)
        }),
        map("ip_v", "integer", &[Field::LocalAddress, Field::RemoteAddress], "4 or 6.", |facts| {
            facts
                .event
                .local_address
                .or(facts.event.remote_address)
                .map(|address| if address.is_ipv6() { 6_i64 } else { 4 })
                .into()
        }),
        map("proto", "string", &[Field::Protocol], "`TCP`, `UDP`, `ICMP`, `IPv6-ICMP`, or the number.", |facts| {
            match facts.protocol {
                Some(IPPROTO_TCP) => "TCP".into(),
                Some(IPPROTO_UDP) => "UDP".into(),
                Some(IPPROTO_ICMP) => "ICMP".into(),
                Some(IPPROTO_ICMPV6) => "IPv6-ICMP".into(),
                Some(number) => Datum::Digits(number.into()),
                None => Datum::Absent,
            }
        }),
        map("icmp_type", "integer", &[Field::IcmpType], "As it is.", |facts| facts.event.icmp_type.into()),
        map("icmp_code", "integer", &[Field::IcmpCode], "As it is.", |facts| facts.event.icmp_code.into()),
        map(
            "flow.pkts_toserver",
            "integer",
            &[Field::PacketsSent, Field::PacketsReceived],
            "Packets of the initiator.",
            |facts| facts.source_packets().into(),
        ),
        map(
            "flow.pkts_toclient",
            "integer",
            &[Field::PacketsSent, Field::PacketsReceived],
            "Packets of the responder.",
            |facts| facts.destination_packets().into(),
        ),
        map(
            "flow.bytes_toserver",
            "integer",
            &[Field::BytesSent, Field::BytesReceived],
            "Payload bytes of the initiator.",
            |facts| facts.source_bytes().into(),
        ),
        map(
            "flow.bytes_toclient",
            "integer",
            &[Field::BytesSent, Field::BytesReceived],
            "Payload bytes of the responder.",
            |facts| facts.destination_bytes().into(),
        ),
        map(
            "flow.start",
            "string",
            &[Field::Timestamp, Field::DurationMs],
            "End less duration; not of flows that ended by silence.",
            |facts| facts.start().map_or(Datum::Absent, |start| Datum::Time(start, TimeForm::Microseconds)),
        ),
        map("flow.end", "string", &[Field::Timestamp], "The moment of the event.", |facts| {
            facts.time(TimeForm::Microseconds)
        }),
        map("flow.age", "integer", &[Field::DurationMs], "Whole seconds.", |facts| {
            facts.duration_ns().map(|duration| duration / 1_000_000_000).into()
        }),
        map(
            "flow.state",
            "string",
            &[Field::EventType, Field::BytesSent, Field::BytesReceived],
            "`closed` of TCP, `established` of a flow in both directions, else `new`.",
            |facts| {
                let both = |one: Option<u64>, other: Option<u64>| {
                    one.is_some_and(|count| count != 0) && other.is_some_and(|count| count != 0)
                };
                if facts.is_failure() || !facts.is(EventKind::Close) {
                    "new".into()
                } else if !facts.event.is_of_datagrams() {
                    "closed".into()
                } else if both(facts.event.packets_sent, facts.event.packets_received)
                    || both(facts.event.bytes_sent, facts.event.bytes_received)
                {
                    "established".into()
                } else {
                    "new".into()
                }
            },
        ),
        map(
            "flow.reason",
            "string",
            &[Field::CloseReason, Field::FailureReason],
            "`timeout` by silence, else `unknown`: Suricata's other reasons are its own acts.",
            |facts| {
                let event = facts.event;
                let is_silent = matches!(event.close_reason, Some(CloseReason::Idle | CloseReason::TimedOut))
                    || event.failure == Some(Failure::TimedOut);
                if is_silent { "timeout".into() } else { "unknown".into() }
            },
        ),
        map("flow.alerted", "boolean", &[], "`false`.", |_| Datum::Boolean(false)),
        map("community_id", "string", &[Field::CommunityId], "As it is.", |facts| facts.event.community_id.into()),
        map("tcp.syn", "boolean", &[Field::EventType], "`true`, if the attempt was seen.", |facts| {
            tcp(facts, facts.event.preexisting != Some(true))
        }),
        map("tcp.fin", "boolean", &[Field::CloseReason], "`true` after an end by `local` or `remote`.", |facts| {
            tcp(facts, matches!(facts.event.close_reason, Some(CloseReason::Local | CloseReason::Remote)))
        }),
        map(
            "tcp.rst",
            "boolean",
            &[Field::CloseReason, Field::FailureReason],
            "`true` after a reset, and of `refused`.",
            |facts| tcp(facts, facts.is_reset() || facts.event.failure == Some(Failure::Refused)),
        ),
        map("tcp.state", "string", &[Field::EventType], "`closed`.", |facts| {
            if tcp(facts, true) == Datum::Absent { Datum::Absent } else { "closed".into() }
        }),
        map("host", "string", &[Field::EndpointName], "As it is.", |facts| facts.event.endpoint_name.as_ref().into()),
        map("netconn.bytes_kind", "string", &[Field::BytesSent], "Addition: `payload`, with bytes.", |facts| {
            facts.event.bytes_sent.map(|_| "payload").into()
        }),
        map("netconn.event_id", "string", &[Field::EventId], "Addition.", |facts| facts.event.id.as_ref().into()),
        map("netconn.direction", "string", &[Field::Direction], "Addition: as it is.", |facts| {
            facts.event.direction.map(crate::fact::Direction::name).into()
        }),
        map("netconn.failure", "string", &[Field::FailureReason], "Addition.", |facts| {
            facts.event.failure.map(Failure::name).into()
        }),
        map("netconn.close_reason", "string", &[Field::CloseReason], "Addition.", |facts| {
            facts.event.close_reason.map(CloseReason::name).into()
        }),
        map("netconn.pid", "integer", &[Field::ProcessPid], "Addition: the process of this host.", |facts| {
            facts.event.pid.into()
        }),
        map("netconn.process", "string", &[Field::ProcessName], "Addition.", |facts| {
            facts.event.process_name.as_ref().into()
        }),
        map("netconn.executable", "string", &[Field::ProcessPath], "Addition.", |facts| {
            facts.event.executable.as_ref().into()
        }),
        map("netconn.command_line", "string", &[Field::ProcessCmdline], "Addition.", |facts| {
            facts.event.command_line.as_ref().into()
        }),
        map("netconn.user", "string", &[Field::ProcessUser], "Addition.", |facts| facts.event.user.as_ref().into()),
        map("netconn.container_id", "string", &[Field::ContainerId], "Addition.", |facts| {
            facts.event.container_id.as_ref().into()
        }),
    ],
};

static ENGINE: FormatRecord = FormatRecord {
    title: "engine",
    mappings: &[
        map("timestamp", "string", &[Field::Timestamp], "With microseconds and `+0000`.", |facts| {
            facts.time(TimeForm::Microseconds)
        }),
        map("log_level", "string", &[Field::EventType], "`Warning` of `Data Loss`, else `Notice`.", |facts| {
            if facts.is(EventKind::DataLoss) { "Warning".into() } else { "Notice".into() }
        }),
        map("event_type", "string", &[], "`engine`.", |_| "engine".into()),
        map(
            "engine.message",
            "string",
            &[Field::EventType, Field::LossCount, Field::LossStage],
            "A sentence.",
            mapping::message,
        ),
        map("engine.module", "string", &[], "`netconn`.", |_| "netconn".into()),
        map("host", "string", &[Field::EndpointName], "As it is.", |facts| facts.event.endpoint_name.as_ref().into()),
        map("netconn.event_id", "string", &[Field::EventId], "Addition.", |facts| facts.event.id.as_ref().into()),
        map("netconn.loss_count", "integer", &[Field::LossCount], "Addition.", |facts| facts.event.loss_count.into()),
    ],
};

fn ports<'a>(facts: &Facts<'a>, port: Option<u16>) -> Datum<'a> {
    match facts.protocol {
        Some(IPPROTO_TCP | IPPROTO_UDP) => port.into(),
        _ => Datum::Absent,
    }
}

/// Returns a flag of TCP; not of what a raw socket sends.
fn tcp<'a>(facts: &Facts<'a>, flag: bool) -> Datum<'a> {
    if facts.event.is_of_datagrams() { Datum::Absent } else { Datum::Boolean(flag) }
}
