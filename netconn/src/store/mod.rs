//! The history: all events of this host, in files of the state folder that stay within limits, for `netconn search`.
//!
//! Events are appended to a segment of NDJSON by the thread of an output ([`Writer`]). Another thread, the keeper, has closed
//! segments converted to Parquet by a child process, and removes what is too old or too much. What the names of the files
//! promise is in [`name`], how no event is lost or doubled in `docs/history.md`.

mod folder;
mod status;
mod convert;
mod keeper;
mod segment;

use std::{path::PathBuf, time::Duration};

pub use segment::Writer;
pub use status::Status;

/// A history has room for this many segments of the greatest length: what goes when it is full is a small part of it.
const SEGMENTS_MIN: u64 = 16;

/// What a history is, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its files are.
    pub folder: PathBuf,
    /// Group whose members may read them.
    pub group: String,
    /// How much it may be.
    pub limits: Limits,
    /// How long things take.
    pub pace: Pace,
}

/// How much a history may be; the oldest segments go first.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all files.
    pub bytes: u64,
    /// Age of the latest event of a file.
    pub age: Duration,
    /// At this length a segment is closed.
    segment_bytes: u64,
}

impl Limits {
    /// Those of the configuration.
    pub fn new(bytes: u64, age: Duration, pace: Pace) -> Self {
        Self { bytes, age, segment_bytes: pace.segment_bytes.min(bytes / SEGMENTS_MIN) }
    }
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest segment.
    segment_bytes: u64,
    /// How long a segment stays beside the Parquet that was made of it, for those who read it.
    grace: Duration,
    /// How long a conversion may take. With a processor that is never idle it has one part in 300 of it (`WEIGHT_IDLEPRIO`,
    /// `kernel/sched/sched.h`): half a second of work are some minutes.
    limit: Duration,
    /// How long until something that failed is tried again, the first time.
    retry: Duration,
}

impl Pace {
    /// For everybody.
    pub const NORMAL: Self = Self {
        segment_bytes: 64 << 20,
        grace: Duration::from_secs(60),
        limit: Duration::from_secs(3600),
        retry: Duration::from_secs(600),
    };
    /// For tests, which do not wait for minutes.
    pub const HURRIED: Self = Self {
        segment_bytes: 256 << 10,
        grace: Duration::from_secs(1),
        limit: Duration::from_secs(15),
        retry: Duration::from_millis(500),
    };
}
