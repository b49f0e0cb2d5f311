//! Writes one flat JSON object member by member, without building it in memory first.

use std::{fmt::Write as _, net::IpAddr};

use bytes::{BufMut as _, BytesMut};

use crate::field::Field;

/// A JSON object in the making, at the end of a buffer.
pub struct Object<'a> {
    out: &'a mut BytesMut,
    /// Where the object begins, so that its first member goes without a comma.
    start: usize,
}

impl<'a> Object<'a> {
    /// Begins an object.
    pub fn begin(out: &'a mut BytesMut) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// Ends the object.
    pub fn end(self) {
        if self.out.len() == self.start {
            self.out.put_u8(b'{');
        }
        self.out.put_u8(b'}');
    }

    /// Ends the object and the line.
    pub fn end_line(self) {
        let Self { out, start } = self;
        Object { out, start }.end();
        out.put_u8(b'\n');
    }

    /// Writes a key as the tables have it: `,"key":`.
    fn key(&mut self, key: &'static str) {
        let at = self.out.len();
        self.out.put_slice(key.as_bytes());
        if at == self.start
            && let Some(comma) = self.out.get_mut(at)
        {
            *comma = b'{';
        }
    }

    /// Copies members that were written before, each with its leading comma; the object must have a member already.
    pub fn members(&mut self, members: &[u8]) {
        self.out.put_slice(members);
    }

    /// Writes members and gives a copy of them, for [`members`](Self::members); the object must have a member already.
    pub fn written(&mut self, write: impl FnOnce(&mut Self)) -> Vec<u8> {
        let start = self.out.len();
        write(self);
        self.out.get(start..).unwrap_or_default().to_vec()
    }

    /// A member with a text value.
    pub fn string(&mut self, field: Field, value: &str) {
        self.string_as(field.info().key, value);
    }

    /// A member with a number.
    pub fn integer(&mut self, field: Field, value: impl itoa::Integer) {
        self.integer_as(field.info().key, value);
    }

    /// A member that is true.
    pub fn r#true(&mut self, field: Field) {
        self.true_as(field.info().key);
    }

    /// A member with an IP address.
    pub fn address(&mut self, field: Field, value: IpAddr) {
        self.address_as(field.info().key, value);
    }

    /// A member with milliseconds, given in nanoseconds, to the microsecond.
    pub fn milliseconds(&mut self, field: Field, nanoseconds: u64) {
        self.integer(field, nanoseconds / 1_000_000);
        let microseconds = nanoseconds / 1000 % 1000;
        if microseconds != 0 {
            let digits = [b'.', digit(microseconds / 100), digit(microseconds / 10 % 10), digit(microseconds % 10)];
            let end = digits.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
            self.out.put_slice(&digits[..end]);
        }
    }

    /// A member with RFC 3339 time in UTC with nanoseconds.
    pub fn time(&mut self, field: Field, time: (&str, u32)) {
        self.time_as(field.info().key, time);
    }

    /// A member with text that is written by `write` and needs no escapes.
    pub fn plain(&mut self, field: Field, write: impl FnOnce(&mut BytesMut)) {
        self.plain_as(field.info().key, write);
    }

    /// As [`Self::string`], with a key `,"key":`.
    pub fn string_as(&mut self, key: &'static str, value: &str) {
        self.key(key);
        string(self.out, value);
    }

    /// As [`Self::r#true`], with a key `,"key":`.
    pub fn true_as(&mut self, key: &'static str) {
        self.key(key);
        self.out.put_slice(b"true");
    }

    /// As [`Self::integer`], with a key `,"key":`.
    pub fn integer_as(&mut self, key: &'static str, value: impl itoa::Integer) {
        self.key(key);
        self.out.put_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// As [`Self::address`], with a key `,"key":`.
    pub fn address_as(&mut self, key: &'static str, value: IpAddr) {
        self.plain_as(key, |out| address(out, value));
    }

    /// As [`Self::time`], with a key `,"key":`.
    pub fn time_as(&mut self, key: &'static str, (seconds, nanoseconds): (&str, u32)) {
        self.plain_as(key, |out| {
            let mut digits = *b".000000000Z";
            let mut rest = nanoseconds;
            for place in (1..=9).rev() {
                digits[place] = digit(u64::from(rest % 10));
                rest /= 10;
            }
            out.put_slice(seconds.as_bytes());
            out.put_slice(&digits);
        });
    }

    /// As [`Self::plain`], with a key `,"key":`.
    pub fn plain_as(&mut self, key: &'static str, write: impl FnOnce(&mut BytesMut)) {
        self.key(key);
        self.out.put_u8(b'"');
        write(self.out);
        self.out.put_u8(b'"');
    }
}

fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value % 10).unwrap_or(0)
}

