//! What the daemon sees and says with fewer capabilities than it can use.

use std::{fs, net::TcpListener, process::Command};

use netconn_tests::{Daemon, Events, Netns, USER, kernel, netconn, ss, until};
use serde_json::Value;

/// Starts a daemon without these capabilities, `-sys_admin,-sys_ptrace`: the kernel denies what they allow.
fn daemon_without(capabilities: &str) -> Daemon {
    // Once, and then in the same process: the bounding set holds from the next `exec` on.
    Daemon::start_within(&format!(
        "[ \"$LESS\" ] || LESS=1 exec setpriv --bounding-set={capabilities} --inh-caps={capabilities} \"$0\" \"$@\""
    ))
}

/// Returns the sentences about what is missing, as a client of the socket gets them.
fn unlisted(daemon: &Daemon) -> (Value, Vec<String>) {
    let list: Value = serde_json::from_str(&daemon.text(&["list", "--format", "json"])).unwrap();
    let sentences = list["unlisted"].as_array().into_iter().flatten();
    let sentences = sentences.map(|sentence| sentence.as_str().unwrap().to_owned()).collect();
    (list, sentences)
}

#[test]
fn a_namespace_that_cannot_be_entered_makes_nothing_complete() {
    let namespace = Netns::new();
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let has_row = |list: &Value| {
        let mut rows = list["connections"].as_array().unwrap().iter();
        rows.any(|row| row["local_port"] == port && row["namespace"] == namespace.inode)
    };
    // What the kernel has, by a tool that is not ours.
    assert!(ss(&namespace).iter().any(|socket| format!("{socket:?}").contains(&port.to_string())));

    let whole = Daemon::start_as_user(&[]);
    let (list, sentences) = unlisted(&whole);
    assert!(has_row(&list) && list["complete"] == true && sentences.is_empty(), "{list:#}");
    let health = whole.health();
    assert!(health["complete"] == true && health["privileges"]["missing"] == Value::Array(vec![]), "{health:#}");
    drop(whole);

    let less = daemon_without("-sys_admin");
    let (list, sentences) = unlisted(&less);
    assert!(!has_row(&list), "it was not to be seen: {list:#}");
    assert_eq!(list["complete"], false, "{}", less.log());
    let told =
        |sentences: &[String]| sentences.iter().any(|text| text.contains("cannot be entered (it takes CAP_SYS_ADMIN)"));
    assert!(told(&sentences), "{sentences:?}");
    // A table has no head: it says so beside the rows.
    let table = less.run(&["list"]);
    let beside = String::from_utf8(table.stderr).unwrap();
    assert!(table.status.success() && told(std::slice::from_ref(&beside)), "{beside}");
    let health = less.health();
    assert_eq!(health["complete"], false);
    let incomplete: Vec<String> = serde_json::from_value(health["incomplete"].clone()).unwrap();
    assert!(told(&incomplete), "{health:#}");
    assert_eq!(health["privileges"]["missing"][0]["capability"], "CAP_SYS_ADMIN", "{health:#}");
    let metrics = less.ask("/metrics").unwrap();
    assert!(metrics.lines().any(|line| line.starts_with("netconn_complete") && line.ends_with(" 0")), "{metrics}");
    let doctor = String::from_utf8(less.run(&["doctor"]).stdout).unwrap();
    let lines: Vec<&str> = doctor.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("  no  completeness")), "{doctor}");
    assert!(lines.iter().any(|line| line.starts_with("  --  CAP_SYS_ADMIN")), "{doctor}");
    assert!(less.log().contains("WARN without CAP_SYS_ADMIN"), "{}", less.log());
    let start = less.events().of("Sensor Start");
    let said = start.one()["sensor.missingCapabilities"].as_str().unwrap().to_owned();
    assert!(said.starts_with("CAP_SYS_ADMIN: no other network namespace is entered"), "{said}");

    // The same of a list without a daemon.
    let capabilities = "-sys_admin";
    let mut alone = Command::new("setpriv");
    alone
        .args(["--bounding-set", capabilities, "--inh-caps", capabilities])
        .arg(netconn())
        .args(["list", "--format", "json"]);
    let output = alone.env_remove("NETCONN_SOCKET").output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(list["complete"] == false && !has_row(&list), "{list:#}");
    assert!(told(&[String::from_utf8(output.stderr).unwrap()]));
}

#[test]
fn processes_that_cannot_be_looked_into_make_nothing_complete() {
    let less = daemon_without("-sys_ptrace,-sys_admin,-dac_read_search");
    let (list, sentences) = unlisted(&less);
    assert_eq!(list["complete"], false);
    let hidden = sentences.iter().find(|text| text.contains("(it takes CAP_SYS_PTRACE)")).unwrap();
    assert!(hidden.contains("does not tell the network namespaces of "), "{sentences:?}");
    let missing = less.health()["privileges"]["missing"].clone();
    let names: Vec<&str> =
        missing.as_array().unwrap().iter().map(|lack| lack["capability"].as_str().unwrap()).collect();
    assert_eq!(names, ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
    // It says what is missing, and this is missing: the executable of a process that was there before.
    let own = std::process::id();
    let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rows = || {
        let mut rows = less.rows("/v1/connections?format=ndjson&listening=true");
        rows.retain(|row| row["pid"] == own);
        rows
    };
    until(10_000, || less.log(), || !rows().is_empty());
    assert_eq!(rows()[0]["executable"], Value::Null, "{:#}", rows()[0]);
    let _: Events = less.stop();
}

/// Returns what `/proc` says of each thread of a process, by member of its `status`.
fn threads(process: u32) -> Vec<impl Fn(&str) -> String> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let status = entries.map(|entry| fs::read_to_string(entry.unwrap().path().join("status")).unwrap());
    let status = status.map(|text| {
        move |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
        }
    });
    status.collect()
}

