//! Options for the form of output, shared by all commands that print connections or events.

use clap::{Args, ValueEnum};
use netconn_model::csv_cell::CsvCells;

/// The form of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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
}

impl Format {
    /// Returns how cells of CSV are written.
    pub(super) fn csv_cells(self) -> CsvCells {
        if self == Self::CsvRaw { CsvCells::Raw } else { CsvCells::Guarded }
    }
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
