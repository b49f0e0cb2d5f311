//! Collects the events that say when daemons started and stopped, from the lines that a search reads.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use netconn_model::fact::EventKind;
use serde_json::Value;

/// What the lines of both kinds have in common, and few others.
pub(crate) const MARK: &str = "Sensor St";

/// Most starts and ends that are kept, about 2 MB: a file of events may consist of them.
pub(crate) const SENSOR_EVENTS_MAX: usize = 10_000;

/// A start or an end of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SensorEvent {
    /// `agent.uuid`: events of several hosts may be in one folder.
    pub(crate) sensor: String,
    /// `event.time`, epoch milliseconds.
    pub(crate) time: i64,
    /// Whether it is a start. Ends come first: of an end and a start in one millisecond, the end was earlier.
    pub(crate) is_start: bool,
    /// The run of the daemon: what `event.id` has before its last hyphen.
    pub(crate) run: String,
}

impl SensorEvent {
    /// Makes one of the values of an event; `None` for events of other kinds.
    pub(crate) fn new(kind: &str, time: i64, id: &str, sensor: &str) -> Option<Self> {
        let is_start = kind == EventKind::SensorStart.name();
        if !is_start && kind != EventKind::SensorStop.name() {
            return None;
        }
        let run = id.rsplit_once('-').map_or("", |(run, _)| run);
        Some(Self { sensor: sensor.to_owned(), time, is_start, run: run.to_owned() })
    }

    /// Reads a line that contains [`MARK`], which may also be in the value of another field.
    fn of_line(line: &[u8]) -> Option<Self> {
        let Ok(Value::Object(event)) = serde_json::from_slice(line) else { return None };
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        Self::new(text("event.type"), event.get("event.time")?.as_i64()?, text("event.id"), text("agent.uuid"))
    }
}

/// What the readers of lines have found, and whether they have read everything.
#[derive(Debug, Default)]
pub(crate) struct SensorLog {
    found: Mutex<Vec<SensorEvent>>,
    /// Whether there were more than are kept.
    is_cut: AtomicBool,
    /// Pieces of files that are read; 0 before the scan begins.
    pieces: AtomicUsize,
    ended: AtomicUsize,
}

impl SensorLog {
    /// Notes how many pieces there are.
    pub(crate) fn expect(&self, pieces: usize) {
        self.pieces.store(pieces, Ordering::Relaxed);
    }

    /// Notes that a piece was read to its end.
    pub(crate) fn end_piece(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what a line that contains [`MARK`] says.
    pub(crate) fn line(&self, line: &[u8]) {
        if let Some(event) = SensorEvent::of_line(line) {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if found.len() < SENSOR_EVENTS_MAX {
                found.push(event);
            } else {
                self.cut();
            }
        }
    }

    /// Notes that there are more starts and ends than are kept.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Returns whether there were more starts and ends than are kept.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// Returns what was found; `None` if some lines were not read, as a query with `limit` may leave them out.
    pub(crate) fn whole(&self) -> Option<Vec<SensorEvent>> {
        let pieces = self.pieces.load(Ordering::Relaxed);
        let is_whole = pieces > 0 && self.ended.load(Ordering::Relaxed) == pieces;
        is_whole.then(|| self.found.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_ends_are_read() {
        let log = SensorLog::default();
        log.expect(1);
        for line in [
            r#"{"event.type":"Sensor Start","event.time":7,"event.id":"ab-1","agent.uuid":"s"}"#,
            r#"{"event.type":"IP Connect","event.time":8,"src.process.name":"Sensor Stop"}"#,
            r#"{"event.type":"Sensor Stop","event.time":9,"event.id":"ab-12","agent.uuid":"s"}"#,
            r#"{"event.type":"Sensor St"#,
        ] {
            log.line(line.as_bytes());
        }
        assert_eq!(log.whole(), None, "a piece is still read");
        log.end_piece();
        let event = |time, is_start| SensorEvent { sensor: "s".into(), time, is_start, run: "ab".into() };
        assert_eq!(log.whole().unwrap(), [event(7, true), event(9, false)]);
    }

    #[test]
    fn a_file_of_starts_does_not_fill_the_memory() {
        let log = SensorLog::default();
        for time in 0..=SENSOR_EVENTS_MAX {
            assert!(!log.is_cut());
            log.line(format!(r#"{{"event.type":"Sensor Start","event.time":{time}}}"#).as_bytes());
        }
        log.expect(1);
        log.end_piece();
        assert_eq!((log.whole().unwrap().len(), log.is_cut()), (SENSOR_EVENTS_MAX, true));
    }
}
