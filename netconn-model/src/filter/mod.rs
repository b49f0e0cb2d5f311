//! The filter over connections, rows and events: its parameters are the same in requests to the socket and as options.
//!
//! A value with `!` before it excludes what it would select.

mod terms;

use netconn_common::tcp_state;
use thiserror::Error;

use self::terms::Terms;
use crate::{
    fact::{Direction, End},
    socket_kind::SocketKind,
    state::UNCONNECTED,
    words::is_pattern,
};

/// Most values of a filter, in all its parameters together.
pub const FILTER_VALUES_MAX: usize = 1024;
/// Most patterns of a filter (`process=py*`). One is compared after another, with each event.
pub const FILTER_PATTERNS_MAX: usize = 64;
/// Most bytes of a filter as it stands in a URI: of its names, and of its values with their escapes. The `http` crate refuses
/// URIs of 65,535 bytes and more, without a word about the reason; what fits here fits there with the other parameters.
pub const FILTER_BYTES_MAX: usize = 60_000;

/// What stands before a value that excludes.
pub const NOT: char = '!';

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
    flag("failed", "true: attempts that failed, and flows that the peer has refused; false: all others"),
    option("direction", "DIRECTION", "incoming or outgoing"),
    option("pid", "PID", "Of this process id"),
    option(
        "process",
        "NAME",
        "Of this process: its name, its executable's file name or path; 'py*' and the like match too",
    ),
    option("port", "PORT", "With this port, or a range like 8000-8100, on either end"),
    option("local-port", "PORT", "With this port, or a range, on this end"),
    option("remote-port", "PORT", "With this port, or a range, on the other end"),
    option("local", "ADDRESS", "With this address or network on this end; fe80::1%eth0 means one interface"),
    option("remote", "ADDRESS", "With this address or network on the other end; fe80::1%eth0 means one interface"),
    option("user", "USER", "Of this account, by name or number"),
    option(
        "container",
        "ID",
        "In this container: its id or name, or the beginning of it, which may have wildcards (* ? [])",
    ),
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

