//! Decodes any bytes as records of the ring and applies them to the tables: no order and no content of records may panic.

use std::rc::Rc;

use netconn::{
    kernel::decode::{Record, decode},
    process::{Process, Processes},
    table::{
        Change, Connection, Effects, Table,
        flows::{Flows, Limits},
    },
};
use netconn_common::{Flow, FlowKey, Owner};

/// Longer records than the kernel side writes say nothing new.
const LENGTH_MAX: usize = 8 << 10;

/// Small ones: flows are ended and folded within few records.
const LIMITS: Limits = Limits { flows: 8, idle_ns: 10_000_000, idle_both_ns: 20_000_000, counts: true };

/// Applies the records in `data`: each is its length (four bytes, of this machine's order) and so many bytes, as in
/// `netconn/tests/data/ring`. A length that is too great ends with the data.
pub fn run(data: &[u8]) {
    let (mut processes, mut table) = (Processes::default(), Table::default());
    let mut flows = Flows::new(LIMITS, 0);
    table.expect_acceptors();
    let (mut rest, mut now) = (data, 0_u64);
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_ne_bytes(*length) as usize).min(behind.len()).min(LENGTH_MAX);
        let (record, behind) = behind.split_at(length);
        rest = behind;
        // The ring aligns records to 8 bytes.
        let mut words = vec![0_u64; length.div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..length].copy_from_slice(record);
        if let Some(record) = decode(&bytemuck::cast_slice(&words)[..length]) {
            apply(&record, &mut processes, &mut table, &mut flows);
        }
        now += 1_000_000;
        table.announce_overdue(now, &mut Known(&processes));
        flows.announce_overdue(now, &mut Known(&processes));
    }
    table.announce_all(now, &mut Known(&processes));
    flows.announce_all(now, &mut Known(&processes));
    assert_eq!(table.from_slot(0).count(), table.len(), "the table miscounts its connections");
    assert_eq!(table.states().map(|(_, count)| count).sum::<usize>(), table.len(), "the table miscounts its states");
}

fn apply(record: &Record<'_>, processes: &mut Processes, table: &mut Table, flows: &mut Flows) {
    match *record {
        Record::Tcp(record) => table.apply(record, &mut Known(processes)),
        Record::Owner(record) => {
            if !flows.apply_owner(record, &mut Known(processes)) {
                table.apply_owner(record, &mut Known(processes));
            }
        }
        Record::Unsent(record) => drop(table.apply_unsent(record, &mut Known(processes))),
        Record::Exec(record, path, arguments) => processes.exec(record, path, arguments),
        Record::Fork(record) => processes.fork(record),
        Record::Exit(record) => processes.exit(record),
        Record::Flow(record) => flows.apply_flow(record, &mut Known(processes)),
        Record::UdpSocket(record) => flows.apply_socket(record, &mut Known(processes)),
        Record::Released(record) => flows.apply_close(record, &mut Known(processes)),
        Record::Cgroup(..) => {}
    }
}

/// Effects of records while there is no kernel: processes are looked up, flows are not in its map, changes are dropped.
struct Known<'a>(&'a Processes);

impl Effects for Known<'_> {
    fn process(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.0.of(owner)
    }

    fn take_flow(&mut self, _: &FlowKey) -> Option<Flow> {
        None
    }

    fn emit(&mut self, _: Change, _: &Connection, _: u64) {}
}
