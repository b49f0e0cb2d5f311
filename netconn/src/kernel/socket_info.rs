//! What the kernel measures of each socket: queues, the timer and TCP's own figures. Read by `sock_diag`, in each network namespace,
//! only when a client asks for them.

use hashbrown::{HashMap, hash_map::Entry};
use netconn_common::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, UNKNOWN_U32, tcp_state};
use netconn_model::fact::{End, Timer};
use tracing::debug;

use crate::{
    kernel::{
        iterate::{self, Others},
        sock_diag::{
            ALL_STATES, INET_DIAG_CONG, INET_DIAG_INFO, InetMessage, attributes, dump, inet_request, long, word,
        },
    },
    privileged::namespaces,
};

/// Longest name of a congestion control (`TCP_CA_NAME_MAX` in `include/net/tcp.h`).
const CONGESTION_CONTROL_BYTES: usize = 16;
/// `TCP_INFINITE_SSTHRESH` in `include/net/tcp.h`: no threshold yet.
const NO_THRESHOLD: u32 = 0x7fff_ffff;

/// The figures of one socket. Those that the kernel does not tell are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SocketInfo {
    /// Bytes that the process has not read, or connections that wait to be accepted.
    pub receive_queue: u32,
    /// Bytes that are not acknowledged, or the most connections that may wait.
    pub send_queue: u32,
    /// The timer that runs, the milliseconds until it expires, and how often it has expired in vain.
    pub timer: Option<(Timer, u32, u8)>,
    /// Of TCP sockets that do not listen and are no minisocks.
    pub tcp: Option<Box<TcpInfo>>,
}

/// TCP's own figures, as in `struct tcp_info`; members that the kernel is too old for are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TcpInfo {
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: Option<u32>,
    /// Its mean deviation, microseconds.
    pub rtt_variation_us: Option<u32>,
    /// The shortest round trip lately, microseconds.
    pub min_rtt_us: Option<u32>,
    /// Time until a segment without answer is sent again, microseconds.
    pub retransmit_timeout_us: Option<u32>,
    /// Congestion window, segments.
    pub congestion_window: Option<u32>,
    /// Slow start threshold, segments.
    pub slow_start_threshold: Option<u32>,
    /// Most payload bytes of a segment that is sent.
    pub segment_size: Option<u32>,
    /// Segments that are sent and not acknowledged.
    pub unacknowledged: Option<u32>,
    /// Segments that are taken for lost.
    pub lost: Option<u32>,
    /// Segments sent again, in all.
    pub retransmits: Option<u32>,
    /// Bytes sent again, in all.
    pub bytes_retransmitted: Option<u64>,
    /// Segments with payload that have arrived at the peer, in all.
    pub delivered: Option<u32>,
    /// Rate of what arrived lately, bytes per second.
    pub delivery_rate: Option<u64>,
    /// Rate at which the kernel sends, bytes per second.
    pub pacing_rate: Option<u64>,
    /// Milliseconds since payload was sent.
    pub last_sent_ms: Option<u32>,
    /// Milliseconds since payload was received.
    pub last_received_ms: Option<u32>,
    /// Name of the congestion control, padded with zeros.
    congestion_control: [u8; CONGESTION_CONTROL_BYTES],
}

impl TcpInfo {
    /// Returns the name of the congestion control, if it is known.
    pub fn congestion_control(&self) -> Option<&str> {
        let name = self.congestion_control.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(name).ok().filter(|name| !name.is_empty())
    }
}

/// Which socket: its network namespace, protocol and ends.
type SocketEnds = (u32, u8, End, Option<End>);

/// The figures of all sockets of a host.
#[derive(Debug, Default)]
pub struct SocketInfos {
    /// Whether sockets are known by their cookies; else by their ends.
    has_cookies: bool,
    by_cookie: HashMap<u64, SocketInfo>,
    /// `None`: several sockets have these ends, such as listeners that share a port.
    by_ends: HashMap<SocketEnds, Option<SocketInfo>>,
    is_partial: bool,
}

/// Which sockets are read.
#[derive(Clone, Copy, Debug)]
pub struct InfoParts {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

impl SocketInfos {
    /// Returns figures of no socket, because they could not be read.
    pub fn unread() -> Self {
        Self { is_partial: true, ..Self::default() }
    }

