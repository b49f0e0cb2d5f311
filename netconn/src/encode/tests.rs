//! What flows of datagrams look like, in events and in rows; and how long these may be.

use std::rc::Rc;

use bytemuck::Zeroable as _;
use bytes::BytesMut;
use netconn_common::{
    Flow, FlowKey, FlowRecord, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP, ImageFile, Owner, ReleasedRecord,
    UNKNOWN_U32, UdpSocketRecord, attribution, datagram_mark, flow_mark,
};
use netconn_model::{
    event::Sensor,
    fact::{Attribution, CloseReason, Outcome},
    row::Row,
};
use serde_json::{Value, json};

use super::{
    EVENT_MAX,
    event::{EventEncoder, ProcessMembers, Written},
    row::{Context, row},
};
use crate::{
    clock::Clock,
    names::{KNOWN_NS, Names},
    process::{
        Ancestry, Identity, Key, Process, Processes, Remembered,
        lookup::{Lookup, LookupAnswer},
    },
    table::{
        Change, Connection, Party, Succession,
        flows::{Flows, Limits},
        past::EndedLately,
        testing::emitted_with,
    },
};

const BOOT: &str = "0123456789abcdef";
const START: u64 = 5_000_000_000;

/// Everything that follows when a flow begins and its socket is closed a second after its last datagram.
fn told(key: FlowKey, flow: Flow) -> Vec<(Change, Connection, u64)> {
    let mut flows = flows();
    let mut began = FlowRecord { key, flow, ..FlowRecord::zeroed() };
    began.header.time_ns = flow.first_ns;
    let mut released = ReleasedRecord { socket: key.socket, ..ReleasedRecord::zeroed() };
    released.header.time_ns = flow.last_ns + 1_000_000_000;
    emitted_with(
        |_| Some(flow),
        |effects| {
            flows.apply_flow(&began, effects);
            flows.apply_close(&released, effects);
        },
    )
}

fn flows() -> Flows {
    Flows::new(Limits { flows: 100, idle_ns: 60, idle_both_ns: 180, counts: true }, 0)
}

fn sensor() -> Sensor {
    Sensor { id: "id".into(), host: "host".into(), site: None, source: "netconn".into(), boot: BOOT.repeat(2) }
}

fn event((change, connection, at): &(Change, Connection, u64)) -> Value {
    let mut out = BytesMut::new();
    let mut encoder = EventEncoder::new(&sensor(), 1);
    let written = encoder.connection(
        &mut out,
        &Clock::new(),
        &mut directory(),
        &mut ProcessMembers::default(),
        (*change, connection, *at),
        || true,
    );
    assert_eq!(written, Written::Yes);
    serde_json::from_slice(&out).unwrap()
}

fn directory() -> Names {
    Names::new(Lookup::start(|| ()).unwrap())
}

/// The members of an event that begin with this.
fn members(event: &Value, beginning: &str) -> Value {
    let members = event
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(beginning)?.to_owned(), value.clone())));
    Value::Object(members.collect())
}

fn address(octets: [u8; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&octets);
    address
}

fn key(protocol: u8, remote_port: u16) -> FlowKey {
    FlowKey { socket: 0xab, remote_address: address([8, 8, 8, 8]), remote_port, protocol, version: 4, reserved: 0 }
}

fn flow(local_port: u16) -> Flow {
    let mut flow = Flow {
        first_ns: START,
        last_ns: START + 20_500_000,
        bytes_sent: 30,
        bytes_received: 120,
        packets_sent: 1,
        packets_received: 1 << 40,
        marks: flow_mark::OUTGOING,
        local_address: address([192, 168, 1, 52]),
        local_port,
        namespace: UNKNOWN_U32,
        ..Flow::zeroed()
    };
    (flow.owner.tgid, flow.owner.how) = (7, attribution::SEND);
    flow
}

