//! What every format must keep: escapes in every case, members of one object together, golden files of each line of each table.
//!
//! `UPDATE=1 cargo test -p netconn-model format` writes the golden files anew: read what changed before you commit it.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::PathBuf};

use proptest::prelude::*;

use super::*;
use crate::{
    event::tests::events,
    holder::{Holder, HolderList},
    value::PlainText,
};

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "formats", name].iter().collect()
}

/// The lines of the corpora: events that were made by hand, one for each rule, and events of a daemon.
fn lines() -> Vec<String> {
    let read = |name| fs::read_to_string(file(name)).unwrap();
    [read("events.ndjson"), read("recorded.ndjson")].concat().lines().map(str::to_owned).collect()
}

#[track_caller]
fn check_golden(name: &str, actual: &str) {
    let path = file(name);
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let differs = expected.lines().zip(actual.lines()).find(|(expected, actual)| expected != actual);
    assert!(expected == actual, "{name} differs: {differs:?}; UPDATE=1 cargo test -p netconn-model format writes it");
}

fn encoded(format: &EventFormat, event: &Event<'_>) -> Option<String> {
    let mut out = Vec::new();
    let encoded = format.encode(event, &mut out);
    assert_eq!(encoded == Encoded::LeftOut, out.is_empty(), "{}", format.name);
    (encoded == Encoded::Written).then(|| String::from_utf8(out).unwrap())
}

#[test]
fn each_line_of_each_table_has_a_golden_value() {
    let lines = lines();
    let events: Vec<Event<'_>> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for format in EVENT_FORMATS {
        let mut text = String::new();
        for record in format.records() {
            let _ = writeln!(text, "[{}]", record.title);
            for mapping in record.mappings {
                let of = events
                    .iter()
                    .filter(|event| format.record_of(event).is_some_and(|found| std::ptr::eq(found, *record)));
                let mut values: Vec<String> = Vec::new();
                for value in of.filter_map(|event| mapping.json(event)) {
                    if !values.contains(&value) && values.len() < 12 {
                        values.push(value);
                    }
                }
                assert!(!values.is_empty(), "{}: no event of the corpus has {}", format.name, mapping.theirs);
                let _ = writeln!(text, "{}", mapping.theirs);
                text.extend(values.iter().map(|value| format!("    {value}\n")));
            }
        }
        if !text.is_empty() {
            check_golden(&format!("{}.values", format.name), &text);
        }
        let output: String = events.iter().filter_map(|event| encoded(format, event)).collect();
        if !format.is_native() {
            check_golden(&format!("{}.golden", format.name), &output);
        }
    }
}

#[test]
fn rows_have_golden_values() {
    let lines = fs::read_to_string(file("rows.ndjson")).unwrap();
    for format in ROW_FORMATS {
        let mut out = Vec::new();
        format.begin(&mut out);
        for (place, line) in lines.lines().enumerate() {
            format.row(&serde_json::from_str(line).unwrap(), place == 0, &mut out);
        }
        format.end(&mut out);
        let text = String::from_utf8(out).unwrap();
        let _: serde_json::Value = serde_json::from_str(&text).unwrap();
        for mapping in format.mappings {
            let name = mapping.theirs.rsplit('.').next().unwrap();
            assert!(text.contains(&format!("\"{name}\":")), "{}: no row has {name}", format.name);
        }
        check_golden(&format!("{}-rows.golden", format.name), &text);
    }
}

#[test]
fn members_of_one_object_stand_together() {
    for format in EVENT_FORMATS {
        for record in format.records() {
            let WriteEvent::Mapped { syntax, .. } = format.write else { continue };
            let names: Vec<&str> = record.mappings.iter().map(|mapping| mapping.theirs).collect();
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len(), "{}: a name comes twice", format.name);
            if syntax != Syntax::Nested {
                continue;
            }
            // Of each object, the places of its members have no gap.
            let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (place, name) in names.iter().enumerate() {
                for (dot, _) in name.match_indices('.') {
                    places.entry(&name[..dot]).or_default().push(place);
                }
            }
            for (object, places) in places {
                assert_eq!(places.len(), places.last().unwrap() - places[0] + 1, "{}: {object} is torn", format.name);
            }
        }
    }
}

