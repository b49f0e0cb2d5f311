//! Sockets that no hook sees, for whoever asks and for `Sensor Start`.

use bytes::Bytes;

use crate::{
    encode::packet::object,
    engine::run::{Loop, drain},
    kernel::{capture::Capture, packet_socket::PacketSockets, rings::Rings},
    process::open,
};

/// Finds them. Where the iterator cannot say whose they are, `/proc` does.
pub fn packet_sockets(capture: &mut Capture, meanwhile: impl FnMut(&mut Rings)) -> PacketSockets {
    let mut found = capture.packet_sockets(meanwhile);
    if found.lacks_owners && !found.sockets.is_empty() {
        found.assign_owners(&open::owners());
    }
    found
}

impl Loop {
    /// The answer to who has such sockets open.
    pub(super) fn packet_rows(&mut self) -> Bytes {
        let Self { capture, core, outputs, .. } = self;
        let found = packet_sockets(capture, |rings| _ = drain(rings, core, outputs));
        // A process that was found may have been born just now.
        self.catch_up();
        let now = self.core.telling.clock.now();
        let core = &mut self.core;
        let is_complete = found.unlisted.is_empty();
        object(Some(&core.sensor.id), &found, is_complete, &core.processes, &mut core.telling.directory, now)
    }
}