#[test]
fn a_udp_flow_is_told_as_a_connection_is() {
    let told = told(key(IPPROTO_UDP, 53), flow(54585));
    let [connect, close] = [0, 1].map(|index| event(&told[index]));
    assert_eq!(
        members(&connect, "event.network."),
        json!({
            "direction": "OUTGOING", "protocol": "UDP", "protocolName": "udp", "connectionStatus": "SUCCESS",
            "communityId": "1:d/FP5EW3wiY1vCndhwleRRKHowQ="
        })
    );
    assert_eq!(
        members(&close, "event.network."),
        json!({
            "direction": "OUTGOING", "protocol": "UDP", "protocolName": "udp", "connectionStatus": "SUCCESS",
            "closeReason": "local", "bytesSent": 30, "bytesReceived": 120, "packetsSent": 1,
            "packetsReceived": 1_u64 << 40, "durationMs": 20.5, "communityId": "1:d/FP5EW3wiY1vCndhwleRRKHowQ="
        })
    );
    assert_eq!((&connect["event.type"], &close["event.type"]), (&json!("IP Connect"), &json!("IP Close")));
    assert_eq!(connect["event.connection.id"], json!(format!("{BOOT}-ab-{START}")));
    assert_eq!(connect["event.connection.id"], close["event.connection.id"]);
    // Milliseconds are cut off, and each of the two has read a clock of its own.
    let apart = close["event.time"].as_u64().unwrap() - connect["event.time"].as_u64().unwrap();
    assert!((1020..=1021).contains(&apart), "{apart}");
    assert_eq!(
        members(&connect, "src."),
        json!({
            "ip.address": "192.168.1.52", "port.number": 54585, "process.pid": 7, "process.tid": 0,
            "process.user": "root", "process.userId": 0, "process.attribution": "send"
        })
    );
    assert_eq!(members(&connect, "dst."), json!({"ip.address": "8.8.8.8", "port.number": 53}));
    // The end that is asked is the destination.
    let incoming = self::told(key(IPPROTO_UDP, 53), Flow { marks: 0, ..flow(54585) });
    assert_eq!(members(&event(&incoming[0]), "src.ip."), json!({"address": "8.8.8.8"}));
}

/// A process with this command line, started by another with the same one.
fn process(command_line: &str) -> Rc<Process> {
    let identity = |tgid| {
        Rc::new(Identity {
            key: Key { tgid, start_ns: 1 },
            is_exact: true,
            name: "x".into(),
            path: Some("/usr/bin/x".into()),
            image: ImageFile::UNKNOWN,
            command_line: Some(command_line.into()),
            ancestry: Ancestry::default(),
            remembered: Remembered::default(),
        })
    };
    Process::new(identity(7), Some(identity(6)))
}

#[test]
fn what_a_process_chooses_cannot_make_events_and_rows_large() {
    let line = |change: Change, connection: &Connection| {
        let mut out = BytesMut::new();
        let mut encoder = EventEncoder::new(&sensor(), 1);
        let mut processes = ProcessMembers::default();
        let mut names = directory();
        let told = (change, connection, START);
        let written = encoder.connection(&mut out, &Clock::new(), &mut names, &mut processes, told, || true);
        assert_eq!(written, Written::Yes);
        out
    };
    let (change, mut connection, _) = told(key(IPPROTO_UDP, 53), flow(54585)).remove(0);
    // What the kernel's programs read at most: each character takes six bytes in JSON.
    let fat = "\u{1b}".repeat(4095);
    connection.process = Some(process(&fat));
    let event = line(change, &connection);
    assert!(event.len() <= EVENT_MAX, "{}", event.len());
    let event: Value = serde_json::from_slice(&event).unwrap();
    for name in ["src.process.cmdline", "src.process.parent.cmdline"] {
        let (beginning, cut) = event[name].as_str().unwrap().split_at_checked(500).unwrap();
        assert!(fat.starts_with(beginning) && cut.ends_with('…'), "{name}");
    }
    assert_eq!(
        (&event["src.process.parent.image.path"], &event["endpoint.os"]),
        (&json!("/usr/bin/x"), &json!("linux"))
    );
    let row = shown(&connection, None);
    assert!(
        row.command_line.as_deref().unwrap().ends_with('…') && serde_json::to_string(&fat).unwrap().len() > EVENT_MAX
    );

    let ordinary = format!("{}…", "--option=\"é\" ".repeat(295));
    assert!(ordinary.len() > 4096);
    connection.process = Some(process(&ordinary));
    let event: Value = serde_json::from_slice(&line(change, &connection)).unwrap();
    assert_eq!(event["src.process.cmdline"], json!(ordinary), "an ordinary one is whole");
    assert_eq!(event["src.process.parent.cmdline"], json!(ordinary));
    assert_eq!(shown(&connection, None).command_line.as_deref(), Some(&*ordinary));
}

