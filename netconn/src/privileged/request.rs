//! The requests to the child and its answers. Both ends are the same program, so numbers are in the machine's order.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use bytemuck::{Pod, Zeroable};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};

/// Most processes that one request can name.
pub(super) const PIDS_MAX: usize = 64;
/// Most descriptors of one message; the kernel takes 253 (`SCM_MAX_FD` in `include/net/scm.h`).
pub(super) const DESCRIPTORS_MAX: usize = 128;
/// Most bytes behind the head of an answer.
pub(super) const DATA_MAX: usize = 32 << 10;
/// Stands in an answer for the length of a text that is not known.
pub(super) const UNKNOWN_LENGTH: u16 = u16::MAX;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// The network namespaces of processes with numbers above [`Request::pid`], each once: a [`Place`] each.
    Places = 1,
    /// The same, with a descriptor for each.
    Handles,
    /// The executables of [`Request::pids`].
    Executables,
    /// A descriptor of the namespace itself.
    Namespace,
    /// Nothing: whether the namespace can be entered.
    Check,
    /// A file of `/proc/net` there; the argument is a [`NetFile`](super::NetFile).
    File,
    /// A netlink socket there; the argument is its protocol.
    Netlink,
    /// An IPv6 socket for datagrams there, which is not bound.
    Datagram,
    /// A file of an iterator there, whose link is the last descriptor of the request.
    Iterator,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 9] = [
        Self::Places,
        Self::Handles,
        Self::Executables,
        Self::Namespace,
        Self::Check,
        Self::File,
        Self::Netlink,
        Self::Datagram,
        Self::Iterator,
    ];
}

/// A request. The namespace that it is about is its first descriptor, or that of the process `pid`, if it has the number `inode` still.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Request {
    /// Comes back with the answer.
    pub(super) sequence: u64,
    pub(super) inode: u64,
    /// A [`Kind`].
    pub(super) kind: u32,
    pub(super) argument: u32,
    /// A process; 0: there is a descriptor instead.
    pub(super) pid: u32,
    pub(super) reserved: u32,
    /// Processes; 0 ends them.
    pub(super) pids: [u32; PIDS_MAX],
}

impl Request {
    pub(super) fn of(kind: Kind) -> Self {
        Self { kind: kind as u32, ..Self::zeroed() }
    }
}

/// A network namespace and a process in it, in the data of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Place {
    pub(super) inode: u64,
    pub(super) pid: u32,
    pub(super) reserved: u32,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Head {
    pub(super) sequence: u64,
    /// 0: it has succeeded.
    pub(super) errno: i32,
    /// Where the next request for namespaces goes on; 0: these were the last.
    pub(super) next: u32,
    /// Processes whose namespace the kernel does not tell.
    pub(super) hidden: u32,
    pub(super) reserved: u32,
}

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) next: u32,
    pub(super) hidden: u32,
    pub(super) data: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Sends a message with descriptors.
pub(super) fn send(socket: BorrowedFd<'_>, parts: [&[u8]; 2], descriptors: &[RawFd]) -> io::Result<()> {
    let parts = parts.map(IoSlice::new);
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        // Without `MSG_NOSIGNAL` the end of the other side would be a signal.
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives a message with its descriptors; no bytes mean that the other side has ended.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    parts: [&mut [u8]; 2],
    flags: MsgFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut parts = parts.map(IoSliceMut::new);
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    loop {
        let received =
            recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags | MsgFlags::MSG_CMSG_CLOEXEC);
        match received {
            Ok(message) => {
                let mut descriptors = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(numbers) = control {
                        // SAFETY: the kernel has made them for this message, and nobody else knows them.
                        descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                    }
                }
                return Ok((message.bytes, descriptors));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
