//! Snapshots, part by part, so that the engine handles records between two parts: first the table, then flows and UDP
//! sockets, then minisocks (half-open connections, and those in TIME_WAIT), then connections that have ended lately.

use std::{borrow::Borrow, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use hashbrown::{HashMap, HashSet};
use netconn_common::{UdpSocketRecord, tcp_state};
use netconn_model::{
    filter::{Filter, Subject},
    snapshot,
    socket_kind::SocketKinds,
};
use tracing::warn;

use crate::{
    encode::{
        holders::Holders,
        other::{OtherFilters, other_row},
        row::{Context, row},
        subject::with_row_subject,
    },
    engine::{
        frozen::{EndedRange, Frozen, FrozenFacts, Others, SnapshotsFull},
        publisher::Publisher,
        refresh::Refreshed,
        run::Engine,
        state::State,
    },
    kernel::{
        capture::LiveParts,
        socket_info::{InfoParts, SocketInfos},
    },
    table::{
        Connection,
        past::{Ended, EndedConnections, Ends, Minisock, ends},
    },
};

/// Rows of one part of a snapshot at most: well below a millisecond of the engine's time.
const ROWS_AT_ONCE: usize = 1000;
/// Bytes after which a part ends, also with few rows: anybody may give a process a long command line. With the number of parts
/// that wait for a client (server/snapshot.rs) this bounds what slow clients cost.
const PART_BYTES: usize = 64 << 10;
/// Processes after which a part ends whose title was read from `/proc`: 10 to 20 µs each.
const TITLES_AT_ONCE: usize = 64;

/// A request for a part of a snapshot.
#[derive(Clone, Debug)]
pub struct RowsRequest {
    /// Which connections.
    pub filter: Arc<Filter>,
    /// Whether the rows go into a JSON array: each is then preceded by a comma and a line feed, and otherwise followed by a
    /// line feed.
    pub is_array: bool,
    /// Adds what the kernel measures of each socket.
    pub info: bool,
    /// Adds connections that ended this many nanoseconds ago at most.
    pub closed_ns: Option<u64>,
    /// The Unix user who asks; `None`: root or the daemon's own user.
    pub user: Option<u32>,
    /// Whether rows list all processes that have the socket open.
    pub holders: bool,
    /// Whether rows of connections have the inode of the socket.
    pub inodes: bool,
    /// Which kinds of sockets.
    pub kinds: SocketKinds,
    /// Where the part begins.
    pub cursor: Cursor,
}

/// A position in a snapshot.
#[derive(Clone, Debug)]
pub enum Cursor {
    /// The beginning of a snapshot that is still to be taken.
    Start,
    /// An index in a section: a slot of a table, an index of a list, or a number of what has ended.
    At(Section, u64, Arc<Frozen>),
}

/// The sections of a snapshot, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// TCP connections and listeners.
    Connections,
    /// Flows of datagrams and bound UDP sockets.
    Flows,
    /// UDP sockets that nothing else shows.
    UdpSockets,
    /// Half-open connections and those that are over: the kernel keeps minisocks of both.
    Minisocks,
    /// Sockets that are no connections.
    Others,
    /// Connections that have ended lately.
    Ended,
    /// Flows that have ended lately.
    EndedFlows,
}

impl Section {
    const ALL: [Self; 7] = [
        Self::Connections,
        Self::Flows,
        Self::UdpSockets,
        Self::Minisocks,
        Self::Others,
        Self::Ended,
        Self::EndedFlows,
    ];
}

/// A part of a snapshot.
#[derive(Debug)]
pub struct Rows {
    /// JSON objects, separated as [`RowsRequest::is_array`] says.
    pub lines: Bytes,
    /// Where the next part begins; `None` at the end.
    pub next: Option<Cursor>,
    /// Id of the sensor, as kept in the state folder.
    pub sensor_id: String,
    /// What the list lacks although the kernel has it, in sentences.
    pub unlisted: Vec<String>,
    /// Which kinds of sockets that are asked for this kernel does not have, in sentences.
    pub absent: Vec<String>,
}

