//! Options that `netconn search` and `netconn hunt` share.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ColorChoice};
use jiff::{fmt::temporal::DateTimeParser, tz::TimeZone};

use crate::{output::OutputFormat, range::TimeArguments};

/// The options that say what is searched.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Source")]
pub(super) struct SourceOptions {
    /// Search this file or folder instead of the history of this host: JSON (lines, objects or an array; also .gz,
    /// .zst, .bz2 and .xz) or Parquet; - is standard input. Without --since, --until and --last, all of it is searched.
    #[arg(short = 'f', long, value_name = "PATH")]
    pub(super) file: Vec<PathBuf>,
    /// Search from this time on: 4 hours, 3d, 10:30, March 3, 2026-03-03T10:30:00Z, epoch milliseconds, or both ends: A
    /// – B. A time of day is the most recent one. Without a time range, the last 24 hours are searched.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "last")]
    since: Option<String>,
    /// Search up to this time, excluding it; a day means its beginning; a time of day after one in --since is the first
    /// behind it [default: now].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Search this length of time before now or before --until: 30s, 15m, 4 hours, 3d, 1w.
    #[arg(long, value_name = "LENGTH", allow_hyphen_values = true)]
    last: Option<String>,
    /// The configuration file [default: /etc/netconn/netconn.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The folder of tables for `lookup`, `dataset` and `savelookup` [default: ~/.local/share/netconn/lookups].
    #[arg(long, value_name = "DIR")]
    pub(super) lookups: Option<PathBuf>,
    /// Memory that the query may use before it spills to disk; the program and the metadata of files come on top.
    #[arg(long, value_name = "BYTES", default_value = "400MB", value_parser = bytes)]
    pub(super) memory_limit: u64,
    /// Give up after this time: 30s, 5m. With --follow, end without an error.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

impl SourceOptions {
    /// Returns the options that give the time range.
    pub(super) fn time_arguments(&self) -> TimeArguments<'_> {
        TimeArguments { since: self.since.as_deref(), until: self.until.as_deref(), last: self.last.as_deref() }
    }

    /// Replaces the time range by the last `last`.
    pub(super) fn replace_last(&mut self, last: &str) {
        (self.since, self.until, self.last) = (None, None, Some(last.to_owned()));
    }

    /// Sets the length of the time range; its end stays.
    pub(super) fn set_length(&mut self, length: &str) {
        (self.since, self.last) = (None, Some(length.to_owned()));
    }

    /// Replaces the time range by one from `since` to now.
    pub(super) fn replace_since(&mut self, since: &str) {
        (self.since, self.until, self.last) = (Some(since.to_owned()), None, None);
    }
}

/// The options that say how the answer is shown.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct PresentationOptions {
    /// The output format [default: what the name of --output ends with, else table].
    #[arg(long, value_enum)]
    pub(super) format: Option<OutputFormat>,
    /// Draw a bar for each row of a `group … by timebucket` or of `top`.
    #[arg(long, conflicts_with = "format")]
    pub(super) chart: bool,
    /// Write to this file instead of standard output; it appears when it is complete. - is standard output. Files and
    /// pipes get all rows, a terminal the first 1,000 unless the query says how many.
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Show everything in full, even if it does not fit the terminal.
    #[arg(short = 'W', long)]
    pub(super) wide: bool,
    /// Write only errors to standard error, and on a terminal that rows were left out: no warnings, no summary.
    #[arg(short = 'q', long)]
    pub(super) quiet: bool,
    /// Show times in UTC, and read times without a zone as UTC.
    #[arg(long, conflicts_with = "zone")]
    pub(super) utc: bool,
    /// The same in this time zone: Europe/Berlin, +02:00 [default: that of this host, or TZ].
    #[arg(long, value_name = "NAME", value_parser = zone, allow_hyphen_values = true)]
    pub(super) zone: Option<TimeZone>,
    /// When to use colours.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    pub(super) color: ColorChoice,
    /// Exit with code 1 if there are no rows, as grep does.
    #[arg(short = 'e', long)]
    pub(super) exit_code: bool,
}

impl PresentationOptions {
    /// Returns the time zone of what is shown and typed.
    pub(super) fn zone(&self) -> TimeZone {
        match &self.zone {
            _ if self.utc => TimeZone::UTC,
            Some(zone) => zone.clone(),
            None => TimeZone::system(),
        }
    }
}

/// Parses a size like 400MB or 1GiB, in bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size of at least 10MB, like 400MB or 1GiB");
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

/// Parses the name of a time zone, or an offset.
fn zone(text: &str) -> Result<TimeZone, String> {
    DateTimeParser::new().parse_time_zone(text).map_err(|_| {
        format!(
            "'{text}' is no time zone that this host knows: use a name like Europe/Berlin, or an offset like +02:00"
        )
    })
}

/// Parses a duration like 30s.
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
