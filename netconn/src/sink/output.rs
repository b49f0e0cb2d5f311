//! An output: the thread that writes to one sink, the bounded queue before it, and the counts of what became of its events.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{SendError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use netconn_model::{
    fact::LossStage,
    health::{Health, OutputHealth, OutputState},
};
use thiserror::Error;

use crate::{
    line_file::WriteFailure,
    os,
    sink::{
        Batch, EventCounts, EventNote, Folds, Sink, SinkStatus,
        counters::{Counters, OutputLosses, batch_cost, cost},
        is_full,
        pace::Pace,
        shares::Shares,
        writer::{Order, Writer},
    },
    store::HistoryLimits,
};

/// Most bytes in a queue: one second of 20,000 events.
const QUEUE_BYTES: u64 = 32 << 20;
/// As long as fewer bytes wait, nobody's share is counted; and the backlog of a dump may be announced: seven eighths are for
/// events that happen meanwhile and cannot wait.
const RELAXED_BYTES: u64 = QUEUE_BYTES / 8;
/// Pause between two looks whether an output has written everything at the end.
pub const POLL: Duration = Duration::from_millis(1);

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

/// The engine's account of what is in a queue, and whose it is.
#[derive(Debug, Default)]
struct QueueAccount {
    shares: Shares,
    /// Number of batches sent.
    sent_batches: u64,
    /// Events sent.
    sent: EventCounts,
    /// The notes of the batches that the shares count, oldest first, each with the number of the batch.
    counted: VecDeque<(u64, Arc<[EventNote]>)>,
}

impl QueueAccount {
    /// Takes batches out that have left the queue.
    fn settle(&mut self, done_batches: u64) {
        while let Some((_, notes)) = self.counted.pop_front_if(|(number, _)| *number < done_batches) {
            notes.iter().for_each(|note| self.shares.remove(note, cost(note)));
        }
    }

    /// Returns the part of a batch that the queue has room for by the shares of its origins, and counts of the rest.
    fn admit(&mut self, batch: &Batch, mut free: u64) -> (Option<Batch>, EventCounts) {
        let (kept, lost) = batch.split(|note| {
            let bytes = cost(note);
            let is_admitted = self.shares.admit(note, bytes, free);
            free -= if is_admitted { bytes } else { 0 };
            is_admitted
        });
        if let Some(kept) = &kept {
            self.counted.push_back((self.sent_batches, Arc::clone(&kept.notes)));
        }
        (kept, lost)
    }
}

/// A running output.
#[derive(Debug)]
pub struct Output {
    name: String,
    destination: String,
    loss_stage: LossStage,
    status: Arc<dyn SinkStatus>,
    queue: Sender<Order>,
    account: QueueAccount,
    pace: Pace,
    /// It was given up: the number of events that its queue had lost before.
    given_up: Option<u64>,
    counters: Arc<Counters>,
    thread: JoinHandle<()>,
}

impl Output {
    /// Writes the first batch and starts the thread.
    ///
    /// # Errors
    ///
    /// When the sink is required and cannot write the batch for another reason than a full file system, or when the system gives no
    /// thread.
    pub(super) fn start(mut sink: Box<dyn Sink>, first: &Batch) -> Result<Self, OutputError> {
        let counters = Arc::new(Counters::default());
        let mut is_first_written = false;
        // On this thread, before the daemon reports that it runs: a wrong path has to be an error of the start.
        if sink.is_required() {
            match sink.write(first, &|| false) {
                Ok(()) => {
                    counters.written.add(EventCounts::of(&first.notes));
                    is_first_written = true;
                }
                // It may have room later, and a daemon that captures nothing would be worse. The thread tries again.
                Err(failure) if is_full(&failure.error) => {}
                Err(WriteFailure { error, .. }) => {
                    return Err(OutputError::new(sink.destination(), sink.advice(&error), error));
                }
            }
        }
        let mut output = Self::spawn(sink, counters)?;
        if is_first_written {
            output.account.sent = EventCounts::of(&first.notes);
        } else {
            output.send(first);
        }
        Ok(output)
    }

