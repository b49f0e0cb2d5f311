//! Network namespaces that begin and end while netconn runs.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use netconn_tests::{Daemon, Ending, Netns, connected, long, rows, ss, until};

#[test]
fn namespaces_come_and_go() {
    let daemon = Daemon::start();
    let mut inodes = Vec::new();
    for _ in 0..5 {
        let namespace = Netns::passing();
        inodes.push(namespace.inode);
        namespace.run(|| {
            let (_listener, client, server) = connected("127.0.0.1");
            drop(client);
            // One end is in TIME_WAIT when the namespace ends.
            drop(server);
        });
        // The namespace ends during a snapshot.
        thread::scope(|scope| {
            scope.spawn(|| daemon.text(&["list", "-H"]));
            drop(namespace);
        });
    }
    let is_empty = |inode: &u64| daemon.list_all(*inode).is_empty();
    until(5000, || "rows of namespaces that are gone".into(), || inodes.iter().all(is_empty));
    let all = daemon.stop();
    let mut kinds: HashSet<u64> = HashSet::new();
    for inode in inodes {
        // The next namespace may have got the same inode.
        if !kinds.insert(inode) {
            continue;
        }
        let events = all.with("event.network.namespace", inode);
        let connects = events.of("IP Connect").with("event.network.connectionStatus", "SUCCESS").len();
        assert!(connects >= 2 && connects == events.of("IP Close").len(), "{events:#?}");
    }
}

#[test]
fn namespaces_come_and_go_while_the_table_is_repaired() {
    let stays = Netns::new();
    let held: Vec<_> = stays.run(|| (0..10).map(|_| connected("127.0.0.1")).collect());
    // With the smallest ring, most records are lost, and the table is repaired all the time.
    let daemon = Daemon::start_configured("ring_bytes = 4096");
    // An emulated machine is too slow for more.
    let count = if long(1) == Duration::from_millis(1) { 100 } else { 20 };
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ending = Ending(&end);
        let asking = scope.spawn(|| {
            let mut answers = 0;
            while !end.load(Ordering::Relaxed) {
                assert_eq!(ss(&stays), rows(&daemon.list_all(stays.inode)));
                answers += 1;
            }
            answers
        });
        let makers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..count / 2 {
                        let namespace = Netns::passing();
                        namespace.run(|| {
                            let all: Vec<_> = (0..10).map(|_| connected("::1")).collect();
                            drop(all);
                        });
                    }
                })
            })
            .collect();
        makers.into_iter().for_each(|maker| maker.join().unwrap());
        end.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
    });
    let health = daemon.health();
    assert!(health["repairs"].as_u64().unwrap() > 0 && health["complete"] == true, "{health:#}");
    // No row is left of namespaces that have ended.
    let others = || {
        let mut rows = daemon.rows("/v1/connections?format=ndjson");
        rows.retain(|row| row["namespace"] != stays.inode);
        // Only rows of this test program: the rest of the machine has connections too.
        rows.retain(|row| row["command_line"].as_str().is_some_and(|line| line.contains("namespaces")));
        rows
    };
    until(10_000, || format!("{:#?}; {:#}; {}", others(), daemon.health(), daemon.log()), || others().is_empty());
    drop(held);
    let log = daemon.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    daemon.stop();
}
