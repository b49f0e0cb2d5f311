//! `netconn list --raw`: the sockets that no hook sees.

use std::io::{self, Write};

use anstyle::Style;
use anyhow::{Context as _, Result};
use netconn_model::{
    client,
    exit::Exit,
    packet_socket::{PacketHead, PacketRow},
    term::{Columns, style},
};

use crate::{
    cli::{
        block_on,
        list::{Options, columns::or_dash, is_offline},
        presentation::Format,
    },
    daemonless,
};

/// Shows them.
pub(super) fn run(options: &Options) -> Result<Exit> {
    let answered = block_on(async {
        let mut answer = client::get(options.socket.path(), "/v1/packet-sockets", &[]).await?;
        let mut text = Vec::new();
        while let Some(part) = answer.part().await? {
            text.extend_from_slice(&part);
        }
        Ok(text)
    });
    let answer = match answered {
        Err(error) if is_offline(&error) && !options.socket.is_named() => {
            let (source, answer) = daemonless::packet_sockets()?;
            anstream::eprintln!("netconn: {}", source.notice());
            answer.to_vec()
        }
        answered => answered?,
    };
    let text = std::str::from_utf8(&answer).context("the daemon's answer is no text")?;
    let (head, rows) = parts(text);
    let head: PacketHead = serde_json::from_str(&format!("{head}]}}")).context("the daemon's answer is cut off")?;
    let heading = !options.no_header;
    match options.presentation.format {
        Format::Json => io::stdout().write_all(&answer)?,
        Format::Ndjson => rows.iter().try_for_each(|row| writeln!(io::stdout(), "{row}"))?,
        Format::Csv => csv(io::stdout().lock(), &parsed(&rows)?, heading)?,
        Format::Table => table(&mut anstream::stdout().lock(), &parsed(&rows)?, options.presentation.limit(), heading)?,
    }
    // In no form does a list seem whole that is not.
    for what in &head.unlisted {
        anstream::eprintln!("netconn: {}", netconn_model::term::sanitize(what));
    }
    Ok(Exit::Success)
}

/// What stands before the rows, up to the opening bracket, and the rows: each is a line of its own.
fn parts(answer: &str) -> (&str, Vec<&str>) {
    let (head, rest) = answer.split_once('\n').unwrap_or((answer, ""));
    let rows = rest.lines().filter(|line| line.starts_with('{'));
    (head, rows.map(|line| line.strip_suffix(',').unwrap_or(line)).collect())
}

fn parsed(rows: &[&str]) -> Result<Vec<PacketRow>> {
    rows.iter().map(|row| Ok(serde_json::from_str(row)?)).collect()
}

const HEADINGS: [&str; 8] = ["FAMILY", "PROTOCOL", "INTERFACE", "NAMESPACE", "PID", "PROCESS", "USER", "COMMAND"];
/// Numbers stand to the right.
const RIGHT: [bool; 8] = [false, false, false, true, true, false, false, false];

fn cells(row: &PacketRow) -> Vec<String> {
    let number = |value: Option<u32>| value.map_or_else(|| "-".into(), |value| value.to_string());
    let protocol = row.protocol.as_deref().map(str::to_lowercase);
    let interface = match row.interface_index {
        // Whatever comes in, wherever.
        Some(0) if row.family == "AF_PACKET" => "*".into(),
        Some(index @ 1..) => row.interface.as_deref().map_or_else(|| index.to_string(), |name| or_dash(Some(name))),
        _ => "-".into(),
    };
    vec![
        or_dash(Some(&row.family)),
        or_dash(protocol.as_deref()),
        interface,
        number(row.namespace),
        number(row.pid),
        or_dash(row.process_name.as_deref()),
        row.user.as_deref().map_or_else(|| number(row.user_id), |user| or_dash(Some(user))),
        or_dash(row.command_line.as_deref().or(row.executable.as_deref())),
    ]
}

