//! `netconn list --packet`: packet sockets.

use std::io::{self, Write};

use anstyle::Style;
use anyhow::{Context as _, Result};
use netconn_model::{
    csv_cell::CsvCells,
    exit::Exit,
    packet_socket::{PACKET_FIELDS, PacketSocketRow},
    snapshot::{self, SnapshotHead, SnapshotLine},
    term::{self, Columns, style},
};

use crate::{
    cli::{
        block_on,
        list::{ListOptions, is_offline, redactor_of_host},
        presentation::Format,
    },
    daemonless,
};

/// Shows all packet sockets.
pub(super) fn run(options: &ListOptions) -> Result<Exit> {
    let client = options.socket.client();
    // The whole answer at once: a host has few packet sockets.
    let answered = block_on(async { Ok(client.packet_sockets().await?) });
    let answer = match answered {
        Err(error) if is_offline(&error) && !options.socket.is_named() => {
            let (source, answer) = daemonless::packet_sockets(redactor_of_host()?)?;
            netconn_model::tell!("netconn: {}", source.notice());
            answer.to_vec()
        }
        answered => answered?,
    };
    let (head, lines) = parts(&answer).context("the daemon's answer cannot be read")?;
    let heading = !options.no_header;
    match options.format {
        Format::Json => io::stdout().write_all(&answer)?,
        Format::Ndjson => {
            let mut out = io::stdout().lock();
            for line in &lines {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
        }
        Format::Csv | Format::CsvRaw => {
            csv(io::stdout().lock(), &parsed(&lines)?, heading, options.format.csv_cells())?;
        }
        // Another format has no packet sockets, and is refused before.
        Format::Table | Format::Other(_) => {
            table(&mut anstream::stdout().lock(), &parsed(&lines)?, options.presentation.limit(), heading)?;
        }
    }
    // No format makes a list seem whole that is not.
    for sentence in head.unlisted.iter().flatten() {
        netconn_model::tell!("netconn: {}", term::sanitize(sentence));
    }
    Ok(Exit::Success)
}

/// Returns what stands before the rows, and the rows.
fn parts(answer: &[u8]) -> Result<(SnapshotHead, Vec<&[u8]>)> {
    let (mut head, mut rows) = (None, Vec::new());
    // An empty piece behind the last line feed is a `Tail` too.
    for line in answer.split(|byte| *byte == b'\n') {
        match snapshot::read_line(line) {
            SnapshotLine::Head(line) => head = Some(snapshot::read_head(line)?),
            SnapshotLine::Row(row) => rows.push(row),
            SnapshotLine::Tail => {}
        }
    }
    Ok((head.context("its beginning is missing")?, rows))
}

fn parsed<'a>(lines: &[&'a [u8]]) -> Result<Vec<PacketSocketRow<'a>>> {
    lines.iter().map(|line| Ok(serde_json::from_slice(line)?)).collect()
}

const HEADINGS: [&str; 8] = ["FAMILY", "PROTOCOL", "INTERFACE", "NAMESPACE", "PID", "PROCESS", "USER", "COMMAND"];
/// Numbers stand to the right.
const RIGHT: [bool; 8] = [false, false, false, true, true, false, false, false];

fn cells(row: &PacketSocketRow<'_>) -> Vec<String> {
    let number = |value: Option<u32>| value.map_or_else(|| "-".into(), |value| value.to_string());
    let text = |value: Option<&str>| term::sanitize(value.unwrap_or("-")).into_owned();
    let interface = match row.interface_index {
        // It receives what comes in at any interface.
        Some(0) if row.family.as_deref() == Some("AF_PACKET") => "*".into(),
        Some(index @ 1..) => row.interface.as_deref().map_or_else(|| index.to_string(), |name| text(Some(name))),
        _ => "-".into(),
    };
    vec![
        text(row.family.as_deref()),
        text(row.protocol.as_deref()).to_lowercase(),
        interface,
        number(row.namespace),
        number(row.pid),
        text(row.process_name.as_deref()),
        row.user.as_deref().map_or_else(|| number(row.user_id), |user| text(Some(user))),
        text(row.command_line.as_deref().or(row.executable.as_deref())),
    ]
}

fn table(out: &mut impl Write, rows: &[PacketSocketRow<'_>], limit: Option<usize>, heading: bool) -> io::Result<()> {
    let mut columns = Columns::new(&RIGHT, limit);
    let headings = HEADINGS.map(str::to_owned);
    // A heading that is not printed takes no room.
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

fn csv(out: impl Write, rows: &[PacketSocketRow<'_>], heading: bool, cells: CsvCells) -> Result<()> {
    let mut out = csv::Writer::from_writer(out);
    if heading {
        out.write_record(PACKET_FIELDS.iter().map(|field| field.name))?;
    }
    for row in rows {
        let cell = |field| cells.value(row.value(field).as_ref());
        out.write_record(PACKET_FIELDS.iter().map(|info| cell(info.field)))?;
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
        let (head, rows) = parts(ANSWER.as_bytes()).unwrap();
        assert_eq!((head, rows.len()), (SnapshotHead { unlisted: Some(Vec::new()), ..SnapshotHead::default() }, 2));
        assert_eq!(parts(b"{\"sockets\":[\n\n]}\n").unwrap().1.len(), 0);
        assert!(parts(b"").is_err());
        assert!(parsed(&[b"{"]).is_err());
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_nothing_moves_the_terminal() {
        let mut out = Vec::new();
        table(&mut out, &parsed(&parts(ANSWER.as_bytes()).unwrap().1).unwrap(), None, true).unwrap();
        let text = anstream::adapter::strip_bytes(&out).into_vec();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "FAMILY     PROTOCOL  INTERFACE  NAMESPACE   PID  PROCESS  USER  COMMAND\n\
             AF_PACKET  all       *                  7  1234  a\u{fffd}b      0     -\n\
             AF_XDP     -         eth0               -     -  -        -     -\n"
        );
    }

    #[test]
    fn csv_has_the_names_of_json() {
        let mut out = Vec::new();
        csv(&mut out, &parsed(&parts(ANSWER.as_bytes()).unwrap().1).unwrap(), false, CsvCells::Guarded).unwrap();
        assert!(String::from_utf8(out).unwrap().starts_with("AF_PACKET,ALL,,0,7,5,1234,a\u{1b}b,,0,,,,,\n"));
    }
}
