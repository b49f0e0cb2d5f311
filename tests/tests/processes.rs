//! The process of a connection at the time of the event: user, program, arguments, parent, cgroup, unit and container.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use netconn_tests::{Daemon, Events, Forked, Netns, actor, exactly, kernel, long, until};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;
use tempfile::TempDir;

/// Connects in bash, which implements /dev/tcp itself. Nothing listens at this port.
const CONNECT: &str = "exec 3<>/dev/tcp/127.0.0.1/9";

/// Runs a function that makes one attempt in a namespace, and returns the event.
fn attempt(namespace: &Netns, make: impl FnOnce()) -> Value {
    let daemon = Daemon::start();
    make();
    let events: Events = daemon.stop();
    events.within(namespace).of("IP Connect").one().clone()
}

/// Returns the mount point of the cgroups (v2).
fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    line.split(' ').nth(1).unwrap().into()
}

#[test]
fn cgroup_unit_and_container_of_a_process_that_has_ended() {
    let namespace = Netns::new();
    let container = "0123456789abcdef".repeat(4);
    let daemon = Daemon::start();
    // The cgroup is made while the daemon runs, and is removed with its process.
    let group = cgroups().join(format!("docker-{container}.scope"));
    fs::create_dir(&group).unwrap();
    // `ip netns exec` mounts a new /sys, without cgroups, so the process joins the cgroup first.
    let inside = format!("exec ip netns exec {} bash -c '{CONNECT}'", namespace.name());
    let script = format!("echo $$ > {}/cgroup.procs; {inside}", group.display());
    let _ = Command::new("bash").args(["-c", &script]).output().unwrap();
    // The folder is busy until the kernel has let go of the last process.
    while fs::remove_dir(&group).is_err() {}
    let event = daemon.stop().within(&namespace).of("IP Connect").one().clone();
    assert_eq!(event["container.id"], container);
    assert_eq!(event["src.process.systemdUnit"], format!("docker-{container}.scope"));
    assert_eq!(event["src.process.cgroupPath"], format!("/docker-{container}.scope"));
}

#[test]
fn the_user_is_who_connected() {
    let namespace = Netns::new();
    let event = attempt(&namespace, || {
        let arguments = ["--reuid", "65534", "--clear-groups", "bash", "-c", CONNECT];
        let _ = namespace.command("setpriv", &arguments).output().unwrap();
    });
    assert_eq!(event["src.process.userId"], 65534);
    let nobody = fs::read_to_string("/etc/passwd").unwrap().lines().any(|line| line.starts_with("nobody:x:65534:"));
    assert_eq!(event["src.process.user"].as_str(), nobody.then_some("nobody"));
}

#[test]
fn an_account_is_known_by_its_name_whatever_its_shell_and_number_and_age() {
    // A shell that ends in `/false`, a number above 65,536.
    const LINE: &str = "ncmade:x:70001:70001:made later:/nonexistent:/bin/false\n";
    let namespace = Netns::new();
    let accounts = tempfile::NamedTempFile::new().unwrap();
    fs::copy("/etc/passwd", accounts.path()).unwrap();
    // Seen by the daemon alone.
    let daemon = Daemon::start_within(&format!("mount --bind {} /etc/passwd", accounts.path().display()));
    let pid = daemon.pid().to_string();
    let connect = || {
        let arguments = ["--reuid", "70001", "--clear-groups", "bash", "-c", CONNECT];
        let _ = namespace.command("setpriv", &arguments).output().unwrap();
    };
    let user = || {
        let events = daemon.events().within(&namespace).of("IP Connect");
        let event = events.values("src.process.user").pop();
        event.unwrap_or_default()
    };
    connect();
    assert_eq!(user(), Value::Null, "nobody has this number yet");
    let mut file = fs::OpenOptions::new().append(true).open(accounts.path()).unwrap();
    file.write_all(LINE.as_bytes()).unwrap();
    let getent = ["--mount", "--target", &pid, "getent", "passwd", "70001"];
    let oracle = Command::new("nsenter").args(getent).output().unwrap();
    assert_eq!(String::from_utf8(oracle.stdout).unwrap(), LINE);
    until(
        10_000,
        || format!("its name is {}", user()),
        || {
            connect();
            user() == "ncmade"
        },
    );
    // By name, and all that it ever did: the first attempt too.
    let found = |user: &str| {
        daemon.text(&["list", "--closed", "5m", "--count", "--user", user, "--namespace", &namespace.inode.to_string()])
    };
    assert_eq!(found("ncmade"), found("70001"));
    assert_ne!(found("ncmade"), "0\n");
    // What names are for: a namespace as `ip` knows it, a program by its beginning; and a name that is nobody's is told.
    let of = |namespace: &str, process: &str| {
        daemon.text(&["list", "--closed", "5m", "--count", "--namespace", namespace, "--process", process])
    };
    assert_eq!(of(namespace.name(), "b?s*"), found("70001"));
    assert_eq!(of(namespace.name(), "b?"), "0\n");
    let nobody = daemon.run(&["list", "--user", "nosuch"]);
    let notice = String::from_utf8(nobody.stderr).unwrap();
    assert!(nobody.status.success() && notice.contains("no account 'nosuch'"), "{notice}");
}

