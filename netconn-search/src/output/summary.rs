//! The summary of an answer: how much was read, what is missing, and warnings.

use std::{fmt::Write as _, time::Duration};

use netconn_model::term;
use serde::Serialize;

use crate::{engine::ProgressSnapshot, output::recorded::GapJson};

/// The cost of an answer, and what it does not show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerSummary {
    /// Rows of the answer.
    pub rows: u64,
    /// Events that were read.
    pub events_read: u64,
    /// Bytes of the files that were read.
    pub bytes_read: u64,
    /// Files found, read or not.
    pub files: u64,
    /// Files among them that were not read, as they hold no events of the time range.
    pub files_pruned: u64,
    /// Lines left out because they are not an event.
    pub bad_lines: u64,
    /// Values left out because they do not have their field's type or are given twice.
    pub wrong_values: u64,
    /// Time that the query took.
    pub elapsed: Duration,
    /// Events of the time range that `Data Loss` events report as lost.
    pub events_lost: u64,
    /// Times within the searched one in which nothing was recorded.
    pub gaps: Vec<GapJson>,
    /// Number of rows after which the answer was cut, as the query has no `limit`; `None`: it is complete.
    pub cut_at: Option<u64>,
    /// Columns left out because the terminal is too narrow.
    pub hidden_columns: u64,
    /// Rows left out because the format has no place for such events.
    pub left_out: u64,
    /// Warnings about the query and the files, one sentence each.
    pub warnings: Vec<String>,
}

/// The summary as the members of a JSON answer that follow the rows.
#[derive(Debug, Serialize)]
struct SummaryJson<'a> {
    warnings: &'a [String],
    row_count: u64,
    is_cut: bool,
    events_read: u64,
    bytes_read: u64,
    files: u64,
    files_pruned: u64,
    bad_lines: u64,
    wrong_values: u64,
    events_lost: u64,
    gaps: &'a [GapJson],
    elapsed_ms: f64,
}

impl AnswerSummary {
    /// Returns a summary of what was read; the rest of it is filled in later.
    pub fn of(read: &ProgressSnapshot, elapsed: Duration) -> Self {
        Self {
            events_read: read.rows,
            bytes_read: read.bytes,
            files: read.files_all + read.files_pruned,
            files_pruned: read.files_pruned,
            bad_lines: read.bad_lines,
            wrong_values: read.wrong_values,
            elapsed,
            events_lost: read.lost,
            ..Self::default()
        }
    }

    /// Returns the members of a JSON object, without its braces.
    ///
    /// # Errors
    ///
    /// `serde_json` fails, which it does not for these types.
    pub fn to_json(&self) -> serde_json::Result<String> {
        // These members continue an object that already has its columns and rows.
        let text = serde_json::to_string(&SummaryJson {
            warnings: &self.warnings,
            row_count: self.rows,
            is_cut: self.cut_at.is_some(),
            events_read: self.events_read,
            bytes_read: self.bytes_read,
            files: self.files,
            files_pruned: self.files_pruned,
            bad_lines: self.bad_lines,
            wrong_values: self.wrong_values,
            events_lost: self.events_lost,
            gaps: &self.gaps,
            // Milliseconds with three decimals.
            elapsed_ms: (self.elapsed.as_secs_f64() * 1e6).round() / 1e3,
        })?;
        // The last member is a number, so no brace of a value is cut off.
        Ok(text.trim_start_matches('{').trim_end_matches('}').to_owned())
    }

    /// Returns one line for people: the number of rows, what was read, and whether events were lost.
    pub fn line(&self) -> String {
        let mut line =
            format!("{}, {} in {}; ", counted(self.rows, "row"), self.read_line(), term::duration(self.elapsed));
        // "Known", because a loss that no file reports cannot be ruled out.
        line.push_str(match (self.events_lost, self.gaps.is_empty()) {
            (0, true) => "none known to be lost",
            (0, false) => "some time was not recorded",
            (_, true) => "some were lost",
            (_, false) => "some were lost, and some time was not recorded",
        });
        line
    }

