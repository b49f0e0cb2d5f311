//! Events on their way out: encoded once, gathered in a batch, handed to the outputs and to the clients that listen.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use netconn_model::{
    event::Sensor,
    fact::{EventKind, LossStage},
    filter::Subject,
    health::{Health, UntoldCounts},
};
use tracing::error;

use crate::{
    clock::Clock,
    encode::{
        event::{Beginning, EventEncoder, ProcessMembers, Written, kind_of, packet_socket},
        loss::{Loss, LostConnects},
        subject::with_subject,
    },
    engine::{
        StreamRequest,
        limit::{EventLimit, FoldedKind},
    },
    kernel::packet_socket::PacketSocket,
    names::Names,
    process::{Process, redact::Redactor},
    rules::Rules,
    sink::{Batch, Closing, EventClass, EventCounts, EventNote, Output, OutputError, POLL, Sink, Stream, StreamMemory},
    store::HistoryLimits,
    table::{Change, Connection},
};

/// Bytes of events that make a full batch.
const BATCH_BYTES: usize = 64 << 10;
/// How long the end of the daemon waits for an output that writes nothing.
pub(super) const STUCK: Duration = Duration::from_millis(600);
/// How long the thread of an output has to count what it gives up. It looks every 20 ms (`LineFile::write_unless`), unless a disk
/// holds it up.
const SETTLE: Duration = Duration::from_millis(100);

/// Encodes events and hands them to outputs and streams.
pub(super) struct Publisher {
    encoder: EventEncoder,
    /// What was written of processes lately.
    processes: ProcessMembers,
    outputs: Vec<Output>,
    /// Outputs that a reload has removed.
    closing: Vec<Closing>,
    /// Clients of the socket that listen to events. Those with equal filters are neighbours and share one.
    streams: Vec<Stream>,
    /// What waits for all of them.
    stream_memory: Arc<StreamMemory>,
    /// Encoded events for the outputs.
    batch: BytesMut,
    /// One for each of them.
    batch_notes: Vec<EventNote>,
    /// Bytes of events since the last flush: without outputs the batch is empty, and the streams have them.
    unflushed: usize,
    /// The batch holds events that could as well be sent later.
    is_late: bool,
    /// Events that rules have excluded.
    excluded: EventCounts,
    limit: EventLimit,
    /// Events missed by clients that have gone, or that have received a `Data Loss` event for them.
    lost_by_clients: u64,
}

impl Publisher {
    pub(super) fn new(encoder: EventEncoder, outputs: Vec<Output>) -> Self {
        Self {
            encoder,
            processes: ProcessMembers::default(),
            outputs,
            closing: Vec::new(),
            streams: Vec::new(),
            stream_memory: Arc::default(),
            batch: BytesMut::new(),
            batch_notes: Vec::new(),
            unflushed: 0,
            is_late: false,
            excluded: EventCounts::default(),
            limit: EventLimit::default(),
            lost_by_clients: 0,
        }
    }

    /// Sets the most events of a kind in a second; 0: no limit.
    pub(super) fn limited(mut self, per_second: u32) -> Self {
        self.limit = EventLimit::new(per_second);
        self
    }

    /// Publishes a change of a connection.
    pub(super) fn publish(
        &mut self,
        clock: &Clock,
        names: &mut Names,
        (change, connection, time_ns): (Change, &Connection, u64),
    ) {
        // Encoding is the largest part of an event's cost.
        if self.outputs.is_empty() && self.streams.is_empty() {
            return;
        }
        let Self { encoder, processes, batch, streams, limit, is_late, .. } = self;
        let start = batch.len();
        // What a dump has found is no flood, and comes at its own pace.
        let admit = || {
            !limit.is_on()
                || *is_late
                || limit.admits(kind_of(change), &EventNote::of(0, change, connection), clock.now())
        };
        match encoder.connection(batch, clock, names, processes, (change, connection, time_ns), admit) {
            Written::Yes => {}
            Written::Excluded => {
                self.excluded.add(EventClass::of(change, connection));
                return;
            }
            // The limit has counted it.
            Written::Refused => return,
        }
        let note = EventNote::of(batch.len() - start, change, connection);
        if !streams.is_empty() {
            // Streams get the bytes that were written for the outputs: nothing is encoded twice.
            let line = batch.get(start..).unwrap_or_default();
            // Names of account and cgroup are looked up once, not for each stream.
            with_subject(connection, names, time_ns, |subject| {
                let subject = &Subject {
                    state: Some(change.state(connection)),
                    failed: change.is_failure(connection),
                    ..*subject
                };
                for same in streams.chunk_by_mut(|one, other| Arc::ptr_eq(&one.filter, &other.filter)) {
                    if same.first().is_some_and(|stream| stream.filter.matches(subject)) {
                        same.iter_mut().for_each(|stream| stream.push(line, &note, time_ns));
                    }
                }
            });
        }
        self.keep(start, note);
        // Here, so that a batch stays near its size whatever makes its events: records, a dump, the end of the daemon.
        if self.unflushed >= BATCH_BYTES {
            self.flush(clock);
        }
    }

