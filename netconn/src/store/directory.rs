//! The directory of the history: who may read it, which files are in it, how much space is left beside it.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    time::SystemTime,
};

use netconn_model::segment_name::{SegmentName, is_temporary};
use nix::{
    sys::statvfs::statvfs,
    unistd::{Group, getegid},
};
use tracing::{info, warn};

use crate::line_file::{LineFile, MODE};

/// Root writes, the group reads. The set-group-ID bit passes the group on to every file created in the directory, also to those
/// of the converter.
const DIRECTORY_MODE: u32 = 0o2750;
/// The mode if the group is the daemon's own: its files have that group anyway, and a service may not be allowed to set the bit
/// (`RestrictSUIDSGID=` of systemd).
const OWN_GROUP_MODE: u32 = 0o750;
/// What a Parquet file begins and ends with (<https://parquet.apache.org/docs/file-format/>).
const PARQUET_MAGIC: &[u8; 4] = b"PAR1";
/// Shortest file that can be Parquet: both magics and the length of the footer between them.
const PARQUET_BYTES_MIN: u64 = 12;
/// Directory in which the converter works. Readers skip names that begin with a dot.
pub(super) const WORK_NAME: &str = ".convert";
/// Largest space that is left to others on the file system, bytes; on small ones it is a twentieth.
const RESERVE_MAX: u64 = 1 << 30;

/// A file of the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryFile {
    pub(super) name: SegmentName,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
}

/// Returns the files of the history in a directory, in no order. Other files are left out.
pub(super) fn list(directory: &Path) -> io::Result<Vec<HistoryFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(SegmentName::parse) else { continue };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                // `metadata` of an entry does not follow symbolic links, so a link is no file here.
                files.push(HistoryFile { name, bytes: metadata.len(), modified: metadata.modified()? });
            }
            // A directory of that name.
            Ok(_) => {}
            // It was removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// When a directory is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preparation {
    /// Before anything else is done in it: no converter of this daemon runs.
    AtStart,
    /// Later, because something failed: a converter may be running, and a segment may be open.
    AfterFailure {
        /// FROM of the segment that is being written. It is not repaired: its writer knows where its last line ends.
        live: Option<u64>,
    },
}

/// Creates the directory if need be, shares it with the group, and removes what a killed daemon or converter has left:
/// unfinished files, torn lines, Parquet files that are not whole.
pub(super) fn prepare(directory: &Path, group: &str, preparation: Preparation) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE & 0o777).create(directory)?;
    let group = match Group::from_name(group) {
        Ok(Some(found)) => Some(found.gid.as_raw()),
        _ => {
            info!("there is no group '{group}': only root can read the history in {}", directory.display());
            None
        }
    };
    // Again at each start: the configuration may name another group, and the umask has taken bits of the mode.
    let is_own = group == Some(getegid().as_raw());
    share(directory, group, if is_own { OWN_GROUP_MODE } else { DIRECTORY_MODE })?;
    if preparation == Preparation::AtStart {
        remove_work(directory)?;
    }
    // The folder of a running converter is no file, so it stays.
    remove_temporary(directory)?;
    let files = list(directory)?;
    for HistoryFile { name, bytes, .. } in &files {
        let path = directory.join(name.to_string());
        share(&path, group, MODE)?;
        match name {
            SegmentName::Converted { .. } if is_parquet(&path) => {}
            SegmentName::Converted { .. } => {
                // It is converted again if its segment is still there.
                let has_segment = files.iter().filter(|other| other.name.from() == name.from()).count() > 1;
                if has_segment {
                    info!("{} is not whole: it is made again", path.display());
                    fs::remove_file(&path)?;
                } else {
                    // Not removed: it is all that is left of these events.
                    warn!("{} is damaged, and its segment is gone", path.display());
                }
            }
            SegmentName::Segment { from } if preparation == (Preparation::AfterFailure { live: Some(*from) }) => {}
            SegmentName::Segment { .. } => {
                // Opening it removes a torn line, which may have been the only one.
                if *bytes == 0 || LineFile::open(&path)?.length()? == 0 {
                    fs::remove_file(&path)?;
                }
            }
        }
    }
    sync(directory)
}