/// Selects connections. Values of one parameter are alternatives, and all parameters must hold. A value that excludes takes away
/// from what the others select; without others, from everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    wanted: Terms,
    /// `None`: nothing is excluded. Apart from `wanted`, so that most filters are not larger for it.
    unwanted: Option<Box<Terms>>,
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
    /// Whether this is an attempt that failed, or a flow that the peer has refused.
    pub failed: bool,
    /// Whether this is a listener.
    pub listening: bool,
    /// Number of the protocol.
    pub protocol: u8,
    /// Whether a raw socket speaks the protocol itself.
    pub raw: bool,
    /// Name of the network interface that the socket is bound to, or over which its link-local addresses are reached.
    pub interface: Option<&'a str>,
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
            let wrong = |message: String| FilterError { parameter: name.to_owned(), message };
            let (terms, value) = match value.strip_prefix(NOT) {
                Some(value) => (&mut **self.unwanted.get_or_insert_default(), value.trim_start()),
                None => (&mut self.wanted, value),
            };
            // `port=` and `port=1,,2` are mistakes: an empty list would select everything.
            if value.is_empty() {
                return Err(wrong("a value is missing".into()));
            }
            if !terms.add(name, value).map_err(wrong)? {
                let own = FILTER_PARAMETERS.iter().map(|parameter| parameter.name);
                let names: Vec<&str> = own.chain(others.iter().copied()).collect();
                return Err(wrong(format!("no such parameter; there are {}", names.join(", "))));
            }
        }
        Ok(())
    }

    /// Returns whether the filter can select connections that no process holds: half-open ones (SYN_RECV), and those that are over
    /// (TIME_WAIT, FIN_WAIT2).
    pub fn wants_minisocks(&self) -> bool {
        // The kernel turns FIN_WAIT2 into a minisock too when its process has gone, hence both states.
        let states = [tcp_state::SYN_RECV, tcp_state::TIME_WAIT, tcp_state::FIN_WAIT2];
        self.wanted.wants_state(&states) && self.wants_counters()
    }

    /// Returns whether the filter can select TCP connections, which have byte counters.
    pub fn wants_counters(&self) -> bool {
        self.wanted.wants_connections_of_tcp()
    }

    /// Returns whether the filter can select TCP connections or listeners.
    pub fn wants_tcp(&self) -> bool {
        self.wanted.wants_tcp()
    }

    /// Returns whether the filter can select flows or datagram sockets.
    pub fn wants_datagrams(&self) -> bool {
        // Datagram sockets have no other states.
        self.wanted.wants_state(&[tcp_state::ESTABLISHED, UNCONNECTED]) && self.wanted.wants_other_protocols()
    }

    /// Returns whether the filter selects everything.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether the filter can select connections of the network namespace with this inode.
    pub fn wants_namespace(&self, inode: u64) -> bool {
        self.wanted.has_namespace(inode).unwrap_or(true)
            && self.unwanted.as_ref().is_none_or(|unwanted| unwanted.has_namespace(inode) != Some(true))
    }

    /// Returns the filter as it holds for sockets of a kind that is no connection; `None` if it selects none of them. Which protocol is
    /// wanted, and whether raw sockets are, says which connections are wanted beside them: it holds for raw sockets only. Unix sockets and
    /// vsock have no version of IP, and neither selects nor excludes by it; they have no address.
    pub fn of_kind(&self, kind: SocketKind) -> Option<Self> {
        let mut filter = self.clone();
        let Self { wanted, unwanted } = &mut filter;
        for terms in [Some(wanted), unwanted.as_deref_mut()].into_iter().flatten() {
            if kind != SocketKind::Raw {
                terms.clear_protocols();
            }
            if !kind.has_addresses() {
                terms.clear_families();
            }
        }
        let unwanted = filter.unwanted.as_deref_mut();
        match kind {
            SocketKind::Unix if filter.wanted.has_addresses() || filter.wanted.has_ports() => return None,
            SocketKind::Vsock if filter.wanted.has_addresses() => return None,
            SocketKind::Unix => _ = unwanted.map(Terms::clear_ends),
            SocketKind::Vsock => _ = unwanted.map(Terms::clear_addresses),
            _ => {}
        }
        Some(filter)
    }

    /// Returns whether the filter selects a connection. What is not known is neither selected nor excluded by a value.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.wanted.all_hold(subject) && self.unwanted.as_deref().is_none_or(|unwanted| !unwanted.any_holds(subject))
    }
}

#[cfg(test)]
mod tests {
    use netconn_common::{IPPROTO_TCP, tcp_state};

    use super::*;

