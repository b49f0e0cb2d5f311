//! Children inherit their listener's owner where tracing programs cannot use socket storage (5.10): programs on cgroups
//! can, and the kernel clones the storage with the socket.

use aya_ebpf::{
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock,
    },
    helpers::generated::bpf_sk_storage_get,
    macros::sock_ops,
    programs::SockOpsContext,
};
use netconn_common::{Owner, TcpSocketState, attribution, role};

use crate::{
    maps::{SOCKETS, SOCKETS_BY_ADDRESS},
    sock::TcpSock,
};

/// `tcp_call_bpf` in `include/net/tcp.h`: after a socket has begun to listen, and before a child's state becomes
/// ESTABLISHED.
#[sock_ops]
pub fn inherit(ctx: SockOpsContext) -> u32 {
    let operation = ctx.op();
    if operation != BPF_SOCK_OPS_TCP_LISTEN_CB && operation != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        return 1;
    }
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let socket = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    let Some(tcp) = TcpSock::of_cgroup(socket) else { return 1 };
    let sock = tcp.sock();
    if operation == BPF_SOCK_OPS_TCP_LISTEN_CB {
        let heritage = storage(socket, BPF_SK_STORAGE_GET_F_CREATE);
        if !heritage.is_null() {
            // What children inherit is where their listener's state is: its owner may change.
            // SAFETY: not null.
            unsafe { (*heritage).state.number = sock.address() };
        }
        return 1;
    }
    let (kept, heritage) = (sock.state_or_new(), storage(socket, 0));
    if kept.is_null() || heritage.is_null() {
        return 1;
    }
    // SAFETY: not null.
    let (state, listener) = unsafe { (&mut (*kept).state, (*heritage).state.number) };
    if state.role == role::PASSIVE
        && state.owner.tgid == 0
        && let Some(listener) = SOCKETS_BY_ADDRESS.get_ptr(listener)
    {
        // SAFETY: as above.
        state.owner = Owner { how: attribution::LISTENER, ..unsafe { (*listener).state.owner } };
    }
    1
}

fn storage(socket: *mut bpf_sock, flags: u32) -> *mut TcpSocketState {
    // SAFETY: the helper takes any typed full socket; the map's value is a TcpSocketState.
    unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            socket.cast(),
            core::ptr::null_mut(),
            u64::from(flags),
        )
        .cast()
    }
}
