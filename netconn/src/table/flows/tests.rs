//! Flows against what a kernel reports, in any order and with any loss.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use bytemuck::Zeroable as _;
use netconn_common::{
    AF_INET, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, OwnerRecord, ReleasedRecord, attribution, datagram_mark,
    flow_mark, tcp_state,
};
use netconn_model::fact::{Direction, Outcome};
use proptest::prelude::*;

use super::*;
use crate::{
    process::Key,
    table::{
        Change, Coverage, Orphans, Silent,
        testing::{Emitted, emitted, emitted_with, take_and_emit},
    },
};

const SECOND: u64 = 1_000_000_000;
/// When netconn began.
const BEGAN: u64 = 1000 * SECOND;

fn limits() -> Limits {
    Limits { flows: 16, idle_ns: 60 * SECOND, idle_both_ns: 180 * SECOND, counts: true }
}

fn flows() -> Flows {
    Flows::new(limits(), BEGAN)
}

fn key(socket: u64, port: u16) -> FlowKey {
    let mut remote_address = [0; 16];
    remote_address[..4].copy_from_slice(&[192, 0, 2, 1]);
    FlowKey { socket, remote_address, remote_port: port, protocol: IPPROTO_UDP, version: 4, reserved: 0 }
}

/// A flow that this host began, with one datagram of ten bytes.
fn flow(first_ns: u64, how: u32) -> Flow {
    let mut flow = Flow {
        first_ns,
        last_ns: first_ns,
        bytes_sent: 10,
        packets_sent: 1,
        marks: flow_mark::OUTGOING,
        ..Flow::zeroed()
    };
    (flow.owner.tgid, flow.owner.how) = (7, how);
    (flow.local_address[0], flow.local_port) = (10, 4000);
    flow
}

fn begin_record(key: FlowKey, flow: Flow) -> FlowRecord {
    let mut record = FlowRecord { key, flow, ..FlowRecord::zeroed() };
    record.header.time_ns = flow.first_ns;
    record
}

fn released_record(socket: u64, time_ns: u64) -> ReleasedRecord {
    let mut record = ReleasedRecord { socket, ..ReleasedRecord::zeroed() };
    record.header.time_ns = time_ns;
    record
}

fn owner_record(socket: u64, time_ns: u64, tgid: u32) -> OwnerRecord {
    let mut record = OwnerRecord { socket, ..OwnerRecord::zeroed() };
    record.header.time_ns = time_ns;
    (record.owner.tgid, record.owner.how) = (tgid, attribution::RECEIVE);
    record
}

fn socket_record(socket: u64, time_ns: u64, marks: u32) -> UdpSocketRecord {
    let mut record =
        UdpSocketRecord { socket, file: socket, marks, family: AF_INET, local_port: 53, ..UdpSocketRecord::zeroed() };
    record.header.time_ns = time_ns;
    record.protocol = u16::from(IPPROTO_UDP);
    (record.state.born_ns, record.state.namespace) = (time_ns, 1);
    (record.state.owner.tgid, record.state.owner.how) = (7, attribution::LISTENER);
    if marks & datagram_mark::CONNECTED != 0 {
        (record.remote_address[0], record.remote_port) = (11, 443);
    }
    record
}

fn changes(told: &[Emitted]) -> Vec<Change> {
    told.iter().map(|(change, ..)| *change).collect()
}

fn begin(flows: &mut Flows, key: FlowKey, flow: Flow) -> Vec<Emitted> {
    emitted(|effects| flows.apply_flow(&begin_record(key, flow), effects))
}

fn sweep(flows: &mut Flows, kernel: &[(FlowKey, Flow)], now: u64) -> Vec<Emitted> {
    let take = |wanted: &FlowKey| kernel.iter().find(|(key, _)| key == wanted).map(|(_, flow)| *flow);
    emitted_with(take, |effects| flows.sweep(kernel, now, effects))
}

const CONNECT: Change = Change::Connect(Outcome::Success);

fn close(reason: CloseReason) -> Change {
    Change::Close(reason, 0)
}