#[test]
fn the_program_is_the_one_that_ran() {
    let namespace = Netns::new();
    let folder = TempDir::new().unwrap();
    let bash = fs::canonicalize("/bin/bash").unwrap().to_str().unwrap().to_owned();
    // The program is started through a link, with an unusual name and unusual arguments.
    let link = folder.path().join("it is me");
    symlink(&bash, &link).unwrap();
    let long = "x".repeat(3000);
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let event = attempt(&namespace, || {
        let script = format!("{CONNECT} # \u{1b}[31m\"\\ é");
        let _ = namespace.command(link.to_str().unwrap(), &["-c", &script, &long]).output().unwrap();
    });
    assert_eq!(event["src.process.image.path"], bash);
    assert_eq!(event["src.process.name"], "it is me");
    let command_line = event["src.process.cmdline"].as_str().unwrap();
    let expected = format!("{} -c {CONNECT} # \u{1b}[31m\"\\ é {long}", link.display());
    assert_eq!(command_line, expected);
    assert_eq!(event["src.process.parent.pid"], std::process::id());
    let own = std::env::current_exe().unwrap();
    assert_eq!(event["src.process.parent.image.path"], own.to_str().unwrap());
    let start = u128::from(event["src.process.startTime"].as_u64().unwrap());
    assert!(start + 10 >= before && start <= before + 60_000, "{start} {before}");
    assert!(event["src.process.uid"].as_str().unwrap().contains(&format!("-{}-", event["src.process.pid"])));
}

#[test]
fn a_forked_child_is_itself_and_a_deleted_program_is_said_to_be() {
    let namespace = Netns::new();
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("tool");
    fs::copy("/bin/bash", &copy).unwrap();
    // The subshell, which connects, is a fork without an exec.
    let event = attempt(&namespace, || {
        let script = format!("exec 4<{0}; rm {0}; ({CONNECT}); exec /proc/self/fd/4 -c true", copy.display());
        let _ = namespace.command("bash", &["-c", &script]).output().unwrap();
    });
    assert_eq!(event["src.process.name"], "bash");
    assert_ne!(event["src.process.pid"], event["src.process.parent.pid"]);
    assert_eq!(event["src.process.parent.name"], "bash");

    fs::copy("/bin/bash", &copy).unwrap();
    let event = attempt(&namespace, || {
        let script = format!("exec 4<{0}; rm {0}; exec /proc/self/fd/4 -c '{CONNECT}'", copy.display());
        let _ = namespace.command("bash", &["-c", &script]).output().unwrap();
    });
    assert_eq!(event["src.process.image.path"], format!("{} (deleted)", copy.display()));
}

#[test]
fn in_a_storm_each_attempt_is_of_the_program_that_made_it() {
    const PORTS: [u16; 2] = [20_000, 20_001];
    let folder = TempDir::new().unwrap();
    for port in PORTS {
        fs::copy(actor().get_program(), folder.path().join(port.to_string())).unwrap();
    }
    let (chains, length) = (4, if long(1) == Duration::from_millis(1) { 250 } else { 25 });
    exactly(|| {
        let namespace = Netns::new();
        let daemon = Daemon::start();
        // Each process runs the two programs in turn, and each program connects to the port that it is named after.
        let program = folder.path().join(PORTS[0].to_string());
        let arguments = ["chain", &PORTS[0].to_string(), &length.to_string()];
        let running: Vec<_> =
            (0..chains).map(|_| namespace.command(program.to_str().unwrap(), &arguments).spawn().unwrap()).collect();
        running.into_iter().for_each(|mut process| assert!(process.wait().unwrap().success()));
        let events = daemon.stop();
        let attempts = events.within(&namespace).of("IP Connect");
        let lost = events.of("Sensor Stop").one()["sensor.recordsLost"].as_u64().unwrap();
        // From 6.15 on, a program gives a record up if it waits 250 ms for the lock of the ring (RES_DEF_TIMEOUT of
        // kernel/bpf/rqspinlock.c), as on a CPU of a guest whose other CPU is stopped while it holds that lock.
        if lost > 0 && kernel() >= (6, 15) {
            return false;
        }
        assert_eq!((attempts.len(), lost), (chains * length, 0), "{:#?}", events.of("Data Loss"));
        for attempt in &attempts.0 {
            let port = attempt["remote.port.number"].as_u64().unwrap();
            let expected = folder.path().join(port.to_string());
            assert_eq!(attempt["src.process.image.path"].as_str(), expected.to_str(), "{attempt:#}");
        }
        true
    });
}

