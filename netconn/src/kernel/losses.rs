//! Losses: records that the programs could not hand over, counted in maps and by the kernel itself.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::maps::{MapData, PerCpuArray};
use netconn_common::{kind, role};

/// The counters of losses.
pub(super) struct Counters {
    pub(super) lost: PerCpuArray<MapData, [u64; kind::COUNT as usize]>,
    /// [`netconn_common::Unreported`], flat.
    pub(super) unreported: PerCpuArray<MapData, [u64; 8]>,
    /// [`netconn_common::Nesting`], as its two words.
    pub(super) nesting: PerCpuArray<MapData, [u64; 2]>,
    /// Programs whose missed runs are counted.
    pub(super) programs: Vec<OwnedFd>,
}

/// Losses since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Records of sockets that found their ring full.
    pub sockets: u64,
    /// Records of processes and cgroups that found theirs full.
    pub processes: u64,
    /// Records of datagrams and their sockets that found the ring half full; the kernel's tables make up for them.
    pub datagrams: u64,
    /// Datagrams that were not counted, because there was no room for their flows.
    pub uncounted: u64,
    /// Runs that the kernel skipped, because a program would have interrupted itself, and that nothing made up for.
    pub missed_runs: u64,
    /// Events that can never be produced, because their connection is over and every record of it was lost.
    pub events: LostEvents,
}

/// Lost events, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostEvents {
    /// `IP Connect` with direction `OUTGOING`.
    pub outgoing: u64,
    /// `IP Connect` with direction `INCOMING`, or with none.
    pub incoming: u64,
    /// `IP Close`.
    pub closes: u64,
    /// `IP Listen` and `IP Listen End`.
    pub listeners: u64,
}

impl Losses {
    /// Returns the number of lost records of all kinds.
    pub fn records(&self) -> u64 {
        // Not datagrams: a sweep of the kernel's flows makes up for them.
        self.sockets + self.processes + self.missed_runs
    }

    /// Returns whether more was lost than at `earlier`. Missed runs may decrease: the second program may have made up for one
    /// between the two counts.
    pub fn exceed(&self, earlier: &Self) -> bool {
        // Each for itself: the fall of that one must not hide a rise of the others.
        self.records_since(earlier) != 0 || self.events != earlier.events
    }

    /// Returns the number of records lost since an earlier count.
    pub fn records_since(&self, earlier: &Self) -> u64 {
        self.sockets.saturating_sub(earlier.sockets)
            + self.processes.saturating_sub(earlier.processes)
            + self.missed_runs.saturating_sub(earlier.missed_runs)
    }
}

impl LostEvents {
    /// Returns the number of all lost events.
    pub fn total(&self) -> u64 {
        let Self { outgoing, incoming, closes, listeners } = self;
        outgoing + incoming + closes + listeners
    }

    /// Returns the losses since an earlier count.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            outgoing: self.outgoing.saturating_sub(earlier.outgoing),
            incoming: self.incoming.saturating_sub(earlier.incoming),
            closes: self.closes.saturating_sub(earlier.closes),
            listeners: self.listeners.saturating_sub(earlier.listeners),
        }
    }
}

impl Counters {
    /// Reads all counters.
    pub(super) fn read(&self) -> Losses {
        // In this order: a run that is missed in between must not look like a loss.
        let missed = self.programs.iter().filter_map(|program| missed_runs(program.as_fd())).sum::<u64>();
        let done = self.nesting.get(&0, 0).map_or(0, |by_cpu| by_cpu.iter().map(|[_, done]| done).sum::<u64>());
        let mut lost = [0; kind::COUNT as usize];
        if let Ok(by_cpu) = self.lost.get(&0, 0) {
            by_cpu.iter().for_each(|cpu| add(&mut lost, cpu));
        }
        let mut unreported = [0; 8];
        if let Ok(by_cpu) = self.unreported.get(&0, 0) {
            by_cpu.iter().for_each(|cpu| add(&mut unreported, cpu));
        }
        let lost_of = |kinds: &[u32]| kinds.iter().filter_map(|kind| lost.get(*kind as usize)).sum();
        Losses {
            sockets: lost_of(&[kind::TCP, kind::OWNER, kind::UNSENT]),
            processes: lost_of(&[kind::EXEC, kind::FORK, kind::EXIT, kind::CGROUP]),
            datagrams: lost_of(&[kind::FLOW, kind::UDP_SOCKET, kind::RELEASED]),
            uncounted: lost_of(&[kind::UNCOUNTED]),
            // Kernels before 5.12 do not count misses: there `done` may be greater.
            missed_runs: missed.saturating_sub(done),
            // The record of an attempt that sent nothing is its only one, and no life is counted for it.
            events: events(unreported, lost_of(&[kind::UNSENT])),
        }
    }
}

/// Returns the events of lives whose records were all lost. Each lost record of an attempt that sent nothing is an
/// event as well.
fn events(unreported: [u64; 8], unsent: u64) -> LostEvents {
    let lives = |role: u32| {
        // Flat: for each role attempts, then lives that were more.
        let attempts = unreported.get(role as usize * 2).copied().unwrap_or(0);
        (attempts, unreported.get(role as usize * 2 + 1).copied().unwrap_or(0))
    };
    let (active, passive, listeners, unknown) =
        (lives(role::ACTIVE), lives(role::PASSIVE), lives(role::LISTENER), lives(role::UNKNOWN));
    LostEvents {
        outgoing: active.0 + active.1 + unsent,
        incoming: passive.0 + passive.1 + unknown.0 + unknown.1,
        closes: active.1 + passive.1 + unknown.1,
        // Each lacks both its beginning and its end.
        listeners: 2 * (listeners.0 + listeners.1),
    }
}

fn add(sums: &mut [u64], values: &[u64]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// Returns how often a program could not run because it was running already on that CPU, from `bpf_prog_show_fdinfo` in
/// `kernel/bpf/syscall.c`; from 5.12 on.
fn missed_runs(program: BorrowedFd<'_>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_made_up_for_hides_no_loss() {
        let before = Losses { sockets: 5, processes: 7, missed_runs: 3, ..Losses::default() };
        let after = Losses { sockets: 7, missed_runs: 1, ..before };
        assert_eq!((after.records(), before.records()), (15, 15));
        assert!(after.exceed(&before) && !before.exceed(&before));
        assert_eq!(after.records_since(&before), 2);
        assert!(!Losses { missed_runs: 1, ..before }.exceed(&before));
    }

    #[test]
    fn lives_become_events() {
        // By role: unknown, active, passive, listener; each as an attempt and as more.
        let events = events([0, 1, 10, 20, 0, 300, 0, 5], 4);
        assert_eq!(events, LostEvents { outgoing: 34, incoming: 301, closes: 321, listeners: 10 });
        assert_eq!(events.total(), 666);
        assert_eq!(
            events.since(&LostEvents { outgoing: 30, ..events }),
            LostEvents { outgoing: 4, ..Default::default() }
        );
    }
}
