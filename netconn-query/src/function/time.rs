//! Functions for moments.

use jiff::{
    Timestamp,
    civil::Date,
    fmt::strtime::{self, BrokenDownTime},
    tz::{Offset, TimeZone},
};

use crate::value::{Value, nanoseconds};

/// 5 January 1970: weeks begin on Mondays.
const MONDAY: i64 = 4 * 86_400_000_000_000;

/// One week in nanoseconds.
const WEEK: i64 = 7 * 86_400_000_000_000;

/// Returns the moment of nanoseconds since 1970.
pub(super) fn moment_of(nanos: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(nanos)).ok()
}

/// Returns a zone by its name, or by its distance to UTC: `GMT+8`, `UTC-05:30`.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    let Some(distance) = name.strip_prefix("GMT").or_else(|| name.strip_prefix("UTC")) else {
        return TimeZone::get(name).ok();
    };
    if distance.is_empty() {
        return Some(TimeZone::UTC);
    }
    let (sign, distance) =
        distance.strip_prefix('-').map_or((1, distance.trim_start_matches('+')), |distance| (-1, distance));
    let (hours, minutes) = match distance.split_once(':') {
        Some(parts) => parts,
        None if distance.len() > 2 => distance.split_at(distance.len().checked_sub(2)?),
        None => (distance, "0"),
    };
    let seconds = hours.parse::<i32>().ok()? * 3_600 + minutes.parse::<i32>().ok()? * 60;
    Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed)
}

/// Returns the nanoseconds of the moment that a text has; UTC if it has no zone.
pub(super) fn broken_down(parts: &BrokenDownTime) -> Option<i64> {
    // Without a zone in the text there is no timestamp, only a date and perhaps a time of day.
    let moment = parts.to_timestamp().ok().or_else(|| {
        let date: Date = parts.to_date().ok()?;
        let time = parts.to_time().unwrap_or_default();
        Offset::UTC.to_timestamp(date.to_datetime(time)).ok()
    });
    moment.and_then(|moment| i64::try_from(moment.as_nanosecond()).ok())
}

/// Returns the beginning of the bucket that a moment is in, UTC, from the width in nanoseconds; weeks begin on Mondays.
/// `None` if it is before all moments.
pub fn bucket(nanos: i64, width: i64) -> Option<i64> {
    // 1 January 1970 was a Thursday, so weeks counted from there would begin on Thursdays.
    let offset = if width > 0 && width % WEEK == 0 { MONDAY } else { 0 };
    // Euclidean, so that moments before 1970 are rounded down as well. `max(1)` keeps a width of 0 from dividing.
    nanos.checked_sub(nanos.checked_sub(offset)?.rem_euclid(width.max(1)))
}

/// Returns the beginning of the bucket that a moment is in by the clocks of a zone. Days and weeks begin at its midnight, also those
/// of 23 and 25 hours.
pub fn bucket_in(nanos: i64, width: i64, zone: &TimeZone) -> Option<i64> {
    const DAY: i64 = WEEK / 7;
    let moment = Timestamp::from_nanosecond(i128::from(nanos)).ok()?;
    let offset = i64::from(zone.to_offset(moment).seconds()) * 1_000_000_000;
    // Computed as if the clocks of the zone were UTC.
    let start = bucket(nanos.checked_add(offset)?, width)?;
    if width % DAY != 0 {
        return start.checked_sub(offset);
    }
    // The offset may have been another one at midnight.
    let midnight = Offset::UTC.to_datetime(Timestamp::from_nanosecond(i128::from(start)).ok()?);
    i64::try_from(zone.to_ambiguous_timestamp(midnight).compatible().ok()?.as_nanosecond()).ok()
}

/// `strftime(time[, format[, zone]])`, time and format in either order: RFC 3339 if there is no format, UTC if there is no
/// zone.
pub fn strftime<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (time, format) = match arguments {
        // A moment as a text has no percent sign, so the order of the arguments can be recognised.
        [Value::Text(format), time, ..] if format.contains('%') => (time, Some(format)),
        [time, Value::Text(format), ..] => (time, Some(format)),
        [time] => (time, None),
        _ => return Value::Null,
    };
    let zone = match arguments.get(2).map(Value::text) {
        None => Some(TimeZone::UTC),
        Some(name) => name.and_then(|name| zone(&name)),
    };
    let time = nanoseconds(time).and_then(moment_of);
    let (Some(time), Some(zone)) = (time, zone) else { return Value::Null };
    match format {
        None => Value::owned(time.to_string()),
        Some(format) => strtime::format(format.as_ref(), &time.to_zoned(zone)).map_or(Value::Null, Value::owned),
    }
}

