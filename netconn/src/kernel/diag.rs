//! TCP sockets of the own network namespace without BPF, for whoever asks: `sock_diag`, else `/proc/net`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytemuck::Zeroable as _;
use netconn_common::{Header, SocketState, TcpRecord, Totals, UNKNOWN_U32, UNKNOWN_U64, kind, role, tcp_state};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use procfs::net::{TcpNetEntry, TcpState};

use crate::kernel::iterate;

/// What the kernel gives at once at most (`netlink_dump` in `net/netlink/af_netlink.c`: 32 KiB).
const ANSWER_BYTES: usize = 64 << 10;
const NOT_KNOWN: Totals = Totals {
    bytes_sent: UNKNOWN_U64,
    bytes_received: UNKNOWN_U64,
    segments_sent: UNKNOWN_U32,
    segments_received: UNKNOWN_U32,
    rtt_us: 0,
    retransmits: UNKNOWN_U32,
};

/// A socket or minisock.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// As a dump by BPF would have it, but for the owner. The number of a minisock is 0.
    pub record: TcpRecord,
    /// Inode of its file; 0 if nobody has it open.
    pub inode: u64,
}

/// All sockets by `sock_diag`, with their cookies. Half-open connections are among them, as `SYN_RECV`.
///
/// # Errors
///
/// When the kernel has no `sock_diag` or does not allow it.
pub fn sockets() -> io::Result<Vec<Found>> {
    let namespace = namespace();
    let mut found = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        dump(family, socket_id, |response| found.push(of_response(response, namespace)))?;
    }
    Ok(found)
}

/// The same from `/proc/net/tcp` and `tcp6`: without cookies, numbered instead.
///
/// # Errors
///
/// When there is no `/proc`.
pub fn sockets_of_proc() -> io::Result<Vec<Found>> {
    let namespace = namespace();
    let mut entries = procfs::net::tcp().map_err(io::Error::other)?;
    // Not there without IPv6.
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    let known = entries.iter().filter(|entry| entry.state != TcpState::NewSynRecv);
    Ok((1..).zip(known).map(|(number, entry)| of_entry(entry, number, namespace)).collect())
}

fn namespace() -> u32 {
    iterate::own_namespace().and_then(|inode| u32::try_from(inode).ok()).unwrap_or(UNKNOWN_U32)
}

/// Asks for all sockets of a family.
fn dump(family: u8, socket_id: SocketId, mut take: impl FnMut(&InetResponse)) -> io::Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: StateFlags::all().difference(StateFlags::CLOSE),
        socket_id,
    };
    let mut packet = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match &message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => take(response),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages are aligned to four bytes, NLMSG_ALIGN in include/uapi/linux/netlink.h.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn of_response(response: &InetResponse, namespace: u32) -> Found {
    let (header, id) = (&response.header, &response.header.socket_id);
    let info = response.nlas.iter().find_map(|nla| if let Nla::TcpInfo(info) = nla { Some(info) } else { None });
    // The cookie is two words, the low one first (`sock_diag_save_cookie` in net/core/sock_diag.c).
    let cookie = u64::from_le_bytes(id.cookie);
    let record = record(
        header.state,
        if header.state == tcp_state::TIME_WAIT { 0 } else { cookie },
        SocketAddr::new(id.source_address, id.source_port),
        SocketAddr::new(id.destination_address, id.destination_port),
        namespace,
    );
    let totals = info.map_or(NOT_KNOWN, |info| totals(info, header.state));
    Found { record: TcpRecord { totals, ..record }, inode: header.inode.into() }
}

fn of_entry(entry: &TcpNetEntry, number: u64, namespace: u32) -> Found {
    let state = entry.state.to_u8();
    let number = if state == tcp_state::TIME_WAIT { 0 } else { number };
    let record = record(state, number, entry.local_address, entry.remote_address, namespace);
    Found { record, inode: entry.inode }
}

fn record(state: u8, socket: u64, local: SocketAddr, remote: SocketAddr, namespace: u32) -> TcpRecord {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let role = if state == tcp_state::LISTEN { role::LISTENER } else { role::UNKNOWN };
    TcpRecord {
        header: Header { kind: kind::TCP, ..Header::zeroed() },
        socket,
        state: SocketState { generation: 1, role, ..SocketState::default() },
        totals: NOT_KNOWN,
        namespace,
        error: 0,
        local_address: bytes(local.ip()),
        remote_address: bytes(remote.ip()),
        local_port: local.port(),
        remote_port: remote.port(),
        // Mapped addresses are given as IPv4 later on.
        family: AF_INET6.into(),
        old_state: state,
        new_state: state,
    }
}

/// Counters of a `struct tcp_info` (`include/uapi/linux/tcp.h`), which only grows at its end; payload only, as in the eBPF
/// programs: the kernel counts the peer's FIN as a received byte, and what was sent again twice.
fn totals(info: &[u8], state: u8) -> Totals {
    let word = |at: usize| info.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let long = |at: usize| info.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let has_fin = matches!(state, tcp_state::CLOSE_WAIT | tcp_state::LAST_ACK | tcp_state::CLOSING);
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
        net::{Shutdown, TcpListener, TcpStream},
    };

    use super::*;

    fn ends(found: &[Found]) -> Vec<(u8, u16, u16, [u8; 16])> {
        let of = |Found { record, .. }: &Found| {
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
        let of_test = |found: &Found| [found.record.local_port, found.record.remote_port].contains(&port);
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
    fn short_counters_are_unknown() {
        let totals = totals(&[1; 130], tcp_state::ESTABLISHED);
        assert_eq!((totals.bytes_sent, totals.bytes_received), (UNKNOWN_U64, UNKNOWN_U64));
        assert_eq!(totals.retransmits, 0x0101_0101);
    }
}
