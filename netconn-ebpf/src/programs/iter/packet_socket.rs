//! Packet sockets (`AF_PACKET`, `AF_XDP`) among the open files.

use netconn_common::{AF_PACKET, AF_XDP, MISSING, PacketSocketRecord, UNKNOWN_U32, attribution};

use crate::programs::{
    iter::{
        Reader,
        file::{typed_sock, untyped_sock},
    },
    kernel::{
        DEVICE_INDEX, FILE_INODE, HAS_PROBE_READ, HAS_SOCK_FROM_FILE, INODE_NUMBER, NET_INODE, SOCK_FAMILY, SOCK_NET,
        Typed, XDP_DEVICE, has, probe_member,
    },
    sock::Sock,
    task::Task,
};

/// Writes an open file that is a packet socket.
#[inline(always)]
pub fn write(reader: Reader, task: Task, file: Typed) {
    let (address, family, namespace): (u64, u16, u32);
    if has(&HAS_SOCK_FROM_FILE) {
        let Some(sk) = typed_sock(file) else { return };
        let sock = Sock::new(sk.as_ptr::<u8>());
        (address, family, namespace) = (sk.address(), sock.family(), sock.namespace());
    } else {
        let Some(sk) = untyped_sock(file) else { return };
        address = sk;
        family = probe_member(sk, &SOCK_FAMILY).unwrap_or(0);
        let net: u64 = probe_member(sk, &SOCK_NET).unwrap_or(0);
        namespace = probe_member(net, &NET_INODE).unwrap_or(UNKNOWN_U32);
    }
    if !matches!(family, AF_PACKET | AF_XDP) {
        return;
    }
    let inode = file.follow(&FILE_INODE).member(&INODE_NUMBER, 0);
    let device = if family == AF_XDP { xdp_device(address) } else { UNKNOWN_U32 };
    let owner = task.owner(attribution::SCAN);
    reader.write(&PacketSocketRecord { inode, owner, namespace, device, family, reserved: [0; 3] });
}

/// Returns the index of the network device of an `AF_XDP` socket (`struct xdp_sock` in `include/net/xdp_sock.h`), of which
/// the verifier knows only that it is a socket.
#[inline(always)]
fn xdp_device(address: u64) -> u32 {
    if !has(&HAS_PROBE_READ) || XDP_DEVICE.load() == MISSING || DEVICE_INDEX.load() == MISSING {
        return UNKNOWN_U32;
    }
    match probe_member::<u64>(address, &XDP_DEVICE) {
        Some(0) => 0,
        Some(device) => probe_member(device, &DEVICE_INDEX).unwrap_or(UNKNOWN_U32),
        None => UNKNOWN_U32,
    }
}
