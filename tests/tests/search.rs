//! The real netconn-search finds all events that the daemon has recorded, in Parquet files and in the current segment.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use netconn_tests::{Daemon, History, Installed, Netns, connected, moment, netconn, reset, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// Runs `netconn search` over the history of a daemon.
fn search(installed: &Installed, history: &History, query: &str, options: &[&str]) -> String {
    let folder = &history.0;
    let mut command = Command::new(installed.netconn());
    let output = command.args(["search", query, "--file", folder.to_str().unwrap()]).args(options).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{query}: {}: {said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn by_id(lines: &str) -> BTreeMap<String, Value> {
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}")));
    let mut found = BTreeMap::new();
    for event in events {
        let id = event["event.id"].as_str().unwrap().to_owned();
        assert!(found.insert(id.clone(), event).is_none(), "{id} is there twice");
    }
    found
}

/// Makes connections with both ends in the namespace, and with every tenth a refused attempt and another listener.
fn traffic(namespace: &Netns, count: usize) {
    namespace.run(|| {
        for number in 0..count {
            let (listener, client, server) = connected("127.0.0.1");
            drop(server);
            reset(client);
            if number % 10 == 0 {
                let port = listener.local_addr().unwrap().port();
                drop(listener);
                std::net::TcpStream::connect(("127.0.0.1", port)).unwrap_err();
                drop(TcpListener::bind("[::1]:0").unwrap());
            }
        }
    });
}

#[test]
fn segments_are_converted_without_any_right() {
    let (namespace, installed) = (Netns::new(), Installed::new());
    installed.search();
    // As /root, where `cargo install` puts it: the converter's user cannot get there.
    installed.close();
    let daemon = Daemon::start_installed(&installed, "history_bytes = 4194304");
    let mut status = String::new();
    let look = |status: &mut String| {
        let Some(child) = daemon.converter() else { return };
        let now = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        // It takes this name just before it confines itself; until then it has the number of a descriptor.
        if now.starts_with("Name:\tnetconn-search\n") {
            *status = now;
        }
    };
    let history = || daemon.health()["history"].clone();
    traffic(&namespace, 120);
    until(
        60_000,
        || format!("{:#} {}", history(), daemon.log()),
        || {
            // Fast enough to see it at work.
            (0..100).for_each(|_| {
                look(&mut status);
                thread::sleep(Duration::from_millis(1));
            });
            let converted = history()["converted"].as_u64().unwrap();
            if converted > 0 && status.is_empty() {
                traffic(&namespace, 60);
            }
            converted > 0 && !status.is_empty()
        },
    );
    for expected in
        ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|set| format!("{set}\t0000000000000000\n"))
    {
        assert!(status.contains(&expected), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    let confinement = history()["confinement"].clone();
    let uid = confinement["uid"].as_u64().unwrap();
    assert!(uid != 0 && status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{confinement} {status}");
    assert_eq!(confinement["seccomp"], "full", "{confinement}");
    let lsm = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    assert!(!lsm.contains("landlock") || confinement["landlock"] != "none", "{confinement}");
    let text = daemon.text(&["doctor"]);
    assert_eq!(text.contains("segments are converted without"), confinement["landlock"] != "full", "{text}");
    assert_eq!(history()["failures"], 0, "{}", daemon.log());
    // What it made belongs to root, as all files of the history.
    let names = daemon.history().names();
    let made = names.iter().find(|name| name.ends_with(".parquet")).unwrap();
    let metadata = fs::metadata(daemon.history().0.join(made)).unwrap();
    assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o7777), (0, 0o640));
}

#[test]
fn what_was_recorded_is_found() {
    let (namespace, installed) = (Netns::new(), Installed::new());
    installed.search();
    // Also what others do at the same time must not have events of this test folded.
    let mut daemon = Daemon::start_installed(&installed, "history_bytes = 4194304\nhistory_floor_hours = 0");
    traffic(&namespace, 120);
    let converted = |daemon: &Daemon| daemon.history().counts().0;
    until(60_000, || format!("{:?} {}", daemon.history().names(), daemon.log()), || converted(&daemon) > 0);
    // The kill may come during a conversion. The pause lets the daemon write all events: those that still wait would be
    // lost, which is not tested here.
    moment();
    let killed = daemon.kill();
    daemon = killed.start();
    traffic(&namespace, 60);
    let is_closed = |event: &&Value| event["event.network.namespace"] == namespace.inode;
    let written = || by_id(&fs::read_to_string(daemon.event_file()).unwrap());
    let count = || written().values().filter(is_closed).filter(|event| event["event.type"] == "IP Close").count();
    until(20_000, || format!("{} ends", count()), || count() >= 2 * 180 - 4);

    // A search finds every event as it was written. Both sides are limited to the test's namespace, because other
    // processes cause events meanwhile.
    let of_test = format!("event.network.namespace = {}", namespace.inode);
    let whole = format!("{of_test} | nolimit");
    let mut found = BTreeMap::new();
    let expected = || written().into_iter().filter(|(_, event)| is_closed(&event)).collect::<BTreeMap<_, _>>();
    let mut look = || {
        found = by_id(&search(&installed, &daemon.history(), &whole, &["--format", "ndjson", "--quiet"]));
        found == expected()
    };
    until(20_000, || "the history is not what was written".into(), &mut look);
    assert!(found.len() > 700, "{}", found.len());

    // The counts of a `group` equal those of the events.
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for event in found.values() {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        *counts.entry((text("event.type"), text("event.network.connectionStatus"))).or_default() += 1;
    }
    let query = format!("{of_test} | group n = count() by event.type, event.network.connectionStatus");
    let groups = search(&installed, &daemon.history(), &query, &["--format", "csv", "--quiet"]);
    // The groups are sorted by their keys, like the map.
    let expected: Vec<String> = counts.iter().map(|((kind, status), n)| format!("{kind},{status},{n}")).collect();
    assert_eq!(groups.lines().skip(1).collect::<Vec<_>>(), expected);

    // By their names, converted files have no events of this time. What is not converted is read.
    let early = ["--since", "2001-01-01", "--until", "2001-01-02", "--format", "json"];
    let answer: Value = serde_json::from_str(&search(&installed, &daemon.history(), "", &early)).unwrap();
    assert_eq!(answer["row_count"], 0, "{answer:#}");
    assert!(answer["files_pruned"].as_u64().unwrap() >= 2, "{answer:#}");
    daemon.stop();
}

/// Returns what a search says of a history, as JSON, and what it tells people.
fn answer(installed: &Installed, history: &History) -> (Value, String) {
    let json = search(installed, history, "event.type = 'IP Connect'", &["--format", "json"]);
    let folder = history.0.to_str().unwrap();
    let mut command = Command::new(installed.netconn());
    let output =
        command.args(["search", "event.type = 'IP Connect'", "--last", "1h", "--file", folder]).output().unwrap();
    (serde_json::from_str(&json).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn times_without_a_daemon_are_told() {
    let (namespace, installed) = (Netns::new(), Installed::new());
    installed.search();
    let daemon = Daemon::start_installed(&installed, "");
    traffic(&namespace, 1);
    let (before, _) = answer(&installed, &daemon.history());
    assert_eq!(before["gaps"], serde_json::json!([]), "{before:#}");
    let now = || jiff::Timestamp::now().as_millisecond();
    // Stopped in order; what happens meanwhile is missing.
    let killed = daemon.end();
    let stopped = now();
    traffic(&namespace, 1);
    thread::sleep(Duration::from_secs(2));
    let starts = now();
    let daemon = killed.start();
    until(20_000, || daemon.log(), || answer(&installed, &daemon.history()).0["gaps"].as_array().unwrap().len() == 1);
    let (json, said) = answer(&installed, &daemon.history());
    let gap = json["gaps"][0].clone();
    let (from, to) = (gap["from"].as_i64().unwrap(), gap["to"].as_i64().unwrap());
    assert!(
        from <= stopped && stopped - from < 10_000 && to >= starts && to - starts < 30_000,
        "{gap} {stopped} {starts}"
    );
    assert_eq!(gap["reason"], "stopped", "{gap}");
    assert!(said.contains("nothing was recorded from 2") && said.contains("netconn was stopped"), "{said}");
    assert!(said.contains("some time was not recorded"), "{said}");
    // Killed: the last event says how far it had come.
    traffic(&namespace, 1);
    moment();
    let last = now();
    let killed = daemon.kill();
    thread::sleep(Duration::from_secs(2));
    let starts = now();
    let daemon = killed.start();
    until(20_000, || daemon.log(), || answer(&installed, &daemon.history()).0["gaps"].as_array().unwrap().len() == 2);
    let (json, said) = answer(&installed, &daemon.history());
    let gap = json["gaps"][1].clone();
    let (from, to) = (gap["from"].as_i64().unwrap(), gap["to"].as_i64().unwrap());
    assert!(
        from <= last + 2000 && last - from < 10_000 && to >= starts && to - starts < 30_000,
        "{gap} {last} {starts}"
    );
    assert_eq!(gap["reason"], "killed", "{gap}");
    assert!(said.contains("ended without stopping in order"), "{said}");
    daemon.stop();
}

#[test]
fn following_outlasts_the_daemon() {
    let (namespace, installed) = (Netns::new(), Installed::new());
    installed.search();
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut daemon = Daemon::start_installed(&installed, "");
    let query =
        format!("event.network.namespace = {} and event.type = 'IP Listen' | columns event.id", namespace.inode);
    let mut following = Command::new(installed.netconn())
        .args(["search", &query, "--follow", "--format", "ndjson", "--socket"])
        .arg(daemon.socket())
        .stdout(fs::File::create(path("rows")).unwrap())
        .stderr(fs::File::create(path("said")).unwrap())
        .spawn()
        .unwrap();
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    let rows = || read("rows").lines().count();
    // Until it follows, events pass it by.
    let sees = |more: usize| {
        let before = rows();
        until(
            60_000,
            || format!("{} {}", read("rows"), read("said")),
            || {
                namespace.run(|| drop(TcpListener::bind("127.0.0.1:0").unwrap()));
                moment();
                rows() >= before + more
            },
        );
    };
    sees(1);
    for (round, is_killed) in [(1, false), (2, true)] {
        let killed = if is_killed { daemon.kill() } else { daemon.end() };
        let ends = || read("said").matches("; waiting for the next one").count();
        until(20_000, || read("said"), || ends() == round);
        assert!(following.try_wait().unwrap().is_none(), "{}", read("said"));
        daemon = killed.start();
        until(20_000, || read("said"), || read("said").matches("are missing here").count() == round);
        sees(1);
    }
    kill(Pid::from_raw(i32::try_from(following.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(following.wait().unwrap().success());
    daemon.stop();
}

/// Returns `N,M` for the events that the program `load` has made in a history: their number, and their number of ids.
fn made(installed: &Installed, history: &History) -> String {
    let query = "endpoint.name = 'web-1' | group n = count(), different = count_distinct(event.id)";
    search(installed, history, query, &["--format", "csv", "--quiet"]).lines().nth(1).unwrap_or_default().to_owned()
}

/// Puts this number of events into a history, in twenty segments or one more.
fn segments_of(events: usize, history: &History) {
    let folder = TempDir::new().unwrap();
    let load = netconn().with_file_name("load");
    let mut command = Command::new(load);
    let status = command.args(["events", "--count", &events.to_string(), "--folder"]).arg(folder.path()).output();
    assert!(status.unwrap().status.success());
    // `load` closes its segments at 64 MiB, which are too few and too long for this test.
    let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let lines = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect::<String>();
    let lines: Vec<&str> = lines.split_inclusive('\n').collect();
    for segment in lines.chunks(events / 20) {
        let first: Value = serde_json::from_str(segment[0]).unwrap();
        let name = format!("events-{:013}.ndjson", first["event.time"].as_u64().unwrap());
        fs::write(history.0.join(name), segment.concat()).unwrap();
    }
}

/// Returns the daemon's child that is converting a segment, if there is one.
fn converter_of(daemon: &Daemon) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    children
        .flat_map(|children| children.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .map(Pid::from_raw)
        .next()
}

#[test]
fn kills_while_segments_are_converted_lose_and_double_nothing() {
    const EVENTS: usize = 40_000;
    let installed = Installed::new();
    installed.search();
    let mut daemon = Daemon::start_installed(&installed, "history_days = 3650");
    // No daemon may run while segments are put into its folder: it counts and limits them.
    let mut killed = daemon.kill();
    let history = killed.history();
    segments_of(EVENTS, &history);
    let all = format!("{EVENTS},{EVENTS}");
    assert_eq!(made(&installed, &history), all);
    let segments = |history: &History| history.names().iter().filter(|name| name.ends_with(".ndjson")).count();
    let before = segments(&history);

    let mut converting = 0;
    for round in 0_u64..10 {
        daemon = killed.start();
        until(20_000, || daemon.log(), || converter_of(&daemon).is_some() || segments(&history) < 3);
        // The times are spread over the conversion of a segment, which takes less than a second.
        thread::sleep(Duration::from_millis(round * 61 % 400));
        let child = converter_of(&daemon);
        converting += u32::from(child.is_some());
        // Even rounds kill the daemon, with which its child ends. Odd rounds kill the child, and then the daemon while
        // it handles that.
        if let Some(child) = child.filter(|_| round % 2 == 1) {
            let _ = kill(child, Signal::SIGKILL);
            thread::sleep(Duration::from_millis(round * 7 % 50));
        }
        killed = daemon.kill();
        assert_eq!(made(&installed, &history), all, "after kill {round}: {:?}", history.names());
    }
    // Kills without a child prove nothing about conversions.
    assert!(converting >= 5, "only {converting} of 10 kills came in time");
    daemon = killed.start();
    until(60_000, || format!("{:?}", history.names()), || segments(&history) <= 1);
    assert_eq!(made(&installed, &history), all);
    let is_left =
        |name: &String| !Path::new(name).extension().is_some_and(|kind| kind == "ndjson" || kind == "parquet");
    let left: Vec<String> = history.names().into_iter().filter(is_left).collect();
    assert!(left.is_empty(), "{left:?} of {before} segments");
    daemon.stop();
}