    /// Publishes a loss, to all streams whatever their filter.
    pub(super) fn publish_loss(&mut self, clock: &Clock, loss: Loss<'_>) {
        let start = self.batch.len();
        self.encoder.loss(&mut self.batch, clock, loss);
        // A filter selects connections; what was lost may be any of them.
        self.keep_for_all(start, loss.to_ns);
    }

    /// Changes which events are left out, from now on.
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.encoder.set_rules(rules);
    }

    /// Changes the most events of a kind in a second; what was folded so far stays counted.
    pub(super) fn set_limit(&mut self, per_second: u32) {
        self.limit.set(per_second);
    }

    /// Returns the most events of a kind in a second; 0: no limit.
    pub(super) fn event_limit(&self) -> u32 {
        self.limit.per_second()
    }

    /// Adds an output; `Sensor Start` is its first event.
    pub(super) fn add_output(
        &mut self,
        clock: &Clock,
        sink: Box<dyn Sink>,
        beginning: &Beginning<'_>,
    ) -> Result<(), OutputError> {
        // What was made before it was there is not for it.
        self.flush(clock);
        let mut start = BytesMut::new();
        self.encoder.start(&mut start, clock, beginning);
        self.outputs.push(Output::start_later(sink, &Batch::of_daemon(start.freeze()))?);
        Ok(())
    }

    /// Ends the output at this place, with `Sensor Stop` as its last event.
    pub(super) fn remove_output(&mut self, clock: &Clock, index: usize, lost_records: u64) {
        self.flush(clock);
        if index >= self.outputs.len() {
            return;
        }
        let mut output = self.outputs.remove(index);
        let mut stop = BytesMut::new();
        self.encoder.stop(&mut stop, clock, (self.excluded.events, lost_records));
        output.send(&Batch::of_daemon(stop.freeze()));
        // Its thread writes what waits; the end of the daemon waits for it.
        self.closing.push(output.close());
    }

    /// Gives an output new limits, if it is a history.
    pub(super) fn limit_history(&self, limits: HistoryLimits) {
        self.outputs.iter().for_each(|output| output.limit_history(limits));
    }

    /// Returns the number of events made.
    pub(super) fn events(&self) -> u64 {
        self.encoder.count()
    }

    /// Returns the number of events that outputs have lost.
    pub(super) fn lost_by_outputs(&self) -> u64 {
        self.outputs.iter().map(Output::lost).map(|lost| lost.queue.events + lost.refused.events).sum()
    }

    /// Returns what the limit has folded since this was last called, by kind.
    pub(super) fn take_folded(&mut self) -> Vec<(EventKind, FoldedKind)> {
        self.limit.take_folded()
    }

    /// Publishes that a packet socket was opened, or (`is_end`) closed, unless a rule excludes it or the limit folds it: to the
    /// outputs, and to streams that select everything.
    pub(super) fn publish_packet_socket(
        &mut self,
        clock: &Clock,
        names: &mut Names,
        (socket, process): (&PacketSocket, Option<&Process>),
        is_end: bool,
    ) {
        if self.outputs.is_empty() && self.streams.is_empty() {
            return;
        }
        let Self { encoder, batch, streams, limit, .. } = self;
        let start = batch.len();
        let note = EventNote::of_packet_socket(0, &socket.owner);
        let admit = || !limit.is_on() || limit.admits(packet_socket::kind_of(is_end), &note, clock.now());
        match encoder.packet_socket(batch, clock, names, (socket, process), is_end, admit) {
            Written::Yes => {}
            Written::Excluded => {
                self.excluded.add(note.class);
                return;
            }
            Written::Refused => return,
        }
        let note = EventNote::of_packet_socket(batch.len() - start, &socket.owner);
        let line = batch.get(start..).unwrap_or_default();
        // Filters select connections, and this is none.
        for stream in streams.iter_mut().filter(|stream| stream.filter.is_everything()) {
            stream.push(line, &note, clock.now());
        }
        self.keep(start, note);
    }

    /// Publishes the end of the daemon, to all streams whatever their filter: what comes next, another daemon tells.
    pub(super) fn publish_stop(&mut self, clock: &Clock, lost_records: u64) {
        let start = self.batch.len();
        self.encoder.stop(&mut self.batch, clock, (self.excluded.events, lost_records));
        self.keep_for_all(start, clock.now());
    }

    /// Keeps the daemon's own event that begins at `start` for the outputs and for all streams; `now` in nanoseconds since boot.
    fn keep_for_all(&mut self, start: usize, now: u64) {
        let note = EventNote::of_daemon(self.batch.len() - start);
        for stream in &mut self.streams {
            stream.push(self.batch.get(start..).unwrap_or_default(), &note, now);
        }
        self.keep(start, note);
    }

    /// Keeps the event that begins at `start` for the outputs, if there are any.
    fn keep(&mut self, start: usize, note: EventNote) {
        self.unflushed += note.length as usize;
        if self.outputs.is_empty() {
            // Only streams wanted it, and they have copied it.
            self.batch.truncate(start);
        } else {
            self.batch_notes.push(note);
        }
    }

    /// Hands the batch to the outputs, and to each client its events. Nothing here blocks: full queues drop events and count
    /// them.
    pub(super) fn flush(&mut self, clock: &Clock) {
        self.unflushed = 0;
        if !self.batch.is_empty() {
            let batch = Batch { lines: self.batch.split().freeze(), notes: self.batch_notes.drain(..).collect() };
            // `Bytes` are counted references: all outputs share one copy.
            if self.is_late {
                self.outputs.iter_mut().for_each(|output| output.send_late(&batch));
            } else {
                self.outputs.iter_mut().for_each(|output| output.send(&batch));
            }
        }
        if self.streams.is_empty() {
            return;
        }
        let now = clock.now();
        let Self { encoder, streams, lost_by_clients, .. } = self;
        streams.retain_mut(|stream| {
            let is_there = stream.flush_and_report(now, |lost, from_ns| {
                *lost_by_clients += lost.events;
                let mut line = BytesMut::new();
                let loss =
                    Loss { connects: Some(connects(lost)), ..Loss::new(LossStage::Queue, lost.events, (from_ns, now)) };
                encoder.loss(&mut line, clock, loss);
                line
            });
            if !is_there {
                // The stream goes, and its count with it; the sum in the health report must not shrink.
                *lost_by_clients += stream.lost();
            }
            is_there
        });
    }

    /// Hands the batch over and begins one of events that could as well be published later (`true`), or ends it (`false`). Of those
    /// each output gets what it has room for.
    pub(super) fn set_late(&mut self, clock: &Clock, is_late: bool) {
        self.flush(clock);
        self.is_late = is_late;
    }

    /// Adds a client.
    pub(super) fn add_stream(&mut self, StreamRequest { filter, queue, is_root }: StreamRequest) {
        let mut stream = Stream::new(filter, queue, is_root, &self.stream_memory);
        // Most watch everything: one look at the filter is enough for all of them.
        let same = self.streams.iter().enumerate().find(|(_, other)| other.filter == stream.filter);
        let index = if let Some((index, other)) = same {
            stream.filter = Arc::clone(&other.filter);
            index
        } else {
            self.streams.len()
        };
        self.streams.insert(index, stream);
    }

    pub(super) fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Returns whether events should wait that need not be published now: an output has no room for them, and has had some within
    /// `patience`; or no output has had any.
    pub(super) fn is_held_up(&mut self, patience: Duration) -> bool {
        let now = Instant::now();
        let mut waits = false;
        for output in &mut self.outputs {
            // All are asked: each keeps its own time.
            waits |= output.holds_up(now, patience);
        }
        waits || self.is_behind()
    }

    /// Returns whether there are outputs, and none of them has had room for longer than [`Publisher::is_held_up`] waits.
    pub(super) fn is_behind(&self) -> bool {
        !self.outputs.is_empty() && self.outputs.iter().all(Output::is_behind)
    }

    /// Returns whether there are outputs, and the reader of each has gone.
    pub(super) fn has_no_reader(&self) -> bool {
        !self.outputs.is_empty() && self.outputs.iter().all(Output::is_gone)
    }

    /// Has events say from now on who this sensor is.
    pub(super) fn describe(&mut self, sensor: &Sensor) {
        self.encoder.describe(sensor);
    }

    /// Has events tell command lines as this redactor leaves them.
    pub(super) fn set_redactor(&mut self, redactor: Arc<Redactor>) {
        self.encoder.set_redactor(redactor);
        // They hold texts of an earlier one.
        self.processes = ProcessMembers::default();
    }

    /// Opens the files of the outputs again, for log rotation.
    pub(super) fn reopen(&self) {
        self.outputs.iter().for_each(Output::reopen);
    }

    /// Adds what is known of events, outputs and clients to a health report.
    pub(super) fn report(&self, health: &mut Health) {
        health.events = self.encoder.count();
        health.excluded_events = untold(self.excluded);
        health.folded_events = untold(self.limit.total());
        health.clients = self.streams.len();
        health.lost_events.clients = self.lost_by_clients + self.streams.iter().map(Stream::lost).sum::<u64>();
        self.outputs.iter().for_each(|output| output.report(health));
    }

    /// Hands everything over and waits until each output has written it. An output is given up when it has written nothing for
    /// [`STUCK`], or when `deadline` has come, but not sooner than [`STUCK`] after the last batch was handed over; the others are
    /// still waited for.
    pub(super) fn drain(&mut self, clock: &Clock, deadline: Instant) {
        self.flush(clock);
        // What came before may have used up the time. An output that has just got its batch must have time to write it.
        let deadline = deadline.max(Instant::now() + STUCK);
        loop {
            let now = Instant::now();
            let mut is_waiting = false;
            for output in &mut self.outputs {
                if output.given_up().is_some() || output.waiting().events == 0 {
                    continue;
                }
                // Each has its own time, so that one that is stuck takes none from those that write.
                if output.is_stuck(now, STUCK) || now >= deadline {
                    output.give_up();
                } else {
                    is_waiting = true;
                }
            }
            if !is_waiting {
                break;
            }
            thread::sleep(POLL);
        }
        // What they have not written is counted before it is told. A thread that a disk holds up counts nothing: `Output::waiting`
        // stands for it.
        let settled = Instant::now() + SETTLE;
        let is_counting = |output: &Output| output.given_up().is_some() && output.waiting().events != 0;
        while self.outputs.iter().any(is_counting) && Instant::now() < settled {
            thread::sleep(POLL);
        }
        for output in &self.outputs {
            if let Some(lost) = output.given_up() {
                error!("{} took too long: its last events, {lost} in number, are not written", output.destination());
            }
        }
    }

    /// Ends the streams and closes the outputs, which write what waits until `deadline`.
    pub(super) fn close(&mut self, deadline: Instant) {
        // Dropping a stream closes its channel, which ends the answer to the client.
        self.streams.clear();
        // All are closed before the first is waited for, which may be stuck: the others end meanwhile.
        let mut closing = std::mem::take(&mut self.closing);
        closing.extend(self.outputs.drain(..).map(Output::close));
        for output in closing {
            match (output.wait(deadline), output.is_given_up) {
                (0, _) => {}
                (left, true) => {
                    error!("{}: the {left} events that tell of it are not written either", output.destination);
                }
                (left, false) => {
                    error!("{} took too long: its last events, {left} in number, are not written", output.destination);
                }
            }
        }
    }
}

