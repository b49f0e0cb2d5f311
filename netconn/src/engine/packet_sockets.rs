//! Packet sockets (`AF_PACKET`, `AF_XDP`), for clients that ask and for events.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
};

use bytes::Bytes;
use netconn_common::AF_PACKET;

use crate::{
    encode::packet::object,
    engine::run::Engine,
    kernel::{
        capture::Capture,
        packet_socket::{PacketSocket, PacketSockets},
        packet_watch::PacketWatch,
        rings::Rings,
    },
    process::open,
};

/// Finds all packet sockets. If the iterator cannot find their owners, `/proc` is searched for them. `meanwhile` is called
/// all along, to empty the rings.
pub fn packet_sockets(capture: &mut Capture, meanwhile: impl FnMut(&mut Rings)) -> PacketSockets {
    let mut found = capture.packet_sockets(meanwhile);
    // `/proc` is read only when there is something to find: it costs a look at each open file of the machine.
    if found.lacks_owners && !found.sockets.is_empty() {
        found.assign_owners(&open::owners());
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

impl Engine {
    /// Tells which packet sockets were opened and closed, if their lists have changed.
    pub(super) fn follow_packet_sockets(&mut self) {
        if !self.packet_sockets.watch.take_change() {
            return;
        }
        let found = self.scan(|capture, meanwhile| packet_sockets(capture, meanwhile));
        // What cannot be listed now may be there all the same.
        let is_whole = found.unlisted.is_empty();
        let found = by_place(found.sockets);
        let Some(mut known) = self.packet_sockets.known.take() else {
            self.packet_sockets.known = Some(found);
            return;
        };
        let gone: Vec<_> = known.keys().filter(|place| is_whole && !found.contains_key(place)).copied().collect();
        let ended = gone.iter().filter_map(|place| known.remove(place)).collect::<Vec<_>>();
        ended.iter().for_each(|socket| self.publish_packet_socket(socket, true));
        for (place, socket) in found {
            if let Entry::Vacant(entry) = known.entry(place) {
                self.publish_packet_socket(entry.insert(socket), false);
            }
        }
        self.packet_sockets.known = Some(known);
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
