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

use crate::kernel::fault::Fault;

/// How long to wait for a record that is being written. The program that writes it cannot sleep, but its virtual CPU may be
/// descheduled for a while.
const PATIENCE: Duration = Duration::from_millis(2);

/// Both rings.
pub struct Rings {
    sockets: RingBuf<MapData>,
    processes: RingBuf<MapData>,
    /// Positions of the kernel and of the reader in `processes`.
    positions: Positions,
    held: Held,
    /// Drops every record of a socket whose number is divisible by this, see [`Fault::Unseen`]; `None`: drops none.
    unseen: Option<u32>,
    /// Records of sockets so far.
    count: u32,
}

/// Value of [`Rings::unseen`] with that fault.
const UNSEEN: u32 = 16;

/// A record of a process that is held back because it is later than the last record of a socket. Stored in words, because
/// records are aligned to 8 bytes.
#[derive(Debug, Default)]
struct Held {
    words: Vec<u64>,
    /// Length in bytes; 0: none is held.
    bytes: usize,
}

impl Rings {
    /// Takes the rings to read.
    ///
    /// # Errors
    ///
    /// When their positions cannot be mapped.
    pub(super) fn new(sockets: RingBuf<MapData>, processes: RingBuf<MapData>, faults: &[Fault]) -> io::Result<Self> {
        let positions = Positions::of(processes.as_fd())?;
        let unseen = faults.contains(&Fault::Unseen).then_some(UNSEEN);
        Ok(Self { sockets, processes, positions, held: Held::default(), unseen, count: 0 })
    }

    /// Returns descriptors that become readable when there are records.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.sockets.as_fd(), self.processes.as_fd()]
    }

    /// Hands over the next record of a socket and, before it, older records of processes; returns their number.
    pub fn next(&mut self, mut handle: impl FnMut(&[u8])) -> usize {
        let Self { sockets, processes, positions, held, .. } = self;
        // The ring of sockets first: records about its process from before are then already in the other one.
        let Some(record) = sockets.next() else {
            if !held.fill(processes, positions) {
                return 0;
            }
            held.hand_over(&mut handle);
            return 1;
        };
        let mut count = 1;
        let time_ns = time_of(&record);
        // Also at the same nanosecond: the process first. What is later stays held for the next call.
        while held.fill(processes, positions) && held.time_ns() <= time_ns {
            held.hand_over(&mut handle);
            count += 1;
        }
        // Dropped after it was read, and nothing counts it: as if the program had not run.
        self.count = self.count.wrapping_add(1);
        if self.unseen.is_none_or(|each| !self.count.is_multiple_of(each)) {
            handle(&record);
        }
        count
    }
}

impl Held {
    /// Takes the next record if none is held; returns whether one is held then.
    fn fill(&mut self, ring: &mut RingBuf<MapData>, positions: &Positions) -> bool {
        if self.bytes != 0 {
            return true;
        }
        let mut since = None;
        loop {
            if let Some(record) = ring.next() {
                self.bytes = record.len();
                // Copied, because an item of aya borrows the ring while it lives. The vector keeps its memory.
                self.words.resize(self.bytes.div_ceil(8), 0);
                if let Some(space) = bytemuck::cast_slice_mut(&mut self.words).get_mut(..self.bytes) {
                    space.copy_from_slice(&record);
                }
                return true;
            }
            // The ring is empty, or a program on another CPU has reserved a record and not written it yet; an older one may
            // be behind it.
            if positions.is_empty() || since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return false;
            }
            thread::yield_now();
        }
    }

    fn data(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words).get(..self.bytes).unwrap_or_default()
    }

    fn time_ns(&self) -> u64 {
        time_of(self.data())
    }

    fn hand_over(&mut self, handle: &mut impl FnMut(&[u8])) {
        handle(self.data());
        // Only the length: the words are overwritten by the next record.
        self.bytes = 0;
    }
}

/// Returns the time of a record; 0 if it is too short.
fn time_of(record: &[u8]) -> u64 {
    record.get(..size_of::<Header>()).map_or(0, |head| bytemuck::pod_read_unaligned::<Header>(head).time_ns)
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

    /// Whether every reserved record has been read.
    fn is_empty(&self) -> bool {
        // Both count bytes and only grow; the producer's also covers records that are reserved and not written yet.
        // SAFETY: both are mapped, and the kernel and aya write them atomically.
        let (read, written) =
            unsafe { (self.consumer.as_ref().load(Ordering::Acquire), self.producer.as_ref().load(Ordering::Acquire)) };
        read == written
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
