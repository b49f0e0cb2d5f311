//! `netconn list`: a snapshot of all connections.

use std::{
    collections::HashMap,
    io::{self, BufWriter, Write as _},
    net::IpAddr,
};

use anstyle::Style;
use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    cli::{
        Exit, SocketOption, block_on,
        presentation::{Format, Presentation, end},
        selection::Selection,
    },
    client,
    event::{row::Row, state},
    term::{self, style},
};

/// Options of `netconn list`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    presentation: Presentation,
    /// Show them in groups, with the number in each.
    #[arg(long, value_name = "BY", value_enum)]
    group_by: Option<GroupBy>,
    /// Show more columns (as in ss); and end with exit code 1 if there are none (as in grep and jq).
    #[arg(short = 'e', long)]
    extended: bool,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GroupBy {
    State,
    Process,
    User,
    Remote,
    Unit,
    Container,
}

/// Shows the snapshot.
pub(super) fn run(options: &Options) -> Result<Exit> {
    let mut parameters = options.selection.parameters()?;
    let raw = matches!(options.presentation.format, Format::Json | Format::Ndjson);
    let format = if options.presentation.format == Format::Json { "json" } else { "ndjson" };
    parameters.push(("format".into(), format.into()));
    let found = block_on(async {
        let answer = client::get(&options.socket.socket, "/v1/connections", &parameters).await?;
        if raw { copy(answer).await } else { show(options, answer).await }
    })?;
    Ok(if !found && options.extended { Exit::Nothing } else { Exit::Success })
}

/// Copies the daemon's answer as it comes; tells whether there was a row in it.
async fn copy(mut answer: client::Answer) -> Result<bool> {
    let mut out = io::stdout().lock();
    let mut found = false;
    while let Some(part) = answer.part().await? {
        // Every row has this key, and what stands around the rows has not.
        found = found || part.windows(8).any(|bytes| bytes == b"\"state\":");
        out.write_all(&part)?;
    }
    out.flush()?;
    Ok(found)
}

async fn show(options: &Options, answer: client::Answer) -> Result<bool> {
    let mut rows: Vec<Row> = Vec::new();
    answer
        .lines(|line| {
            rows.push(serde_json::from_slice(line)?);
            Ok::<_, anyhow::Error>(true)
        })
        .await?;
    let found = !rows.is_empty();
    if options.presentation.format == Format::Csv {
        csv(&rows, options)?;
    } else {
        table(rows, options)?;
    }
    Ok(found)
}

/// One column of a table.
struct Column {
    heading: &'static str,
    right: bool,
    cell: fn(&Row) -> String,
}

fn or_dash(value: Option<&str>) -> String {
    term::sanitize(value.unwrap_or("-")).into_owned()
}

fn number<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

const COLUMNS: [Column; 8] = [
    Column { heading: "PROTO", right: false, cell: |row| row.protocol.to_lowercase() },
    Column { heading: "STATE", right: false, cell: |row| row.state.clone() },
    Column { heading: "LOCAL", right: false, cell: |row| end(&row.local_address, row.local_port) },
    Column {
        heading: "REMOTE",
        right: false,
        cell: |row| row.remote_address.as_ref().map_or_else(|| "*".into(), |address| end(address, row.remote_port)),
    },
    Column { heading: "PID", right: true, cell: |row| number(row.pid) },
    Column { heading: "PROCESS", right: false, cell: |row| or_dash(row.process_name.as_deref()) },
    Column {
        heading: "USER",
        right: false,
        cell: |row| row.user.as_deref().map_or_else(|| number(row.user_id), |user| or_dash(Some(user))),
    },
    Column {
        heading: "COMMAND",
        right: false,
        cell: |row| or_dash(row.command_line.as_deref().or(row.executable.as_deref())),
    },
];

