//! The history of a daemon, read by the protocol of `docs/history.md`, and a converter that replaces `netconn-search`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Events, netconn};

/// A copy of netconn in its own folder, where the test puts a converter beside it.
pub struct Installed(TempDir);

impl Default for Installed {
    fn default() -> Self {
        Self::new()
    }
}

impl Installed {
    /// Copies netconn into a new folder, without a converter.
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::copy(netconn(), folder.path().join("netconn")).unwrap();
        // The converter has a user of its own, who reads `mode` and writes `told`.
        let told = folder.path().join("told");
        fs::write(&told, "").unwrap();
        for (path, mode) in [(folder.path(), 0o755), (&told, 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        Self(folder)
    }

    /// Returns the path of the copy of netconn.
    pub fn netconn(&self) -> PathBuf {
        self.0.path().join("netconn")
    }

    /// Installs the converter of `src/bin/converter.rs`, and sets its mode from now on.
    pub fn converter(&self, mode: &str) {
        let program = self.0.path().join("netconn-search");
        // Before the program: it reads its mode as soon as a daemon starts it.
        fs::write(self.0.path().join("mode"), mode).unwrap();
        if !program.exists() {
            // Renamed when complete: a daemon may start it at any moment.
            let new = self.0.path().join("new");
            fs::copy(netconn().with_file_name("converter"), &new).unwrap();
            fs::rename(new, program).unwrap();
        }
    }

    /// Installs the real netconn-search, as `cargo test -p netconn-search` has built it.
    pub fn search(&self) {
        let program = netconn().with_file_name("../debug/netconn-search");
        let new = self.0.path().join("new");
        fs::copy(&program, &new).unwrap_or_else(|error| {
            let program = program.display();
            panic!("{program}: {error}; `cargo test -p netconn-search --no-run` builds it")
        });
        fs::rename(new, self.0.path().join("netconn-search")).unwrap();
    }

    /// Returns what the converter has told in the modes `look` and `harm`; `None` until it has.
    pub fn told(&self) -> Option<String> {
        let text = fs::read_to_string(self.0.path().join("told")).unwrap();
        text.ends_with("end\n").then_some(text)
    }

    /// Closes its folder to all but root, as /root is.
    pub fn close(&self) {
        fs::set_permissions(self.0.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// The folder of a history.
#[derive(Clone, Debug)]
pub struct History(pub PathBuf);

impl History {
    /// Returns the names of the files, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Returns the size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        let length = |name: &String| fs::metadata(self.0.join(name)).map_or(0, |metadata| metadata.len());
        self.names().iter().map(length).sum()
    }

    /// Returns the lines of all events in the order of the files' names, as a reader gets them that lists the folder
    /// now. A segment that is converted meanwhile is found again by the FROM in its name.
    pub fn lines(&self) -> Vec<String> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for name in self.names() {
            let Some(from) = name.strip_prefix("events-").and_then(|rest| rest.get(..13)) else { continue };
            // Of two files with the same FROM, the Parquet file counts.
            if name.ends_with(".parquet") || (name.ends_with(".ndjson") && !files.contains_key(from)) {
                files.insert(from.to_owned(), name);
            }
        }
        let mut lines = Vec::new();
        for (from, name) in files {
            let text = fs::read_to_string(self.0.join(&name)).unwrap_or_else(|_| self.converted(&from));
            // A line without a line feed is still being written.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            // The converter of the tests begins a file with this line. At the end it writes the same without a line
            // feed, which is cut off above.
            lines.extend(whole.lines().filter(|line| *line != "PAR1").map(str::to_owned));
        }
        lines
    }

    fn converted(&self, from: &str) -> String {
        let prefix = format!("events-{from}-");
        let name = self.names().into_iter().find(|name| name.starts_with(&prefix) && name.ends_with(".parquet"));
        fs::read_to_string(
            self.0.join(name.unwrap_or_else(|| panic!("the segment {from} is gone: {:?}", self.names()))),
        )
        .unwrap()
    }

    /// Returns the events; every line must be whole.
    pub fn events(&self) -> Events {
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Events(self.lines().iter().map(parse).collect())
    }

    /// Returns the numbers of converted segments and of segments that are not converted.
    pub fn counts(&self) -> (usize, usize) {
        let names = self.names();
        let count = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
        (count(".parquet"), count(".ndjson"))
    }

    /// Checks that the time of every event is within the range in its file's name. Those of segments that are not converted
    /// promise nothing.
    pub fn check_names(&self) {
        for name in self.names().into_iter().filter(|name| name.ends_with(".parquet")) {
            let time = |range| name.get(range).and_then(|digits: &str| digits.parse::<u64>().ok());
            let (from, to) = (time(35..48).or(time(7..20)).unwrap(), time(21..34).unwrap());
            // The keeper may have removed it since the folder was listed.
            let Ok(text) = fs::read_to_string(self.0.join(&name)) else { continue };
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            for line in whole.lines().filter(|line| *line != "PAR1") {
                let event: Value = serde_json::from_str(line).unwrap();
                let at = event["event.time"].as_u64().unwrap();
                assert!((from..=to).contains(&at), "{name}: {line}");
            }
        }
    }
}

impl AsRef<Path> for History {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}
