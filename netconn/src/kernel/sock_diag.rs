//! `sock_diag`: asks the kernel for the sockets of a protocol or family, over netlink, in the network namespace of the calling thread.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netconn_common::AF_INET;
use netconn_model::fact::End;
use netlink_sys::{SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};

use crate::privileged::namespaces;

/// Room for one part of an answer (`netlink_dump` in `net/netlink/af_netlink.c`: 32 KiB).
const ANSWER_BYTES: usize = 64 << 10;
/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `NLMSG_ERROR` and `NLMSG_DONE` in `include/uapi/linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `SOCK_DIAG_BY_FAMILY` in `include/uapi/linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP` in `include/uapi/linux/netlink.h`.
const REQUEST_DUMP: u16 = 0x301;
/// Bytes of `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 56;
/// `INET_DIAG_REQ_PROTOCOL` in `include/uapi/linux/inet_diag.h`: a protocol that does not fit into a byte.
const INET_DIAG_REQ_PROTOCOL: u16 = 3;
/// Bytes of `struct inet_diag_msg`; attributes follow.
const MESSAGE_BYTES: usize = 72;
/// `INET_DIAG_INFO` and `INET_DIAG_CONG` in `include/uapi/linux/inet_diag.h`.
pub(super) const INET_DIAG_INFO: u16 = 2;
pub(super) const INET_DIAG_CONG: u16 = 4;
/// All states, one bit each.
pub(super) const ALL_STATES: u32 = u32::MAX;

/// Returns a request for all sockets of a protocol in some states, one bit each, with the attributes `extensions`: `struct
/// inet_diag_req_v2`.
pub(super) fn inet_request(family: u16, protocol: u16, states: u32, extensions: &[u16]) -> Vec<u8> {
    let mut request = vec![0; REQUEST_BYTES];
    request[0] = family as u8;
    // The low byte where the attribute below says the rest, as in ss.
    request[1] = protocol as u8;
    // One bit for each extension, counted from 1.
    request[2] = extensions.iter().fold(0, |bits, extension| bits | 1 << (extension - 1));
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    if protocol > u16::from(u8::MAX) {
        // `struct nlattr`: its length, its type, and the number.
        request.extend_from_slice(&8_u16.to_ne_bytes());
        request.extend_from_slice(&INET_DIAG_REQ_PROTOCOL.to_ne_bytes());
        request.extend_from_slice(&u32::from(protocol).to_ne_bytes());
    }
    request
}

/// Asks for all sockets that a request describes, and hands each message, without its header, to the function.
///
/// # Errors
///
/// When the kernel lacks the protocol (`ENOENT`), or does not allow it.
pub(super) fn dump(request: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let socket = namespaces::netlink(NETLINK_SOCK_DIAG)?;
    // A connected socket only hears the kernel (`netlink_getsockbyportid` in net/netlink/af_netlink.c).
    socket.connect(&NetlinkAddress::new(0, 0))?;
    let length = HEADER_BYTES + request.len();
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(request);
    socket.send(&message, 0)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    loop {
        // `recv` appends to what is there.
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if take_part(&answer, &mut take)? {
            return Ok(());
        }
    }
}

/// Takes the messages of one part of an answer; returns whether it was the last part.
fn take_part(mut rest: &[u8], take: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while rest.len() >= HEADER_BYTES {
        let length = (word(rest, 0).unwrap_or_default() as usize).clamp(HEADER_BYTES, rest.len());
        let payload = &rest[HEADER_BYTES..length];
        match half(rest, 4) {
            // A negative number is an error in either.
            Some(NLMSG_DONE | NLMSG_ERROR) => {
                let code = word(payload, 0).map_or(0, u32::cast_signed);
                return if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_neg())) } else { Ok(true) };
            }
            _ => take(payload),
        }
        // Messages are aligned to four bytes, NLMSG_ALIGN in include/uapi/linux/netlink.h.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Calls the function with the type and the bytes of each attribute (`struct nlattr`).
pub(super) fn attributes<'a>(mut rest: &'a [u8], mut take: impl FnMut(u16, &'a [u8])) {
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let length = usize::from(length).clamp(4, rest.len());
        take(kind, &rest[4..length]);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Reads a number of 16 bits at an offset.
fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a number of 32 bits at an offset.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a number of 64 bits at an offset.
pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A message about a socket of IP: `struct inet_diag_msg`.
#[derive(Debug)]
pub(super) struct InetMessage<'a> {
    pub(super) state: u8,
    /// The number of the timer that runs; 0: none.
    pub(super) timer: u8,
    pub(super) retries: u8,
    /// Mapped addresses are IPv4, as in rows.
    pub(super) local: End,
    /// All zeros if there is none.
    pub(super) remote: End,
    /// Index of the network device; 0: none.
    pub(super) device: u32,
    pub(super) cookie: u64,
    /// Milliseconds.
    pub(super) expires_ms: u32,
    pub(super) receive_queue: u32,
    pub(super) send_queue: u32,
    pub(super) uid: u32,
    pub(super) inode: u32,
    /// For [`attributes`].
    pub(super) attributes: &'a [u8],
}

