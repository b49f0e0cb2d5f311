//! Common Event Format of ArcSight.

use std::net::IpAddr;

use crate::{
    fact::{CloseReason, ConnectionStatus, EventKind, Failure, LossStage},
    field::Field,
    format::{
        EventFormat, FormatRecord, WriteEvent,
        mapping::{self, Facts, map},
        syntax::Syntax,
        value::Datum,
    },
};

pub(super) const FORMAT: EventFormat = EventFormat {
    name: "cef",
    meaning: "Common Event Format, one line for each event",
    about: "CEF version 0 (“Implementing ArcSight Common Event Format (CEF)”, version 25 of 28 September 2017), with the names of its dictionary. There are six \
     texts and three numbers for what it has no name for (`cs1` to `cs6`, `cn1` to `cn3`), so that less fits than in the others. IPv6 \
     addresses stand in `c6a2` and `c6a3`, as the standard asks. Bytes are payload. A backslash stands before backslashes, before `|` in \
     the head and before `=` in values; line feeds of values are `\\n` and `\\r`, tabs are spaces, and U+FFFD stands for other control \
     characters.",
    heading: None,
    write: WriteEvent::Mapped {
        syntax: Syntax::Cef,
        records: &[&EVENT],
        choose: |facts| facts.event.kind.map(|_| &EVENT),
    },
};

