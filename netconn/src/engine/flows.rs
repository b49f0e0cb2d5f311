//! Flows of datagrams, which are compared with the kernel from time to time.

use std::time::Duration;

use tracing::warn;

use crate::{
    engine::{
        core::Core,
        run::{Loop, drain},
    },
    table::Coverage,
};

/// How often flows are compared with the kernel as long as there are any.
const SWEEP: Duration = Duration::from_secs(10);

impl Core {
    /// Compares flows with the kernel.
    fn sweep(&mut self) {
        let now = self.telling.clock.now();
        match self.maps.all() {
            Ok(kernel) => {
                let (_, flows, mut effects) = self.tables();
                flows.sweep(&kernel, now, &mut effects);
            }
            Err(error) => warn!("what flows have moved is not known: {error}"),
        }
        self.fold();
    }

    /// Lets the kernel fold the flows of sockets that have too many.
    pub(super) fn fold(&mut self) {
        for socket in self.flows.take_sockets_to_fold() {
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
                let open_sockets = if self.core.flows.has_unreadable(&namespaces) { self.held() } else { None };
                let coverage = Coverage { namespaces, open_sockets, is_first_of_two: false };
                let now = self.core.telling.clock.now();
                let (_, flows, mut effects) = self.core.tables();
                flows.end_dump(&sockets, &coverage, now, &mut effects);
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