impl Engine {
    /// Returns a part of a snapshot. The way of the first part:
    ///
    /// 1. `Engine::answer` (run.rs) takes the command;
    /// 2. `Engine::refresh` (refresh.rs) scans the kernel for counters, minisocks and UDP sockets, and compares the tables;
    /// 3. `Engine::repair_if_needed` (repair.rs) takes a dump if that, or a count of losses, shows that records were lost;
    /// 4. `State::first_part` freezes the facts that are not in the tables;
    /// 5. `State::part` writes rows with `encode::row`, and is all that later parts need.
    ///
    /// # Errors
    ///
    /// When a first part is requested and other snapshots already keep too much. Nothing was asked of the kernel then.
    pub(super) fn snapshot_part(&mut self, request: &RowsRequest) -> Result<Rows, SnapshotsFull> {
        let RowsRequest { filter, is_array, info, closed_ns, user, holders, inodes, kinds, cursor } = request;
        // Later parts ask the kernel nothing: all parts share the facts of the first.
        if let Cursor::At(section, index, frozen) = cursor {
            return Ok(self.state.part(filter, *is_array, (*section, *index), frozen));
        }
        // Only what the filter can show is scanned: a walk through the sockets is the largest part of the answer's
        // time.
        let datagrams = filter.wants_datagrams() && self.capture.has_flows();
        let (minisocks, counters) = (filter.wants_minisocks(), filter.wants_counters());
        // A snapshot that keeps nothing is taken at any time.
        let lists_files = *holders || *inodes;
        if (minisocks || datagrams || *info || lists_files || kinds.has_others())
            && let Some(full) = self.state.frozen.is_full(*user)
        {
            return Err(full);
        }
        let others = kinds.has_others().then(|| self.other_sockets(*kinds, filter, *holders, *info));
        if !kinds.has_connections() {
            return Ok(self.state.first_part_of_others((filter, *is_array), *user, others));
        }
        let mut refreshed = self.refresh(LiveParts { minisocks, counters, datagrams });
        // Rows that are known to be wrong are repaired before they are shown.
        self.repair_if_needed(refreshed.doubts);
        // After the repair, which may add attempts.
        if refreshed.lacks_ports {
            self.find_ports();
        }
        if datagrams {
            // Brings the totals of flows up to now and ends those that are gone.
            self.sweep_flows();
        }
        let found = if lists_files { self.holders(&refreshed.live.datagrams) } else { None };
        refreshed.has_failed |= lists_files && found.is_none();
        // Last: what is measured is of this moment.
        let infos = info.then(|| self.socket_infos(filter));
        Ok(self.state.first_part(
            (filter, *is_array),
            (*closed_ns, *user),
            (refreshed, found, *holders),
            (infos, others),
            &mut self.publisher,
        ))
    }

    /// Reads what the kernel measures of the sockets that a filter can select.
    fn socket_infos(&mut self, filter: &Filter) -> SocketInfos {
        let parts = InfoParts { tcp: filter.wants_tcp(), udp: filter.wants_datagrams() };
        let is_wanted = |inode| filter.wants_namespace(inode);
        let read = self.scan(|capture, meanwhile| capture.socket_infos(parts, is_wanted, meanwhile));
        read.unwrap_or_else(|error| {
            warn!("cannot read what the kernel measures of sockets: {error}");
            SocketInfos::unread()
        })
    }

    /// Finds all processes that have each socket open; `None` if that cannot be read.
    fn holders(&mut self, datagrams: &[UdpSocketRecord]) -> Option<Holders> {
        let files = self.scan(|capture, meanwhile| capture.files(meanwhile));
        let mut files =
            files.inspect_err(|error| warn!("cannot read who has sockets open: {error}; rows have no holders")).ok()?;
        if !self.capture.has_cookies() {
            // Files of datagram sockets have another number there.
            let numbers: HashMap<u64, u64> = datagrams.iter().map(|socket| (socket.file, socket.socket)).collect();
            for file in &mut files {
                file.socket = numbers.get(&file.socket).copied().unwrap_or(file.socket);
            }
        }
        Some(Holders::new(files))
    }
}

