//! Parses time ranges as people write them: `4 hours`, `10:30`, `March 3`, `2026-03-03T10:30:00Z`, from–to.

use std::ops::Range;

use jiff::{
    Span, Timestamp, ToSpan as _, Zoned,
    civil::{Date, DateTime, Time},
};
use thiserror::Error;

/// Length of the time range without a beginning, hours.
const DEFAULT_HOURS: i64 = 24;

/// Separators between the two ends of a range. A hyphen needs spaces around it, because dates contain hyphens.
const SEPARATORS: [&str; 6] = [" – ", " — ", " - ", " to ", "–", ".."];

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// Why a time range cannot be used. An unclear range is always an error, never read as a wider one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RangeError {
    /// The text is not a time.
    #[error(
        "'{text}' is not a time: use 4 hours, 3d, 10:30, March 3, 2026-03-03, 2026-03-03T10:30:00Z or epoch milliseconds"
    )]
    Time {
        /// The text as it was written.
        text: String,
    },
    /// The text is a number without a unit.
    #[error("'{text}' has no unit: use {text}s, {text}m, {text}h, {text}d or {text}w")]
    NoUnit {
        /// The text as it was written.
        text: String,
    },
    /// The text is not a length of time.
    #[error("'{text}' is not a length of time: use 30s, 15m, 4 hours, 3d or 1w")]
    Length {
        /// The text as it was written.
        text: String,
    },
    /// The day or hour does not exist, or lies outside the supported years.
    #[error("'{text}' does not exist: {reason}")]
    Nowhere {
        /// The text as it was written.
        text: String,
        /// What the calendar library reported.
        reason: String,
    },
    /// The range ends before it begins.
    #[error("the range is empty: it begins at {start} and ends at {end}")]
    Empty {
        /// First moment.
        start: String,
        /// The moment after the last one.
        end: String,
    },
    /// The range begins after now.
    #[error("the range begins in the future, at {start}")]
    Future {
        /// First moment.
        start: String,
    },
    /// `--until` was given together with a range that has both ends.
    #[error("'{text}' has both ends already: leave out --until")]
    TwoEnds {
        /// The text as it was written.
        text: String,
    },
}

/// The options for the time range, as they were written.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeArguments<'a> {
    /// `--since`: a time, or both ends.
    pub since: Option<&'a str>,
    /// `--until`: a time.
    pub until: Option<&'a str>,
    /// `--last`: a length, which ends now or at `until`; or both ends.
    pub last: Option<&'a str>,
}

impl TimeArguments<'_> {
    /// Returns whether none of the options was given.
    pub fn is_empty(&self) -> bool {
        self.since.is_none() && self.until.is_none() && self.last.is_none()
    }

    /// Returns the range in epoch milliseconds, without its end. By default it begins 24 hours before its end and ends
    /// now. A day as the end means its beginning. A time of day without a date is the most recent one; if both ends are such
    /// times, the end is the first one behind the beginning.
    ///
    /// # Errors
    ///
    /// A text is not a time, or the range is empty or begins in the future.
    pub fn resolve(&self, now: &Zoned) -> Result<Range<i64>, RangeError> {
        // Both options accept a range with two ends.
        for both in [self.since, self.last].into_iter().flatten() {
            let Some((start, end)) = ends(both) else { continue };
            if self.until.is_some() {
                return Err(RangeError::TwoEnds { text: both.into() });
            }
            return range(&moment(start, now)?, &ending(end, Some(start), now)?, now);
        }
        let end = self.until.map_or_else(|| Ok(now.clone()), |until| ending(until, self.since, now))?;
        let start = match (self.since, self.last) {
            (Some(since), _) => moment(since, now)?,
            (None, Some(last)) => {
                let span = length(last).ok_or_else(|| number_or(last, |text| RangeError::Length { text }))?;
                before(last, &end, span)?
            }
            // The text is only for the error that a time before the supported years would give.
            (None, None) => before("24 hours", &end, DEFAULT_HOURS.hours())?,
        };
        range(&start, &end, now)
    }
}

