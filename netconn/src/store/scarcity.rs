//! How much may be written before events that should stay have to go. The keeper works it out when it looks after the folder,
//! and the writer at the start. The output asks for each batch, and counts from there itself: a keeper that gets no processor
//! must not let a flood pass.

use std::time::Duration;

use crate::store::ratio::WHOLE;

/// What a flood may not take any more, and from where on. Positions count the bytes of the lines that this daemon has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scarcity {
    /// Position from which on room is scarce.
    pub(super) from: u64,
    /// Position from which on even the space is scarce that lines take until they are converted.
    pub(super) whole_from: u64,
    /// What remains of a line, in thousandths.
    pub(super) part: u64,
    /// What the history may take, bytes.
    pub(super) room: u64,
    /// Age of the events that are to stay.
    pub(super) floor: Duration,
}

impl Scarcity {
    /// There is room for everybody.
    pub(super) const NONE: Self =
        Self { from: u64::MAX, whole_from: u64::MAX, part: WHOLE, room: 0, floor: Duration::ZERO };

    /// Room is scarce: only these matter for shares.
    #[cfg(test)]
    pub(crate) fn of_room(room: u64, floor: Duration) -> Self {
        Self { from: 0, whole_from: 0, part: WHOLE, room, floor }
    }

    /// Returns how much of the room a line at this position takes, in thousandths of it, if room is scarce there; otherwise 0.
    pub fn part_at(&self, position: u64) -> u64 {
        match position {
            whole if whole >= self.whole_from => WHOLE,
            scarce if scarce >= self.from => self.part,
            _ => 0,
        }
    }

    /// Returns the bytes that the history may take.
    pub fn room(&self) -> u64 {
        self.room
    }

    /// Returns the age of the events that are to stay.
    pub fn floor(&self) -> Duration {
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_becomes_scarce_as_it_is_written_to() {
        let scarcity = Scarcity { from: 100, whole_from: 200, part: 20, room: 1000, floor: Duration::from_secs(60) };
        assert_eq!([99, 100, 199, 200].map(|position| scarcity.part_at(position)), [0, 20, 20, WHOLE]);
        assert_eq!(Scarcity::NONE.part_at(1 << 60), 0);
    }
}
