//! Functions for moments.

use jiff::{
    Timestamp,
    civil::Date,
    fmt::strtime::{self, BrokenDownTime},
    tz::{AmbiguousOffset, Offset, TimeZone},
};

use crate::{
    duration::zone,
    value::{Value, nanoseconds},
};

/// 5 January 1970: weeks begin on Mondays.
const MONDAY: i64 = 4 * 86_400_000_000_000;

/// One week in nanoseconds.
const WEEK: i64 = 7 * 86_400_000_000_000;

/// Returns the moment of nanoseconds since 1970.
pub(super) fn moment_of(nanos: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(nanos)).ok()
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

/// Returns the beginning of the bucket that a moment is in by the clocks of a zone. Buckets begin at the same times of the clock on
/// all days; those in which the clocks change are longer or shorter.
pub fn bucket_in(nanos: i64, width: i64, zone: &TimeZone) -> Option<i64> {
    let back = |nanos: i128| i64::try_from(nanos).ok();
    let moment = moment_of(nanos)?;
    let offset = nanoseconds_of(zone.to_offset(moment));
    // Computed as if the clocks of the zone were UTC.
    let start = bucket(nanos.checked_add(offset)?, width)?;
    let clock = Offset::UTC.to_datetime(moment_of(start)?);
    match zone.to_ambiguous_timestamp(clock).offset() {
        // It need not be the offset at the moment: the clocks may have changed since.
        AmbiguousOffset::Unambiguous { offset } => start.checked_sub(nanoseconds_of(offset)),
        // The clocks leave this time out, so the bucket begins when they change.
        AmbiguousOffset::Gap { before: _, after } => {
            let earlier = after.to_timestamp(clock).ok()?;
            back(zone.following(earlier).next()?.timestamp().as_nanosecond())
        }
        // The clocks show this time twice. Buckets that are no longer than what is repeated are made for both, all others once.
        AmbiguousOffset::Fold { before, after } => {
            let (before, after) = (nanoseconds_of(before), nanoseconds_of(after));
            start.checked_sub(if width <= before - after { offset } else { before })
        }
    }
}

fn nanoseconds_of(offset: Offset) -> i64 {
    i64::from(offset.seconds()) * 1_000_000_000
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
        // Of longer buckets too, the beginning is a time of the clock, whatever it showed at the event.
        const HOUR: i64 = 3_600_000_000_000;
        for (moment, hours, expected) in [
            // On 29 March 2026 at 2:00 they go forward.
            ("2026-03-29T08:00:00Z", 12, "2026-03-28T23:00:00Z"),
            ("2026-03-29T10:00:00Z", 12, "2026-03-29T10:00:00Z"),
            ("2026-03-29T00:30:00Z", 6, "2026-03-28T23:00:00Z"),
            ("2026-03-29T03:59:00Z", 6, "2026-03-28T23:00:00Z"),
            ("2026-03-29T04:00:00Z", 6, "2026-03-29T04:00:00Z"),
            ("2026-03-29T01:30:00Z", 2, "2026-03-29T01:00:00Z"),
            ("2026-03-29T00:59:00Z", 2, "2026-03-28T23:00:00Z"),
            ("2026-03-29T01:30:00Z", 1, "2026-03-29T01:00:00Z"),
            // On 25 October 2026 at 3:00 they go back.
            ("2026-10-24T23:30:00Z", 6, "2026-10-24T22:00:00Z"),
            ("2026-10-25T04:30:00Z", 6, "2026-10-24T22:00:00Z"),
            ("2026-10-25T05:00:00Z", 6, "2026-10-25T05:00:00Z"),
            ("2026-10-25T10:59:00Z", 12, "2026-10-24T22:00:00Z"),
            ("2026-10-25T11:00:00Z", 12, "2026-10-25T11:00:00Z"),
            ("2026-10-25T00:30:00Z", 2, "2026-10-25T00:00:00Z"),
            ("2026-10-25T01:30:00Z", 2, "2026-10-25T00:00:00Z"),
            ("2026-10-25T02:30:00Z", 2, "2026-10-25T00:00:00Z"),
            ("2026-10-25T03:00:00Z", 2, "2026-10-25T03:00:00Z"),
        ] {
            assert_eq!(of(moment, hours * HOUR), expected, "{moment} in {hours} hours");
        }
        // No bucket begins after a moment in it, also if the clocks leave its beginning out.
        assert_eq!(of("2026-03-29T01:10:00Z", 40 * HOUR / 60), "2026-03-29T01:00:00Z");
        let kathmandu = TimeZone::posix("<+0545>-5:45").unwrap();
        assert_eq!(text(bucket_in(0, 3_600_000_000_000, &kathmandu)), "1969-12-31T23:15:00Z");
    }

    #[test]
    fn times_are_written_and_read() {
        let time = Value::Integer(1_700_000_000_000);
        assert_eq!(strftime(&[time, Value::owned("%Y-%m-%d %H:%M")]), Value::owned("2023-11-14 22:13"));
        let back = strptime(&[Value::owned("2023-11-14 22:13"), Value::owned("%Y-%m-%d %H:%M")]);
        assert_eq!(back, Value::Time(1_699_999_980_000_000_000));
        let in_zone = |zone: &'static str| strftime(&[Value::Time(0), Value::owned("%H:%M"), Value::owned(zone)]);
        assert_eq!(in_zone("GMT-05:30"), Value::owned("18:30"));
        assert_eq!(in_zone("GMT1\u{20ac}"), Value::Null);
        assert_eq!(in_zone("GMT+999999999:00"), Value::Null);
        let zone = strptime(&[Value::owned("2023-11-14 22:13 +0100"), Value::owned("%Y-%m-%d %H:%M %z")]);
        assert_eq!(zone, Value::Time(1_699_996_380_000_000_000));
    }
}
