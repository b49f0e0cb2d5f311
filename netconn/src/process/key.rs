//! The identity of a process.

use netconn_common::Owner;

use super::TICK_NS;

/// Identity of a process within a boot: the kernel uses process ids again, but not with the same start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Process id.
    pub tgid: u32,
    /// Start in nanoseconds since boot. Two processes can have one id within a clock tick, the precision of `/proc`.
    pub start_ns: u64,
}

impl Key {
    /// Returns the key of a process that started at `start_ns` nanoseconds since boot.
    pub fn new(tgid: u32, start_ns: u64) -> Self {
        Self { tgid, start_ns }
    }

    /// Returns the key of the process that an owner is.
    pub fn of(owner: &Owner) -> Self {
        Self::new(owner.tgid, owner.start_ns)
    }

    /// Returns the key of a process that `/proc` says has started `ticks` clock ticks after boot.
    pub fn of_ticks(tgid: u32, ticks: u64) -> Self {
        Self { tgid, start_ns: ticks.saturating_mul(TICK_NS) }
    }

    /// Returns the key that `/proc` gives this process.
    pub(super) fn by_tick(self) -> Self {
        Self::of_ticks(self.tgid, self.start_ns / TICK_NS)
    }
}
