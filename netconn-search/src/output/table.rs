//! The table for people: fits its columns to the terminal, shows local times, and replaces control characters.

use std::{
    collections::HashMap,
    io::{self, Write},
    num::NonZero,
};

use anstyle::Style;
use datafusion::arrow::{array::RecordBatch, error::ArrowError};
use jiff::{Timestamp, tz::TimeZone};
use netconn_model::term::{self, COLUMN_GAP, NARROWEST_COLUMN, style};

use crate::output::{
    column::{self, AnswerColumn, ColumnKind},
    intent::EventRows,
};

/// Number of rows from which the column widths are computed. Later rows are written as they arrive, with these widths.
const ROWS_FITTED: usize = 1000;

/// Text for a missing value.
const MISSING: &str = "-";

/// The columns of events that matter most to people, in this order. Columns without a value in any row are left out.
const EVENT_COLUMNS: [&str; 21] = [
    "event.time",
    "event.type",
    "src.process.name",
    "dst.ip.address",
    "dst.port.number",
    "event.network.direction",
    "event.network.connectionStatus",
    "event.network.protocol",
    "src.process.pid",
    "src.process.user",
    "src.ip.address",
    "src.port.number",
    "event.network.failureReason",
    "event.network.closeReason",
    "event.network.bytesSent",
    "event.network.bytesReceived",
    "event.network.durationMs",
    "loss.stage",
    "loss.count",
    "src.process.cmdline",
    "container.id",
];

/// Number of columns that are shown in live tables even without a value: later events may have one.
const LIVE_COLUMNS: usize = 14;

/// Minimum width of text columns in live tables: `IP Connect`, `192.0.2.10`.
const LIVE_TEXT_WIDTH: usize = 10;

/// Minimum width of moment columns in live tables, which show milliseconds.
const LIVE_TIME_WIDTH: usize = 23;

/// How a table is laid out.
#[derive(Clone, Debug)]
pub struct TableLayout {
    /// Width of the terminal, columns; `None`: nothing is cut.
    pub width: Option<NonZero<usize>>,
    /// `Some` if the rows are events: columns without a value are left out, and the most important columns come first,
    /// together with those that the query adds.
    pub events: Option<EventRows>,
    /// Whether each batch is shown as soon as it arrives.
    pub is_live: bool,
    /// Time zone in which times are shown.
    pub zone: TimeZone,
}

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
    fitted: Option<Vec<FittedColumn>>,
    /// Number of columns that are not shown.
    hidden: usize,
}

/// A value of a row.
#[derive(Clone, Debug)]
enum TableCell {
    Missing,
    Text(String),
    Moment(Timestamp),
}

/// A column that is shown, with its width.
#[derive(Clone, Debug)]
struct FittedColumn {
    /// Index of the column in the rows.
    place: usize,
    heading: String,
    width: usize,
    /// Width of the widest value.
    content: usize,
    is_right_aligned: bool,
    /// Whether values are never cut.
    is_whole: bool,
    precision: TimePrecision,
}

/// The precision with which the moments of a column are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimePrecision {
    Minutes,
    Seconds,
    Milliseconds,
}

