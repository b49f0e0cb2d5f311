//! The socket behind an open file.

use aya_ebpf::helpers::generated::bpf_sock_from_file;

use crate::programs::kernel::{FILE_PRIVATE, HAS_PROBE_READ, SOCKET_FILE, SOCKET_SOCK, Typed, has, probe_member};

/// Returns the `struct sock` behind a file, from 5.11 on.
#[inline(always)]
pub fn typed_sock(file: Typed) -> Option<Typed> {
    // SAFETY: the helper takes a typed file and returns null for those that are no sockets.
    let socket = unsafe { bpf_sock_from_file(file.as_ptr()) };
    if socket.is_null() {
        return None;
    }
    let sk = Typed::new(socket).follow(&SOCKET_SOCK);
    (!sk.is_null()).then_some(sk)
}

/// Returns the address of the `struct sock` behind a file, before 5.11: the private data of a file is a socket if that points
/// back to the file (`sock_alloc_file` in `net/socket.c`).
#[inline(always)]
pub fn untyped_sock(file: Typed) -> Option<u64> {
    if !has(&HAS_PROBE_READ) {
        return None;
    }
    let socket: u64 = file.member(&FILE_PRIVATE, 0);
    let back: u64 = probe_member(socket, &SOCKET_FILE)?;
    if socket == 0 || back != file.address() {
        return None;
    }
    probe_member(socket, &SOCKET_SOCK)
}
