//! Clients that read slowly, or not at all: what they cost the daemon, and what they get.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use netconn_tests::{Daemon, Netns, long, netconn, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

/// Set for the process that [`Holder::start`] starts.
const HOLDS: &str = "NETCONN_TEST_HOLDS";

/// Raises the limit of open files, for both ends of thousands of connections.
fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard).unwrap();
}

/// Holds connections in a process of its own until its standard input is closed. Does nothing in an ordinary run.
#[test]
fn holder() {
    let Ok(count) = std::env::var(HOLDS) else { return };
    allow_many_files();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let held: Vec<_> = (0..count.parse::<usize>().unwrap())
        .map(|_| (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap()))
        .collect();
    println!("\nholding");
    let _ = std::io::stdin().read(&mut [0]);
    drop(held);
}

/// A process that holds connections.
struct Holder(Child);

impl Holder {
    /// Starts it in the caller's namespaces, with one more argument.
    fn start(connections: usize, argument: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // The test program takes the argument for one more filter, which matches nothing.
        command.args(["holder", "--exact", "--nocapture", argument]).env(HOLDS, connections.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("holding")));
        // Its report at the end has no reader.
        thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// Returns a number of kilobytes of `/proc/PID/status`, in bytes.
fn memory(daemon: &Daemon, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Requests a path and reads the beginning of the answer.
fn begin(daemon: &Daemon, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(long(20_000))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut status = [0; 15];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    stream
}

/// Starts a netconn command that connects to this daemon.
fn piped(daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut command = Command::new(netconn());
    command.args(arguments).arg("--socket").arg(daemon.socket()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Lets a command write into a full pipe for a while, as `less` does, and returns its lines.
fn lines_after(pause: Duration, mut child: Child) -> Vec<String> {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    thread::sleep(pause);
    let lines = [first.trim_end().to_owned()].into_iter().chain(out.lines().map(Result::unwrap)).collect();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    lines
}

/// Kills a command after some time, or when the result is dropped.
fn watch_over(mut child: Child, longest: Duration) -> mpsc::Sender<()> {
    let (keep, kept) = mpsc::channel();
    thread::spawn(move || {
        let _ = kept.recv_timeout(longest);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    keep
}

#[test]
fn slow_lists_take_little_memory_and_give_it_back() {
    let namespace = Netns::new();
    // Older than the daemon, which then reads the whole argument from /proc.
    let holder = namespace.run(|| Holder::start(100, &"x".repeat(100_000)));
    let daemon = Daemon::start();
    let path = format!("/v1/connections?format=ndjson&namespace={}", namespace.inode);
    let count = || daemon.text(&["list", "--count", "--namespace", &namespace.inode.to_string()]);
    // One list alone, so that what every list takes is not counted; and the events of the start, which take memory too.
    assert_eq!(count(), "201\n");
    let is_announced = || fs::read_to_string(daemon.event_file()).unwrap().matches("\"IP Connect\"").count() >= 200;
    until(20_000, || "the connections are not announced".into(), is_announced);
    let before = memory(&daemon, "VmRSS");
    fs::write(format!("/proc/{}/clear_refs", daemon.pid()), "5").unwrap();
    let slow: Vec<UnixStream> = (0..32).map(|_| begin(&daemon, &path)).collect();
    // Others are served meanwhile.
    assert_eq!(count(), "201\n");
    let highest = memory(&daemon, "VmHWM").saturating_sub(before);
    assert!(highest < 64 << 20, "32 slow clients took {highest} bytes");
    drop(slow);
    let taken = || memory(&daemon, "VmRSS").saturating_sub(before);
    until(10_000, || format!("{} bytes stayed", taken()), || taken() < 16 << 20);
    drop(holder);
    daemon.stop();
}

#[test]
fn a_list_and_a_watch_outlast_a_pause_of_their_reader() {
    let namespace = Netns::new();
    let patience = long(500);
    let daemon = Daemon::start_with(&["--test-patience", &format!("{}ms", patience.as_millis())]);
    let inode = namespace.inode.to_string();
    // Its events fill the pipe, the socket and the daemon's queue several times over.
    let mut watch = piped(&daemon, &["watch", "--format", "ndjson", "--namespace", &inode]);
    until(5000, || "no stream".into(), || daemon.health()["clients"] == 1);
    let holder = namespace.run(|| Holder::start(3000, "x"));
    // 6,001 rows, 2.5 MB: more than the pipe and the socket take.
    let list = piped(&daemon, &["list", "--format", "ndjson", "--namespace", &inode]);
    // Requested the same way by a client that takes nothing: the daemon leaves it.
    let mut deaf = begin(&daemon, &format!("/v1/connections?namespace={inode}"));
    // The pause of both.
    let rows = lines_after(patience * 3, list);
    assert_eq!(rows.len(), 6001);
    assert!(rows.iter().all(|row| row.ends_with('}')));
    let since = Instant::now();
    let mut rest = Vec::new();
    deaf.read_to_end(&mut rest).unwrap();
    assert!(!rest.ends_with(b"0\r\n\r\n") && since.elapsed() < long(5000), "a client that takes nothing is left");
    drop(holder);
    // One of each for both ends of 3,000 connections. A burst may be too much for the stream, and then says so.
    let mut left = 12_000;
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let watchdog = watch_over(watch, long(20_000));
    while left > 0 {
        let Some(line) = lines.next() else { panic!("the stream ended, with {left} events missing") };
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match event["event.type"].as_str().unwrap() {
            "IP Connect" | "IP Close" => left -= 1,
            // The kernel's ring is too small for emulated machines; then the number is not exact.
            "Data Loss" if event["loss.stage"] == "ring" => break,
            "Data Loss" => left -= event["loss.count"].as_i64().unwrap(),
            _ => {}
        }
    }
    drop(watchdog);
    daemon.stop();
}

#[test]
fn a_thousand_clients_cost_no_event() {
    allow_many_files();
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let to = listener.local_addr().unwrap();
    let paths = ["/v1/events", "/v1/connections", "/v1/health"];
    // They ask and read nothing. Most find no place, and are told so or hung up.
    let clients: Vec<UnixStream> = (0..1000)
        .map(|number| {
            let mut client = UnixStream::connect(daemon.socket()).unwrap();
            let _ = write!(client, "GET {} HTTP/1.1\r\nHost: x\r\n\r\n", paths[number % paths.len()]);
            if number % 5 == 0 {
                let stream = namespace.run(|| TcpStream::connect(to).unwrap());
                drop((listener.accept().unwrap(), stream));
            }
            client
        })
        .collect();
    assert_eq!(namespace.active_opens(), 200);
    let told = || netconn_tests::Events::so_far(&daemon.event_file()).within(&namespace).attempts();
    until(30_000, || format!("{} are told", told()), || told() == 200);
    drop(clients);
    let events = daemon.stop();
    assert_eq!(events.within(&namespace).attempts(), 200);
    assert!(events.of("Data Loss").with("loss.stage", "ring").is_empty(), "{:#?}", events.of("Data Loss"));
}