/// Checks and converts a range.
fn range(start: &Zoned, end: &Zoned, now: &Zoned) -> Result<Range<i64>, RangeError> {
    let text = |time: &Zoned| time.strftime("%Y-%m-%d %H:%M:%S %Z").to_string();
    // The end may lie in the future: it only means that nothing is cut off.
    if start > now {
        return Err(RangeError::Future { start: text(start) });
    }
    let range = start.timestamp().as_millisecond()..end.timestamp().as_millisecond();
    if range.is_empty() {
        return Err(RangeError::Empty { start: text(start), end: text(end) });
    }
    Ok(range)
}

/// Splits a text into both ends; `None` if it has no separator.
fn ends(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let text = text.strip_prefix("from ").unwrap_or(text);
    let (start, end) = SEPARATORS.iter().find_map(|separator| text.split_once(separator))?;
    Some((start.trim(), end.trim()))
}

/// Parses the end of a range. If both ends are a time of day alone, the end is the first such time behind the beginning, also
/// when that is still to come; else a time of day is the most recent one, as at the beginning of a range.
fn ending(text: &str, since: Option<&str>, now: &Zoned) -> Result<Zoned, RangeError> {
    if let (Some(at), Some(since)) = (time_of_day(text), since.filter(|since| time_of_day(since).is_some())) {
        let start = moment(since, now)?;
        let on = |date: Date| date.to_datetime(at).to_zoned(now.time_zone().clone());
        let end = on(start.date()).map_err(|error| nowhere(text, &error))?;
        if end > start {
            return Ok(end);
        }
        return start.date().tomorrow().and_then(on).map_err(|error| nowhere(text, &error));
    }
    moment(text, now)
}

/// Parses a time of day without a date.
fn time_of_day(text: &str) -> Option<Time> {
    let word: String = text.to_ascii_lowercase().split_whitespace().collect();
    word.contains(':').then(|| clock(&word)).flatten()
}

/// Parses a moment. The forms are tried from the strictest to the loosest.
fn moment(text: &str, now: &Zoned) -> Result<Zoned, RangeError> {
    let text = text.trim();
    match text.to_ascii_lowercase().as_str() {
        "now" => return Ok(now.clone()),
        "today" => return midnight(text, now.date(), now),
        "yesterday" => return midnight(text, now.date().yesterday().map_err(|error| nowhere(text, &error))?, now),
        _ => {}
    }
    // Before lengths and dates: digits alone have no other meaning, and a short number is an error without a unit.
    if let Some(time) = epoch(text, now) {
        return Ok(time);
    }
    if let Some(span) = length(text) {
        return before(text, now, span);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.to_zoned(now.time_zone().clone()));
    }
    // An ISO date, or date and time, without an offset is local time.
    if text.starts_with(|first: char| first.is_ascii_digit()) && text.contains('-') {
        let local = text.parse::<DateTime>().map_err(|_| RangeError::Time { text: text.into() })?;
        return local.to_zoned(now.time_zone().clone()).map_err(|error| nowhere(text, &error));
    }
    words(text, now)
}

/// Parses epoch seconds, milliseconds, microseconds or nanoseconds, distinguished by the number of digits, which is
/// the same for all times from 2001 to 2286.
fn epoch(text: &str, now: &Zoned) -> Option<Zoned> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i64 = text.parse().ok()?;
    let time = match text.len() {
        10 => Timestamp::from_second(number),
        13 => Timestamp::from_millisecond(number),
        16 => Timestamp::from_microsecond(number),
        19 => Ok(Timestamp::from_nanosecond(number.into()).ok()?),
        _ => return None,
    };
    Some(time.ok()?.to_zoned(now.time_zone().clone()))
}

/// Parses a length like `4 hours`, also written `-4 hours` or `4 hours ago`.
fn length(text: &str) -> Option<Span> {
    let text = text.trim();
    // jiff would also accept ISO 8601 durations such as `P1D`.
    if !text.bytes().any(|byte| byte.is_ascii_alphabetic()) || text.starts_with(['P', 'p']) {
        return None;
    }
    // `1M` is ambiguous: a month or a minute.
    if text.ends_with('M') && text[..text.len() - 1].trim_end().ends_with(|last: char| last.is_ascii_digit()) {
        return None;
    }
    // `4 hours ago` and `-4 hours` are negative spans; a length always reaches back.
    let span = text.to_ascii_lowercase().parse::<Span>().ok()?.abs();
    (!span.is_zero()).then_some(span)
}

