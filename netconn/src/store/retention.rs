//! What a history consists of, and which of its segments have to be removed.

use std::{
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

use netconn_model::segment_name::SegmentName;

use crate::store::{
    HistoryLimits, SEGMENT_AGE_MAX,
    directory::{DiskSpace, HistoryFile},
};

/// When others fill the file system, the history shrinks to a tenth of its limit and no further: nobody can make it forget
/// everything.
const KEPT_PART: u64 = 10;

/// The files of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentFiles {
    /// The NDJSON before the Parquet. When the removal of both is interrupted, the Parquet is left, which counts alone.
    pub(super) names: Vec<SegmentName>,
    pub(super) bytes: u64,
    /// When it was last written, as far as is known, epoch milliseconds.
    pub(super) written: u64,
    pub(super) is_converted: bool,
}

/// Returns when a history was last written, as far as that can be believed, epoch milliseconds; `None` if there is none.
pub(super) fn last_written(segments: &BTreeMap<u64, SegmentFiles>) -> Option<u64> {
    // FROM is the only time here that was believed when it was written: times of events and of files jump with the time of day.
    // A segment is written for a day at most.
    segments.last_key_value().map(|(from, files)| files.written.min(from + SEGMENT_AGE_MAX.as_millis() as u64))
}

/// Returns the moment before which a segment must have been last written to be too old at `now`; both in epoch milliseconds.
pub(super) fn too_old(limits: HistoryLimits, now: u64) -> u64 {
    now.saturating_sub(limits.age.as_millis() as u64)
}

/// Groups files by their segment, in the order in which the segments were written.
pub(super) fn group(files: &[HistoryFile]) -> BTreeMap<u64, SegmentFiles> {
    let mut segments: BTreeMap<u64, SegmentFiles> = BTreeMap::new();
    for HistoryFile { name, bytes, modified } in files {
        let segment = segments.entry(name.from()).or_default();
        segment.names.push(*name);
        // `SegmentName` sorts the segment before its Parquet file; the order of the removal relies on it.
        segment.names.sort();
        segment.bytes += bytes;
        segment.is_converted |= name.to().is_some();
        let modified = || modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        // Of all bounds the latest counts: a segment goes a little late rather than early. All events of a segment may be much
        // older than FROM: those of connections that are older than netconn.
        segment.written = segment.written.max(name.from()).max(name.to().unwrap_or_else(modified));
    }
    segments
}

