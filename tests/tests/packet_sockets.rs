//! Packet sockets: `netconn list --packet`, and `sensor.packetSockets` of `Sensor Start`.

use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    time::Duration,
};

use netconn_tests::{Daemon, Forked, Netns, netconn, pause, until};
use nix::libc;
use serde_json::Value;

/// A tcpdump in a namespace. It is killed when dropped.
struct Tcpdump(Child);

impl Tcpdump {
    /// Starts a tcpdump that stays root, and waits until it has a packet socket for all protocols. `ip netns exec`
    /// executes tcpdump in its own process, so the child is tcpdump itself.
    fn start(namespace: &Netns, arguments: &[&str]) -> Self {
        let mut command = namespace.command("tcpdump", &[&["-n", "-Z", "root", "-w", "/dev/null"], arguments].concat());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Before the wait, so that a failed test does not leave tcpdump behind.
        let tcpdump = Self(child);
        let list = || namespace.exec("cat", &["/proc/net/packet"]);
        until(10_000, || format!("a packet socket: {}", list()), || list().contains(" 0003 "));
        tcpdump
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a socket of a family in a namespace; returns `None` if the kernel does not have the family.
fn socket(namespace: &Netns, family: i32) -> Option<OwnedFd> {
    namespace.run(|| {
        // SAFETY: `socket` takes no pointers.
        let descriptor = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if descriptor < 0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}");
            return None;
        }
        // SAFETY: the descriptor is new, and nothing else owns it.
        Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
    })
}

/// Returns the rows of one namespace in an answer, which must list all families.
fn within(namespace: &Netns, answer: &str) -> Vec<Value> {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!(answer["unlisted"], Value::Array(vec![]), "{answer:#}");
    assert_eq!(answer["complete"], true);
    let rows = answer["sockets"].as_array().unwrap().iter();
    rows.filter(|row| row["namespace"] == namespace.inode).cloned().collect()
}

/// Returns the rows of a namespace from a daemon, and checks that the command without a daemon returns the same.
fn listed(daemon: &Daemon, namespace: &Netns) -> Vec<Value> {
    let rows = within(namespace, &daemon.text(&["list", "--packet", "--format", "json"]));
    // A packet socket that opens between the two lists would differ; the namespace is the test's own.
    let alone = within(namespace, &alone(&[], &["--format", "json"]));
    assert_eq!(alone, rows);
    rows
}

/// Runs `netconn list --packet` where it cannot reach a daemon, with the command `who` in front. Returns standard
/// output, and standard error too if there is such a command.
fn alone(who: &[&str], arguments: &[&str]) -> String {
    let script = "if [ -d /run/netconn ]; then mount -t tmpfs tmpfs /run/netconn; fi; exec \"$@\"";
    let netconn = netconn();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args(who).arg(netconn).args(["list", "--packet"]);
    let output = command.args(arguments).env_remove("NETCONN_SOCKET").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.starts_with("netconn: no daemon runs; showing "), "{error}");
    // The test without BPF also looks at the sentences on standard error.
    String::from_utf8(output.stdout).unwrap() + if who.is_empty() { "" } else { &error }
}

