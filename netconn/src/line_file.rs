//! A file, or standard output, that is written in whole lines: a line that does not fit is taken back, and a torn last line
//! that an earlier run left is removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    thread,
    time::Duration,
};

use netconn_model::lines;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::IgnoredAny;

/// Longest line, in bytes, that is looked for at the end of a file; netconn writes none that is longer.
const LONGEST_LINE: u64 = 1 << 20;
/// Pause before a write is repeated that the kernel had no buffer for.
const RETRY: Duration = Duration::from_millis(1);
/// Most bytes of one write to a reader. A pipe that has any room takes them whole, without waiting (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4096;
/// Pause between two looks whether a write that waits for its reader is given up, in milliseconds.
const LOOK: u8 = 20;
/// The kind of error of a write that was given up.
pub const GIVEN_UP: io::ErrorKind = io::ErrorKind::TimedOut;
/// Mode of files with events: they contain command lines and account names, so not everybody may read them.
pub const MODE: u32 = 0o640;

/// An open file or standard output.
#[derive(Debug)]
pub struct LineFile {
    file: File,
    /// Only a regular file can be cut back to whole lines.
    is_regular: bool,
    /// Somebody reads what is written: it is a pipe, a socket or a terminal.
    has_reader: bool,
    /// The file ends with part of a line that could neither be completed nor taken back.
    is_torn: bool,
}

/// Where an open file is, compared with its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilePlace {
    /// At the path, as far as is known.
    Here,
    /// It was renamed, or another file has taken its place.
    Renamed,
    /// It has no name any more: what is written to it cannot be read.
    Removed,
}

/// A write that failed.
#[derive(Debug)]
pub struct WriteFailure {
    /// What the system said.
    pub error: io::Error,
    /// Bytes of whole lines that were written before the error.
    pub written: usize,
}

impl From<io::Error> for WriteFailure {
    fn from(error: io::Error) -> Self {
        Self { error, written: 0 }
    }
}

