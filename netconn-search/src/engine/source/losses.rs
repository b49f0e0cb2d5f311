//! Counts lost events from the `Data Loss` events that report them.

use std::ops::Range;

use netconn_model::segment_name;
use serde_json::Value;

/// The `event.type` of events that report a loss.
pub(crate) const KIND: &str = "Data Loss";

/// Counts the losses within a time range, epoch milliseconds; `None` counts all.
#[derive(Clone, Debug)]
pub(crate) struct LossCounter(pub(crate) Option<Range<i64>>);

impl LossCounter {
    /// Returns how many events this line reports as lost; 0 for a line that is no `Data Loss` event. The history also
    /// reports the losses of other outputs, which do not count for a file of the history: those events are in it.
    pub(crate) fn count(&self, line: &[u8], is_of_history: bool) -> u64 {
        // Callers pass every line that contains `KIND`, which may also be the value of another field.
        let Ok(Value::Object(event)) = serde_json::from_slice(line) else { return 0 };
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        if text("event.type") != Some(KIND) {
            return 0;
        }
        if is_of_history && text("loss.output").is_some_and(|output| output != segment_name::HISTORY) {
            return 0;
        }
        let time = |name: &str| event.get(name).and_then(Value::as_i64);
        // Reports without a time span count by their own time.
        let reported = time("event.time");
        let inside = match (&self.0, time("loss.from").or(reported), time("loss.to").or(reported)) {
            (None, ..) => true,
            // The span of a loss includes both of its ends, the range excludes its end.
            (Some(range), Some(from), Some(to)) => from < range.end && to >= range.start,
            (Some(_), ..) => false,
        };
        if inside { event.get("loss.count").and_then(Value::as_u64).unwrap_or(0) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_in_the_range_count() {
        let count = |range: Option<Range<i64>>, line: &str| LossCounter(range).count(line.as_bytes(), true);
        let line = r#"{"event.type":"Data Loss","event.time":15,"loss.count":7}"#;
        assert_eq!(count(Some(10..20), line), 7);
        assert_eq!(count(Some(16..20), line), 0);
        assert_eq!(count(None, line), 7);
        assert_eq!(count(None, r#"{"event.type":"IP Connect","src.process.name":"Data Loss","loss.count":7}"#), 0);
        assert_eq!(count(None, r#"{"event.type":"Data Loss""#), 0);
        // A loss is reported when it is over; what counts is when it happened.
        let line = r#"{"event.type":"Data Loss","event.time":25,"loss.from":12,"loss.to":18,"loss.count":7}"#;
        for (range, expected) in [(10..13, 7), (18..30, 7), (13..14, 7), (19..30, 0), (5..12, 0)] {
            assert_eq!(count(Some(range.clone()), line), expected, "{range:?}");
        }
    }

    #[test]
    fn the_history_lacks_only_its_own_losses() {
        let line = |output: &str| {
            format!(r#"{{"event.type":"Data Loss","loss.stage":"disk","loss.output":"{output}","loss.count":7}}"#)
        };
        let count = |output, is_of_history| LossCounter(None).count(line(output).as_bytes(), is_of_history);
        assert_eq!((count("history", true), count("/var/log/events", true)), (7, 0));
        assert_eq!(count("/var/log/events", false), 7, "the file may be that output");
    }
}
