//! Processes from `/proc`: those older than netconn, and those whose records were lost. Slow.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use hashbrown::{HashMap, HashSet};
use netconn_common::{ImageFile, UNKNOWN_U64, exec::ARGUMENTS_MAX};
use procfs::process::Process;
use tracing::warn;

use crate::{
    privileged,
    process::{
        DELETED, Identity, Key,
        redact::{Redacted, Redactor},
    },
};

/// A process found in `/proc`.
#[derive(Debug)]
pub struct Scanned {
    /// Process id and start.
    pub key: Key,
    /// Whether the start is exact, not only that of its clock tick.
    pub is_exact: bool,
    /// Process id of the parent.
    pub parent: u32,
    /// Start of the parent, if the kernel told it.
    pub parent_start_ns: Option<u64>,
    /// The executable's file, if the kernel told it.
    pub image: ImageFile,
    /// Name.
    pub name: String,
    /// Executable; none for kernel threads and where this user may not read it.
    pub path: Option<String>,
    /// Arguments, with their secrets: nothing keeps them.
    pub arguments: Option<Arguments>,
}

/// Arguments as `/proc` has them.
#[derive(Debug)]
pub struct Arguments {
    /// Each ends with NUL.
    pub(super) bytes: Vec<u8>,
    /// There are more.
    pub(super) is_cut: bool,
}

impl Arguments {
    /// Returns them as a command line without secrets; `None` if there are none.
    pub(super) fn redacted(&self, redactor: &Redactor) -> Option<Redacted> {
        redactor.command_line(&self.bytes, self.is_cut)
    }
}

impl Scanned {
    /// Returns whether a process still runs the program that is known, as far as the scan tells.
    pub(super) fn is_same_program(&self, known: &Identity) -> bool {
        // Not the namespace: a mount that is taken away has none any more.
        let file = |image: &ImageFile| (image.inode != UNKNOWN_U64).then_some((image.inode, image.device));
        let is_same_file = file(&self.image).zip(file(&known.image)).map(|(found, known)| found == known);
        match (self.path.as_deref(), known.path.as_deref()) {
            // `/proc` tells nothing of kernel threads, and nothing any more of a process whose first thread has ended.
            (None, _) => is_same_file != Some(false),
            // The record had no path: what `/proc` tells is more.
            (Some(_), None) => false,
            // A path changes while the program runs: its file is renamed or removed, and `/proc` tells it as seen from another
            // mount namespace.
            (Some(found), Some(known)) => is_same_file.unwrap_or_else(|| bare(found) == bare(known)),
        }
    }
}

/// Returns a path without the mark that its file was removed.
pub(super) fn bare(path: &str) -> &str {
    path.strip_suffix(DELETED).unwrap_or(path)
}

/// How long a reading may take before another thread goes on with the next process: a process that holds its own memory's lock
/// (`mmap_lock`) holds up whoever reads its arguments, for as long as it likes.
const HELD_UP: Duration = Duration::from_millis(100);
/// How long the last readings of a scan are waited for: memory may have to come back from a slow disk.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a scan waits without an answer for readers that only wait for a CPU.
const STARVED_MAX: Duration = Duration::from_secs(30);
/// Pause between two looks at the readers, if no answer comes.
const LOOK: Duration = Duration::from_millis(20);
/// Most threads that read, or are held up, at the same time.
const THREADS_MAX: usize = 8;
/// Most threads that processes of the same user may hold up, so that no user takes all of them.
const OF_USER_MAX: usize = 2;

/// Returns all visible processes, without those that end meanwhile. Their starts are in clock ticks. One that holds up whoever reads
/// its arguments has no command line.
pub fn all() -> Vec<Scanned> {
    let Ok(names) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok());
    add_paths(in_time(ids.collect(), &Threads::default(), read))
}

