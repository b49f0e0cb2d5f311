//! Chooses the columns of a table and their widths.

use std::{collections::HashMap, num::NonZero};

use anstyle::Style;
use jiff::{Timestamp, tz::TimeZone};
use netconn_model::term::{self, COLUMN_GAP, NARROWEST_COLUMN, style};
use netconn_query::{address, short};

use crate::output::{
    clock::{self, MomentForm, TimePrecision},
    column::{AnswerColumn, ColumnKind},
    intent::EventRows,
};

/// The columns of events that matter most to people, in this order. Columns without a value in any row are left out.
const EVENT_COLUMNS: [&str; 22] = [
    "event.time",
    "src.process.name",
    "event.network.direction",
    "remote.ip.address",
    "dst.port.number",
    "event.network.connectionStatus",
    "event.network.bytesSent",
    "event.network.bytesReceived",
    "event.type",
    "event.network.protocol",
    "event.network.failureReason",
    "event.network.closeReason",
    "src.process.pid",
    "src.process.user",
    "remote.port.number",
    "local.ip.address",
    "local.port.number",
    "event.network.durationMs",
    "loss.stage",
    "loss.count",
    "src.process.cmdline",
    "container.id",
];

/// Events of other programs may have the ends of a connection by role only.
const BY_ROLE: [&str; 2] = ["dst.ip.address", "src.ip.address"];

/// What a hunter looks at first: whole before anything else gets room, the most important first. In a narrow terminal the last of
/// them are left out.
const FIRST: [&str; 10] = [
    "event.time",
    "remote.ip.address",
    "dst.ip.address",
    "src.process.name",
    "dst.port.number",
    "event.network.direction",
    "event.network.connectionStatus",
    "event.network.bytesSent",
    "event.network.bytesReceived",
    "event.type",
];

/// Number of columns that are shown in live tables even without a value: later events may have one.
const LIVE_COLUMNS: usize = 14;

/// Minimum width of text columns in live tables: `IP Connect`.
const LIVE_TEXT_WIDTH: usize = 10;

/// Minimum width of addresses (`192.168.100.200`) and names of processes (15 bytes) in live tables.
const LIVE_NAME_WIDTH: usize = 15;

/// Minimum width of moment columns in live tables, which show milliseconds.
const LIVE_TIME_WIDTH: usize = 23;

/// Text for a missing value.
const MISSING: &str = "-";

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

/// A value of a row.
#[derive(Clone, Debug)]
pub(super) enum TableCell {
    Missing,
    Text(String),
    Moment(Timestamp),
}

/// A column that is shown, with its width.
#[derive(Clone, Debug)]
pub(super) struct FittedColumn {
    /// Index of the column in the rows.
    pub(super) place: usize,
    pub(super) heading: String,
    pub(super) width: usize,
    /// Width of the widest value.
    content: usize,
    /// Width below which it is not cut.
    least: usize,
    pub(super) is_right_aligned: bool,
    /// Whether values are never cut.
    pub(super) is_whole: bool,
    /// How its moments are written.
    pub(super) form: MomentForm,
}

/// The columns of a table.
#[derive(Clone, Debug)]
pub(super) struct Fitted {
    pub(super) columns: Vec<FittedColumn>,
    /// Number of columns left out for lack of room.
    pub(super) hidden: usize,
    /// Index in the rows of the moments whose day is told in lines between the rows.
    pub(super) days: Option<usize>,
}

/// Chooses the columns to show and their widths.
pub(super) fn fit(columns: &[AnswerColumn], rows: &[Vec<TableCell>], layout: &TableLayout) -> Fitted {
    let limit = layout.width.map(NonZero::get);
    let measured = |place: usize| measured(place, &columns[place], rows, layout);
    let Some(events) = &layout.events else {
        let mut fitted: Vec<FittedColumn> = (0..columns.len()).map(measured).collect();
        let Some(limit) = limit else {
            fitted.iter_mut().for_each(widen_to_heading);
            return Fitted { columns: fitted, hidden: 0, days: None };
        };
        // Shorter headings cost no information, so they come before any cut.
        if full_width(&fitted) > limit {
            shorten_headings(&mut fitted);
        }
        fitted.iter_mut().for_each(widen_to_heading);
        // Columns that cannot fit go first: what they leave is shared by the others.
        let hidden = drop_last(&mut fitted, limit);
        shrink(&mut fitted, limit);
        return Fitted { columns: fitted, hidden, days: None };
    };
    let (places, unwanted) = event_places(columns, rows, layout, events);
    let mut fitted: Vec<FittedColumn> = places.into_iter().map(measured).collect();
    match limit {
        None => {
            fitted.iter_mut().for_each(widen_to_heading);
            Fitted { columns: fitted, hidden: 0, days: None }
        }
        Some(limit) => {
            let mut fitted = fit_events(columns, fitted, rows, layout, limit);
            fitted.hidden += unwanted;
            fitted
        }
    }
}

