//! Snapshots, part by part: first the table, then flows and sockets of datagrams, then what the kernel alone keeps of
//! connections that are over (TIME_WAIT), then what has ended lately.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hashbrown::HashSet;
use netconn_common::{TcpRecord, UdpSocketRecord};
use netconn_model::filter::{Filter, Subject};

use crate::{
    encode::{
        row::{Context, row},
        subject::with_subject,
    },
    engine::{core::Core, telling::Telling},
    kernel::capture::Live,
    table::{
        Connection,
        past::{Ended, Ends, ends},
    },
};

/// Rows of one part of a snapshot: well below a millisecond of the engine's time.
const ROWS_AT_ONCE: usize = 1000;
/// What a part usually takes.
const PART_BYTES: usize = 512 << 10;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct RowsRequest {
    /// Which connections.
    pub filter: Arc<Filter>,
    /// Between rows of a JSON array a comma is needed, before each of them; otherwise each ends with a line feed.
    pub is_array: bool,
    /// Also those that ended so many nanoseconds ago at most.
    pub closed_ns: Option<u64>,
    /// From where on.
    pub cursor: Cursor,
}

/// A place in a snapshot: first the table, then flows, sockets of datagrams, minisocks, and what has ended.
#[derive(Clone, Debug)]
pub enum Cursor {
    /// The beginning.
    Start,
    /// This slot of the table.
    Slot(usize, Arc<Rest>),
    /// This slot of the flows.
    Flow(usize, Arc<Rest>),
    /// This one of the sockets of datagrams.
    Datagrams(usize, Arc<Rest>),
    /// This one of the minisocks.
    Minisock(usize, Arc<Rest>),
    /// This number of those that have ended.
    Ended(u64, Arc<Rest>),
    /// This number of the flows that have ended.
    EndedFlow(u64, Arc<Rest>),
}

/// What a snapshot shows beside the table.
#[derive(Debug)]
pub struct Rest {
    is_array: bool,
    minisocks: Vec<TcpRecord>,
    /// Sockets of datagrams of which nothing else is shown.
    datagrams: Vec<UdpSocketRecord>,
    /// Ends of the minisocks, if they are shown and what has ended is shown too.
    shown: HashSet<Ends>,
    /// What ended since then is shown, nanoseconds since boot.
    ended_since: Option<u64>,
}

/// Part of a snapshot.
#[derive(Debug)]
pub struct Rows {
    /// JSON objects, each ended by a line feed, or in an array each after a comma and a line feed.
    pub lines: Bytes,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
    /// Who answers: the id that is kept in the state folder.
    pub sensor_id: String,
    /// Whether the table holds everything that the kernel has.
    pub complete: bool,
}

impl Core {
    /// The first part of a snapshot, with what the kernel told of connections when it was asked at `since_ns`.
    pub(super) fn first_rows(
        &mut self,
        filter: &Filter,
        (is_array, closed): (bool, Option<u64>),
        (live, since_ns): (Live, u64),
    ) -> Rows {
        let mut out = BytesMut::new();
        let past = &self.telling.past;
        let mut shown = HashSet::new();
        if filter.wants_minisocks() {
            shown = live.minisocks.iter().filter_map(|minisock| ends(&past.over(minisock))).collect();
            // What ended while the kernel was asked is in its answer or not; it is in the snapshot.
            let over = past.over_since(since_ns, &shown);
            let mut writer = Writer::new(&mut out, (filter, is_array), &mut self.telling, &self.boot);
            for connection in over {
                shown.extend(ends(&connection));
                writer.write(&connection, None);
            }
        }
        let now = self.telling.clock.now();
        let (_, flows, mut effects) = self.tables();
        flows.refresh(&live.datagrams, now, &mut effects);
        let mut datagrams = live.datagrams;
        datagrams.retain(|socket| !self.flows.shows(socket));
        let ended_since = closed.map(|ago| self.telling.clock.now().saturating_sub(ago));
        let rest = Arc::new(Rest { is_array, minisocks: live.minisocks, datagrams, shown, ended_since });
        let first = self.rows_from(filter, &Cursor::Slot(0, rest));
        if out.is_empty() {
            return first;
        }
        out.extend_from_slice(&first.lines);
        Rows { lines: out.freeze(), ..first }
    }

