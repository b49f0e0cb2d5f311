//! What a history consists of, and which of its segments have to be removed.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, SystemTime},
};

use netconn_model::segment_name::SegmentName;

use crate::store::{
    HistoryLimits, REAL_MULTIPLE, SEGMENT_AGE_MAX, SEGMENTS_MIN,
    age_clock::LastWritten,
    directory::{DiskSpace, HistoryFile},
    ratio::{ConvertedRatio, WHOLE},
    scarcity::Scarcity,
};

/// When others fill the file system, the history shrinks to a tenth of its limit and no further: nobody can make it forget
/// everything.
const KEPT_PART: u64 = 10;
/// Events stay for this part of the time of which the history has events: a flood must not make it short at once, however long it is.
const SPAN_PART: u32 = 4;

/// The files of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentFiles {
    /// The NDJSON before the Parquet. When the removal of both is interrupted, the Parquet is left, which counts alone.
    pub(super) names: Vec<SegmentName>,
    pub(super) bytes: u64,
    /// Those of its Parquet file.
    pub(super) parquet_bytes: u64,
    /// When it was last written, as far as is known, epoch milliseconds.
    pub(super) written: u64,
    /// The same by the time of day alone.
    pub(super) shown: u64,
    pub(super) is_converted: bool,
    /// Its conversion has failed.
    pub(super) is_failing: bool,
}

/// Longest time in which a segment is written, milliseconds.
const SEGMENT_MS: u64 = SEGMENT_AGE_MAX.as_millis() as u64;

/// Returns when a history was last written; `None` if there is none.
pub(super) fn last_written(segments: &BTreeMap<u64, SegmentFiles>) -> Option<LastWritten> {
    let (from, last) = segments.last_key_value()?;
    // From the last one back, as long as the time of day was ahead and, from one segment to the next, not behind what it had been.
    let (mut ahead_since, mut shown) = (*from, last.shown);
    for (from, files) in segments.iter().rev() {
        if files.shown > shown || files.shown <= from + SEGMENT_MS {
            break;
        }
        (ahead_since, shown) = (*from, files.shown);
    }
    // FROM is the only time here that was believed when it was written: times of events and of files jump with the time of day.
    let believed = last.written.min(from + SEGMENT_MS);
    Some(LastWritten { believed, shown: last.shown, ahead_for: from - ahead_since })
}

/// Corrects when those segments were written whose FROM is in the future at `now` (epoch milliseconds): they were begun under a clock
/// that was far ahead, or after such a segment, because names are in the order of writing. They would never become too old.
pub(super) fn correct_future(segments: &mut BTreeMap<u64, SegmentFiles>, now: u64) {
    let latest = now.saturating_add(SEGMENT_MS);
    // Each was written after all that came before, and before the one that came next.
    let earlier = segments.range(..=latest).map(|(_, files)| files.written).filter(|written| *written <= latest);
    let earlier = earlier.max().unwrap_or(0);
    let mut next = latest;
    for (_, files) in segments.range_mut(latest.saturating_add(1)..).rev() {
        files.written = files.shown.max(earlier).min(next);
        next = files.written;
    }
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
        segment.parquet_bytes += if name.to().is_some() { *bytes } else { 0 };
        segment.is_converted |= name.to().is_some();
        let modified = || modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        // Of all bounds the latest counts: a segment goes a little late rather than early. All events of a segment may be much
        // older than FROM: those of connections that are older than netconn.
        segment.shown = segment.shown.max(name.to().unwrap_or_else(modified));
        segment.written = segment.written.max(name.from()).max(segment.shown);
    }
    segments
}

/// What decides how much of a history may stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) limits: HistoryLimits,
    pub(super) space: DiskSpace,
    /// What becomes of segments that are not converted; `None` if nothing does, so that they count in full.
    pub(super) ratio: Option<ConvertedRatio>,
}

/// How much a history takes, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Of its files as they are.
    pub(super) real: u64,
    /// Of its files as they will be.
    pub(super) converted: u64,
}

impl Size {
    /// Whether a history of this size exceeds another one.
    fn exceeds(self, most: Self) -> bool {
        self.real > most.real || self.converted > most.converted
    }
}

impl Room {
    /// Returns how much a segment takes.
    fn size_of(&self, segment: &SegmentFiles) -> Size {
        let SegmentFiles { bytes, parquet_bytes, is_converted, is_failing, .. } = segment;
        let converted = match (is_converted, is_failing) {
            // Its NDJSON is about to go.
            (true, _) => *parquet_bytes,
            (false, true) => *bytes,
            (false, false) => self.expected(*bytes),
        };
        Size { real: *bytes, converted }
    }

