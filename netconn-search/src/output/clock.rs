//! Moments as people read them: local times, of which the offset from UTC is always told.

use jiff::{
    Timestamp,
    civil::Date,
    tz::{Offset, TimeZone},
};

/// The precision with which the moments of a column are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimePrecision {
    /// Minutes.
    Minutes,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// How the moments of a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MomentForm {
    /// How exactly.
    pub precision: TimePrecision,
    /// Whether the day stands in each moment; else a line above the rows says it.
    pub has_date: bool,
    /// The offset from UTC that the heading tells; moments with another one tell theirs. `None`: each tells its own.
    pub told: Option<Offset>,
}

impl MomentForm {
    /// Returns the form of these moments: the precision is the finest that one of them needs, and the offset is told once if all
    /// have the same one.
    pub fn of(moments: impl Iterator<Item = Timestamp> + Clone, zone: &TimeZone) -> Self {
        let precision = moments.clone().map(precision).max().unwrap_or(TimePrecision::Minutes);
        let mut offsets = moments.map(|moment| zone.to_offset(moment));
        let first = offsets.next();
        let is_same = first.is_some_and(|first| offsets.all(|offset| offset == first));
        // Without a moment the offset of now is as good as any.
        let told = if is_same { first } else { first.is_none().then(|| zone.to_offset(Timestamp::now())) };
        Self { precision, has_date: true, told }
    }

    /// Returns a moment in this form.
    pub fn text(self, moment: Timestamp, zone: &TimeZone) -> String {
        let local = moment.to_zoned(zone.clone());
        let date = if self.has_date { "%Y-%m-%d " } else { "" };
        let time = match self.precision {
            TimePrecision::Minutes => "%H:%M",
            TimePrecision::Seconds => "%H:%M:%S",
            TimePrecision::Milliseconds => "%H:%M:%S%.3f",
        };
        let offset = if self.told == Some(local.offset()) { "" } else { "%:z" };
        local.strftime(&format!("{date}{time}{offset}")).to_string()
    }

    /// Returns what a heading says of the zone: `UTC`, `+01:00`; the name of the zone if the moments have several offsets.
    pub fn zone(self, zone: &TimeZone) -> String {
        match self.told {
            // The zone of a host may be called `Etc/UTC`.
            Some(Offset::UTC) if Timestamp::UNIX_EPOCH.to_zoned(zone.clone()).strftime("%Z").to_string() == "UTC" => {
                "UTC".to_owned()
            }
            Some(offset) => Timestamp::UNIX_EPOCH.to_zoned(offset.to_time_zone()).strftime("%:z").to_string(),
            None => zone.iana_name().unwrap_or("local").to_owned(),
        }
    }
}

/// Returns the day of a moment.
pub fn day(moment: Timestamp, zone: &TimeZone) -> Date {
    moment.to_zoned(zone.clone()).date()
}

/// Returns the precision that a moment needs.
pub fn precision(moment: Timestamp) -> TimePrecision {
    if moment.subsec_nanosecond() != 0 {
        TimePrecision::Milliseconds
    } else if moment.as_second() % 60 != 0 {
        TimePrecision::Seconds
    } else {
        TimePrecision::Minutes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_doubled_hour_is_told_apart() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let shown = |texts: &[&str]| {
            let moments: Vec<Timestamp> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let form = MomentForm::of(moments.iter().copied(), &berlin);
            (form.zone(&berlin), moments.iter().map(|moment| form.text(*moment, &berlin)).collect::<Vec<_>>())
        };
        let (zone, texts) = shown(&["2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z"]);
        assert_eq!(zone, "local");
        assert_eq!(texts, ["2025-10-26 02:30+02:00", "2025-10-26 02:30+01:00"]);
        let (zone, texts) = shown(&["2025-10-26T01:30:00Z", "2025-10-26T02:30:00.5Z"]);
        assert_eq!(zone, "+01:00");
        assert_eq!(texts, ["2025-10-26 02:30:00.000", "2025-10-26 03:30:00.500"]);
        // A later row with another offset than the heading says.
        let form = MomentForm::of(["2025-07-01T00:00:00Z".parse().unwrap()].into_iter(), &berlin);
        assert_eq!(form.text("2025-12-01T00:00:00Z".parse().unwrap(), &berlin), "2025-12-01 01:00+01:00");
        assert_eq!(MomentForm::of(std::iter::empty(), &TimeZone::UTC).zone(&TimeZone::UTC), "UTC");
    }
}
