//! Dates in the form of Java's `SimpleDateFormat`.

use jiff::{
    Zoned,
    fmt::strtime::{self, BrokenDownTime},
};

use super::time::{moment_of, zone};
use crate::value::{Value, nanoseconds};

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
        ('y' | 'u', 2) => "%y",
        ('y' | 'u', _) => "%Y",
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
        ('z', _) => "%Z",
        ('Z', _) => "%z",
        ('X', _) => "%:z",
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

/// Returns the format as one of `strftime`; `None` if a letter means nothing. `X` is `Z` for UTC when a date is written.
fn as_strftime(format: &str, written: Option<&Zoned>) -> Option<String> {
    let is_utc = written.is_some_and(|time| time.offset().is_zero());
    let mut all = String::with_capacity(format.len() * 2);
    for part in parts(format) {
        match part {
            Part::Letters('X', _) if is_utc => all.push('Z'),
            Part::Letters(letter, count) => all.push_str(directive(letter, count)?),
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
    let format = format.text().and_then(|format| as_strftime(&format, Some(&time)));
    format.and_then(|format| strtime::format(&format, &time).ok()).map_or(Value::Null, Value::owned)
}

/// `simpledateparse(text, format)`: the moment in a text; UTC if it has no zone.
pub(super) fn simpledateparse<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(format)) = (arguments[0].text(), arguments[1].text()) else { return Value::Null };
    let parts = as_strftime(&format, None).and_then(|format| BrokenDownTime::parse(&format, text.as_ref()).ok());
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
        ] {
            assert_eq!(shown(format, zone), Value::owned(expected), "{format}");
        }
        assert_eq!(shown("qq", "GMT"), Value::Null);
        assert_eq!((unknown_letter("yyyy 'q' q"), unknown_letter("yyyy 'q'")), (Some('q'), None));
        assert_eq!(simpledateformat(&[Value::Integer(1_700_000_000)]), Value::owned("2023-11-14T22:13:20Z"));
        let back = simpledateparse(&[Value::owned("14.11.2023 22:13"), Value::owned("dd.MM.yyyy HH:mm")]);
        assert_eq!(back, Value::Time(1_699_999_980_000_000_000));
        let zoned = simpledateparse(&[Value::owned("2023-11-14 22:13 +0100"), Value::owned("yyyy-MM-dd HH:mm Z")]);
        assert_eq!(zoned, Value::Time(1_699_996_380_000_000_000));
    }
}
