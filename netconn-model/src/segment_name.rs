//! File names in the history's folder: their form, what a name promises, and which files count. A program that reads the
//! folder needs to know no more than this.
//!
//! | name | contents |
//! |---|---|
//! | `events-FROM.ndjson` | a segment as it was written; the latest one may still grow |
//! | `events-FROM-TO.parquet` | the same segment, converted; no event is earlier than FROM |
//! | `events-FROM-TO-EARLIEST.parquet` | the same, with events from before FROM, the earliest at EARLIEST |
//! | `.…`, `….tmp` | being written, or left by a killed process (`.convert` is a folder); only the daemon may touch it |
//!
//! FROM, TO and EARLIEST are milliseconds since the epoch, with 13 digits. FROM identifies the segment and says when it was
//! begun: a segment with a greater FROM was written later. It says nothing about the events of an NDJSON segment: those of
//! connections that existed before netconn, for example, may be much earlier. No event of a converted segment is later than
//! TO, or earlier than EARLIEST, which is less than FROM.
//!
//! While a segment is converted, and for a minute after, both its files exist, and the Parquet file counts ([`current`]).
//! A listing that takes less than a minute therefore has every event exactly once, even if files come and go meanwhile. A
//! reader that finds a listed segment gone takes the Parquet file with the same FROM; if there is none, the segment was
//! the oldest and has been deleted to make room. In an NDJSON segment, text after the last line feed is still being
//! written.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

/// Name of the history's folder in the state folder.
pub const FOLDER: &str = "events";
/// The value of `loss.output` for losses of the history.
pub const HISTORY: &str = "history";
/// Number of digits of a time.
const DIGITS: usize = 13;
/// The latest time that a name can hold, epoch milliseconds: in the year 2286.
pub const LATEST: u64 = 9_999_999_999_999;

/// The name of a file of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentName {
    /// `events-FROM.ndjson`
    Segment {
        /// When it was begun, epoch milliseconds.
        from: u64,
    },
    /// `events-FROM-TO.parquet` or `events-FROM-TO-EARLIEST.parquet`
    Converted {
        /// FROM of the segment.
        from: u64,
        /// No event is later, epoch milliseconds.
        to: u64,
        /// No event is earlier, epoch milliseconds; at most `from`.
        earliest: u64,
    },
}

impl SegmentName {
    /// Parses a file name without its folder; `None` for other files.
    pub fn parse(name: &str) -> Option<Self> {
        // Strict on purpose: a name that is nearly right is not netconn's and must not be removed as old.
        let rest = name.strip_prefix("events-")?;
        if let Some(from) = rest.strip_suffix(".ndjson") {
            return Some(Self::Segment { from: time(from)? });
        }
        let mut times = rest.strip_suffix(".parquet")?.splitn(3, '-').map(time);
        let (from, to) = (times.next()??, times.next()??);
        // A name has EARLIEST only if it differs from FROM: one file must not have two names.
        let earliest = times.next().map_or(Some(from), |earliest| earliest.filter(|earliest| *earliest < from))?;
        Some(Self::Converted { from, to, earliest })
    }

    /// Returns the name of a converted segment, given the times of its first and its last event, epoch milliseconds. Without
    /// events it holds nothing but the moment of FROM.
    pub fn converted(from: u64, events: Option<(i64, i64)>) -> Self {
        // Names cannot say times before 1970 or after 2286: the nearest one is taken.
        let time = |time: i64| u64::try_from(time).unwrap_or(0).min(LATEST);
        let (earliest, to) = events.map_or((from, from), |(first, last)| (time(first), time(last)));
        Self::Converted { from, to, earliest: earliest.min(from) }
    }

    /// Returns FROM: when the segment was begun, epoch milliseconds.
    pub fn from(self) -> u64 {
        match self {
            Self::Segment { from } | Self::Converted { from, .. } => from,
        }
    }

    /// Returns TO: no event in the file is later, epoch milliseconds. `None` for an NDJSON segment.
    pub fn to(self) -> Option<u64> {
        match self {
            Self::Segment { .. } => None,
            Self::Converted { to, .. } => Some(to),
        }
    }

    /// Returns whether the file may hold events of a time range, epoch milliseconds.
    pub fn may_hold(self, range: &RangeInclusive<u64>) -> bool {
        match self {
            // It may hold events of connections that are older than netconn, and more is being written.
            Self::Segment { .. } => true,
            Self::Converted { to, earliest, .. } => earliest <= *range.end() && to >= *range.start(),
        }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment { from } => write!(formatter, "events-{from:0DIGITS$}.ndjson"),
            Self::Converted { from, to, earliest } => {
                write!(formatter, "events-{from:0DIGITS$}-{to:0DIGITS$}")?;
                if earliest < from {
                    write!(formatter, "-{earliest:0DIGITS$}")?;
                }
                formatter.write_str(".parquet")
            }
        }
    }
}

/// Returns whether a name is that of an unfinished file.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".tmp")
}

