//! Processes from `/proc`: those older than netconn, and those whose records were lost. Slow.

use std::io::Read as _;

use netconn_common::{ImageFile, UNKNOWN_U64, exec::ARGUMENTS_MAX};
use procfs::process::{Process, all_processes};

use crate::process::{DELETED, Identity, Key, command_line};

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
        command_line: arguments(process),
    })
}

/// Returns the arguments of a process, as many of them as the kernel's records have: a process may have megabytes.
fn arguments(process: &Process) -> Option<String> {
    let file = process.open_relative("cmdline").ok()?;
    let mut bytes = Vec::new();
    // One byte more shows whether there are more. What was read before an error is no less true: the process has ended.
    let _ = file.take(ARGUMENTS_MAX as u64 + 1).read_to_end(&mut bytes);
    let has_more = bytes.len() > ARGUMENTS_MAX;
    bytes.truncate(ARGUMENTS_MAX);
    // A process that has written a title over its arguments leaves NULs behind it.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let is_cut = has_more && end + 1 >= bytes.len();
    command_line(bytes.get(..end).unwrap_or_default(), is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::TICK_NS;

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
            let line = std::iter::repeat_with(|| one(key).unwrap().command_line).flatten().next().unwrap();
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
