//! Records on their way in: from the rings into the state.

use crate::{
    engine::{publisher::Publisher, run::Engine, state::State},
    kernel::{capture::Capture, rings::Rings},
};

/// Records that are applied before the engine looks at commands.
const RECORDS_AT_ONCE: usize = 8192;

/// Called during a scan of the kernel, to empty the rings.
pub(super) type Meanwhile<'a> = &'a mut dyn FnMut(&mut Rings);

impl Engine {
    /// Applies what is in the rings, `RECORDS_AT_ONCE` at most, and returns how many records that were.
    pub(super) fn drain(&mut self) -> usize {
        drain(self.capture.rings(), &mut self.state, &mut self.publisher)
    }

    /// Applies what is in the rings when this is called; under a flood not also everything that comes meanwhile.
    pub(super) fn catch_up(&mut self) {
        // The rings cannot have held more when this was called, so the loop ends although new records keep coming.
        for _ in 0..=self.capture.ring_records() / RECORDS_AT_ONCE {
            if self.drain() == 0 {
                return;
            }
        }
    }

    /// Scans the kernel with an iterator. The rings are emptied all along, because a scan takes longer than they hold out; all
    /// records that came until the end of the scan are applied when this returns.
    pub(super) fn scan<T>(&mut self, read: impl FnOnce(&mut Capture, Meanwhile<'_>) -> T) -> T {
        // Split, because the callback changes state and publisher while `read` borrows the capture.
        let Self { capture, state, publisher, .. } = self;
        let found = read(capture, &mut |rings| _ = drain(rings, state, publisher));
        // Records that were written before the scan ended may still be in the rings. The callers compare the result
        // with the tables, which must not be older.
        self.catch_up();
        found
    }
}

/// Applies records, `RECORDS_AT_ONCE` at most, and returns how many.
fn drain(rings: &mut Rings, state: &mut State, publisher: &mut Publisher) -> usize {
    let mut count = 0;
    while count < RECORDS_AT_ONCE {
        let more = rings.next(|record| state.apply(record, publisher));
        if more == 0 {
            break;
        }
        count += more;
    }
    // The rings are empty, or commands wait: nothing is held back for more to come.
    publisher.flush(&state.clock);
    count
}
