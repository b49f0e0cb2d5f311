//! Spans of time and moments as queries write them: `10m`, `1 minute`, `auto`, `2026-09-21`.

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{Offset, TimeZone},
};

use crate::ast::{Expr, ExprKind};

const SECOND: i64 = 1_000_000_000;

/// Units, by their names, in nanoseconds.
const UNITS: [(&[&str], i64); 8] = [
    (&["ns", "nanosecond", "nanoseconds"], 1),
    (&["us", "microsecond", "microseconds"], 1_000),
    (&["ms", "millisecond", "milliseconds"], 1_000_000),
    (&["s", "sec", "secs", "second", "seconds"], SECOND),
    (&["m", "min", "mins", "minute", "minutes"], 60 * SECOND),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600 * SECOND),
    (&["d", "day", "days"], 86_400 * SECOND),
    (&["w", "week", "weeks"], 604_800 * SECOND),
];

/// How `timebucket` divides the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// `auto`: a width that suits a chart.
    Auto,
    /// The searched time divided into this many buckets, 1 to 500.
    Count(u16),
    /// Buckets of this many nanoseconds, at least 1.
    Every(i64),
}

/// Returns the nanoseconds of a unit: `s`, `minutes`, …
pub fn unit(text: &str) -> Option<i64> {
    // Case is ignored, so `M` is minutes: there are no months.
    let text = text.trim().to_lowercase();
    UNITS.iter().find(|(names, _)| names.contains(&text.as_str())).map(|(_, length)| *length)
}

/// Returns the nanoseconds of a span of time: a number and a unit, as in `10m`, `1 minute`, `1.5h`, or a unit alone,
/// which counts once. A sign makes it negative: `-1w`.
pub fn span(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, text) = match text.strip_prefix(['-', '+']) {
        Some(rest) if text.starts_with('-') => (-1, rest.trim_start()),
        Some(rest) => (1, rest.trim_start()),
        None => (1, text),
    };
    let split = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, name) = text.split_at(split);
    let length = unit(name)?;
    if number.is_empty() {
        return Some(sign * length);
    }
    // Whole numbers are multiplied exactly; only fractions go through a float.
    if let Ok(number) = number.parse::<i64>() {
        return number.checked_mul(length)?.checked_mul(sign);
    }
    let product = number.parse::<f64>().ok()? * length as f64;
    // The conversion would saturate and give a wrong span instead of none. Products are never negative here.
    (product < i64::MAX as f64).then_some(sign * product as i64)
}

/// Returns a moment in nanoseconds since 1970, and whether its zone was given. It is RFC 3339, or a date with or
/// without a time of day, taken as UTC.
pub fn moment(text: &str) -> Option<(i64, bool)> {
    // `20260921` and `14:40` would be read as times, but are not meant so.
    if text.len() < 10 || text.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    let nanos = |time: Timestamp| i64::try_from(time.as_nanosecond()).ok();
    // With a zone first: a text that has one would lose it as a date and a time of day.
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some((nanos(time)?, true));
    }
    let time = text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some((nanos(time.timestamp())?, false))
}

/// Returns a zone by its name, or by its distance to UTC, at most 23:59: `GMT+8`, `UTC-05:30`.
pub fn zone(name: &str) -> Option<TimeZone> {
    let Some(distance) = name.strip_prefix("GMT").or_else(|| name.strip_prefix("UTC")) else {
        return TimeZone::get(name).ok();
    };
    if distance.is_empty() {
        return Some(TimeZone::UTC);
    }
    let (sign, distance) = match distance.strip_prefix('-') {
        Some(distance) => (-1, distance),
        None => (1, distance.strip_prefix('+').unwrap_or(distance)),
    };
    let (hours, minutes) = match distance.split_once(':') {
        Some(parts) => parts,
        None if distance.len() > 2 => distance.split_at_checked(distance.len() - 2)?,
        None => (distance, "00"),
    };
    let number = |text: &str, most: i32| {
        // `parse` would accept a sign.
        let is_short = text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i32>().ok().filter(|number| is_short && *number <= most)
    };
    let seconds = number(hours, 23)? * 3_600 + number(minutes, 59)? * 60;
    Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed)
}