#[test]
fn a_flow_begins_and_ends_with_its_socket() {
    let mut flows = flows();
    let first = flow(BEGAN + 1, attribution::SEND);
    let began = begin(&mut flows, key(1, 53), first);
    assert_eq!(changes(&began), [CONNECT]);
    let (_, connection, at) = &began[0];
    assert_eq!((*at, connection.direction()), (BEGAN + 1, Some(Direction::Outgoing)));
    assert_eq!((connection.state, connection.protocol), (tcp_state::ESTABLISHED, IPPROTO_UDP));
    assert_eq!(connection.local, "10.0.0.0:4000".parse().map(end).unwrap());
    assert_eq!(connection.remote, "192.0.2.1:53".parse().map(end).ok());
    assert!(!connection.preexisting);
    assert_eq!(begin(&mut flows, key(1, 53), first).len(), 0, "the same again");
    let last = Flow { last_ns: BEGAN + 9, bytes_received: 100, packets_received: 2, ..first };
    let ended = emitted_with(|_| Some(last), |effects| flows.apply_close(&released_record(1, BEGAN + 20), effects));
    assert_eq!(changes(&ended), [close(CloseReason::Local)]);
    let (_, connection, at) = &ended[0];
    let exchanged = connection.exchanged.as_deref().unwrap();
    assert_eq!((connection.totals.bytes_sent, connection.totals.bytes_received), (10, 100));
    assert_eq!((exchanged.packets_sent, exchanged.packets_received, exchanged.last_ns), (1, 2, BEGAN + 9));
    assert_eq!(*at, BEGAN + 20);
    assert!(!flows.has_any());
}

fn end(address: std::net::SocketAddr) -> netconn_model::fact::End {
    netconn_model::fact::End { address: address.ip(), port: address.port() }
}

#[test]
fn only_what_comes_soon_after_a_question_to_many_is_an_answer() {
    let mut flows = flows();
    let group = FlowKey { remote_address: bytes([239, 255, 255, 250]), ..key(1, 1900) };
    let question = flow(BEGAN, attribution::SEND);
    begin(&mut flows, group, question);
    let mut last = 0;
    let mut direction = |flows: &mut Flows, at: u64| {
        last += 1;
        let from = FlowKey { remote_address: bytes([192, 0, 2, last]), ..key(1, 1900) };
        begin(flows, from, Flow { marks: 0, ..flow(at, attribution::SEND) })[0].1.direction()
    };
    let (answer, own) = (Some(Direction::Outgoing), Some(Direction::Incoming));
    assert_eq!(direction(&mut flows, BEGAN + ANSWER_NS), answer);
    assert_eq!(direction(&mut flows, BEGAN + ANSWER_NS + 1), own, "nobody has asked it");
    // The socket asks again: its flow goes on.
    let again = Flow { last_ns: BEGAN + 40 * SECOND, packets_sent: 2, ..question };
    sweep(&mut flows, &[(group, again)], BEGAN + 41 * SECOND);
    assert_eq!(direction(&mut flows, BEGAN + 42 * SECOND), answer);
    assert_eq!(direction(&mut flows, BEGAN + 60 * SECOND), own);
}

fn bytes(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address);
    bytes
}

#[test]
fn a_flow_waits_for_its_owner() {
    let mut flows = flows();
    for how in [attribution::LISTENER, attribution::CREATE, attribution::UNKNOWN] {
        let start = BEGAN + u64::from(how) * SECOND;
        assert_eq!(begin(&mut flows, key(1, 53), flow(start, how)).len(), 0);
        assert_eq!(flows.next_deadline(), Some(start + OWNER_WAIT_NS));
        let own = emitted(|effects| assert!(flows.apply_owner(&owner_record(1, start + 5, 8), effects)));
        assert_eq!(changes(&own), [CONNECT]);
        assert_eq!((own[0].1.owner.tgid, own[0].2), (8, start));
        assert_eq!(flows.next_deadline(), None);
        // The next flow of the socket has the same owner, also if its record does not know yet.
        let next = begin(&mut flows, key(1, 54), flow(start + 6, how));
        assert_eq!((changes(&next), next[0].1.owner.tgid), (vec![CONNECT], 8));
        let ended = emitted(|effects| flows.apply_close(&released_record(1, start + 9), effects));
        assert_eq!(changes(&ended), [close(CloseReason::Local); 2]);
        flows.recent = RecentEnds::default();
    }
    // The record is lost, and the kernel asked.
    begin(&mut flows, key(5, 53), flow(BEGAN + 50, attribution::LISTENER));
    let mut used = socket_record(5, BEGAN + 50, datagram_mark::USED);
    assert_eq!(emitted(|effects| flows.refresh(&[used], BEGAN + 51, effects)).len(), 0, "nobody used it");
    (used.state.owner.tgid, used.state.owner.how) = (9, attribution::RECEIVE);
    let own = emitted(|effects| flows.refresh(&[used], BEGAN + 51, effects));
    assert_eq!((changes(&own), own[0].1.owner.tgid), (vec![CONNECT], 9));
    // Nobody receives.
    begin(&mut flows, key(2, 53), flow(BEGAN + 60, attribution::LISTENER));
    assert_eq!(emitted(|effects| flows.announce_overdue(BEGAN + 60, effects)).len(), 0);
    let overdue = emitted(|effects| flows.announce_overdue(BEGAN + 60 + OWNER_WAIT_NS, effects));
    assert_eq!((changes(&overdue), overdue[0].1.owner.tgid, overdue[0].2), (vec![CONNECT], 7, BEGAN + 60));
    // Its socket is closed before: it is announced all the same, and at the end of the daemon too.
    begin(&mut flows, key(3, 53), flow(BEGAN + 61, attribution::CREATE));
    let both = emitted(|effects| flows.apply_close(&released_record(3, BEGAN + 62), effects));
    assert_eq!(changes(&both), [CONNECT, close(CloseReason::Local)]);
    begin(&mut flows, key(4, 53), flow(BEGAN + 63, attribution::CREATE));
    assert_eq!(changes(&emitted(|effects| flows.announce_all(BEGAN + 63, effects))), [CONNECT]);
    assert!(!set_owner(&mut flows, 9), "a socket that nobody knows");
}

