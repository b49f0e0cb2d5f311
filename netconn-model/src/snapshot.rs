//! The answers of `/v1/connections` and `/v1/packet-sockets`: how rows stand in one JSON object, written and read.
//!
//! In JSON the head stands on the first line up to the opening bracket, each row on a line of its own, and the closing bracket
//! behind them: a reader takes an answer of any length line by line. In NDJSON there are only the rows.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What stands before the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// The sensor's id; none without a daemon that has been started once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensor_id: Option<String>,
    /// When the rows were read, RFC 3339.
    #[serde(default)]
    pub taken_at: String,
    /// Whether the rows are all that the kernel has.
    #[serde(default)]
    pub complete: bool,
    /// What cannot be listed, a sentence each, and which kinds of sockets this kernel does not have. Connections have it only if there is
    /// something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlisted: Option<Vec<String>>,
}

/// The name of the member that holds the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsMember {
    /// Of `/v1/connections`.
    Connections,
    /// Of `/v1/packet-sockets`.
    Sockets,
}

/// Header of the answer of `/v1/connections`: each has a sentence of [`SnapshotHead::unlisted`], because rows alone have no head.
pub const UNLISTED_HEADER: &str = "netconn-unlisted";

/// Ends the object, behind the last row.
pub const TAIL: &[u8] = b"\n]}\n";

/// Returns the beginning of the object, up to the opening bracket.
pub fn head(head: &SnapshotHead, member: RowsMember) -> Bytes {
    // Texts, lists and truth values can always be written.
    let mut text = serde_json::to_string(head).unwrap_or_default();
    // The closing brace: the array of rows goes before it.
    text.pop();
    text.push_str(match member {
        RowsMember::Connections => ",\"connections\":[",
        RowsMember::Sockets => ",\"sockets\":[",
    });
    text.into()
}

/// Returns what stands before a row: the rows are separated by commas.
pub fn before_row(is_first: bool) -> &'static [u8] {
    if is_first { b"\n" } else { b",\n" }
}

/// A line of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotLine<'a> {
    /// The beginning of the object, for [`read_head`].
    Head(&'a [u8]),
    /// A row: a JSON object.
    Row(&'a [u8]),
    /// Nothing of its own: the end of the object.
    Tail,
}

/// Takes a line of an answer apart, without its line feed.
pub fn read_line(line: &[u8]) -> SnapshotLine<'_> {
    // Rows end in a brace or a comma, so that a bracket at the end is that of the head.
    if line.ends_with(b"[") {
        return SnapshotLine::Head(line);
    }
    // Commas stand behind rows here, because `before_row` writes them before the line feed.
    let row = line.strip_suffix(b",").unwrap_or(line);
    if row.starts_with(b"{") { SnapshotLine::Row(row) } else { SnapshotLine::Tail }
}

/// Reads the beginning of the object.
///
/// # Errors
///
/// When it is no such beginning.
pub fn read_head(line: &[u8]) -> serde_json::Result<SnapshotHead> {
    // Closed again, so that it is JSON; the member with the rows is not read.
    serde_json::from_slice(&[line, b"]}"].concat())
}

/// Finds out whether there is a row in an answer that is copied part by part.
#[derive(Debug)]
pub struct RowSearch {
    is_array: bool,
    is_found: bool,
    ended_with_line_feed: bool,
}

impl RowSearch {
    /// Begins to look; `is_array` tells whether the rows stand in one object.
    pub fn new(is_array: bool) -> Self {
        Self { is_array, is_found: false, ended_with_line_feed: false }
    }

    /// Looks at the next part.
    pub fn look(&mut self, part: &[u8]) {
        if self.is_found || part.is_empty() {
            return;
        }
        // In an object, a row begins a line that is not the first. Texts have no line feeds: JSON escapes them.
        self.is_found = !self.is_array
            || (self.ended_with_line_feed && part.starts_with(b"{"))
            || part.windows(2).any(|bytes| bytes == b"\n{");
        // A line feed and the brace behind it may be in different parts.
        self.ended_with_line_feed = part.ends_with(b"\n");
    }

    /// Returns whether there was one.
    pub fn is_found(&self) -> bool {
        self.is_found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: &[&str]) -> Vec<u8> {
        let known = SnapshotHead {
            sensor_id: Some("a\"[".into()),
            taken_at: "2026-01-01T00:00:00Z".into(),
            complete: true,
            unlisted: Some(vec!["x\n{".into()]),
        };
        let mut text = head(&known, RowsMember::Connections).to_vec();
        for (place, row) in rows.iter().enumerate() {
            text.extend_from_slice(before_row(place == 0));
            text.extend_from_slice(row.as_bytes());
        }
        text.extend_from_slice(TAIL);
        text
    }

    #[test]
    fn what_is_written_is_one_object_and_reads_back_line_by_line() {
        for rows in [&[][..], &["{\"a\":1}"], &["{\"a\":\"[\"}", "{\"a\":\"]}\"}", "{}"]] {
            let text = answer(rows);
            let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(json["connections"].as_array().unwrap().len(), rows.len());
            let (mut heads, mut read) = (Vec::new(), Vec::new());
            for line in text.split(|byte| *byte == b'\n') {
                match read_line(line) {
                    SnapshotLine::Head(line) => heads.push(read_head(line).unwrap()),
                    SnapshotLine::Row(row) => read.push(std::str::from_utf8(row).unwrap()),
                    SnapshotLine::Tail => {}
                }
            }
            assert_eq!(read, rows);
            assert_eq!(heads.len(), 1);
            assert_eq!((heads[0].sensor_id.as_deref(), heads[0].complete), (Some("a\"["), true));
        }
    }

    #[test]
    fn a_row_is_found_wherever_the_parts_are_cut() {
        for (rows, expected) in [(&[][..], false), (&["{\"a\":1}"][..], true)] {
            let text = answer(rows);
            for cut in 0..text.len() {
                let mut search = RowSearch::new(true);
                let (one, two) = text.split_at(cut);
                search.look(one);
                search.look(two);
                assert_eq!(search.is_found(), expected, "{cut}");
            }
        }
        let mut search = RowSearch::new(false);
        search.look(b"");
        assert!(!search.is_found());
        search.look(b"{");
        assert!(search.is_found());
    }
}
