//! Decodes any bytes as records of the ring and applies them to the tables. No content and no order of records may
//! cause a panic.

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

/// Length limit of a record in bytes. The eBPF programs write shorter ones.
const LENGTH_MAX: usize = 8 << 10;

/// Small limits, so that flows end and are folded after a few records.
const LIMITS: Limits = Limits { flows: 8, idle_ns: 10_000_000, idle_both_ns: 20_000_000, counts: true };

/// Applies the records in `data`. Each is its length (four bytes in this machine's byte order) and that many bytes, as
/// in `netconn/tests/data/ring`. A length beyond the end of the data is cut off there.
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
        table.announce_overdue(now, &mut ProcessEffects(&processes));
        flows.announce_overdue(now, &mut ProcessEffects(&processes));
    }
    table.announce_all(now, &mut ProcessEffects(&processes));
    flows.announce_all(now, &mut ProcessEffects(&processes));
    assert_eq!(table.from_slot(0).count(), table.len(), "the table miscounts its connections");
    assert_eq!(table.states().map(|(_, count)| count).sum::<usize>(), table.len(), "the table miscounts its states");
}

fn apply(record: &Record<'_>, processes: &mut Processes, table: &mut Table, flows: &mut Flows) {
    match *record {
        Record::Tcp(record) => table.apply(record, &mut ProcessEffects(processes)),
        Record::Owner(record) => {
            if !flows.apply_owner(record, &mut ProcessEffects(processes)) {
                table.apply_owner(record, &mut ProcessEffects(processes));
            }
        }
        Record::Unsent(record) => drop(table.apply_unsent(record, &mut ProcessEffects(processes))),
        Record::Exec(record, path, arguments) => processes.exec(record, path, arguments),
        Record::Fork(record) => processes.fork(record),
        Record::Exit(record) => processes.exit(record),
        Record::Flow(record) => flows.apply_flow(record, &mut ProcessEffects(processes)),
        Record::UdpSocket(record) => flows.apply_socket(record, &mut ProcessEffects(processes)),
        Record::Refused(record) => flows.apply_refused(record, &mut ProcessEffects(processes)),
        Record::Released(record) => flows.apply_close(record, &mut ProcessEffects(processes)),
        Record::Cgroup(..) => {}
    }
}

/// Effects without a kernel: finds processes, has no flows, and drops changes.
struct ProcessEffects<'a>(&'a Processes);

impl Effects for ProcessEffects<'_> {
    fn process(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.0.of(owner)
    }

    fn take_flow(&mut self, _: &FlowKey) -> Option<Flow> {
        None
    }

    fn emit(&mut self, _: Change, _: &Connection, _: u64) {}
}
