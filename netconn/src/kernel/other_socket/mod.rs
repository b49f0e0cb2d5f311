//! Sockets that are neither connections of TCP nor datagram sockets with a port: raw IP sockets, Unix sockets, SCTP, MPTCP connections as
//! such, and vsock. They are read by `sock_diag`, in each network namespace, only when a client asks for them.

mod inet;
mod unix;
mod vsock;

use std::{collections::HashMap, io, mem::size_of};

use netconn_common::{FileRecord, IPPROTO_ICMP, IPPROTO_ICMPV6, Owner, UNKNOWN_U32};
use netconn_model::{
    fact::End,
    socket_kind::{SocketKind, SocketKinds},
};
use tracing::debug;

use crate::{
    kernel::iterate::{self, Others},
    privileged::{NetFile, namespaces},
};

/// `SOCK_STREAM`, `SOCK_DGRAM` and `SOCK_SEQPACKET` in `include/linux/net.h`, with the names in rows.
const FORMS: [(u8, &str); 3] = [(1, "STREAM"), (2, "DGRAM"), (5, "SEQPACKET")];

/// A socket.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherSocket {
    /// What it is.
    pub kind: SocketKind,
    /// State, one of `netconn_common::tcp_state`: all of these sockets use its numbers.
    pub state: u8,
    /// Name of the state of an SCTP association.
    pub association: Option<&'static str>,
    /// Inode of the network namespace.
    pub namespace: u32,
    /// Inode of the socket; 0: no process has it.
    pub inode: u64,
    /// Its cookie; 0: not known.
    pub cookie: u64,
    /// Bytes that the process has not read, and that the peer has not acknowledged; of a listener the connections that wait, and how many
    /// may.
    pub queues: Option<(u32, u32)>,
    /// Both ends.
    pub ends: OtherEnds,
    /// The process that has it open, the oldest of several; else the user of the socket, as far as that is known.
    pub owner: Owner,
}

/// The ends of a socket, and what only its kind has.
#[derive(Clone, Debug, PartialEq)]
pub enum OtherEnds {
    /// Of IP.
    Ip {
        /// This end.
        local: End,
        /// The other end.
        remote: Option<End>,
        /// Index of the network device; 0: none.
        device: u32,
        /// Of a raw socket, the protocol in the IP header.
        protocol: u8,
        /// Of an MPTCP connection.
        mptcp: Option<Mptcp>,
    },
    /// Of a Unix socket.
    Unix {
        /// Type of the socket.
        form: u8,
        /// Path, or abstract name behind `@`.
        path: Option<Box<str>>,
        /// Inode of the peer; 0: none, or not known.
        peer: u32,
        /// Process id and name of the process that has the peer open.
        peer_process: Option<(u32, [u8; 16])>,
    },
    /// Of vsock: context id and port of each end, where they are known.
    Vsock {
        /// Type of the socket.
        form: u8,
        /// This end.
        local: (Option<u32>, Option<u32>),
        /// The other end.
        remote: (Option<u32>, Option<u32>),
    },
}

/// What the kernel tells of an MPTCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mptcp {
    /// Its token; `None` of a listener.
    pub token: Option<u32>,
    /// Paths beside the first.
    pub subflows: u8,
    /// It speaks plain TCP.
    pub is_fallback: bool,
}

impl OtherSocket {
    /// Returns whether flows show what the socket exchanges as that of a raw socket: not ICMP.
    pub fn has_raw_flows(&self) -> bool {
        matches!(self.ends, OtherEnds::Ip { protocol, .. }
            if self.kind == SocketKind::Raw && !matches!(protocol, IPPROTO_ICMP | IPPROTO_ICMPV6))
    }

    /// Returns the name of the protocol in rows, without that of raw sockets.
    pub fn protocol(&self) -> String {
        let form = |form: u8| FORMS.iter().find(|(number, _)| *number == form).map_or("OTHER", |(_, name)| name);
        match &self.ends {
            OtherEnds::Unix { form: number, .. } => format!("UNIX_{}", form(*number)),
            OtherEnds::Vsock { form: number, .. } => format!("VSOCK_{}", form(*number)),
            OtherEnds::Ip { .. } if self.kind == SocketKind::Sctp => "SCTP".into(),
            OtherEnds::Ip { .. } => "MPTCP".into(),
        }
    }
}