    fn expected(&self, segment: u64) -> u64 {
        self.ratio.map_or(segment, |ratio| ratio.expected(segment))
    }

    /// Returns how much the whole history takes.
    fn used(&self, segments: &BTreeMap<u64, SegmentFiles>) -> Size {
        segments.values().map(|segment| self.size_of(segment)).fold(Size::default(), |sum, size| Size {
            real: sum.real + size.real,
            converted: sum.converted + size.converted,
        })
    }

    /// Returns how many times its converted size a history may take.
    fn multiple(&self) -> u64 {
        if self.ratio.is_some() { REAL_MULTIPLE } else { 1 }
    }

    /// Returns how much of the file system it may take.
    fn affordable(&self, segments: &BTreeMap<u64, SegmentFiles>) -> u64 {
        let Self { limits, space, .. } = self;
        // What is free now, plus what the history has, less what others are due.
        let left = (self.used(segments).real + space.free).saturating_sub(space.reserve);
        left.max(limits.bytes / KEPT_PART * self.multiple())
    }

    /// Returns the size at which a segment is closed: little space is shared by as many segments as much is, and the converter gets
    /// the events of the last one sooner.
    pub(super) fn segment_bytes(&self, segments: &BTreeMap<u64, SegmentFiles>) -> u64 {
        self.limits.segment_bytes.min(self.affordable(segments) / self.multiple() / SEGMENTS_MIN)
    }

    /// Returns how much a history may take, given which segments are being written or converted.
    pub(super) fn most(&self, segments: &BTreeMap<u64, SegmentFiles>, busy: &HashSet<u64>) -> Size {
        let growing: u64 =
            segments.iter().filter(|(from, _)| busy.contains(from)).map(|(_, segment)| segment.bytes).sum();
        // The live segment may reach its full size before the next look, so that much is set aside for it.
        // What busy segments have already is counted as used, so it is given back here.
        let spare = self.segment_bytes(segments).saturating_sub(growing);
        let (bytes, multiple, affordable) = (self.limits.bytes, self.multiple(), self.affordable(segments));
        Size {
            real: (bytes * multiple).saturating_sub(spare).min(affordable),
            // The rest of the space is for segments that wait.
            converted: bytes.saturating_sub(self.expected(spare)).min(affordable / multiple),
        }
    }

    /// Returns how much may be written before events that should stay at `now` (epoch milliseconds) have to go. `written` is the
    /// position that the writer had when these segments were listed.
    pub(super) fn scarcity(
        &self,
        segments: &BTreeMap<u64, SegmentFiles>,
        busy: &HashSet<u64>,
        (now, written): (u64, u64),
    ) -> Scarcity {
        if self.limits.floor.is_zero() {
            return Scarcity::NONE;
        }
        let (used, most) = (self.used(segments), self.most(segments, busy));
        let oldest = segments.keys().next().copied().unwrap_or(now);
        let span = Duration::from_millis(now.saturating_sub(oldest));
        let part = self.ratio.map_or(WHOLE, ConvertedRatio::part);
        // The other half is for four shares, see `sink/fold.rs`. Of the space for segments that wait, a half is for whoever comes first.
        let left = (most.converted / 2).saturating_sub(used.converted);
        let left_lines = u64::try_from(u128::from(left) * u128::from(WHOLE) / u128::from(part)).unwrap_or(u64::MAX);
        let left_whole = (most.real / 4 * 3).saturating_sub(used.real);
        Scarcity {
            from: written.saturating_add(left_lines.min(left_whole)),
            whole_from: written.saturating_add(left_whole),
            part,
            room: most.converted,
            floor: self.limits.floor.max(span / SPAN_PART),
        }
    }

    /// Returns the segments that have to be removed, the oldest first: those that are too old at `now` (epoch milliseconds), and
    /// as many as exceed the size. The `busy` ones, which are being written or converted, are never among them.
    pub(super) fn surplus(&self, segments: &BTreeMap<u64, SegmentFiles>, busy: &HashSet<u64>, now: u64) -> Vec<u64> {
        let (mut used, most) = (self.used(segments), self.most(segments, busy));
        let too_old = too_old(self.limits, now);
        let mut surplus = Vec::new();
        // In the order of writing, so the oldest go first, whatever the times of their events; a segment that is too old goes
        // even if there is room.
        for (from, segment) in segments.iter().filter(|(from, _)| !busy.contains(from)) {
            if segment.written < too_old || used.exceeds(most) {
                let size = self.size_of(segment);
                // `used` holds this segment, so the subtractions cannot underflow.
                used = Size { real: used.real - size.real, converted: used.converted - size.converted };
                surplus.push(*from);
            }
        }
        surplus
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::store::{
        HistoryTiming,
        age_clock::{AgeClock, ClockReading},
    };

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
        Room { limits, space, ratio: None }.surplus(days, &busy, NOW).iter().map(|from| (NOW - from) / DAY).collect()
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
        let surplus =
            |bytes| Room { limits: limits(bytes), space: SPACE, ratio: None }.surplus(&segments, &HashSet::new(), NOW);
        assert!(surplus(1 << 20).is_empty(), "none is too old");
        assert_eq!(surplus(150), [yesterday]);
    }

