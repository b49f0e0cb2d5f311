//! The thread that keeps the history within its limits and has closed segments converted. It stores nothing but what the names
//! of the files say, so that it may be killed at any moment.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use netconn_model::{health::Conversion, segment_name::SegmentName};
use tracing::{debug, info, warn};

use crate::{
    search_program,
    store::{
        EARLIER_MS, HistoryLimits, HistoryTiming,
        age_clock::ClockReading,
        convert::{ConvertError, ConvertedSegment, Converter},
        directory::{self, DiskSpace},
        priority,
        ratio::ConvertedRatio,
        retention::{self, Room, SegmentFiles, Size},
        status::HistoryStatus,
    },
};

/// Pause between two looks at a running converter.
const CONVERTER_POLL: Duration = Duration::from_millis(200);
/// The same while more waits for it than should.
const HURRIED_POLL: Duration = Duration::from_millis(20);
/// When segments of this part of the space that the history may take wait for their conversion, it is hurried.
const BACKLOG_PART: u64 = 16;
/// Niceness of a conversion that is hurried: a tenth of a processor on which others work.
const HURRIED: i32 = 10;
/// Longest pause between two looks for files that are too old.
const DIRECTORY_POLL: Duration = Duration::from_secs(600);
/// Longest pause before a failed conversion is tried again, as a multiple of the first pause.
const RETRY_MAX: u32 = 32;
/// Pause before a converter is started again that could not be: memory or processes are short, or its program is being replaced.
const START_RETRY: Duration = Duration::from_secs(10);

/// The keeper's state.
pub(super) struct Keeper {
    pub(super) directory: PathBuf,
    pub(super) limits: HistoryLimits,
    /// What the limits are to be from the next look on: the writer changes it.
    wanted_limits: Arc<Mutex<HistoryLimits>>,
    pub(super) timing: HistoryTiming,
    pub(super) status: Arc<HistoryStatus>,
    converter: Option<Converter>,
    /// The niceness that the running converter was given, if it is hurried.
    hurried: Option<i32>,
    /// Learned from conversions.
    ratio: ConvertedRatio,
    /// Converted segments whose NDJSON is still there for readers, and since when.
    doubled: HashMap<u64, Instant>,
    /// Segments whose conversion has failed.
    failed: HashMap<u64, Retry>,
    /// No converter is started before, because the last one could not do anything.
    not_before: Option<Instant>,
    /// Why, as the log says it already.
    obstacle: Option<String>,
    /// The log already says that `netconn-search` is not installed.
    has_logged_missing: bool,
    /// The log already says that the directory cannot be read or changed.
    has_logged_error: bool,
    /// The log already says that the time of day is not believed.
    has_logged_clock: bool,
}

/// When a failed conversion is tried again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    /// The pause before that, which doubles with each failure.
    pause: Duration,
}

