//! Flows: every datagram that a socket of this host sends or receives, counted by socket and remote end.
//!
//! Programs on cgroups see packets as IP hands them over: before they are fragmented, after they are reassembled
//! (`ip_finish_output` in `net/ipv4/ip_output.c`, `sk_filter_trim_cap` in `net/core/filter.c`). TCP's are left alone.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_NOEXIST, bpf_sock},
    helpers::generated::{
        bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_map_lookup_elem, bpf_map_update_elem, bpf_sk_fullsock,
        bpf_skb_load_bytes,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use bytemuck::AnyBitPattern;
use netconn_common::{
    Address, BEGUN_BITS, Flow, FlowKey, FlowRecord, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, address,
    flow_mark, kind,
};

use crate::programs::{
    datagram::{SOCK_DGRAM, SOCK_RAW},
    emit,
    kernel::{FLOWS_PER_SOCKET, context},
    maps::{FLOWS, FOLDED},
    storage::{cgroup_namespace, datagram_storage},
};

/// `ETH_P_IPV6` in `include/uapi/linux/if_ether.h`, as `__sk_buff` has it.
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Most IPv6 extension headers that are skipped.
const EXTENSIONS_MAX: usize = 6;
/// `-EEXIST`, `include/uapi/asm-generic/errno-base.h`.
const EEXIST: i64 = -17;
/// `-E2BIG`, `include/uapi/asm-generic/errno-base.h`: the map is full. Other errors are gone with the next packet.
const NO_ROOM: i64 = -7;
/// This power of two of nanoseconds is about a second.
const PERIOD_BITS: u32 = 30;
/// The largest count in [`DatagramSocketState::begun`](netconn_common::DatagramSocketState::begun).
const BEGUN_MAX: u32 = (1 << BEGUN_BITS) - 1;
/// Bits of [`Flow::first_ns`] that are the number of the CPU instead: two flows of a socket that begin at the same time are told apart on
/// as many CPUs, and one CPU needs longer than these nanoseconds for a flow.
const CPU_MASK: u64 = 255;
/// Length of the headers of UDP and ICMP in bytes.
const HEADER_BYTES: u32 = 8;

/// `struct __sk_buff`, `include/uapi/linux/bpf.h`. A packet leaves, in the context of the process that sends it.
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    count(ctx.as_ptr().cast(), true);
    1 // allowed
}

/// `struct __sk_buff`, `include/uapi/linux/bpf.h`. A packet arrives at a socket, in an interrupt.
#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    count(ctx.as_ptr().cast(), false);
    1 // allowed
}

/// The headers of a packet, as far as they tell its flow.
struct Packet {
    /// In two halves, as `address::of_halves` takes them: bytes would need more of the stack.
    source: [u64; 2],
    /// In two halves.
    destination: [u64; 2],
    /// The first bytes behind the IP header: ports, or type, code, checksum and identifier.
    carried: [u8; 8],
    /// Offset of these bytes in the packet.
    offset: u32,
    protocol: u8,
    version: u8,
}

impl Packet {
    #[inline(always)]
    fn of(skb: *mut __sk_buff, socket: *mut bpf_sock) -> Option<Self> {
        // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
        if unsafe { (*skb).protocol } == ETH_P_IPV6 { Self::of_v6(skb, socket) } else { Self::of_v4(skb, socket) }
    }

    /// `struct iphdr`, `include/uapi/linux/ip.h`.
    #[inline(always)]
    fn of_v4(skb: *mut __sk_buff, socket: *mut bpf_sock) -> Option<Self> {
        let ([first, _, third, source, destination], near, is_near) = head_v4(skb)?;
        let protocol = (third >> 8) as u8;
        if protocol == IPPROTO_TCP && !is_datagram(socket) {
            return None;
        }
        let offset = (first & 15) * 4;
        let carried = if is_near && offset == 20 { near } else { eight_at(skb, offset) };
        let (source, destination) = ([u64::from(source), 0], [u64::from(destination), 0]);
        Some(Self { source, destination, carried: carried.to_le_bytes(), offset, protocol, version: 4 })
    }

    /// `struct ipv6hdr`, `include/uapi/linux/ipv6.h`.
    #[inline(always)]
    fn of_v6(skb: *mut __sk_buff, socket: *mut bpf_sock) -> Option<Self> {
        // The last four words are the addresses.
        let (head, near, is_near) = head_v6(skb)?;
        let mut protocol = (head[0] >> 48) as u8;
        let mut offset = 40;
        let mut carried = near;
        if !is_near || !matches!(protocol, IPPROTO_UDP | IPPROTO_TCP | IPPROTO_ICMPV6) {
            for _ in 0..EXTENSIONS_MAX {
                let units = match protocol {
                    // Hop-by-hop options, routing, destination options: units of 8 bytes behind the first 8.
                    0 | 43 | 60 => 8,
                    // A fragment header is 8 bytes long, and its second byte is 0.
                    44 => 8,
                    // Authentication: units of 4 bytes behind the first 8.
                    51 => 4,
                    _ => break,
                };
                let [next, length]: [u8; 2] = load(skb, offset)?;
                protocol = next;
                offset += 8 + u32::from(length) * units;
            }
            carried = eight_at(skb, offset);
        }
        if protocol == IPPROTO_TCP && !is_datagram(socket) {
            return None;
        }
        let (source, destination) = ([head[1], head[2]], [head[3], head[4]]);
        Some(Self { source, destination, carried: carried.to_le_bytes(), offset, protocol, version: 6 })
    }

