//! `netconn list` when no daemon runs: as root with BPF, without it, and as anybody.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use netconn_tests::{Netns, connected, netconn, rows, ss, until};
use serde_json::Value;
use tempfile::TempDir;

const NOBODY: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const WITHOUT_BPF: &[&str] = &["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"];

/// Runs a command in a namespace where no daemon can be met, should one run on this machine.
fn without_daemon(namespace: &Netns, command: &[&str]) -> Output {
    let script = "if [ -d /run/netconn ]; then mount -t tmpfs tmpfs /run/netconn; fi; exec \"$@\"";
    let mut unshared = namespace.command("unshare", &["--mount", "sh", "-c", script, "sh"]);
    unshared.args(command).env_remove("NETCONN_SOCKET").output().unwrap()
}

/// The same with a `netconn list` that must succeed: standard output, and the one line on standard error.
fn list(namespace: &Netns, who: &[&str], netconn: &Path, arguments: &[&str]) -> (String, String) {
    let output = without_daemon(namespace, &[who, &[netconn.to_str().unwrap(), "list"], arguments].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    assert!(error.starts_with("netconn: no daemon runs; showing ") && error.lines().count() == 1, "{error}");
    (String::from_utf8(output.stdout).unwrap(), error)
}

fn connections(json: &str) -> Vec<Value> {
    let object: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    object["connections"].as_array().unwrap().clone()
}

/// A copy that everybody can run; the tests may be in a folder that is root's.
fn copy(folder: &TempDir) -> PathBuf {
    let copy = folder.path().join("netconn");
    fs::copy(netconn(), &copy).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// Connections in all the states that stay as they are, held by the test.
fn scene(namespace: &Netns) -> Vec<(TcpListener, TcpStream, TcpStream)> {
    let held = namespace.run(|| {
        let held: Vec<_> = ["127.0.0.1", "::1", "::"].map(connected).into();
        let closed = connected("127.0.0.1");
        held[1].1.shutdown(std::net::Shutdown::Write).unwrap(); // FIN_WAIT2 and CLOSE_WAIT
        let (_, client, server) = closed;
        drop(client); // TIME_WAIT
        drop(server);
        held
    });
    until(
        2000,
        || format!("a connection in TIME_WAIT: {:#?}", ss(namespace)),
        || ss(namespace).iter().any(|(state, _, _)| state == "TIME_WAIT"),
    );
    held
}

#[test]
fn root_sees_what_ss_sees_in_all_namespaces() {
    let (here, there) = (Netns::new(), Netns::new());
    let _held = scene(&here);
    let inode = here.inode.to_string();
    // From another namespace.
    let arguments = ["--namespace", &inode, "--format", "json"];
    let (json, error) = list(&there, &[], &netconn(), &arguments);
    assert!(error.contains("at this moment"), "{error}");
    let object: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(object["complete"], true);
    let found = connections(&json);
    assert_eq!(rows(&found), ss(&here));
    for row in &found {
        let is_over = row["state"] == "TIME_WAIT";
        assert_eq!(row.get("pid").is_some(), !is_over, "{row}");
        assert_eq!(row.get("connection_id").is_some(), !is_over, "{row}");
        if !is_over {
            assert_eq!(row["pid"], std::process::id(), "{row}");
            assert_eq!(row["attribution"], "scan", "{row}");
            assert_eq!(row["user"], "root");
            assert_eq!(row["executable"], std::env::current_exe().unwrap().to_str().unwrap());
        }
    }
    let directions = |direction: &str| found.iter().filter(|row| row["direction"] == direction).count();
    assert_eq!((directions("OUTGOING"), directions("INCOMING")), (3, 3));
    let (count, _) = list(&there, &[], &netconn(), &["--namespace", &inode, "--count", "--group-by", "state"]);
    assert!(count.ends_with(" TIME_WAIT\n") && count.contains("LISTENING\n"), "{count}");
    let (none, _) = list(&there, &[], &netconn(), &["--namespace", &inode, "-H", "--process", "nobody-is-called-so"]);
    assert_eq!(none, "");
}

#[test]
fn who_waits_to_be_accepted_is_the_listeners() {
    let namespace = Netns::new();
    let (listener, _client) = namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    });
    let inode = namespace.inode.to_string();
    let arguments = ["--namespace", &inode, "--format", "json", "--direction", "in"];
    let (json, _) = list(&namespace, &[], &netconn(), &arguments);
    let found = connections(&json);
    assert_eq!(found.len(), 1, "{json}");
    assert_eq!((&found[0]["attribution"], &found[0]["pid"]), (&"listener".into(), &std::process::id().into()));
    drop(listener);
}

