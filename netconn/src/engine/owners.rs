//! When open files are looked through for the owners of sockets: what no hook sees (a server that accepts and waits, a
//! descriptor that was handed over, a listener whose process went to the background).

use std::time::Duration;

/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// A look may take one part in so many of the engine's time.
const SHARE: u32 = 50;
/// Looks for one that was not found, each after twice the time of the one before.
const TRIES: u32 = 5;

/// Says when to look.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Not before, nanoseconds since boot.
    not_before_ns: u64,
    /// When to look again for what was not found.
    again_ns: Option<u64>,
    /// Looks that were in vain.
    vain: u32,
}

impl Owners {
    /// Whether a look is allowed at `now`.
    pub(super) fn may_look(&self, now: u64) -> bool {
        now >= self.not_before_ns
    }

    /// Whether it is time to look again for what was not found.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.may_look(now) && self.again_ns.is_some_and(|again| now >= again)
    }

    /// A look at `now` took so long.
    pub(super) fn looked(&mut self, now: u64, took: Duration) {
        self.not_before_ns = now + nanoseconds(PAUSE.max(took * SHARE));
        self.vain += 1;
        let pause = nanoseconds(PAUSE) << self.vain.min(TRIES);
        self.again_ns = (self.vain < TRIES).then_some(now + pause);
    }

    /// A connection has no owner of its own yet.
    pub(super) fn want(&mut self, now: u64) {
        self.vain = 0;
        self.again_ns.get_or_insert(now + nanoseconds(PAUSE));
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn looks_become_rarer_and_end() {
        let mut owners = Owners::default();
        assert!(owners.may_look(0) && !owners.is_due(0), "nobody wants one");
        owners.want(0);
        let mut looks = Vec::new();
        for second in 0..200 {
            if owners.is_due(second * SECOND) {
                owners.looked(second * SECOND, Duration::from_millis(1));
                looks.push(second);
            }
        }
        assert_eq!(looks, [1, 3, 7, 15, 31]);
        owners.want(200 * SECOND);
        assert!(owners.is_due(201 * SECOND));
    }

    #[test]
    fn a_long_look_is_followed_by_a_long_pause() {
        let mut owners = Owners::default();
        owners.looked(0, Duration::from_millis(100));
        assert!(!owners.may_look(4 * SECOND));
        assert!(owners.may_look(5 * SECOND));
    }
}
