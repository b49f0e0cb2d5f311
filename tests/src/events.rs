//! The events that a daemon has written to a file.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
};

use serde_json::Value;

use crate::Netns;

/// The events of a file, in its order.
#[derive(Clone, Debug)]
pub struct Events(pub Vec<Value>);

impl Events {
    /// Reads a file; every line must be whole.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn");
        Self::parse(&text)
    }

    /// Reads a file that a daemon is still writing; leaves out a last line that is not whole.
    pub fn so_far(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        Self::parse(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }

    fn parse(text: &str) -> Self {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self(text.lines().map(parse).collect())
    }

    /// Reads the events of one kind from a file; every line must be whole.
    pub fn read_only(path: &Path, kind: &str) -> Self {
        let mut events = Vec::new();
        let mut lines = BufReader::new(fs::File::open(path).unwrap());
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 0 {
            assert!(line.ends_with('\n'), "the last line is torn");
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event["event.type"] == kind {
                events.push(event);
            }
            line.clear();
        }
        Self(events)
    }

    /// Returns the events in one network namespace since it was made. Earlier events can be of another namespace with
    /// the same inode: an orphan that retransmits its FIN keeps its namespace alive.
    pub fn within(&self, namespace: &Netns) -> Self {
        let mut events = self.with("event.network.namespace", namespace.inode);
        events.0.retain(|event| event["event.time"].as_u64().is_some_and(|time| u128::from(time) >= namespace.made_at));
        events
    }

    /// Returns the number of attempts that the kernel counts in `ActiveOpens`: those that have sent a SYN while a daemon ran. The others
    /// have no source port.
    pub fn attempts(&self) -> u64 {
        let attempts =
            self.of("IP Connect").with("event.network.protocol", "TCP").with("event.network.direction", "OUTGOING");
        let has_sent = |event: &&Value| event.get("src.port.number").is_some();
        attempts.0.iter().filter(|event| event["event.network.preexisting"] != true).filter(has_sent).count() as u64
    }

    /// Returns the events of a kind (`event.type`).
    pub fn of(&self, kind: &str) -> Self {
        self.with("event.type", kind)
    }

    /// Returns the events in which a field has this value.
    pub fn with(&self, field: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        Self(self.0.iter().filter(|event| event[field] == value).cloned().collect())
    }

    /// Returns the values of a field, one for each event.
    pub fn values(&self, field: &str) -> Vec<Value> {
        self.0.iter().map(|event| event[field].clone()).collect()
    }

    /// Returns the sum of a field, which must be a number in each event.
    pub fn sum(&self, field: &str) -> u64 {
        self.0.iter().map(|event| event[field].as_u64().unwrap_or_else(|| panic!("no {field}: {event}"))).sum()
    }

    /// Returns the only event; panics if there is not exactly one.
    pub fn one(&self) -> &Value {
        assert_eq!(self.0.len(), 1, "one event is expected: {:#?}", self.0);
        &self.0[0]
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
