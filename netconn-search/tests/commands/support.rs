//! Helpers shared by the tests of the command.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// Three events of 10:00:00, 10:00:01 and 10:01 UTC on 21 November 2026, then a cut-off line, then a loss of 3 events.
pub(crate) const EVENTS: &str = r#"{"event.type":"IP Connect","event.time":1795255200000,"timestamp":"2026-11-21T10:00:00Z","src.process.name":"curl","dst.ip.address":"203.0.113.50","dst.port.number":443,"event.network.connectionStatus":"SUCCESS"}
{"event.type":"IP Connect","event.time":1795255201000,"timestamp":"2026-11-21T10:00:01Z","src.process.name":"a\u001b[2Jb","dst.ip.address":"203.0.113.51","dst.port.number":22,"event.network.connectionStatus":"FAILURE"}
{"event.type":"IP Close","event.time":1795255260000,"timestamp":"2026-11-21T10:01:00Z","src.process.name":"curl","dst.ip.address":"203.0.113.50","dst.port.number":443,"event.network.bytesSent":517}
{"event.type":"IP Clo
{"event.type":"Data Loss","event.time":1795255270000,"loss.stage":"ring","loss.count":3}
"#;

/// A folder with events, in which commands run.
pub(crate) struct Scene {
    pub folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("events.ndjson"), EVENTS).unwrap();
        fs::write(
            folder.path().join("whole.ndjson"),
            EVENTS.lines().take(3).map(|line| format!("{line}\n")).collect::<String>(),
        )
        .unwrap();
        fs::write(
            folder.path().join("netconn.toml"),
            format!("state_dir = '{}'", folder.path().join("none").display()),
        )
        .unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netconn-search"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the command and compares its exit code, standard output and standard error, in which `DIR` is the folder.
    pub(crate) fn check(&self, arguments: &[&str], code: i32, out: &str, error: &str) {
        let output = self.run(arguments);
        let folder = fs::canonicalize(self.folder.path()).unwrap().display().to_string();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(&folder, "DIR");
        let written = (output.status.code(), text(&output.stdout), untimed(&text(&output.stderr)));
        assert_eq!(written, (Some(code), out.into(), error.into()), "{arguments:?}\n{}\n{}", written.1, written.2);
    }
}

/// Replaces the elapsed time in a summary by `T`.
fn untimed(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(" in ") {
        Some((before, after)) if line.contains(" read (") => {
            format!("{before} in T;{}\n", after.split_once(';').map_or("", |(_, after)| after))
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}
