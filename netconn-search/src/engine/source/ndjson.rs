//! Streams rows from NDJSON files, in pieces that several readers share.

use std::{io, os::unix::fs::FileExt as _, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array as _, RecordBatch},
        datatypes::SchemaRef,
    },
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchReceiverStreamBuilder, streaming::PartitionStream},
};
use memchr::memmem;
use netconn_model::field::Field;

use crate::engine::{
    error::shown,
    source::{
        find::{EventFile, FileFormat},
        lines::LineReader,
        losses::{self, LossCounter},
        progress::SearchProgress,
        record::RowBuilder,
        sensor::{self, SensorLog},
    },
};

/// Size of the pieces into which an uncompressed file is divided, bytes. As many readers as there are processors share
/// them.
const PIECE_BYTES: u64 = 16 * 1024 * 1024;

/// Most batches of a reader that wait for the engine. It bounds the memory that a fast reader takes.
const BATCHES_WAITING_MAX: usize = 2;

/// A range of a file; the lines that begin in it belong to it.
#[derive(Clone, Debug)]
pub(crate) struct FilePiece {
    file: EventFile,
    start: u64,
    end: u64,
}

/// Divides the files into pieces and deals these to at most `readers` readers.
pub(crate) fn deal_pieces(files: &[EventFile], readers: usize) -> Vec<Vec<FilePiece>> {
    // One piece to each reader in turn: readers then work at neighbouring offsets, and none gets all of a large file.
    let mut hands = vec![Vec::new(); readers.max(1)];
    let mut next = 0;
    for file in files {
        // A compressed stream can only be read from its beginning.
        let pieces = if file.format == FileFormat::Lines { file.size.div_ceil(PIECE_BYTES).max(1) } else { 1 };
        for piece in 0..pieces {
            let start = piece * PIECE_BYTES;
            let end = if pieces == 1 { file.size } else { (start + PIECE_BYTES).min(file.size) };
            let count = hands.len();
            hands[next % count].push(FilePiece { file: file.clone(), start, end });
            next += 1;
        }
    }
    hands.retain(|hand| !hand.is_empty());
    hands
}

/// A partition of the table: reads its pieces one after the other.
#[derive(Debug)]
pub(crate) struct PieceReader {
    /// The pieces to read.
    pub(crate) pieces: Vec<FilePiece>,
    /// The columns to build.
    pub(crate) schema: SchemaRef,
    /// The counters to increase.
    pub(crate) progress: Arc<SearchProgress>,
    /// Counts the losses that `Data Loss` events report; `Some` only in the first scan of a search, so that none counts
    /// twice.
    pub(crate) losses: Option<LossCounter>,
    /// Collects starts and ends of daemons; `Some` only in the first scan.
    pub(crate) sensors: Option<Arc<SensorLog>>,
}

impl PartitionStream for PieceReader {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), BATCHES_WAITING_MAX);
        let sender = stream.tx();
        let batch_size = context.session_config().batch_size();
        let run = PieceScan {
            rows: RowBuilder::new(Arc::clone(&self.schema)),
            progress: Arc::clone(&self.progress),
            losses: self.losses.clone(),
            sensors: self.sensors.clone(),
            batch_size,
        };
        let pieces = self.pieces.clone();
        // File reads block: they must not hold up the threads that run the plan.
        stream.spawn_blocking(move || {
            let mut run = run;
            for piece in &pieces {
                // The receiver is gone: the query has enough rows or was cancelled.
                if !run.piece(piece, &mut |batch| sender.blocking_send(Ok(batch)).is_ok())? {
                    return Ok(());
                }
            }
            Ok(())
        });
        stream.build()
    }
}

/// Returns the number of lines that end before the range of a piece begins, where its reader begins to count.
fn lines_before(piece: &FilePiece) -> io::Result<u64> {
    let file = piece.file.open()?;
    let (mut buffer, mut at, mut lines) = (vec![0; 1024 * 1024], 0, 0);
    let end = piece.start.saturating_sub(1);
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read_at(&mut buffer[..wanted], at)?;
        if count == 0 {
            break;
        }
        lines += memchr::memchr_iter(b'\n', &buffer[..count]).count() as u64;
        at += count as u64;
    }
    Ok(lines)
}

/// The state of a reader while it runs.
struct PieceScan {
    rows: RowBuilder,
    progress: Arc<SearchProgress>,
    losses: Option<LossCounter>,
    sensors: Option<Arc<SensorLog>>,
    batch_size: usize,
}

impl PieceScan {
    /// Reads a piece. Returns `false` if `send` does, which ends the scan.
    fn piece(&mut self, piece: &FilePiece, send: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool> {
        let mut lines = match LineReader::open(&piece.file, piece.start, piece.end) {
            Ok(lines) => lines,
            Err(error) => {
                self.note(piece, &error);
                return Ok(true);
            }
        };
        // A substring search skips nearly all lines; only the few that match are parsed as JSON.
        let finder = memmem::Finder::new(losses::KIND);
        let sensor_finder = memmem::Finder::new(sensor::MARK);
        let mut before = None;
        let is_of_history = piece.file.is_of_history();
        loop {
            match lines.next() {
                Ok(Some(line)) => {
                    // Losses are counted before any filter of the query can drop the events that report them.
                    if let Some(losses) = &self.losses
                        && finder.find(line).is_some()
                    {
                        self.progress.lost(losses.count(line, is_of_history));
                    }
                    if let Some(sensors) = &self.sensors
                        && sensor_finder.find(line).is_some()
                    {
                        sensors.line(line);
                    }
                    // Only the first scan counts, so that no line is told twice.
                    if !self.rows.push(line) && self.losses.is_some() && self.progress.wants_bad_lines() {
                        let before = *before.get_or_insert_with(|| lines_before(piece).ok());
                        self.progress.bad_line(&piece.file.path, before.map(|before| before + lines.number()));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // The rows before the error are valid and are sent all the same.
                    self.note(piece, &error);
                    break;
                }
            }
            if self.rows.len() >= self.batch_size && !self.flush(&mut lines, send)? {
                return Ok(false);
            }
        }
        let more = self.flush(&mut lines, send)?;
        if let Some(sensors) = &self.sensors {
            sensors.end_piece();
        }
        // A file counts as read when its last piece is.
        if piece.end >= piece.file.size {
            self.progress.finish(1);
        }
        Ok(more)
    }

    /// Sends the rows built so far, and adds what was counted to the progress.
    fn flush(&mut self, lines: &mut LineReader, send: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool> {
        self.progress.bad_lines(self.rows.take_bad() + lines.take_too_long());
        self.progress.wrong_values(self.rows.take_wrong());
        let batch = self.rows.finish().map_err(DataFusionError::from)?;
        // Events without a time are in no range.
        if let Some(LossCounter(Some(_))) = &self.losses
            && let Some(times) = batch.column_by_name(Field::EventTime.info().name)
        {
            self.progress.untimed(times.null_count() as u64);
        }
        self.progress.read(batch.num_rows() as u64, lines.take_read());
        // Only a refused batch ends the scan; without rows there is nothing to ask.
        Ok(batch.num_rows() == 0 || send(batch))
    }

    fn note(&self, piece: &FilePiece, error: &io::Error) {
        let path = shown(&piece.file.path);
        self.progress.note(match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("{path} ends early: it is truncated or still being written."),
            // Only the decoder of xz says it so.
            io::ErrorKind::OutOfMemory => {
                format!("{path} could not be read to its end: it needs too much memory; decompress it first (unxz).")
            }
            _ => format!("{path} could not be read to its end: {error}."),
        });
    }
}
