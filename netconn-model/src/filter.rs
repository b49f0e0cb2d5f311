//! The filter over connections, rows and events: its parameters are the same in requests to the socket and as options.
//!
//! A stream asks its filter at each event, so the values are kept in the form in which many are compared as fast as one: ranges in
//! their order, and ordered sets of words.

use std::{collections::BTreeSet, net::IpAddr, ops::Bound};

use ipnet::IpNet;
use netconn_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, tcp_state};
use thiserror::Error;

use crate::{
    fact::{Direction, End},
    ranges::{Networks, Ranges},
    state::{States, UNCONNECTED},
    words::{Words, is_pattern},
};

/// Most values of a filter, in all its parameters together.
pub const FILTER_VALUES_MAX: usize = 1024;
/// Most patterns of a filter (`process=py*`). One is compared after another, with each event.
pub const FILTER_PATTERNS_MAX: usize = 64;
/// Most bytes of a filter as it stands in a URI: of its names, and of its values with their escapes. The `http` crate refuses
/// URIs of 65,535 bytes and more, without a word about the reason; what fits here fits there with the other parameters.
pub const FILTER_BYTES_MAX: usize = 60_000;

/// Bits before the IPv4 address in an IPv4-mapped one (RFC 4291, 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// A parameter of the filter: of requests to the socket, and, where it has a value name, an option of the command line.
#[derive(Clone, Copy, Debug)]
pub struct FilterParameter {
    /// Name of the parameter and of the option.
    pub name: &'static str,
    /// Name of the value in help; `None` if the command line has flags for the parameter instead.
    pub value_name: Option<&'static str>,
    /// What it selects.
    pub meaning: &'static str,
}

const fn option(name: &'static str, value_name: &'static str, meaning: &'static str) -> FilterParameter {
    FilterParameter { name, value_name: Some(value_name), meaning }
}

const fn flag(name: &'static str, meaning: &'static str) -> FilterParameter {
    FilterParameter { name, value_name: None, meaning }
}

/// All parameters. Options, requests, errors, help and the documentation are made from this table.
pub const FILTER_PARAMETERS: &[FilterParameter] = &[
    option(
        "protocol",
        "PROTOCOL",
        "Of this protocol: tcp, udp, icmp or its number in the IP header (47: GRE); tcp and udp leave out raw sockets unless `raw` \
         asks for them",
    ),
    flag("raw", "true: raw sockets, but not those of ICMP; false: all others"),
    flag("listening", "true: listeners, and UDP sockets that are connected to nobody; false: all others"),
    flag("family", "4 or 6: the version of IP"),
    option(
        "state",
        "STATE",
        "In this state: established, syn-sent, unconnected, … or a group: connected, synchronized. An event has the state that it \
         reports: established, listening, unconnected or closed",
    ),
    flag("failed", "true: attempts that failed; false: all others"),
    option("direction", "DIRECTION", "incoming or outgoing"),
    option("pid", "PID", "Of this process id"),
    option(
        "process",
        "NAME",
        "Of this process: its name, its executable's file name or path; 'py*' and the like match too",
    ),
    option("port", "PORT", "With this port, or a range like 8000-8100, on either end"),
    option("local", "ADDRESS", "With this address or network on this end"),
    option("remote", "ADDRESS", "With this address or network on the other end"),
    option("user", "USER", "Of this account, by name or number"),
    option("container", "ID", "In this container: its id or the beginning of it, which may have wildcards (* ? [])"),
    option("unit", "UNIT", "Of this systemd unit; 'ssh*' and the like match too"),
    option(
        "namespace",
        "NAMESPACE",
        "In this network namespace, by its inode number (`ls -Li /run/netns`); the commands also take its name (`ip netns`), its \
         path, and the id of a process in it",
    ),
];

/// A parameter that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{parameter}: {message}")]
pub struct FilterError {
    /// Its name.
    pub parameter: String,
    /// What is wrong and what the value can be.
    pub message: String,
}

