//! How members are put together to a line: as nested or flat JSON, as columns of Zeek's logs, as CEF.

use crate::format::{mapping::Mapping, value::Datum};

/// How the members of a record stand on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// One JSON object; dots in names are objects in objects.
    Nested,
    /// One JSON object; dots in names are part of the names.
    Flat,
    /// Values separated by tabs, in the order of the table, with a head.
    Tabs,
    /// Common Event Format: a head of seven values separated by `|`, then `name=value`.
    Cef,
}

/// How many lines of the table are the head of CEF. The version of the format is the value before them.
pub(super) const CEF_HEAD: usize = 6;

impl Syntax {
    /// Appends the line of a record, with its line feed.
    pub(super) fn write<'v, From, Make: Copy>(
        self,
        mappings: &'static [Mapping<From, Make>],
        make: impl Fn(Make) -> Datum<'v>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Nested => nested(mappings, make, out),
            Self::Flat => flat(mappings, make, out),
            Self::Tabs => tabs(mappings, make, out),
            Self::Cef => cef(mappings, make, out),
        }
        out.push(b'\n');
    }
}

fn flat<'v, From, Make: Copy>(
    mappings: &'static [Mapping<From, Make>],
    make: impl Fn(Make) -> Datum<'v>,
    out: &mut Vec<u8>,
) {
    let mut separator = b'{';
    for mapping in mappings {
        let value = make(mapping.make);
        if value != Datum::Absent {
            out.push(separator);
            separator = b',';
            key(mapping.theirs, out);
            value.write_json(out);
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

/// Writes the name of a member. Names stand in tables, and need no escapes.
fn key(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn nested<'v, From, Make: Copy>(
    mappings: &'static [Mapping<From, Make>],
    make: impl Fn(Make) -> Datum<'v>,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    // The object that is open, by its way: `actor.process`.
    let mut open = "";
    for mapping in mappings {
        let value = make(mapping.make);
        if value == Datum::Absent {
            continue;
        }
        let (way, name) = mapping.theirs.rsplit_once('.').unwrap_or(("", mapping.theirs));
        // Neighbours in the table are mostly in one object.
        if way != open {
            let shared = shared_way(open, way);
            close(behind(open, shared), out);
            open_objects(behind(way, shared), out);
            open = way;
        }
        separate(out);
        key(name, out);
        value.write_json(out);
    }
    close(open, out);
    out.push(b'}');
}

/// Puts a comma before a member, unless it is the first of its object.
fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

/// Returns the length of the names that two ways begin with, without the dot behind them.
fn shared_way(one: &str, other: &str) -> usize {
    let mut shared = 0;
    let mut end = 0;
    for (name, same) in one.split('.').zip(other.split('.')) {
        if name != same {
            break;
        }
        end += name.len();
        shared = end;
        // The dot.
        end += 1;
    }
    shared
}

/// Returns the names of a way behind those that take so many bytes.
fn behind(way: &'static str, shared: usize) -> &'static str {
    let rest = way.get(shared..).unwrap_or_default();
    rest.strip_prefix('.').unwrap_or(rest)
}

fn open_objects(way: &str, out: &mut Vec<u8>) {
    for name in way.split('.').filter(|name| !name.is_empty()) {
        separate(out);
        match name.strip_suffix("[]") {
            Some(name) => {
                key(name, out);
                out.extend_from_slice(b"[{");
            }
            None => {
                key(name, out);
                out.push(b'{');
            }
        }
    }
}

fn close(way: &str, out: &mut Vec<u8>) {
    for name in way.rsplit('.').filter(|name| !name.is_empty()) {
        out.extend_from_slice(if name.ends_with("[]") { b"}]" } else { b"}" });
    }
}

/// Writes the columns of Zeek's logs (`threading/formatters/Ascii.cc` and `Desc.cc` of Zeek): backslashes, separators and control
/// characters as `\xNN`, `-` for what is not set, `(empty)` for an empty text, and a text that looks like one of these two with its
/// first character escaped.
fn tabs<'v, From, Make: Copy>(
    mappings: &'static [Mapping<From, Make>],
    make: impl Fn(Make) -> Datum<'v>,
    out: &mut Vec<u8>,
) {
    for (place, mapping) in mappings.iter().enumerate() {
        if place != 0 {
            out.push(b'\t');
        }
        let value = make(mapping.make);
        match &value {
            Datum::Absent => out.push(b'-'),
            Datum::Boolean(value) => out.push(if *value { b'T' } else { b'F' }),
            value => match value.free_text() {
                Some("") => out.extend_from_slice(b"(empty)"),
                Some("-") => out.extend_from_slice(b"\\x2d"),
                Some("(empty)") => out.extend_from_slice(b"\\x28empty)"),
                Some(text) => tab_text(text, out),
                None => value.write_plain(out),
            },
        }
    }
}

fn tab_text(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for character in text.chars() {
        let mut bytes = [0; 4];
        let bytes = character.encode_utf8(&mut bytes).as_bytes();
        if character == '\\' || character.is_control() {
            for byte in bytes {
                out.extend_from_slice(b"\\x");
                out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        } else {
            out.extend_from_slice(bytes);
        }
    }
}

fn cef<'v, From, Make: Copy>(
    mappings: &'static [Mapping<From, Make>],
    make: impl Fn(Make) -> Datum<'v>,
    out: &mut Vec<u8>,
) {
    let (head, extension) = mappings.split_at(CEF_HEAD.min(mappings.len()));
    out.extend_from_slice(b"CEF:0|");
    for mapping in head {
        let value = make(mapping.make);
        match value.free_text() {
            Some(text) => cef_text(text, '|', out),
            None => value.write_plain(out),
        }
        out.push(b'|');
    }
    let start = out.len();
    for mapping in extension {
        let value = make(mapping.make);
        // A name without a value makes readers take the next name for its value.
        if value == Datum::Absent || value.free_text() == Some("") {
            continue;
        }
        if out.len() != start {
            out.push(b' ');
        }
        out.extend_from_slice(mapping.theirs.as_bytes());
        out.push(b'=');
        match value.free_text() {
            Some(text) => cef_text(text, '=', out),
            None => value.write_plain(out),
        }
    }
}

/// Writes a text with backslashes before backslashes and before `special`. A line feed of a value is `\n`; in the head, where none
/// may be, it is a space. Other control characters have no escape: U+FFFD stands for them.
fn cef_text(text: &str, special: char, out: &mut Vec<u8>) {
    for character in text.chars() {
        match character {
            '\\' => out.extend_from_slice(b"\\\\"),
            character if character == special => out.extend([b'\\', special as u8]),
            '\n' | '\r' if special == '|' => out.push(b' '),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.push(b' '),
            character if character.is_control() => out.extend_from_slice("\u{fffd}".as_bytes()),
            character => {
                let mut bytes = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tab(text: &str) -> String {
        let mut out = Vec::new();
        tab_text(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn cef_of(text: &str, special: char) -> String {
        let mut out = Vec::new();
        cef_text(text, special, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_of_columns_are_escaped_as_zeek_does() {
        assert_eq!(tab("a\tb\nc\\d\u{7f}\u{85}ü"), "a\\x09b\\x0ac\\x5cd\\x7f\\xc2\\x85ü");
    }

    #[test]
    fn texts_of_cef_are_escaped() {
        assert_eq!(cef_of("a|b\\c=d\ne", '='), "a|b\\\\c\\=d\\ne");
        assert_eq!(cef_of("a|b\\c=d\ne\u{1b}", '|'), "a\\|b\\\\c=d e\u{fffd}");
    }

    #[test]
    fn ways_share_whole_names() {
        assert_eq!(shared_way("a.b", "a.bc"), 1);
        assert_eq!(shared_way("a.b", "a.b.c"), 3);
        assert_eq!(shared_way("ab", "a"), 0);
        assert_eq!(shared_way("", "a"), 0);
        assert_eq!(behind("a.b.c", 1), "b.c");
    }
}
