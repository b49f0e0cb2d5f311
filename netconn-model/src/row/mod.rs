//! Rows of snapshots: the table of their members, and the table of the columns that people see, sort and group by.
//!
//! JSON keys, CSV, the table of `netconn list`, `--sort`, `--group-by`, their help and the documentation are made from these two.

mod sort;

use std::{net::IpAddr, time::Duration};

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    fact::{Attribution, CloseReason, Direction, Failure, Timer},
    field::Type,
    holder::HolderList,
    members::members,
    moment::Moment,
    state, term,
    value::{JsonValue, PlainText, Text},
};

pub use self::sort::{RowSortKey, sort};

members! {
    /// A connection, flow, listener or bound socket in a snapshot. A member that is `None` is not known or does not apply.
    struct Row; enum RowField; table ROW_FIELDS; enum RowSection;

    /// The socket.
    Socket {
        State "state" String state: PlainText<'a>, "Name of the state; `CLOSED` for a connection that has ended. Of an SCTP association the name that SCTP gives it (RFC 9260).";
        Protocol "protocol" String protocol: PlainText<'a>, "`TCP`, `UDP`, `ICMP`, or the number of another protocol; of other kinds of sockets `SCTP`, `MPTCP`, and `UNIX_` or `VSOCK_` with `STREAM`, `DGRAM` or `SEQPACKET`.";
        Direction "direction" String direction: Direction, "`OUTGOING` or `INCOMING`; not on listeners.";
        LocalAddress "local_address" String local_address: IpAddr, "Address of this end.";
        LocalPort "local_port" Integer local_port: u32, "Port of this end; of vsock up to 32 bits.";
        RemoteAddress "remote_address" String remote_address: IpAddr, "Address of the other end; not on listeners.";
        RemotePort "remote_port" Integer remote_port: u32, "Port of the other end; not on listeners, nor for protocols without ports.";
        Interface "interface" String interface: Text<'a>, "Network interface that the socket is bound to, or through which its link-local addresses are reached.";
    }
    /// The process that has the socket: the same in all rows of one process.
    Owner {
        Pid "pid" Integer pid: u32, "Process id.";
        ProcessName "process_name" String process_name: Text<'a>, "Name of the process (`comm`), up to 15 bytes.";
        User "user" String user: Text<'a>, "Account name.";
        UserId "user_id" Integer user_id: u32, "Unix user id.";
        Executable "executable" String executable: Text<'a>, "Executable of the process.";
        CommandLine "command_line" String command_line: Text<'a>, "Arguments of the process, joined by spaces, with `***` in the place of secrets; `…` at the end: cut.";
        CommandLineRedacted "command_line_redacted" Boolean command_line_redacted: bool, "`true`: secrets were taken out of `command_line` or `title`.";
        Title "title" String title: Text<'a>, "What a living process shows instead of its arguments (`setproctitle`), where that differs from `command_line`.";
        ContainerId "container_id" String container_id: Text<'a>, "Container: its id, mostly 64 hex digits, or the name that LXC or systemd-nspawn gives it.";
        SystemdUnit "systemd_unit" String systemd_unit: Text<'a>, "systemd unit.";
    }
    /// The process that began the connection or listener, if another one has it now, or the same with another program.
    Originator {
        OriginatorPid "originator_pid" Integer originator_pid: u32, "Process id of who began the connection or listener, if another process has it now or the process runs another program.";
        OriginatorProcessName "originator_process_name" String originator_process_name: Text<'a>, "Name of that process.";
        OriginatorExecutable "originator_executable" String originator_executable: Text<'a>, "Executable of that process.";
        OriginatorCommandLine "originator_command_line" String originator_command_line: Text<'a>, "Arguments of that process, with `***` in the place of secrets; `…` at the end: cut.";
        OriginatorCommandLineRedacted "originator_command_line_redacted" Boolean originator_command_line_redacted: bool, "`true`: secrets were taken out of `originator_command_line`.";
        OriginatorAttribution "originator_attribution" String originator_attribution: Attribution, "How that process was known, as `attribution`.";
    }
    /// Who else has it, with `holders`.
    Holders {
        Inode "inode" Integer inode: u64, "Inode of the socket, as in `/proc/PID/fd`; of connections only with `inode` or `holders`.";
        HolderCount "holder_count" Integer holder_count: u32, "Number of open descriptors of the socket, in all processes; only with `holders`.";
        Holders "holders" List holders: HolderList<'a>, "The open descriptors, 256 at most, each with `pid`, `process_name` and `fd`; only with `holders`.";
    }
    /// How the connection began and ended, and what it moved.
    Life {
        Attribution "attribution" String attribution: Attribution, "How the process is known: `connect`, `accept`, `send`, `receive`, `create`, `listener`, `scan` or `unknown`.";
        StartedAt "started_at" Rfc3339 started_at: Moment, "When the connection or listener began.";
        EndedAt "ended_at" Rfc3339 ended_at: Moment, "When it ended; only with `closed`.";
        CloseReason "close_reason" String close_reason: CloseReason, "How an established connection ended.";
        FailureReason "failure_reason" String failure_reason: Failure, "Why an attempt failed.";
        BytesSent "bytes_sent" Integer bytes_sent: u64, "Payload bytes sent; not on listeners.";
        BytesReceived "bytes_received" Integer bytes_received: u64, "Payload bytes received; not on listeners.";
        Namespace "namespace" Integer namespace: u32, "Inode of the network namespace.";
        Subflow "subflow" Boolean subflow: bool, "`true`: an additional path of an MPTCP connection.";
        Raw "raw" Boolean raw: bool, "`true`: a raw socket, or what it exchanges, which is no connection. Not of what is exchanged by ICMP.";
        Folded "folded" Boolean folded: bool, "`true`: stands for all exchanges of its socket with ends that have no flow of their own.";
        ConnectionId "connection_id" String connection_id: PlainText<'a>, "The same as `event.connection.id`.";
    }
    /// What only sockets have that are neither connections of TCP nor flows; only with `sockets`.
    Other {
        LocalPath "local_path" String local_path: Text<'a>, "Unix sockets: the path, or the abstract name behind `@`; control bytes of the name stand as `\u{fffd}`.";
        RemotePath "remote_path" String remote_path: Text<'a>, "Unix sockets: path or abstract name of the peer.";
        PeerInode "peer_inode" Integer peer_inode: u32, "Unix sockets: inode of the peer; not if nobody has accepted it yet, or it is closed.";
        PeerPid "peer_pid" Integer peer_pid: u32, "Unix sockets: id of the process that has the peer open, or of the oldest of several.";
        PeerProcessName "peer_process_name" String peer_process_name: Text<'a>, "Unix sockets: name of that process.";
        LocalCid "local_cid" Integer local_cid: u32, "Vsock: context id of this end (2: the host).";
        RemoteCid "remote_cid" Integer remote_cid: u32, "Vsock: context id of the other end.";
        MptcpToken "mptcp_token" Integer mptcp_token: u32, "MPTCP: token of the connection, as `ip mptcp monitor` and `ss -M` show it (in hex); not of listeners.";
        MptcpSubflows "mptcp_subflows" Integer mptcp_subflows: u32, "MPTCP: number of paths beside the first one.";
        MptcpFallback "mptcp_fallback" Boolean mptcp_fallback: bool, "MPTCP, `true`: the connection speaks plain TCP, because the peer or the way to it does not know MPTCP.";
    }
    /// What the kernel measures of the socket at this moment; only if it is asked for.
    Info {
        ReceiveQueue "receive_queue" Integer receive_queue: u32, "With `info`: bytes that have arrived and that the process has not read; not on listeners.";
        SendQueue "send_queue" Integer send_queue: u32, "With `info`: bytes that the peer has not acknowledged; of UDP, bytes of memory that the kernel has not sent yet; not on listeners.";
        Backlog "backlog" Integer backlog: u32, "With `info`: connections that wait to be accepted; listeners of TCP, Unix, SCTP and MPTCP only.";
        BacklogLimit "backlog_limit" Integer backlog_limit: u32, "With `info`: how many may wait; the same listeners.";
        Timer "timer" String timer: Timer, "With `info`: the timer that runs: `retransmit`, `keepalive`, `time_wait` or `probe` (of a peer without room).";
        TimerMs "timer_ms" Integer timer_ms: u32, "With `info`: milliseconds until the timer expires.";
        TimerRetries "timer_retries" Integer timer_retries: u8, "With `info`: how often the timer has expired in vain.";
        RttUs "rtt_us" Integer rtt_us: u32, "With `info`: smoothed round-trip time, microseconds.";
        RttVariationUs "rtt_variation_us" Integer rtt_variation_us: u32, "With `info`: mean deviation of the round-trip time, microseconds.";
        MinRttUs "min_rtt_us" Integer min_rtt_us: u32, "With `info`: shortest round trip of the last minutes, microseconds.";
        RetransmitTimeoutUs "retransmit_timeout_us" Integer retransmit_timeout_us: u32, "With `info`: time until a segment without answer is sent again, microseconds.";
        CongestionWindow "congestion_window" Integer congestion_window: u32, "With `info`: congestion window, segments.";
        SlowStartThreshold "slow_start_threshold" Integer slow_start_threshold: u32, "With `info`: slow start threshold, segments; not before there was a loss.";
        SegmentSize "segment_size" Integer segment_size: u32, "With `info`: most payload bytes of a segment that is sent.";
        Unacknowledged "unacknowledged" Integer unacknowledged: u32, "With `info`: segments sent that are not acknowledged.";
        Lost "lost" Integer lost: u32, "With `info`: segments that are taken for lost at this moment.";
        Retransmits "retransmits" Integer retransmits: u32, "With `info`: segments sent again, in all.";
        BytesRetransmitted "bytes_retransmitted" Integer bytes_retransmitted: u64, "With `info`: bytes sent again, in all.";
        Delivered "delivered" Integer delivered: u32, "With `info`: segments that have arrived at the peer, in all, the handshake included.";
        DeliveryRate "delivery_rate" Integer delivery_rate: u64, "With `info`: rate at which data has arrived lately, bytes per second.";
        PacingRate "pacing_rate" Integer pacing_rate: u64, "With `info`: rate at which the kernel sends at most, bytes per second.";
        LastSentMs "last_sent_ms" Integer last_sent_ms: u32, "With `info`: milliseconds since payload was sent.";
        LastReceivedMs "last_received_ms" Integer last_received_ms: u32, "With `info`: milliseconds since payload was received.";
        CongestionControl "congestion_control" String congestion_control: Text<'a>, "With `info`: name of the congestion control.";
    }
}

