//! Raw sockets, SCTP and MPTCP: all of them are described by `struct inet_diag_msg`.

use std::{collections::HashSet, io};

use netconn_common::{AF_INET, AF_INET6, tcp_state};
use netconn_model::{fact::End, socket_kind::SocketKind};
use procfs::{
    current_system_info,
    net::{UdpNetEntries, UdpNetEntry},
    prelude::FromBufReadSI as _,
};

use super::{Mptcp, OtherEnds, OtherSocket, of_user};
use crate::{
    kernel::sock_diag::{ALL_STATES, INET_DIAG_INFO, InetMessage, dump, inet_request, word},
    privileged::{NetFile, namespaces},
};

/// `IPPROTO_SCTP`, `IPPROTO_RAW` and `IPPROTO_MPTCP` in `include/uapi/linux/in.h`.
const IPPROTO_SCTP: u16 = 132;
const IPPROTO_RAW: u16 = 255;
const IPPROTO_MPTCP: u16 = 262;
/// `INET_DIAG_PEERS` in `include/uapi/linux/inet_diag.h`: only SCTP associations have it (`net/sctp/diag.c`).
const INET_DIAG_PEERS: u16 = 13;
/// `MPTCP_INFO_FLAG_FALLBACK` in `include/uapi/linux/mptcp.h`.
const MPTCP_FALLBACK: u32 = 1;

