//! Community ID v1 (<https://github.com/corelight/community-id-spec>): a hash of the five-tuple that other tools
//! write as well, so that their records can be joined with netconn's.

use std::{borrow::Cow, fmt, net::IpAddr};

use data_encoding::BASE64;
use netconn_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
use serde::de::Deserializer;
use sha1::{Digest as _, Sha1};

use crate::{
    fact::End,
    json::{MemberKey, Object},
    value::{FieldValue, JsonValue, read_name},
};

/// `IPPROTO_SCTP` in `include/uapi/linux/in.h`.
const IPPROTO_SCTP: u8 = 132;
/// Seed, two bytes.
const SEED: [u8; 2] = [0, 0];

/// Length of an ID: `1:` and 28 characters.
const LENGTH: usize = 30;

/// A Community ID, as it is written: `1:d/FP5EW3wiY1vCndhwleRRKHowQ=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommunityId([u8; LENGTH]);

impl CommunityId {
    /// Takes an ID in its written form; `None` if it has another length or characters that no ID has.
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":+/=".contains(&byte));
        text.as_bytes().try_into().ok().filter(|_| is_plain).map(Self)
    }

    /// Returns the ID in its written form: ASCII that needs no escapes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for CommunityId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl<'a> FieldValue<'a> for CommunityId {
    type Owned = Self;

    fn into_owned(self) -> Self {
        self
    }

    fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
        object.ascii(key, &self.0);
    }

    fn value(&self) -> JsonValue<'_> {
        JsonValue::Text(Cow::Owned(self.to_string()))
    }

    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_name(deserializer, "a Community ID", Self::parse)
    }
}

/// Returns the Community ID of a connection or flow between two ends; it is the same seen from either end. `None` if the local
/// port is not known.
pub fn of(protocol: u8, local: End, remote: End) -> Option<CommunityId> {
    match protocol {
        // Without the port the hash would be that of another connection.
        IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP if local.port == 0 => None,
        IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP => Some(ordered(protocol, local, remote, true)),
        _ => Some(ordered(protocol, local, remote, false)),
    }
}

/// Returns the Community ID of a flow that an ICMP message began. Type and code stand for ports: a request and its answer have the
/// same ID; other messages have a different one in each direction.
pub fn icmp(protocol: u8, message: (u8, u8), source: End, destination: End) -> CommunityId {
    let (kind, code) = message;
    let with = |end: End, port: u8| End { port: port.into(), ..end };
    match counterpart(protocol, kind) {
        Some(other) => ordered(protocol, with(source, kind), with(destination, other), true),
        // Not ordered: the specification treats these messages as one-way.
        None => hash(protocol, with(source, kind), with(destination, code), true),
    }
}

/// Returns the ICMP type that answers this type, or that this type answers.
fn counterpart(protocol: u8, kind: u8) -> Option<u8> {
    let pairs: &[(u8, u8)] = match protocol {
        // Echo, router discovery, timestamp, information, address mask.
        IPPROTO_ICMP => &[(8, 0), (10, 9), (13, 14), (15, 16), (17, 18)],
        // Echo, multicast listeners, router discovery, neighbour discovery, node information, home agents.
        IPPROTO_ICMPV6 => &[(128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)],
        _ => &[],
    };
    pairs.iter().find_map(|(one, other)| match kind {
        kind if kind == *one => Some(*other),
        kind if kind == *other => Some(*one),
        _ => None,
    })
}

fn ordered(protocol: u8, one: End, other: End, ports: bool) -> CommunityId {
    let key = |end: End| (octets(end.address), end.port);
    let (low, high) = if key(one) <= key(other) { (one, other) } else { (other, one) };
    hash(protocol, low, high, ports)
}

fn hash(protocol: u8, low: End, high: End, ports: bool) -> CommunityId {
    let mut hash = Sha1::new();
    hash.update(SEED);
    for end in [low, high] {
        match end.address {
            IpAddr::V4(address) => hash.update(address.octets()),
            IpAddr::V6(address) => hash.update(address.octets()),
        }
    }
    // The zero is the padding byte of the specification.
    hash.update([protocol, 0]);
    if ports {
        hash.update(low.port.to_be_bytes());
        hash.update(high.port.to_be_bytes());
    }
    // 20 bytes of SHA-1 are 28 characters in Base64, so the text is filled exactly.
    let mut text = *b"1:                            ";
    BASE64.encode_mut(&hash.finalize(), &mut text[2..]);
    CommunityId(text)
}

/// Returns an address in a form that sorts by its bytes.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the specification's `baseline_deflt.json`.
    #[test]
    fn agrees_with_the_specification() {
        let (a, b) = (end("128.232.110.120", 34855), end("66.35.250.204", 80));
        assert_eq!(text(of(6, a, b).unwrap()), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        assert_eq!(text(of(6, b, a).unwrap()), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        let (a, b) = (end("192.168.1.52", 54585), end("8.8.8.8", 53));
        assert_eq!(text(of(17, a, b).unwrap()), "1:d/FP5EW3wiY1vCndhwleRRKHowQ=");
        let (a, b) = (end("192.168.0.89", 0), end("192.168.0.1", 0));
        assert_eq!(text(icmp(1, (8, 0), a, b)), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=");
        let (a, b) = (end("fe80::200:86ff:fe05:80da", 0), end("fe80::260:97ff:fe07:69ea", 0));
        assert_eq!(text(icmp(58, (135, 0), a, b)), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=");
        assert_eq!(text(icmp(58, (136, 0), b, a)), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=");
        assert_eq!(text(icmp(58, (135, 0), b, a)), "1:zavyT/cezQr1fmImYCwYnMXbgck=");
        // One way only.
        let (a, b) = (end("10.0.0.1", 0), end("10.0.0.2", 0));
        assert_eq!(text(icmp(1, (11, 0), a, b)), "1:YHxtAirCG//0OzkcVAukqKQN9xM=");
        let (a, b) = (end("3ffe:501:410:0:2c0:dfff:fe47:33e", 0), end("3ffe:507:0:1:200:86ff:fe05:80da", 0));
        assert_eq!(text(icmp(58, (1, 4), a, b)), "1:hLZd0XGWojozrvxqE0dWB1iM6R0=");
        // Without ports.
        let (a, b) = (end("10.1.12.1", 0), end("10.1.12.2", 0));
        assert_eq!(text(of(46, a, b).unwrap()), "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=");
        assert_eq!(text(of(46, b, a).unwrap()), "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=");
        assert_eq!(of(IPPROTO_SCTP, a, b), None, "it has ports, and they are not known");
    }

    #[test]
    fn questions_and_answers_are_one_and_other_messages_have_a_direction() {
        let (a, b) = (end("10.0.0.1", 0), end("10.0.0.2", 0));
        assert_eq!(icmp(1, (8, 0), a, b), icmp(1, (0, 0), b, a));
        assert_eq!(icmp(1, (8, 0), b, a), icmp(1, (0, 0), a, b));
        assert_ne!(icmp(1, (3, 1), a, b), icmp(1, (3, 1), b, a));
        assert_eq!(of(47, a, b), of(47, b, a));
        assert_ne!(of(47, a, b), of(50, a, b));
        assert_eq!(of(17, a, b), None, "a port is not known");
    }

    fn end(address: &str, port: u16) -> End {
        End { address: address.parse().unwrap(), port }
    }

    fn text(id: CommunityId) -> String {
        let text = id.to_string();
        assert_eq!(CommunityId::parse(&text), Some(id));
        text
    }
}
