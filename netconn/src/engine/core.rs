//! Everything that a record of the kernel changes.

use bytes::BytesMut;
use netconn_common::TcpRecord;

use crate::{
    encode::{event::Sensor, row::row},
    engine::{
        Rows, RowsRequest,
        telling::{Telling, with_subject},
    },
    kernel::decode::{Record, decode},
    process::Processes,
    table::{Connection, Table},
};

/// Rows of one part of a snapshot: well below a millisecond of the engine's time.
const ROWS_AT_ONCE: usize = 1000;

/// What is known, and how it is told.
pub(super) struct Core {
    pub(super) processes: Processes,
    pub(super) table: Table,
    pub(super) telling: Telling,
    pub(super) sensor: Sensor,
    /// Records received.
    pub(super) records: u64,
    /// Records of an unknown kind.
    pub(super) unknown_records: u64,
    /// Whether the table holds everything that the kernel has.
    pub(super) complete: bool,
}

impl Core {
    /// Handles a record of the ring.
    pub(super) fn handle(&mut self, data: &[u8]) {
        self.records += 1;
        let Self { processes, table, telling, .. } = self;
        match decode(data) {
            Some(Record::Tcp(record)) => table.apply(
                record,
                |owner| processes.of(owner),
                |change, connection, time_ns| telling.tell(change, connection, time_ns),
            ),
            Some(Record::Exec(record, path, arguments)) => processes.exec(record, path, arguments),
            Some(Record::Fork(record)) => processes.fork(record),
            Some(Record::Exit(record)) => processes.exit(record),
            Some(Record::Cgroup(record, path)) => telling.directory.add_cgroup(record.id, path),
            None => self.unknown_records += 1,
        }
    }

    /// Takes a dump of all sockets, see [`Table::end_dump`].
    pub(super) fn end_dump(&mut self, dump: Vec<TcpRecord>, is_covered: impl Fn(&Connection) -> bool) {
        let Self { processes, table, telling, .. } = self;
        table.end_dump(
            dump,
            is_covered,
            |owner| processes.of(owner),
            |change, connection, time_ns| telling.tell(change, connection, time_ns),
        );
    }

    /// A part of a snapshot.
    pub(super) fn rows(&mut self, request: &RowsRequest) -> Rows {
        let mut out = BytesMut::new();
        let Self { table, telling: Telling { clock, directory, .. }, sensor, .. } = self;
        let now = clock.now();
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
