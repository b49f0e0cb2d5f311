//! Replaces `netconn-search --convert SEGMENT` in tests of the history. It writes the lines of a segment unchanged into
//! a file that begins and ends like Parquet, or fails as a broken converter would: the file `mode` beside it says
//! which.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use serde_json::Value;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let program = env::current_exe().unwrap();
    let mode = fs::read_to_string(program.with_file_name("mode")).unwrap_or_default();
    let [option, segment] = &arguments[..] else { return print_arguments(&arguments) };
    if option != "--convert" {
        return print_arguments(&arguments);
    }
    match mode.trim() {
        "crash" => std::process::abort(),
        "hang" => thread::sleep(Duration::from_secs(1000)),
        "rubbish" => {
            fs::write(".tmp-rubbish", "rubbish").unwrap();
            (0..1000).for_each(|_| println!("{}", "rubbish ".repeat(100)));
        }
        "look" => look(&program),
        mode => convert(Path::new(segment), mode),
    }
    ExitCode::SUCCESS
}

/// Prints the arguments, for tests of `netconn search`.
fn print_arguments(arguments: &[String]) -> ExitCode {
    println!("{arguments:?}");
    ExitCode::from(42)
}

/// Writes the file `looked` beside the program: the status, the limits, the scheduling and the open files of this
/// process.
fn look(program: &Path) {
    // The daemon lowers the priority of this process after it has started it. The policy is only in /proc/self/sched on
    // some kernels, so there is no condition to wait for.
    thread::sleep(Duration::from_millis(300));
    let mut files: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect();
    files.retain(|file| !file.ends_with("/fd"));
    let text = format!(
        "{}{}{}files: {}\n",
        fs::read_to_string("/proc/self/status").unwrap(),
        fs::read_to_string("/proc/self/limits").unwrap(),
        fs::read_to_string("/proc/self/sched").unwrap_or_default(),
        files.join(" ")
    );
    fs::write(program.with_file_name("looked.new"), text).unwrap();
    fs::rename(program.with_file_name("looked.new"), program.with_file_name("looked")).unwrap();
}

fn convert(segment: &Path, mode: &str) {
    // In the mode `slow` there is time for a test to kill this process between two steps.
    let pause = || {
        if mode == "slow" {
            thread::sleep(Duration::from_millis(40));
        }
    };
    let text = fs::read_to_string(segment).unwrap();
    let times = text.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["event.time"].as_u64().unwrap()
    });
    let (first, last) = (times.clone().min().unwrap(), times.clone().max().unwrap());
    let from = segment.file_stem().unwrap().to_str().unwrap();
    let begun: u64 = from.trim_start_matches("events-").parse().unwrap();
    // As docs/history.md has it: the time of the first event is in the name only if it is before the segment was begun.
    let earliest = if first < begun { format!("-{first:013}") } else { String::new() };
    let name = PathBuf::from(format!("{from}-{last:013}{earliest}.parquet"));
    let new = PathBuf::from(format!("{}.tmp", name.display()));
    let mut file = fs::File::create(&new).unwrap();
    file.write_all(b"PAR1\n").unwrap();
    pause();
    let lines = if mode == "forgetful" { text.split_once('\n').unwrap().1 } else { &text };
    file.write_all(lines.as_bytes()).unwrap();
    pause();
    file.write_all(b"PAR1").unwrap();
    file.sync_all().unwrap();
    pause();
    fs::rename(&new, &name).unwrap();
    pause();
    let (rows, bytes) = (lines.lines().count(), fs::metadata(&name).unwrap().len());
    println!("{{\"rows\":{rows},\"first\":{first},\"last\":{last},\"bytes\":{bytes},\"file\":\"{}\"}}", name.display());
    pause();
}