impl State {
    /// Returns the first part of a snapshot.
    fn first_part(
        &mut self,
        (filter, is_array): (&Filter, bool),
        (closed_ns, user): (Option<u64>, Option<u32>),
        (Refreshed { live, since_ns, has_failed, .. }, holders, lists_holders): (Refreshed, Option<Holders>, bool),
        (infos, mut others): (Option<SocketInfos>, Option<Others>),
        publisher: &mut Publisher,
    ) -> Rows {
        let mut minisocks: Vec<Minisock> = live.minisocks.iter().filter_map(Minisock::of).collect();
        // Early, because 28,000 of them take 6 MB.
        drop(live.minisocks);
        // A connection that was completed during the scan is in the table.
        let is_half_open = |minisock: &&Minisock| minisock.state == tcp_state::SYN_RECV;
        let half_open = minisocks.iter().filter(is_half_open).map(|minisock| minisock.between).collect();
        let completed = self.table.completed(&half_open);
        minisocks.retain(|minisock| !is_half_open(&minisock) || !completed.contains(&minisock.between));
        // Those that are over: between the ends of a half-open one, an earlier connection may have ended.
        let over = minisocks.iter().filter(|minisock| !is_half_open(minisock));
        let mut minisock_ends: HashSet<Ends> = over.map(|minisock| minisock.between).collect();
        if filter.wants_minisocks() {
            // A connection that ended during the scan may or may not be among its minisocks: it is shown in any case.
            let over = self.ended.connections.minisocks_since(since_ns, &minisock_ends);
            minisock_ends.extend(over.iter().map(|minisock| minisock.between));
            minisocks.extend(over);
        }
        // UDP sockets: first the scan completes the table, then those are kept that no entry stands for.
        let now = self.clock.now();
        let (_, flows, mut effects) = self.tables(publisher);
        flows.refresh(&live.datagrams, now, &mut effects);
        let mut udp_sockets = live.datagrams;
        // Judged once: a socket that gets a flow between two parts must not lose its row.
        udp_sockets.retain(|socket| !self.flows.shows(socket));
        let ended = closed_ns.map(|ago| EndedRange {
            since_ns: now.saturating_sub(ago),
            connections_until: self.ended.connections.next_number(),
            flows_until: self.ended.flows.next_number(),
        });
        if ended.is_none() {
            // Beside what has ended they tell what is shown already; without, nobody asks.
            minisock_ends = HashSet::new();
        }
        if let Some(Others { found, .. }) = &mut others {
            // Flows show what raw sockets exchange, except that of ICMP: those that have a flow are no idle ones.
            found.sockets.retain(|socket| !socket.has_raw_flows() || !self.flows.has_flow(socket.cookie));
        }
        let is_partial = has_failed || infos.as_ref().is_some_and(SocketInfos::is_partial);
        let facts = FrozenFacts {
            minisocks,
            udp_sockets,
            minisock_ends,
            ended,
            is_partial,
            infos,
            holders,
            lists_holders,
            others,
            has_no_connections: false,
        };
        let frozen = Arc::new(Frozen::new(facts, user, &self.frozen));
        self.part(filter, is_array, (Section::Connections, 0), &frozen)
    }

    /// Returns the first part of a snapshot without connections.
    fn first_part_of_others(
        &mut self,
        (filter, is_array): (&Filter, bool),
        user: Option<u32>,
        others: Option<Others>,
    ) -> Rows {
        let facts = FrozenFacts { others, has_no_connections: true, ..FrozenFacts::default() };
        let frozen = Arc::new(Frozen::new(facts, user, &self.frozen));
        self.part(filter, is_array, (Section::Others, 0), &frozen)
    }

