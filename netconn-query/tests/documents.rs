//! The tables in `docs/events.md` and `docs/language.md` are made from the source, queries in documents are understood, and links
//! lead somewhere.
//!
//! A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. `UPDATE=1 cargo test -p netconn-query --test documents`
//! writes the tables anew: read what changed before you commit it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{env, fmt::Display, fs, path::PathBuf};

use netconn_model::{
    config::{Config, SearchConfig},
    event::Event,
    fact::{Attribution, CloseReason, ConnectionStatus, Direction, EventKind, Failure, LossStage},
    field::{FIELDS, Field, Type},
    filter::FILTER_PARAMETERS,
    format::{EVENT_FORMATS, EventFormat, FormatRecord, Mapping, ROW_FORMATS},
    members::MemberInfo,
    packet_socket::PACKET_FIELDS,
    row::{COLUMNS, ROW_FIELDS},
    socket_kind::SocketKind,
    state,
    value::PlainText,
};
use netconn_query::{
    Fields,
    catalogue::{COMMANDS, FUNCTIONS, FunctionKind, OTHER_COMMANDS, OTHER_FUNCTIONS, SPELLINGS},
    check, old, parse,
};

fn path(document: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "docs", document].iter().collect()
}

/// Compares a table in a document with the source, or writes it there.
#[track_caller]
fn check_table(document: &str, name: &str, expected: &str) {
    let text = fs::read_to_string(path(document)).unwrap();
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let start = text.find(&begin).expect("the table has a begin") + begin.len();
    let length = text[start..].find(&end).expect("the table has an end");
    if env::var_os("UPDATE").is_some() {
        let renewed = format!("{}{expected}{}", &text[..start], &text[start + length..]);
        // The other tests read the documents meanwhile: they find the old one or the new one.
        let new = path(document).with_extension("new");
        fs::write(&new, renewed).unwrap();
        fs::rename(new, path(document)).unwrap();
    } else {
        let differs =
            format!("docs/{document}, table {name}: run UPDATE=1 cargo test -p netconn-query --test documents");
        assert_eq!(&text[start..start + length], expected, "{differs}");
    }
}

/// A table in Markdown.
fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|{}\n", "---|".repeat(N));
    line(&head.map(str::to_owned)) + &rule + &rows.into_iter().map(|row| line(&row)).collect::<String>()
}

/// A cell of code; a bar in it would begin the next cell.
fn code(text: impl Display) -> String {
    format!("`{}`", text.to_string().replace('|', "\\|"))
}

fn functions(kind: FunctionKind) -> String {
    let functions = FUNCTIONS.iter().filter(|function| function.kind == kind);
    table(
        ["function", "value", "example"],
        functions.map(|function| [code(function.usage), function.meaning.to_owned(), code(function.example)]),
    )
}

fn type_name(r#type: Type) -> &'static str {
    match r#type {
        Type::String => "text",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
        Type::List => "list of objects",
        Type::EpochMilliseconds => "epoch ms",
        Type::Rfc3339 => "RFC 3339",
    }
}