impl<'a> InetMessage<'a> {
    /// Reads a message; `None` if it is too short.
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        let fixed: &[u8; MESSAGE_BYTES] = message.first_chunk()?;
        let end = |address: usize, port: usize| {
            let bytes: [u8; 16] = fixed[address..address + 16].try_into().unwrap_or_default();
            let [a, b, c, d, ..] = bytes;
            let address = if u16::from(fixed[0]) == AF_INET {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            } else {
                Ipv6Addr::from(bytes).to_canonical()
            };
            End { address, port: u16::from_be_bytes([fixed[port], fixed[port + 1]]) }
        };
        let number = |at| word(fixed, at).unwrap_or_default();
        // Members of `struct inet_diag_sockid`, then expires 52, rqueue 56, wqueue 60, uid 64, inode 68.
        Some(Self {
            state: fixed[1],
            timer: fixed[2],
            retries: fixed[3],
            local: end(8, 4),
            remote: end(24, 6),
            device: number(40),
            // Two words, the low one first (`sock_diag_save_cookie` in net/core/sock_diag.c).
            cookie: u64::from(number(44)) | u64::from(number(48)) << 32,
            expires_ms: number(52),
            receive_queue: number(56),
            send_queue: number(60),
            uid: number(64),
            inode: number(68),
            attributes: &message[MESSAGE_BYTES..],
        })
    }

    /// Returns the bytes of an attribute.
    pub(super) fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        let mut found = None;
        attributes(self.attributes, |kind, bytes| found = found.or((kind == wanted).then_some(bytes)));
        found
    }
}

#[cfg(test)]
mod tests {
    use netconn_common::tcp_state;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_an_error() {
        // No protocol has this number.
        let error = dump(&inet_request(AF_INET, 253, ALL_STATES, &[]), |_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}");
    }

    /// A socket as the kernel reports it: the header of the message, `struct inet_diag_msg`, and an attribute.
    fn answer() -> Vec<u8> {
        let mut bytes = vec![0; 16 + 72 + 8];
        bytes[..4].copy_from_slice(&96_u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&20_u16.to_ne_bytes());
        bytes[16..18].copy_from_slice(&[AF_INET as u8, tcp_state::CLOSE]);
        bytes[20..22].copy_from_slice(&53_u16.to_be_bytes());
        bytes[24..28].copy_from_slice(&[127, 0, 0, 1]);
        bytes[60..64].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[64..68].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[84..88].copy_from_slice(&99_u32.to_ne_bytes());
        // INET_DIAG_SHUTDOWN of `include/uapi/linux/inet_diag.h`, with one byte and its filling.
        bytes[88..90].copy_from_slice(&5_u16.to_ne_bytes());
        bytes[90..92].copy_from_slice(&8_u16.to_ne_bytes());
        bytes[92] = 3;
        bytes
    }

    type Taken = Vec<(u64, u32, u16, String, Option<Vec<u8>>)>;

    fn taken(bytes: &[u8]) -> (io::Result<bool>, Taken) {
        let mut found = Vec::new();
        let mut take = |message: &[u8]| {
            let Some(message) = InetMessage::read(message) else { return };
            let InetMessage { cookie, inode, local, .. } = message;
            let attribute = message.attribute(8).map(<[u8]>::to_vec);
            found.push((cookie, inode, local.port, local.address.to_string(), attribute));
        };
        (take_part(bytes, &mut take), found)
    }

    #[test]
    fn an_answer_is_read() {
        let (is_last, found) = taken(&[answer(), answer()].concat());
        assert!(!is_last.unwrap() && found.len() == 2);
        assert_eq!(found[0], (1 << 32 | 7, 99, 53, "127.0.0.1".into(), Some(vec![3])));
        let done = |code: i32| [&20_u32.to_ne_bytes()[..], &[3, 0, 0, 0], &[0; 8], &code.to_ne_bytes()].concat();
        let (is_last, found) = taken(&[answer(), done(0)].concat());
        assert!(is_last.unwrap() && found.len() == 1);
        assert_eq!(taken(&done(-libc::ENOENT)).0.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert!(taken(&done(i32::MIN)).0.is_err());
    }

    #[test]
    fn large_numbers_of_protocols_stand_in_an_attribute() {
        assert_eq!(inet_request(AF_INET, 6, 2, &[INET_DIAG_INFO])[..8], [2, 6, 2, 0, 2, 0, 0, 0]);
        let request = inet_request(AF_INET, 262, 2, &[]);
        assert_eq!(request[56..], [8, 0, 3, 0, 6, 1, 0, 0]);
    }

    proptest! {
        #[test]
        fn damaged_answers_do_no_harm(
            length in 0..=192_usize,
            changes in prop::collection::vec((0..192_usize, any::<u8>()), 0..8),
        ) {
            let mut bytes = [answer(), answer()].concat();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.truncate(length);
            let _ = taken(&bytes);
        }
    }
}
