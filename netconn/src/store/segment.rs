//! The segment that grows, as its one writer sees it: begins with the first event, is closed when it is long or old.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, UNIX_EPOCH},
};

use netconn_model::segment_name::{LATEST, SegmentName};
use tracing::{info, warn};

use crate::{
    line_file::{LineFile, MODE, WriteFailure},
    store::{
        Limits, Settings,
        folder::{self, Room, Stage},
        keeper::Keeper,
        status::Status,
    },
};

/// Events are not written in the order of their times, and the clock may be set. A segment takes events that are so much
/// earlier than its first; for one that is earlier still another segment is begun.
const EARLIER_MS: u64 = 10_000;
/// A segment is closed at this age, in the interest of those who look for an hour of many…
const OLD: Duration = Duration::from_secs(3600);
/// …but only if it has this part of its greatest length: a quiet machine makes one file a day, not 24.
const WORTH_PART: u64 = 16;
/// At this age it is closed in any case.
const VERY_OLD: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether there is room, and whether the file is still there.
const CHECK: Duration = Duration::from_secs(1);
/// How long after a failure the folder is prepared again.
const PREPARE_AGAIN: Duration = Duration::from_secs(10);

/// Writes the history. It makes its folder and files when there is something to write; what goes wrong costs the events that
/// come meanwhile, and is tried again.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    group: String,
    limits: Limits,
    status: Arc<Status>,
    notes: Option<SyncSender<()>>,
    keeper: Option<JoinHandle<()>>,
    live: Option<Live>,
    prepared: Prepared,
    checked: Instant,
}

/// Whether the folder is ready; if that went wrong, when it is tried again.
type Prepared = Result<(), Option<(Instant, io::ErrorKind, String)>>;

const UNPREPARED: Prepared = Err(None);

#[derive(Debug)]
struct Live {
    from: u64,
    file: LineFile,
    bytes: u64,
}

