//! Kinds of sockets that a list can have beside connections of TCP and flows: the parameter `sockets` of `/v1/connections`.

use crate::value::names;

names! {
    /// A kind of socket.
    SocketKind, "a kind of socket" {
        /// Connections and listeners of TCP, flows of datagrams, and UDP sockets.
        Connections "connections",
        /// Sockets of `SOCK_RAW` of IP.
        Raw "raw",
        /// Unix sockets.
        Unix "unix",
        /// Associations, listeners and other sockets of SCTP.
        Sctp "sctp",
        /// MPTCP connections and listeners as such.
        Mptcp "mptcp",
        /// Sockets of `AF_VSOCK`.
        Vsock "vsock",
    }
}

impl SocketKind {
    /// Returns what the kind has, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Connections => {
                "TCP connections and listeners, flows, UDP sockets: what a list has if the parameter is not given"
            }
            Self::Raw => {
                "raw IP sockets that no flow of the list shows: `connections` with `raw=true` has the flows of the others"
            }
            Self::Unix => "Unix sockets, each with its path, its peer and the peer's process",
            Self::Sctp => {
                "SCTP associations, each with its primary path; SCTP sockets that listen or have no association"
            }
            Self::Mptcp => "MPTCP connections as such, with token and number of further paths, and MPTCP listeners",
            Self::Vsock => "sockets between virtual machines and their host",
        }
    }

    /// Returns whether both ends have IP addresses.
    pub fn has_addresses(self) -> bool {
        !matches!(self, Self::Unix | Self::Vsock)
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKinds(u8);

impl Default for SocketKinds {
    /// Returns what a list has if nothing else is asked for: connections.
    fn default() -> Self {
        Self::NONE.with(SocketKind::Connections)
    }
}

impl SocketKinds {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Returns the set with this kind added.
    #[must_use]
    pub fn with(self, kind: SocketKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Returns whether the kind is in the set.
    pub fn has(self, kind: SocketKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Returns whether a list has connections.
    pub fn has_connections(self) -> bool {
        self.has(SocketKind::Connections)
    }

    /// Returns the kinds of the set that are no connections.
    pub fn others(self) -> impl Iterator<Item = SocketKind> {
        SocketKind::ALL.iter().copied().filter(move |kind| *kind != SocketKind::Connections && self.has(*kind))
    }

    /// Returns whether the set has a kind that is no connection.
    pub fn has_others(self) -> bool {
        self.others().next().is_some()
    }

    /// Reads a list, `connections,unix`.
    ///
    /// # Errors
    ///
    /// The name that is no kind, with those there are.
    pub fn parse(names: &str) -> Result<Self, String> {
        names.split(',').map(str::trim).try_fold(Self::NONE, |kinds, name| match SocketKind::parse(name) {
            Some(kind) => Ok(kinds.with(kind)),
            None => Err(format!("'{name}' is not a kind of socket: use {}", SocketKind::NAMES.join(", "))),
        })
    }

    /// Returns the list that [`parse`](Self::parse) reads.
    pub fn in_words(self) -> String {
        let names: Vec<&str> = SocketKind::ALL.iter().filter(|kind| self.has(**kind)).map(|kind| kind.name()).collect();
        names.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_they_are_written() {
        let kinds = SocketKinds::default().with(SocketKind::Unix).with(SocketKind::Vsock);
        assert_eq!(kinds.in_words(), "connections,unix,vsock");
        assert_eq!(SocketKinds::parse("unix, vsock,connections,unix"), Ok(kinds));
        assert_eq!(kinds.others().collect::<Vec<_>>(), [SocketKind::Unix, SocketKind::Vsock]);
        assert!(!SocketKinds::default().has_others() && SocketKinds::default().has_connections());
        for wrong in ["", "unix,", "tcp"] {
            let error = SocketKinds::parse(wrong).unwrap_err();
            assert!(error.ends_with("use connections, raw, unix, sctp, mptcp, vsock"), "{error}");
        }
    }
}