    /// Returns the part of a snapshot that begins at an index of a section.
    fn part(
        &mut self,
        filter: &Filter,
        is_array: bool,
        (section, index): (Section, u64),
        frozen: &Arc<Frozen>,
    ) -> Rows {
        // With room for the row that ends the part.
        let mut out = BytesMut::with_capacity(PART_BYTES + (4 << 10));
        // Split, because the writer borrows the names while it walks the tables.
        let Self { table, flows, ended, processes, titles, names, clock, boot, .. } = self;
        let first = usize::try_from(index).unwrap_or(usize::MAX);
        let FrozenFacts {
            minisocks,
            udp_sockets,
            minisock_ends,
            ended: range,
            infos,
            holders,
            lists_holders,
            others,
            ..
        } = &frozen.facts;
        let mut context = Context::new(clock, names, processes, boot).with_infos(infos.as_ref());
        (context.titles, context.holders, context.lists_holders) = (Some(titles), holders.as_ref(), *lists_holders);
        let mut writer = Writer::new(&mut out, filter, is_array, context);
        let next = match section {
            Section::Connections => writer.write_part(table.from_slot(first)),
            Section::Flows => writer.write_part(flows.from_slot(first)),
            Section::UdpSockets => {
                let sockets = udp_sockets.iter().enumerate().skip(first);
                writer.write_part(sockets.map(|(index, socket)| {
                    (index, Connection::from_udp_socket(socket, processes.of(&socket.state.owner)))
                }))
            }
            Section::Minisocks => {
                let minisocks = minisocks.iter().enumerate().skip(first);
                writer.write_part(minisocks.map(|(index, minisock)| match minisock.state {
                    tcp_state::SYN_RECV => (index, table.half_open(minisock.between)),
                    _ => (index, ended.connections.connection_of(minisock)),
                }))
            }
            Section::Others => others.as_ref().and_then(|others| writer.write_others(others, filter, first)),
            // Connections that are shown as minisocks are not shown again.
            Section::Ended => range.and_then(|range| {
                let numbers = index..range.connections_until;
                writer.write_ended(&ended.connections, numbers, range.since_ns, |connection| {
                    ends(connection).is_some_and(|ends| minisock_ends.contains(&ends))
                })
            }),
            Section::EndedFlows => range.and_then(|range| {
                writer.write_ended(&ended.flows, index..range.flows_until, range.since_ns, |_| false)
            }),
        };
        // A section that is done is followed by the next that is not empty: each part costs the client a round trip
        // through the queue of commands.
        let next = match next {
            Some(index) => Some((section, index)),
            None => self.section_after(section, frozen).map(|section| (section, 0)),
        };
        Rows {
            lines: out.freeze(),
            next: next.map(|(section, index)| Cursor::At(section, index, Arc::clone(frozen))),
            sensor_id: self.sensor.id.clone(),
            unlisted: self.unlisted(frozen),
            absent: others.as_ref().map(|others| others.found.absent.clone()).unwrap_or_default(),
        }
    }

    /// Returns what a list lacks, in sentences.
    fn unlisted(&self, frozen: &Frozen) -> Vec<String> {
        let FrozenFacts { is_partial, has_no_connections, others, .. } = &frozen.facts;
        let mut sentences = if *has_no_connections { Vec::new() } else { self.incomplete() };
        sentences.extend(others.iter().flat_map(|others| others.found.unlisted.iter().cloned()));
        if *is_partial {
            sentences
                .push("what the kernel alone knows could not be read: some rows or their figures are missing".into());
        }
        sentences
    }

