//! `netconn list --summary`: how many rows there are of each protocol, state and version of IP.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anstyle::Style;
use anyhow::Result;
use netconn_model::{
    row::{Row, state_place},
    term::{Columns, style},
};
use serde_json::{Value, json};

use crate::cli::presentation::Format;

/// Counts of a protocol in a state.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ipv4: u64,
    ipv6: u64,
    /// Rows without an address of IP.
    other: u64,
}

impl Count {
    fn all(self) -> u64 {
        self.ipv4 + self.ipv6 + self.other
    }
}

/// Counts rows by protocol, state and version of IP.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// By protocol and state; states in the order in which they are listed.
    counts: BTreeMap<(String, usize, String), Count>,
}

impl Summary {
    /// Counts a row that is given as a JSON object.
    pub(super) fn add(&mut self, row: &[u8]) -> Result<()> {
        let row: Row<'_> = serde_json::from_slice(row)?;
        let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let key = (text(row.protocol.as_deref()), state_place(&row), text(row.state.as_deref()));
        let count = self.counts.entry(key).or_default();
        match row.local_address {
            Some(address) if address.is_ipv6() => count.ipv6 += 1,
            None if row.protocol.as_deref().is_some_and(has_no_address) => count.other += 1,
            _ => count.ipv4 += 1,
        }
        Ok(())
    }

    /// Prints the counts.
    pub(super) fn print(self, out: &mut impl Write, format: Format, limit: Option<usize>, heading: bool) -> Result<()> {
        let lines: Vec<(String, String, Count)> =
            self.counts.into_iter().map(|((protocol, _, state), count)| (protocol, state, count)).collect();
        let total = lines.iter().fold(Count::default(), |sum, (_, _, count)| Count {
            ipv4: sum.ipv4 + count.ipv4,
            ipv6: sum.ipv6 + count.ipv6,
            other: sum.other + count.other,
        });
        match format {
            // Another format has no counts, and is refused before.
            Format::Table | Format::Other(_) => table(out, &lines, total, limit, heading)?,
            Format::Json => {
                let groups: Vec<Value> = lines.iter().map(object).collect();
                writeln!(out, "{}", json!({ "count": total.all(), "groups": groups }))?;
            }
            Format::Ndjson => lines.iter().try_for_each(|line| writeln!(out, "{}", object(line)))?,
            Format::Csv | Format::CsvRaw => {
                let mut out = csv::Writer::from_writer(out);
                if heading {
                    out.write_record(["protocol", "state", "ipv4", "ipv6", "count"])?;
                }
                for (protocol, state, count) in &lines {
                    let numbers = [count.ipv4, count.ipv6, count.all()].map(|number| number.to_string());
                    out.write_record([protocol, state].into_iter().chain(&numbers))?;
                }
                out.flush()?;
            }
        }
        Ok(())
    }
}

fn object((protocol, state, count): &(String, String, Count)) -> Value {
    let Count { ipv4, ipv6, .. } = count;
    json!({ "protocol": protocol, "state": state, "ipv4": ipv4, "ipv6": ipv6, "count": count.all() })
}

/// Returns whether sockets of a protocol, as rows name it, have no address of IP.
fn has_no_address(protocol: &str) -> bool {
    protocol.starts_with("UNIX_") || protocol.starts_with("VSOCK_")
}

fn table(
    out: &mut impl Write,
    lines: &[(String, String, Count)],
    total: Count,
    limit: Option<usize>,
    heading: bool,
) -> io::Result<()> {
    let headings = ["PROTO", "STATE", "IPV4", "IPV6", "ALL"].map(str::to_owned);
    let cells = |protocol: &str, state: &str, count: Count| {
        let [v4, v6, all] = [count.ipv4, count.ipv6, count.all()].map(|number| number.to_string());
        [protocol.to_lowercase(), state.to_owned(), v4, v6, all]
    };
    let mut rows: Vec<_> = lines.iter().map(|(protocol, state, count)| cells(protocol, state, *count)).collect();
    rows.push(cells("all", "", total));
    let mut columns = Columns::new(&[false, false, true, true, true], limit);
    // A heading that is not printed takes no room.
    if heading {
        columns.widen(&headings);
    }
    rows.iter().for_each(|row| columns.widen(row));
    if heading {
        writeln!(out, "{}", columns.line(&headings, |_| style::HEADING))?;
    }
    rows.iter().try_for_each(|row| writeln!(out, "{}", columns.line(row, |_| Style::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(format: Format) -> String {
        let mut summary = Summary::default();
        for row in [
            r#"{"state":"TIME_WAIT","protocol":"TCP","local_address":"10.0.0.1"}"#,
            r#"{"state":"LISTENING","protocol":"TCP","local_address":"::"}"#,
            r#"{"state":"LISTENING","protocol":"TCP","local_address":"0.0.0.0"}"#,
            r#"{"state":"ESTABLISHED","protocol":"UDP","local_address":"10.0.0.1"}"#,
            r#"{"state":"LISTENING","protocol":"UNIX_STREAM","local_path":"/run/x"}"#,
        ] {
            summary.add(row.as_bytes()).unwrap();
        }
        let mut out = Vec::new();
        summary.print(&mut out, format, None, true).unwrap();
        anstream::adapter::strip_str(std::str::from_utf8(&out).unwrap()).to_string()
    }

    #[test]
    fn rows_are_counted_by_protocol_state_and_version() {
        assert_eq!(
            printed(Format::Table),
            "PROTO        STATE        IPV4  IPV6  ALL\n\
             tcp          LISTENING       1     1    2\n\
             tcp          TIME_WAIT       1     0    1\n\
             udp          ESTABLISHED     1     0    1\n\
             unix_stream  LISTENING       0     0    1\n\
             all                          3     1    5\n"
        );
        assert!(printed(Format::Csv).ends_with("UDP,ESTABLISHED,1,0,1\nUNIX_STREAM,LISTENING,0,0,1\n"));
        let json: Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!((&json["count"], json["groups"][0]["ipv6"].as_u64()), (&json!(5), Some(1)));
        assert_eq!(printed(Format::Ndjson).lines().count(), 4);
    }
}
