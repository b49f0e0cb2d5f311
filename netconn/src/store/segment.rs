//! The live segment as its writer sees it: it begins with the first event, and is closed when it is large or old.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use netconn_model::segment_name::{LATEST, SegmentName};
use tracing::{info, warn};

use crate::{
    clock::since_boot,
    line_file::{LineFile, MODE, WriteFailure},
    os, search_program,
    store::{
        EARLIER_MS, HistoryLimits, HistorySettings, SEGMENT_AGE_MAX,
        age_clock::{AgeClock, ClockReading},
        directory::{self, DiskSpace, Preparation},
        keeper::Keeper,
        ratio::ConvertedRatio,
        retention::{self, Room},
        status::HistoryStatus,
    },
};

/// A segment is closed after an hour, so that searches of short ranges skip most files…
const OLD: Duration = Duration::from_secs(3600);
/// …but only once it holds this part of the maximum: a quiet machine makes one file a day, not 24.
const WORTH_PART: u64 = 16;
/// Pause between two looks at the free space, and whether the file is still there.
const CHECK: Duration = Duration::from_secs(1);
/// Pause after a failure before the directory is prepared again.
const PREPARE_RETRY: Duration = Duration::from_secs(10);

/// Appends events to the history. It creates the directory and the files when there is something to write. A failure loses the
/// events that come meanwhile, and everything is tried again later.
#[derive(Debug)]
pub struct HistoryWriter {
    directory: PathBuf,
    group: String,
    limits: HistoryLimits,
    status: Arc<HistoryStatus>,
    /// Wakes the keeper; `None` only while this is dropped.
    notes: Option<SyncSender<()>>,
    /// The limits that the keeper has to take over.
    keeper_limits: Arc<Mutex<HistoryLimits>>,
    keeper: Option<JoinHandle<()>>,
    live: Option<LiveSegment>,
    directory_state: DirectoryState,
    /// When space and file were last looked at.
    checked: Instant,
}

/// Whether the directory can be written to.
#[derive(Debug)]
enum DirectoryState {
    /// It has to be prepared before the next write.
    Unprepared,
    Ready,
    /// It could not be prepared. Until `retry_at`, each write fails with the same error.
    Failed {
        retry_at: Instant,
        kind: io::ErrorKind,
        message: String,
    },
}

/// The segment that is being written.
#[derive(Debug)]
struct LiveSegment {
    from: u64,
    file: LineFile,
    bytes: u64,
    /// Its age when this daemon opened it.
    age_at_opening: Duration,
    /// When that was, since boot: the time of day may be set while it is open.
    opened: Duration,
}

impl LiveSegment {
    fn age(&self) -> Duration {
        self.age_at_opening + since_boot().saturating_sub(self.opened)
    }
}

