//! The state machine against sequences that kernels give, and against any other.

use bytemuck::Zeroable as _;
use netconn_common::{TcpRecord, kind, mark, role, tcp_state::*};
use proptest::prelude::*;

use super::*;
use crate::event::Direction;

const AF_INET: u16 = 2;

/// A record of socket `socket`, life `generation`, the `sequence`th.
fn record(socket: u64, generation: u32, sequence: u32, role: u32, old: u8, new: u8) -> TcpRecord {
    let mut record = TcpRecord::zeroed();
    record.header.kind = kind::TCP;
    record.header.time_ns = 1000 + u64::from(sequence);
    record.socket = socket;
    record.state.generation = generation;
    record.state.sequence = sequence;
    record.state.role = role;
    record.state.born_ns = if role == role::UNKNOWN { 0 } else { 1000 };
    record.state.marks = mark::IN_PROCESS;
    record.family = AF_INET;
    record.local_address[0] = 10;
    record.remote_address[0] = 11;
    record.local_port = 40000;
    record.remote_port = 443;
    record.old_state = old;
    record.new_state = new;
    record
}

fn run(table: &mut Table, records: &[TcpRecord]) -> Vec<Change> {
    let mut changes = Vec::new();
    for record in records {
        table.apply(record, |_| None, |change, _, _| changes.push(change));
    }
    changes
}

/// A whole life: the states one after another, with the error of the last change.
fn life(role: u32, states: &[u8], error: u32) -> Vec<Change> {
    let mut table = Table::default();
    let records: Vec<_> = states
        .windows(2)
        .enumerate()
        .map(|(index, pair)| {
            let mut record = record(7, 1, u32::try_from(index).unwrap() + 1, role, pair[0], pair[1]);
            for state in &states[..index + 2] {
                record.state.marks |= match *state {
                    FIN_WAIT1 => mark::CLOSED_LOCALLY,
                    CLOSE_WAIT => mark::CLOSED_REMOTELY,
                    _ => 0,
                };
            }
            if index + 2 == states.len() {
                record.error = error;
            }
            record
        })
        .collect();
    let changes = run(&mut table, &records);
    assert!(table.is_empty(), "nothing is left of {states:?}");
    changes
}

fn connected(reason: CloseReason, errno: u32) -> Vec<Change> {
    vec![Change::Connect(Outcome::Success), Change::Close(reason, errno)]
}

fn failed(failure: Failure, errno: u32) -> Vec<Change> {
    vec![Change::Connect(Outcome::Failure(failure, errno))]
}

#[test]
fn attempts_have_one_outcome() {
    for (error, failure) in [
        (111, Failure::Refused),
        (110, Failure::TimedOut),
        (113, Failure::HostUnreachable),
        (101, Failure::NetUnreachable),
        (104, Failure::Reset),
        (1, Failure::Blocked),
        (103, Failure::Aborted),
        (0, Failure::Aborted),
        (92, Failure::Other),
    ] {
        assert_eq!(life(role::ACTIVE, &[CLOSE, SYN_SENT, CLOSE], error), failed(failure, error));
    }
}

#[test]
fn no_port_is_told_from_aborted() {
    let mut table = Table::default();
    let mut records = [record(7, 1, 1, role::ACTIVE, CLOSE, SYN_SENT), record(7, 1, 2, role::ACTIVE, SYN_SENT, CLOSE)];
    for record in &mut records {
        record.local_port = 0;
    }
    assert_eq!(run(&mut table, &records), failed(Failure::NoPorts, 99));
}

