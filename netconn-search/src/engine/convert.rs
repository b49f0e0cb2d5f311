//! Converts a closed segment of lines to Parquet, sorted by time, without losing anything.
//!
//! The lines are read twice: first their times and names, then, in the order of time, their values. Memory holds 24
//! bytes for each line, and the current row group.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use datafusion::{
    arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef},
    parquet::{
        arrow::ArrowWriter,
        basic::{Compression, Encoding, ZstdLevel},
        errors::ParquetError,
        file::{
            metadata::SortingColumn,
            properties::{EnabledStatistics, WriterProperties},
        },
        schema::types::ColumnPath,
    },
};
use netconn_model::{field::Field, segment_name::SegmentName};
use serde::Serialize;

use super::{
    error::{Result, SearchError},
    pace::Pace,
    source::{
        find::{self, EventFile, FileFormat},
        lines::LineReader,
        record::RowBuilder,
        shape::{ORIGINAL, TableShape, UNPARSED},
    },
};

/// Rows of a row group: small enough to skip most of a day, large enough to compress well.
const ROW_GROUP: usize = 128 * 1024;

/// What messages call a segment without a path.
const STANDARD_INPUT: &str = "standard input";

/// Why a file without bytes is not converted.
const EMPTY: &str = "it is empty";

/// Rows of a batch for the writer, and lines that are read without a rest.
const BATCH: usize = 8 * 1024;

/// What a conversion has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConvertedRows {
    /// Rows: one for each line.
    pub rows: u64,
    /// Lines that are no JSON object; they are kept in the column `line.unparsed`.
    pub unparsed: u64,
    /// Time of the earliest event, epoch milliseconds.
    pub first: Option<i64>,
    /// Time of the latest event, epoch milliseconds.
    pub last: Option<i64>,
    /// Bytes of the Parquet file.
    pub bytes: u64,
}

/// The result of a conversion by path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// What was written.
    #[serde(flatten)]
    pub summary: ConvertedRows,
    /// The Parquet file.
    pub file: PathBuf,
}

/// A line of the segment.
struct Line {
    /// Time of the event; of a line without one, the time of the line before.
    time: i64,
    // Byte of the file where the line begins, so that unsorted segments can be read in the order of time.
    start: u64,
    length: u32,
}

/// Result of the first reading.
struct Segment {
    file: EventFile,
    lines: Vec<Line>,
    shapes: TableShape,
    sorted: bool,
    /// Times of all lines.
    timed: bool,
    first: Option<i64>,
    last: Option<i64>,
}

/// Converts a file of lines. The Parquet file is put beside it, named after FROM and the times of its events
/// ([`SegmentName::converted`]); FROM is that of the segment's name, or else the time of its first event.
///
/// # Errors
///
/// The segment cannot be read, or the Parquet file cannot be written; then no file is left behind.
pub fn convert(ndjson: &Path) -> Result<Converted> {
    let read = |source| SearchError::Read { path: ndjson.to_owned(), source };
    let file = find::open_file(ndjson).map_err(read)?;
    let file = file.ok_or_else(|| SearchError::Format { path: ndjson.to_owned(), why: EMPTY.to_owned() })?;
    check_format(ndjson, file.format)?;
    let mut pace = Pace::without_rest();
    let segment = Segment::read(file, &mut pace).map_err(read)?;
    // FROM is the segment's identity in the history (docs/history.md), so it is taken from the name and not from the
    // events.
    let name = ndjson.file_name().and_then(|name| name.to_str()).and_then(SegmentName::parse);
    let from = name.map_or_else(|| u64::try_from(segment.first.unwrap_or(0)).unwrap_or(0), SegmentName::from);
    let converted = SegmentName::converted(from, segment.first.zip(segment.last));
    // `parent` of a bare file name is an empty path, which no system call accepts.
    let folder = ndjson.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parquet = folder.join(converted.to_string());
    let write = |source| SearchError::Write { path: parquet.clone(), source };

    // The file grows in the same folder under a name that readers do not count, because a rename is atomic only within
    // one file system.
    let temporary = tempfile::Builder::new().prefix(".events-").suffix(".tmp").tempfile_in(folder).map_err(write)?;
    let summary = segment.save(temporary.as_file(), &mut pace).map_err(|failed| failed.of(ndjson, &parquet))?;
    // The Parquet file gets the permissions of the segment.
    let rights = fs::metadata(ndjson).map_err(read)?.permissions();
    temporary.as_file().set_permissions(rights).map_err(write)?;
    temporary.persist(&parquet).map_err(|error| write(error.error))?;
    // The rename itself is on the disk only when the folder is.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(write)?;
    Ok(Converted { summary, file: parquet })
}

/// A segment and the file that it is to become, as the daemon hands them over: open, and without a path.
pub struct HandedOver {
    segment: Arc<File>,
    size: u64,
    id: (u64, u64),
    parquet: File,
    pace: Pace,
}

