//! Finds the files with events below the paths that were named, and detects the format of each.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::{self, Display, Formatter},
    fs::{self, File, Metadata},
    io,
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use netconn_model::segment_name::{self, SegmentName};

use crate::engine::{
    error::{OPEN_FILES, Result, SearchError, shown},
    source::BOM,
};

/// Depth to which folders below a named one are searched.
const DEPTH: usize = 8;

/// Extensions of the files that are read from a folder; one of [`COMPRESSIONS`] may follow. A file named by itself may have
/// any.
const ENDINGS: [&str; 4] = [".ndjson", ".jsonl", ".json", ".parquet"];

/// Extensions of compressed files. What cannot be read is reported by its content.
const COMPRESSIONS: [&str; 5] = [".gz", ".zst", ".bz2", ".xz", ".zip"];

/// Extensions of files that are read from a folder only if they begin with an object in JSON.
const LOOSE_ENDINGS: [&str; 2] = [".log", ".txt"];

/// Bytes at the beginning of a file that tell its format.
pub(crate) const HEAD_BYTES: usize = 4096;

/// The format of a file, detected from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileFormat {
    /// NDJSON: one JSON object on each line.
    Lines,
    /// JSON objects over several lines, or in an array.
    Objects,
    /// NDJSON compressed with gzip.
    Gzip,
    /// NDJSON compressed with zstd.
    Zstd,
    /// NDJSON compressed with bzip2.
    Bzip2,
    /// NDJSON compressed with xz.
    Xz,
    /// Apache Parquet.
    Parquet,
}

/// Most Parquet files of the history that are kept open. The oldest are found first, and the daemon removes those
/// first.
const KEPT_OPEN: usize = 256;

/// A file with events.
#[derive(Clone, Debug)]
pub(crate) struct EventFile {
    /// Canonical path, without symbolic links.
    pub(crate) path: PathBuf,
    /// Format, from the first bytes.
    pub(crate) format: FileFormat,
    /// Size in bytes when the file was found.
    pub(crate) size: u64,
    /// Device and inode number: the same for all names of a file.
    pub(crate) id: (u64, u64),
    /// Whether the file was named itself rather than found in a folder.
    pub(crate) is_named: bool,
    /// The open file, for files of the history: the daemon removes segments once they are converted, and Parquet files
    /// when the history is full. An open file stays readable.
    pub(crate) handle: Option<Arc<File>>,
}

impl EventFile {
    /// Returns the open file, and opens it if it is not.
    pub(crate) fn open(&self) -> io::Result<Arc<File>> {
        match &self.handle {
            Some(handle) => Ok(Arc::clone(handle)),
            None => Ok(Arc::new(File::open(&self.path)?)),
        }
    }
}

/// The files that a search reads.
#[derive(Debug, Default)]
pub(crate) struct FoundFiles {
    /// Files to read, each once.
    pub(crate) files: Vec<EventFile>,
    /// Number of files left out because the times in their names lie outside the range.
    pub(crate) pruned: usize,
    /// Size of the files left out, bytes.
    pub(crate) pruned_bytes: u64,
    /// Time of the last event in the files of the history that were left out because they are from before the range, epoch
    /// milliseconds; `None` if files from elsewhere are read as well.
    pub(crate) ended_before: Option<i64>,
    /// Files and folders that could not be read.
    pub(crate) problems: Vec<UnreadFile>,
    /// Since when the history is kept, epoch milliseconds; `None` if files from elsewhere are read as well.
    pub(crate) begins: Option<i64>,
}

/// A file or folder, found in a folder, that could not be read.
#[derive(Debug)]
pub(crate) struct UnreadFile {
    path: PathBuf,
    source: io::Error,
}

impl UnreadFile {
    /// Returns the error of a caller that cannot do without the file.
    pub(crate) fn into_error(self) -> SearchError {
        SearchError::Read { path: self.path, source: self.source }
    }
}

impl EventFile {
    /// Returns whether the file belongs to the daemon's history, judged by its name.
    pub(crate) fn is_of_history(&self) -> bool {
        is_of_history(&self.path)
    }
}

