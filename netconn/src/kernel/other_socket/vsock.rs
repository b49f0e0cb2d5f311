//! Sockets between virtual machines and their host (vsock).

use std::io;

use netconn_model::socket_kind::SocketKind;

use super::{OtherEnds, OtherSocket, of_user};
use crate::kernel::sock_diag::{ALL_STATES, dump, word};

/// `AF_VSOCK` in `include/linux/socket.h`.
const AF_VSOCK: u8 = 40;
/// Bytes of `struct vsock_diag_req` and of `struct vsock_diag_msg` in `include/uapi/linux/vm_sockets_diag.h`.
const REQUEST_BYTES: usize = 24;
const MESSAGE_BYTES: usize = 32;

/// Reads the vsock sockets of the calling thread's network namespace that are bound or connected.
pub(super) fn read(namespace: u32, found: &mut Vec<OtherSocket>) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    request[0] = AF_VSOCK;
    request[4..8].copy_from_slice(&ALL_STATES.to_ne_bytes());
    dump(&request, |message| found.extend(of_message(message, namespace)))
}

fn of_message(message: &[u8], namespace: u32) -> Option<OtherSocket> {
    let fixed: &[u8; MESSAGE_BYTES] = message.first_chunk()?;
    // All ones: any (`VMADDR_CID_ANY` and `VMADDR_PORT_ANY` in include/uapi/linux/vm_sockets.h).
    let number = |at| word(fixed, at).filter(|number| *number != u32::MAX);
    Some(OtherSocket {
        kind: SocketKind::Vsock,
        state: fixed[2],
        association: None,
        namespace,
        inode: word(fixed, 20)?.into(),
        cookie: 0,
        queues: None,
        ends: OtherEnds::Vsock { form: fixed[1], local: (number(4), number(8)), remote: (number(12), number(16)) },
        owner: of_user(None),
    })
}

#[cfg(test)]
mod tests {
    use netconn_common::tcp_state;

    use super::*;

    #[test]
    fn ends_are_context_ids_and_ports() {
        let mut message = [0; MESSAGE_BYTES];
        message[..3].copy_from_slice(&[AF_VSOCK, 1, tcp_state::LISTEN]);
        for (at, number) in [(4, u32::MAX), (8, 1024), (12, u32::MAX), (16, u32::MAX), (20, 99)] {
            message[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        let socket = of_message(&message, 7).unwrap();
        assert_eq!(socket.ends, OtherEnds::Vsock { form: 1, local: (None, Some(1024)), remote: (None, None) });
        assert_eq!((socket.state, socket.inode, socket.protocol().as_str()), (tcp_state::LISTEN, 99, "VSOCK_STREAM"));
        assert_eq!(of_message(&message[1..], 7), None);
    }
}
