//! A bar chart for the terminal: one bar for each row of a group over time or of a top list. A group over time with a second key
//! has one bar for each time, with a part for each value of that key.

use std::{
    io::{self, Write},
    num::NonZero,
};

use datafusion::arrow::{array::RecordBatch, error::ArrowError};
use jiff::{Timestamp, tz::TimeZone};
use netconn_model::term::{self, style};
use thiserror::Error;

use crate::output::{
    clock::MomentForm,
    column::{self, AnswerColumn, ColumnKind},
    intent::AnswerIntent,
    series::{BAR_MIN, EMPTY_SHOWN, LABEL_DIVISOR, SeriesChart},
};

/// Width if the output is not a terminal, columns.
const WIDTH: usize = 80;

/// Most bars of a chart.
const BARS_MAX: usize = 2000;

/// The last character of a bar, by eighths of its width.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Why there is no chart.
#[derive(Debug, Error)]
pub enum ChartError {
    /// The rows have no column of numbers.
    #[error("a chart needs a column with numbers: use `group … by timebucket('10m')` or `top 10 count() by …`")]
    NoNumbers,
    /// The rows are events, which have not been aggregated.
    #[error(
        "events cannot be drawn, only aggregates of them: use `group … by timebucket('10m')` or `top 10 count() by …`"
    )]
    Events,
    /// The rows have no column that could name the bars.
    #[error("a chart needs a column to draw over: use `group … by timebucket('10m')` or `top 10 count() by …`")]
    NoNames,
    /// There are more rows than a chart can show.
    #[error("a chart can have at most {BARS_MAX} bars: use a longer timebucket, or `| limit`")]
    TooMany,
    /// The destination cannot be written.
    #[error("cannot write the chart")]
    Io(#[from] io::Error),
    /// A value has a type that Arrow cannot write as text.
    #[error(transparent)]
    Value(#[from] ArrowError),
}

/// Draws rows as bars. The keys name a bar, and the first column of numbers that is not a key gives its length.
#[derive(Debug)]
pub struct BarChart<W> {
    out: W,
    width: usize,
    zone: TimeZone,
    /// Indexes of the columns that name a bar, and whether these are moments.
    names: Vec<(usize, bool)>,
    /// The other keys of a chart over time: their values are the parts of each bar.
    series: Vec<usize>,
    /// Index of the column of moments, if it is the only one that names a bar: the chart then runs over time.
    moments: Option<usize>,
    /// Length of a time bucket, milliseconds, if the query fixes it.
    bucket: Option<i64>,
    /// The value of a bucket without rows: 0 for counts and sums, nothing for averages.
    empty_value: Option<f64>,
    /// Indexes of the columns of numbers, with their names if there are several.
    values: Vec<(usize, Option<String>)>,
    heading: String,
    bars: Vec<ChartBar>,
}

#[derive(Debug)]
struct ChartBar {
    moment: Option<Timestamp>,
    names: Vec<NamePart>,
    /// The part of the bar; `None` for a bucket without rows.
    series: Option<String>,
    /// `None`: no bar is drawn.
    value: Option<f64>,
}

/// A part of the name of a bar.
#[derive(Clone, Debug)]
enum NamePart {
    Text(String),
    Moment(Timestamp),
}

impl<W: Write> BarChart<W> {
    /// Creates a chart for rows with these columns.
    ///
    /// # Errors
    ///
    /// No column can be drawn, or none can name the bars.
    pub fn new(
        out: W,
        columns: &[AnswerColumn],
        intent: &AnswerIntent,
        width: Option<NonZero<usize>>,
        zone: TimeZone,
    ) -> Result<Self, ChartError> {
        let keys = &intent.keys;
        let is_key = |column: &AnswerColumn| keys.contains(&column.name);
        let is_number = |column: &AnswerColumn| matches!(column.kind, ColumnKind::Integer | ColumnKind::Number);
        let values = columns.iter().position(|column| is_number(column) && !is_key(column));
        let values = values.ok_or(ChartError::NoNumbers)?;
        // Without keys all columns that are not numbers name a bar.
        let is_name = |column: &AnswerColumn| if keys.is_empty() { !is_number(column) } else { is_key(column) };
        let names: Vec<usize> = (0..columns.len()).filter(|place| is_name(&columns[*place])).collect();
        if names.is_empty() {
            return Err(ChartError::NoNames);
        }
        let is_moment = |place: &usize| columns[*place].kind == ColumnKind::Moment;
        let empty_value = (!intent.averages.contains(&columns[values].name)).then_some(0.0);
        // Parts of a bar add up, which averages do not.
        let is_divided =
            empty_value.is_some() && names.len() > 1 && names.iter().filter(|place| is_moment(place)).count() == 1;
        let (names, series): (Vec<usize>, Vec<usize>) =
            names.into_iter().partition(|place| !is_divided || is_moment(place));
        let moments = (names.len() == 1 && is_moment(&names[0])).then_some(names[0]);
        let name = |place: &usize| term::sanitize(&columns[*place].name).into_owned();
        let listed = |places: &[usize]| places.iter().map(name).collect::<Vec<_>>().join(", ");
        // Each column that `transpose` has made is a series.
        let numbers: Vec<usize> = (0..columns.len()).filter(|place| is_number(&columns[*place])).collect();
        let values = match keys.is_empty() && numbers.len() > 1 {
            true => numbers.iter().map(|place| (*place, Some(name(place)))).collect(),
            false => vec![(values, None)],
        };
        let drawn: Vec<usize> = values.iter().map(|(place, _)| *place).collect();
        let mut heading = format!("{} by {}", listed(&drawn), listed(&[names.clone(), series.clone()].concat()));
        let is_left = |place: &usize| !is_key(&columns[*place]) && !drawn.contains(place);
        let left: Vec<usize> = numbers.into_iter().filter(is_left).collect();
        if !left.is_empty() {
            heading.push_str(&format!(" (not drawn: {})", listed(&left)));
        }
        let width = width.map_or(WIDTH, NonZero::get);
        let names = names.into_iter().map(|place| (place, columns[place].kind == ColumnKind::Moment)).collect();
        Ok(Self {
            out,
            width,
            zone,
            names,
            series,
            moments,
            bucket: intent.bucket,
            empty_value,
            values,
            heading,
            bars: Vec::new(),
        })
    }

    /// Adds a batch of rows.
    ///
    /// # Errors
    ///
    /// There are too many rows, or a value has a type that Arrow cannot write as text.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<(), ChartError> {
        for row in 0..batch.num_rows() {
            if self.bars.len() >= BARS_MAX {
                return Err(ChartError::TooMany);
            }
            let text = |place: usize| -> Result<String, ArrowError> {
                let text = column::cell_text(batch, place, row)?.unwrap_or_else(|| "-".into());
                Ok(term::sanitize(&text).into_owned())
            };
            let name = |(place, is_moment): &(usize, bool)| match column::cell_moment(batch, *place, row) {
                Some(moment) if *is_moment => Ok(NamePart::Moment(moment)),
                _ => text(*place).map(NamePart::Text),
            };
            let names: Vec<NamePart> = self.names.iter().map(name).collect::<Result<_, ArrowError>>()?;
            let series: Vec<String> = self.series.iter().map(|place| text(*place)).collect::<Result<_, _>>()?;
            let series = series.join("  ");
            let moment = self.moments.and_then(|place| column::cell_moment(batch, place, row));
            for (place, label) in &self.values {
                let names = names.iter().cloned().chain(label.clone().map(NamePart::Text)).collect();
                let value = column::cell_number(batch, *place, row);
                self.bars.push(ChartBar { moment, names, series: Some(series.clone()), value });
            }
        }
        Ok(())
    }

    /// Draws the bars.
    ///
    /// # Errors
    ///
    /// The gaps make too many bars, or the destination cannot be written.
    pub fn end(mut self) -> Result<(), ChartError> {
        // Before anything is written: this may fail, and half a chart would mislead.
        if self.moments.is_some() && self.values.len() == 1 {
            self.fill_gaps()?;
        }
        if !self.series.is_empty() {
            // Parts of one bar come one after the other.
            self.bars.sort_by_key(|bar| bar.moment);
        }
        if self.bars.is_empty() {
            return Ok(());
        }
        let (names, zone) = self.names();
        if let Some(zone) = zone {
            self.heading.push_str(&format!(" ({zone})"));
        }
        if !self.series.is_empty() {
            return self.end_series(&names);
        }
        let numbers: Vec<String> =
            self.bars.iter().map(|bar| bar.value.map_or_else(|| "-".to_owned(), column::short_number)).collect();
        let number_width = widest(&numbers);
        let name_width = widest(&names).min(self.width / LABEL_DIVISOR);
        // 4: two gaps of two columns.
        let room = self.width.saturating_sub(name_width + number_width + 4).max(BAR_MIN);
        // An infinite value would make all other bars vanish.
        // Bars begin at 0, so negative values get none.
        let largest =
            self.bars.iter().filter_map(|bar| bar.value).filter(|value| value.is_finite()).fold(0.0, f64::max);
        let (heading, colour) = (style::HEADING, style::QUIET);
        writeln!(self.out, "{heading}{}{heading:#}", term::cut(&self.heading, self.width))?;
        let is_empty = |bar: &ChartBar| bar.value.is_none_or(|value| value == 0.0);
        let mut empty = 0;
        for (place, ((bar, number), name)) in self.bars.iter().zip(&numbers).zip(&names).enumerate() {
            // A long run of empty buckets is shortened to one line.
            empty = if self.moments.is_some() && is_empty(bar) { empty + 1 } else { 0 };
            let goes_on = self.bars.get(place + 1).is_some_and(is_empty);
            if empty > EMPTY_SHOWN && goes_on {
                if empty == EMPTY_SHOWN + 1 {
                    writeln!(self.out, "…")?;
                }
                continue;
            }
            let name = term::cut(name, name_width);
            let padding = name_width - term::text_width(&name);
            let drawn =
                bar.value.filter(|_| largest > 0.0).map_or_else(String::new, |value| drawn(value / largest, room));
            write!(self.out, "{name}{:padding$}  {number:>number_width$}", "")?;
            if drawn.is_empty() { writeln!(self.out)? } else { writeln!(self.out, "  {colour}{drawn}{colour:#}")? }
        }
        self.out.flush()?;
        Ok(())
    }

    /// Returns the names of all bars, those of several parts aligned in columns, and what is to be said of the zone of moments.
    fn names(&self) -> (Vec<String>, Option<String>) {
        let parts = self.bars.first().map_or(0, |bar| bar.names.len());
        let (mut columns, mut zone): (Vec<Vec<String>>, _) = (Vec::new(), None);
        for part in 0..parts {
            let moments = self.bars.iter().filter_map(|bar| match &bar.names[part] {
                NamePart::Moment(moment) => Some(*moment),
                NamePart::Text(_) => None,
            });
            let has_moments = moments.clone().next().is_some();
            let form = MomentForm::of(moments, &self.zone);
            if has_moments {
                zone = Some(form.zone(&self.zone));
            }
            let text = |bar: &ChartBar| match &bar.names[part] {
                NamePart::Text(text) => text.clone(),
                NamePart::Moment(moment) => form.text(*moment, &self.zone),
            };
            let texts: Vec<String> = self.bars.iter().map(text).collect();
            let width = widest(&texts);
            let padded = |text: &String| format!("{text}{:1$}", "", width - term::text_width(text));
            columns.push(texts.iter().map(padded).collect());
        }
        let joined = |row: usize| columns.iter().map(|column| column[row].as_str()).collect::<Vec<_>>().join("  ");
        ((0..self.bars.len()).map(|row| joined(row).trim_end().to_owned()).collect(), zone)
    }

    /// Draws one bar for each moment, with a part for each series.
    fn end_series(mut self, names: &[String]) -> Result<(), ChartError> {
        let mut chart = SeriesChart::default();
        for (bar, name) in self.bars.iter().zip(names) {
            chart.add(name, bar.series.as_deref(), bar.value.unwrap_or(0.0));
        }
        let heading = style::HEADING;
        writeln!(self.out, "{heading}{}{heading:#}", term::cut(&self.heading, self.width))?;
        chart.write(&mut self.out, self.width)?;
        self.out.flush()?;
        Ok(())
    }

    /// Adds bars for buckets without a row. If the query does not fix the length of a bucket, the shortest distance
    /// between two rows is taken.
    fn fill_gaps(&mut self) -> Result<(), ChartError> {
        let mut moments: Vec<i64> =
            self.bars.iter().filter_map(|bar| bar.moment.map(Timestamp::as_millisecond)).collect();
        moments.sort_unstable();
        moments.dedup();
        let shortest = moments.windows(2).map(|pair| pair[1] - pair[0]).min();
        // `step` is above 0: the moments differ from each other, and `intent` gives no bucket of length 0.
        let Some(step) = self.bucket.or(shortest) else { return Ok(()) };
        let missing = moments.windows(2).flat_map(|pair| {
            // Moments at another distance are not the beginnings of buckets of this length: there are no gaps to count.
            let regular = (pair[1] - pair[0]) % step == 0;
            let steps = if regular { (pair[1] - pair[0]) / step } else { 0 };
            (1..steps).map(move |count| pair[0] + count * step)
        });
        // A short bucket over years has millions of gaps; one more than allowed is enough to refuse.
        let missing: Vec<i64> = missing.take(BARS_MAX + 1).collect();
        if missing.len() + self.bars.len() > BARS_MAX {
            return Err(ChartError::TooMany);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let empty = missing.into_iter().filter_map(|ms| Timestamp::from_millisecond(ms).ok()).map(|moment| ChartBar {
            moment: Some(moment),
            names: vec![NamePart::Moment(moment)],
            series: None,
            value: self.empty_value,
        });
        self.bars.extend(empty);
        self.bars.sort_by_key(|bar| bar.moment);
        Ok(())
    }
}

fn widest(texts: &[String]) -> usize {
    texts.iter().map(|text| term::text_width(text)).max().unwrap_or(0)
}

/// Draws a bar that takes a share (0 to 1) of `room` columns.
fn drawn(share: f64, room: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a terminal is not so wide")]
    let eighths = (share.clamp(0.0, 1.0) * room as f64 * 8.0).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the room; NaN is 0")]
    let eighths = eighths as usize;
    // A value above 0 is always visible.
    let eighths = if share > 0.0 { eighths.max(1) } else { eighths };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}