    #[test]
    fn a_machine_that_runs_for_an_hour_each_week_forgets_what_is_too_old() {
        let age = Duration::from_millis(30 * DAY);
        let limits = HistoryLimits::new(1 << 20, age, HistoryTiming::NORMAL);
        let room = Room { limits, space: SPACE, ratio: None };
        let hour = DAY / 24;
        let mut files: Vec<HistoryFile> = Vec::new();
        for week in 0..30 {
            let shown = NOW + week * 7 * DAY;
            let at =
                |since_boot: u64| ClockReading::new((shown + since_boot) as i64, Duration::from_millis(since_boot));
            let mut clock = AgeClock::new(last_written(&group(&files)), age, at(0));
            let from = clock.time(at(0)) - 10_000;
            files.push(entry(&format!("events-{from:013}-{:013}.parquet", shown + hour), 1, 0));
            let now = clock.time(at(hour));
            let mut segments = group(&files);
            correct_future(&mut segments, now);
            let surplus = room.surplus(&segments, &HashSet::new(), now);
            files.retain(|file| !surplus.contains(&file.name.from()));
            // Thirty days are five of these; at most three more while the clock was not believed.
            assert!(files.len() <= 8, "week {week}: {}", files.len());
            assert!(week < 5 || files.len() >= 5, "week {week}: {}", files.len());
        }
    }

    #[test]
    fn what_was_begun_in_the_future_becomes_old_all_the_same() {
        let future = NOW + 3000 * DAY;
        let limits = HistoryLimits::new(1 << 20, Duration::from_millis(30 * DAY), HistoryTiming::NORMAL);
        let room = Room { limits, space: SPACE, ratio: None };
        let all = [
            // From before; then a start with a wrong clock, two segments under the right one, and one that is being written.
            entry(&format!("events-{:013}-{:013}.parquet", NOW - 9 * DAY, NOW - 8 * DAY), 1, 0),
            entry(&format!("events-{future:013}-{:013}.parquet", future + 5), 1, 0),
            entry(&format!("events-{:013}-{:013}.parquet", future + 6, NOW + DAY), 1, 0),
            entry(&format!("events-{:013}.ndjson", future + 7), 1, NOW + 20 * DAY),
            entry(&format!("events-{:013}.ndjson", future + 8), 1, NOW + 29 * DAY),
        ];
        let left = |days: u64| {
            let now = NOW + days * DAY;
            let mut segments = group(&all);
            correct_future(&mut segments, now);
            let surplus = room.surplus(&segments, &HashSet::from([future + 8]), now);
            all.len() - surplus.len()
        };
        assert_eq!([21, 23, 30, 32, 49, 51, 1000].map(left), [5, 4, 4, 2, 2, 1, 1]);
        // A clock that is behind removes nothing, whatever the times of files are.
        let mut segments = group(&all);
        correct_future(&mut segments, 7 * DAY);
        assert!(room.surplus(&segments, &HashSet::new(), 7 * DAY).is_empty());
    }

    #[test]
    fn times_that_jump_do_not_say_when_the_history_was_last_written() {
        assert_eq!(last_written(&group(&[])), None);
        let from = NOW - 5000;
        let written =
            |name: String, modified| last_written(&group(&[entry(&name, 100, modified)])).map(|last| last.believed);
        let segment = || format!("events-{from:013}.ndjson");
        assert_eq!(written(segment(), NOW), Some(NOW));
        assert_eq!(written(segment(), NOW + 31 * DAY), Some(from + DAY));
        assert_eq!(written(format!("events-{from:013}-{:013}.parquet", NOW + 31 * DAY), NOW), Some(from + DAY));
        assert_eq!(written(segment(), 7), Some(from), "the clock was set back");
        // How long the time of day was ahead is told by several segments, unless it has gone back in between.
        let ahead_for = |days: [u64; 3]| {
            let entries = [0, 1, 2].map(|number| {
                let from = NOW + number * DAY;
                entry(&format!("events-{from:013}-{:013}.parquet", from + days[number as usize] * DAY), 100, 0)
            });
            last_written(&group(&entries)).unwrap().ahead_for / DAY
        };
        assert_eq!([[9, 9, 9], [0, 9, 9], [9, 0, 9], [9, 9, 0], [20, 9, 9]].map(ahead_for), [2, 1, 0, 0, 1]);
    }

