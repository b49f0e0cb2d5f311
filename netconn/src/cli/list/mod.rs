//! `netconn list`: a snapshot of all connections and flows.

mod count;
mod group;
mod output;
mod packet;
mod summary;
mod table;

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::Result;
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use netconn_model::{
    client::{ClientError, RowFormat},
    config::{Config, ConfigError},
    exit::Exit,
    filter::FilterError,
    read_ahead::ReadAhead,
    row::{COLUMNS, RowColumn, RowSortKey, column_by_name, group_names},
    snapshot::RowSearch,
    socket_kind::{SocketKind, SocketKinds},
};
use netconn_query::evaluate::Predicate;
use nix::fcntl::{FcntlArg, fcntl};
use thiserror::Error;

use crate::{
    cli::{
        SocketOption, block_on,
        expression::{About, ExpressionOption},
        list::output::Output,
        presentation::{Format, FormatParser, Presentation},
        selection::{self, Selection},
        tell,
    },
    daemonless::{Snapshot, Wanted},
    process::redact::Redactor,
};

/// Size to which a pipe on standard output is enlarged, bytes: the most that any user may set (`pipe(7)`).
const PIPE_BYTES: i32 = 1 << 20;

/// The format that was asked for has no place for what was asked for.
#[derive(Clone, Copy, Debug, Error)]
#[error("--format {format} has no place for {what}: use json, ndjson, csv or table")]
pub(super) struct NoPlace {
    format: &'static str,
    what: &'static str,
}

/// Options of `netconn list`.
#[derive(Debug, Args)]
pub(super) struct ListOptions {
    /// Form of the output.
    #[arg(long, default_value = "table", value_parser = FormatParser)]
    format: Format,
    #[command(flatten)]
    presentation: Presentation,
    #[arg(
        long,
        value_name = "COLUMN",
        value_delimiter = ',',
        allow_hyphen_values = true,
        value_parser = RowSortKey::parse,
        conflicts_with = "count",
        help = sort_help()
    )]
    sort: Vec<RowSortKey>,
    /// Group the rows by this column and show the size of each group. Keeps all rows in memory, except with --count.
    #[arg(long, value_name = "BY", value_parser = group_columns())]
    group_by: Option<&'static RowColumn>,
    /// Print only the number of rows; with --group-by the number in each group, the largest first.
    #[arg(long)]
    count: bool,
    /// Print how many rows there are of each protocol, state and version of IP.
    #[arg(short = 's', long, conflicts_with_all = ["count", "group_by", "sort"])]
    summary: bool,
    /// Also show connections that ended within this time, such as 90s or 5m. The daemon remembers the last ten minutes, and
    /// 16 MiB at most: about 60,000 connections.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    closed: Option<Duration>,
    /// Show more columns (as in ss), and exit with 1 if nothing was found (as in grep and jq).
    #[arg(short = 'e', long, overrides_with = "extended")]
    extended: bool,
    /// Show queues: what the process has not read and the peer has not acknowledged, in bytes; of listeners, the connections that wait
    /// and how many may.
    #[arg(short = 'q', long)]
    queues: bool,
    /// Show TCP's own figures (round-trip time, congestion window, retransmissions, rates) and the interface, with the queues. JSON and
    /// CSV have more of them.
    #[arg(short = 'i', long)]
    info: bool,
    /// Show the timer of TCP that runs, when it expires and how often it has, with the queues.
    #[arg(short = 'o', long, visible_alias = "options")]
    timers: bool,
    /// Show all processes that have each socket open, with their descriptors, and the inode of the socket. The process of a row is
    /// the one that uses the socket, or its oldest holder.
    #[arg(long)]
    holders: bool,
    /// Show packet sockets (AF_PACKET as of tcpdump, AF_XDP) and their processes instead. Their traffic appears in no list and no
    /// event.
    #[arg(
        short = '0',
        long,
        conflicts_with_all = ["sort", "group_by", "count", "summary", "closed", "extended", "queues", "info", "timers", "holders", "resolve", "KindFlags", "SelectionFlags", "FilterOptions", "ExpressionOption"]
    )]
    packet: bool,
    /// Print no heading.
    #[arg(short = 'H', long)]
    no_header: bool,
    /// Show host names instead of addresses.
    #[arg(short = 'r', long)]
    resolve: bool,
    #[command(flatten)]
    socket: SocketOption,
    #[command(flatten)]
    expression: ExpressionOption,
    // Last: their heading would hold for what follows.
    #[command(flatten)]
    kinds: KindFlags,
    #[command(flatten)]
    selection: Selection,
}

