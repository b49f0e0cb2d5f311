//! Reads in other network namespaces, with or without the child.
//!
//! A thread enters a namespace and opens something there, as with `setns(2)`. Where there is a child, the thread stays where it is: the
//! child opens for it, in the namespace that the thread has entered in this sense.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use netlink_sys::Socket;
use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};

use super::{
    NetFile, ask, ask_for_one, has_child, number, open,
    request::{Kind, Place, Request},
};

/// The process's own network namespace, whatever namespace the calling thread has entered.
const OWN: &str = "/proc/self/ns/net";

/// `NSFS_MAGIC`, `include/uapi/linux/magic.h`.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

thread_local! {
    /// The namespace that this thread has entered by way of the child; `None`: its own.
    static ENTERED: RefCell<Option<OwnedFd>> = const { RefCell::new(None) };
}

/// Has the calling thread read another network namespace from now on.
///
/// # Errors
///
/// When it may not be entered; the thread is where it was before.
pub fn enter(namespace: &impl AsFd) -> io::Result<()> {
    if !has_child() {
        return Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?);
    }
    let copy = namespace.as_fd().try_clone_to_owned()?;
    let file = File::from(copy);
    if file.metadata()?.ino() == std::fs::metadata(OWN)?.ino() {
        ENTERED.set(None);
        return Ok(());
    }
    ask(&Request::of(Kind::Check), &[number(&file)])?;
    ENTERED.set(Some(file.into()));
    Ok(())
}

/// Opens something in the namespace that the thread has entered.
fn open_here(kind: Kind, argument: u32, link: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    ENTERED.with_borrow(|entered| match entered {
        None => open::open(kind, argument, link),
        Some(namespace) => {
            let descriptors: Vec<_> = [Some(namespace.as_fd()), link].iter().flatten().map(number).collect();
            ask_for_one(&Request { argument, ..Request::of(kind) }, &descriptors)
        }
    })
}

/// Makes a netlink socket: `NETLINK_ROUTE` or `NETLINK_SOCK_DIAG`.
///
/// # Errors
///
/// What the system says.
pub fn netlink(protocol: isize) -> io::Result<Socket> {
    let protocol = u32::try_from(protocol).map_err(io::Error::other)?;
    let socket = open_here(Kind::Netlink, protocol, None)?;
    // SAFETY: it was made for nobody else, and is a netlink socket.
    Ok(unsafe { Socket::from_raw_fd(socket.into_raw_fd()) })
}

/// Makes an IPv6 socket for datagrams, which is not bound.
///
/// # Errors
///
/// What the system says.
pub fn datagram() -> io::Result<OwnedFd> {
    open_here(Kind::Datagram, 0, None)
}

/// Opens an iterator over the sockets of the namespace.
///
/// # Errors
///
/// What the system says.
pub fn iterator(link: BorrowedFd<'_>) -> io::Result<File> {
    open_here(Kind::Iterator, 0, Some(link)).map(File::from)
}

/// An open file about a namespace, which tells what is true when it is read.
#[derive(Debug)]
pub struct NamespaceText(File);

impl NamespaceText {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// What the system says; `NotFound` if the kernel lacks what it is about.
    pub fn open(file: NetFile) -> io::Result<Self> {
        open_here(Kind::File, file as u32, None).map(File::from).map(Self)
    }

    /// Reads it from its beginning.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        self.0.rewind()?;
        let mut text = Vec::new();
        self.0.read_to_end(&mut text)?;
        Ok(text)
    }
}

/// Reads a file about the namespace.
///
/// # Errors
///
/// As [`NamespaceText::open`].
pub fn text(file: NetFile) -> io::Result<String> {
    String::from_utf8(NamespaceText::open(file)?.read()?).map_err(io::Error::other)
}

/// Where a namespace can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// As that of a process.
    Process(u32),
    /// By a name in `/run/netns`.
    Name(PathBuf),
}