    #[test]
    fn what_waits_counts_as_what_it_will_be() {
        // Evidence, and a flood that is not converted yet.
        let flood: Vec<u64> = (1..=10).map(|number| NOW - 1000 + number).collect();
        let mut all = vec![entry(&format!("events-{:013}-{:013}.parquet", NOW - 5000, NOW - 4000), 500, 0)];
        all.extend(flood.iter().map(|from| entry(&format!("events-{from:013}.ndjson"), 1000, NOW)));
        let segments = group(&all);
        let limits = HistoryLimits::new(8000, Duration::from_millis(DAY), HistoryTiming::NORMAL);
        let surplus = |ratio, space| Room { limits, space, ratio }.surplus(&segments, &HashSet::new(), NOW).len();
        assert_eq!(surplus(Some(ConvertedRatio::default()), SPACE), 0);
        assert_eq!(surplus(None, SPACE), 4, "nothing converts it");
        let mut ratio = ConvertedRatio::default();
        ratio.learn(1000, 900);
        assert_eq!(surplus(Some(ratio), SPACE), 4, "it does not become smaller");
        // However small it will be: what is on the disk now counts as well.
        let limits = HistoryLimits::new(4000, Duration::from_millis(DAY), HistoryTiming::NORMAL);
        let room = Room { limits, space: SPACE, ratio: Some(ConvertedRatio::default()) };
        assert_eq!(room.surplus(&segments, &HashSet::new(), NOW).len(), 4, "twice the limit, less a growing segment");
        let space = DiskSpace { free: 0, reserve: 3500 };
        let room = Room { space, ..room };
        assert_eq!(room.surplus(&segments, &HashSet::new(), NOW).len(), 4);
    }

    #[test]
    fn a_segment_that_cannot_be_converted_counts_in_full() {
        let mut segments = group(&[entry(&format!("events-{:013}.ndjson", NOW - 5000), 4000, NOW)]);
        let limits = HistoryLimits::new(3000, Duration::from_millis(DAY), HistoryTiming::NORMAL);
        let room = Room { limits, space: SPACE, ratio: Some(ConvertedRatio::default()) };
        assert!(room.surplus(&segments, &HashSet::new(), NOW).is_empty());
        segments.values_mut().for_each(|segment| segment.is_failing = true);
        assert_eq!(room.surplus(&segments, &HashSet::new(), NOW).len(), 1);
    }

    #[test]
    fn room_is_scarce_when_half_is_taken() {
        let hour = Duration::from_secs(3600);
        let limits = HistoryLimits::new(1600, Duration::from_millis(90 * DAY), HistoryTiming::NORMAL).with_floor(hour);
        let room = Room { limits, space: SPACE, ratio: None };
        let scarcity = |room: Room, segments| room.scarcity(&segments, &HashSet::new(), (NOW, 7000));
        // A sixteenth is for the segment that will grow.
        assert_eq!(
            scarcity(room, group(&[])),
            Scarcity { from: 7000 + 750, whole_from: 7000 + 1125, part: WHOLE, room: 1500, floor: hour }
        );
        let ten = scarcity(room, days(10));
        assert_eq!((ten.from, ten.whole_from), (7000, 7125));
        assert_eq!(ten.floor, Duration::from_millis(10 * DAY / 4), "the longer it reaches back, the longer it has to");
        let limits = limits.with_floor(Duration::ZERO);
        assert_eq!(scarcity(Room { limits, ..room }, days(10)), Scarcity::NONE);
        // What is converted takes little room, so there is more for lines; and as much again for what waits.
        let room = Room { ratio: Some(ConvertedRatio::default()), ..room };
        let converted = scarcity(room, days(7));
        assert_eq!((converted.from, converted.whole_from), (7000 + 92 * 1000 / 157, 7000 + 1625));
        assert_eq!(converted.part, 157);
    }

    #[test]
    fn little_space_makes_small_segments() {
        let limits = HistoryLimits::new(32_000, Duration::from_millis(DAY), HistoryTiming::NORMAL);
        let ratio = Some(ConvertedRatio::default());
        let bytes = |free| Room { limits, space: DiskSpace { free, reserve: 500 }, ratio }.segment_bytes(&group(&[]));
        assert_eq!([1 << 30, 64_500, 32_500, 0].map(bytes), [2000, 2000, 1000, 200]);
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
