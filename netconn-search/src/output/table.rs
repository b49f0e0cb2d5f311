//! The table for people: columns that fit the terminal, times in local time, nothing that could harm the terminal.

use std::{
    collections::HashMap,
    io::{self, Write},
    num::NonZero,
};

use anstyle::Style;
use datafusion::arrow::{array::RecordBatch, error::ArrowError};
use jiff::{Timestamp, tz::TimeZone};
use netconn_model::term::{self, style};

use crate::output::{
    column::{self, AnswerColumn, ColumnKind},
    intent::EventRows,
};

/// Rows that are kept to fit the columns to them. If there are more, the table goes on with what comes.
const ROWS_FITTED: usize = 1000;

/// No column is cut below this.
const NARROWEST: usize = 8;

/// Between two columns.
const GAP: usize = 2;

/// What is shown where there is no value.
const NOTHING: &str = "-";

/// What people want to see of events first, in this order. What has no value in any of the rows is left out.
const OF_EVENTS: [&str; 21] = [
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

/// Columns up to this rank are shown while events come, with a value or without.
const LIVE: usize = 14;

/// Width of texts while events come, at least: `IP Connect`, `192.0.2.10`; longer ones widen their line.
const LIVE_WIDTH: usize = 10;

/// The same of moments, with milliseconds.
const LIVE_TIME_WIDTH: usize = 23;

/// How a table is laid out.
#[derive(Clone, Debug)]
pub struct TableLayout {
    /// The terminal's width; `None`: nothing is cut.
    pub width: Option<NonZero<usize>>,
    /// The rows are events: columns without any value are left out, and what people want to know comes first, with the columns
    /// that the query has made.
    pub events: Option<EventRows>,
    /// Each batch is shown when it comes.
    pub is_live: bool,
    /// Where the clock is.
    pub zone: TimeZone,
}

/// Writes rows as a table.
#[derive(Debug)]
pub struct TableWriter<W> {
    out: W,
    layout: TableLayout,
    columns: Vec<AnswerColumn>,
    /// The first rows, until the columns have been fitted to them.
    kept: Vec<Vec<TableCell>>,
    fitted: Option<Vec<FittedColumn>>,
    hidden: usize,
}

/// A value that is to be shown.
#[derive(Clone, Debug)]
enum TableCell {
    Nothing,
    Text(String),
    Moment(Timestamp),
}

/// A column that is shown.
#[derive(Clone, Debug)]
struct FittedColumn {
    /// Its place in the rows.
    place: usize,
    heading: String,
    width: usize,
    /// Width of the widest value.
    content: usize,
    is_right: bool,
    /// Its values must not be cut.
    is_whole: bool,
    precision: TimePrecision,
}

/// How exactly the moments of a column are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimePrecision {
    Minutes,
    Seconds,
    Milliseconds,
}

impl<W: Write> TableWriter<W> {
    /// A table without rows yet.
    pub fn new(out: W, columns: Vec<AnswerColumn>, layout: TableLayout) -> Self {
        Self { out, layout, columns, kept: Vec::new(), fitted: None, hidden: 0 }
    }

    /// Takes some rows.
    ///
    /// # Errors
    ///
    /// When they cannot be written, or a value is of a type that has no text.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        for row in 0..batch.num_rows() {
            let cells = (0..self.columns.len()).map(|column| cell(batch, column, self.columns[column].kind, row));
            let cells = cells.collect::<Result<Vec<_>, _>>()?;
            match &self.fitted {
                Some(fitted) => line(&mut self.out, fitted, &cells, &self.layout.zone)?,
                None => {
                    self.kept.push(cells);
                    if self.kept.len() >= ROWS_FITTED {
                        self.show_kept()?;
                    }
                }
            }
        }
        if self.layout.is_live {
            if self.fitted.is_none() && !self.kept.is_empty() {
                self.show_kept()?;
            }
            self.out.flush()?;
        }
        Ok(())
    }

    /// Shows what is left; gives how many columns did not fit.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn end(mut self) -> Result<usize, TableError> {
        if self.fitted.is_none() {
            self.show_kept()?;
        }
        self.out.flush()?;
        Ok(self.hidden)
    }

    fn show_kept(&mut self) -> io::Result<()> {
        let kept = std::mem::take(&mut self.kept);
        let (fitted, hidden) = fit(&self.columns, &kept, &self.layout);
        if !kept.is_empty() {
            let headings: Vec<_> = fitted.iter().map(|column| (column.heading.clone(), style::HEADING)).collect();
            write_line(&mut self.out, &fitted, &headings)?;
        }
        for row in &kept {
            line(&mut self.out, &fitted, row, &self.layout.zone)?;
        }
        self.hidden = hidden;
        self.fitted = Some(fitted);
        Ok(())
    }
}

