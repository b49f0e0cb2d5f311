//! Dates in the form of Java's `SimpleDateFormat`.

use jiff::{
    fmt::strtime::{self, BrokenDownTime},
    tz::Offset,
};

use super::time::moment_of;
use crate::{
    duration::zone,
    value::{Value, nanoseconds},
};

/// A part of a format: letters that mean something, or text.
enum Part<'a> {
    Letters(char, usize),
    Text(&'a str),
}

/// Splits a format into its parts. Text stands in apostrophes; two of them are one apostrophe.
fn parts(format: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = format;
    // Ends because each turn takes at least one character.
    while let Some(first) = rest.chars().next() {
        let taken = if let Some(after) = rest.strip_prefix("''") {
            parts.push(Part::Text("'"));
            rest.len() - after.len()
        } else if let Some(mut after) = rest.strip_prefix('\'') {
            loop {
                // Without an end, all that follows is text.
                let (text, behind) = after.split_once('\'').unwrap_or((after, ""));
                parts.push(Part::Text(text));
                after = behind;
                // Two apostrophes within the text are one of it.
                match after.strip_prefix('\'') {
                    Some(behind) => after = behind,
                    None => break,
                }
                parts.push(Part::Text("'"));
            }
            rest.len() - after.len()
        } else if first.is_ascii_alphabetic() {
            let count = rest.chars().take_while(|letter| *letter == first).count();
            parts.push(Part::Letters(first, count));
            count
        } else {
            parts.push(Part::Text(&rest[..first.len_utf8()]));
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    parts
}

/// Returns what `strftime` has for letters; `None` if it has nothing.
fn directive(letter: char, count: usize) -> Option<&'static str> {
    Some(match (letter, count) {
        ('y', 2) => "%y",
        ('y', _) => "%Y",
        ('M' | 'L', 1) => "%-m",
        ('M' | 'L', 2) => "%m",
        ('M' | 'L', 3) => "%b",
        ('M' | 'L', _) => "%B",
        ('d', 1) => "%-d",
        ('d', _) => "%d",
        ('D', 1) => "%-j",
        ('D', _) => "%j",
        ('H', 1) => "%-H",
        ('H', _) => "%H",
        ('h', 1) => "%-I",
        ('h', _) => "%I",
        ('m', 1) => "%-M",
        ('m', _) => "%M",
        ('s', 1) => "%-S",
        ('s', _) => "%S",
        ('S', 1..=3) => "%3f",
        ('S', 4..=6) => "%6f",
        ('S', _) => "%9f",
        ('a', _) => "%p",
        ('E', 1..=3) => "%a",
        ('E', _) => "%A",
        // The number of the day of the week, 1 for Monday, which has one digit.
        ('u', 1) => "%u",
        ('u', 2) => "0%u",
        ('z', _) => "%Z",
        ('Z', _) | ('X', 2) => "%z",
        // Hours alone are read; `as_strftime` writes them.
        ('X', 1) => "%:::z",
        ('X', 3) => "%:z",
        _ => return None,
    })
}

/// Returns the first letter of a format that means nothing here.
pub fn unknown_letter(format: &str) -> Option<char> {
    parts(format).into_iter().find_map(|part| match part {
        Part::Letters(letter, count) => directive(letter, count).is_none().then_some(letter),
        Part::Text(_) => None,
    })
}

/// What the letters `X` of a format stand for.
#[derive(Clone, Copy, Debug)]
enum X {
    /// `Z`, which means UTC.
    Zulu,
    /// This distance to UTC, which is written.
    Offset(Offset),
    /// A distance to UTC, which is read.
    Any,
}

/// Returns the format as one of `strftime`; `None` if a letter means nothing.
fn as_strftime(format: &str, x: X) -> Option<String> {
    let mut all = String::with_capacity(format.len() * 2);
    for part in parts(format) {
        match part {
            Part::Letters(letter, count) => {
                let directive = directive(letter, count)?;
                match (letter, count, x) {
                    ('X', _, X::Zulu) => all.push('Z'),
                    // Without the minutes, whatever they are.
                    ('X', 1, X::Offset(offset)) => {
                        let sign = if offset.is_negative() { '-' } else { '+' };
                        all.push_str(&format!("{sign}{:02}", offset.seconds().unsigned_abs() / 3_600));
                    }
                    _ => all.push_str(directive),
                }
            }
            Part::Text(text) => all.push_str(&text.replace('%', "%%")),
        }
    }
    Some(all)
}

/// `simpledateformat(time[, format[, zone]])`: RFC 3339 if there is no format, UTC if there is no zone.
pub(super) fn simpledateformat<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let zone = match arguments.get(2).map(Value::text) {
        None => zone("UTC"),
        Some(name) => name.and_then(|name| zone(&name)),
    };
    let (Some(time), Some(zone)) = (nanoseconds(&arguments[0]).and_then(moment_of), zone) else { return Value::Null };
    let Some(format) = arguments.get(1) else { return Value::owned(time.to_string()) };
    let time = time.to_zoned(zone);
    let x = if time.offset().is_zero() { X::Zulu } else { X::Offset(time.offset()) };
    let format = format.text().and_then(|format| as_strftime(&format, x));
    format.and_then(|format| strtime::format(&format, &time).ok()).map_or(Value::Null, Value::owned)
}