fn member<Field, Section>(member: &MemberInfo<Field, Section>) -> [String; 3] {
    [code(member.name), type_name(member.r#type).to_owned(), member.described()]
}

/// Events of all kinds that formats treat differently, with what each is.
fn kinds() -> Vec<(String, Event<'static>)> {
    let network = |kind, protocol| Event {
        kind: Some(kind),
        protocol: Some(PlainText::new(protocol)),
        direction: Some(Direction::Outgoing),
        status: Some(ConnectionStatus::Success),
        ..Event::default()
    };
    let failed = |event| Event { status: Some(ConnectionStatus::Failure), failure: Some(Failure::Refused), ..event };
    let raw = |event| Event { raw: Some(true), status: None, ..event };
    let folded = |event| Event { folded: Some(true), ..event };
    let mut all = Vec::new();
    for (kind, is_new) in [(EventKind::Connect, true), (EventKind::Close, false)] {
        let name = kind.name();
        all.push((format!("`{name}` of TCP"), network(kind, "TCP")));
        if is_new {
            all.push((format!("`{name}` of TCP that failed"), failed(network(kind, "TCP"))));
        }
        all.push((format!("`{name}` of UDP"), network(kind, "UDP")));
        if !is_new {
            all.push((format!("`{name}` of UDP that was refused"), failed(network(kind, "UDP"))));
        }
        all.push((format!("`{name}` of a folded flow"), folded(network(kind, "UDP"))));
        all.push((format!("`{name}` of ICMP"), network(kind, "ICMP")));
        all.push((format!("`{name}` of a raw socket"), raw(network(kind, "47"))));
    }
    let others = EventKind::ALL.iter().filter(|kind| !matches!(kind, EventKind::Connect | EventKind::Close));
    all.extend(others.map(|kind| (format!("`{}`", kind.name()), Event { kind: Some(*kind), ..Event::default() })));
    all
}

/// The lines of a table of mappings.
fn mappings<Field: Copy, Make>(mappings: &[Mapping<Field, Make>], name: impl Fn(Field) -> &'static str) -> String {
    let head = ["member", "type", "made of", "rule"];
    table(
        head,
        mappings.iter().map(|mapping| {
            let ours: Vec<String> = mapping.ours.iter().map(|field| code(name(*field))).collect();
            [code(mapping.theirs), mapping.r#type.to_owned(), ours.join(", "), mapping.rule.replace('|', "\\|")]
        }),
    )
}

// One test for each document, because it writes to it.

#[test]
fn formats() {
    let check_table = |name: &str, expected: &str| check_table("formats.md", name, expected);
    let sentence = |meaning: &str| meaning.replace('|', "\\|");
    let overview = EVENT_FORMATS.iter().map(|format| [code(format.name), sentence(format.meaning)]);
    check_table("formats", &table(["format", "what it is"], overview));
    let mapped: Vec<&EventFormat> = EVENT_FORMATS.iter().filter(|format| !format.records().is_empty()).collect();
    let mut text =
        format!("| event | {} |\n", mapped.iter().map(|format| code(format.name)).collect::<Vec<_>>().join(" | "));
    text += &format!("|{}\n", "---|".repeat(mapped.len() + 1));
    for (name, event) in kinds() {
        let cell = |format: &&EventFormat| format.record_of(&event).map_or("–", |record| record.title);
        text += &format!("| {name} | {} |\n", mapped.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    check_table("kinds", &text);
    let field = |field: Field| field.info().name;
    let mut text = String::new();
    let mut last: &[&FormatRecord] = &[];
    for format in EVENT_FORMATS.iter().filter(|format| !format.is_native()) {
        text += &format!(
            "### {}\n\n{}: {}.\n\n{}\n",
            format.name,
            code(format.name),
            sentence(format.meaning),
            format.about
        );
        if !format.columns().is_empty() {
            let columns: Vec<String> = format.columns().iter().map(|column| code(field(*column))).collect();
            text += &format!("\nColumns: {}.\n", columns.join(", "));
        }
        let records = format.records();
        if !records.is_empty()
            && std::ptr::eq(records[0], last.first().copied().unwrap_or(records[0]))
            && !last.is_empty()
        {
            text += "\nThe members are those of the format before.\n";
        } else {
            for record in records {
                text += &format!("\n**{}**\n\n{}", record.title, mappings(record.mappings, field));
            }
        }
        last = records;
        text += "\n";
    }
    check_table("mappings", &format!("{}\n", text.trim_end()));
    let mut text = String::new();
    for format in ROW_FORMATS {
        text += &format!("### {} of {}\n\n{}\n\n", format.title, format.name, format.about);
        text += &mappings(format.mappings, |field| field.info().name);
        text += "\n";
    }
    check_table("snapshots", &format!("{}\n", text.trim_end()));
}

#[test]
fn events() {
    let check_table = |name: &str, expected: &str| check_table("events.md", name, expected);
    check_table("fields", &table(["field", "type", "meaning"], FIELDS.iter().map(member)));
    let members = ["member", "type", "meaning"];
    check_table("rows", &table(members, ROW_FIELDS.iter().map(member)));
    let kinds = SocketKind::ALL.iter().map(|kind| [code(kind.name()), kind.meaning().to_owned()]);
    check_table("kinds", &table(["kind", "rows"], kinds));
    let columns = COLUMNS.iter().map(|column| {
        let mark = if column.is_group() { "yes" } else { "" };
        [code(column.name), column.heading.to_owned(), mark.to_owned()]
    });
    check_table("columns", &table(["name", "heading", "groups"], columns));
    check_table("packet sockets", &table(members, PACKET_FIELDS.iter().map(member)));
    let parameters = FILTER_PARAMETERS.iter().map(|parameter| [code(parameter.name), parameter.meaning.to_owned()]);
    check_table("parameters", &table(["parameter", "meaning"], parameters));
    let text = fs::read_to_string(path("events.md")).unwrap();
    let kinds = EventKind::ALL.iter().map(|kind| kind.name());
    let sources = Attribution::ALL.iter().map(|attribution| attribution.name());
    let states = state::ALL.map(state::name);
    for value in kinds.chain(sources).chain(states) {
        assert!(text.contains(&format!("`{value}`")), "docs/events.md does not explain {value}");
    }
    check_values(&text, Field::Direction, Direction::ALL.iter().map(|direction| direction.name()));
    check_values(&text, Field::ConnectionStatus, ConnectionStatus::ALL.iter().map(|status| status.name()));
    check_values(&text, Field::FailureReason, Failure::ALL.iter().map(|failure| failure.name()));
    check_values(&text, Field::CloseReason, CloseReason::ALL.iter().map(|reason| reason.name()));
    check_values(&text, Field::LossStage, LossStage::ALL.iter().map(|stage| stage.name()));
}

/// Checks that the table of values in `docs/events.md` explains each value of a field in the row of that field.
#[track_caller]
fn check_values<'a>(text: &str, field: Field, mut values: impl Iterator<Item = &'a str>) {
    let (_, section) = text.split_once("### Values\n").expect("it explains values");
    let name = field.info().name;
    let row = section.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).expect("the field has a row");
    let missing = values.find(|value| !row.contains(&format!("`{value}`")));
    assert_eq!(missing, None, "docs/events.md does not explain this value of {name}");
}

#[test]
fn language() {
    let check_table = |name: &str, expected: &str| check_table("language.md", name, expected);
    let shortcuts = old::shortcuts().map(|name| {
        let fields = old::shortcut(name).expect("it has fields");
        [code(format!("#{name}")), fields.iter().map(code).collect::<Vec<_>>().join(", ")]
    });
    check_table("shortcuts", &table(["shortcut", "any of these fields"], shortcuts));
    let commands =
        COMMANDS.iter().map(|command| [code(command.usage), command.meaning.to_owned(), code(command.example)]);
    check_table("commands", &table(["command", "what it does", "example"], commands));
    check_table("aggregates", &functions(FunctionKind::Aggregate));
    check_table("running", &functions(FunctionKind::Running));
    check_table("functions", &functions(FunctionKind::Plain));
    let spellings = SPELLINGS.iter().map(|(other, name)| [code(other), code(name)]);
    check_table("spellings", &table(["name", "here"], spellings));
    let others = OTHER_COMMANDS.iter().chain(&OTHER_FUNCTIONS);
    check_table("other names", &table(["name", "here"], others.map(|(other, here)| [code(other), code(here)])));
    check_queries("language.md");
}

/// Every setting is in the table of settings, with its default, in the order of the configuration.
#[test]
fn settings() {
    // Those without a default are left out of a file that has none.
    let all = Config {
        site_id: Some(String::new()),
        search: SearchConfig { lookups: Some("".into()), geo_database: Some("".into()), ..SearchConfig::default() },
        ..Config::default()
    };
    // `name = value`; a list of nothing is on one line, and names of a table have its name before them.
    let lines = |config: &Config| {
        let (mut table, mut found) = (String::new(), Vec::new());
        for line in config.to_toml().lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                table = format!("{name}.");
            } else if let Some((name, value)) = line.split_once(" = ") {
                found.push((format!("{table}{name}"), value.to_owned()));
            }
        }
        found
    };
    let defaults = lines(&Config::default());
    let expected: Vec<(String, String)> = lines(&all)
        .into_iter()
        .map(|(name, _)| {
            let default = defaults
                .iter()
                .find(|(known, _)| *known == name)
                .map_or("none".into(), |(_, value)| format!("`{value}`"));
            (format!("`{name}`"), default)
        })
        .collect();
    let text = fs::read_to_string(path("commands.md")).unwrap();
    let (_, table) = text.split_once("<!-- begin settings -->").unwrap();
    let (table, _) = table.split_once("<!-- end settings -->").unwrap();
    let documented: Vec<(String, String)> = table
        .lines()
        .skip(3)
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            assert!(cells.get(3).is_some_and(|meaning| !meaning.is_empty()), "{line}");
            (cells[1].to_owned(), cells[2].to_owned())
        })
        .collect();
    assert_eq!(documented, expected);
}