impl Display for UnreadFile {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{} was not read: {}.", shown(&self.path), self.source)
    }
}

/// Finds the files below `paths` that may hold events of `range` (epoch milliseconds). A named path must be readable.
/// An unreadable file below it is only reported in [`FoundFiles::problems`], but is an error if no other file is found.
pub(crate) fn find_files(paths: &[PathBuf], range: Option<&Range<i64>>) -> Result<FoundFiles> {
    let mut finder = FileFinder {
        range,
        found: FoundFiles::default(),
        seen: HashSet::new(),
        kept_open: 0,
        candidates: 0,
        begins: None,
        has_others: false,
        histories: 0,
    };
    for path in paths {
        let read = |source| SearchError::Read { path: path.clone(), source };
        let metadata = fs::metadata(path).map_err(read)?;
        if metadata.is_dir() {
            let before = finder.candidates;
            if finder.is_new(file_id(&metadata)) {
                finder.folder(path, DEPTH).map_err(read)?;
            } else {
                // An earlier path contains this folder and has searched it: it is not empty.
                finder.candidates += 1;
            }
            // A folder without any file of events is more likely a wrong path than an empty history.
            if finder.candidates == before {
                return Err(SearchError::Empty { path: path.clone() });
            }
        } else if let Some(file) = open_file(path).map_err(read)? {
            // A file that is named is not pruned by its name: the user wants this very file.
            finder.has_others = true;
            finder.add(EventFile { is_named: true, ..file });
        }
    }
    let mut found = finder.found;
    // A file from elsewhere may hold events from before the history.
    found.begins = if finder.has_others { None } else { finder.begins };
    // Of two histories, the files of one say nothing about the other.
    found.ended_before = found.ended_before.filter(|_| !finder.has_others && finder.histories < 2);
    if found.files.is_empty() && !found.problems.is_empty() {
        // An answer without rows would look as if nothing had happened.
        let UnreadFile { path, source } = found.problems.swap_remove(0);
        return Err(SearchError::Read { path, source });
    }
    Ok(found)
}

struct FileFinder<'a> {
    range: Option<&'a Range<i64>>,
    found: FoundFiles,
    /// Files and folders visited so far: symbolic links can form cycles, and a path can be named twice.
    seen: HashSet<(u64, u64)>,
    kept_open: usize,
    /// Number of entries that show that a folder is not empty, whether or not they are read.
    candidates: usize,
    /// When the first of the history's files was begun, epoch milliseconds.
    begins: Option<i64>,
    /// Whether files were found that do not belong to a history.
    has_others: bool,
    /// Number of folders with files of a history.
    histories: usize,
}