#[test]
fn the_owner_of_a_listener_is_its_process() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let row = daemon.list(namespace.inode).pop().unwrap();
        assert_eq!(row["pid"], std::process::id());
        assert_eq!(row["attribution"], "listener");
        assert_eq!(row["executable"], std::env::current_exe().unwrap().to_str().unwrap());
        drop(listener);
    });
}

#[test]
fn the_ancestors_are_the_chain_of_parents() {
    let namespace = Netns::new();
    let daemon = Daemon::start();
    // Two programs of its own, one that was there before the daemon, and one that runs no program of its own.
    let script = format!("bash -c '({CONNECT}; true); true'; true");
    let mut outer = namespace.command("bash", &["-c", &script]).stderr(Stdio::null()).spawn().unwrap();
    outer.wait().unwrap();
    let event = daemon.stop().within(&namespace).of("IP Connect").one().clone();
    let ancestors: Vec<&str> = event["src.process.ancestors"].as_str().unwrap().split(" < ").collect();
    let parent = format!(
        "{}({})",
        event["src.process.parent.name"].as_str().unwrap(),
        event["src.process.parent.pid"].as_u64().unwrap()
    );
    assert_eq!(ancestors[0], parent);
    // The inner bash, the outer one, then the chain of this process as `/proc` has it.
    assert!(ancestors[0].starts_with("bash(") && ancestors[1] == format!("bash({})", outer.id()), "{ancestors:?}");
    let mut expected = Vec::new();
    let mut pid = u64::from(std::process::id());
    while pid != 0 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        expected.push(format!("{name}({pid})"));
        pid = rest.split_whitespace().nth(1).unwrap().parse().unwrap();
    }
    expected.truncate(6);
    assert_eq!(ancestors[2..], expected, "{ancestors:?}");
}

/// Returns the start of a process in clock ticks of 10 ms, also of one that has ended and is not waited for yet.
fn start_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The 22nd number; the name before may have spaces.
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

#[test]
fn an_id_that_is_used_again_within_a_tick_is_another_process() {
    /// Processes are made until two of them start in one tick: a few, unless the machine is very slow.
    const TRIES: usize = 200;
    let namespace = Netns::new();
    let daemon = Daemon::start();
    let refused = |_| drop(TcpStream::connect("127.0.0.1:9").unwrap_err());
    let found = namespace.run(|| {
        let mut last = Forked::new(refused);
        let (pid, mut ticks) = (last.pid, start_ticks(last.pid));
        for _ in 0..TRIES {
            last.join();
            last = Forked::with_pid(pid, refused);
            let before = std::mem::replace(&mut ticks, start_ticks(pid));
            if before == ticks {
                last.join();
                return Some((pid, ticks));
            }
        }
        None
    });
    let Some((pid, ticks)) = found else {
        assert_ne!(long(1), Duration::from_millis(1), "no two processes within a tick");
        return; // An emulated machine takes longer than a tick for a process.
    };
    let attempts = daemon.stop().within(&namespace).of("IP Connect").with("src.process.pid", pid);
    let starts = attempts
        .values("src.process.uid")
        .iter()
        .map(|uid| -> u64 { uid.as_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap() })
        .collect::<HashSet<u64>>();
    assert_eq!(starts.len(), attempts.len(), "{attempts:#?}");
    // The last two, by the clock of `/proc`.
    assert_eq!(starts.iter().filter(|start| **start / 10_000_000 == ticks).count(), 2, "{starts:?} {ticks}");
}

