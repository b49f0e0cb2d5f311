//! Facts of connections and events that have a closed set of values, with their names in JSON.

use std::net::IpAddr;

use netconn_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use crate::value::names;

names! {
    /// Kinds of events, `event.type`.
    EventKind, "a kind of event" {
        /// An attempt has its outcome, a connection was accepted, or a flow of datagrams began.
        Connect "IP Connect",
        /// An established connection or a flow has ended.
        Close "IP Close",
        /// A socket started to listen, or was bound to receive datagrams.
        Listen "IP Listen",
        /// A socket stopped listening.
        ListenEnd "IP Listen End",
        /// A packet socket (AF_PACKET) was opened.
        PacketSocket "Packet Socket",
        /// A packet socket was closed.
        PacketSocketEnd "Packet Socket End",
        /// Events could not be delivered.
        DataLoss "Data Loss",
        /// The daemon started.
        SensorStart "Sensor Start",
        /// The daemon stopped.
        SensorStop "Sensor Stop",
    }
}

names! {
    /// Which end began a connection, `event.network.direction`.
    Direction, "OUTGOING or INCOMING" {
        /// A process of this host began it.
        Outgoing "OUTGOING",
        /// The peer began it.
        Incoming "INCOMING",
    }
}

names! {
    /// Why an attempt failed, `event.network.failureReason`.
    Failure, "a reason of failure" {
        /// The peer answered with a reset.
        Refused "refused",
        /// No answer came in time.
        TimedOut "timed_out",
        /// The host cannot be reached (no ARP answer, ICMP host unreachable).
        HostUnreachable "host_unreachable",
        /// The network cannot be reached (no route, ICMP network unreachable).
        NetUnreachable "net_unreachable",
        /// The peer sent a reset after its first answer.
        Reset "reset",
        /// This end closed the socket before an answer came.
        Aborted "aborted",
        /// No local port was left.
        NoPorts "no_ports",
        /// A policy of this host forbids it.
        Blocked "blocked",
        /// Another reason; see the errno.
        Other "other",
    }
}

names! {
    /// How a connection ended, `event.network.closeReason`.
    CloseReason, "a reason of an end" {
        /// This end closed first.
        Local "local",
        /// The peer closed first.
        Remote "remote",
        /// This end sent a reset.
        ResetByLocal "reset_by_local",
        /// The peer sent a reset.
        ResetByRemote "reset_by_remote",
        /// The peer stopped answering.
        TimedOut "timed_out",
        /// A flow of datagrams exchanged nothing for the configured time.
        Idle "idle",
        /// The network namespace is gone; the end itself was not seen.
        NamespaceGone "netns_gone",
        /// The end itself was not seen.
        Unknown "unknown",
    }
}

names! {
    /// Whether an attempt succeeded, `event.network.connectionStatus`.
    ConnectionStatus, "SUCCESS, FAILURE or BLOCKED" {
        /// The connection was established, or a datagram was exchanged.
        Success "SUCCESS",
        /// The attempt failed.
        Failure "FAILURE",
        /// A policy of this host refused the attempt (EPERM, EACCES).
        Blocked "BLOCKED",
    }
}

names! {
    /// Which timer of a TCP socket runs, `timer` of rows.
    Timer, "a timer" {
        /// Sends again what is not acknowledged.
        Retransmit "retransmit",
        /// Asks a silent peer whether it is still there.
        KeepAlive "keepalive",
        /// Keeps the ends of a connection that is over.
        TimeWait "time_wait",
        /// Asks a peer without room whether it has some.
        Probe "probe",
    }
}

names! {
    /// How the process of a socket is known, `src.process.attribution`.
    Attribution, "how a process is known" {
        /// It called `connect`.
        Connect "connect",
        /// It accepted the connection.
        Accept "accept",
        /// It was the first to send.
        Send "send",
        /// It was the first to receive.
        Receive "receive",
        /// It owns the listener; the process that accepted was not seen.
        Listener "listener",
        /// It was found to have the socket open.
        Scan "scan",
        /// It created the socket; nobody was seen to use it.
        Create "create",
        /// The process is not known.
        Unknown "unknown",
    }
}

names! {
    /// Where events were lost, `loss.stage`.
    LossStage, "a stage of loss" {
        /// In the kernel's ring buffer.
        Ring "ring",
        /// In the queue of an output or of a client.
        Queue "queue",
        /// At an output that writes files.
        Disk "disk",
        /// At an output that somebody reads: a pipe, a terminal, another system.
        Sink "sink",
        /// Datagrams that no flow counts.
        Flows "flows",
        /// In front of the history, because who caused them floods it.
        Fold "fold",
    }
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The connection was established.
    Success,
    /// The attempt failed; the errno is 0 when the kernel set none.
    Failure(Failure, u32),
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// IPv4-mapped IPv6 addresses stand here as IPv4.
    pub address: IpAddr,
    /// 0: not known.
    pub port: u16,
}

/// The values of `event.network.protocol` that are names; other protocols are their number.
pub const PROTOCOLS: &[&str] = &["TCP", "UDP", "ICMP"];

/// The values of `event.network.protocolName` that are names.
pub const PROTOCOLS_LOWER: &[&str] = &["tcp", "udp", "icmp"];

/// Returns the values of `event.network.protocol` and `event.network.protocolName`; `None` if the number is the name.
pub fn protocol_names(protocol: u8) -> Option<(&'static str, &'static str)> {
    match protocol {
        IPPROTO_TCP => Some(("TCP", "tcp")),
        IPPROTO_UDP => Some(("UDP", "udp")),
        IPPROTO_ICMP | IPPROTO_ICMPV6 => Some(("ICMP", "icmp")),
        _ => None,
    }
}

/// Returns the number of a protocol from its value of `event.network.protocol`; ICMP stands for that of IPv4.
pub fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(IPPROTO_TCP),
        "UDP" => Some(IPPROTO_UDP),
        "ICMP" => Some(IPPROTO_ICMP),
        // All other protocols are written as their number.
        number => number.parse().ok(),
    }
}
