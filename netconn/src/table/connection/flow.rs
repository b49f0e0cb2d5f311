//! Connections from flows of datagrams and from UDP sockets.

use std::rc::Rc;

use netconn_common::{
    AF_INET, AF_INET6, Flow, FlowKey, IPPROTO_ICMP, IPPROTO_ICMPV6, UNKNOWN_U64, UdpSocketRecord, datagram_mark,
    flow_mark, role, tcp_state,
};
use netconn_model::{fact::End, state::UNCONNECTED};

use super::{Connection, Exchanged, Icmp, address};
use crate::process::Process;

impl Connection {
    /// Returns the entry of a flow that the kernel counts.
    pub(in crate::table) fn from_flow(key: &FlowKey, flow: &Flow, process: Option<Rc<Process>>) -> Self {
        let family = match key.version {
            4 => AF_INET,
            6 => AF_INET6,
            // A folded flow has no IP version: only its local address shows which one it is.
            // An IPv4 address takes the first four bytes of the field.
            _ if flow.local_address.iter().skip(4).all(|byte| *byte == 0) => AF_INET,
            _ => AF_INET6,
        };
        let is_folded = key.version == 0;
        let protocol = if is_folded { flow.protocol } else { key.protocol };
        let remote = End { address: address(family, &key.remote_address), port: key.remote_port };
        let mut connection = Self {
            // Who sent the first datagram began the flow.
            role: if flow.marks & flow_mark::OUTGOING != 0 { role::ACTIVE } else { role::PASSIVE },
            state: tcp_state::ESTABLISHED,
            protocol,
            namespace: flow.namespace,
            local: End { address: address(family, &flow.local_address), port: flow.local_port },
            remote: (!is_folded).then_some(remote),
            device: flow.device,
            owner: flow.owner,
            born_ns: flow.first_ns,
            changed_ns: flow.first_ns,
            exchanged: Some(Box::new(Exchanged {
                packets_sent: 0,
                packets_received: 0,
                last_ns: flow.first_ns,
                icmp: icmp(protocol, flow).filter(|_| !is_folded),
                refused: 0,
                folded: is_folded,
                raw: flow.marks & flow_mark::RAW != 0,
            })),
            ..Self::blank(key.socket, process)
        };
        connection.set_counters(flow);
        connection
    }

    /// Returns the entry of a bound or connected UDP socket.
    pub fn from_udp_socket(record: &UdpSocketRecord, process: Option<Rc<Process>>) -> Self {
        let mut connection = Self {
            role: role::LISTENER,
            // The kernel's `sk_protocol` is wider than the protocol number of IP; 255 stands for none of these.
            protocol: u8::try_from(record.protocol).unwrap_or(u8::MAX),
            namespace: record.state.namespace,
            local: End { address: address(record.family, &record.local_address), port: record.local_port },
            device: record.device,
            owner: record.state.owner,
            born_ns: record.state.born_ns,
            changed_ns: record.header.time_ns,
            ..Self::blank(record.socket, process)
        };
        connection.set_peer(record);
        if record.marks & datagram_mark::CONNECTED != 0 {
            // Whether it asks or answers shows only in its datagrams.
            connection.role = role::UNKNOWN;
        }
        connection
    }

    /// Takes the remote end, and with it the state, of a UDP socket, which `connect` may change at any time.
    pub(in crate::table) fn set_peer(&mut self, record: &UdpSocketRecord) {
        let is_connected = record.marks & datagram_mark::CONNECTED != 0;
        let remote = End { address: address(record.family, &record.remote_address), port: record.remote_port };
        self.remote = is_connected.then_some(remote);
        self.state = if is_connected { tcp_state::ESTABLISHED } else { UNCONNECTED };
    }

    /// Takes the counters of a flow.
    pub(in crate::table) fn set_counters(&mut self, flow: &Flow) {
        (self.totals.bytes_sent, self.totals.bytes_received) = (flow.bytes_sent, flow.bytes_received);
        if let Some(exchanged) = &mut self.exchanged {
            (exchanged.packets_sent, exchanged.packets_received) = (flow.packets_sent, flow.packets_received);
            // The lowest bits of `first_ns` are the number of a CPU, see `programs/flow.rs`: it may be nanoseconds
            // later than `last_ns`.
            exchanged.last_ns = flow.last_ns.max(flow.first_ns);
        }
    }

    /// Turns a connected UDP socket into a flow without counters.
    pub(in crate::table) fn into_uncounted_flow(mut self) -> Self {
        // It has called `connect`.
        self.role = role::ACTIVE;
        self.exchanged = Some(Box::new(Exchanged {
            packets_sent: UNKNOWN_U64,
            packets_received: UNKNOWN_U64,
            last_ns: 0,
            icmp: None,
            refused: 0,
            folded: false,
            raw: false,
        }));
        self
    }
}

/// Returns the first message of a flow of ICMP.
fn icmp(protocol: u8, flow: &Flow) -> Option<Icmp> {
    let is_echo = match protocol {
        // Echo reply and request; of other types the field has other meanings (RFC 792).
        IPPROTO_ICMP => matches!(flow.icmp_type, 0 | 8),
        // Echo request and reply (RFC 4443).
        IPPROTO_ICMPV6 => matches!(flow.icmp_type, 128 | 129),
        _ => return None,
    };
    Some(Icmp { r#type: flow.icmp_type, code: flow.icmp_code, id: is_echo.then_some(flow.icmp_id) })
}
