//! Reads lists of indicators: addresses, networks and names of hosts, as reports and feeds write them.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;
use netconn_query::address::{address, network, refanged};

/// Longest name of a host, bytes.
const NAME_MAX: usize = 253;

/// A line that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadIndicator {
    /// Number of the line, from 1.
    pub line: usize,
    /// What stands in it, up to its first comma.
    pub text: String,
}

/// Indicators, found by what they match. Each keeps the text of its line.
#[derive(Clone, Debug, Default)]
pub struct Indicators {
    addresses: HashMap<IpAddr, String>,
    networks: HashMap<IpNet, String>,
    /// The lengths of the networks, the longest first: the most exact one is named.
    lengths: Vec<u8>,
    /// Names of hosts in lower case.
    names: HashMap<String, String>,
}

impl Indicators {
    /// Reads one indicator from each line: its first column. Empty lines and those that begin with `#`, `;` or `//` are comments.
    pub fn read(text: &str) -> (Self, Vec<UnreadIndicator>) {
        let (mut indicators, mut unread) = (Self::default(), Vec::new());
        for (place, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || ["#", ";", "//"].iter().any(|mark| line.starts_with(mark)) {
                continue;
            }
            let text = first_column(line);
            if !indicators.add(text) {
                unread.push(UnreadIndicator { line: place + 1, text: text.to_owned() });
            }
        }
        indicators.lengths = indicators.networks.keys().map(IpNet::prefix_len).collect();
        indicators.lengths.sort_unstable_by(|one, other| other.cmp(one));
        indicators.lengths.dedup();
        (indicators, unread)
    }

    fn add(&mut self, text: &str) -> bool {
        let plain = refanged(text);
        if let Some(network) = network(&plain) {
            self.networks.entry(network.trunc()).or_insert_with(|| text.to_owned());
            return true;
        }
        let Some(host) = host(&plain) else { return false };
        if let Some(address) = address(host) {
            self.addresses.entry(address).or_insert_with(|| text.to_owned());
        } else if is_name(host) {
            let name = host.trim_end_matches('.').to_lowercase();
            self.names.entry(name).or_insert_with(|| text.to_owned());
        } else {
            return false;
        }
        true
    }

    /// Returns the number of different indicators.
    pub fn len(&self) -> usize {
        self.addresses.len() + self.networks.len() + self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are addresses or networks.
    pub fn has_addresses(&self) -> bool {
        !self.addresses.is_empty() || !self.networks.is_empty()
    }

    /// Whether there are names of hosts.
    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Returns the indicator that an address has: itself, or else the smallest network that it is in.
    pub fn of_address(&self, text: &str) -> Option<&str> {
        let address = address(text)?;
        let of_network = || {
            let network = |length: &u8| Some(IpNet::new(address, *length).ok()?.trunc());
            self.lengths.iter().filter_map(network).find_map(|network| self.networks.get(&network))
        };
        self.addresses.get(&address).or_else(of_network).map(String::as_str)
    }

    /// Returns the first name of a host in a text that is an indicator, or below one: `a.evil.example` is below `evil.example`.
    pub fn of_text(&self, text: &str) -> Option<&str> {
        let text = text.to_lowercase();
        let words = text.split(|letter: char| !(letter.is_alphanumeric() || matches!(letter, '.' | '-' | '_')));
        words.filter(|word| word.contains('.')).find_map(|word| {
            let word = word.trim_matches('.');
            let ends = std::iter::once(word).chain(word.match_indices('.').map(|(dot, _)| &word[dot + 1..]));
            ends.into_iter().find_map(|name| self.names.get(name)).map(String::as_str)
        })
    }
}

/// Returns the first column of a line of CSV, or its first word.
fn first_column(line: &str) -> &str {
    if let Some(rest) = line.strip_prefix('"')
        && let Some((column, _)) = rest.split_once('"')
    {
        return column.trim();
    }
    line.split([',', ';', '\t', ' ']).next().unwrap_or(line).trim()
}

/// Returns the host of a URL, or of a host with a port; the text itself for all else.
fn host(text: &str) -> Option<&str> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    // Of a text without a scheme only a port is cut off: `evil.example/x` is no name.
    let rest = match scheme {
        None => rest,
        Some(scheme) if scheme.chars().all(|letter| letter.is_ascii_alphanumeric()) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            rest[..end].rsplit('@').next()?
        }
        Some(_) => return None,
    };
    if let Some(rest) = rest.strip_prefix('[') {
        return rest.split_once(']').map(|(address, _)| address);
    }
    match rest.rsplit_once(':') {
        // An IPv6 address has more colons.
        Some((host, port)) if !host.contains(':') && port.parse::<u16>().is_ok() => Some(host),
        _ => Some(rest),
    }
}

/// Whether a text is a name of a host with at least two labels, the last of which is no number.
fn is_name(text: &str) -> bool {
    let text = text.trim_end_matches('.');
    let mut labels = text.split('.').rev();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_'))
    };
    let is_last = labels.next().is_some_and(|last| is_label(last) && last.chars().any(char::is_alphabetic));
    text.len() <= NAME_MAX && is_last && text.contains('.') && labels.all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indicators_are_read_as_reports_write_them() {
        let text = "\u{feff}# a comment\n\
             198.51.100[.]7,c2 server\n\
             \"203.0.113.0/24\";\"a network\"\n\
             hxxps://Evil[.]example:8443/path?x=1\n\
             2001:DB8::0:1 # inline\n\
             [2001:db8::2]:443\n\
             198.51.100.9:4444\n\
             // another comment\n\
             \n\
             d41d8cd98f00b204e9800998ecf8427e\n\
             10.0.0[.]0/8\n\
             bad.example\n\
             300.1.1.1\n\
             just words\n";
        let (indicators, unread) = Indicators::read(text);
        let unread: Vec<_> = unread.iter().map(|unread| (unread.line, unread.text.as_str())).collect();
        assert_eq!(unread, [(10, "d41d8cd98f00b204e9800998ecf8427e"), (13, "300.1.1.1"), (14, "just")]);
        assert_eq!(indicators.len(), 8);
        for (address, expected) in [
            ("198.51.100.7", Some("198.51.100[.]7")),
            ("203.0.113.50", Some("203.0.113.0/24")),
            ("2001:db8::1", Some("2001:DB8::0:1")),
            ("2001:db8::2", Some("[2001:db8::2]:443")),
            ("198.51.100.9", Some("198.51.100.9:4444")),
            ("10.20.30.40", Some("10.0.0[.]0/8")),
            ("198.51.100.8", None),
            ("no address", None),
        ] {
            assert_eq!(indicators.of_address(address), expected, "{address}");
        }
        for (line, expected) in [
            ("curl -s https://cdn.evil.example/x", Some("hxxps://Evil[.]example:8443/path?x=1")),
            ("ping BAD.example", Some("bad.example")),
            ("ping notbad.example", None),
            ("curl https://evil.example.org/", None),
        ] {
            assert_eq!(indicators.of_text(line), expected, "{line}");
        }
    }

    #[test]
    fn the_smallest_network_is_named() {
        let (indicators, unread) = Indicators::read("10.0.0.0/8\n10.1.0.0/16\n::/0\n");
        assert!(unread.is_empty());
        assert_eq!(indicators.of_address("10.1.2.3"), Some("10.1.0.0/16"));
        assert_eq!(indicators.of_address("10.2.2.3"), Some("10.0.0.0/8"));
        assert_eq!(indicators.of_address("11.2.2.3"), None);
        assert_eq!(indicators.of_address("2001:db8::1"), Some("::/0"));
    }
}
