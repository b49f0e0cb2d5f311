//! The history: the events of this host, kept within limits of size and age for `netconn search`.
//!
//! The thread of an output appends events to a segment of NDJSON ([`HistoryWriter`]). A second thread, the keeper, has closed
//! segments converted to Parquet by a child process and removes the oldest files. All state is in the names of the files, see
//! [`netconn_model::segment_name`]. `docs/history.md` says why no event is lost or doubled.

mod directory;
mod age_clock;
mod ratio;
mod scarcity;
mod status;
mod converter_user;
mod confine;
mod convert;
mod priority;
mod retention;
mod keeper;
mod segment;

use std::{path::PathBuf, time::Duration};

pub use scarcity::Scarcity;
pub use segment::HistoryWriter;
pub use status::HistoryStatus;

/// A full history consists of at least this many segments, so that the removal of one forgets little.
const SEGMENTS_MIN: u64 = 16;

/// Age at which a segment is closed in any case.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a history is, and where.
#[derive(Clone, Debug)]
pub struct HistorySettings {
    /// Where its files are.
    pub directory: PathBuf,
    /// Group whose members may read them.
    pub group: String,
    /// When files are removed and segments closed.
    pub limits: HistoryLimits,
    /// How long its work may take.
    pub timing: HistoryTiming,
}

/// Until segments are converted, a history takes at most this many times its limit.
const REAL_MULTIPLE: u64 = 2;

/// FROM is this much earlier than the moment at which a segment is begun: events are written some time after they happened, and
/// most names need no EARLIEST then.
const EARLIER_MS: u64 = 10_000;

/// How large and old a history may become. The oldest segments are removed first.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Largest size of all files, bytes. Segments that wait for their conversion count as what they will be.
    pub bytes: u64,
    /// Greatest age of a file since it was last written.
    pub age: Duration,
    /// Age of events that a flood must not push out; zero if it may push out all.
    pub floor: Duration,
    /// Size at which a segment is closed, bytes.
    segment_bytes: u64,
}

impl HistoryLimits {
    /// Creates limits whose segments are as large as `timing` allows, but not larger than a small part of `bytes`.
    pub fn new(bytes: u64, age: Duration, timing: HistoryTiming) -> Self {
        let segment_bytes = timing.segment_bytes.min(bytes / SEGMENTS_MIN);
        Self { bytes, age, floor: Duration::ZERO, segment_bytes }
    }

    /// Returns limits within which a flood pushes out nothing that is younger than this.
    #[must_use]
    pub fn with_floor(self, floor: Duration) -> Self {
        Self { floor, ..self }
    }
}

/// Durations, and the size that decides how often something happens. Tests use shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct HistoryTiming {
    /// Largest segment, bytes.
    segment_bytes: u64,
    /// How long a converted segment stays beside its Parquet file, for searches that have begun to read it.
    grace: Duration,
    /// Longest conversion. On CPUs that are never idle the converter has one part in 300 of a CPU (`WEIGHT_IDLEPRIO`,
    /// `kernel/sched/sched.h`): half a second of work takes some minutes.
    conversion: Duration,
    /// Pause before something that failed is tried again for the first time.
    retry: Duration,
}

impl HistoryTiming {
    /// The timing of every daemon but those of tests.
    pub const NORMAL: Self = Self {
        segment_bytes: 64 << 20,
        // Longer than any reader needs from its list to its last open.
        grace: Duration::from_secs(60),
        conversion: Duration::from_secs(3600),
        retry: Duration::from_secs(600),
    };
    /// The timing of `--test-fast-history`: seconds instead of minutes.
    pub const FAST: Self = Self {
        segment_bytes: 256 << 10,
        grace: Duration::from_secs(1),
        conversion: Duration::from_secs(15),
        retry: Duration::from_millis(500),
    };
}
