//! Tells the manager of services that the engine's loop goes on, and what it has done.

use std::time::{Duration, Instant};

use crate::{engine::run::Engine, service::Notifier};

/// Time between two reports of what was done.
const STATUS: Duration = Duration::from_secs(5);

/// What is told, and when.
pub(super) struct Heartbeat {
    notifier: Notifier,
    /// Time between two messages.
    pause: Duration,
    /// When the next one is due.
    due: Instant,
    /// When the status is told again.
    status_due: Instant,
    /// The status that the manager has from here; empty if it has another one.
    told: String,
}

impl Heartbeat {
    pub(super) fn new(notifier: Notifier) -> Self {
        let pause = notifier.feed().unwrap_or(STATUS).min(STATUS);
        let now = Instant::now();
        Self { notifier, pause, due: now, status_due: now, told: String::new() }
    }

    /// Returns the longest sleep after which a message is not late.
    pub(super) fn longest_sleep(&self) -> Duration {
        if self.notifier.is_on() { self.pause } else { Duration::MAX }
    }
}

impl Engine {
    /// Tells the manager of services that the loop goes on, if that is due. Called in each round: it costs a look at the clock.
    pub(super) fn beat(&mut self) {
        if !self.heartbeat.notifier.is_on() {
            return;
        }
        let now = Instant::now();
        if now < self.heartbeat.due {
            return;
        }
        if self.heartbeat.notifier.take_told() {
            // The start or a reload has told another status, which is left for a while.
            self.heartbeat.told.clear();
            self.heartbeat.status_due = now + STATUS;
        }
        let mut message = String::new();
        if self.heartbeat.notifier.feed().is_some() {
            message.push_str("WATCHDOG=1\n");
        }
        let mut status = None;
        if now >= self.heartbeat.status_due {
            self.heartbeat.status_due = now + STATUS;
            status = Some(self.status()).filter(|status| *status != self.heartbeat.told);
        }
        if let Some(status) = &status {
            message.push_str(&format!("STATUS={status}\n"));
        }
        let heartbeat = &mut self.heartbeat;
        // A manager that has no room is told in the next round.
        if message.is_empty() || heartbeat.notifier.try_send(message.trim_end()) {
            heartbeat.due = now + heartbeat.pause;
            heartbeat.told = status.unwrap_or_else(|| std::mem::take(&mut heartbeat.told));
        } else {
            heartbeat.status_due = now;
        }
    }

    /// Returns connections, events and losses in one line.
    pub(super) fn status(&self) -> String {
        let connections = self.state.table.len();
        let flows: usize = self.state.flows.protocols().map(|(_, count)| count).sum();
        let events = self.publisher.events();
        let records = self.loss_report.reported().records();
        let lost = self.loss_report.reported().events.total() + self.publisher.lost_by_outputs();
        let lost = if records == 0 && lost == 0 {
            "none lost".to_owned()
        } else {
            format!("{lost} lost; {records} records of the kernel lost")
        };
        format!("{connections} connections, {flows} flows; {events} events, {lost}")
    }
}