impl HistoryWriter {
    /// Creates a writer, and the thread that looks after the directory.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(settings: HistorySettings) -> io::Result<Self> {
        let HistorySettings { directory, group, limits, timing } = settings;
        let status = Arc::<HistoryStatus>::default();
        // One note is enough: the keeper looks at everything when it receives one.
        let (notes, receiver) = sync_channel(1);
        let keeper_limits = Arc::new(Mutex::new(limits));
        let keeper = Keeper::new(directory.clone(), Arc::clone(&keeper_limits), timing, Arc::clone(&status));
        let thread = thread::Builder::new().name("netconn-history".into());
        let keeper = thread.spawn(move || {
            os::lower_thread_priority();
            keeper.run(&receiver);
        })?;
        Ok(Self {
            directory,
            group,
            limits,
            status,
            notes: Some(notes),
            keeper_limits,
            keeper: Some(keeper),
            live: None,
            directory_state: DirectoryState::Unprepared,
            checked: Instant::now(),
        })
    }

    /// Returns the state that the engine reports.
    pub fn status(&self) -> &Arc<HistoryStatus> {
        &self.status
    }

    /// Takes over other limits. The keeper removes what exceeds them, and a segment that is too large is closed with the next write.
    pub fn set_limits(&mut self, limits: HistoryLimits) {
        self.limits = limits;
        *self.keeper_limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        self.notify_keeper();
    }

    /// Appends whole lines.
    ///
    /// # Errors
    ///
    /// When not all of them could be written; those that were are whole.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), WriteFailure> {
        // Checks are system calls: once a second is enough, and before each new file.
        let is_check_due = self.live.is_none() || self.checked.elapsed() >= CHECK;
        if is_check_due {
            self.checked = Instant::now();
            // Order: a removed directory is noticed, made anew, and only then can its file system be asked for space.
            self.check_file();
        }
        self.prepare()?;
        if is_check_due {
            self.check_space()?;
        }
        if self.status.is_full() {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        // Taken, so that a failed `begin` leaves none; put back below also when the write failed.
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.begin()?,
        };
        let written = live.file.write(lines);
        // Also after a failure: the whole lines before it are in the file.
        let bytes = written.as_ref().map_or_else(|failure| failure.written, |()| lines.len()) as u64;
        live.bytes += bytes;
        // After the write: what the keeper finds in the file counts twice for a moment rather than never.
        self.status.written.fetch_add(bytes, Ordering::Relaxed);
        self.status.live_bytes.store(live.bytes, Ordering::Relaxed);
        self.live = Some(live);
        // At once and not by `due`: the size is known only here.
        self.close_if_due();
        written
    }

    /// Returns the time until the live segment is old enough to be closed, if nothing more is written to it.
    pub fn due(&self) -> Option<Duration> {
        let live = self.live.as_ref()?;
        // The same ages as in `is_due`: if this said "now" where that says "not yet", the output would spin.
        let age = if self.is_worth_a_file(live.bytes) { OLD } else { SEGMENT_AGE_MAX };
        Some(age.saturating_sub(live.age()))
    }

    /// Closes the live segment if it is large or old.
    pub fn close_if_due(&mut self) {
        if self.live.as_ref().is_some_and(|live| self.is_due(live.age(), live.bytes)) {
            self.close();
        }
    }

    fn is_due(&self, age: Duration, bytes: u64) -> bool {
        bytes >= self.segment_bytes() || (age >= OLD && self.is_worth_a_file(bytes)) || age >= SEGMENT_AGE_MAX
    }

    fn is_worth_a_file(&self, bytes: u64) -> bool {
        bytes >= self.limits.segment_bytes / WORTH_PART
    }

    /// Returns the size at which a segment is closed: less while the file system has little space for the history.
    fn segment_bytes(&self) -> u64 {
        self.limits.segment_bytes.min(self.status.segment_bytes.load(Ordering::Relaxed))
    }

    /// Prepares the directory unless it is ready, or has failed a short while ago.
    fn prepare(&mut self) -> io::Result<()> {
        match &self.directory_state {
            DirectoryState::Ready => return Ok(()),
            // Preparing lists and opens every file: a broken disk is asked every ten seconds, not for each batch.
            DirectoryState::Failed { retry_at, kind, message } if *retry_at > Instant::now() => {
                return Err(io::Error::new(*kind, message.clone()));
            }
            DirectoryState::Unprepared | DirectoryState::Failed { .. } => {}
        }
        // A segment is continued only the first time: later, the latest one may have been closed, and may be in
        // conversion.
        let prepared = if self.status.ready.load(Ordering::Acquire) {
            let live = self.live.as_ref().map(|live| live.from);
            directory::prepare(&self.directory, &self.group, Preparation::AfterFailure { live })
        } else {
            self.start_age_clock();
            directory::prepare(&self.directory, &self.group, Preparation::AtStart)
                .and_then(|()| self.resume())
                .and_then(|()| self.look_for_room())
        };
        match &prepared {
            Ok(()) => {
                self.directory_state = DirectoryState::Ready;
                // Release: a keeper that sees it also sees which segment is live.
                self.status.ready.store(true, Ordering::Release);
            }
            Err(error) => self.retry_later(error),
        }
        self.notify_keeper();
        prepared
    }

    fn retry_later(&mut self, error: &io::Error) {
        let retry_at = Instant::now() + PREPARE_RETRY;
        self.directory_state = DirectoryState::Failed { retry_at, kind: error.kind(), message: error.to_string() };
    }

    /// Starts the clock by which the history ages, from what the last daemon has left as it is: repairs change the times of files.
    fn start_age_clock(&self) {
        // Without a directory there is no history.
        let files = directory::list(&self.directory).unwrap_or_default();
        let newest = retention::last_written(&retention::group(&files));
        self.status.set_age_clock(AgeClock::new(newest, self.limits.age, ClockReading::now()));
    }

    /// Continues the latest segment unless it is due to be closed: daemons that are started often would otherwise leave many
    /// small files.
    fn resume(&mut self) -> io::Result<()> {
        let files = directory::list(&self.directory)?;
        // Not an earlier one that is not converted: what is written now would go with events that are older. And a segment
        // with a Parquet file, which its name puts behind that of the segment, is over: it will be removed.
        let Some(latest) = files.iter().max_by_key(|file| (file.name.from(), file.name)) else { return Ok(()) };
        let SegmentName::Segment { from } = latest.name else { return Ok(()) };
        let age_at_opening = self.status.believed_time(ClockReading::now()).saturating_sub(from);
        let age_at_opening = Duration::from_millis(age_at_opening);
        // One that is due counts as closed from here on, because no segment is live.
        if !self.is_due(age_at_opening, latest.bytes) {
            let file = LineFile::open(&self.path(from))?;
            let bytes = file.length()?;
            self.status.set_live(Some(from));
            self.status.live_bytes.store(bytes, Ordering::Relaxed);
            self.live = Some(LiveSegment { from, file, bytes, age_at_opening, opened: since_boot() });
        }
        Ok(())
    }

    /// Looks how much room there is, before the keeper does for the first time: it may get no processor while a flood does.
    fn look_for_room(&self) -> io::Result<()> {
        let segments = retention::group(&directory::list(&self.directory)?);
        let ratio = search_program::find().ok().map(|_| ConvertedRatio::default());
        let room = Room { limits: self.limits, space: DiskSpace::of(&self.directory)?, ratio };
        let busy = self.status.live().into_iter().collect();
        let now = self.status.believed_time(ClockReading::now());
        self.status.set_scarcity(room.scarcity(&segments, &busy, (now, self.status.written())));
        Ok(())
    }

    /// Begins a segment.
    fn begin(&mut self) -> io::Result<LiveSegment> {
        let started = self.create();
        if let Err(error) = &started {
            // `create` announces the name before there is a file, and may have failed in between.
            self.status.set_live(None);
            if error.kind() == io::ErrorKind::NotFound {
                // Somebody has removed the directory.
                self.directory_state = DirectoryState::Unprepared;
            } else {
                self.retry_later(error);
            }
        }
        self.notify_keeper();
        started
    }

    fn create(&self) -> io::Result<LiveSegment> {
        // Parquet files count too: FROM identifies a segment in either form.
        let taken: BTreeSet<u64> = directory::list(&self.directory)?.iter().map(|file| file.name.from()).collect();
        let from =
            next_from(&taken, self.status.believed_time(ClockReading::now())).ok_or(io::ErrorKind::AlreadyExists)?;
        // Before the file exists: the keeper lists first and asks then, so it never takes this file for a closed one.
        self.status.set_live(Some(from));
        let path = self.path(from);
        let file = LineFile::create(&path)?;
        // Because of the umask. The group is inherited from the directory.
        directory::share(&path, None, MODE)?;
        Ok(LiveSegment { from, file, bytes: 0, age_at_opening: Duration::ZERO, opened: since_boot() })
    }

    /// Closes the live segment, so that the keeper has it converted.
    fn close(&mut self) {
        // The file is closed before the name is given up: from then on the keeper may convert it, and it must not grow.
        self.live = None;
        self.status.live_bytes.store(0, Ordering::Relaxed);
        self.status.set_live(None);
        self.notify_keeper();
    }

    /// Closes the live segment if somebody has removed its file, and has the directory prepared if that is gone as well.
    fn check_file(&mut self) {
        let removed = self.live.as_ref().filter(|live| live.file.is_removed()).map(|live| live.from);
        if let Some(from) = removed {
            info!("{} was removed: another segment is begun", self.path(from).display());
            self.close();
        }
        // An open file outlives its directory, so it is enough to look before each segment.
        if self.live.is_none() && !self.directory.exists() {
            self.directory_state = DirectoryState::Unprepared;
        }
    }

    /// Notes whether the file system is full, and has the keeper make space before it is.
    fn check_space(&mut self) -> io::Result<()> {
        let space =
            DiskSpace::of(&self.directory).inspect_err(|_| self.directory_state = DirectoryState::Unprepared)?;
        self.status.full.store(space.is_exhausted(), Ordering::Relaxed);
        if space.free < space.reserve {
            self.notify_keeper();
        }
        Ok(())
    }

    /// Wakes the keeper. If a note waits already, that one is enough.
    fn notify_keeper(&self) {
        if let Some(notes) = &self.notes {
            // A disconnected keeper has panicked; `drop` reports that.
            let _ = notes.try_send(());
        }
    }

    fn path(&self, from: u64) -> PathBuf {
        self.directory.join(SegmentName::Segment { from }.to_string())
    }
}