/// Returns the process id of the daemon's child.
fn child(daemon: &Daemon) -> u32 {
    u32::try_from(daemon.health()["privileges"]["child"]["pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn after_the_start_no_thread_has_more_than_it_needs() {
    let daemon = Daemon::start_as_user(&[]);
    // Threads that begin with the first list.
    daemon.text(&["list", "-i"]);
    let child = child(&daemon);
    // SYS_ADMIN is 21, SYS_PTRACE 19 and BPF 39 in include/uapi/linux/capability.h.
    let of_daemon: u64 = if kernel() < (5, 19) { 1 << 39 } else { 0 };
    for (process, capabilities) in [(daemon.pid(), of_daemon), (child, 1 << 21 | 1 << 19)] {
        let threads = threads(process);
        assert!(!threads.is_empty());
        for status in threads {
            let who = format!("{} of {process}", status("Name"));
            let ids = [USER.to_string(), USER.to_string(), USER.to_string(), USER.to_string()].join(" ");
            assert_eq!((status("Uid"), status("Gid"), status("Groups")), (ids.clone(), ids, USER.to_string()), "{who}");
            let set = |name| u64::from_str_radix(&status(name), 16).unwrap();
            assert_eq!((set("CapEff"), set("CapPrm")), (capabilities, capabilities), "{who}");
            assert_eq!((set("CapInh"), set("CapAmb"), set("CapBnd")), (0, 0, 0), "{who}");
            assert_eq!((status("NoNewPrivs"), status("Seccomp")), ("1".into(), "2".into()), "{who}");
        }
    }
    let privileges = daemon.health()["privileges"].clone();
    assert_eq!((&privileges["uid"], &privileges["denied_calls"]), (&USER.into(), &0.into()), "{privileges:#}");
    assert_eq!(privileges["child"]["capabilities"], serde_json::json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]));
    // It has one descriptor beside standard error: nothing of the daemon's is its own.
    let open = fs::read_dir(format!("/proc/{child}/fd")).unwrap().count();
    assert_eq!(open, 2, "{:?}", fs::read_dir(format!("/proc/{child}/fd")).unwrap().collect::<Vec<_>>());
    let doctor = String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap();
    let line = doctor.lines().find(|line| line.contains("  privileges ")).unwrap();
    assert!(line.starts_with("  ok") && line.contains(&format!("user {USER}, ")), "{doctor}");
    // It ends with the daemon, also if that is killed.
    drop(daemon.kill());
    until(10_000, || format!("{child} lives on"), || !fs::exists(format!("/proc/{child}")).unwrap());
}

#[test]
fn a_daemon_whose_child_has_ended_goes_on_and_says_so() {
    let daemon = Daemon::start_as_user(&[]);
    let child = child(&daemon);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.try_into().unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    until(10_000, || daemon.log(), || daemon.health()["complete"] == false);
    let health = daemon.health();
    assert_eq!(health["privileges"]["child"]["alive"], false, "{health:#}");
    // The own namespace needs nobody.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (list, sentences) = unlisted(&daemon);
    assert!(list["connections"].as_array().unwrap().iter().any(|row| row["local_port"] == port), "{list:#}");
    assert!(sentences.iter().any(|text| text.contains("the privileged child has ended")), "{sentences:?}");
    assert!(daemon.log().contains(" ERROR the privileged child "), "{}", daemon.log());
    let doctor = String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.lines().any(|line| line.starts_with("  no  privileges") && line.contains("has ended")), "{doctor}");
    daemon.stop();
}

#[test]
fn a_call_that_is_not_in_the_list_is_told_with_its_number() {
    let daemon = Daemon::start_as_user(&["--fault", "denied-call"]);
    let number = nix::libc::SYS_personality;
    let log = daemon.log();
    assert!(
        log.contains("the filter of system calls has denied call number") && log.contains(&format!(" {number}:")),
        "{log}"
    );
    let privileges = daemon.health()["privileges"].clone();
    assert_eq!(
        (&privileges["denied_calls"], &privileges["last_denied_call"]),
        (&1.into(), &number.into()),
        "{privileges:#}"
    );
    let doctor = String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap();
    assert!(
        doctor.lines().any(|line| line.starts_with("  no  privileges") && line.contains("denied 1 calls")),
        "{doctor}"
    );
    daemon.stop();
}

#[test]
fn a_daemon_of_its_user_writes_in_its_folders_only_and_opens_its_files_again() {
    let daemon = Daemon::start_as_user(&[]);
    let landlock = daemon.health()["privileges"]["landlock"].clone();
    // After a rotation it makes the file anew, in the folder that it may write in.
    let file = daemon.event_file();
    fs::rename(&file, file.with_extension("1")).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    until(10_000, || daemon.log(), || fs::exists(&file).unwrap());
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&file).unwrap());
    assert_eq!(owner, USER);
    // The kernel's own word: `full` needs Landlock of 6.12 and later, none is there before 5.19.
    if landlock != "none" {
        let log = daemon.log();
        assert!(!log.contains("denied"), "{log}");
    }
    // The next daemon is root's child of the same folder, and finds what is the user's.
    let id = daemon.sensor_id();
    let daemon = daemon.end().start();
    assert_eq!(daemon.sensor_id(), id);
    assert_eq!(daemon.health()["privileges"]["uid"], USER);
    daemon.stop();
}