/// The sockets that were found.
#[derive(Debug, Default)]
pub struct OtherSockets {
    /// By kind and inode.
    pub sockets: Vec<OtherSocket>,
    /// Says what cannot be listed, in sentences.
    pub unlisted: Vec<String>,
    /// Says which kinds this kernel does not have, in sentences.
    pub absent: Vec<String>,
}

impl OtherSockets {
    /// Returns an empty list that says why.
    pub fn none(error: &io::Error) -> Self {
        let unlisted = vec![format!("no such sockets can be listed here: {error}")];
        Self { unlisted, ..Self::default() }
    }

    /// Reads the sockets of these kinds in the network namespaces whose inode is wanted: of all that can be entered, or of the own one only.
    /// To be called on a thread that nobody needs in its old namespace afterwards.
    pub fn read(kinds: SocketKinds, is_everywhere: bool, is_wanted: impl Fn(u64) -> bool) -> Self {
        let mut found = Self::default();
        let mut lacking = Vec::new();
        // The own namespace before the others: there is no need to come back to it.
        if let Some(own) = iterate::own_namespace().filter(|own| is_wanted(*own)) {
            found.read_namespace(own, kinds, &mut lacking);
        }
        let others = if is_everywhere { iterate::other_namespaces() } else { Others::default() };
        for (inode, namespace) in others.found.into_iter().filter(|(inode, _)| is_wanted(*inode)) {
            match namespaces::enter(&namespace) {
                Ok(()) => found.read_namespace(inode, kinds, &mut lacking),
                Err(error) => {
                    found.unlisted.push(format!("sockets of the network namespace {inode} cannot be listed: {error}"));
                }
            }
        }
        if others.hidden != 0 {
            found.unlisted.push(format!(
                "the kernel does not tell the network namespaces of {} processes (it takes CAP_SYS_PTRACE): if they are in others, \
                 sockets there are missing",
                others.hidden
            ));
        }
        found.tell(&lacking);
        found.sockets.sort_by_key(|socket| (socket.kind as u8, socket.inode));
        found.sockets.shrink_to_fit();
        found
    }

    fn read_namespace(&mut self, inode: u64, kinds: SocketKinds, lacking: &mut Vec<SocketKind>) {
        let namespace = u32::try_from(inode).unwrap_or(UNKNOWN_U32);
        for kind in kinds.others() {
            let before = self.sockets.len();
            let sockets = &mut self.sockets;
            let read = match kind {
                SocketKind::Raw => inet::raw(namespace, sockets),
                SocketKind::Sctp => inet::sctp(namespace, sockets),
                SocketKind::Mptcp => inet::mptcp(namespace, sockets),
                SocketKind::Unix => unix::read(namespace, sockets),
                SocketKind::Vsock => vsock::read(namespace, sockets),
                SocketKind::Connections => Ok(()),
            };
            let Err(error) = read else { continue };
            debug!("sockets of the kind {}: {error}", kind.name());
            // Half a list would look like a whole one.
            self.sockets.truncate(before);
            if error.kind() != io::ErrorKind::NotFound {
                let name = kind.name();
                self.unlisted.push(format!(
                    "sockets of the kind {name} in the network namespace {inode} cannot be listed: {error}"
                ));
            } else if !lacking.contains(&kind) {
                lacking.push(kind);
            }
        }
    }

