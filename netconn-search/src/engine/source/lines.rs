//! Reads the lines of a file, or of a range of it, compressed or not, through one buffer.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::objects::{LineNumbers, ObjectLines};
use crate::engine::source::find::{self, EventFile, FileFormat};

/// Initial size of the buffer, bytes; it doubles for longer lines.
const BUFFER: usize = 512 * 1024;

/// Longest line that is read, bytes. Longer lines are skipped and counted, so that no file can exhaust the memory.
const LONGEST: usize = 16 * 1024 * 1024;

/// Most memory for one file that is compressed with xz, KiB: as much as zstd takes at most (`ZSTD_WINDOWLOG_LIMIT_DEFAULT`), and some for
/// the decoder itself. `xz -9` needs half of it.
const XZ_KIB_MAX: u32 = 129 * 1024;

/// Bytes that are read at a time for a decoder that asks for single ones.
const PACKED_BYTES: usize = 64 * 1024;

/// Reads a range of a file without moving its position, so that several readers can share one handle.
struct FileRange {
    file: Arc<File>,
    position: u64,
    end: u64,
    read: Arc<AtomicU64>,
}

impl Read for FileRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.position)?;
        self.position += count as u64;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Returns the lines of text that is compressed, or of objects over several lines.
fn plain_lines(
    format: FileFormat,
    whole: impl Read + Send + 'static,
    numbers: &LineNumbers,
) -> io::Result<Box<dyn Read + Send>> {
    let numbers = numbers.clone();
    Ok(match format {
        FileFormat::Gzip => Box::new(ObjectLines::new(MultiGzDecoder::new(whole), numbers)),
        FileFormat::Zstd => Box::new(ObjectLines::new(zstd::stream::read::Decoder::new(whole)?, numbers)),
        FileFormat::Bzip2 => Box::new(ObjectLines::new(MultiBzDecoder::new(whole), numbers)),
        FileFormat::Xz => {
            let input = BufReader::with_capacity(PACKED_BYTES, whole);
            Box::new(ObjectLines::new(XzReader::new_mem_limit(input, true, XZ_KIB_MAX), numbers))
        }
        FileFormat::Objects => Box::new(ObjectLines::new(whole, numbers)),
        // Lines are lines; Parquet has none.
        FileFormat::Lines | FileFormat::Parquet => Box::new(whole),
    })
}

