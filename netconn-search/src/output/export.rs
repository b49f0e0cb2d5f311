//! Writes answers for programs: JSON, NDJSON, comma-separated values, Parquet.

use std::io::{self, Write};

use datafusion::{
    arrow::{
        array::RecordBatch,
        datatypes::SchemaRef,
        error::ArrowError,
        json::{
            LineDelimitedWriter,
            writer::{JsonArray, Writer},
        },
    },
    parquet::{
        arrow::ArrowWriter,
        basic::{Compression, ZstdLevel},
        errors::ParquetError,
        file::properties::WriterProperties,
    },
};
use netconn_model::csv_cell::CsvCells;
use serde::Serialize;
use thiserror::Error;

use crate::output::{
    column::{self, AnswerColumn},
    summary::AnswerSummary,
};

/// Why an answer cannot be written.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The destination cannot be written.
    #[error("cannot write the answer")]
    Io(#[from] io::Error),
    /// JSON could not be written.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// CSV could not be written.
    #[error("cannot write the answer")]
    Csv(#[from] csv::Error),
    /// Parquet could not be written.
    #[error("cannot write the answer")]
    Parquet(#[from] ParquetError),
    /// Arrow could not convert a value.
    #[error("cannot write the answer")]
    Value(#[source] ArrowError),
}

impl From<ArrowError> for ExportError {
    fn from(error: ArrowError) -> Self {
        match error {
            // Unwrapped, so that callers recognise a broken pipe by its kind.
            ArrowError::IoError(_, error) => Self::Io(error),
            error => Self::Value(error),
        }
    }
}

/// Writes one JSON object: the columns, the rows, then the summary.
#[derive(Debug)]
pub struct JsonAnswer<W: Write> {
    /// The text before the rows, until it is written. It waits for the first row: if the query fails before, only the
    /// object with the error is written.
    head: Option<String>,
    rows: Writer<W, JsonArray>,
}

#[derive(Serialize)]
struct ColumnJson<'a> {
    name: &'a str,
    r#type: &'static str,
}

impl<W: Write> JsonAnswer<W> {
    /// Creates the object; nothing is written yet.
    ///
    /// # Errors
    ///
    /// The columns cannot be written as JSON.
    pub fn new(out: W, columns: &[AnswerColumn]) -> Result<Self, ExportError> {
        let columns: Vec<_> =
            columns.iter().map(|column| ColumnJson { name: &column.name, r#type: column.r#type }).collect();
        let head = format!("{{\"columns\":{},\"rows\":", serde_json::to_string(&columns)?);
        Ok(Self { head: Some(head), rows: Writer::new(out) })
    }

    /// Writes rows as objects, leaving out columns without a value.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), ExportError> {
        if batch.num_rows() > 0 {
            // With the first row: an answer that fails before has written nothing.
            self.begin()?;
            self.rows.write(batch)?;
        }
        Ok(())
    }

    /// Completes the object with the summary.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn end(mut self, summary: &AnswerSummary) -> Result<(), ExportError> {
        // Without rows, the text before them has not been written yet.
        self.begin()?;
        self.rows.finish()?;
        let mut out = self.rows.into_inner();
        writeln!(out, ",{}}}", summary.to_json()?)?;
        Ok(out.flush()?)
    }

    fn begin(&mut self) -> io::Result<()> {
        match self.head.take() {
            Some(head) => self.rows.get_mut().write_all(head.as_bytes()),
            None => Ok(()),
        }
    }
}

/// Writes one object on each line, leaving out columns without a value.
#[derive(Debug)]
pub struct JsonLines<W: Write>(LineDelimitedWriter<W>);

impl<W: Write> JsonLines<W> {
    /// Creates a writer without rows.
    pub fn new(out: W) -> Self {
        Self(LineDelimitedWriter::new(out))
    }

    /// Writes rows.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), ExportError> {
        Ok(self.0.write(batch)?)
    }

    /// Flushes buffered rows; more may follow.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn flush(&mut self) -> Result<(), ExportError> {
        Ok(self.0.get_mut().flush()?)
    }

    /// Completes the output.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn end(mut self) -> Result<(), ExportError> {
        self.0.finish()?;
        Ok(self.0.into_inner().flush()?)
    }
}

/// Writes comma-separated values with a header, as in RFC 4180 but with line feeds only. A missing value is empty.
#[derive(Debug)]
pub struct CsvWriter<W: Write> {
    out: csv::Writer<W>,
    cells: CsvCells,
}

impl<W: Write> CsvWriter<W> {
    /// Creates a writer and writes the header.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn new(out: W, columns: &[AnswerColumn], cells: CsvCells) -> Result<Self, ExportError> {
        let mut out = csv::Writer::from_writer(out);
        // A query names columns as it likes, and it may be another person's.
        for column in columns {
            out.write_field(cells.text(&column.name).as_bytes())?;
        }
        out.write_record(None::<&[u8]>)?;
        Ok(Self { out, cells })
    }

    /// Writes rows.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), ExportError> {
        for row in 0..batch.num_rows() {
            for column in 0..batch.num_columns() {
                let text = column::cell_text(batch, column, row)?.unwrap_or_default();
                // Numbers stay numbers, negative ones too.
                let is_number = batch.column(column).data_type().is_numeric();
                self.out
                    .write_field(if is_number { text.as_str().into() } else { self.cells.text(&text) }.as_bytes())?;
            }
            // Ends the line. Fields are written one by one, which needs no vector for each row.
            self.out.write_record(None::<&[u8]>)?;
        }
        Ok(())
    }

    /// Flushes buffered rows; more may follow.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn flush(&mut self) -> Result<(), ExportError> {
        Ok(self.out.flush()?)
    }

    /// Flushes buffered rows.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn end(mut self) -> Result<(), ExportError> {
        self.flush()
    }
}

/// Writes a Parquet file, compressed with zstd.
pub struct ParquetWriter<W: Write + Send>(ArrowWriter<W>);

impl<W: Write + Send> ParquetWriter<W> {
    /// Creates a writer and writes the head of the file.
    ///
    /// # Errors
    ///
    /// The destination cannot be written, or the answer has a column of a type that Parquet does not know.
    pub fn new(out: W, schema: SchemaRef) -> Result<Self, ExportError> {
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        Ok(Self(ArrowWriter::try_new(out, schema, Some(properties))?))
    }

    /// Writes rows.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), ExportError> {
        Ok(self.0.write(batch)?)
    }

    /// Writes the footer, without which the file cannot be read.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn end(self) -> Result<(), ExportError> {
        let mut out = self.0.into_inner()?;
        Ok(out.flush()?)
    }
}