impl Writer {
    /// A history in a folder, and the thread that looks after it.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let Settings { folder, group, limits, pace } = settings;
        let status = Arc::<Status>::default();
        // One note is enough: whoever gets it looks at everything.
        let (notes, receiver) = sync_channel(1);
        let keeper = Keeper::new(folder.clone(), limits, pace, Arc::clone(&status));
        let thread = thread::Builder::new().name("netconn-history".into());
        let keeper = thread.spawn(move || keeper.run(&receiver))?;
        Ok(Self {
            folder,
            group,
            limits,
            status,
            notes: Some(notes),
            keeper: Some(keeper),
            live: None,
            prepared: UNPREPARED,
            checked: Instant::now(),
        })
    }

    /// How it is.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Appends whole lines, of which the earliest is of the given time (epoch milliseconds).
    ///
    /// # Errors
    ///
    /// When not all could be written; the lines that were are whole.
    pub fn write(&mut self, lines: &[u8], earliest: i64) -> Result<(), WriteFailure> {
        let earliest = u64::try_from(earliest).unwrap_or(0).min(LATEST);
        let is_time = self.live.is_none() || self.checked.elapsed() >= CHECK;
        if is_time {
            self.checked = Instant::now();
            self.look_for_file();
        }
        self.prepare()?;
        if is_time {
            self.look_for_room()?;
        }
        if self.status.is_full() {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        if self.live.as_ref().is_some_and(|live| earliest < live.from) {
            self.close();
        }
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.begin(earliest)?,
        };
        let written = live.file.write(lines);
        live.bytes += written.as_ref().map_or_else(|failure| failure.written, |()| lines.len()) as u64;
        self.status.live_bytes.store(live.bytes, Ordering::Relaxed);
        self.live = Some(live);
        self.close_if_due();
        written
    }

    /// When the segment will be so old that it is closed, if nothing is written until then.
    pub fn due(&self) -> Option<Duration> {
        let Live { from, bytes, .. } = self.live.as_ref()?;
        let age = if self.is_worth_a_file(*bytes) { OLD } else { VERY_OLD };
        Some(age.saturating_sub(since(*from)))
    }

    /// Closes the segment if it is long or old.
    pub fn close_if_due(&mut self) {
        if self.live.as_ref().is_some_and(|live| self.is_due(live.from, live.bytes)) {
            self.close();
        }
    }

    fn is_due(&self, from: u64, bytes: u64) -> bool {
        let age = since(from);
        bytes >= self.limits.segment_bytes || (age >= OLD && self.is_worth_a_file(bytes)) || age >= VERY_OLD
    }

    fn is_worth_a_file(&self, bytes: u64) -> bool {
        bytes >= self.limits.segment_bytes / WORTH_PART
    }

    /// Makes the folder ready, once; if that failed, again after a while.
    fn prepare(&mut self) -> io::Result<()> {
        match &self.prepared {
            Ok(()) => return Ok(()),
            Err(Some((again, kind, said))) if *again > Instant::now() => {
                return Err(io::Error::new(*kind, said.clone()));
            }
            Err(_) => {}
        }
        // A segment that has been closed once may be in conversion: only the first time one is gone on with.
        let prepared = if self.status.ready.load(Ordering::Acquire) {
            folder::prepare(&self.folder, &self.group, Stage::Again)
        } else {
            folder::prepare(&self.folder, &self.group, Stage::Start).and_then(|()| self.resume())
        };
        match &prepared {
            Ok(()) => {
                self.prepared = Ok(());
                self.status.ready.store(true, Ordering::Release);
            }
            Err(error) => self.prepare_later(error),
        }
        self.note();
        prepared
    }

    fn prepare_later(&mut self, error: &io::Error) {
        self.prepared = Err(Some((Instant::now() + PREPARE_AGAIN, error.kind(), error.to_string())));
    }

    /// Goes on with the latest segment, if it is not due: else daemons that are started often would leave many short ones.
    fn resume(&mut self) -> io::Result<()> {
        let entries = folder::list(&self.folder)?;
        let converted: HashSet<u64> =
            entries.iter().filter(|entry| entry.name.to().is_some()).map(|entry| entry.name.from()).collect();
        let alone = entries.iter().filter(|entry| !converted.contains(&entry.name.from()));
        let Some(latest) = alone.max_by_key(|entry| entry.name) else { return Ok(()) };
        let from = latest.name.from();
        if !self.is_due(from, latest.bytes) {
            let file = LineFile::open(&self.path(from))?;
            let bytes = file.length()?;
            self.status.set_live(Some(from));
            self.status.live_bytes.store(bytes, Ordering::Relaxed);
            self.live = Some(Live { from, file, bytes });
        }
        Ok(())
    }

    /// Begins a segment for an event of this time and those that follow.
    fn begin(&mut self, earliest: u64) -> io::Result<Live> {
        let started = self.create(earliest);
        if let Err(error) = &started {
            self.status.set_live(None);
            if error.kind() == io::ErrorKind::NotFound {
                self.prepared = UNPREPARED; // The folder is gone, or was made anew.
            } else {
                self.prepare_later(error);
            }
        }
        self.note();
        started
    }

    fn create(&self, earliest: u64) -> io::Result<Live> {
        let taken: HashSet<u64> = folder::list(&self.folder)?.iter().map(|entry| entry.name.from()).collect();
        let first = earliest.saturating_sub(EARLIER_MS);
        // Lower, so that no event is earlier; at the very beginning of time there is only the other way.
        let mut free = (0..=first).rev().chain(first..=LATEST).filter(|from| !taken.contains(from));
        let from = free.next().ok_or(io::ErrorKind::AlreadyExists)?;
        self.status.set_live(Some(from));
        let path = self.path(from);
        let file = LineFile::create(&path)?;
        // Whatever the umask is; the group is the folder's.
        folder::share(&path, None, MODE)?;
        Ok(Live { from, file, bytes: 0 })
    }

    /// Closes the segment, for the keeper to have it converted.
    fn close(&mut self) {
        self.live = None;
        self.status.live_bytes.store(0, Ordering::Relaxed);
        self.status.set_live(None);
        self.note();
    }

    /// Another segment is begun, in another folder if need be, when somebody has removed this one.
    fn look_for_file(&mut self) {
        let removed = self.live.as_ref().filter(|live| live.file.is_removed()).map(|live| live.from);
        if let Some(from) = removed {
            info!("{} was removed by somebody: another is begun", self.path(from).display());
            self.close();
        }
        // That is not asked for each batch, but before each segment.
        if self.live.is_none() && !self.folder.exists() {
            self.prepared = UNPREPARED;
        }
    }

    /// Notes whether there is room, and has some made before there is none.
    fn look_for_room(&mut self) -> io::Result<()> {
        let room = Room::of(&self.folder).inspect_err(|_| self.prepared = UNPREPARED)?;
        self.status.full.store(room.is_exhausted(), Ordering::Relaxed);
        if room.free < room.reserve {
            self.note();
        }
        Ok(())
    }

    /// Tells the keeper that there is something to do. If it was told already, it will look at this too.
    fn note(&self) {
        if let Some(notes) = &self.notes {
            let _ = notes.try_send(());
        }
    }

    fn path(&self, from: u64) -> PathBuf {
        self.folder.join(SegmentName::Segment { from }.to_string())
    }
}

