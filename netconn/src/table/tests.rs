//! The state machine against sequences that kernels give, and against any other.

use bytemuck::Zeroable as _;
use hashbrown::HashSet;
use netconn_common::{
    AF_INET, FileRecord, OwnerRecord, TcpRecord, UNKNOWN_U32, UnsentRecord, attribution, kind, mark, role, tcp_state::*,
};
use netconn_model::fact::Direction;
use proptest::prelude::*;

use super::{
    past::{EndedLately, Minisock},
    testing::{Recorder, emit_to, emitted},
    *,
};
use crate::process::Key;

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
    let step = |effects: &mut Recorder<'_>| records.iter().for_each(|record| table.apply(record, effects));
    emitted(step).into_iter().map(|(change, ..)| change).collect()
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
fn of_two_dumps_the_second_says_what_is_gone() {
    let mut table = Table::default();
    run(&mut table, &[record(1, 1, 1, role::ACTIVE, SYN_SENT, ESTABLISHED)]);
    let there = record(2, 1, 1, role::ACTIVE, ESTABLISHED, ESTABLISHED);
    let mut dump = |dump: Vec<TcpRecord>, is_first_of_two| {
        table.begin_dump();
        table.end_dump(dump, &Coverage { is_first_of_two, ..everything() }, &mut Silent(None));
        table.from_slot(0).map(|(_, entry)| entry.socket).collect::<Vec<_>>()
    };
    assert_eq!(dump(vec![there], true), [1, 2]);
    assert_eq!(dump(vec![there], false), [2]);
}

#[test]
fn what_the_kernel_knows_better_was_missed() {
    use netconn_common::CountersRecord;
    let mut table = Table::default();
    for socket in [1, 2] {
        let mut up = record(socket, 1, 1, role::ACTIVE, SYN_SENT, ESTABLISHED);
        up.namespace = 10;
        run(&mut table, &[up]);
    }
    let mut listener = record(9, 1, 1, role::LISTENER, CLOSE, LISTEN);
    listener.namespace = 10;
    run(&mut table, &[listener]);
    let there = |socket, state: u8| CountersRecord {
        socket,
        state: u32::from(state),
        bytes_sent: 7,
        ..CountersRecord::zeroed()
    };
    let later = 1_000_000_000;
    let mut missed = |counters: &[CountersRecord], since_ns, over: u64| {
        table.compare(counters, &[10].into(), since_ns, |socket| socket == over).missed
    };
    let as_known = [there(9, LISTEN), there(1, ESTABLISHED), there(2, ESTABLISHED)];
    assert_eq!(missed(&as_known, later, 0), 0);
    assert_eq!(missed(&[as_known[0], there(1, FIN_WAIT1), as_known[2]], later, 0), 1);
    // The table knows more by now.
    assert_eq!(missed(&[as_known[0], there(1, SYN_SENT), as_known[2]], 1, 0), 0);
    // It does not know of one, which may be half open, or over by now.
    let three = |state| [as_known[0], as_known[1], as_known[2], there(3, state)];
    assert_eq!(missed(&three(ESTABLISHED), later, 0), 1);
    assert_eq!(missed(&three(ESTABLISHED), later, 3), 0);
    assert_eq!(missed(&three(SYN_RECV), later, 0), 0);
    assert_eq!(missed(&three(LISTEN), later, 0), 0);
    // One is over, be it a listener; or too young to be in the kernel's table for sure.
    assert_eq!(missed(&as_known[..2], later, 0), 1);
    assert_eq!(missed(&as_known[1..], later, 0), 1);
    assert_eq!(missed(&as_known[..2], 2, 0), 0);
    assert_eq!(table.from_slot(0).map(|(_, entry)| entry.totals.bytes_sent).sum::<u64>(), 21);
    // The port of an attempt comes later, wherever it is found to be missing.
    let mut attempt = record(3, 1, 1, role::ACTIVE, CLOSE, SYN_SENT);
    (attempt.namespace, attempt.local_port) = (10, 0);
    run(&mut table, &[attempt]);
    for counters in [&three(SYN_SENT)[..], &as_known] {
        let compared = table.compare(counters, &[10].into(), 2, |_| false);
        assert_eq!(compared, Comparison { missed: 0, lacks_ports: true, needs_dump: false });
    }
    table.set_port(3, 40_000);
    assert!(!table.compare(&as_known, &[10].into(), 2, |_| false).lacks_ports);
}

