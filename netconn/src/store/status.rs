//! The state of the history: what its writer and its keeper tell each other, and what the engine reports of them.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use netconn_model::health::{Confinement, Conversion};

use crate::store::{
    age_clock::{AgeClock, ClockReading},
    scarcity::Scarcity,
};

/// What [`HistoryStatus::conversion`] stores as an index.
const CONVERSIONS: [Conversion; 4] = [Conversion::Idle, Conversion::Running, Conversion::Missing, Conversion::Failing];
/// Stands for no live segment, and for no oldest one.
const NONE: u64 = u64::MAX;

/// Counters and flags of the history. One thread only writes each of them: the writer or the keeper.
#[derive(Debug)]
pub struct HistoryStatus {
    /// FROM of the live segment, the one that is being written. The writer sets it before it creates the file, so that the
    /// keeper never takes that file for a closed segment.
    live: AtomicU64,
    /// Size of the live segment, bytes.
    pub(super) live_bytes: AtomicU64,
    /// Size of all other files, bytes.
    pub(super) closed_bytes: AtomicU64,
    /// Number of files, the live segment included.
    pub(super) files: AtomicU64,
    oldest: AtomicU64,
    /// Number of closed segments that are not converted yet.
    pub(super) waiting: AtomicU64,
    /// Number of segments converted since the start.
    pub(super) converted: AtomicU64,
    /// Number of conversions that have failed since the start.
    pub(super) failures: AtomicU64,
    /// No event is written, because the file system is full.
    pub(super) full: AtomicBool,
    /// The directory is prepared, and `live` names the last daemon's segment if this daemon continues it. Until then the keeper
    /// leaves all files alone: the writer may be about to append to one.
    pub(super) ready: AtomicBool,
    /// Index into [`CONVERSIONS`].
    conversion: AtomicU8,
    /// Bytes of all lines that this daemon has written.
    pub(super) written: AtomicU64,
    /// See [`HistoryStatus::scarcity`]. A lock, because its numbers belong together; it is taken once for each batch.
    scarcity: Mutex<Scarcity>,
    /// Size at which a segment is closed, bytes, if that is less than in [`HistoryLimits`](crate::store::HistoryLimits).
    pub(super) segment_bytes: AtomicU64,
    /// Number of segments that are too old by the time of day, but not by the time that is believed.
    pub(super) overdue: AtomicU64,
    /// The time that is believed. A lock, because each look at it may change it; the keeper looks when it looks after the folder,
    /// the writer when it begins a segment.
    age_clock: Mutex<AgeClock>,
    /// Of the last conversion. Locked for a copy only, by the keeper once for each conversion and for each answer about health.
    confinement: Mutex<Option<Confinement>>,
}

impl Default for HistoryStatus {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            live: AtomicU64::new(NONE),
            live_bytes: zero(),
            closed_bytes: zero(),
            files: zero(),
            oldest: AtomicU64::new(NONE),
            waiting: zero(),
            converted: zero(),
            failures: zero(),
            full: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            conversion: AtomicU8::new(Conversion::Idle as u8),
            written: zero(),
            scarcity: Mutex::new(Scarcity::NONE),
            segment_bytes: AtomicU64::new(u64::MAX),
            overdue: zero(),
            age_clock: Mutex::new(AgeClock::new(None, Duration::ZERO, ClockReading::now())),
            confinement: Mutex::new(None),
        }
    }
}

impl HistoryStatus {
    /// Returns the size of all files, bytes.
    pub fn bytes(&self) -> u64 {
        // Two threads write them, so that a segment that is being closed may count twice or not at all for a moment.
        self.live_bytes.load(Ordering::Relaxed) + self.closed_bytes.load(Ordering::Relaxed)
    }

    /// Returns the number of files.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Returns when the oldest segment was begun, epoch milliseconds: since then the history is kept.
    pub fn oldest(&self) -> Option<u64> {
        Some(self.oldest.load(Ordering::Relaxed)).filter(|oldest| *oldest != NONE)
    }

    /// Returns the number of closed segments that are not converted yet.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns the number of segments converted since the start.
    pub fn converted(&self) -> u64 {
        self.converted.load(Ordering::Relaxed)
    }

    /// Returns the number of conversions that have failed since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether events are being lost, because the file system is full.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Returns the bytes of all lines that this daemon has written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns how much may be written before events that should stay have to go.
    pub fn scarcity(&self) -> Scarcity {
        *self.scarcity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_scarcity(&self, scarcity: Scarcity) {
        *self.scarcity.lock().unwrap_or_else(PoisonError::into_inner) = scarcity;
    }

    /// Returns the number of segments that are too old, but stay because the time of day has jumped.
    pub fn overdue(&self) -> u64 {
        self.overdue.load(Ordering::Relaxed)
    }

    /// Sets the clock by which the history ages, before its first segment is begun.
    pub(super) fn set_age_clock(&self, clock: AgeClock) {
        *self.age_clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    /// Returns the time by which the history ages, epoch milliseconds.
    pub(super) fn believed_time(&self, now: ClockReading) -> u64 {
        self.age_clock.lock().unwrap_or_else(PoisonError::into_inner).time(now)
    }

    /// Returns what becomes of closed segments.
    pub fn conversion(&self) -> Conversion {
        let index = usize::from(self.conversion.load(Ordering::Relaxed));
        // Every stored index comes from `set_conversion`, so the default is never used.
        CONVERSIONS.get(index).copied().unwrap_or(Conversion::Idle)
    }

    pub(super) fn set_conversion(&self, conversion: Conversion) {
        self.conversion.store(conversion as u8, Ordering::Relaxed);
    }

    /// Returns how the last conversion was confined.
    pub fn confinement(&self) -> Option<Confinement> {
        *self.confinement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_confinement(&self, confinement: Confinement) {
        *self.confinement.lock().unwrap_or_else(PoisonError::into_inner) = Some(confinement);
    }

    pub(super) fn set_oldest(&self, from: Option<u64>) {
        self.oldest.store(from.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// Returns the FROM of the live segment. Call it after the directory was listed: a listed segment that is not the live one
    /// is closed then. In the other order a segment created in between would look closed.
    pub(super) fn live(&self) -> Option<u64> {
        Some(self.live.load(Ordering::SeqCst)).filter(|from| *from != NONE)
    }

    pub(super) fn set_live(&self, from: Option<u64>) {
        self.live.store(from.unwrap_or(NONE), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read() {
        let status = HistoryStatus::default();
        assert_eq!((status.live(), status.oldest(), status.conversion()), (None, None, Conversion::Idle));
        status.set_live(Some(0));
        status.set_oldest(Some(7));
        assert_eq!((status.live(), status.oldest()), (Some(0), Some(7)));
        for conversion in CONVERSIONS {
            status.set_conversion(conversion);
            assert_eq!(status.conversion(), conversion);
        }
    }
}
