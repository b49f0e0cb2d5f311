//! `netconn watch`: events as they happen.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Result;
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use jiff::{Timestamp, tz::TimeZone};
use netconn_model::{
    event::Event,
    exit::Exit,
    fact::{ConnectionStatus, Direction, End, EventKind},
    format::{self, EVENT_FORMATS, EventFormat},
    read_ahead::ReadAhead,
    term::{self, style},
};

use crate::cli::{SocketOption, block_on, presentation::Presentation, selection::Selection, tell};

/// The name of the format for people, which is not one of [`EVENT_FORMATS`].
const TABLE: &str = "table";

/// Options of `netconn watch`.
#[derive(Debug, Args)]
pub(super) struct WatchOptions {
    /// Form of the output.
    #[arg(long, default_value = TABLE, value_parser = formats())]
    format: WatchFormat,
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

/// The form of the output: lines for people, or a format of events.
#[derive(Clone, Copy, Debug)]
enum WatchFormat {
    Table,
    Events(&'static EventFormat),
}

/// The formats as clap shows them in help and errors.
fn formats() -> impl TypedValueParser<Value = WatchFormat> {
    let value = |format: &EventFormat| PossibleValue::new(format.name).help(format.meaning);
    let values = EVENT_FORMATS.iter().map(value);
    let parser =
        PossibleValuesParser::new([PossibleValue::new(TABLE).help("lines for people")].into_iter().chain(values));
    parser.map(|name| format::by_name(&name).map_or(WatchFormat::Table, WatchFormat::Events))
}

/// Prints events until the daemon stops, the reader goes away, or there were enough.
pub(super) fn run(options: &WatchOptions) -> Result<Exit> {
    let parameters = options.selection.parameters()?;
    block_on(async {
        let events = ReadAhead::events(&options.socket.client(), &parameters, tell).await?;
        // 2⁶⁴ events are never reached.
        let mut left = options.count.unwrap_or(u64::MAX);
        // Before the first event, which may take hours: a reader of CSV sees the heading at once. After the answer of
        // the daemon, so that an error leaves no heading.
        if let WatchFormat::Events(format) = options.format {
            let mut heading = Vec::new();
            format.heading(&mut heading);
            io::stdout().write_all(&heading)?;
        }
        // `lines` asks only after an event whether to go on.
        if left == 0 {
            return Ok(Exit::Success);
        }
        events
            .lines(|line| {
                print(options, line)?;
                left -= 1;
                Ok::<_, anyhow::Error>(left != 0)
            })
            .await?;
        Ok(Exit::Success)
    })
}

fn print(options: &WatchOptions, line: &[u8]) -> Result<()> {
    match options.format {
        WatchFormat::Events(format) => {
            let mut bytes = Vec::new();
            format.write(line, &mut bytes)?;
            let mut out = io::stdout().lock();
            out.write_all(&bytes)?;
            out.flush()?;
        }
        WatchFormat::Table => {
            let event: Event<'_> = serde_json::from_slice(line)?;
            let limit = options.presentation.limit();
            let mut out = anstream::stdout().lock();
            writeln!(out, "{}", for_people(&event, limit, &TimeZone::system()))?;
            out.flush()?;
        }
    }
    Ok(())
}

/// Returns an event as a line: time, what happened, process, ends, details.
fn for_people(event: &Event<'_>, limit: Option<usize>, zone: &TimeZone) -> String {
    use std::fmt::Write as _;
    let (what, what_style) = what(event);
    let time = Timestamp::from_millisecond(event.time_ms.unwrap_or_default()).unwrap_or_default();
    let time = time.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string();
    let faint = style::FAINT;
    let mut line = format!("{faint}{time}{faint:#}  {what_style}{what:<11}{what_style:#}");
    let mut rest = String::new();
    if let (Some(stage), Some(count)) = (event.loss_stage, event.loss_count) {
        let _ = write!(rest, "  {count} events were lost ({})", stage.name());
    }
    // An attempt without a route has no address of its own.
    if event.local().is_some() || event.remote().is_some() {
        let process = event.process_name.as_deref().map_or_else(|| "-".into(), term::sanitize);
        let pid = event.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
        let _ = write!(rest, "  {:<22}  {}", format!("{process}{pid}"), ends(event));
    }
    let details = details(event);
    if !details.is_empty() {
        let _ = write!(rest, "  {details}");
    }
    // A close repeats what the connect has shown; its numbers need the room.
    if let Some(command_line) = &event.command_line
        && !event.is(EventKind::Close)
    {
        let _ = write!(rest, "  {}", term::sanitize(command_line));
    }
    // Counted without the escape sequences, which take no room. Both parts are ASCII.
    let used = time.len() + 2 + what.len().max(11);
    // Only the rest is cut: it has no styles, which a cut could leave open.
    line.push_str(&term::cut(&rest, limit.map_or(usize::MAX, |limit| limit.saturating_sub(used))));
    line
}

fn what(event: &Event<'_>) -> (&'static str, anstyle::Style) {
    let Some(kind) = event.kind else { return ("", style::HEADING) };
    match kind {
        EventKind::Connect if event.raw == Some(true) => ("raw", style::QUIET),
        EventKind::Connect if event.status != Some(ConnectionStatus::Success) => {
            (event.failure.map_or("failed", |failure| failure.name()), style::BAD)
        }
        EventKind::Connect if event.is_of_datagrams() => ("flow", style::GOOD),
        EventKind::Connect if event.direction == Some(Direction::Incoming) => ("accept", style::GOOD),
        EventKind::Connect => ("connect", style::GOOD),
        EventKind::Close => ("close", style::FAINT),
        EventKind::Listen => ("listen", style::QUIET),
        EventKind::ListenEnd => ("listen end", style::QUIET),
        EventKind::DataLoss => ("DATA LOSS", style::BAD),
        EventKind::SensorStart | EventKind::SensorStop => (kind.name(), style::HEADING),
    }
}

fn ends(event: &Event<'_>) -> String {
    let protocol = event.protocol.as_deref().unwrap_or_default();
    // Port 0 stands for an unknown one.
    let end = |End { address, port }| term::end(protocol, &address.to_string(), (port != 0).then_some(port));
    let local = event.local().map_or_else(|| "?:*".to_owned(), end);
    // A folded flow has no single remote end; a listener has none at all.
    let Some(remote) = event.remote() else {
        return if event.folded == Some(true) { format!("{local} -- many") } else { local };
    };
    let remote = end(remote);
    match event.direction {
        Some(Direction::Incoming) => format!("{local} <- {remote}"),
        Some(Direction::Outgoing) => format!("{local} -> {remote}"),
        None => format!("{local} -- {remote}"),
    }
}

fn details(event: &Event<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(protocol) = event.protocol.as_deref().filter(|_| event.is_of_datagrams()) {
        let kind = event.icmp_type.map_or_else(String::new, |number| format!(" type {number}"));
        parts.push(format!("{}{kind}", protocol.to_lowercase()));
    }
    if let Some(latency) = event.connect_latency_us
        && event.is(EventKind::Connect)
    {
        parts.push(term::duration(Duration::from_micros(latency)));
    }
    if let Some(reason) = event.close_reason {
        parts.push(reason.name().to_owned());
    }
    if let (Some(sent), Some(received)) = (event.bytes_sent, event.bytes_received) {
        parts.push(format!("sent {}, received {}", term::bytes(sent), term::bytes(received)));
    }
    if let Some(duration) = event.duration {
        parts.push(format!("in {}", term::duration(Duration::from_nanos(duration.nanoseconds))));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        let event: Event<'_> = serde_json::from_str(text).unwrap();
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
