//! The packets of a network device as tcpdump sees them: the oracle for the numbers of datagrams and bytes.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Child, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Netns, until};

/// A TCP attempt to this port, where nobody listens, marks the end of a capture. TCP makes no flow.
const END_PORT: u16 = 9;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: [u8; 2] = [1, 58];

/// A tcpdump that runs in a namespace. It is killed when dropped.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    folder: TempDir,
}

/// An IP packet. The fragments of a packet count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The protocol in the IPv4 header, or the one after the extension headers of IPv6.
    pub protocol: u8,
    /// The sender's address; the port is 0 for protocols without ports.
    pub from: SocketAddr,
    /// The receiver's address; the port is 0 for protocols without ports.
    pub to: SocketAddr,
    /// Bytes after the header of UDP or ICMP, or after the IP header for other protocols. It is 0 for TCP.
    pub payload: u64,
    /// Type, code and identifier of an ICMP message; the identifier is only valid in echoes.
    pub icmp: Option<(u8, u8, u16)>,
}

/// Packets in the order in which they passed.
#[derive(Clone, Debug)]
pub struct Wire(pub Vec<Packet>);

impl Capture {
    /// Starts to capture the packets of a device in a namespace.
    pub fn start(namespace: &Netns, device: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let (file, log) = (folder.path().join("pcap"), folder.path().join("log"));
        // Only the headers are captured, so that the buffer holds a hundred thousand packets.
        // -U and --immediate-mode put each packet into the file at once, so that `end` can wait for the last one. -Z
        // root: the folder belongs to root.
        let arguments = ["-n", "-U", "--immediate-mode", "-s", "128", "-B", "16384", "-Z", "root", "-i", device, "-w"];
        let mut command = namespace.command("tcpdump", &[&arguments[..], &[file.to_str().unwrap()]].concat());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let capture = Self { tcpdump: command.spawn().unwrap(), folder };
        until(10_000, || format!("tcpdump: {}", capture.log()), || capture.log().contains("listening on"));
        capture
    }

