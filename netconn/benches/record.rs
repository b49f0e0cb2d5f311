//! What a record costs in user space: to decode it, to apply it, and to tell of it; and what a row of a snapshot costs.
//!
//! `cargo bench --package netconn --bench record`. The records are those of `tests/data/ring`, which a kernel told. The column "items"
//! is what counts: records, events or rows a second. A part of the name after `--` chooses: `… -- rows`.

#![expect(clippy::expect_used, reason = "a benchmark that cannot begin may panic")]

#[path = "../tests/data/ring/read.rs"]
pub mod ring;

use std::rc::Rc;

use bytes::BytesMut;
use divan::{Bencher, black_box, counter::ItemsCount};
use netconn::{
    clock::Clock,
    encode::{
        event::{EventEncoder, ProcessMembers},
        packet,
        row::{Context, row},
        subject::with_subject,
    },
    kernel::{
        decode::{Record, decode},
        packet_socket::{PacketSocket, PacketSockets},
    },
    names::Names,
    process::{Process, Processes, lookup::Lookup},
    table::{Change, Connection, Effects, Exchanged, Table},
};
use netconn_common::{AF_PACKET, Flow, FlowKey, IPPROTO_UDP, Owner};
use netconn_model::{event::Sensor, filter::Filter};

const RECORDED: &[u8] = include_bytes!("../tests/data/ring/6.18-tier2.ring");
/// First half of a boot id.
const BOOT: &str = "0123456789abcdef";

/// An event, before it is encoded.
type Told = (Change, Connection, u64);

fn main() {
    divan::main();
}

#[divan::bench]
fn decoding(bencher: Bencher<'_, '_>) {
    let records = ring::records(RECORDED);
    let decode_all = || {
        for record in &records {
            black_box(decode(bytemuck::cast_slice(black_box(record))));
        }
    };
    bencher.counter(items(records.len())).bench_local(|| measured(decode_all));
}

/// Records of processes and of sockets, from nothing to nothing: everything that was recorded ends.
#[divan::bench]
fn applying(bencher: Bencher<'_, '_>) {
    let records = ring::records(RECORDED);
    let apply_all = |(mut processes, mut table): (Processes, Table)| {
        for record in &records {
            apply(&mut processes, &mut table, record, |event| _ = black_box(event));
        }
        (processes, table)
    };
    let bencher = bencher.counter(items(records.len())).with_inputs(known);
    bencher.bench_local_values(|known| measured(|| apply_all(known)));
}

#[divan::bench]
fn encoding_events(bencher: Bencher<'_, '_>) {
    encoding(bencher, &told());
}

/// The same of flows, with as many datagrams as there were segments.
#[divan::bench]
fn encoding_flows(bencher: Bencher<'_, '_>) {
    let mut told = told();
    for (_, connection, last_ns) in &mut told {
        connection.protocol = IPPROTO_UDP;
        connection.exchanged = Some(Box::new(Exchanged {
            packets_sent: connection.totals.segments_sent.into(),
            packets_received: connection.totals.segments_received.into(),
            last_ns: *last_ns,
            icmp: None,
            folded: false,
            raw: false,
        }));
    }
    encoding(bencher, &told);
}

fn encoding(bencher: Bencher<'_, '_>, told: &[Told]) {
    let (clock, mut directory, mut processes) = (Clock::new(), directory(), ProcessMembers::default());
    let sensor = Sensor {
        id: "01234567-89ab-cdef-0123-456789abcdef".into(),
        host: "localhost".into(),
        site: None,
        source: "netconn".into(),
        boot: BOOT.repeat(2),
    };
    let mut encoder = EventEncoder::new(&sensor, 1);
    let mut out = BytesMut::new();
    let mut encode_all = || {
        out.clear();
        for (change, connection, time_ns) in told {
            encoder.connection(&mut out, &clock, &mut directory, &mut processes, (*change, connection, *time_ns));
        }
        black_box(out.len())
    };
    bencher.counter(items(told.len())).bench_local(|| measured(&mut encode_all));
}

