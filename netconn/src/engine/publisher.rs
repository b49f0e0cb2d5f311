//! Events on their way out: encoded once, gathered in a batch, handed to the outputs and to the clients that listen.

use std::time::Instant;

use bytes::BytesMut;
use netconn_model::{fact::LossStage, health::Health};
use tracing::{error, warn};

use crate::{
    clock::Clock,
    encode::{
        event::{EventEncoder, Loss, ProcessMembers},
        subject::with_subject,
    },
    names::Names,
    sink::{Batch, Output, Stream},
    table::{Change, Connection},
};

/// Bytes of events that make a full batch.
const BATCH_BYTES: usize = 64 << 10;

/// Encodes events and hands them to outputs and streams.
pub(super) struct Publisher {
    encoder: EventEncoder,
    /// What was written of processes lately.
    processes: ProcessMembers,
    outputs: Vec<Output>,
    /// Clients of the socket that listen to events.
    streams: Vec<Stream>,
    /// Encoded events for the outputs.
    batch: BytesMut,
    batch_events: u64,
    /// The earliest time among them, epoch milliseconds.
    batch_earliest: i64,
    /// Events missed by clients that have gone, or that have received a `Data Loss` event for them.
    lost_by_clients: u64,
}

impl Publisher {
    pub(super) fn new(encoder: EventEncoder, outputs: Vec<Output>) -> Self {
        Self {
            encoder,
            processes: ProcessMembers::default(),
            outputs,
            streams: Vec::new(),
            batch: BytesMut::new(),
            batch_events: 0,
            batch_earliest: i64::MAX,
            lost_by_clients: 0,
        }
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
        let Self { encoder, processes, batch, streams, .. } = self;
        let start = batch.len();
        encoder.connection(batch, clock, names, processes, (change, connection, time_ns));
        if !streams.is_empty() {
            // Streams get the bytes that were written for the outputs: nothing is encoded twice.
            let line = batch.get(start..).unwrap_or_default();
            // Names of account and cgroup are looked up once, not for each stream.
            with_subject(connection, names, time_ns, |subject| {
                for stream in streams.iter_mut().filter(|stream| stream.filter.matches(subject)) {
                    stream.push(line, time_ns);
                }
            });
        }
        self.keep(start, clock.epoch_ms(time_ns));
    }

    /// Publishes a loss, to all streams whatever their filter.
    pub(super) fn publish_loss(&mut self, clock: &Clock, loss: Loss<'_>) {
        let start = self.batch.len();
        self.encoder.loss(&mut self.batch, clock, loss);
        // A filter selects connections; what was lost may be any of them.
        for stream in &mut self.streams {
            stream.push(self.batch.get(start..).unwrap_or_default(), loss.to_ns);
        }
        self.keep(start, clock.epoch_ms(loss.to_ns));
    }

    /// Publishes the end of the daemon, to the outputs only.
    pub(super) fn publish_stop(&mut self, clock: &Clock, lost_records: u64) {
        let start = self.batch.len();
        let now = clock.now();
        self.encoder.stop(&mut self.batch, clock, lost_records);
        self.keep(start, clock.epoch_ms(now));
    }

    /// Keeps the event that begins at `start` for the outputs, if there are any.
    fn keep(&mut self, start: usize, time_ms: i64) {
        if self.outputs.is_empty() {
            // Only streams wanted it, and they have copied it.
            self.batch.truncate(start);
        } else {
            self.batch_events += 1;
            self.batch_earliest = self.batch_earliest.min(time_ms);
        }
    }

    /// Hands the batch over if it is full.
    pub(super) fn flush_if_full(&mut self, clock: &Clock) {
        if self.batch.len() >= BATCH_BYTES {
            self.flush(clock);
        }
    }

    /// Hands the batch to the outputs, and to each client its events. Nothing here blocks: full queues drop events and count
    /// them.
    pub(super) fn flush(&mut self, clock: &Clock) {
        if !self.batch.is_empty() {
            let batch = Batch {
                lines: self.batch.split().freeze(),
                events: std::mem::take(&mut self.batch_events),
                earliest: std::mem::replace(&mut self.batch_earliest, i64::MAX),
            };
            // `Bytes` are counted references: all outputs share one copy.
            self.outputs.iter().for_each(|output| output.send(&batch));
        }
        if self.streams.is_empty() {
            return;
        }
        let now = clock.now();
        let Self { encoder, streams, lost_by_clients, .. } = self;
        streams.retain_mut(|stream| {
            let is_there = stream.flush_and_report(now, |count, from_ns| {
                *lost_by_clients += count;
                let mut line = BytesMut::new();
                let stage = LossStage::Queue;
                let loss = Loss { stage, output: None, count, kernel: None, from_ns, to_ns: now };
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

    /// Adds a client.
    pub(super) fn add_stream(&mut self, stream: Stream) {
        self.streams.push(stream);
    }

    pub(super) fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Returns whether the outputs keep up, so that events may be published that need not be published now.
    pub(super) fn has_room(&self) -> bool {
        self.outputs.iter().all(Output::has_room)
    }

    /// Returns whether an output asks for the end of the daemon: the reader of standard output has gone.
    pub(super) fn ends_daemon(&self) -> bool {
        self.outputs.iter().any(Output::ends_daemon)
    }

    /// Opens the files of the outputs again, for log rotation.
    pub(super) fn reopen(&self) {
        for output in self.outputs.iter().filter(|output| !output.reopen()) {
            warn!("too much waits for {}: send SIGHUP again to open it anew", output.destination());
        }
    }

    /// Adds what is known of events, outputs and clients to a health report.
    pub(super) fn report(&self, health: &mut Health) {
        health.events = self.encoder.count();
        health.clients = self.streams.len();
        health.lost_events.clients = self.lost_by_clients + self.streams.iter().map(Stream::lost).sum::<u64>();
        self.outputs.iter().for_each(|output| output.report(health));
    }

    /// Ends the streams and closes the outputs, which write what waits until `deadline`.
    pub(super) fn close(&mut self, deadline: Instant) {
        // Dropping a stream closes its channel, which ends the answer to the client.
        self.streams.clear();
        // All share one deadline, so that several slow outputs delay the end of the daemon no more than one.
        for output in self.outputs.drain(..) {
            let destination = output.destination().to_owned();
            if !output.finish(deadline) {
                error!("{destination} took too long: its last events are not written");
            }
        }
    }
}
