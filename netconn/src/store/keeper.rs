//! The thread that keeps the history within its limits and has closed segments converted. All that it knows is in the names of
//! the files: it may be killed at any moment.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use netconn_model::{health::Conversion, segment_name::SegmentName};
use tracing::{debug, info, warn};

use crate::{
    search_program,
    store::{
        Limits, Pace,
        convert::{ConvertError, Running},
        folder::{self, Entry, Room},
        status::Status,
    },
};

/// How often a child is looked at.
const CHILD: Duration = Duration::from_millis(200);
/// How often what is too old is looked for.
const AGES: Duration = Duration::from_secs(600);
/// Longest pause before a segment is tried again, in pauses of the first time.
const RETRY_MAX: u32 = 32;
/// When others fill the file system, the history gives way until a tenth of what it may have is left; no further, so that nobody
/// can make it forget everything.
const KEPT_PART: u64 = 10;

/// See the module.
pub(super) struct Keeper {
    pub(super) folder: PathBuf,
    pub(super) limits: Limits,
    pub(super) pace: Pace,
    pub(super) status: Arc<Status>,
    /// The child that converts.
    running: Option<Running>,
    /// Segments that are converted and may still be read: since when.
    doubled: HashMap<u64, Instant>,
    /// Segments whose conversion has failed: when they are tried again, and how long was waited.
    failed: HashMap<u64, (Instant, Duration)>,
    /// The log says that there is no converter.
    says_missing: bool,
    /// The log says that the folder cannot be looked after.
    says_broken: bool,
}

/// All files of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files {
    /// The segment first: when its removal is interrupted, what is left counts as before.
    names: Vec<SegmentName>,
    bytes: u64,
    /// The last event is not later, epoch milliseconds.
    to: u64,
    is_converted: bool,
}

impl Keeper {
    pub(super) fn new(folder: PathBuf, limits: Limits, pace: Pace, status: Arc<Status>) -> Self {
        Self {
            folder,
            limits,
            pace,
            status,
            running: None,
            doubled: HashMap::new(),
            failed: HashMap::new(),
            says_missing: false,
            says_broken: false,
        }
    }

    /// Looks after the folder whenever there is a note, until nobody can send any. A child is killed then: its segment stays.
    pub(super) fn run(mut self, notes: &Receiver<()>) {
        let mut patience = AGES;
        loop {
            let is_noted = match notes.recv_timeout(patience) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            patience = self.look(is_noted || patience != CHILD);
        }
    }

    /// Does what is to be done, and gives how long there is nothing to do. While a child works, everything else waits for a
    /// note.
    fn look(&mut self, is_due: bool) -> Duration {
        let was_running = self.running.is_some();
        self.look_at_child();
        if !is_due && was_running && self.running.is_some() {
            return CHILD;
        }
        match self.look_at_folder() {
            Ok(patience) => {
                self.says_broken = false;
                patience
            }
            Err(error) => {
                if !std::mem::replace(&mut self.says_broken, true) {
                    warn!("the history in {} is not looked after: {error}", self.folder.display());
                }
                self.pace.retry
            }
        }
    }