/// Returns the segments that have to be removed, the oldest first: those that are too old at `now` (epoch milliseconds), and as
/// many as exceed the size. The `busy` ones, which are being written or converted, are never among them.
pub(super) fn surplus(
    segments: &BTreeMap<u64, SegmentFiles>,
    busy: &HashSet<u64>,
    limits: HistoryLimits,
    space: DiskSpace,
    now: u64,
) -> Vec<u64> {
    let mut used: u64 = segments.values().map(|segment| segment.bytes).sum();
    let growing: u64 = segments.iter().filter(|(from, _)| busy.contains(from)).map(|(_, segment)| segment.bytes).sum();
    // The live segment may reach its full size before the next look, so that much is set aside for it.
    // What busy segments have already is counted in `used`, so it is given back here.
    let allowed = limits.bytes.saturating_sub(limits.segment_bytes) + growing.min(limits.segment_bytes);
    // What is free now, plus what the history has, less what others are due.
    let affordable = (used + space.free).saturating_sub(space.reserve).max(limits.bytes / KEPT_PART);
    let most = allowed.min(affordable);
    let too_old = too_old(limits, now);
    let mut surplus = Vec::new();
    // In the order of writing, so the oldest go first, whatever the times of their events; a segment that is too old goes even if there is room.
    for (from, segment) in segments.iter().filter(|(from, _)| !busy.contains(from)) {
        if segment.written < too_old || used > most {
            // `used` holds this segment, so the subtraction cannot underflow.
            used -= segment.bytes;
            surplus.push(*from);
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::store::HistoryTiming;

    const DAY: u64 = 86_400_000;
    const NOW: u64 = 1_767_225_600_000;
    /// DiskSpace enough.
    const SPACE: DiskSpace = DiskSpace { free: u64::MAX / 4, reserve: 100 };

    fn entry(name: &str, bytes: u64, written: u64) -> HistoryFile {
        let modified = UNIX_EPOCH + Duration::from_millis(written);
        HistoryFile { name: SegmentName::parse(name).unwrap(), bytes, modified }
    }

    /// A segment of each of the last days, the oldest first, with the place for its number; each of 100 bytes.
    fn days(count: u64) -> BTreeMap<u64, SegmentFiles> {
        let entries = (0..count).map(|day| {
            let from = NOW - (count - day) * DAY;
            entry(&format!("events-{from:013}-{:013}.parquet", from + DAY - 1), 100, 0)
        });
        group(&entries.collect::<Vec<_>>())
    }

    /// The surplus, as days before now.
    fn surplus_of(
        days: &BTreeMap<u64, SegmentFiles>,
        busy: &[u64],
        (bytes, age): (u64, u64),
        space: DiskSpace,
    ) -> Vec<u64> {
        let limits = HistoryLimits::new(bytes, Duration::from_millis(age * DAY), HistoryTiming::NORMAL);
        let busy = busy.iter().map(|day| NOW - day * DAY).collect();
        surplus(days, &busy, limits, space, NOW).iter().map(|from| (NOW - from) / DAY).collect()
    }

    #[test]
    fn the_oldest_go_first() {
        let days = days(10);
        assert!(surplus_of(&days, &[], (1 << 20, 30), SPACE).is_empty());
        assert_eq!(surplus_of(&days, &[], (1 << 20, 7), SPACE), [10, 9, 8], "too old: their last event is");
        // A sixteenth is for the segment that will grow: 800 bytes are 750 for these.
        assert_eq!(surplus_of(&days, &[], (800, 30), SPACE), [10, 9, 8], "too much");
        assert_eq!(
            surplus_of(&days, &[10, 8], (800, 5), SPACE),
            [9, 7, 6],
            "too old, without those that are worked on"
        );
        assert_eq!(surplus_of(&days, &[], (0, 30), SPACE).len(), 10);
    }

    #[test]
    fn old_events_do_not_make_a_segment_old() {
        // Written yesterday and today; the latter has connections that were there before netconn, for example of a restart.
        let (yesterday, today) = (NOW - DAY, NOW - 1000);
        let all = [
            entry(&format!("events-{today:013}-{:013}-{:013}.parquet", NOW - 20 * DAY, NOW - 40 * DAY), 100, 0),
            entry(&format!("events-{yesterday:013}-{:013}.parquet", yesterday + 5), 100, 0),
        ];
        let segments = group(&all);
        let limits = |bytes| HistoryLimits::new(bytes, Duration::from_millis(7 * DAY), HistoryTiming::NORMAL);
        assert!(surplus(&segments, &HashSet::new(), limits(1 << 20), SPACE, NOW).is_empty(), "none is too old");
        assert_eq!(surplus(&segments, &HashSet::new(), limits(150), SPACE, NOW), [yesterday]);
    }

    #[test]
    fn times_that_jump_do_not_say_when_the_history_was_last_written() {
        assert_eq!(last_written(&group(&[])), None);
        let from = NOW - 5000;
        let written = |name: String, modified| last_written(&group(&[entry(&name, 100, modified)]));
        let segment = || format!("events-{from:013}.ndjson");
        assert_eq!(written(segment(), NOW), Some(NOW));
        assert_eq!(written(segment(), NOW + 31 * DAY), Some(from + DAY));
        assert_eq!(written(format!("events-{from:013}-{:013}.parquet", NOW + 31 * DAY), NOW), Some(from + DAY));
        assert_eq!(written(segment(), 7), Some(from), "the clock was set back");
    }

    #[test]
    fn the_history_gives_way_but_not_all_of_it() {
        let days = days(10);
        let space = |free| DiskSpace { free, reserve: 500 };
        assert!(surplus_of(&days, &[], (4000, 30), space(500)).is_empty());
        assert_eq!(surplus_of(&days, &[], (4000, 30), space(250)), [10, 9, 8]);
        assert_eq!(surplus_of(&days, &[], (4000, 30), space(0)), [10, 9, 8, 7, 6]);
        assert_eq!(surplus_of(&days, &[], (9600, 30), space(0)), [10], "a tenth of what it may have stays");
    }

    #[test]
    fn both_files_of_a_segment_are_one() {
        let all = [
            entry("events-1767225600000-1767225699999.parquet", 10, 0),
            entry("events-1767225600000.ndjson", 100, 7),
            entry("events-1767225700000.ndjson", 200, 1_767_225_799_999),
        ];
        let segments = group(&all);
        let [first, second] = segments.values().collect::<Vec<_>>()[..] else { panic!("{segments:?}") };
        assert_eq!((first.bytes, first.written, first.is_converted), (110, 1_767_225_699_999, true));
        assert_eq!(first.names, [all[1].name, all[0].name], "the segment goes first");
        assert_eq!((second.bytes, second.written, second.is_converted), (200, 1_767_225_799_999, false));
    }
}