#[test]
fn what_a_process_leaves_behind_has_a_holder() {
    let mut flows = flows();
    let mut bound = socket_record(1, BEGAN, datagram_mark::BOUND);
    (bound.state.owner.tgid, bound.state.owner.how) = (7, attribution::LISTENER);
    emitted(|effects| flows.apply_socket(&bound, effects));
    begin(&mut flows, key(1, 53), flow(BEGAN + 1, attribution::SEND));
    // Whose process was not seen to use the socket, and whose event waits.
    begin(&mut flows, key(2, 53), flow(BEGAN + 2, attribution::CREATE));
    let ended: hashbrown::HashSet<Key> = [Key::new(7, 0)].into_iter().collect();
    let mut orphans = Orphans::default();
    flows.find_orphans(&ended, &mut orphans);
    assert!(orphans.processes == ended && orphans.owners == ended && orphans.has_datagrams);
    let holder = Owner { tgid: 9, how: attribution::SCAN, ..Owner::default() };
    let told = emitted(|effects| {
        for socket in 1..=2 {
            assert!(flows.apply_holder(socket, &holder, &ended, BEGAN + 3, effects));
        }
        assert!(!flows.apply_holder(3, &holder, &ended, BEGAN + 3, effects));
    });
    assert_eq!((changes(&told), told[0].1.owner.tgid), (vec![CONNECT], 9));
    let mut parties: Vec<_> = flows
        .entries
        .connections()
        .map(|entry| (entry.owner.tgid, entry.holder().0.tgid, entry.originator().map(|(first, _)| first.tgid)))
        .collect();
    parties.sort_unstable();
    assert_eq!(parties, [(7, 9, Some(7)), (9, 9, None), (9, 9, Some(7))]);
    // What begins later is of whom has the socket, whatever the record says; what began before ends as it began.
    let later = begin(&mut flows, key(1, 54), flow(BEGAN + 4, attribution::SEND));
    assert_eq!((changes(&later), later[0].1.owner.tgid), (vec![CONNECT], 9));
    let over = emitted(|effects| flows.apply_close(&released_record(1, BEGAN + 9), effects));
    let mut owners: Vec<_> = over.iter().map(|(_, entry, _)| (entry.is_flow(), entry.owner.tgid)).collect();
    owners.sort_unstable();
    assert_eq!(owners, [(false, 9), (true, 7), (true, 9)]);
}

fn set_owner(flows: &mut Flows, socket: u64) -> bool {
    flows.apply_owner(&owner_record(socket, BEGAN, 8), &mut Silent(None))
}

