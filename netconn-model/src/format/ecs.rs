//! Elastic Common Schema: documents of the categories `network` and `host`.

use netconn_common::IPPROTO_ICMPV6;

use crate::{
    fact::{Attribution, CloseReason, ConnectionStatus, EventKind, Failure, LossStage},
    field::Field,
    format::{
        EventFormat, FormatRecord, WriteEvent,
        mapping::{self, Facts, map},
        syntax::Syntax,
        value::{Datum, TimeForm},
    },
};

pub(super) const FORMAT: EventFormat = EventFormat {
    name: "ecs",
    meaning: "Elastic Common Schema 9.4.0, as JSON",
    about: "ECS 9.4.0 (`generated/ecs/ecs_flat.yml` of the release). Members below `netconn` are netconn's own: ECS leaves names that it \
     does not have to whoever writes. `source` is the initiator. Bytes are payload. A sensor on a host writes the direction as \
     `ingress` or `egress`.",
    heading: None,
    write: WriteEvent::Mapped {
        syntax: Syntax::Nested,
        records: &[&DOCUMENT],
        choose: |facts| facts.event.kind.map(|_| &DOCUMENT),
    },
};

static DOCUMENT: FormatRecord = FormatRecord {
    title: "Document",
    mappings: &[
        map("@timestamp", "date", &[Field::Timestamp], "RFC 3339.", |facts| facts.time(TimeForm::Rfc3339)),
        map("ecs.version", "keyword", &[], "`9.4.0`.", |_| "9.4.0".into()),
        map("event.kind", "keyword", &[Field::EventType], "`event`; `pipeline_error` of `Data Loss`.", |facts| {
            if facts.is(EventKind::DataLoss) { "pipeline_error".into() } else { "event".into() }
        }),
        map(
            "event.category",
            "keyword list",
            &[Field::EventType],
            "`network`; `host` of `Data Loss`, `Sensor Start`, `Sensor Stop`.",
            |facts| match facts.event.kind {
                Some(EventKind::DataLoss | EventKind::SensorStart | EventKind::SensorStop) => Datum::Names(&["host"]),
                _ => Datum::Names(&["network"]),
            },
        ),
        map(
            "event.type",
            "keyword list",
            &[Field::EventType, Field::ConnectionStatus, Field::FailureReason, Field::Preexisting],
            "`connection` with `start`, `end`; with `denied`, if peer or policy refused; with `info` of what existed before. `start`, `end` of listeners, packet sockets and the sensor. `info` of `Data Loss`.",
            event_type,
        ),
        map(
            "event.action",
            "keyword",
            &[Field::EventType, Field::Direction],
            "`connection_attempted` when `OUTGOING`, `connection_accepted` when `INCOMING`, `disconnect_received` of `IP Close`; else the kind in lower case with `_`.",
            action,
        ),
        map(
            "event.outcome",
            "keyword",
            &[Field::ConnectionStatus],
            "`success`, `failure` (also of `BLOCKED`), `unknown`.",
            |facts| match facts.event.status {
                Some(ConnectionStatus::Success) => "success".into(),
                Some(ConnectionStatus::Failure | ConnectionStatus::Blocked) => "failure".into(),
                None => "unknown".into(),
            },
        ),
        map(
            "event.reason",
            "keyword",
            &[Field::FailureReason, Field::CloseReason, Field::LossStage],
            "As it is.",
            |facts| {
                let event = facts.event;
                let of_end = event.failure.map(Failure::name).or(event.close_reason.map(CloseReason::name));
                of_end.or(event.loss_stage.map(LossStage::name)).into()
            },
        ),
        map("event.id", "keyword", &[Field::EventId], "As it is.", |facts| facts.event.id.as_ref().into()),
        map("event.module", "keyword", &[], "`netconn`.", |_| "netconn".into()),
        map("event.dataset", "keyword", &[], "`netconn.events`.", |_| "netconn.events".into()),
        map("event.provider", "keyword", &[Field::SourceName], "As it is.", |facts| {
            facts.event.source_name.as_ref().into()
        }),
        map("event.code", "keyword", &[Field::EventType], "As it is.", |facts| {
            facts.event.kind.map(EventKind::name).into()
        }),
        map("event.duration", "long", &[Field::DurationMs], "Nanoseconds.", |facts| facts.duration_ns().into()),
        map(
            "event.start",
            "date",
            &[Field::Timestamp, Field::DurationMs, Field::LossFrom],
            "End less duration; not of flows that ended by silence.",
            |facts| match facts.start() {
                Some(start) => Datum::Time(start, TimeForm::Rfc3339),
                None => Facts::time_of(facts.event.loss_from_ms, TimeForm::Rfc3339),
            },
        ),
        map("event.end", "date", &[Field::Timestamp, Field::LossTo], "The moment of `IP Close`.", |facts| {
            if facts.is(EventKind::Close) {
                facts.time(TimeForm::Rfc3339)
            } else {
                Facts::time_of(facts.event.loss_to_ms, TimeForm::Rfc3339)
            }
        }),
        map(
            "message",
            "match_only_text",
            &[Field::EventType, Field::LossCount],
            "A sentence, of `Data Loss`, `Sensor Start`, `Sensor Stop`.",
            mapping::message,
        ),
        map(
            "error.code",
            "keyword",
            &[Field::Errno, Field::FailureReason],
            "Name of the errno, else the reason.",
            mapping::errno_name,
        ),
        map("error.message", "match_only_text", &[Field::Errno], "Text of the errno.", mapping::errno_text),
        map(
            "network.direction",
            "keyword",
            &[Field::Direction],
            "`egress` when `OUTGOING`, `ingress` when `INCOMING`.",
            |facts| match facts.event.direction {
                Some(_) if facts.is_outgoing() => "egress".into(),
                Some(_) => "ingress".into(),
                None => Datum::Absent,
            },
        ),
        map(
            "network.transport",
            "keyword",
            &[Field::ProtocolName],
            "`tcp`, `udp`, `icmp`, `ipv6-icmp`, or the number.",
            |facts| {
                if facts.protocol == Some(IPPROTO_ICMPV6) {
                    "ipv6-icmp".into()
                } else {
                    facts.event.protocol_name.as_ref().into()
                }
            },
        ),
        map("network.iana_number", "keyword", &[Field::Protocol], "Digits.", |facts| {
            facts.protocol.map_or(Datum::Absent, |number| Datum::Digits(number.into()))
        }),
        map("network.type", "keyword", &[Field::LocalAddress, Field::RemoteAddress], "`ipv4` or `ipv6`.", |facts| {
            facts
                .event
                .local_address
                .or(facts.event.remote_address)
                .map(|address| if address.is_ipv6() { "ipv6" } else { "ipv4" })
                .into()
        }),
        map("network.community_id", "keyword", &[Field::CommunityId], "As it is.", |facts| {
            facts.event.community_id.into()
        }),
        map("network.bytes", "long", &[Field::BytesSent, Field::BytesReceived], "Sum.", |facts| facts.bytes().into()),
        map("network.packets", "long", &[Field::PacketsSent, Field::PacketsReceived], "Sum.", |facts| {
            facts.packets().into()
        }),
        map("source.address", "keyword", &[Field::SrcAddress], "The initiator.", |facts| facts.source().address.into()),
        map("source.ip", "ip", &[Field::SrcAddress], "The same.", |facts| facts.source().address.into()),
        map("source.port", "long", &[Field::SrcPort], "The same.", |facts| facts.source().port.into()),
        map(
            "source.bytes",
            "long",
            &[Field::BytesSent, Field::BytesReceived],
            "Bytes that the initiator sent.",
            |facts| facts.source_bytes().into(),
        ),
        map(
            "source.packets",
            "long",
            &[Field::PacketsSent, Field::PacketsReceived],
            "Packets that the initiator sent.",
            |facts| facts.source_packets().into(),
        ),
        map(
            "destination.address",
            "keyword",
            &[Field::DstAddress, Field::LocalAddress],
            "The responder; of listeners, where they listen.",
            |facts| facts.destination().address.into(),
        ),
        map("destination.ip", "ip", &[Field::DstAddress, Field::LocalAddress], "The same.", |facts| {
            facts.destination().address.into()
        }),
        map("destination.port", "long", &[Field::DstPort, Field::LocalPort], "The same.", |facts| {
            facts.destination().port.into()
        }),
        map(
            "destination.bytes",
            "long",
            &[Field::BytesSent, Field::BytesReceived],
            "Bytes that the responder sent.",
            |facts| facts.destination_bytes().into(),
        ),
        map(
            "destination.packets",
            "long",
            &[Field::PacketsSent, Field::PacketsReceived],
            "Packets that the responder sent.",
            |facts| facts.destination_packets().into(),
        ),
        map("client.ip", "ip", &[Field::SrcAddress], "As `source.ip`.", |facts| facts.source().address.into()),
        map("client.port", "long", &[Field::SrcPort], "As `source.port`.", |facts| facts.source().port.into()),
        map("server.ip", "ip", &[Field::DstAddress, Field::LocalAddress], "As `destination.ip`.", |facts| {
            facts.destination().address.into()
        }),
        map("server.port", "long", &[Field::DstPort, Field::LocalPort], "As `destination.port`.", |facts| {
            facts.destination().port.into()
        }),
        map("process.pid", "long", &[Field::ProcessPid], "The process of this host, in both directions.", |facts| {
            facts.event.pid.into()
        }),
        map("process.entity_id", "keyword", &[Field::ProcessUid], "As it is.", |facts| {
            facts.event.process_id.as_ref().into()
        }),
        map("process.start", "date", &[Field::ProcessStartTime], "RFC 3339.", |facts| {
            Facts::time_of(facts.event.process_start_ms, TimeForm::Rfc3339)
        }),
        map("process.name", "keyword", &[Field::ProcessName], "As it is.", |facts| {
            facts.event.process_name.as_ref().into()
        }),
        map("process.executable", "keyword", &[Field::ProcessPath], "As it is.", |facts| {
            facts.event.executable.as_ref().into()
        }),
        map("process.command_line", "wildcard", &[Field::ProcessCmdline], "As it is.", |facts| {
            facts.event.command_line.as_ref().into()
        }),
        map("process.thread.id", "long", &[Field::ProcessTid], "As it is.", |facts| facts.event.tid.into()),
        map("process.user.id", "keyword", &[Field::ProcessUserId], "Digits.", |facts| {
            facts.event.user_id.map_or(Datum::Absent, |id| Datum::Digits(id.into()))
        }),
        map("process.user.name", "keyword", &[Field::ProcessUser], "As it is.", |facts| {
            facts.event.user.as_ref().into()
        }),
        map("process.parent.pid", "long", &[Field::ParentPid], "As it is.", |facts| facts.event.parent_pid.into()),
        map("process.parent.entity_id", "keyword", &[Field::ParentUid], "As it is.", |facts| {
            facts.event.parent_id.as_ref().into()
        }),
        map("process.parent.name", "keyword", &[Field::ParentName], "As it is.", |facts| {
            facts.event.parent_name.as_ref().into()
        }),
        map("process.parent.executable", "keyword", &[Field::ParentPath], "As it is.", |facts| {
            facts.event.parent_executable.as_ref().into()
        }),
        map("process.parent.command_line", "wildcard", &[Field::ParentCmdline], "As it is.", |facts| {
            facts.event.parent_command_line.as_ref().into()
        }),
        map("user.id", "keyword", &[Field::ProcessUserId], "Digits.", |facts| {
            facts.event.user_id.map_or(Datum::Absent, |id| Datum::Digits(id.into()))
        }),
        map("user.name", "keyword", &[Field::ProcessUser], "As it is.", |facts| facts.event.user.as_ref().into()),
        map("container.id", "keyword", &[Field::ContainerId], "As it is.", |facts| {
            facts.event.container_id.as_ref().into()
        }),
        map("service.name", "keyword", &[Field::SystemdUnit], "As it is.", |facts| {
            facts.event.systemd_unit.as_ref().into()
        }),
        map("host.hostname", "keyword", &[Field::EndpointName], "As it is.", |facts| {
            facts.event.endpoint_name.as_ref().into()
        }),
        map("host.name", "keyword", &[Field::EndpointName], "As it is.", |facts| {
            facts.event.endpoint_name.as_ref().into()
        }),
        map("host.os.type", "keyword", &[Field::EndpointOs], "`linux`.", |_| "linux".into()),
        map("host.os.kernel", "keyword", &[Field::KernelRelease], "On `Sensor Start`.", |facts| {
            facts.event.kernel_release.as_ref().into()
        }),
        map("agent.id", "keyword", &[Field::AgentUuid], "As it is.", |facts| facts.event.sensor_id.as_ref().into()),
        map("agent.type", "keyword", &[], "`netconn`.", |_| "netconn".into()),
        map("agent.version", "keyword", &[Field::AgentVersion], "As it is.", |facts| {
            facts.event.sensor_version.as_ref().into()
        }),
        map("organization.id", "keyword", &[Field::SiteId], "As it is.", |facts| facts.event.site_id.as_ref().into()),
        map(
            "related.ip",
            "ip list",
            &[Field::SrcAddress, Field::DstAddress],
            "Both ends, as far as they are known, each once.",
            |facts| {
                let (source, destination) = (facts.source().address, facts.destination().address);
                match (source, destination) {
                    (None, None) => Datum::Absent,
                    (source, destination) => Datum::Addresses([source, destination.filter(|_| source != destination)]),
                }
            },
        ),
        map("related.user", "keyword list", &[Field::ProcessUser], "As it is.", |facts| {
            facts.event.user.as_deref().map_or(Datum::Absent, Datum::ListOf)
        }),
        map("related.hosts", "keyword list", &[Field::EndpointName], "As it is.", |facts| {
            facts.event.endpoint_name.as_deref().map_or(Datum::Absent, Datum::ListOf)
        }),
        map("netconn.bytes_kind", "keyword", &[Field::BytesSent], "`payload`, with bytes.", |facts| {
            facts.event.bytes_sent.map(|_| "payload").into()
        }),
        map("netconn.connection.id", "keyword", &[Field::ConnectionId], "As it is.", |facts| {
            facts.event.connection_id.as_ref().into()
        }),
        map("netconn.attribution", "keyword", &[Field::Attribution], "As it is.", |facts| {
            facts.event.attribution.map(Attribution::name).into()
        }),
        map("netconn.namespace", "long", &[Field::Namespace], "As it is.", |facts| facts.event.namespace.into()),
        map("netconn.interface", "keyword", &[Field::Interface], "As it is.", |facts| {
            facts.event.interface.as_ref().into()
        }),
        map("netconn.connect_latency_us", "long", &[Field::ConnectLatencyUs], "As it is.", |facts| {
            facts.event.connect_latency_us.into()
        }),
        map("netconn.rtt_us", "long", &[Field::RttUs], "As it is.", |facts| facts.event.rtt_us.into()),
        map("netconn.retransmits", "long", &[Field::Retransmits], "As it is.", |facts| facts.event.retransmits.into()),
        map("netconn.icmp.type", "long", &[Field::IcmpType], "As it is.", |facts| facts.event.icmp_type.into()),
        map("netconn.icmp.code", "long", &[Field::IcmpCode], "As it is.", |facts| facts.event.icmp_code.into()),
        map("netconn.folded", "boolean", &[Field::Folded], "As it is.", |facts| facts.event.folded.into()),
        map("netconn.raw", "boolean", &[Field::Raw], "As it is.", |facts| facts.event.raw.into()),
        map("netconn.subflow", "boolean", &[Field::Subflow], "As it is.", |facts| facts.event.subflow.into()),
        map("netconn.preexisting", "boolean", &[Field::Preexisting], "As it is.", |facts| {
            facts.event.preexisting.into()
        }),
        map("netconn.packet.protocol", "keyword", &[Field::PacketProtocol], "As it is.", |facts| {
            facts.event.packet_protocol.as_ref().into()
        }),
        map("netconn.cgroup_path", "keyword", &[Field::CgroupPath], "As it is.", |facts| {
            facts.event.cgroup_path.as_ref().into()
        }),
        map("netconn.loss.count", "long", &[Field::LossCount], "As it is.", |facts| facts.event.loss_count.into()),
        map("netconn.loss.output", "keyword", &[Field::LossOutput], "As it is.", |facts| {
            facts.event.loss_output.as_ref().into()
        }),
        map("netconn.loss.records", "long", &[Field::LossRecords], "As it is.", |facts| {
            facts.event.loss_records.into()
        }),
        map("netconn.sensor.hooks_missing", "keyword", &[Field::HooksMissing], "As it is.", |facts| {
            facts.event.hooks_missing.as_ref().into()
        }),
        map("netconn.sensor.events", "long", &[Field::EventsWritten], "As it is.", |facts| {
            facts.event.events_written.into()
        }),
        map("netconn.sensor.records_lost", "long", &[Field::RecordsLost], "As it is.", |facts| {
            facts.event.records_lost.into()
        }),
    ],
};

