//! What netconn tells: kinds of events, their fields, rows of snapshots, and the filter over both.

use std::net::IpAddr;

use netconn_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

/// Kinds of events, `event.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An attempt has its outcome, a connection was accepted, or a flow of datagrams began.
    Connect,
    /// An established connection or a flow has ended.
    Close,
    /// A socket started to listen, or was bound to receive datagrams.
    Listen,
    /// A socket stopped listening.
    ListenEnd,
    /// Events could not be delivered.
    DataLoss,
    /// The daemon began.
    SensorStart,
    /// The daemon ended.
    SensorStop,
}

impl Kind {
    /// The value of `event.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "IP Connect",
            Self::Close => "IP Close",
            Self::Listen => "IP Listen",
            Self::ListenEnd => "IP Listen End",
            Self::DataLoss => "Data Loss",
            Self::SensorStart => "Sensor Start",
            Self::SensorStop => "Sensor Stop",
        }
    }
}

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A process of this host.
    Outgoing,
    /// The peer.
    Incoming,
}

impl Direction {
    /// The value of `event.network.direction`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outgoing => "OUTGOING",
            Self::Incoming => "INCOMING",
        }
    }
}

/// Why an attempt failed, `event.network.failureReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer answered with a reset.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The host cannot be reached (no ARP answer, ICMP host unreachable).
    HostUnreachable,
    /// The network cannot be reached (no route, ICMP network unreachable).
    NetUnreachable,
    /// Reset after the first answer.
    Reset,
    /// Closed here before an answer came.
    Aborted,
    /// No local port was left.
    NoPorts,
    /// Forbidden by this host's policy.
    Blocked,
    /// Anything else; the errno tells.
    Other,
}

impl Failure {
    /// The value of `event.network.failureReason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::HostUnreachable => "host_unreachable",
            Self::NetUnreachable => "net_unreachable",
            Self::Reset => "reset",
            Self::Aborted => "aborted",
            Self::NoPorts => "no_ports",
            Self::Blocked => "blocked",
            Self::Other => "other",
        }
    }
}

/// How a connection ended, `event.network.closeReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// This end closed first.
    Local,
    /// The peer closed first.
    Remote,
    /// This end broke it off.
    ResetByLocal,
    /// The peer broke it off.
    ResetByRemote,
    /// The peer was not heard of any more.
    TimedOut,
    /// Nothing was exchanged for a while: a flow of datagrams.
    Idle,
    /// Its network namespace is gone; the end itself was not seen.
    NamespaceGone,
    /// The end itself was not seen.
    Unknown,
}

impl CloseReason {
    /// The value of `event.network.closeReason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::ResetByLocal => "reset_by_local",
            Self::ResetByRemote => "reset_by_remote",
            Self::TimedOut => "timed_out",
            Self::Idle => "idle",
            Self::NamespaceGone => "netns_gone",
            Self::Unknown => "unknown",
        }
    }
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Connected.
    Success,
    /// Not connected; the errno is 0 when the kernel set none.
    Failure(Failure, u32),
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// IPv4-mapped addresses are given as IPv4.
    pub address: IpAddr,
    /// 0: not known.
    pub port: u16,
}

/// Names of a protocol, `event.network.protocol` and `event.network.protocolName`; `None`: its number is its name.
pub fn protocol_names(protocol: u8) -> Option<(&'static str, &'static str)> {
    match protocol {
        IPPROTO_TCP => Some(("TCP", "tcp")),
        IPPROTO_UDP => Some(("UDP", "udp")),
        IPPROTO_ICMP | IPPROTO_ICMPV6 => Some(("ICMP", "icmp")),
        _ => None,
    }
}

/// Name of an attribution, `src.process.attribution`, from the number in the kernel's records.
pub fn attribution_name(how: u32) -> &'static str {
    use netconn_common::attribution;
    match how {
        attribution::CONNECT => "connect",
        attribution::ACCEPT => "accept",
        attribution::SEND => "send",
        attribution::RECEIVE => "receive",
        attribution::LISTENER => "listener",
        attribution::SCAN => "scan",
        attribution::CREATE => "create",
        _ => "unknown",
    }
}
