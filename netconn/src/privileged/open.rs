//! Opens what takes a privilege: the child for the daemon, and commands without a daemon for themselves.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::{
    request::{Answer, DATA_MAX, DESCRIPTORS_MAX, Kind, Place, Request, UNKNOWN_LENGTH},
    rights,
};

/// Most processes that one request for namespaces looks at: others wait for the answer.
const LOOKS_MAX: usize = 1024;
/// `BPF_ITER_CREATE` of `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const BPF_ITER_CREATE: libc::c_int = 33;

/// A file about a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names say it")]
pub enum NetFile {
    Sockstat,
    Sockstat6,
    Packet,
    Unix,
    Protocols,
    Icmp,
    Icmp6,
    Raw,
    Raw6,
    Udp,
    Udp6,
    Udplite,
    Udplite6,
}

impl NetFile {
    const ALL: [(Self, &str); 13] = [
        (Self::Sockstat, "sockstat"),
        (Self::Sockstat6, "sockstat6"),
        (Self::Packet, "packet"),
        (Self::Unix, "unix"),
        (Self::Protocols, "protocols"),
        (Self::Icmp, "icmp"),
        (Self::Icmp6, "icmp6"),
        (Self::Raw, "raw"),
        (Self::Raw6, "raw6"),
        (Self::Udp, "udp"),
        (Self::Udp6, "udp6"),
        (Self::Udplite, "udplite"),
        (Self::Udplite6, "udplite6"),
    ];
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// Does what a request asks for.
///
/// # Errors
///
/// What the system says. Without a number: the thread is lost in another namespace.
pub(super) fn perform(request: &Request, descriptors: &[RawFd]) -> io::Result<Answer> {
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u32 == request.kind).ok_or_else(invalid)?;
    match kind {
        Kind::Places => walk(request.pid, false),
        Kind::Handles => walk(request.pid, true),
        Kind::Executables => Ok(executables(&request.pids)),
        _ => {
            let handle;
            // SAFETY: the caller owns the descriptors until this returns.
            let borrow = |number: &RawFd| unsafe { BorrowedFd::borrow_raw(*number) };
            let namespace = if request.pid == 0 {
                borrow(descriptors.first().ok_or_else(invalid)?)
            } else {
                handle = namespace_of(request.pid, request.inode)?;
                handle.as_fd()
            };
            let link = descriptors.last().map(borrow);
            let mut answer = Answer::default();
            if kind == Kind::Namespace {
                answer.descriptors.push(namespace.try_clone_to_owned()?);
            } else {
                let opened = within(namespace, || match kind {
                    Kind::Check => Ok(None),
                    kind => open(kind, request.argument, link).map(Some),
                })?;
                answer.descriptors.extend(opened);
            }
            Ok(answer)
        }
    }
}

/// Opens the network namespace of a process, if it has this number still.
fn namespace_of(pid: u32, inode: u64) -> io::Result<File> {
    let file = File::open(format!("/proc/{pid}/ns/net"))?;
    if file.metadata()?.ino() == inode { Ok(file) } else { Err(io::Error::from_raw_os_error(libc::ESTALE)) }
}

/// Calls the function in a network namespace, and comes back.
fn within<T>(namespace: BorrowedFd<'_>, function: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = File::open("/proc/thread-self/ns/net")?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let result = function();
    setns(&home, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| io::Error::other(format!("the own network namespace cannot be entered again: {errno}")))?;
    result
}

/// Opens something in the network namespace that the thread is in.
pub(super) fn open(kind: Kind, argument: u32, link: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    match kind {
        Kind::File => {
            let found = NetFile::ALL.iter().find(|(file, _)| *file as u32 == argument);
            let (_, name) = found.ok_or_else(invalid)?;
            Ok(File::open(format!("/proc/thread-self/net/{name}"))?.into())
        }
        Kind::Netlink => {
            let protocol = argument.cast_signed();
            if protocol != libc::NETLINK_ROUTE && protocol != libc::NETLINK_SOCK_DIAG {
                return Err(invalid());
            }
            // SAFETY: a system call without pointers.
            let made = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
            owned(made.into())
        }
        Kind::Datagram => Ok(socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?),
        Kind::Iterator => {
            // `struct { __u32 link_fd; __u32 flags; } iter_create` of `union bpf_attr`.
            let attributes = [link.ok_or_else(invalid)?.as_raw_fd(), 0];
            // SAFETY: the kernel reads as many bytes as are told, which outlive the call.
            let made = unsafe {
                libc::syscall(libc::SYS_bpf, BPF_ITER_CREATE, &raw const attributes, size_of_val(&attributes))
            };
            owned(made)
        }
        Kind::Places | Kind::Handles | Kind::Executables | Kind::Namespace | Kind::Check => Err(invalid()),
    }
}

fn owned(made: libc::c_long) -> io::Result<OwnedFd> {
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = RawFd::try_from(made).map_err(io::Error::other)?;
    // SAFETY: the kernel has made it just now, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Returns the network namespaces of processes with numbers above `from`, each once, with handles if these are wanted.
fn walk(from: u32, with_handles: bool) -> io::Result<Answer> {
    let names = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<u32> = names.filter(|pid| *pid > from).collect();
    pids.sort_unstable();
    let mut answer = Answer::default();
    let mut seen = HashSet::new();
    for (looks, pid) in pids.into_iter().enumerate() {
        if looks == LOOKS_MAX || seen.len() == DESCRIPTORS_MAX {
            break;
        }
        answer.next = pid;
        let path = format!("/proc/{pid}/ns/net");
        let mut inode = match fs::metadata(&path) {
            Ok(metadata) => metadata.ino(),
            Err(error) => {
                // Any other error: it has ended.
                answer.hidden += u32::from(error.kind() == io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        if seen.contains(&inode) {
            continue;
        }
        if with_handles {
            // It may have moved since: what counts is the number of the open file.
            let Ok(file) = File::open(&path) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            inode = metadata.ino();
            if seen.contains(&inode) {
                continue;
            }
            answer.descriptors.push(file.into());
        }
        seen.insert(inode);
        answer.data.extend_from_slice(bytemuck::bytes_of(&Place { inode, pid, reserved: 0 }));
    }
    // A security module may hide a process even so, such as the first one of a sandbox: others show its namespace as a rule, and no
    // capability would help.
    if rights::effective()? & rights::SYS_PTRACE != 0 {
        answer.hidden = 0;
    }
    Ok(answer)
}

fn executables(pids: &[u32]) -> Answer {
    let mut answer = Answer::default();
    for pid in pids.iter().take_while(|pid| **pid != 0) {
        let path = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let text = path.as_ref().map(|path| path.as_os_str().as_bytes());
        if answer.data.len() + 2 + text.map_or(0, <[u8]>::len) > DATA_MAX {
            break;
        }
        // A path is shorter than 4,096 bytes (`PATH_MAX`).
        let length = text.and_then(|text| u16::try_from(text.len()).ok()).unwrap_or(UNKNOWN_LENGTH);
        answer.data.extend_from_slice(&length.to_ne_bytes());
        answer.data.extend_from_slice(text.unwrap_or_default());
    }
    answer
}
