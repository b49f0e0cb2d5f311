//! Unix sockets.

use std::io;

use netconn_common::tcp_state;
use netconn_model::socket_kind::SocketKind;

use super::{OtherEnds, OtherSocket, of_user};
use crate::{
    kernel::sock_diag::{ALL_STATES, attributes, dump, word},
    privileged::{NetFile, namespaces},
};

/// `AF_UNIX` in `include/linux/socket.h`.
const AF_UNIX: u8 = 1;
/// Bytes of `struct unix_diag_req` and of `struct unix_diag_msg` in `include/uapi/linux/unix_diag.h`.
const REQUEST_BYTES: usize = 24;
const MESSAGE_BYTES: usize = 16;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID` in the same file.
const SHOW: u32 = 0x1 | 0x4 | 0x10 | 0x40;
/// `UNIX_DIAG_NAME`, `UNIX_DIAG_PEER`, `UNIX_DIAG_RQLEN` and `UNIX_DIAG_UID` in the same file.
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;
const UNIX_DIAG_UID: u16 = 7;
/// Bit of `Flags` in `/proc/net/unix` of a socket that listens (`__SO_ACCEPTCON` in `include/linux/net.h`).
const LISTENS: u32 = 1 << 16;
/// `SS_CONNECTED` in `include/uapi/linux/net.h`.
const CONNECTED: u32 = 3;

/// Reads the Unix sockets of the calling thread's network namespace: by `sock_diag`, else from `/proc`, which does not know the peers.
pub(super) fn read(namespace: u32, found: &mut Vec<OtherSocket>) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    request[0] = AF_UNIX;
    request[4..8].copy_from_slice(&ALL_STATES.to_ne_bytes());
    request[12..16].copy_from_slice(&SHOW.to_ne_bytes());
    let before = found.len();
    match dump(&request, |message| found.extend(of_message(message, namespace))) {
        Err(_) => {
            found.truncate(before);
            let text = namespaces::NamespaceText::open(NetFile::Unix)?.read()?;
            found.extend(text.split(|byte| *byte == b'\n').skip(1).filter_map(|line| of_line(line, namespace)));
            Ok(())
        }
        done => done,
    }
}

fn of_message(message: &[u8], namespace: u32) -> Option<OtherSocket> {
    let fixed: &[u8; MESSAGE_BYTES] = message.first_chunk()?;
    let (mut path, mut peer, mut queues, mut uid) = (None, 0, None, None);
    attributes(&message[MESSAGE_BYTES..], |kind, bytes| match kind {
        UNIX_DIAG_NAME => path = name(bytes),
        UNIX_DIAG_PEER => peer = word(bytes, 0).unwrap_or(0),
        UNIX_DIAG_RQLEN => queues = word(bytes, 0).zip(word(bytes, 4)),
        UNIX_DIAG_UID => uid = word(bytes, 0),
        _ => {}
    });
    Some(OtherSocket {
        kind: SocketKind::Unix,
        state: fixed[2],
        association: None,
        namespace,
        inode: word(fixed, 4)?.into(),
        cookie: 0,
        queues,
        ends: OtherEnds::Unix { form: fixed[1], path, peer, peer_process: None },
        owner: of_user(uid),
    })
}

/// Reads `Num RefCount Protocol Flags Type St Inode Path` (`unix_seq_show` in `net/unix/af_unix.c`).
fn of_line(line: &[u8], namespace: u32) -> Option<OtherSocket> {
    // The path may have any bytes, and blanks.
    let line = String::from_utf8_lossy(line);
    let mut rest = &*line;
    let mut next = || {
        // Inodes are filled up with blanks.
        let (word, after) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
        rest = after;
        (!word.is_empty()).then_some(word)
    };
    let [_, _, _, flags, form, state, inode] = [next()?, next()?, next()?, next()?, next()?, next()?, next()?];
    let path = (!rest.is_empty()).then_some(rest);
    let (flags, state) = (u32::from_str_radix(flags, 16).ok()?, u32::from_str_radix(state, 16).ok()?);
    let state = match state {
        _ if flags & LISTENS != 0 => tcp_state::LISTEN,
        CONNECTED => tcp_state::ESTABLISHED,
        _ => tcp_state::CLOSE,
    };
    Some(OtherSocket {
        kind: SocketKind::Unix,
        state,
        association: None,
        namespace,
        inode: inode.parse().ok()?,
        cookie: 0,
        queues: None,
        ends: OtherEnds::Unix {
            form: u8::from_str_radix(form, 16).ok()?,
            path: path.map(Into::into),
            peer: 0,
            peer_process: None,
        },
        owner: of_user(None),
    })
}

/// Returns a path, or an abstract name with `@` for its first zero, and for each other as ss does; `None` of a socket without a name.
fn name(bytes: &[u8]) -> Option<Box<str>> {
    let bytes = match bytes {
        [] | [0] => return None,
        [0, ..] => bytes.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }).collect(),
        // Behind the end of the path stand zeros.
        path => path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
    };
    Some(String::from_utf8_lossy(&bytes).into())
}

#[cfg(test)]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
    };

    use super::*;

    #[test]
    fn own_sockets_are_found_in_both_ways() {
        let abstract_name = format!("netconn test {}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let client = UnixStream::connect_addr(&address).unwrap();
        let (server, _) = listener.accept().unwrap();
        let waiting = UnixStream::connect_addr(&address).unwrap();
        let path = std::env::temp_dir().join(format!("netconn test {}", std::process::id()));
        let datagram = UnixDatagram::bind(&path).unwrap();
        let inode = |socket: &dyn std::os::fd::AsFd| nix::sys::stat::fstat(socket.as_fd()).unwrap().st_ino;
        let inodes = [inode(&listener), inode(&client), inode(&server), inode(&waiting), inode(&datagram)];
        std::fs::remove_file(&path).unwrap();
        let mut found = Vec::new();
        read(1, &mut found).unwrap();
        let of = |number: u64| found.iter().find(|socket| socket.inode == number).unwrap();
        let described = |number: u64| {
            let socket = of(number);
            let OtherEnds::Unix { form, path, peer, .. } = &socket.ends else { panic!("{socket:?}") };
            (socket.state, *form, path.as_deref().unwrap_or(""), u64::from(*peer))
        };
        let name = format!("@{abstract_name}");
        assert_eq!(described(inodes[0]), (tcp_state::LISTEN, 1, &*name, 0));
        assert_eq!(of(inodes[0]).queues.unwrap().0, 1, "one waits to be accepted");
        assert_eq!(described(inodes[1]), (tcp_state::ESTABLISHED, 1, "", inodes[2]));
        assert_eq!(described(inodes[2]), (tcp_state::ESTABLISHED, 1, &*name, inodes[1]));
        assert_eq!(described(inodes[4]), (tcp_state::CLOSE, 2, path.to_str().unwrap(), 0));
        // The user of a socket is told from 4.19 on.
        assert_eq!(of(inodes[0]).owner.user(), Some(nix::unistd::getuid().as_raw()));
        let text = std::fs::read("/proc/thread-self/net/unix").unwrap();
        let lines: Vec<_> = text.split(|byte| *byte == b'\n').skip(1).filter_map(|line| of_line(line, 1)).collect();
        for inode in [inodes[0], inodes[2], inodes[4]] {
            let line = lines.iter().find(|socket| socket.inode == inode).unwrap();
            let OtherEnds::Unix { form, path, .. } = &line.ends else { panic!("{line:?}") };
            let (state, as_form, as_path, _) = described(inode);
            assert_eq!((line.state, *form, path.as_deref().unwrap_or("")), (state, as_form, as_path));
        }
    }

    #[test]
    fn names_are_read_as_ss_shows_them() {
        let read = |bytes: &[u8]| name(bytes).map(String::from);
        assert_eq!(read(b""), None);
        assert_eq!(read(b"\0"), None);
        assert_eq!(read(b"/run/x\0").as_deref(), Some("/run/x"));
        assert_eq!(read(b"/run/x\0\0old").as_deref(), Some("/run/x"));
        assert_eq!(read(b"\0a\0b").as_deref(), Some("@a@b"));
        assert_eq!(read(b"\0\xff").as_deref(), Some("@\u{fffd}"));
    }

    #[test]
    fn damaged_lines_and_messages_are_left_out() {
        for line in [&b""[..], b"x", b"0: 2 0 0 1", b"0000: 00000002 00000000 00010000 0001 01 x /a"] {
            assert_eq!(of_line(line, 1), None);
        }
        for length in 0..MESSAGE_BYTES {
            assert_eq!(of_message(&[0; MESSAGE_BYTES][..length], 1), None);
        }
        assert!(of_message(&[0xff; 40], 1).is_some());
    }
}
