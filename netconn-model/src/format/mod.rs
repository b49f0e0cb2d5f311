//! Formats of events and of rows: each is a line of a table with the tables of its members, and a pure function to bytes.
//!
//! Options, help, documentation and the programs that write events take the formats from here. The daemon itself writes native
//! NDJSON only.

mod csv;
mod value;
mod mapping;
mod syntax;
mod zeek;
mod ocsf;
mod ecs;
mod eve;
mod cef;
mod osquery;
mod limacharlie;

use bytes::BytesMut;

use self::mapping::{Facts, RowFacts};
pub use self::{
    mapping::{EventMapping, Mapping, RowMapping},
    syntax::Syntax,
    value::Datum,
};
use crate::{event::Event, field::Field, json::SecondText, row::Row};

/// A format in which events are written.
#[derive(Clone, Copy, Debug)]
pub struct EventFormat {
    /// Name in `--format`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub meaning: &'static str,
    /// Which version of which standard it is, and what is peculiar, in Markdown.
    pub about: &'static str,
    /// Appends what stands before the first event.
    heading: Option<fn(&mut Vec<u8>)>,
    write: WriteEvent,
}

/// A kind of record in a format, with its members.
#[derive(Clone, Copy, Debug)]
pub struct FormatRecord {
    /// What the standard calls it.
    pub title: &'static str,
    /// Its members, in the order in which they are written; those of one object stand together.
    pub mappings: &'static [EventMapping],
}

/// How an event is written.
#[derive(Clone, Copy, Debug)]
enum WriteEvent {
    /// The line of native NDJSON as it came.
    Native,
    /// Comma-separated values.
    Csv(fn(&Event<'_>, &mut Vec<u8>)),
    /// Members that tables make of the event.
    Mapped {
        /// How they are put together.
        syntax: Syntax,
        /// All kinds of records.
        records: &'static [&'static FormatRecord],
        /// Which of them an event is; `None`: the format has no place for it.
        choose: fn(&Facts<'_>) -> Option<&'static FormatRecord>,
    },
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Encoded {
    /// It was appended.
    Written,
    /// Nothing was appended: the format has no place for such an event.
    LeftOut,
}

const fn native(name: &'static str, meaning: &'static str) -> EventFormat {
    EventFormat {
        name,
        meaning,
        about: "The [fields](events.md#fields), unchanged.",
        heading: None,
        write: WriteEvent::Native,
    }
}

/// What is said of both forms of comma-separated values.
const CSV_ABOUT: &str = "The fields that a person looks at, one column each.";

/// All formats.
pub const EVENT_FORMATS: &[EventFormat] = &[
    native("json", "one JSON object for each event, on a line of its own"),
    native("ndjson", "the same as json"),
    native("netconn", "the same as json"),
    EventFormat {
        name: "csv",
        meaning: "comma-separated values with a heading; texts that a spreadsheet takes for formulas begin with '",
        about: CSV_ABOUT,
        heading: Some(csv::heading),
        write: WriteEvent::Csv(csv::write),
    },
    EventFormat {
        name: "csv-raw",
        meaning: "the same with all texts as they are, for programs",
        about: CSV_ABOUT,
        heading: Some(csv::heading),
        write: WriteEvent::Csv(csv::write_raw),
    },
    ocsf::FORMAT,
    ecs::FORMAT,
    zeek::JSON,
    zeek::TSV,
    eve::FORMAT,
    cef::FORMAT,
    osquery::FORMAT,
    limacharlie::CONNECTIONS,
    limacharlie::OF_PROCESS,
];

/// Returns the format with this name.
pub fn by_name(name: &str) -> Option<&'static EventFormat> {
    EVENT_FORMATS.iter().find(|format| format.name == name)
}

impl EventFormat {
    /// Returns whether events are written as the native lines that they are.
    pub fn is_native(&self) -> bool {
        matches!(self.write, WriteEvent::Native)
    }

    /// Returns the kinds of records; none of native and comma-separated events.
    pub fn records(&self) -> &'static [&'static FormatRecord] {
        match self.write {
            WriteEvent::Mapped { records, .. } => records,
            WriteEvent::Native | WriteEvent::Csv(_) => &[],
        }
    }

    /// Returns the fields that are columns, of comma-separated values.
    pub fn columns(&self) -> &'static [Field] {
        match self.write {
            WriteEvent::Csv(_) => &csv::CSV_FIELDS,
            WriteEvent::Native | WriteEvent::Mapped { .. } => &[],
        }
    }

