//! osquery: events as the result log of `socket_events`, snapshots as rows of `process_open_sockets`.

use netconn_common::{IPPROTO_TCP, IPPROTO_UDP};

use crate::{
    fact::{EventKind, protocol_number},
    field::Field,
    format::{
        EventFormat, FormatRecord, SnapshotFormat, WriteEvent,
        mapping::{Facts, map, map_row},
        syntax::Syntax,
        value::{Datum, TimeForm},
    },
    row::RowField,
};

/// `AF_INET` and `AF_INET6` of Linux.
const FAMILIES: [i64; 2] = [2, 10];

pub(super) const FORMAT: EventFormat = EventFormat {
    name: "osquery",
    meaning: "osquery's result log of socket_events, as JSON",
    about: "Table `socket_events` and the result log in its event format, of osquery 5.23.1 (`specs/posix/socket_events.table`). All values \
     of columns are texts, as in that log. The columns `fd` and `auid` are left out: netconn knows neither. osquery reads calls of \
     the system, so an accepted connection is `accept`; a flow that a peer began is `accept`, too, though there is no such call.",
    heading: None,
    write: WriteEvent::Mapped { syntax: Syntax::Nested, records: &[&SOCKET_EVENTS], choose },
};

/// Snapshots.
pub(super) const ROWS: SnapshotFormat = SnapshotFormat {
    name: "osquery",
    meaning: "osquery's process_open_sockets, a JSON array of rows as of osqueryi --json",
    about: "Table `process_open_sockets` of osquery 5.23.1 (`specs/process_open_sockets.table`), a row for each descriptor of each process, as \
     there; `netconn list` asks for the holders of each socket. All values are texts. `path` is left out: it is of Unix sockets.",
    title: "process_open_sockets",
    mappings: &[
        map_row(
            "pid",
            "INTEGER",
            &[RowField::Pid, RowField::Holders],
            "Of the holder; `-1`, if none is known.",
            |facts| {
                let pid = facts.holder.map(|holder| holder.pid).or(facts.row.pid);
                Datum::Digits(pid.map_or(-1, i64::from))
            },
        ),
        map_row("fd", "BIGINT", &[RowField::Holders], "Of the holder; `-1`, if none is known.", |facts| {
            Datum::Digits(facts.holder.map_or(-1, |holder| holder.fd.into()))
        }),
        map_row("socket", "BIGINT", &[RowField::Inode], "Inode of the socket; `0`, if it is not known.", |facts| {
            Datum::Digits(facts.row.inode.and_then(|inode| i64::try_from(inode).ok()).unwrap_or(0))
        }),
        map_row("family", "INTEGER", &[RowField::LocalAddress], "`2` or `10`.", |facts| {
            let address = facts.row.local_address.or(facts.row.remote_address);
            Datum::Digits(FAMILIES[usize::from(address.is_some_and(|address| address.is_ipv6()))])
        }),
        map_row("protocol", "INTEGER", &[RowField::Protocol], "Number in the header of IP.", |facts| {
            facts
                .row
                .protocol
                .as_deref()
                .and_then(protocol_number)
                .map_or(Datum::Absent, |number| Datum::Digits(number.into()))
        }),
        map_row("local_address", "TEXT", &[RowField::LocalAddress], "As it is.", |facts| {
            facts.row.local_address.into()
        }),
        map_row("remote_address", "TEXT", &[RowField::RemoteAddress], "`0.0.0.0` or `::` of listeners.", |facts| {
            match facts.row.remote_address {
                Some(address) => address.into(),
                None if facts.row.local_address.is_some_and(|address| address.is_ipv6()) => "::".into(),
                None => "0.0.0.0".into(),
            }
        }),
        map_row("local_port", "INTEGER", &[RowField::LocalPort], "`0`, if there is none.", |facts| {
            Datum::Digits(facts.row.local_port.unwrap_or(0).into())
        }),
        map_row("remote_port", "INTEGER", &[RowField::RemotePort], "`0` of listeners.", |facts| {
            Datum::Digits(facts.row.remote_port.unwrap_or(0).into())
        }),
        map_row(
            "state",
            "TEXT",
            &[RowField::State],
            "Of TCP, `LISTEN` for `LISTENING`; empty of all others.",
            |facts| match facts.row.state.as_deref() {
                _ if facts.row.protocol.as_deref().and_then(protocol_number) != Some(IPPROTO_TCP) => "".into(),
                Some("LISTENING") => "LISTEN".into(),
                Some(state) => state.into(),
                None => "UNKNOWN".into(),
            },
        ),
        map_row("net_namespace", "TEXT", &[RowField::Namespace], "As it is.", |facts| {
            facts.row.namespace.map_or(Datum::Absent, |inode| Datum::Digits(inode.into()))
        }),
    ],
    syntax: Syntax::Flat,
    begin: b"[\n",
    between: b",\n",
    end: b"\n]\n",
    wants_holders: true,
};

