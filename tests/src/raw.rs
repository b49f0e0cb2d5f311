//! Raw sockets (`SOCK_RAW`), which speak TCP and UDP past the kernel's own.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

use crate::long;

/// `IPPROTO_TCP` in `include/uapi/linux/in.h`.
const TCP: u8 = 6;

/// A raw socket of IPv4. Its receive calls fail after ten seconds, scaled by [`long`].
#[derive(Debug)]
pub struct Raw(Socket);

impl Raw {
    /// Opens a socket that sends and receives packets of this protocol, without their IP header.
    pub fn new(protocol: u8) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(protocol)))).unwrap();
        socket.set_read_timeout(Some(long(10_000))).unwrap();
        Self(socket)
    }

    /// Opens a socket that sends whole packets, with whatever sender they name. It receives nothing.
    pub fn spoofing() -> Self {
        // `IPPROTO_RAW` in `include/uapi/linux/in.h`.
        let socket = Self::new(255);
        socket.0.set_header_included_v4(true).unwrap();
        socket
    }

    /// Sends what stands behind the IP header, or with [`Raw::spoofing`] the whole packet.
    pub fn send(&self, to: Ipv4Addr, bytes: &[u8]) {
        assert_eq!(self.0.send_to(bytes, &SocketAddr::from((to, 0)).into()).unwrap(), bytes.len());
    }

    /// Sends a SYN.
    pub fn send_syn(&self, from: SocketAddrV4, to: SocketAddrV4) {
        self.send(*to.ip(), &syn(from, to));
    }

    /// Sends a SYN with its IP header, of [`Raw::spoofing`].
    pub fn send_spoofed_syn(&self, from: SocketAddrV4, to: SocketAddrV4) {
        let segment = syn(from, to);
        // `struct iphdr`, `include/uapi/linux/ip.h`: version and length of the header, 64 hops. The kernel fills in the
        // length and the checksum.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0];
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(segment);
        self.send(*to.ip(), &packet);
    }
}

/// Returns a SYN with its checksum (RFC 9293, 3.1).
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    // Sequence number, acknowledgement, five words of header, SYN, window, checksum, urgent pointer.
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let mut covered = Vec::new();
    covered.extend(from.ip().octets());
    covered.extend(to.ip().octets());
    covered.extend([0, TCP]);
    covered.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
    covered.extend(&segment);
    let sum: u32 = covered.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}