/// Returns the columns of events in their order, and the number of those that are left out because others matter more.
fn event_places(
    columns: &[AnswerColumn],
    rows: &[Vec<TableCell>],
    layout: &TableLayout,
    events: &EventRows,
) -> (Vec<usize>, usize) {
    let is_empty = |place: usize| rows.iter().all(|row| matches!(row[place], TableCell::Missing));
    let has_remote = columns.iter().position(|column| column.name == FIRST[1]).is_some_and(|place| !is_empty(place));
    let rank = |place: &usize| rank(&columns[*place].name, events, has_remote);
    let mut places: Vec<usize> = (0..columns.len()).collect();
    // In a live table later rows may have values where these have none.
    places
        .retain(|place| !is_empty(*place) || (layout.is_live && rank(place).is_some_and(|rank| rank <= LIVE_COLUMNS)));
    places.sort_by_key(|place| rank(place).unwrap_or(usize::MAX));
    let wanted = places.iter().filter(|place| rank(place).is_some()).count();
    // If events of another program have none of these fields, all their columns are kept.
    if layout.width.is_none() || wanted == 0 {
        return (places, 0);
    }
    let unwanted = places.len() - wanted;
    places.truncate(wanted);
    (places, unwanted)
}

/// Returns the position of a column in a table of events; `None`: it is shown only if nothing has to be cut.
fn rank(name: &str, events: &EventRows, has_remote: bool) -> Option<usize> {
    // First the time (0), then the columns that the query adds (1), then all others.
    if events.made.iter().any(|made| made == name) {
        return Some(1);
    }
    // In the place of the other end.
    let name = if !has_remote && BY_ROLE.contains(&name) { FIRST[1] } else { name };
    EVENT_COLUMNS.iter().position(|known| *known == name).map(|place| if place == 0 { 0 } else { place + 1 })
}

/// Fits columns of events into a terminal: what is looked at first is whole, or left out.
fn fit_events(
    columns: &[AnswerColumn],
    mut fitted: Vec<FittedColumn>,
    rows: &[Vec<TableCell>],
    layout: &TableLayout,
    limit: usize,
) -> Fitted {
    if full_width(&fitted) > limit {
        shorten_headings(&mut fitted);
    }
    let priority = |column: &FittedColumn| FIRST.iter().position(|first| *first == columns[column.place].name);
    let first_width = |fitted: &[FittedColumn]| {
        let first = fitted.iter().filter(|column| priority(column).is_some());
        full_width(&first.cloned().collect::<Vec<_>>())
    };
    let times = fitted.iter().position(|column| columns[column.place].name == FIRST[0]);
    let mut days = None;
    if let Some(time) = times.filter(|_| first_width(&fitted) > limit) {
        // Fractions of a second are the first to go, unless events are watched as they come; then the day goes into a line of its own.
        if fitted[time].form.precision == TimePrecision::Milliseconds && !layout.is_live {
            fitted[time].form.precision = TimePrecision::Seconds;
            measure_moments(&mut fitted[time], rows, &layout.zone);
        }
        let place = fitted[time].place;
        if first_width(&fitted) > limit && (layout.is_live || is_one_day(place, rows, &layout.zone)) {
            let column = &mut fitted[time];
            column.form.has_date = false;
            column.heading = heading_name(&column.heading).to_owned();
            measure_moments(column, rows, &layout.zone);
            days = Some(place);
        }
    }
    fitted.iter_mut().for_each(widen_to_heading);
    for column in &mut fitted {
        // The names in headings can be typed back.
        column.least = if priority(column).is_some() || column.is_whole {
            column.width
        } else {
            column.width.min(NARROWEST_COLUMN).max(term::text_width(&column.heading))
        };
    }
    // Those that the query adds come right behind what is looked at first.
    let mut order: Vec<usize> = (0..fitted.len()).collect();
    order.sort_by_key(|index| (priority(&fitted[*index]).unwrap_or(FIRST.len()), *index));
    let (mut used, mut kept) = (0, vec![false; fitted.len()]);
    for index in order {
        let needed = fitted[index].least + if used == 0 { 0 } else { COLUMN_GAP };
        // One column is shown even if it is wider than the terminal.
        if used == 0 || used + needed <= limit {
            used += needed;
            kept[index] = true;
        } else if priority(&fitted[index]).is_none() {
            // Further ones would be chosen by their width only.
            break;
        }
    }
    let all = fitted.len();
    let mut kept = kept.into_iter();
    fitted.retain(|_| kept.next().unwrap_or(false));
    let hidden = all - fitted.len();
    shrink(&mut fitted, limit);
    Fitted { columns: fitted, hidden, days }
}

fn is_one_day(place: usize, rows: &[Vec<TableCell>], zone: &TimeZone) -> bool {
    let mut days = moments(place, rows).map(|moment| clock::day(moment, zone));
    let first = days.next();
    days.all(|day| Some(day) == first)
}