/// Returns the files that count among all in the folder, in the order in which they were written: each event is in exactly one of them.
pub fn current(names: impl IntoIterator<Item = SegmentName>) -> Vec<SegmentName> {
    let mut segments = BTreeMap::new();
    for name in names {
        // The variants are in this order, so that the Parquet file is greater than its segment.
        segments.entry(name.from()).and_modify(|known: &mut SegmentName| *known = name.max(*known)).or_insert(name);
    }
    segments.into_values().collect()
}

fn time(digits: &str) -> Option<u64> {
    // `parse` alone would take a sign and fewer digits: one time would have several names.
    (digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: SegmentName = SegmentName::Segment { from: 1_767_225_600_000 };
    const B: SegmentName =
        SegmentName::Converted { from: 1_767_225_600_000, to: 1_767_225_699_999, earliest: 1_767_225_600_000 };
    /// With the event of a connection that is older than netconn.
    const C: SegmentName =
        SegmentName::Converted { from: 1_767_225_600_000, to: 1_767_225_699_999, earliest: 1_767_000_000_000 };

    #[test]
    fn names_are_written_and_understood() {
        assert_eq!(A.to_string(), "events-1767225600000.ndjson");
        assert_eq!(B.to_string(), "events-1767225600000-1767225699999.parquet");
        assert_eq!(C.to_string(), "events-1767225600000-1767225699999-1767000000000.parquet");
        assert_eq!(SegmentName::Segment { from: 7 }.to_string(), "events-0000000000007.ndjson");
        for other in [
            "",
            "events-.ndjson",
            "events-1.ndjson",
            "events-+767225600000.ndjson",
            "events-1767225600000.ndjson.gz",
            "events-1767225600000.parquet",
            "events-1767225600000-1767225699999.parquet.tmp",
            ".events-1767225600000-1767225699999.parquet",
            "events-1767225600000-1767225699999.ndjson",
            "events-1767225600000-1767225699999-1767225600000.parquet",
            "events-1767225600000-1767225699999-1767000000000-1767000000000.parquet",
            "events-1767225600000-1767225699999-.parquet",
        ] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
        assert!(is_temporary("events-1767225600000-1767225699999.parquet.tmp") && is_temporary(".x"));
        assert!(!is_temporary(&A.to_string()) && !is_temporary(&B.to_string()));
    }

    #[test]
    fn a_name_says_what_cannot_be_in_the_file() {
        let holds = |name: SegmentName, from: u64, to: u64| name.may_hold(&(from..=to));
        assert!(holds(A, 0, 0) && holds(A, LATEST, LATEST), "of connections that are older, and what is still to come");
        assert!(!holds(B, 0, 1_767_225_599_999) && holds(B, 0, 1_767_225_600_000));
        assert!(holds(B, 1_767_225_699_999, LATEST) && !holds(B, 1_767_225_700_000, LATEST));
        assert!(
            !holds(C, 0, 1_766_999_999_999) && holds(C, 0, 1_767_000_000_000) && holds(C, 1_767_100_000_000, LATEST)
        );
    }

    #[test]
    fn a_converted_segment_is_named_after_its_events() {
        let name = |events| SegmentName::converted(1_767_225_600_000, events);
        assert_eq!(name(Some((1_767_225_600_005, 1_767_225_699_999))), B);
        assert_eq!(name(Some((1_767_000_000_000, 1_767_225_699_999))), C);
        assert_eq!(name(None).to_string(), "events-1767225600000-1767225600000.parquet");
        // The clock was set back, or to nonsense.
        assert_eq!(name(Some((-5, 7))).to_string(), "events-1767225600000-0000000000007-0000000000000.parquet");
        assert_eq!(name(Some((i64::MAX, i64::MAX))).to(), Some(LATEST));
    }

    #[test]
    fn of_two_files_of_a_segment_the_converted_one_counts() {
        let other = SegmentName::Segment { from: 1_767_225_700_000 };
        assert_eq!(current([other, A, B]), [B, other]);
        assert_eq!(current([B, A]), [B]);
        assert_eq!(current([A]), [A]);
        assert_eq!(current([]), []);
    }

    proptest! {
        #[test]
        fn what_is_written_is_understood(from in 0..=LATEST, first in 0..=LATEST as i64, last in 0..=LATEST as i64) {
            for name in [SegmentName::Segment { from }, SegmentName::converted(from, Some((first, last)))] {
                prop_assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
            }
        }

        #[test]
        fn each_segment_counts_once(all in proptest::collection::vec((0..9_u64, proptest::option::of(0..9_u64)), 0..30)) {
            let names = all.iter().map(|(from, to)| match to {
                None => SegmentName::Segment { from: *from },
                Some(to) => SegmentName::Converted { from: *from, to: *to, earliest: *from },
            });
            let current = current(names.clone());
            prop_assert!(current.is_sorted_by(|one, next| one.from() < next.from()));
            for name in names {
                let counts = current.iter().find(|other| other.from() == name.from()).unwrap();
                prop_assert!(counts.to().is_some() || name.to().is_none());
            }
        }
    }
}
