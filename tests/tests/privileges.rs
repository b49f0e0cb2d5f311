//! What the daemon sees and says with fewer capabilities than it can use.

use std::{net::TcpListener, process::Command};

use netconn_tests::{Daemon, Events, Netns, netconn, ss, until};
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

    let whole = Daemon::start();
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