    /// Describes what was read: events, bytes, files.
    pub fn read_line(&self) -> String {
        let mut line = format!("{} read", counted(self.events_read, "event"));
        let _ = write!(line, " ({}", term::bytes(self.bytes_read));
        if self.files_pruned > 0 {
            let read = self.files.saturating_sub(self.files_pruned);
            let _ = write!(line, " of {} of {} files", grouped(read), grouped(self.files));
        } else if self.files != 1 {
            let _ = write!(line, " of {}", counted(self.files, "file"));
        }
        line.push(')');
        line
    }

    /// Says that rows were left out because a person looks at the answer.
    pub fn cut(&self) -> Option<String> {
        self.cut_at.map(|rows| {
            let rows = grouped(rows);
            format!(
                "only the first {rows} rows are shown; add `| limit N` or `| nolimit` for more, or write to a file or pipe"
            )
        })
    }

    /// Returns what a reader must know to trust the answer, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.cut().into_iter().collect();
        if self.events_lost > 0 {
            let (lost, are) = (counted(self.events_lost, "event"), if self.events_lost == 1 { "is" } else { "are" });
            notes.push(format!(
                "{lost} of this time range {are} known to be lost (see event.type = 'Data Loss'): \
                 the answer may be incomplete"
            ));
        }
        if self.bad_lines > 0 {
            let (lines, are) = (counted(self.bad_lines, "line"), if self.bad_lines == 1 { "is" } else { "are" });
            notes.push(format!("{lines} in the files {are} not an event and left out"));
        }
        if self.wrong_values > 0 {
            let (values, are) =
                (counted(self.wrong_values, "value"), if self.wrong_values == 1 { "is" } else { "are" });
            notes.push(format!("{values} in the files {are} left out: wrong type for the field, or given twice"));
        }
        if self.left_out > 0 {
            let (rows, are) = (counted(self.left_out, "event"), if self.left_out == 1 { "is" } else { "are" });
            notes.push(format!("{rows} {are} left out: the format has no place for events of this kind"));
        }
        if self.hidden_columns > 0 {
            let (columns, do_not) =
                (counted(self.hidden_columns, "column"), if self.hidden_columns == 1 { "does" } else { "do" });
            notes.push(format!(
                "{columns} {do_not} not fit the terminal: choose columns with `| columns`, or use --wide or --format"
            ));
        }
        notes
    }
}

/// Formats a count with its noun: `1 row`, `2,000 rows`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Formats a whole number with commas: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let summary = AnswerSummary {
            rows: 1000,
            events_read: 1_234_567,
            bytes_read: 45_200_000,
            files: 40,
            files_pruned: 37,
            elapsed: Duration::from_millis(230),
            ..AnswerSummary::default()
        };
        assert_eq!(
            summary.line(),
            "1,000 rows, 1,234,567 events read (45.2 MB of 3 of 40 files) in 230 ms; none known to be lost"
        );
        assert!(summary.notes().is_empty());
        let summary = AnswerSummary {
            rows: 1,
            files: 1,
            files_pruned: 0,
            events_lost: 1,
            bad_lines: 2,
            wrong_values: 1,
            cut_at: Some(1000),
            hidden_columns: 1,
            ..summary
        };
        assert_eq!(summary.line(), "1 row, 1,234,567 events read (45.2 MB) in 230 ms; some were lost");
        assert_eq!(
            summary.notes(),
            [
                "only the first 1,000 rows are shown; add `| limit N` or `| nolimit` for more, or write to a file or pipe",
                "1 event of this time range is known to be lost (see event.type = 'Data Loss'): the answer may be incomplete",
                "2 lines in the files are not an event and left out",
                "1 value in the files is left out: wrong type for the field, or given twice",
                "1 column does not fit the terminal: choose columns with `| columns`, or use --wide or --format",
            ]
        );
        assert_eq!(
            summary.to_json().unwrap(),
            r#""warnings":[],"row_count":1,"is_cut":true,"events_read":1234567,"bytes_read":45200000,"files":1,"files_pruned":0,"bad_lines":2,"wrong_values":1,"events_lost":1,"gaps":[],"elapsed_ms":230.0"#
        );
    }

    #[test]
    fn numbers_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