    /// A later part of a snapshot.
    pub(super) fn rows_from(&mut self, filter: &Filter, cursor: &Cursor) -> Rows {
        let mut out = BytesMut::with_capacity(PART_BYTES);
        let next = match cursor {
            Cursor::Start => None,
            Cursor::Slot(slot, rest) => {
                let Self { table, telling, boot, .. } = self;
                let mut writer = Writer::new(&mut out, (filter, rest.is_array), telling, boot);
                let next = writer.some(table.from_slot(*slot));
                Some(next.map_or(Cursor::Flow(0, Arc::clone(rest)), |slot| Cursor::Slot(slot, Arc::clone(rest))))
            }
            Cursor::Flow(slot, rest) => {
                let Self { flows, telling, boot, .. } = self;
                let mut writer = Writer::new(&mut out, (filter, rest.is_array), telling, boot);
                let next = writer.some(flows.from_slot(*slot));
                Some(next.map_or(Cursor::Datagrams(0, Arc::clone(rest)), |slot| Cursor::Flow(slot, Arc::clone(rest))))
            }
            Cursor::Datagrams(index, rest) => {
                let Self { processes, telling, boot, .. } = self;
                let mut writer = Writer::new(&mut out, (filter, rest.is_array), telling, boot);
                let end = (index + ROWS_AT_ONCE).min(rest.datagrams.len());
                for socket in rest.datagrams.get(*index..end).unwrap_or_default() {
                    writer.write(&Connection::from_udp_socket(socket, processes.of(&socket.state.owner)), None);
                }
                Some(if end < rest.datagrams.len() {
                    Cursor::Datagrams(end, Arc::clone(rest))
                } else {
                    Cursor::Minisock(0, Arc::clone(rest))
                })
            }
            Cursor::Minisock(index, rest) => {
                let end = (index + ROWS_AT_ONCE).min(rest.minisocks.len());
                let minisocks = rest.minisocks.get(*index..end).unwrap_or_default();
                let over: Vec<_> = minisocks.iter().map(|minisock| self.telling.past.over(minisock)).collect();
                let mut writer = Writer::new(&mut out, (filter, rest.is_array), &mut self.telling, &self.boot);
                over.iter().for_each(|connection| writer.write(connection, None));
                Some(if end < rest.minisocks.len() {
                    Cursor::Minisock(end, Arc::clone(rest))
                } else {
                    Cursor::Ended(0, Arc::clone(rest))
                })
            }
            Cursor::Ended(number, rest) => {
                let next = self.ended(&mut out, filter, (*number, false), rest);
                let next = next.map(|number| Cursor::Ended(number, Arc::clone(rest)));
                Some(next.unwrap_or_else(|| Cursor::EndedFlow(0, Arc::clone(rest))))
            }
            Cursor::EndedFlow(number, rest) => {
                let next = self.ended(&mut out, filter, (*number, true), rest);
                next.map(|number| Cursor::EndedFlow(number, Arc::clone(rest)))
            }
        };
        // Nothing is left of a snapshot that has no more to show.
        let next = next.filter(|next| match next {
            Cursor::Flow(0, rest) => self.flows.has_any() || !rest.datagrams.is_empty() || has_more(rest),
            Cursor::Datagrams(0, rest) => !rest.datagrams.is_empty() || has_more(rest),
            Cursor::Minisock(0, rest) => has_more(rest),
            Cursor::Ended(_, rest) | Cursor::EndedFlow(_, rest) => rest.ended_since.is_some(),
            _ => true,
        });
        Rows { lines: out.freeze(), next, sensor_id: self.sensor.id.clone(), complete: self.complete }
    }

