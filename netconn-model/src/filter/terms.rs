//! The values of a filter, by parameter.
//!
//! A stream asks its filter at each event, so the values are kept in the form in which many are compared as fast as one: ranges in
//! their order, and ordered sets of words.

use std::{collections::BTreeSet, net::IpAddr, ops::Bound};

use ipnet::IpNet;
use netconn_common::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use super::Subject;
use crate::{
    fact::Direction,
    ranges::{Networks, Ranges},
    state::States,
    words::{Words, is_pattern},
};

/// Bits before the IPv4 address in an IPv4-mapped one (RFC 4291, 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// The values of each parameter. An empty set or `None` stands for a parameter that was not given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Terms {
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
    /// Of either end.
    ports: Ranges<u16>,
    local_ports: Ranges<u16>,
    remote_ports: Ranges<u16>,
    locals: Networks,
    remotes: Networks,
    /// Addresses with their interface (`fe80::1%eth0`).
    scoped_locals: BTreeSet<(IpAddr, String)>,
    scoped_remotes: BTreeSet<(IpAddr, String)>,
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

impl Terms {
    /// Adds a value of a parameter; returns whether there is such a parameter.
    ///
    /// # Errors
    ///
    /// What is wrong with the value and what it can be.
    pub(super) fn add(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let wrong = |expected: &str| format!("'{value}' is not {expected}");
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
            "process" => self.processes.insert(value)?,
            "port" | "local-port" | "remote-port" => {
                let (low, high) = port_range(value).ok_or_else(|| wrong("a port or range like 8000-8100"))?;
                let ports = match name {
                    "local-port" => &mut self.local_ports,
                    "remote-port" => &mut self.remote_ports,
                    _ => &mut self.ports,
                };
                ports.insert(low, high);
            }
            "local" | "remote" if value.contains('%') => {
                let scoped = scoped(value).ok_or_else(|| wrong("an address with its interface, like fe80::1%eth0"))?;
                if name == "local" { &mut self.scoped_locals } else { &mut self.scoped_remotes }.insert(scoped);
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
                // Ids are in lower case in events; names, which LXC and systemd-nspawn give, are as they are.
                let is_id =
                    value.chars().all(|character| character.is_ascii_hexdigit() || "*?[]!-".contains(character));
                let beginning = if is_id { value.to_ascii_lowercase() } else { value.to_owned() };
                let is_pattern = is_pattern(&beginning);
                if value.contains('/') {
                    return Err(wrong("a container's id or name, or the beginning of it"));
                }
                if is_pattern {
                    // Two stars are an error.
                    self.container_patterns.insert(&format!("{}*", beginning.trim_end_matches('*')))?;
                } else {
                    self.add_container(beginning);
                }
            }
            "unit" => self.units.insert(value)?,
            "namespace" => {
                let inode = value.parse().map_err(|_| wrong("the inode number of a network namespace"))?;
                self.namespaces.insert(inode, inode);
            }
            _ => return Ok(false),
        }
        Ok(true)
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

    /// Forgets which protocols are meant, and whether raw sockets are.
    pub(super) fn clear_protocols(&mut self) {
        self.protocols.clear();
        self.raw.clear();
    }

    /// Forgets which versions of IP are meant.
    pub(super) fn clear_families(&mut self) {
        self.families.clear();
    }

    /// Forgets which addresses are meant.
    pub(super) fn clear_addresses(&mut self) {
        (self.locals, self.remotes) = Default::default();
        (self.scoped_locals, self.scoped_remotes) = Default::default();
    }

    /// Forgets which addresses and ports are meant.
    pub(super) fn clear_ends(&mut self) {
        self.clear_addresses();
        (self.ports, self.local_ports, self.remote_ports) = Default::default();
    }

    /// Returns whether an address is asked for.
    pub(super) fn has_addresses(&self) -> bool {
        !self.locals.is_empty()
            || !self.remotes.is_empty()
            || !self.scoped_locals.is_empty()
            || !self.scoped_remotes.is_empty()
    }

    /// Returns whether a port is asked for.
    pub(super) fn has_ports(&self) -> bool {
        !self.ports.is_empty() || !self.local_ports.is_empty() || !self.remote_ports.is_empty()
    }

    /// Returns whether TCP connections or listeners can be selected.
    pub(super) fn wants_tcp(&self) -> bool {
        is_any(&self.protocols, &IPPROTO_TCP) && is_any(&self.raw, &false)
    }

    /// Returns whether TCP connections can be selected.
    pub(super) fn wants_connections_of_tcp(&self) -> bool {
        is_any(&self.listening, &false) && self.wants_tcp()
    }

    /// Returns whether protocols other than TCP can be selected.
    pub(super) fn wants_other_protocols(&self) -> bool {
        self.protocols.is_empty()
            || self.raw.contains(&true)
            || self.protocols.iter().any(|protocol| *protocol != IPPROTO_TCP)
    }

    /// Returns whether one of these states can be selected.
    pub(super) fn wants_state(&self, any: &[u8]) -> bool {
        self.states.is_none_or(|states| any.iter().any(|state| states.contains(*state)))
    }