/// Columns that `-e` adds before the last.
const EXTENDED: [Column; 6] = [
    Column { heading: "DIRECTION", right: false, cell: |row| or_dash(row.direction.as_deref()).to_lowercase() },
    Column { heading: "KNOWN BY", right: false, cell: |row| or_dash(row.attribution.as_deref()) },
    Column {
        heading: "STARTED",
        right: false,
        cell: |row| row.started_at.as_deref().map_or_else(|| "-".into(), |time| time.chars().take(19).collect()),
    },
    Column { heading: "NETNS", right: true, cell: |row| number(row.namespace) },
    Column { heading: "UNIT", right: false, cell: |row| or_dash(row.systemd_unit.as_deref()) },
    Column {
        heading: "CONTAINER",
        right: false,
        cell: |row| row.container_id.as_deref().map_or_else(|| "-".into(), |id| id.chars().take(12).collect()),
    },
];

fn order(row: &Row) -> (usize, u8, Option<IpAddr>, Option<u16>, Option<IpAddr>, Option<u16>) {
    let state = state::ALL.iter().position(|known| state::name(*known) == row.state).unwrap_or(usize::MAX);
    let local: Option<IpAddr> = row.local_address.parse().ok();
    let family = local.map_or(0, |address| if address.is_ipv4() { 4 } else { 6 });
    let remote = row.remote_address.as_deref().and_then(|address| address.parse().ok());
    (state, family, local, row.local_port, remote, row.remote_port)
}

