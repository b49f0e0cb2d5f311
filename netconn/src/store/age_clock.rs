//! The time by which the history ages: the time of day, as far as it can be believed.
//!
//! A clock that stands a month ahead for some seconds must not cost a month of events, so this time goes on as the kernel's clock
//! since boot does. It follows the time of day when that changes by little, and otherwise only when that has been steady for a day.
//! After a start it goes on from the newest segment in the same way: a machine may come up with a clock that is far off. What was
//! steady before counts: a machine that never runs for a day would never be believed otherwise.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::since_boot;

/// How much the time of day may change at once and be believed: more than a correction by NTP.
const STEP: Duration = Duration::from_secs(60);
/// How long the time of day has to be steady after a larger change, until it is believed.
const STEADY: Duration = Duration::from_secs(24 * 3600);
/// After a start, the time of day may be this part of the greatest age later than the newest segment…
const LEAP_PART: u32 = 8;
/// …or a night, with a history that is kept for days only.
const LEAP_MIN: Duration = Duration::from_secs(12 * 3600);

/// Both clocks, read at the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockReading {
    /// Time of day, milliseconds since the epoch.
    epoch_ms: i64,
    /// Milliseconds since boot.
    boot_ms: i64,
}

impl ClockReading {
    /// Reads both clocks.
    pub(super) fn now() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::new(epoch.map_or(0, milliseconds), since_boot())
    }

    pub(super) fn new(epoch_ms: i64, since_boot: Duration) -> Self {
        Self { epoch_ms, boot_ms: milliseconds(since_boot) }
    }

    /// Returns the time of day.
    pub(super) fn time_of_day(self) -> u64 {
        u64::try_from(self.epoch_ms).unwrap_or(0)
    }

    /// Returns the time of day of the boot: as long as it stays the same, both clocks go equally fast.
    fn boot_time(self) -> i64 {
        self.epoch_ms - self.boot_ms
    }
}

/// When a history was last written, and what its files say about the time of day until then. All in epoch milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastWritten {
    /// As far as that can be believed.
    pub(super) believed: u64,
    /// By the time of day.
    pub(super) shown: u64,
    /// For how long, by the believed time, the time of day has been ahead of it without going back.
    pub(super) ahead_for: u64,
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// See the module. All times of boot are in milliseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgeClock {
    /// The time of boot that is believed; `None` as long as the time of day is before the newest segment, which cannot be.
    believed: Option<i64>,
    /// When the history was last written before the start, epoch milliseconds; `None` if there was none.
    newest: Option<i64>,
    /// The greatest distance from there that is believed, milliseconds.
    leap: i64,
    /// The time of boot by the time of day.
    shown: i64,
    /// Since when that is steady, milliseconds since boot.
    steady_since: i64,
    /// For how long it was steady before the start, milliseconds.
    steady_before: i64,
}

impl AgeClock {
    /// Returns a clock for a history of this greatest age, given when it was `last` written and the clocks at the start.
    pub(super) fn new(last: Option<LastWritten>, age: Duration, start: ClockReading) -> Self {
        let signed = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        // A time of day that went back was wrong then, or is wrong now.
        let steady = last.filter(|last| start.epoch_ms >= signed(last.shown));
        Self {
            believed: None,
            newest: last.map(|last| signed(last.believed)),
            leap: milliseconds((age / LEAP_PART).max(LEAP_MIN)),
            shown: start.boot_time(),
            steady_since: start.boot_ms,
            steady_before: steady.map_or(0, |last| signed(last.ahead_for)),
        }
    }

