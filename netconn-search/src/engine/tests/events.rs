//! Generates events for tests: the same in every run, with every optional field missing somewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

/// An event as JSON.
pub(super) type Event = Map<String, Value>;

/// Time of the first event, epoch milliseconds.
pub(super) const START: i64 = 1_790_000_000_000;

/// A small pseudo-random generator (xorshift), so that no dependency can change the events.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    pub(super) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

/// Generates `count` events in the order of their time.
pub(super) fn events(count: usize) -> Vec<Event> {
    let mut dice = Dice::new(count as u64 * 2_654_435_761);
    let mut time = START;
    (0..count)
        .map(|number| {
            time += i64::try_from(dice.below(3_000)).unwrap();
            event(number, time, &mut dice)
        })
        .collect()
}

fn event(number: usize, time: i64, dice: &mut Dice) -> Event {
    let kind = *dice.one(&["IP Connect", "IP Connect", "IP Connect", "IP Close", "IP Listen"]);
    let direction = *dice.one(&["OUTGOING", "OUTGOING", "INCOMING"]);
    let peer = match dice.below(4) {
        0 => format!("10.0.{}.{}", dice.below(3), dice.below(60)),
        1 => format!("192.168.1.{}", dice.below(100)),
        2 => format!("203.0.113.{}", dice.below(40)),
        // Not 0: events have addresses in their usual form, which is `2001:db8::` then.
        _ => format!("2001:db8::{:x}", 1 + dice.below(30)),
    };
    let port = *dice.one(&[22_u64, 53, 80, 443, 443, 443, 8080, 4444, 993]);
    let mut event = json!({
        "event.type": kind,
        "event.time": time,
        "timestamp": jiff::Timestamp::from_millisecond(time).unwrap().to_string(),
        "event.id": format!("e{number}"),
        "event.network.direction": direction,
        "src.ip.address": format!("192.168.1.{}", 2 + dice.below(3)),
        "src.port.number": 30_000 + dice.below(30_000),
        "dst.ip.address": peer,
        "dst.port.number": port,
        "src.process.name": *dice.one(&["curl", "sshd", "Firefox", "python3", "nc"]),
        "src.process.pid": 100 + dice.below(50),
    });
    let event = event.as_object_mut().unwrap();
    if kind == "IP Close" {
        event.insert("event.network.bytesSent".into(), dice.below(100_000).into());
        event.insert("event.network.durationMs".into(), (dice.below(1_000_000) as f64 / 1000.0).into());
    }
    if dice.below(4) > 0 {
        event.insert(
            "src.process.cmdline".into(),
            format!("curl -o /tmp/f{} https://example.org/", dice.below(9)).into(),
        );
    }
    if dice.below(10) == 0 {
        event.insert("event.network.preexisting".into(), true.into());
    }
    if dice.below(3) == 0 {
        event.insert("x.tag".into(), (*dice.one(&["red", "Green", "blue"])).into());
    }
    std::mem::take(event)
}

/// Returns events as NDJSON.
pub(super) fn event_lines(events: &[Event]) -> String {
    events.iter().map(|event| Value::Object(event.clone()).to_string() + "\n").collect()
}

/// Writes events to a file as NDJSON.
pub(super) fn write(path: &Path, events: &[Event]) {
    fs::write(path, event_lines(events)).unwrap();
}

/// Creates a folder with events in an NDJSON file.
pub(super) fn folder(events: &[Event]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    write(&path, events);
    let path = folder.path().to_owned();
    (folder, path)
}

/// Returns a field as text.
pub(super) fn text<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    event.get(name).and_then(Value::as_str)
}

/// Returns a field as a whole number.
pub(super) fn integer(event: &Event, name: &str) -> Option<i64> {
    event.get(name).and_then(Value::as_i64)
}