/// Reads all sockets of a protocol.
fn read(protocol: u16, extensions: &[u16], mut take: impl FnMut(&InetMessage<'_>)) -> io::Result<()> {
    for family in [AF_INET, AF_INET6] {
        let request = inet_request(family, protocol, ALL_STATES, extensions);
        dump(&request, |message| {
            if let Some(message) = InetMessage::read(message) {
                take(&message);
            }
        })?;
    }
    Ok(())
}

fn socket(kind: SocketKind, message: &InetMessage<'_>, namespace: u32, ends: OtherEnds) -> OtherSocket {
    OtherSocket {
        kind,
        state: message.state,
        association: None,
        namespace,
        inode: message.inode.into(),
        cookie: message.cookie,
        queues: Some((message.receive_queue, message.send_queue)),
        ends,
        owner: of_user(Some(message.uid)),
    }
}

/// Reads the raw sockets of the calling thread's network namespace: by `sock_diag`, else from `/proc`.
pub(super) fn raw(namespace: u32, found: &mut Vec<OtherSocket>) -> io::Result<()> {
    let before = found.len();
    match read(IPPROTO_RAW, &[], |message| found.push(of_raw(message, namespace))) {
        Err(_) => {
            found.truncate(before);
            raw_of_proc(namespace, found)
        }
        done => done,
    }
}

/// The port of a raw socket is the number of its protocol (`inet_num` in `net/ipv4/raw.c`).
fn of_raw(message: &InetMessage<'_>, namespace: u32) -> OtherSocket {
    let protocol = u8::try_from(message.local.port).unwrap_or(u8::MAX);
    let remote = (!message.remote.address.is_unspecified()).then_some(End { port: 0, ..message.remote });
    let local = End { port: 0, ..message.local };
    let ends = OtherEnds::Ip { local, remote, device: message.device, protocol, mptcp: None };
    socket(SocketKind::Raw, message, namespace, ends)
}

fn raw_of_proc(namespace: u32, found: &mut Vec<OtherSocket>) -> io::Result<()> {
    for file in [NetFile::Raw, NetFile::Raw6] {
        let text = match namespaces::NamespaceText::open(file).and_then(|mut text| text.read()) {
            // Without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file == NetFile::Raw6 => continue,
            read => read?,
        };
        // They have the columns of `/proc/net/udp` (`raw_sock_seq_show` in net/ipv4/raw.c).
        let entries = UdpNetEntries::from_buf_read(&text[..], current_system_info()).map_err(io::Error::other)?;
        found.extend(entries.0.iter().map(|entry| of_entry(entry, namespace)));
    }
    Ok(())
}

fn of_entry(entry: &UdpNetEntry, namespace: u32) -> OtherSocket {
    let end = |address: std::net::SocketAddr| End { address: address.ip().to_canonical(), port: 0 };
    let remote = Some(end(entry.remote_address)).filter(|end| !end.address.is_unspecified());
    let protocol = u8::try_from(entry.local_address.port()).unwrap_or(u8::MAX);
    OtherSocket {
        kind: SocketKind::Raw,
        state: entry.state.to_u8(),
        association: None,
        namespace,
        inode: entry.inode,
        cookie: 0,
        queues: Some((entry.rx_queue, entry.tx_queue)),
        ends: OtherEnds::Ip { local: end(entry.local_address), remote, device: 0, protocol, mptcp: None },
        owner: of_user(Some(entry.uid)),
    }
}

/// Reads the MPTCP connections and listeners of the calling thread's network namespace.
pub(super) fn mptcp(namespace: u32, found: &mut Vec<OtherSocket>) -> io::Result<()> {
    read(IPPROTO_MPTCP, &[INET_DIAG_INFO], |message| found.push(of_mptcp(message, namespace)))
}

fn of_mptcp(message: &InetMessage<'_>, namespace: u32) -> OtherSocket {
    let is_listener = message.state == tcp_state::LISTEN;
    // `struct mptcp_info`, include/uapi/linux/mptcp.h: mptcpi_subflows 0, mptcpi_flags 8, mptcpi_token 12.
    let mptcp = message.attribute(INET_DIAG_INFO).and_then(|info| {
        Some(Mptcp {
            token: word(info, 12).filter(|_| !is_listener),
            subflows: *info.first()?,
            is_fallback: word(info, 8)? & MPTCP_FALLBACK != 0 && !is_listener,
        })
    });
    let remote = (message.remote.port != 0).then_some(message.remote);
    let ends = OtherEnds::Ip { local: message.local, remote, device: message.device, protocol: 0, mptcp };
    socket(SocketKind::Mptcp, message, namespace, ends)
}

/// Reads the SCTP associations of the calling thread's network namespace, and the sockets that listen or have none.
pub(super) fn sctp(namespace: u32, found: &mut Vec<OtherSocket>) -> io::Result<()> {
    let mut sctp = Sctp::default();
    read(IPPROTO_SCTP, &[], |message| sctp.take(message, namespace))?;
    found.extend(sctp.into_sockets());
    Ok(())
}

/// What is read of SCTP. The kernel tells a socket that has associations before each batch of them, and all sockets once more.
#[derive(Default)]
struct Sctp {
    associations: Vec<OtherSocket>,
    sockets: Vec<OtherSocket>,
    /// Cookies of sockets that have associations.
    with_associations: HashSet<u64>,
    /// Cookies of `sockets`.
    known: HashSet<u64>,
}

impl Sctp {
    fn take(&mut self, message: &InetMessage<'_>, namespace: u32) {
        let is_association = message.attribute(INET_DIAG_PEERS).is_some();
        let remote = is_association.then_some(message.remote);
        let ends = OtherEnds::Ip { local: message.local, remote, device: message.device, protocol: 0, mptcp: None };
        let mut socket = socket(SocketKind::Sctp, message, namespace, ends);
        if is_association {
            let (state, name) = association_state(message.state);
            (socket.state, socket.association) = (state, Some(name));
            self.with_associations.insert(message.cookie);
            self.associations.push(socket);
        } else if self.known.insert(message.cookie) {
            self.sockets.push(socket);
        }
    }

    fn into_sockets(self) -> impl Iterator<Item = OtherSocket> {
        let Self { associations, mut sockets, with_associations, .. } = self;
        // A socket that only has associations is shown by them.
        sockets.retain(|socket| socket.state == tcp_state::LISTEN || !with_associations.contains(&socket.cookie));
        sockets.into_iter().chain(associations)
    }
}

/// Returns the state of TCP that is next to the state of an association (`enum sctp_state` in `include/net/sctp/constants.h`), for filters,
/// and its name.
fn association_state(state: u8) -> (u8, &'static str) {
    match state {
        1 => (tcp_state::SYN_SENT, "COOKIE_WAIT"),
        2 => (tcp_state::SYN_SENT, "COOKIE_ECHOED"),
        3 => (tcp_state::ESTABLISHED, "ESTABLISHED"),
        4 => (tcp_state::FIN_WAIT1, "SHUTDOWN_PENDING"),
        5 => (tcp_state::FIN_WAIT2, "SHUTDOWN_SENT"),
        6 => (tcp_state::CLOSE_WAIT, "SHUTDOWN_RECEIVED"),
        7 => (tcp_state::LAST_ACK, "SHUTDOWN_ACK_SENT"),
        _ => (tcp_state::CLOSE, "CLOSED"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of the kernel, with an attribute.
    fn message(state: u8, ports: (u16, u16), remote: [u8; 4], cookie: u32, attribute: Option<(u16, &[u8])>) -> Vec<u8> {
        let mut message = vec![0; 72];
        message[..2].copy_from_slice(&[AF_INET as u8, state]);
        message[4..6].copy_from_slice(&ports.0.to_be_bytes());
        message[6..8].copy_from_slice(&ports.1.to_be_bytes());
        message[8..12].copy_from_slice(&[10, 0, 0, 1]);
        message[24..28].copy_from_slice(&remote);
        message[44..48].copy_from_slice(&cookie.to_ne_bytes());
        message[68..72].copy_from_slice(&(cookie + 1000).to_ne_bytes());
        if let Some((kind, bytes)) = attribute {
            message.extend_from_slice(&u16::try_from(4 + bytes.len()).unwrap().to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(bytes);
        }
        message
    }

    #[test]
    fn associations_stand_for_their_socket_unless_it_listens() {
        let peers = Some((INET_DIAG_PEERS, &[0_u8; 128][..]));
        let mut sctp = Sctp::default();
        // As `sctp_diag_dump` in net/sctp/diag.c sends them: first the sockets, then each with its associations.
        for message in [
            message(tcp_state::LISTEN, (3868, 0), [0; 4], 1, None),
            message(tcp_state::CLOSE, (4000, 0), [0; 4], 2, None),
            message(tcp_state::ESTABLISHED, (5000, 0), [0; 4], 3, None),
            message(tcp_state::LISTEN, (3868, 0), [0; 4], 1, None),
            message(3, (3868, 40_000), [10, 0, 0, 2], 1, peers),
            message(6, (3868, 40_001), [10, 0, 0, 2], 1, peers),
            message(tcp_state::ESTABLISHED, (5000, 0), [0; 4], 3, None),
            message(1, (5000, 3868), [10, 0, 0, 3], 3, peers),
        ] {
            sctp.take(&InetMessage::read(&message).unwrap(), 7);
        }
        let found: Vec<_> = sctp.into_sockets().collect();
        let shown: Vec<_> = found
            .iter()
            .map(|socket| {
                let OtherEnds::Ip { local, remote, .. } = &socket.ends else { panic!("{socket:?}") };
                (local.port, remote.map_or(0, |remote| remote.port), socket.state, socket.association, socket.inode)
            })
            .collect();
        assert_eq!(
            shown,
            [
                (3868, 0, tcp_state::LISTEN, None, 1001),
                (4000, 0, tcp_state::CLOSE, None, 1002),
                (3868, 40_000, tcp_state::ESTABLISHED, Some("ESTABLISHED"), 1001),
                (3868, 40_001, tcp_state::CLOSE_WAIT, Some("SHUTDOWN_RECEIVED"), 1001),
                (5000, 3868, tcp_state::SYN_SENT, Some("COOKIE_WAIT"), 1003),
            ]
        );
    }

    #[test]
    fn raw_sockets_have_a_protocol_and_no_port() {
        let bytes = message(tcp_state::ESTABLISHED, (89, 0), [10, 0, 0, 2], 5, None);
        let socket = of_raw(&InetMessage::read(&bytes).unwrap(), 7);
        let OtherEnds::Ip { local, remote, protocol, .. } = socket.ends else { panic!("{socket:?}") };
        assert_eq!((local.port, remote.unwrap().address.to_string().as_str(), protocol), (0, "10.0.0.2", 89));
        let bytes = message(tcp_state::CLOSE, (1, 0), [0; 4], 5, None);
        let OtherEnds::Ip { remote, .. } = of_raw(&InetMessage::read(&bytes).unwrap(), 7).ends else { panic!() };
        assert_eq!(remote, None);
    }

    #[test]
    fn connections_of_mptcp_have_a_token() {
        let mut info = [0; 80];
        (info[0], info[8]) = (2, 1);
        info[12..16].copy_from_slice(&0xabcd_u32.to_ne_bytes());
        let of = |state| {
            let bytes = message(state, (443, 5000), [10, 0, 0, 2], 5, Some((INET_DIAG_INFO, &info)));
            let OtherEnds::Ip { mptcp, .. } = of_mptcp(&InetMessage::read(&bytes).unwrap(), 7).ends else { panic!() };
            mptcp.unwrap()
        };
        assert_eq!(of(tcp_state::ESTABLISHED), Mptcp { token: Some(0xabcd), subflows: 2, is_fallback: true });
        assert_eq!(of(tcp_state::LISTEN), Mptcp { token: None, subflows: 2, is_fallback: false });
    }
}
