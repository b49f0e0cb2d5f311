//! Reads the two ring buffers as one stream in the order of time. There is one for sockets and one for processes, so that a
//! storm of one kind takes no room from the other.

use std::{
    io,
    num::NonZero,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use netconn_common::Header;
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};
use tracing::warn;

use crate::kernel::fault::Fault;

/// How long to wait for a record that is being written. The program that writes it cannot sleep, but an interrupt may keep it
/// for several milliseconds, and its virtual CPU may be descheduled for longer. The rings hold out for twice that time.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long to wait without sleeping: most records are written within a microsecond.
const YIELDING: Duration = Duration::from_millis(1);
/// Pause between two looks after that.
const PAUSE: Duration = Duration::from_micros(100);

/// Both rings.
pub struct Rings {
    merge: Merge<MappedRing>,
    /// Drops every record of a socket whose number is divisible by this, see [`Fault::Unseen`]; `None`: drops none.
    unseen: Option<u32>,
    /// Records of sockets so far.
    count: u32,
}

/// Value of [`Rings::unseen`] with that fault.
const UNSEEN: u32 = 16;

impl Rings {
    /// Takes the rings to read.
    ///
    /// # Errors
    ///
    /// When their positions cannot be mapped.
    pub(super) fn new(sockets: RingBuf<MapData>, processes: RingBuf<MapData>, faults: &[Fault]) -> io::Result<Self> {
        let merge = Merge::new(MappedRing::new(sockets)?, MappedRing::new(processes)?);
        let unseen = faults.contains(&Fault::Unseen).then_some(UNSEEN);
        Ok(Self { merge, unseen, count: 0 })
    }

    /// Returns descriptors that become readable when there are records.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.merge.sockets.ring.ring.as_fd(), self.merge.processes.ring.ring.as_fd()]
    }

    /// Hands over the next record of a socket and, before it, older records of processes; returns their number.
    pub fn next(&mut self, mut handle: impl FnMut(&[u8])) -> usize {
        let Self { merge, unseen, count } = self;
        merge.next(|origin, record| {
            // Dropped after it was read, and nothing counts it: as if the program had not run.
            if origin == Origin::Socket {
                *count = count.wrapping_add(1);
                if unseen.is_some_and(|each| count.is_multiple_of(each)) {
                    return;
                }
            }
            handle(record);
        })
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Socket,
    Process,
}

/// A ring, as far as the order of records depends on it.
trait Ring {
    /// Hands over the next record if it is written; returns what the function returns.
    fn next<T>(&mut self, handle: impl FnOnce(&[u8]) -> T) -> Option<T>;

    /// Returns the place of the next record if there is one, written or only reserved.
    fn next_place(&self) -> Option<usize>;
}

/// Two rings as one stream. A record of a socket must find its process as it was: behind all records of processes that were
/// written before it, and before all that were written after it.
///
/// That holds for the records of one process, because of three rules. Programs take the time of a record about a process before
/// they reserve its place, so that what lies before an `exec` in its ring is older than all that its process did afterwards.
/// A record that is reserved and not written yet is waited for, because what lies behind it cannot be seen. And a record about
/// a process is handed over only if, once it has been read, the ring of sockets is empty.
struct Merge<R> {
    sockets: Waiting<R>,
    processes: Waiting<R>,
    held: Held,
}

impl<R: Ring> Merge<R> {
    fn new(sockets: R, processes: R) -> Self {
        Self { sockets: Waiting::new(sockets), processes: Waiting::new(processes), held: Held::default() }
    }

    /// See [`Rings::next`].
    fn next(&mut self, mut handle: impl FnMut(Origin, &[u8])) -> usize {
        let Self { sockets, processes, held } = self;
        let mut wait = Wait::default();
        loop {
            // The ring of sockets first: records about its process from before are then already in the other one.
            let found = sockets.ring.next(|record| {
                let mut count = 1;
                let time_ns = time_of(record);
                // Also at the same nanosecond: the process first. What is later stays held for the next call.
                while held.fill(processes) && held.time_ns() <= time_ns {
                    held.hand_over(&mut handle);
                    count += 1;
                }
                handle(Origin::Socket, record);
                count
            });
            if let Some(count) = found {
                return count;
            }
            if !held.fill(processes) {
                return 0;
            }
            // Asked after the record was read: its process may have used a socket since the look at the other ring, and
            // what it did before is in there by now.
            if !sockets.waits_for_more(&mut wait) {
                held.hand_over(&mut handle);
                return 1;
            }
        }
    }
}

/// A wait for a record that is being written.
#[derive(Debug, Default)]
struct Wait {
    /// When it began.
    since: Option<Instant>,
    /// It has taken longer than [`PATIENCE`], and the last look follows.
    is_over: bool,
}

/// A ring whose next record may be reserved and not written yet.
struct Waiting<R> {
    ring: R,
    /// The place of a record that was waited for in vain: not again, or the daemon would fall behind.
    given_up: Option<usize>,
}

