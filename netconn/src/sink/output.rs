//! An output: the thread that writes to one sink, the bounded queue before it, and the counts of what became of its events.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvError, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use netconn_model::{
    fact::LossStage,
    health::{Health, OutputHealth},
};
use thiserror::Error;
use tracing::warn;

use crate::{
    os,
    sink::{Batch, Sink, SinkStatus},
};

/// Most batches in a queue.
const QUEUE_BATCHES: usize = 1024;
/// Most bytes in a queue: one second of 20,000 events.
const QUEUE_BYTES: u64 = 32 << 20;
/// Pause between two looks whether an output has written everything at the end.
const FINISH_POLL: Duration = Duration::from_millis(1);

/// An output that cannot be opened, or whose first events cannot be written.
#[derive(Debug, Error)]
#[error("cannot write events to {destination}: {error}{advice}")]
pub struct OutputError {
    destination: String,
    advice: &'static str,
    error: io::Error,
}

impl OutputError {
    pub(super) fn new(destination: String, advice: &'static str, error: io::Error) -> Self {
        Self { destination, advice, error }
    }
}

/// Number of events that an output has lost since the start, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLosses {
    /// Its queue was full.
    pub queue: u64,
    /// Its sink could not write them.
    pub refused: u64,
}

impl OutputLosses {
    /// Returns what was lost since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { queue: self.queue.saturating_sub(before.queue), refused: self.refused.saturating_sub(before.refused) }
    }
}

/// What the thread of an output and the engine share. Counters are independent of each other: relaxed access is enough.
#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    lost_queue: AtomicU64,
    lost_refused: AtomicU64,
    /// Bytes in the queue.
    queued_bytes: AtomicU64,
    /// The last write failed.
    is_failing: AtomicBool,
    /// Nobody can read this output any more.
    ends_daemon: AtomicBool,
}

/// What the thread of an output has to do.
enum Order {
    Write(Batch),
    Reopen,
}

/// A running output.
#[derive(Debug)]
pub struct Output {
    name: String,
    destination: String,
    loss_stage: LossStage,
    status: Arc<dyn SinkStatus>,
    queue: SyncSender<Order>,
    counters: Arc<Counters>,
    thread: JoinHandle<()>,
}

impl Output {
    /// Writes the first batch and starts the thread.
    ///
    /// # Errors
    ///
    /// When the sink is required and cannot write the batch, or when the system gives no thread.
    pub(super) fn start(mut sink: Box<dyn Sink>, first: &Batch) -> Result<Self, OutputError> {
        let counters = Arc::new(Counters::default());
        // On this thread, before the daemon reports that it runs: a wrong path has to be an error of the start.
        if sink.is_required() {
            sink.write(first)
                .map_err(|failure| OutputError::new(sink.destination(), sink.advice(&failure.error), failure.error))?;
            counters.written.store(first.events, Ordering::Relaxed);
        }
        let is_first_written = sink.is_required();
        let (name, destination) = (sink.name(), sink.destination());
        let (loss_stage, status) = (sink.loss_stage(), sink.status());
        // The channel is bounded by a number only; `send` bounds the bytes.
        let (queue, orders) = sync_channel(QUEUE_BATCHES);
        let writer = Writer { sink, destination: destination.clone(), counters: Arc::clone(&counters) };
        let thread = thread::Builder::new().name("netconn-output".into()).spawn(move || {
            // Under a flood by many processes this thread would get a fiftieth of a CPU, and its queue would overflow.
            os::raise_thread_priority();
            writer.run(&orders);
        });
        let thread = thread.map_err(|error| OutputError::new(destination.clone(), "", error))?;
        let output = Self { name, destination, loss_stage, status, queue, counters, thread };
        if !is_first_written {
            output.send(first);
        }
        Ok(output)
    }

    /// Returns what `loss.output` of a `Data Loss` event calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns where it writes, for messages.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Adds the output to a health report.
    pub fn report(&self, health: &mut Health) {
        // `refused` is counted once; the sink decides under which name it is reported.
        let OutputLosses { queue, refused } = self.lost();
        let at = |stage| (self.loss_stage == stage).then_some(refused);
        let counts = OutputHealth {
            path: self.destination.clone(),
            written: self.counters.written.load(Ordering::Relaxed),
            lost_queue: queue,
            lost_disk: at(LossStage::Disk),
            lost_sink: at(LossStage::Sink),
        };
        self.status.report(counts, health);
    }

    /// Returns how many events it has lost since the start.
    pub fn lost(&self) -> OutputLosses {
        OutputLosses {
            queue: self.counters.lost_queue.load(Ordering::Relaxed),
            refused: self.counters.lost_refused.load(Ordering::Relaxed),
        }
    }

