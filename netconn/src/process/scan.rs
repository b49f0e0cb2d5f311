//! Processes from `/proc`: those older than netconn, and those whose records were lost. Slow.

use netconn_common::ImageFile;
use procfs::process::{Process, all_processes};

use crate::process::{Identity, Key, command_line};

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
    /// Arguments, joined by spaces.
    pub command_line: Option<String>,
}

impl Scanned {
    /// Returns whether a process still runs the program that is known, as far as the scan tells.
    pub(super) fn is_same_program(&self, known: &Identity) -> bool {
        // Not the namespace: a mount that is taken away has none any more.
        let file = |image: &ImageFile| (image.inode, image.device);
        let is_same_file = self.image == ImageFile::UNKNOWN || file(&self.image) == file(&known.image);
        is_same_file && self.path.as_deref() == known.path.as_deref()
    }
}

/// Returns all visible processes, without those that end meanwhile. Their starts are in clock ticks.
pub fn all() -> Vec<Scanned> {
    let Ok(processes) = all_processes() else { return Vec::new() };
    processes.filter_map(|process| scanned(&process.ok()?)).collect()
}

/// Returns the process with this key, if it still lives.
pub fn one(key: Key) -> Option<Scanned> {
    let process = Process::new(i32::try_from(key.tgid).ok()?).ok()?;
    // The id may belong to a later process by now.
    let found = scanned(&process).filter(|found| found.key == key.by_tick())?;
    Some(Scanned { key, is_exact: key != key.by_tick(), ..found })
}

fn scanned(process: &Process) -> Option<Scanned> {
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
        // Joined by NUL, the form of the kernel's records, so that one function makes the text of both.
        command_line: process.cmdline().ok().and_then(|parts| command_line(parts.join("\0").as_bytes(), false)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::TICK_NS;

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
        assert_eq!(me.command_line.as_deref(), Some(arguments.join(" ").as_str()));
    }
}
