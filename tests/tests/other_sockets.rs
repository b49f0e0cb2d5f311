//! Sockets that are no connections: raw IP sockets, Unix sockets with both ends, SCTP, MPTCP as such, and vsock. The oracle is `ss`, or
//! what the kernel says of a descriptor.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
    },
    process::{Command, Output},
};

use netconn_tests::{Daemon, Forked, Netns, netconn, pause, step};
use nix::libc;
use serde_json::Value;

/// `IPPROTO_SCTP` and `IPPROTO_MPTCP` in `include/uapi/linux/in.h`.
const SCTP: i32 = 132;
const MPTCP: i32 = 262;

/// Makes a socket; `None` if the kernel does not have such.
fn socket(family: i32, form: i32, protocol: i32) -> Option<OwnedFd> {
    // SAFETY: `socket` takes no pointers.
    let descriptor = unsafe { libc::socket(family, form | libc::SOCK_CLOEXEC, protocol) };
    if descriptor < 0 {
        let error = io::Error::last_os_error();
        let absent = [libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT, libc::ENOPROTOOPT];
        assert!(error.raw_os_error().is_some_and(|number| absent.contains(&number)), "{error}");
        return None;
    }
    // SAFETY: the descriptor is new, and nothing else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// An address of IPv4 for system calls.
fn sockaddr(address: SocketAddrV4) -> (libc::sockaddr_in, libc::socklen_t) {
    let length = u32::try_from(size_of::<libc::sockaddr_in>()).unwrap();
    let address = libc::sockaddr_in {
        sin_family: u16::try_from(libc::AF_INET).unwrap(),
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    (address, length)
}

fn bind(socket: &OwnedFd, address: SocketAddrV4) {
    let (address, length) = sockaddr(address);
    // SAFETY: the address is as long as said.
    let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn connect(socket: &OwnedFd, address: SocketAddrV4) {
    let (address, length) = sockaddr(address);
    // SAFETY: the address is as long as said.
    let done = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn listen(socket: &OwnedFd) {
    // SAFETY: it takes no pointers.
    let done = unsafe { libc::listen(socket.as_raw_fd(), 5) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn accept(socket: &OwnedFd) -> OwnedFd {
    // SAFETY: null pointers: the address is not wanted.
    let descriptor = unsafe { libc::accept(socket.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
    assert!(descriptor >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn inode(socket: BorrowedFd<'_>) -> u64 {
    nix::sys::stat::fstat(socket).unwrap().st_ino
}

/// Runs `netconn list` where it cannot reach a daemon, with the command `who` before it.
fn alone(who: &[&str], arguments: &[&str]) -> Output {
    let script = "if [ -d /run/netconn ]; then mount -t tmpfs tmpfs /run/netconn; fi; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args(who).arg(netconn()).arg("list");
    command.args(arguments).env_remove("NETCONN_SOCKET").output().unwrap()
}

/// Returns the head and the rows of an answer.
fn parsed(output: &Output) -> (Value, Vec<Value>) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let rows = answer["connections"].take();
    (answer, rows.as_array().unwrap().clone())
}

/// Returns what a head says of whole kinds of sockets. The other sentences are of the moment: a lost record, or a namespace that only one
/// of two lists has met.
fn sentences_of_kinds(head: &Value) -> Vec<&str> {
    let sentences = head["unlisted"].as_array().into_iter().flatten().map(|sentence| sentence.as_str().unwrap());
    let is_of_kind = |sentence: &&str| {
        sentence.contains(" sockets cannot be listed: this kernel has no sock_diag for them")
            || sentence.starts_with("there are no ")
    };
    sentences.filter(is_of_kind).collect()
}

/// Returns the rows of a namespace that these options select, from a daemon. Checks that the command without a daemon shows the same, as
/// far as both know it.
fn listed(namespace: &Netns, options: &[&str]) -> Vec<Value> {
    let inode = namespace.inode.to_string();
    let arguments = [options, &["--format", "json", "--namespace", &inode]].concat();
    let (head, rows) = parsed(&Daemon::shared().run(&[&["list"], &*arguments].concat()));
    let (head_alone, rows_alone) = parsed(&alone(&[], &arguments));
    assert_eq!(sentences_of_kinds(&head), sentences_of_kinds(&head_alone));
    // By the kind and the inode in both.
    let known = |rows: &[Value]| {
        let of = |row: &Value| (row["protocol"].to_string(), row["inode"].as_u64(), row["pid"].as_u64());
        let mut known: Vec<_> = rows.iter().map(of).collect();
        known.sort();
        known
    };
    assert_eq!(known(&rows), known(&rows_alone));
    rows
}

/// Returns the words of the lines of `ss` with these options, and `-naHe`, inside a namespace.
fn ss(namespace: &Netns, options: &[&str]) -> Vec<Vec<String>> {
    let text = namespace.exec("ss", &[&["-n", "-a", "-H"], options].concat());
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn text<'a>(row: &'a Value, member: &str) -> &'a str {
    row[member].as_str().unwrap_or("*")
}

/// A Unix socket: type, state, own name, inode, name and inode of the peer, and the processes that have both ends.
type UnixSocket = (String, String, String, u64, String, u64, Option<u64>, Option<u64>);

/// Returns the Unix sockets of a namespace by `ss -xap`.
fn ss_unix(namespace: &Netns) -> Vec<UnixSocket> {
    let lines = ss(namespace, &["-x", "-p"]);
    // u_str LISTEN 0 128 @name 1234 * 0 users:(("name",pid=12,fd=3),("name",pid=14,fd=3))
    let pid = |line: &[String]| {
        let users = line.get(8)?.split(",pid=").skip(1);
        let pids: Vec<u64> = users.filter_map(|user| user.split(',').next()?.parse().ok()).collect();
        // The test is older than the children that have inherited its sockets.
        let own = u64::from(std::process::id());
        if pids.contains(&own) { Some(own) } else { pids.into_iter().min() }
    };
    // With -p, ss leaves the name of the peer out.
    let name = |inode: &str| lines.iter().find(|line| line[5] == inode).map_or("*", |line| &line[4]).to_owned();
    let owner = |inode: &str| lines.iter().find(|line| line[5] == inode).and_then(|line| pid(line));
    let of = |line: &Vec<String>| {
        let number = |word: &str| word.parse::<u64>().unwrap();
        (
            match &*line[0] {
                "u_str" => "UNIX_STREAM",
                "u_dgr" => "UNIX_DGRAM",
                "u_seq" => "UNIX_SEQPACKET",
                other => other,
            }
            .to_owned(),
            match &*line[1] {
                "LISTEN" => "LISTENING",
                "ESTAB" => "ESTABLISHED",
                "UNCONN" => "UNCONNECTED",
                other => other,
            }
            .to_owned(),
            line[4].clone(),
            number(&line[5]),
            name(&line[7]),
            number(&line[7]),
            pid(line),
            owner(&line[7]),
        )
    };
    let mut found: Vec<_> = lines.iter().map(of).collect();
    found.sort_by_key(|socket| socket.3);
    found
}

fn unix_rows(rows: &[Value]) -> Vec<UnixSocket> {
    let of = |row: &Value| {
        (
            text(row, "protocol").to_owned(),
            text(row, "state").to_owned(),
            text(row, "local_path").to_owned(),
            row["inode"].as_u64().unwrap(),
            text(row, "remote_path").to_owned(),
            row["peer_inode"].as_u64().unwrap_or(0),
            row["pid"].as_u64(),
            row["peer_pid"].as_u64(),
        )
    };
    let mut found: Vec<_> = rows.iter().map(of).collect();
    found.sort_by_key(|socket| socket.3);
    found
}

/// Unix sockets of all kinds in a namespace; one end belongs to another process.
struct UnixScene {
    _open: (UnixListener, UnixStream, UnixDatagram, UnixDatagram, (OwnedFd, OwnedFd), UnixStream),
    client: Forked,
    path: String,
}

impl UnixScene {
    fn new(namespace: &Netns) -> Self {
        let path = format!("/tmp/netconn-test-{}-{}", std::process::id(), namespace.inode);
        namespace.run(|| {
            let name = SocketAddr::from_abstract_name(format!("netconn-test-{}", namespace.inode)).unwrap();
            let listener = UnixListener::bind_addr(&name).unwrap();
            let mut client = Forked::new(|mut channel| {
                let _open = UnixStream::connect_addr(&name).unwrap();
                step(&mut channel);
                pause(&mut channel);
            });
            client.wait();
            let (server, _) = listener.accept().unwrap();
            // Nobody accepts it: it has a peer without an inode.
            let waiting = UnixStream::connect_addr(&name).unwrap();
            let receiver = UnixDatagram::bind(&path).unwrap();
            let sender = UnixDatagram::unbound().unwrap();
            sender.connect(&path).unwrap();
            let pair = nix::sys::socket::socketpair(
                nix::sys::socket::AddressFamily::Unix,
                nix::sys::socket::SockType::SeqPacket,
                None,
                nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            )
            .unwrap();
            Self { _open: (listener, server, receiver, sender, pair, waiting), client, path: path.clone() }
        })
    }
}

impl Drop for UnixScene {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn unix_sockets_have_both_ends() {
    let namespace = Netns::new();
    let scene = UnixScene::new(&namespace);
    let rows = listed(&namespace, &["-x"]);
    let expected = ss_unix(&namespace);
    // The two of the channel to the child are in the test's own namespace: they were made there or here.
    assert!(expected.len() >= 8, "{expected:#?}");
    assert_eq!(unix_rows(&rows), expected);
    let server = rows.iter().find(|row| row["peer_pid"] == scene.client.pid && row["local_path"].is_string()).unwrap();
    assert_eq!(
        (text(server, "process_name"), server["pid"].as_u64()),
        (text(server, "process_name"), Some(u64::from(std::process::id())))
    );
    assert!(text(server, "peer_process_name") != "*", "{server:#}");
    assert!(text(server, "local_path").starts_with("@netconn-test-"), "{server:#}");
    let peer = rows.iter().find(|row| row["inode"] == server["peer_inode"]).unwrap();
    assert_eq!(peer["remote_path"], server["local_path"]);
    // Without BPF, what may read nothing but /proc and sock_diag sees the same of the own namespace, and its own sockets.
    let enter = format!("--net=/run/netns/{}", namespace.name());
    let inside = ["nsenter", &enter, "setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"];
    let (_, mut without) = parsed(&alone(&inside, &["-x", "--format", "json"]));
    without.retain(|row| row["process_name"] != "netconn");
    assert_eq!(unix_rows(&without), expected);
}

#[test]
fn options_hold_for_unix_sockets_too() {
    let namespace = Netns::new();
    let scene = UnixScene::new(&namespace);
    let _tcp = namespace.run(|| {
        namespace.ip(&["link", "set", "lo", "up"]);
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    });
    let all = ss_unix(&namespace);
    let count = |keeps: &dyn Fn(&UnixSocket) -> bool| all.iter().filter(|socket| keeps(socket)).count();
    let rows = |options: &[&str]| listed(&namespace, options).len();
    let client = scene.client.pid.to_string();
    assert_eq!(rows(&["-x", "--pid", &client]), count(&|socket| socket.6 == Some(scene.client.pid.into())));
    assert_eq!(rows(&["-x", "--not-pid", &client]), count(&|socket| socket.6 != Some(scene.client.pid.into())));
    assert_eq!(rows(&["-x", "--state", "listening"]), 1);
    assert_eq!(rows(&["-x", "-l"]), count(&|socket| socket.1 != "ESTABLISHED"));
    assert_eq!(rows(&["-x", "--not-listening"]), count(&|socket| socket.1 == "ESTABLISHED"));
    assert_eq!(rows(&["-x", "--user", "root"]), all.len());
    assert_eq!(rows(&["-x", "--port", "1"]) + rows(&["-x", "--local", "0.0.0.0/0"]), 0, "they have neither");
    assert_eq!(rows(&["-x", "local_path is not null"]), count(&|socket| socket.2 != "*"));
    // As in ss, each kind adds to the others.
    assert_eq!(rows(&["-x", "-t"]), all.len() + 1);
    assert_eq!(rows(&["-x", "-4"]), all.len() + 1);
    assert_eq!((rows(&["-t"]), rows(&[])), (1, 1), "a list has connections");
    let inode = namespace.inode.to_string();
    let own = |options: &[&str]| {
        Daemon::shared().text(&[&["list", "--namespace", &inode], options].concat()).trim_end().to_owned()
    };
    assert_eq!(own(&["-x", "--count"]), all.len().to_string());
    assert_eq!(own(&["-x", "-t", "--count"]), (all.len() + 1).to_string());
    let summary: Value = serde_json::from_str(&own(&["-x", "-t", "-s", "--format", "json"])).unwrap();
    assert_eq!(summary["count"], all.len() + 1);
    let groups = summary["groups"].as_array().unwrap();
    let seqpacket = groups.iter().find(|group| group["protocol"] == "UNIX_SEQPACKET").unwrap();
    assert_eq!((&seqpacket["count"], &seqpacket["ipv4"], &seqpacket["ipv6"]), (&2.into(), &0.into(), &0.into()));
    assert_eq!(own(&["-x", "--format", "ndjson"]).lines().count(), all.len());
    let csv = own(&["-x", "--format", "csv"]);
    assert!(csv.lines().next().unwrap().contains(",local_path,remote_path,peer_inode,peer_pid,"), "{csv}");
    assert_eq!(csv.lines().count(), all.len() + 1);
    let table = own(&["-x"]);
    for heading in ["PROTO", "LOCAL", "REMOTE", "PEER", "INODE", "PEER INODE"] {
        assert!(table.lines().next().unwrap().contains(heading), "{table}");
    }
    // Queues: one connection waits in the backlog of the listener.
    let queued = listed(&namespace, &["-x", "-q", "--holders", "--state", "listening"]);
    assert_eq!(queued[0]["backlog"], 1, "{queued:#?}");
    assert!(queued[0]["backlog_limit"].as_u64().unwrap() > 0);
    assert_eq!(queued[0]["holder_count"], 1 + 1, "the child has inherited it");
    assert_eq!(queued[0]["holders"].as_array().unwrap().len(), 2);
    // What makes no sense is refused.
    let refused = |arguments: &[&str]| {
        let output = Command::new(netconn()).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = refused(&["list", "-x", "--closed", "5m"]);
    assert!(code == Some(2) && error.contains("--closed: only connections that have ended are remembered"), "{error}");
    assert_eq!(refused(&["watch", "-x"]).0, Some(2));
    assert_eq!(refused(&["list", "-x", "--packet"]).0, Some(2));
    let error = Daemon::shared().ask("/v1/connections?sockets=tcp").unwrap_err();
    assert!(error.contains("'tcp' is not a kind of socket: use connections, raw, unix,"), "{error}");
}

#[test]
fn idle_raw_sockets_are_what_ss_sees() {
    let namespace = Netns::new();
    // Before the sockets: it must see who creates them.
    Daemon::shared();
    let _open = namespace.run(|| {
        namespace.ip(&["link", "set", "lo", "up"]);
        let raw = |family, protocol| socket(family, libc::SOCK_RAW, protocol).unwrap();
        let sockets = [raw(libc::AF_INET, 89), raw(libc::AF_INET, 1), raw(libc::AF_INET6, 58), raw(libc::AF_INET, 253)];
        bind(&sockets[0], SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        connect(&sockets[3], SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0));
        sockets
    });
    let rows = listed(&namespace, &["-w"]);
    let mut shown: Vec<_> = rows
        .iter()
        .map(|row| {
            assert_eq!((&row["raw"], row["pid"].as_u64()), (&true.into(), Some(std::process::id().into())), "{row:#}");
            let protocol = match (text(row, "protocol"), text(row, "local_address").contains(':')) {
                ("ICMP", true) => "58",
                ("ICMP", false) => "1",
                (number, _) => number,
            };
            let local = if text(row, "local_address") == "::" { "*" } else { text(row, "local_address") };
            let state = if text(row, "state") == "ESTABLISHED" { "ESTAB" } else { "UNCONN" };
            (state.to_owned(), format!("{local}:{protocol}"))
        })
        .collect();
    // UNCONN 0 0 0.0.0.0:1 0.0.0.0:*
    let mut expected: Vec<_> =
        ss(&namespace, &["-w"]).into_iter().map(|line| (line[0].clone(), line[3].clone())).collect();
    shown.sort();
    expected.sort();
    assert_eq!(expected.len(), 4);
    assert_eq!(shown, expected);
    assert_eq!(listed(&namespace, &["-w", "--protocol", "89"]).len(), 1);
    assert_eq!(listed(&namespace, &["-w", "-6"]).len(), 1);
    assert_eq!(listed(&namespace, &["-w", "--remote", "127.0.0.2"]).len(), 1);
    assert_eq!(listed(&namespace, &[]).len(), 0, "a list has connections");
}

#[test]
fn mptcp_connections_are_shown_as_such() {
    let namespace = Netns::new();
    let open = namespace.run(|| {
        namespace.ip(&["link", "set", "lo", "up"]);
        let listener = socket(libc::AF_INET, libc::SOCK_STREAM, MPTCP)?;
        let client = socket(libc::AF_INET, libc::SOCK_STREAM, MPTCP)?;
        bind(&listener, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4711));
        listen(&listener);
        connect(&client, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4711));
        let server = accept(&listener);
        Some((listener, client, server))
    });
    let Some((_listener, client, server)) = open else {
        eprintln!("this kernel has no MPTCP");
        return;
    };
    // ESTAB 0 0 127.0.0.1:4711 127.0.0.1:50000 ino:12 … token:abcd …, on two lines or one.
    let found = namespace.exec("ss", &["-M", "-n", "-a", "-H", "-e", "-i", "-O"]);
    if found.is_empty() {
        let (head, _) = parsed(&Daemon::shared().run(&["list", "-M", "--format", "json"]));
        assert!(head["unlisted"][0].as_str().unwrap().contains("no sock_diag for them"), "{head}");
        eprintln!("this kernel has no mptcp_diag");
        return;
    }
    let rows = listed(&namespace, &["-M"]);
    for socket in [&client, &server] {
        let inode = inode(socket.as_fd());
        let line = found.lines().find(|line| line.contains(&format!("ino:{inode} "))).unwrap();
        let row = rows.iter().find(|row| row["inode"] == inode).unwrap_or_else(|| panic!("{rows:#?}"));
        let token = row["mptcp_token"].as_u64().unwrap();
        assert!(line.contains(&format!("token:{token:x} ")), "{token:x}: {line}");
        let ends = format!(
            "{}:{} {}:{}",
            text(row, "local_address"),
            row["local_port"],
            text(row, "remote_address"),
            row["remote_port"]
        );
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(format!("{} {}", words[3], words[4]), ends);
        assert_eq!(
            (&row["protocol"], &row["state"], &row["mptcp_subflows"]),
            (&"MPTCP".into(), &"ESTABLISHED".into(), &0.into())
        );
        assert_eq!(row["pid"], std::process::id());
    }
    // Listeners are in the kernel's answer from 5.19 on.
    assert_eq!(rows.len(), found.lines().count(), "{found}\n{rows:#?}");
    // Its paths are connections of TCP, without -M. A list without a daemon may not know whose they are.
    let inode = namespace.inode.to_string();
    let (_, paths) = parsed(&Daemon::shared().run(&["list", "-t", "--format", "json", "--namespace", &inode]));
    assert!(!paths.is_empty() && paths.iter().all(|row| row["protocol"] == "TCP"), "{paths:#?}");
    let table = Daemon::shared().text(&["list", "-M", "--namespace", &namespace.inode.to_string()]);
    assert!(table.contains("TOKEN") && table.contains(" 0x"), "{table}");
}

#[test]
fn sctp_associations_are_listed_where_the_kernel_has_them() {
    let namespace = Netns::new();
    let open = namespace.run(|| {
        namespace.ip(&["link", "set", "lo", "up"]);
        let listener = socket(libc::AF_INET, libc::SOCK_STREAM, SCTP)?;
        let client = socket(libc::AF_INET, libc::SOCK_STREAM, SCTP)?;
        bind(&listener, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3868));
        listen(&listener);
        connect(&client, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3868));
        let server = accept(&listener);
        Some((listener, client, server))
    });
    let rows = |namespace: &Netns| {
        let arguments = ["list", "-S", "--format", "json", "--namespace", &namespace.inode.to_string()];
        parsed(&Daemon::shared().run(&arguments))
    };
    let (head, rows) = rows(&namespace);
    let Some((_listener, client, _server)) = open else {
        eprintln!("this kernel has no SCTP");
        assert_eq!(rows.len(), 0);
        assert_eq!(head["complete"], true, "{head}");
        assert!(head["unlisted"][0].as_str().unwrap().starts_with("there are no SCTP sockets"), "{head}");
        return;
    };
    let found = namespace.exec("ss", &["-S", "-n", "-a", "-H"]);
    if found.is_empty() {
        eprintln!("this kernel has no sctp_diag");
        assert!(head["unlisted"][0].as_str().unwrap().contains("CONFIG_INET_SCTP_DIAG"), "{head}");
        return;
    }
    let is = |state: &str, member: &str| {
        rows.iter().filter(|row| row["state"] == state && row[member] == 3868 && row["protocol"] == "SCTP").count()
    };
    assert_eq!((is("LISTENING", "local_port"), is("ESTABLISHED", "local_port")), (1, 1), "{found}\n{rows:#?}");
    let of_client = rows.iter().find(|row| row["inode"] == inode(client.as_fd())).unwrap();
    assert_eq!((&of_client["state"], &of_client["remote_port"]), (&"ESTABLISHED".into(), &3868.into()));
    assert_eq!(of_client["pid"], std::process::id());
}

#[test]
fn vsock_is_listed_or_it_is_said_why_not() {
    let namespace = Netns::new();
    let open = namespace.run(|| {
        let socket = socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
        // SAFETY: all zeros are a value of this structure.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = u16::try_from(libc::AF_VSOCK).unwrap();
        (address.svm_cid, address.svm_port) = (libc::VMADDR_CID_ANY, 70_000);
        let length = u32::try_from(size_of::<libc::sockaddr_vm>()).unwrap();
        // SAFETY: the address is as long as said.
        let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        Some(socket)
    });
    let known = namespace.exec("ss", &["--vsock", "-n", "-a", "-H"]);
    let arguments = ["list", "--vsock", "--format", "json", "--namespace", &namespace.inode.to_string()];
    let (head, rows) = parsed(&Daemon::shared().run(&arguments));
    match open {
        None => {
            eprintln!("this kernel has no vsock");
            assert!(head["unlisted"][0].as_str().unwrap().starts_with("there are no vsock sockets"), "{head}");
        }
        Some(_) if known.is_empty() => {
            eprintln!("this kernel has no vsock_diag");
            assert_eq!(head["complete"], false, "{head}");
            assert!(head["unlisted"][0].as_str().unwrap().contains("CONFIG_VSOCKETS_DIAG"), "{head}");
            // Also where the head is not shown.
            let output = Daemon::shared().run(&["list", "--vsock"]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("netconn: vsock sockets cannot be listed: "), "{error}");
        }
        Some(socket) => {
            assert!(known.contains("70000"), "{known}");
            let row = rows.iter().find(|row| row["inode"] == inode(socket.as_fd())).unwrap();
            assert_eq!((&row["local_port"], &row["protocol"]), (&70_000.into(), &"VSOCK_STREAM".into()));
            assert_eq!(row["pid"], std::process::id());
        }
    }
}

#[test]
fn the_inode_is_shown_as_ss_shows_it() {
    let namespace = Netns::new();
    let listener = namespace.run(|| {
        namespace.ip(&["link", "set", "lo", "up"]);
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    });
    let number = inode(listener.as_fd());
    let known = namespace.exec("ss", &["-tlneH"]);
    assert!(known.contains(&format!("ino:{number} ")), "{known}");
    let rows = listed(&namespace, &["-e"]);
    assert_eq!((rows.len(), &rows[0]["inode"]), (1, &number.into()), "{rows:#?}");
    assert!(rows[0].get("holders").is_none(), "only with --holders");
    assert!(listed(&namespace, &[])[0].get("inode").is_none());
    let table = Daemon::shared().text(&["list", "-e", "--namespace", &namespace.inode.to_string()]);
    assert!(table.contains("INODE") && table.contains(&number.to_string()), "{table}");
}
