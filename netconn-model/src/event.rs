//! Events as lines of native NDJSON.

use std::borrow::Cow;

use bytes::BytesMut;
use netconn_common::IPPROTO_TCP;

pub use crate::field::Event;
use crate::{
    fact::{End, EventKind, protocol_number},
    field::Section,
    json::{Object, SecondText},
};

/// Who this sensor is: the facts that every event says of it.
#[derive(Clone, Debug)]
pub struct Sensor {
    /// Stable per host, in the form of a UUID.
    pub id: String,
    /// Host name.
    pub host: String,
    /// Organization, if configured.
    pub site: Option<String>,
    /// Name of the data source.
    pub source: String,
    /// The kernel's id of this boot, 32 hex digits without hyphens.
    pub boot: String,
}

impl Sensor {
    /// Fills in the members of [`Section::Sensor`].
    pub fn describe<'a>(&'a self, event: &mut Event<'a>) {
        // The boot is part of ids and has no field of its own; all others are named, so that none is forgotten.
        let Self { id, host, site, source, boot: _ } = self;
        event.endpoint_name = Some(Cow::Borrowed(host));
        event.endpoint_os = Some(Cow::Borrowed("linux"));
        event.sensor_id = Some(Cow::Borrowed(id));
        event.sensor_version = Some(Cow::Borrowed(env!("CARGO_PKG_VERSION")));
        event.site_id = site.as_deref().map(Cow::Borrowed);
        event.source_name = Some(Cow::Borrowed(source));
        event.source_vendor = Some(Cow::Borrowed("netconn"));
        event.source_category = Some(Cow::Borrowed("security"));
    }
}

