//! Telling of what happened: to the outputs, and to the clients that listen.

use bytes::BytesMut;

use crate::{
    clock::Clock,
    directory::Directory,
    encode::{
        event::{EventEncoder, Loss},
        subject::with_subject,
    },
    sink::{Output, Stream},
    table::{Change, Connection},
};

/// Encodes events, each once, and keeps them until they are handed over.
pub(super) struct Telling {
    pub(super) clock: Clock,
    pub(super) directory: Directory,
    pub(super) encoder: EventEncoder,
    /// Events for the outputs.
    batch: BytesMut,
    batch_events: u64,
    /// Without outputs and clients nothing is encoded.
    has_outputs: bool,
    pub(super) streams: Vec<Stream>,
}

impl Telling {
    pub(super) fn new(clock: Clock, directory: Directory, encoder: EventEncoder, has_outputs: bool) -> Self {
        Self { clock, directory, encoder, batch: BytesMut::new(), batch_events: 0, has_outputs, streams: Vec::new() }
    }

    /// Bytes that wait to be handed over.
    pub(super) fn waiting(&self) -> usize {
        self.batch.len()
    }

    /// Tells what happened to a connection to everybody who wants to know.
    pub(super) fn tell(&mut self, change: Change, connection: &Connection, time_ns: u64) {
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
        self.keep(start);
    }

    /// Tells everybody that something was lost.
    pub(super) fn lose(&mut self, loss: Loss) {
        let start = self.batch.len();
        self.encoder.loss(&mut self.batch, &mut self.clock, loss);
        for stream in &mut self.streams {
            stream.push(self.batch.get(start..).unwrap_or_default(), loss.to_ns);
        }
        self.keep(start);
    }

    /// Tells that the daemon ends.
    pub(super) fn stop(&mut self, records_lost: u64) {
        let start = self.batch.len();
        self.encoder.stop(&mut self.batch, &mut self.clock, records_lost);
        self.keep(start);
    }

    /// The event that begins at `start` is for the outputs, if there are any.
    fn keep(&mut self, start: usize) {
        if self.has_outputs {
            self.batch_events += 1;
        } else {
            self.batch.truncate(start);
        }
    }

    /// Hands the events over to the outputs and clients.
    pub(super) fn hand_over(&mut self, outputs: &[Output]) {
        if !self.batch.is_empty() {
            let lines = self.batch.split().freeze();
            let events = std::mem::take(&mut self.batch_events);
            for output in outputs {
                output.send(&lines, events);
            }
        }
        if self.streams.is_empty() {
            return;
        }
        let now = self.clock.now();
        let Self { encoder, clock, streams, .. } = self;
        streams.retain_mut(|stream| {
            if let Some((count, from_ns)) = stream.take_lost() {
                let mut line = BytesMut::new();
                encoder.loss(&mut line, clock, Loss { stage: "queue", count, from_ns, to_ns: now });
                stream.push(&line, now);
            }
            stream.flush(now)
        });
    }
}