    fn spawn(sink: Box<dyn Sink>, counters: Arc<Counters>) -> Result<Self, OutputError> {
        let (name, destination) = (sink.name(), sink.destination());
        let (loss_stage, status) = (sink.loss_stage(), sink.status());
        // Not bounded by itself: `send` bounds the bytes.
        let (queue, orders) = channel();
        let writer = Writer::new(sink, destination.clone(), Arc::clone(&counters));
        let thread = thread::Builder::new().name("netconn-output".into()).spawn(move || {
            // Under a flood by many processes this thread would get a fiftieth of a CPU, and its queue would overflow.
            os::raise_thread_priority();
            writer.run(&orders);
        });
        let thread = thread.map_err(|error| OutputError::new(destination.clone(), "", error))?;
        Ok(Self {
            name,
            destination,
            loss_stage,
            status,
            queue,
            account: QueueAccount::default(),
            pace: Pace::default(),
            given_up: None,
            counters,
            thread,
        })
    }

    /// Starts the thread, which writes the first batch: whoever calls this must not wait for a sink.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(crate) fn start_later(sink: Box<dyn Sink>, first: &Batch) -> Result<Self, OutputError> {
        let mut output = Self::spawn(sink, Arc::default())?;
        output.send(first);
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
        let at = |stage| (self.loss_stage == stage).then_some(refused.events);
        let state = match (self.is_gone(), self.counters.is_failing.load(Ordering::Relaxed)) {
            (true, _) => OutputState::Gone,
            (false, true) => OutputState::Failing,
            (false, false) => OutputState::Open,
        };
        let counts = OutputHealth {
            path: self.destination.clone(),
            state,
            written: self.counters.written.load().events,
            lost_queue: queue.events,
            lost_disk: at(LossStage::Disk),
            lost_sink: at(LossStage::Sink),
            lost_outgoing: queue.outgoing + refused.outgoing,
            lost_incoming: queue.incoming + refused.incoming,
        };
        self.status.report(counts, health);
    }

    /// Returns how many events it has lost since the start.
    pub fn lost(&self) -> OutputLosses {
        OutputLosses { queue: self.counters.lost_queue.load(), refused: self.counters.lost_refused.load() }
    }

    /// Returns what its sink has folded since this was last called, by origin.
    pub fn take_folds(&self) -> Folds {
        self.status.take_folds()
    }

    /// Returns the stages at which this output has lost these events, without those at which it has lost none.
    pub fn loss_stages(&self, lost: OutputLosses) -> impl Iterator<Item = (LossStage, EventCounts)> + use<> {
        let stages = [(LossStage::Queue, lost.queue), (self.loss_stage, lost.refused)];
        stages.into_iter().filter(|(_, counts)| counts.events != 0)
    }

    /// Whether its queue is short enough for events that could as well be sent later.
    pub fn has_room(&self) -> bool {
        self.counters.queued_bytes.load(Ordering::Relaxed) < RELAXED_BYTES
    }

    /// Whether events that could as well be sent later should wait for this output: it has no room for them, and has had some
    /// within `patience`.
    pub fn holds_up(&mut self, now: Instant, patience: Duration) -> bool {
        self.pace.holds_up(self.has_room(), now, patience)
    }

    /// Whether [`Output::holds_up`] has last found that it has had no room for too long: others do not wait for it.
    pub fn is_behind(&self) -> bool {
        self.pace.is_behind()
    }

    /// Whether nothing has left its queue for `patience`, beginning with the first call.
    pub fn is_stuck(&mut self, now: Instant, patience: Duration) -> bool {
        self.pace.is_stuck(self.counters.done_batches.load(Ordering::Relaxed), now, patience)
    }

    /// Whether events sent now will be written, as far as is known.
    pub fn is_writing(&self) -> bool {
        self.has_room() && !self.counters.is_failing.load(Ordering::Relaxed)
    }

    /// Whether nobody can read this output any more.
    pub fn is_gone(&self) -> bool {
        self.counters.is_gone.load(Ordering::Relaxed)
    }

    /// Queues a batch. Events for which the queue has no room, or whose process or user takes its share of it already, are dropped
    /// and counted.
    pub fn send(&mut self, batch: &Batch) {
        let Self { account, counters, .. } = self;
        let counts = EventCounts::of(&batch.notes);
        account.sent += counts;
        if counters.is_gone.load(Ordering::Relaxed) {
            counters.lost_refused.add(counts);
            return;
        }
        account.settle(counters.done_batches.load(Ordering::Relaxed));
        // The engine is the only sender, so nobody else adds to it meanwhile.
        let queued = counters.queued_bytes.load(Ordering::Relaxed);
        if queued + batch_cost(batch) <= RELAXED_BYTES {
            // Nobody keeps count here: it would cost each event something, also on the machines where no queue ever fills.
            self.queue(batch.clone());
            return;
        }
        let (kept, lost) = account.admit(batch, QUEUE_BYTES.saturating_sub(queued));
        counters.lost_queue.add(lost);
        if let Some(kept) = kept {
            self.queue(kept);
        }
    }

    /// Queues a batch of events that could as well be sent later. An output that is behind loses them: what is left of its queue is
    /// for events that happen now.
    pub fn send_late(&mut self, batch: &Batch) {
        if self.is_behind() && !self.is_gone() {
            let counts = EventCounts::of(&batch.notes);
            self.account.sent += counts;
            self.counters.lost_queue.add(counts);
        } else {
            self.send(batch);
        }
    }

    fn queue(&mut self, batch: Batch) {
        let Self { queue, account, counters, .. } = self;
        // Added before the batch is sent: the thread may write it at once, and subtracts its bytes then.
        counters.queued_bytes.fetch_add(batch_cost(&batch), Ordering::Relaxed);
        account.sent_batches += 1;
        if let Err(SendError(Order::Write(batch))) = queue.send(Order::Write(batch)) {
            // The thread has panicked: its events are lost, and are counted in the same place.
            counters.leave(&batch);
            counters.lost_queue.add(EventCounts::of(&batch.notes));
        }
    }

    /// Has the destination opened again, for log rotation, after all queued batches.
    pub fn reopen(&self) {
        // One order is enough for all that ask before it is carried out.
        if !self.counters.is_reopening.swap(true, Ordering::Relaxed) {
            // The thread has panicked: there is nothing to open again.
            let _ = self.queue.send(Order::Reopen);
        }
    }

    /// Gives its sink other limits, after all queued batches, if it is a history.
    pub fn limit_history(&self, limits: HistoryLimits) {
        // A thread that has panicked has no history.
        let _ = self.queue.send(Order::LimitHistory(limits));
    }

    /// Returns counts of the events that were sent and are neither written nor counted as lost.
    pub fn waiting(&self) -> EventCounts {
        self.counters.waiting(self.account.sent)
    }

    /// Gives up what was sent so far and is not written: its thread counts it as lost. What is sent from now on is written, if the
    /// reader comes back.
    pub fn give_up(&mut self) {
        self.given_up = Some(self.counters.lost_queue.load().events);
        self.counters.given_up_before.store(self.account.sent_batches, Ordering::Relaxed);
    }

    /// Returns how many events were given up, if any were. The number is final when [`Output::waiting`] returns none.
    pub fn given_up(&self) -> Option<u64> {
        let lost = self.counters.lost_queue.load().events + self.waiting().events;
        self.given_up.map(|before| lost.saturating_sub(before))
    }

    /// Ends the thread once it has written what is queued; [`Closing::wait`] waits for that.
    pub fn close(self) -> Closing {
        let Self { destination, account, given_up, counters, thread, queue, .. } = self;
        // The thread ends when nobody can send any more.
        drop(queue);
        Closing { destination, is_given_up: given_up.is_some(), sent: account.sent, counters, thread }
    }
}