/// Parses `March 3`, `3 March 2026 10:30`, `10:30` and `6:15 pm`. Without a day, the most recent such time is meant;
/// without a year, the most recent such day.
fn words(text: &str, now: &Zoned) -> Result<Zoned, RangeError> {
    let unreadable = || number_or(text, |text| RangeError::Time { text });
    let (mut month, mut day, mut year, mut time) = (None, None, None, None);
    let lower = text.to_ascii_lowercase();
    // Each part may occur once, in any order.
    let mut words = lower.split([' ', ',']).filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let twice = if word.contains(':') {
            let half = words.next_if(|next| matches!(*next, "am" | "pm")).unwrap_or_default();
            time.replace(clock(&format!("{word}{half}")).ok_or_else(unreadable)?).is_some()
        } else if let Some(number) = month_number(word) {
            month.replace(number).is_some()
        } else if let Some(number) = day_number(word) {
            day.replace(number).is_some()
        } else {
            // Four digits, so that a mistyped day is an error rather than an early year.
            let number = word.parse::<i16>().ok().filter(|_| word.len() == 4).ok_or_else(unreadable)?;
            year.replace(number).is_some()
        };
        if twice {
            return Err(unreadable());
        }
    }
    let lost = |error: jiff::Error| nowhere(text, &error);
    let at = time.unwrap_or(Time::MIN);
    match (month, day, year) {
        (None, None, None) if time.is_some() => {
            let today = now.date().to_datetime(at).to_zoned(now.time_zone().clone()).map_err(lost)?;
            // A calendar day back, not 24 hours: the time of day stays the same when the clocks change.
            if today <= *now { Ok(today) } else { today.checked_sub(1.day()).map_err(lost) }
        }
        (Some(month), Some(day), Some(year)) => {
            let date = Date::new(year, month, day).map_err(lost)?;
            date.to_datetime(at).to_zoned(now.time_zone().clone()).map_err(lost)
        }
        (Some(month), Some(day), None) => last_such_day(month, day, at, now).map_err(lost),
        _ => Err(unreadable()),
    }
}

/// Returns the most recent moment, up to now, with this day and time in any year.
fn last_such_day(month: i8, day: i8, at: Time, now: &Zoned) -> Result<Zoned, jiff::Error> {
    let mut missing = None;
    // 29 February can be eight years back, as from 1904 to 1896: 1900 was no leap year.
    for back in 0..=8 {
        let moment = Date::new(now.year() - back, month, day)
            .and_then(|date| date.to_datetime(at).to_zoned(now.time_zone().clone()));
        match moment {
            Ok(moment) if moment <= *now => return Ok(moment),
            Ok(_) => {}
            Err(error) => missing = Some(error),
        }
    }
    Err(missing.unwrap_or_else(|| jiff::Error::from_args(format_args!("no such day"))))
}

/// Parses the name of a month or its first three or more letters.
fn month_number(word: &str) -> Option<i8> {
    let place = MONTHS.iter().position(|month| word.len() >= 3 && month.starts_with(word))?;
    i8::try_from(place + 1).ok()
}

