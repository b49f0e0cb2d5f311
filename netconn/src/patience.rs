//! Limits how long a thread waits for what others can make slow: other threads, and files in `/proc` of strangers' processes.

use std::time::{Duration, Instant};

/// Waiting takes at most 1/`SHARE` of the time.
const SHARE: u32 = 50;
/// Most waiting at once, which is what may be saved.
const SAVED_MAX: Duration = Duration::from_millis(100);

/// Time for waiting: 2 % of all time, of which a tenth of a second can be saved.
#[derive(Debug)]
pub struct Patience {
    /// When all of it is there again.
    full_at: Instant,
}

impl Default for Patience {
    fn default() -> Self {
        Self { full_at: Instant::now() }
    }
}

impl Patience {
    /// Returns how long may be waited at `now`.
    pub fn left(&self, now: Instant) -> Duration {
        SAVED_MAX.saturating_sub(self.full_at.saturating_duration_since(now) / SHARE)
    }

    /// Notes a wait that ended at `now`. One that took longer than was left is made up for later.
    pub fn spend(&mut self, now: Instant, spent: Duration) {
        self.full_at = self.full_at.max(now) + spent * SHARE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_takes_two_percent_of_the_time() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(patience.left(start), SAVED_MAX);
        patience.spend(start, Duration::from_millis(60));
        assert_eq!(patience.left(start), Duration::from_millis(40));
        assert_eq!(patience.left(after(1)), Duration::from_millis(60));
        patience.spend(after(1), Duration::from_millis(180));
        assert_eq!(patience.left(after(2)), Duration::ZERO);
        assert_eq!(patience.left(after(7)), Duration::ZERO, "a long wait is made up for");
        assert_eq!(patience.left(after(9)), Duration::from_millis(40));
        assert_eq!(patience.left(after(100)), SAVED_MAX);
    }
}