/// Adds the executables, for all processes at once: each request to the privileged child takes time.
fn add_paths(mut found: Vec<Scanned>) -> Vec<Scanned> {
    let pids: Vec<u32> = found.iter().map(|process| process.key.tgid).collect();
    for (process, path) in found.iter_mut().zip(privileged::executables(&pids)) {
        // The path of a deleted file ends in " (deleted)", as `executable` writes it too.
        process.path = path.map(|path| path.to_string_lossy().into_owned());
    }
    found
}

/// Returns the process with this key, if it still lives; as [`all`].
pub fn one(key: Key) -> Option<Scanned> {
    some([key]).pop()
}

/// Returns the processes with these keys that still live; as [`all`].
pub fn some(keys: impl IntoIterator<Item = Key>) -> Vec<Scanned> {
    // Several may have the same id: one has ended, and a later process has got its id.
    let mut wanted: HashMap<i32, Vec<Key>> = HashMap::new();
    for key in keys {
        if let Ok(id) = i32::try_from(key.tgid) {
            wanted.entry(id).or_default().push(key);
        }
    }
    let mut found = add_paths(in_time(wanted.keys().copied().collect(), &Threads::default(), read));
    found.retain_mut(|found| {
        let keys = i32::try_from(found.key.tgid).ok().and_then(|id| wanted.get(&id));
        let same = keys.into_iter().flatten().filter(|key| key.by_tick() == found.key);
        // The exact start, if it is known too.
        let Some(key) = same.max_by_key(|key| key.start_ns) else { return false };
        found.is_exact = *key != found.key;
        found.key = *key;
        true
    });
    found
}

/// A thread that reads.
#[derive(Debug, Default)]
struct Reader {
    /// The process that it reads, and since when.
    reading: Mutex<Option<(i32, Instant)>>,
    /// The file in `/proc` that has its state.
    stat: OnceLock<PathBuf>,
}

impl Reader {
    fn set(&self, reading: Option<(i32, Instant)>) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }

    /// Returns the process that has held up the thread for at least this time. A thread that waits for a CPU is not held up.
    fn held_up_by(&self, time: Duration) -> Option<i32> {
        let (id, since) = (*self.reading.lock().unwrap_or_else(PoisonError::into_inner))?;
        (since.elapsed() >= time && !self.is_runnable()).then_some(id)
    }

    /// Returns whether the thread runs, or waits for nothing but a CPU.
    fn is_runnable(&self) -> bool {
        let stat = self.stat.get().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        // The state stands behind the name, which may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
    }
}

/// Threads that read, of all scans: those that are held up stay until they are let go.
#[derive(Clone, Copy, Debug)]
struct Threads {
    readers: &'static Mutex<Vec<Arc<Reader>>>,
    /// Whether the log has it that processes hold up readers.
    is_told: &'static AtomicBool,
    /// Returns the user of a process.
    user_of: fn(i32) -> Option<u32>,
    /// Reads a process without its arguments, which nothing can hold up.
    without_arguments: fn(i32) -> Option<Scanned>,
}

impl Default for Threads {
    fn default() -> Self {
        static READERS: Mutex<Vec<Arc<Reader>>> = Mutex::new(Vec::new());
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        Self {
            readers: &READERS,
            is_told: &IS_TOLD,
            // Not the owner of the folder: that is root for a process that forbids core dumps.
            user_of: |id| Some(Process::new(id).ok()?.status().ok()?.euid),
            without_arguments: |id| without_arguments(&Process::new(id).ok()?),
        }
    }
}