/// Writes an address in its shortest standard form.
pub fn address(out: &mut BytesMut, value: IpAddr) {
    match value {
        IpAddr::V4(value) => {
            let mut number = itoa::Buffer::new();
            for (place, octet) in value.octets().into_iter().enumerate() {
                if place != 0 {
                    out.put_u8(b'.');
                }
                out.put_slice(number.format(octet).as_bytes());
            }
        }
        // Writing to a BytesMut cannot fail: it grows.
        IpAddr::V6(value) => drop(write!(out, "{value}")),
    }
}

/// Writes a JSON string: quotes, backslashes and all control characters (C0, DEL, C1) escaped.
fn string(out: &mut BytesMut, value: &str) {
    out.put_u8(b'"');
    if is_plain(value.as_bytes()) {
        out.put_slice(value.as_bytes());
        out.put_u8(b'"');
        return;
    }
    let mut done = 0;
    for (at, character) in value.char_indices() {
        if !matches!(character, '\0'..='\x1f' | '"' | '\\' | '\x7f'..='\u{9f}') {
            continue;
        }
        out.put_slice(&value.as_bytes()[done..at]);
        match character {
            '"' => out.put_slice(b"\\\""),
            '\\' => out.put_slice(b"\\\\"),
            '\n' => out.put_slice(b"\\n"),
            '\t' => out.put_slice(b"\\t"),
            '\r' => out.put_slice(b"\\r"),
            other => drop(write!(out, "\\u{:04x}", u32::from(other))),
        }
        done = at + character.len_utf8();
    }
    out.put_slice(&value.as_bytes()[done..]);
    out.put_u8(b'"');
}

/// Whether a text is printable ASCII without quotes and backslashes. All of it is looked at, many bytes at once.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~') & !matches!(byte, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(write: impl FnOnce(&mut Object<'_>)) -> String {
        let mut out = BytesMut::new();
        let mut object = Object::begin(&mut out);
        write(&mut object);
        object.end();
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn members_are_separated() {
        assert_eq!(object(|_| {}), "{}");
        assert_eq!(object(|object| object.integer(Field::SrcPort, 7_u16)), r#"{"src.port.number":7}"#);
        let text = object(|object| {
            object.string(Field::EventType, "IP Close");
            object.members(b",\"a\":1");
            object.r#true(Field::Preexisting);
        });
        assert_eq!(text, r#"{"event.type":"IP Close","a":1,"event.network.preexisting":true}"#);
    }

    #[test]
    fn milliseconds_keep_microseconds() {
        let text = |nanoseconds| object(|object| object.milliseconds(Field::DurationMs, nanoseconds));
        assert_eq!(text(0), r#"{"event.network.durationMs":0}"#);
        assert_eq!(text(12_000_999), r#"{"event.network.durationMs":12}"#);
        assert_eq!(text(12_034_000), r#"{"event.network.durationMs":12.034}"#);
        assert_eq!(text(12_300_000), r#"{"event.network.durationMs":12.3}"#);
    }

    #[test]
    fn times_have_nine_digits() {
        let text = object(|object| object.time(Field::Timestamp, ("2026-01-01T00:00:00", 42)));
        assert_eq!(text, r#"{"timestamp":"2026-01-01T00:00:00.000000042Z"}"#);
    }

    proptest! {
        #[test]
        fn strings_read_back(value: String) {
            let text = object(|object| object.string(Field::ProcessCmdline, &value));
            prop_assert!(!text.chars().any(char::is_control));
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read["src.process.cmdline"].as_str().unwrap(), value);
        }

        #[test]
        fn addresses_are_in_standard_form(octets: [u8; 16], v6: bool) {
            let value: IpAddr = if v6 { octets.into() } else { [octets[0], octets[1], octets[2], octets[3]].into() };
            let mut out = BytesMut::new();
            address(&mut out, value);
            prop_assert_eq!(String::from_utf8(out.to_vec()).unwrap(), value.to_string());
        }
    }
}