#[divan::bench]
fn encoding_packet_sockets(bencher: Bencher<'_, '_>) {
    let (processes, _) = known();
    let mut directory = directory();
    let socket = |(_, connection, _): Told| PacketSocket {
        family: AF_PACKET,
        protocol: Some(3),
        device: Some(2),
        interface: Some("eth0".into()),
        namespace: connection.namespace,
        inode: connection.socket,
        owner: connection.owner,
    };
    let found = PacketSockets { sockets: told().into_iter().map(socket).collect(), ..PacketSockets::default() };
    let mut encode_all = || black_box(packet::object(None, &found, true, &processes, &mut directory, 0).len());
    bencher.counter(items(found.sockets.len())).bench_local(|| measured(&mut encode_all));
}

#[divan::bench]
fn encoding_rows(bencher: Bencher<'_, '_>) {
    let told = told();
    let (mut clock, mut directory) = (Clock::new(), directory());
    let mut out = BytesMut::new();
    let mut encode_all = || {
        out.clear();
        let mut context = Context::new(&mut clock, &mut directory, BOOT);
        for (_, connection, _) in &told {
            row(&mut out, &mut context, connection, None);
        }
        black_box(out.len())
    };
    bencher.counter(items(told.len())).bench_local(|| measured(&mut encode_all));
}

/// By everything that is compared as a number, an address or a word; with the names of accounts and cgroups, as streams do.
#[divan::bench(args = ["", "state=established", "port=443", "remote=10.0.0.0/8,192.168.0.0/16", "process=nginx,curl,ssh"])]
fn filtering(bencher: Bencher<'_, '_>, text: &str) {
    let filter = Filter::parse(text.split_once('=')).expect("a filter");
    let (told, mut directory) = (told(), directory());
    let mut filter_all = || {
        for (_, connection, time_ns) in &told {
            with_subject(black_box(connection), &mut directory, *time_ns, |subject| {
                _ = black_box(filter.matches(subject));
            });
        }
    };
    bencher.counter(items(told.len())).bench_local(|| measured(&mut filter_all));
}

/// Runs what is measured. Never inlined: by its name `cargo xtask bench instructions` counts what runs within it, and no more.
#[inline(never)]
fn measured<T>(body: impl FnOnce() -> T) -> T {
    body()
}

/// How much is handled in each run; said to whoever counts instructions.
fn items(count: usize) -> ItemsCount {
    if std::env::var_os("NETCONN_BENCH_ITEMS").is_some() {
        eprintln!("items: {count}");
    }
    ItemsCount::new(count)
}

fn known() -> (Processes, Table) {
    let mut table = Table::default();
    table.expect_acceptors();
    (Processes::default(), table)
}

/// The effects of the table: changes are handed to a closure, and there are no flows.
struct Reporter<'a, F> {
    processes: &'a Processes,
    report: F,
}

impl<F: FnMut((Change, &Connection, u64))> Effects for Reporter<'_, F> {
    fn process(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.processes.of(owner)
    }

    fn take_flow(&mut self, _: &FlowKey) -> Option<Flow> {
        None
    }

    fn emit(&mut self, change: Change, connection: &Connection, time_ns: u64) {
        (self.report)((change, connection, time_ns));
    }
}

/// Applies a record; hands each event that follows to `report`.
fn apply(processes: &mut Processes, table: &mut Table, words: &[u64], report: impl FnMut((Change, &Connection, u64))) {
    let mut effects = Reporter { processes, report };
    match decode(bytemuck::cast_slice(words)) {
        Some(Record::Tcp(record)) => table.apply(record, &mut effects),
        Some(Record::Owner(record)) => table.apply_owner(record, &mut effects),
        Some(Record::Unsent(record)) => _ = table.apply_unsent(record, &mut effects),
        Some(Record::Exec(record, path, arguments)) => processes.exec(record, path, arguments),
        Some(Record::Fork(record)) => processes.fork(record),
        Some(Record::Exit(record)) => processes.exit(record),
        Some(Record::Flow(_) | Record::UdpSocket(_) | Record::Released(_) | Record::Cgroup(..)) | None => {}
    }
}

/// All events that were recorded.
fn told() -> Vec<Told> {
    let (mut processes, mut table) = known();
    let mut told = Vec::new();
    for record in &ring::records(RECORDED) {
        apply(&mut processes, &mut table, record, |(change, connection, time_ns)| {
            told.push((change, connection.clone(), time_ns));
        });
    }
    told
}

/// The accounts and cgroups of this machine.
fn directory() -> Names {
    Names::new(Lookup::start(|_| {}).expect("no thread"))
}