/// Every variable of the environment that a program of netconn reads by its name is in the documentation.
#[test]
fn environment() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(path("commands.md")).unwrap();
    let mut folders: Vec<PathBuf> = ["netconn/src", "netconn-model/src", "netconn-query/src", "netconn-search/src"]
        .map(|folder| root.join(folder))
        .into();
    let mut names = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.push(file);
                continue;
            }
            if file.ends_with("tests.rs") {
                continue;
            }
            let source = fs::read_to_string(&file).unwrap();
            // Not what unit tests ask for.
            let source = source.split("#[cfg(test)]").next().unwrap();
            for before in ["env::var(\"", "env::var_os(\"", "env = \"", "from_env(\"", "base(\"XDG_"] {
                for rest in source.split(before).skip(1) {
                    let start = before.rsplit('"').next().unwrap();
                    let name = format!("{start}{}", rest.split('"').next().unwrap());
                    // `target_env = "gnu"`.
                    if name.contains(|character: char| character.is_ascii_lowercase()) {
                        continue;
                    }
                    assert!(
                        text.contains(&format!("`{name}`")),
                        "{}: {name} is not in docs/commands.md",
                        file.display()
                    );
                    names += 1;
                }
            }
        }
    }
    assert!(names > 3, "{names}: the search finds nothing");
}

