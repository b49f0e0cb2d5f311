//! A file, or standard output, that is written in whole lines: what does not fit is taken back, what an earlier run left
//! torn is mended.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    thread,
    time::Duration,
};

use netconn_model::lines;

/// What every event begins with, so that a torn last line of ours is told from another file's.
const EVENT_START: &[u8] = b"{\"event.type\":";
/// Longest line that is looked for at the end of a file.
const LINE_MAX: u64 = 1 << 20;
/// Commands and accounts are in events: not for everybody.
pub const MODE: u32 = 0o640;

/// An open file or standard output.
#[derive(Debug)]
pub struct LineFile {
    file: File,
    /// A regular file can be cut back to whole lines.
    regular: bool,
    /// A line was begun that could neither be ended nor taken back.
    torn: bool,
}

/// A write that failed.
#[derive(Debug)]
pub struct Failed {
    /// What the system said.
    pub error: io::Error,
    /// Bytes of whole lines that were written before.
    pub written: usize,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { error, written: 0 }
    }
}

impl LineFile {
    /// Opens a file for appending, which is made if need be; `-` is standard output. A torn event at its end is removed,
    /// another unfinished line is ended.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or mended.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return Ok(Self { file, regular: false, torn: false });
        }
        // Read too, for its last line.
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path).or_else(|error| {
                // A pipe or terminal may be open for writing only.
                if error.kind() == io::ErrorKind::PermissionDenied {
                    OpenOptions::new().append(true).open(path).map_err(|_| error)
                } else {
                    Err(error)
                }
            })?;
        let regular = file.metadata()?.is_file();
        if regular {
            mend(&mut file)?;
        }
        Ok(Self { file, regular, torn: false })
    }

    /// Makes a file that must not be there yet.
    ///
    /// # Errors
    ///
    /// When it is there, or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).mode(MODE).open(path)?;
        Ok(Self { file, regular: true, torn: false })
    }

    /// Its length in bytes.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether somebody has removed it: nobody will ever read what is written.
    pub fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Appends whole lines.
    ///
    /// # Errors
    ///
    /// When not all could be written; the lines that were are whole.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        if self.torn {
            self.write_all(b"\n").map_err(|(error, _)| error)?;
            self.torn = false;
        }
        self.write_all(lines).map_err(|(error, written)| {
            let whole = lines::whole_length(&lines[..written]);
            if written > whole {
                self.torn = !self.cut((written - whole) as u64);
            }
            Failed { error, written: whole }
        })
    }

    /// Writes everything, or gives the error and how much was written before.
    fn write_all(&mut self, mut rest: &[u8]) -> Result<(), (io::Error, usize)> {
        let length = rest.len();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), length - rest.len())),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err((error, length - rest.len())),
            }
        }
        Ok(())
    }

    /// Takes back the last `bytes` bytes; `false` if that cannot be done.
    fn cut(&mut self, bytes: u64) -> bool {
        self.regular
            && self.file.metadata().is_ok_and(|metadata| {
                metadata.len().checked_sub(bytes).is_some_and(|length| self.file.set_len(length).is_ok())
            })
    }
}

/// Sees to it that a file ends with a whole line: a torn event is removed, another unfinished line is ended.
fn mend(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(());
    }
    let start = length.saturating_sub(LINE_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(LINE_MAX).read_to_end(&mut end)?;
    let line_start = lines::whole_length(&end);
    let last = &end[line_start..];
    if last.is_empty() {
        return Ok(());
    }
    if last.starts_with(EVENT_START) || EVENT_START.starts_with(last) {
        file.set_len(start + line_start as u64)
    } else {
        file.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_torn_event_is_removed_and_other_text_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        for (before, after) in [
            ("", "x\n"),
            ("a\n", "a\nx\n"),
            ("a\n{\"event.type\":\"IP Co", "a\nx\n"),
            ("{\"eve", "x\n"),
            ("a\nnotes", "a\nnotes\nx\n"),
        ] {
            fs::write(&path, before).unwrap();
            LineFile::open(&path).unwrap().write(b"x\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), after, "{before:?}");
        }
    }

    #[test]
    fn what_is_there_is_not_made_again_and_what_is_gone_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let mut file = LineFile::create(&path).unwrap();
        file.write(b"x\n").unwrap();
        assert_eq!(file.length().unwrap(), 2);
        assert_eq!(LineFile::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!file.is_removed());
        fs::remove_file(&path).unwrap();
        assert!(file.is_removed());
    }
}
