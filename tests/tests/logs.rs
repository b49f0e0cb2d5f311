//! What becomes of the daemon, and of the commands, when nobody takes their log.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    net::TcpListener,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use netconn_tests::{Daemon, Events, Netns, netconn, until};
use nix::{
    libc,
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use tempfile::TempDir;

/// Has the daemon write some lines of its log and see a listener, then ends it.
fn logs_and_ends(daemon: Daemon) {
    let namespace = Netns::new();
    // A lot of them: a pipe that nobody reads takes the first.
    for _ in 0..50 {
        daemon.signal(Signal::SIGUSR2);
        daemon.signal(Signal::SIGUSR1);
        drop(namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap()));
    }
    let seen = || daemon.events().within(&namespace).of("IP Listen").len();
    until(20_000, || format!("{} of 50", seen()), || seen() == 50);
    let events = daemon.stop();
    assert_eq!(events.within(&namespace).of("IP Listen End").len(), 50);
    assert_eq!(events.0[events.len() - 1]["event.type"], "Sensor Stop");
}

#[test]
fn a_full_disk_under_the_log_does_not_end_the_daemon() {
    logs_and_ends(Daemon::start_within("exec 2>/dev/full"));
}

/// A named pipe with a reader that does not read.
fn pipe(folder: &TempDir) -> (String, File) {
    let path = folder.path().join("log");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    (path.to_str().unwrap().to_owned(), reader)
}

#[test]
fn a_log_whose_reader_has_gone_does_not_end_the_daemon() {
    let folder = TempDir::new().unwrap();
    let (path, reader) = pipe(&folder);
    let daemon = Daemon::start_within(&format!("exec 2>{path}"));
    drop(reader);
    logs_and_ends(daemon);
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_daemon() {
    let folder = TempDir::new().unwrap();
    let (path, mut reader) = pipe(&folder);
    let daemon = Daemon::start_within(&format!("exec 2>{path}"));
    let mut writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    drop(writer);
    logs_and_ends(daemon);
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert!(text.ends_with(b"xxxx"), "it was full to the end");
}

#[test]
fn commands_end_with_their_own_exit_code_without_standard_error() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let code = |arguments: &[&str]| {
        let mut command = Command::new(netconn());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(full());
        command.status().unwrap().code()
    };
    assert_eq!(code(&["list", "--socket", "/nonexistent/sock"]), Some(69));
    assert_eq!(code(&["list", "--no-such-option"]), Some(2));
    assert_eq!(code(&["run", "--config", "/nonexistent/netconn.toml"]), Some(78));
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (events, socket, state) = (path("no/events"), path("sock"), path("state"));
    let run = ["run", "--no-history", "--events", &events, "--socket", &socket, "--state-dir", &state];
    assert_eq!(code(&run), Some(74));
}

/// A terminal, by its master's side; the path is that of the other side.
fn terminal() -> (File, String) {
    let master = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/ptmx").unwrap();
    let (unlock, mut number): (libc::c_int, libc::c_int) = (0, 0);
    // SAFETY: both requests take a pointer to an `int`, which lives until the call is over.
    let results = unsafe {
        [
            libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock),
            libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number),
        ]
    };
    assert_eq!(results, [0, 0]);
    (master, format!("/dev/pts/{number}"))
}

/// Starts a daemon as the leader of a session in a terminal.
fn in_terminal(path: &str, streams: &str) -> Daemon {
    // The leader of a session without a terminal gets the first that it opens.
    let streams = streams.replace("TTY", path);
    Daemon::start_within(&format!("[ \"$LED\" ] || LED=1 exec setsid \"$0\" \"$@\"\nexec {streams}"))
}

#[test]
fn a_terminal_that_is_closed_ends_the_daemon_in_order() {
    for streams in ["<TTY >TTY 2>TTY", "<TTY"] {
        let (master, path) = terminal();
        let daemon = in_terminal(&path, streams);
        let renamed = daemon.event_file().with_extension("1");
        // A rotation is none: the terminal is still there.
        fs::rename(daemon.event_file(), &renamed).unwrap();
        daemon.signal(Signal::SIGHUP);
        until(10_000, || daemon.log(), || daemon.event_file().exists());
        let since = Instant::now();
        // The kernel sends SIGHUP.
        drop(master);
        let ended = daemon.ended();
        assert!(since.elapsed() < Duration::from_secs(10));
        let events = Events::read(&ended.event_file());
        assert_eq!(events.0[events.len() - 1]["event.type"], "Sensor Stop", "{streams}");
    }
}

#[test]
fn a_daemon_that_has_left_its_terminal_goes_on() {
    let (master, path) = terminal();
    // As with `nohup`: what it has open is no terminal.
    let daemon = in_terminal(&path, "<TTY; exec </dev/null");
    let renamed = daemon.event_file().with_extension("1");
    fs::rename(daemon.event_file(), &renamed).unwrap();
    drop(master);
    until(10_000, || daemon.log(), || daemon.event_file().exists());
    let events = daemon.stop();
    assert_eq!(events.0[events.len() - 1]["event.type"], "Sensor Stop");
}