/// Returns whether an address is that of many links: only with the interface it is one (RFC 4007).
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        // fe80::/10, and multicast groups of one link (RFC 4291, 2.7).
        IpAddr::V6(address) => {
            let [first, second, ..] = address.octets();
            address.is_unicast_link_local() || (first == 0xff && second & 15 == 2)
        }
    }
}

/// How a column shows the values of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    /// The first member that is known, as it is.
    First,
    /// The first member, in lower case.
    LowerCase,
    /// The protocol in lower case, after `raw/` if a raw socket speaks it.
    Protocol,
    /// Address and port.
    End,
    /// A number of bytes with its unit.
    Bytes,
    /// A number of bytes per second with its unit.
    Rate,
    /// Microseconds, as milliseconds with three digits, as in ss: a round trip within a host takes some microseconds.
    Microseconds,
    /// A timer, with the time until it expires and how often it has: `retransmit 0.2s 3`.
    Timer,
    /// A moment up to the seconds.
    Seconds,
    /// The name of a process with its id.
    Process,
    /// The time of day of a moment, of which only the last minutes are shown.
    Clock,
    /// The state; of what has ended why it has: `refused`, `closed local`.
    State,
    /// The first twelve characters, as container tools show ids.
    ShortId,
    /// A number in hex, as in ss.
    Hex,
}

