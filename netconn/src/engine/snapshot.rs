//! Snapshots, part by part: first the table, then flows and sockets of datagrams, then what the kernel alone keeps of
//! connections that are over (TIME_WAIT), then what has ended lately.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hashbrown::HashSet;
use netconn_common::{DatagramRecord, TcpRecord};

use crate::{
    encode::{
        row::{Context, row},
        subject::with_subject,
    },
    engine::{core::Core, telling::Telling},
    event::filter::{Filter, Subject},
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
    datagrams: Vec<DatagramRecord>,
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
        self.flows.follow(&live.datagrams);
        let mut datagrams = live.datagrams;
        datagrams.retain(|socket| !self.flows.has_socket(socket.socket));
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
                    writer.write(&Connection::of_datagrams(socket, processes.of(&socket.kept.owner)), None);
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