    /// Ends the capture when it has all packets sent so far, and returns them without those of TCP. `address` must be
    /// reached through the device, and nobody may listen at its TCP port 9.
    pub fn end(mut self, namespace: &Netns, address: &str) -> Wire {
        namespace.run(|| drop(TcpStream::connect((address, END_PORT)).unwrap_err()));
        let is_end = |packet: &Packet| packet.protocol == TCP && packet.to.port() == END_PORT;
        let mut packets = Vec::new();
        until(
            10_000,
            || format!("the capture does not end: {}", self.log()),
            || {
                // The file is in the order of the packets: with the last one, all are there.
                packets = read(&fs::read(self.folder.path().join("pcap")).unwrap_or_default());
                packets.iter().any(is_end)
            },
        );
        kill(Pid::from_raw(i32::try_from(self.tcpdump.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.tcpdump.wait().unwrap();
        let log = self.log();
        assert!(log.contains("\n0 packets dropped by kernel"), "tcpdump has not seen all: {log}");
        packets.retain(|packet| packet.protocol != TCP);
        Wire(packets)
    }

    /// Returns the process id of tcpdump.
    pub fn pid(&self) -> u32 {
        self.tcpdump.id()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

impl Wire {
    /// Returns the packets of UDP.
    pub fn udp(&self) -> Self {
        self.only(|packet| packet.protocol == UDP)
    }

    /// Returns the packets of ICMP and ICMPv6, except neighbour discovery (types 133 to 137), which the kernel does
    /// itself.
    pub fn icmp(&self) -> Self {
        let is_of_neighbours = |packet: &Packet| packet.icmp.is_some_and(|(kind, _, _)| (133..=137).contains(&kind));
        self.only(|packet| ICMP.contains(&packet.protocol) && !is_of_neighbours(packet))
    }

    /// Returns the packets for which a condition holds.
    pub fn only(&self, is_wanted: impl Fn(&Packet) -> bool) -> Self {
        Self(self.0.iter().filter(|packet| is_wanted(packet)).copied().collect())
    }

    /// Returns the number of packets and the bytes of their payloads.
    pub fn totals(&self) -> (u64, u64) {
        (self.0.len() as u64, self.0.iter().map(|packet| packet.payload).sum())
    }

    /// Returns the totals of a flow by the captured packets, in the same form as [`totals`].
    pub fn of(&self, flow: &Value) -> (u64, u64, u64, u64) {
        let (local, remote) = ends(flow);
        let protocol = flow["event.network.protocol"].as_str().unwrap();
        let is_same = |packet: &Packet| match protocol {
            "UDP" => packet.protocol == UDP,
            "ICMP" => ICMP.contains(&packet.protocol),
            number => packet.protocol.to_string() == number,
        };
        let sent = self.only(|packet| is_same(packet) && (packet.from, packet.to) == (local, remote)).totals();
        let received = self.only(|packet| is_same(packet) && (packet.from, packet.to) == (remote, local)).totals();
        (sent.0, sent.1, received.0, received.1)
    }
}

/// Returns the totals of an `IP Close`: packets sent, bytes sent, packets received, bytes received.
pub fn totals(close: &Value) -> (u64, u64, u64, u64) {
    let number =
        |name: &str| close[format!("event.network.{name}")].as_u64().unwrap_or_else(|| panic!("no {name}: {close:#}"));
    (number("packetsSent"), number("bytesSent"), number("packetsReceived"), number("bytesReceived"))
}

/// Returns the local and the remote end of an event; the port is 0 for protocols without ports.
fn ends(event: &Value) -> (SocketAddr, SocketAddr) {
    let end = |side: &str| {
        let address: IpAddr = event[format!("{side}.ip.address")]
            .as_str()
            .unwrap_or_else(|| panic!("no {side} address: {event:#}"))
            .parse()
            .unwrap();
        let port = event.get(format!("{side}.port.number")).map_or(0, |port| port.as_u64().unwrap());
        SocketAddr::new(address, u16::try_from(port).unwrap())
    };
    (end("local"), end("remote"))
}

/// Parses the packets of a pcap file (pcap-savefile(5), this machine's byte order, Ethernet). The last packet may be
/// half written; it is left out then.
fn read(file: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    // The head of the file has 24 bytes, that of a packet 16, with the captured length at 8.
    let mut rest = file.get(24..).unwrap_or_default();
    while let Some((head, tail)) = rest.split_first_chunk::<16>() {
        let length = u32::from_ne_bytes(*head[8..].first_chunk().unwrap());
        let Some((frame, next)) = tail.split_at_checked(length as usize) else { break };
        rest = next;
        add(&mut packets, frame);
    }
    packets
}

/// Adds the packet of a frame; the bytes of a later fragment are added to its packet.
fn add(packets: &mut Vec<Packet>, frame: &[u8]) {
    // An Ethernet header has 14 bytes, with the type of its content at 12.
    let ip = &frame[14..];
    let (from, to): (IpAddr, IpAddr);
    let (mut protocol, mut length, mut body, mut offset);
    match word(frame, 12) {
        0x0800 => {
            let header = usize::from(ip[0] & 15) * 4;
            from = ip[12..].first_chunk::<4>().copied().unwrap().into();
            to = ip[16..].first_chunk::<4>().copied().unwrap().into();
            (protocol, length, body) = (ip[9], usize::from(word(ip, 2)) - header, &ip[header..]);
            // The upper three bits are flags.
            offset = word(ip, 6) & 0x1fff;
        }
        0x86dd => {
            from = ip[8..].first_chunk::<16>().copied().unwrap().into();
            to = ip[24..].first_chunk::<16>().copied().unwrap().into();
            (protocol, length, body, offset) = (ip[6], usize::from(word(ip, 4)), &ip[40..], 0);
            // Extension headers: hop by hop, routing, fragment, destination.
            while [0, 43, 44, 60].contains(&protocol) {
                let header = if protocol == 44 { 8 } else { (usize::from(body[1]) + 1) * 8 };
                offset = if protocol == 44 { word(body, 2) >> 3 } else { offset };
                (protocol, length, body) = (body[0], length - header, &body[header..]);
            }
        }
        _ => return,
    }
    if offset != 0 {
        let is_same =
            |packet: &&mut Packet| (packet.protocol, packet.from.ip(), packet.to.ip()) == (protocol, from, to);
        // For UDP, the first fragment's header has the length of the whole datagram.
        if let Some(first) = packets.iter_mut().rev().find(is_same).filter(|first| first.protocol != UDP) {
            first.payload += length as u64;
        }
        return;
    }
    let (ports, payload) = match protocol {
        UDP => ((word(body, 0), word(body, 2)), usize::from(word(body, 4)) - 8),
        TCP => ((word(body, 0), word(body, 2)), 0),
        _ if ICMP.contains(&protocol) => ((0, 0), length - 8),
        _ => ((0, 0), length),
    };
    let icmp = ICMP.contains(&protocol).then(|| (body[0], body[1], word(body, 4)));
    let (from, to) = (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1));
    packets.push(Packet { protocol, from, to, payload: payload as u64, icmp });
}

/// Reads two bytes in network byte order.
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
