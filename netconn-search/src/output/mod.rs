//! How an answer is shown or written.

pub mod moments;
pub mod intent;
pub mod column;
pub mod summary;
pub mod table;
pub mod chart;
pub mod export;
pub mod destination;
pub mod progress;

use std::num::NonZero;

use clap::ValueEnum;
use datafusion::arrow::{array::RecordBatch, datatypes::SchemaRef};
use jiff::tz::TimeZone;
use thiserror::Error;

use crate::output::{
    chart::{BarChart, ChartError},
    destination::Destination,
    export::{CsvWriter, ExportError, JsonAnswer, JsonLines, ParquetWriter},
    intent::AnswerIntent,
    summary::AnswerSummary,
    table::{TableError, TableLayout, TableWriter},
};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// One JSON object: columns, rows, warnings, what was read.
    Json,
    /// One JSON object on each line.
    Ndjson,
    /// Comma-separated values with a heading.
    Csv,
    /// A Parquet file, for --output or a pipe.
    Parquet,
}

/// What is to be made of an answer.
#[derive(Clone, Debug)]
pub struct OutputStyle {
    /// The form.
    pub format: OutputFormat,
    /// Bars instead of a table.
    pub is_chart: bool,
    /// Each batch is shown when it comes.
    pub is_live: bool,
    /// The terminal's width; `None`: nothing is cut.
    pub width: Option<NonZero<usize>>,
    /// Where the clock is.
    pub zone: TimeZone,
}

/// Why an answer cannot be shown.
#[derive(Debug, Error)]
pub enum OutputError {
    /// As a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// As bars.
    #[error(transparent)]
    Chart(#[from] ChartError),
    /// For programs.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Takes the rows of one answer as they come.
pub struct AnswerWriter {
    printer: FormatWriter,
    rows: u64,
}

enum FormatWriter {
    Table(TableWriter<Destination>),
    Chart(BarChart<Destination>),
    Json(JsonAnswer<Destination>),
    Ndjson(JsonLines<Destination>),
    Csv(CsvWriter<Destination>),
    Parquet(Box<ParquetWriter<Destination>>),
}

impl AnswerWriter {
    /// Begins an answer with this schema.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or not in this form.
    pub fn begin(
        out: Destination,
        style: &OutputStyle,
        schema: SchemaRef,
        intent: &AnswerIntent,
    ) -> Result<Self, OutputError> {
        let columns = column::answer_columns(&schema, &intent.moments);
        let printer = match (style.format, style.is_chart) {
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
            (OutputFormat::Json, _) => FormatWriter::Json(JsonAnswer::new(out, &columns)?),
            (OutputFormat::Ndjson, _) => FormatWriter::Ndjson(JsonLines::new(out)),
            (OutputFormat::Csv, _) => FormatWriter::Csv(CsvWriter::new(out, &columns)?),
            (OutputFormat::Parquet, _) => FormatWriter::Parquet(Box::new(ParquetWriter::new(out, schema)?)),
        };
        Ok(Self { printer, rows: 0 })
    }

    /// Takes some rows.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        self.rows += batch.num_rows() as u64;
        match &mut self.printer {
            FormatWriter::Table(table) => table.batch(batch)?,
            FormatWriter::Chart(chart) => chart.batch(batch)?,
            FormatWriter::Json(out) => out.batch(batch)?,
            FormatWriter::Ndjson(out) => out.batch(batch)?,
            FormatWriter::Csv(out) => out.batch(batch)?,
            FormatWriter::Parquet(out) => out.batch(batch)?,
        }
        Ok(())
    }

    /// Lets what was written be seen, where rows come one by one.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn flush(&mut self) -> Result<(), OutputError> {
        match &mut self.printer {
            FormatWriter::Ndjson(out) => out.flush()?,
            FormatWriter::Csv(out) => out.flush()?,
            // A table does it by itself, the others are not read before they are whole.
            FormatWriter::Table(_) | FormatWriter::Chart(_) | FormatWriter::Json(_) | FormatWriter::Parquet(_) => {}
        }
        Ok(())
    }

    /// How many rows came.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes what is left. The summary goes into the answer where there is room for it, and learns what was hidden.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn end(self, summary: &mut AnswerSummary) -> Result<(), OutputError> {
        summary.rows = self.rows;
        match self.printer {
            FormatWriter::Table(table) => summary.hidden_columns = table.end()? as u64,
            FormatWriter::Chart(chart) => chart.end()?,
            FormatWriter::Json(out) => out.end(summary)?,
            FormatWriter::Ndjson(out) => out.end()?,
            FormatWriter::Csv(out) => out.end()?,
            FormatWriter::Parquet(out) => out.end()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
