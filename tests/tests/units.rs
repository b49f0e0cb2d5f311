//! What the package gives systemd and logrotate: units without mistakes and with little exposure, and a rotation that loses nothing.
//! The judges are systemd-analyze and logrotate themselves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use netconn_tests::{Daemon, netconn, until};
use tempfile::TempDir;

/// Highest exposure of a unit, in tenths. All but the sensor itself do without privileges.
const EXPOSURE: [(&str, u32); 1] = [("netconn.service", 20)];
const EXPOSURE_OF_OTHERS: u32 = 5;

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(path)
}

/// Whether a program is there; says so if it is not.
fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        eprintln!("skipped: {program} is not installed");
    }
    is_there
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Copies the units into a folder, with the program that was just built.
fn units() -> (TempDir, Vec<PathBuf>) {
    let folder = TempDir::new().unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(packaging("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let unit = fs::read_to_string(&path).unwrap();
        let copy = folder.path().join(path.file_name().unwrap());
        fs::write(&copy, unit.replace("/usr/bin/netconn ", &format!("{} ", netconn().display()))).unwrap();
        units.push(copy);
    }
    assert!(units.len() >= 2, "{units:?}");
    (folder, units)
}

#[test]
fn systemd_finds_no_mistake_in_the_units() {
    if !has("systemd-analyze") {
        return;
    }
    let (_folder, units) = units();
    // The man pages are made when the package is.
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
}

#[test]
fn services_are_little_exposed() {
    if !has("systemd-analyze") {
        return;
    }
    let (_folder, units) = units();
    for unit in units.iter().filter(|path| path.extension().is_some_and(|extension| extension == "service")) {
        let name = unit.file_name().unwrap().to_str().unwrap();
        let limit = EXPOSURE.iter().find(|(known, _)| *known == name).map_or(EXPOSURE_OF_OTHERS, |(_, limit)| *limit);
        let threshold = format!("--threshold={limit}");
        let arguments = ["security", "--offline=true", "--no-pager", &threshold];
        let output = Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap();
        let text = text(&output);
        assert!(output.status.success(), "more than {limit} tenths: {text}");
        assert!(text.contains("Overall exposure level"), "{text}");
    }
}

#[test]
fn logrotate_moves_the_file_of_events_and_loses_none() {
    if !has("logrotate") {
        return;
    }
    let daemon = Daemon::start();
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    // There is no service here: what would be asked of systemd is done by a script of its name, and noted.
    let script = format!("#!/bin/sh\necho \"$@\" >>{}\nkill -USR1 {}\n", path("asked").display(), daemon.pid());
    fs::write(path("systemctl"), script).unwrap();
    fs::set_permissions(path("systemctl"), PermissionsExt::from_mode(0o755)).unwrap();
    let snippet = fs::read_to_string(packaging("logrotate/netconn")).unwrap();
    let events = daemon.event_file();
    // The account of the service need not exist here.
    let snippet = snippet
        .replace("/var/log/netconn/*.ndjson", events.to_str().unwrap())
        .replace("su netconn netconn", "su root root");
    fs::write(path("snippet"), snippet).unwrap();
    let before = daemon.events().len();
    assert!(before != 0);
    let output = Command::new("logrotate")
        .arg("--force")
        .arg("--state")
        .arg(path("state"))
        .arg(path("snippet"))
        .env("PATH", format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let asked = fs::read_to_string(path("asked")).unwrap();
    assert_eq!(asked, "kill --kill-who=main --signal=USR1 netconn.service\n");
    // The file is made anew by the daemon, and the old one has all lines.
    until(20_000, || daemon.log(), || events.exists());
    let rotated = fs::read_to_string(events.with_extension("1")).unwrap();
    assert!(rotated.lines().count() >= before && rotated.ends_with('\n'));
    let stopped = daemon.stop();
    assert_eq!(stopped.0[stopped.len() - 1]["event.type"], "Sensor Stop");
}
