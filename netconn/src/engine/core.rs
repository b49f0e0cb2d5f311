//! Everything that a record of the kernel changes.

use std::time::{Duration, Instant};

use netconn_common::{FileRecord, TcpRecord};
use netconn_model::event::{Failure, Outcome};

use crate::{
    encode::event::Sensor,
    engine::{telling::Telling, unsent::Unsent},
    kernel::{
        decode::{Record, decode},
        flows::FlowMaps,
    },
    process::Processes,
    table::{Change, Connection, Covered, Table, failure_of, flows::Flows},
};

/// What is known, and how it is told.
pub(super) struct Core {
    pub(super) processes: Processes,
    pub(super) table: Table,
    pub(super) flows: Flows,
    pub(super) maps: FlowMaps,
    pub(super) telling: Telling,
    pub(super) unsent: Unsent,
    pub(super) sensor: Sensor,
    /// First half of the boot id.
    pub(super) boot: String,
    /// Records received.
    pub(super) records: u64,
    /// Records of sockets for which the kernel had no memory to keep anything.
    pub(super) without_memory: u64,
    /// Records of an unknown kind.
    pub(super) unknown_records: u64,
    /// Whether the table holds everything that the kernel has.
    pub(super) complete: bool,
    /// Whether the log says that flows are folded.
    pub(super) says_folded: bool,
}

impl Core {
    /// Handles a record of the ring.
    pub(super) fn handle(&mut self, data: &[u8]) {
        self.records += 1;
        let Self { processes, table, telling, unsent, .. } = self;
        match decode(data) {
            Some(Record::Tcp(record)) => {
                self.without_memory += u64::from(record.state.generation == 0);
                table.apply(
                    record,
                    |owner| processes.of(owner),
                    |change, connection, time_ns| telling.tell(change, connection, time_ns),
                );
            }
            Some(Record::Owner(record)) => self.own(record),
            Some(Record::Flow(record)) => self.begin_flow(record),
            Some(Record::Bound(record)) => self.bound(record),
            Some(Record::Released(record)) => self.released(record),
            Some(Record::Unsent(record)) => {
                let attempt = table.unsent(
                    record,
                    |owner| processes.of(owner),
                    |change, connection, time_ns| telling.tell(change, connection, time_ns),
                );
                if let Some(attempt) = attempt.and_then(|attempt| unsent.ask(attempt, record)) {
                    fail(telling, &attempt, None);
                }
            }
            Some(Record::Exec(record, path, arguments)) => processes.exec(record, path, arguments),
            Some(Record::Fork(record)) => processes.fork(record),
            Some(Record::Exit(record)) => processes.exit(record),
            Some(Record::Cgroup(record, path)) => telling.directory.add_cgroup(record.id, path),
            None => self.unknown_records += 1,
        }
    }

    /// Tells of the attempts whose reason is known by now, or within `patience`.
    pub(super) fn take_answers(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while let Some((attempt, errno)) = self.unsent.answered(until.saturating_duration_since(Instant::now())) {
            fail(&mut self.telling, &attempt, errno);
        }
    }

    /// Tells everything that waits for something, as far as it is known: the daemon ends.
    pub(super) fn tell_all(&mut self) {
        let Self { table, flows, telling, unsent, .. } = self;
        for attempt in unsent.rest() {
            fail(telling, &attempt, None);
        }
        let now = telling.clock.now();
        table.announce_all(now, |change, connection, time_ns| telling.tell(change, connection, time_ns));
        table.announce_found(usize::MAX, now, |change, connection, time_ns| telling.tell(change, connection, time_ns));
        flows.announce_all(now, |change, connection, time_ns| telling.tell(change, connection, time_ns));
    }

    /// Announces the accepted connections that have waited long enough; whether there were any.
    pub(super) fn announce_overdue(&mut self, now: u64) -> bool {
        let Self { table, telling, .. } = self;
        let mut any = false;
        table.announce_overdue(now, |change, connection, time_ns| {
            any = true;
            telling.tell(change, connection, time_ns);
        });
        any
    }

    /// Takes what a look through open files found, also for the sockets of processes that have ended.
    pub(super) fn found(&mut self, files: &[FileRecord], ended: &[(u32, u64)], now: u64) {
        let Self { processes, table, telling, .. } = self;
        for file in files {
            table.found(
                file,
                ended,
                now,
                |owner| processes.of(owner),
                |change, connection, time_ns| telling.tell(change, connection, time_ns),
            );
        }
    }

    /// Takes a dump of all sockets, see [`Table::end_dump`].
    pub(super) fn end_dump(&mut self, dump: Vec<TcpRecord>, covered: &Covered) {
        let Self { processes, table, telling, .. } = self;
        table.end_dump(
            dump,
            covered,
            |owner| processes.of(owner),
            |change, connection, time_ns| telling.tell(change, connection, time_ns),
        );
    }
}

/// Tells that an attempt failed before anything was sent, for a reason that may be unknown.
fn fail(telling: &mut Telling, attempt: &Connection, errno: Option<u32>) {
    let failure = errno.and_then(failure_of).unwrap_or(Failure::Other);
    let outcome = Outcome::Failure(failure, errno.unwrap_or(0));
    telling.tell(Change::Connect(outcome), attempt, attempt.born_ns);
}
