//! What `netconn forget` removes, and what it leaves alone. The oracle is the file system.

use std::{fs, net::TcpListener, path::Path, process::Command};

use netconn_tests::{Daemon, Netns, netconn, until};

/// Returns the pins of a sensor.
fn pins(id: &str) -> Vec<String> {
    let all = fs::read_dir("/sys/fs/bpf/netconn").unwrap().map(|pin| pin.unwrap().file_name().into_string().unwrap());
    all.filter(|name| name.starts_with(id)).collect()
}

/// Runs `netconn forget` for the files of a daemon.
fn forget(folder: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(netconn())
        .arg("forget")
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--socket")
        .arg(folder.join("sock"))
        .args(more)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn forget_removes_all_of_a_daemon_that_has_ended_and_nothing_else() {
    let (daemon, other) = (Daemon::start(), Daemon::start());
    let namespace = Netns::new();
    let _listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    until(20_000, || "no pins".into(), || !pins(&daemon.sensor_id()).is_empty());
    let folder = daemon.socket().parent().unwrap().to_owned();
    let id = daemon.sensor_id();

    let (code, listed, told) = forget(&folder, &["--yes"]);
    assert_eq!((code, listed.as_str()), (Some(69), ""), "{told}");
    assert!(told.contains(&format!("process {}", daemon.pid())), "{told}");
    assert!(!daemon.list(namespace.inode).is_empty());

    let ended = daemon.end();
    let (code, listed, told) = forget(&folder, &[]);
    assert!(code == Some(0) && told.contains("nothing was removed"), "{told}");
    let names: Vec<&str> = listed.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(names.iter().all(|name| Path::new(name).exists()), "{listed}");
    let kept = pins(&id);
    assert!(!kept.is_empty() && kept.iter().all(|pin| listed.contains(pin.as_str())), "{kept:?} {listed}");

    let (code, ..) = forget(&folder, &["--yes"]);
    assert_eq!(code, Some(0));
    assert!(names.iter().all(|name| !Path::new(name).exists()), "{listed}");
    assert!(pins(&id).is_empty() && !folder.join("state").exists());
    // The log and the events are files of the test, and another daemon has its own pins.
    let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["events", "log"]);
    assert!(!pins(&other.sensor_id()).is_empty());
    let (code, listed, told) = forget(&folder, &["--yes"]);
    assert!(code == Some(0) && listed.is_empty() && told.contains("nothing is left"), "{listed}{told}");

    // A new sensor begins in the same place.
    let next = ended.start();
    assert_ne!(next.sensor_id(), id);
}
