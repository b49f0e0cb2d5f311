//! Names of network interfaces, from the kernel's list of them.

use std::io;

use netlink_packet_core::{DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};

use crate::privileged::namespaces;

/// Room for one part of an answer (`netlink_dump` in `net/netlink/af_netlink.c`: 32 KiB).
const ANSWER_BYTES: usize = 64 << 10;

/// Reads index and name of each interface in the network namespace that the calling thread has entered.
///
/// # Errors
///
/// What the system says.
pub fn names() -> io::Result<Vec<(u32, String)>> {
    let socket = namespaces::netlink(NETLINK_ROUTE)?;
    // A connected socket only hears the kernel (`netlink_getsockbyportid` in net/netlink/af_netlink.c).
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut packet = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    packet.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    let mut names = Vec::new();
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    loop {
        // `recv` appends to what is there.
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if take_part(&answer, &mut names)? {
            return Ok(names);
        }
    }
}

/// Takes the interfaces of one part of an answer; returns whether it was the last part.
fn take_part(mut rest: &[u8], names: &mut Vec<(u32, String)>) -> io::Result<bool> {
    while !rest.is_empty() {
        let message = NetlinkMessage::deserialize(rest).map_err(|error: DecodeError| io::Error::other(error))?;
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                });
                names.extend(name.map(|name| (link.header.index, name)));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
        // Messages are aligned to four bytes. At least four, so that a damaged length of 0 ends the loop as well.
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use nix::net::if_::if_nameindex;

    use super::*;

    #[test]
    fn the_c_library_finds_the_same() {
        let mut found = names().unwrap();
        let known = if_nameindex().unwrap();
        let mut known: Vec<_> =
            known.iter().map(|link| (link.index(), link.name().to_string_lossy().into_owned())).collect();
        found.sort();
        known.sort();
        assert_eq!(found, known);
    }
}