    /// Returns the next section that has anything to show.
    fn section_after(&self, section: Section, frozen: &Frozen) -> Option<Section> {
        Section::ALL.into_iter().filter(|next| *next > section).find(|next| match next {
            Section::Connections => true,
            Section::Flows => self.flows.has_any(),
            Section::UdpSockets => !frozen.facts.udp_sockets.is_empty(),
            Section::Minisocks => !frozen.facts.minisocks.is_empty(),
            Section::Others => frozen.facts.others.as_ref().is_some_and(|others| !others.found.sockets.is_empty()),
            Section::Ended | Section::EndedFlows => frozen.facts.ended.is_some(),
        })
    }
}

/// Writes rows one after the other.
struct Writer<'a> {
    out: &'a mut BytesMut,
    /// Which connections; `None`: all.
    filter: Option<&'a Filter>,
    is_array: bool,
    context: Context<'a>,
    /// Titles that were read before.
    titles: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut BytesMut, filter: &'a Filter, is_array: bool, context: Context<'a>) -> Self {
        // A filter that keeps nothing out is not asked: names would be looked up for each row in vain.
        let titles = context.titles.as_ref().map_or(0, |titles| titles.count());
        Self { out, filter: (!filter.is_everything()).then_some(filter), is_array, context, titles }
    }

    /// Returns whether the part has taken enough time or room.
    fn is_full(&self) -> bool {
        let titles = self.context.titles.as_ref().map_or(0, |titles| titles.count());
        self.out.len() >= PART_BYTES || titles >= self.titles + TITLES_AT_ONCE
    }

    /// Writes the rows of one part, and returns the index of the next row.
    fn write_part<C: Borrow<Connection>>(&mut self, connections: impl Iterator<Item = (usize, C)>) -> Option<u64> {
        for (count, (index, connection)) in connections.enumerate() {
            // Counts entries that were looked at, not rows written: a filter that matches little must not hold up the
            // engine.
            if count == ROWS_AT_ONCE || self.is_full() {
                return Some(index as u64);
            }
            self.write(connection.borrow(), None);
        }
        None
    }

    /// Writes the rows of one part of what has ended since `since_ns` and has one of these numbers, and returns the number of
    /// the next.
    fn write_ended(
        &mut self,
        past: &EndedConnections,
        numbers: Range<u64>,
        since_ns: u64,
        is_shown: impl Fn(&Connection) -> bool,
    ) -> Option<u64> {
        let entries = past.from_number(numbers.start).take_while(|(number, _)| *number < numbers.end);
        for (count, (number, entry)) in entries.enumerate() {
            if count == ROWS_AT_ONCE || self.is_full() {
                return Some(number);
            }
            // Ends are not quite in the order of their times, so the walk does not stop at the first that is too old.
            if entry.ended_ns >= since_ns && !is_shown(&entry.connection) {
                self.write(&entry.connection, Some(entry));
            }
        }
        None
    }

    /// Writes sockets that are no connections from this index on, and returns the index of the next.
    fn write_others(&mut self, others: &Others, filter: &Filter, first: usize) -> Option<u64> {
        let Others { found, holders, info } = others;
        let filters = OtherFilters::new(filter);
        for (count, (index, socket)) in found.sockets.iter().enumerate().skip(first).enumerate() {
            if count == ROWS_AT_ONCE || self.is_full() {
                return Some(index as u64);
            }
            let Context { names, processes, now, .. } = &mut self.context;
            if !filters.matches(socket, processes, (names, *now)) {
                continue;
            }
            if self.is_array {
                self.out.extend_from_slice(snapshot::before_row(false));
            }
            other_row(self.out, &mut self.context, (found, socket), holders.as_ref(), *info);
            if !self.is_array {
                self.out.extend_from_slice(b"\n");
            }
        }
        None
    }

    fn write(&mut self, connection: &Connection, ended: Option<&Ended>) {
        let Context { names, processes, now, .. } = &mut self.context;
        let is_wanted = self.filter.is_none_or(|filter| {
            with_row_subject(connection, ended.is_some(), processes, (names, *now), |subject| {
                // A filter for states does not exclude what has ended: a request for both wants both.
                let state = subject.state.filter(|_| ended.is_none());
                // As the row says (`failure_reason`): a flow that is open may have been refused, too.
                let failed =
                    ended.is_some_and(|ended| ended.change.is_failure(connection)) || connection.refusal().is_some();
                filter.matches(&Subject { state, failed, ..*subject })
            })
        });
        if is_wanted {
            if self.is_array {
                self.out.extend_from_slice(snapshot::before_row(false));
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
    use netconn_common::{
        FlowRecord, Header, ReleasedRecord, TcpRecord, UdpSocketRecord, datagram_mark, kind, role, tcp_state,
    };
    use netconn_model::{event::Sensor, row::Row};
    use nix::sys::eventfd::EventFd;

    use super::*;
    use crate::{
        encode::event::EventEncoder,
        engine::repair::Doubts,
        kernel::{capture::Live, flows::FlowMaps},
        names::Names,
        process::lookup::Lookup,
        table::flows::Limits,
    };

    fn known() -> (State, Publisher) {
        let text = || "x".to_owned();
        let sensor = Sensor { id: text(), host: text(), site: None, source: text(), boot: text() };
        let publisher = Publisher::new(EventEncoder::new(&sensor, 1), Vec::new());
        let names = Names::new(Lookup::start(|| ()).unwrap());
        let limits = Limits { flows: 65_536, idle_ns: 60, idle_both_ns: 180, counts: true };
        let wake = Arc::new(EventFd::new().unwrap());
        let state = State::new(sensor, names, (limits, FlowMaps::default()), 0, wake).unwrap();
        (state, publisher)
    }

    fn handle((state, publisher): &mut (State, Publisher), record: &impl bytemuck::NoUninit) {
        let bytes = bytemuck::bytes_of(record);
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        let space: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        space[..bytes.len()].copy_from_slice(bytes);
        state.apply(&space[..bytes.len()], publisher);
    }

    fn header(kind: u32, time_ns: u64) -> Header {
        Header { time_ns, kind, reserved: 0 }
    }

    fn flow(known: &mut (State, Publisher), number: u64) {
        let mut record = FlowRecord { header: header(kind::FLOW, number), ..FlowRecord::zeroed() };
        (record.key.socket, record.key.version, record.key.protocol) = (number, 4, 17);
        (record.flow.first_ns, record.flow.local_port) = (number, 1);
        (record.flow.owner.tgid, record.flow.owner.how) = (1, 1);
        handle(known, &record);
    }

    /// Rows of all parts of a snapshot, and how many parts have some.
    fn rows(
        (state, publisher): &mut (State, Publisher),
        filter: &str,
        closed_ns: Option<u64>,
        live: Live,
    ) -> (Vec<Row<'static>>, usize) {
        let filter = Filter::parse(filter.split_once('=')).unwrap();
        let refreshed =
            Refreshed { live, since_ns: 0, doubts: Doubts::default(), lacks_ports: false, has_failed: false };
        let mut part =
            state.first_part((&filter, false), (closed_ns, None), (refreshed, None, false), (None, None), publisher);
        let (mut rows, mut parts) = (Vec::new(), 0);
        loop {
            let lines = std::str::from_utf8(&part.lines).unwrap();
            parts += usize::from(!lines.is_empty());
            rows.extend(lines.lines().map(|line| serde_json::from_str::<Row<'_>>(line).unwrap().into_owned()));
            let Some(Cursor::At(section, index, frozen)) = part.next else { return (rows, parts) };
            part = state.part(&filter, false, (section, index), &frozen);
        }
    }

    #[test]
    fn a_snapshot_shows_connections_flows_sockets_and_what_has_ended() {
        let mut known = known();
        let mut connection = TcpRecord { header: header(kind::TCP, 1), socket: 1, family: 2, ..TcpRecord::zeroed() };
        (connection.state.role, connection.state.generation) = (role::ACTIVE, 1);
        (connection.old_state, connection.new_state) = (tcp_state::SYN_SENT, tcp_state::ESTABLISHED);
        handle(&mut known, &connection);
        for number in 2..=2600 {
            flow(&mut known, number);
        }
        let now = known.0.clock.now();
        handle(&mut known, &ReleasedRecord { header: header(kind::RELEASED, now), socket: 2 });
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
        let (all, parts) = rows(&mut known, "", None, live());
        assert_eq!(all.len(), 1 + 2598 + 3);
        assert!(parts > 4, "{parts}");
        let states =
            |rows: &[Row<'_>], name: &str| rows.iter().filter(|row| row.state.as_deref() == Some(name)).count();
        assert_eq!((states(&all, "ESTABLISHED"), states(&all, "UNCONNECTED")), (2600, 2));
        assert_eq!(rows(&mut known, "protocol=tcp", None, Live::default()).0.len(), 1);
        assert_eq!(rows(&mut known, "state=unconnected", None, live()).0.len(), 2);
        assert_eq!(rows(&mut known, "listening=true", None, live()).0.len(), 2);
        let (closed, _) = rows(&mut known, "protocol=udp", Some(60_000_000_000), live());
        assert_eq!((closed.len(), states(&closed, "CLOSED")), (2598 + 3 + 1, 1));
    }

    #[test]
    fn a_snapshot_that_lacks_what_the_kernel_alone_knows_is_not_complete() {
        let (mut state, mut publisher) = known();
        state.is_complete = true;
        let mut is_complete = |has_failed, infos| {
            let (live, doubts) = (Live::default(), Doubts::default());
            let refreshed = Refreshed { live, since_ns: 0, doubts, lacks_ports: false, has_failed };
            state
                .first_part(
                    (&Filter::default(), false),
                    (None, None),
                    (refreshed, None, false),
                    (infos, None),
                    &mut publisher,
                )
                .unlisted
                .is_empty()
        };
        assert!(is_complete(false, None) && !is_complete(true, None));
        assert!(is_complete(false, Some(SocketInfos::default())));
        assert!(!is_complete(false, Some(SocketInfos::unread())), "what was asked for is not in the rows");
    }

    #[test]
    fn a_part_is_bounded_by_bytes() {
        let mut known = known();
        for number in 1..=900 {
            flow(&mut known, number);
        }
        // 900 rows are fewer than one part may have, and each has 300 bytes.
        let (all, parts) = rows(&mut known, "", None, Live::default());
        assert_eq!(all.len(), 900);
        assert!((3..10).contains(&parts), "{parts}");
    }

    #[test]
    fn what_ends_while_a_client_reads_is_not_awaited() {
        let mut known = known();
        (1..=2).for_each(|number| flow(&mut known, number));
        let now = known.0.clock.now();
        let release = |known: &mut (State, Publisher), socket| {
            handle(known, &ReleasedRecord { header: header(kind::RELEASED, now), socket });
        };
        release(&mut known, 1);
        let filter = Filter::default();
        let refreshed = Refreshed {
            live: Live::default(),
            since_ns: 0,
            doubts: Doubts::default(),
            lacks_ports: false,
            has_failed: false,
        };
        let mut part = known.0.first_part(
            (&filter, false),
            (Some(60_000_000_000), None),
            (refreshed, None, false),
            (None, None),
            &mut known.1,
        );
        let mut text = part.lines.to_vec();
        // Each part is slower than the next end: without a bound there would always be one more.
        let mut number = 2;
        while let Some(Cursor::At(section, index, frozen)) = part.next {
            assert!(number < 20, "the snapshot does not end");
            release(&mut known, number);
            number += 1;
            flow(&mut known, number);
            part = known.0.part(&filter, false, (section, index), &frozen);
            text.extend_from_slice(&part.lines);
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches("\"CLOSED\"").count(), 1, "{text}");
    }
}
