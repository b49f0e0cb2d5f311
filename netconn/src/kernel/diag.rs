//! Reads the TCP and UDP sockets of the own network namespace without BPF: by `sock_diag`, else from `/proc/net`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytemuck::Zeroable as _;
use netconn_common::{
    AF_INET, AF_INET6, DatagramSocketState, Header, IPPROTO_TCP, IPPROTO_UDP, SocketState, TcpRecord, Totals,
    UNKNOWN_U32, UNKNOWN_U64, UdpSocketRecord, datagram_mark, kind, role, tcp_state,
};
use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry};
use tracing::debug;

use crate::kernel::{
    iterate,
    sock_diag::{self, INET_DIAG_INFO, InetMessage, inet_request, long, word},
};

/// A TCP socket or minisock, with a [`TcpRecord`], or a UDP socket, with a [`UdpSocketRecord`].
#[derive(Clone, Copy, Debug)]
pub struct Found<R> {
    /// The record of an iterator, without the owner. The number of a minisock is 0.
    pub record: R,
    /// Inode of the socket's file; 0 if nobody has it open.
    pub inode: u64,
    /// Unix user id of the socket.
    pub uid: u32,
}

/// Reads all TCP sockets by `sock_diag`, with their cookies. Half-open connections are among them, as `SYN_RECV`.
///
/// # Errors
///
/// When the kernel has no `sock_diag` of TCP or does not allow it.
pub fn sockets() -> io::Result<Vec<Found<TcpRecord>>> {
    let namespace = namespace();
    // The states of TCP are numbered from 1 to `CLOSING`, and the kernel adds half-open connections to `SYN_RECV`.
    let states = (1..=tcp_state::CLOSING).filter(|state| *state != tcp_state::CLOSE);
    dump(IPPROTO_TCP, states, |message| of_message(message, namespace))
}

/// Reads all TCP sockets from `/proc/net/tcp` and `tcp6`: without cookies, numbered instead.
///
/// # Errors
///
/// When there is no `/proc`.
pub fn sockets_of_proc() -> io::Result<Vec<Found<TcpRecord>>> {
    let namespace = namespace();
    let mut entries = procfs::net::tcp().map_err(io::Error::other)?;
    // The file is missing without IPv6.
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    let known = entries.iter().filter(|entry| entry.state != TcpState::NewSynRecv);
    // From 1 on: 0 is the number of minisocks.
    Ok((1..).zip(known).map(|(number, entry)| of_entry(entry, number, namespace)).collect())
}

/// Reads all UDP sockets that have a port by `sock_diag`, with their cookies.
///
/// # Errors
///
/// When the kernel has no `sock_diag` of UDP, which is a module of its own, or does not allow it.
pub fn datagrams() -> io::Result<Vec<Found<UdpSocketRecord>>> {
    let namespace = namespace();
    // An unconnected socket is in `TCP_CLOSE`; UDP has no other states.
    dump(IPPROTO_UDP, [tcp_state::ESTABLISHED, tcp_state::CLOSE], |message| datagrams_of(message, namespace))
}

/// Reads all UDP sockets from `/proc/net/udp` and `udp6`: without cookies.
///
/// # Errors
///
/// When there is no `/proc`.
pub fn datagrams_of_proc() -> io::Result<Vec<Found<UdpSocketRecord>>> {
    let namespace = namespace();
    let mut entries = procfs::net::udp().map_err(io::Error::other)?;
    // The file is missing without IPv6.
    entries.extend(procfs::net::udp6().unwrap_or_default());
    Ok(entries.iter().map(|entry| datagrams_of_entry(entry, namespace)).collect())
}

/// Makes the kernel assign cookies to all UDP sockets with a port in the calling thread's network namespace, by dumping them
/// (`sock_diag_save_cookie` in `net/core/sock_diag.c`): before 5.12 programs can read a cookie but not create one.
pub(super) fn number_datagrams() {
    if let Err(error) = datagrams() {
        debug!("UDP sockets older than netconn have no number: {error}");
    }
}

fn namespace() -> u32 {
    iterate::own_namespace().and_then(|inode| u32::try_from(inode).ok()).unwrap_or(UNKNOWN_U32)
}

/// Reads all sockets of a protocol in some states.
fn dump<T>(
    protocol: u8,
    states: impl IntoIterator<Item = u8>,
    make: impl Fn(&InetMessage<'_>) -> T,
) -> io::Result<Vec<T>> {
    let states = states.into_iter().fold(0, |bits, state| bits | 1 << state);
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = inet_request(family, protocol.into(), states, &[INET_DIAG_INFO]);
        sock_diag::dump(&request, |message| found.extend(InetMessage::read(message).map(|message| make(&message))))?;
    }
    Ok(found)
}

