//! `netconn list`: a snapshot of all connections and flows.

mod columns;
mod count;
mod group;
mod order;
mod output;
mod raw;
mod table;

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use netconn_model::{
    client::{self, ClientError},
    exit::Exit,
};
use nix::fcntl::{FcntlArg, fcntl};

use crate::{
    cli::{
        SocketOption, block_on,
        list::{group::GroupBy, order::SortKey, output::Output},
        presentation::{Format, Presentation},
        selection::Selection,
    },
    daemonless::Snapshot,
};

/// What a pipe to somebody else is made to hold: the most that anybody may ask for (`pipe(7)`).
const PIPE_BYTES: i32 = 1 << 20;

/// Options of `netconn list`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    presentation: Presentation,
    /// Sort by these columns, `-` before one for descending: --sort=-sent,process. There are state, protocol, direction,
    /// local, local-port, remote, remote-port, pid, process, user, command, started, sent, received, namespace, unit,
    /// container, known-by, ended and reason. All rows are kept in memory for it.
    #[arg(
        long,
        value_name = "COLUMN",
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_parser = order::parse,
        conflicts_with = "count"
    )]
    sort: Vec<SortKey>,
    /// Show them in groups, with the number in each. All rows are kept in memory for it, but not with --count.
    #[arg(long, value_name = "BY", value_enum)]
    group_by: Option<GroupBy>,
    /// Only how many there are; with --group-by how many in each group, the largest first.
    #[arg(long)]
    count: bool,
    /// Also connections that have ended, this long ago at most: 90s, 5m. Ten minutes and 65,536 of them are remembered,
    /// and as many flows.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    closed: Option<Duration>,
    /// Show more columns (as in ss); and end with exit code 1 if there are none (as in grep and jq).
    #[arg(short = 'e', long)]
    extended: bool,
    /// Show the sockets that no hook sees instead, and who has them open: AF_PACKET (tcpdump, dhclient) and AF_XDP. What they
    /// exchange is in no list and no event.
    #[arg(
        long,
        conflicts_with_all = ["sort", "group_by", "count", "closed", "extended", "resolve", "Selection"]
    )]
    raw: bool,
    /// No heading.
    #[arg(short = 'H', long)]
    no_header: bool,
    /// Names instead of addresses.
    #[arg(short = 'r', long)]
    resolve: bool,
    #[command(flatten)]
    socket: SocketOption,
    // Last: its heading would hold for what follows.
    #[command(flatten)]
    selection: Selection,
}

impl Options {
    /// Whether rows can be shown in the order in which they come.
    fn is_stream(&self) -> bool {
        self.sort.is_empty() && self.group_by.is_none()
    }

    /// Whether the daemon's answer is what is to be shown, byte for byte.
    fn is_copy(&self) -> bool {
        self.is_stream() && !self.count && matches!(self.presentation.format, Format::Json | Format::Ndjson)
    }

    /// Whether what stands around the rows is wanted too.
    fn is_object(&self) -> bool {
        self.presentation.format == Format::Json && !self.count
    }
}

/// Shows the snapshot.
pub(super) fn run(options: &Options) -> Result<Exit> {
    if options.raw {
        return raw::run(options);
    }
    let mut parameters = options.selection.parameters()?;
    if let Some(closed) = options.closed {
        parameters.push(("closed".into(), seconds(closed)));
    }
    let format = if options.is_object() { "json" } else { "ndjson" };
    parameters.push(("format".into(), format.into()));
    let answered = block_on(async {
        let answer = client::get(options.socket.path(), "/v1/connections", &parameters).await?;
        if options.is_copy() { copy(answer).await } else { show(options, answer).await }
    });
    let found = match answered {
        Err(error) if is_offline(&error) && !options.socket.is_named() => alone(options, error)?,
        answered => answered?,
    };
    Ok(if !found && options.extended { Exit::Nothing } else { Exit::Success })
}

/// Copies the daemon's answer as it comes; tells whether there was a row in it.
async fn copy(mut answer: client::Answer) -> Result<bool> {
    // Not by way of the standard output that writes whole lines: megabytes come at once.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // Whoever reads then has to be woken less often. An error means that it is no pipe.
    let _ = fcntl(&out, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let mut found = false;
    while let Some(part) = answer.part().await? {
        // Every row has this key, and what stands around the rows has not.
        found = found || part.windows(8).any(|bytes| bytes == b"\"state\":");
        out.write_all(&part)?;
    }
    Ok(found)
}

async fn show(options: &Options, answer: client::Answer) -> Result<bool> {
    let mut output = Output::new(options)?;
    answer
        .lines(|line| {
            output.take(line)?;
            Ok::<_, anyhow::Error>(true)
        })
        .await?;
    output.finish()
}

fn is_offline(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Offline { .. }))
}

/// Shows what can be seen without a daemon.
fn alone(options: &Options, offline: anyhow::Error) -> Result<bool> {
    if options.closed.is_some() {
        return Err(offline.context("--closed asks for what only a daemon remembers"));
    }
    let filter = options.selection.filter()?;
    let snapshot = Snapshot::take(&filter)?;
    anstream::eprintln!("netconn: {}", snapshot.source().notice());
    let mut output = Output::new(options)?;
    output.head(snapshot.head().as_bytes());
    snapshot.rows(&filter, |row| output.row(row))?;
    output.finish()
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("'{text}' is not a duration like 90s, 5m or 1h 30m"))
}

/// A duration as the daemon's socket takes it: decimal seconds.
fn seconds(duration: Duration) -> String {
    let text = format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_decimal_seconds() {
        let text = |text: &str| duration(text).map(seconds);
        assert_eq!(text("5m").as_deref(), Ok("300"));
        assert_eq!(text("1h 30m").as_deref(), Ok("5400"));
        assert_eq!(text("1500ms").as_deref(), Ok("1.5"));
        assert_eq!(text("0s").as_deref(), Ok("0"));
        assert_eq!(text("5 apples"), Err("'5 apples' is not a duration like 90s, 5m or 1h 30m".into()));
    }
}