impl LineFile {
    /// Opens a file for appending, creates it if need be, and repairs its end: a torn JSON object is removed, any other
    /// unfinished line gets its line feed.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or repaired.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Reading is for the repair.
        let opened = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path);
        let mut file = opened.or_else(|error| {
            // A pipe or a terminal may be open for writing only.
            if error.kind() == io::ErrorKind::PermissionDenied {
                OpenOptions::new().append(true).open(path).map_err(|_| error)
            } else {
                Err(error)
            }
        })?;
        let is_regular = file.metadata()?.is_file();
        if is_regular {
            repair(&mut file)?;
        }
        let has_reader = has_reader(&file);
        Ok(Self { file, is_regular, has_reader, is_torn: false })
    }

    /// Duplicates the descriptor of standard output. What is there already is left alone, also in a regular file.
    ///
    /// # Errors
    ///
    /// When standard output is closed, or the system gives no descriptor.
    pub fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let has_reader = has_reader(&file);
        Ok(Self { file, is_regular: false, has_reader, is_torn: false })
    }

    /// Creates a file.
    ///
    /// # Errors
    ///
    /// When it exists, or cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).mode(MODE).open(path)?;
        Ok(Self { file, is_regular: true, has_reader: false, is_torn: false })
    }

    /// Returns the length of the file in bytes.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether the file has been removed: nobody can open it any more.
    pub fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Returns where the file is that was opened at this path.
    pub fn place(&self, path: &Path) -> FilePlace {
        let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), fs::metadata(path)) {
            (Ok(own), _) if self.is_regular && own.nlink() == 0 => FilePlace::Removed,
            (Ok(own), Ok(there)) if self.is_regular && identity(&own) != identity(&there) => FilePlace::Renamed,
            (_, Err(error)) if self.is_regular && error.kind() == io::ErrorKind::NotFound => FilePlace::Renamed,
            _ => FilePlace::Here,
        }
    }

    /// Returns whether somebody reads what is written: it is a pipe, a socket or a terminal. What these refuse, no disk has
    /// refused.
    pub fn has_reader(&self) -> bool {
        self.has_reader
    }

    /// Appends whole lines.
    ///
    /// # Errors
    ///
    /// When not all of them could be written. The file ends with a whole line even then, if it can be cut.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), WriteFailure> {
        self.write_unless(lines, &|| false)
    }

    /// Appends whole lines. A write that waits for a reader fails as [`GIVEN_UP`] soon after the function has begun to return
    /// `true`; the kernel holds nothing then that the failure does not count.
    ///
    /// # Errors
    ///
    /// As [`LineFile::write`], or when the write was given up.
    pub fn write_unless(&mut self, lines: &[u8], is_given_up: &dyn Fn() -> bool) -> Result<(), WriteFailure> {
        if self.is_torn {
            // The next line must not continue the torn one. An error here leaves `written` at 0: the line feed belongs
            // to no event.
            self.write_all(b"\n", is_given_up).map_err(|(error, _)| error)?;
            self.is_torn = false;
        }
        self.write_all(lines, is_given_up).map_err(|(error, written)| {
            // Counts must agree with what a reader finds: part of a line is no event.
            let whole = lines::whole_length(lines.get(..written).unwrap_or_default());
            if written > whole {
                self.is_torn = !self.take_back((written - whole) as u64);
            }
            WriteFailure { error, written: whole }
        })
    }

    /// Writes everything, or returns the error and the number of bytes written before it.
    fn write_all(&mut self, bytes: &[u8], is_given_up: &dyn Fn() -> bool) -> Result<(), (io::Error, usize)> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut piece = rest;
            if self.has_reader {
                // Within a write that waits, nobody could tell how much of it the reader gets.
                self.wait_for_room(is_given_up).map_err(|error| (error, bytes.len() - rest.len()))?;
                piece = first_piece(rest);
            }
            match self.file.write(piece) {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), bytes.len() - rest.len())),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Standard output that somebody else has made non-blocking; the thread of an output may wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(error) => return Err((error, bytes.len() - rest.len())),
            }
        }
        Ok(())
    }

    /// Waits until the reader has left room for a piece.
    fn wait_for_room(&self, is_given_up: &dyn Fn() -> bool) -> io::Result<()> {
        loop {
            if is_given_up() {
                return Err(GIVEN_UP.into());
            }
            let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut polled, PollTimeout::from(LOOK)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                // Also an error of the descriptor, which the write will tell.
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes the last `bytes` bytes; `false` if that is impossible.
    fn take_back(&mut self, bytes: u64) -> bool {
        self.is_regular
            && self.file.metadata().is_ok_and(|metadata| {
                // From the length, not from an offset: the file is open for appending, and its offset says nothing.
                metadata.len().checked_sub(bytes).is_some_and(|length| self.file.set_len(length).is_ok())
            })
    }
}

/// Returns whether somebody reads what is written to a file.
fn has_reader(file: &File) -> bool {
    let is_stream = |metadata: fs::Metadata| metadata.file_type().is_fifo() || metadata.file_type().is_socket();
    file.metadata().is_ok_and(is_stream) || file.is_terminal()
}

/// Returns as many of the first lines as fit into a piece, or the beginning of a line that is longer.
fn first_piece(lines: &[u8]) -> &[u8] {
    let Some(piece) = lines.get(..PIECE) else { return lines };
    // Whole lines, so that a write which is given up tears only a line that is longer than a piece.
    let whole = lines::whole_length(piece);
    if whole == 0 { piece } else { piece.get(..whole).unwrap_or(piece) }
}

/// Makes a file end with a whole line.
fn repair(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    // From the end, so that a daemon with a file of many gigabytes starts at once.
    let start = length.saturating_sub(LONGEST_LINE);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(LONGEST_LINE).read_to_end(&mut end)?;
    let line_start = lines::whole_length(&end);
    let last = end.get(line_start..).unwrap_or_default();
    if last.is_empty() {
        return Ok(());
    }
    // If there is no line feed in the whole part, its first byte need not begin a line.
    let is_line = line_start != 0 || start == 0;
    if is_line && is_torn_object(last) { file.set_len(start + line_start as u64) } else { file.write_all(b"\n") }
}

/// Whether a line without its line feed is the beginning of a JSON object: a write of an event that was cut off.
fn is_torn_object(line: &[u8]) -> bool {
    // A whole object without its line feed is kept: only the line feed was not written.
    line.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(line).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_object_is_removed_and_other_text_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        for (before, after) in [
            ("", "x\n"),
            ("a\n", "a\nx\n"),
            ("a\n{\"event.type\":\"IP Co", "a\nx\n"),
            ("{\"eve", "x\n"),
            ("{", "x\n"),
            ("a\n{\"any\":{\"schema\":1}", "a\nx\n"),
            ("{\"no\":\"line feed\"}", "{\"no\":\"line feed\"}\nx\n"),
            ("{\"a\":1}\n{\"b\":2}\n", "{\"a\":1}\n{\"b\":2}\nx\n"),
            ("a\nnotes", "a\nnotes\nx\n"),
            ("a\n[1, 2", "a\n[1, 2\nx\n"),
        ] {
            fs::write(&path, before).unwrap();
            LineFile::open(&path).unwrap().write(b"x\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), after, "{before:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_not_cut_in_the_middle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let long = "{".repeat(LONGEST_LINE as usize + 7);
        fs::write(&path, format!("a\n{long}")).unwrap();
        LineFile::open(&path).unwrap().write(b"x\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("a\n{long}\nx\n"));
    }

    #[test]
    fn a_file_is_created_once_and_its_removal_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let mut file = LineFile::create(&path).unwrap();
        file.write(b"x\n").unwrap();
        assert_eq!(file.length().unwrap(), 2);
        assert_eq!(LineFile::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!file.is_removed() && !file.has_reader());
        assert_eq!(file.place(&path), FilePlace::Here);
        let elsewhere = folder.path().join("events.1");
        fs::rename(&path, &elsewhere).unwrap();
        assert_eq!(file.place(&path), FilePlace::Renamed);
        fs::write(&path, "").unwrap();
        assert_eq!(file.place(&path), FilePlace::Renamed, "another file");
        fs::remove_file(&elsewhere).unwrap();
        assert!(file.is_removed());
        assert_eq!(file.place(&path), FilePlace::Removed);
    }

    #[test]
    fn what_a_reader_has_not_room_for_is_given_up_exactly() {
        let (mut reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut file = LineFile { has_reader: has_reader(&file), file, is_regular: false, is_torn: false };
        let line = |length: usize| [&vec![b'x'; length - 1][..], b"\n"].concat();
        // Far more than the pipe holds, in lines that do not fit into a page evenly.
        let lines = line(1500).repeat(200);
        // Given up when it is full, however long that takes.
        let watched = file.file.try_clone().unwrap();
        let is_full = || {
            let mut polled = [PollFd::new(watched.as_fd(), PollFlags::POLLOUT)];
            poll(&mut polled, PollTimeout::ZERO).unwrap() == 0
        };
        let failure = file.write_unless(&lines, &is_full).unwrap_err();
        assert_eq!((failure.error.kind(), failure.written % 1500), (GIVEN_UP, 0));
        assert!(!file.is_torn, "no line is longer than a piece");
        let mut read = vec![0; failure.written];
        reader.read_exact(&mut read).unwrap();
        file.write(b"next\n").unwrap();
        // A line of many pieces is torn, and the next one does not continue it.
        let failure = file.write_unless(&line(200_000), &is_full).unwrap_err();
        assert_eq!((failure.written, file.is_torn), (0, true));
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        file.write(b"last\n").unwrap();
        drop((file, watched));
        let text = reading.join().unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[2]), (3, "next", "last"));
    }
}
