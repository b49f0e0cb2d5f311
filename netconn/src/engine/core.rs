//! Everything that a record of the kernel changes.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use netconn_common::{FileRecord, Flow, FlowKey, Owner};
use netconn_model::event::{Failure, Outcome};

use crate::{
    encode::event::Sensor,
    engine::{telling::Telling, unsent::Unsent},
    kernel::{
        decode::{Record, decode},
        flows::FlowMaps,
    },
    process::{Process, Processes},
    table::{Change, Connection, Effects, Table, failure_of, flows::Flows},
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
        let Self { processes, table, flows, maps, telling, unsent, .. } = self;
        let mut effects = Reporter { processes, maps, telling };
        match decode(data) {
            Some(Record::Tcp(record)) => {
                self.without_memory += u64::from(record.state.generation == 0);
                table.apply(record, &mut effects);
            }
            Some(Record::Owner(record)) => {
                // Generation 0: a UDP socket, which has one life only, or a TCP socket for which there was no memory.
                if record.generation != 0 || !flows.apply_owner(record, &mut effects) {
                    table.apply_owner(record, &mut effects);
                }
            }
            Some(Record::Flow(record)) => {
                flows.apply_flow(record, &mut effects);
                self.fold();
            }
            Some(Record::UdpSocket(record)) => flows.apply_socket(record, &mut effects),
            Some(Record::Released(record)) => flows.apply_close(record, &mut effects),
            Some(Record::Unsent(record)) => {
                let attempt = table.apply_unsent(record, &mut effects);
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

    /// Returns the tables, and the effects that they have.
    pub(super) fn tables(&mut self) -> (&mut Table, &mut Flows, Reporter<'_>) {
        let Self { processes, table, flows, maps, telling, .. } = self;
        (table, flows, Reporter { processes, maps, telling })
    }

    /// Tells of the attempts whose reason is known by now, or within `patience`.
    pub(super) fn take_answers(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while let Some((attempt, errno)) = self.unsent.answered(until.saturating_duration_since(Instant::now())) {
            fail(&mut self.telling, &attempt, errno);
        }
    }

    /// Reports everything that waits for something, as far as it is known: the daemon ends.
    pub(super) fn tell_all(&mut self) {
        for attempt in self.unsent.rest() {
            fail(&mut self.telling, &attempt, None);
        }
        let now = self.telling.clock.now();
        let (table, flows, mut effects) = self.tables();
        table.announce_all(now, &mut effects);
        flows.announce_all(now, &mut effects);
    }

    /// Takes what a scan of open files has found, also for the sockets of processes that have ended.
    pub(super) fn apply_files(&mut self, files: &[FileRecord], ended: &[(u32, u64)], now: u64) {
        let (table, _, mut effects) = self.tables();
        for file in files {
            table.apply_file(file, ended, now, &mut effects);
        }
    }
}

/// The effects of the tables in the daemon.
pub(super) struct Reporter<'a> {
    processes: &'a Processes,
    maps: &'a FlowMaps,
    telling: &'a mut Telling,
}

impl Effects for Reporter<'_> {
    fn process(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.processes.of(owner)
    }

    fn take_flow(&mut self, key: &FlowKey) -> Option<Flow> {
        self.maps.take(key)
    }

    fn emit(&mut self, change: Change, connection: &Connection, time_ns: u64) {
        self.telling.tell(change, connection, time_ns);
    }
}

/// Tells that an attempt failed before anything was sent, for a reason that may be unknown.
fn fail(telling: &mut Telling, attempt: &Connection, errno: Option<u32>) {
    let failure = errno.and_then(failure_of).unwrap_or(Failure::Other);
    let outcome = Outcome::Failure(failure, errno.unwrap_or(0));
    telling.tell(Change::Connect(outcome), attempt, attempt.born_ns);
}