/// When the table for people has a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Always.
    Always,
    /// With `-e`.
    Extended,
    /// With the queues.
    Queues,
    /// With the timers.
    Timers,
    /// With TCP's own figures.
    Info,
    /// With `--closed`.
    Ended,
    /// With `-e` and `--closed`.
    ExtendedEnded,
    /// With `--holders`.
    Holders,
    /// With `-e`, `--holders` or Unix sockets.
    Inode,
    /// With Unix sockets.
    Unix,
    /// With MPTCP connections.
    Mptcp,
    /// Never: rows can be sorted and grouped by it.
    Never,
}

/// A column: what people see of a row, and what rows are sorted and grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowColumn {
    /// Name in `--sort` and `--group-by`.
    pub name: &'static str,
    /// Heading in the table.
    pub heading: &'static str,
    /// Whether it stands to the right, as numbers do.
    pub is_right: bool,
    /// The members that it shows, see [`Show`].
    members: &'static [RowField],
    show: Show,
    shown: Shown,
    /// Whether it makes sense to group by it.
    groups: bool,
}

const fn column(name: &'static str, heading: &'static str, members: &'static [RowField], shown: Shown) -> RowColumn {
    RowColumn { name, heading, is_right: false, members, show: Show::First, shown, groups: true }
}

impl RowColumn {
    const fn show(self, show: Show) -> Self {
        Self { show, ..self }
    }