/// Removes the work directory of a converter that has ended.
pub(super) fn remove_work(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory.join(WORK_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes the temporary files of a converter that somebody has run by hand and interrupted.
fn remove_temporary(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_temporary) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes the entries of a directory to the disk, so that a rename or removal outlasts a power cut.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Sets the group and the mode of a file. A failed change of the group is only logged: some file systems have no groups.
pub(super) fn share(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    // Changed only if it differs: without `CAP_CHOWN` each start would log a failure for each file otherwise.
    if let Some(group) = group.filter(|group| metadata.gid() != *group)
        && let Err(error) = chown(path, None, Some(group))
    {
        info!("{} cannot be given to the group: {error}", path.display());
    }
    if metadata.permissions().mode() & 0o7777 != mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Whether a file begins and ends like a Parquet file. More need not be checked: a converted file gets its name only after it
/// has been written to the disk.
pub(super) fn is_parquet(path: &Path) -> bool {
    let ends = || -> io::Result<[[u8; 4]; 2]> {
        let mut file = File::open(path)?;
        let (mut begin, mut end) = ([0; 4], [0; 4]);
        file.read_exact(&mut begin)?;
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut end)?;
        Ok([begin, end])
    };
    // The length as well: in a file of four bytes both ends would be the same magic.
    fs::metadata(path).is_ok_and(|metadata| metadata.len() >= PARQUET_BYTES_MIN)
        && ends().is_ok_and(|ends| ends == [*PARQUET_MAGIC; 2])
}

/// The space of a file system, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskSpace {
    /// Available to processes without privileges.
    pub(super) free: u64,
    /// What the history leaves free for others: its oldest files are removed before less is free.
    pub(super) reserve: u64,
}

impl DiskSpace {
    /// Returns the space of the file system that holds a directory.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let system = statvfs(directory)?;
        let unit = system.fragment_size();
        // `blocks_available` leaves out what the file system keeps for root: root could write on, but others could not.
        Ok(Self::new(system.blocks_available() * unit, system.blocks() * unit))
    }

    pub(super) fn new(free: u64, size: u64) -> Self {
        Self { free, reserve: (size / 20).min(RESERVE_MAX) }
    }

    /// Whether nothing may be written any more. Half of the reserve comes before that: time to remove old files.
    pub(super) fn is_exhausted(self) -> bool {
        self.free < self.reserve / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: &str = "events-1767225600000.ndjson";
    const PARQUET_NAME: &str = "events-1767225600000-1767225699999.parquet";
    const EVENT: &str = "{\"event.type\":\"IP Connect\"}\n";

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn leftovers_are_cleared_away_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("deep/events");
        prepare(&directory, "no-such-group", Preparation::AtStart).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, DIRECTORY_MODE);
        for (name, text) in [
            (SEGMENT, format!("{EVENT}{{\"event.ty")),
            ("events-1767225700000.ndjson", "{\"event.type\"".to_owned()),
            ("events-1767225800000.ndjson", String::new()),
            (PARQUET_NAME, "PAR1 and then a power cut".to_owned()),
            ("events-1767225900000-1767225999999.parquet", "damaged, without a segment".to_owned()),
            (".tmpAb1", "x".to_owned()),
            ("events-1767225600000-1767225600001.parquet.tmp", "x".to_owned()),
            ("notes", "another's".to_owned()),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
        fs::create_dir(directory.join(WORK_NAME)).unwrap();
        fs::write(directory.join(WORK_NAME).join(SEGMENT), "x").unwrap();
        prepare(&directory, "no-such-group", Preparation::AtStart).unwrap();
        assert_eq!(names(&directory), [SEGMENT, "events-1767225900000-1767225999999.parquet", "notes"]);
        assert_eq!(fs::read_to_string(directory.join(SEGMENT)).unwrap(), EVENT);
        assert_eq!(fs::metadata(directory.join(SEGMENT)).unwrap().permissions().mode() & 0o7777, MODE);
        // A segment that is being written may end anywhere, and be empty.
        fs::write(directory.join(SEGMENT), format!("{EVENT}{{\"event.ty")).unwrap();
        let live = Some(1_767_225_600_000);
        prepare(&directory, "no-such-group", Preparation::AfterFailure { live }).unwrap();
        assert_eq!(fs::read_to_string(directory.join(SEGMENT)).unwrap(), format!("{EVENT}{{\"event.ty"));
        prepare(&directory, "no-such-group", Preparation::AfterFailure { live: None }).unwrap();
        assert_eq!(fs::read_to_string(directory.join(SEGMENT)).unwrap(), EVENT);
        // A whole one stays beside its segment: a daemon was killed before it removed the segment.
        fs::write(directory.join(PARQUET_NAME), "PAR1 much PAR1").unwrap();
        prepare(&directory, "no-such-group", Preparation::AtStart).unwrap();
        assert!(names(&directory).contains(&PARQUET_NAME.to_owned()));
        assert_eq!(list(&directory).unwrap().len(), 3);
    }

    #[test]
    fn some_space_is_left_to_others() {
        assert_eq!(DiskSpace::new(7, 2_000).reserve, 100);
        assert_eq!(DiskSpace::new(7, 1 << 50).reserve, RESERVE_MAX);
        assert!(DiskSpace::new(49, 2_000).is_exhausted() && !DiskSpace::new(50, 2_000).is_exhausted());
        let space = DiskSpace::of(Path::new("/")).unwrap();
        assert!(space.reserve > 0 && space.reserve <= RESERVE_MAX);
    }
}
