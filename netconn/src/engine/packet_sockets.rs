//! Packet sockets (`AF_PACKET`, `AF_XDP`), for clients that ask and for events.

use std::{
    collections::{HashMap, hash_map::Entry},
    io, mem,
    time::Instant,
};

use bytes::Bytes;
use netconn_common::AF_PACKET;

use crate::{
    encode::packet::object,
    engine::run::Engine,
    kernel::{
        capture::Capture,
        iterate,
        packet_socket::{PacketSocket, PacketSockets},
        packet_watch::PacketWatch,
        rings::Rings,
    },
    process::open,
};

/// From this number on, sockets are forgotten that are in no list because their namespace cannot be read.
const KNOWN_MAX: usize = 65_536;

/// Finds all packet sockets. If the iterator cannot find their owners, `/proc` is searched for them. `meanwhile` is called
/// all along, to empty the rings.
pub fn packet_sockets(capture: &mut Capture, mut meanwhile: impl FnMut(&mut Rings)) -> PacketSockets {
    let mut found = capture.packet_sockets(&mut meanwhile);
    // `/proc` is read only when there is something to find: it costs a look at each open file of the machine.
    if found.lacks_owners && !found.sockets.is_empty() {
        let rings = capture.rings();
        // Without a thread they stay unknown.
        found.assign_owners(&iterate::beside(open::owners, || meanwhile(rings)).unwrap_or_default());
        if found.sockets.iter().any(|socket| socket.owner.tgid == 0) {
            found.unlisted.push(
                "which processes have packet sockets open is not known: without iter/task_file it takes privileges that the daemon has \
                 given up"
                    .into(),
            );
        }
    }
    found
}

/// The packet sockets that events have told, and the watch that notices changes.
pub(super) struct PacketSocketEvents {
    watch: PacketWatch,
    /// By namespace and inode. `None`: nobody was told yet which there are.
    known: Option<HashMap<(u32, u64), PacketSocket>>,
}

impl PacketSocketEvents {
    /// Starts the watch; `told` are those that `Sensor Start` names.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(super) fn start(told: Option<PacketSockets>, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let known = told.map(|told| by_place(told.sockets));
        Ok(Self { watch: PacketWatch::start(wake)?, known })
    }
}

/// Returns packet sockets by namespace and inode; of several processes that have one open, the first.
fn by_place(sockets: Vec<PacketSocket>) -> HashMap<(u32, u64), PacketSocket> {
    let mut found = HashMap::new();
    // Whether an AF_XDP socket is opened is not noticed.
    for socket in sockets.into_iter().filter(|socket| socket.family == AF_PACKET) {
        found.entry((socket.namespace, socket.inode)).or_insert(socket);
    }
    found
}

/// Replaces the `known` sockets by those that were `found`. Returns which were opened, and which were closed (`true`), these first.
fn changes(
    known: &mut Option<HashMap<(u32, u64), PacketSocket>>,
    mut found: PacketSockets,
) -> Vec<(PacketSocket, bool)> {
    let listed = by_place(mem::take(&mut found.sockets));
    let Some(known) = known else {
        *known = Some(listed);
        return Vec::new();
    };
    // What could not be listed may be there all the same.
    let is_over = |place: &(u32, u64)| !listed.contains_key(place) && found.has_listed(place.0);
    let mut changes: Vec<_> = known.extract_if(|place, _| is_over(place)).map(|(_, socket)| (socket, true)).collect();
    if known.len() >= KNOWN_MAX {
        known.retain(|place, _| listed.contains_key(place));
    }
    for (place, socket) in listed {
        if let Entry::Vacant(entry) = known.entry(place) {
            changes.push((entry.insert(socket).clone(), false));
        }
    }
    changes
}

impl Engine {
    /// Tells which packet sockets were opened and closed, if their lists have changed.
    pub(super) fn follow_packet_sockets(&mut self) {
        // Anybody may open and close such a socket in a namespace of their own. A change stays noted until a scan is allowed.
        if !self.schedule.packet_scans.is_allowed(self.state.clock.now()) || !self.packet_sockets.watch.take_change() {
            return;
        }
        let since = Instant::now();
        let found = self.scan(|capture, meanwhile| packet_sockets(capture, meanwhile));
        self.schedule.packet_scans.scanned(self.state.clock.now(), since.elapsed());
        for (socket, is_end) in changes(&mut self.packet_sockets.known, found) {
            self.publish_packet_socket(&socket, is_end);
        }
    }

    fn publish_packet_socket(&mut self, socket: &PacketSocket, is_end: bool) {
        let Self { state, publisher, .. } = self;
        let process = state.processes.of(&socket.owner).or_else(|| state.processes.of_tick(&socket.owner));
        publisher.publish_packet_socket(&state.clock, &mut state.names, (socket, process.as_deref()), is_end);
    }

    /// Returns all packet sockets as one JSON object.
    pub(super) fn packet_socket_rows(&mut self) -> Bytes {
        let found = self.scan(|capture, meanwhile| packet_sockets(capture, meanwhile));
        // Sockets that are known to exist and that no list shows make the answer incomplete.
        let is_complete = found.unlisted.is_empty();
        let state = &mut self.state;
        let now = state.clock.now();
        object(Some(&state.sensor.id), &found, is_complete, &state.processes, &mut state.names, now)
    }
}

#[cfg(test)]
mod tests {
    use netconn_common::Owner;

    use super::*;

    fn socket(namespace: u32, inode: u64) -> PacketSocket {
        let (family, owner) = (AF_PACKET, Owner::default());
        PacketSocket { family, protocol: None, device: None, interface: None, namespace, inode, owner }
    }

    fn told(known: &mut Option<HashMap<(u32, u64), PacketSocket>>, found: PacketSockets) -> Vec<(u32, u64, bool)> {
        let changes = changes(known, found).into_iter();
        changes.map(|(socket, is_end)| (socket.namespace, socket.inode, is_end)).collect()
    }

    #[test]
    fn ends_are_told_although_af_xdp_or_another_namespace_cannot_be_listed() {
        let unlisted = vec!["AF_XDP sockets cannot be listed here".to_owned()];
        let of = |places: &[(u32, u64)], unread: &[u32]| PacketSockets {
            sockets: places.iter().map(|(namespace, inode)| socket(*namespace, *inode)).collect(),
            unlisted: unlisted.clone(),
            unread: unread.to_vec(),
            ..PacketSockets::default()
        };
        let mut known = Some(by_place(of(&[(1, 10), (2, 20)], &[]).sockets));
        assert_eq!(told(&mut known, of(&[], &[2])), [(1, 10, true)]);
        // The inode is used again.
        assert_eq!(told(&mut known, of(&[(1, 10)], &[2])), [(1, 10, false)]);
        assert_eq!(told(&mut known, PacketSockets::none(&io::Error::other("x"))), []);
        assert_eq!(told(&mut known, of(&[(1, 10)], &[])), [(2, 20, true)]);
        assert_eq!(known.unwrap().len(), 1);
    }

    #[test]
    fn what_a_namespace_hides_is_bounded() {
        let mut known = Some(HashMap::new());
        for inode in (0..200_000).step_by(20_000) {
            let sockets = (inode..inode + 20_000).map(|inode| socket(1, inode)).collect();
            told(&mut known, PacketSockets { sockets, unread: vec![1], ..PacketSockets::default() });
            assert!(known.as_ref().unwrap().len() < KNOWN_MAX + 20_000);
        }
    }
}
