//! Community ID v1 (<https://github.com/corelight/community-id-spec>): a hash of the five-tuple that other tools give
//! too, so that their records can be joined with netconn's.

use std::net::IpAddr;

use data_encoding::BASE64;
use sha1::{Digest as _, Sha1};

use crate::event::End;

const IPPROTO_TCP: u8 = 6;
/// Seed, two bytes.
const SEED: [u8; 2] = [0, 0];

/// The Community ID of a TCP connection: `1:` and 28 characters. Both ends give the same.
pub fn tcp(one: End, other: End) -> [u8; 30] {
    let key = |end: End| (octets(end.address), end.port);
    let (low, high) = if key(one) <= key(other) { (one, other) } else { (other, one) };
    let mut hash = Sha1::new();
    hash.update(SEED);
    for end in [low, high] {
        match end.address {
            IpAddr::V4(address) => hash.update(address.octets()),
            IpAddr::V6(address) => hash.update(address.octets()),
        }
    }
    hash.update([IPPROTO_TCP, 0]);
    hash.update(low.port.to_be_bytes());
    hash.update(high.port.to_be_bytes());
    let mut text = *b"1:                            ";
    BASE64.encode_mut(&hash.finalize(), &mut text[2..]);
    text
}

/// An address in a form whose order is that of its bytes.
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

    /// Values of the specification's own `baseline_deflt.json`.
    #[test]
    fn agrees_with_the_specification() {
        let end = |address: &str, port| End { address: address.parse().unwrap(), port };
        let id = |one, other| String::from_utf8(tcp(one, other).to_vec()).unwrap();
        let (a, b) = (end("128.232.110.120", 34855), end("66.35.250.204", 80));
        assert_eq!(id(a, b), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        assert_eq!(id(b, a), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
    }
}