impl Drop for HistoryWriter {
    /// Ends the keeper. The live segment is not closed: the next daemon continues it.
    fn drop(&mut self) {
        // The keeper ends when its channel is closed, so this has to come before the join.
        drop(self.notes.take());
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            warn!("the thread that looks after the history has panicked: please report the messages above");
        }
    }
}

/// Returns the FROM of a segment that is begun at a believed time (epoch milliseconds), given those of all others; `None` if there is no
/// name left.
fn next_from(taken: &BTreeSet<u64>, now: u64) -> Option<u64> {
    // Greater than any other, also if the clock was set back: the order of names is the order of writing, and retention
    // relies on it.
    let from = now.saturating_sub(EARLIER_MS).max(taken.last().map_or(0, |last| last + 1));
    // A clock that once stood in the year 2286 has used up the last name: the greatest that is free is the best left.
    if from <= LATEST { Some(from) } else { (0..=LATEST).rev().find(|from| !taken.contains(from)) }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::store::HistoryTiming;

    const LINE: &[u8] = b"{\"event.type\":\"IP Connect\"}\n";

    fn settings(directory: &Path) -> HistorySettings {
        let limits = HistoryLimits::new(16 << 10, Duration::from_secs(1 << 32), HistoryTiming::NORMAL);
        HistorySettings {
            directory: directory.to_owned(),
            group: "no-such-group".into(),
            limits,
            timing: HistoryTiming::NORMAL,
        }
    }

    /// The segments with their content, the oldest first.
    fn segments(directory: &Path) -> Vec<(u64, String)> {
        let mut entries = directory::list(directory).unwrap();
        entries.sort_by_key(|entry| entry.name);
        let read = |name: SegmentName| fs::read_to_string(directory.join(name.to_string())).unwrap();
        entries.iter().map(|entry| (entry.name.from(), read(entry.name))).collect()
    }

    #[test]
    fn a_segment_is_closed_when_it_is_long_and_the_next_has_another_name() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("events");
        let mut writer = HistoryWriter::start(settings(&directory)).unwrap();
        let time = ClockReading::now().time_of_day() - EARLIER_MS;
        // 1 kB is the greatest length here: 37 lines are a segment, all written within milliseconds.
        for _ in 0..100 {
            writer.write(LINE).unwrap();
        }
        drop(writer);
        let found = segments(&directory);
        assert_eq!(found.iter().map(|(_, text)| text.len() / LINE.len()).collect::<Vec<_>>(), [37, 37, 26]);
        assert!(found[0].0 >= time && found.is_sorted_by(|one, next| one.0 < next.0), "{found:?}");
    }

    #[test]
    fn a_daemon_goes_on_with_the_segment_of_the_last_one() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("events");
        for _ in 0..3 {
            HistoryWriter::start(settings(&directory)).unwrap().write(LINE).unwrap();
            let (from, _) = segments(&directory)[0];
            let torn =
                fs::OpenOptions::new().append(true).open(directory.join(SegmentName::Segment { from }.to_string()));
            io::Write::write_all(&mut torn.unwrap(), b"{\"event.type\":\"I").unwrap();
        }
        let mut writer = HistoryWriter::start(settings(&directory)).unwrap();
        writer.write(LINE).unwrap();
        assert_eq!(writer.status().live(), Some(segments(&directory)[0].0));
        drop(writer);
        let found = segments(&directory);
        assert_eq!((found.len(), found[0].1.as_bytes()), (1, LINE.repeat(4).as_slice()));
    }

    #[test]
    fn a_segment_that_was_closed_does_not_grow_again() {
        let state = tempfile::tempdir().unwrap();
        let mut writer = HistoryWriter::start(settings(state.path())).unwrap();
        writer.write(LINE).unwrap();
        writer.close();
        // As after a failure: the directory is prepared again, and the keeper may have the closed segment converted.
        writer.directory_state = DirectoryState::Unprepared;
        writer.write(LINE).unwrap();
        drop(writer);
        assert_eq!(segments(state.path()).iter().map(|(_, text)| text.len()).collect::<Vec<_>>(), [LINE.len(); 2]);
    }

    #[test]
    fn a_segment_that_is_written_later_has_a_later_name() {
        let taken = |all: &[u64]| all.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(next_from(&taken(&[]), 70_000), Some(60_000));
        assert_eq!(next_from(&taken(&[5]), 70_000), Some(60_000));
        assert_eq!(next_from(&taken(&[5, 60_000]), 70_000), Some(60_001), "in the same millisecond");
        assert_eq!(next_from(&taken(&[5, 1_000_000]), 70_000), Some(1_000_001), "the clock was set back");
        assert_eq!(next_from(&taken(&[]), 0), Some(0));
        assert_eq!(next_from(&taken(&[5, LATEST]), 70_000), Some(LATEST - 1), "it once stood in the year 2286");
    }

    #[test]
    fn an_old_segment_is_closed() {
        let state = tempfile::tempdir().unwrap();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let writer = HistoryWriter::start(settings(state.path())).unwrap();
        // A sixteenth of 1 kB is worth a file.
        for (age, bytes, is_due) in [
            (hours(2), 64, true),
            (hours(2), 63, false),
            (hours(24), 1, true),
            (hours(0), 1023, false),
            (hours(0), 1024, true),
        ] {
            assert_eq!(writer.is_due(age, bytes), is_due, "{age:?} {bytes}");
        }
        assert!(writer.due().is_none());
        let mut writer = writer;
        writer.write(LINE).unwrap();
        let due = writer.due().unwrap();
        assert!(due <= SEGMENT_AGE_MAX && due > SEGMENT_AGE_MAX - Duration::from_secs(60), "{due:?}");
        for _ in 0..2 {
            writer.write(LINE).unwrap();
        }
        assert!(writer.due().unwrap() <= OLD);
        drop(writer);
        // The next daemon does not continue one that is old.
        let name = |from| state.path().join(SegmentName::Segment { from }.to_string());
        fs::rename(name(segments(state.path())[0].0), name(ClockReading::now().time_of_day() - 2 * 3_600_000)).unwrap();
        let mut writer = HistoryWriter::start(settings(state.path())).unwrap();
        writer.write(LINE).unwrap();
        assert_eq!(segments(state.path()).len(), 2);
    }

    #[test]
    fn only_the_latest_segment_is_continued_and_only_if_it_is_not_converted() {
        let state = tempfile::tempdir().unwrap();
        let from = ClockReading::now().time_of_day() + EARLIER_MS;
        let write = |name: SegmentName, text: &[u8]| fs::write(state.path().join(name.to_string()), text).unwrap();
        write(SegmentName::Segment { from: from - 1 }, LINE);
        write(SegmentName::Segment { from }, LINE);
        write(SegmentName::Converted { from, to: from + 1, earliest: from - 7 }, b"PAR1 much PAR1");
        let mut writer = HistoryWriter::start(settings(state.path())).unwrap();
        writer.write(LINE).unwrap();
        assert_eq!(segments(state.path()).len(), 4);
        assert_eq!(writer.status().live(), Some(from + 1));
    }

    #[test]
    fn what_is_removed_is_made_again() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("events");
        let mut writer = HistoryWriter::start(settings(&directory)).unwrap();
        writer.write(LINE).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        writer.checked = Instant::now().checked_sub(CHECK).unwrap();
        writer.write(LINE).unwrap();
        assert_eq!(segments(&directory).len(), 1);
        // Also between two segments.
        writer.close();
        fs::remove_dir_all(&directory).unwrap();
        writer.write(LINE).unwrap();
        assert_eq!(segments(&directory)[0].1.as_bytes(), LINE);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_each_time() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("file");
        fs::write(&file, "").unwrap();
        let mut writer = HistoryWriter::start(settings(&file.join("events"))).unwrap();
        for _ in 0..2 {
            let failed = writer.write(LINE).unwrap_err();
            assert_eq!((failed.error.kind(), failed.written), (io::ErrorKind::NotADirectory, 0));
        }
    }
}
