//! Packet sockets (`AF_PACKET`, `AF_XDP`), for clients that ask and for `Sensor Start`.

use bytes::Bytes;

use crate::{
    encode::packet::object,
    engine::run::Engine,
    kernel::{capture::Capture, packet_socket::PacketSockets, rings::Rings},
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

impl Engine {
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