fn choose(facts: &Facts<'_>) -> Option<&'static FormatRecord> {
    matches!(facts.event.kind, Some(EventKind::Connect | EventKind::Listen)).then_some(&SOCKET_EVENTS)
}

fn digits<'a>(number: Option<impl Into<i64>>) -> Datum<'a> {
    number.map_or(Datum::Absent, |number| Datum::Digits(number.into()))
}

static SOCKET_EVENTS: FormatRecord = FormatRecord {
    title: "socket_events",
    mappings: &[
        map("name", "TEXT", &[], "`socket_events`.", |_| "socket_events".into()),
        map("hostIdentifier", "TEXT", &[Field::EndpointName], "As it is.", |facts| {
            facts.event.endpoint_name.as_ref().into()
        }),
        map("calendarTime", "TEXT", &[Field::Timestamp], "As `asctime` writes it, UTC.", |facts| {
            facts.time(TimeForm::Calendar)
        }),
        map("unixTime", "BIGINT", &[Field::EventTime], "Whole seconds.", |facts| {
            facts.milliseconds().map(|time| time.div_euclid(1000)).into()
        }),
        map("epoch", "BIGINT", &[], "0.", |_| Datum::Integer(0)),
        map("counter", "BIGINT", &[], "0.", |_| Datum::Integer(0)),
        map("numerics", "boolean", &[], "`false`: values are texts.", |_| Datum::Boolean(false)),
        map(
            "columns.action",
            "TEXT",
            &[Field::EventType, Field::Direction],
            "`connect` when `OUTGOING`, `accept` when `INCOMING`, `bind` of `IP Listen`.",
            |facts| match facts.event.kind {
                Some(EventKind::Listen) => "bind".into(),
                _ if facts.is_incoming() => "accept".into(),
                _ => "connect".into(),
            },
        ),
        map("columns.pid", "BIGINT", &[Field::ProcessPid], "As it is.", |facts| digits(facts.event.pid)),
        map("columns.path", "TEXT", &[Field::ProcessPath], "As it is.", |facts| facts.event.executable.as_ref().into()),
        map("columns.family", "INTEGER", &[Field::LocalAddress, Field::RemoteAddress], "`2` or `10`.", |facts| {
            let address = facts.event.local_address.or(facts.event.remote_address);
            digits(address.map(|address| FAMILIES[usize::from(address.is_ipv6())]))
        }),
        map("columns.protocol", "INTEGER", &[Field::Protocol], "Number in the header of IP.", |facts| {
            digits(facts.protocol)
        }),
        map("columns.local_address", "TEXT", &[Field::LocalAddress], "As it is.", |facts| {
            facts.event.local_address.into()
        }),
        map("columns.remote_address", "TEXT", &[Field::RemoteAddress], "As it is.", |facts| {
            facts.event.remote_address.into()
        }),
        map("columns.local_port", "INTEGER", &[Field::LocalPort], "Of TCP and UDP.", |facts| {
            of_ports(facts, facts.event.local_port)
        }),
        map("columns.remote_port", "INTEGER", &[Field::RemotePort], "Of TCP and UDP.", |facts| {
            of_ports(facts, facts.event.remote_port)
        }),
        map("columns.time", "BIGINT", &[Field::EventTime], "Whole seconds.", |facts| {
            digits(facts.milliseconds().map(|time| time.div_euclid(1000)))
        }),
        map("columns.eid", "TEXT", &[Field::EventId], "As it is.", |facts| facts.event.id.as_ref().into()),
        map(
            "columns.status",
            "TEXT",
            &[Field::ConnectionStatus],
            "`succeeded`, `failed`; of raw sockets `succeeded`.",
            |facts| {
                if facts.is_failure() { "failed".into() } else { "succeeded".into() }
            },
        ),
        map("action", "TEXT", &[], "`added`.", |_| "added".into()),
    ],
};

fn of_ports<'a>(facts: &Facts<'a>, port: Option<u16>) -> Datum<'a> {
    match facts.protocol {
        Some(IPPROTO_TCP | IPPROTO_UDP) => digits(port),
        _ => Datum::Absent,
    }
}
