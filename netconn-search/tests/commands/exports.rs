//! Tests that files and pipes get all rows in the format that is meant, and that only a terminal gets the first ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
};

use crate::support::Scene;

/// More rows than a person is shown.
const ROWS: usize = 1500;

/// Returns a scene with [`ROWS`] events in `many.ndjson`.
fn scene() -> Scene {
    let scene = Scene::new();
    let mut events = String::new();
    for row in 0..ROWS {
        writeln!(
            events,
            r#"{{"event.type":"IP Connect","event.time":{},"dst.port.number":{row}}}"#,
            1_795_255_200_000 + row
        )
        .unwrap();
    }
    fs::write(scene.path("many.ndjson"), events).unwrap();
    scene
}

#[test]
fn files_and_pipes_get_all_rows() {
    let scene = scene();
    let query = "event.type = 'IP Connect' | columns dst.port.number";
    for quiet in [&[][..], &["-q"]] {
        for (format, lines) in [("csv", ROWS + 1), ("ndjson", ROWS), ("table", ROWS + 1)] {
            let arguments = [&[query, "-f", "many.ndjson", "--format", format][..], quiet].concat();
            let output = scene.run(&arguments);
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(text.lines().count(), lines, "{arguments:?}");
            assert!(!String::from_utf8(output.stderr).unwrap().contains("only the first"), "{arguments:?}");
        }
        // The format comes from the name.
        for name in ["all.parquet", "all.CSV", "all.jsonl", "all.json", "all.txt", "all"] {
            let output = scene.run(&[&[query, "-f", "many.ndjson", "-o", name][..], quiet].concat());
            assert!(output.status.success(), "{output:?}");
        }
        // Counted by the program itself and, where they are lines, by their number.
        scene.check(&["| group count()", "-f", "all.parquet", "--format", "csv"], 0, "count\n1500\n", "");
        let lines = |name: &str| fs::read_to_string(scene.path(name)).unwrap().lines().count();
        assert_eq!((lines("all.CSV"), lines("all.jsonl")), (ROWS + 1, ROWS));
        assert_eq!((lines("all.txt"), lines("all")), (ROWS + 1, ROWS + 1));
        let json: serde_json::Value = serde_json::from_slice(&fs::read(scene.path("all.json")).unwrap()).unwrap();
        assert_eq!((json["rows"].as_array().unwrap().len(), &json["is_cut"]), (ROWS, &false.into()));
    }
}

/// A filter that is never true reads nothing, and its losses are told all the same.
#[test]
fn losses_are_told_beside_a_filter_that_is_never_true() {
    let scene = Scene::new();
    scene.check(
        &["src.process.name = 'curl' and false", "-f", "events.ndjson"],
        0,
        "",
        "\
DIR/events.ndjson: line 4 is no JSON object.
3 events of this time range are known to be lost (see event.type = 'Data Loss'): the answer may be incomplete
1 line in the files is not an event and left out
0 rows, 4 events read (741 B) in T; some were lost
",
    );
}

/// When nothing is found, constants that occur nowhere are named.
#[test]
fn constants_that_occur_nowhere_are_named() {
    let scene = Scene::new();
    scene.check(
        &["src.process.name = 'crul' and dst.port.number in (443, 4444) | columns event.type", "-f", "whole.ndjson"],
        0,
        "",
        "\
no event of the searched time has src.process.name = 'crul'
no event of the searched time has dst.port.number in (4444)
0 rows, 3 events read (630 B) in T; none known to be lost
",
    );
}

#[test]
fn a_name_without_a_format_is_refused() {
    let scene = scene();
    for (arguments, advice) in [
        (&["-o", "all.xlsx"][..], "netconn: a name that ends with .xlsx says no format: end it with .parquet"),
        (&["-o", "all.csv.gz"], "netconn: a name that ends with .gz says no format"),
        (&["-o", "all.csv", "--chart"], "netconn: a chart is text: end the name of its file with .txt"),
    ] {
        let output =
            scene.run(&[&["| group n = count() by t = timebucket('1s')", "-f", "many.ndjson"][..], arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.starts_with(advice), "{arguments:?}\n{said}");
    }
    // What is asked for goes before the name.
    let output = scene.run(&["| group count()", "-f", "many.ndjson", "-o", "all.gz", "--format", "csv"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(scene.path("all.gz")).unwrap(), "count\n1500\n");
}

#[test]
fn a_person_gets_the_first_rows_and_is_told() {
    let scene = scene();
    let shown = |options: &str| {
        let search = format!(
            "{} \"event.type = 'IP Connect' | columns dst.port.number\" -f many.ndjson {options}",
            env!("CARGO_BIN_EXE_netconn-search")
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &search, "/dev/null"]).current_dir(scene.folder.path());
        command.env_clear().env("HOME", scene.folder.path()).env("TERM", "xterm").env("SHELL", "/bin/sh");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for options in ["", "-q", "--format csv -q"] {
        let text = shown(options);
        assert!(text.contains("only the first 1,000 rows are shown"), "{options}: {text}");
        assert!(text.contains("500\r\n") && !text.contains("\n499\r\n"), "{options}: {text}");
    }
    // A file gets everything, whoever starts the search.
    assert!(!shown("-o here.csv").contains("only the first"));
    assert_eq!(fs::read_to_string(scene.path("here.csv")).unwrap().lines().count(), ROWS + 1);
}