    fn look_at_child(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(outcome) = running.poll(self.pace.limit) else { return };
        let from = running.from;
        self.running = None;
        match outcome {
            Ok(name) => {
                debug!("{name} is made");
                self.doubled.insert(from, Instant::now());
                self.failed.remove(&from);
                self.status.converted.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.fail(from, &error),
        }
    }

    /// A segment stays as it is for a while.
    fn fail(&mut self, from: u64, error: &ConvertError) {
        let segment = SegmentName::Segment { from };
        warn!("{segment} stays NDJSON for now, because netconn-search did not convert it: {error}");
        self.status.failures.fetch_add(1, Ordering::Relaxed);
        let pause =
            self.failed.get(&from).map_or(self.pace.retry, |(_, pause)| (*pause * 2).min(self.pace.retry * RETRY_MAX));
        self.failed.insert(from, (Instant::now() + pause, pause));
    }

    fn look_at_folder(&mut self) -> io::Result<Duration> {
        if !self.status.ready.load(Ordering::Acquire) {
            return Ok(AGES); // There will be a note.
        }
        let mut segments = segments(&folder::list(&self.folder)?);
        // Asked for after the list was made, see there.
        let live = self.status.live();
        self.remove_doubled(&mut segments)?;
        let busy: HashSet<u64> = live.into_iter().chain(self.running.iter().map(|running| running.from)).collect();
        let now = UNIX_EPOCH.elapsed().map_or(0, |time| time.as_millis() as u64);
        let room = Room::of(&self.folder)?;
        for from in surplus(&segments, &busy, self.limits, room, now) {
            if let Some(files) = segments.remove(&from) {
                for name in &files.names {
                    fs::remove_file(self.folder.join(name.to_string()))?;
                    debug!("{name} is removed: the history has reached its limits");
                }
                self.doubled.remove(&from);
                self.failed.remove(&from);
            }
        }
        let closed = segments.iter().filter(|(from, _)| Some(**from) != live);
        let (bytes, waiting) = closed.fold((0, Vec::new()), |(bytes, mut waiting), (from, files)| {
            if !files.is_converted {
                waiting.push(*from);
            }
            (bytes + files.bytes, waiting)
        });
        self.status.closed_bytes.store(bytes, Ordering::Relaxed);
        self.status.files.store(segments.values().map(|files| files.names.len() as u64).sum(), Ordering::Relaxed);
        self.status.set_oldest(segments.keys().next().copied());
        self.status.waiting.store(waiting.len() as u64, Ordering::Relaxed);
        self.convert_next(&waiting);
        Ok(self.patience(&waiting))
    }

    /// Removes segments that have been converted for long enough that nobody goes on to read them.
    fn remove_doubled(&mut self, segments: &mut BTreeMap<u64, Files>) -> io::Result<()> {
        let is_doubled = |files: &Files| files.is_converted && files.names.len() > 1;
        self.doubled.retain(|from, _| segments.get(from).is_some_and(is_doubled));
        for (from, files) in segments.iter_mut().filter(|(_, files)| is_doubled(files)) {
            // After a start nobody knows since when.
            let since = *self.doubled.entry(*from).or_insert_with(Instant::now);
            if since.elapsed() >= self.pace.grace {
                let segment = SegmentName::Segment { from: *from };
                let path = self.folder.join(segment.to_string());
                files.bytes = files.bytes.saturating_sub(fs::metadata(&path)?.len());
                fs::remove_file(path)?;
                files.names.retain(|name| *name != segment);
                self.doubled.remove(from);
            }
        }
        Ok(())
    }

    /// Starts to convert the oldest of these segments, if nothing speaks against it.
    fn convert_next(&mut self, waiting: &[u64]) {
        if self.running.is_some() {
            return;
        }
        let now = Instant::now();
        let next = waiting.iter().find(|from| self.failed.get(from).is_none_or(|(again, _)| *again <= now));
        let Some(from) = next.copied() else {
            let state = if waiting.is_empty() { Conversion::Idle } else { Conversion::Failing };
            return self.status.set_conversion(state);
        };
        let program = match search_program::find() {
            Ok(program) => program,
            Err(error) => {
                self.status.set_conversion(Conversion::Missing);
                if !std::mem::replace(&mut self.says_missing, true) {
                    info!("the history stays NDJSON, which takes more room: {error}");
                }
                return;
            }
        };
        if std::mem::take(&mut self.says_missing) {
            info!("the history is converted by {}", program.display());
        }
        match Running::start(&program, &self.folder, from) {
            Ok(running) => {
                self.running = Some(running);
                self.status.set_conversion(Conversion::Running);
            }
            Err(error) => {
                self.fail(from, &error);
                self.status.set_conversion(Conversion::Failing);
            }
        }
    }

    /// How long there is nothing to do unless there is a note.
    fn patience(&self, waiting: &[u64]) -> Duration {
        if self.running.is_some() {
            return CHILD;
        }
        let grace = self.doubled.values().map(|since| self.pace.grace.saturating_sub(since.elapsed())).min();
        let again = (!waiting.is_empty()).then_some(self.pace.retry);
        // Never the pause that means a child.
        grace.into_iter().chain(again).min().unwrap_or(AGES).clamp(CHILD + Duration::from_millis(1), AGES)
    }
}

/// The files of each segment, the oldest first.
fn segments(entries: &[Entry]) -> BTreeMap<u64, Files> {
    let mut segments: BTreeMap<u64, Files> = BTreeMap::new();
    for Entry { name, bytes, modified } in entries {
        let files = segments.entry(name.from()).or_default();
        files.names.push(*name);
        files.names.sort();
        files.bytes += bytes;
        files.is_converted |= name.to().is_some();
        // An event is written after it has happened.
        let written = || modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        files.to = files.to.max(name.to().unwrap_or_else(written));
    }
    segments
}

/// The segments that have to go, the oldest first: those that are too old at `now` (epoch milliseconds), and as many as are too
/// much. Those that somebody works on stay.
fn surplus(segments: &BTreeMap<u64, Files>, busy: &HashSet<u64>, limits: Limits, room: Room, now: u64) -> Vec<u64> {
    let mut used: u64 = segments.values().map(|files| files.bytes).sum();
    let growing = segments.iter().filter(|(from, _)| busy.contains(from)).map(|(_, files)| files.bytes).sum::<u64>();
    // The segment that grows may become as long as one can be, before anybody looks again.
    let allowed = limits.bytes.saturating_sub(limits.segment_bytes) + growing.min(limits.segment_bytes);
    let bearable = (used + room.free).saturating_sub(room.reserve).max(limits.bytes / KEPT_PART);
    let most = allowed.min(bearable);
    let oldest = now.saturating_sub(limits.age.as_millis() as u64);
    let mut surplus = Vec::new();
    for (from, files) in segments.iter().filter(|(from, _)| !busy.contains(from)) {
        if files.to < oldest || used > most {
            used -= files.bytes;
            surplus.push(*from);
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const DAY: u64 = 86_400_000;
    const NOW: u64 = 1_767_225_600_000;
    /// Room enough.
    const ROOM: Room = Room { free: u64::MAX / 4, reserve: 100 };

    fn entry(name: &str, bytes: u64, written: u64) -> Entry {
        let modified = UNIX_EPOCH + Duration::from_millis(written);
        Entry { name: SegmentName::parse(name).unwrap(), bytes, modified }
    }

    /// A segment of each of the last days, the oldest first, with the place for its number; each of 100 bytes.
    fn days(count: u64) -> BTreeMap<u64, Files> {
        let entries = (0..count).map(|day| {
            let from = NOW - (count - day) * DAY;
            entry(&format!("events-{from:013}-{:013}.parquet", from + DAY - 1), 100, 0)
        });
        segments(&entries.collect::<Vec<_>>())
    }

    /// The surplus, as days before now.
    fn surplus_of(days: &BTreeMap<u64, Files>, busy: &[u64], (bytes, age): (u64, u64), room: Room) -> Vec<u64> {
        let limits = Limits::new(bytes, Duration::from_millis(age * DAY), Pace::NORMAL);
        let busy = busy.iter().map(|day| NOW - day * DAY).collect();
        surplus(days, &busy, limits, room, NOW).iter().map(|from| (NOW - from) / DAY).collect()
    }

    #[test]
    fn the_oldest_go_first() {
        let days = days(10);
        assert!(surplus_of(&days, &[], (1 << 20, 30), ROOM).is_empty());
        assert_eq!(surplus_of(&days, &[], (1 << 20, 7), ROOM), [10, 9, 8], "too old: their last event is");
        // A sixteenth is for the segment that will grow: 800 bytes are 750 for these.
        assert_eq!(surplus_of(&days, &[], (800, 30), ROOM), [10, 9, 8], "too much");
        assert_eq!(surplus_of(&days, &[10, 8], (800, 5), ROOM), [9, 7, 6], "too old, without those that are worked on");
        assert_eq!(surplus_of(&days, &[], (0, 30), ROOM).len(), 10);
    }

    #[test]
    fn the_history_gives_way_but_not_all_of_it() {
        let days = days(10);
        let room = |free| Room { free, reserve: 500 };
        assert!(surplus_of(&days, &[], (4000, 30), room(500)).is_empty());
        assert_eq!(surplus_of(&days, &[], (4000, 30), room(250)), [10, 9, 8]);
        assert_eq!(surplus_of(&days, &[], (4000, 30), room(0)), [10, 9, 8, 7, 6]);
        assert_eq!(surplus_of(&days, &[], (9600, 30), room(0)), [10], "a tenth of what it may have stays");
    }

    #[test]
    fn both_files_of_a_segment_are_one() {
        let all = [
            entry("events-1767225600000-1767225699999.parquet", 10, 0),
            entry("events-1767225600000.ndjson", 100, 7),
            entry("events-1767225700000.ndjson", 200, 1_767_225_799_999),
        ];
        let segments = segments(&all);
        let [first, second] = segments.values().collect::<Vec<_>>()[..] else { panic!("{segments:?}") };
        assert_eq!((first.bytes, first.to, first.is_converted), (110, 1_767_225_699_999, true));
        assert_eq!(first.names, [all[1].name, all[0].name], "the segment goes first");
        assert_eq!((second.bytes, second.to, second.is_converted), (200, 1_767_225_799_999, false));
    }

    fn keeper(folder: &tempfile::TempDir, pace: Pace) -> Keeper {
        let limits = Limits::new(1 << 30, Duration::from_secs(1 << 32), Pace::NORMAL);
        let keeper = Keeper::new(folder.path().to_owned(), limits, pace, Arc::default());
        keeper.status.ready.store(true, Ordering::Release);
        keeper
    }

    #[test]
    fn a_converted_segment_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["events-1767225600000.ndjson", "events-1767225600000-1767225699999.parquet"] {
            fs::write(folder.path().join(name), "x\n").unwrap();
        }
        let count = || folder::list(folder.path()).unwrap().len();
        let mut keeper = keeper(&folder, Pace { grace: Duration::from_millis(50), ..Pace::NORMAL });
        keeper.status.ready.store(false, Ordering::Release);
        keeper.look(true);
        assert_eq!(keeper.doubled.len(), 0, "somebody may be about to go on with the segment");
        keeper.status.ready.store(true, Ordering::Release);
        keeper.look(true);
        assert_eq!((count(), keeper.status.bytes(), keeper.status.files()), (2, 4, 2), "somebody may read it");
        std::thread::sleep(Duration::from_millis(60));
        let patience = keeper.look(true);
        assert_eq!((count(), keeper.status.bytes(), keeper.status.files()), (1, 2, 1));
        assert_eq!(keeper.status.oldest(), Some(1_767_225_600_000));
        assert_eq!((keeper.status.waiting(), patience), (0, AGES));
    }

    #[test]
    fn a_segment_that_is_not_converted_waits_longer_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = keeper(&folder, Pace::NORMAL);
        for times in [1, 2, 4, 8, 16, 32, 32] {
            keeper.fail(NOW, &ConvertError::Untrue("because".into()));
            assert_eq!(keeper.failed[&NOW].1, Pace::NORMAL.retry * times);
        }
        keeper.convert_next(&[NOW]);
        assert!(keeper.running.is_none(), "not yet");
        assert_eq!(keeper.status.conversion(), Conversion::Failing);
    }

    #[test]
    fn it_ends_when_nobody_can_send_notes() {
        let folder = tempfile::tempdir().unwrap();
        let (notes, receiver) = sync_channel(1);
        notes.send(()).unwrap();
        drop(notes);
        keeper(&folder, Pace::NORMAL).run(&receiver);
    }
}