impl HandedOver {
    /// Takes the open files. Nothing is read yet. SIGURG hurries the conversion from now on.
    ///
    /// # Errors
    ///
    /// The segment is no regular file.
    pub fn new(segment: File, parquet: File) -> Result<Self> {
        let read = |source| SearchError::Read { path: STANDARD_INPUT.into(), source };
        Self::with_pace(segment, parquet, Pace::of_this_process().map_err(read)?)
    }

    /// Takes the open files, to convert them at this pace.
    pub(super) fn with_pace(segment: File, parquet: File, pace: Pace) -> Result<Self> {
        let read = |source| SearchError::Read { path: STANDARD_INPUT.into(), source };
        let metadata = segment.metadata().map_err(read)?;
        if !metadata.is_file() {
            let why = "it is not a regular file".to_owned();
            return Err(SearchError::Format { path: STANDARD_INPUT.into(), why });
        }
        Ok(Self { segment: Arc::new(segment), size: metadata.len(), id: find::file_id(&metadata), parquet, pace })
    }

    /// Converts the segment. Needs no path and no system call but those that read, write and allocate.
    ///
    /// # Errors
    ///
    /// The segment cannot be read, or the Parquet file cannot be written.
    pub fn convert(self) -> Result<ConvertedRows> {
        let Self { segment, size, id, parquet, mut pace } = self;
        let path = PathBuf::from(STANDARD_INPUT);
        let read = |source| SearchError::Read { path: STANDARD_INPUT.into(), source };
        let format = find::format_of(&segment).map_err(read)?;
        let format = format.ok_or_else(|| SearchError::Format { path: path.clone(), why: EMPTY.to_owned() })?;
        check_format(&path, format)?;
        let file = EventFile { path: path.clone(), format, size, id, is_named: true, handle: Some(segment) };
        let segment = Segment::read(file, &mut pace).map_err(read)?;
        segment.save(&parquet, &mut pace).map_err(|failed| failed.of(&path, "the Parquet file".as_ref()))
    }
}

/// Refuses all but lines. The format is found by content, so a compressed file under the name of a segment is refused
/// instead of becoming unparsed rows.
fn check_format(path: &Path, format: FileFormat) -> Result<()> {
    if format == FileFormat::Lines {
        return Ok(());
    }
    let why = "only files of lines that are not compressed can be converted".to_owned();
    Err(SearchError::Format { path: path.to_owned(), why })
}

enum Failed {
    Read(io::Error),
    Write(ParquetError),
}

impl Failed {
    fn of(self, segment: &Path, parquet: &Path) -> SearchError {
        match self {
            Self::Read(source) => SearchError::Read { path: segment.to_owned(), source },
            Self::Write(error) => {
                let source = match error {
                    ParquetError::External(source) => io::Error::other(source),
                    error => io::Error::other(error),
                };
                SearchError::Write { path: parquet.to_owned(), source }
            }
        }
    }

    fn written(error: io::Error) -> Self {
        Self::Write(ParquetError::External(Box::new(error)))
    }
}

impl From<ParquetError> for Failed {
    fn from(error: ParquetError) -> Self {
        Self::Write(error)
    }
}

impl Segment {
    /// Reads the times and names of all lines.
    fn read(file: EventFile, pace: &mut Pace) -> io::Result<Self> {
        // The first reading needs only the time, so its builder has only that column.
        let time = ArrowField::new(Field::EventTime.info().name, DataType::Int64, true);
        let mut times = RowBuilder::new(Arc::new(Schema::new(vec![time])));
        let mut lines = LineReader::open(&file, 0, u64::MAX)?;
        let mut segment = Self {
            lines: Vec::new(),
            shapes: TableShape::new(),
            sorted: true,
            timed: true,
            first: None,
            last: None,
            file,
        };
        // Lines ahead of the first one with a time sort first, where they stood.
        let mut before = i64::MIN;
        let mut start = 0;
        while let Some(line) = lines.next()? {
            // The schema has to be known before the first row is written, so names and types are collected here.
            let good = segment.shapes.line(line);
            let time = if good { time_of(&mut times, line)? } else { None };
            // Nulls in the sort column would break the promise of `sorting_columns`, so one line without a time
            // withdraws it.
            segment.timed &= time.is_some();
            if let Some(time) = time {
                segment.sorted &= time >= before;
                segment.first = Some(segment.first.map_or(time, |first| first.min(time)));
                segment.last = Some(segment.last.map_or(time, |last| last.max(time)));
                before = time;
            }
            let length = u32::try_from(line.len()).map_err(io::Error::other)?;
            segment.lines.push(Line { time: before, start, length });
            // The line feed is not part of the line.
            start += u64::from(length) + 1;
            if segment.lines.len().is_multiple_of(BATCH) {
                pace.rest();
            }
        }
        // The reader skips such lines without returning them. One row for each line is what the keeper checks, so the
        // conversion ends here and the segment stays.
        if lines.take_too_long() > 0 {
            return Err(io::Error::other("it has a line that is longer than any event"));
        }
        if !segment.sorted {
            // A stable sort keeps lines of the same time in their order.
            segment.lines.sort_by_key(|line| line.time);
        }
        Ok(segment)
    }