#[test]
fn rules_are_sentences_and_name_what_they_read() {
    for format in EVENT_FORMATS {
        for mapping in format.records().iter().flat_map(|record| record.mappings) {
            assert!(mapping.rule.ends_with('.'), "{}: {}", format.name, mapping.theirs);
            assert!(!mapping.r#type.is_empty());
        }
    }
}

#[test]
fn native_lines_pass_unchanged_and_others_are_read() {
    let line = br#"{"event.type":"IP Close","src.process.pid":7,"later":"\u0001"}"#;
    for name in ["json", "ndjson", "netconn"] {
        let mut out = Vec::new();
        assert_eq!(by_name(name).unwrap().encode_line(line, &mut out).unwrap(), Encoded::Written);
        assert_eq!(out.strip_suffix(b"\n").unwrap(), line);
    }
    assert!(by_name("csv").unwrap().encode_line(b"{", &mut Vec::new()).is_err());
    assert!(by_name("xml").is_none());
    for format in EVENT_FORMATS {
        assert_eq!(by_name(format.name).map(|found| found.name), Some(format.name));
        // A line with a lone surrogate is no text.
        let lone = br#"{"event.type":"IP Close","src.process.cmdline":"\ud800"}"#;
        assert_eq!(format.encode_line(lone, &mut Vec::new()).is_err(), !format.is_native(), "{}", format.name);
    }
}

#[test]
fn a_command_line_is_no_formula_in_csv() {
    let line = br#"{"src.process.pid":7,"src.process.name":"=cmd|' /C calc'!A0","event.network.bytesSent":5}"#;
    for (name, cell) in [("csv", ",5,,7,'=cmd|' /C calc'!A0,"), ("csv-raw", ",5,,7,=cmd|' /C calc'!A0,")] {
        let mut out = Vec::new();
        assert_eq!(by_name(name).unwrap().encode_line(line, &mut out).unwrap(), Encoded::Written);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(cell), "{name}: {text}");
    }
}

#[test]
fn csv_has_a_heading_and_quotes() {
    let csv = by_name("csv").unwrap();
    let mut out = Vec::new();
    csv.heading(&mut out);
    let line = br#"{"event.type":"IP Close","src.process.pid":7,"src.process.cmdline":"a, \"b\""}"#;
    assert_eq!(csv.encode_line(line, &mut out).unwrap(), Encoded::Written);
    let text = String::from_utf8(out).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("event.type,event.time,event.network.direction,"));
    assert_eq!(lines.next(), Some("IP Close,,,,,,,,,,,,7,,,\"a, \"\"b\"\"\","));
}

/// Takes a line of CEF apart, by its rules alone: head and values.
fn read_cef(line: &str) -> (Vec<String>, BTreeMap<String, String>) {
    let mut head = vec![String::new()];
    let mut characters = line.strip_prefix("CEF:0|").unwrap().chars();
    while head.len() < 7 {
        match characters.next().unwrap() {
            '\\' => head.last_mut().unwrap().push(characters.next().unwrap()),
            '|' => head.push(String::new()),
            character => head.last_mut().unwrap().push(character),
        }
    }
    assert_eq!(head.pop().unwrap(), "");
    let rest: Vec<char> = characters.collect();
    // A name ends at an `=` without a backslash before it; its value reaches to the space before the next name.
    let mut equals = Vec::new();
    let mut place = 0;
    while place < rest.len() {
        match rest[place] {
            '\\' => place += 1,
            '=' => equals.push(place),
            _ => {}
        }
        place += 1;
    }
    let begin =
        |equal: usize| rest[..equal].iter().rposition(|character| *character == ' ').map_or(0, |space| space + 1);
    let mut values = BTreeMap::new();
    for (number, equal) in equals.iter().enumerate() {
        let end = equals.get(number + 1).map_or(rest.len(), |next| begin(*next) - 1);
        let mut value = String::new();
        let mut characters = rest[equal + 1..end].iter();
        while let Some(character) = characters.next() {
            value.push(match character {
                '\\' => match characters.next().unwrap() {
                    'n' => '\n',
                    'r' => '\r',
                    escaped => *escaped,
                },
                character => *character,
            });
        }
        let name: String = rest[begin(*equal)..*equal].iter().collect();
        assert_eq!(values.insert(name, value), None, "{line}");
    }
    (head, values)
}