/// Selects connections. An empty set or `None` selects all; values of a set are alternatives, and all parameters must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    states: Option<States>,
    listening: BTreeSet<bool>,
    failed: BTreeSet<bool>,
    /// By their numbers in the IP header.
    protocols: BTreeSet<u8>,
    raw: BTreeSet<bool>,
    families: BTreeSet<u8>,
    /// One at most of each, so a list.
    directions: Vec<Direction>,
    pids: Ranges<u32>,
    processes: Words,
    ports: Ranges<u16>,
    locals: Networks,
    remotes: Networks,
    /// Names, or numbers as they were given.
    users: BTreeSet<String>,
    /// The numbers among `users`.
    uids: Ranges<u32>,
    /// Beginnings of container ids, none of which is the beginning of another.
    containers: BTreeSet<String>,
    /// Patterns of beginnings.
    container_patterns: Words,
    units: Words,
    namespaces: Ranges<u32>,
}

/// Counts the values and the bytes of a filter while it is read.
#[derive(Default)]
struct FilterSize {
    values: usize,
    patterns: usize,
    bytes: usize,
}

impl FilterSize {
    /// Adds a parameter.
    fn add(&mut self, name: &str, values: &str) -> Result<(), FilterError> {
        self.values += values.split(',').count();
        if matches!(name, "process" | "container" | "unit") {
            self.patterns += values.split(',').filter(|value| is_pattern(value)).count();
        }
        // A `=` and a `&` stand beside the two.
        let escaped = form_urlencoded::byte_serialize(values.as_bytes()).map(str::len).sum::<usize>();
        self.bytes += name.len() + escaped + 2;
        let limit = if self.values > FILTER_VALUES_MAX {
            format!("{FILTER_VALUES_MAX} values")
        } else if self.patterns > FILTER_PATTERNS_MAX {
            format!("{FILTER_PATTERNS_MAX} patterns")
        } else if self.bytes > FILTER_BYTES_MAX {
            format!("{FILTER_BYTES_MAX} bytes as it stands in a URI")
        } else {
            return Ok(());
        };
        let message = format!(
            "with this parameter the filter has more than {limit}; use fewer and larger networks, ranges or patterns, or take all \
             and select afterwards"
        );
        Err(FilterError { parameter: name.to_owned(), message })
    }
}

/// The facts of a connection that a filter compares.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// State; of an event the one that it reports. `None` is in all of them.
    pub state: Option<u8>,
    /// Whether this is an attempt that failed.
    pub failed: bool,
    /// Whether this is a listener.
    pub listening: bool,
    /// Number of the protocol.
    pub protocol: u8,
    /// Whether a raw socket speaks the protocol itself.
    pub raw: bool,
    /// Which end began it.
    pub direction: Option<Direction>,
    /// This end.
    pub local: End,
    /// The other end; none on listeners.
    pub remote: Option<End>,
    /// Process id.
    pub pid: Option<u32>,
    /// Name of the process.
    pub process: Option<&'a str>,
    /// Executable.
    pub executable: Option<&'a str>,
    /// Account name.
    pub user: Option<&'a str>,
    /// Unix user id.
    pub uid: Option<u32>,
    /// Container id.
    pub container: Option<&'a str>,
    /// systemd unit.
    pub unit: Option<&'a str>,
    /// Network namespace.
    pub namespace: Option<u32>,
}