#[test]
fn flows_are_over_when_nothing_comes_any_more() {
    let mut flows = flows();
    let one = flow(BEGAN, attribution::SEND);
    let both = Flow { packets_received: 1, ..flow(BEGAN + 1, attribution::SEND) };
    begin(&mut flows, key(1, 1), one);
    begin(&mut flows, key(1, 2), both);
    let kernel = [(key(1, 1), one), (key(1, 2), both)];
    assert_eq!(sweep(&mut flows, &kernel, BEGAN + 60 * SECOND - 1).len(), 0);
    let ended = sweep(&mut flows, &kernel, BEGAN + 65 * SECOND);
    assert_eq!((changes(&ended), ended[0].2), (vec![close(CloseReason::Idle)], BEGAN + 60 * SECOND));
    let ended = sweep(&mut flows, &kernel[1..], BEGAN + 181 * SECOND);
    assert_eq!((changes(&ended), ended[0].2), (vec![close(CloseReason::Idle)], BEGAN + 1 + 180 * SECOND));
    assert!(flows.is_empty());
    // A datagram after that is another flow.
    assert_eq!(changes(&begin(&mut flows, key(1, 1), flow(BEGAN + 190 * SECOND, attribution::SEND))), [CONNECT]);
}

#[test]
fn the_map_makes_good_what_was_lost() {
    let mut flows = flows();
    let older = flow(BEGAN - 1, attribution::SEND);
    let lost = flow(BEGAN + 1, attribution::SEND);
    let kernel = [(key(1, 1), older), (key(2, 2), lost)];
    // There may be many: they are announced when the outputs have room.
    assert_eq!(sweep(&mut flows, &kernel, BEGAN + SECOND).len(), 0);
    assert!(flows.has_backlog());
    let found = emitted(|effects| flows.announce_backlog(9, BEGAN + SECOND, effects));
    let preexisting: Vec<_> = found.iter().map(|(_, flow, _)| (flow.socket, flow.preexisting)).collect();
    assert_eq!((changes(&found), preexisting), (vec![CONNECT, CONNECT], vec![(1, true), (2, false)]));
    // Totals are as in the map; what is not in it has ended, unless it began since the map was read.
    let more = Flow { bytes_sent: 77, ..older };
    begin(&mut flows, key(3, 3), flow(BEGAN + 3 * SECOND, attribution::SEND));
    let ended = sweep(&mut flows, &[(key(1, 1), more)], BEGAN + 2 * SECOND);
    assert_eq!((changes(&ended), ended[0].1.socket), (vec![close(CloseReason::Unknown)], 2));
    let rows: Vec<(u64, u64)> = flows.from_slot(0).map(|(_, entry)| (entry.socket, entry.totals.bytes_sent)).collect();
    assert!(rows.contains(&(1, 77)) && rows.contains(&(3, 10)) && rows.len() == 2, "{rows:?}");
}

#[test]
fn a_record_that_comes_after_its_socket_is_closed_is_told_at_once() {
    let mut flows = flows();
    emitted(|effects| flows.apply_close(&released_record(1, BEGAN + 2), effects));
    let first = flow(BEGAN + 1, attribution::LISTENER);
    let taken = Cell::new(Some(Flow { bytes_sent: 20, ..first }));
    let late = emitted_with(|_| taken.take(), |effects| flows.apply_flow(&begin_record(key(1, 1), first), effects));
    assert_eq!(changes(&late), [CONNECT, close(CloseReason::Local)]);
    assert_eq!(late[1].1.totals.bytes_sent, 20);
    assert_eq!(begin(&mut flows, key(1, 1), first).len(), 0, "and once only");
    // The same where its record is lost and the sweep finds it in the map.
    emitted(|effects| flows.apply_close(&released_record(2, BEGAN + 2), effects));
    let late = sweep(&mut flows, &[(key(2, 1), first)], BEGAN + SECOND);
    assert_eq!(changes(&late), [CONNECT, close(CloseReason::Local)]);
    assert!(!flows.has_any());
}

