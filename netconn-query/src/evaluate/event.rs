//! Gives a filter the fields of an event of netconn.

use std::net::IpAddr;

use netconn_model::{event::Event, field::Field, value::JsonValue};

use super::EventFields;
use crate::value::Value;

/// Texts are borrowed from the event. An event holds its addresses as numbers, and `=` with an address and `in` compare them so;
/// every other use of an address allocates its text. So does every use of `timestamp`: `event.time` is cheaper.
impl EventFields for Event<'_> {
    fn value(&self, field: Field) -> Option<Value<'_>> {
        self.value(field).map(Value::from)
    }

    fn address(&self, field: Field) -> Option<IpAddr> {
        match field {
            Field::SrcAddress => self.src_address,
            Field::DstAddress => self.dst_address,
            Field::LocalAddress => self.local_address,
            Field::RemoteAddress => self.remote_address,
            // Other fields with addresses in them are texts to the event.
            _ => None,
        }
    }
}

/// Numbers beyond `i64` become floats, which are missing in a field of whole numbers.
impl<'a> From<JsonValue<'a>> for Value<'a> {
    fn from(value: JsonValue<'a>) -> Self {
        match value {
            JsonValue::Text(text) => Self::Text(text),
            JsonValue::Integer(number) => Self::Integer(number),
            JsonValue::Number(number) => Self::Number(number),
            JsonValue::Boolean(value) => Self::Bool(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use netconn_model::{
        fact::{Direction, EventKind},
        moment::Moment,
        value::{Milliseconds, PlainText},
    };

    use super::*;
    use crate::evaluate::Predicate;

    fn event() -> Event<'static> {
        Event {
            kind: Some(EventKind::Close),
            time: Some(Moment(1_790_000_000_000_000_500)),
            time_ms: Some(1_790_000_000_000),
            direction: Some(Direction::Outgoing),
            src_address: Some([10, 0, 1, 20].into()),
            dst_address: Some(IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 0x0109])),
            dst_port: Some(443),
            bytes_sent: Some(u64::MAX),
            duration: Some(Milliseconds { nanoseconds: 12_345_678 }),
            preexisting: Some(true),
            process_name: Some("curl".into()),
            process_id: Some(PlainText::new("a-7-9")),
            ..Event::default()
        }
    }

    #[test]
    fn fields_have_their_types() {
        for filter in [
            "event.type = 'IP Close'",
            // Short names.
            "process = 'curl' and direction = 'OUTGOING' and dst.port = 443 and not process = 'wget'",
            "event.network.direction in ('OUTGOING')",
            "timestamp = '2026-09-21T14:13:20.0000005Z' and timestamp > event.time",
            "dst.port.number = 443",
            "event.network.bytesSent = null",
            "event.network.durationMs = 12.345",
            "event.network.preexisting",
            "src.process.name contains 'URL' and src.process.uid ends_with '-9'",
            "local.ip.address = null and local.ip.address not in ('10.0.0.0/8') and local.ip.address in ('::1', null)",
        ] {
            let predicate = Predicate::parse(filter).unwrap().predicate;
            assert_eq!(predicate.verdict(&event()), Ok(true), "{filter}");
        }
    }

    /// An address may be written in any of its forms, as in a search.
    #[test]
    fn addresses_are_compared_as_addresses() {
        for (filter, expected) in [
            ("src.ip.address = '10.0.1.20'", true),
            ("src.ip.address != '10.0.1.20'", false),
            ("src.ip.address = '10.0.1.2'", false),
            ("src.ip.address = '::ffff:10.0.1.20'", true),
            ("src.ip.address = '10.0.1[.]20 '", true),
            ("src.ip.address != '::FFFF:a00:114'", false),
            ("dst.ip.address = '::ffff:10.0.1.9'", true),
            ("dst.ip.address = '::FFFF:10.0.1.9'", true),
            ("dst.ip.address =:anycase '::FFFF:10.0.1.9'", true),
            ("dst.ip.address = '10.0.1.9'", true),
            ("dst.ip.address in ('10.0.1.9', '192.168.0.0/16')", true),
            ("dst.ip.address in:anycase ('::FFFF:10.0.1.9')", true),
            ("dst.ip.address contains 'ffff'", false),
            ("dst.ip.address in ('10.0.1.8/31')", true),
            ("src.ip.address in ('no address', '10.0.1.20')", true),
            ("src.ip.address in ('10.0.1.2', src.process.name, dst.ip.address)", false),
            ("src.ip.address in ('10.0.1.2', src.ip.address)", true),
            ("src.ip.address = dst.ip.address", false),
            ("src.ip.address > '10.0.1.9' and src.ip.address > dst.ip.address", true),
            ("src.ip.address contains '1.2'", true),
        ] {
            let predicate = Predicate::parse(filter).unwrap().predicate;
            assert_eq!(predicate.verdict(&event()), Ok(expected), "{filter}");
        }
    }
}
