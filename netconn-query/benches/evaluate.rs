//! What a filter costs for each event: `cargo bench --package netconn-query --bench evaluate`. The column "items" is events a second.
//! Half of the events match.

#![expect(clippy::expect_used, reason = "a benchmark that cannot begin may panic")]

use divan::{Bencher, black_box, counter::ItemsCount};
use netconn_model::{
    event::Event,
    fact::{Direction, EventKind},
    moment::Moment,
    value::{Milliseconds, PlainText},
};
use netconn_query::evaluate::Predicate;

const FILTERS: [&str; 4] = [
    "dst.port.number = 443",
    "src.process.name in ('curl', 'wget', 'nc') and dst.ip.address in ('10.0.0.0/8', '192.168.0.0/16')",
    "src.process.cmdline matches 'https?://[a-z.]+/index'",
    "timestamp >= '2026-09-21T14:13:20Z'",
];

fn main() {
    divan::main();
}

/// An event that the filters match, and one that they do not.
fn events() -> [Event<'static>; 2] {
    let event = |name: &'static str, command_line: &'static str, port: u16, network: u8, time: i64| Event {
        kind: Some(EventKind::Close),
        time: Some(Moment(time)),
        time_ms: Some(Moment(time).milliseconds()),
        id: Some(PlainText::new("0123456789abcdef-4711")),
        direction: Some(Direction::Outgoing),
        bytes_sent: Some(517),
        duration: Some(Milliseconds { nanoseconds: 12_345_678 }),
        src_address: Some([192, 0, 2, 10].into()),
        src_port: Some(54321),
        dst_address: Some([network, 0, 1, 20].into()),
        dst_port: Some(port),
        process_name: Some(name.into()),
        command_line: Some(command_line.into()),
        ..Event::default()
    };
    [
        event(
            "curl",
            "curl --silent --output /dev/null https://www.example.com/index.html",
            443,
            10,
            1_790_000_000_123_456_789,
        ),
        event(
            "curl",
            "curl --silent --output /dev/null ftp://archive.example.com/files.txt",
            22,
            11,
            1_780_000_000_123_456_789,
        ),
    ]
}

#[divan::bench(args = FILTERS, sample_size = 10_000)]
fn verdict(bencher: Bencher<'_, '_>, filter: &str) {
    let predicate = Predicate::parse(filter).expect("the filter is one over one event").predicate;
    let events = events();
    bencher.counter(ItemsCount::new(events.len())).bench_local(|| {
        for event in &events {
            black_box(black_box(&predicate).matches(black_box(event)));
        }
    });
}