#[test]
fn an_account_that_is_renamed_has_its_new_name_in_events() {
    const STRANGER: u32 = 4_000_000_001;
    let mut names = directory();
    names.add_cgroup(1 << 40, b"/x");
    let mut connection = told(key(IPPROTO_UDP, 53), flow(54585)).remove(0).1;
    (connection.owner.uid, connection.owner.cgroup, connection.process) = (STRANGER, 1 << 40, Some(process("x")));
    let (mut encoder, mut processes) = (EventEncoder::new(&sensor(), 1), ProcessMembers::default());
    let mut user_at = |names: &mut Names, now: u64| {
        let mut out = BytesMut::new();
        let change = Change::Connect(Outcome::Success);
        let told = (change, &connection, now);
        let written = encoder.connection(&mut out, &Clock::new(), names, &mut processes, told, || true);
        assert_eq!(written, Written::Yes);
        serde_json::from_slice::<Value>(&out).unwrap()["src.process.user"].clone()
    };
    names.learn(LookupAnswer::User(STRANGER, Ok(Some("old".into()))), 1);
    assert_eq!((user_at(&mut names, 1), user_at(&mut names, 2)), (json!("old"), json!("old")));
    names.learn(LookupAnswer::User(STRANGER, Ok(Some("new".into()))), 3);
    assert_eq!(user_at(&mut names, 3), json!("new"));
    // Nobody tells that it was removed: the system is asked again, and has no such account.
    let (later, since) = (3 + KNOWN_NS, std::time::Instant::now());
    while user_at(&mut names, later) != Value::Null {
        assert!(since.elapsed().as_secs() < 60, "not asked for");
        std::thread::sleep(std::time::Duration::from_millis(1));
        names.take_answers(later);
    }
}

#[test]
fn icmp_has_no_ports_but_types() {
    let echo = Flow { icmp_type: 8, icmp_id: 99, ..flow(0) };
    let connect = event(&told(key(IPPROTO_ICMP, 0), echo)[0]);
    assert_eq!(members(&connect, "event.network.icmp"), json!({"Type": 8, "Code": 0, "Id": 99}));
    assert_eq!(members(&connect, "event.network.protocol"), json!({"": "ICMP", "Name": "icmp"}));
    assert_eq!(members(&connect, "dst."), json!({"ip.address": "8.8.8.8"}));
    assert!(connect["local.port.number"].is_null() && connect["remote.port.number"].is_null());
    assert!(connect["event.network.communityId"].is_string());
    let six = FlowKey { version: 6, ..key(IPPROTO_ICMPV6, 0) };
    let connect = event(&told(six, Flow { icmp_type: 135, icmp_code: 1, icmp_id: 99, ..flow(0) })[0]);
    assert_eq!(members(&connect, "event.network.icmp"), json!({"Type": 135, "Code": 1}), "an id is of echo only");
    assert_eq!(connect["event.network.protocol"], "ICMP");
}

#[test]
fn other_protocols_are_numbers_and_folded_flows_say_so() {
    let connect = event(&told(key(47, 0), flow(0))[0]);
    assert_eq!(members(&connect, "event.network.protocol"), json!({"": "47", "Name": "47"}));
    assert!(connect["event.network.communityId"].is_string());
    let folded = told(FlowKey { socket: 0xab, ..FlowKey::zeroed() }, flow(53));
    let connect = event(&folded[0]);
    assert_eq!(connect["event.network.folded"], json!(true));
    assert_eq!(members(&connect, "local."), json!({"ip.address": "192.168.1.52", "port.number": 53}));
    assert_eq!((members(&connect, "remote."), members(&connect, "dst.")), (json!({}), json!({})));
    assert!(connect["event.network.communityId"].is_null());
    let row = shown(&folded[0].1, None);
    assert_eq!((row.folded, row.remote_address, row.remote_port), (Some(true), None, None));
}

