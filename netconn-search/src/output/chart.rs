//! A bar chart for the terminal: one bar for each row of a group over time or of a top list.

use std::{
    io::{self, Write},
    num::NonZero,
};

use datafusion::arrow::{array::RecordBatch, error::ArrowError};
use jiff::{Timestamp, tz::TimeZone};
use netconn_model::term::{self, style};
use thiserror::Error;

use crate::output::{
    column::{self, AnswerColumn, ColumnKind},
    intent::AnswerIntent,
    table,
};

/// Width if the output is not a terminal, columns.
const WIDTH: usize = 80;

/// The names of the bars take at most the width divided by this.
const LABEL_DIVISOR: usize = 2;

/// Room for bars that is kept even on a narrow terminal, columns.
const BAR_MIN: usize = 10;

/// Most bars of a chart.
const BARS_MAX: usize = 2000;

/// Most consecutive empty buckets that are shown in full; of a longer run, these and the last one.
const EMPTY_SHOWN: usize = 2;

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
    /// Index of the column of moments, if it is the only one that names a bar: the chart then runs over time.
    moments: Option<usize>,
    /// Length of a time bucket, milliseconds, if the query fixes it.
    bucket: Option<i64>,
    /// The value of a bucket without rows: 0 for counts and sums, nothing for averages.
    empty_value: Option<f64>,
    /// Index of the column of numbers.
    values: usize,
    heading: String,
    bars: Vec<ChartBar>,
}

#[derive(Debug)]
struct ChartBar {
    moment: Option<Timestamp>,
    names: Vec<String>,
    /// `None`: no bar is drawn.
    value: Option<f64>,
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
        let moments = (names.len() == 1 && columns[names[0]].kind == ColumnKind::Moment).then_some(names[0]);
        let name = |place: &usize| term::sanitize(&columns[*place].name).into_owned();
        let listed = |places: &[usize]| places.iter().map(name).collect::<Vec<_>>().join(", ");
        let mut heading = format!("{} by {}", name(&values), listed(&names));
        // Columns of numbers before `values` are keys, so only those behind it are left out.
        let is_left = |place: &usize| is_number(&columns[*place]) && !is_key(&columns[*place]);
        let left: Vec<usize> = (values + 1..columns.len()).filter(is_left).collect();
        if !left.is_empty() {
            heading.push_str(&format!(" (not drawn: {})", listed(&left)));
        }
        let width = width.map_or(WIDTH, NonZero::get);
        let names = names.into_iter().map(|place| (place, columns[place].kind == ColumnKind::Moment)).collect();
        let empty_value = (!intent.averages.contains(&columns[values].name)).then_some(0.0);
        Ok(Self {
            out,
            width,
            zone,
            names,
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
            let names = self.names.iter().map(|(place, is_moment)| {
                if *is_moment && let Some(moment) = column::cell_moment(batch, *place, row) {
                    return Ok(table::bucket_text(moment, &self.zone));
                }
                let name = column::cell_text(batch, *place, row)?.unwrap_or_else(|| "-".into());
                Ok(term::sanitize(&name).into_owned())
            });
            self.bars.push(ChartBar {
                moment: self.moments.and_then(|place| column::cell_moment(batch, place, row)),
                names: names.collect::<Result<_, ArrowError>>()?,
                value: column::cell_number(batch, self.values, row),
            });
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
        if self.moments.is_some() {
            self.fill_gaps()?;
        }
        if self.bars.is_empty() {
            return Ok(());
        }
        let numbers: Vec<String> =
            self.bars.iter().map(|bar| bar.value.map_or_else(|| "-".to_owned(), column::short_number)).collect();
        let names = aligned(&self.bars);
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
            names: vec![table::bucket_text(moment, &self.zone)],
            value: self.empty_value,
        });
        self.bars.extend(empty);
        self.bars.sort_by_key(|bar| bar.moment);
        Ok(())
    }
}

/// Returns the names of all bars; names of several parts are aligned in columns.
fn aligned(bars: &[ChartBar]) -> Vec<String> {
    let parts = bars.first().map_or(0, |bar| bar.names.len());
    let widths: Vec<usize> =
        (0..parts).map(|part| bars.iter().map(|bar| term::text_width(&bar.names[part])).max().unwrap_or(0)).collect();
    let name = |bar: &ChartBar| {
        let padded = bar.names.iter().zip(&widths).map(|(name, width)| {
            let padding = width - term::text_width(name);
            format!("{name}{:padding$}", "")
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    bars.iter().map(name).collect()
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