    /// Writes some of what has ended, of flows or of all others, and gives the number to go on with.
    fn ended(
        &mut self,
        out: &mut BytesMut,
        filter: &Filter,
        (number, is_flows): (u64, bool),
        rest: &Rest,
    ) -> Option<u64> {
        let since_ns = rest.ended_since?;
        let past = if is_flows { &self.telling.past_flows } else { &self.telling.past };
        let entries = past.from_number(number).take(ROWS_AT_ONCE);
        let entries: Vec<(u64, Ended)> = entries.map(|(number, entry)| (number, entry.clone())).collect();
        let mut writer = Writer::new(out, (filter, rest.is_array), &mut self.telling, &self.boot);
        for (_, entry) in &entries {
            // Those that the kernel still has are shown as such.
            let is_shown = !is_flows && ends(&entry.connection).is_some_and(|ends| rest.shown.contains(&ends));
            if entry.ended_ns >= since_ns && !is_shown {
                writer.write(&entry.connection, Some(entry));
            }
        }
        entries.last().map(|(last, _)| last + 1)
    }
}

/// Whether anything is left to show after what lives.
fn has_more(rest: &Rest) -> bool {
    !rest.minisocks.is_empty() || rest.ended_since.is_some()
}

/// Writes rows one after the other.
struct Writer<'a> {
    out: &'a mut BytesMut,
    /// Which connections; `None`: all.
    filter: Option<&'a Filter>,
    is_array: bool,
    context: Context<'a>,
}