/// Returns the packet sockets in the last `Sensor Start` of a daemon.
fn at_start(daemon: &Daemon) -> String {
    let starts = daemon.events().of("Sensor Start");
    starts.0.last().unwrap()["sensor.packetSockets"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn tcpdump_is_an_event_when_it_starts_and_when_it_ends() {
    let daemon = Daemon::shared();
    // In a namespace that is there before and in one that comes later.
    for is_early in [true, false] {
        let namespace = Netns::new();
        if is_early {
            // The watch looks for namespaces every ten seconds, on slow machines as well.
            std::thread::sleep(Duration::from_secs(11));
        }
        let tcpdump = Tcpdump::start(&namespace, &["-i", "lo"]);
        let inode: u64 = {
            let list = namespace.exec("cat", &["/proc/net/packet"]);
            list.lines().nth(1).unwrap().split_whitespace().last().unwrap().parse().unwrap()
        };
        let events = |kind: &str| daemon.events().of(kind).with("packet.inode", inode);
        let limit = if is_early { 5000 } else { 15_000 };
        until(limit, || format!("{:#?}", daemon.events().within(&namespace)), || !events("Packet Socket").is_empty());
        let event = events("Packet Socket").one().clone();
        assert_eq!(event["event.network.namespace"], namespace.inode, "{event:#}");
        assert_eq!((&event["packet.protocol"], &event["event.network.interface"]), (&"ALL".into(), &"lo".into()));
        assert_eq!((&event["src.process.pid"], &event["src.process.name"]), (&tcpdump.pid().into(), &"tcpdump".into()));
        assert!(event["src.process.cmdline"].as_str().unwrap().contains("tcpdump"), "{event:#}");
        assert!(events("Packet Socket End").is_empty());
        tcpdump.end();
        until(5000, || "no end".into(), || !events("Packet Socket End").is_empty());
        let end = events("Packet Socket End").one().clone();
        assert_eq!(end["event.connection.id"], event["event.connection.id"]);
        assert_eq!(end["src.process.name"], "tcpdump");
        assert_eq!(events("Packet Socket").len(), 1);
    }
    let health = daemon.health().to_string();
    assert!(health.contains("poll/proc/net/packet"), "{health}");
}

#[test]
fn tcpdump_is_listed_while_it_runs() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    assert_eq!(listed(daemon, &namespace), [] as [Value; 0]);
    let tcpdump = Tcpdump::start(&namespace, &["-i", "lo"]);
    let rows = listed(daemon, &namespace);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    let row = &rows[0];
    assert_eq!((&row["family"], &row["protocol"]), (&"AF_PACKET".into(), &"ALL".into()));
    assert_eq!((&row["interface"], &row["interface_index"]), (&"lo".into(), &1.into()));
    assert_eq!((&row["pid"], &row["process_name"]), (&tcpdump.pid().into(), &"tcpdump".into()));
    assert!(row["command_line"].as_str().unwrap().ends_with("tcpdump -n -Z root -w /dev/null -i lo"), "{row}");
    let start = format!("tcpdump({})", tcpdump.pid());
    // `Sensor Start` lists what is open at the start, so it takes another daemon.
    let second = Daemon::start();
    assert!(at_start(&second).split(", ").any(|word| word == start), "{}", at_start(&second));

    // The other formats have the same row.
    let of = |text: String| text.lines().filter(|line| line.contains(&namespace.inode.to_string())).count();
    let table = second.text(&["list", "--packet"]);
    assert!(table.starts_with("FAMILY"), "{table}");
    let line = table.lines().find(|line| line.contains(&namespace.inode.to_string())).unwrap();
    let words: Vec<_> = line.split_whitespace().take(6).collect();
    let (inode, pid) = (namespace.inode.to_string(), tcpdump.pid().to_string());
    assert_eq!(words, ["AF_PACKET", "all", "lo", &inode, &pid, "tcpdump"]);
    assert_eq!(of(second.text(&["list", "--packet", "--format", "ndjson"])), 1);
    assert_eq!(of(second.text(&["list", "--packet", "--format", "csv", "-H"])), 1);

    tcpdump.end();
    assert_eq!(listed(daemon, &namespace), [] as [Value; 0]);
    let third = second.end().start();
    assert!(!at_start(&third).contains(&start), "{}", at_start(&third));
}

#[test]
fn xdp_sockets_are_listed() {
    let namespace = Netns::new();
    let Some(_held) = socket(&namespace, libc::AF_XDP) else { return };
    let rows = listed(Daemon::shared(), &namespace);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!((&rows[0]["family"], &rows[0]["pid"]), (&"AF_XDP".into(), &std::process::id().into()));
    assert_eq!((rows[0].get("protocol"), &rows[0]["interface_index"]), (None, &0.into()));
    let daemon = Daemon::start();
    assert!(at_start(&daemon).contains(&format!("({})", std::process::id())), "{}", at_start(&daemon));
}

#[test]
fn each_process_that_has_one_open_is_listed() {
    let namespace = Netns::new();
    let held = socket(&namespace, libc::AF_PACKET).unwrap();
    let child = Forked::new(|mut channel| pause(&mut channel));
    let rows = listed(Daemon::shared(), &namespace);
    let mut pids: Vec<_> = rows.iter().map(|row| row["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    let mut expected = [u64::from(std::process::id()), u64::from(child.pid)];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert_eq!(rows[0]["inode"], rows[1]["inode"]);
    assert_eq!(rows[0]["protocol"], "NONE");
    drop((child, held));
}

/// A mapped ring keeps a packet socket alive, and receiving, after its last descriptor is closed.
#[test]
fn a_socket_that_only_a_mapping_keeps_is_listed() {
    let namespace = Netns::new();
    let held = socket(&namespace, libc::AF_PACKET).unwrap();
    let length = 1 << 16;
    let ring = libc::tpacket_req { tp_block_size: 1 << 16, tp_block_nr: 1, tp_frame_size: 1 << 11, tp_frame_nr: 32 };
    // SAFETY: `PACKET_RX_RING` takes a `tpacket_req`, which lives for the call.
    let set = unsafe {
        let size = libc::socklen_t::try_from(size_of_val(&ring)).unwrap();
        libc::setsockopt(held.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, (&raw const ring).cast(), size)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    let (access, descriptor) = (libc::PROT_READ | libc::PROT_WRITE, held.as_raw_fd());
    // SAFETY: this is a new mapping at an address that the kernel chooses, and nothing reads it.
    let mapping = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, descriptor, 0) };
    assert_ne!(mapping, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    drop(held);
    let rows = listed(Daemon::shared(), &namespace);
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!((rows[0]["family"].as_str(), rows[0].get("pid")), (Some("AF_PACKET"), None));
    let daemon = Daemon::start();
    assert!(at_start(&daemon).split(", ").any(|word| word == "unknown"), "{}", at_start(&daemon));
    // SAFETY: this is the mapping from above, and nothing uses it.
    assert_eq!(unsafe { libc::munmap(mapping, length) }, 0);
    assert_eq!(listed(Daemon::shared(), &namespace), [] as [Value; 0]);
}

#[test]
fn what_cannot_be_listed_is_named() {
    let namespace = Netns::new();
    let tcpdump = Tcpdump::start(&namespace, &["-i", "lo"]);
    let daemon = Daemon::start_with(&["--without-hook", "dump_files"]);
    let output = daemon.run(&["list", "--packet", "--format", "ndjson"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("netconn: AF_XDP sockets cannot be listed here: iter/task_file: left out"), "{error}");
    assert!(daemon.log().contains("AF_XDP sockets cannot be listed here: "), "{}", daemon.log());
    // Without the iterator, the process is found in /proc by a daemon that is root.
    let rows = String::from_utf8(output.stdout).unwrap();
    let row = rows.lines().find(|line| line.contains(&namespace.inode.to_string())).unwrap();
    assert!(row.contains(&format!("\"pid\":{},", tcpdump.pid())), "{row}");
    assert!(at_start(&daemon).contains(&format!("tcpdump({})", tcpdump.pid())));
    // Without BPF, the command still lists the sockets of its namespace.
    let enter = format!("--net=/run/netns/{}", namespace.name());
    let inside = ["nsenter", &enter, "setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"];
    let text = alone(&inside, &["-H"]);
    assert!(text.contains("tcpdump -n -Z root -w /dev/null -i lo"), "{text}");
    assert!(text.contains("AF_XDP sockets cannot be listed here: /proc does not show them, and "), "{text}");
}

#[test]
fn options_that_select_connections_are_refused() {
    let refused = ["-t", "-l", "-e", "-r", "--count", "--sort=pid", "--group-by=state", "--closed=5m", "--port=1"];
    for option in refused {
        let output = Command::new(netconn()).args(["list", "--packet", option]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{option}: {error}");
        assert!(error.contains("cannot be used with"), "{option}: {error}");
    }
    let daemon = Daemon::shared();
    let error = daemon.ask("/v1/packet-sockets?format=csv").unwrap_err();
    assert!(error.contains(" 400 ") && error.contains("format: /v1/packet-sockets has no parameters"), "{error}");
}