    /// Returns the time by which the history ages, epoch milliseconds. It is never later than the time of day.
    pub(super) fn time(&mut self, now: ClockReading) -> u64 {
        let shown = now.boot_time();
        let is_near = |other: i64| shown.abs_diff(other) <= STEP.as_millis() as u64;
        if !is_near(self.shown) {
            (self.steady_since, self.steady_before) = (now.boot_ms, 0);
        }
        // Also after a small change: many of them, as NTP makes them, are no jump.
        self.shown = shown;
        let steady = (now.boot_ms - self.steady_since).saturating_add(self.steady_before);
        let is_steady = steady >= milliseconds(STEADY);
        self.believed = match (self.believed, self.newest) {
            (None, Some(newest)) if now.epoch_ms < newest => None,
            (None, Some(newest)) if now.epoch_ms - newest > self.leap && !is_steady => Some(newest - now.boot_ms),
            (Some(believed), _) if !is_near(believed) && !is_steady => Some(believed),
            _ => Some(shown),
        };
        // A clock that is behind makes everything younger: nothing is removed too early.
        let boot_time = self.believed.map_or(shown, |believed| believed.min(shown));
        u64::try_from(boot_time.saturating_add(now.boot_ms)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    /// Time of day of the boot.
    const BOOT: i64 = 1_767_225_600_000;
    const MONTH: Duration = Duration::from_secs(30 * 86_400);

    /// Returns the clocks at a moment after the boot, with a time of day that is this much ahead.
    fn at(since_boot: i64, ahead: i64) -> ClockReading {
        ClockReading::new(BOOT + since_boot + ahead, Duration::from_millis(since_boot as u64))
    }

    /// Returns how much later than the boot the history believes it is.
    fn believed(clock: &mut AgeClock, since_boot: i64, ahead: i64) -> i64 {
        clock.time(at(since_boot, ahead)) as i64 - BOOT
    }

    fn clock(newest: Option<i64>) -> AgeClock {
        let last = newest.map(|newest| (BOOT + newest) as u64);
        AgeClock::new(last.map(|last| LastWritten { believed: last, shown: last, ahead_for: 0 }), MONTH, at(0, 0))
    }

    #[test]
    fn a_clock_that_jumps_ahead_makes_nothing_old() {
        let mut clock = clock(None);
        assert_eq!(believed(&mut clock, 0, 0), 0);
        assert_eq!(believed(&mut clock, 1000, 31 * DAY), 1000);
        assert_eq!(believed(&mut clock, 4000, 31 * DAY), 4000);
        assert_eq!(believed(&mut clock, 5000, 0), 5000, "it is right again");
        // To stay: it is believed after a day.
        for since in [6000, HOUR, 12 * HOUR, DAY + 5000] {
            assert_eq!(believed(&mut clock, since, 31 * DAY), since);
        }
        assert_eq!(believed(&mut clock, DAY + 6000, 31 * DAY), 32 * DAY + 6000);
        // One that jumps on and on never is.
        for day in 2..100 {
            assert_eq!(believed(&mut clock, day * DAY, (31 + day) * DAY), (31 + day) * DAY);
        }
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        let mut clock = clock(Some(-1000));
        for hour in 0..1000 {
            assert_eq!(believed(&mut clock, hour * HOUR, hour * 30_000), hour * (HOUR + 30_000));
        }
    }

    #[test]
    fn a_clock_that_jumps_back_makes_everything_younger_and_is_followed_home() {
        let mut clock = clock(Some(-1000));
        assert_eq!(believed(&mut clock, 0, 0), 0);
        assert_eq!(believed(&mut clock, 1000, -3 * DAY), 1000 - 3 * DAY);
        assert_eq!(believed(&mut clock, 2000, 0), 2000);
        // Also from the year 1970, and to it.
        assert_eq!(clock.time(ClockReading::new(5, Duration::from_secs(3))), 5);
        assert_eq!(clock.time(ClockReading::new(-5, Duration::from_secs(4))), 0);
        assert_eq!(believed(&mut clock, 5000, 0), 5000);
    }

    #[test]
    fn a_start_long_after_the_last_event_waits_for_a_day() {
        let mut near = clock(Some(-3 * DAY));
        assert_eq!(believed(&mut near, 0, 0), 0, "an eighth of a month");
        let mut far = clock(Some(-40 * DAY));
        assert_eq!(believed(&mut far, 0, 0), -40 * DAY);
        assert_eq!(believed(&mut far, HOUR, 0), HOUR - 40 * DAY, "it goes on from the last event");
        assert_eq!(believed(&mut far, DAY, 0), DAY, "the machine was off for that long");
    }

    #[test]
    fn what_was_steady_before_the_start_counts() {
        let far = |shown: i64, ahead_for: i64| {
            let last = LastWritten {
                believed: (BOOT - 40 * DAY) as u64,
                shown: (BOOT + shown) as u64,
                ahead_for: ahead_for as u64,
            };
            AgeClock::new(Some(last), MONTH, at(0, 0))
        };
        assert_eq!(believed(&mut far(-7 * DAY, DAY), 0, 0), 0);
        let mut nearly = far(-7 * DAY, DAY - HOUR);
        assert_eq!(believed(&mut nearly, 0, 0), -40 * DAY);
        assert_eq!(believed(&mut nearly, HOUR - 1, 0), HOUR - 1 - 40 * DAY);
        assert_eq!(believed(&mut nearly, HOUR, 0), HOUR);
        // It was later at the last start than it is now: one of the two is wrong.
        assert_eq!(believed(&mut far(1, 10 * DAY), 0, 0), -40 * DAY);
        // A jump ends what was steady.
        let mut jumps = far(-7 * DAY, 10 * DAY);
        assert_eq!((believed(&mut jumps, 0, 0), believed(&mut jumps, 1000, 31 * DAY)), (0, 1000));
    }

    #[test]
    fn a_start_before_the_clock_is_set_waits_for_that() {
        // A machine without a clock that outlives its power.
        let mut clock = clock(Some(-1000));
        assert_eq!(clock.time(ClockReading::new(HOUR, Duration::from_secs(1))), HOUR as u64);
        assert_eq!(believed(&mut clock, 2000, 0), 2000, "NTP has set it");
    }
}