/// Why a table cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be written.
    #[error("cannot write the table")]
    Io(#[from] io::Error),
    /// A value has no text.
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
    Ok(text.map_or(TableCell::Nothing, |text| TableCell::Text(term::sanitize(&text).into_owned())))
}

/// Which columns are shown, and how wide; and how many are not because there is no room for them.
fn fit(columns: &[AnswerColumn], rows: &[Vec<TableCell>], layout: &TableLayout) -> (Vec<FittedColumn>, usize) {
    let mut places: Vec<usize> = (0..columns.len()).collect();
    let mut hidden = 0;
    if let Some(events) = &layout.events {
        let rank = |place: &usize| rank(&columns[*place].name, events);
        let is_empty = |place: usize| rows.iter().all(|row| matches!(row[place], TableCell::Nothing));
        // What comes later may have what these rows have not.
        places.retain(|place| !is_empty(*place) || (layout.is_live && rank(place).is_some_and(|rank| rank < LIVE)));
        places.sort_by_key(|place| rank(place).unwrap_or(usize::MAX));
        let wanted = places.iter().filter(|place| rank(place).is_some()).count();
        // Events of somebody else's may have none of these fields.
        if layout.width.is_some() && wanted > 0 {
            hidden = places.len() - wanted;
            places.truncate(wanted);
        }
    }
    let measured = |place: usize| {
        let cells = || rows.iter().map(|row| &row[place]);
        let precision = cells().filter_map(precision).max().unwrap_or(TimePrecision::Minutes);
        let precision = if layout.is_live { TimePrecision::Milliseconds } else { precision };
        let width = cells().map(|cell| term::text_width(&shown(cell, precision, &layout.zone).0)).max().unwrap_or(0);
        let heading = term::sanitize(&columns[place].name).into_owned();
        let kind = columns[place].kind;
        let width = if layout.is_live { width.max(live_width(kind)) } else { width };
        let is_right = kind.is_right();
        let is_whole = is_right || kind == ColumnKind::Moment || layout.width.is_none();
        FittedColumn { place, heading, width, content: width, is_right, is_whole, precision }
    };
    let mut fitted: Vec<FittedColumn> = places.into_iter().map(measured).collect();
    let Some(limit) = layout.width.map(NonZero::get) else {
        widen_to_headings(&mut fitted);
        return (fitted, 0);
    };
    let full: usize = fitted.iter().map(|column| column.width.max(term::text_width(&column.heading)) + GAP).sum();
    if full > limit + GAP {
        shorten_headings(&mut fitted);
    }
    widen_to_headings(&mut fitted);
    hidden += drop_last(&mut fitted, limit);
    shrink(&mut fitted, limit);
    (fitted, hidden)
}

/// The place of a column of events in a table; `None`: it is shown only when there is room for everything.
fn rank(name: &str, events: &EventRows) -> Option<usize> {
    let made = || events.made.iter().any(|made| made == name).then_some(1);
    let known = || OF_EVENTS.iter().position(|known| *known == name);
    // The time stands before what was made, which stands before everything else.
    made().or_else(|| known().map(|place| if place == 0 { 0 } else { place + 1 }))
}

/// Width of a column for what is still to come.
fn live_width(kind: ColumnKind) -> usize {
    match kind {
        ColumnKind::Text => LIVE_WIDTH,
        ColumnKind::Moment => LIVE_TIME_WIDTH,
        ColumnKind::Integer | ColumnKind::Number | ColumnKind::Boolean | ColumnKind::List => 0,
    }
}

fn widen_to_headings(columns: &mut [FittedColumn]) {
    for column in columns {
        column.width = column.width.max(term::text_width(&column.heading));
    }
}

