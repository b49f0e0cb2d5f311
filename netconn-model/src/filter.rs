//! The filter over connections, rows and events: its parameters are the same in requests to the socket and as options.

use std::net::IpAddr;

use ipnet::IpNet;
use netconn_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, tcp_state};
use thiserror::Error;

use crate::{
    fact::{Direction, End},
    state::{States, UNCONNECTED},
};

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
    option("protocol", "PROTOCOL", "Of this protocol: tcp, udp, icmp or its number in the IP header (47: GRE)"),
    flag("listening", "true: listeners, and UDP sockets that are connected to nobody; false: all others"),
    flag("family", "4 or 6: the version of IP"),
    option(
        "state",
        "STATE",
        "In this state: established, syn-sent, unconnected, … or a group: connected, synchronized",
    ),
    option("direction", "DIRECTION", "incoming or outgoing"),
    option("pid", "PID", "Of this process id"),
    option("process", "NAME", "Of this process: its name, its executable's file name or path"),
    option("port", "PORT", "With this port, or a range like 8000-8100, on either end"),
    option("local", "ADDRESS", "With this address or network on this end"),
    option("remote", "ADDRESS", "With this address or network on the other end"),
    option("user", "USER", "Of this account, by name or number"),
    option("container", "ID", "In this container: its id or the beginning of it"),
    option("unit", "UNIT", "Of this systemd unit"),
    option("namespace", "INODE", "In this network namespace, by its inode number (`ls -Li /run/netns`)"),
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

/// Selects connections. An empty list or `None` selects all; values of a list are alternatives, and all parameters must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    states: Option<States>,
    listening: Vec<bool>,
    /// By their numbers in the IP header.
    protocols: Vec<u8>,
    families: Vec<u8>,
    directions: Vec<Direction>,
    pids: Vec<u32>,
    processes: Vec<String>,
    ports: Vec<(u16, u16)>,
    locals: Vec<IpNet>,
    remotes: Vec<IpNet>,
    users: Vec<String>,
    containers: Vec<String>,
    units: Vec<String>,
    namespaces: Vec<u32>,
}

