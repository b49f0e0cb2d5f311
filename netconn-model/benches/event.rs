//! What it costs to read an event from a line, to write one, and to write it in another format: `cargo bench --package
//! netconn-model`. The goal for reading is 500 MB/s.

use std::borrow::Cow;

use bytes::BytesMut;
use divan::{Bencher, black_box, counter::BytesCount};
use netconn_model::{
    community_id::CommunityId,
    event::{Event, Sensor},
    fact::{Attribution, CloseReason, ConnectionStatus, Direction, EventKind},
    format::{self, EVENT_FORMATS},
    json::SecondText,
    moment::Moment,
    value::{Milliseconds, PlainText},
};

fn main() {
    divan::main();
}

/// An `IP Close` with the members that most have.
fn close(sensor: &Sensor) -> Event<'_> {
    let text = |text: &'static str| Some(Cow::Borrowed(text));
    let plain = |text: &'static str| Some(PlainText::new(text));
    let (local, remote) = (Some([192, 0, 2, 10].into()), Some([203, 0, 113, 50].into()));
    let mut event = Event {
        kind: Some(EventKind::Close),
        category: plain("ip"),
        time_ms: Some(1_767_225_600_123),
        time: Some(Moment(1_767_225_600_123_456_789)),
        id: plain("0123456789abcdef-4711"),
        connection_id: plain("0123456789abcdef-1a2b3c-1"),
        direction: Some(Direction::Outgoing),
        protocol: plain("TCP"),
        protocol_name: plain("tcp"),
        status: Some(ConnectionStatus::Success),
        close_reason: Some(CloseReason::Local),
        bytes_sent: Some(517),
        bytes_received: Some(4711),
        packets_sent: Some(7),
        packets_received: Some(9),
        duration: Some(Milliseconds { nanoseconds: 12_345_678 }),
        connect_latency_us: Some(812),
        rtt_us: Some(790),
        retransmits: Some(0),
        namespace: Some(4_026_531_840),
        community_id: CommunityId::parse("1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        src_address: local,
        src_port: Some(54321),
        dst_address: remote,
        dst_port: Some(443),
        local_address: local,
        local_port: Some(54321),
        remote_address: remote,
        remote_port: Some(443),
        tid: Some(1234),
        attribution: Some(Attribution::Connect),
        pid: Some(1234),
        process_name: text("curl"),
        executable: text("/usr/bin/curl"),
        command_line: text("curl --silent --show-error --output /dev/null https://www.example.com/index.html"),
        user: text("alice"),
        user_id: Some(1000),
        process_id: plain("0123456789abcdef-1234-5678901"),
        process_start_ms: Some(1_767_225_599_000),
        parent_pid: Some(1200),
        parent_name: text("bash"),
        parent_executable: text("/usr/bin/bash"),
        parent_command_line: text("-bash"),
        parent_id: plain("0123456789abcdef-1200-5678000"),
        systemd_unit: text("session-3.scope"),
        cgroup_path: text("/user.slice/user-1000.slice/session-3.scope"),
        ..Event::default()
    };
    sensor.describe(&mut event);
    event
}

fn sensor() -> Sensor {
    Sensor {
        id: "01234567-89ab-cdef-0123-456789abcdef".into(),
        host: "web-1".into(),
        site: None,
        source: "netconn".into(),
        boot: "0123456789abcdef0123456789abcdef".into(),
    }
}

#[divan::bench]
fn reading(bencher: Bencher<'_, '_>) {
    let sensor = sensor();
    let mut out = BytesMut::new();
    close(&sensor).write_line(&mut out, &mut SecondText::default());
    let line = String::from_utf8_lossy(&out).into_owned();
    bencher.counter(BytesCount::new(line.len())).bench_local(|| {
        let event: Option<Event<'_>> = serde_json::from_str(black_box(&line)).ok();
        black_box(event);
    });
}

#[divan::bench]
fn writing(bencher: Bencher<'_, '_>) {
    let sensor = sensor();
    let event = close(&sensor);
    let (mut out, mut seconds) = (BytesMut::new(), SecondText::default());
    event.write_line(&mut out, &mut seconds);
    bencher.counter(BytesCount::new(out.len())).bench_local(|| {
        out.clear();
        black_box(&event).write_line(&mut out, &mut seconds);
        black_box(out.len());
    });
}

/// Reads a line and writes it in another format: what a program that sends events on does with each. The goal is 10 µs.
#[divan::bench(args = EVENT_FORMATS.iter().map(|format| format.name))]
fn converting(bencher: Bencher<'_, '_>, name: &str) {
    let sensor = sensor();
    let mut line = BytesMut::new();
    close(&sensor).write_line(&mut line, &mut SecondText::default());
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let Some(format) = format::by_name(name) else { return };
    let mut out = Vec::new();
    bencher.counter(BytesCount::new(line.len())).bench_local(|| {
        out.clear();
        black_box(format.encode_line(black_box(line), &mut out).is_ok());
    });
}
