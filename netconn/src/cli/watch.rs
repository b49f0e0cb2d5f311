//! `netconn watch`: events as they happen.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use netconn_model::{
    client,
    exit::Exit,
    term::{self, style},
};
use serde::Deserialize;

use crate::cli::{
    SocketOption, block_on,
    presentation::{Format, Presentation, end},
    selection::Selection,
};

/// Options of `netconn watch`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    presentation: Presentation,
    /// End after this many events.
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    #[command(flatten)]
    socket: SocketOption,
    // Last: its heading would hold for what follows.
    #[command(flatten)]
    selection: Selection,
}

/// What is shown of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "event.type")]
    kind: String,
    #[serde(rename = "event.time")]
    time_ms: i64,
    #[serde(rename = "event.network.protocol")]
    protocol: String,
    #[serde(rename = "event.network.direction")]
    direction: Option<String>,
    #[serde(rename = "event.network.connectionStatus")]
    status: Option<String>,
    #[serde(rename = "event.network.failureReason")]
    failure: Option<String>,
    #[serde(rename = "event.network.closeReason")]
    close: Option<String>,
    #[serde(rename = "event.network.folded")]
    folded: bool,
    #[serde(rename = "event.network.icmpType")]
    icmp_type: Option<u8>,
    #[serde(rename = "event.network.bytesSent")]
    sent: Option<u64>,
    #[serde(rename = "event.network.bytesReceived")]
    received: Option<u64>,
    #[serde(rename = "event.network.durationMs")]
    duration_ms: Option<f64>,
    #[serde(rename = "event.network.connectLatencyUs")]
    latency_us: Option<u64>,
    #[serde(rename = "local.ip.address")]
    local: Option<String>,
    #[serde(rename = "local.port.number")]
    local_port: Option<u16>,
    #[serde(rename = "remote.ip.address")]
    remote: Option<String>,
    #[serde(rename = "remote.port.number")]
    remote_port: Option<u16>,
    #[serde(rename = "src.process.pid")]
    pid: Option<u32>,
    #[serde(rename = "src.process.name")]
    process: Option<String>,
    #[serde(rename = "src.process.user")]
    user: Option<String>,
    #[serde(rename = "src.process.cmdline")]
    command_line: Option<String>,
    #[serde(rename = "loss.stage")]
    loss_stage: Option<String>,
    #[serde(rename = "loss.count")]
    loss_count: Option<u64>,
}

impl Event {
    /// Whether it is of a flow of datagrams.
    fn is_flow(&self) -> bool {
        !matches!(self.protocol.as_str(), "" | "TCP")
    }
}

/// Shows events until the daemon ends, the reader goes or enough were shown.
pub(super) fn run(options: &Options) -> Result<Exit> {
    let parameters = options.selection.parameters()?;
    block_on(async {
        let answer = client::get(options.socket.path(), "/v1/events", &parameters).await?;
        let mut left = options.count.unwrap_or(u64::MAX);
        if options.presentation.format == Format::Csv {
            csv_record(&CSV_COLUMNS.map(|(name, _)| name.to_owned()))?;
        }
        if left == 0 {
            return Ok(Exit::Success);
        }
        answer
            .lines(|line| {
                print(options, line)?;
                left -= 1;
                Ok::<_, anyhow::Error>(left != 0)
            })
            .await?;
        Ok(Exit::Success)
    })
}

