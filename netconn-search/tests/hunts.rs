//! Tests that every hunt finds its target, and nothing in harmless events that look similar.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use netconn_search::{
    engine::{self, Search},
    hunt::HuntLibrary,
};

/// The end of the time range: 2026-11-21T00:00:00Z. The events are from the 30 days before.
const END: i64 = 1_795_219_200_000;

const DAYS: i64 = 30 * 86_400_000;

/// Counts the rows that a query finds in a file.
async fn rows(query: &netconn_query::Query, file: PathBuf) -> usize {
    let mut search = Search::new(vec![file]);
    search.range = Some(END - DAYS..END);
    let mut answer = search.run(query).await.unwrap();
    let mut rows = 0;
    while let Some(batch) = answer.batches.next().await {
        rows += batch.unwrap().num_rows();
    }
    let read = answer.progress.snapshot();
    assert!(read.rows > 0 && read.bad_lines == 0, "{read:?}");
    rows
}

/// Counts the rows that a hunt finds in the events that must match, and in those that must not.
fn found(name: &str) -> (usize, usize) {
    let hunt = HuntLibrary::new(None).get(name).unwrap();
    let query = netconn_query::parse(&hunt.query).query.unwrap();
    let file = |kind: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("hunts/tests/{name}.{kind}.ndjson"));
    engine::runtime()
        .unwrap()
        .block_on(async { (rows(&query, file("match")).await, rows(&query, file("nomatch")).await) })
}

macro_rules! hunts {
    ($($test:ident $name:literal $rows:literal;)+) => {
        $(#[test]
        fn $test() {
            assert_eq!(found($name), ($rows, 0));
        })+

        #[test]
        fn all_hunts_are_tested() {
            let mut names: Vec<String> = HuntLibrary::new(None).all().0.into_iter().map(|hunt| hunt.name).collect();
            let mut tested = [$($name),+].map(str::to_owned);
            names.sort();
            tested.sort();
            assert_eq!(names, tested);
        }
    };
}

// The number of rows that each hunt must find in the matching events.
hunts! {
    beaconing "beaconing" 1;
    dns_bypass "dns-bypass" 2;
    exfiltration_port "exfiltration-port" 2;
    exfiltration_volume "exfiltration-volume" 1;
    failed_connects "failed-connects" 1;
    internal_scan "internal-scan" 2;
    mining "mining" 2;
    new_listeners "new-listeners" 1;
    rare_destinations "rare-destinations" 1;
    reverse_shell "reverse-shell" 4;
    suspicious_executable "suspicious-executable" 4;
    inbound_scan "inbound-scan" 1;
    brute_force "brute-force" 2;
    tunnels "tunnels" 6;
    remote_management "remote-management" 3;
    tor "tor" 4;
    opened_services "opened-services" 1;
    ssh_fan_out "ssh-fan-out" 1;
}
