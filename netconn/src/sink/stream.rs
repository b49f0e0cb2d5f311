//! A client of the socket that listens to events as they happen.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use netconn_model::filter::Filter;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use crate::sink::{EventCounts, EventNote, shares::Shares};

/// Most bytes of events that wait for one client; more are dropped.
const WAITING_BYTES_MAX: u64 = 256 << 10;

/// The events that wait for one client. Those that a slow client misses are counted, and reported to it in a `Data Loss`.
#[derive(Debug)]
pub struct Stream {
    /// Selects the connections whose events it receives.
    pub filter: Arc<Filter>,
    queue: Sender<Bytes>,
    lines: BytesMut,
    events: EventCounts,
    /// Whose events wait, counted while many do.
    shares: Shares,
    /// Events dropped since the last that was delivered, and since when, nanoseconds since boot.
    lost: Option<(EventCounts, u64)>,
}

impl Stream {
    /// Creates a stream into `queue`.
    pub fn new(filter: Arc<Filter>, queue: Sender<Bytes>) -> Self {
        Self {
            filter,
            queue,
            lines: BytesMut::new(),
            events: EventCounts::default(),
            shares: Shares::default(),
            lost: None,
        }
    }

    /// Adds an encoded event; `now` in nanoseconds since boot.
    pub fn push(&mut self, line: &[u8], note: &EventNote, now: u64) {
        let (waiting, bytes) = (self.lines.len() as u64, u64::from(note.length));
        let free = WAITING_BYTES_MAX.saturating_sub(waiting);
        // As in the queue of an output: shares are counted only while there is a need.
        let has_room =
            if waiting + bytes <= WAITING_BYTES_MAX / 8 { true } else { self.shares.admit(note, bytes, free) };
        if has_room {
            self.lines.put_slice(line);
            self.events.add(note.class);
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
        if self.lines.is_empty() {
            return !self.queue.is_closed();
        }
        match self.queue.try_reserve() {
            Ok(place) => {
                // `split` keeps the rest of the allocation for the next events.
                place.send(self.lines.split().freeze());
                self.events = EventCounts::default();
                self.shares.clear();
                true
            }
            // They are sent together with later ones.
            Err(TrySendError::Full(())) => true,
            Err(TrySendError::Closed(())) => false,
        }
    }

    fn lose(&mut self, events: EventCounts, now: u64) {
        // The time of the first loss stays: the report covers the whole gap.
        let (lost, _) = self.lost.get_or_insert((EventCounts::default(), now));
        *lost += events;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::{process::Key, sink::EventOrigin};

    const LIMIT: usize = WAITING_BYTES_MAX as usize;

    fn push(stream: &mut Stream, line: &[u8], now: u64) {
        stream.push(line, &EventNote::of_daemon(line.len()), now);
    }

    fn count(lost: Option<(EventCounts, u64)>) -> Option<(u64, u64)> {
        lost.map(|(lost, from_ns)| (lost.events, from_ns))
    }

    #[test]
    fn a_slow_client_is_told_what_it_missed() {
        let (queue, mut client) = channel(1);
        let mut stream = Stream::new(Arc::default(), queue);
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
        let mut stream = Stream::new(Arc::default(), queue);
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
        let mut stream = Stream::new(Arc::default(), queue);
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
}