    /// Returns whether figures are missing that the kernel has: a network namespace could not be entered, or not be read.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Reads the figures of the sockets in all network namespaces whose inode is wanted. `has_cookies` tells whether connections are
    /// numbered by the cookies of their sockets. To be called on a thread that nobody needs in its old namespace afterwards.
    pub fn read(has_cookies: bool, parts: InfoParts, is_wanted: impl Fn(u64) -> bool) -> Self {
        let mut infos = Self { has_cookies, ..Self::default() };
        // The own namespace before the others: there is no need to come back to it.
        if let Some(own) = iterate::own_namespace().filter(|own| is_wanted(*own)) {
            infos.read_namespace(own, parts);
        }
        let Others { found, hidden } = iterate::other_namespaces();
        infos.is_partial |= hidden != 0;
        for (inode, namespace) in found {
            if is_wanted(inode) {
                match namespaces::enter(&namespace) {
                    Ok(()) => infos.read_namespace(inode, parts),
                    Err(error) => {
                        debug!("a network namespace cannot be entered: {error}");
                        infos.is_partial = true;
                    }
                }
            }
        }
        infos
    }

    /// Returns the figures of a socket with this number and these ends.
    pub fn of(
        &self,
        socket: u64,
        namespace: u32,
        protocol: u8,
        local: End,
        remote: Option<End>,
    ) -> Option<&SocketInfo> {
        // Rows of minisocks have no number.
        if self.has_cookies && socket != 0 {
            return self.by_cookie.get(&socket);
        }
        self.by_ends.get(&(namespace, protocol, local, remote))?.as_ref()
    }

    /// Returns how many bytes this takes.
    pub fn bytes(&self) -> usize {
        let each = size_of::<TcpInfo>();
        self.by_cookie.allocation_size()
            + self.by_ends.allocation_size()
            + (self.by_cookie.len() + self.by_ends.len()) * each
    }

    fn read_namespace(&mut self, inode: u64, InfoParts { tcp, udp }: InfoParts) {
        let namespace = u32::try_from(inode).unwrap_or(UNKNOWN_U32);
        let wanted = [(tcp && iterate::has_sockets(), IPPROTO_TCP), (udp && iterate::has_datagrams(), IPPROTO_UDP)];
        for (_, protocol) in wanted.iter().filter(|(is_wanted, _)| *is_wanted) {
            for family in [AF_INET, AF_INET6] {
                let request = inet_request(family, u16::from(*protocol), ALL_STATES, &[INET_DIAG_INFO, INET_DIAG_CONG]);
                let dumped = dump(&request, |message| self.take(message, namespace, *protocol));
                if let Err(error) = dumped {
                    debug!("sock_diag of protocol {protocol}: {error}");
                    // `ENOENT`: this kernel has no such figures.
                    self.is_partial |= error.raw_os_error() != Some(libc::ENOENT);
                }
            }
        }
    }