/// Parses a day of the month: `3`, `3rd`.
fn day_number(word: &str) -> Option<i8> {
    let digits = ["st", "nd", "rd", "th"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
    digits.parse().ok().filter(|day| (1..=31).contains(day) && digits.len() <= 2)
}

/// Parses a time of day: `10:30`, `10:30:15`, `6:15pm`.
fn clock(word: &str) -> Option<Time> {
    let (digits, afternoon) = match (word.strip_suffix("am"), word.strip_suffix("pm")) {
        (Some(digits), _) => (digits, Some(false)),
        (_, Some(digits)) => (digits, Some(true)),
        _ => (word, None),
    };
    let mut parts = digits.split(':').map(|part| part.parse::<i8>().ok().filter(|_| part.len() <= 2));
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    // 12 comes before 1 in both halves of the day, so it counts as 0.
    let hour = match afternoon {
        None => hour,
        Some(_) if !(1..=12).contains(&hour) => return None,
        // 12 am is midnight, and 12 pm is noon.
        Some(afternoon) => hour % 12 + if afternoon { 12 } else { 0 },
    };
    if parts.next().is_some() {
        return None;
    }
    Time::new(hour, minute, second, 0).ok()
}

/// Returns the beginning of a day.
fn midnight(text: &str, date: Date, now: &Zoned) -> Result<Zoned, RangeError> {
    date.to_zoned(now.time_zone().clone()).map_err(|error| nowhere(text, &error))
}

/// Returns the moment a length before `end`.
fn before(text: &str, end: &Zoned, span: Span) -> Result<Zoned, RangeError> {
    end.checked_sub(span).map_err(|error| nowhere(text, &error))
}

fn nowhere(text: &str, error: &jiff::Error) -> RangeError {
    RangeError::Nowhere { text: text.into(), reason: error.to_string() }
}

/// Returns the error for a number without a unit, or else `other`.
fn number_or(text: &str, other: impl Fn(String) -> RangeError) -> RangeError {
    let text = text.trim().to_owned();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        RangeError::NoUnit { text }
    } else {
        other(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Wednesday in Berlin, where daylight saving time ends on 26 October.
    fn now() -> Zoned {
        let berlin = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        "2025-11-05T10:00:00+01:00".parse::<Timestamp>().unwrap().to_zoned(berlin)
    }

    /// Formats a range as `start..end` in local time.
    fn shown(arguments: TimeArguments<'_>) -> String {
        match arguments.resolve(&now()) {
            Err(error) => error.to_string(),
            Ok(range) => [range.start, range.end]
                .map(|ms| Timestamp::from_millisecond(ms).unwrap().to_zoned(now().time_zone().clone()))
                .map(|time| time.strftime("%m-%d %H:%M:%S").to_string())
                .join(".."),
        }
    }

    #[test]
    fn each_form_of_a_time() {
        for (since, expected) in [
            ("4 hours", "11-05 06:00:00"),
            ("4 hours ago", "11-05 06:00:00"),
            ("-15m", "11-05 09:45:00"),
            ("2h30m", "11-05 07:30:00"),
            ("3d", "11-02 10:00:00"),
            ("1w", "10-29 10:00:00"),
            ("2 Weeks", "10-22 10:00:00"),
            ("30s", "11-05 09:59:30"),
            ("10:30", "11-04 10:30:00"),
            ("9:30", "11-05 09:30:00"),
            ("09:30:15", "11-05 09:30:15"),
            ("6:15 pm", "11-04 18:15:00"),
            ("12:05AM", "11-05 00:05:00"),
            ("March 3", "03-03 00:00:00"),
            ("3rd Mar 10:30", "03-03 10:30:00"),
            ("March 3, 2025", "03-03 00:00:00"),
            ("dec 24", "12-24 00:00:00"),
            ("today", "11-05 00:00:00"),
            ("yesterday", "11-04 00:00:00"),
            ("2025-11-01", "11-01 00:00:00"),
            ("2025-11-01 08:15", "11-01 08:15:00"),
            ("2025-11-01T08:15:00Z", "11-01 09:15:00"),
            ("2025-11-01T08:15:00.5-05:00", "11-01 14:15:00"),
            ("1762300800000", "11-05 01:00:00"),
            ("1762300800", "11-05 01:00:00"),
        ] {
            let arguments = TimeArguments { since: Some(since), ..TimeArguments::default() };
            assert_eq!(shown(arguments), format!("{expected}..11-05 10:00:00"), "{since}");
        }
    }

    #[test]
    fn both_ends() {
        for text in [
            "2025-11-01 - 2025-11-02",
            "2025-11-01 – 2025-11-02",
            "Nov 1–Nov 2",
            "November 1 to November 2",
            "from 2025-11-01 to 2025-11-02",
            "2025-11-01..2025-11-02",
        ] {
            for arguments in [
                TimeArguments { since: Some(text), ..TimeArguments::default() },
                TimeArguments { last: Some(text), ..TimeArguments::default() },
            ] {
                assert_eq!(shown(arguments), "11-01 00:00:00..11-02 00:00:00", "{text}");
            }
        }
        let shown = |since, until, last| shown(TimeArguments { since, until, last });
        assert_eq!(shown(None, None, None), "11-04 10:00:00..11-05 10:00:00");
        assert_eq!(shown(Some("23:00"), Some("2:00"), None), "11-04 23:00:00..11-05 02:00:00");
        // It is 10:00: the end may be still to come.
        assert_eq!(shown(Some("9:00"), Some("12:00"), None), "11-05 09:00:00..11-05 12:00:00");
        assert_eq!(shown(Some("9:00 am"), Some("12:00 pm"), None), "11-05 09:00:00..11-05 12:00:00");
        assert_eq!(shown(Some("9:00 - 12:00"), None, None), "11-05 09:00:00..11-05 12:00:00");
        assert_eq!(shown(Some("11:00"), Some("12:00"), None), "11-04 11:00:00..11-04 12:00:00");
        assert_eq!(shown(Some("11:00"), Some("9:30"), None), "11-04 11:00:00..11-05 09:30:00");
        assert_eq!(shown(Some("9:00"), Some("9:00"), None), "11-05 09:00:00..11-06 09:00:00");
        assert_eq!(shown(Some("3d"), Some("12:00"), None), "11-02 10:00:00..11-04 12:00:00");
        assert_eq!(shown(None, Some("9:00"), None), "11-04 09:00:00..11-05 09:00:00");
        assert_eq!(shown(None, Some("9:00"), Some("1h")), "11-05 08:00:00..11-05 09:00:00");
        assert_eq!(shown(None, None, Some("90 minutes")), "11-05 08:30:00..11-05 10:00:00");
        assert_eq!(shown(None, Some("2030-01-01"), Some("10 years")), "01-01 00:00:00..01-01 00:00:00");
        // Days are days of the calendar: this one has 25 hours.
        assert_eq!(shown(None, Some("2025-10-26 12:00"), Some("1d")), "10-25 12:00:00..10-26 12:00:00");
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let time = "use 4 hours, 3d, 10:30, March 3, 2026-03-03, 2026-03-03T10:30:00Z or epoch milliseconds";
        for text in
            ["", "soon", "10:30:15:1", "25:00", "13:00 pm", "March", "3 4 March", "2025-13-01", "P1D", "0 h", "x – y"]
        {
            let error = shown(TimeArguments { since: Some(text), ..TimeArguments::default() });
            let text = text.split(" – ").next().unwrap();
            assert_eq!(error, format!("'{text}' is not a time: {time}"));
        }
        for (arguments, expected) in [
            (
                TimeArguments { since: Some("24"), ..TimeArguments::default() },
                "'24' has no unit: use 24s, 24m, 24h, 24d or 24w",
            ),
            (
                TimeArguments { last: Some("7"), ..TimeArguments::default() },
                "'7' has no unit: use 7s, 7m, 7h, 7d or 7w",
            ),
            (
                TimeArguments { last: Some("1M"), ..TimeArguments::default() },
                "'1M' is not a length of time: use 30s, 15m, 4 hours, 3d or 1w",
            ),
            (
                TimeArguments { last: Some("10:30"), ..TimeArguments::default() },
                "'10:30' is not a length of time: use 30s, 15m, 4 hours, 3d or 1w",
            ),
            (
                TimeArguments { since: Some("1h"), until: Some("2h"), ..TimeArguments::default() },
                "the range is empty: it begins at 2025-11-05 09:00:00 CET and ends at 2025-11-05 08:00:00 CET",
            ),
            (
                TimeArguments { since: Some("2025-11-06"), ..TimeArguments::default() },
                "the range begins in the future, at 2025-11-06 00:00:00 CET",
            ),
            (
                TimeArguments { since: Some("3h – 2h"), until: Some("1h"), ..TimeArguments::default() },
                "'3h – 2h' has both ends already: leave out --until",
            ),
        ] {
            assert_eq!(shown(arguments), expected);
        }
        for impossible in ["February 30", "February 29, 2025", "99999 years"] {
            let error =
                TimeArguments { since: Some(impossible), ..TimeArguments::default() }.resolve(&now()).unwrap_err();
            assert!(matches!(error, RangeError::Nowhere { .. } | RangeError::Time { .. }), "{impossible}: {error}");
        }
    }
}