#[test]
fn sockets_that_are_bound_are_listeners() {
    let mut flows = flows();
    let bound = socket_record(1, BEGAN + 1, datagram_mark::BOUND);
    let listen = emitted(|effects| flows.apply_socket(&bound, effects));
    assert_eq!(changes(&listen), [Change::Listen]);
    let listener = &listen[0].1;
    assert!(listener.is_listener() && listener.subject().listening && listener.remote.is_none());
    assert_eq!((listener.state, listener.generation, listener.local.port), (UNCONNECTED, 0, 53));
    assert_eq!(emitted(|effects| flows.apply_socket(&bound, effects)).len(), 0);
    assert!(set_owner(&mut flows, 1));
    assert_eq!(flows.from_slot(0).next().unwrap().1.owner.tgid, 8);
    // Connected meanwhile: its flow shows more.
    let connected = socket_record(1, BEGAN + 2, datagram_mark::BOUND | datagram_mark::CONNECTED);
    assert_eq!(emitted(|effects| flows.refresh(&[connected], BEGAN + 2, effects)).len(), 0);
    let row = flows.from_slot(0).next().unwrap().1;
    assert_eq!((row.state, row.subject().listening, row.remote.is_some()), (tcp_state::ESTABLISHED, false, true));
    begin(&mut flows, key(1, 9), flow(BEGAN + 3, attribution::SEND));
    assert_eq!(flows.from_slot(0).filter(|(_, entry)| entry.is_flow()).count(), 1);
    assert_eq!(flows.from_slot(0).count(), 1);
    let ended = emitted(|effects| flows.apply_close(&released_record(1, BEGAN + 9), effects));
    assert_eq!(changes(&ended), [close(CloseReason::Local), Change::ListenEnd]);
    assert!(ended[1].1.remote.is_none());
    assert_eq!(emitted(|effects| flows.apply_socket(&bound, effects)).len(), 0, "a late record of a closed socket");
    // Sockets for ICMP echo wait for nobody.
    let ping = UdpSocketRecord { protocol: u16::from(IPPROTO_ICMP), ..socket_record(3, BEGAN, datagram_mark::BOUND) };
    assert_eq!(emitted(|effects| flows.apply_socket(&ping, effects)).len(), 0);
}

/// A dump of namespace 1, and who has what open in others.
fn coverage(held: Option<&[u64]>) -> Coverage {
    let open_sockets = held.map(|held| held.iter().copied().collect());
    Coverage { namespaces: [1].into(), open_sockets, begun_ns: 0, is_first_of_two: false }
}

#[test]
fn what_no_program_saw_end_is_looked_for() {
    let mut flows = flows();
    let dump = |flows: &mut Flows, sockets: &[UdpSocketRecord], held: Option<&[u64]>| {
        flows.begin_dump(BEGAN + 2 * SECOND);
        let now = BEGAN + 3 * SECOND;
        changes(&emitted(|effects| flows.end_dump(sockets, &coverage(held), now, effects)))
    };
    let needs = |flows: &Flows, sockets: &[UdpSocketRecord]| flows.needs_dump(sockets, &[1].into(), BEGAN + SECOND);
    let here = socket_record(1, BEGAN + 1, datagram_mark::BOUND);
    emitted(|effects| flows.apply_socket(&here, effects));
    assert!(!needs(&flows, &[here]) && needs(&flows, &[]));
    assert_eq!(dump(&mut flows, &[], None), [Change::ListenEnd]);
    assert!(!needs(&flows, &[]) && !flows.has_unreadable(&[1].into()));
    // Where nobody can look any more, open files say it: once, until that is doubted.
    let mut there = socket_record(2, BEGAN + 1, datagram_mark::BOUND);
    there.state.namespace = 2;
    emitted(|effects| flows.apply_socket(&there, effects));
    for held in [None, Some(&[2][..])] {
        flows.doubt_unreadable();
        assert!(needs(&flows, &[]) && flows.has_unreadable(&[1].into()));
        assert_eq!(dump(&mut flows, &[], held), []);
        assert!(!needs(&flows, &[]));
    }
    assert_eq!(dump(&mut flows, &[], Some(&[])), [Change::ListenEnd]);
    assert!(!flows.has_any());
}