/// Flags for kinds of sockets that are no connections. As in ss, each adds to the others and to -t, -u, --icmp and -w; alone, it leaves
/// connections out.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which connections")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct KindFlags {
    /// Unix sockets, with both ends: path or abstract name, inode, peer and the peer's process.
    #[arg(short = 'x', long)]
    unix: bool,
    /// SCTP associations and listeners.
    #[arg(short = 'S', long)]
    sctp: bool,
    /// MPTCP connections as such, with token and number of further paths: a list without -M has their paths, which are TCP.
    #[arg(short = 'M', long)]
    mptcp: bool,
    /// Sockets between virtual machines and their host.
    #[arg(long)]
    vsock: bool,
}

impl ListOptions {
    /// Whether rows can be shown in the order in which they come.
    fn is_stream(&self) -> bool {
        self.sort.is_empty() && self.group_by.is_none()
    }

    /// Whether the daemon's answer is what is to be shown, byte for byte.
    fn is_copy(&self) -> bool {
        !self.summary
            && self.expression.is_none()
            && self.is_stream()
            && !self.count
            && matches!(self.format, Format::Json | Format::Ndjson)
    }

    /// Whether what the kernel measures of sockets is asked for: by an option, a column or the condition.
    fn wants_infos(&self) -> bool {
        self.queues
            || self.info
            || self.timers
            || self.sort.iter().any(RowSortKey::is_info)
            || self.group_by.is_some_and(RowColumn::is_info)
            || self.expression.has_info()
    }

    /// Whether all processes that have each socket open are asked for: by the option, or because the format has a row for each.
    fn wants_holders(&self) -> bool {
        self.holders || self.format.other().is_some_and(|format| format.wants_holders)
    }

    /// Refuses a format that knows rows only where there are none.
    fn check_format(&self) -> Result<()> {
        let Some(format) = self.format.other() else { return Ok(()) };
        let what = match () {
            () if self.packet => "packet sockets",
            () if self.count || self.summary => "numbers of connections",
            () if self.socket_kinds().others().any(|kind| kind != SocketKind::Raw) => "sockets that are no connections",
            () => return Ok(()),
        };
        Err(NoPlace { format: format.name, what }.into())
    }

    /// Whether rows of connections are to have the inode of their socket.
    fn wants_inodes(&self) -> bool {
        self.extended || self.sort.iter().any(RowSortKey::is_inode)
    }

    /// Returns the kinds of sockets that are asked for.
    fn socket_kinds(&self) -> SocketKinds {
        let KindFlags { unix, sctp, mptcp, vsock } = self.kinds;
        let raw = self.selection.wants_raw();
        let flags = [
            (raw, SocketKind::Raw),
            (unix, SocketKind::Unix),
            (sctp, SocketKind::Sctp),
            (mptcp, SocketKind::Mptcp),
            (vsock, SocketKind::Vsock),
        ];
        let given = flags.into_iter().filter(|(is_given, _)| *is_given);
        let others = given.fold(SocketKinds::NONE, |kinds, (_, kind)| kinds.with(kind));
        // A version of IP asks for connections where nothing else that is asked for has one.
        let is_ip = self.selection.names_family() && !others.others().any(SocketKind::has_addresses);
        if !others.has_others() || self.selection.names_protocol() || is_ip {
            others.with(SocketKind::Connections)
        } else {
            others
        }
    }

    /// Whether what stands around the rows is wanted too.
    fn is_object(&self) -> bool {
        self.format == Format::Json && !self.count && !self.summary
    }
}

