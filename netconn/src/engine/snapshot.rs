//! Snapshots, part by part: first the table, then what the kernel alone keeps of connections that are over (TIME_WAIT).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use netconn_common::TcpRecord;

use crate::{
    encode::{row::row, subject::with_subject},
    engine::{core::Core, telling::Telling},
    event::filter::Filter,
    table::Connection,
};

/// Rows of one part of a snapshot: well below a millisecond of the engine's time.
const ROWS_AT_ONCE: usize = 1000;

/// Where a snapshot is continued.
#[derive(Clone, Debug)]
pub struct RowsRequest {
    /// Which connections.
    pub filter: Arc<Filter>,
    /// From where on.
    pub cursor: Cursor,
}

/// A place in a snapshot.
#[derive(Clone, Debug)]
pub enum Cursor {
    /// The beginning.
    Start,
    /// This slot of the table; the minisocks come afterwards.
    Slot(usize, Arc<[TcpRecord]>),
    /// This one of the minisocks.
    Minisock(usize, Arc<[TcpRecord]>),
}

/// Part of a snapshot.
#[derive(Debug)]
pub struct Rows {
    /// JSON objects, each ended by a line feed.
    pub lines: Bytes,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// The minisocks that a snapshot shows, and when the kernel began to be asked for them.
pub(super) struct Minisocks {
    pub(super) found: Arc<[TcpRecord]>,
    pub(super) since_ns: u64,
}

impl Core {
    /// The first part of a snapshot.
    pub(super) fn first_rows(&mut self, filter: &Filter, minisocks: &Minisocks) -> Rows {
        let mut out = BytesMut::new();
        // What ended while the kernel was asked is in its answer or not; it is in the snapshot.
        for connection in self.table.over_since(minisocks.since_ns, &minisocks.found) {
            self.show(&mut out, filter, &connection);
        }
        let Rows { lines, next } = self.rows_from(filter, &Cursor::Slot(0, Arc::clone(&minisocks.found)));
        out.extend_from_slice(&lines);
        Rows { lines: out.freeze(), next }
    }

    /// A later part of a snapshot.
    pub(super) fn rows_from(&mut self, filter: &Filter, cursor: &Cursor) -> Rows {
        let mut out = BytesMut::new();
        match cursor {
            Cursor::Start => Rows { lines: Bytes::new(), next: None },
            Cursor::Slot(slot, minisocks) => {
                let Self { table, telling, boot, .. } = self;
                let mut next = Cursor::Minisock(0, Arc::clone(minisocks));
                for (count, (slot, connection)) in table.from_slot(*slot).enumerate() {
                    if count == ROWS_AT_ONCE {
                        next = Cursor::Slot(slot, Arc::clone(minisocks));
                        break;
                    }
                    write(&mut out, filter, telling, boot, connection);
                }
                let is_last = matches!(next, Cursor::Minisock(..)) && minisocks.is_empty();
                Rows { lines: out.freeze(), next: (!is_last).then_some(next) }
            }
            Cursor::Minisock(index, minisocks) => {
                let end = (index + ROWS_AT_ONCE).min(minisocks.len());
                for minisock in minisocks.get(*index..end).unwrap_or_default() {
                    let connection = self.table.over(minisock);
                    self.show(&mut out, filter, &connection);
                }
                let next = (end < minisocks.len()).then(|| Cursor::Minisock(end, Arc::clone(minisocks)));
                Rows { lines: out.freeze(), next }
            }
        }
    }

    fn show(&mut self, out: &mut BytesMut, filter: &Filter, connection: &Connection) {
        write(out, filter, &mut self.telling, &self.boot, connection);
    }
}

fn write(out: &mut BytesMut, filter: &Filter, telling: &mut Telling, boot: &str, connection: &Connection) {
    let Telling { clock, directory, .. } = telling;
    let now = clock.now();
    if with_subject(connection, directory, now, |subject| filter.matches(subject)) {
        row(out, clock, directory, boot, connection);
        out.extend_from_slice(b"\n");
    }
}