#[test]
fn connections_end_for_a_reason() {
    let active = |states: &[u8], error| life(role::ACTIVE, &[&[CLOSE, SYN_SENT, ESTABLISHED], states].concat(), error);
    assert_eq!(active(&[FIN_WAIT1, FIN_WAIT2, CLOSE], 0), connected(CloseReason::Local, 0));
    assert_eq!(active(&[FIN_WAIT1, CLOSING, CLOSE], 0), connected(CloseReason::Local, 0));
    assert_eq!(active(&[CLOSE_WAIT, LAST_ACK, CLOSE], 0), connected(CloseReason::Remote, 0));
    assert_eq!(active(&[CLOSE], 0), connected(CloseReason::ResetByLocal, 0));
    assert_eq!(active(&[CLOSE], 104), connected(CloseReason::ResetByRemote, 104));
    assert_eq!(active(&[CLOSE_WAIT, CLOSE], 32), connected(CloseReason::ResetByRemote, 32));
    assert_eq!(active(&[CLOSE], 110), connected(CloseReason::TimedOut, 110));
    assert_eq!(active(&[FIN_WAIT1, CLOSE], 113), connected(CloseReason::TimedOut, 113));
    assert_eq!(active(&[FIN_WAIT1, FIN_WAIT2, CLOSE], 104), connected(CloseReason::ResetByRemote, 104));
}

#[test]
fn accepted_connections_and_listeners() {
    assert_eq!(
        life(role::PASSIVE, &[SYN_RECV, ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSE], 0),
        connected(CloseReason::Remote, 0)
    );
    assert_eq!(
        life(role::PASSIVE, &[SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE], 0),
        connected(CloseReason::Local, 0),
        "a Fast Open server that is done before the handshake is"
    );
    assert_eq!(life(role::LISTENER, &[CLOSE, LISTEN, CLOSE], 0), [Change::Listen, Change::ListenEnd]);
}

#[test]
fn simultaneous_open_is_outgoing() {
    let mut table = Table::default();
    let records = [
        record(7, 1, 1, role::ACTIVE, CLOSE, SYN_SENT),
        record(7, 1, 2, role::ACTIVE, SYN_SENT, SYN_RECV),
        record(7, 1, 3, role::ACTIVE, SYN_RECV, ESTABLISHED),
    ];
    assert_eq!(run(&mut table, &records), [Change::Connect(Outcome::Success)]);
    let (_, entry) = table.from_slot(0).next().unwrap();
    assert_eq!(entry.direction(), Some(Direction::Outgoing));
}

#[test]
fn what_is_older_than_netconn_is_announced_before_its_end() {
    assert_eq!(life(role::UNKNOWN, &[ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE], 0), connected(CloseReason::Local, 0));
    assert_eq!(life(role::UNKNOWN, &[LAST_ACK, CLOSE], 0), connected(CloseReason::Remote, 0));
    assert_eq!(life(role::UNKNOWN, &[LISTEN, CLOSE], 0), [Change::Listen, Change::ListenEnd]);
    assert_eq!(life(role::UNKNOWN, &[SYN_SENT, CLOSE], 111), failed(Failure::Refused, 111));
    assert_eq!(life(role::UNKNOWN, &[SYN_SENT, ESTABLISHED, CLOSE], 104), connected(CloseReason::ResetByRemote, 104));
}

#[test]
fn a_second_life_of_a_socket_is_another_connection() {
    let mut table = Table::default();
    let first = [record(7, 1, 1, role::ACTIVE, CLOSE, SYN_SENT), record(7, 1, 2, role::ACTIVE, SYN_SENT, ESTABLISHED)];
    assert_eq!(run(&mut table, &first), [Change::Connect(Outcome::Success)]);
    // The end of the first life was lost.
    let second = [record(7, 2, 1, role::ACTIVE, CLOSE, SYN_SENT), record(7, 2, 2, role::ACTIVE, SYN_SENT, CLOSE)];
    assert_eq!(
        run(&mut table, &second),
        [Change::Close(CloseReason::Unknown, 0), Change::Connect(Outcome::Failure(Failure::Aborted, 0))]
    );
}

