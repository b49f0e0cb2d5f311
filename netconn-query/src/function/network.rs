//! Functions for addresses and URLs.

use std::{
    cmp::Ordering,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::Patterns;
use crate::{
    address::{self, address},
    value::Value,
};

fn is<'a>(value: &Value<'a>, test: impl FnOnce(IpAddr) -> bool) -> Value<'a> {
    value.text().map_or(Value::Null, |text| Value::Bool(address(&text).is_some_and(test)))
}

/// Whether the value is an IP address.
pub(super) fn net_ip<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    is(&arguments[0], |_| true)
}

/// Whether the value is an IPv4 address.
pub(super) fn net_ipv4<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    is(&arguments[0], |address| address.is_ipv4())
}

/// Whether the value is an IPv6 address.
pub(super) fn net_ipv6<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    is(&arguments[0], |address| address.is_ipv6())
}

/// Whether an address is private by RFC 1918, or a loopback address (127/8).
fn rfc1918(address: Ipv4Addr) -> bool {
    address.is_private() || address.is_loopback()
}

/// Whether an address is unique local by RFC 4193.
fn rfc4193(address: Ipv6Addr) -> bool {
    address.is_unique_local()
}

/// Whether the value is an IPv4 address of RFC 1918 or 127/8.
pub(super) fn net_rfc1918<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    is(&arguments[0], |address| matches!(address, IpAddr::V4(address) if rfc1918(address)))
}

/// Whether the value is an IPv6 address of RFC 4193.
pub(super) fn net_rfc4193<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    is(&arguments[0], |address| matches!(address, IpAddr::V6(address) if rfc4193(address)))
}

/// Whether the value is an address of RFC 1918 or RFC 4193, a loopback or a link-local address.
pub(super) fn net_private<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    is(&arguments[0], |address| match address {
        IpAddr::V4(address) => rfc1918(address) || address.is_link_local(),
        IpAddr::V6(address) => rfc4193(address) || address.is_loopback() || address.is_unicast_link_local(),
    })
}

/// The addresses by which hosts without IPv4 reach IPv4 (RFC 6052): these 96 bits, then the IPv4 address.
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

fn outside(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let is_shared = first == 100 && second & 0xc0 == 64;
    // From 224 on there are no hosts; 0/8 is this network.
    !(rfc1918(address) || address.is_link_local() || is_shared || first == 0 || first >= 224)
}

/// Whether the value is an address of the Internet: neither private, shared by a provider (RFC 6598), loopback nor link-local, and
/// that of a single host, so neither multicast nor broadcast nor reserved (RFC 1112). Addresses for documentation count. An address of
/// NAT64 is judged by the IPv4 address in it.
pub(super) fn net_outside<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    is(&arguments[0], |address| match address {
        IpAddr::V4(address) => outside(address),
        IpAddr::V6(address) if address.segments().starts_with(&NAT64) => {
            let [.., a, b, c, d] = address.octets();
            outside(Ipv4Addr::new(a, b, c, d))
        }
        // The addresses of hosts in the Internet are in 2000::/3 (RFC 4291).
        IpAddr::V6(address) => address.segments()[0] & 0xe000 == 0x2000,
    })
}

/// `net_ipsubnet(address, network, …)`: whether the address is in one of the networks.
pub(super) fn net_ipsubnet<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    is(&arguments[0], |address| {
        arguments[1..]
            .iter()
            .filter_map(Value::text)
            .any(|network| patterns.network(&network).is_some_and(|network| network.contains(&address)))
    })
}

/// `address(a)`: an address in its usual form, however it is written; any other text as it is.
pub(super) fn usual<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    arguments[0].text().map_or(Value::Null, |text| Value::owned(address::plain(&text)))
}

/// `order(a, b)`: -1, 0 or 1; addresses are ordered by their number, other texts by code point.
pub(super) fn order<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(left), Some(right)) = (arguments[0].text(), arguments[1].text()) else { return Value::Null };
    Value::Integer(match address::order(&left, &right) {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    })
}

/// Parts of a URL.
#[derive(Default)]
struct Url<'a> {
    scheme: &'a str,
    netloc: &'a str,
    path: &'a str,
    query: &'a str,
    fragment: &'a str,
}

fn url(text: &str) -> Url<'_> {
    let mut url = Url::default();
    let mut rest = text.trim();
    // From the end of the syntax to its beginning, because `#` ends the query and `?` ends the path, wherever else they
    // occur.
    if let Some((before, fragment)) = rest.split_once('#') {
        (rest, url.fragment) = (before, fragment);
    }
    if let Some((before, query)) = rest.split_once('?') {
        (rest, url.query) = (before, query);
    }
    if let Some((scheme, after)) = rest.split_once("://") {
        (url.scheme, rest) = (scheme, after);
    } else if let Some(after) = rest.strip_prefix("//") {
        rest = after;
    // A path without a host.
    } else if rest.starts_with('/') {
        url.path = rest;
        return url;
    }
    match rest.find('/') {
        Some(slash) => (url.netloc, url.path) = rest.split_at(slash),
        None => url.netloc = rest,
    }
    url
}

/// Returns the host without user and port.
fn domain<'a>(url: &Url<'a>) -> &'a str {
    // The last `@`: a password may have one in it.
    let host = url.netloc.rsplit_once('@').map_or(url.netloc, |(_, host)| host);
    // IPv6 addresses stand in brackets, because they have colons themselves.
    if let Some(after) = host.strip_prefix('[') {
        return after.split_once(']').map_or(after, |(host, _)| host);
    }
    host.rsplit_once(':').map_or(host, |(host, _)| host)
}

