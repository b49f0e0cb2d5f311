//! Clients that misbehave: the daemon goes on and serves the others.

use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use netconn_tests::{Daemon, Netns, long, until};
use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Sends bytes and returns the answer, until the daemon closes the connection or is silent for a second.
fn talk(daemon: &Daemon, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(long(1000))).unwrap();
    // The daemon may close the connection during a request that is too long.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(length) = stream.read(&mut part)
        && length != 0
    {
        answer.extend_from_slice(&part[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// What the answer to an unknown parameter of `/v1/connections` lists.
const ALL_PARAMETERS: &str = "clsd: no such parameter; there are protocol, raw, listening, family, state, failed, direction, \
                              pid, process, port, local-port, remote-port, local, remote, user, container, unit, namespace, format, info, closed, holders, inode, \
                              sockets\"";

fn get(daemon: &Daemon, path: &str) -> String {
    talk(daemon, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

#[test]
fn what_is_asked_wrongly_is_answered_with_what_would_be_right() {
    let daemon = Daemon::start();
    for (path, status, code, message) in [
        ("/v1/connections?port=http", 400, "bad_request", "port: 'http' is not a port or range like 8000-8100"),
        ("/v1/connections?prot=tcp", 400, "bad_request", "prot: no such parameter; there are protocol, "),
        ("/v1/connections?clsd=9", 400, "bad_request", ALL_PARAMETERS),
        ("/v1/connections?format=xml", 400, "bad_request", "format: 'xml' is not json or ndjson"),
        ("/v1/events?state=open", 400, "bad_request", "state: 'open' is not a state: use established, "),
        ("/v1/connections?remote=10.0.0.0%2F99", 400, "bad_request", "remote: '10.0.0.0/99' is not an IP address"),
        ("/v1/health?port=1", 400, "bad_request", "port: /v1/health has no parameters"),
        ("/metrics?port=1", 400, "bad_request", "port: /metrics has no parameters"),
        (
            "/v2",
            404,
            "not_found",
            "no such path: /v2; there are /v1/connections, /v1/packet-sockets, /v1/events, /v1/health and /metrics",
        ),
    ] {
        let answer = get(&daemon, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        let expected = format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"{message}");
        assert!(answer.contains(&expected), "{path}: {answer}");
    }
    // More than 16 KB, and with a value too many.
    let networks = |count: usize| (0..count).map(|number| format!("2001:db8::{number:x}:0/112")).collect::<Vec<_>>();
    let all = networks(1000).join(",").replace(':', "%3A").replace('/', "%2F");
    assert!(get(&daemon, &format!("/v1/connections?remote={all}")).starts_with("HTTP/1.1 200 "));
    let options: Vec<String> = networks(1025).into_iter().flat_map(|network| ["--remote".into(), network]).collect();
    let output = daemon.run(&[vec!["list"], options.iter().map(String::as_str).collect()].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("--remote: with this parameter the filter has more than 1024 values; use fewer"), "{text}");
    assert_eq!(output.status.code(), Some(2));
    let answer = get(&daemon, &format!("/v1/events?port={}", vec!["80"; 1025].join(",")));
    assert!(answer.contains("\"bad_request\",\"message\":\"port: with this parameter the filter has more"), "{answer}");
    let post = talk(&daemon, b"POST /v1/connections HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(
        post.starts_with("HTTP/1.1 405 ")
            && post.contains(
                "\"method_not_allowed\",\"message\":\"this socket can only be read: use GET with /v1/connections, "
            ),
        "{post}"
    );
}

#[test]
fn malformed_requests_harm_nobody() {
    let daemon = Daemon::start();
    // Longer than any request that the daemon accepts.
    let long_head = [b"GET /v1/health HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 100_000]].concat();
    let requests: [&[u8]; 8] = [
        b"\0\0\0\0",
        b"\xff\xfe garbage \r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/health HTTP/9.9\r\n\r\n",
        b"GET /v1/connections?%zz=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &long_head,
    ];
    for request in requests {
        let answer = talk(&daemon, request);
        assert!(!answer.starts_with("HTTP/1.1 5"), "{answer}");
        assert!(get(&daemon, "/v1/health").starts_with("HTTP/1.1 200 "));
    }
    daemon.stop();
}

#[test]
fn silent_clients_and_clients_that_do_not_read_hold_nobody_up() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    // They connect and send nothing: each occupies a connection of the server.
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    // These clients request the stream of events and never read it.
    let deaf: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..5000 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop(listener.accept().unwrap());
            drop(client);
        }
    });
    let since = Instant::now();
    let text = daemon.text(&["list", "--format", "json"]);
    assert!(text.ends_with("]}\n"));
    assert!(since.elapsed() < long(5000), "a client waited for {:?}", since.elapsed());
    // The daemon closes the connections of silent clients.
    let mut first = &silent[0];
    first.set_read_timeout(Some(long(10_000))).unwrap();
    assert_eq!(first.read(&mut [0; 1000]).unwrap_or(0), 0, "hung up");
    drop((silent, deaf));
    let all = daemon.stop();
    let events = all.within(&namespace);
    // An emulated machine may be too slow for the flood; it must report the loss then.
    if all.of("Data Loss").is_empty() {
        assert_eq!(events.of("IP Connect").len(), 10_000, "nothing is lost for the others");
        assert_eq!(events.of("IP Close").len(), 10_000);
    } else {
        assert_ne!(
            std::env::var("NETCONN_TEST_SLOWNESS"),
            Err(std::env::VarError::NotPresent),
            "lost on real hardware"
        );
    }
}

#[test]
fn watch_shows_what_is_wanted_and_no_more() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let selection = ["--namespace", &namespace.inode.to_string(), "--direction", "outgoing"].map(str::to_owned);
    let (socket, count) = (daemon.socket(), "--count=4".to_owned());
    let watch = thread::spawn(move || {
        std::process::Command::new(netconn_tests::netconn())
            .args(["watch", "--format", "ndjson", &count])
            .args(selection)
            .arg("--socket")
            .arg(socket)
            .output()
            .unwrap()
    });
    // The stream begins when the daemon has read the request.
    let since = Instant::now();
    while !get(&daemon, "/v1/health").contains("\"clients\":1") {
        assert!(since.elapsed() < long(5000));
    }
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..2 {
            drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        }
    });
    let output = watch.join().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut kinds: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event.type"].clone())
        .collect();
    // The two connections may overlap, so their events come in any order.
    kinds.sort_by_key(ToString::to_string);
    assert_eq!(kinds, ["IP Close", "IP Close", "IP Connect", "IP Connect"]);
}