impl Event<'_> {
    /// Returns an event that says of the sensor what this one says, and nothing else.
    #[must_use]
    pub fn of_same_sensor(&self) -> Event<'_> {
        Event {
            endpoint_name: self.endpoint_name.clone(),
            endpoint_os: self.endpoint_os.clone(),
            sensor_id: self.sensor_id.clone(),
            sensor_version: self.sensor_version.clone(),
            site_id: self.site_id.clone(),
            source_name: self.source_name.clone(),
            source_vendor: self.source_vendor.clone(),
            source_category: self.source_category.clone(),
            ..Event::default()
        }
    }

    /// Returns the kind; lines without one are no events of netconn.
    pub fn is(&self, kind: EventKind) -> bool {
        self.kind == Some(kind)
    }

    /// Returns this end of the connection, if its address is known; port 0 stands for an unknown port.
    pub fn local(&self) -> Option<End> {
        Some(End { address: self.local_address?, port: self.local_port.unwrap_or(0) })
    }

    /// Returns the other end of the connection, if its address is known; port 0 stands for an unknown port.
    pub fn remote(&self) -> Option<End> {
        Some(End { address: self.remote_address?, port: self.remote_port.unwrap_or(0) })
    }

    /// Returns whether the event is of a flow of datagrams or of a datagram or raw socket.
    pub fn is_of_datagrams(&self) -> bool {
        // A raw socket may speak TCP too.
        self.raw == Some(true)
            || self.protocol.as_deref().is_some_and(|protocol| protocol_number(protocol) != Some(IPPROTO_TCP))
    }

    /// Appends the event as one line of native NDJSON.
    pub fn write_line(&self, out: &mut BytesMut, seconds: &mut SecondText) {
        let mut object = Object::begin(out, seconds);
        for section in Section::ALL {
            self.write_section(*section, &mut object);
        }
        object.end_line();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        fact::{Attribution, CloseReason, ConnectionStatus, Direction, Failure, LossStage},
        field::FIELDS,
        moment::Moment,
        value::{Milliseconds, PlainText, Text},
    };

    fn text() -> impl Strategy<Value = Option<Text<'static>>> {
        proptest::option::of(any::<String>().prop_map(Text::Owned))
    }

    fn id() -> impl Strategy<Value = Option<PlainText<'static>>> {
        proptest::option::of("[ -!#-Z^-~]{0,20}".prop_map(PlainText::new))
    }

    fn address() -> impl Strategy<Value = Option<IpAddr>> {
        proptest::option::of(any::<IpAddr>())
    }

    fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = Option<T>> {
        proptest::option::of(proptest::sample::select(all))
    }

    prop_compose! {
        fn facts()(
            kind in one_of(EventKind::ALL),
            direction in one_of(Direction::ALL),
            status in one_of(ConnectionStatus::ALL),
            failure in one_of(Failure::ALL),
            close_reason in one_of(CloseReason::ALL),
            attribution in one_of(Attribution::ALL),
            loss_stage in one_of(LossStage::ALL),
            time in proptest::option::of(any::<i64>().prop_map(Moment)),
            microseconds in proptest::option::of(0..1_u64 << 50),
            folded in any::<Option<bool>>(),
        ) -> Event<'static> {
            Event {
                kind,
                direction,
                status,
                failure,
                close_reason,
                attribution,
                loss_stage,
                time_ms: time.map(Moment::milliseconds),
                time,
                duration: microseconds.map(|microseconds| Milliseconds { nanoseconds: microseconds * 1000 }),
                folded,
                ..Event::default()
            }
        }
    }

    prop_compose! {
        pub(crate) fn events()(
            facts in facts(),
            (id, connection_id, process_name, command_line) in (id(), id(), text(), text()),
            (executable, interface, loss_output) in (text(), text(), text()),
            protocol in proptest::option::of(proptest::sample::select(&["TCP", "UDP", "ICMP", "47"][..])),
            (local_address, remote_address) in (address(), address()),
            (local_port, pid) in any::<(Option<u16>, Option<u32>)>(),
            // Counters beyond 63 bits are shown as floats.
            bytes_sent in proptest::option::of(0..=i64::MAX.cast_unsigned()),
        ) -> Event<'static> {
            Event {
                id,
                connection_id,
                process_name,
                command_line,
                executable,
                interface,
                loss_output,
                protocol: protocol.map(PlainText::new),
                src_address: local_address,
                dst_address: remote_address,
                local_address,
                remote_address,
                local_port,
                pid,
                bytes_sent,
                ..facts
            }
        }
    }

    fn line(event: &Event<'_>) -> String {
        let mut out = BytesMut::new();
        event.write_line(&mut out, &mut SecondText::default());
        String::from_utf8(out.to_vec()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(event in events()) {
            let line = line(&event);
            let is_one_line = line.ends_with('\n') && !line.trim_end().contains(char::is_control);
            prop_assert!(is_one_line, "{line:?}");
            let read: Event<'_> = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&read, &event);
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            for info in FIELDS {
                let value = event.value(info.field).map(|value| value.to_string());
                let member = json.get(info.name);
                let expected = member.map(|member| member.as_str().map_or_else(|| member.to_string(), str::to_owned));
                if info.field != crate::field::Field::DurationMs {
                    prop_assert_eq!(value, expected, "{}", info.name);
                }
            }
        }

        #[test]
        fn no_line_makes_the_reader_panic(line: String) {
            let _ = serde_json::from_str::<Event<'_>>(&line);
        }
    }

    #[test]
    fn members_come_in_any_order_and_foreign_ones_are_skipped() {
        let text = r#"{"src.process.pid":7,"x":{"y":[1]},"event.type":"IP Close","dst.port.number":null,"timestamp":
            "2026-01-01T00:00:00.000000001Z","src.process.cmdline":"a \"b\" c","src.process.name":"a"}"#;
        let event: Event<'_> = serde_json::from_str(text).unwrap();
        assert_eq!((event.pid, event.kind, event.dst_port), (Some(7), Some(EventKind::Close), None));
        assert_eq!(event.time, Some(Moment(1_767_225_600_000_000_001)));
        assert!(matches!(&event.process_name, Some(Text::Borrowed("a"))), "text without escapes is borrowed");
        assert_eq!(event.command_line.as_deref(), Some("a \"b\" c"));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, expected) in [
            (r#"{"event.type":"IP Conect"}"#, "expected a kind of event"),
            (r#"{"local.ip.address":"1.2.3"}"#, "expected an IP address"),
            (r#"{"src.process.pid":"7"}"#, "expected u32"),
            (r#"{"timestamp":"today"}"#, "expected a time in RFC 3339"),
            (r#"{"event.id":"\n"}"#, "has special characters"),
            ("[1]", "expected a JSON object"),
        ] {
            let error = serde_json::from_str::<Event<'_>>(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