fn untold(EventCounts { events, outgoing, incoming }: EventCounts) -> UntoldCounts {
    UntoldCounts { events, outgoing, incoming }
}

/// Returns the attempts and accepted connections among lost events.
pub(super) fn connects(lost: EventCounts) -> LostConnects {
    let EventCounts { outgoing, incoming, .. } = lost;
    LostConnects { outgoing, incoming }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use netconn_common::UdpSocketRecord;
    use netconn_model::{config::Config, event::Sensor, filter::Filter};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{process::lookup::Lookup, rules::Rules, sink, store::HistoryTiming};

    #[test]
    fn clients_with_equal_filters_share_one() {
        let sensor =
            Sensor { id: "s".into(), host: "h".into(), site: None, source: "netconn".into(), boot: "0".repeat(32) };
        let mut publisher = Publisher::new(EventEncoder::new(&sensor, 1), Vec::new());
        // Equal as sets, however they were written.
        for text in ["443,80", "53", "80-80,443", "53", "443", "80,443,443"] {
            let filter = Filter::parse([("port", text)]).unwrap();
            let queue = mpsc::channel(1).0;
            publisher.add_stream(StreamRequest { filter: Arc::new(filter), queue, is_root: true });
        }
        let groups = publisher.streams.chunk_by(|one, other| Arc::ptr_eq(&one.filter, &other.filter));
        assert_eq!(groups.map(<[Stream]>::len).collect::<Vec<_>>(), [3, 2, 1]);
    }

    #[test]
    fn rules_and_the_limit_are_for_packet_sockets_too() {
        let sensor =
            Sensor { id: "s".into(), host: "h".into(), site: None, source: "netconn".into(), boot: "0".repeat(32) };
        let (clock, mut names) = (Clock::new(), Names::new(Lookup::start(|| ()).unwrap()));
        let socket = PacketSocket {
            family: netconn_common::AF_PACKET,
            protocol: Some(3),
            device: Some(0),
            interface: None,
            namespace: 1,
            inode: 77,
            owner: netconn_common::Owner { tgid: 7, ..Default::default() },
        };
        let rule = "packet.inode = 77 and endpoint.os = 'linux'";
        for (rules, per_second) in [(vec![], 0), (vec![rule.to_owned()], 0), (vec![], 70)] {
            let mut encoder = EventEncoder::new(&sensor, 1);
            encoder.set_rules(Rules::compile(&rules).unwrap());
            let mut publisher = Publisher::new(encoder, Vec::new()).limited(per_second);
            let (queue, mut client) = mpsc::channel(100);
            publisher.add_stream(StreamRequest { filter: Arc::default(), queue, is_root: true });
            (0..200).for_each(|_| publisher.publish_packet_socket(&clock, &mut names, (&socket, None), false));
            publisher.flush(&clock);
            let mut told = 0;
            while let Ok(batch) = client.try_recv() {
                told += batch.iter().filter(|byte| **byte == b'\n').count() as u64;
            }
            let (excluded, folded) = (publisher.excluded.events, publisher.limit.total().events);
            assert_eq!((told + excluded + folded, told), (200, publisher.encoder.count()));
            assert_eq!((excluded, folded != 0), (if rules.is_empty() { 0 } else { 200 }, per_second != 0));
        }
    }

    #[test]
    fn an_output_has_time_for_its_last_batch_though_the_deadline_is_over() {
        let sensor =
            Sensor { id: "s".into(), host: "h".into(), site: None, source: "netconn".into(), boot: "0".repeat(32) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        assert!(nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).is_ok());
        let config = Config { events: vec![path.clone()], history: false, ..Config::default() };
        let first = Batch { lines: "first\n".into(), notes: Arc::new([EventNote::of_daemon(6)]) };
        let outputs = sink::open(&config, HistoryTiming::FAST, &first).unwrap();
        let mut publisher = Publisher::new(EventEncoder::new(&sensor, 1), outputs);
        let clock = Clock::new();
        let mut names = Names::new(Lookup::start(|| ()).unwrap());
        let connection = Connection::from_udp_socket(&UdpSocketRecord::zeroed(), None);
        // Far more than the pipe holds, so that most of it waits when `drain` looks for the first time.
        (0..2000).for_each(|_| publisher.publish(&clock, &mut names, (Change::Listen, &connection, 1)));
        let reading = thread::spawn(move || {
            thread::sleep(STUCK / 6);
            std::fs::read_to_string(path).unwrap().lines().count()
        });
        publisher.drain(&clock, Instant::now());
        assert_eq!(publisher.outputs[0].given_up(), None);
        publisher.close(Instant::now() + STUCK);
        assert_eq!(reading.join().unwrap(), 1 + 2000);
    }

    #[test]
    fn streams_get_their_events_without_outputs() {
        let sensor =
            Sensor { id: "s".into(), host: "h".into(), site: None, source: "netconn".into(), boot: "0".repeat(32) };
        let mut publisher = Publisher::new(EventEncoder::new(&sensor, 1), Vec::new());
        let (queue, mut client) = mpsc::channel(4);
        publisher.add_stream(StreamRequest { filter: Arc::default(), queue, is_root: true });
        let clock = Clock::new();
        let mut names = Names::new(Lookup::start(|| ()).unwrap());
        let connection = Connection::from_udp_socket(&UdpSocketRecord::zeroed(), None);
        // Without a flush from outside: records can come so fast that there is none for a long time.
        while publisher.unflushed + 2000 < BATCH_BYTES {
            publisher.publish(&clock, &mut names, (Change::Listen, &connection, 1));
            assert!(client.try_recv().is_err());
        }
        (0..10).for_each(|_| publisher.publish(&clock, &mut names, (Change::Listen, &connection, 1)));
        let batch = client.try_recv().unwrap();
        assert!((BATCH_BYTES..BATCH_BYTES + 2000).contains(&batch.len()), "{}", batch.len());
    }
}
