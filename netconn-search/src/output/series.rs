//! Bars that are divided into series, with a legend.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use netconn_model::term;

use crate::output::{column, summary::counted};

/// How the series are drawn, those with the largest sums first: also without colours they differ.
const FILLS: [(&str, AnsiColor); 6] = [
    ("█", AnsiColor::Cyan),
    ("▓", AnsiColor::Yellow),
    ("▒", AnsiColor::Green),
    ("░", AnsiColor::Magenta),
    ("▞", AnsiColor::Blue),
    ("▪", AnsiColor::Red),
];

/// How all others together are drawn.
const OTHERS: &str = "·";

/// Most consecutive empty bars of a chart over time that are shown in full; of a longer run, these and the last one.
pub(super) const EMPTY_SHOWN: usize = 2;

/// The names of the bars take at most the width divided by this.
pub(super) const LABEL_DIVISOR: usize = 2;

/// Room for bars that is kept even on a narrow terminal, columns.
pub(super) const BAR_MIN: usize = 10;

/// Bars by name, each with the values of its series.
#[derive(Debug, Default)]
pub(super) struct SeriesChart {
    bars: Vec<(String, Vec<(usize, f64)>)>,
    /// Names of the series, with their sums.
    series: Vec<(String, f64)>,
}

impl SeriesChart {
    /// Adds a value to a bar. Values of one bar come one after the other; without a series, the bar stays empty.
    pub(super) fn add(&mut self, bar: &str, series: Option<&str>, value: f64) {
        if self.bars.last().is_none_or(|(name, _)| name != bar) {
            self.bars.push((bar.to_owned(), Vec::new()));
        }
        // An infinite value would make all others vanish.
        let (Some(series), true) = (series, value.is_finite() && value != 0.0) else { return };
        let place = self.series.iter().position(|(name, _)| name == series).unwrap_or_else(|| {
            self.series.push((series.to_owned(), 0.0));
            self.series.len() - 1
        });
        self.series[place].1 += value;
        if let Some((_, values)) = self.bars.last_mut() {
            values.push((place, value));
        }
    }

    /// Writes the legend and the bars.
    ///
    /// # Errors
    ///
    /// The destination cannot be written.
    pub(super) fn write(mut self, out: &mut impl Write, width: usize) -> io::Result<()> {
        let mut order: Vec<usize> = (0..self.series.len()).collect();
        order.sort_by(|one, other| self.series[*other].1.total_cmp(&self.series[*one].1));
        let style = |colour: AnsiColor| colour.on_default();
        // The fill of each series.
        let mut fills: Vec<(&str, Style)> = vec![(OTHERS, Style::new()); self.series.len()];
        for (place, (fill, colour)) in order.iter().zip(FILLS) {
            fills[*place] = (fill, style(colour));
            let (name, sum) = &self.series[*place];
            // As a query writes it: a legend without a name would look like a mistake.
            let name = if name.is_empty() { "''" } else { name.as_str() };
            let style = style(colour);
            // The number is beside the name, so that each can be told without measuring.
            writeln!(
                out,
                "{style}{fill}{style:#} {}",
                term::cut(&format!("{name}  {}", column::short_number(*sum)), width.saturating_sub(2))
            )?;
        }
        let others = order.get(FILLS.len()..).unwrap_or_default();
        if !others.is_empty() {
            let sum: f64 = others.iter().map(|place| self.series[*place].1).sum();
            writeln!(out, "{OTHERS} {}  {}", counted(others.len() as u64, "other"), column::short_number(sum))?;
        }
        let sums: Vec<f64> =
            self.bars.iter().map(|(_, values)| values.iter().fold(0.0, |sum, (_, value)| sum + value)).collect();
        let numbers: Vec<String> = sums.iter().map(|sum| column::short_number(*sum)).collect();
        let widest =
            |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| term::text_width(text)).max().unwrap_or(0);
        let number_width = widest(&mut numbers.iter());
        let name_width = widest(&mut self.bars.iter().map(|(name, _)| name)).min(width / LABEL_DIVISOR);
        // 4: two gaps of two columns.
        let room = width.saturating_sub(name_width + number_width + 4).max(BAR_MIN);
        // Bars begin at 0, so negative values are in the numbers only.
        let height = |values: &[(usize, f64)]| values.iter().map(|(_, value)| value.max(0.0)).sum::<f64>();
        let largest = self.bars.iter().map(|(_, values)| height(values)).fold(0.0, f64::max);
        let are_empty: Vec<bool> = self.bars.iter().map(|(_, values)| values.is_empty()).collect();
        let rank = |place: &usize| order.iter().position(|other| other == place);
        let mut empty = 0;
        for (place, ((name, values), number)) in self.bars.iter_mut().zip(&numbers).enumerate() {
            // A long run of empty bars is shortened to one line, as in charts of one series.
            empty = if values.is_empty() { empty + 1 } else { 0 };
            if empty > EMPTY_SHOWN && are_empty.get(place + 1).is_some_and(|next| *next) {
                if empty == EMPTY_SHOWN + 1 {
                    writeln!(out, "…")?;
                }
                continue;
            }
            let name = term::cut(name, name_width);
            let padding = name_width - term::text_width(&name);
            write!(out, "{name}{:padding$}  {number:>number_width$}", "")?;
            values.sort_by_key(|(place, _)| rank(place));
            let (mut sum, mut drawn) = (0.0, 0);
            for (place, value) in values.iter().filter(|(_, value)| *value > 0.0) {
                if drawn == 0 {
                    write!(out, "  ")?;
                }
                sum += value;
                // Rounded at its end, so that all parts together are as long as their sum.
                let end = cells(sum / largest, room).max(usize::from(drawn == 0));
                let (fill, style) = fills[*place];
                write!(out, "{style}{}{style:#}", fill.repeat(end.saturating_sub(drawn)))?;
                drawn = drawn.max(end);
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Returns the number of columns that a share (0 to 1) of the room takes.
fn cells(share: f64, room: usize) -> usize {
    #[expect(clippy::cast_precision_loss, reason = "a terminal is not so wide")]
    let cells = (share.clamp(0.0, 1.0) * room as f64).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the room; NaN is 0")]
    {
        cells as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_and_negative_values_count() {
        let mut chart = SeriesChart::default();
        chart.add("a", Some(""), 6.0);
        chart.add("a", Some("x"), 3.0);
        chart.add("b", Some("x"), -2.0);
        chart.add("b", Some(""), 3.0);
        chart.add("c", None, 0.0);
        let mut out = Vec::new();
        chart.write(&mut out, 40).unwrap();
        let shown = anstream::adapter::strip_bytes(&out).into_vec();
        let shown = String::from_utf8(shown).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[..2], ["█ ''  9", "▓ x  1"], "{shown}");
        // 40 columns less two gaps, the name and the number: 34 for 9, 11 for 3.
        assert_eq!(lines[2], format!("a  9  {}{}", "█".repeat(23), "▓".repeat(11)), "{shown}");
        assert_eq!(lines[3], format!("b  1  {}", "█".repeat(11)), "{shown}");
        assert_eq!(lines[4], "c  0", "{shown}");
    }
}