fn of_message(message: &InetMessage<'_>, namespace: u32) -> Found<TcpRecord> {
    let InetMessage { state, local, remote, device, cookie, uid, inode, .. } = *message;
    let record = record(
        state,
        if state == tcp_state::TIME_WAIT { 0 } else { cookie },
        SocketAddr::new(local.address, local.port),
        SocketAddr::new(remote.address, remote.port),
        namespace,
    );
    let totals = message.attribute(INET_DIAG_INFO).map_or(Totals::UNKNOWN, |info| totals(info, state));
    Found { record: TcpRecord { totals, device, ..record }, inode: inode.into(), uid }
}

fn of_entry(entry: &TcpNetEntry, number: u64, namespace: u32) -> Found<TcpRecord> {
    let state = entry.state.to_u8();
    let number = if state == tcp_state::TIME_WAIT { 0 } else { number };
    let record = record(state, number, entry.local_address, entry.remote_address, namespace);
    Found { record, inode: entry.inode, uid: entry.uid }
}

fn datagrams_of(message: &InetMessage<'_>, namespace: u32) -> Found<UdpSocketRecord> {
    let InetMessage { state, local, remote, device, cookie, uid, inode, .. } = *message;
    let ends = (SocketAddr::new(local.address, local.port), SocketAddr::new(remote.address, remote.port));
    let record = datagram_record(state == tcp_state::ESTABLISHED, cookie, ends, namespace);
    Found { record: UdpSocketRecord { device, ..record }, inode: inode.into(), uid }
}

fn datagrams_of_entry(entry: &UdpNetEntry, namespace: u32) -> Found<UdpSocketRecord> {
    let is_connected = entry.state.to_u8() == tcp_state::ESTABLISHED;
    let ends = (entry.local_address, entry.remote_address);
    Found { record: datagram_record(is_connected, 0, ends, namespace), inode: entry.inode, uid: entry.uid }
}

fn datagram_record(
    is_connected: bool,
    socket: u64,
    (local, remote): (SocketAddr, SocketAddr),
    namespace: u32,
) -> UdpSocketRecord {
    UdpSocketRecord {
        header: Header { kind: kind::UDP_SOCKET, ..Header::zeroed() },
        socket,
        file: 0,
        state: DatagramSocketState { namespace, ..DatagramSocketState::default() },
        local_address: bytes(local.ip()),
        remote_address: bytes(remote.ip()),
        local_port: local.port(),
        remote_port: remote.port(),
        // As in `record`.
        family: AF_INET6,
        protocol: IPPROTO_UDP.into(),
        marks: if is_connected { datagram_mark::CONNECTED } else { 0 },
        device: 0,
    }
}

fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn record(state: u8, socket: u64, local: SocketAddr, remote: SocketAddr, namespace: u32) -> TcpRecord {
    let role = if state == tcp_state::LISTEN { role::LISTENER } else { role::UNKNOWN };
    TcpRecord {
        header: Header { kind: kind::TCP, ..Header::zeroed() },
        socket,
        state: SocketState { generation: 1, role, ..SocketState::default() },
        totals: Totals::UNKNOWN,
        namespace,
        error: 0,
        local_address: bytes(local.ip()),
        remote_address: bytes(remote.ip()),
        local_port: local.port(),
        remote_port: remote.port(),
        // Mapped addresses are given as IPv4 later on.
        family: AF_INET6,
        old_state: state,
        new_state: state,
        device: 0,
        reserved: 0,
    }
}

