//! Flows against the kernel's map: counters, flows whose records were lost, and flows that have ended.

use netconn_common::{FOLDED_FROM, Flow, FlowKey};
use netconn_model::fact::CloseReason;

use super::{EntryKind, Flows};
use crate::table::Effects;

/// Ends that a sweep reports at most, 7 MB of events. The others stay in the kernel's map until the next sweep.
const ENDS_AT_ONCE: usize = 8192;

impl Flows {
    /// Compares the table with all flows of the kernel, read at `now` (nanoseconds since boot) or later, before any record
    /// that came meanwhile is applied. Updates counters, adds flows whose records were lost, and ends those that are idle or
    /// that the map does not have.
    pub fn sweep(&mut self, kernel: &[(FlowKey, Flow)], now: u64, effects: &mut impl Effects) {
        // Marks what this sweep has met, so that what is left can be found without a set.
        self.sweeps = self.sweeps.wrapping_add(1);
        let (mut met, mut ended) = (0, 0);
        self.is_unfinished = false;
        // Unfolds below three quarters, and folds when the map is full: the gap keeps sockets from changing to and fro.
        let has_room = kernel.len() < self.limits.flows / 4 * 3;
        // What the kernel has: updates, adds and ends entries.
        for (key, flow) in kernel {
            if key.version == 0 && flow.first_ns == 0 {
                // Nothing was folded yet, and nothing will be if the socket is gone.
                if self.entries.socket(key.socket).is_none() {
                    effects.take_flow(key);
                }
                continue;
            }
            // Known, or added because its record was lost; `None` if it has ended.
            let Some((slot, is_new)) = self.find_or_insert(key, flow, effects) else {
                // With an entry under this key the map has begun a later flow since it was read: that one stays.
                if self.entries.slot_of(key).is_none() {
                    effects.take_flow(key); // Its end was reported already.
                }
                continue;
            };
            met += 1;
            let Some(entry) = self.entries.get_mut(slot) else { continue };
            entry.connection.compared = self.sweeps;
            entry.connection.set_counters(flow);
            self.note_question(slot);
            let end = self.end_of(key, flow, now);
            let end = end.or_else(|| self.can_unfold(key, has_room).then_some((CloseReason::Idle, now)));
            if let Some((reason, at)) = end.filter(|_| ended < ENDS_AT_ONCE) {
                self.end(slot, reason, at, effects);
                // It has left the table, against whose size `met` is compared.
                met -= 1;
                ended += 1;
            } else if end.is_some() {
                self.is_unfinished = true;
            // Announced as the outputs have room: after a loss there may be thousands. One that has ended was announced
            // with its end.
            } else if is_new && let Some(entry) = self.entries.get(slot) {
                self.pending.defer(slot, &entry.connection);
            }
        }
        // Usually all flows were met.
        if met < self.len() {
            self.end_unmet(now, effects);
        }
        // After the sweep, which asks what has ended lately.
        self.recent.age(now);
    }

    /// Returns whether a folded flow can end, so that the peers of its socket have flows of their own again: there is room,
    /// and the socket has few others.
    fn can_unfold(&self, key: &FlowKey, has_room: bool) -> bool {
        let has_few = || {
            let socket = self.entries.socket(key.socket);
            // Half of the share at which it was folded, so that it is not folded again at once.
            socket.is_none_or(|socket| socket.flows.len() < self.limits.flows / FOLDED_FROM as usize / 2)
        };
        key.version == 0 && has_room && has_few()
    }

    /// Returns why and when a flow has ended, if it has.
    fn end_of(&self, key: &FlowKey, flow: &Flow, now: u64) -> Option<(CloseReason, u64)> {
        // A datagram that was on its way has begun a flow after the socket was closed.
        if self.recent.has_socket(key.socket) {
            return Some((CloseReason::Local, now));
        }
        let is_both = flow.packets_sent != 0 && flow.packets_received != 0;
        let idle_ns = if is_both { self.limits.idle_both_ns } else { self.limits.idle_ns };
        let end_ns = flow.last_ns.saturating_add(idle_ns);
        (end_ns <= now).then_some((CloseReason::Idle, end_ns))
    }

    /// Ends the flows that the kernel did not have at `now`.
    fn end_unmet(&mut self, now: u64, effects: &mut impl Effects) {
        let slots = self.entries.slots.starting_at(0);
        let unmet = slots.filter(|(_, entry)| {
            let connection = &entry.connection;
            // Bound sockets are not in the map, and what began after `now` may have missed the walk.
            matches!(entry.kind, EntryKind::Flow(_)) && connection.compared != self.sweeps && connection.born_ns < now
        });
        let unmet: Vec<u32> = unmet.map(|(slot, _)| slot).collect();
        for slot in unmet {
            self.end(slot, CloseReason::Unknown, now, effects);
        }
    }
}