impl Way {
    /// Opens the namespace, if it still has this inode.
    ///
    /// # Errors
    ///
    /// When it has not, or the system refuses.
    pub fn open(&self, inode: u64) -> io::Result<File> {
        match self {
            Self::Process(pid) => {
                ask_for_one(&Request { pid: *pid, inode, ..Request::of(Kind::Namespace) }, &[]).map(File::from)
            }
            Self::Name(path) => {
                let file = File::open(path)?;
                if file.metadata()?.ino() == inode { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
            }
        }
    }
}

/// Network namespaces that processes are in or that have a name, some of them more than once.
#[derive(Debug, Default)]
pub struct FoundNamespaces {
    /// Inode and way of each; the handle if it was wanted.
    pub namespaces: Vec<(u64, Way, Option<File>)>,
    /// Processes of which the kernel does not tell in which namespace they are.
    pub hidden: usize,
}

/// Looks for network namespaces; `names` is the folder of those with names. Opens them if `with_handles`.
pub fn find(names: &Path, with_handles: bool) -> FoundNamespaces {
    let mut found = FoundNamespaces::default();
    let kind = if with_handles { Kind::Handles } else { Kind::Places };
    let mut from = 0;
    // What cannot be asked for is not found: no other namespace is told then.
    while let Ok(answer) = ask(&Request { pid: from, ..Request::of(kind) }, &[]) {
        found.hidden += answer.hidden as usize;
        let mut handles = answer.descriptors.into_iter();
        for place in answer.data.chunks_exact(size_of::<Place>()) {
            let Place { inode, pid, .. } = bytemuck::pod_read_unaligned(place);
            found.namespaces.push((inode, Way::Process(pid), handles.next().map(File::from)));
        }
        if answer.next == 0 || answer.next <= from {
            break;
        }
        from = answer.next;
    }
    for entry in std::fs::read_dir(names).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        let Ok(metadata) = file.metadata() else { continue };
        // An empty file: `ip netns` is about to mount a namespace there, or a reboot has taken it away.
        if !fstatfs(&file).is_ok_and(|system| system.filesystem_type() == NSFS_MAGIC) {
            continue;
        }
        found.namespaces.push((metadata.ino(), Way::Name(path), with_handles.then_some(file)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_sockets_of_the_own_namespace_need_nobody() {
        let mut sockstat = NamespaceText::open(NetFile::Sockstat).unwrap();
        let first = sockstat.read().unwrap();
        assert!(first.starts_with(b"sockets:") && sockstat.read().unwrap().starts_with(b"sockets:"), "read twice");
        assert!(text(NetFile::Packet).unwrap().starts_with("sk "));
        netlink(netlink_sys::protocols::NETLINK_SOCK_DIAG).unwrap();
        let refused = netlink(netlink_sys::protocols::NETLINK_KOBJECT_UEVENT).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn an_empty_file_among_the_names_is_no_namespace() {
        let names = tempfile::tempdir().unwrap();
        std::fs::write(names.path().join("left"), "").unwrap();
        std::os::unix::fs::symlink(OWN, names.path().join("one")).unwrap();
        let found = find(names.path(), true).namespaces.into_iter().map(|(_, way, _)| way);
        let named: Vec<_> = found.filter(|way| matches!(way, Way::Name(_))).collect();
        assert_eq!(named, [Way::Name(names.path().join("one"))]);
    }

    #[test]
    fn the_own_namespace_is_found_and_opened() {
        let own = std::fs::metadata(OWN).unwrap().ino();
        for with_handles in [false, true] {
            let found = find(Path::new("/nonexistent"), with_handles);
            let (inode, way, handle) = found.namespaces.into_iter().find(|(inode, ..)| *inode == own).unwrap();
            assert_eq!(handle.is_some(), with_handles);
            let open = way.open(inode);
            assert_eq!(open.unwrap().metadata().unwrap().ino(), own);
            assert_eq!(way.open(inode + 1).unwrap_err().raw_os_error(), Some(libc::ESTALE));
        }
    }
}
