//! How connections and events are shown, the same for all commands that show some.

use clap::{Args, ValueEnum};

/// The form of what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// JSON: a snapshot is one object, a stream one object for each event and line.
    Json,
    /// One JSON object on each line.
    Ndjson,
    /// Comma-separated values with a heading.
    Csv,
}

/// Options of what is shown to people.
#[derive(Debug, Args)]
pub(super) struct Presentation {
    /// How to show them.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
    /// Cut nothing, also when it does not fit the terminal.
    #[arg(short = 'W', long)]
    pub(super) wide: bool,
    /// Numbers instead of names (that is the default).
    #[arg(short = 'n', long)]
    numeric: bool,
    /// Show processes (they always are).
    #[arg(short = 'p', long = "processes")]
    processes: bool,
}

impl Presentation {
    /// Width to fit lines into; `None`: nothing is cut.
    pub(super) fn limit(&self) -> Option<usize> {
        if self.wide { None } else { netconn_model::term::width() }
    }
}
