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

/// An address and port as one reads them: IPv6 in brackets, `*` for what is not known. An address only, where the
/// protocol has no ports.
pub(super) fn end(protocol: &str, address: &str, port: Option<u16>) -> String {
    if port.is_none() && !matches!(protocol, "" | "TCP" | "UDP") {
        return address.to_owned();
    }
    let port = port.map_or_else(|| "*".into(), |port| port.to_string());
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_readable() {
        assert_eq!(end("TCP", "192.0.2.1", Some(80)), "192.0.2.1:80");
        assert_eq!(end("UDP", "2001:db8::1", Some(80)), "[2001:db8::1]:80");
        assert_eq!(end("TCP", "0.0.0.0", None), "0.0.0.0:*");
        assert_eq!(end("ICMP", "2001:db8::1", None), "2001:db8::1");
        assert_eq!(end("47", "192.0.2.1", None), "192.0.2.1");
    }
}
