//! What netconn says where it may do less than root of the host: without a capability, in a pid namespace, in no group.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Output, Stdio},
};

use netconn_tests::{Daemon, Installed, long, netconn, until};
use tempfile::TempDir;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `netconn doctor` without a daemon, behind other words.
fn doctor(before: &[&str]) -> Output {
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).arg(netconn()).args(["doctor", "--socket", "/nonexistent/sock"]);
    command.output().unwrap()
}

#[test]
fn a_missing_capability_is_named_where_it_is_needed() {
    // The kernel takes CAP_SYS_ADMIN in place of some others.
    let without = |capabilities: &str| doctor(&["setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities]);
    let output = without("-net_admin,-sys_admin");
    let text = out(&output);
    let of_cgroups: Vec<&str> =
        text.lines().filter(|line| line.contains("  cgroup/") || line.contains("  sockops/")).collect();
    let refused: Vec<_> = of_cgroups.iter().filter(|line| line.starts_with("  no  ")).collect();
    assert!(refused.iter().any(|line| line.contains("cgroup/connect4")), "{text}");
    assert!(refused.iter().all(|line| line.contains("missing CAP_NET_ADMIN: run netconn as root")), "{text}");
    assert!(
        text.contains("eBPF programs may be loaded; without CAP_NET_ADMIN, no hook on cgroups is attached"),
        "{text}"
    );
    assert!(!text.contains("seccomp"), "nothing else is blamed: {text}");
    assert!(text.lines().any(|line| line.starts_with("  ok  tp_btf/inet_sock_set_state")), "{text}");
    assert!(text.contains("  ok  proof"), "{text}");
    let text = out(&without("-perfmon,-sys_admin"));
    assert!(text.contains("missing CAP_PERFMON and CAP_SYS_ADMIN: run netconn as root (sudo)"), "{text}");
}

#[test]
fn doctor_sums_up_and_fails_without_a_daemon() {
    let output = doctor(&["nice"]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(69), "{text}");
    let summary = text.lines().last().unwrap();
    assert!(summary.starts_with("  no  all") && summary.contains(" not: ") && summary.contains("daemon"), "{text}");
    assert!(text.contains("  netconn-search  ") && text.contains("  group  "), "{text}");
    // Not root: nothing can be proved, and everything else is said all the same.
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("netconn");
    fs::copy(netconn(), &copy).unwrap();
    std::os::unix::fs::chown(folder.path(), Some(65534), None).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy);
    let output = command.args(["doctor", "--socket", "/nonexistent/sock"]).output().unwrap();
    let text = out(&output);
    assert_eq!(output.status.code(), Some(69), "{text}");
    for part in ["missing CAP_BPF, CAP_PERFMON", "usermod -aG netconn", "  no  all"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn who_may_not_use_the_socket_hears_of_the_group() {
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("netconn");
    fs::copy(netconn(), &copy).unwrap();
    std::os::unix::fs::chown(folder.path(), Some(65534), None).unwrap();
    let refused = |daemon: &Daemon| {
        let socket = daemon.socket();
        // The permission of the socket itself is what counts here.
        fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy).args(["list", "--socket"]);
        let output = command.arg(&socket).output().unwrap();
        assert_eq!(output.status.code(), Some(77));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = refused(&Daemon::start_configured("group = \"daemon\""));
    assert!(
        error.contains("by root and by the group 'daemon': use sudo, or join it (`sudo usermod -aG daemon"),
        "{error}"
    );
    let error = refused(&Daemon::start_configured("group = \"no-such-group\""));
    assert!(error.contains("by root only: use sudo; or make the group"), "{error}");
}

/// Returns a line of what `netconn doctor` prints.
fn line<'a>(text: &'a str, subject: &str) -> &'a str {
    let line = text.lines().find(|line| line.get(6..).is_some_and(|line| line.starts_with(&format!("{subject} "))));
    line.unwrap_or_else(|| panic!("no {subject}: {text}"))
}

#[test]
fn doctor_says_who_runs_the_daemon_and_what_it_may_do() {
    let installed = Installed::new();
    let daemon = Daemon::start_installed(&installed, "group = \"daemon\"");
    let text = out(&daemon.run(&["doctor"]));
    let service = line(&text, "service");
    assert!(
        service.contains("started by hand") && service.contains(&format!("(pid {})", std::process::id())),
        "{text}"
    );
    // What the kernel says of the same process, read by this test.
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    let hardening = line(&text, "hardening");
    let has_capabilities = u64::from_str_radix(&value("CapEff"), 16).unwrap() & !(1 << 39) != 0;
    for (told, is_so) in [
        ("is root", value("Uid") == "0"),
        ("has CAP_", has_capabilities),
        ("is without no_new_privs", value("NoNewPrivs") == "0"),
        ("is without a filter of system calls", value("Seccomp") == "0"),
    ] {
        assert_eq!(hardening.contains(told), is_so, "{told}: {hardening}");
    }
    assert!(line(&text, "versions").starts_with("  ok  "), "{text}");
    let access = line(&text, "access");
    assert!(access.starts_with("  ok  ") && access.contains(daemon.socket().to_str().unwrap()), "{text}");

    // Nobody's: the socket is open to all, the history is not.
    let copy = installed.netconn().with_file_name("doctor");
    fs::copy(netconn(), &copy).unwrap();
    let folder = daemon.socket().parent().unwrap().to_owned();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let of_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy);
        command.args(["doctor", "--socket"]).arg(daemon.socket()).output().unwrap()
    };
    let refused = of_nobody();
    assert_eq!(refused.status.code(), Some(69));
    let text = out(&refused);
    assert!(
        line(&text, "daemon").starts_with("  no  ") && text.contains("join it (`sudo usermod -aG daemon "),
        "{text}"
    );
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let text = out(&of_nobody());
    let access = line(&text, "access");
    assert!(access.starts_with("  --  ") && access.contains("`sudo usermod -aG daemon "), "{text}");
    assert!(line(&text, "versions").contains("only root can read whether its file was replaced"), "{text}");

    // An upgrade gives the name to another file.
    fs::copy(netconn(), installed.netconn().with_file_name("new")).unwrap();
    fs::rename(installed.netconn().with_file_name("new"), installed.netconn()).unwrap();
    let text = out(&daemon.run(&["doctor"]));
    let versions = line(&text, "versions");
    let replaced = format!("{} was replaced or removed", installed.netconn().display());
    assert!(versions.starts_with("  --  ") && versions.contains(&replaced), "{text}");
    daemon.stop();
}

