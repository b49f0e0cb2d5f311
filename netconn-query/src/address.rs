//! Addresses and networks in texts.

use std::{borrow::Cow, cmp::Ordering, net::IpAddr};

use ipnet::IpNet;
use netconn_model::{field, value::Domain};

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

/// Whether a field of events holds addresses, so that texts are compared with it as addresses.
pub fn is_field(name: &str) -> bool {
    field::by_name(name).is_some_and(|field| field.domain == Domain::Addresses)
}

/// Returns a text as events have it: an address in its usual form, all else as it is. Events have one form for each address, so
/// that texts in this form are equal if the addresses are.
pub fn usual(text: &str) -> Cow<'_, str> {
    // Most addresses are IPv4, whose only form has digits and dots.
    if !text.contains(':') {
        return Cow::Borrowed(text);
    }
    match address(text).map(|address| address.to_string()) {
        Some(usual) if usual != text => Cow::Owned(usual),
        _ => Cow::Borrowed(text),
    }
}

/// Returns the address that a text means in its usual form; all else as it is.
pub fn plain(text: &str) -> Cow<'_, str> {
    // Most addresses are IPv4, whose only form has digits and dots.
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Cow::Borrowed(text);
    }
    match meant(text).map(|address| address.to_string()) {
        Some(usual) if usual != text => Cow::Owned(usual),
        _ => Cow::Borrowed(text),
    }
}

/// Returns the address that a constant means: in any of its forms, in brackets, with blanks around it, or written so that nobody
/// follows it by mistake (`192.0.2[.]1`).
pub fn meant(text: &str) -> Option<IpAddr> {
    let text = refanged(text);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|text| text.contains(':'));
    address(bare.unwrap_or(&text))
}

/// Returns the network that a text in CIDR form means.
pub fn network(text: &str) -> Option<IpNet> {
    // Without the slash a plain address would be a network of one, and `in` would warn about each.
    text.contains('/').then(|| refanged(text).parse().ok()).flatten()
}

/// Returns a text without blanks around it and with plain dots and colons: reports write `192.0.2[.]1` and `2001[:]db8::1`.
pub fn refanged(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    if !text.contains(['[', '(', '{']) {
        return Cow::Borrowed(text);
    }
    let mut plain = text.to_owned();
    for (defanged, mark) in
        [("[.]", "."), ("(.)", "."), ("{.}", "."), ("[dot]", "."), ("(dot)", "."), ("[:]", ":"), ("[://]", "://")]
    {
        plain = plain.replace(defanged, mark);
    }
    Cow::Owned(plain)
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
        assert_eq!(
            (plain("192.0.2[.]1"), plain(" 10.0.0.9"), plain("a[.]b")),
            ("192.0.2.1".into(), "10.0.0.9".into(), "a[.]b".into())
        );
        for (text, expected) in [
            ("10.0.0.9", "10.0.0.9"),
            ("::ffff:10.0.0.9", "10.0.0.9"),
            ("2001:DB8::9", "2001:db8::9"),
            ("2001:0db8:0:0:0:0:0:0009", "2001:db8::9"),
            ("curl: no address", "curl: no address"),
            ("", ""),
        ] {
            assert_eq!(usual(text), expected);
        }
    }

    #[test]
    fn addresses_of_reports_are_read() {
        for (text, expected) in [
            (" 192.0.2.1 ", Some("192.0.2.1")),
            ("192.0.2[.]1", Some("192.0.2.1")),
            ("192[.]0[.]2[.]1", Some("192.0.2.1")),
            ("192(.)0(.)2[dot]1", Some("192.0.2.1")),
            ("[2001:DB8::1]", Some("2001:db8::1")),
            ("2001[:]db8::1", Some("2001:db8::1")),
            ("300.1.1.1", None),
            ("010.1.1.1", None),
            ("example[.]org", None),
            ("[192.0.2.1", None),
        ] {
            assert_eq!(meant(text).map(|address| address.to_string()).as_deref(), expected, "{text}");
        }
        assert_eq!(network("10.0.0[.]0/8 "), "10.0.0.0/8".parse().ok());
    }

    #[test]
    fn networks_are_read() {
        assert_eq!(network(" 10.0.0.0/8 ").map(|network| network.prefix_len()), Some(8));
        assert_eq!(network("10.0.0.0"), None);
        assert_eq!(network("/usr/bin"), None);
    }
}
