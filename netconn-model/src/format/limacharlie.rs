//! LimaCharlie: `NEW_TCP4_CONNECTION` and its like, `NETWORK_CONNECTIONS`, and `NETSTAT_REP` for snapshots.

use netconn_common::{IPPROTO_TCP, IPPROTO_UDP};

use crate::{
    fact::{EventKind, protocol_number},
    field::Field,
    format::{
        EventFormat, FormatRecord, SnapshotFormat, WriteEvent,
        mapping::{EventMapping, Facts, map, map_row},
        syntax::Syntax,
        value::{Datum, TimeForm},
    },
    row::RowField,
    state,
};

/// The platform Linux (`docs/8-reference/id-schema.md`).
const LINUX: i64 = 536_870_912;

const ABOUT: &str = "Events of LimaCharlie's endpoint sensor (`docs/8-reference/edr-events.md` and `routing.md` of its documentation, 2026-08-20), as its \
     outputs write them: `event` and `routing`. `SOURCE` is the initiator. Identities of processes are hashes of netconn's; `oid`, `iid` and \
     the addresses of the sensor are left out, because only LimaCharlie gives them.";

/// Connections as they begin and end.
pub(super) const CONNECTIONS: EventFormat = EventFormat {
    name: "limacharlie",
    meaning: "LimaCharlie's NEW_TCP4_CONNECTION, TERMINATE_TCP4_CONNECTION and the like, as JSON",
    about: ABOUT,
    heading: None,
    write: WriteEvent::Mapped { syntax: Syntax::Nested, records: &[&CONNECTION, &SENSOR], choose },
};

/// The same as connections of a process.
pub(super) const OF_PROCESS: EventFormat = EventFormat {
    name: "limacharlie-network",
    meaning: "LimaCharlie's NETWORK_CONNECTIONS with the process, one for each new connection, as JSON",
    about: ABOUT,
    heading: None,
    write: WriteEvent::Mapped { syntax: Syntax::Nested, records: &[&NETWORK_CONNECTIONS], choose: choose_of_process },
};

/// Snapshots.
pub(super) const ROWS: SnapshotFormat = SnapshotFormat {
    name: "limacharlie",
    meaning: "LimaCharlie's NETSTAT_REP, one JSON object",
    about: "`NETSTAT_REP` of LimaCharlie's endpoint sensor (`docs/8-reference/edr-events.md` of its documentation, 2026-08-20).",
    title: "NETSTAT_REP",
    mappings: &[
        map_row(
            "PROTOCOL",
            "text",
            &[RowField::Protocol, RowField::LocalAddress],
            "`tcp4`, `tcp6`, `udp4`, `udp6`, `icmp4`, `icmp6`, or the number.",
            |facts| {
                let is_v6 =
                    facts.row.local_address.or(facts.row.remote_address).is_some_and(|address| address.is_ipv6());
                facts.row.protocol.as_deref().map_or(Datum::Absent, |name| protocol(name, is_v6))
            },
        ),
        map_row("PROCESS_ID", "integer", &[RowField::Pid], "As it is.", |facts| facts.row.pid.into()),
        map_row("SOURCE.IP_ADDRESS", "text", &[RowField::LocalAddress], "This end.", |facts| {
            facts.row.local_address.into()
        }),
        map_row("SOURCE.PORT", "integer", &[RowField::LocalPort], "This end.", |facts| facts.row.local_port.into()),
        map_row(
            "DESTINATION.IP_ADDRESS",
            "text",
            &[RowField::RemoteAddress],
            "The other end; `0.0.0.0` or `::` of listeners.",
            |facts| match facts.row.remote_address {
                Some(address) => address.into(),
                None if facts.row.local_address.is_some_and(|address| address.is_ipv6()) => "::".into(),
                None => "0.0.0.0".into(),
            },
        ),
        map_row("DESTINATION.PORT", "integer", &[RowField::RemotePort], "The other end; 0 of listeners.", |facts| {
            facts.row.remote_port.unwrap_or(0).into()
        }),
        map_row(
            "STATE",
            "integer",
            &[RowField::State],
            "Of TCP, in the numbers of `MIB_TCP_STATE`: 2 for `LISTENING`, 5 for `ESTABLISHED`.",
            |facts| {
                if facts.row.protocol.as_deref().and_then(protocol_number) != Some(IPPROTO_TCP) {
                    return Datum::Absent;
                }
                facts.row.state.as_deref().and_then(state_number).into()
            },
        ),
        map_row("FILE_PATH", "text", &[RowField::Executable], "As it is.", |facts| {
            facts.row.executable.as_ref().into()
        }),
        map_row("USER_NAME", "text", &[RowField::User], "As it is.", |facts| facts.row.user.as_ref().into()),
    ],
    syntax: Syntax::Nested,
    begin: b"{\"event\":{\"FRIENDLY\":0,\"NETWORK_ACTIVITY\":[\n",
    between: b",\n",
    end: b"\n]},\"routing\":{\"event_type\":\"NETSTAT_REP\",\"plat\":536870912}}\n",
    wants_holders: false,
};

