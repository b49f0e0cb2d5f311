//! Telling of what happened: to the outputs, and to the clients that listen.

use bytes::BytesMut;
use netconn_model::health::LossStage;

use crate::{
    clock::Clock,
    encode::{
        event::{EventEncoder, Loss},
        subject::with_subject,
    },
    names::Names,
    sink::{Batch, Output, Stream},
    table::{Change, Connection, past::Past},
};

/// Encodes events, each once, and keeps them until they are handed over.
pub(super) struct Telling {
    pub(super) clock: Clock,
    /// What has ended lately.
    pub(super) past: Past,
    /// Flows that have ended lately: apart, because they are many and must not push connections out.
    pub(super) past_flows: Past,
    pub(super) directory: Names,
    pub(super) encoder: EventEncoder,
    /// Events for the outputs.
    batch: BytesMut,
    batch_events: u64,
    /// The earliest time among them, epoch milliseconds.
    batch_earliest: i64,
    /// Without outputs and clients nothing is encoded.
    has_outputs: bool,
    pub(super) streams: Vec<Stream>,
    /// Events that clients missed which have been told so, or have gone.
    lost_by_clients: u64,
}

impl Telling {
    pub(super) fn new(clock: Clock, directory: Names, encoder: EventEncoder, has_outputs: bool) -> Self {
        let batch = BytesMut::new();
        let streams = Vec::new();
        Self {
            clock,
            past: Past::default(),
            past_flows: Past::default(),
            directory,
            encoder,
            batch,
            batch_events: 0,
            batch_earliest: i64::MAX,
            has_outputs,
            streams,
            lost_by_clients: 0,
        }
    }

    /// Events that clients were too slow for.
    pub(super) fn lost_by_clients(&self) -> u64 {
        self.lost_by_clients + self.streams.iter().map(Stream::lost).sum::<u64>()
    }

    /// Bytes that wait to be handed over.
    pub(super) fn waiting(&self) -> usize {
        self.batch.len()
    }

    /// Tells what happened to a connection to everybody who wants to know.
    pub(super) fn tell(&mut self, change: Change, connection: &Connection, time_ns: u64) {
        let past = if connection.is_flow() { &mut self.past_flows } else { &mut self.past };
        past.tell(change, connection, time_ns);
        if !self.has_outputs && self.streams.is_empty() {
            return;
        }
        let Self { clock, directory, encoder, batch, streams, .. } = self;
        let start = batch.len();
        encoder.connection(batch, clock, directory, (change, connection, time_ns));
        if !streams.is_empty() {
            let line = batch.get(start..).unwrap_or_default();
            with_subject(connection, directory, time_ns, |subject| {
                for stream in streams.iter_mut().filter(|stream| stream.filter.matches(subject)) {
                    stream.push(line, time_ns);
                }
            });
        }
        self.keep(start, time_ns);
    }

    /// Tells everybody that something was lost.
    pub(super) fn lose(&mut self, loss: Loss<'_>) {
        let start = self.batch.len();
        self.encoder.loss(&mut self.batch, &mut self.clock, loss);
        for stream in &mut self.streams {
            stream.push(self.batch.get(start..).unwrap_or_default(), loss.to_ns);
        }
        self.keep(start, loss.to_ns);
    }

    /// Tells that the daemon ends.
    pub(super) fn stop(&mut self, records_lost: u64) {
        let start = self.batch.len();
        let now = self.clock.now();
        self.encoder.stop(&mut self.batch, &mut self.clock, records_lost);
        self.keep(start, now);
    }

    /// The event that begins at `start` and is of this time is for the outputs, if there are any.
    fn keep(&mut self, start: usize, time_ns: u64) {
        if self.has_outputs {
            self.batch_events += 1;
            self.batch_earliest = self.batch_earliest.min(self.clock.epoch_ms(time_ns));
        } else {
            self.batch.truncate(start);
        }
    }

    /// Hands the events over to the outputs and clients.
    pub(super) fn hand_over(&mut self, outputs: &[Output]) {
        if !self.batch.is_empty() {
            let batch = Batch {
                lines: self.batch.split().freeze(),
                events: std::mem::take(&mut self.batch_events),
                earliest: std::mem::replace(&mut self.batch_earliest, i64::MAX),
            };
            for output in outputs {
                output.send(&batch);
            }
        }
        if self.streams.is_empty() {
            return;
        }
        let now = self.clock.now();
        let Self { encoder, clock, streams, lost_by_clients, .. } = self;
        streams.retain_mut(|stream| {
            if let Some((count, from_ns)) = stream.take_lost() {
                *lost_by_clients += count;
                let mut line = BytesMut::new();
                encoder.loss(
                    &mut line,
                    clock,
                    Loss { stage: LossStage::Queue.name(), output: None, count, kernel: None, from_ns, to_ns: now },
                );
                stream.push(&line, now);
            }
            let is_there = stream.flush(now);
            if !is_there {
                *lost_by_clients += stream.lost();
            }
            is_there
        });
    }
}