/// Shows the snapshot.
pub(super) fn run(options: &ListOptions) -> Result<Exit> {
    options.check_format()?;
    // Before the selection is read: packet sockets have none.
    if options.packet {
        return packet::run(options);
    }
    // Read before the daemon is asked: a wrong option is reported with or without one.
    let selected = options.selection.parameters()?;
    let mut parameters = selected.clone();
    let predicate = options.expression.predicate(About::Rows)?;
    if options.selection.wants_failed() && options.closed.is_none() {
        tell("an attempt that failed is over: --closed 5m lists those of the last five minutes");
    }
    if let Some(closed) = options.closed {
        parameters.push(("closed".into(), seconds(closed)));
    }
    if options.wants_infos() {
        parameters.push(("info".into(), "1".into()));
    }
    if options.wants_holders() {
        parameters.push(("holders".into(), "true".into()));
    } else if options.wants_inodes() {
        parameters.push(("inode".into(), "true".into()));
    }
    let kinds = options.socket_kinds();
    if kinds.has_others() {
        if options.closed.is_some() && !kinds.has_connections() {
            let message = "only connections that have ended are remembered: add -t, -u or --icmp".into();
            return Err(FilterError { parameter: "--closed".into(), message }.into());
        }
        parameters.push(("sockets".into(), kinds.in_words()));
    }
    // NDJSON wherever the head is not shown: there is less to take apart.
    let format = if options.is_object() { RowFormat::Json } else { RowFormat::Ndjson };
    let answered = block_on(async {
        let answer = ReadAhead::rows(&options.socket.client(), &parameters, format, tell).await?;
        if options.is_copy() { copy(answer, format).await } else { show(options, predicate.as_ref(), answer).await }
    });
    let found = match answered {
        // Only if nothing listens. A daemon that is slow or refuses must not look like none.
        Err(error) if is_offline(&error) && !options.socket.is_named() => {
            alone(options, predicate.as_ref(), &selected, error)?
        }
        answered => answered?,
    };
    Ok(if !found && options.extended { Exit::Nothing } else { Exit::Success })
}

/// Copies the daemon's answer as it comes; returns whether there was a row in it.
async fn copy(mut answer: ReadAhead, format: RowFormat) -> Result<bool> {
    // Not by way of the standard output that writes whole lines: megabytes come at once.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // With a larger pipe the reader is woken less often. An error means that it is no pipe.
    let _ = fcntl(&out, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let mut search = RowSearch::new(format == RowFormat::Json);
    while let Some(part) = answer.part().await? {
        search.look(&part);
        out.write_all(&part)?;
    }
    Ok(search.is_found())
}

async fn show(options: &ListOptions, predicate: Option<&Predicate>, answer: ReadAhead) -> Result<bool> {
    let mut output = Output::new(options, predicate)?;
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
fn alone(
    options: &ListOptions,
    predicate: Option<&Predicate>,
    parameters: &[(String, String)],
    offline: anyhow::Error,
) -> Result<bool> {
    // Refused and not left out: an empty list would look as if nothing had ended.
    if options.closed.is_some() {
        return Err(offline.context("--closed asks for what only a daemon remembers"));
    }
    let filter = selection::filter(parameters)?;
    let (infos, kinds) = (options.wants_infos(), options.socket_kinds());
    let wanted = Wanted { infos, holders: options.wants_holders(), inodes: options.wants_inodes(), kinds };
    let snapshot = Snapshot::take(&filter, wanted, redactor_of_host()?)?;
    // Before the rows: they may be less than the user expects, and go to standard output.
    netconn_model::tell!("netconn: {}", snapshot.source().notice());
    snapshot.unlisted().iter().chain(snapshot.absent()).for_each(|sentence| tell(sentence));
    if infos && !snapshot.has_infos() {
        tell("queues, timers and TCP's figures are missing, because this process may not use sock_diag");
    }
    let mut output = Output::new(options, predicate)?;
    output.head(&snapshot.head());
    snapshot.rows(&filter, infos, |row| output.row(row))?;
    output.finish()
}

/// Returns what takes secrets out of command lines here, as the configuration of this host says. Without the right to read that, it is
/// on.
fn redactor_of_host() -> Result<Redactor> {
    match Config::load(None) {
        Ok(config) => Ok(Redactor::new(config.redact, &config.redact_patterns)?),
        Err(ConfigError::Read { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
            tell(
                "this user may not read the configuration: secrets are taken out of command lines without its redact_patterns",
            );
            Ok(Redactor::default())
        }
        Err(error) => Err(error.into()),
    }
}

/// Names the columns that rows can be sorted by.
fn sort_help() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    format!(
        "Sort by these columns; `-` before a name sorts in descending order: --sort=-sent,process. Columns: {}. Keeps all rows in \
         memory",
        names.join(", ")
    )
}

/// The columns that rows can be grouped by, as clap shows them in help and errors. `port` is the port of this end.
fn group_columns() -> impl TypedValueParser<Value = &'static RowColumn> {
    let values = group_names().map(|name| {
        let value = PossibleValue::new(name);
        if name == "local-port" { value.alias("port") } else { value }
    });
    let parser = PossibleValuesParser::new(values);
    parser.try_map(|name| column_by_name(if name == "port" { "local-port" } else { &name }))
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("'{text}' is not a duration like 90s, 5m or 1h 30m"))
}

/// A duration as the daemon's socket takes it: decimal seconds.
fn seconds(duration: Duration) -> String {
    // Digits and no float, so that nothing is rounded. Trimming zeros stops at the point: 10 s does not become 1 s.
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