    #[inline(always)]
    fn has_ports(&self) -> bool {
        matches!(self.protocol, IPPROTO_UDP | IPPROTO_TCP)
    }

    /// Returns source and destination port, host byte order; zeros for protocols without ports.
    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        if !self.has_ports() {
            return (0, 0);
        }
        let [a, b, c, d, ..] = self.carried;
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    }

    /// Returns the bytes of payload in a packet of `length` bytes.
    #[inline(always)]
    fn payload(&self, length: u32) -> u64 {
        let own = if matches!(self.protocol, IPPROTO_UDP | IPPROTO_ICMP | IPPROTO_ICMPV6) { HEADER_BYTES } else { 0 };
        u64::from(length.saturating_sub(self.offset + own))
    }

    /// Writes type, code and identifier of an ICMP message to a flow (`struct icmphdr`, `include/uapi/linux/icmp.h`).
    #[inline(always)]
    fn describe(&self, flow: &mut Flow) {
        if !matches!(self.protocol, IPPROTO_ICMP | IPPROTO_ICMPV6) {
            return;
        }
        let [kind, code, _, _, a, b, ..] = self.carried;
        (flow.icmp_type, flow.icmp_code) = (kind, code);
        let is_echo = match self.protocol {
            IPPROTO_ICMP => matches!(kind, 0 | 8),
            _ => matches!(kind, 128 | 129),
        };
        if is_echo {
            flow.icmp_id = u16::from_be_bytes([a, b]);
        }
    }
}

/// Counts a packet; `is_out`: this host sends it.
#[inline(always)]
fn count(skb: *mut __sk_buff, is_out: bool) {
    // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    let Some(packet) = Packet::of(skb, socket) else { return };
    let (source_port, destination_port) = packet.ports();
    let (remote, remote_port) =
        if is_out { (packet.destination, destination_port) } else { (packet.source, source_port) };
    let mut key = FlowKey {
        // SAFETY: the helper takes the context of programs on packets.
        socket: unsafe { bpf_get_socket_cookie(skb.cast()) },
        remote_address: address::of_halves(remote),
        remote_port,
        protocol: packet.protocol,
        version: packet.version,
        reserved: 0,
    };
    // SAFETY: the verifier knows the members.
    let (length, pieces) = unsafe { ((*skb).len, (*skb).gso_segs) };
    let payload = packet.payload(length);
    let (packets, now) = (u64::from(pieces.max(1)), emit::now());
    let known = find(flows(), (&raw const key).cast());
    if !known.is_null() {
        return add(known, is_out, packets, payload, now);
    }
    let rest = find(folded(), (&raw const key.socket).cast());
    // SAFETY: checked.
    if !rest.is_null() && unsafe { (*rest).first_ns } != 0 {
        return add(rest, is_out, packets, payload, now);
    }
    let moved = Moved { packets, payload, now };
    first(skb, &mut key, &packet, &moved, is_out);
}

/// The counts that a packet adds to a flow.
struct Moved {
    packets: u64,
    payload: u64,
    /// Nanoseconds since boot.
    now: u64,
}

