//! What `/proc` says of living processes at this moment, for lists: the title that a process gives itself (`setproctitle`), and command
//! lines that were too long for a record.

use std::{
    fs::File,
    io::{self, Read as _},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use netconn_common::exec::ARGUMENTS_MAX;
use netconn_model::json::CUT;

use super::{
    Key, TICK_NS,
    redact::{Redacted, Redactor},
};
use crate::{os, patience::Patience};

/// How long an answer holds: the parts of one list, and lists that are asked for one after the other, read each process once.
const KEPT_NS: u64 = 1_000_000_000;
/// Most bytes that are read: more than a row has room for.
const BYTES_MAX: u64 = 16 << 10;
/// What reading takes at most if nothing holds it up. More counts as waiting.
const READING: Duration = Duration::from_millis(1);
/// Bytes of texts and entries that are kept. At the limit all are read again.
const KEPT_MAX: usize = 1 << 20;

/// What a process says of itself now, where that is not what it was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// What the text is.
    pub kind: NowKind,
    /// The text, without secrets.
    pub text: Arc<str>,
    /// Whether secrets were taken out of it.
    pub is_redacted: bool,
}

/// What a process shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NowKind {
    /// The title that it shows instead of its arguments.
    Title,
    /// Its whole command line, of which the beginning was known.
    CommandLine,
}

/// A question to the thread: a process, the command line that is known of it, and what takes secrets out of what is read.
type Question = (Key, String, Arc<Redactor>);

/// Titles that were read lately, and the thread that reads them: a process that holds its own memory's lock (`mmap_lock`) can hold up
/// whoever reads its arguments, for as long as it likes.
#[derive(Debug)]
pub struct Titles {
    read: HashMap<Key, (u64, Option<Now>)>,
    bytes: usize,
    /// Processes of which something was read.
    count: usize,
    questions: SyncSender<Question>,
    answers: Receiver<Option<Now>>,
    /// The thread has not answered yet.
    is_held_up: bool,
    /// For answers.
    patience: Patience,
}

impl Titles {
    /// Starts the thread; it ends with the `Titles`.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start() -> io::Result<Self> {
        Self::start_with(read)
    }

    fn start_with(read: impl Fn(Key, &str, &Redactor) -> Option<Now> + Send + 'static) -> io::Result<Self> {
        // Room for one answer, so that a late one holds up nobody.
        let (questions, asked) = sync_channel::<Question>(1);
        let (answer, answers) = sync_channel(1);
        // Nobody joins it: a reading may take long.
        thread::Builder::new().name("netconn-titles".into()).spawn(move || {
            os::lower_thread_priority();
            while let Ok((key, known, redactor)) = asked.recv()
                && answer.send(read(key, &known, &redactor)).is_ok()
            {}
        })?;
        let (read, patience) = (HashMap::new(), Patience::default());
        Ok(Self { read, bytes: 0, count: 0, questions, answers, is_held_up: false, patience })
    }

    /// Returns what a living process says of itself at `now`, if that is not the `known` command line: the one of its `exec`, which a
    /// process cannot change afterwards. Returns nothing while a process holds up the thread.
    pub fn of(&mut self, key: Key, known: Option<&str>, (now, redactor): (u64, &Arc<Redactor>)) -> Option<Now> {
        if let Some((read_ns, found)) = self.read.get(&key)
            && now.saturating_sub(*read_ns) < KEPT_NS
        {
            return found.clone();
        }
        let found = self.ask(key, known, redactor).ok()?;
        self.count += 1;
        let text = found.as_ref().map_or(0, |now| now.text.len());
        self.bytes += text + size_of::<(Key, (u64, Option<Now>))>();
        if self.bytes > KEPT_MAX {
            self.forget();
        }
        self.read.insert(key, (now, found.clone()));
        found
    }

    /// Has the thread read, and waits for it as long as there is patience.
    fn ask(&mut self, key: Key, known: Option<&str>, redactor: &Arc<Redactor>) -> Result<Option<Now>, NoAnswer> {
        // The answer to an earlier question, which nobody waits for any more.
        if self.is_held_up && self.answers.try_recv().is_ok() {
            self.is_held_up = false;
        }
        let began = Instant::now();
        let limit = self.patience.left(began);
        if self.is_held_up || limit.is_zero() {
            return Err(NoAnswer);
        }
        let question = (key, known.unwrap_or_default().to_owned(), Arc::clone(redactor));
        self.questions.try_send(question).map_err(|_| NoAnswer)?;
        let found = self.answers.recv_timeout(limit);
        self.is_held_up = found.is_err();
        let took = began.elapsed();
        if took > READING {
            self.patience.spend(Instant::now(), took);
        }
        found.map_err(|_| NoAnswer)
    }

    /// Returns how many processes were read so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        (self.read, self.bytes) = (HashMap::new(), 0);
    }
}

/// The thread does not answer in time.
#[derive(Debug)]
struct NoAnswer;