/// Returns the counters of a `struct tcp_info` (`include/uapi/linux/tcp.h`), which only grows at its end; payload only, as in
/// the eBPF programs: the kernel counts the peer's FIN as a received byte, and retransmitted bytes twice.
fn totals(info: &[u8], state: u8) -> Totals {
    let (word, long) = (|at| word(info, at), |at| long(info, at));
    // The programs look at `SOCK_DONE`, which `sock_diag` does not show: these are the states after the peer's FIN.
    let has_fin = matches!(state, tcp_state::CLOSE_WAIT | tcp_state::LAST_ACK | tcp_state::CLOSING);
    // Offsets: tcpi_bytes_sent 200, tcpi_bytes_retrans 208, tcpi_bytes_received 128, tcpi_segs_out 136,
    // tcpi_segs_in 140, tcpi_rtt 68, tcpi_total_retrans 100.
    let sent = long(200).map(|sent| sent.saturating_sub(long(208).unwrap_or(0)));
    Totals {
        bytes_sent: sent.unwrap_or(UNKNOWN_U64),
        bytes_received: long(128).map_or(UNKNOWN_U64, |bytes| bytes.saturating_sub(has_fin.into())),
        segments_sent: word(136).unwrap_or(UNKNOWN_U32),
        segments_received: word(140).unwrap_or(UNKNOWN_U32),
        rtt_us: word(68).unwrap_or(0),
        retransmits: word(100).unwrap_or(UNKNOWN_U32),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    };

    use super::*;

    fn ends(found: &[Found<TcpRecord>]) -> Vec<(u8, u16, u16, [u8; 16])> {
        let of = |Found { record, .. }: &Found<TcpRecord>| {
            (record.new_state, record.local_port, record.remote_port, record.local_address)
        };
        found.iter().map(of).collect()
    }

    #[test]
    fn own_sockets_are_found_in_both_ways() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"four").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        server.read_to_end(&mut Vec::new()).unwrap();
        let of_test = |found: &Found<TcpRecord>| [found.record.local_port, found.record.remote_port].contains(&port);
        // Until the FIN is acknowledged.
        let diag = loop {
            let mut diag = sockets().unwrap();
            diag.retain(of_test);
            if diag.iter().all(|found| found.record.new_state != tcp_state::FIN_WAIT1) {
                break diag;
            }
        };
        let totals: Vec<_> = diag.iter().map(|found| found.record.totals).collect();
        assert!(totals.iter().any(|totals| totals.bytes_received == 4), "without the FIN: {totals:?}");
        assert!(totals.iter().any(|totals| totals.bytes_sent == 4), "{totals:?}");
        let mut cookies: Vec<_> = diag.iter().map(|found| found.record.socket).collect();
        cookies.dedup();
        assert_eq!(cookies.len(), 3);
        let mut proc = sockets_of_proc().unwrap();
        proc.retain(of_test);
        let (mut diag_ends, mut proc_ends) = (ends(&diag), ends(&proc));
        diag_ends.sort_unstable();
        proc_ends.sort_unstable();
        assert_eq!(diag_ends, proc_ends);
        assert!(diag.iter().all(|found| found.inode != 0 && proc.iter().any(|other| other.inode == found.inode)));
    }

    #[test]
    fn own_sockets_of_datagrams_are_found_in_both_ways() {
        let waiting = ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"].map(|address| UdpSocket::bind(address).unwrap());
        let connected = UdpSocket::bind("[::]:0").unwrap();
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        connected.connect(("::ffff:127.0.0.1", port(&waiting[0]))).unwrap();
        let ports: Vec<u16> = waiting.iter().chain([&connected]).map(port).collect();
        let (mut diag, mut proc) = (datagrams().unwrap(), datagrams_of_proc().unwrap());
        for found in [&mut diag, &mut proc] {
            found.retain(|found| ports.contains(&found.record.local_port));
            found.sort_by_key(|found| found.inode);
            assert_eq!(found.len(), 4, "{found:#?}");
        }
        assert!(proc.iter().all(|found| found.record.socket == 0));
        let mut cookies: Vec<_> = diag.iter_mut().map(|found| std::mem::take(&mut found.record.socket)).collect();
        cookies.sort_unstable();
        cookies.dedup();
        assert!(cookies.len() == 4 && cookies[0] != 0, "{cookies:?}");
        for (one, other) in diag.iter().zip(&proc) {
            assert_ne!(one.inode, 0);
            assert_eq!(one.inode, other.inode);
            assert_eq!(bytemuck::bytes_of(&one.record), bytemuck::bytes_of(&other.record), "{one:#?} {other:#?}");
        }
        for Found { record, .. } in &diag {
            let is_connected = record.local_port == port(&connected);
            assert_eq!(record.marks & datagram_mark::CONNECTED != 0, is_connected, "{record:#?}");
            assert_eq!(record.remote_port, if is_connected { ports[0] } else { 0 });
        }
    }

    #[test]
    fn short_counters_are_unknown() {
        let totals = totals(&[1; 130], tcp_state::ESTABLISHED);
        assert_eq!((totals.bytes_sent, totals.bytes_received), (UNKNOWN_U64, UNKNOWN_U64));
        assert_eq!(totals.retransmits, 0x0101_0101);
    }
}