#[test]
fn without_bpf_root_sees_this_namespace() {
    let namespace = Netns::new();
    let _held = scene(&namespace);
    let (with, _) =
        list(&namespace, &[], &netconn(), &["--format", "ndjson", "--namespace", &namespace.inode.to_string()]);
    let (without, error) = list(&namespace, WITHOUT_BPF, &netconn(), &["--format", "ndjson"]);
    assert!(error.contains("(sock_diag and /proc): start `netconn run` for all"), "{error}");
    let lines = |text: &str| -> Vec<Value> {
        let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Byte counts may be known in one way only.
        for row in &mut rows {
            row.as_object_mut().unwrap().retain(|name, _| !name.starts_with("bytes_"));
        }
        rows.sort_by_key(ToString::to_string);
        rows
    };
    assert_eq!(lines(&with), lines(&without), "the same rows, down to the connections' ids");
}

#[test]
fn anybody_sees_the_sockets_and_whose_the_own_are() {
    let folder = TempDir::new().unwrap();
    let copy = copy(&folder);
    let namespace = Netns::new();
    let held = scene(&namespace);
    let port = held[0].0.local_addr().unwrap().port();
    let (table, error) = list(&namespace, NOBODY, &copy, &["-l"]);
    assert_eq!(table.lines().count(), 1 + 3, "listeners of others too: {table}");
    assert!(error.contains("showing what this user may see of this network namespace"), "{error}");
    let (json, _) = list(&namespace, NOBODY, &copy, &["--format", "json"]);
    assert_eq!(rows(&connections(&json)), ss(&namespace));
    assert!(json.contains("\"complete\":false"));
    // A connection of this user: the shell's, which becomes netconn.
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; exec {} list --format json", copy.display());
    let output = without_daemon(&namespace, &[NOBODY, &["bash", "-c", &script]].concat());
    let found = connections(&String::from_utf8(output.stdout).unwrap());
    let owned: Vec<_> = found.iter().filter(|row| row.get("pid").is_some()).collect();
    assert_eq!(owned.len(), 1, "{owned:#?}");
    let row = owned[0];
    assert_eq!((&row["process_name"], &row["user_id"]), (&"netconn".into(), &65534.into()));
    assert_eq!((&row["remote_port"], &row["direction"]), (&port.into(), &"OUTGOING".into()));
    assert!(row["command_line"].as_str().unwrap().ends_with("list --format json"), "{row}");
    drop(held);
    let (own, _) = list(&namespace, NOBODY, &copy, &["--count", "--user", "65534"]);
    assert_eq!(own, "0\n", "of whom it is known");
}

#[test]
fn whoever_means_a_daemon_is_told_that_there_is_none() {
    let namespace = Netns::new();
    let netconn = netconn();
    let netconn = netconn.to_str().unwrap();
    let cases: [(&[&str], &str); 3] = [
        (
            &[netconn, "list", "--socket", "/nonexistent/sock"],
            "sensor_offline: no netconn daemon listens at /nonexistent",
        ),
        (&["env", "NETCONN_SOCKET=/nonexistent/sock", netconn, "list"], "sensor_offline: "),
        (&[netconn, "list", "--closed", "5m"], "--closed asks for what only a daemon remembers: sensor_offline: "),
    ];
    for (command, message) in cases {
        let output = without_daemon(&namespace, command);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{error}");
        assert!(error.starts_with(&format!("netconn: {message}")), "{error}");
    }
}

#[test]
fn a_reader_that_goes_is_no_failure() {
    let namespace = Netns::new();
    let _held = scene(&namespace);
    for options in ["", "--format csv", "--format ndjson"] {
        let script = format!(
            "set -o pipefail; {} list {options} 2>/dev/null | true; echo ${{PIPESTATUS[0]}}",
            netconn().display()
        );
        let output = Command::new("bash").args(["-c", &script]).env_remove("NETCONN_SOCKET").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{options}");
    }
}
