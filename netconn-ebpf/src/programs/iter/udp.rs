//! `iter/udp`: all UDP sockets.

use netconn_common::{
    DatagramSocketState, UdpSocketRecord, address, attribution, datagram_mark, kind, setting, tcp_state,
};

use crate::programs::{
    emit,
    iter::{Meta, Reader},
    settings,
    sock::Sock,
};

/// `struct bpf_iter__udp`, `net/ipv4/udp.c`.
#[repr(C)]
pub struct UdpContext {
    meta: *const Meta,
    udp_sk: *const u8,
    uid: u32,
}

/// `struct bpf_iter__udp`, `net/ipv4/udp.c`. Writes every UDP socket of the reader's network namespace; with its
/// user, if no process is known.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
pub fn dump_udp(ctx: *const UdpContext) -> i32 {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let (socket, uid, reader) = unsafe { ((*ctx).udp_sk, (*ctx).uid, Reader::of((*ctx).meta)) };
    if socket.is_null() {
        return 0; // the end
    }
    let sock = Sock::new(socket);
    let is_connected = sock.tcp_state() == tcp_state::ESTABLISHED;
    let kept = sock.datagram_state(!settings::keeps_nothing());
    let mut state = if kept.is_null() {
        DatagramSocketState::default()
    } else {
        // SAFETY: not null; members are written whole.
        let kept = unsafe { &mut *kept };
        if settings::any(setting::FIRST_DUMP) && !is_connected && kept.born_ns == 0 {
            // The socket is older than netconn, so its binding was not reported. Its end will be.
            kept.marks |= datagram_mark::BOUND;
        }
        // The daemon learns it now.
        kept.marks &= !(datagram_mark::BINDING_LOST | datagram_mark::PEER_LOST);
        *kept
    };
    if state.owner.tgid == 0 {
        (state.owner.uid, state.owner.how) = (uid, attribution::USER);
    }
    let ends = sock.ends(0);
    reader.write(&UdpSocketRecord {
        header: emit::header(kind::UDP_SOCKET, emit::now()),
        socket: sock.cookie(),
        file: sock.file_number(),
        state: DatagramSocketState { namespace: sock.namespace(), ..state },
        local_address: address::of_halves(ends.local_address),
        remote_address: address::of_halves(ends.remote_address),
        local_port: ends.local_port,
        remote_port: ends.remote_port,
        family: ends.family,
        protocol: sock.protocol(),
        marks: state.marks | if is_connected { datagram_mark::CONNECTED } else { 0 },
        device: sock.device(),
    });
    0
}
