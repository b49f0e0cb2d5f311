//! The history's folder: who may read it, what is in it, how much room there is.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    time::SystemTime,
};

use netconn_model::segment_name::{SegmentName, is_temporary};
use nix::{sys::statvfs::statvfs, unistd::Group};
use tracing::{info, warn};

use crate::line_file::{LineFile, MODE};

/// Root writes, the group reads. The bit in front gives the group to every file made in it, also by the converter.
const FOLDER_MODE: u32 = 0o2750;
/// What a Parquet file begins and ends with (<https://parquet.apache.org/docs/file-format/>).
const PARQUET: &[u8; 4] = b"PAR1";
/// Where conversions are made. Readers leave it alone, as all whose name begins with a dot.
pub(super) const WORK: &str = ".convert";
/// Of the file system, so much is left to others at least: a twentieth, but not more than this.
const RESERVE_MAX: u64 = 1 << 30;

/// A file of the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) name: SegmentName,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
}

/// Everything of the history that is in the folder, in no order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(SegmentName::parse) else { continue };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                entries.push(Entry { name, bytes: metadata.len(), modified: metadata.modified()? });
            }
            // A name of ours, but no file.
            Ok(_) => {}
            // It went while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

/// When a folder is made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before anything is done in it: no conversion runs.
    Start,
    /// Again, after something went wrong.
    Again,
}

/// Makes the folder if need be, opens it to the group, and clears away what a daemon or a converter that was killed has left:
/// files that were being made, torn lines, Parquet files that are not whole.
pub(super) fn prepare(folder: &Path, group: &str, stage: Stage) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE & 0o777).create(folder)?;
    let group = match Group::from_name(group) {
        Ok(Some(found)) => Some(found.gid.as_raw()),
        _ => {
            info!("there is no group '{group}': only root can read the history in {}", folder.display());
            None
        }
    };
    share(folder, group, FOLDER_MODE)?;
    if stage == Stage::Start {
        remove_work(folder)?;
    }
    remove_temporary(folder)?;
    let entries = list(folder)?;
    for Entry { name, bytes, .. } in &entries {
        let path = folder.join(name.to_string());
        let is_alone = entries.iter().filter(|other| other.name.from() == name.from()).count() == 1;
        share(&path, group, MODE)?;
        match name {
            SegmentName::Converted { .. } if is_parquet(&path) => {}
            SegmentName::Converted { .. } if is_alone => {
                warn!("{} is damaged, and there is nothing else of it", path.display());
            }
            SegmentName::Converted { .. } => {
                info!("{} is not whole: it is made anew", path.display());
                fs::remove_file(&path)?;
            }
            SegmentName::Segment { .. } => {
                if *bytes == 0 || LineFile::open(&path)?.length()? == 0 {
                    fs::remove_file(&path)?;
                }
            }
        }
    }
    sync(folder)
}

/// Removes what a conversion has made or left. None may run.
pub(super) fn remove_work(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder.join(WORK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes what somebody has not finished who ran a converter by hand.
fn remove_temporary(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_temporary) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes what happened to names in the folder outlast a power cut.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Gives a file to the group, and a mode. It is root's already, so that little can fail: a file system without groups.
pub(super) fn share(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
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

/// Whether a file has the beginning and the end of a Parquet file. It is renamed only when it is on the disk, so that more than
/// a look is not needed.
pub(super) fn is_parquet(path: &Path) -> bool {
    let ends = || -> io::Result<[[u8; 4]; 2]> {
        let mut file = File::open(path)?;
        let mut ends = [[0; 4]; 2];
        file.read_exact(&mut ends[0])?;
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut ends[1])?;
        Ok(ends)
    };
    fs::metadata(path).is_ok_and(|metadata| metadata.len() >= 12) && ends().is_ok_and(|ends| ends == [*PARQUET; 2])
}

/// How much room a file system has, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) free: u64,
    /// What the history leaves to others: the oldest files go before less is free.
    pub(super) reserve: u64,
}

impl Room {
    /// That of a folder's file system.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let system = statvfs(folder)?;
        let unit = system.fragment_size();
        Ok(Self::new(system.blocks_available() * unit, system.blocks() * unit))
    }

    pub(super) fn new(free: u64, size: u64) -> Self {
        Self { free, reserve: (size / 20).min(RESERVE_MAX) }
    }

    /// Whether so little is left that nothing may be written, whatever it costs. Between here and the reserve there is time to
    /// remove what is old.
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

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn leftovers_are_cleared_away_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("deep/events");
        prepare(&folder, "no-such-group", Stage::Start).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, FOLDER_MODE);
        for (name, text) in [
            (SEGMENT, format!("{EVENT}{{\"event.ty")),
            ("events-1767225700000.ndjson", "{\"event.type\"".to_owned()),
            ("events-1767225800000.ndjson", String::new()),
            (PARQUET_NAME, "PAR1 and then a power cut".to_owned()),
            ("events-1767225900000-1767225999999.parquet", "damaged, but alone".to_owned()),
            (".tmpAb1", "x".to_owned()),
            ("events-1767225600000-1767225600001.parquet.tmp", "x".to_owned()),
            ("notes", "not ours".to_owned()),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::create_dir(folder.join(WORK)).unwrap();
        fs::write(folder.join(WORK).join(SEGMENT), "x").unwrap();
        prepare(&folder, "no-such-group", Stage::Start).unwrap();
        assert_eq!(names(&folder), [SEGMENT, "events-1767225900000-1767225999999.parquet", "notes"]);
        assert_eq!(fs::read_to_string(folder.join(SEGMENT)).unwrap(), EVENT);
        assert_eq!(fs::metadata(folder.join(SEGMENT)).unwrap().permissions().mode() & 0o7777, MODE);
        // A whole one stays beside its segment: a daemon was killed before it removed the segment.
        fs::write(folder.join(PARQUET_NAME), "PAR1 much PAR1").unwrap();
        prepare(&folder, "no-such-group", Stage::Start).unwrap();
        assert!(names(&folder).contains(&PARQUET_NAME.to_owned()));
        assert_eq!(list(&folder).unwrap().len(), 3);
    }

    #[test]
    fn some_room_is_left_to_others() {
        assert_eq!(Room::new(7, 2_000).reserve, 100);
        assert_eq!(Room::new(7, 1 << 50).reserve, RESERVE_MAX);
        assert!(Room::new(49, 2_000).is_exhausted() && !Room::new(50, 2_000).is_exhausted());
        let room = Room::of(Path::new("/")).unwrap();
        assert!(room.reserve > 0 && room.reserve <= RESERVE_MAX);
    }
}
