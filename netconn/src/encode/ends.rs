//! Fills in both ends of a connection, and what is computed from them.

use std::net::IpAddr;

use netconn_common::role;
use netconn_model::{
    community_id::{self, CommunityId},
    event::Event,
    fact::End,
};

use crate::table::{Connection, Icmp};

/// Returns the Community ID, if both ends are known.
pub(super) fn community_id(connection: &Connection) -> Option<CommunityId> {
    let (protocol, local, remote) = (connection.protocol, connection.local, connection.remote?);
    let Some(Icmp { r#type, code, .. }) = connection.exchanged.as_ref().and_then(|exchanged| exchanged.icmp) else {
        // The order of the ends does not matter here: the hash sorts them.
        return community_id::of(protocol, local, remote);
    };
    // A message that is neither request nor answer has another id in each direction, so the roles matter.
    let (source, destination) = by_role(connection, local, remote);
    Some(community_id::icmp(protocol, (r#type, code), source, destination))
}

/// Returns initiator and responder.
fn by_role(connection: &Connection, local: End, remote: End) -> (End, End) {
    if connection.role == role::PASSIVE { (remote, local) } else { (local, remote) }
}

/// Fills in both ends: by role (the initiator is the source) and by side. A listener and a folded flow have one end.
pub(super) fn fill_ends(event: &mut Event<'_>, connection: &Connection) {
    let local = connection.local;
    (event.local_address, event.local_port) = end(local);
    // The port of a counted flow is that of a datagram, where 0 is a port.
    event.local_port = event.local_port.or(connection.is_counted().then_some(0));
    if let Some(remote) = connection.remote {
        (event.remote_address, event.remote_port) = end(remote);
        // The other end always has one, if the protocol has.
        event.remote_port = event.remote_port.or(connection.has_ports().then_some(0));
        let own = (event.local_address, event.local_port);
        let other = (event.remote_address, event.remote_port);
        let (source, destination) = if connection.role == role::PASSIVE { (other, own) } else { (own, other) };
        (event.src_address, event.src_port) = source;
        (event.dst_address, event.dst_port) = destination;
    }
}

fn end(end: End) -> (Option<IpAddr>, Option<u16>) {
    let port = (end.port != 0).then_some(end.port);
    // An attempt without a route never got an address of its own; listeners of any address have a port.
    let address = (!end.address.is_unspecified() || port.is_some()).then_some(end.address);
    (address, port)
}