impl Drop for Writer {
    /// The segment stays as it is: the next daemon goes on with it.
    fn drop(&mut self) {
        drop(self.notes.take());
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            warn!("the thread that looks after the history broke: please report what stands above");
        }
    }
}

/// How long ago that was; nothing if it is yet to come.
fn since(epoch_ms: u64) -> Duration {
    UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(Duration::from_millis(epoch_ms))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::store::Pace;

    const LINE: &[u8] = b"{\"event.type\":\"IP Connect\"}\n";

    fn settings(folder: &Path) -> Settings {
        let limits = Limits::new(16 << 10, Duration::from_secs(1 << 32), Pace::NORMAL);
        Settings { folder: folder.to_owned(), group: "no-such-group".into(), limits, pace: Pace::NORMAL }
    }

    fn now() -> i64 {
        UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
    }

    /// The segments with their content, the earliest first.
    fn segments(folder: &Path) -> Vec<(u64, String)> {
        let mut entries = folder::list(folder).unwrap();
        entries.sort_by_key(|entry| entry.name);
        let read = |name: SegmentName| fs::read_to_string(folder.join(name.to_string())).unwrap();
        entries.iter().map(|entry| (entry.name.from(), read(entry.name))).collect()
    }

    #[test]
    fn a_segment_is_closed_when_it_is_long_and_the_next_has_another_name() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("events");
        let mut writer = Writer::start(settings(&folder)).unwrap();
        let time = now();
        // 1 kB is the greatest length here: 37 lines are a segment, all of one millisecond.
        for _ in 0..100 {
            writer.write(LINE, time).unwrap();
        }
        drop(writer);
        let found = segments(&folder);
        assert_eq!(found.iter().map(|(_, text)| text.len() / LINE.len()).collect::<Vec<_>>(), [26, 37, 37]);
        let latest = time as u64 - EARLIER_MS;
        assert_eq!(found.iter().map(|(from, _)| *from).collect::<Vec<_>>(), [latest - 2, latest - 1, latest]);
    }

    #[test]
    fn a_daemon_goes_on_with_the_segment_of_the_last_one() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("events");
        for _ in 0..3 {
            Writer::start(settings(&folder)).unwrap().write(LINE, now()).unwrap();
            let (from, _) = segments(&folder)[0];
            let torn = fs::OpenOptions::new().append(true).open(folder.join(SegmentName::Segment { from }.to_string()));
            io::Write::write_all(&mut torn.unwrap(), b"{\"event.type\":\"I").unwrap();
        }
        let mut writer = Writer::start(settings(&folder)).unwrap();
        writer.write(LINE, now()).unwrap();
        assert_eq!(writer.status().live(), Some(segments(&folder)[0].0));
        drop(writer);
        let found = segments(&folder);
        assert_eq!((found.len(), found[0].1.as_bytes()), (1, LINE.repeat(4).as_slice()));
    }

    #[test]
    fn a_segment_that_was_closed_does_not_grow_again() {
        let state = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(settings(state.path())).unwrap();
        writer.write(LINE, now()).unwrap();
        writer.close();
        // Something went wrong, so that the folder is made ready again; the keeper may be at the closed one.
        writer.prepared = UNPREPARED;
        writer.write(LINE, now()).unwrap();
        drop(writer);
        assert_eq!(segments(state.path()).iter().map(|(_, text)| text.len()).collect::<Vec<_>>(), [LINE.len(); 2]);
    }

    #[test]
    fn no_event_is_earlier_than_the_name_says() {
        let state = tempfile::tempdir().unwrap();
        let mut writer = Writer::start(settings(state.path())).unwrap();
        let time = now();
        for earlier in [0, 200, EARLIER_MS as i64, EARLIER_MS as i64 + 1, 0] {
            writer.write(LINE, time - earlier).unwrap();
        }
        let late = time as u64 - EARLIER_MS;
        let early = late - EARLIER_MS - 1;
        assert_eq!(
            segments(state.path()),
            [(early, String::from_utf8(LINE.repeat(2)).unwrap()), (late, String::from_utf8(LINE.repeat(3)).unwrap()),]
        );
        writer.write(LINE, -7).unwrap();
        drop(writer);
        assert_eq!(segments(state.path())[0].0, 0);
    }

    #[test]
    fn an_old_segment_is_closed() {
        let state = tempfile::tempdir().unwrap();
        let now = now() as u64;
        let hours = |hours: u64| now - hours * 3_600_000;
        let writer = Writer::start(settings(state.path())).unwrap();
        // A sixteenth of 1 kB is worth a file.
        for (from, bytes, is_due) in [
            (hours(2), 64, true),
            (hours(2), 63, false),
            (hours(24), 1, true),
            (hours(0), 1023, false),
            (hours(0), 1024, true),
        ] {
            assert_eq!(writer.is_due(from, bytes), is_due, "{from} {bytes}");
        }
        assert!(writer.due().is_none());
        let mut writer = writer;
        writer.write(LINE, now as i64).unwrap();
        let due = writer.due().unwrap();
        assert!(due <= VERY_OLD && due > VERY_OLD - Duration::from_secs(60), "{due:?}");
        for _ in 0..2 {
            writer.write(LINE, now as i64).unwrap();
        }
        assert!(writer.due().unwrap() <= OLD);
        // The next daemon does not go on with one that is old.
        fs::write(state.path().join(SegmentName::Segment { from: hours(2) }.to_string()), LINE.repeat(3)).unwrap();
        drop(writer);
        fs::remove_file(state.path().join(SegmentName::Segment { from: segments(state.path())[1].0 }.to_string()))
            .unwrap();
        let mut writer = Writer::start(settings(state.path())).unwrap();
        writer.write(LINE, now as i64).unwrap();
        assert_eq!(segments(state.path()).len(), 2);
    }

    #[test]
    fn a_segment_that_is_converted_is_not_continued() {
        let state = tempfile::tempdir().unwrap();
        let from = now() as u64 - EARLIER_MS;
        fs::write(state.path().join(SegmentName::Segment { from }.to_string()), LINE).unwrap();
        fs::write(state.path().join(SegmentName::Converted { from, to: from + 1 }.to_string()), "PAR1 much PAR1")
            .unwrap();
        let mut writer = Writer::start(settings(state.path())).unwrap();
        writer.write(LINE, from as i64 + EARLIER_MS as i64).unwrap();
        assert_eq!(segments(state.path()).len(), 3);
        assert_eq!(writer.status().live(), Some(from - 1));
    }

    #[test]
    fn what_is_removed_is_made_again() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("events");
        let mut writer = Writer::start(settings(&folder)).unwrap();
        writer.write(LINE, now()).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        writer.checked = Instant::now().checked_sub(CHECK).unwrap();
        writer.write(LINE, now()).unwrap();
        assert_eq!(segments(&folder).len(), 1);
        // Also between two segments.
        writer.close();
        fs::remove_dir_all(&folder).unwrap();
        writer.write(LINE, now()).unwrap();
        assert_eq!(segments(&folder)[0].1.as_bytes(), LINE);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_each_time() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("file");
        fs::write(&file, "").unwrap();
        let mut writer = Writer::start(settings(&file.join("events"))).unwrap();
        for _ in 0..2 {
            let failed = writer.write(LINE, now()).unwrap_err();
            assert_eq!((failed.error.kind(), failed.written), (io::ErrorKind::NotADirectory, 0));
        }
    }
}