/// Returns a part of a URL; missing if it is empty.
fn part<'a>(value: &Value<'a>, take: impl for<'b> FnOnce(&Url<'b>) -> &'b str) -> Value<'a> {
    let Some(text) = value.text() else { return Value::Null };
    let url = url(&text);
    let part = take(&url);
    if part.is_empty() { Value::Null } else { Value::owned(part) }
}

/// The scheme: `https` of `https://…`.
pub(super) fn net_url_scheme<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| url.scheme)
}

/// The user, the host and the port.
pub(super) fn net_url_netloc<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| url.netloc)
}

/// Returns the name of the host; empty if it is an address.
fn named<'a>(url: &Url<'a>) -> &'a str {
    // A name may end with the dot of the root.
    let host = domain(url).trim_end_matches('.');
    if address(host).is_some() { "" } else { host }
}

/// The registered domain of the host, by the public suffix list; or its address.
pub(super) fn net_url_domain<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| psl::domain_str(named(url)).unwrap_or(domain(url)))
}

/// The labels of the host's name before its registered domain.
pub(super) fn net_url_subdomain<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| {
        let host = named(url);
        let registered = psl::domain_str(host).unwrap_or(host);
        host.strip_suffix(registered).unwrap_or_default().trim_end_matches('.')
    })
}

/// The public suffix of the host's name.
pub(super) fn net_url_tld<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| {
        let host = named(url);
        // A name without a dot has no public suffix: the list would call it one itself.
        if host.contains('.') { psl::suffix_str(host).unwrap_or_default() } else { "" }
    })
}

/// The user, with a password if there is one.
pub(super) fn net_url_userinfo<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| url.netloc.rsplit_once('@').map_or("", |(user, _)| user))
}

/// The port as a number, if the URL has one.
pub(super) fn net_url_port<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(text) = arguments[0].text() else { return Value::Null };
    let url = url(&text);
    // Colons within the brackets of an IPv6 address are no port.
    let host = url.netloc.rsplit_once(']').map_or(url.netloc, |(_, after)| after);
    host.rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok())
        .map_or(Value::Null, |port| Value::Integer(port.into()))
}

/// The path, from the first slash after the host.
pub(super) fn net_url_path<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| url.path)
}

/// The text behind the question mark.
pub(super) fn net_url_query<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| url.query)
}

/// All parts: scheme, netloc, subdomain, domain, TLD, port, path, query, fragment, user.
pub(super) fn net_url_parts<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    if arguments[0] == Value::Null {
        return Value::Null;
    }
    let parts = [
        net_url_scheme,
        net_url_netloc,
        net_url_subdomain,
        net_url_domain,
        net_url_tld,
        net_url_port,
        net_url_path,
        net_url_query,
        net_url_fragment,
        net_url_userinfo,
    ];
    Value::List(parts.iter().map(|part| part(arguments)).collect())
}

/// The text behind the hash sign.
pub(super) fn net_url_fragment<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    part(&arguments[0], |url| url.fragment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value<'static> {
        Value::owned(text)
    }

    #[test]
    fn addresses_are_told_apart() {
        for (address, private, one, six) in [
            ("10.1.2.3", true, true, false),
            ("172.32.0.1", false, false, false),
            ("127.0.0.5", true, true, false),
            ("::ffff:192.168.0.1", true, true, false),
            ("169.254.1.1", true, false, false),
            ("fd00::1", true, false, true),
            ("2001:db8::1", false, false, false),
            ("x", false, false, false),
        ] {
            assert_eq!(net_private(&[text(address)]), Value::Bool(private), "{address}");
            assert_eq!(net_rfc1918(&[text(address)]), Value::Bool(one), "{address}");
            assert_eq!(net_rfc4193(&[text(address)]), Value::Bool(six), "{address}");
        }
        assert_eq!(net_private(&[Value::Null]), Value::Null);
        for (address, outside) in [
            ("198.51.100.7", true),
            ("2001:db8::1", true),
            ("100.63.255.255", true),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.1", true),
            ("10.1.2.3", false),
            ("169.254.1.1", false),
            ("224.0.0.251", false),
            ("255.255.255.255", false),
            ("0.0.0.0", false),
            ("ff02::fb", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("::1", false),
            ("::", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:198.51.100.7", true),
            ("64:ff9b::198.51.100.7", true),
            ("64:ff9b::c633:6407", true),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b::224.0.0.251", false),
            ("64:ff9b:0:0:0:1:c633:6407", false),
            ("example.org", false),
        ] {
            assert_eq!(net_outside(&[text(address)]), Value::Bool(outside), "{address}");
        }
        assert_eq!(net_outside(&[Value::Null]), Value::Null);
    }

    #[test]
    fn addresses_have_an_order_of_their_own() {
        assert_eq!(order(&[text("10.0.0.9"), text("10.0.0.10")]), Value::Integer(-1));
        assert_eq!(order(&[text("b9"), text("b10")]), Value::Integer(1));
        assert_eq!(order(&[text("9.9.9.9"), text("::1")]), Value::Integer(-1));
    }

    #[test]
    fn urls_have_parts() {
        let parts = |url: &str| {
            [net_url_scheme, net_url_netloc, net_url_domain, net_url_tld, net_url_path, net_url_query]
                .map(|part| part(&[text(url)]).text().unwrap_or_default().into_owned())
        };
        let whole = parts("https://me@www.example.org:8443/a/b?x=1&y=2#z");
        assert_eq!(whole, ["https", "me@www.example.org:8443", "example.org", "org", "/a/b", "x=1&y=2"]);
        assert_eq!(parts("http://[::1]:80"), ["http", "[::1]:80", "::1", "", "", ""]);
        assert_eq!(parts("example.org/x"), ["", "example.org", "example.org", "org", "/x", ""]);
        assert_eq!(parts("http://10.0.0.1/"), ["http", "10.0.0.1", "10.0.0.1", "", "/", ""]);
    }
}