    const fn right(self) -> Self {
        Self { is_right: true, ..self }
    }

    const fn no_group(self) -> Self {
        Self { groups: false, ..self }
    }
}

/// All columns, in the order of the table for people.
pub const COLUMNS: &[RowColumn] = &[
    column("protocol", "PROTO", &[RowField::Protocol], Shown::Always).show(Show::Protocol),
    column("state", "STATE", &[RowField::State], Shown::Always).show(Show::State),
    column("ended", "ENDED", &[RowField::EndedAt], Shown::Ended).show(Show::Clock).no_group(),
    column("recv-q", "RECV-Q", &[RowField::ReceiveQueue, RowField::Backlog], Shown::Queues).right().no_group(),
    column("send-q", "SEND-Q", &[RowField::SendQueue, RowField::BacklogLimit], Shown::Queues).right().no_group(),
    column("local", "LOCAL", &[RowField::LocalAddress, RowField::LocalPath, RowField::LocalCid], Shown::Always)
        .show(Show::End),
    // Ports alone are for sorting and grouping; the table shows them with their addresses.
    column("local-port", "LOCAL PORT", &[RowField::LocalPort], Shown::Never).right(),
    column("remote", "REMOTE", &[RowField::RemoteAddress, RowField::RemotePath, RowField::RemoteCid], Shown::Always)
        .show(Show::End),
    column("remote-port", "REMOTE PORT", &[RowField::RemotePort], Shown::Never).right(),
    column("pid", "PID", &[RowField::Pid], Shown::Always).right(),
    column("process", "PROCESS", &[RowField::ProcessName], Shown::Always),
    column("user", "USER", &[RowField::User, RowField::UserId], Shown::Always),
    column("timer", "TIMER", &[RowField::Timer], Shown::Timers).show(Show::Timer),
    column("rtt", "RTT", &[RowField::RttUs], Shown::Info).show(Show::Microseconds).right().no_group(),
    column("min-rtt", "MIN RTT", &[RowField::MinRttUs], Shown::Never).show(Show::Microseconds).right().no_group(),
    column("cwnd", "CWND", &[RowField::CongestionWindow], Shown::Info).right().no_group(),
    column("retrans", "RETRANS", &[RowField::Retransmits], Shown::Info).right().no_group(),
    column("unacked", "UNACKED", &[RowField::Unacknowledged], Shown::Never).right().no_group(),
    column("lost", "LOST", &[RowField::Lost], Shown::Never).right().no_group(),
    column("delivered", "DELIVERED", &[RowField::Delivered], Shown::Info).right().no_group(),
    column("delivery-rate", "DELIVERY", &[RowField::DeliveryRate], Shown::Never).show(Show::Rate).right().no_group(),
    column("pacing-rate", "PACING", &[RowField::PacingRate], Shown::Info).show(Show::Rate).right().no_group(),
    column("congestion", "CONGESTION", &[RowField::CongestionControl], Shown::Info),
    column("interface", "INTERFACE", &[RowField::Interface], Shown::Info),
    column("direction", "DIRECTION", &[RowField::Direction], Shown::Extended).show(Show::LowerCase),
    column("known-by", "KNOWN BY", &[RowField::Attribution], Shown::Extended),
    column("started", "STARTED", &[RowField::StartedAt], Shown::Extended).show(Show::Seconds).no_group(),
    column("sent", "SENT", &[RowField::BytesSent], Shown::Extended).show(Show::Bytes).right().no_group(),
    column("received", "RECEIVED", &[RowField::BytesReceived], Shown::Extended).show(Show::Bytes).right().no_group(),
    column("namespace", "NETNS", &[RowField::Namespace], Shown::Extended).right(),
    column("unit", "UNIT", &[RowField::SystemdUnit], Shown::Extended),
    column("container", "CONTAINER", &[RowField::ContainerId], Shown::Extended).show(Show::ShortId),
    column("reason", "REASON", &[RowField::CloseReason, RowField::FailureReason], Shown::ExtendedEnded),
    column("originator", "ORIGINATOR", &[RowField::OriginatorProcessName, RowField::OriginatorPid], Shown::Extended)
        .show(Show::Process),
    column("title", "TITLE", &[RowField::Title], Shown::Extended),
    column("peer", "PEER", &[RowField::PeerProcessName, RowField::PeerPid], Shown::Unix).show(Show::Process),
    column("inode", "INODE", &[RowField::Inode], Shown::Inode).right().no_group(),
    column("peer-inode", "PEER INODE", &[RowField::PeerInode], Shown::Unix).right().no_group(),
    column("token", "TOKEN", &[RowField::MptcpToken], Shown::Mptcp).show(Show::Hex).right().no_group(),
    column("subflows", "SUBFLOWS", &[RowField::MptcpSubflows], Shown::Mptcp).right(),
    column("fallback", "FALLBACK", &[RowField::MptcpFallback], Shown::Mptcp),
    column("holders", "HOLDERS", &[RowField::Holders], Shown::Holders).no_group(),
    // Last, because it takes what is left of the terminal.
    column("command", "COMMAND", &[RowField::CommandLine, RowField::Executable], Shown::Always).no_group(),
];

