//! Options that a search and a hunt have in common.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ColorChoice};

use crate::{output::OutputFormat, range::TimeArguments};

/// What is searched, and when.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What is searched")]
pub(super) struct SourceOptions {
    /// This file or folder instead of the history of this host: NDJSON (also .gz and .zst) or Parquet. Without --since, --until
    /// and --last all of it.
    #[arg(short = 'f', long, value_name = "PATH")]
    pub(super) file: Vec<PathBuf>,
    /// From this time on: 4 hours, 3d, 10:30, March 3, 2026-03-03T10:30:00Z, epoch milliseconds, or both ends: A – B. Without
    /// a time range, the last 24 hours are searched.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "last")]
    since: Option<String>,
    /// Up to this time, which is not in it; a day means its beginning. Now, if nothing is said.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// The last so much time before now or before --until: 30s, 15m, 4 hours, 3d, 1w.
    #[arg(long, value_name = "LENGTH", allow_hyphen_values = true)]
    last: Option<String>,
    /// The configuration file [default: /etc/netconn/netconn.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Folder of the tables for `lookup` and `savelookup` [default: ~/.local/share/netconn/lookups].
    #[arg(long, value_name = "DIR")]
    pub(super) lookups: Option<PathBuf>,
    /// Memory that the query may use before it writes to disk; the program and what it knows of the files come on top.
    #[arg(long, value_name = "BYTES", default_value = "400MB", value_parser = bytes)]
    pub(super) memory_limit: u64,
    /// Give up after so much time: 30s, 5m. What is followed just ends.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

impl SourceOptions {
    /// What was said about the time.
    pub(super) fn time_arguments(&self) -> TimeArguments<'_> {
        TimeArguments { since: self.since.as_deref(), until: self.until.as_deref(), last: self.last.as_deref() }
    }

    /// Says another length, and nothing else.
    pub(super) fn say_last(&mut self, last: &str) {
        (self.since, self.until, self.last) = (None, None, Some(last.to_owned()));
    }

    /// Says how long before the end it begins; the end stays.
    pub(super) fn say_length(&mut self, length: &str) {
        (self.since, self.last) = (None, Some(length.to_owned()));
    }

    /// Says another beginning, and nothing else.
    pub(super) fn say_since(&mut self, since: &str) {
        (self.since, self.until, self.last) = (Some(since.to_owned()), None, None);
    }
}

/// How the answer is shown.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "How the answer is shown")]
pub(super) struct PresentationOptions {
    /// In which form.
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(super) format: OutputFormat,
    /// Bars, one for each row of a `group … by timebucket` or of a top list.
    #[arg(long, conflicts_with = "format")]
    pub(super) chart: bool,
    /// Into this file instead of standard output; it appears when it is whole. `-` is standard output.
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Cut nothing, also when it does not fit the terminal.
    #[arg(short = 'W', long)]
    pub(super) wide: bool,
    /// Say nothing about the answer on standard error but errors.
    #[arg(short = 'q', long)]
    pub(super) quiet: bool,
    /// Whether to use colours.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    pub(super) color: ColorChoice,
    /// End with exit code 1 if there are no rows (as in grep and jq).
    #[arg(short = 'e', long)]
    pub(super) exit_code: bool,
}

/// Reads a size like 400MB or 1GiB.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size like 400MB or 1GiB, of 10MB or more");
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).filter(|bytes| *bytes >= 10_000_000).ok_or_else(wrong)
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("'{text}' is not a duration like 30s, 5m or 1h 30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("400MB", Some(400_000_000)),
            ("1 GiB", Some(1 << 30)),
            ("20000000", Some(20_000_000)),
            ("512m", Some(512_000_000)),
            ("1MB", None),
            ("lots", None),
            ("-1", None),
            ("", None),
            ("99999999999 GB", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }
}
