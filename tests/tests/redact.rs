//! Secrets in command lines: nothing that leaves netconn has them. What the process was really started with is read in `/proc`.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use netconn_tests::{Daemon, Netns, netconn, until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Secrets of a process, and of its parent.
const SECRETS: [&str; 4] = ["hunter2", "s3cret", "corp-12345", "parentpw"];

/// Starts a shell with secrets as a child of another one; it connects to the port and waits. Returns the outer one.
fn connected(namespace: &Netns, port: u16, listener: &TcpListener) -> (Child, TcpStream) {
    let inner = format!(
        "bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; read; exit 0' x --password hunter2 corp-12345 --token=s3cret; true"
    );
    let script = ["-c", &inner, "x", "https://alice:parentpw@host/"];
    let child = namespace.command("bash", &script).stdin(Stdio::piped()).spawn().unwrap();
    let (accepted, _) = listener.accept().unwrap();
    (child, accepted)
}

fn told(rows: &[Value]) -> &Value {
    rows.iter().find(|row| row["state"] == "ESTABLISHED" && row["direction"] == "OUTGOING").unwrap()
}

#[test]
fn no_secret_of_a_command_line_is_told() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured("redact_patterns = ['corp-[0-9]+']");
    let mut stream = daemon.stream();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let (mut outer, accepted) = connected(&namespace, port, &listener);
    let rows = daemon.list(namespace.inode);
    let row = told(&rows);
    // The oracle: the secrets are really there.
    let real = fs::read_to_string(format!("/proc/{}/cmdline", row["pid"])).unwrap();
    assert!(SECRETS[..3].iter().all(|secret| real.contains(secret)), "{real}");
    let expected = format!("bash -c exec 3<>/dev/tcp/127.0.0.1/{port}; read; exit 0 x --password *** *** --token=***");
    assert_eq!((&row["command_line"], &row["command_line_redacted"]), (&expected.as_str().into(), &true.into()));
    assert!(row["title"].is_null(), "{row:#}");
    // The lists of people and of scripts, and one without a daemon, which does not know the pattern of the configuration.
    let mut outputs: Vec<String> =
        ["table", "json", "ndjson", "csv"].map(|format| daemon.text(&["list", "-e", "--format", format])).into();
    let script = "if [ -d /run/netconn ]; then mount -t tmpfs tmpfs /run/netconn; fi; exec \"$@\"";
    let alone = namespace
        .command(
            "unshare",
            &["--mount", "sh", "-c", script, "sh", netconn().to_str().unwrap(), "list", "--format", "ndjson"],
        )
        .env_remove("NETCONN_SOCKET")
        .output()
        .unwrap();
    let alone = String::from_utf8(alone.stdout).unwrap();
    let of_alone: Vec<Value> = alone.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told(&of_alone)["command_line"], expected.replace("*** *** --", "*** corp-12345 --"), "{alone}");
    outputs.push(alone.replace("corp-12345", ""));
    outputs.push(daemon.ask("/v1/connections").unwrap());
    drop(accepted);
    drop(outer.stdin.take());
    outer.wait().unwrap();
    let event_file = daemon.event_file();
    let events = daemon.events();
    outputs.push(fs::read_to_string(event_file).unwrap());
    let connect = events.within(&namespace).of("IP Connect").with("event.network.direction", "OUTGOING");
    let connect = connect.one();
    assert_eq!(
        (&connect["src.process.cmdline"], &connect["src.process.cmdlineRedacted"]),
        (&expected.into(), &true.into())
    );
    let parent = connect["src.process.parent.cmdline"].as_str().unwrap();
    assert!(parent.ends_with("; true x https://alice:***@host/"), "{parent}");
    assert_eq!(connect["src.process.parent.cmdlineRedacted"], true);
    // The peer's process has no secret and no mark.
    let accepted = events.within(&namespace).of("IP Connect").with("event.network.direction", "INCOMING");
    assert!(accepted.one()["src.process.cmdlineRedacted"].is_null());
    drop(daemon.stop());
    outputs.push(reading.join().unwrap());
    for output in &outputs {
        assert!(output.contains("bash"), "{output}");
        // The command line of this test names none of them.
        let found = SECRETS.iter().find(|secret| output.contains(**secret));
        assert_eq!(found, None, "{output}");
    }
}

#[test]
fn a_configuration_may_ask_for_all_of_command_lines() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured("redact = false");
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut outer, accepted) = connected(&namespace, listener.local_addr().unwrap().port(), &listener);
    let rows = daemon.list(namespace.inode);
    let row = told(&rows);
    assert!(
        row["command_line"].as_str().unwrap().ends_with("x --password hunter2 corp-12345 --token=s3cret"),
        "{row:#}"
    );
    assert!(row["command_line_redacted"].is_null());
    drop((accepted, outer.stdin.take()));
    outer.wait().unwrap();
}

#[test]
fn a_pattern_that_comes_by_a_reload_holds_for_processes_that_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("netconn.toml");
    fs::write(&file, "").unwrap();
    let namespace = Netns::new();
    let daemon = Daemon::start_with(&["--config", file.to_str().unwrap()]);
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let (mut outer, accepted) = connected(&namespace, listener.local_addr().unwrap().port(), &listener);
    let line = || told(&daemon.list(namespace.inode))["command_line"].as_str().unwrap().to_owned();
    assert!(line().ends_with("--password *** corp-12345 --token=***"), "{}", line());
    fs::write(&file, "redact_patterns = ['corp-[0-9]+']").unwrap();
    daemon.signal(Signal::SIGHUP);
    until(20_000, || format!("{}\n{}", line(), daemon.log()), || line().ends_with("--password *** *** --token=***"));
    assert!(daemon.log().contains("changed: redact_patterns"), "{}", daemon.log());
    assert!(told(&daemon.list(namespace.inode))["title"].is_null());
    drop((accepted, outer.stdin.take()));
    outer.wait().unwrap();
    let events = daemon.stop();
    let close = events.within(&namespace).of("IP Close").with("event.network.direction", "OUTGOING");
    assert!(!close.one().to_string().contains("corp-12345"), "{}", close.one());
}

#[test]
fn a_wrong_pattern_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("netconn.toml");
    fs::write(&file, "redact_patterns = ['ok', 'a(b']").unwrap();
    for command in ["run", "config"] {
        let output = Command::new(netconn()).args([command, "--config", file.to_str().unwrap()]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains("redact_patterns in the configuration: pattern 2 is no"),
            "{error}"
        );
    }
}