    /// Returns whether the network namespace is among those given; `None` if none is given.
    pub(super) fn has_namespace(&self, inode: u64) -> Option<bool> {
        let has = || u32::try_from(inode).is_ok_and(|inode| self.namespaces.contains(inode));
        (!self.namespaces.is_empty()).then(has)
    }

    /// Returns whether each parameter that is given has a value that holds for the connection.
    pub(super) fn all_hold(&self, subject: &Subject<'_>) -> bool {
        !self.ends_with(subject, false)
    }

    /// Returns whether any parameter that is given has a value that holds for the connection.
    pub(super) fn any_holds(&self, subject: &Subject<'_>) -> bool {
        self.ends_with(subject, true)
    }

    /// Asks one given parameter after another; returns whether one of them answers `wanted`.
    #[inline(always)]
    fn ends_with(&self, subject: &Subject<'_>, wanted: bool) -> bool {
        fn answers(wanted: bool, is_given: bool, holds: impl FnOnce() -> bool) -> bool {
            is_given && holds() == wanted
        }
        // Rows of what has ended have no state: the parameter neither selects nor excludes them.
        self.states.is_some_and(|states| subject.state.is_some_and(|state| states.contains(state) == wanted))
            || answers(wanted, !self.listening.is_empty(), || self.listening.contains(&subject.listening))
            || answers(wanted, !self.failed.is_empty(), || self.failed.contains(&subject.failed))
            || answers(wanted, !self.raw.is_empty(), || self.raw.contains(&subject.raw))
            || answers(wanted, !self.protocols.is_empty(), || self.has_protocol(subject))
            // Both ends have the same family; listeners have only this one.
            || answers(wanted, !self.families.is_empty(), || {
                self.families.contains(if subject.local.address.is_ipv4() { &4 } else { &6 })
            })
            || answers(wanted, !self.directions.is_empty(), || {
                subject.direction.is_some_and(|direction| self.directions.contains(&direction))
            })
            // Numbers before words, which are dearer to compare.
            || answers(wanted, !self.pids.is_empty(), || subject.pid.is_some_and(|pid| self.pids.contains(pid)))
            || answers(wanted, !self.namespaces.is_empty(), || {
                subject.namespace.is_some_and(|inode| self.namespaces.contains(inode))
            })
            || answers(wanted, !self.ports.is_empty(), || {
                self.ports.contains(subject.local.port) || subject.remote.is_some_and(|end| self.ports.contains(end.port))
            })
            || answers(wanted, !self.local_ports.is_empty(), || self.local_ports.contains(subject.local.port))
            || answers(wanted, !self.remote_ports.is_empty(), || {
                subject.remote.is_some_and(|end| self.remote_ports.contains(end.port))
            })
            || answers(wanted, !self.locals.is_empty() || !self.scoped_locals.is_empty(), || {
                let address = subject.local.address;
                self.locals.contains(address) || has_scoped(&self.scoped_locals, address, subject)
            })
            || answers(wanted, !self.remotes.is_empty() || !self.scoped_remotes.is_empty(), || {
                let is_one = |address| self.remotes.contains(address) || has_scoped(&self.scoped_remotes, address, subject);
                subject.remote.is_some_and(|end| is_one(end.address))
            })
            || answers(wanted, !self.processes.is_empty(), || self.has_process(subject))
            || answers(wanted, !self.users.is_empty(), || {
                subject.user.is_some_and(|user| self.users.contains(user))
                    || subject.uid.is_some_and(|uid| self.uids.contains(uid))
            })
            // The twelve characters that container tools show are enough.
            || answers(wanted, !self.containers.is_empty() || !self.container_patterns.is_empty(), || {
                subject.container.is_some_and(|id| self.has_container(id))
            })
            || answers(wanted, !self.units.is_empty(), || subject.unit.is_some_and(|unit| self.has_unit(unit)))
    }

    /// Returns whether one of `protocols` is that of the connection.
    fn has_protocol(&self, subject: &Subject<'_>) -> bool {
        // Who asks for TCP means the sockets that `ss -t` lists.
        let is_hidden = subject.raw && matches!(subject.protocol, IPPROTO_TCP | IPPROTO_UDP) && self.raw.is_empty();
        self.protocols.contains(&subject.protocol) && !is_hidden
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

/// Returns whether an address is one of these, over the interface of the connection.
fn has_scoped(scoped: &BTreeSet<(IpAddr, String)>, address: IpAddr, subject: &Subject<'_>) -> bool {
    scoped.iter().any(|(wanted, interface)| *wanted == address && subject.interface == Some(interface.as_str()))
}

/// Reads an address with its interface, as `ip` and `ss` write it.
fn scoped(text: &str) -> Option<(IpAddr, String)> {
    let (address, interface) = text.split_once('%')?;
    let address: IpAddr = address.parse().ok()?;
    (!interface.is_empty()).then(|| (address.to_canonical(), interface.to_owned()))
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
