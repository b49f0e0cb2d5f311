//! The table of event fields: names, types and meanings. Encoders, columns, the search schema and the documentation
//! are made from it.

/// Type of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// UTF-8 text.
    String,
    /// Whole number, up to 64 bits.
    Integer,
    /// Number with a fraction.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Moment as a whole number: milliseconds since 1970-01-01 UTC.
    EpochMilliseconds,
    /// Moment as text: RFC 3339 in UTC with nine digits after the second.
    Rfc3339,
}

impl Type {
    /// Whether the values are moments, in whichever unit.
    pub fn is_moment(self) -> bool {
        matches!(self, Self::EpochMilliseconds | Self::Rfc3339)
    }

    /// Whether the values are numbers in JSON.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Number | Self::EpochMilliseconds)
    }
}

/// One field of the schema.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Name, with literal dots.
    pub name: &'static str,
    /// The name as a member of a JSON object that is not the first: `,"name":`.
    pub(crate) key: &'static str,
    /// Type of its values.
    pub r#type: Type,
    /// What it means.
    pub meaning: &'static str,
}

macro_rules! fields {
    ($($variant:ident $name:literal $type:ident $meaning:literal;)+) => {
        /// A field of the schema; its number is its place in [`FIELDS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field {
            $(#[doc = $meaning] $variant,)+
        }

        /// All fields, in the order in which events show them.
        pub const FIELDS: &[FieldInfo] = &[$(FieldInfo {
            name: $name,
            key: concat!(",\"", $name, "\":"),
            r#type: Type::$type,
            meaning: $meaning,
        }),+];
    };
}