    /// Returns the kind of record that an event becomes, if it becomes one.
    pub fn record_of(&self, event: &Event<'_>) -> Option<&'static FormatRecord> {
        match self.write {
            WriteEvent::Mapped { choose, .. } => choose(&Facts::new(event)),
            WriteEvent::Native | WriteEvent::Csv(_) => None,
        }
    }

    /// Returns whether the format has a place for an event.
    pub fn has_place_for(&self, event: &Event<'_>) -> bool {
        !matches!(self.write, WriteEvent::Mapped { .. }) || self.record_of(event).is_some()
    }

    /// Appends what stands before the first event, if anything does.
    pub fn heading(&self, out: &mut Vec<u8>) {
        if let Some(heading) = self.heading {
            heading(out);
        }
    }

    /// Appends an event with its line feed.
    ///
    /// The native format is made anew from the members that this version knows; [`encode_line`](Self::encode_line) copies.
    pub fn encode(&self, event: &Event<'_>, out: &mut Vec<u8>) -> Encoded {
        match self.write {
            WriteEvent::Native => {
                let mut line = BytesMut::new();
                event.write_line(&mut line, &mut SecondText::default());
                out.extend_from_slice(&line);
            }
            WriteEvent::Csv(write) => write(event, out),
            WriteEvent::Mapped { syntax, choose, .. } => {
                let facts = Facts::new(event);
                let Some(record) = choose(&facts) else { return Encoded::LeftOut };
                syntax.write(record.mappings, |make| make(&facts), out);
            }
        }
        Encoded::Written
    }

    /// Appends an event that is given as a line of native NDJSON, without its line feed.
    ///
    /// # Errors
    ///
    /// When the line is no event. Lines that are copied are not looked at.
    pub fn encode_line(&self, line: &[u8], out: &mut Vec<u8>) -> serde_json::Result<Encoded> {
        if self.is_native() {
            // Not parsed: members of a later version pass through unchanged.
            out.extend_from_slice(line);
            out.push(b'\n');
            return Ok(Encoded::Written);
        }
        Ok(self.encode(&serde_json::from_slice(line)?, out))
    }
}

impl EventMapping {
    /// Returns the value of the member in an event, as JSON; `None` if it is left out.
    pub fn json(&self, event: &Event<'_>) -> Option<String> {
        let value = (self.make)(&Facts::new(event));
        let mut out = Vec::new();
        value.write_json(&mut out);
        (value != Datum::Absent).then(|| String::from_utf8_lossy(&out).into_owned())
    }
}

/// Returns a sentence on what an event says of the sensor itself; `None` of connections and sockets.
pub fn sentence(event: &Event<'_>) -> Option<String> {
    match mapping::message(&Facts::new(event)) {
        Datum::Made(text) => Some(text),
        Datum::Text(text) => Some(text.to_owned()),
        _ => None,
    }
}

/// A format in which a snapshot is written.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotFormat {
    /// Name in `--format`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub meaning: &'static str,
    /// Which version of which standard it is, and what is peculiar, in Markdown.
    pub about: &'static str,
    /// What the standard calls it.
    pub title: &'static str,
    /// The members of a row.
    pub mappings: &'static [RowMapping],
    /// Whether each process that has a socket gets a row of its own, so that the holders must be asked for.
    pub wants_holders: bool,
    syntax: Syntax,
    begin: &'static [u8],
    between: &'static [u8],
    end: &'static [u8],
}

/// All formats of snapshots beside those of netconn.
pub const ROW_FORMATS: &[SnapshotFormat] = &[osquery::ROWS, limacharlie::ROWS];

/// Returns the format of snapshots with this name.
pub fn row_format(name: &str) -> Option<&'static SnapshotFormat> {
    ROW_FORMATS.iter().find(|format| format.name == name)
}

/// Formats are the same by their name.
impl PartialEq for EventFormat {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for EventFormat {}

/// Formats are the same by their name.
impl PartialEq for SnapshotFormat {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for SnapshotFormat {}

impl SnapshotFormat {
    /// Appends what stands before the rows.
    pub fn begin(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.begin);
    }

    /// Appends a row, or one for each of its holders; `is_first` is whether none was appended before.
    pub fn row(&self, row: &Row<'_>, is_first: bool, out: &mut Vec<u8>) {
        let mut is_first = is_first;
        let mut write = |holder| {
            if !std::mem::take(&mut is_first) {
                out.extend_from_slice(self.between);
            }
            let facts = RowFacts { row, holder };
            self.syntax.write(self.mappings, |make| make(&facts), out);
            // The line feed belongs to what stands between the rows.
            out.pop();
        };
        match row.holders.as_ref().filter(|holders| self.wants_holders && !holders.0.is_empty()) {
            Some(holders) => holders.0.iter().for_each(|holder| write(Some(holder))),
            None => write(None),
        }
    }

    /// Appends what stands behind the rows.
    pub fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.end);
    }
}

#[cfg(test)]
mod tests;