/// Which columns the table for people has besides those that it always has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub struct MoreColumns {
    /// Those of `-e`.
    pub extended: bool,
    /// Those of connections that have ended.
    pub ended: bool,
    /// The queues.
    pub queues: bool,
    /// The timers.
    pub timers: bool,
    /// TCP's own figures.
    pub info: bool,
    /// Those of `--holders`.
    pub holders: bool,
    /// Those of Unix sockets.
    pub unix: bool,
    /// Those of MPTCP connections.
    pub mptcp: bool,
}

/// Returns the columns of the table for people.
pub fn table_columns(more: MoreColumns) -> Vec<&'static RowColumn> {
    let MoreColumns { extended, ended, queues, timers, info, holders, unix, mptcp } = more;
    let is_shown = |column: &&RowColumn| match column.shown {
        Shown::Always => true,
        Shown::Extended => extended,
        Shown::Queues => queues,
        Shown::Timers => timers,
        Shown::Info => info,
        Shown::Ended => ended,
        Shown::ExtendedEnded => extended && ended,
        Shown::Holders => holders,
        Shown::Inode => extended || holders || unix,
        Shown::Unix => unix,
        Shown::Mptcp => mptcp,
        Shown::Never => false,
    };
    COLUMNS.iter().filter(is_shown).collect()
}

/// Returns the names of the columns that rows can be grouped by.
pub fn group_names() -> impl Iterator<Item = &'static str> {
    COLUMNS.iter().filter(|column| column.groups).map(|column| column.name)
}

/// Returns the column with this name: that of `--sort`, of a member in JSON, or its heading, in any case, with `_` or `-`.
///
/// # Errors
///
/// The sentence that names the columns there are.
pub fn column_by_name(given: &str) -> Result<&'static RowColumn, String> {
    // Names of options, members and headings differ only in case and in what joins their words.
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', ' '], "-");
    let wanted = plain(given);
    let has_name = |column: &&RowColumn| {
        column.name == wanted
            || plain(column.heading) == wanted
            // Only the first member: the second is what is shown when the first is not known.
            || column.members.first().is_some_and(|member| plain(member.info().name) == wanted)
    };
    COLUMNS.iter().find(has_name).ok_or_else(|| {
        let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
        format!("'{given}' is not a column; there are {}", names.join(", "))
    })
}

impl RowColumn {
    /// Returns the text of the column in the table for people, which cannot harm their terminal.
    pub fn cell(&self, row: &Row<'_>, host_name: &mut dyn FnMut(IpAddr) -> Option<String>) -> String {
        if self.show == Show::End {
            return self.end(row, host_name);
        }
        let Some(value) = self.first(row) else { return "-".into() };
        match (self.show, value) {
            // Bytes are never negative; those beyond 63 bits are a float and shown as they are.
            (Show::Rate, JsonValue::Integer(count)) => format!("{}/s", term::bytes(count.unsigned_abs())),
            (Show::Microseconds, JsonValue::Integer(count)) => {
                let count = count.unsigned_abs();
                format!("{}.{:03} ms", count / 1000, count % 1000)
            }
            (Show::Timer, value) => {
                let left = row.timer_ms.map(|left| format!(" {}", term::duration(Duration::from_millis(left.into()))));
                let retries = row.timer_retries.filter(|retries| *retries != 0).map(|retries| format!(" {retries}"));
                format!("{value}{}{}", left.unwrap_or_default(), retries.unwrap_or_default())
            }
            (Show::Hex, JsonValue::Integer(number)) => format!("{number:#x}"),
            (Show::Bytes, JsonValue::Integer(count)) => term::bytes(count.unsigned_abs()),
            // The text is ASCII, so that its length counts characters.
            (Show::Seconds, value) => value.to_string().chars().take("2026-01-01T00:00:00".len()).collect(),
            (Show::Clock, value) => clock(&value.to_string(), &TimeZone::system()),
            (Show::State, value) => ending(row).unwrap_or_else(|| term::sanitize(&value.to_string()).into_owned()),
            (Show::ShortId, value) => term::sanitize(&value.to_string()).chars().take(12).collect(),
            (Show::Protocol, value) => {
                let mark = if row.raw == Some(true) { "raw/" } else { "" };
                format!("{mark}{}", term::sanitize(&value.to_string()).to_lowercase())
            }
            (Show::Process, value) => {
                let ids = self.members.iter().skip(1).find_map(|member| row.value(*member));
                let id = ids.map(|id| format!("({id})")).unwrap_or_default();
                format!("{}{id}", term::sanitize(&value.to_string()))
            }
            (Show::LowerCase, value) => term::sanitize(&value.to_string()).to_lowercase(),
            (_, value) => term::sanitize(&value.to_string()).into_owned(),
        }
    }