impl FileFinder<'_> {
    fn folder(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(path)? {
            // A name that is not UTF-8 is altered here; the file is then reported as not found.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        // FROM has a fixed width: sorted names are in the order of writing, which `is_next` needs.
        names.sort_unstable();
        let mut has_next = false;
        let mut last_before: Option<(u64, PathBuf)> = None;
        // A segment and the Parquet file made of it exist together for a minute: only one of them counts.
        let current: BTreeSet<SegmentName> =
            segment_name::current(names.iter().filter_map(|name| SegmentName::parse(name))).into_iter().collect();
        self.histories += usize::from(!current.is_empty());
        for name in names.iter().filter(|name| !segment_name::is_temporary(name)) {
            let (path, parsed) = (path.join(name), SegmentName::parse(name));
            // An error is kept: whether it matters depends on the name, which is examined below.
            let metadata = fs::metadata(&path);
            if let Ok(metadata) = &metadata
                && metadata.is_dir()
            {
                // Cycles end by `seen`; the depth only bounds the time that a large tree takes.
                if depth == 0 {
                    continue;
                }
                if !self.is_new(file_id(metadata)) {
                    self.candidates += 1;
                } else if let Err(source) = self.folder(&path, depth - 1) {
                    self.problem(path, source);
                }
                continue;
            }
            // `.ndjson.gz` counts as `.ndjson`.
            let plain = COMPRESSIONS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
            // Names outside the protocol of the history always count.
            let counts = parsed.is_none_or(|name| current.contains(&name));
            let is_loose = LOOSE_ENDINGS.iter().any(|ending| name.ends_with(ending));
            if !counts || !(is_loose || ENDINGS.iter().any(|ending| plain.ends_with(ending))) {
                continue;
            }
            // Opening a named pipe would block until another program writes to it.
            if metadata.as_ref().is_ok_and(|metadata| !metadata.is_file()) {
                continue;
            }
            // What cannot be read is no file of events for all that is known.
            if is_loose && !begins_with_object(&path).unwrap_or(false) {
                continue;
            }
            match parsed.map(|name| i64::try_from(name.from()).unwrap_or(i64::MAX)) {
                Some(from) => self.begins = Some(self.begins.map_or(from, |begins| begins.min(from))),
                None => self.has_others = true,
            }
            // Only names of the history promise a time range; other files are always read.
            if let (Some(name), Some(range)) = (parsed, self.range)
                && !may_hold(name, range)
                && !is_next(name, range, &mut has_next)
            {
                self.candidates += 1;
                self.found.pruned += 1;
                if let Some(to) = name.to().filter(|to| i64::try_from(*to).is_ok_and(|to| to < range.start))
                    && last_before.as_ref().is_none_or(|(last, _)| to >= *last)
                {
                    self.found.ended_before = self.found.ended_before.max(i64::try_from(to).ok());
                    last_before = Some((to, path.clone()));
                }
                self.found.pruned_bytes += metadata.map_or(0, |metadata| metadata.len());
                continue;
            }
            let opened = match (open_file(&path), parsed) {
                // The daemon has converted and removed the segment since the folder was listed.
                (Err(error), Some(name)) if error.kind() == io::ErrorKind::NotFound => open_converted(&path, name),
                (opened, _) => opened,
            };
            match opened {
                Ok(Some(file)) => self.add(file),
                // An empty file is a valid file without events.
                Ok(None) => self.candidates += 1,
                Err(source) => self.problem(path, source),
            }
        }
        // The last file before the range may say that the daemon was stopped in order. It stays left out if it cannot be read: no
        // event of the range is in it.
        if let Some((_, path)) = last_before
            && let Ok(Some(file)) = open_file(&path)
        {
            self.found.pruned -= 1;
            self.found.pruned_bytes = self.found.pruned_bytes.saturating_sub(file.size);
            self.add(file);
        }
        Ok(())
    }

    /// Adds a file unless it was added before.
    fn add(&mut self, mut file: EventFile) {
        self.candidates += 1;
        if !self.is_new(file.id) {
            return;
        }
        // The daemon removes the oldest files first: newer ones can be opened again when they are read.
        if file.format == FileFormat::Parquet && file.handle.is_some() {
            self.kept_open += 1;
            if self.kept_open > KEPT_OPEN {
                file.handle = None;
            }
        }
        self.found.files.push(file);
    }

    fn problem(&mut self, path: PathBuf, source: io::Error) {
        self.candidates += 1;
        self.found.problems.push(UnreadFile { path, source });
    }

    fn is_new(&mut self, id: (u64, u64)) -> bool {
        self.seen.insert(id)
    }
}

fn is_of_history(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).and_then(SegmentName::parse).is_some()
}

pub(crate) fn file_id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn may_hold(name: SegmentName, range: &Range<i64>) -> bool {
    // Times in names are unsigned. The range excludes its end, the bounds in a name are included.
    let [start, end] = [range.start, range.end.saturating_sub(1)].map(|time| u64::try_from(time).ok());
    end.is_some_and(|end| range.start < range.end && name.may_hold(&(start.unwrap_or(0)..=end)))
}

/// Returns whether this is the first Parquet file that was begun after the range, given names in the order of writing. It may report a loss
/// that happened in the range: a loss is reported when it is over.
fn is_next(name: SegmentName, range: &Range<i64>, has_next: &mut bool) -> bool {
    let is_behind = i64::try_from(name.from()).is_ok_and(|from| from >= range.end);
    is_behind && name.to().is_some() && !std::mem::replace(has_next, true)
}

