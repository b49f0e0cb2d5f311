//! Events that are published later than they happened: of connections that a dump has found, little by little, and of
//! connections that wait for their owner.

use std::time::Duration;

use crate::{
    engine::{
        run::Engine,
        schedule::{GATHER, TICK},
        state::State,
    },
    os,
};

/// Connections and flows of a backlog that are announced at once: a few milliseconds.
const BACKLOG_AT_ONCE: usize = 1000;

impl State {
    /// Returns whether a dump or sweep has found something that is not announced yet.
    pub(super) fn has_backlog(&self) -> bool {
        self.table.has_backlog() || self.flows.has_backlog()
    }
}

impl Engine {
    /// Announces some of what dumps and sweeps have found, if the outputs keep up. An output that has had no room for `patience` holds
    /// up the others no longer. Returns whether anything was announced.
    pub(super) fn announce_backlog(&mut self, patience: Duration) -> bool {
        // Only while the outputs have room: 100,000 events of a start would overrun every queue at once.
        if !self.state.has_backlog() || self.publisher.is_held_up(patience) {
            return false;
        }
        let now = self.state.clock.now();
        self.publisher.set_late(&self.state.clock, true);
        let (table, flows, mut effects) = self.state.tables(&mut self.publisher);
        table.announce_backlog(BACKLOG_AT_ONCE, now, &mut effects);
        flows.announce_backlog(BACKLOG_AT_ONCE, now, &mut effects);
        self.publisher.set_late(&self.state.clock, false);
        if !self.state.has_backlog() {
            // Gives back what the queue and the batches took: 6 MB after a start with 100,000 connections.
            os::release_free_memory();
        }
        true
    }

    /// Announces what has waited long enough for its owner, and returns how long to sleep at most.
    pub(super) fn announce_overdue(&mut self, now: u64) -> Duration {
        self.announce_accepted(now).min(self.announce_flows(now))
    }

    /// Announces accepted connections that have waited long enough.
    fn announce_accepted(&mut self, now: u64) -> Duration {
        let Some(deadline) = self.state.table.next_deadline() else { return TICK };
        // Nothing is due: sleep until it is.
        if deadline > now {
            return TICK.min(Duration::from_nanos(deadline - now));
        }
        // A scan may find the owners before the events say that only the listener is known. Without the limit a busy
        // server would cause a scan for each connection.
        if self.schedule.owner_scans.is_allowed(now) {
            self.scan_owners();
        }
        let (table, _, mut effects) = self.state.tables(&mut self.publisher);
        if table.announce_overdue(now, &mut effects) != 0 {
            // They are announced with their listener's owner; a later scan may find their own.
            self.schedule.owner_scans.want(now);
        }
        // These events are late already: they do not wait for the next records to fill the batch.
        self.publisher.flush(&self.state.clock);
        GATHER
    }

    /// Announces flows that have waited long enough. Scans of open files do not look for their owners.
    fn announce_flows(&mut self, now: u64) -> Duration {
        let (_, flows, mut effects) = self.state.tables(&mut self.publisher);
        if flows.next_deadline().is_some_and(|deadline| deadline <= now) {
            flows.announce_overdue(now, &mut effects);
            self.publisher.flush(&self.state.clock);
        }
        // Asked again, because those that were due have left the queue. The lower bound gathers flows that are due one
        // after another: without it each would end a sleep.
        let deadline = self.state.flows.next_deadline();
        deadline.map_or(TICK, |deadline| Duration::from_nanos(deadline.saturating_sub(now)).clamp(GATHER, TICK))
    }
}
