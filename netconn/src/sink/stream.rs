//! A client of the socket that listens to events as they happen.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use netconn_model::filter::Filter;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use crate::sink::{EventCounts, EventNote, shares::Shares};

/// Most bytes of events that are kept for one client beside what is queued for it; more are dropped.
const KEPT_MAX: u64 = 256 << 10;
/// Bytes that may be kept for each client however much waits for all: a report of its losses has to find room.
const KEPT_MIN: u64 = 16 << 10;
/// Bytes that may wait for all clients together, queued or kept.
const ALL_BYTES: u64 = 64 << 20;
/// The same for the clients of all users but root: the rest is for root.
const OTHERS_BYTES: u64 = 32 << 20;
/// What waits for one client may be this part of what is left for all ("Dynamic queue length thresholds for shared-memory packet
/// switches", Choudhury and Hahne, 1998). Up to 35 clients that read nothing have 1.25 MiB each, 192 of them 300 KB.
const PART: u64 = 16;
/// Room that a stream keeps for its next events, in bytes. It is that of a batch, with what the last event of it is too long.
const ROOM: usize = 128 << 10;

/// Bytes that wait for all clients.
#[derive(Debug, Default)]
pub struct StreamMemory {
    all: AtomicU64,
    /// For those that are not root's.
    others: AtomicU64,
}

/// Bytes that wait for one client: the engine adds, and the server subtracts when they are written.
#[derive(Debug)]
struct Waiting {
    bytes: AtomicU64,
    is_root: bool,
    memory: Arc<StreamMemory>,
}