    fn subject() -> Subject<'static> {
        Subject {
            state: Some(tcp_state::ESTABLISHED),
            failed: false,
            listening: false,
            protocol: IPPROTO_TCP,
            raw: false,
            interface: Some("eth0"),
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
            "local=192.0.2.1%eth0",
            "remote=198.51.100.1,203.0.113.9%eth0",
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
            "local-port=40000",
            "local-port=1-10,39999-40001",
            "remote-port=443",
            "port=!22",
            "port=443,!22",
            "remote-port=!22,443",
            "local=!203.0.113.0/24",
            "user=!bob,!0",
            "process=!wget, ! nc*",
            "state=!listen",
            "listening=!true",
            "protocol=!udp",
            "direction=!in",
            "namespace=!43",
            "container=!b",
            "unit=!ssh*",
            "family=!6",
            "pid=!8",
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
            "remote=203.0.113.9%eth1",
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
            "local-port=443",
            "remote-port=40000",
            "port=!443",
            "port=!40000",
            "port=443,!400-500",
            "remote-port=443,!443",
            "remote=!203.0.113.0/24",
            "local=!::ffff:192.0.2.1",
            "user=!bob,!1000",
            "user=alice,!alice",
            "process=!c*",
            "process=!/usr/bin/curl-8",
            "state=!connected",
            "listening=!false",
            "protocol=!tcp",
            "direction=!out",
            "namespace=!42",
            "container=!ABC",
            "unit=!web",
            "family=!4",
            "pid=!7",
        ];
        for text in refused {
            assert!(!filter(text).unwrap().matches(&subject()), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_excluded() {
        let unknown = Subject {
            state: None,
            direction: None,
            remote: None,
            pid: None,
            process: None,
            executable: None,
            user: None,
            uid: None,
            container: None,
            unit: None,
            namespace: None,
            ..subject()
        };
        for text in [
            "state=!all",
            "direction=!in,!out",
            "remote=!0.0.0.0/0",
            "remote-port=!0-65535",
            "pid=!7",
            "process=!*",
            "user=!root",
            "container=!*",
            "unit=!*",
            "namespace=!1",
        ] {
            assert!(filter(text).unwrap().matches(&unknown), "{text}");
        }
        let both = Filter::parse([("remote-port", "443"), ("process", "!curl"), ("process", "!wget")]).unwrap();
        assert!(
            !both.matches(&subject()) && both.matches(&Subject { process: Some("x"), executable: None, ..subject() })
        );
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
            ("remote=fe80::1%", "remote: 'fe80::1%' is not an address with its interface, like fe80::1%eth0"),
            ("pid=-1", "pid: '-1' is not a process id"),
            ("pid=", "pid: a value is missing"),
            ("pid=!", "pid: a value is missing"),
            ("port=!http", "port: 'http' is not a port or range like 8000-8100"),
            ("remote-port=70000", "remote-port: '70000' is not a port or range like 8000-8100"),
            ("protocol=gre", "protocol: 'gre' is not tcp, udp, icmp or the number of a protocol"),
            ("protocol=256", "protocol: '256' is not tcp, udp, icmp or the number of a protocol"),
            ("family=5", "family: '5' is not 4 or 6"),
            (
                "container=/docker/abc",
                "container: '/docker/abc' is not a container's id or name, or the beginning of it",
            ),
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
    fn containers_have_ids_or_names() {
        let matches =
            |text: &str, container| filter(text).unwrap().matches(&Subject { container: Some(container), ..subject() });
        assert!(matches("container=Web-1", "Web-1") && !matches("container=web-1", "Web-1"));
        assert!(matches("container=W*", "Web-1") && !matches("container=w*", "Web-1"));
        let ecs = "c23e5f76c09d438aa1824ca4058bdcab-1234678";
        assert!(matches("container=C23E5F76", ecs) && matches(&format!("container={ecs}"), ecs));
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
        // What is excluded narrows nothing here: it costs time at most.
        assert_eq!(wants("protocol=!tcp"), (true, true, true));
        assert_eq!(wants("state=syn-recv"), (true, true, false));
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
    fn kinds_that_are_no_connections_have_a_filter_of_their_own() {
        use crate::socket_kind::SocketKind;
        let of = |text: &str, kind: SocketKind| filter(text).unwrap().of_kind(kind);
        let is_selected =
            |text: &str, kind: SocketKind| of(text, kind).is_some_and(|filter| filter.matches(&subject()));
        let all = |text: &str| {
            let others = SocketKind::ALL.iter().filter(|kind| **kind != SocketKind::Connections);
            others.filter(|kind| is_selected(text, **kind)).map(|kind| kind.name()).collect::<Vec<_>>().join(" ")
        };
        // The subject is TCP over IPv4 with these ports.
        assert_eq!(all("pid=7"), "raw unix sctp mptcp vsock");
        assert_eq!(all("pid=8"), "");
        assert_eq!(all("protocol=udp"), "unix sctp mptcp vsock", "raw sockets have a protocol");
        assert_eq!(all("raw=true"), "unix sctp mptcp vsock");
        assert_eq!(all("family=6"), "unix vsock", "they have no version of IP");
        assert_eq!(all("family=!4"), "unix vsock");
        assert_eq!(all("port=443"), "raw sctp mptcp vsock");
        assert_eq!(all("local=192.0.2.0/24"), "raw sctp mptcp");
        assert_eq!(all("remote=!203.0.113.9"), "unix vsock", "what is not known is not excluded");
        assert_eq!(all("port=!443"), "unix");
        assert!(of("protocol=tcp", SocketKind::Unix).unwrap().is_everything());
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