impl<R: Ring> Waiting<R> {
    fn new(ring: R) -> Self {
        Self { ring, given_up: None }
    }

    /// Pauses and returns `true` if the ring is not empty, and worth another look.
    fn waits_for_more(&mut self, wait: &mut Wait) -> bool {
        let Some(place) = self.ring.next_place() else { return false };
        if self.given_up == Some(place) {
            return false;
        }
        let waited = wait.since.get_or_insert_with(Instant::now).elapsed();
        if waited > PATIENCE {
            // The time may have passed between the last look and here, because this thread did not run: while the daemon is
            // stopped, or on a busy machine. One more look says whether the record is written by now.
            if !std::mem::replace(&mut wait.is_over, true) {
                return true;
            }
            warn!(
                "a record was not written within {PATIENCE:?}: an event may name the program before or after the right one"
            );
            self.given_up = Some(place);
            return false;
        }
        if waited > YIELDING {
            thread::sleep(PAUSE);
        } else {
            thread::yield_now();
        }
        true
    }
}

/// A record of a process that is held back because it is later than the last record of a socket. Stored in words, because
/// records are aligned to 8 bytes.
#[derive(Debug, Default)]
struct Held {
    words: Vec<u64>,
    /// Length in bytes; 0: none is held.
    bytes: usize,
}

impl Held {
    /// Takes the next record if none is held; returns whether one is held then.
    fn fill(&mut self, from: &mut Waiting<impl Ring>) -> bool {
        let mut wait = Wait::default();
        while self.bytes == 0 {
            // Copied, because an item of aya borrows the ring while it lives. The vector keeps its memory.
            let found = from.ring.next(|record| {
                self.bytes = record.len();
                self.words.resize(self.bytes.div_ceil(8), 0);
                if let Some(space) = bytemuck::cast_slice_mut(&mut self.words).get_mut(..self.bytes) {
                    space.copy_from_slice(record);
                }
            });
            if found.is_none() && !from.waits_for_more(&mut wait) {
                return false;
            }
        }
        true
    }

    fn data(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words).get(..self.bytes).unwrap_or_default()
    }

    fn time_ns(&self) -> u64 {
        time_of(self.data())
    }

    fn hand_over(&mut self, handle: &mut impl FnMut(Origin, &[u8])) {
        handle(Origin::Process, self.data());
        // Only the length: the words are overwritten by the next record.
        self.bytes = 0;
    }
}

/// Returns the time of a record; 0 if it is too short.
fn time_of(record: &[u8]) -> u64 {
    record.get(..size_of::<Header>()).map_or(0, |head| bytemuck::pod_read_unaligned::<Header>(head).time_ns)
}

/// A ring of the kernel.
struct MappedRing {
    ring: RingBuf<MapData>,
    positions: Positions,
}

impl MappedRing {
    fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        let positions = Positions::of(ring.as_fd())?;
        Ok(Self { ring, positions })
    }
}

impl Ring for MappedRing {
    fn next<T>(&mut self, handle: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.ring.next().map(|record| handle(&record))
    }

    fn next_place(&self) -> Option<usize> {
        self.positions.next_place()
    }
}

/// The pages of a ring buffer that say how far it is read and written (`struct bpf_ringbuf`, `kernel/bpf/ringbuf.c`).
/// aya only says whether there is a whole record.
struct Positions {
    consumer: NonNull<AtomicUsize>,
    producer: NonNull<AtomicUsize>,
    page: NonZero<usize>,
}

// SAFETY: the pages are mapped for as long as this lives and only read, atomically.
unsafe impl Send for Positions {}

impl Positions {
    fn of(ring: BorrowedFd<'_>) -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| NonZero::new(usize::try_from(size).ok()?));
        let page = page.ok_or_else(|| io::Error::other("the size of a page is not known"))?;
        let map = |offset: usize| -> io::Result<NonNull<AtomicUsize>> {
            let offset = i64::try_from(offset).map_err(io::Error::other)?;
            // SAFETY: a new mapping of a page of the ring, read only.
            let mapped = unsafe { mmap(None, page, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, ring, offset) };
            Ok(mapped?.cast())
        };
        // The consumer's page comes first, the producer's second. Read only: aya alone moves the consumer.
        let consumer = map(0)?;
        let producer = map(page.get()).inspect_err(|_| unmap(consumer, page))?;
        Ok(Self { consumer, producer, page })
    }

    /// Returns the reader's position, unless every reserved record has been read.
    fn next_place(&self) -> Option<usize> {
        // Both count bytes and only grow; the producer's also covers records that are reserved and not written yet.
        // SAFETY: both are mapped, and the kernel and aya write them atomically.
        let (read, written) =
            unsafe { (self.consumer.as_ref().load(Ordering::Acquire), self.producer.as_ref().load(Ordering::Acquire)) };
        (read != written).then_some(read)
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        unmap(self.consumer, self.page);
        unmap(self.producer, self.page);
    }
}

