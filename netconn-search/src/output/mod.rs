//! Shows an answer on a terminal, or writes it in a format for programs.

pub mod moments;
pub mod intent;
pub mod column;
pub mod clock;
pub mod recorded;
pub mod summary;
pub mod fit;
pub mod table;
mod series;
pub mod chart;
pub mod export;
mod events;
pub mod destination;
pub mod progress;

use std::{num::NonZero, path::Path, sync::LazyLock};

use clap::{ValueEnum, builder::PossibleValue};
use datafusion::arrow::{array::RecordBatch, datatypes::SchemaRef};
use jiff::tz::TimeZone;
use netconn_model::{
    csv_cell::CsvCells,
    format::{EVENT_FORMATS, EventFormat},
};
use thiserror::Error;

use crate::output::{
    chart::{BarChart, ChartError},
    destination::OutputDestination,
    events::EventWriter,
    export::{CsvWriter, ExportError, JsonAnswer, JsonLines, ParquetWriter},
    fit::TableLayout,
    intent::AnswerIntent,
    summary::AnswerSummary,
    table::{TableError, TableWriter},
};

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// A table for people.
    Table,
    /// One JSON object with columns, rows, warnings and counters.
    Json,
    /// One JSON object on each line.
    Ndjson,
    /// Comma-separated values with a header. A text that a spreadsheet would take for a formula begins with an apostrophe.
    Csv,
    /// The same with all texts as they are, for programs.
    CsvRaw,
    /// A Parquet file, for --output or a pipe.
    Parquet,
    /// Whole events as another program writes them.
    Events(&'static EventFormat),
}

/// All formats: those of answers, then those of events.
static OUTPUT_FORMATS: LazyLock<Vec<OutputFormat>> = LazyLock::new(|| {
    use OutputFormat::{Csv, CsvRaw, Json, Ndjson, Parquet, Table};
    let others = EVENT_FORMATS.iter().filter(|format| !format.records().is_empty()).map(OutputFormat::Events);
    [Table, Json, Ndjson, Csv, CsvRaw, Parquet].into_iter().chain(others).collect()
});

impl ValueEnum for OutputFormat {
    fn value_variants<'a>() -> &'a [Self] {
        &OUTPUT_FORMATS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Table => ("table", "A table for people"),
            Self::Json => ("json", "One JSON object with columns, rows, warnings and counters"),
            Self::Ndjson => ("ndjson", "One JSON object on each line"),
            Self::Csv => (
                "csv",
                "Comma-separated values with a header. A text that a spreadsheet would take for a formula begins with an \
                 apostrophe",
            ),
            Self::CsvRaw => ("csv-raw", "The same with all texts as they are, for programs"),
            Self::Parquet => ("parquet", "A Parquet file, for --output or a pipe"),
            Self::Events(format) => (format.name, format.meaning),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// A name whose ending stands for no format.
#[derive(Clone, Debug, Error)]
#[error(
    "a name that ends with .{0} says no format: end it with .parquet, .csv, .json, .ndjson or .txt (a table), or add --format"
)]
pub struct UnknownEnding(String);

impl OutputFormat {
    /// Returns the format that the name of a file ends with; a table for a name without an ending.
    ///
    /// # Errors
    ///
    /// The ending stands for no format: a table in a file called `.parquet` or `.csv.gz` would surprise its reader.
    pub fn of_name(path: &Path) -> Result<Self, UnknownEnding> {
        let Some(ending) = path.extension() else { return Ok(Self::Table) };
        let ending = ending.to_string_lossy().into_owned();
        match ending.to_ascii_lowercase().as_str() {
            "parquet" => Ok(Self::Parquet),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            "ndjson" | "jsonl" => Ok(Self::Ndjson),
            "txt" => Ok(Self::Table),
            _ => Err(UnknownEnding(ending)),
        }
    }
}

/// How an answer is shown.
#[derive(Clone, Debug)]
pub struct OutputStyle {
    /// The format.
    pub format: OutputFormat,
    /// Whether bars are drawn instead of a table.
    pub is_chart: bool,
    /// Whether each batch is shown as soon as it arrives (`--follow`).
    pub is_live: bool,
    /// Width of the terminal, columns; `None`: nothing is cut.
    pub width: Option<NonZero<usize>>,
    /// Time zone in which times are shown.
    pub zone: TimeZone,
}

/// Why an answer cannot be shown.
#[derive(Debug, Error)]
pub enum AnswerWriteError {
    /// The table failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The chart failed.
    #[error(transparent)]
    Chart(#[from] ChartError),
    /// A format for programs failed.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The rows are no events, which the format has members for.
    #[error(
        "--format {format} writes whole events: leave out what makes other rows of them (group, top, columns, join and the like), or \
         use ndjson"
    )]
    NoEvents {
        /// The format.
        format: &'static str,
    },
}

