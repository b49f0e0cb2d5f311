//! Measures the filter by the number of its values: a stream pays for each event, whether it wants it or not.
//!
//! Run `cargo bench --package netconn-model --bench filter`. The events match none of the values, which is the dearest case.

#![expect(clippy::expect_used, reason = "a benchmark that cannot start may panic")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use divan::{Bencher, black_box, counter::ItemsCount};
use netconn_model::{
    fact::{Direction, End},
    filter::{Filter, Subject},
};

/// Remote ends of the events.
const EVENTS: u16 = 256;

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 10, 100, 1000])]
fn networks(bencher: Bencher<'_, '_>, count: u32) {
    matching(bencher, "remote", count, |number| format!("10.{}.{}.0/25", number >> 8, number & 0xff));
}

#[divan::bench(args = [1, 10, 100, 1000])]
fn networks_of_version_6(bencher: Bencher<'_, '_>, count: u32) {
    matching(bencher, "remote", count, |number| format!("2001:db8:{number:x}::/64"));
}

#[divan::bench(args = [1, 10, 100, 1000])]
fn ports(bencher: Bencher<'_, '_>, count: u32) {
    matching(bencher, "port", count, |number| (number * 2 + 1).to_string());
}

#[divan::bench(args = [1, 10, 100, 1000])]
fn processes(bencher: Bencher<'_, '_>, count: u32) {
    matching(bencher, "process", count, |number| format!("server-{number}"));
}

fn matching(bencher: Bencher<'_, '_>, name: &str, count: u32, value: impl Fn(u32) -> String) {
    let values: Vec<String> = (0..count).map(value).collect();
    let filter = Filter::parse([(name, values.join(","))]).expect("a filter");
    let subjects: Vec<Subject<'_>> = (0..EVENTS).map(subject).collect();
    bencher.counter(ItemsCount::new(subjects.len())).bench_local(|| {
        for subject in &subjects {
            _ = black_box(filter.matches(black_box(subject)));
        }
    });
}

/// Returns the facts of a connection; every other one has addresses of IPv6.
fn subject(number: u16) -> Subject<'static> {
    let [high, low] = number.to_be_bytes();
    let remote = if number.is_multiple_of(2) {
        IpAddr::V4(Ipv4Addr::new(10, high, low, 200))
    } else {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, number, 1, 0, 0, 0, 1))
    };
    let local = if remote.is_ipv4() { Ipv4Addr::new(10, 9, 9, 9).into() } else { Ipv6Addr::LOCALHOST.into() };
    Subject {
        state: None,
        failed: false,
        listening: false,
        raw: false,
        interface: None,
        protocol: 6,
        direction: Some(Direction::Outgoing),
        local: End { address: local, port: 40_000 + number * 2 },
        remote: Some(End { address: remote, port: 8080 + number * 2 }),
        pid: Some(7),
        process: Some("curl"),
        executable: Some("/usr/bin/curl"),
        user: Some("alice"),
        uid: Some(1000),
        container: None,
        unit: Some("session-1.scope"),
        namespace: Some(4_026_531_840),
    }
}