    /// Returns the stages at which this output has lost these events, without those at which it has lost none.
    pub fn loss_stages(&self, lost: OutputLosses) -> impl Iterator<Item = (LossStage, u64)> + use<> {
        [(LossStage::Queue, lost.queue), (self.loss_stage, lost.refused)].into_iter().filter(|(_, count)| *count != 0)
    }

    /// Whether its queue is short enough for events that could as well be sent later.
    pub fn has_room(&self) -> bool {
        // An eighth: the other seven are for events that happen meanwhile and cannot wait.
        self.counters.queued_bytes.load(Ordering::Relaxed) < QUEUE_BYTES / 8
    }

    /// Whether events sent now will be written, as far as is known.
    pub fn is_writing(&self) -> bool {
        self.has_room() && !self.counters.is_failing.load(Ordering::Relaxed)
    }

    /// Whether nobody can read this output any more, so that the daemon has to end.
    pub fn ends_daemon(&self) -> bool {
        self.counters.ends_daemon.load(Ordering::Relaxed)
    }

    /// Queues a batch, or drops and counts it if the queue is full.
    pub fn send(&self, batch: &Batch) {
        let length = batch.lines.len() as u64;
        // Added before the batch is sent: the thread may write it at once, and subtracts its bytes then. The engine is
        // the only sender, so nobody else adds between the sum and the check.
        let queued = self.counters.queued_bytes.fetch_add(length, Ordering::Relaxed);
        // `try_send` also fails when the thread has panicked: its events are lost, and are counted in the same place.
        if queued + length > QUEUE_BYTES || self.queue.try_send(Order::Write(batch.clone())).is_err() {
            self.counters.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            self.counters.lost_queue.fetch_add(batch.events, Ordering::Relaxed);
        }
    }

    /// Has the destination opened again, for log rotation, after all queued batches; `false` if the queue is full.
    pub fn reopen(&self) -> bool {
        self.queue.try_send(Order::Reopen).is_ok()
    }

    /// Writes all queued batches and ends the thread; `false` if that was not done by `deadline`.
    pub fn finish(self, deadline: Instant) -> bool {
        let Self { queue, thread, .. } = self;
        // The thread ends when nobody can send any more.
        drop(queue);
        // Polled, because `join` has no deadline and a write to a pipe or a network file system may block for ever.
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(FINISH_POLL);
        }
        // A thread that panicked has not written everything either.
        thread.join().is_ok()
    }
}