impl<'a> Writer<'a> {
    fn new(
        out: &'a mut BytesMut,
        (filter, is_array): (&'a Filter, bool),
        telling: &'a mut Telling,
        boot: &'a str,
    ) -> Self {
        let Telling { clock, directory, .. } = telling;
        let filter = (!filter.is_everything()).then_some(filter);
        Self { out, filter, is_array, context: Context::new(clock, directory, boot) }
    }

    /// Writes as many as belong in one part, and gives the slot of the next.
    fn some<'b>(&mut self, connections: impl Iterator<Item = (usize, &'b Connection)>) -> Option<usize> {
        for (count, (slot, connection)) in connections.enumerate() {
            if count == ROWS_AT_ONCE {
                return Some(slot);
            }
            self.write(connection, None);
        }
        None
    }

    fn write(&mut self, connection: &Connection, ended: Option<&Ended>) {
        let Context { directory, now, .. } = &mut self.context;
        let is_wanted = self.filter.is_none_or(|filter| {
            with_subject(connection, directory, *now, |subject| {
                // Whoever asks for a state and for what has ended wants both.
                filter.matches(&Subject { state: subject.state.filter(|_| ended.is_none()), ..*subject })
            })
        });
        if is_wanted {
            if self.is_array {
                self.out.extend_from_slice(b",\n");
            }
            row(self.out, &mut self.context, connection, ended);
            if !self.is_array {
                self.out.extend_from_slice(b"\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use netconn_common::{FlowRecord, Header, ReleasedRecord, TcpRecord, datagram_mark, kind, role, tcp_state};
    use netconn_model::row::Row;
    use nix::sys::eventfd::EventFd;

    use super::*;
    use crate::{
        clock::Clock,
        encode::event::{EventEncoder, Sensor},
        engine::unsent::Unsent,
        kernel::flows::FlowMaps,
        names::Names,
        process::{Processes, lookup::Lookup},
        table::{
            Table,
            flows::{Flows, Limits},
        },
    };

    fn core() -> Core {
        let text = || "x".to_owned();
        let sensor = Sensor { id: text(), host: text(), site: None, source: text(), boot: text() };
        let encoder = EventEncoder::new(&sensor, 1);
        let directory = Names::new(Lookup::start(drop).unwrap());
        Core {
            processes: Processes::default(),
            table: Table::default(),
            flows: Flows::new(Limits { flows: 65_536, idle_ns: 60, idle_both_ns: 180, counts: true }, 0),
            maps: FlowMaps::default(),
            telling: Telling::new(Clock::new(), directory, encoder, false),
            unsent: Unsent::start(Arc::new(EventFd::new().unwrap())).unwrap(),
            sensor,
            boot: text(),
            records: 0,
            without_memory: 0,
            unknown_records: 0,
            complete: true,
            says_folded: false,
        }
    }

    fn handle(core: &mut Core, record: &impl bytemuck::NoUninit) {
        let bytes = bytemuck::bytes_of(record);
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        let space: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        space[..bytes.len()].copy_from_slice(bytes);
        core.handle(&space[..bytes.len()]);
    }

    fn header(kind: u32, time_ns: u64) -> Header {
        Header { time_ns, kind, reserved: 0 }
    }

    fn flow(core: &mut Core, number: u64) {
        let mut record = FlowRecord { header: header(kind::FLOW, number), ..FlowRecord::zeroed() };
        (record.key.socket, record.key.version, record.key.protocol) = (number, 4, 17);
        (record.flow.first_ns, record.flow.local_port) = (number, 1);
        (record.flow.owner.tgid, record.flow.owner.how) = (1, 1);
        handle(core, &record);
    }

    /// Rows of all parts of a snapshot, and how many parts have some.
    fn rows(core: &mut Core, filter: &str, closed: Option<u64>, live: Live) -> (Vec<Row>, usize) {
        let filter = Filter::parse(filter.split_once('=')).unwrap();
        let mut part = core.first_rows(&filter, (false, closed), (live, 0));
        let (mut rows, mut parts) = (Vec::new(), 0);
        loop {
            let lines = std::str::from_utf8(&part.lines).unwrap();
            parts += usize::from(!lines.is_empty());
            rows.extend(lines.lines().map(|line| serde_json::from_str::<Row>(line).unwrap()));
            let Some(next) = part.next else { return (rows, parts) };
            part = core.rows_from(&filter, &next);
        }
    }

    #[test]
    fn a_snapshot_shows_connections_flows_sockets_and_what_has_ended() {
        let mut core = core();
        let mut connection = TcpRecord { header: header(kind::TCP, 1), socket: 1, family: 2, ..TcpRecord::zeroed() };
        (connection.state.role, connection.state.generation) = (role::ACTIVE, 1);
        (connection.old_state, connection.new_state) = (tcp_state::SYN_SENT, tcp_state::ESTABLISHED);
        handle(&mut core, &connection);
        for number in 2..=2600 {
            flow(&mut core, number);
        }
        let now = core.telling.clock.now();
        handle(&mut core, &ReleasedRecord { header: header(kind::RELEASED, now), socket: 2 });
        let socket = |number, marks| UdpSocketRecord {
            socket: number,
            family: 2,
            protocol: 17,
            marks,
            ..UdpSocketRecord::zeroed()
        };
        // One that is connected and has a flow, one that is not and has, one that was closed while the kernel was asked, and two
        // that nothing else is known of.
        let live = || Live {
            datagrams: vec![
                socket(3, datagram_mark::CONNECTED),
                socket(4, 0),
                socket(2, 0),
                socket(9001, datagram_mark::CONNECTED),
                socket(9002, 0),
            ],
            ..Live::default()
        };
        let (all, parts) = rows(&mut core, "", None, live());
        assert_eq!((all.len(), parts), (1 + 2598 + 3, 1 + 3 + 1));
        let states = |rows: &[Row], name: &str| rows.iter().filter(|row| row.state == name).count();
        assert_eq!((states(&all, "ESTABLISHED"), states(&all, "UNCONNECTED")), (2600, 2));
        assert_eq!(rows(&mut core, "protocol=tcp", None, Live::default()).0.len(), 1);
        assert_eq!(rows(&mut core, "state=unconnected", None, live()).0.len(), 2);
        assert_eq!(rows(&mut core, "listening=true", None, live()).0.len(), 2);
        let (closed, _) = rows(&mut core, "protocol=udp", Some(60_000_000_000), live());
        assert_eq!((closed.len(), states(&closed, "CLOSED")), (2598 + 3 + 1, 1));
    }
}