    fn end(&self, row: &Row<'_>, host_name: &mut dyn FnMut(IpAddr) -> Option<String>) -> String {
        let Some((address, port)) = self.address(row) else { return self.other_end(row) };
        let host = host_name(address).unwrap_or_else(|| {
            // As in ss: `%eth0` at the own end of a bound socket, and where the address alone says nothing.
            let is_own = self.members.first() == Some(&RowField::LocalAddress);
            match row.interface.as_deref().filter(|_| is_own || is_link_local(address)) {
                Some(interface) => format!("{address}%{}", term::sanitize(interface)),
                None => address.to_string(),
            }
        });
        term::end(row.protocol.as_deref().unwrap_or_default(), &host, port)
    }

    /// The end of a socket without IP addresses: a path, or the address of vsock.
    fn other_end(&self, row: &Row<'_>) -> String {
        let is_own = self.members.first() == Some(&RowField::LocalAddress);
        let (path, cid, port) = if is_own {
            (&row.local_path, row.local_cid, row.local_port)
        } else {
            (&row.remote_path, row.remote_cid, row.remote_port)
        };
        let any = |number: Option<u32>| number.map_or_else(|| "*".into(), |number| number.to_string());
        match path {
            Some(path) => term::sanitize(path).into_owned(),
            None if cid.is_some() || port.is_some() => format!("{}:{}", any(cid), any(port)),
            None => "*".into(),
        }
    }

    fn address(&self, row: &Row<'_>) -> Option<(IpAddr, Option<u32>)> {
        match self.members.first()? {
            // A row without the address has no end, even if the port is known.
            RowField::LocalAddress => Some((row.local_address?, row.local_port)),
            RowField::RemoteAddress => Some((row.remote_address?, row.remote_port)),
            _ => None,
        }
    }

    /// The first member that is known.
    fn first<'r>(&self, row: &'r Row<'_>) -> Option<JsonValue<'r>> {
        self.members.iter().find_map(|member| row.value(*member))
    }

    /// Returns the name of the group that a row is in; `None` is the group of all rows for which it is not known.
    pub fn group(&self, row: &Row<'_>) -> Option<String> {
        // Of ends this is the address alone: with the port, most groups would have one row.
        Some(self.first(row)?.to_string())
    }

    /// Returns the name in JSON of what a group has in common.
    pub fn group_key(&self) -> &'static str {
        match self.members {
            // The reason of either kind has no member of its own.
            [RowField::CloseReason, RowField::FailureReason] => self.name,
            [member, ..] => member.info().name,
            [] => self.name,
        }
    }

    /// Returns whether what a group has in common is a number in JSON.
    pub fn is_number(&self) -> bool {
        self.members.first().is_some_and(|member| member.info().r#type == Type::Integer)
    }

    /// Returns whether rows have the column only if they are asked for with `info`.
    pub fn is_info(&self) -> bool {
        self.members.iter().any(|member| member.info().section == RowSection::Info)
    }

    /// Returns whether rows can be grouped by the column.
    pub fn is_group(&self) -> bool {
        self.groups
    }

    /// Returns whether the column shows the state.
    pub fn is_state(&self) -> bool {
        self.members == [RowField::State]
    }
}

/// Returns the time of day of a moment in RFC 3339.
fn clock(moment: &str, zone: &TimeZone) -> String {
    // Another version may write it in another way.
    moment.parse::<Timestamp>().map_or_else(
        |_| term::sanitize(moment).into_owned(),
        |moment| moment.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string(),
    )
}

