//! From the kernel's time since boot to the time of day.

use std::fmt::Write as _;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Converts `CLOCK_BOOTTIME` nanoseconds, which is what the kernel's records carry, to the time of day.
#[derive(Debug)]
pub struct Clock {
    /// Time of day of the boot, nanoseconds since the epoch. Moves when the clock is set.
    boot_ns: i64,
    /// The second that `prefix` shows, so that most time stamps are written without any calendar.
    second: i64,
    prefix: String,
}

impl Clock {
    /// Reads both clocks.
    pub fn new() -> Self {
        let mut clock = Self { boot_ns: 0, second: i64::MIN, prefix: String::with_capacity(32) };
        clock.refresh();
        clock
    }

    /// Reads both clocks again, to follow changes of the time of day.
    pub fn refresh(&mut self) {
        self.boot_ns = read(ClockId::CLOCK_REALTIME) - read(ClockId::CLOCK_BOOTTIME);
    }

    /// Nanoseconds since boot, suspend counted in.
    pub fn now(&self) -> u64 {
        read(ClockId::CLOCK_BOOTTIME).cast_unsigned()
    }

    /// Nanoseconds since the epoch of a moment given in nanoseconds since boot.
    pub fn epoch_ns(&self, boottime_ns: u64) -> i64 {
        self.boot_ns.saturating_add(i64::try_from(boottime_ns).unwrap_or(i64::MAX))
    }

    /// Milliseconds since the epoch of a moment given in nanoseconds since boot.
    pub fn epoch_ms(&self, boottime_ns: u64) -> i64 {
        self.epoch_ns(boottime_ns).div_euclid(1_000_000)
    }

    /// A moment given in nanoseconds since boot, as RFC 3339 in UTC: the part up to the seconds and the nanoseconds.
    pub fn rfc3339(&mut self, boottime_ns: u64) -> (&str, u32) {
        let epoch_ns = self.epoch_ns(boottime_ns);
        let second = epoch_ns.div_euclid(NS_PER_SECOND);
        if second != self.second {
            self.second = second;
            self.prefix.clear();
            // Outside the years that can be written the prefix stays empty; no machine boots there.
            if let Ok(time) = Timestamp::from_second(second) {
                let _ = write!(self.prefix, "{time}");
                self.prefix.truncate("2026-01-01T00:00:00".len());
            }
        }
        let nanoseconds = epoch_ns.rem_euclid(NS_PER_SECOND);
        (&self.prefix, u32::try_from(nanoseconds).unwrap_or(0))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// A clock in nanoseconds. Both clocks exist on every kernel that netconn runs on; 0 stands for an error that cannot be.
fn read(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() * NS_PER_SECOND + time.tv_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_seconds_once_and_nanoseconds_exactly() {
        let mut clock = Clock { boot_ns: 1_767_225_600 * NS_PER_SECOND, second: i64::MIN, prefix: String::new() };
        assert_eq!(clock.rfc3339(1_000_000_005), ("2026-01-01T00:00:01", 5));
        assert_eq!(clock.rfc3339(1_999_999_999), ("2026-01-01T00:00:01", 999_999_999));
        assert_eq!(clock.rfc3339(86_400_000_000_000), ("2026-01-02T00:00:00", 0));
        assert_eq!(clock.epoch_ms(1_999_999), 1_767_225_600_001);
    }
}
