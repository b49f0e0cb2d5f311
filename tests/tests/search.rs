//! What the daemon has recorded is found again, by the real netconn-search: in Parquet, in what is being written, all of it.

use std::{collections::BTreeMap, fs, net::TcpListener, process::Command};

use netconn_tests::{Daemon, Installed, Netns, connected, moment, reset, until};
use serde_json::Value;

/// Runs `netconn search` over the history of a daemon.
fn search(installed: &Installed, daemon: &Daemon, query: &str, options: &[&str]) -> String {
    let folder = daemon.history().0;
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

/// Connections with both ends here, a refused one for every tenth, and a listener for each of these.
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
fn what_was_recorded_is_found() {
    let (namespace, installed) = (Netns::new(), Installed::new());
    installed.search();
    let mut daemon = Daemon::start_installed(&installed, "history_bytes = 4194304");
    traffic(&namespace, 120);
    let converted = |daemon: &Daemon| daemon.history().counts().0;
    until(60_000, || format!("{:?} {}", daemon.history().names(), daemon.log()), || converted(&daemon) > 0);
    // In the middle of whatever is converted; what waits to be written would be lost, which is not what this is about.
    moment();
    let killed = daemon.kill();
    daemon = killed.start();
    traffic(&namespace, 60);
    let is_closed = |event: &&Value| event["event.network.namespace"] == namespace.inode;
    let written = || by_id(&fs::read_to_string(daemon.event_file()).unwrap());
    let count = || written().values().filter(is_closed).filter(|event| event["event.type"] == "IP Close").count();
    until(20_000, || format!("{} ends", count()), || count() >= 2 * 180 - 4);

    // Everything, and as it was written. What came meanwhile belongs to others.
    let of_test = format!("event.network.namespace = {}", namespace.inode);
    let whole = format!("{of_test} | nolimit");
    let mut found = BTreeMap::new();
    let expected = || written().into_iter().filter(|(_, event)| is_closed(&event)).collect::<BTreeMap<_, _>>();
    let mut look = || {
        found = by_id(&search(&installed, &daemon, &whole, &["--format", "ndjson", "--quiet"]));
        found == expected()
    };
    until(20_000, || "the history is not what was written".into(), &mut look);
    assert!(found.len() > 700, "{}", found.len());

    // Counted another way.
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for event in found.values() {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        *counts.entry((text("event.type"), text("event.network.connectionStatus"))).or_default() += 1;
    }
    let query = format!("{of_test} | group n = count() by event.type, event.network.connectionStatus");
    let told = search(&installed, &daemon, &query, &["--format", "csv", "--quiet"]);
    // Sorted by the keys, as the map is.
    let expected: Vec<String> = counts.iter().map(|((kind, status), n)| format!("{kind},{status},{n}")).collect();
    assert_eq!(told.lines().skip(1).collect::<Vec<_>>(), expected);

    // A time of which the names of files say that nothing is there.
    let early = ["--since", "2001-01-01", "--until", "2001-01-02", "--format", "json"];
    let answer: Value = serde_json::from_str(&search(&installed, &daemon, "", &early)).unwrap();
    assert_eq!((answer["row_count"].as_u64(), answer["events_read"].as_u64()), (Some(0), Some(0)), "{answer:#}");
    assert!(answer["files_pruned"].as_u64().unwrap() >= 2, "{answer:#}");
    daemon.stop();
}