fn table(out: &mut impl Write, rows: &[PacketRow], limit: Option<usize>, heading: bool) -> io::Result<()> {
    let mut columns = Columns::new(&RIGHT, limit);
    let headings = HEADINGS.map(str::to_owned);
    if heading {
        columns.widen(&headings);
    }
    let rows: Vec<_> = rows.iter().map(cells).collect();
    rows.iter().for_each(|row| columns.widen(row));
    if heading {
        writeln!(out, "{}", columns.line(&headings, |_| style::HEADING))?;
    }
    rows.iter().try_for_each(|row| writeln!(out, "{}", columns.line(row, |_| Style::new())))?;
    out.flush()
}

type Field = fn(&PacketRow) -> Option<String>;

/// The fields of CSV, named as in JSON.
const FIELDS: [(&str, Field); 14] = [
    ("family", |row| Some(row.family.clone())),
    ("protocol", |row| row.protocol.clone()),
    ("interface", |row| row.interface.clone()),
    ("interface_index", |row| row.interface_index.map(|index| index.to_string())),
    ("namespace", |row| row.namespace.map(|inode| inode.to_string())),
    ("inode", |row| row.inode.map(|inode| inode.to_string())),
    ("pid", |row| row.pid.map(|pid| pid.to_string())),
    ("process_name", |row| row.process_name.clone()),
    ("user", |row| row.user.clone()),
    ("user_id", |row| row.user_id.map(|uid| uid.to_string())),
    ("executable", |row| row.executable.clone()),
    ("command_line", |row| row.command_line.clone()),
    ("container_id", |row| row.container_id.clone()),
    ("systemd_unit", |row| row.systemd_unit.clone()),
];

fn csv(out: impl Write, rows: &[PacketRow], heading: bool) -> Result<()> {
    let mut out = csv::Writer::from_writer(out);
    if heading {
        out.write_record(FIELDS.map(|(name, _)| name))?;
    }
    for row in rows {
        out.write_record(FIELDS.map(|(_, field)| field(row).unwrap_or_default()))?;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "{\"unlisted\":[],\"sockets\":[\n{\"family\":\"AF_PACKET\",\"protocol\":\"ALL\",\
        \"interface_index\":0,\"namespace\":7,\"inode\":5,\"pid\":1234,\"process_name\":\"a\\u001bb\",\"user_id\":0},\n\
        {\"family\":\"AF_XDP\",\"interface\":\"eth0\",\"interface_index\":2}\n]}\n";

    #[test]
    fn answers_are_taken_apart() {
        let (head, rows) = parts(ANSWER);
        assert_eq!((head, rows.len()), ("{\"unlisted\":[],\"sockets\":[", 2));
        assert_eq!(parts("{\"sockets\":[\n\n]}\n"), ("{\"sockets\":[", vec![]));
        assert_eq!(parts(""), ("", vec![]));
        assert!(parsed(&["{"]).is_err());
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_nothing_moves_the_terminal() {
        let mut out = Vec::new();
        table(&mut out, &parsed(&parts(ANSWER).1).unwrap(), None, true).unwrap();
        let text = anstream::adapter::strip_bytes(&out).into_vec();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "FAMILY     PROTOCOL  INTERFACE  NAMESPACE   PID  PROCESS  USER  COMMAND\n\
             AF_PACKET  all       *                  7  1234  a\u{fffd}b      0     -\n\
             AF_XDP     -         eth0               -     -  -        -     -\n"
        );
    }

    #[test]
    fn csv_has_all_members_of_rows() {
        let full = PacketRow { interface: Some("lo".into()), systemd_unit: Some("x".into()), ..PacketRow::default() };
        for (name, value) in serde_json::to_value(&full).unwrap().as_object().unwrap() {
            let field = FIELDS.iter().find(|(field, _)| field == name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((field.1)(&full).as_deref(), value.as_str(), "{name}");
        }
        let mut out = Vec::new();
        csv(&mut out, &parsed(&parts(ANSWER).1).unwrap(), false).unwrap();
        assert!(String::from_utf8(out).unwrap().starts_with("AF_PACKET,ALL,,0,7,5,1234,a\u{1b}b,,0,,,,\n"));
    }
}
