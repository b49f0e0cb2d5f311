//! Events of packet sockets.

use std::borrow::Cow;

use bytes::BytesMut;
use netconn_common::UNKNOWN_U32;
use netconn_model::{
    fact::{Attribution, EventKind},
    packet_socket::protocol_name,
    value::PlainText,
};

use super::{EventEncoder, Written, head, judged, write_whole};
use crate::{
    clock::Clock,
    encode::{
        attribution, known,
        process::{fill_cgroup, fill_process},
    },
    kernel::packet_socket::PacketSocket,
    names::Names,
    process::Process,
};

impl EventEncoder {
    /// Writes that a packet socket was opened, or (`is_end`) closed, unless a rule excludes it or `admit` refuses it.
    pub fn packet_socket(
        &mut self,
        out: &mut BytesMut,
        clock: &Clock,
        names: &mut Names,
        (socket, process): (&PacketSocket, Option<&Process>),
        is_end: bool,
        admit: impl FnOnce() -> bool,
    ) -> Written {
        let PacketSocket { protocol, interface, namespace, inode, owner, .. } = socket;
        self.next_id();
        let now = clock.now();
        let (user, cgroup) = (names.user(owner, now), names.cgroup(owner, now));
        let mut event = head(kind_of(is_end), &self.id, clock, now);
        event.connection_id = Some(PlainText::new(format!("{}-packet-{namespace}-{inode}", self.boot)));
        event.namespace = known(*namespace, UNKNOWN_U32);
        event.interface = interface.as_deref().map(Cow::Borrowed);
        event.packet_protocol = protocol.map(protocol_name);
        event.packet_inode = Some(*inode);
        if owner.tgid == 0 {
            event.attribution = Some(Attribution::Unknown);
        } else {
            event.attribution = Some(attribution(owner.how));
            event.tid = Some(owner.tid);
            fill_process(&mut event, owner, process, (&self.boot, clock), &self.redactor);
            event.user = user.as_deref().map(Cow::Borrowed);
            fill_cgroup(&mut event, cgroup.as_deref());
        }
        if !self.rules.is_empty() {
            // For rules; the members that are written of it are ready.
            self.sensor.describe(&mut event);
        }
        let written = judged(&self.rules, &event, admit);
        if written == Written::Yes {
            write_whole(&event, &self.sensor_members, out, &mut self.seconds);
        } else {
            // Its number is that of the next event.
            self.count -= 1;
        }
        written
    }
}

/// Returns the kind of event that tells that a packet socket was opened, or (`is_end`) closed.
pub fn kind_of(is_end: bool) -> EventKind {
    if is_end { EventKind::PacketSocketEnd } else { EventKind::PacketSocket }
}
