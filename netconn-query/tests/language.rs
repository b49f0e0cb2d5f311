//! What queries mean: the files in `language/` have queries, each with what parsing, printing and checking makes of it.
//!
//! In a file, lines with `> ` are a query; the lines behind it are the canonical form (`= `), the columns of the answer (`: `),
//! and all that is said about it. `UPDATE=1 cargo test -p netconn-query --test language` writes the files anew: what changed is
//! to be read before it is committed.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{env, fs, path::Path};

use netconn_query::{AnswerColumns, Fields, check, parse, printer};

/// What is said about a query, and what became of it, as in the files.
fn outcome(text: &str) -> String {
    let mut lines = Vec::new();
    let parsed = parse(text);
    let mut said = parsed.diagnostics;
    if let Some(query) = &parsed.query {
        let printed = printer::line(query);
        assert_round_trip(text, &printed);
        assert_round_trip(text, &printer::lines(query));
        lines.push(format!("= {printed}").trim_end().to_owned());
        let checked = check(query, &Fields::new(["event.dns.request", "my field"]));
        lines.push(match checked.columns {
            AnswerColumns::Events { added } if added.is_empty() => ": events".to_owned(),
            AnswerColumns::Events { added } => format!(": events, {}", added.join(", ")),
            AnswerColumns::Named(names) => format!(": {}", names.join(", ")),
            AnswerColumns::Partly(names) => {
                format!(": {}…", names.iter().map(|name| format!("{name}, ")).collect::<String>())
            }
        });
        said.extend(checked.diagnostics);
    }
    lines.extend(said.iter().map(|diagnostic| diagnostic.to_string_in(text)));
    lines.join("\n")
}

/// The canonical form is understood as the query was, without any remark that the words cause, and printed as itself.
#[track_caller]
fn assert_round_trip(text: &str, printed: &str) {
    let original = parse(text).query.expect("was parsed");
    let again = parse(printed);
    assert_eq!(again.diagnostics, [], "{text}\nprinted as\n{printed}");
    let again = again.query.expect("has no errors");
    assert!(original.same_as(&again), "{text}\nprinted as\n{printed}\n{original:#?}\n{again:#?}");
    assert_eq!(printer::line(&original), printer::line(&again), "{text}");
}

fn check_file(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/language").join(name);
    let content = fs::read_to_string(&path).unwrap();
    let mut renewed = String::new();
    for block in content.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.is_empty()) {
        let of_query = |line: &&str| line.starts_with("> ") || *line == ">";
        let query: Vec<&str> = block.lines().filter(of_query).map(|line| line.get(2..).unwrap_or_default()).collect();
        let comments =
            block.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect::<String>();
        let shown = block.lines().filter(of_query).map(|line| format!("{line}\n")).collect::<String>();
        let expected: Vec<&str> = block.lines().filter(|line| !of_query(line) && !line.starts_with('#')).collect();
        if query.is_empty() {
            renewed.push_str(&format!("{comments}\n"));
            continue;
        }
        let outcome = outcome(&query.join("\n"));
        renewed.push_str(&format!("{comments}{shown}{outcome}\n\n"));
        if env::var_os("UPDATE").is_none() {
            assert_eq!(outcome, expected.join("\n"), "{name}: {}", query.join("\n"));
        }
    }
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, renewed.trim_end().to_owned() + "\n").unwrap();
    }
}

#[test]
fn reference_queries_have_no_remarks() {
    let content = include_str!("language/reference.txt");
    let queries: Vec<&str> = content.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    assert_eq!(queries.len(), 8);
    for query in queries {
        let parsed = parse(query);
        assert_eq!(parsed.diagnostics, [], "{query}");
        assert_eq!(check(&parsed.query.unwrap(), &Fields::new(Vec::<String>::new())).diagnostics, [], "{query}");
    }
}

#[test]
fn examples_of_the_catalogue_have_no_remarks() {
    use netconn_query::catalogue::{COMMANDS, FUNCTIONS};
    let examples =
        COMMANDS.iter().map(|command| command.example).chain(FUNCTIONS.iter().map(|function| function.example));
    for example in examples {
        let parsed = parse(example);
        assert_eq!(parsed.diagnostics, [], "{example}");
        let query = parsed.query.unwrap();
        assert_eq!(check(&query, &Fields::new(Vec::<String>::new())).diagnostics, [], "{example}");
        assert_round_trip(example, &printer::line(&query));
    }
}

#[test]
fn words() {
    check_file("words.txt");
}

#[test]
fn reference() {
    check_file("reference.txt");
}

#[test]
fn filters() {
    check_file("filters.txt");
}

#[test]
fn commands() {
    check_file("commands.txt");
}

#[test]
fn functions() {
    check_file("functions.txt");
}

#[test]
fn old_spellings() {
    check_file("old.txt");
}

#[test]
fn errors() {
    check_file("errors.txt");
}

#[test]
fn warnings() {
    check_file("warnings.txt");
}

#[test]
fn constants() {
    check_file("constants.txt");
}

#[test]
fn remarks_are_shown_with_their_lines() {
    let text = "event.type = 'IP Connect' and dst.ip.adress in ('10.0.0.0/8')\n| colums dst.ip.address\n| limit";
    let said = parse(text).diagnostics;
    let shown: Vec<String> = said.iter().map(|diagnostic| diagnostic.render_plain(text)).collect();
    let expected = "\
error: there is no command 'colums'
  |
2 | | colums dst.ip.address
  |   ^^^^^^
  |
help: write: columns";
    assert_eq!(shown, [expected]);

    let text = "event.type =";
    let shown = parse(text).diagnostics[0].render_plain(text);
    let expected = "\
error: a value is expected here, not the end of the query
  |
1 | event.type =
  |             ^
  |
help: write: field = 'value'";
    assert_eq!(shown, expected);

    let text = "event.type = 'a\u{1b}[31m' and \u{1b}";
    let said = parse(text).diagnostics;
    assert!(!said.is_empty());
    for diagnostic in said {
        // Colours are for `render` only, and what the query has of them is in none.
        assert!(!diagnostic.render_plain(text).contains('\u{1b}'), "{diagnostic:?}");
        assert!(!diagnostic.to_string_in(text).contains('\u{1b}'), "{diagnostic:?}");
        assert!(!diagnostic.render(text).contains("'a\u{1b}[31m'"), "{diagnostic:?}");
    }
}

#[test]
fn commands_have_the_name_and_the_facts_of_their_examples() {
    for command in netconn_query::catalogue::COMMANDS {
        let query = parse(command.example).query.unwrap();
        let names: Vec<&str> = query.commands.iter().map(|command| command.kind.facts().name).collect();
        assert!(names.contains(&command.name), "{}: {names:?}", command.name);
    }
}