fields! {
    EventType "event.type" String "Kind of the event.";
    EventCategory "event.category" String "`ip` for the four `IP …` kinds.";
    EventTime "event.time" EpochMilliseconds "Moment in the kernel, epoch milliseconds.";
    Timestamp "timestamp" Rfc3339 "The same moment, RFC 3339 UTC with nanoseconds.";
    EventId "event.id" String "Unique per event.";
    ConnectionId "event.connection.id" String "The same on all events of one connection, flow or listener; survives a restart of the daemon.";
    Direction "event.network.direction" String "`OUTGOING` or `INCOMING`.";
    Protocol "event.network.protocol" String "`TCP`, `UDP`, `ICMP`, or the number of another protocol.";
    ProtocolName "event.network.protocolName" String "The same in lower case.";
    ConnectionStatus "event.network.connectionStatus" String "`SUCCESS`, `FAILURE` or `BLOCKED` (refused by local policy).";
    FailureReason "event.network.failureReason" String "Why an attempt failed.";
    Errno "event.network.errno" Integer "The kernel's errno behind it, positive.";
    CloseReason "event.network.closeReason" String "How a connection ended.";
    BytesSent "event.network.bytesSent" Integer "Payload bytes sent by this host.";
    BytesReceived "event.network.bytesReceived" Integer "Payload bytes received by this host.";
    PacketsSent "event.network.packetsSent" Integer "Segments or datagrams sent by this host.";
    PacketsReceived "event.network.packetsReceived" Integer "Segments or datagrams received by this host.";
    DurationMs "event.network.durationMs" Number "Milliseconds from established to closed, or from the first datagram to the last, with microseconds.";
    ConnectLatencyUs "event.network.connectLatencyUs" Integer "Microseconds from SYN to established (outgoing).";
    RttUs "event.network.rttUs" Integer "Smoothed round-trip time at close, microseconds.";
    Retransmits "event.network.retransmits" Integer "Segments sent again.";
    Namespace "event.network.namespace" Integer "Inode of the network namespace.";
    CommunityId "event.network.communityId" String "Community ID v1 flow hash, seed 0.";
    IcmpType "event.network.icmpType" Integer "Type of the first ICMP message.";
    IcmpCode "event.network.icmpCode" Integer "Code of the first ICMP message.";
    IcmpId "event.network.icmpId" Integer "Identifier of the first ICMP message, of echo only.";
    Folded "event.network.folded" Boolean "`true`: stands for all that its socket exchanges with ends that have no flow of their own.";
    Subflow "event.network.subflow" Boolean "`true`: a further path of an MPTCP connection.";
    Preexisting "event.network.preexisting" Boolean "`true`: the connection was there before netconn.";
    SrcAddress "src.ip.address" String "Address of the initiator.";
    SrcPort "src.port.number" Integer "Port of the initiator.";
    DstAddress "dst.ip.address" String "Address of the responder.";
    DstPort "dst.port.number" Integer "Port of the responder.";
    LocalAddress "local.ip.address" String "Address of this end.";
    LocalPort "local.port.number" Integer "Port of this end.";
    RemoteAddress "remote.ip.address" String "Address of the other end.";
    RemotePort "remote.port.number" Integer "Port of the other end.";
    ProcessPid "src.process.pid" Integer "Process id of the local process, in both directions.";
    ProcessTid "src.process.tid" Integer "Its thread.";
    ProcessName "src.process.name" String "Its name, up to 15 bytes.";
    ProcessPath "src.process.image.path" String "Its executable.";
    ProcessCmdline "src.process.cmdline" String "Its arguments, joined by spaces.";
    ProcessUser "src.process.user" String "Account name.";
    ProcessUserId "src.process.userId" Integer "Unix user id.";
    ProcessUid "src.process.uid" String "Unique process id: boot id, pid, start time.";
    ProcessStartTime "src.process.startTime" EpochMilliseconds "Epoch milliseconds.";
    ParentPid "src.process.parent.pid" Integer "Process id of the parent.";
    ParentName "src.process.parent.name" String "Name of the parent.";
    ParentPath "src.process.parent.image.path" String "Executable of the parent.";
    ParentCmdline "src.process.parent.cmdline" String "Arguments of the parent.";
    ParentUid "src.process.parent.uid" String "Unique process id of the parent.";
    Attribution "src.process.attribution" String "How the process is known.";
    SystemdUnit "src.process.systemdUnit" String "systemd unit of the process.";
    CgroupPath "src.process.cgroupPath" String "cgroup of the process.";
    ContainerId "container.id" String "Container of the process, 64 hex digits.";
    EndpointName "endpoint.name" String "Host name.";
    EndpointOs "endpoint.os" String "`linux`.";
    AgentUuid "agent.uuid" String "Sensor id, stable per host.";
    AgentVersion "agent.version" String "Version of the daemon.";
    SiteId "site.id" String "Organisation, from the configuration.";
    SourceName "dataSource.name" String "Configurable, `netconn`.";
    SourceVendor "dataSource.vendor" String "`netconn`.";
    SourceCategory "dataSource.category" String "`security`.";
    KernelRelease "sensor.kernel" String "Release of the kernel, on `Sensor Start`.";
    HooksAttached "sensor.hooksAttached" String "Hooks that work, on `Sensor Start`.";
    HooksMissing "sensor.hooksMissing" String "Hooks that do not, with the reason, on `Sensor Start`.";
    PacketSockets "sensor.packetSockets" String "Who has sockets open that no hook sees (AF_PACKET, AF_XDP), as name(pid), on `Sensor Start`; `unknown` for those whose process is not known.";
    EventsWritten "sensor.events" Integer "Events made by this run of the daemon, on `Sensor Stop`.";
    RecordsLost "sensor.recordsLost" Integer "Kernel records lost by this run of the daemon, on `Sensor Stop`.";
    LossStage "loss.stage" String "Where something was lost: `ring`, `queue`, `disk` or `flows`; `sink` is kept for outputs to come.";
    LossOutput "loss.output" String "With `queue` and `disk`: which output lost them, `history` or its path; it is told when it can write again.";
    LossCount "loss.count" Integer "How many events will never come; with `flows`, how many datagrams were counted in none.";
    LossRecords "loss.records" Integer "With `ring`: records of the kernel that were lost; most cost no event.";
    LossOutgoing "loss.outgoing" Integer "With `ring`: `IP Connect` events with direction `OUTGOING` among `loss.count`.";
    LossIncoming "loss.incoming" Integer "With `ring`: all other `IP Connect` events among `loss.count`.";
    LossFrom "loss.from" EpochMilliseconds "Since when, epoch milliseconds.";
    LossTo "loss.to" EpochMilliseconds "Until when, epoch milliseconds.";
}

/// Returns the table's entry of the field with this name.
pub fn by_name(name: &str) -> Option<&'static FieldInfo> {
    FIELDS.iter().find(|field| field.name == name)
}

impl Field {
    /// What the table says of this field.
    pub fn info(self) -> &'static FieldInfo {
        &FIELDS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
