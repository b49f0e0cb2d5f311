//! Sockets that no hook sees, as the JSON answer and as text of an event.

use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use netconn_common::{AF_XDP, UNKNOWN_U32};
use netconn_model::{json::Object, packet_socket::protocol_name};
use serde_json::json;

use crate::{
    encode::row::owner,
    kernel::packet_socket::{PacketSocket, PacketSockets},
    names::Names,
    process::{Processes, comm},
};

/// Processes that `Sensor Start` names at most: an event is no list.
const NAMED_MAX: usize = 100;

/// The whole answer: one object, with a row of the shape of [`PacketRow`](netconn_model::packet_socket::PacketRow) on each line.
pub fn object(
    sensor_id: Option<&str>,
    found: &PacketSockets,
    is_complete: bool,
    processes: &Processes,
    directory: &mut Names,
    now_ns: u64,
) -> Bytes {
    let PacketSockets { sockets, unlisted, lacks_owners: _ } = found;
    let mut out = BytesMut::new();
    let id = sensor_id.map(|id| format!("\"sensor_id\":{},", json!(id))).unwrap_or_default();
    let (taken_at, unlisted) = (json!(Timestamp::now().to_string()), json!(unlisted));
    let head =
        format!("{{{id}\"taken_at\":{taken_at},\"complete\":{is_complete},\"unlisted\":{unlisted},\"sockets\":[");
    out.put_slice(head.as_bytes());
    for (place, socket) in sockets.iter().enumerate() {
        out.put_slice(if place == 0 { b"\n" } else { b",\n" });
        row(&mut out, socket, processes, directory, now_ns);
    }
    out.put_slice(b"\n]}\n");
    out.freeze()
}

fn row(out: &mut BytesMut, socket: &PacketSocket, processes: &Processes, directory: &mut Names, now_ns: u64) {
    let PacketSocket { family, protocol, device, interface, namespace, inode, owner: whose } = socket;
    let mut object = Object::begin(out);
    object.string_as(",\"family\":", if *family == AF_XDP { "AF_XDP" } else { "AF_PACKET" });
    if let Some(protocol) = protocol {
        object.string_as(",\"protocol\":", &protocol_name(*protocol));
    }
    if let Some(interface) = interface {
        object.string_as(",\"interface\":", interface);
    }
    if let Some(device) = device {
        object.integer_as(",\"interface_index\":", *device);
    }
    if *namespace != UNKNOWN_U32 {
        object.integer_as(",\"namespace\":", *namespace);
    }
    object.integer_as(",\"inode\":", *inode);
    owner(&mut object, directory, whose, processes.of(whose).as_deref(), now_ns);
    object.end();
}

/// The processes, `tcpdump(1234), dhclient(77)`; empty if there is no such socket.
pub fn in_words(found: &PacketSockets) -> String {
    let mut owners: Vec<_> = found.sockets.iter().map(|socket| (socket.owner.tgid, socket.owner.comm)).collect();
    // By process id; those that nobody is known of come first.
    owners.sort_unstable();
    owners.dedup();
    let mut text = String::new();
    for (tgid, name) in owners.iter().take(NAMED_MAX) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        if *tgid == 0 {
            text.push_str("unknown");
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}({tgid})", comm(name));
        }
    }
    if let Some(more @ 1..) = owners.len().checked_sub(NAMED_MAX) {
        let _ = write!(text, " and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use netconn_common::{AF_PACKET, Owner};
    use netconn_model::packet_socket::{PacketHead, PacketRow};

    use super::*;
    use crate::process::lookup::Lookup;

    fn socket(tgid: u32, name: &[u8]) -> PacketSocket {
        let mut owner = Owner { tgid, ..Owner::default() };
        owner.comm[..name.len()].copy_from_slice(name);
        PacketSocket {
            family: AF_PACKET,
            protocol: Some(3),
            device: Some(0),
            interface: None,
            namespace: 7,
            inode: 5,
            owner,
        }
    }

    fn found(sockets: Vec<PacketSocket>) -> PacketSockets {
        PacketSockets { sockets, ..PacketSockets::default() }
    }

    #[test]
    fn processes_are_named_once() {
        let sockets = vec![socket(1234, b"tcpdump"), socket(77, b"dhclient"), socket(1234, b"tcpdump"), socket(0, b"")];
        assert_eq!(in_words(&found(sockets)), "unknown, dhclient(77), tcpdump(1234)");
        assert_eq!(in_words(&PacketSockets::default()), "");
        let many = (1..=102).map(|tgid| socket(tgid, b"x")).collect();
        assert!(in_words(&found(many)).ends_with(", x(100) and 2 more"));
    }

    #[test]
    fn the_answer_is_one_object_with_a_row_on_each_line() {
        let mut directory = Names::new(Lookup::start(drop).unwrap());
        let mut answer = |found: &PacketSockets| {
            let text = object(Some("id"), found, true, &Processes::default(), &mut directory, 0);
            String::from_utf8(text.to_vec()).unwrap()
        };
        let bound = PacketSocket { family: AF_XDP, protocol: None, device: None, ..socket(0, b"") };
        let mut full = found(vec![socket(9, b"a\x1b\"b"), bound]);
        full.unlisted = vec!["AF_XDP \"x\"".into()];
        let text = answer(&full);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        let head: PacketHead = serde_json::from_str(&format!("{}]}}", lines[0])).unwrap();
        assert_eq!(head.unlisted, ["AF_XDP \"x\""]);
        let first: PacketRow = serde_json::from_str(lines[1].trim_end_matches(',')).unwrap();
        assert_eq!((first.family.as_str(), first.protocol.as_deref()), ("AF_PACKET", Some("ALL")));
        assert_eq!((first.interface_index, first.pid, first.namespace), (Some(0), Some(9), Some(7)));
        assert_eq!(first.process_name.as_deref(), Some("a\u{1b}\"b"));
        assert_eq!(lines[2], "{\"family\":\"AF_XDP\",\"namespace\":7,\"inode\":5}");
        for text in [text, answer(&PacketSockets::default())] {
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
}
