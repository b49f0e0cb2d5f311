//! Units and containers of processes, in the hierarchies of cgroups that this machine has.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use netconn_tests::{Daemon, netconn, until};

/// A new cgroup. Removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a cgroup below the root of a hierarchy.
    fn new(root: &Path, path: &str) -> Self {
        let folder = root.join(path);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // An error means that a process has not quite ended; the cgroup is empty then, and stays.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Returns where a hierarchy is mounted: `cgroup2`, or one of v1 with these options.
fn mount_of(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let found = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|parts| parts[2] == kind && (option.is_empty() || parts[3].split(',').any(|found| found == option)));
    found.map(|parts| PathBuf::from(parts[1]))
}

/// A shell in these cgroups that connects to a port when it reads a line, and holds the connection.
fn client(cgroups: &[&Cgroup], port: u16) -> Child {
    let joins: String =
        cgroups.iter().map(|cgroup| format!("echo $$ > {}/cgroup.procs && ", cgroup.0.display())).collect();
    let script = format!("{joins} exec 3<>/dev/tcp/127.0.0.1/{port} && read line");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

/// Returns unit and container in the event and in the row of a connection by a process in these cgroups.
fn seen(daemon: &Daemon, cgroups: &[&Cgroup]) -> [(Option<String>, Option<String>); 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = client(cgroups, port);
    let accepted: TcpStream = listener.accept().unwrap().0;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let mut row = (None, None);
    let path = format!("/v1/connections?format=ndjson&direction=outgoing&remote-port={port}");
    until(
        5000,
        || "no row".into(),
        || {
            let rows = daemon.rows(&path);
            row = rows.first().map_or((None, None), |row| (text(&row["systemd_unit"]), text(&row["container_id"])));
            rows.len() == 1
        },
    );
    // The filter knows it too, by the beginning.
    if let (_, Some(container)) = &row {
        assert_eq!(daemon.rows(&format!("{path}&container={}", &container[..12.min(container.len())])).len(), 1);
    }
    let is_ours = |event: &serde_json::Value| {
        event["event.type"] == "IP Connect"
            && event["remote.port.number"] == port
            && event["src.process.pid"] == client.id()
    };
    let mut event = None;
    until(
        5000,
        || "no event".into(),
        || {
            event = daemon.events().0.iter().find(|event| is_ours(event)).cloned();
            event.is_some()
        },
    );
    let event = event.unwrap();
    drop((client.stdin.take(), accepted));
    client.wait().unwrap();
    [(text(&event["src.process.systemdUnit"]), text(&event["container.id"])), row]
}

#[test]
fn containers_and_their_monitors_are_told_apart() {
    let Some(root) = mount_of("cgroup2", "") else {
        eprintln!("containers_and_their_monitors_are_told_apart: skipped, no cgroup v2 is mounted");
        return;
    };
    let daemon = Daemon::start();
    let id = format!("{:064x}", std::process::id());
    for (name, container) in
        [(format!("libpod-{id}.scope"), Some(id.clone())), (format!("libpod-conmon-{id}.scope"), None)]
    {
        let cgroup = Cgroup::new(&root, &name);
        let expected = (Some(name), container);
        assert_eq!(seen(&daemon, &[&cgroup]), [expected.clone(), expected]);
    }
    let name = format!("lxc.payload.netconn-{}", std::process::id());
    let cgroup = Cgroup::new(&root, &name);
    let expected = (None, name.strip_prefix("lxc.payload.").map(str::to_owned));
    assert_eq!(seen(&daemon, &[&cgroup]), [expected.clone(), expected]);
}

#[test]
fn hierarchies_of_v1_name_units_and_containers() {
    let (Some(systemd), Some(memory)) = (mount_of("cgroup", "name=systemd"), mount_of("cgroup", "memory")) else {
        eprintln!("hierarchies_of_v1_name_units_and_containers: skipped, cgroup v1 is not mounted");
        return;
    };
    let daemon = Daemon::start();
    let id = format!("{:064x}", std::process::id());
    // As Docker's cgroupfs driver does on such hosts: the process stays where it was in v2.
    let unit = Cgroup::new(&systemd, &format!("netconn-{}.service", std::process::id()));
    let container = Cgroup::new(&memory, &format!("docker/{id}"));
    let expected = (Some(format!("netconn-{}.service", std::process::id())), Some(id.clone()));
    assert_eq!(seen(&daemon, &[&unit, &container]), [expected.clone(), expected]);
    let text = String::from_utf8(Command::new(netconn()).arg("doctor").output().unwrap().stdout).unwrap();
    assert!(text.contains("v1 is mounted too"), "{text}");
}
