//! Runs the command as people do, and checks its output, its messages and its exit codes.

mod conversions;
mod exports;
mod interactive;
mod pivots;
mod sources;
mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::Stdio,
};

use crate::support::{EVENTS, Scene};

#[test]
fn tables_are_shown() {
    let scene = Scene::new();
    scene.check(
        &["event.type = 'IP Connect' | sort event.time", "-f", "whole.ndjson"],
        0,
        "\
event.time UTC       src.process.name  dst.ip.address  dst.port.number  event.network.connectionStatus  event.type  timestamp UTC
2026-11-21 10:00:00  curl              203.0.113.50                443  SUCCESS                         IP Connect  2026-11-21 10:00:00
2026-11-21 10:00:01  a\u{fffd}[2Jb            203.0.113.51                 22  FAILURE                         IP Connect  2026-11-21 10:00:01
",
        "2 rows, 3 events read (630 B) in T; none known to be lost\n",
    );
    scene.check(
        &[
            "| group n = count() by src.process.name | sort -n, src.process.name",
            "-f",
            "events.ndjson",
            "--since",
            "2026-11-21",
            "--until",
            "2026-11-22",
        ],
        0,
        "\
src.process.name  n
curl              2
a\u{fffd}[2Jb            1
-                 1
",
        "\
DIR/events.ndjson: line 4 is no JSON object.
3 events of this time range are known to be lost (see event.type = 'Data Loss'): the answer may be incomplete
1 line in the files is not an event and left out
3 rows, 4 events read (741 B) in T; some were lost
",
    );
}

#[test]
fn bars_are_drawn() {
    let scene = Scene::new();
    scene.check(
        &["| group n = count() by t = timebucket('1 minute')", "-f", "whole.ndjson", "--chart", "-q"],
        0,
        "\
n by t (UTC)
2026-11-21 10:00  2  ███████████████████████████████████████████████████████████
2026-11-21 10:01  1  █████████████████████████████▌
",
        "",
    );
    scene.check(
        &["event.type = 'IP Close' | columns src.process.name", "-f", "whole.ndjson", "--chart", "-q"],
        2,
        "",
        "netconn: a chart needs a column with numbers: use `group … by timebucket('10m')` or `top 10 count() by …`\n",
    );
    for query in ["event.type = 'IP Close'", "| let twice = 2 * dst.port.number | limit 2"] {
        scene.check(
            &[query, "-f", "whole.ndjson", "--chart"],
            2,
            "",
            "netconn: events cannot be drawn, only aggregates of them: use `group … by timebucket('10m')` or `top 10 count() by \
             …`\n",
        );
    }
    scene.check(
        &["hunt", "all", "-f", "whole.ndjson", "--chart"],
        2,
        "",
        "netconn: all hunts can be shown as table, json or ndjson only: name one hunt for other formats\n",
    );
}

#[test]
fn all_formats_have_the_same_rows() {
    let scene = Scene::new();
    let query = "event.type = 'IP Connect' | sort event.time | columns src.process.name, port = dst.port.number";
    scene.check(
        &[query, "-f", "whole.ndjson", "--format", "ndjson"],
        0,
        "{\"src.process.name\":\"curl\",\"port\":443}\n{\"src.process.name\":\"a\\u001b[2Jb\",\"port\":22}\n",
        "",
    );
    scene.check(&[query, "-f", "whole.ndjson", "--format", "csv", "--output", "out.csv"], 0, "", "");
    assert_eq!(fs::read_to_string(scene.path("out.csv")).unwrap(), "src.process.name,port\ncurl,443\na\u{1b}[2Jb,22\n");
    let json = scene.run(&[query, "-f", "events.ndjson", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        json["columns"],
        serde_json::json!([{"name": "src.process.name", "type": "string"}, {"name": "port", "type": "integer"}])
    );
    assert_eq!(json["rows"][1]["port"], 22);
    assert_eq!((&json["row_count"], &json["events_lost"], &json["bad_lines"]), (&2.into(), &3.into(), &1.into()));
    let said = json["warnings"].to_string();
    assert!(said.ends_with("events.ndjson: line 4 is no JSON object.\"]"), "{said}");
    // The Parquet output can be searched again.
    scene.check(&[query, "-f", "whole.ndjson", "--format", "parquet", "-o", "out.parquet"], 0, "", "");
    scene.check(&["| columns port | sort port", "-f", "out.parquet", "--format", "csv"], 0, "port\n22\n443\n", "");
}

#[test]
fn unread_files_are_reported() {
    let scene = Scene::new();
    fs::create_dir(scene.path("many")).unwrap();
    fs::copy(scene.path("whole.ndjson"), scene.path("many/whole.ndjson")).unwrap();
    std::os::unix::fs::symlink("a\u{1b}[2J.ndjson", scene.path("many/a\u{1b}[2J.ndjson")).unwrap();
    let note = "/many/a\u{fffd}[2J.ndjson was not read: ";
    for arguments in [&["--format", "table"][..], &["--format", "ndjson"], &["--format", "csv"], &["--explain"]] {
        let output =
            scene.run(&[&["| group n = count()", "-f", scene.path("many").to_str().unwrap()], arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.matches(note).count()), (Some(0), 1), "{arguments:?}: {said}");
    }
    fs::remove_file(scene.path("many/whole.ndjson")).unwrap();
    let output = scene.run(&["a = 1", "-f", "many"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(74), "{said}");
    assert!(said.starts_with("netconn: cannot read many/a\u{fffd}[2J.ndjson: "), "{said}");
}

#[test]
fn exit_codes_follow_the_outcome() {
    let scene = Scene::new();
    scene.check(&["event.type = 'None'", "-f", "whole.ndjson", "-q"], 0, "", "");
    scene.check(&["event.type = 'None'", "-f", "whole.ndjson", "-q", "-e"], 1, "", "");
    scene.check(
        &["event.type = ", "-f", "whole.ndjson"],
        65,
        "",
        &String::from_utf8(scene.run(&["event.type = ", "-f", "whole.ndjson"]).stderr).unwrap(),
    );
    scene.check(
        &["event.typ = 'IP Connect'", "-f", "whole.ndjson"],
        0,
        "",
        "\
warning: there is no field 'event.typ', so it is null in every row
  |
1 | event.typ = 'IP Connect'
  | ^^^^^^^^^
  |
help: write: event.type
0 rows, 3 events read (630 B) in T; none known to be lost
",
    );
    scene.check(
        &["a = 1", "-f", "whole.ndjson", "--last", "10"],
        2,
        "",
        "netconn: '10' has no unit: use 10s, 10m, 10h, 10d or 10w\n",
    );
    scene.check(&["a = 1", "-f", "missing"], 74, "", "netconn: cannot read missing: it does not exist\n");
    scene.check(
        &["a = 1", "--config", "netconn.toml"],
        69,
        "",
        "netconn: there is no history in DIR/none/events: start the daemon (`netconn run`) with `history = true`, or name files with --file\n",
    );
    scene.check(
        &["a = 1", "--config", "missing.toml"],
        78,
        "",
        "netconn: cannot read the configuration missing.toml: No such file or directory (os error 2)\n",
    );
    fs::write(scene.path("wrong.toml"), "[search]\nhunt = 1\n").unwrap();
    let wrong = scene.run(&["a = 1", "--config", "wrong.toml"]);
    let said = String::from_utf8(wrong.stderr).unwrap();
    // The place in the file, line by line.
    assert!(said.contains("wrong.toml: ") && said.contains("\n2 | hunt = 1\n") && !said.contains('\u{fffd}'), "{said}");
    assert_eq!(wrong.status.code(), Some(78));
    scene.check(
        &[],
        2,
        "",
        "netconn: a query is needed: `netconn search \"event.type = 'IP Connect'\"`, @FILE or - for standard input\n",
    );
    scene.check(
        &["| group count()", "--follow"],
        65,
        "",
        "netconn: `group` needs all rows and cannot be used with --follow, which allows a filter, `filter`, `columns`, `let`, \
         `parse` and `lookup`\n",
    );
    for (query, what) in [
        ("| filter running_sum(event.id) > 3", "running_sum"),
        ("| let a = 1 + running_count()", "running_count"),
        ("dst.ip.address in (event.type = 'IP Close' | columns dst.ip.address)", "in (subquery)"),
    ] {
        scene.check(
            &[query, "--follow"],
            65,
            "",
            &format!(
                "netconn: `{what}` needs all rows and cannot be used with --follow, which allows a filter, `filter`, \
                 `columns`, `let`, `parse` and `lookup`\n"
            ),
        );
    }
    scene.check(
        &["dst.ip.address = 10.0.0.0/8 or pct(5)", "--follow", "--format", "csv"],
        65,
        "",
        &String::from_utf8(scene.run(&["dst.ip.address = 10.0.0.0/8 or pct(5)", "-f", "whole.ndjson"]).stderr).unwrap(),
    );
    scene.check(
        &["a = 1", "--follow", "--socket", "none.sock"],
        69,
        "",
        "netconn: sensor_offline: no netconn daemon listens at none.sock; start it with `netconn run` (as root) or name its \
         --socket\n",
    );
    scene.check(
        &["a = 1", "-f", "whole.ndjson", "-o", "none/x.csv", "--format", "csv"],
        74,
        "",
        "netconn: cannot write none/x.csv: No such file or directory (os error 2)\n",
    );
}

#[test]
fn segments_are_converted_for_the_daemon() {
    let scene = Scene::new();
    fs::copy(scene.path("whole.ndjson"), scene.path("events-1795255190000.ndjson")).unwrap();
    let output = scene.run(&["--convert", "./events-1795255190000.ndjson"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(0), 1), "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let file = scene.path(report["file"].as_str().unwrap());
    assert_eq!(file.file_name().unwrap(), "events-1795255190000-1795255260000.parquet");
    assert_eq!(report["bytes"], fs::metadata(&file).unwrap().len());
    assert_eq!(
        (&report["rows"], &report["first"], &report["last"]),
        (&3.into(), &1_795_255_200_000_i64.into(), &1_795_255_260_000_i64.into())
    );
    let rows = |file: &str| scene.run(&["| sort event.time", "-f", file, "--format", "ndjson"]).stdout;
    assert_eq!(rows(file.to_str().unwrap()), rows("whole.ndjson"));
}

#[test]
fn queries_are_read_from_files_standard_input_and_saved_ones() {
    let scene = Scene::new();
    let (count, rows) = ("| group n = count()", "n\n3\n");
    let rest = ["-f", "whole.ndjson", "--format", "csv"];
    fs::write(scene.path("q.pq"), format!("// a comment\r\n{count}\n")).unwrap();
    scene.check(&[&["@q.pq"][..], &rest].concat(), 0, rows, "");
    let mut child = scene.command(&[&["-"][..], &rest].concat());
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(count.as_bytes()).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, rows.as_bytes());
    scene.check(
        &[&[count, "--save", "all"][..], &rest].concat(),
        0,
        rows,
        "netconn: saved all; run it with `netconn search --saved all`\n",
    );
    scene.check(&[&["--saved", "all"][..], &rest].concat(), 0, rows, "");
    scene.check(&["--saved"], 0, "all\n", "");
    scene.check(&["--saved", "al"], 2, "", "netconn: there is no saved query 'al'; did you mean 'all'?\n");
    // A query with an error that only the checker finds is not saved either.
    let refused = scene.run(&["frobnicate(a) = 1", "--save", "wrong"]);
    assert_eq!(refused.status.code(), Some(65));
    let split = scene.run(&["event.type", "=", "IP Connect"]);
    let said = String::from_utf8(split.stderr).unwrap();
    assert!(split.status.code() == Some(2) && said.contains("Quote the query"), "{said}");
    scene.check(&["a = (1", "--save", "wrong"], 65, "", &String::from_utf8(scene.run(&["a = (1"]).stderr).unwrap());
    scene.check(&["--saved"], 0, "all\n", "");
}

#[test]
fn errors_are_json_with_format_json() {
    let scene = Scene::new();
    let error = |arguments: &[&str]| {
        let output = scene.run(&[arguments, &["--format", "json"]].concat());
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), answer["error"].clone())
    };
    let (code, refused) = error(&["a = 1 | colums b", "-f", "whole.ndjson"]);
    assert_eq!((code, &refused["code"]), (Some(65), &"bad_request".into()));
    let (_, range) = error(&["a = 1", "-f", "whole.ndjson", "--last", "5"]);
    assert_eq!(range["code"], "bad_request", "{range}");
    let place = &refused["diagnostics"][0];
    assert_eq!((&place["line"], &place["column"], &place["suggestion"]), (&1.into(), &9.into(), &"columns".into()));
    let (code, missing) = error(&["a = 1", "-f", "missing"]);
    assert_eq!((code, &missing["message"]), (Some(74), &"cannot read missing: it does not exist".into()));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let scene = Scene::new();
    let many: String = EVENTS.lines().take(1).map(|line| format!("{line}\n")).collect::<String>().repeat(20_000);
    fs::write(scene.path("many.ndjson"), many).unwrap();
    for format in ["table", "ndjson", "csv", "json", "parquet"] {
        let mut command = scene.command(&["| nolimit", "-f", "many.ndjson", "--format", format]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut some = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{format}");
    }
}

#[test]
fn colours_follow_the_option() {
    let scene = Scene::new();
    let arguments = ["| group n = count()", "-f", "whole.ndjson", "--color"];
    let shown = |when| scene.run(&[&arguments[..], &[when]].concat()).stdout;
    assert_eq!(shown("auto"), b"n\n3\n");
    assert_eq!(shown("never"), b"n\n3\n");
    assert_eq!(shown("always"), b"\x1b[1mn\x1b[0m\n3\n");
}

#[test]
fn hunts_are_listed_shown_and_run() {
    let scene = Scene::new();
    let listed = String::from_utf8(scene.run(&["hunt", "--list"]).stdout).unwrap();
    assert_eq!(listed.lines().count(), 19, "{listed}");
    assert!(
        listed.starts_with("NAME                   SEVERITY  RANGE    TITLE\nreverse-shell          critical  7 days"),
        "{listed}"
    );
    let json: serde_json::Value =
        serde_json::from_slice(&scene.run(&["hunt", "--list", "--format", "json"]).stdout).unwrap();
    assert_eq!(json["hunts"].as_array().map(Vec::len), Some(18));
    let shown = String::from_utf8(scene.run(&["hunt", "mining", "--show"]).stdout).unwrap();
    for part in ["False positives", "min_connections", "address and port [default: 1]", "| sort -Connections"] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("hunts/tests/mining.match.ndjson");
    let events = events.to_str().unwrap();
    let found = |arguments: &[&str]| {
        let output = scene.run(&[&["hunt"], arguments, &["-f", events, "--format", "csv", "-e"]].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap().lines().count())
    };
    assert_eq!(found(&["mining"]), (Some(0), 3));
    assert_eq!(found(&["mining", "--set", "min_connections=2"]), (Some(1), 1));
    scene.check(
        &["hunt", "minin"],
        2,
        "",
        "netconn: there is no hunt 'minin' (`netconn hunt --list` lists all); did you mean 'mining'?\n",
    );
}

#[test]
fn a_hunt_has_a_default_range() {
    let scene = Scene::new();
    let found = |name: &str, kind: &str, range: &[&str]| {
        let events = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("hunts/tests/{name}.{kind}.ndjson"));
        let arguments = ["hunt", name, "-f", events.to_str().unwrap(), "--format", "csv", "-q"];
        let output = scene.run(&[&arguments[..], range].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{name}");
        String::from_utf8(output.stdout).unwrap().lines().count() - 1
    };
    for name in ["new-listeners", "rare-destinations"] {
        // Files as a whole, without a time range; then the default range of the hunt, up to an end.
        for range in [&[][..], &["--until", "2026-11-21T00:00:00Z"]] {
            assert_eq!((found(name, "match", range), found(name, "nomatch", range)), (1, 0), "{name} {range:?}");
        }
    }
    // A beginning replaces the default range.
    let last = ["--last", "1ms", "--until", "2026-11-21T00:00:00Z"];
    assert_eq!(found("mining", "match", &last), 0);
}

#[test]
fn all_hunts_are_summarised() {
    let scene = Scene::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hunts/tests/mining.match.ndjson");
    let range = ["--last", "30d", "--until", "2026-11-21T00:00:00Z"];
    let output = scene.run(&[&["hunt", "all", "-f", folder.to_str().unwrap(), "-q"][..], &range].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.ends_with("18 hunts run; found: suspicious-executable (1), mining (2), rare-destinations (2)\n"),
        "{said}"
    );
    // A file of all tables has their titles.
    let text = String::from_utf8(output.stdout).unwrap();
    let titles = text.lines().filter(|line| line.contains(" (details: `netconn hunt ")).count();
    assert_eq!(titles, 18, "{text}");
    let output =
        scene.run(&[&["hunt", "all", "-f", folder.to_str().unwrap(), "--format", "json"][..], &range].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = json["hunts"].as_array().unwrap().iter().find(|hunt| hunt["name"] == "mining").unwrap();
    assert_eq!((&found["events_lost"], &found["bad_lines"]), (&0.into(), &0.into()));
    assert_eq!((&found["rows"], &found["severity"]), (&2.into(), &"high".into()));
}

#[test]
fn unknown_columns_of_tables_are_reported() {
    let scene = Scene::new();
    let tables = scene.path("tables");
    fs::create_dir(&tables).unwrap();
    fs::write(tables.join("hosts.csv"), "name,address\none,10.0.0.1\n").unwrap();
    let said = |query: &str| {
        let output = scene.run(&["--file", "events.ndjson", "--lookups", tables.to_str().unwrap(), query]);
        assert!(output.status.success(), "{query}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for query in ["| dataset 'hosts' | filter nme = 'one'", "| dataset 'hosts' | columns nme"] {
        let said = said(query);
        assert!(said.contains("there is no column 'nme' here") && said.contains("write: name\n"), "{query}: {said}");
    }
    let counted = "| group n = count() by event.type, src.process.name";
    let transposed = said(&format!("{counted} | transpose event.type on src.process.name | filter nope > 1"));
    assert!(transposed.contains("there is no column 'nope' here"), "{transposed}");
    // The checker and the planner both know it: only one of them warns.
    let grouped = said(&format!("{counted} | filter nope > 1"));
    assert_eq!(grouped.matches("'nope'").count(), 1, "{grouped}");
    assert!(!said("| dataset 'hosts' | filter name = 'one'").contains("warning"));
}

#[test]
fn a_dash_is_standard_output_and_no_file() {
    let scene = Scene::new();
    let output = scene.run(&["| group count()", "-f", "events.ndjson", "--format", "csv", "-o", "-"]);
    assert!(output.status.success() && output.stdout.starts_with(b"count\n"), "{output:?}");
    assert!(!scene.path("-").exists());
    // As a file, it is standard input.
    let mut command = scene.command(&["| group n = count()", "-f", "-", "--format", "csv"]);
    command.stdin(fs::File::open(scene.path("whole.ndjson")).unwrap());
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "n\n3\n", "{:?}", String::from_utf8(output.stderr));
    // Messages name it, and Parquet is read from it too.
    let mut command = scene.command(&["| group n = count()", "-f", "-", "--format", "csv"]);
    command.stdin(fs::File::open(scene.path("events.ndjson")).unwrap());
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(said.contains("standard input: line 4 is no JSON object."), "{said}");
    scene.check(&["| columns n = 7 | limit 1", "-f", "whole.ndjson", "-o", "seven.parquet"], 0, "", "");
    let mut command = scene.command(&["| group n = sum(n)", "-f", "-", "--format", "csv"]);
    command.stdin(fs::File::open(scene.path("seven.parquet")).unwrap());
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "n\n7\n", "{:?}", String::from_utf8(output.stderr));
    // It cannot be the query as well.
    scene.check(
        &["-", "-f", "-"],
        2,
        "",
        "netconn: the query and the events cannot both be standard input: write the query to a file and name it as @FILE\n",
    );
    // One that never ends is given up at the timeout, and leaves no copy behind.
    fs::create_dir(scene.path("tmp")).unwrap();
    let mut command = scene.command(&["| group n = count()", "-f", "-", "--timeout", "1s"]);
    command.env("TMPDIR", scene.path("tmp")).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(EVENTS.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(fs::read_dir(scene.path("tmp")).unwrap().count(), 0);
    drop(input);
    let output = scene.run(&["| group count()", "-f", "events.ndjson", "--explain", "--format", "json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// A query that fails before its first row writes only the object with the error.
#[test]
fn a_late_error_is_one_json_object() {
    let scene = Scene::new();
    fs::write(scene.path("large.ndjson"), "{\"event.time\":1795255200000,\"n\":9223372036854775807}\n").unwrap();
    for output in [&[][..], &["-o", "-"]] {
        let arguments = ["| columns m = n + 1", "-f", "large.ndjson", "--format", "json"];
        let output = scene.run(&[&arguments[..], output].concat());
        assert!(!output.status.success());
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("beyond the largest whole number"), "{answer}");
        assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    }
}