#[test]
fn without_memory_in_the_socket_the_table_remembers() {
    let mut table = Table::default();
    let bare = |mut record: TcpRecord| {
        (record.state.generation, record.state.sequence) = (0, 1);
        record
    };
    let mut listen = bare(record(1, 0, 1, role::LISTENER, CLOSE, LISTEN));
    listen.state.owner.tgid = 42;
    listen.local_port = 443;
    let mut attempt = bare(record(2, 0, 1, role::ACTIVE, CLOSE, SYN_SENT));
    attempt.state.owner.tgid = 43;
    let mut child = bare(record(3, 0, 1, role::UNKNOWN, SYN_RECV, ESTABLISHED));
    child.local_port = 443;
    let last = [
        bare(record(2, 0, 1, role::UNKNOWN, SYN_SENT, ESTABLISHED)),
        // Memory was there again for a while.
        record(2, 1, 1, role::UNKNOWN, ESTABLISHED, CLOSE_WAIT),
        bare(record(2, 0, 1, role::UNKNOWN, LAST_ACK, CLOSE)),
    ];
    let mut seen = Vec::new();
    for record in [&[listen, attempt, child][..], &last].concat() {
        table.apply(
            &record,
            |_| None,
            |change, entry, _| {
                seen.push((entry.socket, entry.owner.tgid, entry.direction(), entry.preexisting, change));
            },
        );
    }
    let (out, r#in) = (Some(Direction::Outgoing), Some(Direction::Incoming));
    assert_eq!(
        seen,
        [
            (1, 42, None, false, Change::Listen),
            (3, 42, r#in, false, Change::Connect(Outcome::Success)),
            (2, 43, out, false, Change::Connect(Outcome::Success)),
            (2, 43, out, false, Change::Close(CloseReason::Remote, 0)),
        ]
    );
}

#[test]
fn ports_that_the_kernel_gives_back_are_kept() {
    let mut table = Table::default();
    let mut last = record(7, 1, 3, role::ACTIVE, ESTABLISHED, CLOSE);
    (last.local_port, last.remote_port) = (0, 0);
    run(
        &mut table,
        &[record(7, 1, 1, role::ACTIVE, CLOSE, SYN_SENT), record(7, 1, 2, role::ACTIVE, SYN_SENT, ESTABLISHED)],
    );
    let mut ports = None;
    table.apply(
        &last,
        |_| None,
        |_, connection, _| ports = Some((connection.local.port, connection.remote.unwrap().port)),
    );
    assert_eq!(ports, Some((40000, 443)));
}

#[test]
fn mapped_addresses_are_ipv4() {
    let mut table = Table::default();
    let mut mapped = record(7, 1, 1, role::ACTIVE, CLOSE, SYN_SENT);
    mapped.family = 10;
    mapped.local_address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1];
    run(&mut table, &[mapped]);
    let (_, entry) = table.from_slot(0).next().unwrap();
    assert_eq!(entry.local.address.to_string(), "192.0.2.1");
}

/// Any record at all, of a few sockets.
fn any_record() -> impl Strategy<Value = TcpRecord> {
    (0_u64..4, 0_u32..3, 0_u32..9, 0_u32..5, 0_u8..14, 0_u8..14, 0_u32..200, any::<(u16, u16)>()).prop_map(
        |(socket, generation, sequence, role, old, new, error, (local, remote))| {
            let mut record = record(socket, generation, sequence, role, old, new);
            record.error = error;
            (record.local_port, record.remote_port) = (local, remote);
            record
        },
    )
}

proptest! {
    /// Whatever arrives: every event belongs to a life that is in order, and nothing stays after a CLOSE.
    #[test]
    fn any_order_of_records_gives_orderly_events(records in proptest::collection::vec(any_record(), 0..60)) {
        let mut table = Table::default();
        let mut open = std::collections::HashMap::new();
        for record in &records {
            table.apply(record, |_| None, |change, connection, _| {
                let announced = open.entry((connection.socket, connection.generation)).or_insert(false);
                match change {
                    Change::Connect(Outcome::Success) | Change::Listen => {
                        assert!(!*announced, "announced twice");
                        *announced = true;
                    }
                    Change::Connect(Outcome::Failure(..)) => assert!(!*announced, "failed after success"),
                    Change::Close(..) => {
                        assert!(*announced, "closed before it was announced");
                        *announced = false;
                    }
                    Change::ListenEnd => *announced = false,
                }
            });
            prop_assert!(table.len() <= 4);
            prop_assert_eq!(table.from_slot(0).count(), table.len());
        }
        for socket in 0..4 {
            for generation in 0..3 {
                let end = record(socket, generation, u32::MAX, role::UNKNOWN, ESTABLISHED, CLOSE);
                table.apply(&end, |_| None, |_, _, _| {});
            }
        }
        prop_assert!(table.is_empty(), "a CLOSE of every socket leaves nothing");
    }
}