#[test]
fn a_dump_says_what_is_there_and_what_is_gone() {
    let mut flows = flows();
    let dump = |flows: &mut Flows, now: u64, sockets: &[UdpSocketRecord]| {
        flows.begin_dump(now);
        let told = emitted(|effects| {
            flows.end_dump(sockets, &coverage(None), now, effects);
            flows.announce_backlog(usize::MAX, now, effects);
        });
        told.into_iter().map(|(change, connection, _)| (change, connection.socket)).collect::<Vec<_>>()
    };
    let mut older = socket_record(1, 0, 0);
    older.header.time_ns = BEGAN;
    let lost = socket_record(2, BEGAN + 1, datagram_mark::BOUND);
    // Has a port because it has sent; connected.
    let sender = socket_record(3, BEGAN + 1, datagram_mark::USED);
    let connected = socket_record(4, BEGAN + 1, datagram_mark::CONNECTED);
    let found = dump(&mut flows, BEGAN + SECOND, &[older, lost, sender, connected]);
    assert_eq!(found, [(Change::Listen, 1), (Change::Listen, 2)]);
    let preexisting: Vec<bool> = flows.from_slot(0).map(|(_, entry)| entry.preexisting).collect();
    assert_eq!(preexisting, [true, false]);
    assert_eq!(dump(&mut flows, BEGAN + 2 * SECOND, &[older, lost]), []);
    // A flow of a socket that is gone, one of another namespace, one that is not UDP, and one that is young.
    let namespace = |namespace, flow| Flow { namespace, ..flow };
    let early = flow(BEGAN + 1, attribution::SEND);
    begin(&mut flows, key(6, 1), namespace(1, early));
    begin(&mut flows, key(7, 1), namespace(2, early));
    begin(&mut flows, FlowKey { protocol: IPPROTO_ICMP, ..key(8, 0) }, namespace(1, early));
    begin(&mut flows, key(9, 1), namespace(1, flow(BEGAN + 9 * SECOND, attribution::SEND)));
    begin(&mut flows, key(2, 1), namespace(1, early));
    let gone = dump(&mut flows, BEGAN + 4 * SECOND, &[lost]);
    assert_eq!(gone, [(Change::ListenEnd, 1), (close(CloseReason::Unknown), 6)]);
    // Closed after the iterator saw it.
    flows.begin_dump(BEGAN + 5 * SECOND);
    emitted(|effects| flows.apply_close(&released_record(2, BEGAN + 6 * SECOND), effects));
    flows.recent = RecentEnds::default();
    let back = emitted(|effects| flows.end_dump(&[lost], &coverage(None), BEGAN + 7 * SECOND, effects));
    assert_eq!(changes(&back), []);
    assert!(!flows.has_backlog());
}

#[test]
fn too_many_flows_of_a_socket_are_folded() {
    let mut flows = flows();
    for port in 1..=5 {
        begin(&mut flows, key(1, port), flow(BEGAN + u64::from(port), attribution::SEND));
        assert_eq!(flows.take_sockets_to_fold(), if port == 5 { vec![1] } else { vec![] });
    }
    begin(&mut flows, key(1, 6), flow(BEGAN + 6, attribution::SEND));
    assert!(flows.take_sockets_to_fold().is_empty(), "once only");
    let mut folded_flow = flow(BEGAN + 7, attribution::SEND);
    folded_flow.bytes_sent = 99;
    let folded_events = begin(&mut flows, folded_key(1), folded_flow);
    assert_eq!(changes(&folded_events), [CONNECT]);
    assert!(folded_events[0].1.remote.is_none() && folded_events[0].1.exchanged.as_ref().unwrap().folded);
    assert_eq!((flows.folded(), flows.len()), (1, 7));
    assert_eq!(flows.protocols().collect::<Vec<_>>(), [(0, 1), (17, 6)]);
    let ended = emitted(|effects| flows.apply_close(&released_record(1, BEGAN + 9), effects));
    assert_eq!((ended.len(), flows.folded(), flows.has_any()), (7, 0, false));
    // Its record was lost: it is reported at the end of the socket.
    for port in 1..=5 {
        begin(&mut flows, key(2, port), flow(BEGAN + u64::from(port), attribution::SEND));
    }
    let take = |wanted: &FlowKey| (*wanted == folded_key(2)).then_some(folded_flow);
    let ended = emitted_with(take, |effects| flows.apply_close(&released_record(2, BEGAN + 9), effects));
    assert_eq!(ended.len(), 7);
    assert_eq!((ended[6].0, ended[6].1.totals.bytes_sent), (close(CloseReason::Local), 99));
}

#[test]
fn where_nothing_is_counted_connected_sockets_are_flows() {
    let mut flows = Flows::new(Limits { counts: false, ..limits() }, BEGAN);
    let connected = socket_record(1, BEGAN + 1, datagram_mark::CONNECTED);
    let began = emitted(|effects| flows.apply_socket(&connected, effects));
    assert_eq!(changes(&began), [CONNECT]);
    assert_eq!((began[0].1.direction(), began[0].1.is_flow()), (Some(Direction::Outgoing), true));
    assert_eq!(began[0].1.totals.bytes_sent, netconn_common::UNKNOWN_U64);
    assert_eq!(emitted(|effects| flows.apply_socket(&connected, effects)).len(), 0);
    let mut elsewhere = connected;
    (elsewhere.remote_port, elsewhere.header.time_ns) = (444, BEGAN + 2);
    let moved = emitted(|effects| flows.apply_socket(&elsewhere, effects));
    assert_eq!(changes(&moved), [close(CloseReason::Local), CONNECT]);
    assert_ne!(moved[0].1.born_ns, moved[1].1.born_ns, "not the same flow");
    // It was bound before: the entry of the connected socket shows more.
    let bound = socket_record(1, BEGAN + 1, datagram_mark::BOUND);
    assert_eq!(changes(&emitted(|effects| flows.apply_socket(&bound, effects))), [Change::Listen]);
    emitted(|effects| flows.refresh(&[elsewhere], BEGAN + 3, effects));
    assert_eq!(flows.from_slot(0).filter(|(_, entry)| entry.is_flow()).count(), 1);
    assert_eq!(flows.from_slot(0).count(), 1);
    assert_eq!(sweep(&mut flows, &[], BEGAN + 100 * SECOND).len(), 0);
    let ended = emitted(|effects| flows.apply_close(&released_record(1, BEGAN + 9), effects));
    assert_eq!(changes(&ended), [close(CloseReason::Local), Change::ListenEnd]);
}

