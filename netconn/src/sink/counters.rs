//! What an output counts: events written, waiting and lost; bytes in its queue. Its thread and the engine share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sink::{Batch, EventCounts, EventNote};

/// Memory of an event in a queue beside its line. It bounds the number of batches as well, each of which has an event.
const NOTE_BYTES: u64 = size_of::<EventNote>() as u64 + 64;

/// Events that an output has lost since the start, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLosses {
    /// Its queue had no room for them.
    pub queue: EventCounts,
    /// Its sink could not write them.
    pub refused: EventCounts,
}

impl OutputLosses {
    /// Returns what was lost since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { queue: self.queue.since(before.queue), refused: self.refused.since(before.refused) }
    }
}

/// Counts that one thread adds to and others read.
#[derive(Debug, Default)]
pub(super) struct SharedCounts {
    events: AtomicU64,
    outgoing: AtomicU64,
    incoming: AtomicU64,
}

impl SharedCounts {
    pub(super) fn add(&self, counts: EventCounts) {
        let EventCounts { events, outgoing, incoming } = counts;
        // A reader in between sees part of it, and the rest at its next look.
        self.events.fetch_add(events, Ordering::Relaxed);
        self.outgoing.fetch_add(outgoing, Ordering::Relaxed);
        self.incoming.fetch_add(incoming, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> EventCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EventCounts { events: load(&self.events), outgoing: load(&self.outgoing), incoming: load(&self.incoming) }
    }
}

/// What the thread of an output and the engine share. Counters are independent of each other: relaxed access is enough.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) written: SharedCounts,
    pub(super) lost_queue: SharedCounts,
    pub(super) lost_refused: SharedCounts,
    /// The sink told them as counts instead of writing them.
    pub(super) folded: SharedCounts,
    /// Bytes in the queue.
    pub(super) queued_bytes: AtomicU64,
    /// Batches that have left the queue, written or not.
    pub(super) done_batches: AtomicU64,
    /// The last write failed.
    pub(super) is_failing: AtomicBool,
    /// Nobody can read this output any more.
    pub(super) is_gone: AtomicBool,
    /// An order to open the destination again is in the queue.
    pub(super) is_reopening: AtomicBool,
    /// Batches with a lower number are given up: the first that was sent has number 0.
    pub(super) given_up_before: AtomicU64,
}

impl Counters {
    /// Returns which of the events that were sent are neither written nor counted as lost or folded.
    pub(super) fn waiting(&self, sent: EventCounts) -> EventCounts {
        [&self.written, &self.lost_queue, &self.lost_refused, &self.folded]
            .into_iter()
            .fold(sent, |waiting, counts| waiting.since(counts.load()))
    }

    /// Whether the batch with this number is given up.
    pub(super) fn is_given_up(&self, number: u64) -> bool {
        number < self.given_up_before.load(Ordering::Relaxed)
    }

    /// Notes that a batch has left the queue.
    pub(super) fn leave(&self, batch: &Batch) {
        self.queued_bytes.fetch_sub(batch_cost(batch), Ordering::Relaxed);
        self.done_batches.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns how much of a queue an event takes.
pub(super) fn cost(note: &EventNote) -> u64 {
    u64::from(note.length) + NOTE_BYTES
}

/// Returns how much of a queue a batch takes.
pub(super) fn batch_cost(batch: &Batch) -> u64 {
    batch.lines.len() as u64 + batch.events() * NOTE_BYTES
}