fn event_type<'a>(facts: &Facts<'a>) -> Datum<'a> {
    let event = facts.event;
    Datum::Names(match event.kind {
        Some(EventKind::Connect) if event.preexisting == Some(true) => &["connection", "info"],
        Some(EventKind::Connect) if matches!(event.failure, Some(Failure::Refused | Failure::Blocked)) => {
            &["connection", "denied"]
        }
        Some(EventKind::Connect) => &["connection", "start"],
        Some(EventKind::Close) => &["connection", "end"],
        Some(EventKind::Listen | EventKind::PacketSocket | EventKind::SensorStart) => &["start"],
        Some(EventKind::ListenEnd | EventKind::PacketSocketEnd | EventKind::SensorStop) => &["end"],
        Some(EventKind::DataLoss) | None => &["info"],
    })
}

fn action<'a>(facts: &Facts<'a>) -> Datum<'a> {
    match facts.event.kind {
        Some(EventKind::Connect) if facts.is_incoming() => "connection_accepted".into(),
        Some(EventKind::Connect) => "connection_attempted".into(),
        Some(EventKind::Close) => "disconnect_received".into(),
        Some(EventKind::Listen) => "ip_listen".into(),
        Some(EventKind::ListenEnd) => "ip_listen_end".into(),
        Some(EventKind::PacketSocket) => "packet_socket".into(),
        Some(EventKind::PacketSocketEnd) => "packet_socket_end".into(),
        Some(EventKind::DataLoss) => "data_loss".into(),
        Some(EventKind::SensorStart) => "sensor_start".into(),
        Some(EventKind::SensorStop) => "sensor_stop".into(),
        None => Datum::Absent,
    }
}
