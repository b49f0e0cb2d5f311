//! Replaces `netconn-search --convert -` in tests of the history. It writes the lines of a segment unchanged into a file that
//! begins and ends like Parquet, or fails as a broken converter would, or tries to do harm: the file `mode` beside it says which.
//! What it has to tell it writes into the file `told` beside it, which the test has made for everybody to write.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::{
        fd::FromRawFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream, process::parent_id},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::signal::kill,
    unistd::{Pid, Uid, setuid},
};
use serde_json::Value;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let program = env::current_exe().unwrap();
    let mode = fs::read_to_string(program.with_file_name("mode")).unwrap_or_default();
    if arguments != ["--convert", "-"] {
        return print_arguments(&arguments);
    }
    // SAFETY: the daemon has opened it for this program, and nothing here has that number.
    let mut parquet = unsafe { File::from_raw_fd(3) };
    match mode.trim() {
        "crash" => std::process::abort(),
        "hang" => thread::sleep(Duration::from_secs(1000)),
        "rubbish" => {
            parquet.write_all(b"rubbish").unwrap();
            (0..1000).for_each(|_| println!("{}", "rubbish ".repeat(100)));
        }
        "look" => tell(&program, &look()),
        "harm" => tell(&program, &harm()),
        mode => convert(parquet, mode),
    }
    ExitCode::SUCCESS
}

/// Prints the arguments, for tests of `netconn search`.
fn print_arguments(arguments: &[String]) -> ExitCode {
    println!("{arguments:?}");
    ExitCode::from(42)
}

/// Writes what the test waits for, and how it knows that it is whole.
fn tell(program: &Path, text: &str) {
    fs::write(program.with_file_name("told"), format!("{text}end\n")).unwrap();
}

/// Returns the status, the limits, the scheduling and the open files of this process.
fn look() -> String {
    // The daemon lowers the priority of this process after it has started it. The policy is only in /proc/self/sched on
    // some kernels, so there is no condition to wait for.
    thread::sleep(Duration::from_millis(300));
    let mut files: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect();
    files.retain(|file| !file.ends_with("/fd"));
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // Field 19 of proc_pid_stat(5), counted from the third, which follows the name.
    let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap();
    format!(
        "{}{}{}nice: {nice}\nfiles: {}\nvariables: {}\n",
        fs::read_to_string("/proc/self/status").unwrap(),
        fs::read_to_string("/proc/self/limits").unwrap(),
        fs::read_to_string("/proc/self/sched").unwrap_or_default(),
        files.join(" "),
        env::vars().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    )
}

/// Tries what a converter that strangers have taken over would, and returns what it could do.
fn harm() -> String {
    let segment = fs::read_link("/proc/self/fd/0").unwrap();
    let made = fs::read_link("/proc/self/fd/3").unwrap();
    let history = segment.parent().unwrap();
    let daemon = Pid::from_raw(i32::try_from(parent_id()).unwrap());
    let of_daemon = |name: &str| PathBuf::from(format!("/proc/{daemon}/{name}"));
    let can_write = |path: &Path| OpenOptions::new().append(true).create(true).open(path).is_ok();
    let mut could = Vec::new();
    let mut attempt = |what: &'static str, is_done: bool| {
        if is_done {
            could.push(what);
        }
    };
    // What it may do, so that the list is known to be made.
    attempt("read its input", std::io::stdin().read(&mut [0; 1]).is_ok());
    attempt("read /etc/shadow", fs::read("/etc/shadow").is_ok());
    attempt("write into /etc", can_write("/etc/netconn-converter".as_ref()));
    attempt("change /etc/passwd", OpenOptions::new().append(true).open("/etc/passwd").is_ok());
    attempt("list the history", fs::read_dir(history).is_ok());
    attempt("write into the history", can_write(&history.join("events-0000000000000.ndjson")));
    attempt("write into the state folder", can_write(&history.with_file_name("sensor-id")));
    attempt("read the segment again", File::open(&segment).is_ok() || File::open("/proc/self/fd/0").is_ok());
    attempt("change the segment", OpenOptions::new().write(true).open("/proc/self/fd/0").is_ok());
    attempt("read its result", File::open(&made).is_ok() || File::open("/proc/self/fd/3").is_ok());
    attempt(
        "give its result other rights",
        fs::set_permissions("/proc/self/fd/3", fs::Permissions::from_mode(0o6777)).is_ok(),
    );
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    attempt("connect", TcpStream::connect("127.0.0.1:1").is_err_and(|error| refused(&error)));
    attempt("connect to the daemon", UnixStream::connect(history.with_file_name("../sock")).is_ok());
    attempt("make a socket", UnixStream::pair().is_ok());
    attempt("signal the daemon", kill(daemon, None).is_ok());
    // SAFETY: only attaches to another process, and must not even do that.
    attempt("trace the daemon", unsafe { libc::ptrace(libc::PTRACE_ATTACH, daemon.as_raw(), 0, 0) } == 0);
    attempt("read the daemon's memory", File::open(of_daemon("mem")).is_ok());
    attempt("read the daemon's environment", fs::read(of_daemon("environ")).is_ok());
    attempt("read the daemon's files", fs::read_dir(of_daemon("fd")).is_ok());
    attempt("start a program", Command::new("/bin/true").status().is_ok());
    attempt("start a thread", thread::Builder::new().spawn(|| ()).is_ok());
    attempt("become root", setuid(Uid::from_raw(0)).is_ok());
    // SAFETY: a system call with numbers only: CLONE_NEWUSER.
    attempt("make a namespace", unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0);
    could.iter().map(|what| format!("could: {what}\n")).collect()
}

fn convert(mut parquet: File, mode: &str) {
    // In the mode `slow` there is time for a test to kill this process between two steps.
    let pause = || {
        if mode == "slow" {
            thread::sleep(Duration::from_millis(40));
        }
    };
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    let times = text.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["event.time"].as_u64().unwrap()
    });
    let (first, last) = (times.clone().min().unwrap(), times.clone().max().unwrap());
    parquet.write_all(b"PAR1\n").unwrap();
    pause();
    let lines = if mode == "forgetful" { text.split_once('\n').unwrap().1 } else { &text };
    parquet.write_all(lines.as_bytes()).unwrap();
    pause();
    parquet.write_all(b"PAR1").unwrap();
    parquet.sync_all().unwrap();
    pause();
    let (rows, bytes) = (lines.lines().count(), lines.len() + 9);
    println!("{{\"rows\":{rows},\"first\":{first},\"last\":{last},\"bytes\":{bytes}}}");
    pause();
}