/// The arguments of `timebucket([time,] [width[, zone]])`.
#[derive(Clone, Copy, Debug)]
pub struct BucketArguments<'a> {
    /// The moment; `None`: that of the event.
    pub time: Option<&'a Expr>,
    /// The width; `None`: `auto`.
    pub width: Option<&'a Expr>,
    /// The zone whose days are meant; `None`: UTC.
    pub zone: Option<&'a Expr>,
}

impl<'a> BucketArguments<'a> {
    /// Tells the arguments apart: of two, the second is a zone if the first is a width and the second is none.
    pub fn of(arguments: &'a [Expr]) -> Self {
        let is_width = |expr: &Expr| matches!(&expr.kind, ExprKind::Text(text) if bucket(text).is_some());
        let is_text = |expr: &Expr| matches!(expr.kind, ExprKind::Text(_));
        let (time, width, zone) = match arguments {
            [] => (None, None, None),
            [width] => (None, Some(width), None),
            [width, zone] if is_width(width) && is_text(zone) && !is_width(zone) => (None, Some(width), Some(zone)),
            [time, width] => (Some(time), Some(width), None),
            [time, width, zone, ..] => (Some(time), Some(width), Some(zone)),
        };
        Self { time, width, zone }
    }

    /// Returns the zone, if one is named and exists.
    pub fn time_zone(&self) -> Option<TimeZone> {
        match &self.zone?.kind {
            ExprKind::Text(name) => zone(name),
            _ => None,
        }
    }
}

/// Reads the width that `timebucket` has as a text.
pub fn bucket(text: &str) -> Option<Bucket> {
    if text.trim().eq_ignore_ascii_case("auto") {
        return Some(Bucket::Auto);
    }
    // A number without a unit is a number of buckets, also in quotes.
    if let Ok(count) = text.trim().parse::<f64>() {
        return bucket_count(count);
    }
    span(text).filter(|length| *length > 0).map(Bucket::Every)
}

/// Reads the number of buckets that `timebucket` has as a number.
pub fn bucket_count(count: f64) -> Option<Bucket> {
    ((1.0..=500.0).contains(&count) && count.fract() == 0.0).then_some(Bucket::Count(count as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        assert_eq!(span("10m"), Some(600 * SECOND));
        assert_eq!(span(" 1 Minute "), Some(60 * SECOND));
        assert_eq!(span("1.5h"), Some(5_400 * SECOND));
        assert_eq!(span("day"), Some(86_400 * SECOND));
        assert_eq!(span("-1w"), Some(-604_800 * SECOND));
        assert_eq!(span("+ 4 hours"), Some(14_400 * SECOND));
        for wrong in ["", "10", "m10", "10 parsecs", "1..5h", "99999999999w", "--1w", "1e3s"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn zones_are_read() {
        let seconds = |name: &str| zone(name).map(|zone| zone.to_offset(Timestamp::UNIX_EPOCH).seconds());
        for (name, expected) in [
            ("GMT", 0),
            ("UTC+0", 0),
            ("GMT+8", 28_800),
            ("GMT8", 28_800),
            ("GMT-05:30", -19_800),
            ("UTC+0545", 20_700),
            ("UTC-545", -20_700),
            ("GMT+23:59", 86_340),
        ] {
            assert_eq!(seconds(name), Some(expected), "{name}");
        }
        for wrong in [
            "GMT+",
            "GMT++8",
            "GMT+-8",
            "GMT+24",
            "GMT+8:60",
            "GMT1\u{20ac}",
            "GMT\u{20ac}",
            "GMT+999999999:00",
            "GMT+8:",
            "No/Zone",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn buckets_are_read() {
        assert_eq!(bucket("auto"), Some(Bucket::Auto));
        assert_eq!(bucket("100"), Some(Bucket::Count(100)));
        assert_eq!(bucket("10m"), Some(Bucket::Every(600 * SECOND)));
        for wrong in ["0", "501", "1.5", "0m", "-1h", "often"] {
            assert_eq!(bucket(wrong), None, "{wrong}");
        }
    }
}