static EVENT: FormatRecord = FormatRecord {
    title: "Event",
    mappings: &[
        map("Device Vendor", "head", &[Field::SourceVendor], "`netconn`.", |_| "netconn".into()),
        map("Device Product", "head", &[], "`netconn`.", |_| "netconn".into()),
        map("Device Version", "head", &[Field::AgentVersion], "As it is; `0`, if it is not known.", |facts| {
            facts.event.sensor_version.as_deref().unwrap_or("0").into()
        }),
        map(
            "Device Event Class ID",
            "head",
            &[Field::EventType, Field::FailureReason],
            "The kind in lower case with `-`; of an attempt that failed `ip-connect-failed`.",
            class,
        ),
        map("Name", "head", &[Field::EventType], "As it is; `Event`, if there is none.", |facts| {
            facts.event.kind.map_or("Event", EventKind::name).into()
        }),
        map(
            "Severity",
            "head",
            &[Field::EventType, Field::ConnectionStatus],
            "7 of `Data Loss`, 5 of `BLOCKED`, 3 of `FAILURE`, else 1.",
            |facts| {
                Datum::Integer(match facts.event.status {
                    _ if facts.is(EventKind::DataLoss) => 7,
                    Some(ConnectionStatus::Blocked) => 5,
                    Some(ConnectionStatus::Failure) => 3,
                    Some(ConnectionStatus::Success) | None => 1,
                })
            },
        ),
        map("rt", "time", &[Field::EventTime], "Epoch milliseconds.", |facts| facts.milliseconds().into()),
        map(
            "start",
            "time",
            &[Field::Timestamp, Field::DurationMs, Field::LossFrom],
            "Of `IP Close` by its duration, not after silence; of `Data Loss` its beginning.",
            |facts| facts.start().map(crate::moment::Moment::milliseconds).or(facts.event.loss_from_ms).into(),
        ),
        map(
            "end",
            "time",
            &[Field::EventTime, Field::LossTo],
            "Of `IP Close` its moment; of `Data Loss` its end.",
            |facts| {
                if facts.is(EventKind::Close) { facts.milliseconds().into() } else { facts.event.loss_to_ms.into() }
            },
        ),
        map("externalId", "string", &[Field::EventId], "As it is.", |facts| facts.event.id.as_ref().into()),
        map("deviceDirection", "integer", &[Field::Direction], "0 when `INCOMING`, 1 when `OUTGOING`.", |facts| {
            facts.event.direction.map(|_| i64::from(facts.is_outgoing())).into()
        }),
        map("proto", "string", &[Field::Protocol], "As it is.", |facts| facts.event.protocol.as_ref().into()),
        map("outcome", "string", &[Field::ConnectionStatus], "`success`, `failure`.", |facts| {
            match facts.event.status {
                Some(ConnectionStatus::Success) => "success".into(),
                Some(ConnectionStatus::Failure | ConnectionStatus::Blocked) => "failure".into(),
                None => Datum::Absent,
            }
        }),
        map("reason", "string", &[Field::FailureReason, Field::CloseReason, Field::LossStage], "As it is.", |facts| {
            let event = facts.event;
            let of_end = event.failure.map(Failure::name).or(event.close_reason.map(CloseReason::name));
            of_end.or(event.loss_stage.map(LossStage::name)).into()
        }),
        map(
            "msg",
            "string",
            &[Field::EventType, Field::LossCount],
            "A sentence, of `Data Loss`, `Sensor Start`, `Sensor Stop`.",
            mapping::message,
        ),
        map("cnt", "integer", &[Field::LossCount], "As it is.", |facts| facts.event.loss_count.into()),
        map("src", "ipv4", &[Field::SrcAddress], "The initiator, of IPv4.", |facts| {
            facts.source().address.filter(IpAddr::is_ipv4).into()
        }),
        map("c6a2", "ipv6", &[Field::SrcAddress], "The initiator, of IPv6.", |facts| {
            facts.source().address.filter(IpAddr::is_ipv6).into()
        }),
        map("c6a2Label", "string", &[Field::SrcAddress], "`Source IPv6 Address`, with `c6a2`.", |facts| {
            facts.source().address.filter(IpAddr::is_ipv6).map(|_| "Source IPv6 Address").into()
        }),
        map("spt", "integer", &[Field::SrcPort], "The initiator.", |facts| facts.source().port.into()),
        map(
            "dst",
            "ipv4",
            &[Field::DstAddress, Field::LocalAddress],
            "The responder, of IPv4; of listeners, where they listen.",
            |facts| facts.destination().address.filter(IpAddr::is_ipv4).into(),
        ),
        map("c6a3", "ipv6", &[Field::DstAddress, Field::LocalAddress], "The same, of IPv6.", |facts| {
            facts.destination().address.filter(IpAddr::is_ipv6).into()
        }),
        map("c6a3Label", "string", &[Field::DstAddress], "`Destination IPv6 Address`, with `c6a3`.", |facts| {
            facts.destination().address.filter(IpAddr::is_ipv6).map(|_| "Destination IPv6 Address").into()
        }),
        map("dpt", "integer", &[Field::DstPort, Field::LocalPort], "The same.", |facts| {
            facts.destination().port.into()
        }),
        map("out", "long", &[Field::BytesSent, Field::BytesReceived], "Bytes of the initiator.", |facts| {
            facts.source_bytes().into()
        }),
        map("in", "long", &[Field::BytesSent, Field::BytesReceived], "Bytes of the responder.", |facts| {
            facts.destination_bytes().into()
        }),
        map("cn1", "long", &[Field::PacketsSent, Field::PacketsReceived], "Packets of the initiator.", |facts| {
            facts.source_packets().into()
        }),
        map("cn1Label", "string", &[Field::PacketsSent], "`packetsOut`, with `cn1`.", |facts| {
            facts.source_packets().map(|_| "packetsOut").into()
        }),
        map("cn2", "long", &[Field::PacketsSent, Field::PacketsReceived], "Packets of the responder.", |facts| {
            facts.destination_packets().into()
        }),
        map("cn2Label", "string", &[Field::PacketsReceived], "`packetsIn`, with `cn2`.", |facts| {
            facts.destination_packets().map(|_| "packetsIn").into()
        }),
        map("cn3", "long", &[Field::DurationMs], "Milliseconds, cut.", |facts| {
            facts.duration_ns().map(|duration| duration / 1_000_000).into()
        }),
        map("cn3Label", "string", &[Field::DurationMs], "`durationMs`, with `cn3`.", |facts| {
            facts.duration_ns().map(|_| "durationMs").into()
        }),
        map(
            "spid",
            "integer",
            &[Field::ProcessPid, Field::Direction],
            "The process, unless `INCOMING` or of a listener.",
            |facts| at_source(facts, facts.event.pid.into()),
        ),
        map("sproc", "string", &[Field::ProcessName, Field::Direction], "The same.", |facts| {
            at_source(facts, facts.event.process_name.as_ref().into())
        }),
        map("suid", "string", &[Field::ProcessUserId, Field::Direction], "The same.", |facts| {
            at_source(facts, facts.event.user_id.into())
        }),
        map("suser", "string", &[Field::ProcessUser, Field::Direction], "The same.", |facts| {
            at_source(facts, facts.event.user.as_ref().into())
        }),
        map(
            "dpid",
            "integer",
            &[Field::ProcessPid, Field::Direction],
            "The process, when `INCOMING` or of a listener.",
            |facts| at_destination(facts, facts.event.pid.into()),
        ),
        map("dproc", "string", &[Field::ProcessName, Field::Direction], "The same.", |facts| {
            at_destination(facts, facts.event.process_name.as_ref().into())
        }),
        map("duid", "string", &[Field::ProcessUserId, Field::Direction], "The same.", |facts| {
            at_destination(facts, facts.event.user_id.into())
        }),
        map("duser", "string", &[Field::ProcessUser, Field::Direction], "The same.", |facts| {
            at_destination(facts, facts.event.user.as_ref().into())
        }),
        map("filePath", "string", &[Field::ProcessPath], "The executable.", |facts| {
            facts.event.executable.as_ref().into()
        }),
        map("cs1", "string", &[Field::ProcessCmdline], "As it is.", |facts| facts.event.command_line.as_ref().into()),
        map("cs1Label", "string", &[Field::ProcessCmdline], "`commandLine`, with `cs1`.", |facts| {
            label(facts.event.command_line.as_deref(), "commandLine")
        }),
        map("cs2", "string", &[Field::ParentName], "As it is.", |facts| facts.event.parent_name.as_ref().into()),
        map("cs2Label", "string", &[Field::ParentName], "`parentProcess`, with `cs2`.", |facts| {
            label(facts.event.parent_name.as_deref(), "parentProcess")
        }),
        map("cs3", "string", &[Field::ContainerId], "As it is.", |facts| facts.event.container_id.as_ref().into()),
        map("cs3Label", "string", &[Field::ContainerId], "`containerId`, with `cs3`.", |facts| {
            label(facts.event.container_id.as_deref(), "containerId")
        }),
        map("cs4", "string", &[Field::CommunityId], "As it is.", |facts| facts.event.community_id.into()),
        map("cs4Label", "string", &[Field::CommunityId], "`communityId`, with `cs4`.", |facts| {
            facts.event.community_id.map(|_| "communityId").into()
        }),
        map("cs5", "string", &[Field::ConnectionId], "As it is.", |facts| facts.event.connection_id.as_ref().into()),
        map("cs5Label", "string", &[Field::ConnectionId], "`connectionId`, with `cs5`.", |facts| {
            label(facts.event.connection_id.as_deref(), "connectionId")
        }),
        map("cs6", "string", &[Field::SystemdUnit], "As it is.", |facts| facts.event.systemd_unit.as_ref().into()),
        map("cs6Label", "string", &[Field::SystemdUnit], "`systemdUnit`, with `cs6`.", |facts| {
            label(facts.event.systemd_unit.as_deref(), "systemdUnit")
        }),
        map("deviceInboundInterface", "string", &[Field::Interface], "As it is.", |facts| {
            facts.event.interface.as_ref().into()
        }),
        map("dvchost", "string", &[Field::EndpointName], "As it is.", |facts| {
            facts.event.endpoint_name.as_ref().into()
        }),
        map("deviceExternalId", "string", &[Field::AgentUuid], "As it is.", |facts| {
            facts.event.sensor_id.as_ref().into()
        }),
    ],
};

