//! Tests the sources of events: files, some of them unreadable, and the daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::support::{EVENTS, Scene};

/// Runs a search that file permissions apply to: as root, drops the capabilities that override them.
fn run_unprivileged(scene: &Scene, arguments: &[&str]) -> Output {
    let mut command = scene.command(arguments);
    if fs::metadata(scene.folder.path()).unwrap().uid() == 0 {
        let plain = command;
        command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search"]).arg(plain.get_program());
        command.args(plain.get_args()).current_dir(scene.folder.path()).env("HOME", scene.folder.path());
    }
    command.stdin(Stdio::null()).output().unwrap()
}

/// Objects over several lines and in arrays are read, bad lines are told with their numbers, and events without a time are counted.
#[test]
fn files_of_many_forms() {
    let scene = Scene::new();
    fs::write(scene.path("array.json"), "[{\"event.time\":1795255200000,\n\"n\":1},{\"n\":2}]").unwrap();
    fs::write(scene.path("pretty.log"), "{\n  \"n\": 3\n}\n{\n  \"n\": 4\n}\n").unwrap();
    for (file, expected) in [("array.json", "s\n3\n"), ("pretty.log", "s\n7\n")] {
        let output = scene.run(&["| group s = sum(n)", "-f", file, "--format", "csv"]);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{file}");
    }
    let output = scene.run(&["| group n = count()", "-f", "array.json", "--since", "2026-11-01", "--format", "csv"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("1 event has no event.time, so it is in no range of time."), "{said}");
    // Bad lines have the numbers of the file, also where objects are put on one line each.
    fs::write(scene.path("cut.json"), "{\n  \"n\": 1\n}\n{\n  \"n\":\n{\n  \"n\": 2\n}\n").unwrap();
    let output = scene.run(&["| group s = sum(n)", "-f", "cut.json", "--format", "csv"]);
    let [out, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(out == "s\n3\n" && said.contains("cut.json: line 4 is no JSON object."), "{out}{said}");
    // More than one piece: a reader of the second one knows how many lines are before it.
    let line = format!("{{\"event.type\":\"IP Connect\",\"x\":\"{}\"}}\n", "y".repeat(1_000));
    let count = 17_500;
    let text = line.repeat(count) + "no event\n" + &line + "{\"cut\":\n";
    fs::write(scene.path("large.ndjson"), text).unwrap();
    let output = scene.run(&["| group n = count()", "-f", "large.ndjson", "--format", "csv"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("large.ndjson: lines {}, {} are no JSON objects.", count + 1, count + 3)), "{said}");
    fs::write(scene.path("utf16.json"), b"\xff\xfe{\0}\0").unwrap();
    let output = scene.run(&["| group n = count()", "-f", "utf16.json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("it is text in UTF-16: convert it first"), "{said}");
}

#[test]
fn unreadable_files_are_reported() {
    let scene = Scene::new();
    let folder = scene.path("store");
    let segment = |name: &str| folder.join(format!("events-{name}.ndjson"));
    fs::create_dir(&folder).unwrap();
    for name in ["1795255190000", "1795255191000"] {
        fs::copy(scene.path("whole.ndjson"), segment(name)).unwrap();
    }
    let forbid = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
    let answer = || {
        let output = run_unprivileged(&scene, &["| group n = count()", "-f", "store", "--format", "csv"]);
        let [out, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), out, said)
    };
    // One of two files is unreadable: the other is searched.
    forbid(&segment("1795255190000"));
    let (code, out, said) = answer();
    assert_eq!((code, out.as_str()), (Some(0), "n\n3\n"), "{said}");
    let expected = "store/events-1795255190000.ndjson was not read: Permission denied (os error 13).\n";
    assert!(said.contains(expected), "{said}");
    // All files are unreadable, then the folder itself.
    forbid(&segment("1795255191000"));
    let advice = "permission denied (join the group of the folder, or run as root)\n";
    let (code, out, said) = answer();
    assert_eq!((code, out.as_str()), (Some(77), ""), "{said}");
    assert_eq!(said, format!("netconn: cannot read store/events-1795255190000.ndjson: {advice}"));
    forbid(&folder);
    assert_eq!(answer(), (Some(77), String::new(), format!("netconn: cannot read store: {advice}")));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Longest time that a client may take to connect: without a limit, a test whose client fails would wait for ever.
const CONNECT_MAX: Duration = Duration::from_secs(120);

/// Accepts the next client.
fn accepted(socket: &UnixListener) -> UnixStream {
    socket.set_nonblocking(true).unwrap();
    let started = Instant::now();
    loop {
        match socket.accept() {
            Ok((client, _)) => {
                client.set_nonblocking(false).unwrap();
                return client;
            }
            Err(error) => assert!(started.elapsed() < CONNECT_MAX, "no client has connected: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn events_are_followed() {
    let scene = Scene::new();
    let socket = UnixListener::bind(scene.path("netconn.sock")).unwrap();
    let daemon = thread::spawn(move || {
        let stream = || {
            let mut client = accepted(&socket);
            let mut request = [0; 1024];
            let length = client.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /v1/events "));
            client.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
            client
        };
        let mut client = stream();
        // A line arrives in two parts, with time for a search between them.
        for part in [&EVENTS[..100], &EVENTS[100..], "{\"event.type\":\"IP Conn"] {
            write!(client, "{:x}\r\n{part}\r\n", part.len()).unwrap();
            thread::sleep(Duration::from_millis(500));
        }
        client.write_all(b"0\r\n\r\n").unwrap();
        drop(client);
        // The next daemon, which stays until the client has gone.
        let mut client = stream();
        let event = EVENTS.lines().next().unwrap().replace("curl", "wget") + "\n";
        write!(client, "{:x}\r\n{event}\r\n", event.len()).unwrap();
        let _ = client.read_to_end(&mut Vec::new());
    });
    let mut command = scene.command(&[
        "event.type = 'IP Connect' | let secure = dst.port.number = 443 | columns src.process.name, secure",
        "--follow",
        "--socket",
        "netconn.sock",
        "--format",
        "csv",
        // Bounds the test: it ends with the last row.
        "--timeout",
        "120s",
    ]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = String::new();
    let mut lines = BufReader::new(client.stdout.take().unwrap());
    while !out.ends_with("wget,true\n") && lines.read_line(&mut out).unwrap() > 0 {}
    client.kill().unwrap();
    let said = String::from_utf8(client.wait_with_output().unwrap().stderr).unwrap();
    daemon.join().unwrap();
    assert_eq!(out, "src.process.name,secure\ncurl,true\na\u{1b}[2Jb,false\nwget,true\n");
    // The daemon reports the events that this client was too slow for, whatever the filter.
    let said: Vec<&str> = said.lines().collect();
    let stopped = "netconn: the daemon at netconn.sock has stopped; waiting for the next one";
    // The line that was cut off, too, is no event.
    assert!(said.starts_with(&["the daemon reports 3 lost events here", stopped]), "{said:?}");
    assert!(
        said[2].starts_with("netconn: a daemon listens at netconn.sock again: events from ") && said.len() == 3,
        "{said:?}"
    );
}

#[test]
fn a_followed_query_is_checked_and_ends_at_the_timeout() {
    let scene = Scene::new();
    let socket = UnixListener::bind(scene.path("netconn.sock")).unwrap();
    let daemon = thread::spawn(move || {
        let mut client = accepted(&socket);
        assert!(client.read(&mut [0; 1024]).unwrap() > 0);
        client.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        // Reads until the client closes the connection.
        let _ = client.read_to_end(&mut Vec::new());
    });
    let query = "dst.port.numbr = 443";
    scene.check(
        &[query, "--follow", "--socket", "netconn.sock", "--timeout", "1s"],
        0,
        "",
        "\
warning: there is no field 'dst.port.numbr', so it is null in every row
  |
1 | dst.port.numbr = 443
  | ^^^^^^^^^^^^^^
  |
help: write: dst.port.number
",
    );
    daemon.join().unwrap();
}