#[test]
fn readme() {
    check_queries("../README.md");
}

#[test]
fn links() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let is_document = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let documents = [root.clone(), root.join("docs")].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    for document in documents.map(|entry| entry.unwrap().path()).filter(is_document) {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { document.with_file_name(file) };
            assert!(target.exists(), "{}: there is no {link}", document.display());
            let has_heading = heading.is_empty()
                || fs::read_to_string(&target).unwrap().lines().any(|line| {
                    line.strip_prefix('#').is_some_and(|rest| anchor(rest.trim_start_matches('#').trim()) == heading)
                });
            assert!(has_heading, "{}: there is no heading for {link}", document.display());
        }
    }
}

#[test]
fn named_files() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let crates = ["netconn", "netconn-common", "netconn-ebpf", "netconn-model", "netconn-query", "netconn-search"];
    for document in
        ["../README.md", "../ARCHITECTURE.md", "decisions.md", "history.md", "search-engine.md", "testing.md"]
    {
        let text = fs::read_to_string(path(document)).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = crates.iter().any(|member| name.starts_with(&format!("{member}/")));
            if is_path && !name.contains(['*', ' ']) && !name.contains("NAME") {
                let file = root.join(name);
                let module = root.join(format!("{name}.rs"));
                assert!(file.exists() || module.exists(), "{document}: there is no {name}");
            }
        }
    }
}

/// The anchor of a heading, as forges make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|character| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// No query of a document has errors or warnings.
#[track_caller]
fn check_queries(document: &str) {
    let queries = queries(&fs::read_to_string(path(document)).unwrap());
    assert!(!queries.is_empty(), "{document} has no queries");
    for query in queries {
        let parsed = parse(&query);
        assert_eq!(parsed.diagnostics, [], "{document}: {query}");
        let checked = check(&parsed.query.expect("it has no errors"), &Fields::new(Vec::<String>::new()));
        assert_eq!(checked.diagnostics, [], "{document}: {query}");
    }
}

/// The queries of a document: indented blocks that begin with a field or a bar, and what `netconn search` has in quotes.
fn queries(text: &str) -> Vec<String> {
    let blocks = text.split("\n\n").filter(|block| block.lines().all(|line| line.starts_with("    ")));
    blocks
        .flat_map(|block| {
            let begins = |start: &str| block.trim_start().starts_with(start);
            if FIELDS.iter().any(|field| begins(field.name)) || begins("|") {
                return vec![block.to_owned()];
            }
            let commands = block.lines().filter_map(|line| line.trim_start().strip_prefix("netconn search \""));
            commands.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
        })
        .collect()
}