/// Asks for events; `more` is sent behind the request. The error is the answer of a daemon that refuses.
fn stream(daemon: &Daemon, parameters: &str, more: &[u8]) -> Result<UnixStream, String> {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(long(5000))).unwrap();
    let request = format!("GET /v1/events{parameters} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(&[request.as_bytes(), more].concat()).unwrap();
    let (mut answer, mut part) = (String::new(), [0; 4096]);
    while !answer.contains("\r\n\r\n") || !answer.starts_with("HTTP/1.1 200 ") && !answer.ends_with('\n') {
        let length = stream.read(&mut part).unwrap();
        assert_ne!(length, 0, "hung up without a word: {answer}");
        answer.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    if answer.starts_with("HTTP/1.1 200 ") { Ok(stream) } else { Err(answer) }
}

/// Returns the number of descriptors that the daemon has open.
fn descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

#[test]
fn a_stream_ends_with_its_client() {
    let daemon = Daemon::start();
    let open = descriptors(&daemon);
    // More in all than there are places. No event ever passes these filters.
    for round in 0..3 {
        let streams: Vec<_> = (0..100)
            .map(|number| {
                // Hyper does not look for the end of a client of which it has read a part of the next request.
                let more: &[u8] = if number % 2 == 0 { b"" } else { b"GET /v1" };
                stream(&daemon, &format!("?port={}", 12345 + number % 7), more).unwrap()
            })
            .collect();
        assert_eq!(daemon.health()["clients"], 100, "round {round}");
        drop(streams);
        let left = || format!("round {round}: {}", daemon.health());
        until(2000, left, || daemon.health()["clients"] == 0);
        until(2000, left, || daemon.health()["requests"] == 1);
    }
    // A client of our own. Not by SIGINT, which it ignores if this test does (`nohup`, background jobs of scripts).
    let mut watch = Command::new(netconn_tests::netconn())
        .args(["watch", "--port", "12345", "--socket"])
        .arg(daemon.socket())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until(5000, || "watch does not begin".into(), || daemon.health()["clients"] == 1);
    kill(Pid::from_raw(watch.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    watch.wait().unwrap();
    until(2000, || "it stays".into(), || daemon.ask("/metrics").unwrap().contains("\nnetconn_clients 0\n"));
    // The last connections of this test itself may not be closed yet.
    until(2000, || format!("{open} descriptors became {}", descriptors(&daemon)), || descriptors(&daemon) <= open);
    let socket = daemon.socket();
    let connected = || {
        let output = Command::new("ss").args(["-xH", "state", "connected", "src"]).arg(&socket).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    until(2000, connected, || connected().is_empty());
    daemon.stop();
}

/// Runs a function with another effective user id, in a thread of its own: to the kernel each thread has its ids.
fn as_user<T: Send>(uid: i64, function: impl FnOnce() -> T + Send) -> T {
    let body = || {
        // SAFETY: a system call without pointers. Other than the function of the C library it changes this thread alone.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1_i64, uid, -1_i64) }, 0);
        function()
    };
    thread::scope(|scope| scope.spawn(body).join().unwrap())
}

#[test]
fn quiet_clients_lock_out_nobody() {
    let daemon = Daemon::start();
    // As for members of the group.
    fs::set_permissions(daemon.socket().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(daemon.socket(), Permissions::from_mode(0o666)).unwrap();
    let streams = |uid| {
        as_user(uid, || {
            let mut streams = Vec::new();
            loop {
                match stream(&daemon, "?port=12345", b"") {
                    Ok(stream) => streams.push(stream),
                    Err(answer) => return (streams, answer),
                }
            }
        })
    };
    let since = Instant::now();
    let refused = |(streams, answer): &(Vec<UnixStream>, String), count: usize, message: &str| {
        assert_eq!(streams.len(), count, "{answer}");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let expected =
            format!("{{\"error\":{{\"code\":\"command_failed\",\"message\":\"there are {message}, and there may");
        assert!(answer.contains(&expected), "{answer}");
    };
    let first = streams(65534);
    refused(&first, 32, "32 streams of events of uid 65534");
    let second = streams(65533);
    refused(&second, 32, "32 streams of events of uid 65533");
    let third = streams(65532);
    refused(&third, 0, "64 streams of events of all users but root together");
    let roots = streams(0);
    refused(&roots, 128, "128 streams of events of root");
    // Who is refused hears so at once, and everybody else is answered.
    assert!(since.elapsed() < long(5000), "{:?}", since.elapsed());
    let health = daemon.health();
    assert_eq!((&health["clients"], &health["refused"]), (&192.into(), &4.into()));
    for uid in [0, 65532, 65534] {
        for path in ["/v1/connections", "/v1/packet-sockets", "/v1/health", "/metrics"] {
            let answer = as_user(uid, || get(&daemon, path));
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path} for {uid}: {answer}");
        }
    }
    // Silent connections of one user: they are not streams, but they too are bounded.
    let silent = as_user(65534, || (0..100).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect::<Vec<_>>());
    let answer = as_user(65534, || get(&daemon, "/v1/health"));
    assert!(answer.contains("there are 128 connections of uid 65534, and there may be no more: end some"), "{answer}");
    let watch = daemon.run(&["watch"]);
    let text = String::from_utf8_lossy(&watch.stderr).into_owned();
    assert!(text.contains("command_failed: there are 128 streams of events of root"), "{text}");
    assert_eq!(watch.status.code(), Some(69));
    let since = Instant::now();
    assert!(daemon.text(&["list", "--format", "json"]).ends_with("]}\n"));
    let doctor = daemon.run(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("refused for want of a place"), "{text}");
    assert!(since.elapsed() < long(5000), "root waited for {:?}", since.elapsed());
    drop((first, second, roots, silent));
    until(2000, || daemon.health().to_string(), || daemon.health()["clients"] == 0);
    assert!(as_user(65532, || stream(&daemon, "", b"")).is_ok(), "the places are free again");
    daemon.stop();
}