/// `simpledateparse(text, format)`: the moment in a text; UTC if it has no zone.
pub(super) fn simpledateparse<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(format)) = (arguments[0].text(), arguments[1].text()) else { return Value::Null };
    let read = |x| as_strftime(&format, x).and_then(|format| BrokenDownTime::parse(&format, text.as_ref()).ok());
    // A text without an offset is taken as UTC, which `Z` means.
    let parts = read(X::Any).or_else(|| read(X::Zulu));
    parts.and_then(|parts| super::time::broken_down(&parts)).map_or(Value::Null, Value::Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_java_writes_them() {
        let shown = |format: &str, zone: &str| {
            let time = Value::Integer(1_700_000_000_123);
            simpledateformat(&[time, Value::owned(format), Value::owned(zone)])
        };
        // What `java.text.SimpleDateFormat` (OpenJDK 17, Locale.ROOT) gives by its documentation.
        for (format, zone, expected) in [
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "GMT", "2023-11-14T22:13:20.123Z"),
            ("yyyy-MM-dd HH:mm Z", "GMT+8", "2023-11-15 06:13 +0800"),
            ("d.M.yy h 'o''clock' a", "GMT", "14.11.23 10 o'clock PM"),
            ("EEE, MMM d", "UTC", "Tue, Nov 14"),
            ("HH", "GMT-05:30", "16"),
            ("D 100%", "GMT", "318 100%"),
            ("u uu", "GMT", "2 02"),
            ("X XX XXX", "GMT", "Z Z Z"),
            ("X XX XXX", "GMT+1", "+01 +0100 +01:00"),
            ("X XX XXX", "GMT-05:30", "-05 -0530 -05:30"),
        ] {
            assert_eq!(shown(format, zone), Value::owned(expected), "{format}");
        }
        assert_eq!(shown("qq", "GMT"), Value::Null);
        assert_eq!((unknown_letter("yyyy 'q' q"), unknown_letter("yyyy 'q'")), (Some('q'), None));
        assert_eq!(simpledateformat(&[Value::Integer(1_700_000_000)]), Value::owned("2023-11-14T22:13:20Z"));
        let back = simpledateparse(&[Value::owned("14.11.2023 22:13"), Value::owned("dd.MM.yyyy HH:mm")]);
        assert_eq!(back, Value::Time(1_699_999_980_000_000_000));
        // What is written is read again, in each zone and for UTC.
        for format in
            ["yyyy-MM-dd'T'HH:mm:ssXXX", "yyyy-MM-dd HH:mm:ss XX", "yyyy-MM-dd HH:mm:ssX", "u yyyy-MM-dd HH:mm:ss Z"]
        {
            for zone in ["GMT", "GMT+1", "GMT-8"] {
                let written =
                    simpledateformat(&[Value::Integer(1_700_000_000), Value::owned(format), Value::owned(zone)]);
                let read = simpledateparse(&[written.clone(), Value::owned(format)]);
                assert_eq!(read, Value::Time(1_700_000_000_000_000_000), "{format} {zone} {written:?}");
            }
        }
        assert_eq!(
            simpledateparse(&[Value::owned("2023-11-14 22:13 Y"), Value::owned("yyyy-MM-dd HH:mm X")]),
            Value::Null
        );
        assert_eq!(unknown_letter("XXXX"), Some('X'));
        let zoned = simpledateparse(&[Value::owned("2023-11-14 22:13 +0100"), Value::owned("yyyy-MM-dd HH:mm Z")]);
        assert_eq!(zoned, Value::Time(1_699_996_380_000_000_000));
    }
}