impl Waiting {
    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.memory.all.fetch_add(bytes, Ordering::Relaxed);
        if !self.is_root {
            self.memory.others.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn subtract(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.all.fetch_sub(bytes, Ordering::Relaxed);
        if !self.is_root {
            self.memory.others.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Returns how many more bytes may wait.
    fn room(&self) -> u64 {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let left = ALL_BYTES.saturating_sub(load(&self.memory.all));
        let left = if self.is_root { left } else { left.min(OTHERS_BYTES.saturating_sub(load(&self.memory.others))) };
        (left / PART).saturating_sub(load(&self.bytes))
    }
}

/// Lines that wait for a client. The server drops them when the kernel has them.
struct QueuedLines {
    lines: Box<[u8]>,
    waiting: Arc<Waiting>,
}

impl AsRef<[u8]> for QueuedLines {
    fn as_ref(&self) -> &[u8] {
        &self.lines
    }
}

impl Drop for QueuedLines {
    fn drop(&mut self) {
        self.waiting.subtract(self.lines.len() as u64);
    }
}

/// The events that wait for one client. Those that a slow client misses are counted, and reported to it in a `Data Loss`.
#[derive(Debug)]
pub struct Stream {
    /// Selects the connections whose events it receives.
    pub filter: Arc<Filter>,
    queue: Sender<Bytes>,
    lines: Vec<u8>,
    /// Most bytes that `lines` may have until the next flush.
    limit: u64,
    waiting: Arc<Waiting>,
    /// How many of the lines are counted in `waiting`: those that the last flush has left.
    counted: u64,
    /// Whose events wait, counted while many do.
    shares: Shares,
    /// Events dropped since the last that was delivered, and since when, nanoseconds since boot.
    lost: Option<(EventCounts, u64)>,
}

impl Stream {
    /// Creates a stream into `queue`, for root (`is_root`) or another user.
    pub fn new(filter: Arc<Filter>, queue: Sender<Bytes>, is_root: bool, memory: &Arc<StreamMemory>) -> Self {
        let waiting = Arc::new(Waiting { bytes: AtomicU64::new(0), is_root, memory: Arc::clone(memory) });
        let mut stream = Self {
            filter,
            queue,
            lines: Vec::new(),
            limit: KEPT_MIN,
            waiting,
            counted: 0,
            shares: Shares::default(),
            lost: None,
        };
        stream.limit();
        stream
    }

    /// Finds out how much may be kept until the next flush. Only then, so that an event costs no look at what all have: they may
    /// take a batch more for each stream than they should.
    fn limit(&mut self) {
        self.limit = (self.counted + self.waiting.room()).clamp(KEPT_MIN, KEPT_MAX);
    }

    /// Adds an encoded event; `now` in nanoseconds since boot.
    pub fn push(&mut self, line: &[u8], note: &EventNote, now: u64) {
        let (kept, bytes) = (self.lines.len() as u64, u64::from(note.length));
        let free = self.limit.saturating_sub(kept);
        // As in the queue of an output: shares are counted only while there is a need.
        let has_room = if kept + bytes <= self.limit / 8 { true } else { self.shares.admit(note, bytes, free) };
        if has_room {
            self.lines.extend_from_slice(line);
        } else {
            let mut lost = EventCounts::default();
            lost.add(note.class);
            self.lose(lost, now);
        }
    }

    /// Queues the events added so far, and after them a line that reports the dropped ones, which `report` makes of their number
    /// and the time of the first. Returns `false` when the client has gone.
    pub fn flush_and_report(&mut self, now: u64, report: impl FnOnce(EventCounts, u64) -> BytesMut) -> bool {
        // The events came before the loss. They also have to make room for its report, which would otherwise be dropped.
        if !self.flush() {
            return false;
        }
        let Some((lost, from_ns)) = self.take_lost() else { return true };
        let report = report(lost, from_ns);
        self.push(&report, &EventNote::of_daemon(report.len()), now);
        self.flush()
    }

    /// Returns how many events were dropped and since when, if a report of it can be queued now; the count begins anew then.
    fn take_lost(&mut self) -> Option<(EventCounts, u64)> {
        if self.queue.capacity() == 0 { None } else { self.lost.take() }
    }

    /// Returns the number of dropped events that were not reported to the client yet.
    pub fn lost(&self) -> u64 {
        self.lost.map_or(0, |(lost, _)| lost.events)
    }

    /// Queues the events added so far; `false` when the client has gone.
    fn flush(&mut self) -> bool {
        let is_there = if self.lines.is_empty() { !self.queue.is_closed() } else { self.flush_lines() };
        self.limit();
        is_there
    }

    fn flush_lines(&mut self) -> bool {
        let length = self.lines.len() as u64;
        match self.queue.try_reserve() {
            Ok(place) => {
                // A copy of what is needed, so that what waits takes no more memory than is counted.
                let queued = QueuedLines { lines: self.lines.as_slice().into(), waiting: Arc::clone(&self.waiting) };
                self.waiting.add(length - self.counted);
                self.counted = 0;
                place.send(Bytes::from_owner(queued));
                self.lines.clear();
                if self.lines.capacity() > ROOM {
                    self.lines = Vec::new();
                }
                self.shares.clear();
                true
            }
            // They are sent together with later ones.
            Err(TrySendError::Full(())) => {
                self.waiting.add(length - mem::replace(&mut self.counted, length));
                true
            }
            Err(TrySendError::Closed(())) => false,
        }
    }

    fn lose(&mut self, events: EventCounts, now: u64) {
        // The time of the first loss stays: the report covers the whole gap.
        let (lost, _) = self.lost.get_or_insert((EventCounts::default(), now));
        *lost += events;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.waiting.subtract(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::{process::Key, sink::EventOrigin};

    const LIMIT: usize = KEPT_MAX as usize;

    fn stream(queue: Sender<Bytes>) -> Stream {
        Stream::new(Arc::default(), queue, true, &Arc::default())
    }

    fn push(stream: &mut Stream, line: &[u8], now: u64) {
        stream.push(line, &EventNote::of_daemon(line.len()), now);
    }

    fn count(lost: Option<(EventCounts, u64)>) -> Option<(u64, u64)> {
        lost.map(|(lost, from_ns)| (lost.events, from_ns))
    }

    #[test]
    fn a_slow_client_is_told_what_it_missed() {
        let (queue, mut client) = channel(1);
        let mut stream = stream(queue);
        push(&mut stream, b"a\n", 1);
        assert!(stream.flush());
        let long = vec![b'x'; LIMIT - 4];
        push(&mut stream, &long, 2);
        assert!(stream.flush(), "kept while the client is busy");
        push(&mut stream, b"four\n", 3);
        push(&mut stream, b"five\n", 4);
        assert_eq!(count(stream.take_lost()), None, "it cannot be told yet");
        assert_eq!(client.try_recv().unwrap(), "a\n");
        assert_eq!(count(stream.take_lost()), Some((2, 3)));
        assert!(stream.flush());
        assert_eq!(client.try_recv().unwrap(), long);
        drop(client);
        assert!(!stream.flush());
    }

    #[test]
    fn a_full_buffer_leaves_room_for_the_report() {
        let (queue, mut client) = channel(2);
        let mut stream = stream(queue);
        push(&mut stream, &vec![b'x'; LIMIT], 1);
        push(&mut stream, b"lost\n", 2);
        push(&mut stream, b"lost\n", 3);
        assert!(
            stream.flush_and_report(4, |lost, from_ns| BytesMut::from(&*format!("{} since {from_ns}\n", lost.events)))
        );
        assert_eq!(client.try_recv().unwrap().len(), LIMIT);
        assert_eq!(client.try_recv().unwrap(), "2 since 2\n");
        assert_eq!(stream.lost(), 0);
    }

    #[test]
    fn a_process_that_floods_leaves_room_for_others() {
        let (queue, _client) = channel(1);
        let mut stream = stream(queue);
        push(&mut stream, b"the client is busy\n", 1);
        assert!(stream.flush());
        let line = [b'x'; 1000];
        let of = |user| {
            let process = Some(Key { tgid: user + 1, start_ns: 0 });
            let origin = Some(EventOrigin { process, user: Some(user), beginner: None });
            EventNote { origin, ..EventNote::of_daemon(line.len()) }
        };
        (0..1000).for_each(|_| stream.push(&line, &of(1000), 2));
        let lost = stream.lost();
        assert!(lost > 0, "this test is about losses");
        (0..10).for_each(|_| stream.push(&line, &of(0), 3));
        assert_eq!(stream.lost(), lost);
    }

    #[test]
    fn all_clients_together_are_bounded_and_root_has_a_reserve() {
        let memory = Arc::new(StreamMemory::default());
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let note = |user| {
            let process = Some(Key { tgid: user, start_ns: 0 });
            EventNote {
                origin: Some(EventOrigin { process, user: Some(user), beginner: None }),
                ..EventNote::of_daemon(line.len())
            }
        };
        let mut clients = Vec::new();
        let mut add = |is_root| {
            // As many batches as the server queues.
            let (queue, client) = channel(4);
            clients.push(client);
            Stream::new(Arc::default(), queue, is_root, &memory)
        };
        let (mut others, mut root): (Vec<_>, Vec<_>) =
            ((0..64).map(|_| add(false)).collect(), (0..128).map(|_| add(true)).collect());
        let fill = |streams: &mut [Stream]| {
            // Nobody reads. A batch is 64 lines.
            for _ in 0..30 {
                for stream in &mut *streams {
                    (0..64).for_each(|user| stream.push(&line, &note(user), 1));
                    assert!(stream.flush());
                }
            }
        };
        let waiting = || memory.all.load(Ordering::Relaxed);
        fill(&mut others);
        // A batch more for each than they should have, and what each may keep in any case.
        assert!((20 << 20..OTHERS_BYTES + 64 * (80 << 10)).contains(&waiting()), "{}", waiting());
        fill(&mut root[..1]);
        // Four batches of 64 KiB are queued, and what is kept has no room for one more.
        assert!(root[0].waiting.bytes.load(Ordering::Relaxed) > 400 << 10, "root's first has all that it can have");
        fill(&mut root);
        assert!((40 << 20..ALL_BYTES + 192 * (80 << 10)).contains(&waiting()), "{}", waiting());
        assert!(root.iter().chain(&others).all(|stream| stream.lost() > 0));
        // A client that reads is told what it has missed.
        let stream = others.last_mut().unwrap();
        let client = clients.get_mut(63).unwrap();
        while client.try_recv().is_ok() {}
        assert!(stream.flush_and_report(2, |lost, _| BytesMut::from(&*format!("{} lost\n", lost.events))));
        let texts: Vec<_> = std::iter::from_fn(|| client.try_recv().ok()).collect();
        assert!(texts.last().unwrap().ends_with(b" lost\n") && stream.lost() == 0);
        drop((texts, others, root, clients));
        assert_eq!((waiting(), memory.others.load(Ordering::Relaxed)), (0, 0));
    }
}
