//! `netconn list` when no daemon runs: as root with BPF, as root without BPF, and as another user.

use std::{
    fs,
    io::{self, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    ptr,
};

use netconn_tests::{
    Netns, Socket as Row, connected, deferring, deliver, netconn, rows, ss, ss_udp, udp, udp_sockets, unbound, until,
};
use nix::libc;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

const NOBODY: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const WITHOUT_BPF: &[&str] = &["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"];

/// Returns a command in a network namespace that cannot reach a daemon, even if one runs on this machine.
fn unshared(namespace: &Netns, command: &[&str]) -> Command {
    let script = "if [ -d /run/netconn ]; then mount -t tmpfs tmpfs /run/netconn; fi; exec \"$@\"";
    let mut unshared = namespace.command("unshare", &["--mount", "sh", "-c", script, "sh"]);
    unshared.args(command).env_remove("NETCONN_SOCKET");
    unshared
}

/// Runs a command that cannot reach a daemon.
fn without_daemon(namespace: &Netns, command: &[&str]) -> Output {
    unshared(namespace, command).output().unwrap()
}

/// Runs a `netconn list` without a daemon, which must succeed. Returns its standard output, and the only line of its
/// standard error.
fn list(namespace: &Netns, who: &[&str], netconn: &Path, arguments: &[&str]) -> (String, String) {
    listed(&without_daemon(namespace, &[who, &[netconn.to_str().unwrap(), "list"], arguments].concat()))
}

/// Runs a `netconn list` without a daemon, where neither BPF nor `sock_diag` is allowed.
fn list_of_proc(namespace: &Netns, arguments: &[&str]) -> (String, String) {
    let mut command = unshared(namespace, &[WITHOUT_BPF, &[netconn().to_str().unwrap(), "list"], arguments].concat());
    // SAFETY: the function only makes a system call and does not allocate, as is needed between fork and exec.
    unsafe { command.pre_exec(forbid_sock_diag) };
    listed(&command.output().unwrap())
}

fn listed(output: &Output) -> (String, String) {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{error}");
    assert!(error.starts_with("netconn: no daemon runs; showing ") && error.lines().count() == 1, "{error}");
    (String::from_utf8(output.stdout.clone()).unwrap(), error)
}

/// Forbids sockets of `NETLINK_SOCK_DIAG` to the calling process and to the program it executes next, like a kernel
/// that is built without it.
fn forbid_sock_diag() -> io::Result<()> {
    const NETLINK_SOCK_DIAG: u32 = 4;
    // Offsets in `struct seccomp_data` (include/uapi/linux/seccomp.h): the system call, and its first and third
    // argument.
    const CALL: u32 = 0;
    const FAMILY: u32 = 16;
    const PROTOCOL: u32 = 32;
    let load =
        |at| libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: at };
    // Continues if the loaded word equals `is`, else skips `jf` instructions.
    let only = |is: u32, jf| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf,
        k: is,
    };
    let end = |k| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    let mut filter = [
        load(CALL),
        only(libc::SYS_socket as u32, 5),
        load(FAMILY),
        only(libc::AF_NETLINK as u32, 3),
        load(PROTOCOL),
        only(NETLINK_SOCK_DIAG, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and the `filter` it points to live until the call returns.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, ptr::from_ref(&program)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn connections(json: &str) -> Vec<Value> {
    let object: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    object["connections"].as_array().unwrap().clone()
}

/// Makes a copy of netconn that every user can run; the tests may be in a folder that only root can read.
fn copy(folder: &TempDir) -> PathBuf {
    let copy = folder.path().join("netconn");
    fs::copy(netconn(), &copy).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// Makes connections in all states that last, and returns those that the test must hold.
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
    // The command runs in another namespace.
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
    let _held = (scene(&namespace), namespace.run(udp_sockets));
    let (with, _) =
        list(&namespace, &[], &netconn(), &["--format", "ndjson", "--namespace", &namespace.inode.to_string()]);
    let (without, error) = list(&namespace, WITHOUT_BPF, &netconn(), &["--format", "ndjson"]);
    assert!(error.contains("(sock_diag and /proc): start `netconn run` for all"), "{error}");
    let lines = |text: &str| -> Vec<Value> {
        let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // The two ways do not always both know the byte counts.
        for row in &mut rows {
            row.as_object_mut().unwrap().retain(|name, _| !name.starts_with("bytes_"));
        }
        rows.sort_by_key(ToString::to_string);
        rows
    };
    assert_eq!(lines(&with), lines(&without), "the same rows, down to the connections' ids");
}

#[test]
fn queues_are_what_ss_sees_in_all_ways() {
    let folder = TempDir::new().unwrap();
    let copy = copy(&folder);
    let namespace = Netns::new();
    let (_, mut client, server) = namespace.run(|| connected("127.0.0.1"));
    client.write_all(&[1; 3000]).unwrap();
    let port = server.peer_addr().unwrap().port().to_string();
    let condition = format!("dport = :{port}");
    let by_ss = || namespace.exec("ss", &["-tnH", &condition]);
    until(5000, by_ss, || by_ss().split_whitespace().nth(1) == Some("3000"));
    let inode = namespace.inode.to_string();
    let queue = |who: &[&str], netconn: &Path| {
        let arguments = ["--namespace", &inode, "--format", "json", "-i", "--remote-port", &port];
        let (json, _) = list(&namespace, who, netconn, &arguments);
        let found = connections(&json);
        assert_eq!(found.len(), 1, "{json}");
        assert!(found[0]["congestion_window"].as_u64() > Some(0), "{json}");
        found[0]["receive_queue"].as_u64()
    };
    for (who, netconn) in [(&[][..], &netconn()), (WITHOUT_BPF, &netconn()), (NOBODY, &copy)] {
        assert_eq!(queue(who, netconn), Some(3000), "{who:?}");
    }
    // A condition that needs them, and a plain list that does not.
    let (count, _) = list(&namespace, &[], &netconn(), &["--namespace", &inode, "--count", "receive_queue = 3000"]);
    assert_eq!(count, "1\n");
    let (plain, _) = list(&namespace, &[], &netconn(), &["--namespace", &inode, "--format", "json"]);
    assert!(!plain.contains("receive_queue"), "{plain}");
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
    // A connection of this user: the shell opens it and then executes netconn.
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
fn half_open_connections_are_what_ss_sees_in_all_three_ways() {
    let (here, there) = (Netns::new(), Netns::new());
    let held = here.run(|| {
        let (listener, address) = deferring("127.0.0.1:0");
        (TcpStream::connect(address).unwrap(), listener)
    });
    let expected = ss(&here);
    // The client's end is established: the kernel answered its SYN, and waits for data.
    let states: Vec<_> = expected.iter().map(|(state, ..)| state.as_str()).collect();
    assert_eq!(states, ["ESTABLISHED", "LISTENING", "SYN_RECV"], "{expected:#?}");
    let inode = here.inode.to_string();
    let iterators = |arguments: &[&str]| list(&there, &[], &netconn(), &[arguments, &["--namespace", &inode]].concat());
    let sock_diag = |arguments: &[&str]| list(&here, WITHOUT_BPF, &netconn(), arguments);
    let proc = |arguments: &[&str]| list_of_proc(&here, arguments);
    let ways: [&List; 3] = [&iterators, &sock_diag, &proc];
    for list in ways {
        let found = |arguments: &[&str]| connections(&list(&[arguments, &["--format", "json"]].concat()).0);
        assert_eq!(rows(&found(&[])), expected);
        let half_open = found(&["--state", "syn-recv"]);
        assert_eq!(half_open.len(), 1, "{half_open:#?}");
        let row = &half_open[0];
        assert_eq!((&row["direction"], &row["attribution"]), (&"INCOMING".into(), &"listener".into()), "{row:#}");
        assert_eq!(row["pid"], std::process::id(), "{row:#}");
        assert_eq!(found(&["--state", "established"]).len(), 1);
    }
    drop(held);
}

/// Runs `netconn list` in one of its ways; takes the arguments and returns standard output and standard error.
type List<'a> = dyn Fn(&[&str]) -> (String, String) + 'a;

/// Makes UDP sockets of all kinds, and two sockets that lists do not show: a UDP socket without a port and a raw
/// socket.
fn udp_scene(namespace: &Netns) -> (Vec<UdpSocket>, Socket) {
    namespace.run(|| {
        let mut held = udp_sockets();
        // It was not bound, but got a port with its first datagram.
        let sender = unbound(Domain::IPV4);
        deliver(&sender, (&held[0], held[0].local_addr().unwrap()), 10);
        held.extend([sender, udp("[::1]:0"), unbound(Domain::IPV6)]);
        (held, Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap())
    })
}

#[test]
fn udp_is_what_ss_sees_in_all_three_ways() {
    let (here, there) = (Netns::new(), Netns::new());
    let _held = (scene(&here), udp_scene(&here));
    let inode = here.inode.to_string();
    let expected = ss_udp(&here);
    assert_eq!(expected.len(), 4 + 6 + 2);
    assert!(expected.iter().all(|(_, pids)| pids.contains(&std::process::id())), "{expected:#?}");
    let sockets: Vec<Row> = expected.into_iter().map(|(socket, _)| socket).collect();
    let unconnected: Vec<Row> = sockets.iter().filter(|(state, _, _)| state == "UNCONNECTED").cloned().collect();
    assert!(unconnected.len() >= 8, "{unconnected:#?}");
    // Without options, lists have TCP and UDP together.
    let mut everything = [sockets.clone(), ss(&here)].concat();
    everything.sort();
    let iterators = |arguments: &[&str]| list(&there, &[], &netconn(), &[arguments, &["--namespace", &inode]].concat());
    let sock_diag = |arguments: &[&str]| list(&here, WITHOUT_BPF, &netconn(), arguments);
    let proc = |arguments: &[&str]| list_of_proc(&here, arguments);
    let ways: [(&str, &List); 3] =
        [("at this moment", &iterators), ("(sock_diag and /proc)", &sock_diag), ("(/proc)", &proc)];
    for (notice, list) in ways {
        let found = |arguments: &[&str]| connections(&list(&[arguments, &["--format", "json"]].concat()).0);
        let (_, error) = list(&["-u"]);
        assert!(error.contains(notice), "{error}");
        let all = found(&["-u"]);
        assert_eq!(rows(&all), sockets, "{notice}");
        for row in &all {
            assert_eq!((&row["protocol"], &row["pid"]), (&"UDP".into(), &std::process::id().into()), "{notice}: {row}");
            assert_eq!((&row["user"], &row["attribution"]), (&"root".into(), &"scan".into()), "{notice}: {row}");
            assert_eq!(row["executable"], std::env::current_exe().unwrap().to_str().unwrap());
            assert_eq!(row.get("connection_id").is_some(), notice != "(/proc)", "{notice}: {row}");
            assert!(row.get("direction").is_none() && row.get("bytes_sent").is_none(), "{notice}: {row}");
        }
        for arguments in [&["-u", "-l"][..], &["--state", "unconnected"], &["-l", "--protocol", "udp"]] {
            assert_eq!(rows(&found(arguments)), unconnected, "{notice}: {arguments:?}");
        }
        assert_eq!(rows(&found(&[])), everything, "{notice}");
        assert_eq!(rows(&found(&["-t"])), ss(&here), "{notice}");
        assert_eq!(found(&["-tulpn"]).len(), unconnected.len() + 3, "{notice}");
        assert_eq!(found(&["-u", "--state", "established"]).len(), sockets.len() - unconnected.len(), "{notice}");
        let six = sockets.iter().filter(|(_, local, _)| local.contains(':')).count();
        assert_eq!(found(&["-u", "-6"]).len(), six, "{notice}");
        assert_eq!(found(&["-u", "--pid", "1"]).len(), 0, "{notice}");
        assert_eq!(found(&["--icmp"]).len(), 0, "{notice}");
        // Any port of the scene: several sockets may share it.
        let port = sockets[0].1.rsplit_once(' ').unwrap().1;
        let with_port = |(_, local, remote): &&Row| {
            [Some(local), remote.as_ref()].into_iter().flatten().any(|end| end.ends_with(&format!(" {port}")))
        };
        let count = sockets.iter().filter(with_port).count();
        assert_eq!(list(&["-u", "--count", "--port", port]).0, format!("{count}\n"), "{notice}");
        let table = list(&["-u", "-H"]).0;
        assert_eq!(table.lines().filter(|line| line.starts_with("udp")).count(), sockets.len(), "{notice}: {table}");
        let csv = list(&["-u", "--format", "csv"]).0;
        assert_eq!(csv.lines().count(), 1 + sockets.len(), "{notice}: {csv}");
    }
}

#[test]
fn anybody_sees_udp_and_whose_the_own_is() {
    let folder = TempDir::new().unwrap();
    let copy = copy(&folder);
    let namespace = Netns::new();
    let held = udp_scene(&namespace);
    let (json, _) = list(&namespace, NOBODY, &copy, &["-u", "--format", "json"]);
    let sockets: Vec<Row> = ss_udp(&namespace).into_iter().map(|(socket, _)| socket).collect();
    assert_eq!(rows(&connections(&json)), sockets);
    // All sockets are root's, and nobody may not read the open files of root's processes.
    assert!(!json.contains("\"pid\""), "{json}");
    let port = held.0[0].local_addr().unwrap().port();
    let script = format!("exec 3<>/dev/udp/127.0.0.1/{port}; exec {} list -u --format json", copy.display());
    let output = without_daemon(&namespace, &[NOBODY, &["bash", "-c", &script]].concat());
    let found = connections(&String::from_utf8(output.stdout).unwrap());
    let owned: Vec<_> = found.iter().filter(|row| row.get("pid").is_some()).collect();
    assert_eq!(owned.len(), 1, "{owned:#?}");
    let row = owned[0];
    assert_eq!((&row["process_name"], &row["user_id"]), (&"netconn".into(), &65534.into()));
    assert_eq!((&row["remote_port"], &row["state"]), (&port.into(), &"ESTABLISHED".into()));
}

#[test]
fn options_that_need_a_daemon_fail_without_one() {
    let namespace = Netns::new();
    let netconn = netconn();
    let netconn = netconn.to_str().unwrap();
    let cases: [(&[&str], Option<&str>, &str); 3] = [
        (
            &[netconn, "list", "--socket", "/nonexistent/sock"],
            None,
            "sensor_offline: no netconn daemon listens at /nonexistent",
        ),
        (&[netconn, "list"], Some("/nonexistent/sock"), "sensor_offline: "),
        (
            &[netconn, "list", "--closed", "5m"],
            None,
            "--closed asks for what only a daemon remembers: sensor_offline: ",
        ),
    ];
    for (command, socket, message) in cases {
        let mut command = unshared(&namespace, command);
        command.envs(socket.map(|socket| ("NETCONN_SOCKET", socket)));
        let output = command.output().unwrap();
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
