//! OCSF: Network Activity (4001); the sensor's own events as Application Lifecycle (6002) and Application Error (6008).

use netconn_common::{IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use crate::{
    fact::{CloseReason, ConnectionStatus, EventKind, Failure},
    field::Field,
    format::{
        EventFormat, FormatRecord, WriteEvent,
        mapping::{self, EventMapping, Facts, joined, map},
        syntax::Syntax,
        value::Datum,
    },
};

/// Version of the schema.
const VERSION: &str = "1.8.0";

pub(super) const FORMAT: EventFormat = EventFormat {
    name: "ocsf",
    meaning: "OCSF 1.8.0, Network Activity (class 4001), as JSON",
    about: "OCSF schema 1.8.0 (2026-03-16, the newest release), classes `network_activity`, `application_lifecycle` and \
     `application_error` with the profiles `host` and `container`. `src_endpoint` is the initiator. Bytes are payload.",
    heading: None,
    write: WriteEvent::Mapped { syntax: Syntax::Nested, records: &[&NETWORK, &LIFECYCLE, &ERROR], choose },
};

fn choose(facts: &Facts<'_>) -> Option<&'static FormatRecord> {
    Some(match facts.event.kind? {
        EventKind::DataLoss => &ERROR,
        EventKind::SensorStart | EventKind::SensorStop => &LIFECYCLE,
        EventKind::Connect
        | EventKind::Close
        | EventKind::Listen
        | EventKind::ListenEnd
        | EventKind::PacketSocket
        | EventKind::PacketSocketEnd => &NETWORK,
    })
}

/// An activity of a class: its number and its caption.
type Activity = (i64, &'static str);

/// The activity in the class Network Activity.
fn activity(facts: &Facts<'_>) -> Activity {
    let event = facts.event;
    match event.kind {
        Some(EventKind::Connect) if event.preexisting == Some(true) => (99, "Existing"),
        Some(EventKind::Connect) => match event.failure {
            None => (1, "Open"),
            Some(Failure::Refused) => (5, "Refuse"),
            Some(Failure::Reset) => (3, "Reset"),
            Some(_) => (4, "Fail"),
        },
        Some(EventKind::Close)
            if matches!(event.close_reason, Some(CloseReason::ResetByLocal | CloseReason::ResetByRemote)) =>
        {
            (3, "Reset")
        }
        Some(EventKind::Close) => (2, "Close"),
        Some(EventKind::Listen | EventKind::PacketSocket) => (7, "Listen"),
        Some(EventKind::ListenEnd | EventKind::PacketSocketEnd) => (99, "Listen End"),
        _ => (0, "Unknown"),
    }
}

fn lifecycle(facts: &Facts<'_>) -> Activity {
    if facts.is(EventKind::SensorStart) { (3, "Start") } else { (4, "Stop") }
}

fn error(_facts: &Facts<'_>) -> Activity {
    (1, "General Error")
}

const ACTIVITY_RULE: &str = "1 `Open`: established, accepted, or the beginning of a flow. 2 `Close`. 3 `Reset`: ended or refused by a reset behind the first answer. 5 `Refuse`: `refused`. 4 `Fail`: any other failure. 7 `Listen`: a listener or packet socket. 99: `Existing` (existed before netconn started), `Listen End`.";

/// Members that say which class and activity an event has; the same rules for each class, by its number and names.
macro_rules! class {
    ($uid:literal, $name:literal, $category:literal, $category_name:literal, $activity:ident, $rule:expr) => {
        [
            map(
                "activity_id",
                "integer",
                &[Field::EventType, Field::FailureReason, Field::CloseReason, Field::Preexisting],
                $rule,
                |facts| $activity(facts).0.into(),
            ),
            map("activity_name", "string", &[Field::EventType], "The caption of it.", |facts| {
                $activity(facts).1.into()
            }),
            map("category_uid", "integer", &[], concat!("`", $category, "`."), |_| Datum::Integer($category)),
            map("category_name", "string", &[], concat!("`", $category_name, "`."), |_| $category_name.into()),
            map("class_uid", "integer", &[], concat!("`", $uid, "`."), |_| Datum::Integer($uid)),
            map("class_name", "string", &[], concat!("`", $name, "`."), |_| $name.into()),
            map("type_uid", "long", &[Field::EventType], concat!("`", $uid, "` · 100 + `activity_id`."), |facts| {
                Datum::Integer($uid * 100 + $activity(facts).0)
            }),
            map("type_name", "string", &[Field::EventType], "Class and activity.", |facts| {
                Datum::Made(format!(concat!($name, ": {}"), $activity(facts).1))
            }),
        ]
    };
}

const NETWORK_CLASS: [EventMapping; 8] =
    class!(4001, "Network Activity", 4, "Network Activity", activity, ACTIVITY_RULE);
const LIFECYCLE_CLASS: [EventMapping; 8] =
    class!(6002, "Application Lifecycle", 6, "Application Activity", lifecycle, "3 `Start`, 4 `Stop`.");
const ERROR_CLASS: [EventMapping; 8] =
    class!(6008, "Application Error", 6, "Application Activity", error, "1 `General Error`.");

/// Members that all classes have.
const COMMON: [EventMapping; 16] = [
    map("time", "timestamp", &[Field::EventTime], "Epoch milliseconds.", |facts| facts.milliseconds().into()),
    map("metadata.version", "string", &[], "`1.8.0`.", |_| VERSION.into()),
    map("metadata.product.name", "string", &[], "`netconn`.", |_| "netconn".into()),
    map("metadata.product.vendor_name", "string", &[Field::SourceVendor], "`netconn`.", |_| "netconn".into()),
    map("metadata.product.version", "string", &[Field::AgentVersion], "As it is.", |facts| {
        facts.event.sensor_version.as_ref().into()
    }),
    map("metadata.profiles", "string list", &[], "`host`, `container`.", |_| Datum::Names(&["host", "container"])),
    map("metadata.uid", "string", &[Field::EventId], "As it is.", |facts| facts.event.id.as_ref().into()),
    map("metadata.event_code", "string", &[Field::EventType], "As it is.", |facts| {
        facts.event.kind.map(EventKind::name).into()
    }),
    map("metadata.log_name", "string", &[Field::SourceName], "As it is.", |facts| {
        facts.event.source_name.as_ref().into()
    }),
    map("metadata.tenant_uid", "string", &[Field::SiteId], "As it is.", |facts| facts.event.site_id.as_ref().into()),
    map("timezone_offset", "integer", &[], "0: times are UTC.", |_| Datum::Integer(0)),
    map("device.type_id", "integer", &[], "0: netconn does not know whether the host is a server.", |_| {
        Datum::Integer(0)
    }),
    map("device.hostname", "hostname", &[Field::EndpointName], "As it is.", |facts| {
        facts.event.endpoint_name.as_ref().into()
    }),
    map("device.uid", "string", &[Field::AgentUuid], "As it is.", |facts| facts.event.sensor_id.as_ref().into()),
    map("device.os.name", "string", &[Field::EndpointOs], "`linux`.", |_| "linux".into()),
    map("device.os.type_id", "integer", &[Field::EndpointOs], "200: Linux.", |_| Datum::Integer(200)),
];

static NETWORK: FormatRecord = FormatRecord {
    title: "Network Activity (4001)",
    mappings: &joined::<85>(&[&NETWORK_CLASS, &COMMON, &NETWORK_MEMBERS]),
};

static LIFECYCLE: FormatRecord = FormatRecord {
    title: "Application Lifecycle (6002)",
    mappings: &joined::<33>(&[&LIFECYCLE_CLASS, &COMMON, &LIFECYCLE_MEMBERS]),
};

static ERROR: FormatRecord = FormatRecord {
    title: "Application Error (6008)",
    mappings: &joined::<33>(&[&ERROR_CLASS, &COMMON, &ERROR_MEMBERS]),
};

const NETWORK_MEMBERS: [EventMapping; 61] = [
    map(
        "severity_id",
        "integer",
        &[Field::ConnectionStatus],
        "1 Informational; 2 Low, if local policy refused.",
        |facts| Datum::Integer(if facts.event.status == Some(ConnectionStatus::Blocked) { 2 } else { 1 }),
    ),
    map(
        "status_id",
        "integer",
        &[Field::ConnectionStatus],
        "1 Success; 2 Failure, also of `BLOCKED`; 0 Unknown.",
        |facts| {
            Datum::Integer(match facts.event.status {
                Some(ConnectionStatus::Success) => 1,
                Some(ConnectionStatus::Failure | ConnectionStatus::Blocked) => 2,
                None => 0,
            })
        },
    ),
    map("status", "string", &[Field::ConnectionStatus], "As it is: `SUCCESS`, `FAILURE`, `BLOCKED`.", |facts| {
        facts.event.status.map(ConnectionStatus::name).into()
    }),
    map(
        "status_code",
        "string",
        &[Field::Errno, Field::FailureReason],
        "Name of the errno, else the reason.",
        mapping::errno_name,
    ),
    map(
        "status_detail",
        "string",
        &[Field::Errno, Field::CloseReason],
        "Text of the errno; of an end without one, how it ended.",
        |facts| match mapping::errno_text(facts) {
            Datum::Absent => facts.event.close_reason.map(CloseReason::name).into(),
            text => text,
        },
    ),
    map("duration", "long", &[Field::DurationMs], "Milliseconds, cut.", |facts| {
        facts.duration_ns().map(|duration| duration / 1_000_000).into()
    }),
    map(
        "start_time",
        "timestamp",
        &[Field::Timestamp, Field::DurationMs],
        "End less duration; not of flows that ended by silence.",
        |facts| facts.start().map(crate::moment::Moment::milliseconds).into(),
    ),
    map("is_src_dst_assignment_known", "boolean", &[Field::Direction], "Whether there is a direction.", |facts| {
        facts.event.direction.is_some().into()
    }),
    map(
        "observation_point_id",
        "integer",
        &[Field::Direction],
        "1 Source when `OUTGOING`, 2 Destination when `INCOMING` and of listeners, 4 Both within the host, 0 Unknown.",
        |facts| {
            Datum::Integer(match () {
                () if facts.event.direction.is_some() && facts.is_loopback() => 4,
                () if facts.is_outgoing() => 1,
                () if facts.is_incoming() || facts.is_listener() => 2,
                () => 0,
            })
        },
    ),
    map(
        "connection_info.direction_id",
        "integer",
        &[Field::Direction],
        "4 Local within the host, 1 Inbound when `INCOMING`, 2 Outbound when `OUTGOING`, 0 Unknown.",
        |facts| {
            Datum::Integer(match () {
                () if facts.event.direction.is_some() && facts.is_loopback() => 4,
                () if facts.is_incoming() => 1,
                () if facts.is_outgoing() => 2,
                () => 0,
            })
        },
    ),
    map("connection_info.uid", "string", &[Field::ConnectionId], "As it is.", |facts| {
        facts.event.connection_id.as_ref().into()
    }),
    map("connection_info.community_uid", "string", &[Field::CommunityId], "As it is.", |facts| {
        facts.event.community_id.into()
    }),
    map(
        "connection_info.protocol_name",
        "string",
        &[Field::ProtocolName, Field::PacketProtocol],
        "`tcp`, `udp`, `icmp`, `ipv6-icmp`, or the number; of packet sockets `packet`.",
        |facts| match facts.protocol {
            Some(IPPROTO_ICMPV6) => "ipv6-icmp".into(),
            _ if facts.is_packet_socket() => "packet".into(),
            _ => facts.event.protocol_name.as_ref().into(),
        },
    ),
    map("connection_info.protocol_num", "integer", &[Field::Protocol], "Number in the header of IP.", |facts| {
        facts.protocol.into()
    }),
    map(
        "connection_info.protocol_ver_id",
        "integer",
        &[Field::LocalAddress, Field::RemoteAddress],
        "4 or 6.",
        |facts| {
            facts
                .event
                .local_address
                .or(facts.event.remote_address)
                .map(|address| if address.is_ipv6() { 6_i64 } else { 4 })
                .into()
        },
    ),
    map(
        "src_endpoint.ip",
        "ip",
        &[Field::SrcAddress],
        "The initiator; of a folded flow that began here, this end.",
        |facts| facts.source().address.into(),
    ),
    map("src_endpoint.port", "port", &[Field::SrcPort], "The same.", |facts| with_ports(facts, facts.source().port)),
    map(
        "src_endpoint.hostname",
        "hostname",
        &[Field::EndpointName, Field::Direction],
        "Name of this host, when `OUTGOING`.",
        |facts| {
            if facts.is_outgoing() { facts.event.endpoint_name.as_ref().into() } else { Datum::Absent }
        },
    ),
    map(
        "src_endpoint.interface_name",
        "string",
        &[Field::Interface, Field::Direction],
        "The interface of this end, when `OUTGOING`.",
        |facts| {
            if facts.is_outgoing() { facts.event.interface.as_ref().into() } else { Datum::Absent }
        },
    ),
    map(
        "dst_endpoint.ip",
        "ip",
        &[Field::DstAddress, Field::LocalAddress],
        "The responder; of listeners, where they listen.",
        |facts| facts.destination().address.into(),
    ),
    map("dst_endpoint.port", "port", &[Field::DstPort, Field::LocalPort], "The same.", |facts| {
        with_ports(facts, facts.destination().port)
    }),
    map(
        "dst_endpoint.hostname",
        "hostname",
        &[Field::EndpointName, Field::Direction],
        "Name of this host, when `INCOMING` and of sockets without a direction.",
        |facts| {
            if facts.is_outgoing() { Datum::Absent } else { facts.event.endpoint_name.as_ref().into() }
        },
    ),
    map(
        "dst_endpoint.interface_name",
        "string",
        &[Field::Interface, Field::Direction],
        "The interface of this end, when `INCOMING` and of sockets without a direction.",
        |facts| {
            if facts.is_outgoing() { Datum::Absent } else { facts.event.interface.as_ref().into() }
        },
    ),
    map("actor.process.pid", "integer", &[Field::ProcessPid], "As it is.", |facts| facts.event.pid.into()),
    map("actor.process.uid", "string", &[Field::ProcessUid], "As it is.", |facts| {
        facts.event.process_id.as_ref().into()
    }),
    map("actor.process.ptid", "long", &[Field::ProcessTid], "As it is.", |facts| facts.event.tid.into()),
    map("actor.process.created_time", "timestamp", &[Field::ProcessStartTime], "Epoch milliseconds.", |facts| {
        facts.event.process_start_ms.into()
    }),
    map("actor.process.name", "string", &[Field::ProcessName], "As it is.", |facts| {
        facts.event.process_name.as_ref().into()
    }),
    map("actor.process.cmd_line", "string", &[Field::ProcessCmdline], "As it is.", |facts| {
        facts.event.command_line.as_ref().into()
    }),
    map("actor.process.file.name", "string", &[Field::ProcessPath], "The last name of the path.", |facts| {
        Facts::file_name(facts.event.executable.as_deref())
    }),
    map("actor.process.file.path", "string", &[Field::ProcessPath], "As it is.", |facts| {
        facts.event.executable.as_ref().into()
    }),
    map("actor.process.file.type_id", "integer", &[Field::ProcessPath], "1: Regular File.", |facts| {
        facts.event.executable.as_ref().map(|_| 1_i64).into()
    }),
    map("actor.process.user.uid", "string", &[Field::ProcessUserId], "Digits.", |facts| {
        facts.event.user_id.map_or(Datum::Absent, |id| Datum::Digits(id.into()))
    }),
    map("actor.process.user.name", "string", &[Field::ProcessUser], "As it is.", |facts| {
        facts.event.user.as_ref().into()
    }),
    map("actor.process.container.uid", "string", &[Field::ContainerId], "As it is.", |facts| {
        facts.event.container_id.as_ref().into()
    }),
    map("actor.process.parent_process.pid", "integer", &[Field::ParentPid], "As it is.", |facts| {
        facts.event.parent_pid.into()
    }),
    map("actor.process.parent_process.uid", "string", &[Field::ParentUid], "As it is.", |facts| {
        facts.event.parent_id.as_ref().into()
    }),
    map("actor.process.parent_process.name", "string", &[Field::ParentName], "As it is.", |facts| {
        facts.event.parent_name.as_ref().into()
    }),
    map("actor.process.parent_process.cmd_line", "string", &[Field::ParentCmdline], "As it is.", |facts| {
        facts.event.parent_command_line.as_ref().into()
    }),
    map(
        "actor.process.parent_process.file.name",
        "string",
        &[Field::ParentPath],
        "The last name of the path.",
        |facts| Facts::file_name(facts.event.parent_executable.as_deref()),
    ),
    map("actor.process.parent_process.file.path", "string", &[Field::ParentPath], "As it is.", |facts| {
        facts.event.parent_executable.as_ref().into()
    }),
    map("actor.process.parent_process.file.type_id", "integer", &[Field::ParentPath], "1: Regular File.", |facts| {
        facts.event.parent_executable.as_ref().map(|_| 1_i64).into()
    }),
    map(
        "actor.app_name",
        "string",
        &[Field::SystemdUnit, Field::ProcessName],
        "The systemd unit, else the name of the process.",
        |facts| facts.event.systemd_unit.as_ref().or(facts.event.process_name.as_ref()).into(),
    ),
    map("traffic.bytes", "long", &[Field::BytesSent, Field::BytesReceived], "Sum.", |facts| facts.bytes().into()),
    map(
        "traffic.bytes_out",
        "long",
        &[Field::BytesSent, Field::BytesReceived],
        "From source to destination: sent when `OUTGOING`, received when `INCOMING`.",
        |facts| facts.source_bytes().into(),
    ),
    map(
        "traffic.bytes_in",
        "long",
        &[Field::BytesSent, Field::BytesReceived],
        "From destination to source.",
        |facts| facts.destination_bytes().into(),
    ),
    map("traffic.packets", "long", &[Field::PacketsSent, Field::PacketsReceived], "Sum.", |facts| {
        facts.packets().into()
    }),
    map(
        "traffic.packets_out",
        "long",
        &[Field::PacketsSent, Field::PacketsReceived],
        "From source to destination.",
        |facts| facts.source_packets().into(),
    ),
    map(
        "traffic.packets_in",
        "long",
        &[Field::PacketsSent, Field::PacketsReceived],
        "From destination to source.",
        |facts| facts.destination_packets().into(),
    ),
    map("unmapped.attribution", "string", &[Field::Attribution], "As it is.", |facts| {
        facts.event.attribution.map(crate::fact::Attribution::name).into()
    }),
    map("unmapped.namespace", "integer", &[Field::Namespace], "As it is.", |facts| facts.event.namespace.into()),
    map("unmapped.connect_latency_us", "integer", &[Field::ConnectLatencyUs], "As it is.", |facts| {
        facts.event.connect_latency_us.into()
    }),
    map("unmapped.rtt_us", "integer", &[Field::RttUs], "As it is.", |facts| facts.event.rtt_us.into()),
    map("unmapped.retransmits", "integer", &[Field::Retransmits], "As it is.", |facts| facts.event.retransmits.into()),
    map("unmapped.icmp_type", "integer", &[Field::IcmpType], "As it is.", |facts| facts.event.icmp_type.into()),
    map("unmapped.icmp_code", "integer", &[Field::IcmpCode], "As it is.", |facts| facts.event.icmp_code.into()),
    map("unmapped.folded", "boolean", &[Field::Folded], "As it is.", |facts| facts.event.folded.into()),
    map("unmapped.raw", "boolean", &[Field::Raw], "As it is.", |facts| facts.event.raw.into()),
    map("unmapped.subflow", "boolean", &[Field::Subflow], "As it is.", |facts| facts.event.subflow.into()),
    map("unmapped.packet_protocol", "string", &[Field::PacketProtocol], "As it is.", |facts| {
        facts.event.packet_protocol.as_ref().into()
    }),
    map("unmapped.cgroup_path", "string", &[Field::CgroupPath], "As it is.", |facts| {
        facts.event.cgroup_path.as_ref().into()
    }),
];

/// Ports are those of TCP and UDP; other protocols of raw sockets have none.
fn with_ports<'a>(facts: &Facts<'a>, port: Option<u16>) -> Datum<'a> {
    match facts.protocol {
        Some(IPPROTO_TCP | IPPROTO_UDP) => port.into(),
        _ => Datum::Absent,
    }
}

const LIFECYCLE_MEMBERS: [EventMapping; 9] = [
    // First: it goes on with the object that the common members end with.
    map("device.os.kernel_release", "string", &[Field::KernelRelease], "On `Sensor Start`.", |facts| {
        facts.event.kernel_release.as_ref().into()
    }),
    map("severity_id", "integer", &[], "1 Informational.", |_| Datum::Integer(1)),
    map("app.name", "string", &[], "`netconn`.", |_| "netconn".into()),
    map("app.vendor_name", "string", &[], "`netconn`.", |_| "netconn".into()),
    map("app.version", "string", &[Field::AgentVersion], "As it is.", |facts| {
        facts.event.sensor_version.as_ref().into()
    }),
    map("message", "string", &[Field::EventType], "A sentence.", mapping::message),
    map("unmapped.hooks_missing", "string", &[Field::HooksMissing], "As it is.", |facts| {
        facts.event.hooks_missing.as_ref().into()
    }),
    map("unmapped.events", "integer", &[Field::EventsWritten], "As it is.", |facts| facts.event.events_written.into()),
    map("unmapped.records_lost", "integer", &[Field::RecordsLost], "As it is.", |facts| {
        facts.event.records_lost.into()
    }),
];

const ERROR_MEMBERS: [EventMapping; 9] = [
    map("severity_id", "integer", &[], "3 Medium: something is missing in what is seen.", |_| Datum::Integer(3)),
    map("message", "string", &[Field::LossCount, Field::LossStage, Field::LossOutput], "A sentence.", mapping::message),
    map("count", "integer", &[Field::LossCount], "As it is.", |facts| facts.event.loss_count.into()),
    map("start_time", "timestamp", &[Field::LossFrom], "As it is.", |facts| facts.event.loss_from_ms.into()),
    map("end_time", "timestamp", &[Field::LossTo], "As it is.", |facts| facts.event.loss_to_ms.into()),
    map("status_code", "string", &[Field::LossStage], "As it is.", |facts| {
        facts.event.loss_stage.map(crate::fact::LossStage::name).into()
    }),
    map("unmapped.records", "integer", &[Field::LossRecords], "As it is.", |facts| facts.event.loss_records.into()),
    map("unmapped.outgoing", "integer", &[Field::LossOutgoing], "As it is.", |facts| facts.event.loss_outgoing.into()),
    map("unmapped.incoming", "integer", &[Field::LossIncoming], "As it is.", |facts| facts.event.loss_incoming.into()),
];
