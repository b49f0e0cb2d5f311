//! Random events: fields that are there or not, of the type that they should have or another one.

use std::fmt;

use netconn_model::field::{self, Field};
use netconn_query::{
    evaluate::EventFields,
    value::{Value, ValueKind},
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value as Json, json};

/// Fields that the schema does not have, with their kinds where they are there.
const OTHERS: [(&str, ValueKind); 4] = [
    ("x.tag", ValueKind::Text),
    ("x.count", ValueKind::Integer),
    ("x.ratio", ValueKind::Number),
    ("x.flag", ValueKind::Bool),
];

/// An event as JSON.
#[derive(Clone, Debug)]
pub(super) struct Event(Map<String, Json>);

impl Event {
    pub(super) fn new(event: Json) -> Self {
        match event {
            Json::Object(event) => Self(event),
            other => panic!("{other} is no event"),
        }
    }

    /// Returns the event with those of its members only that [`netconn_model::event::Event`] has and reads.
    pub(super) fn readable(&self) -> Self {
        let is_readable = |(name, value): &(&String, &Json)| {
            let line = json!({ name.as_str(): value }).to_string();
            field::by_name(name).is_some() && serde_json::from_str::<netconn_model::event::Event<'_>>(&line).is_ok()
        };
        let members = self.0.iter().filter(is_readable);
        Self(members.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn get(&self, name: &str) -> Option<Value<'_>> {
        self.0.get(name).map(|value| match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::String(text) => text.as_str().into(),
            Json::Number(number) => match (number.as_i64(), number.is_u64()) {
                (Some(whole), _) => Value::Integer(whole),
                (None, true) => Value::owned(number.to_string()),
                (None, false) => number.as_f64().map_or(Value::Null, Value::Number),
            },
            other => Value::owned(other.to_string()),
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Json::Object(self.0.clone()))
    }
}

impl EventFields for Event {
    fn value(&self, field: Field) -> Option<Value<'_>> {
        self.get(field.info().name)
    }

    fn other(&self, name: &str) -> Option<Value<'_>> {
        self.get(name)
    }
}

/// Which of the fields besides the schema's a file with these events has, with their kinds.
pub(super) fn kinds(events: &[Event]) -> Vec<(&'static str, ValueKind)> {
    OTHERS.into_iter().filter(|(name, _)| events.iter().any(|event| event.0.contains_key(*name))).collect()
}

/// Events as lines; the number of each is its `event.id`.
pub(super) fn lines(events: &[Event]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

fn of(choices: Vec<Json>) -> impl Strategy<Value = Option<Json>> {
    option::weighted(0.75, select(choices))
}

/// The value of a field is most often one that filters ask for.
fn event() -> impl Strategy<Value = Event> {
    let texts = (
        of(vec![json!("IP Connect"), json!("IP Close"), json!("IP Listen"), json!("Data Loss"), json!(7)]),
        of(vec![json!("OUTGOING"), json!("INCOMING"), json!(null)]),
        of(vec![json!("curl"), json!("Firefox"), json!("sshd"), json!("k\u{fc}che"), json!("K\u{dc}CHE"), json!("")]),
        of(vec![
            json!("curl -o /tmp/f3 https://www.example.org:8443/a?b=c"),
            json!("/usr/sbin/sshd -D\n-e"),
            json!("100%_a\\b"),
            json!("443"),
            json!("true"),
            json!("[1,\"a\"]"),
        ]),
        of(vec![
            json!("10.0.1.20"),
            json!("10.0.1.9"),
            json!("192.168.1.2"),
            json!("2001:db8::9"),
            json!("::ffff:10.0.1.9"),
            json!("2001:0DB8:0:0::0009"),
        ]),
        of(vec![json!("10.0.1.20"), json!("203.0.113.7"), json!("fe80::1"), json!("10.0.0.0/8"), json!("no address")]),
        of(vec![json!("red"), json!("Green"), json!("10.0.1.20"), json!("443"), json!("2026-09-21T14:40:00Z")]),
    );
    let numbers = (
        of(vec![json!(443), json!(22), json!(8080), json!("443"), json!("http"), json!(443.0), json!(22.5)]),
        of(vec![json!(0), json!(443), json!(20000), json!(i64::MAX), json!(i64::MIN), json!(u64::MAX), json!(-7)]),
        of(vec![json!(0.25), json!(443), json!(443.0), json!(-1.5), json!(1e300), json!("443"), json!("slow")]),
        of(vec![json!(true), json!(false), json!("true"), json!(1)]),
        of(vec![json!(1), json!(443), json!(-3)]),
        of(vec![json!(0.5), json!(443.5)]),
        of(vec![json!(true), json!(false)]),
    );
    let times = (
        of(vec![json!(1_790_000_000_000_i64), json!(1_790_000_000_001_i64), json!(0), json!("soon")]),
        of(vec![
            json!("2026-09-21T14:13:20.000000000Z"),
            json!("2026-09-21T14:13:20.000000500Z"),
            json!("2026-09-21T14:13:20.001000000Z"),
        ]),
        of(vec![json!(1_789_999_000_000_i64), json!(1_790_000_000_000_i64)]),
    );
    (texts, numbers, times).prop_map(|(texts, numbers, times)| {
        let fields = [
            ("event.type", texts.0),
            ("event.network.direction", texts.1),
            ("src.process.name", texts.2),
            ("src.process.cmdline", texts.3),
            ("src.ip.address", texts.4),
            ("dst.ip.address", texts.5),
            ("x.tag", texts.6),
            ("dst.port.number", numbers.0),
            ("event.network.bytesSent", numbers.1),
            ("event.network.durationMs", numbers.2),
            ("event.network.preexisting", numbers.3),
            ("x.count", numbers.4),
            ("x.ratio", numbers.5),
            ("x.flag", numbers.6),
            ("event.time", times.0),
            ("timestamp", times.1),
            ("src.process.startTime", times.2),
        ];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Event(fields.collect())
    })
}

/// Some events, each with its number.
pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    vec(event(), 12..24).prop_map(|mut events| {
        for (number, event) in events.iter_mut().enumerate() {
            event.0.insert("event.id".to_owned(), number.to_string().into());
        }
        events
    })
}