fn unmap(mapping: NonNull<AtomicUsize>, page: NonZero<usize>) {
    // SAFETY: mapped by `Positions::of`, and used by nobody any more. An error means that it is not mapped.
    let _ = unsafe { munmap(mapping.cast(), page.get()) };
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use netconn_common::kind;

    use super::*;

    /// A record that is reserved, and written, after so many looks at its ring.
    struct Coming {
        reserved: u32,
        written: u32,
        time_ns: u64,
    }

    /// A ring in which records appear while it is read.
    #[derive(Default)]
    struct Script {
        records: VecDeque<Coming>,
        looks: u32,
        /// After this look the thread does not run for longer than a record is waited for.
        stalls_after: Option<u32>,
    }

    impl Ring for Script {
        fn next<T>(&mut self, handle: impl FnOnce(&[u8]) -> T) -> Option<T> {
            self.looks += 1;
            self.records.front().filter(|record| record.written < self.looks)?;
            let record = self.records.pop_front()?;
            Some(handle(bytemuck::bytes_of(&Header { time_ns: record.time_ns, kind: kind::EXEC, reserved: 0 })))
        }

        fn next_place(&self) -> Option<usize> {
            if self.stalls_after == Some(self.looks) {
                thread::sleep(PATIENCE + PATIENCE / 2);
            }
            self.records.front().filter(|record| record.reserved <= self.looks).map(|_| self.records.len())
        }
    }

    fn script(records: &[(u32, u32, u64)]) -> Script {
        let coming = |&(reserved, written, time_ns)| Coming { reserved, written, time_ns };
        Script { records: records.iter().map(coming).collect(), ..Script::default() }
    }

    /// Reads both rings and returns the times of their records in the order in which they were handed over.
    fn order(sockets: &[(u32, u32, u64)], processes: &[(u32, u32, u64)]) -> Vec<u64> {
        order_of(script(sockets), script(processes))
    }

    fn order_of(sockets: Script, processes: Script) -> Vec<u64> {
        let mut merge = Merge::new(sockets, processes);
        let mut times = Vec::new();
        while merge.next(|_, record| times.push(time_of(record))) != 0 {}
        times
    }

    const AT_ONCE: (u32, u32) = (0, 0);

    fn at((reserved, written): (u32, u32), time_ns: u64) -> (u32, u32, u64) {
        (reserved, written, time_ns)
    }

    #[test]
    fn records_of_both_rings_come_in_the_order_of_time() {
        let (sockets, processes) = ([20, 30].map(|time| at(AT_ONCE, time)), [10, 30, 40].map(|time| at(AT_ONCE, time)));
        assert_eq!(order(&sockets, &processes), [10, 20, 30, 30, 40]);
    }

    #[test]
    fn what_lies_behind_an_unwritten_record_is_waited_for() {
        // A `fork` that an interrupt keeps from being written, and behind it the `exec` of the process that connects at 30.
        assert_eq!(order(&[at(AT_ONCE, 30)], &[at((0, 9), 10), at(AT_ONCE, 20)]), [10, 20, 30]);
        // A socket of another process, and behind it one of the process that runs another program at 30.
        assert_eq!(order(&[at((0, 9), 10), at(AT_ONCE, 20)], &[at(AT_ONCE, 30)]), [10, 20, 30]);
    }

    #[test]
    fn what_was_written_while_the_daemon_did_not_run_is_seen() {
        // Written between the second look, after which the thread stands still, and the third.
        let late = |time| Script { stalls_after: Some(2), ..script(&[at((0, 2), time)]) };
        assert_eq!(order_of(script(&[at(AT_ONCE, 30)]), late(10)), [10, 30]);
        assert_eq!(order_of(late(10), script(&[at(AT_ONCE, 30)])), [10, 30]);
    }

    #[test]
    fn a_program_is_not_told_before_what_its_process_did_before() {
        // The process connects at 20, after the first look at the ring of sockets, and runs another program at 30.
        assert_eq!(order(&[at((1, 1), 20)], &[at(AT_ONCE, 30)]), [20, 30]);
    }

    #[test]
    fn a_record_that_is_never_written_is_waited_for_once() {
        const NEVER: (u32, u32) = (0, u32::MAX);
        let since = Instant::now();
        assert_eq!(order(&[10, 20, 30].map(|time| at(AT_ONCE, time)), &[at(NEVER, 5)]), [10, 20, 30]);
        assert_eq!(order(&[at(NEVER, 5)], &[10, 20, 30].map(|time| at(AT_ONCE, time))), [10, 20, 30]);
        assert!(since.elapsed() >= 2 * PATIENCE && since.elapsed() < 4 * PATIENCE, "{:?}", since.elapsed());
    }
}