/// A daemon in a pid namespace of its own. It is killed when dropped, with all of the namespace.
struct Contained {
    unshare: Child,
    folder: TempDir,
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

#[test]
fn a_pid_namespace_of_its_own_is_told() {
    let folder = TempDir::new().unwrap();
    let (socket, log) = (folder.path().join("sock"), folder.path().join("log"));
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(netconn()).args(["run", "--no-history"]);
    command.arg("--socket").arg(&socket).arg("--state-dir").arg(folder.path().join("state"));
    let unshare = command.stdin(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let contained = Contained { unshare, folder };
    let log = || fs::read_to_string(contained.folder.path().join("log")).unwrap();
    until(20_000, log, || log().contains("listening at"));
    assert!(
        log().contains(" WARN netconn runs in a pid namespace of its own: process ids are those of the host"),
        "{}",
        log()
    );
    let run = |arguments: &[&str]| {
        let output = Command::new(netconn()).args(arguments).arg("--socket").arg(&socket).output().unwrap();
        (output.status.code(), out(&output))
    };
    let (_, text) = run(&["doctor"]);
    assert!(text.contains("  --  its processes") && text.contains("run it on the host"), "{text}");
    assert!(line(&text, "service").contains("it is in another pid namespace"), "{text}");
    assert!(text.contains("  ok  proof"), "{text}");
    // The host's process ids: those of this test.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let pid = std::process::id();
    until(
        long(5000).as_millis().try_into().unwrap(),
        || run(&["list", "--port", &port]).1,
        || {
            let rows = run(&["list", "--format", "ndjson", "--direction", "outgoing", "--port", &port]).1;
            rows.contains(&format!("\"pid\":{pid},"))
        },
    );
    drop(client);
    // Without a daemon, the proof has other process ids than the kernel, too.
    let text = out(&doctor(&["unshare", "--pid", "--fork", "--mount-proc"]));
    assert!(text.contains("  --  processes") && text.contains("  ok  proof"), "{text}");
}