/// Opens the Parquet file made of a segment that was removed after its folder had been listed. `None`: the segment was
/// the oldest and was deleted to make room.
fn open_converted(path: &Path, segment: SegmentName) -> io::Result<Option<EventFile>> {
    let Some(folder) = path.parent() else { return Ok(None) };
    // The segment's name does not have the TO of the Parquet file, so the folder is listed again.
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(SegmentName::parse);
        if name.is_some_and(|name| name.from() == segment.from() && name.to().is_some()) {
            return open_file(&entry.path());
        }
    }
    Ok(None)
}

/// Opens a file and detects its format from the first bytes, not from the name; `None` for an empty file.
pub(crate) fn open_file(path: &Path) -> io::Result<Option<EventFile>> {
    // Checked before opening: to open a named pipe blocks until another program writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file: write its contents to a file and name that",
        ));
    }
    let file = File::open(path)?;
    // The size and the identity of the open file: another file may have taken the path since the check above.
    let metadata = file.metadata()?;
    let Some(format) = format_of(&file)? else { return Ok(None) };
    // Only files of the history are removed while they are read.
    let handle =
        (is_of_history(path) && matches!(format, FileFormat::Lines | FileFormat::Parquet)).then(|| Arc::new(file));
    let path = match fs::canonicalize(path) {
        // The daemon has just removed the file; the open handle still reads it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && handle.is_some() => path.to_owned(),
        // The copy of standard input has no name.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.starts_with(OPEN_FILES) => path.to_owned(),
        path => path?,
    };
    Ok(Some(EventFile { path, format, size: metadata.len(), id: file_id(&metadata), is_named: false, handle }))
}

/// Detects the format of a file by its first bytes; `None` if it is empty.
pub(crate) fn format_of(file: &File) -> io::Result<Option<FileFormat>> {
    format_by(&head(file)?)
}

