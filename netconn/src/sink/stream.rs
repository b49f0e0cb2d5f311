//! A client of the socket that listens to events as they happen.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use netconn_model::filter::Filter;
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// Most bytes of events that wait for one client; more are dropped.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// The events that wait for one client. Those that a slow client misses are counted, and reported to it in a `Data Loss`.
#[derive(Debug)]
pub struct Stream {
    /// Selects the connections whose events it receives.
    pub filter: Arc<Filter>,
    queue: Sender<Bytes>,
    lines: BytesMut,
    events: u64,
    /// Events dropped since the last that was delivered, and since when, nanoseconds since boot.
    lost: Option<(u64, u64)>,
}

impl Stream {
    /// Creates a stream into `queue`.
    pub fn new(filter: Arc<Filter>, queue: Sender<Bytes>) -> Self {
        Self { filter, queue, lines: BytesMut::new(), events: 0, lost: None }
    }

    /// Adds an encoded event; `now` in nanoseconds since boot.
    pub fn push(&mut self, line: &[u8], now: u64) {
        if self.lines.len() + line.len() > WAITING_BYTES_MAX {
            self.lose(1, now);
        } else {
            self.lines.put_slice(line);
            self.events += 1;
        }
    }

    /// Queues the events added so far, and after them a line that reports the dropped ones, which `report` makes of their number
    /// and the time of the first. Returns `false` when the client has gone.
    pub fn flush_and_report(&mut self, now: u64, report: impl FnOnce(u64, u64) -> BytesMut) -> bool {
        // The events came before the loss. They also have to make room for its report, which would otherwise be dropped.
        if !self.flush(now) {
            return false;
        }
        let Some((count, from_ns)) = self.take_lost() else { return true };
        self.push(&report(count, from_ns), now);
        self.flush(now)
    }

    /// Returns how many events were dropped and since when, if a report of it can be queued now; the count begins anew then.
    fn take_lost(&mut self) -> Option<(u64, u64)> {
        if self.queue.capacity() == 0 { None } else { self.lost.take() }
    }

    /// Returns the number of dropped events that were not reported to the client yet.
    pub fn lost(&self) -> u64 {
        self.lost.map_or(0, |(count, _)| count)
    }

    /// Queues the events added so far; `false` when the client has gone.
    fn flush(&mut self, now: u64) -> bool {
        if self.lines.is_empty() || self.queue.capacity() == 0 {
            return !self.queue.is_closed(); // They are sent together with later ones.
        }
        // `split` keeps the rest of the allocation for the next events.
        match self.queue.try_send(self.lines.split().freeze()) {
            Ok(()) => {
                self.events = 0;
                true
            }
            Err(TrySendError::Full(_)) => {
                self.lose(self.events, now);
                self.events = 0;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    fn lose(&mut self, events: u64, now: u64) {
        // The time of the first loss stays: the report covers the whole gap.
        let (count, _) = self.lost.get_or_insert((0, now));
        *count += events;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_slow_client_is_told_what_it_missed() {
        let (queue, mut client) = channel(1);
        let mut stream = Stream::new(Arc::default(), queue);
        stream.push(b"a\n", 1);
        assert!(stream.flush(1));
        let long = vec![b'x'; WAITING_BYTES_MAX - 4];
        stream.push(&long, 2);
        assert!(stream.flush(2), "kept while the client is busy");
        stream.push(b"four\n", 3);
        stream.push(b"five\n", 4);
        assert_eq!(stream.take_lost(), None, "it cannot be told yet");
        assert_eq!(client.try_recv().unwrap(), "a\n");
        assert_eq!(stream.take_lost(), Some((2, 3)));
        assert!(stream.flush(5));
        assert_eq!(client.try_recv().unwrap(), long);
        drop(client);
        assert!(!stream.flush(6));
    }

    #[test]
    fn a_full_buffer_leaves_room_for_the_report() {
        let (queue, mut client) = channel(2);
        let mut stream = Stream::new(Arc::default(), queue);
        stream.push(&vec![b'x'; WAITING_BYTES_MAX], 1);
        stream.push(b"lost\n", 2);
        stream.push(b"lost\n", 3);
        assert!(stream.flush_and_report(4, |count, from_ns| BytesMut::from(&*format!("{count} since {from_ns}\n"))));
        assert_eq!(client.try_recv().unwrap().len(), WAITING_BYTES_MAX);
        assert_eq!(client.try_recv().unwrap(), "2 since 2\n");
        assert_eq!(stream.lost(), 0);
    }
}