/// The thread's half of an output.
struct Writer {
    sink: Box<dyn Sink>,
    destination: String,
    counters: Arc<Counters>,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = self.next_order(orders) {
            match order {
                Order::Write(batch) => self.write(&batch),
                Order::Reopen => self.sink.reopen(),
            }
        }
    }

    /// Waits for an order, and lets the sink do what becomes due until one comes.
    fn next_order(&mut self, orders: &Receiver<Order>) -> Result<Order, RecvError> {
        loop {
            // Asked again in each round: `on_due` and each write change what is due. A sink without a schedule blocks
            // here.
            let Some(due) = self.sink.due() else { return orders.recv() };
            match orders.recv_timeout(due) {
                Ok(order) => return Ok(order),
                Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
                Err(RecvTimeoutError::Timeout) => self.sink.on_due(),
            }
        }
    }

    fn write(&mut self, batch: &Batch) {
        let Self { sink, destination, counters } = self;
        match sink.write(batch) {
            Ok(()) => {
                counters.written.fetch_add(batch.events, Ordering::Relaxed);
                if counters.is_failing.swap(false, Ordering::Relaxed) {
                    warn!("events are written to {destination} again");
                }
            }
            Err(failure) => {
                // Counted in the bytes, because the failure knows only how far the whole lines reach.
                let written = batch.lines.get(..failure.written).unwrap_or_default();
                let written = written.iter().filter(|byte| **byte == b'\n').count() as u64;
                counters.written.fetch_add(written, Ordering::Relaxed);
                counters.lost_refused.fetch_add(batch.events.saturating_sub(written), Ordering::Relaxed);
                let was_failing = counters.is_failing.swap(true, Ordering::Relaxed);
                // The engine polls this flag and stops in order; the loss itself is counted above.
                if sink.ends_daemon(&failure.error) {
                    counters.ends_daemon.store(true, Ordering::Relaxed);
                } else if !was_failing {
                    // Once for a row of failures: a full disk must not fill the log as well.
                    let advice = sink.advice(&failure.error);
                    warn!("events are lost: cannot write to {destination}: {}{advice}", failure.error);
                }
            }
        }
        // Only now: until it is written, the batch takes memory as if it were in the queue.
        counters.queued_bytes.fetch_sub(batch.lines.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use bytes::Bytes;

    use super::*;
    use crate::line_file::WriteFailure;

    /// A sink that writes into a channel, up to a given number of bytes of each batch.
    struct TestSink {
        lines: Sender<Bytes>,
        written: Result<usize, io::ErrorKind>,
        is_required: bool,
        due: Option<Duration>,
    }

    impl Sink for TestSink {
        fn name(&self) -> String {
            "test".into()
        }

        fn loss_stage(&self) -> LossStage {
            LossStage::Sink
        }

        fn is_required(&self) -> bool {
            self.is_required
        }

        fn write(&mut self, batch: &Batch) -> Result<(), WriteFailure> {
            match self.written {
                Ok(written) if written >= batch.lines.len() => {
                    self.lines.send(batch.lines.clone()).unwrap();
                    Ok(())
                }
                Ok(written) => Err(WriteFailure { error: io::ErrorKind::StorageFull.into(), written }),
                Err(kind) => Err(io::Error::from(kind).into()),
            }
        }

        fn due(&self) -> Option<Duration> {
            self.due
        }

        fn on_due(&mut self) {
            self.due = None;
            self.lines.send(Bytes::from_static(b"due")).unwrap();
        }

        fn advice(&self, _: &io::Error) -> &'static str {
            "; do something"
        }

        fn ends_daemon(&self, error: &io::Error) -> bool {
            error.kind() == io::ErrorKind::BrokenPipe
        }
    }

    fn batch(lines: &str) -> Batch {
        Batch { lines: lines.to_owned().into(), events: lines.lines().count() as u64, earliest: 0 }
    }

    fn sink(written: Result<usize, io::ErrorKind>) -> (TestSink, Receiver<Bytes>) {
        let (lines, received) = channel();
        (TestSink { lines, written, is_required: false, due: None }, received)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn batches_arrive_in_order() {
        let (sink, received) = sink(Ok(usize::MAX));
        let output = Output::start(Box::new(sink), &batch("first\n")).unwrap();
        let texts: Vec<String> = (0..1000).map(|number| format!("{number}\n")).collect();
        texts.iter().for_each(|text| output.send(&batch(text)));
        assert!(output.finish(soon()));
        let expected: Vec<Bytes> = ["first\n"]
            .into_iter()
            .chain(texts.iter().map(|text| &**text))
            .map(|text| text.to_owned().into())
            .collect();
        assert_eq!(received.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_a_required_sink_has_to_write_the_first_batch() {
        let (mut refusing, _received) = sink(Err(io::ErrorKind::StorageFull));
        refusing.is_required = true;
        let error = Output::start(Box::new(refusing), &batch("first\n")).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, "cannot write events to test: no storage space; do something");
        let (refusing, _received) = sink(Err(io::ErrorKind::StorageFull));
        let output = Output::start(Box::new(refusing), &batch("first\n")).unwrap();
        let counters = Arc::clone(&output.counters);
        assert!(output.finish(soon()));
        assert_eq!(counters.lost_refused.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_a_sink_refuses_is_counted_at_its_stage() {
        let (refusing, _received) = sink(Ok(2));
        let counters = Arc::new(Counters::default());
        let mut writer = Writer { sink: Box::new(refusing), destination: "test".into(), counters };
        writer.write(&batch("a\nb\nc\n"));
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((load(&writer.counters.written), load(&writer.counters.lost_refused)), (1, 2));
        assert!(writer.counters.is_failing.load(Ordering::Relaxed));
        writer.write(&batch("a\n"));
        assert_eq!((load(&writer.counters.written), load(&writer.counters.lost_refused)), (2, 2));
        assert!(!writer.counters.is_failing.load(Ordering::Relaxed));

        let (silent, _received) = sink(Ok(usize::MAX));
        let output = Output::start(Box::new(silent), &batch("first\n")).unwrap();
        let lost = OutputLosses { queue: 0, refused: 3 };
        assert_eq!(output.loss_stages(lost).collect::<Vec<_>>(), [(LossStage::Sink, 3)]);
        assert!(output.finish(soon()));
    }

    #[test]
    fn a_closed_reader_ends_the_daemon() {
        let (closed, _received) = sink(Err(io::ErrorKind::BrokenPipe));
        let mut writer = Writer { sink: Box::new(closed), destination: "test".into(), counters: Arc::default() };
        writer.write(&batch("a\n"));
        assert!(writer.counters.ends_daemon.load(Ordering::Relaxed));
    }

    #[test]
    fn a_sink_does_what_is_due_while_nothing_is_sent() {
        let (mut waiting, received) = sink(Ok(usize::MAX));
        waiting.due = Some(Duration::from_millis(20));
        let output = Output::start(Box::new(waiting), &batch("first\n")).unwrap();
        assert_eq!(received.recv().unwrap(), "first\n");
        assert_eq!(received.recv_timeout(Duration::from_secs(10)).unwrap(), "due");
        assert!(output.finish(soon()));
    }
}
