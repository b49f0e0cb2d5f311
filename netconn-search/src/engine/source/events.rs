//! Reads events one after the other, as lines of JSON, from any file of events or from a stream.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use datafusion::{
    arrow::{array::RecordBatchReader as _, json::LineDelimitedWriter},
    parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use crate::engine::{
    error::{Result, SearchError, shown},
    source::{
        find::{self, EventFile, FileFormat, UnreadFile},
        lines::LineReader,
        shape::{ORIGINAL, UNPARSED},
    },
};

/// Rows of a Parquet file that are in memory at once.
const BATCH_ROWS: usize = 1024;

/// A line of a source.
#[derive(Clone, Copy, Debug)]
pub struct EventLine<'a> {
    /// The line, without its line feed. It may be empty, or no event.
    pub text: &'a [u8],
    /// Its number in the file, counted from 1; of Parquet, the number of the row.
    pub number: u64,
}

/// A file of events that was found.
#[derive(Clone, Debug)]
pub struct FoundFile(EventFile);

/// Finds the files of events at a path: a file, or all in a folder, each event once. Beside them stands what could not be read in the
/// folder.
///
/// # Errors
///
/// The path cannot be read, or there is no file that can be.
pub fn event_files(path: &Path) -> Result<(Vec<FoundFile>, Vec<SearchError>)> {
    let found = find::find_files(&[path.to_owned()], None)?;
    let unread = found.problems.into_iter().map(UnreadFile::into_error).collect();
    Ok((found.files.into_iter().map(FoundFile).collect(), unread))
}

impl FoundFile {
    /// Returns whether the file was named itself rather than found in a folder.
    pub fn is_named(&self) -> bool {
        self.0.is_named
    }

    /// Returns how messages call the file.
    pub fn name(&self) -> String {
        shown(&self.0.path).into_owned()
    }

    /// Opens the file.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or is no Parquet file although it begins as one.
    pub fn read(&self) -> Result<EventSource> {
        let file = &self.0;
        let read = |source| SearchError::Read { path: file.path.clone(), source };
        Ok(EventSource(match file.format {
            FileFormat::Parquet => Source::Rows(RowLines::open(&file.path, &file.open().map_err(read)?)?),
            _ => Source::Lines(Box::new(LineReader::open(file, 0, file.size).map_err(read)?), false),
        }))
    }
}

/// Events that are read one after the other.
pub struct EventSource(Source);

enum Source {
    /// With whether they come from a stream.
    Lines(Box<LineReader>, bool),
    Rows(RowLines),
}

impl EventSource {
    /// Reads a stream as it comes: lines, objects over several lines, or an array, also compressed.
    ///
    /// # Errors
    ///
    /// The stream cannot be read, or is Parquet, which can only be read from a file.
    pub fn stream(input: impl Read + Send + 'static) -> io::Result<Self> {
        Ok(Self(Source::Lines(Box::new(LineReader::stream(input)?), true)))
    }

    /// Returns whether the next line must be waited for: it is not in memory, and comes from a stream.
    pub fn would_wait(&self) -> bool {
        matches!(&self.0, Source::Lines(lines, true) if !lines.has_line())
    }

    /// Returns the next line.
    ///
    /// # Errors
    ///
    /// The file cannot be read further: what is compressed is cut off, or the file is damaged.
    pub fn next_line(&mut self) -> io::Result<Option<EventLine<'_>>> {
        match &mut self.0 {
            Source::Lines(lines, _) => Ok(lines.next_numbered()?.map(|(text, number)| EventLine { text, number })),
            Source::Rows(rows) => rows.next_line(),
        }
    }

    /// Returns how many lines were skipped since the last call, because they are too long.
    pub fn take_too_long(&mut self) -> u64 {
        match &mut self.0 {
            Source::Lines(lines, _) => lines.take_too_long(),
            Source::Rows(_) => 0,
        }
    }
}

/// The rows of a Parquet file, as lines of JSON.
struct RowLines {
    batches: ParquetRecordBatchReader,
    /// Lines of the current batch, and where the next one begins.
    lines: Vec<u8>,
    start: usize,
    number: u64,
    /// Whether the file has columns for lines that do not fit into the others.
    has_kept: bool,
    /// The line that a row was made of.
    kept: String,
}

impl RowLines {
    fn open(path: &Path, file: &Arc<File>) -> Result<Self> {
        let damaged =
            |error: &dyn std::fmt::Display| SearchError::Format { path: path.to_owned(), why: error.to_string() };
        let file = file.try_clone().map_err(|source| SearchError::Read { path: path.to_owned(), source })?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(&error))?;
        let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| damaged(&error))?;
        let schema = batches.schema();
        let has_kept = [UNPARSED, ORIGINAL].into_iter().any(|name| schema.index_of(name).is_ok());
        Ok(Self { batches, lines: Vec::new(), start: 0, number: 0, has_kept, kept: String::new() })
    }

    fn next_line(&mut self) -> io::Result<Option<EventLine<'_>>> {
        while self.start >= self.lines.len() {
            let Some(batch) = self.batches.next() else { return Ok(None) };
            self.lines.clear();
            self.start = 0;
            let mut writer = LineDelimitedWriter::new(&mut self.lines);
            writer.write(&batch.map_err(io::Error::other)?).map_err(io::Error::other)?;
            writer.finish().map_err(io::Error::other)?;
        }
        let rest = self.lines.get(self.start..).unwrap_or_default();
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (start, end) = (self.start, self.start + length);
        self.start = end + 1;
        self.number += 1;
        let text = self.lines.get(start..end).unwrap_or_default();
        // The line itself, where the columns do not have all of it.
        if self.has_kept
            && let Some(kept) = kept_line(text)
        {
            self.kept = kept;
            return Ok(Some(EventLine { text: self.kept.as_bytes(), number: self.number }));
        }
        Ok(Some(EventLine { text, number: self.number }))
    }
}

/// Returns the line that a row was made of, if the row has it.
fn kept_line(row: &[u8]) -> Option<String> {
    let row: serde_json::Value = serde_json::from_slice(row).ok()?;
    [ORIGINAL, UNPARSED].into_iter().find_map(|name| row.get(name)?.as_str().map(str::to_owned))
}