/// Reads the beginning of a stream, up to the first line feed: what its format is known by.
fn beginning(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut head, mut filled) = (vec![0; find::HEAD_BYTES], 0);
    while filled < head.len() && memchr::memchr(b'\n', &head[..filled]).is_none() {
        match input.read(&mut head[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// Reads the lines that begin in a range of a file.
pub(crate) struct LineReader {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    /// Offset in the input from which lines belong to the next range.
    limit: u64,
    /// Offset of `buffer[0]` in the input.
    passed: u64,
    ended: bool,
    read: Arc<AtomicU64>,
    too_long: u64,
    /// Number of the last line, also of those that were skipped.
    number: u64,
    /// Where lines begin that may be objects over several lines; `None` for a file of lines.
    numbers: Option<LineNumbers>,
    skip_first: bool,
    /// Whether a last line without a line feed is left out: the daemon is still writing it.
    only_ended: bool,
}

impl LineReader {
    /// Opens a reader for the lines that begin in `start..end`, offsets in the file. Of a compressed file the range is
    /// ignored: it is read as a whole.
    pub(crate) fn open(file: &EventFile, start: u64, end: u64) -> io::Result<Self> {
        let handle = file.open()?;
        let read = Arc::new(AtomicU64::new(0));
        // The last line of a range may end behind it, so the reader has no end of its own: `limit` decides which lines
        // begin within the range.
        let whole = FileRange { file: handle, position: 0, end: u64::MAX, read: Arc::clone(&read) };
        // Reading begins one byte early: if that byte is a line feed, the first line of the range is complete.
        // Otherwise the line began in the range before and is skipped.
        let numbers = LineNumbers::default();
        let (input, limit): (Box<dyn Read + Send>, u64) = match file.format {
            FileFormat::Lines | FileFormat::Parquet => {
                let position = start.saturating_sub(1);
                (Box::new(FileRange { position, ..whole }), end - position)
            }
            format => (plain_lines(format, whole, &numbers)?, u64::MAX),
        };
        Ok(Self {
            input,
            buffer: vec![0; BUFFER],
            start: 0,
            filled: 0,
            limit,
            passed: 0,
            ended: false,
            read,
            too_long: 0,
            number: 0,
            numbers: (file.format != FileFormat::Lines).then_some(numbers),
            skip_first: start > 0 && file.format == FileFormat::Lines,
            only_ended: file.handle.is_some(),
        })
    }

    /// Opens a reader for all lines of a stream, whose format its first bytes tell.
    ///
    /// # Errors
    ///
    /// The stream cannot be read, or has a format that only a file can have.
    pub(crate) fn stream(mut input: impl Read + Send + 'static) -> io::Result<Self> {
        let head = beginning(&mut input)?;
        let format = find::format_by(&head)?.unwrap_or(FileFormat::Lines);
        if format == FileFormat::Parquet {
            let why = "Parquet cannot be read from standard input: write it to a file and name that";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let numbers = LineNumbers::default();
        Ok(Self {
            input: plain_lines(format, Cursor::new(head).chain(input), &numbers)?,
            buffer: vec![0; BUFFER],
            start: 0,
            filled: 0,
            limit: u64::MAX,
            passed: 0,
            ended: false,
            read: Arc::default(),
            too_long: 0,
            number: 0,
            numbers: (format != FileFormat::Lines).then_some(numbers),
            skip_first: false,
            only_ended: false,
        })
    }

    /// Returns whether a whole line is in memory.
    pub(crate) fn has_line(&self) -> bool {
        memchr::memchr(b'\n', &self.buffer[self.start..self.filled]).is_some()
    }

    /// Returns the next line with its [`number`](Self::number).
    pub(crate) fn next_numbered(&mut self) -> io::Result<Option<(&[u8], u64)>> {
        Ok(self.advance()?.map(|(from, to)| (&self.buffer[from..to], self.number)))
    }

    /// Returns the number of bytes read from disk since the last call.
    pub(crate) fn take_read(&self) -> u64 {
        self.read.swap(0, Ordering::Relaxed)
    }

    /// Returns the number of the last line, counted from 1 where reading began: in a range that does not begin with the file, the
    /// first one is the rest of the line before. Of an object over several lines it is that of the first.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the number of lines skipped as too long since the last call.
    pub(crate) fn take_too_long(&mut self) -> u64 {
        std::mem::take(&mut self.too_long)
    }

    /// Returns the next line without its line feed. The last line may lack one, except in a segment of the history.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if std::mem::take(&mut self.skip_first) && self.advance()?.is_none() {
            return Ok(None);
        }
        match self.advance()? {
            Some((from, to)) => Ok(Some(&self.buffer[from..to])),
            None => Ok(None),
        }
    }

    /// Returns the range of the next line in the buffer.
    fn advance(&mut self) -> io::Result<Option<(usize, usize)>> {
        // `start..searched` of the buffer is known to hold no line feed.
        let mut searched = self.start;
        let mut dropping = false;
        loop {
            // The limit counts only between lines: a line that begins before it is read to its end.
            if self.start == searched && self.passed + self.start as u64 >= self.limit && !dropping {
                return Ok(None);
            }
            if let Some(offset) = memchr::memchr(b'\n', &self.buffer[searched..self.filled]) {
                let (from, to) = (self.start, searched + offset);
                self.count_line();
                self.start = to + 1;
                searched = self.start;
                // This is the end of a line that was dropped and counted above.
                if std::mem::take(&mut dropping) {
                    continue;
                }
                if to - from > LONGEST {
                    self.too_long += 1;
                    continue;
                }
                return Ok(Some((from, to)));
            }
            // The next search begins behind what holds no line feed, so a long line is searched once.
            searched = self.filled;
            if self.ended {
                // The file has ended: what is left is a line without a line feed.
                let (from, to) = (self.start, self.filled);
                self.count_line();
                self.start = to;
                return Ok((to > from && !dropping && !self.only_ended).then_some((from, to)));
            }
            if self.filled - self.start > LONGEST {
                // Once for each line, however often the buffer fills.
                self.too_long += u64::from(!dropping);
                dropping = true;
            }
            if dropping {
                // Frees the buffer for the rest of the overlong line.
                self.start = self.filled;
            }
            // `fill` moves the contents to the front, and this position with them.
            searched -= self.fill()?;
        }
    }

    fn count_line(&mut self) {
        self.number = self.numbers.as_ref().and_then(LineNumbers::next).unwrap_or(self.number + 1);
    }

    /// Makes room in the buffer and reads once. Returns by how many bytes the contents have moved to the front.
    fn fill(&mut self) -> io::Result<usize> {
        let moved = self.start;
        if moved > 0 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.passed += self.start as u64;
            self.start = 0;
        }
        // Doubling ends: from `LONGEST` on `advance` drops the bytes of a line instead of keeping them.
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            // Only an interrupted call is repeated. A short read is no end: `advance` calls again.
            match self.input.read(&mut self.buffer[self.filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(moved);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(content: &[u8], format: FileFormat) -> (tempfile::TempDir, EventFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.ndjson");
        fs::write(&path, content).unwrap();
        let size = content.len() as u64;
        (folder, EventFile { path, format, size, id: (0, 0), is_named: true, handle: None })
    }

    fn all(file: &EventFile, start: u64, end: u64) -> Vec<String> {
        let mut lines = LineReader::open(file, start, end).unwrap();
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push(String::from_utf8_lossy(line).into_owned());
        }
        found
    }

    #[test]
    fn pieces_share_the_lines() {
        let (_folder, file) = file(b"a\nbb\n\nccc\ndddd", FileFormat::Lines);
        let whole = all(&file, 0, file.size);
        assert_eq!(whole, ["a", "bb", "", "ccc", "dddd"]);
        for cut in 1..file.size {
            let mut both = all(&file, 0, cut);
            both.extend(all(&file, cut, file.size));
            assert_eq!(both, whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_appended_later_belongs_to_no_piece() {
        let (_folder, file) = file(b"a\nb", FileFormat::Lines);
        fs::write(&file.path, b"a\nbb\nc\n").unwrap();
        assert_eq!(all(&file, 0, 3), ["a", "bb"]);
    }

    #[test]
    fn what_the_store_is_writing_is_not_there_yet() {
        let (_folder, file) = file(b"a\nb", FileFormat::Lines);
        let handle = Some(Arc::new(File::open(&file.path).unwrap()));
        assert_eq!(all(&EventFile { handle, ..file.clone() }, 0, 3), ["a"]);
        assert_eq!(all(&file, 0, 3), ["a", "b"]);
    }

    #[test]
    fn a_line_without_end_is_left_out_and_counted() {
        let mut content = b"a\n".to_vec();
        content.resize(LONGEST * 2, b'x');
        content.extend_from_slice(b"\nb\n");
        let (_folder, file) = file(&content, FileFormat::Lines);
        let mut lines = LineReader::open(&file, 0, file.size).unwrap();
        assert_eq!(lines.next().unwrap(), Some(&b"a"[..]));
        assert!(lines.next().unwrap() == Some(&b"b"[..]));
        assert!(lines.next().unwrap().is_none());
        assert_eq!(lines.take_too_long(), 1);
        assert!(lines.buffer.len() <= LONGEST * 2);
    }

    #[test]
    fn a_truncated_gzip_gives_the_lines_before() {
        let text: String = (0..20_000).map(|number| format!("{{\"n\":{number}}}\n")).collect();
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
        let packed = writer.finish().unwrap();
        let (_folder, file) = file(&packed[..packed.len() / 2], FileFormat::Gzip);
        let mut lines = LineReader::open(&file, 0, file.size).unwrap();
        let mut count = 0;
        let error = loop {
            match lines.next() {
                Ok(Some(_)) => count += 1,
                Ok(None) => panic!("the end of a cut file is an error"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(count > 1_000, "{count}");
    }
}