/// Leaves out what everybody knows of the names of fields, as long as no two become the same.
fn shorten_headings(columns: &mut [FittedColumn]) {
    let short: Vec<String> = columns.iter().map(|column| short_name(&column.heading)).collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for name in short.iter().map(String::as_str).chain(columns.iter().map(|column| column.heading.as_str())) {
        *uses.entry(name).or_default() += 1;
    }
    // A name that cannot be shortened is there twice: as it was and as it is.
    let is_unique: Vec<bool> = short.iter().map(|name| uses.get(name.as_str()) == Some(&1)).collect();
    for ((column, short), _) in columns.iter_mut().zip(short).zip(is_unique).filter(|(_, is_unique)| *is_unique) {
        column.heading = short;
    }
}

/// `event.network.direction` as `direction`, `dst.ip.address` as `dst.ip`, `src.process.name` as `process.name`.
fn short_name(name: &str) -> String {
    let name = name.strip_prefix("event.network.").or_else(|| name.strip_prefix("event.")).unwrap_or(name);
    let name = if name.starts_with("src.process.") { &name["src.".len()..] } else { name };
    let name = name.strip_suffix(".address").filter(|name| name.ends_with(".ip")).unwrap_or(name);
    name.strip_suffix(".number").filter(|name| name.ends_with(".port")).unwrap_or(name).to_owned()
}

/// Leaves out the last columns that have no room even if all others are as narrow as they may be; gives how many.
fn drop_last(columns: &mut Vec<FittedColumn>, limit: usize) -> usize {
    let mut used = 0;
    let room = columns.iter().take_while(|column| {
        let gap = if used == 0 { 0 } else { GAP };
        used += gap + narrowest(column);
        used <= limit
    });
    let room = room.count().max(1);
    let hidden = columns.len().saturating_sub(room);
    columns.truncate(room);
    hidden
}

/// Numbers and moments are not cut: a part of a number is another number.
fn narrowest(column: &FittedColumn) -> usize {
    if column.is_whole { column.width } else { column.width.min(NARROWEST) }
}

/// Cuts headings that are wider than what is below them, then the widest columns, until all fit.
fn shrink(columns: &mut [FittedColumn], limit: usize) {
    let gaps = GAP * columns.len().saturating_sub(1);
    let total: usize = columns.iter().map(|column| column.width).sum();
    let mut excess = (total + gaps).saturating_sub(limit);
    while excess > 0 {
        let widest = columns
            .iter_mut()
            .filter(|column| column.width > narrowest(column))
            .max_by_key(|column| (column.width > column.content, column.width));
        let Some(widest) = widest else { break };
        widest.width -= 1;
        excess -= 1;
    }
}

fn line(out: &mut impl Write, columns: &[FittedColumn], row: &[TableCell], zone: &TimeZone) -> io::Result<()> {
    let cells: Vec<_> = columns.iter().map(|column| shown(&row[column.place], column.precision, zone)).collect();
    write_line(out, columns, &cells)
}

fn write_line(out: &mut impl Write, columns: &[FittedColumn], cells: &[(String, Style)]) -> io::Result<()> {
    // Spaces are written before what follows them: none stand at the end of a line.
    let mut padding = 0;
    for (column, (text, style)) in columns.iter().zip(cells) {
        // Rows that came after the fitting may be wider: numbers and times push the others, texts are cut.
        let text = if column.is_whole { text.into() } else { term::cut(text, column.width) };
        let free = column.width.saturating_sub(term::text_width(&text));
        if text.is_empty() {
            padding += free + GAP;
            continue;
        }
        let (before, after) = if column.is_right { (free, 0) } else { (0, free) };
        write!(out, "{:1$}{style}{text}{style:#}", "", padding + before)?;
        padding = after + GAP;
    }
    writeln!(out)
}

fn shown(cell: &TableCell, precision: TimePrecision, zone: &TimeZone) -> (String, Style) {
    match cell {
        TableCell::Nothing => (NOTHING.into(), style::FAINT),
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

/// How exactly a moment has to be shown; `None`: it is none.
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

/// A moment of a bucket for people.
pub(super) fn bucket(moment: Timestamp, zone: &TimeZone) -> String {
    moment_text(moment, precision(&TableCell::Moment(moment)).unwrap_or(TimePrecision::Seconds), zone)
}
