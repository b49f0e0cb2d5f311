//! The table for people: fits its columns to the terminal, shows local times, and replaces control characters.

use std::io::{self, Write};

use anstyle::Style;
use datafusion::arrow::{array::RecordBatch, error::ArrowError};
use jiff::civil::Date;
use netconn_model::term::{self, COLUMN_GAP, style};

use crate::output::{
    clock::{self, MomentForm},
    column::{self, AnswerColumn, ColumnKind},
    fit::{Fitted, FittedColumn, TableCell, TableLayout, fit, shown},
};

/// Number of rows from which the column widths are computed. Later rows are written as they arrive, with these widths.
const ROWS_FITTED: usize = 1000;

/// Writes rows as a table.
///
/// `netconn_model::term::Columns`, which `netconn list` uses, cannot do this: its rows are known as a whole, and only
/// its last column is cut. Here rows arrive as a stream, columns are chosen and reordered, any text column may be cut,
/// headings are shortened, and numbers and moments stay whole. Both share the gap and the narrowest width of a column.
#[derive(Debug)]
pub struct TableWriter<W> {
    out: W,
    layout: TableLayout,
    columns: Vec<AnswerColumn>,
    /// The first rows, until the column widths have been computed from them.
    kept: Vec<Vec<TableCell>>,
    fitted: Option<Fitted>,
    /// The day that the last line about days has told.
    day: Option<Date>,
}

impl<W: Write> TableWriter<W> {
    /// Creates a table without rows.
    pub fn new(out: W, columns: Vec<AnswerColumn>, layout: TableLayout) -> Self {
        Self { out, layout, columns, kept: Vec::new(), fitted: None, day: None }
    }

    /// Adds a batch of rows.
    ///
    /// # Errors
    ///
    /// The destination cannot be written, or a value has a type that Arrow cannot write as text.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        for row in 0..batch.num_rows() {
            let cells = (0..self.columns.len()).map(|column| cell(batch, column, self.columns[column].kind, row));
            let cells = cells.collect::<Result<Vec<_>, _>>()?;
            // Once they are fitted the widths stay: a stream cannot be laid out twice.
            if self.fitted.is_some() {
                self.write_row(&cells)?;
            } else {
                self.kept.push(cells);
                if self.kept.len() >= ROWS_FITTED {
                    self.show_kept()?;
                }
            }
        }
        // A reader who follows events cannot wait until there are enough rows to fit.
        if self.layout.is_live {
            if self.fitted.is_none() && !self.kept.is_empty() {
                self.show_kept()?;
            }
            self.out.flush()?;
        }
        Ok(())
    }

    /// Writes the rows that are left; returns the number of columns that did not fit.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub fn end(mut self) -> Result<usize, TableError> {
        if self.fitted.is_none() {
            self.show_kept()?;
        }
        self.out.flush()?;
        Ok(self.fitted.map_or(0, |fitted| fitted.hidden))
    }

    /// Computes the column widths from the rows kept so far, and writes the headings and these rows.
    fn show_kept(&mut self) -> io::Result<()> {
        let kept = std::mem::take(&mut self.kept);
        let fitted = fit(&self.columns, &kept, &self.layout);
        // Headings above nothing would look like a row.
        if !kept.is_empty() {
            let columns = &fitted.columns;
            let headings: Vec<_> = columns.iter().map(|column| (column.heading.clone(), style::HEADING)).collect();
            write_line(&mut self.out, columns, &headings, true)?;
        }
        self.fitted = Some(fitted);
        kept.iter().try_for_each(|row| self.write_row(row))
    }

    /// Writes a row, and before it the day if that is another than before.
    fn write_row(&mut self, row: &[TableCell]) -> io::Result<()> {
        let Some(fitted) = &self.fitted else { return Ok(()) };
        let zone = &self.layout.zone;
        if let Some(TableCell::Moment(moment)) = fitted.days.map(|place| &row[place]) {
            let day = clock::day(*moment, zone);
            if self.day.replace(day) != Some(day) {
                let (faint, zone) = (style::FAINT, MomentForm::of(std::iter::once(*moment), zone).zone(zone));
                writeln!(self.out, "{faint}{day} {zone}{faint:#}")?;
            }
        }
        let cells: Vec<_> = fitted.columns.iter().map(|column| shown(&row[column.place], column.form, zone)).collect();
        write_line(&mut self.out, &fitted.columns, &cells, false)
    }
}

/// Why a table cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The destination cannot be written.
    #[error("cannot write the table")]
    Io(#[from] io::Error),
    /// A value has a type that Arrow cannot write as text.
    #[error(transparent)]
    Value(#[from] ArrowError),
}

fn cell(batch: &RecordBatch, place: usize, kind: ColumnKind, row: usize) -> Result<TableCell, ArrowError> {
    match kind {
        ColumnKind::Moment => {
            if let Some(moment) = column::cell_moment(batch, place, row) {
                return Ok(TableCell::Moment(moment));
            }
        }
        ColumnKind::Number => {
            if let Some(number) = column::cell_number(batch, place, row) {
                return Ok(TableCell::Text(column::short_number(number)));
            }
        }
        ColumnKind::Text | ColumnKind::Integer | ColumnKind::Boolean | ColumnKind::List => {}
    }
    let text = column::cell_text(batch, place, row)?;
    Ok(text.map_or(TableCell::Missing, |text| TableCell::Text(term::sanitize(&text).into_owned())))
}

/// Writes the cells of a line, padded to the widths of their columns.
fn write_line(
    out: &mut impl Write,
    columns: &[FittedColumn],
    cells: &[(String, Style)],
    are_headings: bool,
) -> io::Result<()> {
    // Padding is written before the next cell, so that no spaces end up at the end of the line.
    let mut padding = 0;
    for (column, (text, style)) in columns.iter().zip(cells) {
        // Rows after the first ones may have wider values: numbers, moments and addresses push the rest of the line to the
        // right, texts are cut.
        let is_cut = are_headings || !column.is_whole;
        let text = if is_cut { term::cut(text, column.width) } else { text.into() };
        let free = column.width.saturating_sub(term::text_width(&text));
        if text.is_empty() {
            padding += free + COLUMN_GAP;
            continue;
        }
        let (before, after) = if column.is_right_aligned { (free, 0) } else { (0, free) };
        write!(out, "{:1$}{style}{text}{style:#}", "", padding + before)?;
        padding = after + COLUMN_GAP;
    }
    writeln!(out)
}