impl<W: Write> TableWriter<W> {
    /// Creates a table without rows.
    pub fn new(out: W, columns: Vec<AnswerColumn>, layout: TableLayout) -> Self {
        Self { out, layout, columns, kept: Vec::new(), fitted: None, hidden: 0 }
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
            match &self.fitted {
                // The widths are fixed by now: a stream cannot be laid out twice.
                Some(fitted) => write_row(&mut self.out, fitted, &cells, &self.layout.zone)?,
                None => {
                    self.kept.push(cells);
                    if self.kept.len() >= ROWS_FITTED {
                        self.show_kept()?;
                    }
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
        Ok(self.hidden)
    }

    /// Computes the column widths from the rows kept so far, and writes the headings and these rows.
    fn show_kept(&mut self) -> io::Result<()> {
        let kept = std::mem::take(&mut self.kept);
        let (fitted, hidden) = fit(&self.columns, &kept, &self.layout);
        // Headings above nothing would look like a row.
        if !kept.is_empty() {
            let headings: Vec<_> = fitted.iter().map(|column| (column.heading.clone(), style::HEADING)).collect();
            write_line(&mut self.out, &fitted, &headings)?;
        }
        for row in &kept {
            write_row(&mut self.out, &fitted, row, &self.layout.zone)?;
        }
        self.hidden = hidden;
        self.fitted = Some(fitted);
        Ok(())
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

/// Chooses the columns to show and their widths; returns them and the number of columns left out for lack of room.
fn fit(columns: &[AnswerColumn], rows: &[Vec<TableCell>], layout: &TableLayout) -> (Vec<FittedColumn>, usize) {
    let mut places: Vec<usize> = (0..columns.len()).collect();
    let mut hidden = 0;
    if let Some(events) = &layout.events {
        let rank = |place: &usize| rank(&columns[*place].name, events);
        let is_empty = |place: usize| rows.iter().all(|row| matches!(row[place], TableCell::Missing));
        // In a live table later rows may have values where these have none.
        places.retain(|place| {
            !is_empty(*place) || (layout.is_live && rank(place).is_some_and(|rank| rank < LIVE_COLUMNS))
        });
        places.sort_by_key(|place| rank(place).unwrap_or(usize::MAX));
        let wanted = places.iter().filter(|place| rank(place).is_some()).count();
        // If events of another program have none of these fields, all their columns are kept.
        if layout.width.is_some() && wanted > 0 {
            hidden = places.len() - wanted;
            places.truncate(wanted);
        }
    }
    // All cells of a column get the same precision: the finest that one of them needs.
    let measured = |place: usize| {
        let cells = || rows.iter().map(|row| &row[place]);
        let precision = cells().filter_map(precision).max().unwrap_or(TimePrecision::Minutes);
        let precision = if layout.is_live { TimePrecision::Milliseconds } else { precision };
        let width = cells().map(|cell| term::text_width(&shown(cell, precision, &layout.zone).0)).max().unwrap_or(0);
        let heading = term::sanitize(&columns[place].name).into_owned();
        let kind = columns[place].kind;
        let width = if layout.is_live { width.max(live_width(kind)) } else { width };
        let is_right_aligned = kind.is_right_aligned();
        let is_whole = is_right_aligned || kind == ColumnKind::Moment || layout.width.is_none();
        FittedColumn { place, heading, width, content: width, is_right_aligned, is_whole, precision }
    };
    let mut fitted: Vec<FittedColumn> = places.into_iter().map(measured).collect();
    let Some(limit) = layout.width.map(NonZero::get) else {
        widen_to_headings(&mut fitted);
        return (fitted, 0);
    };
    let full: usize =
        fitted.iter().map(|column| column.width.max(term::text_width(&column.heading)) + COLUMN_GAP).sum();
    // Shorter headings cost no information, so they come before any cut. `full` has a gap behind the last column, which
    // needs none.
    if full > limit + COLUMN_GAP {
        shorten_headings(&mut fitted);
    }
    widen_to_headings(&mut fitted);
    // Columns that cannot fit go first: what they leave is shared by the others.
    hidden += drop_last(&mut fitted, limit);
    shrink(&mut fitted, limit);
    (fitted, hidden)
}

/// Returns the position of a column in a table of events; `None`: it is shown only if nothing has to be cut.
fn rank(name: &str, events: &EventRows) -> Option<usize> {
    let made = || events.made.iter().any(|made| made == name).then_some(1);
    let known = || EVENT_COLUMNS.iter().position(|known| *known == name);
    // First the time (0), then the columns that the query adds (1), then all others.
    made().or_else(|| known().map(|place| if place == 0 { 0 } else { place + 1 }))
}

/// Returns the minimum width of a column in a live table, where the widest value is not known yet.
fn live_width(kind: ColumnKind) -> usize {
    match kind {
        ColumnKind::Text => LIVE_TEXT_WIDTH,
        ColumnKind::Moment => LIVE_TIME_WIDTH,
        ColumnKind::Integer | ColumnKind::Number | ColumnKind::Boolean | ColumnKind::List => 0,
    }
}

fn widen_to_headings(columns: &mut [FittedColumn]) {
    for column in columns {
        column.width = column.width.max(term::text_width(&column.heading));
    }
}

/// Shortens the names of well-known fields, unless two headings would become equal.
fn shorten_headings(columns: &mut [FittedColumn]) {
    let short: Vec<String> = columns.iter().map(|column| short_name(&column.heading)).collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for name in short.iter().map(String::as_str).chain(columns.iter().map(|column| column.heading.as_str())) {
        *uses.entry(name).or_default() += 1;
    }
    // Long and short names are counted together, so that a short name cannot equal the full name of another column. A
    // name that has no short form counts twice and stays.
    let is_unique: Vec<bool> = short.iter().map(|name| uses.get(name.as_str()) == Some(&1)).collect();
    for ((column, short), _) in columns.iter_mut().zip(short).zip(is_unique).filter(|(_, is_unique)| *is_unique) {
        column.heading = short;
    }
}

/// Returns the short form of a name: `event.network.direction` becomes `direction`, `dst.ip.address` becomes `dst.ip`,
/// and `src.process.name` becomes `process.name`.
fn short_name(name: &str) -> String {
    let name = name.strip_prefix("event.network.").or_else(|| name.strip_prefix("event.")).unwrap_or(name);
    let name = if name.starts_with("src.process.") { &name["src.".len()..] } else { name };
    let name = name.strip_suffix(".address").filter(|name| name.ends_with(".ip")).unwrap_or(name);
    name.strip_suffix(".number").filter(|name| name.ends_with(".port")).unwrap_or(name).to_owned()
}

/// Removes the last columns for which there is no room even with all others at their narrowest; returns their number.
fn drop_last(columns: &mut Vec<FittedColumn>, limit: usize) -> usize {
    let mut used = 0;
    let room = columns.iter().take_while(|column| {
        let gap = if used == 0 { 0 } else { COLUMN_GAP };
        used += gap + narrowest(column);
        used <= limit
    });
    // One column is shown even if it is wider than the terminal.
    let room = room.count().max(1);
    let hidden = columns.len().saturating_sub(room);
    columns.truncate(room);
    hidden
}

/// Returns the width below which a column is not cut. Numbers and moments are never cut: a part of a number is another
/// number.
fn narrowest(column: &FittedColumn) -> usize {
    if column.is_whole { column.width } else { column.width.min(NARROWEST_COLUMN) }
}

/// Narrows columns until all fit: first those whose heading is wider than their values, then the widest.
fn shrink(columns: &mut [FittedColumn], limit: usize) {
    let gaps = COLUMN_GAP * columns.len().saturating_sub(1);
    let total: usize = columns.iter().map(|column| column.width).sum();
    let mut excess = (total + gaps).saturating_sub(limit);
    while excess > 0 {
        let widest = columns
            .iter_mut()
            .filter(|column| column.width > narrowest(column))
            .max_by_key(|column| (column.width > column.content, column.width));
        // Each turn narrows one column by one, so the loop ends; whole columns may still exceed the limit.
        let Some(widest) = widest else { break };
        widest.width -= 1;
        excess -= 1;
    }
}

/// Writes a row.
fn write_row(out: &mut impl Write, columns: &[FittedColumn], row: &[TableCell], zone: &TimeZone) -> io::Result<()> {
    let cells: Vec<_> = columns.iter().map(|column| shown(&row[column.place], column.precision, zone)).collect();
    write_line(out, columns, &cells)
}

/// Writes the cells of a line, padded to the widths of their columns.
fn write_line(out: &mut impl Write, columns: &[FittedColumn], cells: &[(String, Style)]) -> io::Result<()> {
    // Padding is written before the next cell, so that no spaces end up at the end of the line.
    let mut padding = 0;
    for (column, (text, style)) in columns.iter().zip(cells) {
        // Rows after the first ones may have wider values: numbers and moments push the rest of the line to the right,
        // texts are cut.
        let text = if column.is_whole { text.into() } else { term::cut(text, column.width) };
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

/// Returns the text of a value, and its style.
fn shown(cell: &TableCell, precision: TimePrecision, zone: &TimeZone) -> (String, Style) {
    match cell {
        TableCell::Missing => (MISSING.into(), style::FAINT),
        TableCell::Text(text) => {
            let style = match text.as_str() {
                "FAILURE" | "BLOCKED" | "Data Loss" => style::BAD,
                _ => Style::new(),
            };
            (text.clone(), style)
        }
        TableCell::Moment(moment) => (moment_text(*moment, precision, zone), Style::new()),
    }
}

fn moment_text(moment: Timestamp, precision: TimePrecision, zone: &TimeZone) -> String {
    let form = match precision {
        TimePrecision::Minutes => "%Y-%m-%d %H:%M",
        TimePrecision::Seconds => "%Y-%m-%d %H:%M:%S",
        TimePrecision::Milliseconds => "%Y-%m-%d %H:%M:%S%.3f",
    };
    moment.to_zoned(zone.clone()).strftime(form).to_string()
}

/// Returns the precision that a moment needs; `None` for other values.
fn precision(cell: &TableCell) -> Option<TimePrecision> {
    let TableCell::Moment(moment) = cell else { return None };
    Some(if moment.subsec_nanosecond() != 0 {
        TimePrecision::Milliseconds
    } else if moment.as_second() % 60 != 0 {
        TimePrecision::Seconds
    } else {
        TimePrecision::Minutes
    })
}

/// Formats the beginning of a time bucket for people.
pub(super) fn bucket_text(moment: Timestamp, zone: &TimeZone) -> String {
    moment_text(moment, precision(&TableCell::Moment(moment)).unwrap_or(TimePrecision::Seconds), zone)
}
