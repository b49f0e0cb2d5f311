//! What is announced later than it began: what a dump has found, bit by bit, and what waits for its owner.

use std::time::Duration;

use crate::{
    engine::{
        core::Core,
        run::{GATHER, Loop, TICK},
    },
    os,
    sink::Output,
};

/// Connections that a dump has found are announced so many at a time: a few milliseconds.
const FOUND_AT_ONCE: usize = 1000;

impl Core {
    /// Whether something was found that nobody was told of yet.
    pub(super) fn has_backlog(&self) -> bool {
        self.table.has_backlog() || self.flows.has_backlog()
    }

    fn announce_found(&mut self) {
        let now = self.telling.clock.now();
        let (table, flows, mut effects) = self.tables();
        table.announce_backlog(FOUND_AT_ONCE, now, &mut effects);
        flows.announce_backlog(FOUND_AT_ONCE, now, &mut effects);
    }
}

impl Loop {
    /// Announces some of what a dump has found, if the outputs keep up. Whether there is more to announce.
    pub(super) fn announce_found(&mut self) -> bool {
        if self.outputs.iter().all(Output::has_room) && self.core.has_backlog() {
            self.core.announce_found();
            self.core.telling.hand_over(&self.outputs);
            if !self.core.has_backlog() {
                os::release_free_memory();
            }
        }
        self.core.has_backlog()
    }

    /// Announces what has waited long enough for its owner, and gives how long to sleep at most.
    pub(super) fn announce_overdue(&mut self, now: u64) -> Duration {
        self.announce_accepted(now).min(self.announce_flows(now))
    }

    /// The same for accepted connections.
    fn announce_accepted(&mut self, now: u64) -> Duration {
        let Some(deadline) = self.core.table.next_deadline() else { return TICK };
        if deadline > now {
            return TICK.min(Duration::from_nanos(deadline - now));
        }
        if self.owners.may_look(now) {
            self.find_owners(&[]);
        }
        let (table, _, mut effects) = self.core.tables();
        if table.announce_overdue(now, &mut effects) != 0 {
            self.owners.want(now);
        }
        self.core.telling.hand_over(&self.outputs);
        GATHER
    }

    /// The same for flows, whose owners are not looked for.
    fn announce_flows(&mut self, now: u64) -> Duration {
        let (_, flows, mut effects) = self.core.tables();
        if flows.next_deadline().is_some_and(|deadline| deadline <= now) {
            flows.announce_overdue(now, &mut effects);
            self.core.telling.hand_over(&self.outputs);
        }
        let pause = self.core.flows.next_deadline().map(|deadline| Duration::from_nanos(deadline.saturating_sub(now)));
        pause.map_or(TICK, |pause| pause.clamp(GATHER, TICK))
    }
}