/// Returns why it has ended, if it has and that is known.
fn ending(row: &Row<'_>) -> Option<String> {
    let failure = row.failure_reason.map(|failure| failure.name().to_owned());
    failure.or_else(|| row.close_reason.map(|reason| format!("closed {}", reason.name())))
}

/// Returns the place of a row's state in the order in which states are listed.
pub fn state_place(row: &Row<'_>) -> usize {
    let name = row.state.as_deref().unwrap_or_default();
    // Connections that have ended (`CLOSED`) come last.
    state::ALL.iter().position(|known| state::name(*known) == name).unwrap_or(state::ALL.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: &'static str, local: &str, port: u32, sent: Option<u64>) -> Row<'static> {
        let (state, local_address) = (Some(PlainText::new(state)), local.parse().ok());
        Row { state, local_address, local_port: Some(port), bytes_sent: sent, ..Row::default() }
    }

    fn sorted(keys: &str) -> Vec<u32> {
        let mut rows = vec![
            row("TIME_WAIT", "10.0.0.10", 1, None),
            row("LISTENING", "::1", 2, Some(7)),
            row("ESTABLISHED", "10.0.0.9", 30, Some(5)),
            row("ESTABLISHED", "10.0.0.9", 4, Some(7)),
            row("CLOSED", "10.0.0.9", 5, Some(6)),
        ];
        let keys: Vec<_> =
            keys.split(',').filter(|key| !key.is_empty()).map(|key| RowSortKey::parse(key).unwrap()).collect();
        sort(&mut rows, &keys, |row| row);
        rows.into_iter().filter_map(|row| row.local_port).collect()
    }

    #[test]
    fn rows_have_a_usual_order() {
        assert_eq!(sorted(""), [2, 4, 30, 1, 5]);
    }

    #[test]
    fn columns_are_sorted_as_what_they_are_with_the_unknown_last() {
        assert_eq!(sorted("sent"), [30, 5, 2, 4, 1]);
        assert_eq!(sorted("-sent"), [2, 4, 5, 30, 1]);
        assert_eq!(sorted("-bytes_sent,-local-port"), [4, 2, 5, 30, 1]);
        assert_eq!(sorted("local"), [4, 5, 30, 1, 2], "as numbers, not as text");
        assert_eq!(sorted("-LOCAL_PORT"), [30, 5, 4, 2, 1]);
        assert_eq!(sorted("-state"), [5, 1, 4, 30, 2]);
        assert_eq!(sorted("pid"), sorted(""), "nothing known");
    }

    #[test]
    fn columns_that_are_none_are_named() {
        let error = RowSortKey::parse("-size").unwrap_err();
        assert!(error.starts_with("'size' is not a column; there are protocol, state, ended,"), "{error}");
        assert_eq!(column_by_name("netns").unwrap().name, "namespace");
        assert_eq!(column_by_name("PROTO").unwrap().name, "protocol");
    }

    #[test]
    fn columns_come_with_their_options() {
        let headings = |extended, ended| {
            table_columns(MoreColumns { extended, ended, ..MoreColumns::default() })
                .iter()
                .map(|column| column.heading)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(headings(false, true), "PROTO STATE ENDED LOCAL REMOTE PID PROCESS USER COMMAND");
        assert_eq!(
            headings(true, true),
            "PROTO STATE ENDED LOCAL REMOTE PID PROCESS USER DIRECTION KNOWN BY STARTED SENT RECEIVED NETNS UNIT CONTAINER \
             REASON ORIGINATOR TITLE INODE COMMAND"
        );
        assert!(!headings(true, false).contains("ENDED"));
    }

    #[test]
    fn figures_of_tcp_have_units() {
        let text = r#"{"rtt_us":19,"pacing_rate":1500,"timer":"retransmit","timer_ms":204,"timer_retries":3}"#;
        let row: Row<'_> = serde_json::from_str(text).unwrap();
        let cell = |name: &str| column_by_name(name).unwrap().cell(&row, &mut |_| None);
        assert_eq!([cell("rtt"), cell("pacing-rate"), cell("timer")], ["0.019 ms", "1.5 kB/s", "retransmit 204 ms 3"]);
        assert_eq!(cell("cwnd"), "-");
    }

    #[test]
    fn what_has_ended_says_when_and_why() {
        let mut row = Row { failure_reason: Some(Failure::Refused), ..row("CLOSED", "::1", 2, None) };
        let state = |row: &Row<'_>| column_by_name("state").unwrap().cell(row, &mut |_| None);
        assert_eq!(state(&row), "refused");
        (row.failure_reason, row.close_reason) = (None, Some(CloseReason::Remote));
        assert_eq!(state(&row), "closed remote");
        row.close_reason = None;
        assert_eq!(state(&row), "CLOSED");
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(clock("2026-01-01T00:00:59.999999999Z", &zone), "02:00:59");
        assert_eq!(clock("later", &zone), "later");
    }

    /// Members that no column shows: marks of a row, and its id.
    const WITHOUT_COLUMN: &[RowField] = &[
        RowField::CommandLineRedacted,
        RowField::OriginatorExecutable,
        RowField::OriginatorCommandLine,
        RowField::OriginatorCommandLineRedacted,
        RowField::OriginatorAttribution,
        RowField::HolderCount,
        RowField::Subflow,
        RowField::Raw,
        RowField::Folded,
        RowField::ConnectionId,
        RowField::TimerMs,
        RowField::TimerRetries,
        RowField::RttVariationUs,
        RowField::RetransmitTimeoutUs,
        RowField::SlowStartThreshold,
        RowField::SegmentSize,
        RowField::BytesRetransmitted,
        RowField::LastSentMs,
        RowField::LastReceivedMs,
    ];

    #[test]
    fn every_member_has_a_column_or_is_known_to_have_none() {
        for info in ROW_FIELDS {
            let has_column = COLUMNS.iter().any(|column| column.members.contains(&info.field));
            assert!(has_column != WITHOUT_COLUMN.contains(&info.field), "{}", info.name);
        }
    }

    #[test]
    fn a_full_row_reads_back_and_has_every_member() {
        let text = r#"{"state":"CLOSED","protocol":"UDP","direction":"INCOMING","local_address":"::1","local_port":1,
            "remote_address":"10.0.0.1","remote_port":2,"interface":"eth0","pid":3,"process_name":"a","user":"root","user_id":0,"executable":"/a",
            "command_line":"a b","command_line_redacted":true,"title":"a: worker","container_id":"ab","systemd_unit":"a.service",
            "originator_pid":4,"originator_process_name":"b","originator_executable":"/b","originator_command_line":"b c","originator_command_line_redacted":true,
            "originator_attribution":"connect","inode":8,"holder_count":2,
            "holders":[{"pid":3,"process_name":"a","fd":4}],"attribution":"scan",
            "started_at":"2026-01-01T00:00:00.000000001Z","ended_at":"2026-01-01T00:00:01.000000000Z","close_reason":"local",
            "failure_reason":"refused","bytes_sent":5,"bytes_received":6,"namespace":7,"subflow":true,"raw":true,"folded":true,
            "connection_id":"x","local_path":"/run/x","remote_path":"@y","peer_inode":9,"peer_pid":10,"peer_process_name":"c",
            "local_cid":2,"remote_cid":3,"mptcp_token":11,"mptcp_subflows":1,"mptcp_fallback":true,
            "receive_queue":1,"send_queue":2,"backlog":3,"backlog_limit":4,"timer":"probe","timer_ms":5,
            "timer_retries":6,"rtt_us":7,"rtt_variation_us":8,"min_rtt_us":9,"retransmit_timeout_us":10,"congestion_window":11,
            "slow_start_threshold":12,"segment_size":13,"unacknowledged":14,"lost":15,"retransmits":16,"bytes_retransmitted":17,
            "delivered":18,"delivery_rate":19,"pacing_rate":20,"last_sent_ms":21,"last_received_ms":22,
            "congestion_control":"bbr","member_of_a_later_version":[1]}"#;
        let row: Row<'_> = serde_json::from_str(text).unwrap();
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        for info in ROW_FIELDS {
            let expected = json[info.name].as_str().map_or_else(|| json[info.name].to_string(), str::to_owned);
            // A list is one text where there are no lists.
            let expected = if info.r#type == Type::List { "a(3) fd 4".to_owned() } else { expected };
            assert_eq!(row.value(info.field).map(|value| value.to_string()), Some(expected), "{}", info.name);
        }
        for column in COLUMNS {
            let group = column.group(&row).unwrap();
            if !["reason", "holders"].contains(&column.name) {
                let member = &json[column.group_key()];
                assert_eq!(group, member.as_str().map_or_else(|| member.to_string(), str::to_owned), "{}", column.name);
                assert_eq!(column.is_number(), member.is_number(), "{}", column.name);
            }
        }
    }
}