/// Counts the first packet of a flow. A function of its own, because a program and its functions have 512 bytes of stack
/// together (before 6.12 or so), and the compiler does not share the place of variables that are used in turn.
#[inline(never)]
fn first(skb: *mut __sk_buff, key: &mut FlowKey, packet: &Packet, moved: &Moved, is_out: bool) {
    // Member by member: a whole flow would be made in another place of the stack first.
    let mut flow = Flow::default();
    let &Moved { packets, payload, now } = moved;
    // The socket and the device are read from the packet here, because each value that waits in a caller costs stack.
    if packet.version == 6 && is_link_local(key.remote_address) {
        // SAFETY: the kernel gives a valid context; the verifier knows its members' types.
        flow.device = unsafe { (*skb).ifindex };
    }
    // SAFETY: the verifier knows the type of the context.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return;
    }
    let Some(has_room) = begin(socket, &mut flow, now) else { return };
    let (source_port, destination_port) = packet.ports();
    let (local, local_port) =
        if is_out { (packet.source, source_port) } else { (packet.destination, destination_port) };
    // SAFETY: the helper has no preconditions.
    let cpu = u64::from(unsafe { bpf_get_smp_processor_id() }) & CPU_MASK;
    flow.first_ns = now & !CPU_MASK | cpu;
    flow.last_ns = now;
    flow.local_address = address::of_halves(local);
    flow.local_port = local_port;
    flow.marks |= if is_out { flow_mark::OUTGOING } else { 0 };
    flow.protocol = packet.protocol;
    packet.describe(&mut flow);
    if is_out {
        (flow.packets_sent, flow.bytes_sent) = (packets, payload);
    } else {
        (flow.packets_received, flow.bytes_received) = (packets, payload);
    }
    let rest = find(folded(), (&raw const key.socket).cast());
    let result = if rest.is_null() && has_room { put(flows(), (&raw const *key).cast(), &flow) } else { NO_ROOM };
    match result {
        0 => return report(key, &flow),
        // Another CPU was faster.
        EEXIST => return add(find(flows(), (&raw const *key).cast()), is_out, packets, payload, now),
        NO_ROOM => {}
        _ => return emit::lost(kind::UNCOUNTED),
    }
    // There is no room, or this socket has too many flows, as the daemon says or `begin` finds: from now on a folded flow
    // stands for all further remote ends of the socket.
    (key.remote_address, key.remote_port, key.protocol, key.version) = ([0; 16], 0, 0, 0);
    if rest.is_null() {
        match put(folded(), (&raw const key.socket).cast(), &flow) {
            0 => report(key, &flow),
            EEXIST => add(find(folded(), (&raw const key.socket).cast()), is_out, packets, payload, now),
            _ => emit::lost(kind::UNCOUNTED),
        }
    } else {
        // SAFETY: not null, and in a map's value. Another CPU may do the same with the first packet that it has seen.
        unsafe {
            (*rest).owner = flow.owner;
            (*rest).local_address = flow.local_address;
            (*rest).namespace = flow.namespace;
            (*rest).local_port = flow.local_port;
            (*rest).marks = flow.marks;
            (*rest).protocol = flow.protocol;
            (*rest).device = flow.device;
            (&raw mut (*rest).first_ns).write_volatile(flow.first_ns);
        }
        add(rest, is_out, packets, payload, now);
        report(key, &flow);
    }
}

/// Writes the owner, the network namespace and the type of a packet's socket to a flow. Returns whether the flow has room of
/// its own (else it is folded); `None` if it is not to be counted: a raw socket without state belongs to the kernel itself,
/// which answers pings with such sockets, or is older than netconn on 5.10.
#[inline(always)]
fn begin(socket: *mut bpf_sock, flow: &mut Flow, now: u64) -> Option<bool> {
    let (socket, kind) = full(socket)?;
    if !matches!(kind, SOCK_DGRAM | SOCK_RAW) {
        return None;
    }
    let is_raw = kind == SOCK_RAW;
    let kept = datagram_storage(socket.cast(), !is_raw);
    if kept.is_null() {
        if !is_raw {
            flow.namespace = cgroup_namespace(socket.cast());
        }
        return (!is_raw).then_some(true);
    }
    // SAFETY: not null; members are written whole, and a reader of a half-written owner has one that does not exist.
    let kept = unsafe { &mut *kept };
    if kept.namespace == 0 {
        kept.namespace = cgroup_namespace(socket.cast());
    }
    kept.counted = 1;
    flow.owner = kept.owner;
    flow.namespace = kept.namespace;
    flow.marks = if is_raw { flow_mark::RAW } else { 0 };
    // SAFETY: a full socket; the verifier knows its members' types.
    let bound = unsafe { (*socket).bound_dev_if };
    if bound != 0 {
        flow.device = bound;
    }
    // Without this limit, a flood from ever new addresses would take the room of all sockets before the daemon could fold.
    // Two CPUs may count their flows as one: at most twice as many begin.
    let period = (now >> PERIOD_BITS) as u32;
    let begun = if kept.begun >> BEGUN_BITS == period & (u32::MAX >> BEGUN_BITS) {
        kept.begun + 1
    } else {
        period << BEGUN_BITS
    };
    let has_room = begun & BEGUN_MAX < FLOWS_PER_SOCKET.load();
    if has_room {
        kept.begun = begun;
    }
    Some(has_room)
}

/// Returns whether an IPv6 address is one of many devices: fe80::/10, or of a multicast group of one link (RFC 4291, 2.7).
#[inline(always)]
fn is_link_local(address: Address) -> bool {
    let [first, second, ..] = address;
    (first == 0xfe && second & 0xc0 == 0x80) || (first == 0xff && second & 15 == 2)
}

