//! A real server and a real client: each request of curl to nginx is a connection with events of both ends.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::TcpStream,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{Daemon, Netns, exactly};
use tempfile::TempDir;

const REQUESTS: usize = 1000;

struct Nginx {
    process: Child,
    _folder: TempDir,
}

impl Nginx {
    /// Starts nginx with one worker on 127.0.0.1:8080, which serves a file of 10,000 bytes, and waits until it listens.
    fn start(namespace: &Netns) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        fs::write(path.join("file"), "x".repeat(10_000)).unwrap();
        let configuration = format!(
            "daemon off; user root; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; server {{ listen 127.0.0.1:8080; root {0}; }} }}\n",
            path.display()
        );
        fs::write(path.join("nginx.conf"), configuration).unwrap();
        let file = path.join("nginx.conf");
        let mut command = namespace.command("nginx", &["-c", file.to_str().unwrap()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let since = Instant::now();
        while namespace.run(|| TcpStream::connect("127.0.0.1:8080").is_err()) {
            assert!(since.elapsed() < Duration::from_secs(10), "nginx does not start");
            thread::sleep(Duration::from_millis(20));
        }
        Self { process, _folder: folder }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // With SIGTERM, nginx also ends its worker.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

#[test]
fn every_request_of_curl_is_seen_from_both_ends() {
    exactly(is_seen_from_both_ends);
}

fn is_seen_from_both_ends() -> bool {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let nginx = Nginx::start(&namespace);
    // The output of curl does not have its process id, so the number in the URL identifies the curl.
    let script = format!(
        "i=0; while [ $i -lt {REQUESTS} ]; do i=$((i+1)); curl -s -o /dev/null \
         -w \"$i %{{local_port}} %{{size_request}} %{{size_header}} %{{size_download}}\\n\" \
         http://127.0.0.1:8080/file?n=$i; done"
    );
    let said: Vec<Vec<u64>> = namespace
        .exec("sh", &["-c", &script])
        .lines()
        .map(|line| line.split(' ').map(|word| word.parse().unwrap()).collect())
        .collect();
    assert_eq!(said.len(), REQUESTS);
    drop(nginx);
    // Asked before the daemon ends: afterwards nobody knows whether the numbers can be exact.
    let missed_runs = daemon.missed_runs();
    let events = daemon.stop();
    if missed_runs != 0 {
        eprintln!("the kernel has not run {missed_runs} programs");
        return false;
    }
    assert!(events.of("Data Loss").is_empty());

    let here = events.within(&namespace);
    let curl = here.with("src.process.name", "curl");
    let connects = curl.of("IP Connect");
    assert_eq!(connects.len(), REQUESTS);
    assert_eq!(connects.with("event.network.connectionStatus", "SUCCESS").len(), REQUESTS);
    assert_eq!(connects.with("event.network.direction", "OUTGOING").len(), REQUESTS);
    assert_eq!(connects.with("src.process.attribution", "connect").len(), REQUESTS);
    assert_eq!(connects.with("src.process.image.path", "/usr/bin/curl").len(), REQUESTS);
    assert_eq!(connects.with("src.process.user", "root").len(), REQUESTS);
    // The events have the path with all links resolved.
    assert_eq!(connects.with("src.process.parent.image.path", fs_path("sh")).len(), REQUESTS);
    let pids: HashSet<u64> = connects.0.iter().map(|event| event["src.process.pid"].as_u64().unwrap()).collect();
    assert_eq!(pids.len(), REQUESTS, "each curl is a process of its own");

    let closes = curl.of("IP Close");
    assert_eq!(closes.len(), REQUESTS);
    let mut by_command: HashMap<String, _> =
        closes.0.iter().map(|event| (event["src.process.cmdline"].as_str().unwrap().to_owned(), event)).collect();
    for words in &said {
        let [number, port, request, header, body] = words[..] else { panic!("{words:?}") };
        let end = format!("http://127.0.0.1:8080/file?n={number}");
        let command = by_command.keys().find(|command| command.ends_with(&end)).cloned();
        let event = by_command.remove(&command.unwrap_or_else(|| panic!("no close of request {number}"))).unwrap();
        assert_eq!(event["local.port.number"], port, "request {number}");
        assert_eq!(event["event.network.bytesSent"], request, "request {number}");
        assert_eq!(event["event.network.bytesReceived"], header + body, "request {number}");
        assert_eq!(event["event.network.retransmits"], 0);
    }

    let server = here.with("src.process.name", "nginx");
    // There is one connection more than curl has made: the harness has tested whether nginx listens.
    let accepted = server.of("IP Connect").with("event.network.direction", "INCOMING");
    assert_eq!(accepted.len(), REQUESTS + 1);
    assert_eq!(accepted.with("src.process.attribution", "accept").len(), REQUESTS + 1);
    let closed = server.of("IP Close");
    assert_eq!(closed.len(), REQUESTS + 1);
    let sum = |column: usize| said.iter().map(|words| words[column]).sum::<u64>();
    assert_eq!(closed.sum("event.network.bytesReceived"), sum(2));
    assert_eq!(closed.sum("event.network.bytesSent"), sum(3) + sum(4));
    // Both ends of a connection have the same hash of the five-tuple.
    let hashes = |events: &netconn_tests::Events| -> HashSet<String> {
        let values = events.values("event.network.communityId");
        values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    assert!(hashes(&closes).is_subset(&hashes(&closed)));
    assert_eq!(server.of("IP Listen").one()["local.port.number"], 8080);
    assert_eq!(server.of("IP Listen End").len(), 1);
    true
}

/// Returns the path of a program with all links resolved, as in `/proc/PID/exe`.
fn fs_path(program: &str) -> String {
    fs::canonicalize(format!("/bin/{program}")).unwrap().to_str().unwrap().to_owned()
}