#[test]
fn a_raw_socket_may_speak_any_protocol() {
    let mut flows = flows();
    let key = FlowKey { protocol: IPPROTO_TCP, remote_port: 0, ..key(1, 0) };
    let began = begin(&mut flows, key, flow(BEGAN + 1, attribution::SEND));
    assert!(began[0].1.is_flow());
}

/// The events of a flow: changes, with the bytes sent by then.
type Changes = Vec<(Change, u64)>;

/// A kernel that counts flows: two ends for each of three sockets.
#[derive(Default)]
struct Kernel {
    map: HashMap<FlowKey, Flow>,
    closed: Vec<u64>,
    now: u64,
    /// Flows by socket and beginning, with what they have moved.
    all: HashMap<(u64, u64), u64>,
}

#[derive(Clone, Debug)]
enum Step {
    /// A datagram of this many bytes between a socket and an end; whether its record, if it has one, is lost.
    Datagram(u64, u16, u64, bool),
    Close(u64, bool),
    Own(u64),
    /// This many records are handled, two of them in the wrong order if the flag is set.
    Handle(usize, bool),
    /// The map is compared, after everything so far is handled, or before.
    Sweep(bool),
    Wait(u64),
    Overdue,
}

enum Ring {
    Flow(FlowRecord),
    Released(ReleasedRecord),
    Owner(OwnerRecord),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u64..12, 1_u16..3, 1_u64..100, any::<bool>()).prop_map(|(a, b, c, d)| Step::Datagram(a, b, c, d)),
        3 => (0_u64..12, any::<bool>()).prop_map(|(socket, lost)| Step::Close(socket, lost)),
        2 => (0_u64..12).prop_map(Step::Own),
        5 => (1_usize..5, any::<bool>()).prop_map(|(count, swap)| Step::Handle(count, swap)),
        2 => any::<bool>().prop_map(Step::Sweep),
        1 => (1_u64..100).prop_map(|seconds| Step::Wait(seconds * SECOND)),
        1 => Just(Step::Overdue),
    ]
}

