//! Packet sockets: `AF_PACKET` and `AF_XDP` exchange frames with network devices, past TCP, UDP, IP and every hook.
//!
//! `iter/task_file` finds the processes that have them open, in all network namespaces. `/proc/net/packet` lists what
//! `AF_PACKET` sockets receive, and also those that are no open file any more but are kept by a mapping of their ring.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io, thread,
};

use netconn_common::{AF_PACKET, AF_XDP, Owner, PacketSocketRecord, UNKNOWN_U32};

use crate::{
    kernel::{
        iterate::{self, Others},
        links,
    },
    privileged::{NetFile, namespaces},
};

/// A packet socket and a process that has it open; one for each process if there are several.
#[derive(Clone, Debug, PartialEq)]
pub struct PacketSocket {
    /// [`AF_PACKET`] or [`AF_XDP`].
    pub family: u16,
    /// Protocol that it receives, a number of `include/uapi/linux/if_ether.h`; 0: none. `None` if unknown.
    pub protocol: Option<u16>,
    /// Index of the network device, 0: none in particular. `None` if unknown.
    pub device: Option<u32>,
    /// Name of the network device.
    pub interface: Option<String>,
    /// Inode of the network namespace.
    pub namespace: u32,
    /// Inode of the file.
    pub inode: u64,
    /// The process that has it open; unknown if none was found.
    pub owner: Owner,
}

/// All packet sockets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PacketSockets {
    /// Sorted by namespace and process.
    pub sockets: Vec<PacketSocket>,
    /// Says what cannot be listed, in sentences.
    pub unlisted: Vec<String>,
    /// Whether the processes that have them open are unknown.
    pub lacks_owners: bool,
    /// Network namespaces whose `AF_PACKET` sockets could not be listed.
    pub unread: Vec<u32>,
    /// None could be listed.
    pub is_unread: bool,
}

impl PacketSockets {
    /// Returns an empty list that says why.
    pub(crate) fn none(error: &io::Error) -> Self {
        let unlisted = vec![format!("AF_PACKET and AF_XDP sockets cannot be listed here: {error}")];
        Self { unlisted, is_unread: true, ..Self::default() }
    }

    /// Returns whether the `AF_PACKET` sockets of a network namespace are all in the list.
    pub fn has_listed(&self, namespace: u32) -> bool {
        !self.is_unread && !self.unread.contains(&namespace)
    }

    /// Assigns owners to sockets without one, by the inodes of open files.
    pub fn assign_owners(&mut self, owners: &HashMap<u64, Owner>) {
        for socket in self.sockets.iter_mut().filter(|socket| socket.owner.tgid == 0) {
            socket.owner = owners.get(&socket.inode).copied().unwrap_or_default();
        }
        self.lacks_owners = false;
    }
}

/// Finds the packet sockets of all network namespaces; `files` reads `iter/task_file`.
pub(super) fn all(files: impl FnOnce() -> io::Result<Vec<PacketSocketRecord>>) -> PacketSockets {
    find(&Namespaces::all(), files)
}

/// Finds the packet sockets of the own network namespace that `/proc` shows; `reason` says why there is nothing better.
pub fn of_proc(reason: &str) -> PacketSockets {
    find(&Namespaces::own(), || Err(io::Error::other(format!("/proc does not show them, and {reason}"))))
}

fn find(namespaces: &Namespaces, files: impl FnOnce() -> io::Result<Vec<PacketSocketRecord>>) -> PacketSockets {
    let mut found = PacketSockets::default();
    // Before the files: a socket that is closed in between is in this list only, and `is_torn` notices.
    let mut listed = namespaces.listed(&mut found);
    let (files, lacks_owners) = match files() {
        Ok(files) => (files, false),
        Err(error) => {
            found.unlisted.push(format!("AF_XDP sockets cannot be listed here: {error}"));
            (Vec::new(), true)
        }
    };
    if !lacks_owners && is_torn(&listed, &files) {
        // Some were created or closed meanwhile. A socket that is in both lists and no open file has indeed no process.
        let open: HashSet<_> = files.iter().map(|file| (file.namespace, file.inode)).collect();
        // What cannot be listed was said the first time.
        let mut again = PacketSockets::default();
        let later = namespaces.listed(&mut again);
        found.unread.append(&mut again.unread);
        found.is_unread |= again.is_unread;
        let still: HashSet<_> = later.iter().map(Listed::place).collect();
        // Of the first list what is open or still there, of the second what was created since and is open.
        listed.retain(|socket| open.contains(&socket.place()) || still.contains(&socket.place()));
        listed.extend(later.into_iter().filter(|socket| open.contains(&socket.place())));
    }
    let mut sockets = joined(&listed, &files);
    namespaces.name(&mut sockets);
    PacketSockets { sockets, lacks_owners, ..found }
}

/// A line of `/proc/net/packet`.
#[derive(Clone, Debug, PartialEq)]
struct Listed {
    namespace: u32,
    inode: u64,
    protocol: u16,
    device: u32,
}

impl Listed {
    fn place(&self) -> (u32, u64) {
        (self.namespace, self.inode)
    }
}