/// Counts as a thread until it is dropped.
struct Counted {
    threads: Threads,
    reader: Arc<Reader>,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'static, Vec<Arc<Reader>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_more(&self) -> Option<Counted> {
        let mut readers = self.lock();
        if readers.len() >= THREADS_MAX {
            return None;
        }
        let reader = Arc::<Reader>::default();
        readers.push(Arc::clone(&reader));
        Some(Counted { threads: *self, reader })
    }

    /// Returns the processes that hold up a thread.
    fn held_up(&self) -> Vec<i32> {
        self.lock().iter().filter_map(|reader| reader.held_up_by(HELD_UP)).collect()
    }

    /// Returns whether there are as many threads as there may be, and one of them is not held up.
    fn may_end(&self) -> bool {
        let readers = self.lock();
        readers.len() >= THREADS_MAX && readers.iter().any(|reader| reader.held_up_by(HELD_UP).is_none())
    }

    /// Returns whether the arguments of a process may be read: neither it nor others of its user hold up threads enough.
    fn may_read(&self, id: i32) -> bool {
        let held_up = self.held_up();
        if held_up.contains(&id) {
            return false;
        }
        if held_up.len() < OF_USER_MAX {
            return true;
        }
        let user = (self.user_of)(id);
        held_up.into_iter().filter(|held| (self.user_of)(*held) == user).count() < OF_USER_MAX
    }

    /// Tells the log, once, how many processes of a scan have no arguments, and which hold up readers.
    fn tell(&self, unread: usize) {
        if unread > 0 && !self.is_told.swap(true, Ordering::Relaxed) {
            let ids: Vec<String> = self.held_up().iter().map(ToString::to_string).collect();
            let these = if ids.is_empty() { "none is known".to_owned() } else { ids.join(", ") };
            warn!(
                "the arguments of {unread} processes could not be read in time, so they have no command line; processes that hold up \
                 whoever reads their arguments: {these}"
            );
        }
    }
}

impl Counted {
    /// Reads a process, without its arguments if somebody is held up by it.
    fn read(&self, id: i32, read: fn(i32) -> Option<Scanned>) -> Option<Scanned> {
        if !self.threads.may_read(id) {
            return (self.threads.without_arguments)(id);
        }
        self.reader.set(Some((id, Instant::now())));
        let found = read(id);
        self.reader.set(None);
        found
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.threads.lock().retain(|reader| !Arc::ptr_eq(reader, &self.reader));
    }
}

/// Processes to be read, and how many of them somebody has taken.
struct Work {
    ids: Vec<i32>,
    taken: AtomicUsize,
}

/// Reads processes by a thread, and by another one for the rest as long as all before it are held up. What nobody has read in time is
/// read without its arguments.
fn in_time(ids: Vec<i32>, threads: &Threads, read: fn(i32) -> Option<Scanned>) -> Vec<Scanned> {
    let work = Arc::new(Work { ids, taken: AtomicUsize::new(0) });
    let (answer, answers) = channel();
    let mut answered = HashSet::with_capacity(work.ids.len());
    let mut found = Vec::with_capacity(work.ids.len());
    let mut readers: Vec<Arc<Reader>> = Vec::new();
    let mut last_answer = Instant::now();
    while answered.len() < work.ids.len() && last_answer.elapsed() < STARVED_MAX {
        // Nobody else has those that have ended.
        readers.retain(|reader| Arc::strong_count(reader) > 1);
        let are_held_up = |time| readers.iter().all(|reader| reader.held_up_by(time).is_some());
        if work.taken.load(Ordering::Relaxed) < work.ids.len() && are_held_up(HELD_UP) {
            if let Some(reader) = start(&work, threads, &answer, read) {
                readers.push(reader);
            } else if !threads.may_end() && are_held_up(PATIENCE) {
                break;
            }
        } else if are_held_up(PATIENCE) {
            break;
        }
        while answered.len() < work.ids.len()
            && let Ok((id, process)) = answers.recv_timeout(LOOK)
        {
            answered.insert(id);
            found.extend(process);
            last_answer = Instant::now();
        }
    }
    // What came since the last look.
    for (id, process) in answers.try_iter() {
        answered.insert(id);
        found.extend(process);
    }
    let rest: Vec<i32> = work.ids.iter().filter(|id| !answered.contains(*id)).copied().collect();
    threads.tell(rest.len());
    found.extend(rest.into_iter().filter_map(threads.without_arguments));
    found
}

