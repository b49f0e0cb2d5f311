//! What a daemon tells in the formats of other programs: each event is valid there, by what the makers of the formats publish.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use netconn_tests::{Daemon, Netns, connected, deliver, netconn, reset, udp, until};

const FORMATS: [&str; 9] =
    ["ocsf", "ecs", "zeek", "zeek-tsv", "eve", "cef", "osquery", "limacharlie", "limacharlie-network"];

/// A `netconn watch` in a format that writes events of a namespace to a file. It ends with the daemon.
fn watch(daemon: &Daemon, namespace: &Netns, format: &str, to: &Path) -> Child {
    let mut command = Command::new(netconn());
    command
        .args(["watch", "--once", "--namespace", namespace.name(), "--format", format, "--socket"])
        .arg(daemon.socket());
    command.stdout(File::create(to).unwrap()).stderr(Stdio::null()).spawn().unwrap()
}

/// The packages with which `cargo xtask test` checks formats, if they are installed: not in guests, and not before that step.
///
/// # Panics
///
/// If they are missing under CI, where that step comes before; guests do not have its variable.
fn packages() -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap();
    let found =
        program.ancestors().map(|folder| folder.join("formats-python")).find(|folder| folder.join("packages").exists());
    let is_ci = std::env::var_os("CI").is_some_and(|value| value != "false");
    assert!(found.is_some() || !is_ci, "no folder above {} has formats-python", program.display());
    found
}

/// Makes events of most kinds: connections of both versions of IP that end well or by a reset, attempts that fail, flows, a flow
/// that is refused, and listeners.
fn traffic(namespace: &Netns) {
    namespace.run(|| {
        for address in ["127.0.0.1", "::1"] {
            let (listener, client, server) = connected(address);
            drop(server);
            reset(client);
            let (_other, client, server) = connected(address);
            drop(client);
            drop(server);
            let to = listener.local_addr().unwrap();
            drop(listener);
            TcpStream::connect(to).unwrap_err();
        }
        TcpStream::connect(("192.0.2.1", 80)).unwrap_err();
        let (one, other) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
        deliver(&one, (&other, other.local_addr().unwrap()), 10);
        deliver(&other, (&one, one.local_addr().unwrap()), 20);
        let refused = udp("127.0.0.1:0");
        refused.connect(("127.0.0.1", 9)).unwrap();
        refused.send(b"x").unwrap();
        refused.recv(&mut [0; 1]).unwrap_err();
    });
    namespace.exec("ping", &["-c", "1", "127.0.0.1"]);
}

#[test]
fn what_a_daemon_tells_is_valid_in_every_format() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(format!("{name}.golden"));
    let mut watching: Vec<Child> =
        FORMATS.iter().map(|format| watch(&daemon, &namespace, format, &file(format))).collect();
    watching.push(watch(&daemon, &namespace, "json", &file("json")));
    let clients = || daemon.health()["clients"].as_u64().unwrap_or(0);
    until(10_000, || format!("{} streams", clients()), || clients() >= watching.len() as u64);
    traffic(&namespace);
    daemon.stop();
    for child in &mut watching {
        child.wait().unwrap();
    }
    let lines = |name: &str| {
        let text = fs::read_to_string(file(name)).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<String>>()
    };
    let events: Vec<serde_json::Value> = lines("json").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count =
        |kinds: &[&str]| events.iter().filter(|event| kinds.iter().any(|kind| event["event.type"] == *kind)).count();
    assert!(count(&["IP Connect"]) > 8, "{events:?}");
    // What has a place for all events has all of them.
    for name in ["ocsf", "ecs", "cef"] {
        assert_eq!(lines(name).len(), events.len(), "{name}");
    }
    assert_eq!(lines("osquery").len(), count(&["IP Connect", "IP Listen"]));
    // Each connection or flow once.
    let is_datagrams =
        |event: &serde_json::Value| event["event.network.protocol"] != "TCP" || event["event.network.raw"] == true;
    let failed = events.iter().filter(|event| {
        event["event.type"] == "IP Connect" && event["event.network.failureReason"].is_string() && !is_datagrams(event)
    });
    assert_eq!(lines("zeek").len(), count(&["IP Close"]) + failed.count());
    assert_eq!(lines("zeek").len(), lines("zeek-tsv").len());
    if let Some(packages) = packages() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netconn-model/tests/formats/check.py");
        let checked = Command::new("python3")
            .arg("-B")
            .arg(script)
            .arg(folder.path())
            .env("PYTHONPATH", packages)
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}
