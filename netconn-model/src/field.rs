//! The table of event fields: names, types, meanings. [`Event`], its writer and reader, the schema of searches and the
//! documentation are made from it.

use std::net::IpAddr;

pub use crate::members::Type;
use crate::{
    community_id::CommunityId,
    fact::{
        Attribution, CloseReason, ConnectionStatus, Direction, EventKind, Failure, LossStage, PROTOCOLS,
        PROTOCOLS_LOWER,
    },
    members::{MemberInfo, members},
    moment::Moment,
    value::{Domain, Milliseconds, PlainText, Text},
};

/// A line of the table of event fields; the name has literal dots.
pub type FieldInfo = MemberInfo<Field, Section>;

members! {
    /// An event: every fact of it, in wall time, with names resolved. A member that is `None` is not known and is not written.
    ///
    /// The daemon makes it of what the kernel reported; everybody else reads it from a line of native NDJSON, borrowing the
    /// line's text (`serde_json::from_str`). Members that the table does not have are skipped.
    struct Event; enum Field; table FIELDS; enum Section;

    /// What every event begins with.
    Head {
        EventType "event.type" String kind: EventKind, "Kind of the event.";
        EventCategory "event.category" String category: PlainText<'a> => Domain::Names(&["ip"]), "`ip` for the four `IP …` kinds.";
        EventTime "event.time" EpochMilliseconds time_ms: i64, "When it happened in the kernel, epoch milliseconds.";
        Timestamp "timestamp" Rfc3339 time: Moment, "The moment of `event.time` in RFC 3339, UTC, with nanoseconds.";
        EventId "event.id" String id: PlainText<'a>, "Identity of the event, unique.";
    }
    /// The connection, flow or listener.
    Network {
        ConnectionId "event.connection.id" String connection_id: PlainText<'a>, "Identity of the connection, flow or listener: the same in all its events, and in all runs of the daemon within one boot.";
        Direction "event.network.direction" String direction: Direction, "`OUTGOING` or `INCOMING`.";
        Protocol "event.network.protocol" String protocol: PlainText<'a> => Domain::NamesOrNumbers(PROTOCOLS), "`TCP`, `UDP`, `ICMP`, or the number of another protocol.";
        ProtocolName "event.network.protocolName" String protocol_name: PlainText<'a> => Domain::NamesOrNumbers(PROTOCOLS_LOWER), "The protocol in lower case.";
        ConnectionStatus "event.network.connectionStatus" String status: ConnectionStatus, "`SUCCESS`, `FAILURE` or `BLOCKED` (refused by local policy).";
        FailureReason "event.network.failureReason" String failure: Failure, "Why an attempt failed.";
        Errno "event.network.errno" Integer errno: u32, "The kernel's errno behind a failure or an end, positive.";
        CloseReason "event.network.closeReason" String close_reason: CloseReason, "How a connection ended.";
        BytesSent "event.network.bytesSent" Integer bytes_sent: u64, "Payload bytes sent by this host.";
        BytesReceived "event.network.bytesReceived" Integer bytes_received: u64, "Payload bytes received by this host.";
        PacketsSent "event.network.packetsSent" Integer packets_sent: u64, "Segments or datagrams sent by this host.";
        PacketsReceived "event.network.packetsReceived" Integer packets_received: u64, "Segments or datagrams received by this host.";
        DurationMs "event.network.durationMs" Number duration: Milliseconds, "Milliseconds from established to closed, or from the first datagram to the last, with microseconds.";
        ConnectLatencyUs "event.network.connectLatencyUs" Integer connect_latency_us: u64, "Microseconds from SYN to established (outgoing).";
        RttUs "event.network.rttUs" Integer rtt_us: u32, "Smoothed round-trip time at close, microseconds.";
        Retransmits "event.network.retransmits" Integer retransmits: u32, "Segments sent again.";
        Namespace "event.network.namespace" Integer namespace: u32, "Inode of the network namespace.";
        CommunityId "event.network.communityId" String community_id: CommunityId, "Community ID v1 flow hash, seed 0.";
        IcmpType "event.network.icmpType" Integer icmp_type: u8, "Type of the first ICMP message.";
        IcmpCode "event.network.icmpCode" Integer icmp_code: u8, "Code of the first ICMP message.";
        IcmpId "event.network.icmpId" Integer icmp_id: u16, "Identifier of the first ICMP message, for echo only.";
        Folded "event.network.folded" Boolean folded: bool, "`true`: the flow stands for all exchanges of its socket with ends that have no flow of their own.";
        Subflow "event.network.subflow" Boolean subflow: bool, "`true`: an additional path of an MPTCP connection.";
        Interface "event.network.interface" String interface: Text<'a>, "Network interface that the socket is bound to (`SO_BINDTODEVICE`, VRF), or through which its link-local addresses are reached; its index if it has no name any more.";
        Raw "event.network.raw" Boolean raw: bool, "`true`: what a raw socket sent and received. It is no connection: the kernel's TCP or UDP is not behind it, and there is no outcome. Not of ICMP.";
        Preexisting "event.network.preexisting" Boolean preexisting: bool, "`true`: the connection existed before netconn started.";
    }
    /// Both ends, by role and by side.
    Ends {
        SrcAddress "src.ip.address" String src_address: IpAddr, "Address of the initiator.";
        SrcPort "src.port.number" Integer src_port: u16, "Port of the initiator.";
        DstAddress "dst.ip.address" String dst_address: IpAddr, "Address of the responder.";
        DstPort "dst.port.number" Integer dst_port: u16, "Port of the responder.";
        LocalAddress "local.ip.address" String local_address: IpAddr, "Address of this end.";
        LocalPort "local.port.number" Integer local_port: u16, "Port of this end.";
        RemoteAddress "remote.ip.address" String remote_address: IpAddr, "Address of the other end.";
        RemotePort "remote.port.number" Integer remote_port: u16, "Port of the other end.";
    }
    /// Which thread used the socket, and how that is known.
    Owner {
        ProcessTid "src.process.tid" Integer tid: u32, "Thread id of the local process.";
        Attribution "src.process.attribution" String attribution: Attribution, "How the process is known: `connect`, `accept`, `send`, `receive`, `create`, `listener`, `scan` or `unknown`.";
    }
    /// The process and its parent: the same in all events of one process.
    Process {
        ProcessPid "src.process.pid" Integer pid: u32, "Process id of the local process, in both directions.";
        ProcessName "src.process.name" String process_name: Text<'a>, "Name of the process (`comm`), up to 15 bytes.";
        ProcessPath "src.process.image.path" String executable: Text<'a>, "Executable of the process.";
        ImageDevice "src.process.image.device" String image_device: PlainText<'a>, "Device of the file system that has the executable, `major:minor` as in `/proc/PID/mountinfo`.";
        ImageInode "src.process.image.inode" Integer image_inode: u64, "Inode of the executable.";
        MountNamespace "src.process.mountNamespace" Integer mount_namespace: u32, "Inode of the mount namespace in which the executable has its path.";
        ProcessCmdline "src.process.cmdline" String command_line: Text<'a>, "Arguments of the process, joined by spaces, with `***` in the place of secrets; `…` at the end: cut.";
        ProcessCmdlineRedacted "src.process.cmdlineRedacted" Boolean command_line_redacted: bool, "`true`: secrets were taken out of `src.process.cmdline`.";
        ProcessUser "src.process.user" String user: Text<'a>, "Account name of the process.";
        ProcessUserId "src.process.userId" Integer user_id: u32, "Unix user id of the process.";
        ProcessUid "src.process.uid" String process_id: PlainText<'a>, "Unique process id: boot id, pid, start in nanoseconds since boot.";
        ProcessStartTime "src.process.startTime" EpochMilliseconds process_start_ms: i64, "When the process started, epoch milliseconds.";
        ParentPid "src.process.parent.pid" Integer parent_pid: u32, "Process id of the parent.";
        ParentName "src.process.parent.name" String parent_name: Text<'a>, "Name of the parent.";
        ParentPath "src.process.parent.image.path" String parent_executable: Text<'a>, "Executable of the parent.";
        ParentImageDevice "src.process.parent.image.device" String parent_image_device: PlainText<'a>, "Device of the file system that has the executable of the parent.";
        ParentImageInode "src.process.parent.image.inode" Integer parent_image_inode: u64, "Inode of the executable of the parent.";
        ParentMountNamespace "src.process.parent.mountNamespace" Integer parent_mount_namespace: u32, "Inode of the mount namespace in which the executable of the parent has its path.";
        ParentCmdline "src.process.parent.cmdline" String parent_command_line: Text<'a>, "Arguments of the parent, with `***` in the place of secrets; `…` at the end: cut.";
        ParentCmdlineRedacted "src.process.parent.cmdlineRedacted" Boolean parent_command_line_redacted: bool, "`true`: secrets were taken out of `src.process.parent.cmdline`.";
        ParentUid "src.process.parent.uid" String parent_id: PlainText<'a>, "Unique process id of the parent.";
        ProcessAncestors "src.process.ancestors" String ancestors: Text<'a>, "Parents of the process as `name(pid)`, the nearest first, with ` < ` between two: 8 at most, as far as they are known.";
        SystemdUnit "src.process.systemdUnit" String systemd_unit: Text<'a>, "systemd unit of the process.";
        CgroupPath "src.process.cgroupPath" String cgroup_path: Text<'a>, "cgroup of the process.";
        ContainerId "container.id" String container_id: Text<'a>, "Container of the process: its id, mostly 64 hex digits, or the name that LXC or systemd-nspawn gives it.";
    }
    /// On `Packet Socket` and `Packet Socket End`.
    Packet {
        PacketProtocol "packet.protocol" String packet_protocol: Text<'a>, "What the AF_PACKET socket receives: `ALL`, `IPV4`, `ARP`, …, or the number of an Ethernet type.";
        PacketInode "packet.inode" Integer packet_inode: u64, "Inode of the AF_PACKET socket, as in `/proc/net/packet`.";
    }
    /// On `Sensor Start` and `Sensor Stop`.
    Daemon {
        KernelRelease "sensor.kernel" String kernel_release: Text<'a>, "Release of the kernel, on `Sensor Start`.";
        HooksAttached "sensor.hooksAttached" String hooks_attached: Text<'a>, "Hooks that are attached, on `Sensor Start`.";
        HooksMissing "sensor.hooksMissing" String hooks_missing: Text<'a>, "Hooks that are not attached, each with the reason, on `Sensor Start`.";
        MissingCapabilities "sensor.missingCapabilities" String missing_capabilities: Text<'a>, "Capabilities that the daemon was not given, each with what it cannot see without, on `Sensor Start`.";
        PacketSockets "sensor.packetSockets" String packet_sockets: Text<'a>, "Processes with open packet sockets (AF_PACKET, AF_XDP), as name(pid), on `Sensor Start`; `unknown` stands for sockets whose process is not known.";
        Exclude "sensor.exclude" String exclude: Text<'a>, "Rules of the configuration whose matches make no events (`exclude`), one on each line, on `Sensor Start`.";
        EventLimit "sensor.eventLimit" Integer event_limit: u32, "Most events of a kind in a second (`event_limit_per_second`), on `Sensor Start`; absent: no limit.";
        EventsWritten "sensor.events" Integer events_written: u64, "Events made by this run of the daemon, on `Sensor Stop`.";
        EventsExcluded "sensor.excluded" Integer events_excluded: u64, "Events that this run of the daemon has not made, because a rule excludes them, on `Sensor Stop`.";
        RecordsLost "sensor.recordsLost" Integer records_lost: u64, "Kernel records lost by this run of the daemon, on `Sensor Stop`.";
    }
    /// On `Data Loss`.
    Loss {
        LossStage "loss.stage" String loss_stage: LossStage, "Where events were lost: `ring`, `queue`, `disk`, `sink`, `flows` or `fold`.";
        LossOutput "loss.output" String loss_output: Text<'a>, "With `queue`, `disk`, `sink`, and `fold` by a share of the history: the output that lost events, `history` or its path. The loss is reported once that output can write again.";
        LossEventType "loss.eventType" String loss_event_type: EventKind, "With `fold` by `event_limit_per_second`: the `event.type` of the events.";
        LossCount "loss.count" Integer loss_count: u64, "Number of events that will never come; with `flows`, number of datagrams that were counted in no flow.";
        LossRecords "loss.records" Integer loss_records: u64, "With `ring`: number of kernel records that were lost. Most of them cost no event.";
        LossOutgoing "loss.outgoing" Integer loss_outgoing: u64, "`IP Connect` events of TCP with direction `OUTGOING` among `loss.count`, without those of connections that existed before. Added to the attempts that were told, this is the kernel's `ActiveOpens`. Not with `flows`.";
        LossIncoming "loss.incoming" Integer loss_incoming: u64, "All other `IP Connect` events of TCP among `loss.count`. Not with `flows`.";
        LossFrom "loss.from" EpochMilliseconds loss_from_ms: i64, "Beginning of the time in which events were lost, epoch milliseconds.";
        LossTo "loss.to" EpochMilliseconds loss_to_ms: i64, "End of the time in which events were lost, epoch milliseconds.";
    }
    /// The host and its sensor: the same in all events of one daemon.
    Sensor {
        EndpointName "endpoint.name" String endpoint_name: Text<'a>, "Host name.";
        EndpointOs "endpoint.os" String endpoint_os: Text<'a> => Domain::Names(&["linux"]), "`linux`.";
        AgentUuid "agent.uuid" String sensor_id: Text<'a>, "Sensor id, stable per host.";
        AgentVersion "agent.version" String sensor_version: Text<'a>, "Version of the daemon.";
        SiteId "site.id" String site_id: Text<'a>, "Organization, from the configuration.";
        SourceName "dataSource.name" String source_name: Text<'a>, "Name of the data source, from the configuration.";
        SourceVendor "dataSource.vendor" String source_vendor: Text<'a>, "`netconn`.";
        SourceCategory "dataSource.category" String source_category: Text<'a> => Domain::Names(&["security"]), "`security`.";
    }
}

/// Returns the table's entry of the field with this name.
pub fn by_name(name: &str) -> Option<&'static FieldInfo> {
    FIELDS.iter().find(|field| field.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fact::protocol_names;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIELDS.len());
        assert_eq!(Field::LossTo.info().name, "loss.to");
        assert_eq!(by_name("loss.to").map(|field| field.name), Some("loss.to"));
        assert!(by_name("loss").is_none());
    }

    #[test]
    fn closed_sets_stand_in_the_table() {
        assert_eq!(Field::Direction.info().domain, Domain::Names(&["OUTGOING", "INCOMING"]));
        assert_eq!(Field::EventType.info().domain.names().len(), EventKind::ALL.len());
        assert_eq!(Field::DstAddress.info().domain, Domain::Addresses);
        assert_eq!(Field::DstPort.info().domain, Domain::UpTo(65_535));
        assert_eq!(Field::ProcessName.info().domain, Domain::All);
        // Every protocol with a name is in the set.
        for (name, lower) in (0..=255).filter_map(protocol_names) {
            assert!(Field::Protocol.info().domain.names().contains(&name));
            assert!(Field::ProtocolName.info().domain.names().contains(&lower));
        }
    }
}