fn shown(connection: &Connection, ended: Option<&crate::table::past::Ended>) -> Row<'static> {
    let (clock, mut directory, mut out) = (Clock::new(), directory(), BytesMut::new());
    let processes = Processes::default();
    row(&mut out, &mut Context::new(&clock, &mut directory, &processes, BOOT), connection, ended);
    serde_json::from_slice::<Row<'_>>(&out).unwrap().into_owned()
}

#[test]
fn rows_of_flows_are_those_of_connections() {
    let told = told(key(IPPROTO_UDP, 53), flow(54585));
    let row = shown(&told[0].1, None);
    assert_eq!((row.state.as_deref().unwrap(), row.protocol.as_deref().unwrap()), ("ESTABLISHED", "UDP"));
    assert_eq!(
        (row.local_port, row.remote_address.map(|address| address.to_string()).as_deref(), row.remote_port),
        (Some(54585), Some("8.8.8.8"), Some(53))
    );
    assert_eq!((row.bytes_sent, row.bytes_received, row.folded), (Some(30), Some(120), None));
    let mut past = EndedLately::default();
    for (change, connection, at) in &told {
        past.note(*change, connection, *at);
    }
    let (_, ended) = past.flows.from_number(0).next().unwrap();
    let row = shown(&ended.connection, Some(ended));
    assert_eq!((row.state.as_deref().unwrap(), row.close_reason.map(CloseReason::name)), ("CLOSED", Some("local")));
    let row = shown(&self::told(key(IPPROTO_ICMP, 0), flow(0))[0].1, None);
    assert_eq!((row.protocol.as_deref().unwrap(), row.local_port, row.remote_port), ("ICMP", None, None));
}

#[test]
fn rows_that_share_an_originator_say_how_it_is_known_of_each() {
    let (clock, mut directory, processes) = (Clock::new(), directory(), Processes::default());
    let mut context = Context::new(&clock, &mut directory, &processes, BOOT);
    for (how, name) in
        [(attribution::CONNECT, "connect"), (attribution::SCAN, "scan"), (attribution::CONNECT, "connect")]
    {
        let mut connection = told(key(IPPROTO_UDP, 53), flow(54585)).remove(0).1;
        connection.owner.how = how;
        let holder = Owner { tgid: 8, how: attribution::SCAN, ..connection.owner };
        connection.succession = Some(Box::new(Succession::Holder(Party { owner: holder, process: None })));
        let mut out = BytesMut::new();
        row(&mut out, &mut context, &connection, None);
        let row: Row<'_> = serde_json::from_slice(&out).unwrap();
        assert_eq!((row.pid, row.originator_pid), (Some(8), Some(7)));
        assert_eq!(row.originator_attribution.map(Attribution::name), Some(name));
    }
}

#[test]
fn sockets_that_wait_for_datagrams_are_unconnected_listeners() {
    let mut record = UdpSocketRecord { socket: 0xab, family: 2, local_port: 53, ..UdpSocketRecord::zeroed() };
    record.protocol = u16::from(IPPROTO_UDP);
    let connection = Connection::from_udp_socket(&record, None);
    let listen = event(&(Change::Listen, connection.clone(), START));
    assert_eq!((&listen["event.type"], &listen["event.network.protocol"]), (&json!("IP Listen"), &json!("UDP")));
    assert_eq!(listen["event.connection.id"], json!(format!("{BOOT}-ab-0")));
    let row = shown(&connection, None);
    assert_eq!((row.state.as_deref().unwrap(), row.remote_address, row.bytes_sent), ("UNCONNECTED", None, None));
    (record.marks, record.remote_port) = (datagram_mark::CONNECTED, 443);
    let row = shown(&Connection::from_udp_socket(&record, None), None);
    assert_eq!((row.state.as_deref().unwrap(), row.remote_port, row.direction), ("ESTABLISHED", Some(443), None));
}