/// An output that gets no more events.
#[derive(Debug)]
pub struct Closing {
    /// Where it writes, for messages.
    pub destination: String,
    /// What was sent to it before was given up.
    pub is_given_up: bool,
    sent: EventCounts,
    counters: Arc<Counters>,
    thread: JoinHandle<()>,
}

impl Closing {
    /// Waits until everything is written or `deadline` has come. Returns the number of events that are not written.
    pub fn wait(&self, deadline: Instant) -> u64 {
        // Polled, because `join` has no deadline and a write to a pipe or a network file system may block for ever.
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.counters.waiting(self.sent).events
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

    use bytes::Bytes;

    use super::*;
    use crate::{
        line_file::{GIVEN_UP, WriteFailure},
        process::Key,
        sink::{EventClass, EventOrigin, counters::SharedCounts},
    };

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

        fn write(&mut self, batch: &Batch, _: &dyn Fn() -> bool) -> Result<(), WriteFailure> {
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

        fn is_gone(&self, error: &io::Error) -> bool {
            error.kind() == io::ErrorKind::BrokenPipe
        }
    }

    /// A batch with an event of an attempt on each line.
    fn batch(lines: &str) -> Batch {
        let note = |line: &str| EventNote { class: EventClass::Outgoing, ..EventNote::of_daemon(line.len() + 1) };
        Batch { lines: lines.to_owned().into(), notes: lines.lines().map(note).collect() }
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
        let mut output = Output::start(Box::new(sink), &batch("first\n")).unwrap();
        let texts: Vec<String> = (0..1000).map(|number| format!("{number}\n")).collect();
        texts.iter().for_each(|text| output.send(&batch(text)));
        assert_eq!(output.close().wait(soon()), 0);
        let expected: Vec<Bytes> = ["first\n"]
            .into_iter()
            .chain(texts.iter().map(|text| &**text))
            .map(|text| text.to_owned().into())
            .collect();
        assert_eq!(received.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_a_required_sink_has_to_write_the_first_batch() {
        let (mut refusing, _received) = sink(Err(io::ErrorKind::PermissionDenied));
        refusing.is_required = true;
        let error = Output::start(Box::new(refusing), &batch("first\n")).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, "cannot write events to test: permission denied; do something");
        // A full file system may have room later.
        for (error, is_required) in [(io::ErrorKind::PermissionDenied, false), (io::ErrorKind::StorageFull, true)] {
            let (mut refusing, _received) = sink(Err(error));
            refusing.is_required = is_required;
            let output = Output::start(Box::new(refusing), &batch("first\n")).unwrap();
            let counters = Arc::clone(&output.counters);
            assert_eq!(output.close().wait(soon()), 0);
            assert_eq!(counters.lost_refused.load().events, 1);
        }
    }

    #[test]
    fn what_a_sink_refuses_is_counted_at_its_stage() {
        let (refusing, _received) = sink(Ok(2));
        let counters = Arc::new(Counters::default());
        let mut writer = Writer::new(Box::new(refusing), "test".into(), Arc::clone(&counters));
        writer.select_and_write(&batch("a\nb\nc\n"));
        let load = |counts: &SharedCounts| (counts.load().events, counts.load().outgoing);
        assert_eq!((load(&counters.written), load(&counters.lost_refused)), ((1, 1), (2, 2)));
        assert!(counters.is_failing.load(Ordering::Relaxed));
        writer.select_and_write(&batch("a\n"));
        assert_eq!((load(&counters.written), load(&counters.lost_refused)), ((2, 2), (2, 2)));
        assert!(!counters.is_failing.load(Ordering::Relaxed));

        let (silent, _received) = sink(Ok(usize::MAX));
        let output = Output::start(Box::new(silent), &batch("first\n")).unwrap();
        let three = EventCounts { events: 3, outgoing: 2, incoming: 1 };
        let lost = OutputLosses { queue: EventCounts::default(), refused: three };
        assert_eq!(output.loss_stages(lost).collect::<Vec<_>>(), [(LossStage::Sink, three)]);
        assert_eq!(output.close().wait(soon()), 0);
    }

    #[test]
    fn an_output_without_a_reader_gets_no_more_events() {
        let (closed, _received) = sink(Err(io::ErrorKind::BrokenPipe));
        let mut output = Output::start(Box::new(closed), &batch("first\n")).unwrap();
        let until = soon();
        while !output.is_gone() {
            assert!(Instant::now() < until);
            thread::sleep(POLL);
        }
        output.send(&batch("a\nb\n"));
        assert_eq!(output.lost().refused, EventCounts { events: 3, outgoing: 3, incoming: 0 });
        assert_eq!(output.close().wait(soon()), 0);
    }

    #[test]
    fn a_sink_does_what_is_due_while_nothing_is_sent() {
        let (mut waiting, received) = sink(Ok(usize::MAX));
        waiting.due = Some(Duration::from_millis(20));
        let output = Output::start(Box::new(waiting), &batch("first\n")).unwrap();
        assert_eq!(received.recv().unwrap(), "first\n");
        assert_eq!(received.recv_timeout(Duration::from_secs(10)).unwrap(), "due");
        assert_eq!(output.close().wait(soon()), 0);
    }

    /// A sink that writes nothing until it may.
    struct StuckSink {
        inner: TestSink,
        may_write: Receiver<()>,
    }

    impl Sink for StuckSink {
        fn name(&self) -> String {
            "stuck".into()
        }

        fn loss_stage(&self) -> LossStage {
            LossStage::Sink
        }

        fn is_required(&self) -> bool {
            false
        }

        fn write(&mut self, batch: &Batch, is_given_up: &dyn Fn() -> bool) -> Result<(), WriteFailure> {
            // An error of another kind says that it may go on for good.
            while self.may_write.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                if is_given_up() {
                    return Err(io::Error::from(GIVEN_UP).into());
                }
            }
            self.inner.write(batch, is_given_up)
        }

        fn advice(&self, _: &io::Error) -> &'static str {
            ""
        }
    }

