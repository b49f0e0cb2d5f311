//! Processes from `/proc`: those older than netconn, and those whose records were lost. Slow.

use std::{
    fs,
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use hashbrown::{HashMap, HashSet};
use netconn_common::{ImageFile, UNKNOWN_U64, exec::ARGUMENTS_MAX};
use procfs::process::Process;

use crate::process::{
    DELETED, Identity, Key,
    redact::{Redacted, Redactor},
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

/// How long a reading may be silent before another thread goes on with the next process: a process that holds its own memory's lock
/// (`mmap_lock`) holds up whoever reads its arguments, for as long as it likes.
const SILENCE: Duration = Duration::from_millis(100);
/// How many silences the last processes are waited for.
const SILENCES_MAX: u32 = 2;
/// Most threads that read, or are held up, at the same time.
const THREADS_MAX: usize = 8;

/// Returns all visible processes, without those that end meanwhile. Their starts are in clock ticks. One that holds up whoever reads
/// its arguments has no command line.
pub fn all() -> Vec<Scanned> {
    let Ok(names) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok());
    in_time(ids.collect(), &Threads::default(), read)
}

/// Returns the process with this key, if it still lives; as [`all`].
pub fn one(key: Key) -> Option<Scanned> {
    some([key]).pop()
}

/// Returns the processes with these keys that still live; as [`all`].
pub fn some(keys: impl IntoIterator<Item = Key>) -> Vec<Scanned> {
    let keys: HashMap<i32, Key> =
        keys.into_iter().filter_map(|key| Some((i32::try_from(key.tgid).ok()?, key))).collect();
    let found = in_time(keys.keys().copied().collect(), &Threads::default(), read);
    let known = |found: Scanned| {
        let key = *keys.get(&i32::try_from(found.key.tgid).ok()?)?;
        // The id may belong to a later process by now.
        (found.key == key.by_tick()).then_some(Scanned { key, is_exact: key != key.by_tick(), ..found })
    };
    found.into_iter().filter_map(known).collect()
}

/// Threads that read, of all scans: those that are held up stay until they are let go.
#[derive(Clone, Debug)]
struct Threads(&'static AtomicUsize);

impl Default for Threads {
    fn default() -> Self {
        static ALL: AtomicUsize = AtomicUsize::new(0);
        Self(&ALL)
    }
}

/// Counts as a thread until it is dropped.
struct Counted(Threads);

impl Threads {
    fn one_more(&self) -> Option<Counted> {
        let counted = Counted(self.clone());
        (self.0.fetch_add(1, Ordering::Relaxed) < THREADS_MAX).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Processes to be read, and how many of them somebody has taken.
struct Work {
    ids: Vec<i32>,
    taken: AtomicUsize,
}

/// Reads processes by a thread, and by another one for the rest as long as one is silent. What nobody has read in time is read without
/// its arguments.
fn in_time(ids: Vec<i32>, threads: &Threads, read: fn(i32) -> Option<Scanned>) -> Vec<Scanned> {
    let work = Arc::new(Work { ids, taken: AtomicUsize::new(0) });
    let (answer, answers) = channel();
    let mut answered = HashSet::with_capacity(work.ids.len());
    let mut found = Vec::with_capacity(work.ids.len());
    let mut silences = 0;
    while answered.len() < work.ids.len() && silences < SILENCES_MAX {
        let is_taken = || work.taken.load(Ordering::Relaxed) >= work.ids.len();
        if !is_taken() && !start(&work, threads, &answer, read) {
            break;
        }
        while answered.len() < work.ids.len()
            && let Ok((id, process)) = answers.recv_timeout(SILENCE)
        {
            answered.insert(id);
            found.extend(process);
        }
        silences += u32::from(is_taken());
    }
    let rest = work.ids.iter().filter(|id| !answered.contains(*id));
    found.extend(rest.filter_map(|id| without_arguments(&Process::new(*id).ok()?)));
    found
}

/// Starts a thread that reads what nobody has taken; returns whether there is one.
fn start(
    work: &Arc<Work>,
    threads: &Threads,
    answer: &Sender<(i32, Option<Scanned>)>,
    read: fn(i32) -> Option<Scanned>,
) -> bool {
    let Some(counted) = threads.one_more() else { return false };
    let (work, answer) = (Arc::clone(work), answer.clone());
    let run = move || {
        let _counted = counted;
        while let Some(id) = work.ids.get(work.taken.fetch_add(1, Ordering::Relaxed))
            // Nobody listens any more: this one was held up.
            && answer.send((*id, read(*id))).is_ok()
        {}
    };
    thread::Builder::new().name("netconn-scan".into()).spawn(run).is_ok()
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
        // The path of a deleted file ends in " (deleted)", as `executable` writes it too.
        path: process.exe().ok().map(|path| path.to_string_lossy().into_owned()),
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
    use std::{sync::atomic::AtomicBool, time::Instant};

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

    #[test]
    fn a_process_that_holds_up_its_reader_holds_up_no_scan() {
        static LIVING: AtomicUsize = AtomicUsize::new(0);
        static IS_HELD: AtomicBool = AtomicBool::new(true);
        /// Reads this very process under other ids; that of 3 and of all from 100 on is held up.
        fn slow(id: i32) -> Option<Scanned> {
            while (id == 3 || id >= 100) && IS_HELD.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            read(i32::try_from(std::process::id()).ok()?)
        }
        let threads = Threads(&LIVING);
        // None of these ids is that of a process whose arguments somebody needs here.
        let found = in_time(vec![1, 2, 3, 4, 5], &threads, slow);
        assert!(found.iter().filter(|process| process.arguments.is_some()).count() >= 4);
        // So many are held up that nobody is left to read.
        in_time((100..200).collect(), &threads, slow);
        assert_eq!(LIVING.load(Ordering::Relaxed), THREADS_MAX);
        let me = i32::try_from(std::process::id()).unwrap();
        let found = in_time(vec![me], &threads, slow);
        assert_eq!((found.len(), found[0].arguments.is_none()), (1, true), "known, without its arguments");
        assert_eq!(
            found[0].path.as_deref().map(std::path::Path::new),
            Some(std::env::current_exe().unwrap().as_path())
        );
        IS_HELD.store(false, Ordering::Relaxed);
        let limit = Instant::now() + Duration::from_secs(60);
        while LIVING.load(Ordering::Relaxed) > 0 {
            assert!(Instant::now() < limit, "threads that are let go end");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(in_time(vec![me], &threads, slow)[0].arguments.is_some());
    }

    #[test]
    fn finds_this_very_process() {
        let found = all();
        let me = found.iter().find(|process| process.key.tgid == std::process::id()).unwrap();
        assert_eq!(me.path.as_deref().map(std::path::Path::new), Some(std::env::current_exe().unwrap().as_path()));
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