impl Keeper {
    pub(super) fn new(
        directory: PathBuf,
        wanted_limits: Arc<Mutex<HistoryLimits>>,
        timing: HistoryTiming,
        status: Arc<HistoryStatus>,
    ) -> Self {
        let limits = *wanted_limits.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            directory,
            limits,
            wanted_limits,
            timing,
            status,
            converter: None,
            hurried: None,
            ratio: ConvertedRatio::default(),
            doubled: HashMap::new(),
            failed: HashMap::new(),
            not_before: None,
            obstacle: None,
            has_logged_missing: false,
            has_logged_error: false,
            has_logged_clock: false,
        }
    }

    /// Looks after the directory whenever the writer sends a note, and at times by itself, until the writer has gone. A running
    /// converter is killed then: its segment stays as it is.
    pub(super) fn run(mut self, notes: &Receiver<()>) {
        let mut pause = DIRECTORY_POLL;
        loop {
            let is_noted = match notes.recv_timeout(pause) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.limits = *self.wanted_limits.lock().unwrap_or_else(PoisonError::into_inner);
            // Notes come with every full segment and, on a full disk, once a second; polls of the converter come five
            // times a second and must not list the directory each time.
            pause = self.look(is_noted || self.converter.is_none());
        }
    }

    /// Does what there is to do, and returns the time until the next look. If only the pause between two looks at the converter
    /// is over, `is_due` is false, and the directory is not listed unless the converter has ended.
    fn look(&mut self, is_due: bool) -> Duration {
        let was_converting = self.converter.is_some();
        // First, so that the list below has the file that it has just made.
        self.poll_converter();
        // An ended converter needs the list at once: the next segment waits.
        if !is_due && was_converting && self.converter.is_some() {
            return self.converter_poll();
        }
        match self.look_after_directory() {
            Ok(pause) => {
                self.has_logged_error = false;
                pause
            }
            Err(error) => {
                // Once for a row of failures; `Ok` above allows the next message.
                if !std::mem::replace(&mut self.has_logged_error, true) {
                    warn!("the history in {} cannot be looked after: {error}", self.directory.display());
                }
                self.timing.retry
            }
        }
    }

    /// Returns the time until the next look at the running converter.
    fn converter_poll(&self) -> Duration {
        if self.hurried.is_some() { HURRIED_POLL } else { CONVERTER_POLL }
    }

    fn poll_converter(&mut self) {
        let Some(converter) = &mut self.converter else { return };
        let Some(outcome) = converter.poll(self.timing.conversion) else { return };
        let from = converter.from;
        // Removes the work directory as well; the file has been moved out of it.
        self.converter = None;
        self.hurried = None;
        match outcome {
            Ok(ConvertedSegment { name, confinement }) => {
                debug!("created {name}");
                self.status.set_confinement(confinement);
                let length =
                    |name: SegmentName| fs::metadata(self.directory.join(name.to_string())).map(|file| file.len());
                // Both are there unless somebody else has removed them.
                if let (Ok(segment), Ok(parquet)) = (length(SegmentName::Segment { from }), length(name)) {
                    self.ratio.learn(segment, parquet);
                }
                self.doubled.insert(from, Instant::now());
                self.failed.remove(&from);
                self.obstacle = None;
                self.status.converted.fetch_add(1, Ordering::Relaxed);
            }
            Err(error @ ConvertError::Unable { .. }) => {
                self.status.failures.fetch_add(1, Ordering::Relaxed);
                self.converter_failed(&error, self.timing.retry);
            }
            Err(error) => self.conversion_failed(from, &error),
        }
    }

    /// Waits before the next converter is started, for whatever segment: the program or the machine was the reason.
    fn converter_failed(&mut self, error: &ConvertError, pause: Duration) {
        let reason = error.to_string();
        // Once for a row of the same.
        if self.obstacle.as_ref() != Some(&reason) {
            warn!("the history stays NDJSON for now, because netconn-search did not convert it: {reason}");
            self.obstacle = Some(reason);
        }
        self.not_before = Some(Instant::now() + pause);
        self.status.set_conversion(Conversion::Failing);
    }

    fn conversion_failed(&mut self, from: u64, error: &ConvertError) {
        let segment = SegmentName::Segment { from };
        warn!("{segment} stays NDJSON for now, because netconn-search did not convert it: {error}");
        self.status.failures.fetch_add(1, Ordering::Relaxed);
        let first = self.timing.retry;
        // It doubles up to 32 times the first pause, about five hours, so that a segment that never converts costs
        // little.
        let pause = self.failed.get(&from).map_or(first, |last| (last.pause * 2).min(first * RETRY_MAX));
        self.failed.insert(from, Retry { at: Instant::now() + pause, pause });
    }

    /// Removes what exceeds the limits, counts what is left and starts a conversion. Returns the time until the next look.
    fn look_after_directory(&mut self) -> io::Result<Duration> {
        if !self.status.ready.load(Ordering::Acquire) {
            // The writer sends a note when it is.
            return Ok(DIRECTORY_POLL);
        }
        // Before the list: what is written meanwhile may count twice, but not never.
        let written = self.status.written();
        let mut segments = retention::group(&directory::list(&self.directory)?);
        for from in self.failed.keys() {
            segments.entry(*from).and_modify(|files| files.is_failing = true);
        }
        // After the list was made, see there.
        let live = self.status.live();
        // Before the surplus: what a search needs no more goes before events that exist once.
        self.remove_doubled(&mut segments)?;
        let now = ClockReading::now();
        let most = self.remove_surplus(&mut segments, live, (now, written))?;
        self.tell_overdue(&segments, live, now);
        let closed: Vec<_> = segments.iter().filter(|(from, _)| Some(**from) != live).collect();
        let waiting: Vec<u64> =
            closed.iter().filter(|(_, files)| !files.is_converted).map(|(from, _)| **from).collect();
        let bytes = closed.iter().map(|(_, files)| files.bytes).sum();
        self.status.closed_bytes.store(bytes, Ordering::Relaxed);
        self.status.files.store(segments.values().map(|files| files.names.len() as u64).sum(), Ordering::Relaxed);
        // Keys are FROM, and the map is sorted: the first is the oldest.
        self.status.set_oldest(segments.keys().next().map(|from| from.saturating_add(EARLIER_MS)));
        self.status.waiting.store(waiting.len() as u64, Ordering::Relaxed);
        // Last: what exceeds the limits is not worth a conversion.
        self.convert_next(&waiting);
        let waiting_bytes = waiting.iter().filter_map(|from| segments.get(from)).map(|files| files.bytes).sum();
        self.hurry(waiting_bytes, most.real);
        Ok(self.pause(&waiting))
    }

    /// Removes the NDJSON of segments that were converted long enough ago: no search goes on to read it.
    fn remove_doubled(&mut self, segments: &mut BTreeMap<u64, SegmentFiles>) -> io::Result<()> {
        let is_doubled = |files: &SegmentFiles| files.is_converted && files.names.len() > 1;
        // Forgets segments whose files somebody else has removed.
        self.doubled.retain(|from, _| segments.get(from).is_some_and(is_doubled));
        for (from, files) in segments.iter_mut().filter(|(_, files)| is_doubled(files)) {
            // A segment that another daemon had converted counts from now on.
            let since = *self.doubled.entry(*from).or_insert_with(Instant::now);
            if since.elapsed() >= self.timing.grace {
                let segment = SegmentName::Segment { from: *from };
                // Subtracted here, because the limits are checked against these numbers next.
                files.bytes = files.bytes.saturating_sub(self.remove(segment)?);
                files.names.retain(|name| *name != segment);
                self.doubled.remove(from);
            }
        }
        Ok(())
    }

    /// Removes a file, and returns how large it was. Somebody else may have removed it since it was listed: that must not keep
    /// the history from its limits until the next look.
    fn remove(&self, name: SegmentName) -> io::Result<u64> {
        let path = self.directory.join(name.to_string());
        let removed = fs::symlink_metadata(&path).and_then(|metadata| fs::remove_file(&path).map(|()| metadata.len()));
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            removed => removed,
        }
    }

    /// Removes the segments that are too old or too many, and tells the writer how much room there is. Returns how much the history
    /// may take.
    fn remove_surplus(
        &mut self,
        segments: &mut BTreeMap<u64, SegmentFiles>,
        live: Option<u64>,
        (now, written): (ClockReading, u64),
    ) -> io::Result<Size> {
        let converting = self.converter.as_ref().map(|converter| converter.from);
        let busy: HashSet<u64> = live.into_iter().chain(converting).collect();
        let now = self.status.believed_time(now);
        retention::correct_future(segments, now);
        // Asked after `remove_doubled` has freed some.
        let space = DiskSpace::of(&self.directory)?;
        // What cannot be converted counts in full.
        let ratio = search_program::find().ok().map(|_| self.ratio);
        let room = Room { limits: self.limits, space, ratio };
        for from in room.surplus(segments, &busy, now) {
            // NDJSON first, see `SegmentFiles::names`.
            for name in segments.remove(&from).unwrap_or_default().names {
                self.remove(name)?;
                debug!("removed {name}: the history has reached its limits");
            }
            self.doubled.remove(&from);
            self.failed.remove(&from);
        }
        // With what is left.
        let space = DiskSpace::of(&self.directory)?;
        let room = Room { space, ..room };
        self.status.set_scarcity(room.scarcity(segments, &busy, (now, written)));
        self.status.segment_bytes.store(room.segment_bytes(segments), Ordering::Relaxed);
        Ok(room.most(segments, &busy))
    }

    /// Counts the segments that are too old by the time of day alone, and logs why they stay.
    fn tell_overdue(&mut self, segments: &BTreeMap<u64, SegmentFiles>, live: Option<u64>, now: ClockReading) {
        let too_old = retention::too_old(self.limits, now.time_of_day());
        let closed = segments.iter().filter(|(from, _)| Some(**from) != live);
        let overdue = closed.filter(|(_, files)| files.written < too_old).count() as u64;
        // One that is being converted is not removed yet either, but the clock is not the reason.
        let ahead = now.time_of_day().saturating_sub(self.status.believed_time(now));
        let overdue = if ahead == 0 { 0 } else { overdue };
        self.status.overdue.store(overdue, Ordering::Relaxed);
        if overdue == 0 {
            self.has_logged_clock = false;
        } else if !std::mem::replace(&mut self.has_logged_clock, true) {
            let days = ahead as f64 / 86_400_000.0;
            warn!(
                "the time of day is {days:.1} days ahead of the history: {overdue} of its segments are too old by it and stay \
                 until it has been steady for a day; check the clock"
            );
        }
    }

    /// Starts to convert the oldest of these segments that need not wait, unless a converter runs already.
    fn convert_next(&mut self, waiting: &[u64]) {
        // One at a time: the work directory has one name, and the work is not urgent.
        if self.converter.is_some() {
            return;
        }
        let now = Instant::now();
        if self.not_before.is_some_and(|not_before| not_before > now) {
            if waiting.is_empty() {
                self.status.set_conversion(Conversion::Idle);
            }
            return;
        }
        // A segment that fails waits for its own retry and holds up no other.
        let next = waiting.iter().find(|from| self.failed.get(from).is_none_or(|retry| retry.at <= now));
        let Some(from) = next.copied() else {
            let state = if waiting.is_empty() { Conversion::Idle } else { Conversion::Failing };
            return self.status.set_conversion(state);
        };
        // Looked for each time: it may be installed, updated or removed while the daemon runs.
        let program = match search_program::find() {
            Ok(program) => program,
            Err(error) => {
                self.status.set_conversion(Conversion::Missing);
                if !std::mem::replace(&mut self.has_logged_missing, true) {
                    info!("the history stays NDJSON, which takes more space: {error}");
                }
                return;
            }
        };
        if std::mem::take(&mut self.has_logged_missing) {
            info!("the history is converted by {}", program.display());
        }
        match Converter::start(&program, &self.directory, from) {
            Ok(converter) => {
                self.converter = Some(converter);
                self.status.set_conversion(Conversion::Running);
            }
            Err(error) => self.converter_failed(&error, START_RETRY.min(self.timing.retry)),
        }
    }

    /// Gives the running converter a higher priority if too much waits for it: first beside others, then like everybody.
    fn hurry(&mut self, waiting_bytes: u64, space: u64) {
        let backlog = space / BACKLOG_PART;
        let niceness = match waiting_bytes {
            bytes if bytes > 4 * backlog => Some(0),
            bytes if bytes > backlog => Some(HURRIED),
            _ => None,
        };
        // A conversion that was hurried stays so to its end: it cannot be much longer.
        let (Some(converter), Some(niceness)) = (&self.converter, niceness) else { return };
        if self.hurried.is_none_or(|hurried| niceness < hurried) {
            priority::hurry(converter.process(), niceness);
            self.hurried = Some(niceness);
        }
    }

    /// Returns the time until there is something to do without a note.
    fn pause(&self, waiting: &[u64]) -> Duration {
        if self.converter.is_some() {
            return self.converter_poll();
        }
        let grace = self.doubled.values().map(|since| self.timing.grace.saturating_sub(since.elapsed())).min();
        // Also the time after which a missing converter is looked for again.
        let retry = (!waiting.is_empty()).then_some(self.timing.retry);
        let not_before =
            self.not_before.map(|at| at.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
        grace
            .into_iter()
            .chain(retry)
            .chain(not_before)
            .min()
            .unwrap_or(DIRECTORY_POLL)
            .clamp(CONVERTER_POLL, DIRECTORY_POLL)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::store::age_clock::AgeClock;

    const NOW: u64 = 1_767_225_600_000;

    fn keeper(folder: &tempfile::TempDir, timing: HistoryTiming) -> Keeper {
        let limits = HistoryLimits::new(1 << 30, Duration::from_secs(1 << 32), HistoryTiming::NORMAL);
        let limits = Arc::new(Mutex::new(limits));
        let keeper = Keeper::new(folder.path().to_owned(), limits, timing, Arc::default());
        keeper.status.ready.store(true, Ordering::Release);
        keeper
    }

    #[test]
    fn a_converted_segment_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["events-1767225600000.ndjson", "events-1767225600000-1767225699999.parquet"] {
            fs::write(folder.path().join(name), "x\n").unwrap();
        }
        let count = || directory::list(folder.path()).unwrap().len();
        let mut keeper = keeper(&folder, HistoryTiming { grace: Duration::from_millis(50), ..HistoryTiming::NORMAL });
        keeper.status.ready.store(false, Ordering::Release);
        keeper.look(true);
        assert_eq!(keeper.doubled.len(), 0, "somebody may be about to go on with the segment");
        keeper.status.ready.store(true, Ordering::Release);
        keeper.look(true);
        assert_eq!((count(), keeper.status.bytes(), keeper.status.files()), (2, 4, 2), "somebody may read it");
        std::thread::sleep(Duration::from_millis(60));
        let pause = keeper.look(true);
        assert_eq!((count(), keeper.status.bytes(), keeper.status.files()), (1, 2, 1));
        assert_eq!(keeper.status.oldest(), Some(1_767_225_600_000 + EARLIER_MS));
        assert_eq!((keeper.status.waiting(), pause), (0, DIRECTORY_POLL));
    }

    #[test]
    fn a_clock_that_is_far_ahead_removes_nothing_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let day = 86_400_000;
        let now = ClockReading::now();
        // Last written forty days ago, by the clock of this machine.
        for days in [40, 41, 75, 90] {
            let from = now.time_of_day() - days * day;
            let name = SegmentName::Converted { from, to: from + 5, earliest: from };
            fs::write(folder.path().join(name.to_string()), "PAR1 much PAR1").unwrap();
        }
        let count = || directory::list(folder.path()).unwrap().len();
        let mut keeper = keeper(&folder, HistoryTiming::NORMAL);
        keeper.limits.age = Duration::from_millis(30 * day);
        let segments = retention::group(&directory::list(folder.path()).unwrap());
        let newest = retention::last_written(&segments);
        keeper.status.set_age_clock(AgeClock::new(newest, keeper.limits.age, now));
        keeper.look(true);
        // Seen from the newest, two are older than thirty days.
        assert_eq!((count(), keeper.status.overdue()), (2, 2));
        assert!(keeper.has_logged_clock);
        // As if the daemon had run for a day.
        keeper.status.set_age_clock(AgeClock::new(None, keeper.limits.age, now));
        keeper.look(true);
        assert_eq!((count(), keeper.status.overdue()), (0, 0));
    }

    #[test]
    fn a_file_that_somebody_removes_does_not_hold_up_the_keeper() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["events-1767225600000.ndjson", "events-1767225600000-1767225699999.parquet"] {
            fs::write(folder.path().join(name), "x\n").unwrap();
        }
        let mut segments = retention::group(&directory::list(folder.path()).unwrap());
        let mut keeper = keeper(&folder, HistoryTiming { grace: Duration::ZERO, ..HistoryTiming::NORMAL });
        keeper.limits.bytes = 0;
        // After the list was made.
        fs::remove_file(folder.path().join("events-1767225600000.ndjson")).unwrap();
        keeper.remove_doubled(&mut segments).unwrap();
        fs::remove_file(folder.path().join("events-1767225600000-1767225699999.parquet")).unwrap();
        keeper.remove_surplus(&mut segments, None, (ClockReading::now(), 0)).unwrap();
        assert!(segments.is_empty());
    }

    #[test]
    fn a_segment_that_is_not_converted_waits_longer_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = keeper(&folder, HistoryTiming::NORMAL);
        for times in [1, 2, 4, 8, 16, 32, 32] {
            keeper.conversion_failed(NOW, &ConvertError::Untrue("because".into()));
            assert_eq!(keeper.failed[&NOW].pause, HistoryTiming::NORMAL.retry * times);
        }
        keeper.convert_next(&[NOW]);
        assert!(keeper.converter.is_none(), "not yet");
        assert_eq!(keeper.status.conversion(), Conversion::Failing);
    }

    #[test]
    fn what_keeps_converters_from_running_is_tried_again_soon_and_is_no_fault_of_a_segment() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = keeper(&folder, HistoryTiming::NORMAL);
        let no_memory = || ConvertError::System(nix::errno::Errno::ENOMEM.into());
        for _ in 0..10 {
            keeper.converter_failed(&no_memory(), START_RETRY);
            assert!(keeper.failed.is_empty(), "it is not the segment");
            assert_eq!((keeper.status.conversion(), keeper.status.failures()), (Conversion::Failing, 0));
            let pause = keeper.pause(&[NOW]);
            assert!(pause <= START_RETRY && pause > START_RETRY / 2, "{pause:?}");
        }
        keeper.convert_next(&[NOW]);
        assert!(keeper.converter.is_none(), "not yet");
        keeper.convert_next(&[]);
        assert_eq!(keeper.status.conversion(), Conversion::Idle, "nothing waits any more");
        // The segment is not there: a converter for it cannot be started. Without netconn-search none is tried.
        keeper.not_before = None;
        keeper.convert_next(&[NOW]);
        assert!(keeper.failed.is_empty());
        assert_eq!(keeper.not_before.is_some(), search_program::find().is_ok());
    }

    #[test]
    fn it_ends_when_nobody_can_send_notes() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, receiver) = sync_channel(1);
        notes.send(()).unwrap();
        drop(notes);
        keeper(&folder, HistoryTiming::NORMAL).run(&receiver);
    }
}
