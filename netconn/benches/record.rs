//! Measures user-space costs per record, event and row: decoding, applying, encoding and filtering.
//!
//! Run `cargo bench --package netconn --bench record`, with a part of a benchmark's name after `--` to run only that.
//! The column "items" has the records, events or rows per second. The records are those of `tests/data/ring`, recorded
//! from a kernel.

#![expect(clippy::expect_used, reason = "a benchmark that cannot start may panic")]

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
/// First half of the boot id.
const BOOT: &str = "0123456789abcdef";

/// An event before it is encoded: the change, the connection after it, and the time in nanoseconds.
type RecordedEvent = (Change, Connection, u64);

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

/// Applies all records to empty tables. The tables are empty again at the end, because every recorded connection ends.
#[divan::bench]
fn applying(bencher: Bencher<'_, '_>) {
    let records = ring::records(RECORDED);
    let apply_all = |(mut processes, mut table): (Processes, Table)| {
        for record in &records {
            apply(&mut processes, &mut table, record, |event| _ = black_box(event));
        }
        (processes, table)
    };
    let bencher = bencher.counter(items(records.len())).with_inputs(empty_tables);
    bencher.bench_local_values(|tables| measured(|| apply_all(tables)));
}

#[divan::bench]
fn encoding_events(bencher: Bencher<'_, '_>) {
    encoding(bencher, &recorded_events());
}

/// Encodes the recorded connections as UDP flows, with one datagram per segment.
#[divan::bench]
fn encoding_flows(bencher: Bencher<'_, '_>) {
    let mut events = recorded_events();
    for (_, connection, last_ns) in &mut events {
        connection.protocol = IPPROTO_UDP;
        connection.exchanged = Some(Box::new(Exchanged {
            packets_sent: connection.totals.segments_sent.into(),
            packets_received: connection.totals.segments_received.into(),
            last_ns: *last_ns,
            icmp: None,
            refused: 0,
            folded: false,
            raw: false,
        }));
    }
    encoding(bencher, &events);
}

fn encoding(bencher: Bencher<'_, '_>, events: &[RecordedEvent]) {
    let (clock, mut names, mut processes) = (Clock::new(), machine_names(), ProcessMembers::default());
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
        for (change, connection, time_ns) in events {
            let told = (*change, connection, *time_ns);
            _ = black_box(encoder.connection(&mut out, &clock, &mut names, &mut processes, told, || true));
        }
        black_box(out.len())
    };
    bencher.counter(items(events.len())).bench_local(|| measured(&mut encode_all));
}

#[divan::bench]
fn encoding_packet_sockets(bencher: Bencher<'_, '_>) {
    let (processes, _) = empty_tables();
    let mut names = machine_names();
    let socket = |(_, connection, _): RecordedEvent| PacketSocket {
        family: AF_PACKET,
        protocol: Some(3),
        device: Some(2),
        interface: Some("eth0".into()),
        namespace: connection.namespace,
        inode: connection.socket,
        owner: connection.owner,
    };
    let found =
        PacketSockets { sockets: recorded_events().into_iter().map(socket).collect(), ..PacketSockets::default() };
    let mut encode_all = || black_box(packet::object(None, &found, true, &processes, &mut names, 0).len());
    bencher.counter(items(found.sockets.len())).bench_local(|| measured(&mut encode_all));
}

#[divan::bench]
fn encoding_rows(bencher: Bencher<'_, '_>) {
    let events = recorded_events();
    let (clock, mut names, (processes, _)) = (Clock::new(), machine_names(), empty_tables());
    let mut out = BytesMut::new();
    let mut encode_all = || {
        out.clear();
        let mut context = Context::new(&clock, &mut names, &processes, BOOT);
        for (_, connection, _) in &events {
            row(&mut out, &mut context, connection, None);
        }
        black_box(out.len())
    };
    bencher.counter(items(events.len())).bench_local(|| measured(&mut encode_all));
}

/// Filters by a number, an address and a word, and resolves the names of accounts and cgroups as event streams do.
#[divan::bench(args = ["", "state=established", "port=443", "remote=10.0.0.0/8,192.168.0.0/16", "process=nginx,curl,ssh"])]
fn filtering(bencher: Bencher<'_, '_>, text: &str) {
    let filter = Filter::parse(text.split_once('=')).expect("a filter");
    let (events, mut names) = (recorded_events(), machine_names());
    let mut filter_all = || {
        for (_, connection, time_ns) in &events {
            with_subject(black_box(connection), &mut names, *time_ns, |subject| {
                _ = black_box(filter.matches(subject));
            });
        }
    };
    bencher.counter(items(events.len())).bench_local(|| measured(&mut filter_all));
}

/// Runs the measured code. It must not be inlined: `cargo xtask bench instructions` counts only instructions within
/// this function, which it finds by name.
#[inline(never)]
fn measured<T>(body: impl FnOnce() -> T) -> T {
    body()
}

/// Returns divan's counter of the items in each run, and prints the number for `cargo xtask bench instructions`.
fn items(count: usize) -> ItemsCount {
    if std::env::var_os("NETCONN_BENCH_ITEMS").is_some() {
        eprintln!("items: {count}");
    }
    ItemsCount::new(count)
}

/// Creates empty tables.
fn empty_tables() -> (Processes, Table) {
    let mut table = Table::default();
    table.expect_acceptors();
    (Processes::default(), table)
}

/// Effects of the table that pass each change to a closure. There are no flows.
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

/// Applies a record and passes each resulting event to `report`.
fn apply(processes: &mut Processes, table: &mut Table, words: &[u64], report: impl FnMut((Change, &Connection, u64))) {
    let mut effects = Reporter { processes, report };
    match decode(bytemuck::cast_slice(words)) {
        Some(Record::Tcp(record)) => table.apply(record, &mut effects),
        Some(Record::Owner(record)) => table.apply_owner(record, &mut effects),
        Some(Record::Unsent(record)) => _ = table.apply_unsent(record, &mut effects),
        Some(Record::Exec(record, path, arguments)) => processes.exec(record, path, arguments),
        Some(Record::Fork(record)) => processes.fork(record),
        Some(Record::Exit(record)) => processes.exit(record),
        Some(
            Record::Flow(_) | Record::UdpSocket(_) | Record::Refused(_) | Record::Released(_) | Record::Cgroup(..),
        )
        | None => {}
    }
}

/// Returns the events of all recorded records.
fn recorded_events() -> Vec<RecordedEvent> {
    let (mut processes, mut table) = empty_tables();
    let mut events = Vec::new();
    for record in &ring::records(RECORDED) {
        apply(&mut processes, &mut table, record, |(change, connection, time_ns)| {
            events.push((change, connection.clone(), time_ns));
        });
    }
    events
}

/// Creates the names of this machine's accounts and cgroups.
fn machine_names() -> Names {
    Names::new(Lookup::start(|| ()).expect("no thread"))
}
