//! Tests the line editor on a pseudo-terminal made by `script`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::support::Scene;

/// Longest time until a text appears; long, because the machine may be busy.
const LONG: Duration = Duration::from_secs(60);

/// A session of the line editor on a terminal.
struct Terminal {
    child: std::process::Child,
    shown: mpsc::Receiver<u8>,
    all: String,
}

impl Terminal {
    fn new(scene: &Scene) -> Self {
        let mut command = Command::new("script");
        let search = format!("{} -f whole.ndjson", env!("CARGO_BIN_EXE_netconn-search"));
        command.args(["--quiet", "--return", "--command", &search, "/dev/null"]).current_dir(scene.folder.path());
        command
            .env_clear()
            .env("HOME", scene.folder.path())
            .env("TERM", "xterm")
            .env("TZ", "UTC")
            .env("SHELL", "/bin/sh");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let (send, shown) = mpsc::channel();
        thread::spawn(move || {
            let mut byte = [0];
            while out.read(&mut byte).is_ok_and(|count| count == 1) && send.send(byte[0]).is_ok() {}
        });
        Self { child, shown, all: String::new() }
    }

    fn types(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this text appears after the one waited for before.
    fn shows(&mut self, text: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            match self.shown.recv_timeout(LONG) {
                Ok(byte) => seen.push(byte),
                Err(_) => panic!("no {text:?} in {:?}", String::from_utf8_lossy(&seen)),
            }
        }
        self.all.push_str(&String::from_utf8_lossy(&seen));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The program ends when its terminal closes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn queries_are_typed_completed_corrected_and_kept() {
    let scene = Scene::new();
    let mut terminal = Terminal::new(&scene);
    terminal.shows("Tab completes");
    terminal.shows("> ");
    // An error is reported, and the query returns with the place underlined.
    terminal.types("| colums event.type\r");
    terminal.shows("there is no command 'colums'");
    terminal.shows("\u{1b}[4m\u{1b}[31mcolums");
    // Deletes the line (Ctrl-E, Ctrl-U) and types another with completion: of a field, and of a column of an earlier
    // command.
    terminal.types("\u{5}\u{15}");
    terminal.types("| group hits = count() by src.process.na\t | sort -hi\t\r");
    terminal.shows("| sort -hits");
    terminal.shows("curl");
    terminal.shows("2 rows, 3 events read");
    terminal.types("last 1M\r");
    terminal.shows("is not a length of time");
    terminal.types("help starts_with\r");
    terminal.shows("starts_with");
    terminal.types("quit\r");
    assert!(terminal.child.wait().unwrap().success(), "{}", terminal.all);
    let kept = fs::read_dir(scene.path(".local/state/netconn")).unwrap().next().unwrap().unwrap();
    let kept = fs::read_to_string(kept.path()).unwrap();
    assert!(kept.contains("| group hits = count() by src.process.name | sort -hits\n"), "{kept}");
}
