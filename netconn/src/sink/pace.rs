//! How an output keeps up, as the engine sees it from time to time.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Since when its queue has had no room for what could be sent later.
    full_since: Option<Instant>,
    /// That has lasted too long.
    is_behind: bool,
    /// The number of batches that had left its queue at the last look, and since when it has been the same.
    moved: Option<(u64, Instant)>,
}

impl Pace {
    /// Takes whether there is room now. Returns whether it is worth waiting for some: there is none, and has been some within
    /// `patience`.
    pub(super) fn holds_up(&mut self, has_room: bool, now: Instant, patience: Duration) -> bool {
        if has_room {
            (self.full_since, self.is_behind) = (None, false);
            return false;
        }
        let since = *self.full_since.get_or_insert(now);
        self.is_behind = now.saturating_duration_since(since) >= patience;
        !self.is_behind
    }

    /// Whether the last look has found that there was no room for too long.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Takes the number of batches that have left the queue. Returns whether none has for `patience`, beginning with the first call.
    pub(super) fn is_stuck(&mut self, done: u64, now: Instant, patience: Duration) -> bool {
        match &mut self.moved {
            Some((seen, since)) if *seen == done => now.saturating_duration_since(*since) >= patience,
            moved => {
                *moved = Some((done, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    #[test]
    fn room_is_awaited_for_a_while() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut look = |has_room, seconds| {
            let holds_up = pace.holds_up(has_room, start + Duration::from_secs(seconds), PATIENCE);
            (holds_up, pace.is_behind())
        };
        assert_eq!(look(true, 0), (false, false));
        assert_eq!((look(false, 5), look(false, 6)), ((true, false), (true, false)));
        assert_eq!((look(false, 7), look(false, 9)), ((false, true), (false, true)));
        assert_eq!((look(true, 10), look(false, 11)), ((false, false), (true, false)), "from the beginning");
    }

    #[test]
    fn an_output_that_writes_is_not_stuck() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut is_stuck = |done, seconds| pace.is_stuck(done, start + Duration::from_secs(seconds), PATIENCE);
        assert!(!is_stuck(7, 0) && !is_stuck(7, 1) && !is_stuck(8, 2) && !is_stuck(8, 3) && is_stuck(8, 4));
        assert!(!is_stuck(9, 5) && !is_stuck(9, 6));
    }
}