proptest! {
    /// Whatever order records come in and whichever are lost: each flow of the kernel begins and ends once, with all that it
    /// has moved.
    #[test]
    fn each_flow_begins_and_ends_once(steps in proptest::collection::vec(any_step(), 0..120)) {
        let mut flows = flows();
        let kernel = RefCell::new(Kernel { now: BEGAN + 1, ..Kernel::default() });
        let ring: RefCell<Vec<Ring>> = RefCell::default();
        let told: RefCell<HashMap<(u64, u64), Changes>> = RefCell::default();
        let emit = |change: Change, connection: &Connection, _| {
            let mut told = told.borrow_mut();
            let changes = told.entry((connection.socket, connection.born_ns)).or_default();
            changes.push((change, connection.totals.bytes_sent));
        };
        let take = |key: &FlowKey| kernel.borrow_mut().map.remove(key);
        let handle = |flows: &mut Flows, count: usize, swaps: bool| {
            let mut effects = take_and_emit(take, emit);
            let mut ring = ring.borrow_mut();
            if swaps && ring.len() > 1 {
                ring.swap(0, 1);
            }
            let count = count.min(ring.len());
            for record in ring.drain(..count) {
                match record {
                    Ring::Flow(record) => flows.apply_flow(&record, &mut effects),
                    Ring::Released(record) => flows.apply_close(&record, &mut effects),
                    Ring::Owner(record) => _ = flows.apply_owner(&record, &mut effects),
                }
            }
        };
        let end = Step::Wait(1000 * SECOND);
        for step in steps.into_iter().chain([Step::Sweep(true), end, Step::Sweep(true)]) {
            let mut all = kernel.borrow_mut();
            all.now += 64;
            let now = all.now;
            match step {
                Step::Datagram(socket, port, bytes, is_lost) if !all.closed.contains(&socket) => {
                    let is_new = !all.map.contains_key(&key(socket, port));
                    let how = if socket % 2 == 0 { attribution::SEND } else { attribution::LISTENER };
                    let new = Flow { bytes_sent: 0, packets_sent: 0, ..flow(now, how) };
                    let counted = all.map.entry(key(socket, port)).or_insert(new);
                    counted.last_ns = now;
                    counted.bytes_sent += bytes;
                    counted.packets_sent += 1;
                    let (first_ns, counted) = (counted.first_ns, *counted);
                    *all.all.entry((socket, first_ns)).or_default() += bytes;
                    if is_new && !is_lost {
                        ring.borrow_mut().push(Ring::Flow(begin_record(key(socket, port), counted)));
                    }
                }
                Step::Close(socket, is_lost) if !all.closed.contains(&socket) => {
                    all.closed.push(socket);
                    if !is_lost {
                        ring.borrow_mut().push(Ring::Released(released_record(socket, now)));
                    }
                }
                Step::Own(socket) => ring.borrow_mut().push(Ring::Owner(owner_record(socket, now, 8))),
                // The ring is empty long before.
                Step::Wait(time) => {
                    all.now += time;
                    drop(all);
                    handle(&mut flows, usize::MAX, false);
                }
                Step::Handle(count, swaps) => {
                    drop(all);
                    handle(&mut flows, count, swaps);
                }
                Step::Sweep(handles) => {
                    drop(all);
                    handle(&mut flows, if handles { usize::MAX } else { 0 }, false);
                    let read: Vec<(FlowKey, Flow)> =
                        kernel.borrow().map.iter().map(|(key, flow)| (*key, *flow)).collect();
                    flows.sweep(&read, now, &mut take_and_emit(take, emit));
                    prop_assert_eq!(flows.len(), kernel.borrow().map.len());
                }
                Step::Overdue => {
                    drop(all);
                    flows.announce_overdue(now, &mut take_and_emit(take, emit));
                }
                Step::Datagram(..) | Step::Close(..) => {}
            }
        }
        prop_assert!(!flows.has_any());
        prop_assert_eq!(flows.next_deadline(), None);
        let told = told.borrow();
        for (flow, bytes) in &kernel.borrow().all {
            let changes = told.get(flow).map(Vec::as_slice).unwrap_or_default();
            prop_assert_eq!(changes.len(), 2, "{:?}", changes);
            prop_assert_eq!(changes[0].0, CONNECT);
            prop_assert!(matches!(changes[1].0, Change::Close(..)));
            prop_assert_eq!(changes[1].1, *bytes);
        }
        prop_assert_eq!(told.len(), kernel.borrow().all.len());
    }
}

#[test]
fn a_sweep_leaves_what_is_too_much_to_the_next() {
    let limits = Limits { flows: 1 << 20, idle_ns: SECOND, idle_both_ns: SECOND, counts: true };
    let mut flows = Flows::new(limits, BEGAN);
    let kernel: Vec<_> = (0..10_000).map(|number| (key(number, 1), flow(BEGAN + 1, attribution::SEND))).collect();
    let at = BEGAN + 9 * SECOND;
    let ended = sweep(&mut flows, &kernel, at);
    // The beginning of each is reported before its end.
    assert_eq!((ended.len(), flows.is_unfinished()), (2 * 8192, true));
    assert_eq!(sweep(&mut flows, &kernel[8192..], at).len(), 2 * (10_000 - 8192));
    assert!(!flows.is_unfinished() && flows.is_empty());
}

#[test]
fn a_socket_with_few_flows_is_unfolded_when_there_is_room() {
    let mut flows = flows();
    let rest = Flow { protocol: 17, ..flow(BEGAN + 1, attribution::SEND) };
    begin(&mut flows, FlowKey { socket: 1, ..FlowKey::default() }, rest);
    assert_eq!(flows.folded(), 1);
    let kernel = [(FlowKey { socket: 1, ..FlowKey::default() }, rest)];
    let ended = sweep(&mut flows, &kernel, BEGAN + 2);
    assert_eq!((changes(&ended), flows.folded()), (vec![close(CloseReason::Idle)], 0));
}