impl Filter {
    /// Reads parameters, each a name and one or more values separated by commas; a name may come more than once.
    ///
    /// # Errors
    ///
    /// The first parameter that is unknown, has a value that cannot be read, or makes the filter larger than
    /// [`FILTER_VALUES_MAX`] or [`FILTER_BYTES_MAX`] allows.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        parameters: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, FilterError> {
        Self::parse_beside(&[], parameters)
    }

    /// Reads parameters as [`parse`](Self::parse) does. The caller has taken out parameters of its own, whose names are `others`:
    /// the error about an unknown name lists them too.
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse).
    pub fn parse_beside<N: AsRef<str>, V: AsRef<str>>(
        others: &[&str],
        parameters: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, FilterError> {
        let (mut filter, mut size) = (Self::default(), FilterSize::default());
        for (name, values) in parameters {
            // First the size: what is too large is not worth reading.
            size.add(name.as_ref(), values.as_ref())?;
            filter.add(name.as_ref(), values.as_ref(), others)?;
        }
        Ok(filter)
    }

    fn add(&mut self, name: &str, values: &str, others: &[&str]) -> Result<(), FilterError> {
        for value in values.split(',').map(str::trim) {
            // Made for each value, so that the message names the one that is wrong.
            let wrong = |expected: &str| FilterError {
                parameter: name.to_owned(),
                message: format!("'{value}' is not {expected}"),
            };
            let bad_pattern = |message| FilterError { parameter: name.to_owned(), message };
            // `port=` and `port=1,,2` are mistakes: an empty list would select everything.
            if value.is_empty() {
                return Err(FilterError { parameter: name.to_owned(), message: "a value is missing".into() });
            }
            match name {
                "state" => {
                    let states = States::parse(value).ok_or_else(|| {
                        wrong(
                            "a state: use established, syn-sent, syn-recv, fin-wait-1, fin-wait-2, close-wait, \
                               last-ack, closing, time-wait, listening, unconnected, closed, or the groups all, connected, \
                               synchronized",
                        )
                    })?;
                    self.states = Some(self.states.unwrap_or(States::NONE) | states);
                }
                "listening" => _ = self.listening.insert(value.parse().map_err(|_| wrong("true or false"))?),
                "raw" => _ = self.raw.insert(value.parse().map_err(|_| wrong("true or false"))?),
                "failed" => _ = self.failed.insert(value.parse().map_err(|_| wrong("true or false"))?),
                "protocol" => match value.to_ascii_lowercase().as_str() {
                    "tcp" => _ = self.protocols.insert(IPPROTO_TCP),
                    "udp" => _ = self.protocols.insert(IPPROTO_UDP),
                    // One name for both versions, as in `event.network.protocol`.
                    "icmp" => self.protocols.extend([IPPROTO_ICMP, IPPROTO_ICMPV6]),
                    number => {
                        let number = number.parse().map_err(|_| wrong("tcp, udp, icmp or the number of a protocol"))?;
                        self.protocols.insert(number);
                    }
                },
                "family" => match value {
                    "4" => _ = self.families.insert(4),
                    "6" => _ = self.families.insert(6),
                    _ => return Err(wrong("4 or 6")),
                },
                "direction" => {
                    let direction = match value.to_ascii_lowercase().as_str() {
                        "incoming" | "in" => Direction::Incoming,
                        "outgoing" | "out" => Direction::Outgoing,
                        _ => return Err(wrong("incoming or outgoing")),
                    };
                    if !self.directions.contains(&direction) {
                        self.directions.push(direction);
                    }
                }
                "pid" => {
                    let pid = value.parse().map_err(|_| wrong("a process id"))?;
                    self.pids.insert(pid, pid);
                }
                "process" => self.processes.insert(value).map_err(bad_pattern)?,
                "port" => {
                    let (low, high) = port_range(value).ok_or_else(|| wrong("a port or range like 8000-8100"))?;
                    self.ports.insert(low, high);
                }
                "local" => self.locals.insert(network(value).ok_or_else(|| wrong("an IP address or network"))?),
                "remote" => self.remotes.insert(network(value).ok_or_else(|| wrong("an IP address or network"))?),
                "user" => {
                    if let Ok(uid) = value.parse() {
                        self.uids.insert(uid, uid);
                    }
                    self.users.insert(value.to_owned());
                }
                "container" => {
                    // Container ids are in lower case in events.
                    let beginning = value.to_ascii_lowercase();
                    let is_pattern = is_pattern(&beginning);
                    // What a pattern may have besides is no part of an id.
                    let is_possible =
                        |character: char| character.is_ascii_hexdigit() || (is_pattern && "*?[]!-".contains(character));
                    if !value.chars().all(is_possible) {
                        return Err(wrong("a container id or the beginning of one (hex digits)"));
                    }
                    if is_pattern {
                        // Two stars are an error.
                        let pattern = format!("{}*", beginning.trim_end_matches('*'));
                        self.container_patterns.insert(&pattern).map_err(bad_pattern)?;
                    } else {
                        self.add_container(beginning);
                    }
                }
                "unit" => self.units.insert(value).map_err(bad_pattern)?,
                "namespace" => {
                    let inode = value.parse().map_err(|_| wrong("the inode number of a network namespace"))?;
                    self.namespaces.insert(inode, inode);
                }
                _ => {
                    let own = FILTER_PARAMETERS.iter().map(|parameter| parameter.name);
                    let names: Vec<&str> = own.chain(others.iter().copied()).collect();
                    let message = format!("no such parameter; there are {}", names.join(", "));
                    return Err(FilterError { parameter: name.to_owned(), message });
                }
            }
        }
        Ok(())
    }

    /// Adds the beginning of a container id, unless a shorter one says the same.
    fn add_container(&mut self, beginning: String) {
        if !self.has_container(&beginning) {
            self.containers.retain(|longer| !longer.starts_with(&beginning));
            self.containers.insert(beginning);
        }
    }

    /// Returns whether one of `containers`, or of their patterns, is the beginning of the id.
    fn has_container(&self, id: &str) -> bool {
        // Whatever stands between a beginning of the id and the id itself has that beginning too, and none of the set has. So
        // the last one before the id is the only one that can be its beginning.
        let before = (Bound::Unbounded, Bound::Included(id));
        self.containers.range::<str, _>(before).next_back().is_some_and(|beginning| id.starts_with(beginning.as_str()))
            || self.container_patterns.contains(id)
    }

    /// Returns whether the filter can select connections that are over and that no process holds (TIME_WAIT, FIN_WAIT2).
    pub fn wants_minisocks(&self) -> bool {
        // The kernel turns FIN_WAIT2 into a minisock too when its process has gone, hence both states.
        self.wants_state(&[tcp_state::TIME_WAIT, tcp_state::FIN_WAIT2]) && self.wants_counters()
    }

    /// Returns whether the filter can select TCP connections, which have byte counters.
    pub fn wants_counters(&self) -> bool {
        is_any(&self.listening, &false) && is_any(&self.protocols, &IPPROTO_TCP) && is_any(&self.raw, &false)
    }

    /// Returns whether the filter can select flows or datagram sockets.
    pub fn wants_datagrams(&self) -> bool {
        // Datagram sockets have no other states.
        self.wants_state(&[tcp_state::ESTABLISHED, UNCONNECTED])
            && (self.protocols.is_empty()
                || self.raw.contains(&true)
                || self.protocols.iter().any(|protocol| *protocol != IPPROTO_TCP))
    }

    fn wants_state(&self, any: &[u8]) -> bool {
        self.states.is_none_or(|states| any.iter().any(|state| states.contains(*state)))
    }

    /// Returns whether the filter selects everything.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether the filter can select connections of the network namespace with this inode.
    pub fn wants_namespace(&self, inode: u64) -> bool {
        self.namespaces.is_empty() || u32::try_from(inode).is_ok_and(|inode| self.namespaces.contains(inode))
    }

    /// Returns whether the filter selects a connection.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        // Rows of what has ended have no state: the parameter cannot exclude them.
        self.states.is_none_or(|states| subject.state.is_none_or(|state| states.contains(state)))
            && is_any(&self.listening, &subject.listening)
            && is_any(&self.failed, &subject.failed)
            && is_any(&self.raw, &subject.raw)
            && self.has_protocol(subject)
            // Both ends have the same family; listeners have only this one.
            && is_any(&self.families, if subject.local.address.is_ipv4() { &4 } else { &6 })
            && (self.directions.is_empty() || subject.direction.is_some_and(|direction| self.directions.contains(&direction)))
            // Numbers before words, which are dearer to compare.
            && (self.pids.is_empty() || subject.pid.is_some_and(|pid| self.pids.contains(pid)))
            && (self.namespaces.is_empty() || subject.namespace.is_some_and(|inode| self.namespaces.contains(inode)))
            && (self.ports.is_empty()
                || self.ports.contains(subject.local.port)
                || subject.remote.is_some_and(|end| self.ports.contains(end.port)))
            && (self.locals.is_empty() || self.locals.contains(subject.local.address))
            && (self.remotes.is_empty() || subject.remote.is_some_and(|end| self.remotes.contains(end.address)))
            && (self.processes.is_empty() || self.has_process(subject))
            && (self.users.is_empty()
                || subject.user.is_some_and(|user| self.users.contains(user))
                || subject.uid.is_some_and(|uid| self.uids.contains(uid)))
            // The twelve characters that container tools show are enough.
            && ((self.containers.is_empty() && self.container_patterns.is_empty())
                || subject.container.is_some_and(|id| self.has_container(id)))
            && (self.units.is_empty() || subject.unit.is_some_and(|unit| self.has_unit(unit)))
    }

    /// Returns whether one of `protocols` is that of the connection.
    fn has_protocol(&self, subject: &Subject<'_>) -> bool {
        // Who asks for TCP means the sockets that `ss -t` lists.
        let is_hidden = subject.raw && matches!(subject.protocol, IPPROTO_TCP | IPPROTO_UDP) && self.raw.is_empty();
        is_any(&self.protocols, &subject.protocol) && (self.protocols.is_empty() || !is_hidden)
    }

    /// Returns whether one of `processes` is the name of the process, the name of its executable's file, or its whole path.
    fn has_process(&self, subject: &Subject<'_>) -> bool {
        let executable = subject.executable.unwrap_or_default();
        let file = executable.rsplit('/').next().unwrap_or_default();
        // An empty file name or path is in no set: no value is empty, and no pattern stands for nothing.
        subject.process.is_some_and(|name| self.processes.contains(name))
            || self.processes.contains(file)
            || self.processes.contains(executable)
    }

    /// Returns whether one of `units` is the unit, with or without its suffix if it is a service.
    fn has_unit(&self, unit: &str) -> bool {
        self.units.contains(unit) || unit.strip_suffix(".service").is_some_and(|name| self.units.contains(name))
    }
}