/// The number of a state in `MIB_TCP_STATE` (`tcpmib.h` of Windows), which the `STATE` of LimaCharlie is: 5 is `ESTABLISHED`.
fn state_number(name: &str) -> Option<i64> {
    const NAMES: [&str; 11] = [
        "CLOSED",
        "LISTENING",
        "SYN_SENT",
        "SYN_RECV",
        "ESTABLISHED",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "CLOSE_WAIT",
        "CLOSING",
        "LAST_ACK",
        "TIME_WAIT",
    ];
    // The numbers begin with 1.
    NAMES.iter().position(|known| *known == name).and_then(|place| i64::try_from(place + 1).ok())
}

fn protocol<'a>(name: &'a str, is_v6: bool) -> Datum<'a> {
    Datum::Text(match (name, is_v6) {
        ("TCP", false) => "tcp4",
        ("TCP", true) => "tcp6",
        ("UDP", false) => "udp4",
        ("UDP", true) => "udp6",
        ("ICMP", false) => "icmp4",
        ("ICMP", true) => "icmp6",
        (number, _) => number,
    })
}

fn is_v6(facts: &Facts<'_>) -> bool {
    facts.event.local_address.or(facts.event.remote_address).is_some_and(|address| address.is_ipv6())
}

/// The type of a new or ended connection; `None` of all that LimaCharlie has no name for.
fn connection_type(facts: &Facts<'_>) -> Option<&'static str> {
    let is_new = match facts.event.kind? {
        EventKind::Connect => true,
        EventKind::Close => false,
        _ => return None,
    };
    let is_raw = facts.event.raw == Some(true);
    Some(match (facts.protocol?, is_v6(facts), is_new) {
        _ if is_raw || (is_new && facts.is_failure()) => return None,
        (IPPROTO_TCP, false, true) => "NEW_TCP4_CONNECTION",
        (IPPROTO_TCP, true, true) => "NEW_TCP6_CONNECTION",
        (IPPROTO_UDP, false, true) => "NEW_UDP4_CONNECTION",
        (IPPROTO_UDP, true, true) => "NEW_UDP6_CONNECTION",
        (IPPROTO_TCP, false, false) => "TERMINATE_TCP4_CONNECTION",
        (IPPROTO_TCP, true, false) => "TERMINATE_TCP6_CONNECTION",
        (IPPROTO_UDP, false, false) => "TERMINATE_UDP4_CONNECTION",
        (IPPROTO_UDP, true, false) => "TERMINATE_UDP6_CONNECTION",
        _ => return None,
    })
}

fn choose(facts: &Facts<'_>) -> Option<&'static FormatRecord> {
    match facts.event.kind {
        Some(EventKind::SensorStart | EventKind::SensorStop) => Some(&SENSOR),
        _ => connection_type(facts).map(|_| &CONNECTION),
    }
}

fn choose_of_process(facts: &Facts<'_>) -> Option<&'static FormatRecord> {
    (facts.is(EventKind::Connect) && connection_type(facts).is_some()).then_some(&NETWORK_CONNECTIONS)
}

// Members that all events have.
const EVENT_TIME: EventMapping =
    map("routing.event_time", "integer", &[Field::EventTime], "Epoch milliseconds.", |facts| {
        facts.milliseconds().into()
    });
const EVENT_ID: EventMapping =
    map("routing.event_id", "text", &[Field::EventId], "As it is.", |facts| facts.event.id.as_ref().into());
const HOST_NAME: EventMapping = map("routing.hostname", "text", &[Field::EndpointName], "As it is.", |facts| {
    facts.event.endpoint_name.as_ref().into()
});
const SENSOR_ID: EventMapping =
    map("routing.sid", "UUID", &[Field::AgentUuid], "As it is.", |facts| facts.event.sensor_id.as_ref().into());
const PLATFORM: EventMapping =
    map("routing.plat", "integer", &[Field::EndpointOs], "536870912: Linux.", |_| Datum::Integer(LINUX));
const TS: EventMapping =
    map("ts", "text", &[Field::Timestamp], "UTC, up to the seconds.", |facts| facts.time(TimeForm::Plain));
const THIS: EventMapping = map(
    "routing.this",
    "hash",
    &[Field::ProcessUid],
    "32 hex digits of a hash (SHA-1): the same in all events of the process.",
    |facts| facts.event.process_id.as_deref().map_or(Datum::Absent, Datum::Hex),
);
const PARENT: EventMapping = map("routing.parent", "hash", &[Field::ParentUid], "The same of the parent.", |facts| {
    facts.event.parent_id.as_deref().map_or(Datum::Absent, Datum::Hex)
});

static CONNECTION: FormatRecord = FormatRecord {
    title: "NEW_…_CONNECTION, TERMINATE_…_CONNECTION",
    mappings: &[
        map("event.PROCESS_ID", "integer", &[Field::ProcessPid], "As it is.", |facts| facts.event.pid.into()),
        map("event.STATE", "integer", &[Field::EventType], "5 (`ESTABLISHED`) of new connections of TCP.", |facts| {
            let is_established = facts.is(EventKind::Connect) && facts.protocol == Some(IPPROTO_TCP);
            is_established.then(|| state_number(state::name(netconn_common::tcp_state::ESTABLISHED))).flatten().into()
        }),
        map("event.TIMESTAMP", "integer", &[Field::EventTime], "Epoch milliseconds.", |facts| {
            facts.milliseconds().into()
        }),
        map("event.IP_ADDRESS", "text", &[Field::LocalAddress], "Of UDP: this end.", |facts| {
            of_udp(facts, facts.event.local_address.into())
        }),
        map("event.PORT", "integer", &[Field::LocalPort], "Of UDP: this end.", |facts| {
            of_udp(facts, facts.event.local_port.into())
        }),
        map(
            "event.SOURCE.IP_ADDRESS",
            "text",
            &[Field::SrcAddress],
            "The initiator; of a folded flow that began here, this end.",
            |facts| facts.source().address.into(),
        ),
        map("event.SOURCE.PORT", "integer", &[Field::SrcPort], "The same.", |facts| facts.source().port.into()),
        map(
            "event.DESTINATION.IP_ADDRESS",
            "text",
            &[Field::DstAddress],
            "The responder; of a folded flow that the peers began, this end.",
            |facts| facts.destination().address.into(),
        ),
        map("event.DESTINATION.PORT", "integer", &[Field::DstPort], "The same.", |facts| {
            facts.destination().port.into()
        }),
        map(
            "routing.event_type",
            "text",
            &[Field::EventType, Field::Protocol, Field::LocalAddress],
            "`NEW_TCP4_CONNECTION`, `TERMINATE_UDP6_CONNECTION` and so on.",
            |facts| connection_type(facts).into(),
        ),
        EVENT_TIME,
        EVENT_ID,
        HOST_NAME,
        SENSOR_ID,
        PLATFORM,
        THIS,
        PARENT,
        TS,
    ],
};

static NETWORK_CONNECTIONS: FormatRecord = FormatRecord {
    title: "NETWORK_CONNECTIONS",
    mappings: &[
        map(
            "event.NETWORK_ACTIVITY[].SOURCE.IP_ADDRESS",
            "text",
            &[Field::SrcAddress],
            "The initiator; of a folded flow that began here, this end.",
            |facts| facts.source().address.into(),
        ),
        map("event.NETWORK_ACTIVITY[].SOURCE.PORT", "integer", &[Field::SrcPort], "The same.", |facts| {
            facts.source().port.into()
        }),
        map(
            "event.NETWORK_ACTIVITY[].DESTINATION.IP_ADDRESS",
            "text",
            &[Field::DstAddress],
            "The responder; of a folded flow that the peers began, this end.",
            |facts| facts.destination().address.into(),
        ),
        map("event.NETWORK_ACTIVITY[].DESTINATION.PORT", "integer", &[Field::DstPort], "The same.", |facts| {
            facts.destination().port.into()
        }),
        map(
            "event.NETWORK_ACTIVITY[].IS_OUTGOING",
            "integer",
            &[Field::Direction],
            "1 when `OUTGOING`, 0 when `INCOMING`.",
            |facts| facts.event.direction.map(|_| i64::from(facts.is_outgoing())).into(),
        ),
        map(
            "event.NETWORK_ACTIVITY[].PROTOCOL",
            "text",
            &[Field::Protocol, Field::LocalAddress],
            "`tcp4`, `tcp6`, `udp4`, `udp6`.",
            |facts| facts.event.protocol.as_deref().map_or(Datum::Absent, |name| protocol(name, is_v6(facts))),
        ),
        map("event.NETWORK_ACTIVITY[].TIMESTAMP", "integer", &[Field::EventTime], "Epoch milliseconds.", |facts| {
            facts.milliseconds().into()
        }),
        map("event.PROCESS_ID", "integer", &[Field::ProcessPid], "As it is.", |facts| facts.event.pid.into()),
        map("event.PARENT_PROCESS_ID", "integer", &[Field::ParentPid], "As it is.", |facts| {
            facts.event.parent_pid.into()
        }),
        map("event.COMMAND_LINE", "text", &[Field::ProcessCmdline], "As it is.", |facts| {
            facts.event.command_line.as_ref().into()
        }),
        map("event.FILE_PATH", "text", &[Field::ProcessPath], "As it is.", |facts| {
            facts.event.executable.as_ref().into()
        }),
        map("event.USER_NAME", "text", &[Field::ProcessUser], "As it is.", |facts| facts.event.user.as_ref().into()),
        map("event.CREATION_TIME", "integer", &[Field::ProcessStartTime], "Epoch milliseconds.", |facts| {
            facts.event.process_start_ms.into()
        }),
        map("routing.event_type", "text", &[], "`NETWORK_CONNECTIONS`.", |_| "NETWORK_CONNECTIONS".into()),
        EVENT_TIME,
        EVENT_ID,
        HOST_NAME,
        SENSOR_ID,
        PLATFORM,
        THIS,
        PARENT,
        TS,
    ],
};

static SENSOR: FormatRecord = FormatRecord {
    title: "STARTING_UP, SHUTTING_DOWN",
    mappings: &[
        map("event.TIMESTAMP", "integer", &[Field::EventTime], "Epoch milliseconds.", |facts| {
            facts.milliseconds().into()
        }),
        map("routing.event_type", "text", &[Field::EventType], "`STARTING_UP` or `SHUTTING_DOWN`.", |facts| {
            if facts.is(EventKind::SensorStart) { "STARTING_UP".into() } else { "SHUTTING_DOWN".into() }
        }),
        EVENT_TIME,
        EVENT_ID,
        HOST_NAME,
        SENSOR_ID,
        PLATFORM,
        TS,
    ],
};

fn of_udp<'a>(facts: &Facts<'a>, value: Datum<'a>) -> Datum<'a> {
    if facts.protocol == Some(IPPROTO_UDP) { value } else { Datum::Absent }
}