/// `strptime(text, format)`, in either order: the moment in a text; UTC if it has no zone.
pub fn strptime<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Value::Text(first), Value::Text(second)) = (&arguments[0], &arguments[1]) else { return Value::Null };
    let (text, format) = if first.contains('%') { (second, first) } else { (first, second) };
    let parts = BrokenDownTime::parse(format.as_ref(), text.as_ref()).ok();
    parts.and_then(|parts| broken_down(&parts)).map_or(Value::Null, Value::Time)
}

/// `span(x, unit)`: the nanoseconds of a span of time in units of so many of them; missing beyond 64 bits.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "it is below the limit of 64 bits")]
pub(super) fn span<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(unit) = arguments[1].integer() else { return Value::Null };
    let nanos = match &arguments[0] {
        Value::Integer(count) => count.checked_mul(unit),
        // 9.2e18 is a little below 2^63.
        value => value
            .number()
            .map(|count| count * unit as f64)
            .filter(|nanos| nanos.abs() < 9.2e18)
            .map(|nanos| nanos as i64),
    };
    nanos.map_or(Value::Null, Value::Integer)
}

/// Returns the moment that a text or a number stands for.
pub fn moment<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    nanoseconds(&arguments[0]).map_or(Value::Null, Value::Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_begin_at_round_times() {
        let text = |nanos: Option<i64>| Value::Time(nanos.unwrap()).text().unwrap().into_owned();
        let nanos = 1_700_000_000_000_000_000;
        assert_eq!((bucket(i64::MIN, WEEK), bucket(i64::MIN + 1, 1_000_000_000)), (None, None));
        assert_eq!(text(bucket(nanos, 600_000_000_000)), "2023-11-14T22:10:00Z");
        assert_eq!(text(bucket(nanos, WEEK / 7)), "2023-11-14T00:00:00Z");
        assert_eq!(text(bucket(nanos, WEEK)), "2023-11-13T00:00:00Z");
        assert_eq!(text(bucket(-1, 1_000_000_000)), "1969-12-31T23:59:59Z");
        // In Berlin the clocks go back on 26 October 2025 at 3:00.
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let of = |moment: &str, width| {
            let moment: Timestamp = moment.parse().unwrap();
            text(bucket_in(i64::try_from(moment.as_nanosecond()).unwrap(), width, &berlin))
        };
        assert_eq!(of("2025-10-26T22:30:00Z", WEEK / 7), "2025-10-25T22:00:00Z", "a day of 25 hours");
        assert_eq!(of("2025-10-26T23:30:00Z", WEEK / 7), "2025-10-26T23:00:00Z");
        assert_eq!(of("2025-10-29T12:00:00Z", WEEK), "2025-10-26T23:00:00Z");
        assert_eq!(of("2025-10-26T00:30:00Z", 3_600_000_000_000), "2025-10-26T00:00:00Z");
        assert_eq!(of("2025-10-26T01:30:00Z", 3_600_000_000_000), "2025-10-26T01:00:00Z", "the doubled hour");
        let kathmandu = TimeZone::posix("<+0545>-5:45").unwrap();
        assert_eq!(text(bucket_in(0, 3_600_000_000_000, &kathmandu)), "1969-12-31T23:15:00Z");
    }

    #[test]
    fn times_are_written_and_read() {
        let time = Value::Integer(1_700_000_000_000);
        assert_eq!(strftime(&[time, Value::owned("%Y-%m-%d %H:%M")]), Value::owned("2023-11-14 22:13"));
        let back = strptime(&[Value::owned("2023-11-14 22:13"), Value::owned("%Y-%m-%d %H:%M")]);
        assert_eq!(back, Value::Time(1_699_999_980_000_000_000));
        let zone = strptime(&[Value::owned("2023-11-14 22:13 +0100"), Value::owned("%Y-%m-%d %H:%M %z")]);
        assert_eq!(zone, Value::Time(1_699_996_380_000_000_000));
    }
}
