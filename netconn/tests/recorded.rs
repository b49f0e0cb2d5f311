//! Applies records of real kernels to the tables and compares the resulting events with expected ones, without a
//! kernel.
//!
//! `examples/record_ring.rs` recorded `tests/data/ring/*.ring` while `tests/data/ring/scenes.py` ran. The `.txt` beside
//! it has the expected events, which a person has checked. `NETCONN_UPDATE=1 cargo test` rewrites it.

#[path = "data/ring/read.rs"]
pub mod ring;

use std::{fmt::Write as _, fs, path::Path, rc::Rc};

use netconn::{
    kernel::decode::{Record, decode},
    process::{Process, Processes, comm},
    table::{Change, Connection, Effects, Table},
};
use netconn_common::{Flow, FlowKey, Owner};
use proptest::prelude::*;
use ring::records;

/// Applies records; holds the tables and the text of the events so far.
struct Replay {
    processes: Processes,
    table: Table,
    text: String,
}

impl Replay {
    fn new() -> Self {
        let mut table = Table::default();
        table.expect_acceptors();
        Self { processes: Processes::default(), table, text: String::new() }
    }

    fn handle(&mut self, words: &[u64]) {
        let Self { processes, table, text } = self;
        let mut effects = LineEffects { processes, text };
        match decode(bytemuck::cast_slice(words)) {
            Some(Record::Tcp(record)) => table.apply(record, &mut effects),
            Some(Record::Owner(record)) => table.apply_owner(record, &mut effects),
            Some(Record::Unsent(record)) => {
                if let Some(attempt) = table.apply_unsent(record, &mut effects) {
                    let _ = write!(text, "Unsent for an unknown reason: ");
                    write_ends(text, &attempt);
                }
            }
            Some(Record::Exec(record, path, arguments)) => processes.exec(record, path, arguments),
            Some(Record::Fork(record)) => processes.fork(record),
            Some(Record::Exit(record)) => processes.exit(record),
            Some(
                Record::Flow(_) | Record::UdpSocket(_) | Record::Refused(_) | Record::Released(_) | Record::Cgroup(..),
            ) => {}
            None => text.push_str("This is no record.\n"),
        }
    }
}

/// Effects of the table that write each change as a line. There are no flows.
struct LineEffects<'a> {
    processes: &'a Processes,
    text: &'a mut String,
}

impl Effects for LineEffects<'_> {
    fn process(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.processes.of(owner)
    }

    fn take_flow(&mut self, _: &FlowKey) -> Option<Flow> {
        None
    }

    fn emit(&mut self, change: Change, connection: &Connection, _: u64) {
        let _ = write!(self.text, "{change:?}: ");
        write_ends(self.text, connection);
    }
}

/// Writes the ends, the owner and the byte counts of a connection.
fn write_ends(text: &mut String, connection: &Connection) {
    let end = |end: netconn_model::fact::End| format!("{} {}", end.address, end.port);
    let remote = connection.remote.map_or_else(|| "*".into(), end);
    let direction = connection.direction().map_or("-", |direction| direction.name());
    let _ = write!(text, "{direction} {} {remote}", end(connection.local));
    let how = netconn::encode::attribution(connection.owner.how).name();
    let _ = write!(text, ", {} by {how}", comm(&connection.owner.comm));
    if let Some(process) = &connection.process {
        let _ = write!(text, ", {}", process.identity.command_line.as_deref().unwrap_or("-"));
    }
    let totals = &connection.totals;
    let _ = writeln!(text, ", sent {} received {}", totals.bytes_sent, totals.bytes_received);
}

#[test]
fn recorded_records_give_the_expected_events() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ring");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "ring") {
            continue;
        }
        count += 1;
        let mut replay = Replay::new();
        for record in records(&fs::read(&path).unwrap()) {
            replay.handle(&record);
        }
        assert!(replay.table.is_empty(), "{}: not all connections have ended", path.display());
        let expected = path.with_extension("txt");
        if std::env::var_os("NETCONN_UPDATE").is_some() {
            fs::write(&expected, &replay.text).unwrap();
        }
        assert_eq!(replay.text, fs::read_to_string(&expected).unwrap(), "{}", path.display());
    }
    assert!(count > 0);
}

proptest! {
    /// Applies any part of the records in any order, some of them damaged: nothing may panic.
    #[test]
    fn survives_loss_and_damage(
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 0..200),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u64>()), 0..20),
    ) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ring/6.18-tier2.ring");
        let all = records(&fs::read(path).unwrap());
        let mut some: Vec<_> = picks.iter().map(|pick| all[pick.index(all.len())].clone()).collect();
        for (at, value) in damage {
            if let Some(record) = some.first_mut() {
                let at = at.index(record.len());
                record[at] = value;
                some.rotate_left(1);
            }
        }
        let mut replay = Replay::new();
        for record in some.iter().filter(|record| decode(bytemuck::cast_slice(record)).is_some()) {
            replay.handle(record);
        }
    }
}
