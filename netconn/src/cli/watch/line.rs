//! An event as a line for people. What is looked at first is whole before anything else gets room: time, what happened, process,
//! direction, the other end, bytes.

use std::{borrow::Cow, fmt::Write as _, io, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use netconn_model::{
    event::Event,
    fact::{ConnectionStatus, Direction, End, EventKind, Failure},
    term::{self, style},
};

/// Widths of the columns, if all that follows them fits. Longer texts move the rest of their line.
const WHAT_WIDTH: usize = 9;
const PROCESS_WIDTH: usize = 16;
const ENDS_WIDTH: usize = 22;
/// Narrowest terminal whose lines have milliseconds.
const MILLISECONDS_FROM: usize = 100;

/// Returns an event as a line that fits the limit.
pub(super) fn for_people(event: &Event<'_>, limit: Option<usize>, zone: &TimeZone) -> String {
    let (what, what_style) = what(event);
    let time = Timestamp::from_millisecond(event.time_ms.unwrap_or_default()).unwrap_or_default();
    let format = if limit.is_none_or(|limit| limit >= MILLISECONDS_FROM) { "%H:%M:%S%.3f" } else { "%H:%M:%S" };
    let time = time.to_zoned(zone.clone()).strftime(format).to_string();
    let limit = limit.unwrap_or(usize::MAX);
    let (gap, what, mut rest) = if is_of_daemon(event) {
        (2, format!("{what:<WHAT_WIDTH$}"), of_daemon(event))
    } else {
        of_connection(event, (&time, what), limit)
    };
    // Counted without the escape sequences, which take no room.
    let room = limit.saturating_sub(term::text_width(&time) + gap + term::text_width(&what) + gap);
    let further = if is_of_daemon(event) { String::new() } else { further(event) };
    let left = room.saturating_sub(term::text_width(&rest) + gap);
    // Apart from the rest, whose end an ellipsis would replace otherwise.
    if !further.is_empty() && left >= term::NARROWEST_COLUMN.min(term::text_width(&further)) {
        let _ = write!(rest, "{:gap$}{}", "", term::cut(&further, left));
    }
    let faint = style::FAINT;
    let mut line = format!("{faint}{time}{faint:#}{:gap$}{what_style}{what}{what_style:#}", "");
    if !rest.is_empty() {
        // Only the rest is cut: it has no styles, which a cut could leave open.
        let _ = write!(line, "{:gap$}{}", "", term::cut(&rest, room));
    }
    // An empty last column leaves the spaces before it.
    line.truncate(line.trim_end_matches(' ').len());
    line
}

/// Returns the width of the gaps, what happened with its padding, and what follows it.
fn of_connection(event: &Event<'_>, (time, what): (&str, &str), limit: usize) -> (usize, String, String) {
    let name = event.process_name.as_deref().map_or_else(|| "-".into(), term::sanitize);
    let pid = event.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
    let (ends, facts) = (ends(event), facts(event));
    let width = |text: &str| term::text_width(text);
    let text = |gap: usize, widths: [usize; 3], name: &str| {
        let [what_width, process_width, ends_width] = widths;
        let what = format!("{what:what_width$}");
        let process = format!("{name}{pid}");
        // Not by the format's own padding, which counts characters.
        let padding = process_width.saturating_sub(width(&process));
        let rest = format!("{process}{:padding$}{:gap$}{ends:ends_width$}", "", "");
        let rest = if facts.is_empty() { rest } else { format!("{rest}{:gap$}{facts}", "") };
        (gap, what, rest)
    };
    // Bytes come first among the facts; those behind them may be cut.
    let may_be_cut = facts.split_once(", ").map_or(0, |(_, further)| width(further) + 2);
    let used = |(gap, what, rest): &(usize, String, String)| {
        width(time) + gap + width(what) + gap + width(rest.trim_end()) - may_be_cut
    };
    // The first form in which nothing important is cut: in columns, without padding, with narrow gaps.
    let forms = [(2, [WHAT_WIDTH, PROCESS_WIDTH, ENDS_WIDTH]), (2, [0; 3]), (1, [0; 3])];
    let fitting = forms.into_iter().map(|(gap, widths)| text(gap, widths, &name)).find(|form| used(form) <= limit);
    fitting.unwrap_or_else(|| {
        // The other end is worth more than the whole name of the process, and more than what follows.
        let others = width(time) + 1 + width(what) + 1 + width(&pid) + 1 + width(&ends);
        let name = term::cut(&name, limit.saturating_sub(others).max(term::NARROWEST_COLUMN));
        text(1, [0; 3], &name)
    })
}

/// Returns whether an event is of no connection.
fn is_of_daemon(event: &Event<'_>) -> bool {
    use EventKind::{DataLoss, PacketSocket, PacketSocketEnd, SensorStart, SensorStop};
    matches!(event.kind, Some(DataLoss | SensorStart | SensorStop | PacketSocket | PacketSocketEnd))
}

/// Returns what an event without a connection says.
fn of_daemon(event: &Event<'_>) -> String {
    if event.packet_inode.is_some() {
        let process = event.process_name.as_deref().map_or_else(|| "-".into(), term::sanitize);
        let pid = event.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
        let protocol = event.packet_protocol.as_deref().map_or_else(|| "?".into(), term::sanitize);
        let interface = event.interface.as_deref().map_or_else(|| "any interface".into(), term::sanitize);
        return format!("{process}{pid}  {protocol} of {interface}");
    }
    if let (Some(stage), Some(count)) = (event.loss_stage, event.loss_count) {
        return format!("{count} events were lost ({})", stage.name());
    }
    match (event.events_written, event.records_lost) {
        (Some(events), Some(lost)) => format!("{events} events made, {lost} records of the kernel lost"),
        _ => String::new(),
    }
}

fn what(event: &Event<'_>) -> (&'static str, anstyle::Style) {
    let Some(kind) = event.kind else { return ("", style::HEADING) };
    match kind {
        EventKind::Connect if event.raw == Some(true) => ("raw", style::QUIET),
        EventKind::Connect if event.status != Some(ConnectionStatus::Success) => {
            (event.failure.map_or("failed", Failure::name), style::BAD)
        }
        EventKind::Connect if event.preexisting == Some(true) => ("existing", style::QUIET),
        EventKind::Connect if event.is_of_datagrams() => ("flow", style::GOOD),
        EventKind::Connect if event.direction == Some(Direction::Incoming) => ("accept", style::GOOD),
        EventKind::Connect => ("connect", style::GOOD),
        EventKind::Close if event.failure.is_some() => ("close", style::BAD),
        EventKind::Close => ("close", style::FAINT),
        EventKind::Listen => ("listen", style::QUIET),
        EventKind::ListenEnd => ("listen end", style::QUIET),
        EventKind::PacketSocket => ("packet", style::QUIET),
        EventKind::PacketSocketEnd => ("packet end", style::QUIET),
        EventKind::DataLoss => ("DATA LOSS", style::BAD),
        EventKind::SensorStart | EventKind::SensorStop => (kind.name(), style::HEADING),
    }
}

fn end(event: &Event<'_>, End { address, port }: End) -> String {
    // Port 0 stands for an unknown one.
    term::end(event.protocol.as_deref().unwrap_or_default(), &address.to_string(), (port != 0).then_some(port.into()))
}

/// Returns the direction and the other end. Where the other end began, or nobody knows, this end's port comes first: it says which
/// service it is. A listener has no other end.
fn ends(event: &Event<'_>) -> String {
    let arrow = match event.direction {
        Some(Direction::Incoming) => "<-",
        Some(Direction::Outgoing) => "->",
        None => "--",
    };
    let remote = match event.remote() {
        Some(remote) => end(event, remote),
        // A folded flow has no single remote end.
        None if event.folded == Some(true) => "many".into(),
        None => return event.local().map_or_else(|| "?".into(), |local| end(event, local)),
    };
    match event.local_port.filter(|_| event.direction != Some(Direction::Outgoing)) {
        Some(port) => format!(":{port} {arrow} {remote}"),
        None => format!("{arrow} {remote}"),
    }
}

/// Returns protocol, bytes, times, and why it ended.
fn facts(event: &Event<'_>) -> String {
    let mut parts: Vec<Cow<'static, str>> = Vec::new();
    if let Some(protocol) = event.protocol.as_deref().filter(|_| event.is_of_datagrams()) {
        let kind = event.icmp_type.map_or_else(String::new, |number| format!(" type {number}"));
        parts.push(format!("{}{kind}", protocol.to_lowercase()).into());
    }
    if let (Some(sent), Some(received)) = (event.bytes_sent, event.bytes_received) {
        parts.push(format!("↑{} ↓{}", term::bytes(sent), term::bytes(received)).into());
    }
    if let Some(duration) = event.duration {
        parts.push(term::duration(Duration::from_nanos(duration.nanoseconds)).into());
    }
    if let Some(latency) = event.connect_latency_us.filter(|_| event.is(EventKind::Connect)) {
        parts.push(term::duration(Duration::from_micros(latency)).into());
    }
    // A flow that its peer has refused too late for the event of its beginning. An attempt that failed has its reason in front.
    if let Some(failure) = event.failure.filter(|_| event.is(EventKind::Close)) {
        parts.push(failure.name().into());
    }
    if let Some(reason) = event.close_reason {
        parts.push(reason.name().into());
    }
    // The names of all other reasons say as much as their numbers.
    if let Some(errno) = event.errno.filter(|_| event.failure == Some(Failure::Other))
        && let Ok(errno) = i32::try_from(errno)
    {
        parts.push(io::Error::from_raw_os_error(errno).to_string().into());
    }
    parts.join(", ").replace(", ↑", " ↑")
}

/// Returns what else there is: this end, the account, the command line.
fn further(event: &Event<'_>) -> String {
    let mut parts = Vec::new();
    // Of a listener it is shown already.
    if let Some(local) = event.local()
        && (event.remote().is_some() || event.folded == Some(true))
    {
        parts.push(end(event, local));
    }
    if let Some(user) = &event.user {
        parts.push(term::sanitize(user).into_owned());
    } else if let Some(uid) = event.user_id {
        parts.push(uid.to_string());
    }
    // A close repeats what the connect has shown; its numbers need the room.
    if let Some(command_line) = &event.command_line
        && !event.is(EventKind::Close)
    {
        parts.push(term::sanitize(command_line).into_owned());
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_in(limit: Option<usize>, text: &str) -> String {
        let event: Event<'_> = serde_json::from_str(text).unwrap();
        anstream::adapter::strip_str(&for_people(&event, limit, &TimeZone::UTC)).to_string()
    }

    fn line(text: &str) -> String {
        line_in(None, text)
    }

    const CONNECT: &str = r#"{"event.type":"IP Connect","event.time":1767225600123,"event.network.direction":"OUTGOING",
        "event.network.connectionStatus":"SUCCESS","event.network.connectLatencyUs":812,
        "local.ip.address":"192.0.2.1","local.port.number":40000,"remote.ip.address":"198.51.100.7",
        "remote.port.number":443,"src.process.pid":7,"src.process.name":"cu\u001brl","src.process.userId":1000,
        "src.process.cmdline":"curl -s x"}"#;

    const CLOSE: &str = r#"{"event.type":"IP Close","event.time":1767225600123,"event.network.direction":"OUTGOING",
        "event.network.connectionStatus":"SUCCESS","event.network.closeReason":"remote","event.network.protocol":"TCP",
        "event.network.bytesSent":517,"event.network.bytesReceived":20100,"event.network.durationMs":3200.0,
        "local.ip.address":"192.0.2.1","local.port.number":40000,"remote.ip.address":"198.51.100.7","remote.port.number":443,
        "src.process.pid":12345,"src.process.name":"curl","src.process.user":"alice","src.process.cmdline":"curl -s x"}"#;

    #[test]
    fn events_are_one_line_each() {
        assert_eq!(
            line(CONNECT),
            "00:00:00.123  connect    cu\u{fffd}rl[7]          -> 198.51.100.7:443     0.8 ms  192.0.2.1:40000  1000  curl -s x"
        );
        assert_eq!(
            line(CLOSE),
            "00:00:00.123  close      curl[12345]       -> 198.51.100.7:443     ↑517 B ↓20.1 kB, 3.2 s, remote  \
             192.0.2.1:40000  alice"
        );
        assert_eq!(
            line(r#"{"event.type":"Data Loss","loss.stage":"ring","loss.count":3}"#),
            "00:00:00.000  DATA LOSS  3 events were lost (ring)"
        );
        assert_eq!(
            line(r#"{"event.type":"Sensor Stop","sensor.events":42,"sensor.recordsLost":0}"#),
            "00:00:00.000  Sensor Stop  42 events made, 0 records of the kernel lost"
        );
        let failed = line(
            r#"{"event.type":"IP Connect","event.network.connectionStatus":"FAILURE",
            "event.network.failureReason":"refused","local.ip.address":"::1"}"#,
        );
        assert_eq!(failed, "00:00:00.000  refused    -                 [::1]:*");
        assert_eq!(
            line(
                r#"{"event.type":"IP Connect","event.network.protocol":"ICMP","event.network.direction":"OUTGOING",
                "event.network.connectionStatus":"SUCCESS","event.network.icmpType":8,"local.ip.address":"192.0.2.1",
                "remote.ip.address":"192.0.2.9","src.process.pid":7,"src.process.name":"ping"}"#
            ),
            "00:00:00.000  flow       ping[7]           -> 192.0.2.9            icmp type 8  192.0.2.1"
        );
        assert_eq!(
            line(
                r#"{"event.type":"IP Close","event.network.protocol":"UDP","event.network.connectionStatus":"SUCCESS",
                "event.network.closeReason":"idle","event.network.folded":true,"event.network.bytesSent":1500,
                "event.network.bytesReceived":0,"local.ip.address":"192.0.2.1","local.port.number":53}"#
            ),
            "00:00:00.000  close      -                 :53 -- many             udp ↑1.5 kB ↓0 B, idle  192.0.2.1:53"
        );
        assert_eq!(
            line(
                r#"{"event.type":"IP Close","event.network.protocol":"UDP","event.network.direction":"OUTGOING",
                "event.network.connectionStatus":"FAILURE","event.network.failureReason":"refused",
                "event.network.closeReason":"local","event.network.bytesSent":5,"event.network.bytesReceived":0,
                "local.ip.address":"192.0.2.1","local.port.number":40000,"remote.ip.address":"192.0.2.9",
                "remote.port.number":53,"src.process.pid":7,"src.process.name":"dig"}"#
            ),
            "00:00:00.000  close      dig[7]            -> 192.0.2.9:53         udp ↑5 B ↓0 B, refused, local  192.0.2.1:40000"
        );
    }

    #[test]
    fn an_attempt_without_a_route_has_its_process_and_destination() {
        let unsent = r#"{"event.type":"IP Connect","event.time":1767225600123,"event.network.direction":"OUTGOING",
            "event.network.connectionStatus":"FAILURE","event.network.failureReason":"net_unreachable",
            "remote.ip.address":"2001:db8:1111:2222:3333:4444:5555:6666","remote.port.number":50443,"src.process.pid":4194303,
            "src.process.name":"exactly-fifteen","src.process.cmdline":"curl -s x"}"#;
        // Everything at its longest takes 94 columns.
        assert_eq!(
            line_in(Some(94), unsent),
            "00:00:00 net_unreachable exactly-f…[4194303] -> [2001:db8:1111:2222:3333:4444:5555:6666]:50443"
        );
        let usual =
            unsent.replace("net_unreachable", "refused").replace("exactly-fifteen", "curl").replace("4194303", "12345");
        assert_eq!(
            line_in(Some(80), &usual),
            "00:00:00 refused curl[12345] -> [2001:db8:1111:2222:3333:4444:5555:6666]:50443"
        );
        assert!(line_in(Some(120), unsent).contains("exactly-fifteen[4194303]"), "{}", line_in(Some(120), unsent));
        assert!(line_in(Some(120), unsent).contains("[2001:db8:1111:2222:3333:4444:5555:6666]:50443"));
        let other = r#"{"event.type":"IP Connect","event.network.connectionStatus":"FAILURE","event.network.errno":22,
            "event.network.failureReason":"other","event.network.direction":"OUTGOING","remote.ip.address":"192.0.2.9",
            "remote.port.number":9}"#;
        assert!(line(other).ends_with("-> 192.0.2.9:9          Invalid argument (os error 22)"), "{}", line(other));
    }

    #[test]
    fn eighty_columns_have_the_other_end_and_the_bytes() {
        assert_eq!(
            line_in(Some(80), CLOSE),
            "00:00:00  close      curl[12345]       -> 198.51.100.7:443     ↑517 B ↓20.1 kB,…"
        );
        let long = CLOSE.replace("198.51.100.7", "2001:db8::7:1:2:3");
        assert_eq!(
            line_in(Some(80), &long),
            "00:00:00  close  curl[12345]  -> [2001:db8::7:1:2:3]:443  ↑517 B ↓20.1 kB, 3.2 …"
        );
        let accepted = CONNECT.replace("OUTGOING", "INCOMING").replace("40000", "80");
        assert_eq!(
            line_in(Some(80), &accepted),
            "00:00:00  accept     cu\u{fffd}rl[7]          :80 <- 198.51.100.7:443  0.8 ms  192.0.2…"
        );
        let older = CONNECT.replace("event.network.connectLatencyUs\":812", "event.network.preexisting\":true");
        assert!(line_in(Some(80), &older).contains("  existing   "), "{}", line_in(Some(80), &older));
    }

    #[test]
    fn no_line_is_wider_than_its_terminal() {
        for text in [CONNECT, CLOSE] {
            for limit in 30..130 {
                let line = line_in(Some(limit), text);
                assert!(term::text_width(&line) <= limit, "{limit}: {line}");
            }
        }
    }
}
