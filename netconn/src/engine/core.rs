//! Everything that a record of the kernel changes, and what is made of it.

use bytes::BytesMut;
use netconn_common::TcpRecord;

use crate::{
    clock::Clock,
    directory::Directory,
    encode::{
        event::{EventEncoder, Loss, Sensor},
        row::row,
    },
    engine::{Rows, RowsRequest},
    event::filter::Subject,
    kernel::decode::{Record, decode},
    process::{Processes, comm},
    sink::{Output, Stream},
    table::{Connection, Table},
};

/// Rows of one part of a snapshot: well below a millisecond of the engine's time.
const ROWS_AT_ONCE: usize = 1000;

/// Everything that a record changes.
pub(super) struct Core {
    pub(super) clock: Clock,
    pub(super) processes: Processes,
    pub(super) directory: Directory,
    pub(super) table: Table,
    pub(super) encoder: EventEncoder,
    pub(super) sensor: Sensor,
    /// Events for the outputs.
    pub(super) batch: BytesMut,
    pub(super) batch_events: u64,
    /// Whether anybody writes events: without outputs and clients none are encoded.
    pub(super) has_outputs: bool,
    pub(super) streams: Vec<Stream>,
    pub(super) records: u64,
    pub(super) unknown_records: u64,
}

impl Core {
    pub(super) fn handle(&mut self, data: &[u8]) {
        self.records += 1;
        match decode(data) {
            Some(Record::Tcp(record)) => self.tcp(record),
            Some(Record::Exec(record, path, arguments)) => self.processes.exec(record, path, arguments),
            Some(Record::Fork(record)) => self.processes.fork(record),
            Some(Record::Exit(record)) => self.processes.exit(record),
            Some(Record::Cgroup(record, path)) => self.directory.add_cgroup(record.id, path),
            None => self.unknown_records += 1,
        }
    }

    fn tcp(&mut self, record: &TcpRecord) {
        let Self { clock, processes, directory, table, encoder, batch, batch_events, has_outputs, streams, .. } = self;
        table.apply(
            record,
            |owner| processes.of(owner),
            |change, connection, time_ns| {
                if !*has_outputs && streams.is_empty() {
                    return;
                }
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
                if *has_outputs {
                    *batch_events += 1;
                } else {
                    batch.truncate(start);
                }
            },
        );
    }

    /// Writes a loss to everybody.
    pub(super) fn lose(&mut self, loss: Loss) {
        let start = self.batch.len();
        self.encoder.loss(&mut self.batch, &mut self.clock, loss);
        for stream in &mut self.streams {
            stream.push(self.batch.get(start..).unwrap_or_default(), loss.to_ns);
        }
        if self.has_outputs { self.batch_events += 1 } else { self.batch.truncate(start) }
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

    pub(super) fn rows(&mut self, request: &RowsRequest) -> Rows {
        let mut out = BytesMut::new();
        let now = self.clock.now();
        let Self { clock, directory, table, sensor, .. } = self;
        let boot = sensor.boot.get(..16).unwrap_or(&sensor.boot);
        for (count, (slot, connection)) in table.from_slot(request.slot).enumerate() {
            if count == ROWS_AT_ONCE {
                return Rows { lines: out.freeze(), next: Some(slot) };
            }
            if with_subject(connection, directory, now, |subject| request.filter.matches(subject)) {
                row(&mut out, clock, directory, boot, connection);
                out.extend_from_slice(b"\n");
            }
        }
        Rows { lines: out.freeze(), next: None }
    }
}

/// Shows a connection to a filter, with the names that the directory knows.
fn with_subject<T>(
    connection: &Connection,
    directory: &mut Directory,
    now: u64,
    look: impl FnOnce(&Subject<'_>) -> T,
) -> T {
    let user = directory.user(connection.owner.uid, now);
    let cgroup = directory.cgroup(&connection.owner);
    let name = comm(&connection.owner.comm);
    let mut subject = connection.subject();
    if connection.owner.tgid != 0 {
        subject.process = Some(&name);
        subject.user = user.as_deref();
        subject.container = cgroup.as_ref().and_then(|cgroup| cgroup.container.as_deref());
        subject.unit = cgroup.as_ref().and_then(|cgroup| cgroup.unit.as_deref());
    }
    look(&subject)
}
