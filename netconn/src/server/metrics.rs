//! `/metrics`: the health of the daemon in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write as _;

use netconn_model::health::{Conversion, Health, HistoryHealth, OutputHealth, Verdict};

/// The format's media type.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels and value of a metric.
type Sample<'a> = (Vec<(&'a str, &'a str)>, u64);

/// Writes all metrics.
pub(super) fn text(health: &Health) -> String {
    let mut out = String::new();
    let Health { records, lost_events, outputs, history, .. } = health;
    // The history is one more output: its events appear under the same names as those of files.
    let outputs: Vec<&OutputHealth> = outputs.iter().chain(history.iter().map(|history| &history.output)).collect();
    // Most metrics are a single number, the others a number for each value of one label.
    let one = |value: u64| vec![(vec![], value)];
    let by = |label: &'static str, values: &[(&'static str, u64)]| -> Vec<Sample<'_>> {
        values.iter().map(|(name, value)| (vec![(label, *name)], *value)).collect()
    };
    // The daemon itself, then its table, its hooks, and the way of events from the ring to the outputs.
    let version = vec![("version", &*health.version), ("kernel", &*health.kernel)];
    gauge(&mut out, "build_info", "Version of the daemon and of the kernel; the value is 1.", &[(version, 1)]);
    gauge(&mut out, "uptime_seconds", "Seconds since the daemon began.", &one(health.uptime_seconds));
    if let Some(bytes) = health.resident_bytes {
        gauge(&mut out, "resident_bytes", "Memory of the daemon, shared pages counted in.", &one(bytes));
    }
    let help = "1 while the state folder cannot be locked, or the id of this sensor not be kept for the next start, because the file system is full.";
    gauge(&mut out, "state_unsaved", help, &one(u64::from(health.state_unsaved.is_some())));
    let complete = u64::from(health.complete);
    gauge(&mut out, "complete", "1 while the table holds every connection of the kernel.", &one(complete));
    let states: Vec<Sample<'_>> =
        health.states.iter().map(|(state, count)| (vec![("state", &**state)], *count as u64)).collect();
    gauge(&mut out, "connections", "Connections and listeners in the table.", &states);
    let flows: Vec<Sample<'_>> =
        health.flows.protocols.iter().map(|(name, count)| (vec![("protocol", &**name)], *count as u64)).collect();
    gauge(&mut out, "flows", "Flows of datagrams.", &flows);
    let help = "Flows that have more than one remote end, because there were too many.";
    gauge(&mut out, "flows_folded", help, &one(health.flows.folded as u64));
    let help = "Datagrams not counted, because there was no room for their flows.";
    counter(&mut out, "datagrams_uncounted", help, &one(health.flows.uncounted));
    let help = "Sockets that were bound to receive datagrams.";
    gauge(&mut out, "bound_sockets", help, &one(health.flows.bound as u64));
    gauge(&mut out, "processes", "Processes known.", &one(health.processes as u64));
    gauge(&mut out, "clients", "Clients that listen to events.", &one(health.clients as u64));
    gauge(&mut out, "requests", "Clients that are connected for something else.", &one(health.requests as u64));
    let help = "Clients and requests refused, because as many as the daemon serves were there.";
    counter(&mut out, "refused", help, &one(health.refused));
    let hooks: Vec<Sample<'_>> = health
        .hooks
        .iter()
        // A hook that another one replaces would look like a failure.
        .filter(|hook| !matches!(hook.verdict, Verdict::Unneeded { .. }))
        .map(|hook| (vec![("hook", &*hook.hook)], u64::from(hook.verdict == Verdict::Attached)))
        .collect();
    gauge(&mut out, "hook_attached", "1 if a hook works, 0 if something else is done instead.", &hooks);
    counter(&mut out, "repairs", "Times that the table was made anew after a loss.", &one(health.repairs));
    counter(&mut out, "records_received", "Records received from the kernel.", &one(records.received));
    // The next three count records, which may be lost without an event being lost.
    let lost = [
        ("sockets", records.lost_sockets),
        ("processes", records.lost_processes),
        ("missed_runs", records.missed_runs),
        ("unknown", records.unknown),
    ];
    counter(&mut out, "records_lost", "Records of the kernel that were lost, by kind.", &by("kind", &lost));
    let help = "Records of sockets for which the kernel had no memory to keep anything.";
    counter(&mut out, "records_without_memory", help, &one(records.without_memory));
    counter(&mut out, "events", "Events made.", &one(health.events));
    let help = "Events not made, because a rule of the configuration excludes them.";
    counter(&mut out, "events_excluded", help, &one(health.excluded_events.events));
    let help = "Events counted instead of made, because there were too many in a second.";
    counter(&mut out, "events_folded", help, &one(health.folded_events.events));
    // From here on events: those that were never made, and those that did not arrive.
    let never_made = [
        ("outgoing", lost_events.outgoing),
        ("incoming", lost_events.incoming),
        ("close", lost_events.closes),
        ("listener", lost_events.listeners),
    ];
    let help = "Events never made, because every record of their connection was lost, by kind.";
    counter(&mut out, "events_lost_in_ring", help, &by("kind", &never_made));
    let help = "Events that clients were too slow for.";
    counter(&mut out, "events_lost_by_clients", help, &one(lost_events.clients));
    let written: Vec<Sample<'_>> =
        outputs.iter().map(|output| (vec![("output", &*output.path)], output.written)).collect();
    counter(&mut out, "events_written", "Events written to an output.", &written);
    let lost: Vec<Sample<'_>> = outputs
        .iter()
        .flat_map(|output| {
            output.losses().map(|(stage, lost)| (vec![("output", &*output.path), ("stage", stage.name())], lost))
        })
        .collect();
    let help = "Events not written to an output: its queue was full, or the disk or the receiver refused them.";
    counter(&mut out, "events_lost_by_output", help, &lost);
    if let Some(history) = history {
        history_text(&mut out, history);
    }
    out
}