fn print(options: &Options, line: &[u8]) -> Result<()> {
    match options.presentation.format {
        Format::Json | Format::Ndjson => {
            let mut out = io::stdout().lock();
            out.write_all(line)?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
        Format::Csv => {
            let event: Event = serde_json::from_slice(line)?;
            csv_record(&CSV_COLUMNS.map(|(_, cell)| cell(&event).unwrap_or_default()))?;
        }
        Format::Table => {
            let event: Event = serde_json::from_slice(line)?;
            let limit = options.presentation.limit();
            let mut out = anstream::stdout().lock();
            writeln!(out, "{}", for_people(&event, limit, &TimeZone::system()))?;
            out.flush()?;
        }
    }
    Ok(())
}

type Cell = fn(&Event) -> Option<String>;

const CSV_COLUMNS: [(&str, Cell); 17] = [
    ("event.type", |event| Some(event.kind.clone())),
    ("event.time", |event| Some(event.time_ms.to_string())),
    ("event.network.direction", |event| event.direction.clone()),
    ("event.network.connectionStatus", |event| event.status.clone()),
    ("event.network.failureReason", |event| event.failure.clone()),
    ("event.network.closeReason", |event| event.close.clone()),
    ("local.ip.address", |event| event.local.clone()),
    ("local.port.number", |event| event.local_port.map(|port| port.to_string())),
    ("remote.ip.address", |event| event.remote.clone()),
    ("remote.port.number", |event| event.remote_port.map(|port| port.to_string())),
    ("event.network.bytesSent", |event| event.sent.map(|bytes| bytes.to_string())),
    ("event.network.bytesReceived", |event| event.received.map(|bytes| bytes.to_string())),
    ("src.process.pid", |event| event.pid.map(|pid| pid.to_string())),
    ("src.process.name", |event| event.process.clone()),
    ("src.process.user", |event| event.user.clone()),
    ("src.process.cmdline", |event| event.command_line.clone()),
    ("event.network.protocol", |event| Some(event.protocol.clone())),
];

fn csv_record(cells: &[String]) -> Result<()> {
    let mut out = csv::Writer::from_writer(io::stdout().lock());
    out.write_record(cells)?;
    out.flush()?;
    Ok(())
}

/// One event as a line: time, what happened, process, ends, and what is worth knowing.
fn for_people(event: &Event, limit: Option<usize>, zone: &TimeZone) -> String {
    use std::fmt::Write as _;
    let (what, what_style) = what(event);
    let time = Timestamp::from_millisecond(event.time_ms).unwrap_or_default().to_zoned(zone.clone());
    let time = time.strftime("%H:%M:%S%.3f").to_string();
    let faint = style::FAINT;
    let mut line = format!("{faint}{time}{faint:#}  {what_style}{what:<11}{what_style:#}");
    let mut rest = String::new();
    if let (Some(stage), Some(count)) = (&event.loss_stage, event.loss_count) {
        let _ = write!(rest, "  {count} events were lost ({stage})");
    }
    if event.local.is_some() || event.remote.is_some() {
        let process = event.process.as_deref().map_or_else(|| "-".into(), term::sanitize);
        let pid = event.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
        let _ = write!(rest, "  {:<22}  {}", format!("{process}{pid}"), ends(event));
    }
    let details = details(event);
    if !details.is_empty() {
        let _ = write!(rest, "  {details}");
    }
    if let Some(command_line) = &event.command_line
        && event.kind != "IP Close"
    {
        let _ = write!(rest, "  {}", term::sanitize(command_line));
    }
    let used = time.len() + 2 + what.len().max(11);
    line.push_str(&term::cut(&rest, limit.map_or(usize::MAX, |limit| limit.saturating_sub(used))));
    line
}

fn what(event: &Event) -> (&str, anstyle::Style) {
    match event.kind.as_str() {
        "IP Connect" if event.status.as_deref() != Some("SUCCESS") => {
            (event.failure.as_deref().unwrap_or("failed"), style::BAD)
        }
        "IP Connect" if event.is_flow() => ("flow", style::GOOD),
        "IP Connect" if event.direction.as_deref() == Some("INCOMING") => ("accept", style::GOOD),
        "IP Connect" => ("connect", style::GOOD),
        "IP Close" => ("close", style::FAINT),
        "IP Listen" => ("listen", style::QUIET),
        "IP Listen End" => ("listen end", style::QUIET),
        "Data Loss" => ("DATA LOSS", style::BAD),
        other => (other, style::HEADING),
    }
}

fn ends(event: &Event) -> String {
    let address = |address: &Option<String>| address.clone().unwrap_or_else(|| "?".into());
    let local = end(&event.protocol, &address(&event.local), event.local_port);
    if event.remote.is_none() {
        return if event.folded { format!("{local} -- many") } else { local };
    }
    let remote = end(&event.protocol, &address(&event.remote), event.remote_port);
    match event.direction.as_deref() {
        Some("INCOMING") => format!("{local} <- {remote}"),
        Some("OUTGOING") => format!("{local} -> {remote}"),
        _ => format!("{local} -- {remote}"),
    }
}

fn details(event: &Event) -> String {
    let mut parts = Vec::new();
    if event.is_flow() {
        let kind = event.icmp_type.map_or_else(String::new, |number| format!(" type {number}"));
        parts.push(format!("{}{kind}", event.protocol.to_lowercase()));
    }
    if let Some(latency) = event.latency_us
        && event.kind == "IP Connect"
    {
        parts.push(term::duration(Duration::from_micros(latency)));
    }
    if let Some(reason) = &event.close {
        parts.push(reason.clone());
    }
    if let (Some(sent), Some(received)) = (event.sent, event.received) {
        parts.push(format!("sent {}, received {}", term::bytes(sent), term::bytes(received)));
    }
    if let Some(duration) = event.duration_ms
        && let Ok(duration) = Duration::try_from_secs_f64(duration / 1000.0)
    {
        parts.push(format!("in {}", term::duration(duration)));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        let event: Event = serde_json::from_str(text).unwrap();
        anstream::adapter::strip_str(&for_people(&event, None, &TimeZone::UTC)).to_string()
    }

    #[test]
    fn events_are_one_line_each() {
        assert_eq!(
            line(
                r#"{"event.type":"IP Connect","event.time":1767225600123,"event.network.direction":"OUTGOING",
                "event.network.connectionStatus":"SUCCESS","event.network.connectLatencyUs":812,
                "local.ip.address":"192.0.2.1","local.port.number":40000,"remote.ip.address":"2001:db8::1",
                "remote.port.number":443,"src.process.pid":7,"src.process.name":"cu\u001brl",
                "src.process.cmdline":"curl -s x"}"#
            ),
            "00:00:00.123  connect      cu\u{fffd}rl[7]                192.0.2.1:40000 -> [2001:db8::1]:443  0.8 ms  \
             curl -s x"
        );
        assert_eq!(
            line(r#"{"event.type":"Data Loss","loss.stage":"ring","loss.count":3}"#),
            "00:00:00.000  DATA LOSS    3 events were lost (ring)"
        );
        let failed = line(
            r#"{"event.type":"IP Connect","event.network.connectionStatus":"FAILURE",
            "event.network.failureReason":"refused","local.ip.address":"::1"}"#,
        );
        assert_eq!(failed, "00:00:00.000  refused      -                       [::1]:*");
        let unsent = line(
            r#"{"event.type":"IP Connect","event.network.direction":"OUTGOING",
            "event.network.connectionStatus":"FAILURE","event.network.failureReason":"net_unreachable",
            "remote.ip.address":"::1","remote.port.number":9}"#,
        );
        assert_eq!(unsent, "00:00:00.000  net_unreachable  -                       ?:* -> [::1]:9");
        assert_eq!(
            line(
                r#"{"event.type":"IP Connect","event.network.protocol":"ICMP","event.network.direction":"OUTGOING",
                "event.network.connectionStatus":"SUCCESS","event.network.icmpType":8,"local.ip.address":"192.0.2.1",
                "remote.ip.address":"192.0.2.9","src.process.pid":7,"src.process.name":"ping"}"#
            ),
            "00:00:00.000  flow         ping[7]                 192.0.2.1 -> 192.0.2.9  icmp type 8"
        );
        assert_eq!(
            line(
                r#"{"event.type":"IP Close","event.network.protocol":"UDP","event.network.connectionStatus":"SUCCESS",
                "event.network.closeReason":"idle","event.network.folded":true,"event.network.bytesSent":1500,
                "event.network.bytesReceived":0,"local.ip.address":"192.0.2.1","local.port.number":53}"#
            ),
            "00:00:00.000  close        -                       192.0.2.1:53 -- many  udp, idle, sent 1.5 kB, received 0 B"
        );
    }
}
