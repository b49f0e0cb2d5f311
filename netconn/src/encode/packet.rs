//! Packet sockets, as the JSON answer and as text of an event.

use std::{borrow::Cow, fmt::Write as _};

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use netconn_common::{AF_XDP, UNKNOWN_U32};
use netconn_model::{
    json::{Object, SecondText},
    packet_socket::{PacketSection, PacketSocketRow, protocol_name},
    snapshot::{self, RowsMember, SnapshotHead},
};

use crate::{
    encode::{
        PROCESS_MAX,
        row::{OwnerFacts, with_owner},
    },
    kernel::packet_socket::{PacketSocket, PacketSockets},
    names::Names,
    process::{Processes, comm},
};

/// Most processes that `Sensor Start` names: an event is no list.
const NAMED_MAX: usize = 100;

/// Returns the whole answer: one object, with a row on each line.
pub fn object(
    sensor_id: Option<&str>,
    found: &PacketSockets,
    is_complete: bool,
    processes: &Processes,
    names: &mut Names,
    now_ns: u64,
) -> Bytes {
    let head = SnapshotHead {
        sensor_id: sensor_id.map(str::to_owned),
        taken_at: Timestamp::now().to_string(),
        complete: is_complete,
        unlisted: Some(found.unlisted.clone()),
    };
    let mut out = BytesMut::from(&*snapshot::head(&head, RowsMember::Sockets));
    let mut seconds = SecondText::default();
    for (place, socket) in found.sockets.iter().enumerate() {
        out.put_slice(snapshot::before_row(place == 0));
        let process = processes.of(&socket.owner).or_else(|| processes.of_tick(&socket.owner));
        with_owner(names, &socket.owner, process.as_deref(), (now_ns, processes.redactor()), |owner| {
            let mut object = Object::begin(&mut out, &mut seconds);
            let row = row(socket, owner);
            object.within(PROCESS_MAX, |object| row.write_section(PacketSection::Socket, object));
            object.end();
        });
    }
    out.put_slice(snapshot::TAIL);
    out.freeze()
}

fn row<'a>(socket: &'a PacketSocket, owner: OwnerFacts<'a>) -> PacketSocketRow<'a> {
    // Whole, so that a new member cannot be forgotten here.
    let PacketSocket { family, protocol, device, interface, namespace, inode, owner: _ } = socket;
    let OwnerFacts {
        pid,
        process_name,
        user,
        user_id,
        executable,
        command_line,
        command_line_redacted,
        container_id,
        systemd_unit,
    } = owner;
    PacketSocketRow {
        family: Some(Cow::Borrowed(if *family == AF_XDP { "AF_XDP" } else { "AF_PACKET" })),
        protocol: protocol.map(protocol_name),
        interface: interface.as_deref().map(Cow::Borrowed),
        interface_index: *device,
        namespace: (*namespace != UNKNOWN_U32).then_some(*namespace),
        inode: Some(*inode),
        pid,
        process_name,
        user,
        user_id,
        executable,
        command_line,
        command_line_redacted,
        container_id,
        systemd_unit,
    }
}

/// Returns the processes that have packet sockets open, `tcpdump(1234), dhclient(77)`; empty if there are none.
pub fn in_words(found: &PacketSockets) -> String {
    let mut owners: Vec<_> = found.sockets.iter().map(|socket| (socket.owner.tgid, socket.owner.comm)).collect();
    // By process id; sockets whose process is not known come first.
    owners.sort_unstable();
    // A process often has several such sockets: it is named once.
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
        let mut directory = Names::new(Lookup::start(|| ()).unwrap());
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
        let head = snapshot::read_head(lines[0].as_bytes()).unwrap();
        assert_eq!(head.unlisted.as_deref(), Some(&["AF_XDP \"x\"".to_owned()][..]));
        let first: PacketSocketRow<'_> = serde_json::from_str(lines[1].trim_end_matches(',')).unwrap();
        assert_eq!((first.family.as_deref().unwrap(), first.protocol.as_deref()), ("AF_PACKET", Some("ALL")));
        assert_eq!((first.interface_index, first.pid, first.namespace), (Some(0), Some(9), Some(7)));
        assert_eq!(first.process_name.as_deref(), Some("a\u{1b}\"b"));
        assert_eq!(lines[2], "{\"family\":\"AF_XDP\",\"namespace\":7,\"inode\":5}");
        for text in [text, answer(&PacketSockets::default())] {
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
}
