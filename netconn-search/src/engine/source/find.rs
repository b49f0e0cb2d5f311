//! From paths to the files that hold events, and what each of them is.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::{self, Display, Formatter},
    fs::{self, File, Metadata},
    io::{self, Read},
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use netconn_model::segment_name::{self, SegmentName};

use crate::engine::error::{Result, SearchError};

/// Folders below the one named are searched so deep.
const DEPTH: usize = 8;

/// Endings of the files that are taken out of a folder.
const ENDINGS: [&str; 4] = [".ndjson", ".jsonl", ".json", ".parquet"];

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileFormat {
    /// One JSON object on each line.
    Lines,
    /// The same, compressed by gzip.
    Gzip,
    /// The same, compressed by zstd.
    Zstd,
    /// Parquet.
    Parquet,
}

/// Parquet files of the store that are kept open at most. They are found from the oldest on, and those are removed first.
const KEPT_OPEN: usize = 256;

/// A file with events.
#[derive(Clone, Debug)]
pub(crate) struct EventFile {
    /// Where it is, without links.
    pub(crate) path: PathBuf,
    /// How it is written.
    pub(crate) format: FileFormat,
    /// Bytes when it was found.
    pub(crate) size: u64,
    /// Device and number: the same for all names of a file.
    pub(crate) id: (u64, u64),
    /// It was named itself, not found in a folder.
    pub(crate) is_named: bool,
    /// Kept open from the moment it was found: the store removes segments when they have been converted, and Parquet files
    /// when there is no room for them.
    pub(crate) handle: Option<Arc<File>>,
}

/// The files of a search.
#[derive(Debug, Default)]
pub(crate) struct FoundFiles {
    /// Those to read, each once.
    pub(crate) files: Vec<EventFile>,
    /// How many were left out because their name says that they hold another time.
    pub(crate) pruned: usize,
    /// Bytes of those.
    pub(crate) pruned_bytes: u64,
    /// Those that could not be read.
    pub(crate) problems: Vec<UnreadFile>,
    /// When the history begins, epoch milliseconds, if there is nothing but a history.
    pub(crate) begins: Option<i64>,
}

/// A file or folder in a folder that could not be read.
#[derive(Debug)]
pub(crate) struct UnreadFile {
    path: PathBuf,
    source: io::Error,
}

impl EventFile {
    /// Whether it is one of the history's, by its name.
    pub(crate) fn is_of_history(&self) -> bool {
        is_of_history(&self.path)
    }
}

impl Display for UnreadFile {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{} was not read: {}.", self.path.display(), self.source)
    }
}

/// Finds the files below `paths` that may hold events of `range`. A path named must be readable; what is below it that
/// is not becomes a problem, and an error if there is nothing else.
pub(crate) fn find_files(paths: &[PathBuf], range: Option<&Range<i64>>) -> Result<FoundFiles> {
    let mut finder = FileFinder {
        range,
        found: FoundFiles::default(),
        seen: HashSet::new(),
        kept_open: 0,
        candidates: 0,
        begins: None,
        has_others: false,
    };
    for path in paths {
        let read = |source| SearchError::Read { path: path.clone(), source };
        let metadata = fs::metadata(path).map_err(read)?;
        if metadata.is_dir() {
            let before = finder.candidates;
            if finder.is_new(file_id(&metadata)) {
                finder.folder(path, DEPTH).map_err(read)?;
            } else {
                finder.candidates += 1;
            }
            if finder.candidates == before {
                return Err(SearchError::Empty { path: path.clone() });
            }
        } else if let Some(file) = open_file(path).map_err(read)? {
            finder.has_others = true;
            finder.add(EventFile { is_named: true, ..file });
        }
    }
    let mut found = finder.found;
    found.begins = if finder.has_others { None } else { finder.begins };
    if found.files.is_empty() && !found.problems.is_empty() {
        let UnreadFile { path, source } = found.problems.swap_remove(0);
        return Err(SearchError::Read { path, source });
    }
    Ok(found)
}

struct FileFinder<'a> {
    range: Option<&'a Range<i64>>,
    found: FoundFiles,
    /// Files and folders that were met: links lead in circles, and a path can be named twice.
    seen: HashSet<(u64, u64)>,
    kept_open: usize,
    /// What is no reason to say that a folder is empty.
    candidates: usize,
    /// The earliest time that a name of the history has.
    begins: Option<i64>,
    /// Whether there are files that are no history's.
    has_others: bool,
}

