//! Says beside an answer when nothing was recorded.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use netconn_model::term;
use serde::Serialize;

use crate::engine::Gap;

/// Most gaps that people are told one by one, the latest of them.
const TOLD_MAX: usize = 5;

/// A gap in the form of a JSON answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapJson {
    /// When nothing more was recorded, epoch milliseconds; `null` if that is not known.
    from: Option<i64>,
    /// When a daemon recorded again, epoch milliseconds; `null` if none did in what was searched.
    to: Option<i64>,
    /// `stopped`: a `Sensor Stop` says so. `killed`: `from` is the time of the last event.
    reason: &'static str,
    /// `agent.uuid` of the sensor.
    sensor: String,
}

impl From<&Gap> for GapJson {
    fn from(gap: &Gap) -> Self {
        let reason = if gap.is_told { "stopped" } else { "killed" };
        Self { from: gap.from, to: gap.to, reason, sensor: gap.sensor.clone() }
    }
}

/// Returns a moment with its zone.
pub fn moment(ms: i64, zone: &TimeZone) -> String {
    Timestamp::from_millisecond(ms)
        .unwrap_or_default()
        .to_zoned(zone.clone())
        .strftime("%Y-%m-%d %H:%M:%S %Z")
        .to_string()
}

/// Returns a sentence for each gap; for many gaps only for the latest, and how many there are.
pub fn sentences(gaps: &[Gap], zone: &TimeZone) -> Vec<String> {
    let (before, told) = gaps.split_at(gaps.len().saturating_sub(TOLD_MAX));
    let mut sentences = Vec::new();
    if let Some(last) = before.last() {
        let known = before.iter().filter_map(length).sum();
        let until = last.to.map_or_else(String::new, |to| format!(" until {}", moment(to, zone)));
        let times = match before.len() {
            1 => "was 1 other time".to_owned(),
            count => format!("were {count} other times"),
        };
        sentences.push(format!(
            "there {times} in which nothing was recorded{until}, at least {} together (--format json has all)",
            term::duration(known)
        ));
    }
    sentences.extend(told.iter().map(|gap| sentence(gap, zone)));
    sentences
}

fn length(gap: &Gap) -> Option<Duration> {
    Some(Duration::from_millis(u64::try_from(gap.to? - gap.from?).ok()?))
}

fn sentence(gap: &Gap, zone: &TimeZone) -> String {
    let moment = |ms| moment(ms, zone);
    let lasted = length(gap).map_or_else(String::new, |length| format!(" ({})", term::duration(length)));
    match (gap.from, gap.to, gap.is_told) {
        (Some(from), Some(to), true) => {
            format!("nothing was recorded from {} to {}{lasted}: netconn was stopped", moment(from), moment(to))
        }
        (Some(from), None, true) => {
            format!("nothing was recorded from {} on, as far as was searched: netconn was stopped", moment(from))
        }
        (Some(from), Some(to), false) => format!(
            "nothing was recorded from the last event at {} to {}{lasted}: netconn or the host ended without stopping in order",
            moment(from),
            moment(to)
        ),
        (Some(from), None, false) => format!("nothing was recorded from the last event at {} on", moment(from)),
        (None, Some(to), _) => {
            format!("nothing was recorded before {}, when netconn started; since when is not known", moment(to))
        }
        (None, None, _) => "nothing was recorded for a time that is not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_told_with_both_ends() {
        let gap = |from, to, is_told| Gap { from, to, is_told, sensor: "s".into() };
        let told = |gaps: &[Gap]| sentences(gaps, &TimeZone::UTC);
        let (from, to) = (Some(1_795_255_200_000), Some(1_795_255_307_000));
        assert_eq!(
            told(&[gap(from, to, true), gap(from, to, false), gap(None, to, false), gap(from, None, true)]),
            [
                "nothing was recorded from 2026-11-21 10:00:00 UTC to 2026-11-21 10:01:47 UTC (1m 47s): netconn was stopped",
                "nothing was recorded from the last event at 2026-11-21 10:00:00 UTC to 2026-11-21 10:01:47 UTC (1m 47s): \
                 netconn or the host ended without stopping in order",
                "nothing was recorded before 2026-11-21 10:01:47 UTC, when netconn started; since when is not known",
                "nothing was recorded from 2026-11-21 10:00:00 UTC on, as far as was searched: netconn was stopped",
            ]
        );
        let many = vec![gap(from, to, true); 7];
        assert_eq!(told(&many).len(), 6);
        assert_eq!(
            told(&many)[0],
            "there were 2 other times in which nothing was recorded until 2026-11-21 10:01:47 UTC, at least 3m 34s together \
             (--format json has all)"
        );
        assert!(told(&many[1..])[0].starts_with("there was 1 other time in which"), "{:?}", told(&many[1..])[0]);
    }
}