/// Reads what a process says of itself; `None` if that is what is known, or if the process cannot be read.
fn read(key: Key, known: &str, redactor: &Redactor) -> Option<Now> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{}/cmdline", key.tgid)).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let is_cut = bytes.len() as u64 == BYTES_MAX;
    // A title is shorter than the arguments that it replaces; the kernel shows what is left of these as NULs.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let shown = bytes.get(..end)?;
    let Redacted { text, is_redacted, .. } = redactor.command_line(shown, is_cut)?;
    let is_known = |text: &str| text.trim_end() == known.trim_end();
    if is_known(&text) {
        return None;
    }
    // Only now, because it is rare: the id may be that of a later process by now.
    let stat = procfs::process::Process::new(i32::try_from(key.tgid).ok()?).ok()?.stat().ok()?;
    if stat.starttime != key.start_ns / TICK_NS {
        return None;
    }
    // Cut where a record is, so that a secret that the cut divides is redacted in the same way.
    let of_record = shown.get(..ARGUMENTS_MAX).and_then(|beginning| redactor.command_line(beginning, true));
    let of_record = of_record.map_or_else(|| text.clone(), |found| found.text);
    let is_longer =
        known.strip_suffix(CUT).is_some_and(|beginning| !beginning.is_empty() && of_record.starts_with(beginning));
    let kind = if is_longer { NowKind::CommandLine } else { NowKind::Title };
    Some(Now { kind, text: text.into(), is_redacted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::scan;

    #[test]
    fn what_a_process_was_started_with_is_no_title() {
        let redactor = &Arc::new(Redactor::default());
        let me = scan::all().into_iter().find(|process| process.key.tgid == std::process::id()).unwrap();
        let line = me.arguments.unwrap().redacted(redactor).unwrap();
        let mut titles = Titles::start().unwrap();
        assert_eq!(titles.of(me.key, Some(&line.text), (0, redactor)), None);
        assert_eq!(titles.of(me.key, None, (KEPT_NS - 1, redactor)), None, "read once");
        let title = titles.of(me.key, None, (KEPT_NS, redactor)).unwrap();
        assert_eq!((title.kind, &*title.text), (NowKind::Title, &*line.text));
        assert_eq!(titles.count(), 2);
        let later = Key { start_ns: me.key.start_ns + TICK_NS, ..me.key };
        assert_eq!(titles.of(later, None, (0, redactor)), None, "another process with this id");
    }

    #[test]
    fn a_long_command_line_is_whole_without_its_secrets() {
        let redactor = &Arc::new(Redactor::default());
        // The shell ends when its input does. The cut of a record is in the middle of the first secret.
        for before in [ARGUMENTS_MAX - 50, ARGUMENTS_MAX - 30] {
            let mut child = std::process::Command::new("sh")
                .args(["-c", "read x", &"y".repeat(before), "--password", &"hunter2".repeat(8), "--token=s3cret", "z"])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let key = |child: &std::process::Child| {
                let process = procfs::process::Process::new(child.id() as i32).unwrap();
                Key::of_ticks(child.id(), process.stat().unwrap().starttime)
            };
            let key = key(&child);
            // In the middle of `exec` a process has no arguments.
            let mut known = std::iter::repeat_with(|| scan::one(key).unwrap().arguments).flatten();
            let known = known.find_map(|arguments| arguments.redacted(redactor)).unwrap();
            assert!(known.is_redacted && known.text.ends_with("--password ***…"), "{}", known.text.len());
            let now = read(key, &known.text, redactor).unwrap();
            assert_eq!(now.kind, NowKind::CommandLine);
            assert!(now.is_redacted && now.text.ends_with("--password *** --token=*** z"), "{}", now.text.len());
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let redactor = Arc::default();
        let mut titles = Titles::start().unwrap();
        for tgid in 0..20_000 {
            // No process has such an id.
            titles.of(Key::new(5_000_000 + tgid, 1), None, (0, &redactor));
            assert!(titles.bytes <= KEPT_MAX + 1000);
        }
    }

    #[test]
    fn a_process_that_holds_up_the_thread_holds_up_no_list() {
        let (release, held) = sync_channel::<()>(0);
        let held = std::sync::Mutex::new(held);
        let reader = move |key: Key, _: &str, _: &Redactor| {
            if key.tgid == 666 {
                let _ = held.lock().unwrap().recv();
            }
            Some(Now { kind: NowKind::Title, text: "x".into(), is_redacted: false })
        };
        let mut titles = Titles::start_with(reader).unwrap();
        let redactor = Arc::default();
        let title = |titles: &mut Titles, tgid| titles.of(Key::new(tgid, 1), None, (0, &redactor));
        // On a machine that is busy the first answer may be late, too.
        let settle = |titles: &mut Titles, tgid| {
            let limit = Instant::now() + Duration::from_secs(60);
            while title(titles, tgid).is_none() {
                assert!(Instant::now() < limit);
                titles.patience = Patience::default();
                thread::sleep(READING);
            }
        };
        settle(&mut titles, 1);
        let since = Instant::now();
        for _ in 0..1000 {
            assert_eq!(title(&mut titles, 666), None);
            assert_eq!(title(&mut titles, 2), None, "not read meanwhile");
        }
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
        // The late answer is that of no other process; others are read again when the wait has been made up for.
        release.send(()).unwrap();
        settle(&mut titles, 2);
        assert!(titles.read.contains_key(&Key::new(2, 1)) && !titles.read.contains_key(&Key::new(666, 1)));
    }
}