proptest! {
    #[test]
    fn every_event_is_one_line_of_its_syntax(event in events()) {
        for format in EVENT_FORMATS {
            let WriteEvent::Mapped { syntax, .. } = format.write else { continue };
            let Some(line) = encoded(format, &event) else { continue };
            let line = line.strip_suffix('\n').unwrap();
            prop_assert!(!line.contains(char::is_control) || syntax == Syntax::Tabs, "{}: {line:?}", format.name);
            let mappings = format.record_of(&event).unwrap().mappings;
            match syntax {
                Syntax::Nested | Syntax::Flat => {
                    let json: serde_json::Value = serde_json::from_str(line).unwrap();
                    // Each member stands where its name says, with its value, and no other does.
                    let mut count = 0;
                    for mapping in mappings {
                        let found = if syntax == Syntax::Flat {
                            json.get(mapping.theirs)
                        } else {
                            json.pointer(&format!("/{}", mapping.theirs.replace("[]", "/0").replace('.', "/")))
                        };
                        let expected: Option<serde_json::Value> = mapping.json(&event).map(|text| serde_json::from_str(&text).unwrap());
                        count += usize::from(expected.is_some());
                        prop_assert_eq!(found, expected.as_ref(), "{}: {}", format.name, mapping.theirs);
                    }
                    prop_assert_eq!(leaves(&json), count, "{}", format.name);
                }
                Syntax::Tabs => {
                    let cells: Vec<&str> = line.split('\t').collect();
                    prop_assert_eq!(cells.len(), mappings.len());
                    prop_assert!(cells.iter().all(|cell| !cell.is_empty() && !cell.contains(char::is_control)), "{:?}", cells);
                }
                Syntax::Cef => {
                    let (head, values) = read_cef(line);
                    prop_assert_eq!(head.len(), 6);
                    prop_assert!(head.iter().all(|value| !value.is_empty()), "{:?}", head);
                    let clean = |text: &str| -> String {
                        text.chars().map(|character| match character {
                            '\n' | '\r' => character,
                            '\t' => ' ',
                            character if character.is_control() => '\u{fffd}',
                            character => character,
                        }).collect()
                    };
                    let command_line = event.command_line.as_deref().filter(|text| !text.is_empty()).map(clean);
                    prop_assert_eq!(values.get("cs1"), command_line.as_ref());
                    let name = event.process_name.as_deref().filter(|text| !text.is_empty()).map(clean);
                    prop_assert_eq!(values.get("sproc").or(values.get("dproc")), name.as_ref());
                }
            }
        }
    }

    #[test]
    fn every_row_is_valid(process: String, fd: u32, holders in 0..3_u32, port: Option<u16>) {
        let holder = |pid| Holder { pid, process_name: process.clone().into(), fd };
        let row = Row {
            state: Some(PlainText::new("LISTENING")),
            protocol: Some(PlainText::new("TCP")),
            local_port: port.map(u32::from),
            executable: Some(process.clone().into()),
            holders: Some(HolderList((0..holders).map(holder).collect())),
            ..Row::default()
        };
        for format in ROW_FORMATS {
            let mut out = Vec::new();
            format.begin(&mut out);
            format.row(&row, true, &mut out);
            format.row(&row, false, &mut out);
            format.end(&mut out);
            let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let rows = json.as_array().or_else(|| json.pointer("/event/NETWORK_ACTIVITY")?.as_array()).unwrap();
            let each = if format.wants_holders { holders.max(1) } else { 1 };
            prop_assert_eq!(rows.len(), 2 * each as usize);
        }
    }
}

/// Returns the number of values that are no objects; a list of objects counts as these.
fn leaves(json: &serde_json::Value) -> usize {
    match json {
        serde_json::Value::Object(members) => members.values().map(leaves).sum(),
        serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
            items.iter().map(leaves).sum()
        }
        _ => 1,
    }
}
