//! Addresses and networks in texts.

use std::{cmp::Ordering, net::IpAddr};

use ipnet::IpNet;

/// Bytes of the longest address: an IPv6 address with an IPv4 address at its end.
const LONGEST: usize = 45;

/// Returns the address in a text, an IPv4-mapped one as IPv4.
pub fn address(text: &str) -> Option<IpAddr> {
    // Called for each row of a column, so texts that cannot be addresses leave before the parser.
    // Longer than any address, or without what every address has: most texts are none.
    if text.len() > LONGEST || !text.as_bytes().first().is_some_and(|byte| byte.is_ascii_hexdigit() || *byte == b':') {
        return None;
    }
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Returns the address, if the text is its usual form: `=` and `in` compare addresses as texts, in the form that events have.
pub(crate) fn usual(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address: &IpAddr| address.to_string() == text)
}

/// Returns the network that a text in CIDR form means.
pub fn network(text: &str) -> Option<IpNet> {
    // Without the slash a plain address would be a network of one, and `in` would warn about each.
    text.contains('/').then(|| text.trim().parse().ok()).flatten()
}

/// Compares two addresses by their number, other texts by code point.
pub fn order(left: &str, right: &str) -> Ordering {
    match (address(left), address(right)) {
        // `IpAddr` orders IPv4 before IPv6; mapped addresses count as IPv4 here.
        (Some(left), Some(right)) => left.cmp(&right),
        _ => left.cmp(right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_an_order_of_their_own() {
        assert_eq!(order("10.0.0.9", "10.0.0.10"), Ordering::Less);
        assert_eq!(order("b9", "b10"), Ordering::Greater);
        assert_eq!(order("9.9.9.9", "::1"), Ordering::Less);
        assert_eq!(order("::ffff:9.9.9.9", "9.9.9.9"), Ordering::Equal);
    }

    #[test]
    fn addresses_have_one_usual_form() {
        assert_eq!(usual("10.0.0.9"), Some(IpAddr::from([10, 0, 0, 9])));
        assert_eq!(usual("::ffff:10.0.0.9"), Some(IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 9])));
        assert_eq!(usual("2001:DB8::9"), None);
        assert_eq!(usual("2001:db8:0::9"), None);
        assert_eq!(usual("curl"), None);
    }

    #[test]
    fn networks_are_read() {
        assert_eq!(network(" 10.0.0.0/8 ").map(|network| network.prefix_len()), Some(8));
        assert_eq!(network("10.0.0.0"), None);
        assert_eq!(network("/usr/bin"), None);
    }
}