/// Returns whether a socket is a datagram socket.
#[inline(always)]
fn is_datagram(socket: *mut bpf_sock) -> bool {
    full(socket).is_some_and(|(_, kind)| matches!(kind, SOCK_DGRAM | SOCK_RAW))
}

/// Returns a socket whose members may be read, and its type; `None` for minisocks.
#[inline(always)]
fn full(socket: *mut bpf_sock) -> Option<(*mut bpf_sock, u32)> {
    // SAFETY: the helper takes any typed socket and gives null for minisocks.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    // SAFETY: checked.
    (!socket.is_null()).then(|| (socket, unsafe { (*socket).type_ }))
}

/// Adds a packet to a flow, unless the flow was just removed (null).
#[inline(always)]
fn add(flow: *mut Flow, is_out: bool, packets: u64, payload: u64, now: u64) {
    if flow.is_null() {
        return;
    }
    // SAFETY: not null, and in a map's value. Two CPUs may write their times in the wrong order, which are almost the same.
    unsafe {
        (&raw mut (*flow).last_ns).write_volatile(now);
        if is_out {
            emit::add(&raw mut (*flow).packets_sent, packets);
            emit::add(&raw mut (*flow).bytes_sent, payload);
        } else {
            emit::add(&raw mut (*flow).packets_received, packets);
            emit::add(&raw mut (*flow).bytes_received, payload);
        }
    }
}

/// Reports that a flow has begun.
#[inline(always)]
fn report(key: &FlowKey, flow: &Flow) {
    emit::datagram_record(kind::FLOW, |record: *mut FlowRecord| {
        // SAFETY: the ring gave room for one record. Member by member, because a whole one does not fit on the stack.
        unsafe {
            (*record).header = emit::header(kind::FLOW, flow.last_ns);
            (*record).key = *key;
            (*record).flow = *flow;
        }
    });
}

/// Returns the IPv4 header without options, the eight bytes behind it, and whether these were there: if they are in the linear
/// part of the packet, that saves two calls of the kernel.
#[inline(always)]
fn head_v4(skb: *mut __sk_buff) -> Option<([u32; 5], u64, bool)> {
    // SAFETY: the kernel gives a valid context, and the verifier follows that the bytes are within the packet.
    unsafe {
        let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if data + 28 <= end {
            let head = [
                context!(data, "u32", 0) as u32,
                context!(data, "u32", 4) as u32,
                context!(data, "u32", 8) as u32,
                context!(data, "u32", 12) as u32,
                context!(data, "u32", 16) as u32,
            ];
            return Some((head, context!(data, "u32", 20) | context!(data, "u32", 24) << 32, true));
        }
    }
    Some((load(skb, 0)?, 0, false))
}

/// As [`head_v4`], for IPv6.
#[inline(always)]
fn head_v6(skb: *mut __sk_buff) -> Option<([u64; 5], u64, bool)> {
    // SAFETY: the kernel gives a valid context, and the verifier follows that the bytes are within the packet.
    unsafe {
        let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if data + 48 <= end {
            let head = [
                context!(data, "u64", 0),
                context!(data, "u64", 8),
                context!(data, "u64", 16),
                context!(data, "u64", 24),
                context!(data, "u64", 32),
            ];
            return Some((head, context!(data, "u32", 40) | context!(data, "u32", 44) << 32, true));
        }
    }
    Some((load(skb, 0)?, 0, false))
}

/// Returns eight bytes of a packet as they lie in memory; zeros if it ends before.
#[inline(always)]
fn eight_at(skb: *mut __sk_buff, offset: u32) -> u64 {
    let mut value = 0_u64;
    // SAFETY: the helper writes eight bytes to `value`, zeros if the packet ends before.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, (&raw mut value).cast(), size_of::<u64>() as u32) };
    u64::from_le(value)
}

/// Loads a `T` from a packet, from its IP header on; `None` if the packet ends before.
#[inline(always)]
fn load<T: AnyBitPattern>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes `size_of::<T>()` bytes to `value`, or zeros them and returns an error.
    unsafe {
        let result = bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
        (result == 0).then(|| value.assume_init())
    }
}

#[inline(always)]
fn flows() -> *mut c_void {
    (&raw const FLOWS).cast_mut().cast()
}

#[inline(always)]
fn folded() -> *mut c_void {
    (&raw const FOLDED).cast_mut().cast()
}

#[inline(always)]
fn find(map: *mut c_void, key: *const c_void) -> *mut Flow {
    // SAFETY: keys and values of both maps have the right size.
    unsafe { bpf_map_lookup_elem(map, key.cast_mut()).cast() }
}

#[inline(always)]
fn put(map: *mut c_void, key: *const c_void, flow: &Flow) -> i64 {
    // SAFETY: keys and values of both maps have the right size.
    unsafe { bpf_map_update_elem(map, key.cast_mut(), (&raw const *flow).cast_mut().cast(), u64::from(BPF_NOEXIST)) }
}
