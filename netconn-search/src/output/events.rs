//! Writes answers whose rows are events as another program writes them.

use std::io::Write;

use datafusion::arrow::{array::RecordBatch, json::LineDelimitedWriter};
use netconn_model::format::{Encoded, EventFormat};

use crate::output::export::ExportError;

/// Writes events in a format of another program.
pub(super) struct EventWriter<W: Write> {
    out: W,
    format: &'static EventFormat,
    left_out: u64,
}

impl<W: Write> EventWriter<W> {
    /// Begins with what stands before the first event.
    pub(super) fn new(mut out: W, format: &'static EventFormat) -> Result<Self, ExportError> {
        let mut heading = Vec::new();
        format.heading(&mut heading);
        out.write_all(&heading)?;
        Ok(Self { out, format, left_out: 0 })
    }

    /// Writes rows; those for which the format has no place are counted.
    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<(), ExportError> {
        let mut lines = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut lines);
        writer.write(batch)?;
        writer.finish()?;
        let mut events = Vec::new();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // A row that is no event, such as a line of a file that is none, has no place either.
            if !matches!(self.format.encode_line(line, &mut events), Ok(Encoded::Written)) {
                self.left_out += 1;
            }
        }
        Ok(self.out.write_all(&events)?)
    }

    /// Flushes what was written; more may follow.
    pub(super) fn flush(&mut self) -> Result<(), ExportError> {
        Ok(self.out.flush()?)
    }

    /// Ends the output; returns the number of rows that were left out.
    pub(super) fn end(mut self) -> Result<u64, ExportError> {
        self.out.flush()?;
        Ok(self.left_out)
    }
}
