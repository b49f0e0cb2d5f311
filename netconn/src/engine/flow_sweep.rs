//! Flows of datagrams against the kernel's map, from time to time and before each snapshot.

use tracing::warn;

use crate::engine::{run::Engine, state::State};

impl Engine {
    /// Compares flows with the kernel's map if there are any and it is time to.
    pub(super) fn sweep_flows_if_due(&mut self, now: u64) {
        let flows = &self.state.flows;
        // An unfinished sweep has left ended flows in the kernel, where they take room from new ones: it goes on at the
        // next tick, not after ten seconds.
        if flows.is_unfinished() || (!flows.is_empty() && self.schedule.is_sweep_due(now)) {
            self.sweep_flows();
        }
    }

    /// Compares flows with the kernel's map.
    pub(super) fn sweep_flows(&mut self) {
        let now = self.state.clock.now();
        // Noted before the map is read, so that a map that cannot be read is not tried in each tick.
        self.schedule.swept(now);
        match self.state.flow_maps.all() {
            Ok(kernel) => {
                let (_, flows, mut effects) = self.state.tables(&mut self.publisher);
                flows.sweep(&kernel, now, &mut effects);
            }
            Err(error) => warn!("cannot read what flows have transferred: {error}"),
        }
        // A sweep adds flows whose records were lost: their socket may have too many only now.
        self.state.fold_flows();
        self.publisher.flush(&self.state.clock);
    }
}

impl State {
    /// Has the kernel fold the flows of sockets that have too many.
    pub(super) fn fold_flows(&mut self) {
        for socket in self.flows.take_sockets_to_fold() {
            self.flow_maps.fold(socket);
        }
        let is_folding = self.flows.folded() != 0;
        if is_folding && !self.has_logged_folding {
            warn!(
                "there are too many flows: what a socket exchanges with further ends is counted as one flow without a \
                 remote address; a larger max_flows in the configuration helps"
            );
        }
        // Logged again only after a time without folded flows.
        self.has_logged_folding = is_folding;
    }
}
