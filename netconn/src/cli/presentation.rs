//! Options for the form of output, shared by all commands that print connections or events.

use clap::{Args, ValueEnum};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table for people.
    Table,
    /// JSON: a snapshot is one object, a stream one object for each event and line.
    Json,
    /// One JSON object on each line.
    Ndjson,
    /// Comma-separated values with a heading.
    Csv,
}

/// Options for the form of the output.
#[derive(Debug, Args)]
pub(super) struct Presentation {
    /// Form of the output.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
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