/// A dump that has seen everything there is.
fn everything() -> Coverage {
    Coverage { open_sockets: Some(HashSet::new()), ..Coverage::default() }
}

#[test]
fn what_was_in_a_namespace_that_is_gone_has_ended() {
    let mut table = Table::default();
    let in_namespace = |socket, namespace| {
        let mut attempt = record(socket, 1, 1, role::ACTIVE, SYN_SENT, ESTABLISHED);
        attempt.namespace = namespace;
        attempt
    };
    // Read; not read, but somebody has a socket of it open; gone.
    run(&mut table, &[in_namespace(1, 10), in_namespace(2, 20), in_namespace(3, 20), in_namespace(4, 30)]);
    table.begin_dump();
    let coverage = Coverage {
        namespaces: [10].into(),
        open_sockets: Some([2].into_iter().collect()),
        begun_ns: 0,
        is_first_of_two: false,
    };
    let changes = changes_of(&mut table, |table, effects| table.end_dump(Vec::new(), &coverage, effects));
    let reasons: Vec<Change> = changes.into_iter().map(|(change, _)| change).collect();
    assert_eq!(reasons, [Change::Close(CloseReason::Unknown, 0), Change::Close(CloseReason::NamespaceGone, 0)]);
    assert_eq!(table.from_slot(0).map(|(_, entry)| entry.socket).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn what_an_empty_dump_ends_has_ended_when_that_was_taken() {
    let mut table = Table::default();
    run(&mut table, &[record(1, 1, 1, role::LISTENER, CLOSE, LISTEN)]);
    table.begin_dump();
    let coverage = Coverage { begun_ns: 77_000, ..everything() };
    let ended = emitted(|effects| table.end_dump(Vec::new(), &coverage, effects));
    let ended: Vec<_> = ended.into_iter().map(|(change, _, time_ns)| (change, time_ns)).collect();
    assert_eq!(ended, [(Change::ListenEnd, 77_000)]);
}

#[test]
fn a_dump_says_what_is_left_where_nobody_can_look() {
    let mut table = Table::default();
    let mut up = record(1, 1, 1, role::ACTIVE, SYN_SENT, ESTABLISHED);
    up.namespace = 20;
    let mut lingering = record(2, 1, 1, role::ACTIVE, ESTABLISHED, FIN_WAIT1);
    lingering.namespace = 30;
    run(&mut table, &[up, lingering]);
    let later = 1_000_000_000;
    let compare = |table: &mut Table| table.compare(&[], &[10].into(), later, |_| false);
    let nothing = Comparison { missed: 0, lacks_ports: false, needs_dump: false };
    assert_eq!(compare(&mut table), Comparison { needs_dump: true, ..nothing });
    // Somebody has it open, or it is not known whether somebody has: once is enough, until it is doubted.
    for open_sockets in [None, Some([1].into_iter().collect())] {
        table.doubt_unreadable();
        assert!(compare(&mut table).needs_dump);
        table.begin_dump();
        let coverage = Coverage { namespaces: [10].into(), open_sockets, begun_ns: 0, is_first_of_two: false };
        table.end_dump(Vec::new(), &coverage, &mut Silent(None));
        assert_eq!(compare(&mut table), nothing);
    }
    assert_eq!(table.len(), 1);
    // What nobody has to have open says nothing.
    let mut ending = record(1, 1, 2, role::ACTIVE, ESTABLISHED, FIN_WAIT1);
    ending.namespace = 20;
    run(&mut table, &[ending]);
    table.doubt_unreadable();
    assert_eq!(compare(&mut table), nothing);
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
        for (change, entry, _) in emitted(|effects| table.apply(&record, effects)) {
            seen.push((entry.socket, entry.owner.tgid, entry.direction(), entry.preexisting, change));
        }
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
    let ended = emitted(|effects| table.apply(&last, effects));
    let connection = &ended[0].1;
    assert_eq!((connection.local.port, connection.remote.unwrap().port), (40000, 443));
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

fn owner_record(socket: u64, generation: u32, tgid: u32, how: u32) -> OwnerRecord {
    let mut record = OwnerRecord::zeroed();
    record.header.time_ns = 2000;
    (record.socket, record.generation) = (socket, generation);
    (record.owner.tgid, record.owner.how) = (tgid, how);
    record
}

/// An accepted connection of a listener of process 42, up to its state ESTABLISHED.
fn accepted(socket: u64) -> TcpRecord {
    let mut record = record(socket, 1, 1, role::PASSIVE, SYN_RECV, ESTABLISHED);
    (record.state.owner.tgid, record.state.owner.how) = (42, attribution::LISTENER);
    record
}

/// Returns what a step emits, with the process that is reported.
fn changes_of(table: &mut Table, step: impl FnOnce(&mut Table, &mut Recorder<'_>)) -> Vec<(Change, u32)> {
    let emitted = emitted(|effects| step(table, effects));
    emitted.into_iter().map(|(change, connection, _)| (change, connection.owner.tgid)).collect()
}

const UP: Change = Change::Connect(Outcome::Success);

#[test]
fn an_accepted_connection_waits_for_its_acceptor() {
    let mut table = Table::default();
    table.expect_acceptors();
    assert_eq!(changes_of(&mut table, |table, effects| table.apply(&accepted(7), effects)), []);
    assert_eq!(table.next_deadline(), Some(1001 + ACCEPT_WAIT_NS));
    let owner = owner_record(7, 1, 43, attribution::ACCEPT);
    assert_eq!(changes_of(&mut table, |table, effects| table.apply_owner(&owner, effects)), [(UP, 43)]);
    assert_eq!(table.next_deadline(), None, "nobody waits any more");
    let again = owner_record(7, 1, 44, attribution::RECEIVE);
    assert_eq!(changes_of(&mut table, |table, effects| table.apply_owner(&again, effects)), [], "it is announced once");
    let of_another_life = owner_record(7, 2, 45, attribution::RECEIVE);
    changes_of(&mut table, |table, effects| table.apply_owner(&of_another_life, effects));
    let last = record(7, 1, 2, role::PASSIVE, ESTABLISHED, CLOSE);
    let changes = changes_of(&mut table, |table, effects| table.apply(&last, effects));
    assert_eq!(changes, [(Change::Close(CloseReason::ResetByLocal, 0), 44)]);
}

#[test]
fn whoever_waits_in_vain_is_its_listeners() {
    let mut table = Table::default();
    table.expect_acceptors();
    for socket in 1..4 {
        changes_of(&mut table, |table, effects| table.apply(&accepted(socket), effects));
    }
    // One ends before anybody accepts it: both events come then.
    let last = record(2, 1, 2, role::PASSIVE, ESTABLISHED, CLOSE);
    let changes = changes_of(&mut table, |table, effects| table.apply(&last, effects));
    assert_eq!(changes, [(UP, 42), (Change::Close(CloseReason::ResetByLocal, 0), 42)]);
    let deadline = table.next_deadline().unwrap();
    assert_eq!(changes_of(&mut table, |table, effects| _ = table.announce_overdue(deadline - 1, effects)), []);
    assert_eq!(
        changes_of(&mut table, |table, effects| _ = table.announce_overdue(deadline, effects)),
        [(UP, 42), (UP, 42)]
    );
    assert_eq!(changes_of(&mut table, |table, effects| table.announce_all(0, effects)), []);
}

#[test]
fn what_was_never_sent_is_one_event_or_none() {
    let mut table = Table::default();
    let mut unsent = UnsentRecord::zeroed();
    unsent.attempt = record(7, 3, 1, role::ACTIVE, CLOSE, CLOSE);
    unsent.attempt.error = 101;
    let mut outcome = None;
    let changes = changes_of(&mut table, |table, effects| outcome = table.apply_unsent(&unsent, effects));
    assert_eq!(changes, [(Change::Connect(Outcome::Failure(Failure::NetUnreachable, 101)), 0)]);
    assert!(outcome.is_none() && table.is_empty());
    unsent.attempt.error = UNKNOWN_U32;
    let changes = changes_of(&mut table, |table, effects| outcome = table.apply_unsent(&unsent, effects));
    assert!(changes.is_empty() && table.is_empty());
    assert_eq!(outcome.unwrap().remote.unwrap().port, 443, "the caller finds out why");
}

#[test]
fn a_minisock_has_the_owner_of_its_connection() {
    let mut table = Table::default();
    let mut begin = record(7, 1, 1, role::ACTIVE, CLOSE, SYN_SENT);
    begin.state.owner.tgid = 42;
    let rest = [(SYN_SENT, ESTABLISHED), (ESTABLISHED, FIN_WAIT1), (FIN_WAIT1, FIN_WAIT2), (FIN_WAIT2, CLOSE)];
    let rest = (2..).zip(rest).map(|(sequence, (old, new))| record(7, 1, sequence, role::ACTIVE, old, new));
    let mut past = EndedLately::default();
    for record in [vec![begin], rest.collect()].concat() {
        let mut effects = emit_to(|change, connection: &Connection, at| past.note(change, connection, at));
        table.apply(&record, &mut effects);
    }
    assert!(table.is_empty());
    let minisock = Minisock::of(&record(0, 0, 0, role::UNKNOWN, TIME_WAIT, TIME_WAIT)).unwrap();
    let shown = past.connections.connection_of(&minisock);
    assert_eq!((shown.owner.tgid, shown.state, shown.socket), (42, TIME_WAIT, 7));
}

fn found(socket: u64, tgid: u32) -> FileRecord {
    let mut record = FileRecord::zeroed();
    (record.socket, record.owner.tgid, record.owner.how) = (socket, tgid, attribution::SCAN);
    record
}

fn keys(processes: &[(u32, u64)]) -> HashSet<Key> {
    processes.iter().map(|(tgid, start_ns)| Key::new(*tgid, *start_ns)).collect()
}

/// Returns which of these processes have left sockets, and which owners the kernel has for the sockets.
fn orphans(table: &Table, ended: &[(u32, u64)]) -> (HashSet<Key>, HashSet<Key>) {
    let mut orphans = Orphans::default();
    table.find_orphans(&keys(ended), &mut orphans);
    (orphans.processes, orphans.owners)
}

/// Returns the ids of the owner, the holder and the originator of a socket, 0 for none.
fn parties(table: &Table, socket: u64) -> (u32, u32, u32) {
    let (_, entry) = table.from_slot(0).find(|(_, entry)| entry.socket == socket).unwrap();
    (entry.owner.tgid, entry.holder().0.tgid, entry.originator().map_or(0, |(owner, _)| owner.tgid))
}

#[test]
fn sockets_that_outlive_their_process_are_found() {
    let mut table = Table::default();
    let mut listen = record(1, 1, 1, role::LISTENER, CLOSE, LISTEN);
    (listen.state.owner.tgid, listen.state.owner.start_ns, listen.state.owner.how) = (42, 7, attribution::LISTENER);
    let mut connect = record(2, 1, 1, role::ACTIVE, SYN_SENT, ESTABLISHED);
    (connect.state.owner.tgid, connect.state.owner.how) = (43, attribution::CONNECT);
    let mut over = record(3, 1, 1, role::ACTIVE, ESTABLISHED, FIN_WAIT2);
    over.state.owner.tgid = 44;
    run(&mut table, &[listen, connect, over]);
    let ended = [(42, 7), (42, 8), (43, 0), (44, 0), (0, 0)];
    assert_eq!(orphans(&table, &ended).0, keys(&[(42, 7), (43, 0)]));
    let apply = |table: &mut Table, file: &FileRecord, ended: &[(u32, u64)]| {
        changes_of(table, |table, effects| table.apply_file(file, &keys(ended), 0, effects))
    };
    for socket in 1..=2 {
        assert_eq!(apply(&mut table, &found(socket, 50), &ended), []);
        assert_eq!(apply(&mut table, &found(socket, 51), &ended), [], "the holder lives");
    }
    // Who connected stays in events; a listener's events are of whom has it.
    assert_eq!((parties(&table, 1), parties(&table, 2)), ((50, 50, 42), (43, 50, 43)));
    assert_eq!(orphans(&table, &ended).0, keys(&[]));
    // The next one: the kernel still has the first owner of the outgoing connection.
    assert_eq!(orphans(&table, &[(50, 0)]), (keys(&[(50, 0)]), keys(&[(50, 0), (43, 0)])));
    for socket in 1..=2 {
        apply(&mut table, &found(socket, 52), &[(50, 0)]);
        apply(&mut table, &found(socket, 50), &[(52, 0), (50, 0)]);
    }
    assert_eq!((parties(&table, 1), parties(&table, 2)), ((52, 52, 42), (43, 52, 43)));
    let ends = [record(1, 1, 2, role::LISTENER, LISTEN, CLOSE), record(2, 1, 2, role::ACTIVE, ESTABLISHED, CLOSE)];
    let told = changes_of(&mut table, |table, effects| ends.iter().for_each(|end| table.apply(end, effects)));
    assert_eq!(told, [(Change::ListenEnd, 52), (Change::Close(CloseReason::ResetByLocal, 0), 43)]);
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

/// Anything that can be done to a table.
#[derive(Clone, Debug)]
enum Step {
    Record(TcpRecord),
    Owner(OwnerRecord),
    Unsent(UnsentRecord),
    Found(FileRecord),
    Overdue(u64),
    Begin,
    Dump(Vec<TcpRecord>),
    Abandon,
    Tell(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let owner = (0_u64..4, 0_u32..3, 0_u32..4, 0_u32..7);
    prop_oneof![
        12 => any_record().prop_map(Step::Record),
        3 => owner.prop_map(|(socket, generation, tgid, how)| Step::Owner(owner_record(socket, generation, tgid, how))),
        2 => any_record().prop_map(|attempt| {
            let mut record = UnsentRecord::zeroed();
            record.attempt = attempt;
            (record.attempt.old_state, record.attempt.new_state) = (CLOSE, CLOSE);
            Step::Unsent(record)
        }),
        1 => (0_u64..4, 0_u32..4).prop_map(|(socket, tgid)| Step::Found(found(socket, tgid))),
        1 => (0_u64..2 * ACCEPT_WAIT_NS).prop_map(Step::Overdue),
        1 => Just(Step::Begin),
        1 => proptest::collection::vec(any_record(), 0..6).prop_map(|mut dump| {
            for record in &mut dump {
                record.old_state = record.new_state;
            }
            Step::Dump(dump)
        }),
        1 => Just(Step::Abandon),
        2 => (0_usize..3).prop_map(Step::Tell),
    ]
}

/// The events of each life so far: whether it is announced.
#[derive(Default)]
struct Told(std::collections::HashMap<(u64, u32), bool>);

impl Told {
    fn check(&mut self, change: Change, connection: &Connection) {
        let announced = self.0.entry((connection.socket, connection.generation)).or_insert(false);
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
    }
}

/// A socket's life as the kernel reports it: role and states.
fn any_life() -> impl Strategy<Value = (u32, Vec<u8>)> {
    let active = |rest: &[u8]| (role::ACTIVE, [&[CLOSE, SYN_SENT], rest].concat());
    let passive = |rest: &[u8]| (role::PASSIVE, [&[SYN_RECV, ESTABLISHED], rest].concat());
    proptest::sample::select(vec![
        active(&[CLOSE]),
        active(&[ESTABLISHED, CLOSE]),
        active(&[ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE]),
        active(&[ESTABLISHED, FIN_WAIT1, CLOSING, CLOSE]),
        active(&[ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSE]),
        active(&[SYN_RECV, ESTABLISHED, CLOSE]),
        passive(&[CLOSE]),
        passive(&[FIN_WAIT1, FIN_WAIT2, CLOSE]),
        passive(&[CLOSE_WAIT, LAST_ACK, CLOSE]),
        (role::LISTENER, vec![CLOSE, LISTEN, CLOSE]),
    ])
}

proptest! {
    /// Whatever arrives: every event belongs to a life that is in order, and nothing stays after a CLOSE.
    #[test]
    fn any_order_of_anything_gives_orderly_events(
        steps in proptest::collection::vec(any_step(), 0..80),
        acceptors: bool,
    ) {
        let mut table = Table::default();
        if acceptors {
            table.expect_acceptors();
        }
        let mut told = Told::default();
        for step in steps {
            let mut effects = emit_to(|change, connection: &Connection, _| told.check(change, connection));
            match step {
                Step::Record(record) => table.apply(&record, &mut effects),
                Step::Owner(record) => table.apply_owner(&record, &mut effects),
                Step::Unsent(record) => drop(table.apply_unsent(&record, &mut effects)),
                Step::Found(record) => table.apply_file(&record, &keys(&[(1, 0)]), 0, &mut effects),
                Step::Overdue(now) => _ = table.announce_overdue(now, &mut effects),
                Step::Begin => table.begin_dump(),
                Step::Dump(dump) => table.end_dump(dump, &everything(), &mut effects),
                Step::Abandon => table.abandon_dump(),
                Step::Tell(limit) => table.announce_backlog(limit, 0, &mut effects),
            }
            prop_assert!(table.len() <= 4);
            prop_assert_eq!(table.from_slot(0).count(), table.len());
            prop_assert_eq!(table.by_socket.len(), table.len());
            let listeners = table.from_slot(0).filter(|(_, entry)| entry.is_listener()).count();
            prop_assert!(table.listeners.values().flatten().count() >= listeners);
        }
        for socket in 0..4 {
            for generation in 0..3 {
                let end = record(socket, generation, u32::MAX, role::UNKNOWN, ESTABLISHED, CLOSE);
                table.apply(&end, &mut emit_to(|change, connection: &Connection, _| told.check(change, connection)));
            }
        }
        prop_assert!(table.is_empty(), "a CLOSE of every socket leaves nothing");
        prop_assert!(table.listeners.is_empty());
        prop_assert_eq!(table.next_deadline(), None);
        table.announce_backlog(usize::MAX, 0, &mut Silent(None));
        prop_assert!(table.pending.is_empty());
    }

    /// Lives of several sockets in any interleaving, with any records lost by the ring, are repaired by a dump taken in the
    /// middle of them: then the table is what the kernel has, and the events are in order. Without loss nothing is
    /// missing.
    #[test]
    fn a_dump_makes_good_what_was_lost(
        lives in proptest::collection::vec(any_life(), 1..8),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 60),
        lost in proptest::collection::vec(any::<bool>(), 60),
        (loses, taken, read) in (any::<bool>(), 0_usize..60, 0_usize..60),
    ) {
        let mut table = Table::default();
        let mut told = Told::default();
        let (mut connects, mut ends) = (0, 0);
        // How far each socket is in its life: the kernel's own knowledge.
        let mut at = vec![0; lives.len()];
        let now = |index: usize, at: &[usize]| {
            let (role, states) = &lives[index];
            let mut dumped = record(index as u64, 1, at[index] as u32, *role, states[at[index]], states[at[index]]);
            dumped.state.established_ns = 1;
            dumped
        };
        let is_shown = |index: usize, at: &[usize]| {
            at[index] > 0 && at[index] < lives[index].1.len() - 1
        };
        let mut dump = Vec::new();
        let (taken, read) = (taken.min(read), taken.max(read));
        for (moment, index) in order.iter().enumerate() {
            if moment == taken {
                table.begin_dump();
                // The iterator sees each socket at some moment while events go on: here, at its beginning.
                dump = (0..lives.len()).filter(|index| is_shown(*index, &at)).map(|index| now(index, &at)).collect();
            }
            if moment == read {
                let emit = |change: Change, connection: &Connection, _| {
                    told.check(change, connection);
                    connects += usize::from(matches!(change, Change::Connect(_) | Change::Listen));
                    ends += usize::from(matches!(change, Change::Close(..) | Change::ListenEnd));
                };
                table.end_dump(std::mem::take(&mut dump), &everything(), &mut emit_to(emit));
                if !loses || lost[..taken].iter().any(|lost| *lost) && !lost[taken..read].iter().any(|lost| *lost) {
                    let mut shown: Vec<_> = table.from_slot(0).map(|(_, entry)| (entry.socket, entry.state)).collect();
                    let mut kernel: Vec<_> = (0..lives.len())
                        .filter(|index| is_shown(*index, &at))
                        .map(|index| (index as u64, lives[index].1[at[index]]))
                        .collect();
                    shown.sort_unstable();
                    kernel.sort_unstable();
                    prop_assert_eq!(shown, kernel);
                }
            }
            let index = index.index(lives.len());
            let (role, states) = &lives[index];
            let Some(next) = states.get(at[index] + 1) else { continue };
            let change = record(index as u64, 1, at[index] as u32 + 1, *role, states[at[index]], *next);
            at[index] += 1;
            // Losses before the dump and while it is read; what comes later needs another dump.
            if loses && moment < read && lost[moment] {
                continue;
            }
            let mut effects = emit_to(|change: Change, connection: &Connection, _| {
                told.check(change, connection);
                connects += usize::from(matches!(change, Change::Connect(_) | Change::Listen));
                ends += usize::from(matches!(change, Change::Close(..) | Change::ListenEnd));
            });
            table.apply(&change, &mut effects);
            // What the dump found is announced little by little.
            table.announce_backlog(moment % 2, 0, &mut effects);
        }
        for (change, connection, _) in emitted(|effects| table.announce_backlog(usize::MAX, 0, effects)) {
            told.check(change, &connection);
            connects += 1;
        }
        prop_assert!(!table.has_backlog());
        if !loses {
            // SYN_SENT is no outcome yet.
            let is_up = |index: &usize| at[*index] > 0 && !matches!(lives[*index].1[at[*index]], SYN_SENT)
                && !(lives[*index].0 == role::ACTIVE && lives[*index].1[at[*index]] == SYN_RECV);
            prop_assert_eq!(connects, (0..lives.len()).filter(is_up).count(), "exactly one outcome each");
            let has_ended = |index: &usize| at[*index] == lives[*index].1.len() - 1;
            let failed = |index: &usize| has_ended(index) && lives[*index].1.len() == 3 && lives[*index].0 == role::ACTIVE;
            prop_assert_eq!(ends, (0..lives.len()).filter(|index| has_ended(index) && !failed(index)).count());
        }
    }
}