#[test]
fn a_process_has_one_uid_for_itself_and_for_its_children_under_each_daemon() {
    let namespace = Netns::new();
    // It is older than all daemons. Each line of its input makes it connect, then a child.
    let attempt = "true 3<>/dev/tcp/127.0.0.1/9";
    let script = format!("while read; do {attempt}; ({attempt}; true); done");
    let mut old =
        namespace.command("bash", &["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut uids = HashSet::new();
    // Without the iterator, the parent has no uid rather than one that could be wrong.
    for (arguments, parents) in [(&[] as &[&str], 1), (&[], 1), (&["--without-hook", "task"], 0)] {
        let daemon = Daemon::start_with(arguments);
        old.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let attempts = || daemon.events().within(&namespace).of("IP Connect");
        until(5000, || format!("no two attempts: {:#?}", attempts()), || attempts().len() == 2);
        let attempts = attempts();
        let of_old = attempts.with("src.process.pid", old.id()).one().clone();
        let of_child = attempts.with("src.process.parent.pid", old.id()).one().clone();
        uids.insert(of_old["src.process.uid"].as_str().unwrap().to_owned());
        let parent = of_child["src.process.parent.uid"].as_str().map(str::to_owned);
        assert_eq!(parent.iter().len(), parents, "{of_child:#}");
        uids.extend(parent);
        // The iterator tells the file of an older process, too.
        let inode = of_old["src.process.image.inode"].as_u64();
        assert_eq!(inode, (parents == 1).then(|| fs::metadata("/bin/bash").unwrap().ino()), "{of_old:#}");
    }
    drop(old.stdin.take());
    old.wait().unwrap();
    assert_eq!(uids.len(), 1, "{uids:?}");
}

/// Returns the device of the mount that has a path, `major:minor`, from `/proc/self/mountinfo`.
fn device(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // The longest mount point on the way; of several at one place the last is on top.
    let on_the_way = lines.filter(|words| path.starts_with(words[4]));
    on_the_way.max_by_key(|words| words[4].len()).unwrap()[2].to_owned()
}

#[test]
fn another_file_that_is_mounted_over_a_program_is_told_apart() {
    let namespace = Netns::new();
    let folder = TempDir::new().unwrap();
    let [program, other] = ["program", "other"].map(|name| folder.path().join(name));
    for path in [&program, &other] {
        fs::copy("/bin/bash", path).unwrap();
    }
    let daemon = Daemon::start();
    // Each run prints its mount namespace; the second is one where the path is that of another file.
    let run = |before: &str| {
        let inside = "readlink /proc/$$/ns/mnt; true 3<>/dev/tcp/127.0.0.1/9; true";
        let script = format!("{before} {} -c '{inside}'; true", program.display());
        let output = namespace.command("unshare", &["--mount", "bash", "-c", &script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim().trim_start_matches("mnt:[").trim_end_matches(']').parse::<u64>().unwrap()
    };
    let mounts = [run(""), run(&format!("mount --bind {} {};", other.display(), program.display()))];
    let attempts = daemon.stop().within(&namespace).of("IP Connect");
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    for ((attempt, file), mounts) in attempts.0.iter().zip([&program, &other]).zip(mounts) {
        assert_eq!(attempt["src.process.image.path"].as_str(), program.to_str(), "{attempt:#}");
        assert_eq!(attempt["src.process.image.inode"], fs::metadata(file).unwrap().ino(), "{attempt:#}");
        assert_eq!(attempt["src.process.image.device"], device(folder.path()), "{attempt:#}");
        assert_eq!(attempt["src.process.mountNamespace"], mounts, "{attempt:#}");
        // bash, which ran before the program was mounted over.
        assert_eq!(attempt["src.process.parent.image.inode"], fs::metadata("/bin/bash").unwrap().ino(), "{attempt:#}");
        assert_eq!(attempt["src.process.parent.image.device"], device(&fs::canonicalize("/bin/bash").unwrap()));
    }
}

#[test]
fn a_program_without_a_place_has_no_mount_namespace() {
    let namespace = Netns::new();
    let event = attempt(&namespace, || {
        // A file that has no name in any folder. The programs on the way inherit it.
        let mut file = File::from(memfd_create("x", MFdFlags::empty()).unwrap());
        file.write_all(&fs::read("/bin/bash").unwrap()).unwrap();
        let script = format!("exec -a x /proc/self/fd/{} -c 'true 3<>/dev/tcp/127.0.0.1/9; true'", file.as_raw_fd());
        let _ = namespace.command("bash", &["-c", &script]).output().unwrap();
    });
    assert_eq!(event["src.process.cmdline"], "x -c true 3<>/dev/tcp/127.0.0.1/9; true");
    // As readlink on /proc/PID/exe says it.
    assert_eq!(event["src.process.image.path"], "/memfd:x (deleted)");
    assert!(event["src.process.image.inode"].is_u64() && event["src.process.mountNamespace"].is_null(), "{event:#}");
}

#[test]
fn only_the_threads_that_must_not_fall_behind_go_before_others() {
    let daemon = Daemon::start();
    let mut nice: Vec<(String, i64)> = fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .filter_map(|thread| {
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).ok()?;
            let (head, tail) = stat.rsplit_once(") ")?;
            // Field 19 of proc_pid_stat(5); the first behind the name is field 3.
            Some((head.split_once('(')?.1.to_owned(), tail.split(' ').nth(16)?.parse().ok()?))
        })
        .collect();
    nice.sort();
    // The daemon was started with the priority that this thread has.
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let usual: i64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap();
    let raised: Vec<&str> = nice.iter().filter(|(_, nice)| *nice < usual).map(|(name, _)| name.as_str()).collect();
    assert_eq!(raised, ["netconn-engine", "netconn-output"], "{nice:?}");
    // Those that strangers can give work to: accounts, cgroups, routes.
    for name in ["netconn-users", "netconn-local", "netconn-route"] {
        assert!(nice.contains(&(name.to_owned(), usual)), "{name}: {nice:?}");
    }
}