/// Writes the metrics of the history. Its written and lost events are among those of the outputs.
fn history_text(out: &mut String, history: &HistoryHealth) {
    let HistoryHealth {
        output: _,
        bytes,
        files,
        oldest,
        full,
        conversion,
        waiting,
        converted,
        failures,
        folded,
        overdue,
        ..
    } = history;
    let one = |value: u64| [(vec![], value)];
    gauge(out, "history_bytes", "Bytes of all files of the history.", &one(*bytes));
    gauge(out, "history_files", "Files of the history.", &one(*files));
    if let Some(oldest) = oldest {
        let help = "From when on there are events in the history, seconds since the epoch.";
        // Prometheus wants seconds; the file name has milliseconds.
        gauge(out, "history_oldest_timestamp_seconds", help, &one(oldest / 1000));
    }
    let help = "1 while events are lost to the history, because the file system is full.";
    gauge(out, "history_full", help, &one(u64::from(*full)));
    let help = "1 if netconn-search is not installed, so that no segment is converted.";
    gauge(out, "history_converter_missing", help, &one(u64::from(*conversion == Conversion::Missing)));
    gauge(out, "history_segments_waiting", "Closed segments that are not converted yet.", &one(*waiting));
    counter(out, "history_folded_events", "Events of floods that were counted instead of written.", &one(*folded));
    let help = "Segments that are too old and stay, because the time of day has jumped.";
    gauge(out, "history_segments_overdue", help, &one(*overdue));
    counter(out, "history_segments_converted", "Segments converted.", &one(*converted));
    counter(out, "history_conversion_failures", "Conversions that have failed.", &one(*failures));
}

fn gauge(out: &mut String, name: &str, help: &str, samples: &[Sample<'_>]) {
    family(out, (name, "", "gauge"), help, samples);
}

fn counter(out: &mut String, name: &str, help: &str, samples: &[Sample<'_>]) {
    family(out, (name, "_total", "counter"), help, samples);
}

/// Writing to a string cannot fail.
fn family(out: &mut String, (name, suffix, kind): (&str, &str, &str), help: &str, samples: &[Sample<'_>]) {
    // The format has no family without samples; a help line alone would be noise.
    if samples.is_empty() {
        return;
    }
    let _ = writeln!(out, "# HELP netconn_{name}{suffix} {help}\n# TYPE netconn_{name}{suffix} {kind}");
    for (labels, value) in samples {
        let _ = write!(out, "netconn_{name}{suffix}");
        for (index, (label, text)) in labels.iter().enumerate() {
            // The escapes that the format asks for in label values: paths are chosen by users.
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(out, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_an_output_and_more() {
        let output = OutputHealth { path: "/h".into(), written: 5, lost_disk: Some(2), ..OutputHealth::default() };
        let mut history = HistoryHealth {
            output,
            bytes: 10,
            files: 3,
            oldest: Some(1_767_225_600_999),
            full: true,
            conversion: Conversion::Missing,
            waiting: 2,
            converted: 7,
            failures: 1,
            folded: 5,
            folded_outgoing: 2,
            folded_incoming: 0,
            overdue: 4,
            confinement: None,
        };
        let mut out = String::new();
        history_text(&mut out, &history);
        let values: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                "netconn_history_bytes 10",
                "netconn_history_files 3",
                "netconn_history_oldest_timestamp_seconds 1767225600",
                "netconn_history_full 1",
                "netconn_history_converter_missing 1",
                "netconn_history_segments_waiting 2",
                "netconn_history_folded_events_total 5",
                "netconn_history_segments_overdue 4",
                "netconn_history_segments_converted_total 7",
                "netconn_history_conversion_failures_total 1",
            ]
        );
        history.oldest = None;
        out.clear();
        history_text(&mut out, &history);
        assert!(!out.contains("oldest"), "{out}");
    }

    #[test]
    fn families_have_help_type_and_escaped_labels() {
        let mut out = String::new();
        counter(&mut out, "x", "Help.", &[(vec![("output", "a\"b\\c\n"), ("stage", "disk")], 7)]);
        gauge(&mut out, "y", "More.", &[(vec![], 1)]);
        gauge(&mut out, "z", "Nothing.", &[]);
        assert_eq!(
            out,
            "# HELP netconn_x_total Help.\n# TYPE netconn_x_total counter\n\
             netconn_x_total{output=\"a\\\"b\\\\c\\n\",stage=\"disk\"} 7\n\
             # HELP netconn_y More.\n# TYPE netconn_y gauge\nnetconn_y 1\n"
        );
    }
}