fn is_any<T: Ord>(wanted: &BTreeSet<T>, value: &T) -> bool {
    // A parameter that is not given holds for all.
    wanted.is_empty() || wanted.contains(value)
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high).then_some((low, high))
}

fn network(text: &str) -> Option<IpNet> {
    let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    // `ss` prints such addresses; events and rows have them as IPv4.
    match network {
        IpNet::V6(mapped) if mapped.prefix_len() >= MAPPED_BITS => {
            let Some(address) = mapped.addr().to_ipv4_mapped() else { return Some(network) };
            IpNet::new(address.into(), mapped.prefix_len() - MAPPED_BITS).ok()
        }
        IpNet::V4(_) | IpNet::V6(_) => Some(network),
    }
}

#[cfg(test)]
mod tests {
    use netconn_common::tcp_state;

    use super::*;

    fn subject() -> Subject<'static> {
        Subject {
            state: Some(tcp_state::ESTABLISHED),
            failed: false,
            listening: false,
            protocol: IPPROTO_TCP,
            raw: false,
            direction: Some(Direction::Outgoing),
            local: End { address: "192.0.2.1".parse().unwrap(), port: 40000 },
            remote: Some(End { address: "203.0.113.9".parse().unwrap(), port: 443 }),
            pid: Some(7),
            process: Some("curl"),
            executable: Some("/usr/bin/curl-8"),
            user: Some("alice"),
            uid: Some(1000),
            container: Some("abcdef"),
            unit: Some("web.service"),
            namespace: Some(42),
        }
    }

    #[test]
    fn each_parameter_selects() {
        let accepted = [
            "state=estab",
            "state=listening,established",
            "failed=false",
            "listening=false",
            "protocol=udp,tcp",
            "protocol=6",
            "family=4",
            "direction=out",
            "direction=out,in",
            "direction=in,out",
            "listening=false,true",
            "listening=true,false",
            "pid=6,7",
            "process=curl",
            "process=curl-8",
            "process=/usr/bin/curl-8",
            "port=443",
            "port=39000-41000",
            "local=192.0.2.0/24",
            "remote=203.0.113.9",
            "remote=2001:db8::/32,203.0.113.0/24,192.0.2.0/24",
            "remote=::ffff:203.0.113.9",
            "local=::ffff:192.0.2.0/120",
            "user=alice",
            "user=1000",
            "user=bob,1000,carol",
            "container=ABC",
            "container=b,abc,abcdef,abcd,c",
            "container=abcdef,abc,abcdee",
            "port=1-10,400-500,450,9-100",
            "unit=web",
            "unit=web.service",
            "unit=w*",
            "unit=*.service",
            "unit=we?",
            "process=cu*",
            "process=x,c[t-v]rl",
            "process=/usr/*/curl*",
            "container=a?c",
            "container=ab*,ff",
            "container=A[a-c]",
            "namespace=42",
        ];
        for text in accepted {
            assert!(filter(text).unwrap().matches(&subject()), "{text}");
        }
        let refused = [
            "state=listen",
            "state=closed",
            "failed=true",
            "listening=true",
            "protocol=udp",
            "protocol=icmp,47",
            "state=unconnected",
            "family=6",
            "direction=in",
            "pid=8",
            "process=cur",
            "port=80",
            "local=203.0.113.9",
            "remote=192.0.2.0/24",
            "remote=203.0.113.8,203.0.113.10,::/0",
            "remote=::ffff:192.0.2.0/120",
            "user=bob",
            "user=1001,999,100",
            "container=b",
            "container=abcdef0,abce,abcde0",
            "unit=we",
            "unit=we?b",
            "process=*x*",
            "process=cur?l",
            "process=/bin/*",
            "container=b*",
            "container=a?d,ff",
            "namespace=43",
        ];
        for text in refused {
            assert!(!filter(text).unwrap().matches(&subject()), "{text}");
        }
    }

    #[test]
    fn every_parameter_of_the_table_is_understood() {
        for parameter in FILTER_PARAMETERS {
            let error = filter(&format!("{}=?", parameter.name)).err();
            let message = error.map(|error| error.message).unwrap_or_default();
            assert!(!message.starts_with("no such parameter"), "{}", parameter.name);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, expected) in [
            ("port=http", "port: 'http' is not a port or range like 8000-8100"),
            ("port=9-8", "port: '9-8' is not a port or range like 8000-8100"),
            ("port=65536", "port: '65536' is not a port or range like 8000-8100"),
            ("remote=10.0.0.0/33", "remote: '10.0.0.0/33' is not an IP address or network"),
            ("pid=-1", "pid: '-1' is not a process id"),
            ("pid=", "pid: a value is missing"),
            ("protocol=gre", "protocol: 'gre' is not tcp, udp, icmp or the number of a protocol"),
            ("protocol=256", "protocol: '256' is not tcp, udp, icmp or the number of a protocol"),
            ("family=5", "family: '5' is not 4 or 6"),
            ("container=cafe-db", "container: 'cafe-db' is not a container id or the beginning of one (hex digits)"),
            ("container=xyz*", "container: 'xyz*' is not a container id or the beginning of one (hex digits)"),
        ] {
            assert_eq!(filter(text).unwrap_err().to_string(), expected);
        }
        let error = filter("process=a[b").unwrap_err().to_string();
        assert!(error.starts_with("process: 'a[b' is not a pattern: "), "{error}");
        let error = filter("prot=tcp").unwrap_err();
        assert_eq!(error.parameter, "prot");
        assert!(error.message.starts_with("no such parameter; there are protocol,"), "{}", error.message);
    }

    #[test]
    fn a_filter_that_is_too_large_is_refused() {
        let ports = |count: usize| Filter::parse([("port", vec!["80"; count].join(","))]);
        assert!(ports(FILTER_VALUES_MAX).is_ok());
        let error = ports(FILTER_VALUES_MAX + 1).unwrap_err().to_string();
        assert!(
            error.starts_with("port: with this parameter the filter has more than 1024 values; use fewer"),
            "{error}"
        );
        // In all parameters together, and the one that is too much is named.
        let half = vec!["1"; FILTER_VALUES_MAX / 2 + 1].join(",");
        assert_eq!(Filter::parse([("pid", &half), ("port", &half)]).unwrap_err().parameter, "port");
        // Escaped, each of these has six bytes.
        let long = "é".repeat(FILTER_BYTES_MAX / 6);
        let error = Filter::parse([("process", &long)]).unwrap_err().to_string();
        assert!(error.starts_with("process: with this parameter the filter has more than 60000 bytes"), "{error}");
    }

    #[test]
    fn patterns_are_bounded_and_stand_for_what_is_known() {
        let many = |count: usize| Filter::parse([("process", vec!["a*"; count].join(","))]);
        assert!(many(FILTER_PATTERNS_MAX).is_ok());
        let error = many(FILTER_PATTERNS_MAX + 1).unwrap_err().to_string();
        assert!(error.contains("has more than 64 patterns"), "{error}");
        // The dearest there is takes no exponential time.
        let dear = filter(&format!("process={}b", "*a".repeat(100))).unwrap();
        let name = "a".repeat(4096);
        assert!(!dear.matches(&Subject { process: Some(&name), executable: Some(&name), ..subject() }));
        assert!(filter(&format!("process={}*", "a".repeat(300))).is_err(), "too long");
        // A process may be called so.
        assert!(filter("process=[x]").unwrap().matches(&Subject { process: Some("[x]"), ..subject() }));
        let unknown = Subject { process: None, executable: None, unit: None, container: None, ..subject() };
        for text in ["process=*", "unit=*", "container=*"] {
            assert!(filter(text).unwrap().matches(&subject()), "{text}");
            assert!(!filter(text).unwrap().matches(&unknown), "{text}");
        }
    }

    #[test]
    fn a_thousand_networks_of_either_version_fit() {
        for network in [
            |number: u32| format!("203.0.{}.{}/25", number >> 8, number & 0xff),
            |number: u32| format!("2001:db8:ffff:{number:x}::/64"),
        ] {
            let parameters: Vec<_> = (0..1000).map(|number| ("remote", network(number))).collect();
            assert_eq!(Filter::parse(parameters).err(), None);
        }
    }

    #[test]
    fn many_values_cost_hardly_more_than_one() {
        let times = |count: u32| {
            let networks: Vec<_> =
                (0..count).map(|number| format!("10.{}.{}.0/25", number >> 8, number & 0xff)).collect();
            let filter = Filter::parse([("remote", networks.join(","))]).unwrap();
            let subject = subject();
            let once = || {
                let since = std::time::Instant::now();
                (0..1000).for_each(|_| assert!(!std::hint::black_box(&filter).matches(std::hint::black_box(&subject))));
                since.elapsed()
            };
            // The least of several: a run may be interrupted.
            (0..20).map(|_| once()).min().unwrap()
        };
        let (one, thousand) = (times(1), times(1000));
        // One after another they took hundreds of times as long.
        assert!(thousand < one * 20, "{one:?} for 1,000 events and one network, {thousand:?} for 1,000 networks");
    }

    #[test]
    fn only_what_is_wanted_is_asked_for() {
        let wants = |text: &str| {
            let filter = filter(text).unwrap();
            (filter.wants_minisocks(), filter.wants_counters(), filter.wants_datagrams())
        };
        assert_eq!(wants("port=53"), (true, true, true));
        assert_eq!(wants("protocol=tcp"), (true, true, false));
        assert_eq!(wants("protocol=udp"), (false, false, true));
        assert_eq!(wants("protocol=icmp,tcp"), (true, true, true));
        assert_eq!(wants("listening=true"), (false, false, true));
        assert_eq!(wants("state=syn-sent"), (false, true, false));
        assert_eq!(wants("state=unconnected"), (false, true, true));
        assert_eq!(wants("raw=true"), (false, false, true));
    }

    #[test]
    fn icmp_is_both_versions() {
        let icmp = filter("protocol=icmp").unwrap();
        for (protocol, matches) in [(1, true), (58, true), (6, false), (17, false)] {
            assert_eq!(icmp.matches(&Subject { protocol, ..subject() }), matches, "{protocol}");
        }
    }

    #[test]
    fn raw_sockets_are_no_connections_of_the_protocol_that_they_speak() {
        let matches = |parameters: &[(&str, &str)], protocol, raw| {
            Filter::parse(parameters.iter().copied()).unwrap().matches(&Subject { protocol, raw, ..subject() })
        };
        for (parameters, of_raw, of_others) in [
            (&[][..], true, true),
            (&[("protocol", "tcp")], false, true),
            (&[("protocol", "tcp"), ("raw", "true")], true, false),
            (&[("protocol", "tcp"), ("raw", "true,false")], true, true),
            (&[("protocol", "udp"), ("raw", "true")], false, false),
            (&[("raw", "true")], true, false),
            (&[("raw", "false")], false, true),
        ] {
            assert_eq!(matches(parameters, IPPROTO_TCP, true), of_raw, "{parameters:?}");
            assert_eq!(matches(parameters, IPPROTO_TCP, false), of_others, "{parameters:?}");
        }
        // Only raw sockets speak it.
        assert!(matches(&[("protocol", "47")], 47, true));
    }

    fn filter(text: &str) -> Result<Filter, FilterError> {
        Filter::parse([text.split_once('=').unwrap()])
    }
}
