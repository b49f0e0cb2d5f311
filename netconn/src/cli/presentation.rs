//! Options for the form of output, shared by all commands that print connections or events.

use std::ffi::OsStr;

use clap::{
    Arg, Args, Command,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
};
use netconn_model::{
    csv_cell::CsvCells,
    format::{self, ROW_FORMATS, SnapshotFormat},
};

/// The form of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A table for people.
    Table,
    /// One JSON object with an array of rows.
    Json,
    /// One JSON object on each line.
    Ndjson,
    /// Comma-separated values with a heading. A text that a spreadsheet would take for a formula begins with an apostrophe.
    Csv,
    /// The same with all texts as they are, for programs.
    CsvRaw,
    /// What another program writes.
    Other(&'static SnapshotFormat),
}

/// The forms that netconn has of its own, with their help.
const OWN_FORMATS: [(&str, Format, &str); 5] = [
    ("table", Format::Table, "A table for people"),
    ("json", Format::Json, "One JSON object with an array of rows"),
    ("ndjson", Format::Ndjson, "One JSON object on each line"),
    (
        "csv",
        Format::Csv,
        "Comma-separated values with a heading. A text that a spreadsheet would take for a formula begins with an apostrophe",
    ),
    ("csv-raw", Format::CsvRaw, "The same with all texts as they are, for programs"),
];

impl Format {
    /// Returns how cells of CSV are written.
    pub(super) fn csv_cells(self) -> CsvCells {
        if self == Self::CsvRaw { CsvCells::Raw } else { CsvCells::Guarded }
    }

    /// Returns the format of another program, if it is one.
    pub(super) fn other(self) -> Option<&'static SnapshotFormat> {
        if let Self::Other(format) = self { Some(format) } else { None }
    }
}

/// Reads the form of a list, and says of a format of events where it is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct FormatParser;

impl TypedValueParser for FormatParser {
    type Value = Format;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<Format, clap::Error> {
        let name = value.to_str().unwrap_or_default();
        let own = OWN_FORMATS.iter().find(|(own, ..)| *own == name).map(|(_, format, _)| *format);
        if let Some(format) = own.or_else(|| format::row_format(name).map(Format::Other)) {
            return Ok(format);
        }
        if format::by_name(name).is_some() {
            let sentence = format!("{name} is a format of events, not of lists: `netconn watch --format {name}`\n");
            return Err(clap::Error::raw(ErrorKind::InvalidValue, sentence).with_cmd(command));
        }
        // The error of clap names the values there are, and the nearest one.
        PossibleValuesParser::new(possible_formats()).parse_ref(command, argument, value).map(|_| Format::Table)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(possible_formats()))
    }
}

fn possible_formats() -> impl Iterator<Item = PossibleValue> {
    let own = OWN_FORMATS.iter().map(|(name, _, help)| PossibleValue::new(*name).help(*help));
    own.chain(ROW_FORMATS.iter().map(|format| PossibleValue::new(format.name).help(format.meaning)))
}

/// Options of what is cut, shared by commands that print lines for people.
#[derive(Debug, Args)]
pub(super) struct Presentation {
    /// Cut nothing, even if it does not fit the terminal.
    #[arg(short = 'W', long)]
    pub(super) wide: bool,
    /// Show numbers instead of names (the default).
    #[arg(short = 'n', long)]
    numeric: bool,
    /// Show processes (the default).
    #[arg(short = 'p', long = "processes")]
    processes: bool,
}

impl Presentation {
    /// Returns the width that lines have to fit; `None` if nothing is cut.
    pub(super) fn limit(&self) -> Option<usize> {
        if self.wide { None } else { netconn_model::term::width() }
    }
}