fn moments(place: usize, rows: &[Vec<TableCell>]) -> impl Iterator<Item = Timestamp> + Clone {
    rows.iter().filter_map(move |row| match &row[place] {
        TableCell::Moment(moment) => Some(*moment),
        _ => None,
    })
}

/// Measures a column.
fn measured(place: usize, column: &AnswerColumn, rows: &[Vec<TableCell>], layout: &TableLayout) -> FittedColumn {
    let mut form = MomentForm::of(moments(place, rows), &layout.zone);
    if layout.is_live {
        form.precision = TimePrecision::Milliseconds;
    }
    let mut heading = term::sanitize(&column.name).into_owned();
    if column.kind == ColumnKind::Moment {
        heading = format!("{heading} {}", form.zone(&layout.zone));
    }
    let width = rows.iter().map(|row| term::text_width(&shown(&row[place], form, &layout.zone).0)).max().unwrap_or(0);
    let width = if layout.is_live { width.max(live_width(column)) } else { width };
    let is_right_aligned = column.kind.is_right_aligned();
    // A part of a number or of an address is another number or address.
    let is_whole = is_right_aligned
        || column.kind == ColumnKind::Moment
        || address::is_field(&column.name)
        || layout.width.is_none();
    let least = if is_whole { width } else { width.min(NARROWEST_COLUMN) };
    FittedColumn { place, heading, width, content: width, least, is_right_aligned, is_whole, form }
}

/// Measures a column of moments again, whose form has changed.
fn measure_moments(column: &mut FittedColumn, rows: &[Vec<TableCell>], zone: &TimeZone) {
    let widths = rows.iter().map(|row| term::text_width(&shown(&row[column.place], column.form, zone).0));
    column.width = widths.max().unwrap_or(0);
    column.content = column.width;
}

/// Returns the minimum width of a column in a live table, where the widest value is not known yet.
fn live_width(column: &AnswerColumn) -> usize {
    match column.kind {
        ColumnKind::Text if address::is_field(&column.name) || column.name == FIRST[3] => LIVE_NAME_WIDTH,
        ColumnKind::Text => LIVE_TEXT_WIDTH,
        ColumnKind::Moment => LIVE_TIME_WIDTH,
        ColumnKind::Integer | ColumnKind::Number | ColumnKind::Boolean | ColumnKind::List => 0,
    }
}

/// Returns the width of these columns, none of them cut.
fn full_width(columns: &[FittedColumn]) -> usize {
    let widths = columns.iter().map(|column| column.width.max(term::text_width(&column.heading)));
    widths.sum::<usize>() + COLUMN_GAP * columns.len().saturating_sub(1)
}

fn widen_to_heading(column: &mut FittedColumn) {
    column.width = column.width.max(term::text_width(&column.heading));
}

/// Returns the name in a heading; behind it may be a zone.
fn heading_name(heading: &str) -> &str {
    heading.split_once(' ').map_or(heading, |(name, _)| name)
}

/// Shortens the names of well-known fields, unless two headings would become equal.
fn shorten_headings(columns: &mut [FittedColumn]) {
    let short: Vec<String> = columns
        .iter()
        .map(|column| {
            let name = heading_name(&column.heading);
            format!("{}{}", short::short(name), &column.heading[name.len()..])
        })
        .collect();
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

/// Removes the last columns for which there is no room even with all others at their narrowest; returns their number.
fn drop_last(columns: &mut Vec<FittedColumn>, limit: usize) -> usize {
    let mut used = 0;
    let room = columns.iter().take_while(|column| {
        let gap = if used == 0 { 0 } else { COLUMN_GAP };
        used += gap + column.least;
        used <= limit
    });
    // One column is shown even if it is wider than the terminal.
    let room = room.count().max(1);
    let hidden = columns.len().saturating_sub(room);
    columns.truncate(room);
    hidden
}

/// Narrows columns until all fit: first those whose heading is wider than their values, then the widest.
fn shrink(columns: &mut [FittedColumn], limit: usize) {
    let gaps = COLUMN_GAP * columns.len().saturating_sub(1);
    let total: usize = columns.iter().map(|column| column.width).sum();
    let mut excess = (total + gaps).saturating_sub(limit);
    while excess > 0 {
        let widest = columns
            .iter_mut()
            .filter(|column| column.width > column.least)
            .max_by_key(|column| (column.width > column.content, column.width));
        // Each turn narrows one column by one, so the loop ends; whole columns may still exceed the limit.
        let Some(widest) = widest else { break };
        widest.width -= 1;
        excess -= 1;
    }
}

/// Returns the text of a value, and its style.
pub(super) fn shown(cell: &TableCell, form: MomentForm, zone: &TimeZone) -> (String, Style) {
    match cell {
        TableCell::Missing => (MISSING.into(), style::FAINT),
        TableCell::Text(text) => {
            let style = match text.as_str() {
                "FAILURE" | "BLOCKED" | "Data Loss" => style::BAD,
                _ => Style::new(),
            };
            (text.clone(), style)
        }
        TableCell::Moment(moment) => (form.text(*moment, zone), Style::new()),
    }
}
