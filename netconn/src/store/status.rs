//! How the history is: what its two threads tell each other, and the engine.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use netconn_model::health::Conversion;

const CONVERSIONS: [Conversion; 4] = [Conversion::Idle, Conversion::Running, Conversion::Missing, Conversion::Failing];
/// Stands for no segment, and for no oldest one.
const NONE: u64 = u64::MAX;

/// Counters of the history. Each is written by one thread only.
#[derive(Debug)]
pub struct Status {
    /// FROM of the segment that grows. It is said before its file is there, so that nobody takes it for a closed one.
    live: AtomicU64,
    /// Bytes of that segment.
    pub(super) live_bytes: AtomicU64,
    /// Bytes of all other files.
    pub(super) closed_bytes: AtomicU64,
    /// Files, that one counted in.
    pub(super) files: AtomicU64,
    oldest: AtomicU64,
    /// Closed segments that are not converted yet.
    pub(super) waiting: AtomicU64,
    /// Segments converted since the start.
    pub(super) converted: AtomicU64,
    /// Conversions that have failed since the start.
    pub(super) failures: AtomicU64,
    /// Events are not written, because the file system is full.
    pub(super) full: AtomicBool,
    /// The folder is ready, and the segment of the last daemon is announced if this one goes on with it. Until then nobody
    /// touches what is there: it may be about to grow.
    pub(super) ready: AtomicBool,
    /// Place in [`CONVERSIONS`].
    conversion: AtomicU8,
}

impl Default for Status {
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
        }
    }
}

impl Status {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed) + self.closed_bytes.load(Ordering::Relaxed)
    }

    /// Files.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Epoch milliseconds from which on there are events.
    pub fn oldest(&self) -> Option<u64> {
        Some(self.oldest.load(Ordering::Relaxed)).filter(|oldest| *oldest != NONE)
    }

    /// Closed segments that are not converted yet.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Segments converted since the start.
    pub fn converted(&self) -> u64 {
        self.converted.load(Ordering::Relaxed)
    }

    /// Conversions that have failed since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether events are lost at the moment, because the file system is full.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// What becomes of closed segments.
    pub fn conversion(&self) -> Conversion {
        let place = usize::from(self.conversion.load(Ordering::Relaxed));
        CONVERSIONS.get(place).copied().unwrap_or(Conversion::Idle)
    }

    pub(super) fn set_conversion(&self, conversion: Conversion) {
        self.conversion.store(conversion as u8, Ordering::Relaxed);
    }

    pub(super) fn set_oldest(&self, from: Option<u64>) {
        self.oldest.store(from.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// FROM of the segment that grows. To be asked after the folder was listed: a segment that is in the list and is not the
    /// one that grows is closed.
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
        let status = Status::default();
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