fn table(mut rows: Vec<Row>, options: &Options) -> Result<()> {
    rows.sort_by_cached_key(order);
    if options.resolve {
        resolve(&mut rows);
    }
    let [first @ .., last] = &COLUMNS;
    let extended = EXTENDED.iter().filter(|_| options.extended);
    let columns: Vec<&Column> = first.iter().chain(extended).chain([last]).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect()).collect();
    let heading: Vec<String> = columns.iter().map(|column| column.heading.to_owned()).collect();
    let right: Vec<bool> = columns.iter().map(|column| column.right).collect();
    let limit = options.presentation.limit();
    let all = cells.iter().map(Vec::as_slice).chain((!options.no_header).then_some(&heading[..]));
    let layout = term::Columns::fit(all, &right, limit);

    let mut out = BufWriter::new(anstream::stdout().lock());
    let print_heading = |out: &mut BufWriter<_>| -> io::Result<()> {
        if options.no_header {
            return Ok(());
        }
        writeln!(out, "{}", layout.line(&heading, |_| style::HEADING))
    };
    let print = |out: &mut BufWriter<_>, index: usize| -> io::Result<()> {
        let state = style_of(&rows[index].state);
        writeln!(out, "{}", layout.line(&cells[index], |column| if column == 1 { state } else { Style::new() }))
    };
    match options.group_by {
        None => {
            print_heading(&mut out)?;
            (0..rows.len()).try_for_each(|index| print(&mut out, index))?;
        }
        Some(by) => {
            for (place, (name, members)) in groups(&rows, by).into_iter().enumerate() {
                if place != 0 {
                    writeln!(out)?;
                }
                let heading = style::HEADING;
                writeln!(out, "{heading}{} ({}){heading:#}", term::sanitize(&name), members.len())?;
                print_heading(&mut out)?;
                members.iter().try_for_each(|index| print(&mut out, *index))?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

/// Rows in groups: states in their own order, everything else by size, the largest first.
fn groups(rows: &[Row], by: GroupBy) -> Vec<(String, Vec<usize>)> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let name = match by {
            GroupBy::State => Some(row.state.clone()),
            GroupBy::Process => row.process_name.clone(),
            GroupBy::User => row.user.clone().or_else(|| row.user_id.map(|uid| uid.to_string())),
            GroupBy::Remote => row.remote_address.clone(),
            GroupBy::Unit => row.systemd_unit.clone(),
            GroupBy::Container => row.container_id.clone(),
        };
        let name = name.unwrap_or_else(|| "-".into());
        let place = *places.entry(name.clone()).or_insert_with(|| {
            groups.push((name, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(index);
    }
    if by != GroupBy::State {
        groups.sort_by(|one, other| other.1.len().cmp(&one.1.len()).then_with(|| one.0.cmp(&other.0)));
    }
    groups
}

fn style_of(state: &str) -> Style {
    match state {
        "ESTABLISHED" => style::GOOD,
        "LISTENING" => style::QUIET,
        "SYN_SENT" | "SYN_RECV" | "CLOSE_WAIT" => style::CAUTION,
        _ => style::FAINT,
    }
}

/// Puts host names for addresses, each looked up once.
fn resolve(rows: &mut [Row]) {
    let mut names: HashMap<String, String> = HashMap::new();
    let mut name = |address: &mut String| {
        let found = names.entry(address.clone()).or_insert_with(|| {
            let parsed: Option<IpAddr> = address.parse().ok();
            let any = parsed.is_none_or(|parsed| parsed.is_unspecified());
            let host = if any { None } else { parsed.and_then(|parsed| dns_lookup::lookup_addr(&parsed).ok()) };
            host.map_or_else(|| address.clone(), |host| term::sanitize(&host).into_owned())
        });
        address.clone_from(found);
    };
    for row in rows {
        name(&mut row.local_address);
        if let Some(remote) = &mut row.remote_address {
            name(remote);
        }
    }
}

fn csv(rows: &[Row], options: &Options) -> Result<()> {
    type Cell = fn(&Row) -> Option<String>;
    const CELLS: [(&str, Cell); 19] = [
        ("state", |row| Some(row.state.clone())),
        ("protocol", |row| Some(row.protocol.clone())),
        ("direction", |row| row.direction.clone()),
        ("local_address", |row| Some(row.local_address.clone())),
        ("local_port", |row| row.local_port.map(|port| port.to_string())),
        ("remote_address", |row| row.remote_address.clone()),
        ("remote_port", |row| row.remote_port.map(|port| port.to_string())),
        ("pid", |row| row.pid.map(|pid| pid.to_string())),
        ("process_name", |row| row.process_name.clone()),
        ("user", |row| row.user.clone()),
        ("user_id", |row| row.user_id.map(|uid| uid.to_string())),
        ("executable", |row| row.executable.clone()),
        ("command_line", |row| row.command_line.clone()),
        ("attribution", |row| row.attribution.clone()),
        ("started_at", |row| row.started_at.clone()),
        ("namespace", |row| row.namespace.map(|inode| inode.to_string())),
        ("container_id", |row| row.container_id.clone()),
        ("systemd_unit", |row| row.systemd_unit.clone()),
        ("connection_id", |row| row.connection_id.clone()),
    ];
    let mut out = csv::Writer::from_writer(io::stdout().lock());
    if !options.no_header {
        out.write_record(CELLS.map(|(name, _)| name))?;
    }
    for row in rows {
        out.write_record(CELLS.map(|(_, cell)| cell(row).unwrap_or_default()))?;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted() {
        let row = |state: &str, process: &str| Row {
            state: state.into(),
            process_name: Some(process.into()),
            ..Row::default()
        };
        let rows = [row("LISTENING", "a"), row("ESTABLISHED", "b"), row("ESTABLISHED", "b"), row("FIN_WAIT1", "c")];
        let by_state: Vec<_> =
            groups(&rows, GroupBy::State).into_iter().map(|(name, rows)| (name, rows.len())).collect();
        assert_eq!(by_state, [("LISTENING".into(), 1), ("ESTABLISHED".into(), 2), ("FIN_WAIT1".into(), 1)]);
        assert_eq!(groups(&rows, GroupBy::Process)[0], ("b".into(), vec![1, 2]));
        assert_eq!(groups(&rows, GroupBy::Unit), [("-".into(), vec![0, 1, 2, 3])]);
    }
}
