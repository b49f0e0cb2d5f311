//! What kernels really told, through decoder, processes and table, against what it means: without a kernel.
//!
//! `tests/data/ring/*.ring` was recorded by `examples/record_ring.rs`, running `tests/data/ring/scenes.py`; the `.txt`
//! beside it is what comes out, read and found right by a person. `NETCONN_UPDATE=1 cargo test` writes it anew.

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

/// Everything that is known and kept.
struct Known {
    processes: Processes,
    table: Table,
    text: String,
}

impl Known {
    fn new() -> Self {
        let mut table = Table::default();
        table.expect_acceptors();
        Self { processes: Processes::default(), table, text: String::new() }
    }

    fn handle(&mut self, words: &[u64]) {
        let Self { processes, table, text } = self;
        let mut effects = Writer { processes, text };
        match decode(bytemuck::cast_slice(words)) {
            Some(Record::Tcp(record)) => table.apply(record, &mut effects),
            Some(Record::Owner(record)) => table.apply_owner(record, &mut effects),
            Some(Record::Unsent(record)) => {
                if let Some(attempt) = table.apply_unsent(record, &mut effects) {
                    let _ = write!(text, "Unsent, why is not known: ");
                    ends(text, &attempt);
                }
            }
            Some(Record::Exec(record, path, arguments)) => processes.exec(record, path, arguments),
            Some(Record::Fork(record)) => processes.fork(record),
            Some(Record::Exit(record)) => processes.exit(record),
            Some(Record::Flow(_) | Record::UdpSocket(_) | Record::Released(_) | Record::Cgroup(..)) => {}
            None => text.push_str("This is no record.\n"),
        }
    }
}

/// The effects of the table: changes are written as lines, and there are no flows.
struct Writer<'a> {
    processes: &'a Processes,
    text: &'a mut String,
}

impl Effects for Writer<'_> {
    fn process(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.processes.of(owner)
    }

    fn take_flow(&mut self, _: &FlowKey) -> Option<Flow> {
        None
    }

    fn emit(&mut self, change: Change, connection: &Connection, _: u64) {
        let _ = write!(self.text, "{change:?}: ");
        ends(self.text, connection);
    }
}

fn ends(text: &mut String, connection: &Connection) {
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
fn what_kernels_told_means_what_it_meant() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ring");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "ring") {
            continue;
        }
        count += 1;
        let mut known = Known::new();
        for record in records(&fs::read(&path).unwrap()) {
            known.handle(&record);
        }
        assert!(known.table.is_empty(), "{}: everything has ended", path.display());
        let expected = path.with_extension("txt");
        if std::env::var_os("NETCONN_UPDATE").is_some() {
            fs::write(&expected, &known.text).unwrap();
        }
        assert_eq!(known.text, fs::read_to_string(&expected).unwrap(), "{}", path.display());
    }
    assert!(count > 0);
}

proptest! {
    /// Any part of what was recorded, in any order and damaged: nothing panics.
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
        let mut known = Known::new();
        for record in some.iter().filter(|record| decode(bytemuck::cast_slice(record)).is_some()) {
            known.handle(record);
        }
    }
}
