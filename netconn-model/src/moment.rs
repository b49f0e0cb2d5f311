//! Moments of events and rows, and how they are written as text.

use std::fmt;

/// A moment, nanoseconds since the epoch, written as RFC 3339 in UTC with nine digits of the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub i64);

impl Moment {
    /// Returns the epoch milliseconds, rounded down.
    pub fn milliseconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

/// Writes RFC 3339 in UTC, `2026-01-01T00:00:00.000000001Z`.
impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every 64-bit number of nanoseconds is a moment that jiff knows (1677 to 2262).
        let time = jiff::Timestamp::from_nanosecond(self.0.into()).unwrap_or_default();
        write!(formatter, "{time:.9}")
    }
}