    /// Writes all rows, to the disk too.
    fn save(&self, mut output: &File, pace: &mut Pace) -> std::result::Result<ConvertedRows, Failed> {
        let unparsed = self.write(output, pace)?;
        // The bytes have to be on the disk before the name is: otherwise a crash could leave a name that counts on an
        // empty file.
        output.sync_all().map_err(Failed::written)?;
        // By the position: whoever is confined cannot ask for metadata.
        let bytes = output.seek(SeekFrom::End(0)).map_err(Failed::written)?;
        let rows = self.lines.len() as u64;
        Ok(ConvertedRows { rows, unparsed, first: self.first, last: self.last, bytes })
    }

    /// Writes all rows; returns the number of lines that are no JSON object.
    fn write(&self, output: &File, pace: &mut Pace) -> std::result::Result<u64, Failed> {
        let schema = self.shapes.seen(&[UNPARSED, ORIGINAL]);
        let place = |name: &str| schema.index_of(name).ok();
        let unparsed = place(UNPARSED).unwrap_or(0);
        let mut rows = RowBuilder::new(Arc::clone(&schema)).with_original(place(ORIGINAL));
        let mut writer = ArrowWriter::try_new(output, Arc::clone(&schema), Some(properties(&schema, self.timed)))?;
        let file = self.file.open().map_err(Failed::Read)?;
        // Lines that are in order are read in sequence; otherwise each line costs a read of its own.
        let mut sequence = LineReader::open(&self.file, 0, u64::MAX).map_err(Failed::Read)?;
        let mut buffer = Vec::new();
        let mut bad = 0;
        for line in &self.lines {
            let text: &[u8] = if self.sorted {
                sequence.next().map_err(Failed::Read)?.unwrap_or_default()
            } else {
                buffer.resize(line.length as usize, 0);
                file.read_exact_at(&mut buffer, line.start).map_err(Failed::Read)?;
                &buffer
            };
            // `push` accepts an empty line without making a row, but every line has to become one.
            if text.trim_ascii().is_empty() || !rows.push(text) {
                bad += 1;
                // The column holds texts, and a line that is no JSON may also be no UTF-8.
                rows.keep(unparsed, &escaped(text));
            }
            if rows.len() >= BATCH {
                writer.write(&rows.finish().map_err(ParquetError::from)?)?;
                pace.rest();
            }
        }
        writer.write(&rows.finish().map_err(ParquetError::from)?)?;
        writer.close()?;
        // The last row group was compressed just now. The next conversion may begin at once.
        pace.rest();
        // The writer borrows the file, so its errors arrive as `ParquetError`; this one is wrapped to be reported the
        // same way.
        (&*output).flush().map_err(Failed::written)?;
        Ok(bad)
    }
}

fn time_of(rows: &mut RowBuilder, line: &[u8]) -> io::Result<Option<i64>> {
    use datafusion::arrow::array::{Array, AsArray};
    // The builder decides what counts as a time, so that the conversion sorts by the value that searches will see.
    rows.push(line);
    let batch = rows.finish().map_err(io::Error::other)?;
    let times = batch.column(0).as_primitive::<datafusion::arrow::datatypes::Int64Type>();
    Ok((!times.is_empty() && times.is_valid(0)).then(|| times.value(0)))
}

/// Returns a text in which bytes that are no UTF-8 are written as `\xNN`.
fn escaped(text: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        escaped.push_str(chunk.valid());
        for byte in chunk.invalid() {
            escaped.push_str(&format!("\\x{byte:02x}"));
        }
    }
    escaped
}

fn properties(schema: &SchemaRef, timed: bool) -> WriterProperties {
    let time = Field::EventTime.info().name;
    let sorting = schema
        .index_of(time)
        .ok()
        .and_then(|place| i32::try_from(place).ok())
        .filter(|_| timed)
        .map(|place| vec![SortingColumn { column_idx: place, descending: false, nulls_first: false }]);
    let path = ColumnPath::new(vec![time.to_owned()]);
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        // Page statistics let a search skip parts of a row group: a row group may span hours.
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(sorting)
        // Delta encoding suits sorted times.
        .set_column_dictionary_enabled(path.clone(), false)
        .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        assert_eq!(escaped(b"a\xff\xc3\xa4\xe2\x82"), "a\\xff\u{e4}\\xe2\\x82");
    }
}