fn class<'a>(facts: &Facts<'a>) -> Datum<'a> {
    Datum::Text(match facts.event.kind {
        Some(EventKind::Connect) if facts.is_failure() => "ip-connect-failed",
        Some(EventKind::Connect) => "ip-connect",
        Some(EventKind::Close) => "ip-close",
        Some(EventKind::Listen) => "ip-listen",
        Some(EventKind::ListenEnd) => "ip-listen-end",
        Some(EventKind::PacketSocket) => "packet-socket",
        Some(EventKind::PacketSocketEnd) => "packet-socket-end",
        Some(EventKind::DataLoss) => "data-loss",
        Some(EventKind::SensorStart) => "sensor-start",
        Some(EventKind::SensorStop) => "sensor-stop",
        None => "event",
    })
}

fn is_at_destination(facts: &Facts<'_>) -> bool {
    facts.is_incoming() || facts.is_listener()
}

fn at_source<'a>(facts: &Facts<'a>, value: Datum<'a>) -> Datum<'a> {
    if is_at_destination(facts) { Datum::Absent } else { value }
}

fn at_destination<'a>(facts: &Facts<'a>, value: Datum<'a>) -> Datum<'a> {
    if is_at_destination(facts) { value } else { Datum::Absent }
}

/// The name of a custom text, which must not stand without it.
fn label<'a>(text: Option<&str>, name: &'static str) -> Datum<'a> {
    text.filter(|text| !text.is_empty()).map(|_| name).into()
}