impl FileFinder<'_> {
    fn folder(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        let mut has_next = false;
        let current: BTreeSet<SegmentName> =
            segment_name::current(names.iter().filter_map(|name| SegmentName::parse(name))).into_iter().collect();
        for name in names.iter().filter(|name| !segment_name::is_temporary(name)) {
            let (path, parsed) = (path.join(name), SegmentName::parse(name));
            let metadata = fs::metadata(&path);
            if let Ok(metadata) = &metadata
                && metadata.is_dir()
            {
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
            let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
            let counts = parsed.is_none_or(|name| current.contains(&name));
            if !counts || !ENDINGS.iter().any(|ending| plain.ends_with(ending)) {
                continue;
            }
            // Nobody may ever write into a pipe.
            if metadata.as_ref().is_ok_and(|metadata| !metadata.is_file()) {
                continue;
            }
            match parsed.map(|name| i64::try_from(name.from()).unwrap_or(i64::MAX)) {
                Some(from) => self.begins = Some(self.begins.map_or(from, |begins| begins.min(from))),
                None => self.has_others = true,
            }
            if let (Some(name), Some(range)) = (parsed, self.range)
                && !may_hold(name, range)
                && !is_next(name, range, &mut has_next)
            {
                self.candidates += 1;
                self.found.pruned += 1;
                self.found.pruned_bytes += metadata.map_or(0, |metadata| metadata.len());
                continue;
            }
            let opened = match (open_file(&path), parsed) {
                (Err(error), Some(name)) if error.kind() == io::ErrorKind::NotFound => open_converted(&path, name),
                (opened, _) => opened,
            };
            match opened {
                Ok(Some(file)) => self.add(file),
                // It is empty: that is an answer.
                Ok(None) => self.candidates += 1,
                Err(source) => self.problem(path, source),
            }
        }
        Ok(())
    }

    /// Takes a file, but not twice.
    fn add(&mut self, mut file: EventFile) {
        self.candidates += 1;
        if !self.is_new(file.id) {
            return;
        }
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

fn file_id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn may_hold(name: SegmentName, range: &Range<i64>) -> bool {
    let [start, end] = [range.start, range.end.saturating_sub(1)].map(|time| u64::try_from(time).ok());
    end.is_some_and(|end| range.start < range.end && name.may_hold(&(start.unwrap_or(0)..=end)))
}

/// Whether this is the first Parquet file behind the range: a loss is told when it is over. Names come in order.
fn is_next(name: SegmentName, range: &Range<i64>, has_next: &mut bool) -> bool {
    let is_behind = i64::try_from(name.from()).is_ok_and(|from| from >= range.end);
    is_behind && name.to().is_some() && !std::mem::replace(has_next, true)
}

/// What the store has made of a segment that was there when its folder was listed. Nothing if it was the oldest and had to go.
fn open_converted(path: &Path, segment: SegmentName) -> io::Result<Option<EventFile>> {
    let Some(folder) = path.parent() else { return Ok(None) };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(SegmentName::parse);
        if name.is_some_and(|name| name.from() == segment.from() && name.to().is_some()) {
            return open_file(&entry.path());
        }
    }
    Ok(None)
}

/// Looks at the first bytes, whatever the name; `None` for an empty file.
pub(crate) fn open_file(path: &Path) -> io::Result<Option<EventFile>> {
    // Before it is opened: that of a pipe waits for somebody who writes.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file: write what comes out of it into a file, and name that",
        ));
    }
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut magic = [0; 4];
    let mut length = 0;
    while length < magic.len() {
        match file.read(&mut magic[length..])? {
            0 => break,
            count => length += count,
        }
    }
    let format = match &magic[..length] {
        [] => return Ok(None),
        b"PAR1" => FileFormat::Parquet,
        [0x1f, 0x8b, ..] => FileFormat::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => FileFormat::Zstd,
        _ => FileFormat::Lines,
    };
    let handle =
        (is_of_history(path) && matches!(format, FileFormat::Lines | FileFormat::Parquet)).then(|| Arc::new(file));
    let path = match fs::canonicalize(path) {
        // The store has removed it just now; it is open.
        Err(error) if error.kind() == io::ErrorKind::NotFound && handle.is_some() => path.to_owned(),
        path => path?,
    };
    Ok(Some(EventFile { path, format, size: metadata.len(), id: file_id(&metadata), is_named: false, handle }))
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
                "events-1700000200000.ndjson",
                "other.ndjson.gz",
            ]
        );
        let some = find_files(&paths, Some(&(1_700_000_099_999..1_700_000_200_000))).unwrap();
        assert_eq!((names(&some).len(), some.pruned, some.pruned_bytes), (3, 1, 3));
        let none = find_files(&paths, Some(&(1_600_000_000_000..1_600_000_200_000))).unwrap();
        // The first one behind may tell what was lost before.
        assert_eq!(names(&none), ["events-1700000000000-1700000099999.parquet", "other.ndjson.gz"]);
        assert_eq!((none.pruned, none.begins), (2, None), "not all of it is a history");
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
        assert!(
            error.contains("pipe.ndjson: it is no regular file: write what comes out of it into a file"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_read_is_a_problem_and_alone_an_error() {
        let folder = tempfile::tempdir().unwrap();
        // Who runs tests as root may read everything, but no link to itself.
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