/// Parses a file with lines as `packet_seq_show` in `net/packet/af_packet.c` writes them; damaged lines are left out.
fn parsed(text: &str, namespace: u32) -> impl Iterator<Item = Listed> {
    text.lines().skip(1).filter_map(move |line| {
        // Columns: sk RefCnt Type Proto Iface R Rmem User Inode.
        let mut words = line.split_whitespace().skip(3);
        let protocol = u16::from_str_radix(words.next()?, 16).ok()?;
        let device = words.next()?.parse().ok()?;
        let inode = words.nth(3)?.parse().ok()?;
        Some(Listed { namespace, inode, protocol, device })
    })
}

/// Returns the sockets in the text of `/proc/net/packet`.
pub(super) fn places(text: &str, namespace: u32) -> impl Iterator<Item = (u32, u64)> {
    parsed(text, namespace).map(|socket| socket.place())
}

/// Returns whether a socket is in only one of both lists.
fn is_torn(listed: &[Listed], files: &[PacketSocketRecord]) -> bool {
    let in_files: HashSet<_> = files.iter().map(|file| (file.namespace, file.inode)).collect();
    let in_list: HashSet<_> = listed.iter().map(Listed::place).collect();
    listed.iter().any(|socket| !in_files.contains(&socket.place()))
        || files.iter().any(|file| file.family == AF_PACKET && !in_list.contains(&(file.namespace, file.inode)))
}

/// Returns each socket once for each process that has it open, and those without a process.
fn joined(listed: &[Listed], files: &[PacketSocketRecord]) -> Vec<PacketSocket> {
    let details: HashMap<_, _> = listed.iter().map(|socket| (socket.place(), socket)).collect();
    let (mut seen, mut open) = (HashSet::new(), HashSet::new());
    let mut sockets = Vec::new();
    for file in files {
        let place = (file.namespace, file.inode);
        open.insert(place);
        // A process may have it open more than once, and threads may have file tables of their own.
        if !seen.insert((place, file.owner.tgid)) {
            continue;
        }
        // An `AF_XDP` socket is in no list; it cannot borrow the details of another.
        let detail = details.get(&place).filter(|_| file.family == AF_PACKET);
        let device = if file.family == AF_XDP { file.device } else { detail.map_or(UNKNOWN_U32, |found| found.device) };
        sockets.push(PacketSocket {
            family: file.family,
            protocol: detail.map(|found| found.protocol),
            device: (device != UNKNOWN_U32).then_some(device),
            interface: None,
            namespace: file.namespace,
            inode: file.inode,
            owner: file.owner,
        });
    }
    sockets.extend(listed.iter().filter(|socket| !open.contains(&socket.place())).map(|socket| PacketSocket {
        family: AF_PACKET,
        protocol: Some(socket.protocol),
        device: Some(socket.device),
        interface: None,
        namespace: socket.namespace,
        inode: socket.inode,
        owner: Owner::default(),
    }));
    sockets.sort_by_key(|socket| (socket.namespace, socket.owner.tgid, socket.inode));
    sockets
}

/// Network namespaces to search.
struct Namespaces {
    own: u32,
    others: Vec<(u32, File)>,
    /// See [`Others::hidden`].
    hidden: usize,
}

impl Namespaces {
    fn own() -> Self {
        let own = iterate::own_namespace().and_then(|inode| u32::try_from(inode).ok());
        Self { own: own.unwrap_or(UNKNOWN_U32), others: Vec::new(), hidden: 0 }
    }

    /// The namespaces that a process is in, or that have a name.
    fn all() -> Self {
        let Others { found, hidden } = iterate::other_namespaces();
        // Inodes of namespaces are 32 bits wide (`struct ns_common`).
        let others = found.into_iter().filter_map(|(inode, file)| Some((u32::try_from(inode).ok()?, file))).collect();
        Self { others, hidden, ..Self::own() }
    }

