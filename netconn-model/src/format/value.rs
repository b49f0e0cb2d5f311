//! Values as other formats know them, and how each is written.

use std::net::IpAddr;

use bytes::BufMut as _;
use data_encoding::HEXLOWER;
use jiff::{Timestamp, civil::DateTime, tz::Offset};
use sha1::{Digest as _, Sha1};

use crate::{
    community_id::CommunityId,
    json,
    moment::Moment,
    value::{PlainText, Text},
};

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Digits of base 62, as Zeek's `uid` has them.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Digits of base 62 that 96 bits take.
const UID_DIGITS: usize = 17;

/// The value of a member in another format. Not called value, which the language has.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum<'a> {
    /// Not known, or not there in this kind of event: the member is left out.
    Absent,
    /// Text.
    Text(&'a str),
    /// Text that was made for this event.
    Made(String),
    /// Whole number.
    Integer(i64),
    /// Whole number of 64 bits.
    Unsigned(u64),
    /// Whole number that is written as text.
    Digits(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// IP address.
    Address(IpAddr),
    /// List of IP addresses, those that are known.
    Addresses([Option<IpAddr>; 2]),
    /// List of names.
    Names(&'static [&'static str]),
    /// List of one text.
    ListOf(&'a str),
    /// Community ID.
    CommunityId(CommunityId),
    /// Moment as text.
    Time(Moment, TimeForm),
    /// Moment or length of time: seconds with six digits behind the point, given in nanoseconds.
    Seconds(i64),
    /// Identity in 17 digits of base 62 after a `C`, as Zeek makes them: of 96 bits of a hash of this text.
    Uid(&'a str),
    /// Identity in 32 hex digits: of 128 bits of a hash of this text.
    Hex(&'a str),
}

/// How a moment is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeForm {
    /// `2026-01-01T00:00:00.000000001Z`.
    Rfc3339,
    /// `2026-01-01T00:00:00.000000+0000`.
    Microseconds,
    /// `2026-01-01 00:00:00`.
    Plain,
    /// `2026-01-01-00-00-00`, as in the head of Zeek's logs.
    Hyphens,
    /// `Thu Jan  1 00:00:00 2026 UTC`, as `asctime` writes it.
    Calendar,
}

impl<'a, T: Into<Datum<'a>>> From<Option<T>> for Datum<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, T::into)
    }
}

impl<'a> From<&'a str> for Datum<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Text<'_>> for Datum<'a> {
    fn from(text: &'a Text<'_>) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a PlainText<'_>> for Datum<'a> {
    fn from(text: &'a PlainText<'_>) -> Self {
        Self::Text(text)
    }
}

impl From<CommunityId> for Datum<'_> {
    fn from(id: CommunityId) -> Self {
        Self::CommunityId(id)
    }
}

impl From<IpAddr> for Datum<'_> {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl From<bool> for Datum<'_> {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<u64> for Datum<'_> {
    fn from(number: u64) -> Self {
        Self::Unsigned(number)
    }
}

macro_rules! integers {
    ($($type:ty),+) => {$(
        impl From<$type> for Datum<'_> {
            fn from(number: $type) -> Self {
                Self::Integer(number.into())
            }
        }
    )+};
}
integers!(u8, u16, u32, i32, i64);

/// A number of 63 bits at most, of which a hash of this text has the first 53: JavaScript knows whole numbers up to that.
pub(super) fn number_of(text: &str) -> i64 {
    let hash = Sha1::digest(text.as_bytes());
    let high = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    // Eleven bits less than 64.
    (high >> 11).cast_signed()
}

fn write_uid(text: &str, out: &mut Vec<u8>) {
    let hash = Sha1::digest(text.as_bytes());
    let mut number = hash.iter().take(12).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    let mut digits = [b'0'; UID_DIGITS];
    for digit in digits.iter_mut().rev() {
        // The remainder is below 62.
        *digit = BASE62[usize::try_from(number % 62).unwrap_or(0)];
        number /= 62;
    }
    out.push(b'C');
    out.extend_from_slice(&digits);
}