    /// Says which kinds the kernel cannot list.
    fn tell(&mut self, lacking: &[SocketKind]) {
        if lacking.is_empty() {
            return;
        }
        // Names of protocols begin its lines; what cannot be read tells nothing.
        let protocols = namespaces::text(NetFile::Protocols).unwrap_or_default();
        for kind in lacking {
            let (name, in_protocols, option) = match kind {
                SocketKind::Sctp => ("SCTP", "SCTP", "CONFIG_INET_SCTP_DIAG"),
                SocketKind::Mptcp => ("MPTCP", "MPTCP", "CONFIG_INET_MPTCP_DIAG"),
                SocketKind::Vsock => ("vsock", "AF_VSOCK", "CONFIG_VSOCKETS_DIAG"),
                SocketKind::Unix => ("Unix", "UNIX", "CONFIG_UNIX_DIAG"),
                SocketKind::Raw | SocketKind::Connections => ("raw", "RAW", "CONFIG_INET_RAW_DIAG"),
            };
            let has_protocol = protocols.lines().any(|line| line.starts_with(in_protocols));
            if has_protocol || protocols.is_empty() {
                self.unlisted.push(format!(
                    "{name} sockets cannot be listed: this kernel has no sock_diag for them ({option}, which may be a module)"
                ));
            } else {
                self.absent
                    .push(format!("there are no {name} sockets: this kernel has no {name}, or has not loaded it"));
            }
        }
    }

    /// Assigns their processes to sockets, by the inodes of open files, and their cookies where they are not known.
    pub fn assign(&mut self, owners: &HashMap<u64, Owner>, numbers: &HashMap<u64, u64>) {
        for socket in &mut self.sockets {
            if let Some(owner) = owners.get(&socket.inode) {
                socket.owner = *owner;
            }
            if socket.cookie == 0 {
                socket.cookie = numbers.get(&socket.inode).copied().unwrap_or(0);
            }
            if let OtherEnds::Unix { peer, peer_process, .. } = &mut socket.ends {
                *peer_process = owners.get(&u64::from(*peer)).map(|owner| (owner.tgid, owner.comm));
            }
        }
    }

    /// Returns the inodes of these sockets and of their peers.
    pub fn wanted_inodes(&self) -> hashbrown::HashSet<u64> {
        let peer = |socket: &OtherSocket| match socket.ends {
            OtherEnds::Unix { peer, .. } => u64::from(peer),
            _ => 0,
        };
        let inodes = self.sockets.iter().flat_map(|socket| [socket.inode, peer(socket)]);
        inodes.filter(|inode| *inode != 0).collect()
    }

    /// Returns the path of the Unix socket with this inode.
    pub fn path_of(&self, inode: u32) -> Option<&str> {
        let key = (SocketKind::Unix as u8, u64::from(inode));
        let at = self.sockets.binary_search_by_key(&key, |socket| (socket.kind as u8, socket.inode)).ok()?;
        match &self.sockets.get(at)?.ends {
            OtherEnds::Unix { path, .. } => path.as_deref(),
            _ => None,
        }
    }

    /// Returns about how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let path = |socket: &OtherSocket| match &socket.ends {
            OtherEnds::Unix { path: Some(path), .. } => path.len(),
            _ => 0,
        };
        self.sockets.capacity() * size_of::<OtherSocket>() + self.sockets.iter().map(path).sum::<usize>()
    }
}

/// Returns the open files of these sockets and their peers, with the inode as their number, and their owners: of several the oldest.
pub fn files_of(sockets: &mut OtherSockets, mut files: Vec<FileRecord>, has_cookies: bool) -> Vec<FileRecord> {
    let wanted = sockets.wanted_inodes();
    files.retain(|file| wanted.contains(&file.inode));
    let mut owners: HashMap<u64, Owner> = HashMap::new();
    let mut numbers = HashMap::new();
    for file in &mut files {
        if has_cookies && file.socket != 0 {
            numbers.insert(file.inode, file.socket);
        }
        file.socket = file.inode;
        let known = owners.entry(file.inode).or_insert(file.owner);
        // The oldest is the one that opened it, as a rule: the others got it by `fork`.
        if file.owner.start_ns < known.start_ns {
            *known = file.owner;
        }
    }
    sockets.assign(&owners, &numbers);
    files
}

/// Returns the owner of a socket of which only the user is known.
fn of_user(uid: Option<u32>) -> Owner {
    uid.map_or_else(Owner::default, Owner::of_user)
}