    /// Reads `/proc/net/packet` in each namespace, and notes in `sockets` what could not be read.
    fn listed(&self, sockets: &mut PacketSockets) -> Vec<Listed> {
        let mut found = Vec::new();
        let PacketSockets { unlisted, unread, .. } = &mut *sockets;
        let looked = self.each(|namespace, entered| {
            let text = entered.and_then(|()| namespaces::text(NetFile::Packet));
            match text {
                Ok(text) => found.extend(parsed(&text, namespace)),
                // The kernel has no such sockets.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    unread.push(namespace);
                    unlisted.push(format!(
                        "AF_PACKET sockets of the network namespace {namespace} cannot be listed if nobody has them \
                         open: {error}"
                    ));
                }
            }
        });
        if self.hidden != 0 {
            sockets.unlisted.push(format!(
                "AF_PACKET sockets that nobody has open cannot be listed in network namespaces of {} processes: the kernel does not \
                 tell which these are (it takes CAP_SYS_PTRACE)",
                self.hidden
            ));
        }
        if let Err(error) = looked {
            sockets.is_unread = true;
            sockets.unlisted.push(format!("AF_PACKET sockets that nobody has open cannot be listed: {error}"));
        }
        found
    }

    /// Looks up the names of network devices, which are known only in their own namespace.
    fn name(&self, sockets: &mut [PacketSocket]) {
        let is_bound = |socket: &PacketSocket| socket.device.is_some_and(|device| device != 0);
        if !sockets.iter().any(is_bound) {
            return;
        }
        // Without a thread the names stay unknown.
        let _ = self.each(|namespace, entered| {
            if entered.is_err() {
                return;
            }
            let mut bound =
                sockets.iter_mut().filter(|socket| socket.namespace == namespace && is_bound(socket)).peekable();
            if bound.peek().is_none() {
                return;
            }
            let names: HashMap<u32, String> = links::names().unwrap_or_default().into_iter().collect();
            bound.for_each(|socket| socket.interface = names.get(&socket.device.unwrap_or(0)).cloned());
        });
    }

    /// Calls `visit` in each namespace, or with the reason why it cannot be entered, on a thread of its own.
    fn each(&self, mut visit: impl FnMut(u32, io::Result<()>) + Send) -> io::Result<()> {
        thread::scope(|scope| {
            let visitor = thread::Builder::new().name("netconn-packet".into()).spawn_scoped(scope, || {
                // The own one needs no `setns`, and so no privilege: the thread starts there.
                visit(self.own, Ok(()));
                for (namespace, file) in &self.others {
                    // After an error the thread is still in the namespace before; `visit` must not look then.
                    visit(*namespace, namespaces::enter(file));
                }
            })?;
            visitor.join().map_err(|_| io::Error::other("a thread panicked"))
        })
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    const TEXT: &str = "\
sk               RefCnt Type Proto  Iface R Rmem   User   Inode
0000000000000000 3      3    0003   2     1 0      0      20101
0000000000000000 3      2    88cc   0     1 0      100    20102
";

    fn file(family: u16, inode: u64, tgid: u32) -> PacketSocketRecord {
        let mut file =
            PacketSocketRecord { family, inode, namespace: 7, device: UNKNOWN_U32, ..PacketSocketRecord::zeroed() };
        file.owner.tgid = tgid;
        file
    }

    fn listed() -> Vec<Listed> {
        parsed(TEXT, 7).collect()
    }

    #[test]
    fn lines_are_read_and_what_is_damaged_is_left_out() {
        let line = |inode, protocol, device| Listed { namespace: 7, inode, protocol, device };
        assert_eq!(listed(), [line(20101, 3, 2), line(20102, 0x88cc, 0)]);
        for text in ["", "\n", "heading\n\n", "heading\n0 3 3 0003 2 1 0 0", "heading\n0 3 3 xyz 2 1 0 0 5"] {
            assert_eq!(parsed(text, 7).count(), 0, "{text}");
        }
    }

    #[test]
    fn each_process_has_its_row_and_what_nobody_has_too() {
        let xdp = PacketSocketRecord { device: 4, ..file(AF_XDP, 20103, 12) };
        let files = [file(AF_PACKET, 20101, 11), file(AF_PACKET, 20101, 11), file(AF_PACKET, 20101, 10), xdp];
        let rows = joined(&listed(), &files);
        let shown: Vec<_> = rows.iter().map(|row| (row.owner.tgid, row.inode, row.protocol, row.device)).collect();
        let protocol = Some(3);
        assert_eq!(
            shown,
            [
                (0, 20102, Some(0x88cc), Some(0)),
                (10, 20101, protocol, Some(2)),
                (11, 20101, protocol, Some(2)),
                (12, 20103, None, Some(4)),
            ]
        );
    }

    #[test]
    fn the_same_inode_elsewhere_is_another_socket() {
        let elsewhere = PacketSocketRecord { namespace: 8, ..file(AF_PACKET, 20101, 11) };
        let rows = joined(&listed(), &[elsewhere]);
        assert_eq!(rows.len(), 3);
        assert_eq!((rows[2].namespace, rows[2].protocol, rows[2].device), (8, None, None));
    }

    #[test]
    fn lists_that_differ_are_taken_again() {
        let whole = [file(AF_PACKET, 20101, 11), file(AF_PACKET, 20102, 11), file(AF_XDP, 20103, 11)];
        assert!(!is_torn(&listed(), &whole));
        assert!(is_torn(&listed(), &whole[1..]));
        assert!(is_torn(&listed()[1..], &whole));
    }

    #[test]
    fn without_bpf_it_is_said_what_is_missing() {
        let found = of_proc("there is no BPF");
        let expected = "AF_XDP sockets cannot be listed here: /proc does not show them, and there is no BPF";
        assert_eq!(found.unlisted, [expected]);
        assert!(found.lacks_owners);
    }

    #[test]
    fn owners_are_found_by_inode() {
        let mut found = PacketSockets { sockets: joined(&listed(), &[]), ..PacketSockets::default() };
        let owner = Owner { tgid: 5, ..Owner::default() };
        found.assign_owners(&[(20102, owner)].into());
        assert_eq!(found.sockets.iter().map(|socket| socket.owner.tgid).collect::<Vec<_>>(), [0, 5]);
    }
}
