//! Converts the kernel's time since boot to the time of day.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

const NS_PER_SECOND: i64 = 1_000_000_000;

/// Converts `CLOCK_BOOTTIME` nanoseconds, which is what the kernel's records carry, to the time of day.
#[derive(Debug)]
pub struct Clock {
    /// Time of day of the boot, nanoseconds since the epoch. Moves when the clock is set.
    boot_ns: i64,
}

impl Clock {
    /// Reads both clocks.
    pub fn new() -> Self {
        let mut clock = Self { boot_ns: 0 };
        clock.refresh();
        clock
    }

    /// Reads both clocks again, to follow changes of the time of day.
    pub fn refresh(&mut self) {
        // Wall time goes back when the clock is set, boot time never does: tables and schedules count in boot time, and
        // only what is written is converted, with the difference as of now.
        self.boot_ns = read(ClockId::CLOCK_REALTIME) - read(ClockId::CLOCK_BOOTTIME);
    }

    /// Returns the nanoseconds since boot, suspend included.
    pub fn now(&self) -> u64 {
        read(ClockId::CLOCK_BOOTTIME).cast_unsigned()
    }

    /// Converts nanoseconds since boot to nanoseconds since the epoch.
    pub fn epoch_ns(&self, boottime_ns: u64) -> i64 {
        // A time from a damaged record must not make the sum wrap.
        self.boot_ns.saturating_add(i64::try_from(boottime_ns).unwrap_or(i64::MAX))
    }

    /// Converts nanoseconds since boot to milliseconds since the epoch.
    pub fn epoch_ms(&self, boottime_ns: u64) -> i64 {
        // Rounds down, also before 1970 (a clock that was never set), so that no two times change their order.
        self.epoch_ns(boottime_ns).div_euclid(1_000_000)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the time since boot, suspend included. It never jumps, unlike the time of day, and goes on in suspend, unlike
/// [`std::time::Instant`].
pub fn since_boot() -> Duration {
    Duration::from_nanos(read(ClockId::CLOCK_BOOTTIME).cast_unsigned())
}

/// Reads a clock, in nanoseconds. Both clocks exist on every kernel that netconn runs on; an error would read as 0.
fn read(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() * NS_PER_SECOND + time.tv_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_since_boot_are_moments_of_the_day() {
        let clock = Clock { boot_ns: 1_767_225_600 * NS_PER_SECOND };
        assert_eq!(clock.epoch_ns(5), 1_767_225_600_000_000_005);
        assert_eq!(clock.epoch_ms(1_999_999), 1_767_225_600_001);
    }
}
