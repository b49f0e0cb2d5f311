//! Formats of events: each is a line of the table, and a pure function from an event to bytes.
//!
//! Options, help and the programs that write events take the formats from here. The daemon itself writes native NDJSON only.

mod csv;

use crate::field::Event;

/// A format in which events are written.
#[derive(Clone, Copy, Debug)]
pub struct EventFormat {
    /// Name in `--format`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub meaning: &'static str,
    /// Appends what stands before the first event.
    heading: Option<fn(&mut Vec<u8>)>,
    write: WriteEvent,
}

/// How an event is written.
#[derive(Clone, Copy, Debug)]
enum WriteEvent {
    /// The line of native NDJSON as it came.
    Native,
    /// Appends the event, with what ends it.
    Made(fn(&Event<'_>, &mut Vec<u8>)),
}

const fn native(name: &'static str, meaning: &'static str) -> EventFormat {
    EventFormat { name, meaning, heading: None, write: WriteEvent::Native }
}

/// All formats.
pub const EVENT_FORMATS: &[EventFormat] = &[
    native("json", "one JSON object for each event, on a line of its own"),
    native("ndjson", "the same as json"),
    EventFormat {
        name: "csv",
        meaning: "comma-separated values with a heading; texts that a spreadsheet takes for formulas begin with '",
        heading: Some(csv::heading),
        write: WriteEvent::Made(csv::write),
    },
    EventFormat {
        name: "csv-raw",
        meaning: "the same with all texts as they are, for programs",
        heading: Some(csv::heading),
        write: WriteEvent::Made(csv::write_raw),
    },
];

/// Returns the format with this name.
pub fn by_name(name: &str) -> Option<&'static EventFormat> {
    EVENT_FORMATS.iter().find(|format| format.name == name)
}

impl EventFormat {
    /// Appends what stands before the first event, if anything does.
    pub fn heading(&self, out: &mut Vec<u8>) {
        if let Some(heading) = self.heading {
            heading(out);
        }
    }

    /// Appends an event that is given as a line of native NDJSON, without its line feed.
    ///
    /// # Errors
    ///
    /// When the line is no event.
    pub fn write(&self, line: &[u8], out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self.write {
            WriteEvent::Native => {
                // Not parsed: members of a later version pass through unchanged.
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            WriteEvent::Made(write) => write(&serde_json::from_slice(line)?, out),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_writes_an_event() {
        let line = br#"{"event.type":"IP Close","src.process.pid":7,"src.process.cmdline":"a, \"b\""}"#;
        for format in EVENT_FORMATS {
            let mut out = Vec::new();
            format.write(line, &mut out).unwrap();
            assert!(out.ends_with(b"\n"), "{}", format.name);
            assert_eq!(by_name(format.name).map(|found| found.name), Some(format.name));
        }
        assert!(by_name("xml").is_none());
        assert!(by_name("csv").unwrap().write(b"{", &mut Vec::new()).is_err());
    }

    #[test]
    fn a_command_line_is_no_formula_in_csv() {
        let line = br#"{"src.process.pid":7,"src.process.name":"=cmd|' /C calc'!A0","event.network.bytesSent":5}"#;
        for (name, cell) in [("csv", ",5,,7,'=cmd|' /C calc'!A0,"), ("csv-raw", ",5,,7,=cmd|' /C calc'!A0,")] {
            let mut out = Vec::new();
            by_name(name).unwrap().write(line, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(cell), "{name}: {text}");
        }
    }

    #[test]
    fn csv_has_a_heading_and_quotes() {
        let csv = by_name("csv").unwrap();
        let mut out = Vec::new();
        csv.heading(&mut out);
        csv.write(br#"{"event.type":"IP Close","src.process.pid":7,"src.process.cmdline":"a, \"b\""}"#, &mut out)
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("event.type,event.time,event.network.direction,"));
        assert_eq!(lines.next(), Some("IP Close,,,,,,,,,,,,7,,,\"a, \"\"b\"\"\","));
    }
}
