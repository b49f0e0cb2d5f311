//! What `/proc` says of living processes at this moment, for lists: the title that a process gives itself (`setproctitle`), and command
//! lines that were too long for a record.

use std::{fs::File, io::Read as _, rc::Rc};

use hashbrown::HashMap;

use super::{CUT, Key, TICK_NS, command_line};

/// How long an answer holds: the parts of one list, and lists that are asked for one after the other, read each process once.
const KEPT_NS: u64 = 1_000_000_000;
/// Most bytes that are read: more than a row has room for.
const BYTES_MAX: u64 = 16 << 10;
/// Bytes of texts and entries that are kept. At the limit all are read again.
const KEPT_MAX: usize = 1 << 20;

/// What a process says of itself now, where that is not what it was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Now {
    /// The title that it shows instead of its arguments.
    Title(Rc<str>),
    /// Its whole command line, of which the beginning was known.
    CommandLine(Rc<str>),
}

/// Titles that were read lately.
#[derive(Debug, Default)]
pub struct Titles {
    read: HashMap<Key, (u64, Option<Now>)>,
    bytes: usize,
    /// Processes of which something was read.
    count: usize,
}

impl Titles {
    /// Returns what a living process says of itself at `now`, if that is not the `known` command line: the one of its `exec`, which a
    /// process cannot change afterwards.
    pub fn of(&mut self, key: Key, known: Option<&str>, now: u64) -> Option<Now> {
        if let Some((read_ns, found)) = self.read.get(&key)
            && now.saturating_sub(*read_ns) < KEPT_NS
        {
            return found.clone();
        }
        self.count += 1;
        let found = read(key, known);
        let text = match &found {
            Some(Now::Title(text) | Now::CommandLine(text)) => text.len(),
            None => 0,
        };
        self.bytes += text + size_of::<(Key, (u64, Option<Now>))>();
        if self.bytes > KEPT_MAX {
            self.forget();
        }
        self.read.insert(key, (now, found.clone()));
        found
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

/// Reads what a process says of itself; `None` if that is what is known, or if the process cannot be read.
fn read(key: Key, known: Option<&str>) -> Option<Now> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{}/cmdline", key.tgid)).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let is_cut = bytes.len() as u64 == BYTES_MAX;
    // A title is shorter than the arguments that it replaces; the kernel shows what is left of these as NULs.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = command_line(bytes.get(..end)?, is_cut)?;
    let known = known.unwrap_or_default().trim_end();
    if text.trim_end() == known {
        return None;
    }
    // Only now, because it is rare: the id may be that of a later process by now.
    let stat = procfs::process::Process::new(i32::try_from(key.tgid).ok()?).ok()?.stat().ok()?;
    if stat.starttime != key.start_ns / TICK_NS {
        return None;
    }
    let is_longer =
        known.strip_suffix(CUT).is_some_and(|beginning| !beginning.is_empty() && text.starts_with(beginning));
    Some(if is_longer { Now::CommandLine(text.into()) } else { Now::Title(text.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::scan;

    #[test]
    fn what_a_process_was_started_with_is_no_title() {
        let me = scan::all().into_iter().find(|process| process.key.tgid == std::process::id()).unwrap();
        let line = me.command_line.unwrap();
        let mut titles = Titles::default();
        assert_eq!(titles.of(me.key, Some(&line), 0), None);
        assert_eq!(titles.of(me.key, None, KEPT_NS - 1), None, "read once");
        assert_eq!(titles.of(me.key, None, KEPT_NS), Some(Now::Title(line.as_str().into())));
        let (beginning, _) = line.split_at(line.char_indices().nth(3).unwrap().0);
        let known = format!("{beginning}{CUT}");
        assert_eq!(titles.of(me.key, Some(&known), 2 * KEPT_NS), Some(Now::CommandLine(line.as_str().into())));
        assert_eq!(titles.count(), 3);
        let later = Key { start_ns: me.key.start_ns + TICK_NS, ..me.key };
        assert_eq!(titles.of(later, None, 0), None, "another process with this id");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut titles = Titles::default();
        for tgid in 0..100_000 {
            // No process has such an id.
            titles.of(Key::new(5_000_000 + tgid, 1), None, 0);
            assert!(titles.bytes <= KEPT_MAX + 1000);
        }
    }
}