/// Starts a thread that reads what nobody has taken; `None` if there is none.
fn start(
    work: &Arc<Work>,
    threads: &Threads,
    answer: &Sender<(i32, Option<Scanned>)>,
    read: fn(i32) -> Option<Scanned>,
) -> Option<Arc<Reader>> {
    let counted = threads.one_more()?;
    let reader = Arc::clone(&counted.reader);
    let (work, answer) = (Arc::clone(work), answer.clone());
    let run = move || {
        // A link to `PID/task/TID`, with the numbers of the pid namespace that `/proc` shows.
        if let Ok(place) = fs::read_link("/proc/thread-self") {
            let _ = counted.reader.stat.set(Path::new("/proc").join(place).join("stat"));
        }
        while let Some(id) = work.ids.get(work.taken.fetch_add(1, Ordering::Relaxed))
            // Nobody listens any more: this one was held up.
            && answer.send((*id, counted.read(*id, read))).is_ok()
        {}
    };
    thread::Builder::new().name("netconn-scan".into()).spawn(run).ok().map(|_| reader)
}

fn read(id: i32) -> Option<Scanned> {
    let process = Process::new(id).ok()?;
    let found = without_arguments(&process)?;
    Some(Scanned { arguments: arguments(&process), ..found })
}

fn without_arguments(process: &Process) -> Option<Scanned> {
    let stat = process.stat().ok()?;
    Some(Scanned {
        key: Key::of_ticks(u32::try_from(stat.pid).ok()?, stat.starttime),
        is_exact: false,
        parent: u32::try_from(stat.ppid).unwrap_or(0),
        parent_start_ns: None,
        image: ImageFile::UNKNOWN,
        name: stat.comm,
        path: None,
        arguments: None,
    })
}

/// Returns the arguments of a process, as many of them as the kernel's records have: a process may have megabytes.
fn arguments(process: &Process) -> Option<Arguments> {
    let file = process.open_relative("cmdline").ok()?;
    let mut bytes = Vec::new();
    // One byte more shows whether there are more. What was read before an error is no less true: the process has ended.
    let _ = file.take(ARGUMENTS_MAX as u64 + 1).read_to_end(&mut bytes);
    let has_more = bytes.len() > ARGUMENTS_MAX;
    bytes.truncate(ARGUMENTS_MAX);
    // A process that has written a title over its arguments leaves NULs behind it.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let is_cut = has_more && end + 1 >= bytes.len();
    bytes.truncate(end);
    Some(Arguments { bytes, is_cut })
}

#[cfg(test)]
mod tests {
    use std::sync::RwLock;

    use super::*;
    use crate::process::TICK_NS;

    fn line_of(found: &Scanned) -> Option<String> {
        found.arguments.as_ref()?.redacted(&Redactor::default()).map(|line| line.text)
    }

    #[test]
    fn long_arguments_are_cut_where_the_kernels_records_are() {
        let shown = |length: usize| {
            // The shell ends when its input does.
            let mut child = std::process::Command::new("sh")
                .args(["-c", "read x", &"y".repeat(length)])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let key = Key::of_ticks(child.id(), Process::new(child.id() as i32).unwrap().stat().unwrap().starttime);
            // In the middle of `exec` a process has no arguments.
            let line = std::iter::repeat_with(|| line_of(&one(key).unwrap())).flatten().next().unwrap();
            drop(child.stdin.take());
            child.wait().unwrap();
            line
        };
        let before = "sh -c read x ".len();
        let line = shown(5000);
        assert_eq!((line.chars().count(), line.chars().last()), (ARGUMENTS_MAX + 1, Some('…')));
        // Its last NUL is at the limit.
        let line = shown(ARGUMENTS_MAX - before - 1);
        assert_eq!((line.len(), line.chars().last()), (ARGUMENTS_MAX - 1, Some('y')));
    }

    /// Threads of a test, for which every process belongs to the user that its id in hundreds says.
    fn threads(readers: &'static Mutex<Vec<Arc<Reader>>>, is_told: &'static AtomicBool) -> Threads {
        Threads {
            user_of: |id| u32::try_from(id / 100).ok(),
            without_arguments: |_| (Threads::default().without_arguments)(me()),
            readers,
            is_told,
        }
    }