/// Writes the rows of one answer as they arrive.
pub struct AnswerWriter {
    printer: FormatWriter,
    rows: u64,
}

/// The writer of one format.
enum FormatWriter {
    Table(TableWriter<OutputDestination>),
    Chart(BarChart<OutputDestination>),
    Json(JsonAnswer<OutputDestination>),
    Ndjson(JsonLines<OutputDestination>),
    Csv(CsvWriter<OutputDestination>),
    Parquet(Box<ParquetWriter<OutputDestination>>),
    Events(EventWriter<OutputDestination>),
}

impl AnswerWriter {
    /// Begins an answer with this schema.
    ///
    /// # Errors
    ///
    /// The destination cannot be written, or such rows cannot be shown in this format.
    pub fn begin(
        out: OutputDestination,
        style: &OutputStyle,
        schema: SchemaRef,
        intent: &AnswerIntent,
    ) -> Result<Self, AnswerWriteError> {
        let columns = column::answer_columns(&schema, &intent.moments);
        let printer = match (style.format, style.is_chart) {
            // Refused before the columns are examined: this error says what to do.
            (OutputFormat::Table, true) if intent.events.is_some() => return Err(ChartError::Events.into()),
            (OutputFormat::Table, true) => {
                FormatWriter::Chart(BarChart::new(out, &columns, intent, style.width, style.zone.clone())?)
            }
            (OutputFormat::Table, false) => {
                let layout = TableLayout {
                    width: style.width,
                    events: intent.events.clone(),
                    is_live: style.is_live,
                    zone: style.zone.clone(),
                };
                FormatWriter::Table(TableWriter::new(out, columns, layout))
            }
            // `--chart` excludes `--format`, so the other formats need not look at it.
            (OutputFormat::Json, _) => FormatWriter::Json(JsonAnswer::new(out, &columns)?),
            (OutputFormat::Ndjson, _) => FormatWriter::Ndjson(JsonLines::new(out)),
            (OutputFormat::Csv, _) => FormatWriter::Csv(CsvWriter::new(out, &columns, CsvCells::Guarded)?),
            (OutputFormat::CsvRaw, _) => FormatWriter::Csv(CsvWriter::new(out, &columns, CsvCells::Raw)?),
            (OutputFormat::Parquet, _) => FormatWriter::Parquet(Box::new(ParquetWriter::new(out, schema)?)),
            (OutputFormat::Events(format), _) if intent.events.is_none() => {
                return Err(AnswerWriteError::NoEvents { format: format.name });
            }
            (OutputFormat::Events(format), _) => FormatWriter::Events(EventWriter::new(out, format)?),
        };
        Ok(Self { printer, rows: 0 })
    }

    /// Writes a batch of rows.
    ///
    /// # Errors
    ///
    /// The destination cannot be written, or a value cannot be shown.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), AnswerWriteError> {
        self.rows += batch.num_rows() as u64;
        match &mut self.printer {
            FormatWriter::Table(table) => table.batch(batch)?,
            FormatWriter::Chart(chart) => chart.batch(batch)?,
            FormatWriter::Json(out) => out.batch(batch)?,
            FormatWriter::Ndjson(out) => out.batch(batch)?,
            FormatWriter::Csv(out) => out.batch(batch)?,
            FormatWriter::Parquet(out) => out.batch(batch)?,
            FormatWriter::Events(out) => out.batch(batch)?,
        }
        Ok(())
    }

    /// Flushes buffered rows, in the formats that can be read row by row.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn flush(&mut self) -> Result<(), AnswerWriteError> {
        match &mut self.printer {
            FormatWriter::Ndjson(out) => out.flush()?,
            FormatWriter::Csv(out) => out.flush()?,
            FormatWriter::Events(out) => out.flush()?,
            // A live table flushes after each batch; the others are useful only when they are complete.
            FormatWriter::Table(_) | FormatWriter::Chart(_) | FormatWriter::Json(_) | FormatWriter::Parquet(_) => {}
        }
        Ok(())
    }

    /// Returns the number of rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Completes the answer: adds the summary in the formats that have a place for it, and sets the number of rows and
    /// of hidden columns in `summary`.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn end(self, summary: &mut AnswerSummary) -> Result<(), AnswerWriteError> {
        summary.rows = self.rows;
        match self.printer {
            FormatWriter::Table(table) => summary.hidden_columns = table.end()? as u64,
            FormatWriter::Chart(chart) => chart.end()?,
            FormatWriter::Json(out) => out.end(summary)?,
            FormatWriter::Ndjson(out) => out.end()?,
            FormatWriter::Csv(out) => out.end()?,
            FormatWriter::Parquet(out) => out.end()?,
            FormatWriter::Events(out) => summary.left_out = out.end()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