    fn take(&mut self, message: &[u8], namespace: u32, protocol: u8) {
        let Some(Parsed { info, cookie, local, remote, state, is_over }) = parse(message) else { return };
        let is_half_open = protocol == IPPROTO_TCP && state == tcp_state::SYN_RECV;
        if self.has_cookies && is_half_open {
            // By both: it is a minisock, whose row has no number, or a whole socket (TCP Fast Open, or both ends began at once).
            self.by_cookie.insert(cookie, info.clone());
        } else if self.has_cookies && !is_over {
            self.by_cookie.insert(cookie, info);
            return;
        }
        match self.by_ends.entry((namespace, protocol, local, remote)) {
            Entry::Vacant(entry) => _ = entry.insert(Some(info)),
            Entry::Occupied(mut entry) => _ = entry.insert(None),
        }
    }
}

/// The figures of one socket, and which socket it is.
#[derive(Debug)]
struct Parsed {
    info: SocketInfo,
    cookie: u64,
    local: End,
    remote: Option<End>,
    state: u8,
    /// The kernel keeps a minisock of a connection that is over.
    is_over: bool,
}

/// Reads a message about a socket and its attributes.
fn parse(message: &[u8]) -> Option<Parsed> {
    let InetMessage {
        state,
        timer,
        retries,
        local,
        remote,
        cookie,
        expires_ms,
        receive_queue,
        send_queue,
        attributes: rest,
        ..
    } = InetMessage::read(message)?;
    // `inet_csk_diag_fill` in net/ipv4/inet_diag.c; 3 is of minisocks.
    let timer = match timer {
        1 => Some((Timer::Retransmit, expires_ms, retries)),
        2 => Some((Timer::KeepAlive, expires_ms, retries)),
        3 => Some((Timer::TimeWait, expires_ms, retries)),
        4 => Some((Timer::Probe, expires_ms, retries)),
        _ => None,
    };
    let mut info = SocketInfo { receive_queue, send_queue, timer, ..SocketInfo::default() };
    let mut congestion_control = [0; CONGESTION_CONTROL_BYTES];
    attributes(rest, |kind, bytes| match kind {
        INET_DIAG_INFO if state != tcp_state::LISTEN => info.tcp = Some(Box::new(tcp_info(bytes))),
        INET_DIAG_CONG => {
            let length = bytes.len().min(CONGESTION_CONTROL_BYTES);
            congestion_control[..length].copy_from_slice(&bytes[..length]);
        }
        _ => {}
    });
    if let Some(tcp) = &mut info.tcp {
        tcp.congestion_control = congestion_control;
    }
    Some(Parsed {
        info,
        cookie,
        local,
        remote: (remote.port != 0).then_some(remote),
        state,
        is_over: matches!(timer, Some((Timer::TimeWait, ..))),
    })
}

/// Reads a `struct tcp_info` (`include/uapi/linux/tcp.h`), which only grows at its end.
fn tcp_info(bytes: &[u8]) -> TcpInfo {
    // 0: not measured yet.
    let measured = |at| word(bytes, at).filter(|value| *value != 0);
    TcpInfo {
        retransmit_timeout_us: measured(8),
        segment_size: measured(16),
        unacknowledged: word(bytes, 24),
        lost: word(bytes, 32),
        last_sent_ms: word(bytes, 44),
        last_received_ms: word(bytes, 52),
        rtt_us: measured(68),
        rtt_variation_us: measured(72),
        slow_start_threshold: word(bytes, 76).filter(|threshold| *threshold < NO_THRESHOLD),
        congestion_window: word(bytes, 80),
        retransmits: word(bytes, 100),
        // All ones: not paced.
        pacing_rate: long(bytes, 104).filter(|rate| *rate != 0 && *rate != u64::MAX),
        // All ones: no round trip yet.
        min_rtt_us: measured(148).filter(|rtt| *rtt != u32::MAX),
        delivery_rate: long(bytes, 160).filter(|rate| *rate != 0),
        delivered: word(bytes, 192),
        bytes_retransmitted: long(bytes, 208),
        congestion_control: [0; CONGESTION_CONTROL_BYTES],
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn own_sockets_have_their_figures() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // Not accepted: it waits in the backlog.
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let parts = InfoParts { tcp: true, udp: false };
        let own = iterate::own_namespace().unwrap();
        let infos = iterate::beside(|| SocketInfos::read(false, parts, |inode| inode == own), || ()).unwrap();
        let end = |address: std::net::SocketAddr| End { address: address.ip(), port: address.port() };
        let namespace = u32::try_from(own).unwrap();
        let of = |local, remote| infos.of(0, namespace, IPPROTO_TCP, local, remote).unwrap().clone();
        let listening = of(end(listener.local_addr().unwrap()), None);
        assert_eq!((listening.receive_queue, &listening.tcp), (1, &None));
        assert!(listening.send_queue >= 1);
        let connected = of(end(client.local_addr().unwrap()), Some(end(client.peer_addr().unwrap())));
        let tcp = connected.tcp.unwrap();
        assert!(tcp.rtt_us.is_some() && tcp.congestion_window.is_some_and(|window| window > 0), "{tcp:?}");
        let kernels = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        assert_eq!(tcp.congestion_control(), Some(kernels.trim()));
        assert!(infos.bytes() > 0);
        let by_cookie = iterate::beside(|| SocketInfos::read(true, parts, |inode| inode == own), || ()).unwrap();
        assert!(by_cookie.by_cookie.len() >= 3 && !by_cookie.by_cookie.contains_key(&0), "{by_cookie:?}");
    }

    #[test]
    fn half_open_connections_are_found_by_their_ends() {
        // As `inet_req_diag_fill` in net/ipv4/inet_diag.c describes a request socket: timer 1, and a cookie of its own.
        let mut message = [0; 72];
        let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[AF_INET as u8, tcp_state::SYN_RECV, 1, 3]);
        put(4, &80_u16.to_be_bytes());
        put(6, &4000_u16.to_be_bytes());
        put(8, &[10, 0, 0, 1]);
        put(24, &[10, 0, 0, 2]);
        put(44, &77_u32.to_ne_bytes());
        put(52, &900_u32.to_ne_bytes());
        let (local, remote) = (("10.0.0.1", 80), ("10.0.0.2", 4000));
        let end = |(address, port): (&str, u16)| End { address: address.parse().unwrap(), port };
        for has_cookies in [true, false] {
            let mut infos = SocketInfos { has_cookies, ..SocketInfos::default() };
            infos.take(&message, 1, IPPROTO_TCP);
            let of = |socket| infos.of(socket, 1, IPPROTO_TCP, end(local), Some(end(remote)));
            let timer = of(0).and_then(|info| info.timer);
            assert_eq!(timer, Some((Timer::Retransmit, 900, 3)), "its row has no number");
            assert_eq!(of(77).and_then(|info| info.timer), timer, "or it is a whole socket");
        }
    }

    proptest! {
        #[test]
        fn damaged_messages_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }
    }
}