    /// A batch of events of one process, 1,000 bytes each.
    fn flood(tgid: u32, class: EventClass) -> Batch {
        let origin = EventOrigin { process: Some(Key { tgid, start_ns: 0 }), user: Some(0), beginner: None };
        let note = EventNote { length: 1000, class, origin: Some(origin) };
        let line = [&[b'x'; 999][..], b"\n"].concat();
        Batch { lines: line.repeat(50).into(), notes: vec![note; 50].into() }
    }

    #[test]
    fn a_process_that_floods_loses_its_own_events() {
        let (inner, received) = sink(Ok(usize::MAX));
        let (permit, may_write) = channel();
        let mut output = Output::start(Box::new(StuckSink { inner, may_write }), &batch("first\n")).unwrap();
        let (many, one) = (flood(1, EventClass::Outgoing), flood(2, EventClass::Incoming));
        // Three times what the queue can hold.
        let sent = 3 * QUEUE_BYTES / 50_000;
        (0..sent).for_each(|_| output.send(&many));
        (0..12).for_each(|_| output.send(&one));
        let lost = output.lost().queue;
        assert!(lost.events > sent * 25 && lost.outgoing == lost.events, "its own only: {lost:?}");
        assert_eq!(output.waiting().events, 1 + sent * 50 + 600 - lost.events);
        drop(permit);
        let counters = Arc::clone(&output.counters);
        assert_eq!(output.close().wait(soon()), 0);
        let lines: usize = received.iter().map(|lines| lines.iter().filter(|byte| **byte == b'\n').count()).sum();
        assert_eq!(lines as u64, 1 + sent * 50 + 600 - lost.events);
        assert_eq!(counters.queued_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_sent_after_an_output_was_given_up_is_written() {
        let (inner, received) = sink(Ok(usize::MAX));
        let (permit, may_write) = channel();
        let mut output = Output::start(Box::new(StuckSink { inner, may_write }), &batch("first\n")).unwrap();
        output.send(&batch("a\nb\n"));
        let waiting = output.waiting();
        assert_eq!((waiting.events, waiting.outgoing), (3, 3));
        assert_eq!(output.given_up(), None);
        output.give_up();
        let until = soon();
        while output.waiting() != EventCounts::default() {
            assert!(Instant::now() < until);
            thread::sleep(POLL);
        }
        // The batch in hand and the one behind it.
        assert_eq!((output.given_up(), output.lost().queue.outgoing), (Some(3), 3));
        output.send(&batch("last\n"));
        drop(permit);
        let closing = output.close();
        assert_eq!((closing.wait(soon()), closing.is_given_up), (0, true));
        assert_eq!(received.iter().collect::<Vec<_>>(), ["last\n"]);
    }

    #[test]
    fn what_can_wait_is_lost_to_an_output_that_is_behind() {
        let (inner, _received) = sink(Ok(usize::MAX));
        let (permit, may_write) = channel();
        let mut output = Output::start(Box::new(StuckSink { inner, may_write }), &batch("first\n")).unwrap();
        let now = Instant::now();
        assert!(!output.holds_up(now, POLL));
        let many = flood(1, EventClass::Outgoing);
        while output.has_room() {
            output.send_late(&many);
        }
        let room = output.waiting();
        assert!(output.holds_up(now, POLL) && !output.is_behind());
        assert!(!output.holds_up(now + POLL, POLL) && output.is_behind());
        output.send_late(&many);
        assert_eq!((output.lost().queue.events, output.waiting()), (50, room));
        output.send(&many);
        assert_eq!(output.lost().queue.events, 50, "the rest of the queue is for these");
        drop(permit);
        assert_eq!(output.close().wait(soon()), 0);
    }
}
