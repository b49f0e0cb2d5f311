//! Network namespaces that come and go while netconn runs.

use std::{collections::HashSet, thread};

use netconn_tests::{Daemon, Netns, connected, until};

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
            // One end is left in TIME_WAIT when the namespace goes.
            drop(server);
        });
        // While a snapshot is taken.
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
        // Inodes may be used again at once, by the next namespace.
        if !kinds.insert(inode) {
            continue;
        }
        let events = all.with("event.network.namespace", inode);
        let connects = events.of("IP Connect").with("event.network.connectionStatus", "SUCCESS").len();
        assert!(connects >= 2 && connects == events.of("IP Close").len(), "{events:#?}");
    }
}
