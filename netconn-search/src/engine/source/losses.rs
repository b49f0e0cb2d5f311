//! Events that are known to be lost, counted from the lines that say so.

use serde_json::Value;

/// What the kind of those events is called.
pub(crate) const KIND: &str = "Data Loss";

/// The time in which losses count, epoch milliseconds; all when there is none.
#[derive(Clone, Debug)]
pub(crate) struct Range(pub(crate) Option<std::ops::Range<i64>>);

impl Range {
    /// How many events this line says are lost: 0 for any other line.
    pub(crate) fn count(&self, line: &[u8]) -> u64 {
        let Ok(Value::Object(event)) = serde_json::from_slice(line) else { return 0 };
        if event.get("event.type").and_then(Value::as_str) != Some(KIND) {
            return 0;
        }
        let time = event.get("event.time").and_then(Value::as_i64);
        let inside = match (&self.0, time) {
            (None, _) => true,
            (Some(range), Some(time)) => range.contains(&time),
            (Some(_), None) => false,
        };
        if inside { event.get("loss.count").and_then(Value::as_u64).unwrap_or(0) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_in_the_range_count() {
        let line = br#"{"event.type":"Data Loss","event.time":15,"loss.count":7}"#;
        assert_eq!(Range(Some(10..20)).count(line), 7);
        assert_eq!(Range(Some(16..20)).count(line), 0);
        assert_eq!(Range(None).count(line), 7);
        assert_eq!(
            Range(None).count(br#"{"event.type":"IP Connect","src.process.name":"Data Loss","loss.count":7}"#),
            0
        );
        assert_eq!(Range(None).count(br#"{"event.type":"Data Loss""#), 0);
    }
}