/// The facts of a connection that a filter compares.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// State; `None` on events.
    pub state: Option<u8>,
    /// Whether this is a listener.
    pub listening: bool,
    /// Number of the protocol.
    pub protocol: u8,
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
    /// The first parameter that is unknown or has a value that cannot be read.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        parameters: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for (name, value) in parameters {
            filter.add(name.as_ref(), value.as_ref())?;
        }
        Ok(filter)
    }

    fn add(&mut self, name: &str, values: &str) -> Result<(), FilterError> {
        for value in values.split(',').map(str::trim) {
            // Made for each value, so that the message names the one that is wrong.
            let wrong = |expected: &str| FilterError {
                parameter: name.to_owned(),
                message: format!("'{value}' is not {expected}"),
            };
            // `port=` and `port=1,,2` are mistakes: an empty list would select everything.
            if value.is_empty() {
                return Err(FilterError { parameter: name.to_owned(), message: "a value is missing".into() });
            }
            match name {
                "state" => {
                    let states = States::parse(value).ok_or_else(|| {
                        wrong(
                            "a state: use established, syn-sent, syn-recv, fin-wait-1, fin-wait-2, close-wait, \
                               last-ack, closing, time-wait, listening, unconnected, or the groups all, connected, synchronized",
                        )
                    })?;
                    self.states = Some(self.states.unwrap_or(States::NONE) | states);
                }
                "listening" => self.listening.push(value.parse().map_err(|_| wrong("true or false"))?),
                "protocol" => match value.to_ascii_lowercase().as_str() {
                    "tcp" => self.protocols.push(IPPROTO_TCP),
                    "udp" => self.protocols.push(IPPROTO_UDP),
                    // One name for both versions, as in `event.network.protocol`.
                    "icmp" => self.protocols.extend([IPPROTO_ICMP, IPPROTO_ICMPV6]),
                    number => {
                        let number = number.parse().map_err(|_| wrong("tcp, udp, icmp or the number of a protocol"))?;
                        self.protocols.push(number);
                    }
                },
                "family" => match value {
                    "4" => self.families.push(4),
                    "6" => self.families.push(6),
                    _ => return Err(wrong("4 or 6")),
                },
                "direction" => {
                    self.directions.push(match value.to_ascii_lowercase().as_str() {
                        "incoming" | "in" => Direction::Incoming,
                        "outgoing" | "out" => Direction::Outgoing,
                        _ => return Err(wrong("incoming or outgoing")),
                    });
                }
                "pid" => self.pids.push(value.parse().map_err(|_| wrong("a process id"))?),
                "process" => self.processes.push(value.to_owned()),
                "port" => self.ports.push(port_range(value).ok_or_else(|| wrong("a port or range like 8000-8100"))?),
                "local" => self.locals.push(network(value).ok_or_else(|| wrong("an IP address or network"))?),
                "remote" => self.remotes.push(network(value).ok_or_else(|| wrong("an IP address or network"))?),
                "user" => self.users.push(value.to_owned()),
                "container" => {
                    if !value.chars().all(|character| character.is_ascii_hexdigit()) {
                        return Err(wrong("a container id or the beginning of one (hex digits)"));
                    }
                    // Container ids are in lower case in events.
                    self.containers.push(value.to_ascii_lowercase());
                }
                "unit" => self.units.push(value.to_owned()),
                "namespace" => {
                    self.namespaces.push(value.parse().map_err(|_| wrong("the inode number of a network namespace"))?);
                }
                _ => {
                    let names: Vec<&str> = FILTER_PARAMETERS.iter().map(|parameter| parameter.name).collect();
                    let message = format!("no such parameter; there are {}", names.join(", "));
                    return Err(FilterError { parameter: name.to_owned(), message });
                }
            }
        }
        Ok(())
    }

    /// Returns whether the filter can select connections that are over and that no process holds (TIME_WAIT, FIN_WAIT2).
    pub fn wants_minisocks(&self) -> bool {
        // The kernel turns FIN_WAIT2 into a minisock too when its process has gone, hence both states.
        self.wants_state(&[tcp_state::TIME_WAIT, tcp_state::FIN_WAIT2])
            && any(&self.listening, |listening| !listening)
            && any(&self.protocols, |protocol| *protocol == IPPROTO_TCP)
    }

    /// Returns whether the filter can select TCP connections, which have byte counters.
    pub fn wants_counters(&self) -> bool {
        any(&self.listening, |listening| !listening) && any(&self.protocols, |protocol| *protocol == IPPROTO_TCP)
    }

    /// Returns whether the filter can select flows or datagram sockets.
    pub fn wants_datagrams(&self) -> bool {
        // Datagram sockets have no other states.
        self.wants_state(&[tcp_state::ESTABLISHED, UNCONNECTED])
            && any(&self.protocols, |protocol| *protocol != IPPROTO_TCP)
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
        any(&self.namespaces, |namespace| u64::from(*namespace) == inode)
    }

    /// Returns whether the filter selects a connection.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        // Events have no state: the parameter cannot exclude them.
        self.states.is_none_or(|states| subject.state.is_none_or(|state| states.contains(state)))
            && any(&self.listening, |listening| *listening == subject.listening)
            && any(&self.protocols, |protocol| *protocol == subject.protocol)
            // Both ends have the same family; listeners have only this one.
            && any(&self.families, |family| (*family == 4) == subject.local.address.is_ipv4())
            && any(&self.directions, |direction| subject.direction == Some(*direction))
            && any(&self.pids, |pid| subject.pid == Some(*pid))
            && any(&self.processes, |wanted| is_process(wanted, subject))
            && any(&self.ports, |(low, high)| {
                let within = |end: End| (*low..=*high).contains(&end.port);
                within(subject.local) || subject.remote.is_some_and(within)
            })
            && any(&self.locals, |network| network.contains(&subject.local.address))
            && any(&self.remotes, |network| subject.remote.is_some_and(|end| network.contains(&end.address)))
            && any(&self.users, |wanted| {
                subject.user == Some(wanted) || subject.uid.is_some_and(|uid| wanted.parse() == Ok(uid))
            })
            // The twelve characters that container tools show are enough.
            && any(&self.containers, |wanted| subject.container.is_some_and(|id| id.starts_with(wanted)))
            && any(&self.units, |wanted| {
                subject.unit.is_some_and(|unit| unit == wanted || unit.strip_suffix(".service") == Some(wanted))
            })
            && any(&self.namespaces, |namespace| subject.namespace == Some(*namespace))
    }
}

fn any<T>(wanted: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    // A parameter that is not given holds for all.
    wanted.is_empty() || wanted.iter().any(matches)
}

/// Returns whether `wanted` is the name of the process, the name of its executable's file, or its whole path.
fn is_process(wanted: &str, subject: &Subject<'_>) -> bool {
    let executable = subject.executable.unwrap_or_default();
    // `rsplit` of an empty path gives an empty name, which must match nothing.
    let file = executable.rsplit('/').next().unwrap_or_default();
    subject.process == Some(wanted) || (!file.is_empty() && wanted == file) || wanted == executable
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high).then_some((low, high))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use netconn_common::tcp_state;

    use super::*;

    fn subject() -> Subject<'static> {
        Subject {
            state: Some(tcp_state::ESTABLISHED),
            listening: false,
            protocol: IPPROTO_TCP,
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
            "user=alice",
            "user=1000",
            "container=ABC",
            "unit=web",
            "unit=web.service",
            "namespace=42",
        ];
        for text in accepted {
            assert!(filter(text).unwrap().matches(&subject()), "{text}");
        }
        let refused = [
            "state=listen",
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
            "user=bob",
            "container=b",
            "unit=we",
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
        ] {
            assert_eq!(filter(text).unwrap_err().to_string(), expected);
        }
        let error = filter("prot=tcp").unwrap_err();
        assert_eq!(error.parameter, "prot");
        assert!(error.message.starts_with("no such parameter; there are protocol,"), "{}", error.message);
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
    }

    #[test]
    fn icmp_is_both_versions() {
        let icmp = filter("protocol=icmp").unwrap();
        for (protocol, matches) in [(1, true), (58, true), (6, false), (17, false)] {
            assert_eq!(icmp.matches(&Subject { protocol, ..subject() }), matches, "{protocol}");
        }
    }

    fn filter(text: &str) -> Result<Filter, FilterError> {
        Filter::parse([text.split_once('=').unwrap()])
    }
}