/// Detects the format by the first bytes; `None` if there are none.
pub(crate) fn format_by(head: &[u8]) -> io::Result<Option<FileFormat>> {
    let unread = |why: &str| Err(io::Error::new(io::ErrorKind::Unsupported, why));
    match head {
        [] => Ok(None),
        [b'P', b'A', b'R', b'1', ..] => Ok(Some(FileFormat::Parquet)),
        [0x1f, 0x8b, ..] => Ok(Some(FileFormat::Gzip)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Some(FileFormat::Zstd)),
        [b'B', b'Z', b'h', ..] => Ok(Some(FileFormat::Bzip2)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Some(FileFormat::Xz)),
        [b'P', b'K', 3, 4, ..] => unread("it is a zip archive: take the files out first (unzip)"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{' | b'[', 0, ..] | [0, b'{' | b'[', ..] => {
            unread("it is text in UTF-16: convert it first (iconv -f UTF-16 -t UTF-8)")
        }
        // A file of another kind is not refused: its lines are counted as no events, and the answer says so.
        _ if has_objects(head) => Ok(Some(FileFormat::Objects)),
        _ => Ok(Some(FileFormat::Lines)),
    }
}

/// Returns the first bytes of a file.
fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD_BYTES];
    let mut length = 0;
    // A read may return fewer bytes than asked for, and the file may have fewer.
    while length < head.len() {
        match file.read_at(&mut head[length..], length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    head.truncate(length);
    Ok(head)
}

/// Returns the bytes behind a byte order mark and blanks.
fn trimmed(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM).unwrap_or(text).trim_ascii_start()
}

/// Whether text begins with an array of objects, or with an object whose first line has nothing but its brace.
pub(crate) fn has_objects(text: &[u8]) -> bool {
    match trimmed(text) {
        [b'[', rest @ ..] => matches!(rest.trim_ascii_start(), [b'{' | b']', ..]),
        [b'{', rest @ ..] => {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            line.len() < rest.len() && line.trim_ascii().is_empty()
        }
        _ => false,
    }
}

/// Whether a file begins with an object in JSON, or with an array of objects.
fn begins_with_object(path: &Path) -> io::Result<bool> {
    // To open a named pipe blocks until another program writes to it.
    if !fs::metadata(path)?.is_file() {
        return Ok(false);
    }
    let head = head(&File::open(path)?)?;
    Ok(has_objects(&head) || matches!(trimmed(&head), [b'{', rest @ ..] if rest.trim_ascii_start().starts_with(b"\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &FoundFiles) -> Vec<String> {
        found.files.iter().map(|file| file.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn files_of_another_time_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "events-1700000000000-1700000099999.parquet",
            "events-1700000100000-1700000199999.parquet",
            "events-1700000100000.ndjson",
            "events-1700000200000.ndjson",
            "events-1700000150000-1700000299999-1699000000000.parquet",
            ".convert",
            "events-1700000200000-1700000299999.parquet.tmp",
            "notes.txt",
            "other.ndjson.gz",
        ] {
            fs::write(folder.path().join(name), "{}\n").unwrap();
        }
        let paths = [folder.path().to_owned()];
        let all = find_files(&paths, None).unwrap();
        assert_eq!(
            names(&all),
            [
                "events-1700000000000-1700000099999.parquet",
                "events-1700000100000-1700000199999.parquet",
                "events-1700000150000-1700000299999-1699000000000.parquet",
                "events-1700000200000.ndjson",
                "other.ndjson.gz",
            ]
        );
        let some = find_files(&paths, Some(&(1_700_000_100_000..1_700_000_200_000))).unwrap();
        // The last file before the range may say that the daemon was stopped.
        assert_eq!((names(&some).len(), some.pruned, some.pruned_bytes), (5, 0, 0));
        assert_eq!(some.ended_before, None, "one file does not belong to the history");
        // A segment that was written later has events of connections that were there before it, and one that is not
        // converted may have.
        let old = find_files(&paths, Some(&(1_699_000_000_000..1_699_000_000_001))).unwrap();
        let later = "events-1700000150000-1700000299999-1699000000000.parquet";
        assert!(names(&old).contains(&later.to_owned()), "{old:?}");
        let none = find_files(&paths, Some(&(1_600_000_000_000..1_600_000_200_000))).unwrap();
        // The first file after the range may report losses within it.
        let expected = ["events-1700000000000-1700000099999.parquet", "events-1700000200000.ndjson", "other.ndjson.gz"];
        assert_eq!(names(&none), expected);
        assert_eq!((none.pruned, none.begins), (2, None), "one file does not belong to the history");
        fs::remove_file(folder.path().join("other.ndjson.gz")).unwrap();
        assert_eq!(find_files(&paths, None).unwrap().begins, Some(1_700_000_000_000));
    }

    #[test]
    fn a_segment_that_goes_while_it_is_looked_for_is_found_converted() {
        let folder = tempfile::tempdir().unwrap();
        let segment = folder.path().join("events-1700000100000.ndjson");
        let name = SegmentName::Segment { from: 1_700_000_100_000 };
        assert!(open_converted(&segment, name).unwrap().is_none(), "it was the oldest");
        fs::write(folder.path().join("events-1700000000000-1700000099999.parquet"), "PAR1").unwrap();
        assert!(open_converted(&segment, name).unwrap().is_none());
        let made = folder.path().join("events-1700000100000-1700000199999.parquet");
        fs::write(&made, "PAR1").unwrap();
        assert_eq!(open_converted(&segment, name).unwrap().unwrap().path, fs::canonicalize(made).unwrap());
    }

    #[test]
    fn nothing_to_search_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let error = find_files(std::slice::from_ref(&path), None).unwrap_err();
        assert!(matches!(&error, SearchError::Empty { path: other } if *other == path), "{error}");
        fs::write(path.join("a.txt"), "{}\n").unwrap();
        assert!(find_files(std::slice::from_ref(&path), None).is_err(), "no file of events");
        fs::write(path.join("a.ndjson"), "").unwrap();
        assert_eq!(find_files(std::slice::from_ref(&path), None).unwrap().files.len(), 0, "one without events");
        let error = find_files(&[path.join("nowhere")], None).unwrap_err().to_string();
        assert!(error.ends_with("nowhere: it does not exist"), "{error}");
    }

    #[test]
    fn formats_are_told_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let format = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            open_file(&path).map(|file| file.map(|file| file.format))
        };
        for (content, expected) in [
            (&b"{\"a\":1}\n"[..], FileFormat::Lines),
            (b"{\n  \"a\": 1\n}\n", FileFormat::Objects),
            (b"\xef\xbb\xbf [ {\"a\":1}]", FileFormat::Objects),
            (b"[2026-11-21] a line of a log", FileFormat::Lines),
            (b"{", FileFormat::Lines),
            (b"\x1f\x8bx", FileFormat::Gzip),
            (b"BZh9", FileFormat::Bzip2),
            (b"\xfd7zXZ\0", FileFormat::Xz),
        ] {
            assert_eq!(format(content).unwrap(), Some(expected), "{content:?}");
        }
        for (content, expected) in [(&b"PK\x03\x04"[..], "unzip"), (b"\xff\xfe{\0", "UTF-16"), (b"{\0\"\0", "UTF-16")] {
            let error = format(content).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn logs_with_objects_are_read_from_folders() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("a.log", "{\"a\":1}\n"),
            ("b.log", "plain text\n"),
            ("c.txt", "[{\"a\":1}]"),
            ("d.ndjson", "{}\n"),
            ("e.ndjson.zip", "PK\u{3}\u{4}"),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let found = find_files(&[folder.path().to_owned()], None).unwrap();
        assert_eq!(names(&found), ["a.log", "c.txt", "d.ndjson"]);
        assert!(found.problems[0].to_string().contains("e.ndjson.zip was not read: it is a zip archive"), "{found:?}");
    }

    #[test]
    fn a_file_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("deep")).unwrap();
        fs::write(path("deep/a.ndjson"), "{}\n").unwrap();
        std::os::unix::fs::symlink("..", path("deep/up")).unwrap();
        std::os::unix::fs::symlink("deep/a.ndjson", path("b.ndjson")).unwrap();
        for paths in [
            vec![path("")],
            vec![path(""), path("")],
            vec![path("deep/a.ndjson"), path("b.ndjson")],
            vec![path("deep/a.ndjson"), path("deep")],
            vec![path("deep"), path("deep/up/deep"), path("b.ndjson")],
        ] {
            assert_eq!(names(&find_files(&paths, None).unwrap()), ["a.ndjson"], "{paths:?}");
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe.ndjson");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::write(folder.path().join("a.ndjson"), "{}\n").unwrap();
        assert_eq!(names(&find_files(&[folder.path().to_owned()], None).unwrap()), ["a.ndjson"]);
        let error = find_files(&[pipe], None).unwrap_err().to_string();
        assert!(error.contains("pipe.ndjson: it is not a regular file: write its contents to a file"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_a_problem_and_alone_an_error() {
        let folder = tempfile::tempdir().unwrap();
        // Root can read any file, but not a symbolic link to itself.
        let path = folder.path().join("loop.ndjson");
        std::os::unix::fs::symlink("loop.ndjson", &path).unwrap();
        let paths = [folder.path().to_owned()];
        match find_files(&paths, None).unwrap_err() {
            SearchError::Read { path: other, source } => {
                assert_eq!(
                    (other, source.kind()),
                    (path, fs::metadata(paths[0].join("loop.ndjson")).unwrap_err().kind())
                );
            }
            error => panic!("{error}"),
        }
        fs::write(folder.path().join("a.ndjson"), "{}\n").unwrap();
        let found = find_files(&paths, None).unwrap();
        assert_eq!((names(&found), found.problems.len()), (vec!["a.ndjson".to_owned()], 1));
        assert!(found.problems[0].to_string().contains("loop.ndjson was not read: "), "{}", found.problems[0]);
    }
}
