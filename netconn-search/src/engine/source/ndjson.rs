//! Streams of rows out of files of lines.

use std::{io, sync::Arc};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchReceiverStreamBuilder, streaming::PartitionStream},
};
use memchr::memmem;

use super::{
    find::{EventFile, FileFormat},
    lines::LineReader,
    losses::{self, LossCounter},
    progress::SearchProgress,
    record::RowBuilder,
};

/// A file of lines is read in pieces of this size, by as many readers as there are processors.
const PIECE_BYTES: u64 = 16 * 1024 * 1024;

/// Batches that may wait for the engine, of each reader.
const BATCHES_WAITING_MAX: usize = 2;

/// The lines that begin in a range of a file.
#[derive(Clone, Debug)]
pub(crate) struct FilePiece {
    file: EventFile,
    start: u64,
    end: u64,
}

/// Deals the pieces of all files to `readers`.
pub(crate) fn deal_pieces(files: &[EventFile], readers: usize) -> Vec<Vec<FilePiece>> {
    let mut hands = vec![Vec::new(); readers.max(1)];
    let mut next = 0;
    for file in files {
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

/// One reader: its pieces, and the columns that it builds.
#[derive(Debug)]
pub(crate) struct PieceReader {
    /// What it reads.
    pub(crate) pieces: Vec<FilePiece>,
    /// What it builds.
    pub(crate) schema: SchemaRef,
    /// What it counts.
    pub(crate) progress: Arc<SearchProgress>,
    /// Whether it counts `Data Loss` too: the first scan of a search does.
    pub(crate) losses: Option<LossCounter>,
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
            batch_size,
        };
        let pieces = self.pieces.clone();
        stream.spawn_blocking(move || {
            let mut run = run;
            for piece in &pieces {
                // Nobody listens any more: the query has its rows, or was given up.
                if !run.piece(piece, &mut |batch| sender.blocking_send(Ok(batch)).is_ok())? {
                    return Ok(());
                }
            }
            Ok(())
        });
        stream.build()
    }
}

struct PieceScan {
    rows: RowBuilder,
    progress: Arc<SearchProgress>,
    losses: Option<LossCounter>,
    batch_size: usize,
}

impl PieceScan {
    /// Reads a piece. Answers `false` when `send` did.
    fn piece(&mut self, piece: &FilePiece, send: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool> {
        let mut lines = match LineReader::open(&piece.file, piece.start, piece.end) {
            Ok(lines) => lines,
            Err(error) => {
                self.note(piece, &error);
                return Ok(true);
            }
        };
        let finder = memmem::Finder::new(losses::KIND);
        let is_of_history = piece.file.is_of_history();
        loop {
            match lines.next() {
                Ok(Some(line)) => {
                    if let Some(losses) = &self.losses
                        && finder.find(line).is_some()
                    {
                        self.progress.lost(losses.count(line, is_of_history));
                    }
                    self.rows.push(line);
                }
                Ok(None) => break,
                Err(error) => {
                    self.note(piece, &error);
                    break;
                }
            }
            if self.rows.len() >= self.batch_size && !self.flush(&mut lines, send)? {
                return Ok(false);
            }
        }
        let more = self.flush(&mut lines, send)?;
        if piece.end >= piece.file.size {
            self.progress.finish(1);
        }
        Ok(more)
    }

    fn flush(&mut self, lines: &mut LineReader, send: &mut dyn FnMut(RecordBatch) -> bool) -> Result<bool> {
        self.progress.bad_lines(self.rows.take_bad() + lines.take_too_long());
        self.progress.wrong_values(self.rows.take_wrong());
        let batch = self.rows.finish().map_err(DataFusionError::from)?;
        self.progress.read(batch.num_rows() as u64, lines.take_read());
        Ok(batch.num_rows() == 0 || send(batch))
    }

    fn note(&self, piece: &FilePiece, error: &io::Error) {
        let path = piece.file.path.display();
        self.progress.note(match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("{path} ends early: it was cut off, or is still being written."),
            _ => format!("{path} could not be read to its end: {error}."),
        });
    }
}