fn push_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes a number with zeros before it.
fn push_padded(out: &mut Vec<u8>, number: impl Into<i64>, width: usize) {
    let mut rest = number.into().unsigned_abs();
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out[start..].iter_mut().rev() {
        // The remainder is below ten.
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
}

/// Writes nanoseconds as seconds with six digits.
fn push_seconds(out: &mut Vec<u8>, nanoseconds: i64) {
    let microseconds = nanoseconds / 1000;
    if microseconds < 0 {
        out.push(b'-');
    }
    push_number(out, microseconds.unsigned_abs() / 1_000_000);
    out.push(b'.');
    push_padded(out, microseconds % 1_000_000, 6);
}

/// Writes a moment in UTC.
pub(super) fn push_time(out: &mut Vec<u8>, moment: Moment, form: TimeForm) {
    const DAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    // Every 64-bit number of nanoseconds is a moment that jiff knows (1677 to 2262).
    let timestamp = Timestamp::from_second(moment.0.div_euclid(NS_PER_SECOND)).unwrap_or_default();
    let date: DateTime = Offset::UTC.to_datetime(timestamp);
    let fraction = moment.0.rem_euclid(NS_PER_SECOND);
    let calendar = |out: &mut Vec<u8>, [days, between, times]: [u8; 3]| {
        push_padded(out, date.year(), 4);
        out.push(days);
        push_padded(out, date.month(), 2);
        out.push(days);
        push_padded(out, date.day(), 2);
        out.push(between);
        push_padded(out, date.hour(), 2);
        out.push(times);
        push_padded(out, date.minute(), 2);
        out.push(times);
        push_padded(out, date.second(), 2);
    };
    match form {
        TimeForm::Rfc3339 => {
            calendar(out, *b"-T:");
            out.push(b'.');
            push_padded(out, fraction, 9);
            out.push(b'Z');
        }
        TimeForm::Microseconds => {
            calendar(out, *b"-T:");
            out.push(b'.');
            push_padded(out, fraction / 1000, 6);
            out.extend_from_slice(b"+0000");
        }
        TimeForm::Plain => calendar(out, *b"- :"),
        TimeForm::Hyphens => calendar(out, *b"---"),
        TimeForm::Calendar => {
            let place = |number: i8| usize::try_from(number - 1).unwrap_or(0);
            // Months and days of the week are numbered from 1.
            out.extend_from_slice(DAYS.get(place(date.weekday().to_monday_one_offset())).copied().unwrap_or_default());
            out.push(b' ');
            out.extend_from_slice(MONTHS.get(place(date.month())).copied().unwrap_or_default());
            // Padded with a space, as `asctime` does.
            out.extend_from_slice(if date.day() < 10 { b"  " } else { b" " });
            push_number(out, date.day());
            out.push(b' ');
            push_padded(out, date.hour(), 2);
            out.push(b':');
            push_padded(out, date.minute(), 2);
            out.push(b':');
            push_padded(out, date.second(), 2);
            out.push(b' ');
            push_padded(out, date.year(), 4);
            out.extend_from_slice(b" UTC");
        }
    }
}

impl Datum<'_> {
    /// Returns the text that needs the format's escapes, if the value is one.
    pub(super) fn free_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Made(text) => Some(text),
            _ => None,
        }
    }

    /// Appends the value without quotes or escapes: for values that have no [`free_text`](Self::free_text). Lists are separated
    /// by commas; truth values are `true` and `false`.
    pub(super) fn write_plain(&self, out: &mut Vec<u8>) {
        match self {
            Self::Absent => {}
            Self::Text(text) | Self::ListOf(text) => out.extend_from_slice(text.as_bytes()),
            Self::Made(text) => out.extend_from_slice(text.as_bytes()),
            Self::Integer(number) | Self::Digits(number) => push_number(out, *number),
            Self::Unsigned(number) => push_number(out, *number),
            Self::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Self::Address(address) => json::address(out, *address),
            Self::Addresses(addresses) => {
                for (place, address) in addresses.iter().flatten().enumerate() {
                    if place != 0 {
                        out.push(b',');
                    }
                    json::address(out, *address);
                }
            }
            Self::Names(names) => out.extend_from_slice(names.join(",").as_bytes()),
            Self::CommunityId(id) => out.extend_from_slice(id.as_bytes()),
            Self::Time(moment, form) => push_time(out, *moment, *form),
            Self::Seconds(nanoseconds) => push_seconds(out, *nanoseconds),
            Self::Uid(text) => write_uid(text, out),
            Self::Hex(text) => {
                let hash = Sha1::digest(text.as_bytes());
                let mut digits = [0; 32];
                HEXLOWER.encode_mut(&hash[..16], &mut digits);
                out.extend_from_slice(&digits);
            }
        }
    }

    /// Appends the value as JSON.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        let list = |out: &mut Vec<u8>, texts: &mut dyn Iterator<Item = &str>| {
            out.push(b'[');
            for (place, text) in texts.enumerate() {
                out.extend_from_slice(if place == 0 { b"\"" } else { b",\"" });
                json::string(out, text);
            }
            out.push(b']');
        };
        match self {
            Self::Text(text) => {
                out.push(b'"');
                json::string(out, text);
            }
            Self::Made(text) => {
                out.push(b'"');
                json::string(out, text);
            }
            Self::Integer(_) | Self::Unsigned(_) | Self::Boolean(_) | Self::Seconds(_) => self.write_plain(out),
            Self::Digits(_)
            | Self::Address(_)
            | Self::CommunityId(_)
            | Self::Time(..)
            | Self::Uid(_)
            | Self::Hex(_) => {
                out.push(b'"');
                self.write_plain(out);
                out.push(b'"');
            }
            Self::ListOf(text) => list(out, &mut [*text].into_iter()),
            Self::Names(names) => list(out, &mut names.iter().copied()),
            Self::Addresses(addresses) => {
                out.push(b'[');
                for (place, address) in addresses.iter().flatten().enumerate() {
                    out.extend_from_slice(if place == 0 { b"\"" } else { b",\"" });
                    json::address(out, *address);
                    out.push(b'"');
                }
                out.push(b']');
            }
            Self::Absent => out.put_slice(b"null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(value: &Datum<'_>) -> String {
        let mut out = Vec::new();
        value.write_plain(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn moments_have_the_forms_of_each_format() {
        let moment = Moment(1_767_225_600_012_345_678);
        let text = |form| plain(&Datum::Time(moment, form));
        assert_eq!(text(TimeForm::Rfc3339), "2026-01-01T00:00:00.012345678Z");
        assert_eq!(text(TimeForm::Microseconds), "2026-01-01T00:00:00.012345+0000");
        assert_eq!(text(TimeForm::Plain), "2026-01-01 00:00:00");
        assert_eq!(text(TimeForm::Hyphens), "2026-01-01-00-00-00");
        assert_eq!(text(TimeForm::Calendar), "Thu Jan  1 00:00:00 2026 UTC");
        assert_eq!(plain(&Datum::Seconds(moment.0)), "1767225600.012345");
        assert_eq!(plain(&Datum::Seconds(-1_500_000_000)), "-1.500000");
    }

    #[test]
    fn identities_are_of_their_text_and_stay() {
        assert_eq!(plain(&Datum::Uid("a")), plain(&Datum::Uid("a")));
        assert_ne!(plain(&Datum::Uid("a")), plain(&Datum::Uid("b")));
        // SHA-1 of "abc" begins with a9993e364706816aba3e25717850c26c (FIPS 180-4, example 1).
        assert_eq!(plain(&Datum::Hex("abc")), "a9993e364706816aba3e25717850c26c");
        assert_eq!(number_of("abc"), (0xa999_3e36_4706_816a_u64.cast_signed() >> 11) & ((1 << 53) - 1));
    }

    proptest! {
        #[test]
        fn moments_are_those_of_the_calendar(nanoseconds: i64) {
            let moment = Moment(nanoseconds);
            prop_assert_eq!(plain(&Datum::Time(moment, TimeForm::Rfc3339)), moment.to_string());
        }

        #[test]
        fn uids_have_one_length(text: String) {
            let uid = plain(&Datum::Uid(&text));
            prop_assert_eq!(uid.len(), 18);
            prop_assert!(uid.starts_with('C') && uid.chars().all(|digit| digit.is_ascii_alphanumeric()));
            prop_assert!((0..1_i64 << 53).contains(&number_of(&text)));
        }
    }
}
