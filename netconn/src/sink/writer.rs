//! The thread of an output: it carries out orders, counts what became of the events, and logs failures rarely.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvError, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{
    line_file::GIVEN_UP,
    sink::{Batch, EventCounts, Sink, counters::Counters},
    store::HistoryLimits,
};

/// A row of failures is over when none has happened for this long.
const CALM: Duration = Duration::from_secs(10);
/// Time between two messages about one row of failures.
const LOG_REPEAT: Duration = Duration::from_secs(600);

/// What the thread of an output has to do.
pub(super) enum Order {
    Write(Batch),
    Reopen,
    LimitHistory(HistoryLimits),
}

/// The thread's half of an output.
pub(super) struct Writer {
    sink: Box<dyn Sink>,
    destination: String,
    counters: Arc<Counters>,
    /// Number of batches that were taken out of the queue before the one in hand.
    taken: u64,
    failures: Option<FailureRow>,
}

impl Writer {
    pub(super) fn new(sink: Box<dyn Sink>, destination: String, counters: Arc<Counters>) -> Self {
        Self { sink, destination, counters, taken: 0, failures: None }
    }

    /// Carries out orders until nobody can send any more.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = self.next_order(orders) {
            match order {
                Order::Write(batch) => {
                    if self.counters.is_given_up(self.taken) {
                        self.counters.lost_queue.add(EventCounts::of(&batch.notes));
                        self.counters.leave(&batch);
                    } else {
                        self.select_and_write(&batch);
                    }
                    self.taken += 1;
                }
                Order::Reopen => {
                    // First: what asks from now on may mean a file that is not there yet.
                    self.counters.is_reopening.store(false, Ordering::Relaxed);
                    self.sink.reopen();
                }
                Order::LimitHistory(limits) => self.sink.limit_history(limits),
            }
        }
    }

    /// Waits for an order, and lets the sink do what becomes due until one comes.
    fn next_order(&mut self, orders: &Receiver<Order>) -> Result<Order, RecvError> {
        loop {
            // Asked again in each round: `on_due` and each write change what is due. A sink without a schedule blocks
            // here.
            let Some(due) = self.sink.due() else { return orders.recv() };
            match orders.recv_timeout(due) {
                Ok(order) => return Ok(order),
                Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
                Err(RecvTimeoutError::Timeout) => self.sink.on_due(),
            }
        }
    }

    /// Writes what the sink selects of a batch.
    pub(super) fn select_and_write(&mut self, batch: &Batch) {
        let (selected, folded) = self.sink.select(batch);
        self.counters.folded.add(folded);
        if let Some(selected) = selected {
            self.write(&selected);
        }
        // Only now: until it is written, the batch takes memory as if it were in the queue.
        self.counters.leave(batch);
    }

    /// Writes a batch and counts what became of it.
    fn write(&mut self, batch: &Batch) {
        let Self { sink, destination, counters, taken, failures } = self;
        let is_given_up = || counters.is_given_up(*taken);
        match sink.write(batch, &is_given_up) {
            Ok(()) => {
                counters.written.add(EventCounts::of(&batch.notes));
                counters.is_failing.store(false, Ordering::Relaxed);
                // The clock is read only if there is something to ask it for.
                if failures.is_some()
                    && let Some(lost) = note_success(failures, Instant::now())
                {
                    warn!("events are written to {destination} again; {lost} are lost");
                }
            }
            Err(failure) => {
                // Counted in the bytes, because the failure knows only how far the whole lines reach.
                let written = batch.lines.get(..failure.written).unwrap_or_default();
                let written = written.iter().filter(|byte| **byte == b'\n').count();
                let (written, lost) = batch.notes.split_at_checked(written).unwrap_or((&batch.notes, &[]));
                counters.written.add(EventCounts::of(written));
                if failure.error.kind() == GIVEN_UP && is_given_up() {
                    // As what waits behind it in the queue. The engine tells it.
                    counters.lost_queue.add(EventCounts::of(lost));
                    return;
                }
                counters.lost_refused.add(EventCounts::of(lost));
                counters.is_failing.store(true, Ordering::Relaxed);
                if sink.is_gone(&failure.error) {
                    // The engine polls this flag; the loss itself is counted above.
                    if !counters.is_gone.swap(true, Ordering::Relaxed) {
                        warn!("nobody reads {destination} any more: further events are lost to it");
                    }
                } else if let Some(sum) = note_failure(failures, lost.len() as u64, Instant::now()) {
                    let advice = sink.advice(&failure.error);
                    warn!("events are lost: cannot write to {destination}: {}{advice}; {sum} so far", failure.error);
                }
            }
        }
    }
}

/// Failures with no pause of [`CALM`] between them. A full disk takes a line now and then and refuses the next: each of these must
/// not be in the log.
#[derive(Clone, Copy, Debug)]
struct FailureRow {
    /// Events that it has cost.
    lost: u64,
    last: Instant,
    logged: Instant,
    /// No write has succeeded since the last failure, as far as the log says.
    is_open: bool,
    /// The log has said that events are written again, since it last said that they are lost.
    is_answered: bool,
}

/// Notes a failure that has lost some events. Returns what the row has lost so far, if it is time to log it.
fn note_failure(failures: &mut Option<FailureRow>, lost: u64, now: Instant) -> Option<u64> {
    let Some(row) = failures else {
        *failures = Some(FailureRow { lost, last: now, logged: now, is_open: true, is_answered: false });
        return Some(lost);
    };
    *row = FailureRow { lost: row.lost + lost, last: now, is_open: true, ..*row };
    if now - row.logged < LOG_REPEAT {
        return None;
    }
    (row.logged, row.is_answered) = (now, false);
    Some(row.lost)
}

/// Notes a write that has succeeded. Returns what the row of failures has lost, if it is time to log that it is over.
fn note_success(failures: &mut Option<FailureRow>, now: Instant) -> Option<u64> {
    let row = failures.as_mut()?;
    let is_over = now - row.last >= CALM;
    let is_due = row.is_open && (is_over || !row.is_answered);
    if is_due {
        (row.is_open, row.is_answered) = (false, true);
    }
    let lost = row.lost;
    if is_over {
        *failures = None;
    }
    is_due.then_some(lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::POLL;

    #[test]
    fn what_fails_once_is_logged_with_its_end() {
        let start = Instant::now();
        let mut failures = None;
        assert_eq!(note_success(&mut failures, start), None);
        assert_eq!(note_failure(&mut failures, 3, start), Some(3));
        assert_eq!(note_success(&mut failures, start + POLL), Some(3), "at once");
        assert_eq!(note_success(&mut failures, start + CALM), None);
        assert_eq!(note_failure(&mut failures, 4, start + CALM), Some(4), "another row");
    }

    #[test]
    fn a_full_disk_does_not_fill_the_log() {
        let start = Instant::now();
        let (mut failures, mut lines) = (None, 0);
        // A quarter of an hour with four failures a second, and a line that still fits after each.
        for quarter in 0..3600 {
            let now = start + Duration::from_millis(250 * quarter);
            lines += usize::from(note_failure(&mut failures, 1, now).is_some());
            lines += usize::from(note_success(&mut failures, now + POLL).is_some());
        }
        assert_eq!(lines, 4);
        assert_eq!(note_success(&mut failures, start + Duration::from_secs(900) + CALM), Some(3600));
        assert!(failures.is_none());
    }
}
