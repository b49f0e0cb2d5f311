//! Clients that misbehave: the daemon goes on and serves the others.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

use netconn_tests::{Daemon, Netns, long};

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

fn get(daemon: &Daemon, path: &str) -> String {
    talk(daemon, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

#[test]
fn what_is_asked_wrongly_is_answered_with_what_would_be_right() {
    let daemon = Daemon::start();
    for (path, status, code, message) in [
        ("/v1/connections?port=http", 400, "bad_request", "port: 'http' is not a port or range like 8000-8100"),
        ("/v1/connections?prot=tcp", 400, "bad_request", "prot: no such parameter; there are protocol, "),
        ("/v1/connections?format=xml", 400, "bad_request", "format: 'xml' is not json or ndjson"),
        ("/v1/events?state=open", 400, "bad_request", "state: 'open' is not a state: use established, "),
        ("/v1/connections?remote=10.0.0.0%2F99", 400, "bad_request", "remote: '10.0.0.0/99' is not an IP address"),
        (
            "/v2",
            404,
            "bad_request",
            "no such path: /v2; there are /v1/connections, /v1/packet-sockets, /v1/events, /v1/health and /metrics",
        ),
    ] {
        let answer = get(&daemon, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        let expected = format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"{message}");
        assert!(answer.contains(&expected), "{path}: {answer}");
    }
    let post = talk(&daemon, b"POST /v1/connections HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("this socket can only be read: use GET"), "{post}");
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
