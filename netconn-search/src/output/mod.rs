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
    chart::{Chart, ChartError},
    destination::Destination,
    export::{Csv, ExportError, JsonLines, JsonObject, Parquet},
    intent::Intent,
    summary::Summary,
    table::{Layout, Table, TableError},
};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
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
pub struct Style {
    /// The form.
    pub format: Format,
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
pub struct Output {
    printer: Printer,
    rows: u64,
}

enum Printer {
    Table(Table<Destination>),
    Chart(Chart<Destination>),
    Json(JsonObject<Destination>),
    Ndjson(JsonLines<Destination>),
    Csv(Csv<Destination>),
    Parquet(Box<Parquet<Destination>>),
}

impl Output {
    /// Begins an answer with this schema.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or not in this form.
    pub fn begin(out: Destination, style: &Style, schema: SchemaRef, intent: &Intent) -> Result<Self, OutputError> {
        let columns = column::columns(&schema, &intent.moments);
        let printer = match (style.format, style.is_chart) {
            (Format::Table, true) if intent.events.is_some() => return Err(ChartError::Events.into()),
            (Format::Table, true) => {
                Printer::Chart(Chart::new(out, &columns, intent, style.width, style.zone.clone())?)
            }
            (Format::Table, false) => {
                let layout = Layout {
                    width: style.width,
                    events: intent.events.clone(),
                    is_live: style.is_live,
                    zone: style.zone.clone(),
                };
                Printer::Table(Table::new(out, columns, layout))
            }
            (Format::Json, _) => Printer::Json(JsonObject::new(out, &columns)?),
            (Format::Ndjson, _) => Printer::Ndjson(JsonLines::new(out)),
            (Format::Csv, _) => Printer::Csv(Csv::new(out, &columns)?),
            (Format::Parquet, _) => Printer::Parquet(Box::new(Parquet::new(out, schema)?)),
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
            Printer::Table(table) => table.batch(batch)?,
            Printer::Chart(chart) => chart.batch(batch)?,
            Printer::Json(out) => out.batch(batch)?,
            Printer::Ndjson(out) => out.batch(batch)?,
            Printer::Csv(out) => out.batch(batch)?,
            Printer::Parquet(out) => out.batch(batch)?,
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
            Printer::Ndjson(out) => out.flush()?,
            Printer::Csv(out) => out.flush()?,
            // A table does it by itself, the others are not read before they are whole.
            Printer::Table(_) | Printer::Chart(_) | Printer::Json(_) | Printer::Parquet(_) => {}
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
    pub fn end(self, summary: &mut Summary) -> Result<(), OutputError> {
        summary.rows = self.rows;
        match self.printer {
            Printer::Table(table) => summary.hidden_columns = table.end()? as u64,
            Printer::Chart(chart) => chart.end()?,
            Printer::Json(out) => out.end(summary)?,
            Printer::Ndjson(out) => out.end()?,
            Printer::Csv(out) => out.end()?,
            Printer::Parquet(out) => out.end()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
