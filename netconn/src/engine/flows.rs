//! Flows of datagrams, which are compared with the kernel from time to time.

use std::time::Duration;

use netconn_common::{DatagramRecord, FlowRecord, OwnerRecord, ReleasedRecord};
use tracing::warn;

use crate::{
    engine::{
        core::Core,
        run::{Loop, drain},
    },
    table::Covered,
};

/// How often flows are compared with the kernel as long as there are any.
const SWEEP: Duration = Duration::from_secs(10);

impl Core {
    /// Handles that a flow has begun.
    pub(super) fn begin_flow(&mut self, record: &FlowRecord) {
        let Self { processes, flows, maps, telling, .. } = self;
        flows.begin(
            record,
            |owner| processes.of(owner),
            |key| maps.take(key),
            |change, connection, time_ns| telling.tell(change, connection, time_ns),
        );
        self.fold();
    }

    /// Handles that a socket was bound to receive datagrams, or is connected.
    pub(super) fn bound(&mut self, record: &DatagramRecord) {
        let Self { processes, flows, telling, .. } = self;
        flows.bound(
            record,
            |owner| processes.of(owner),
            |change, connection, time_ns| telling.tell(change, connection, time_ns),
        );
    }

    /// Handles that a socket of datagrams was closed.
    pub(super) fn released(&mut self, record: &ReleasedRecord) {
        let Self { flows, maps, telling, .. } = self;
        flows.released(
            record,
            |key| maps.take(key),
            |change, connection, time_ns| telling.tell(change, connection, time_ns),
        );
    }

    /// Handles that a socket has another owner. Those of datagrams have one life only, number 0; so has a TCP socket for
    /// which there was no memory.
    pub(super) fn own(&mut self, record: &OwnerRecord) {
        let Self { processes, table, flows, telling, .. } = self;
        if record.generation == 0
            && flows.own(
                record,
                |owner| processes.of(owner),
                |change, connection, time_ns| telling.tell(change, connection, time_ns),
            )
        {
            return;
        }
        table.own(
            record,
            |owner| processes.of(owner),
            |change, connection, time_ns| telling.tell(change, connection, time_ns),
        );
    }

    /// Compares flows with the kernel.
    fn sweep(&mut self) {
        let Self { processes, flows, maps, telling, .. } = self;
        let now = telling.clock.now();
        match maps.all() {
            Ok(kernel) => flows.sweep(
                &kernel,
                now,
                |owner| processes.of(owner),
                |key| maps.take(key),
                |change, connection, time_ns| telling.tell(change, connection, time_ns),
            ),
            Err(error) => warn!("what flows have moved is not known: {error}"),
        }
        self.fold();
    }

    /// Takes a dump of all UDP sockets of these namespaces.
    fn end_flow_dump(&mut self, sockets: &[DatagramRecord], covered: &Covered) {
        let Self { processes, flows, maps, telling, .. } = self;
        let now = telling.clock.now();
        flows.end_dump(
            sockets,
            covered,
            now,
            |owner| processes.of(owner),
            |key| maps.take(key),
            |change, connection, time_ns| telling.tell(change, connection, time_ns),
        );
    }

    /// Takes what the kernel tells of UDP sockets beside their flows.
    pub(super) fn follow_datagrams(&mut self, sockets: &[DatagramRecord]) {
        let Self { processes, flows, telling, .. } = self;
        let now = telling.clock.now();
        flows.follow(
            sockets,
            now,
            |owner| processes.of(owner),
            |change, connection, time_ns| telling.tell(change, connection, time_ns),
        );
    }

    /// Lets the kernel fold the flows of sockets that have too many.
    fn fold(&mut self) {
        for socket in self.flows.take_folds() {
            self.maps.fold(socket);
        }
        let is_new = self.flows.folded() != 0 && !self.says_folded;
        self.says_folded = self.flows.folded() != 0;
        if is_new {
            warn!(
                "there are too many flows: what a socket exchanges with further ends is counted as one flow without a \
                 remote address; a larger max_flows in the configuration helps"
            );
        }
    }
}

impl Loop {
    /// Compares flows with the kernel, if there are any and it is time to.
    pub(super) fn sweep_if_due(&mut self, now: u64) {
        let is_old = now.saturating_sub(self.swept_ns) >= SWEEP.as_nanos() as u64;
        if (is_old && !self.core.flows.is_empty()) || self.core.flows.is_unfinished() {
            self.sweep();
        }
    }

    /// Compares flows with the kernel.
    pub(super) fn sweep(&mut self) {
        self.swept_ns = self.core.telling.clock.now();
        self.core.sweep();
        self.core.telling.hand_over(&self.outputs);
    }

    /// Brings flows and sockets of datagrams into line with the kernel: at the start, and after records were lost.
    pub(super) fn dump_flows(&mut self) {
        if !self.capture.has_flows() {
            return;
        }
        let Self { capture, core, outputs, .. } = self;
        core.flows.begin_dump(core.telling.clock.now());
        let found = capture.datagrams(|rings| _ = drain(rings, core, outputs));
        self.catch_up();
        self.sweep();
        match found {
            Ok((sockets, namespaces)) => {
                let held = if self.core.flows.has_unreadable(&namespaces) { self.held() } else { None };
                self.core.end_flow_dump(&sockets, &Covered { namespaces, held, is_first_of_two: false });
            }
            Err(error) => {
                self.core.flows.abandon_dump();
                warn!("UDP sockets that were there before are not known: {error}");
            }
        }
        self.core.telling.hand_over(&self.outputs);
    }

    /// The sockets that somebody has open; `None` where files do not tell them by their cookies (before 5.12).
    fn held(&mut self) -> Option<hashbrown::HashSet<u64>> {
        if !self.capture.has_cookies() {
            return None;
        }
        let Self { capture, core, outputs, .. } = self;
        let files = capture.files(|rings| _ = drain(rings, core, outputs)).inspect_err(|error| {
            warn!("it is not known which UDP sockets are left in network namespaces that cannot be read: {error}");
        });
        self.catch_up();
        Some(files.ok()?.iter().map(|file| file.socket).collect())
    }
}