    fn me() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    fn until(mut is_done: impl FnMut() -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !is_done() {
            assert!(Instant::now() < limit, "in time");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_process_that_holds_up_its_reader_holds_up_no_scan() {
        static READERS: Mutex<Vec<Arc<Reader>>> = Mutex::new(Vec::new());
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        static HOLD: RwLock<()> = RwLock::new(());
        /// Reads this very process under other ids; that of 3 and of all from 100 on is held up.
        fn slow(id: i32) -> Option<Scanned> {
            // Without a moment in which the thread runs.
            let _held = (id == 3 || id >= 100).then(|| HOLD.read());
            read(me())
        }
        let hold = HOLD.write().unwrap();
        let threads = threads(&READERS, &IS_TOLD);
        let living = || READERS.lock().unwrap().len();
        let with_arguments = |ids: Vec<i32>| {
            let (count, found) = (ids.len(), in_time(ids, &threads, slow));
            assert_eq!(found.len(), count, "each is known, without its arguments if need be");
            found.iter().filter(|process| process.arguments.is_some()).count()
        };
        assert_eq!(with_arguments(vec![1, 2, 4, 5]), 4);
        assert!(!IS_TOLD.load(Ordering::Relaxed));
        // The same one is read once only, in whatever scan.
        for _ in 0..3 {
            assert_eq!(with_arguments(vec![1, 2, 3, 4, 5]), 4);
            until(|| living() == 1);
            assert!(IS_TOLD.load(Ordering::Relaxed));
        }
        // No user has more than its share.
        assert_eq!(with_arguments((100..200).collect()), 0);
        until(|| living() == 1 + OF_USER_MAX);
        assert_eq!(with_arguments(vec![1, 2, 4, 5, 6]), 5);
        // So many users have processes of this kind that nobody is left to read.
        assert_eq!(with_arguments((1..=30).map(|user| user * 100).collect()), 0);
        assert_eq!(living(), THREADS_MAX);
        assert_eq!(with_arguments(vec![1]), 0);
        drop(hold);
        until(|| living() == 0);
        assert_eq!(with_arguments(vec![1, 3, 100]), 3);
    }

    #[test]
    fn a_reader_without_a_cpu_is_waited_for() {
        static READERS: Mutex<Vec<Arc<Reader>>> = Mutex::new(Vec::new());
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        /// Is as slow as a reader that seldom gets a CPU.
        fn busy(_: i32) -> Option<Scanned> {
            let since = Instant::now();
            while since.elapsed() < PATIENCE + HELD_UP {
                std::hint::spin_loop();
            }
            read(me())
        }
        let found = in_time(vec![1], &threads(&READERS, &IS_TOLD), busy);
        assert!(found[0].arguments.is_some());
    }

    #[test]
    fn of_processes_with_the_same_id_the_living_one_is_found() {
        let id = u32::try_from(me()).unwrap();
        let living = Key::of_ticks(id, Process::new(me()).unwrap().stat().unwrap().starttime);
        let dead = Key { start_ns: living.start_ns - TICK_NS, ..living };
        for keys in [[living, dead], [dead, living]] {
            let found: Vec<Key> = some(keys).into_iter().map(|process| process.key).collect();
            assert_eq!(found, [living]);
        }
    }

    #[test]
    fn finds_this_very_process() {
        let found = all();
        let me = found.iter().find(|process| process.key.tgid == std::process::id()).unwrap();
        assert_eq!(me.path.as_deref().map(Path::new), Some(std::env::current_exe().unwrap().as_path()));
        assert_eq!(one(me.key).unwrap().path, me.path);
        let exact = Key { start_ns: me.key.start_ns + 1, ..me.key };
        assert_eq!(one(exact).unwrap().key, exact, "the tick is the same");
        let later = Key { start_ns: me.key.start_ns + TICK_NS, ..me.key };
        assert!(one(later).is_none(), "another process with this id");
        assert_eq!(me.parent, std::os::unix::process::parent_id());
        let arguments: Vec<String> = std::env::args().collect();
        assert_eq!(line_of(me), Some(arguments.join(" ")));
    }
}
