//! The history has the same events as `--events`, and stays within its limits, also after kills, with broken converters
//! and on full disks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use netconn_tests::{
    Daemon, Ending, Events, Forked, Installed, Netns, Random, connected, long, moment, reset, step, until,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::{Signal, kill},
        statvfs::statvfs,
    },
    unistd::Pid,
};
use serde_json::Value;

/// A history of sixteen segments of 256 kB, the longest in these tests. Each has the events of 60 connections. What is
/// written may push out what was written before.
const SMALL: &str = "history_bytes = 4194304\nhistory_floor_hours = 0";
/// An hour in milliseconds.
const HOUR: u64 = 3_600_000;

/// Makes connections with both ends in the namespace: each has four events of a kilobyte.
fn connect(namespace: &Netns, count: usize) {
    namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..count {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop(listener.accept().unwrap());
            reset(client);
        }
    });
}

/// Returns the part of `/v1/health` about the history.
fn health(daemon: &Daemon) -> Value {
    daemon.health()["history"].clone()
}

fn number(daemon: &Daemon, name: &str) -> u64 {
    health(daemon)[name].as_u64().unwrap_or_else(|| panic!("no {name}: {:#}", health(daemon)))
}

/// Waits until a number of the history's health is at least `least`.
fn until_at_least(daemon: &Daemon, name: &str, least: u64) {
    until(60_000, || format!("{name}: {:#} {}", health(daemon), daemon.log()), || number(daemon, name) >= least);
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// Returns the numbers of the events of each run of the daemon. `event.id` has the run and the number; none may be
/// there twice.
fn runs(events: &Events) -> BTreeMap<String, BTreeSet<u64>> {
    let mut runs: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for id in events.values("event.id") {
        let (run, number) = id.as_str().unwrap().split_once('-').unwrap();
        let is_new = runs.entry(run.to_owned()).or_default().insert(number.parse().unwrap());
        assert!(is_new, "{id} is there twice");
    }
    runs
}

#[test]
fn it_is_what_the_event_file_is() {
    let namespace = Netns::new();
    let installed = Installed::new();
    installed.converter("well");
    let daemon = Daemon::start_installed(&installed, "group = \"daemon\"");
    connect(&namespace, 1000);
    until_at_least(&daemon, "converted", 2);
    until(20_000, || format!("{:?}", daemon.history().names()), || daemon.history().counts().1 == 1);
    assert_eq!(number(&daemon, "lost_queue") + number(&daemon, "lost_disk"), 0);
    assert_eq!(number(&daemon, "bytes"), daemon.history().bytes());
    assert_eq!(number(&daemon, "files"), daemon.history().names().len() as u64);
    let text = daemon.text(&["doctor"]);
    assert!(text.contains(" history ") && text.contains("state/events: "), "{text}");
    let metrics = daemon.ask("/metrics").unwrap();
    assert!(metrics.contains("\nnetconn_history_segments_waiting 0\n"), "{metrics}");
    assert!(metrics.contains("state/events\",stage=\"disk\"} 0\n"), "{metrics}");
    // Root can write the files, and the group can read them.
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
    let history = daemon.history();
    let paths = history.names().into_iter().map(|name| (history.0.join(name), 0o640));
    for (path, mode) in paths.chain([(history.0.clone(), 0o2750)]) {
        let metadata = fs::metadata(&path).unwrap();
        let found = (metadata.permissions().mode() & 0o7777, metadata.uid(), metadata.gid());
        assert_eq!(found, (mode, 0, group), "{}", path.display());
    }
    let killed = daemon.end();
    history.check_names();
    assert_eq!(sorted(history.lines()), sorted(lines(&killed.event_file())));
    assert_eq!(history.events().within(&namespace).of("IP Close").len(), 2000);
    assert_eq!((history.events().of("Sensor Start").len(), history.events().of("Sensor Stop").len()), (1, 1));
}

/// Returns the daemon's child that is converting a segment, if there is one.
fn converter(daemon: &Daemon) -> Option<Pid> {
    daemon.converter().map(Pid::from_raw)
}

#[test]
fn nothing_is_lost_or_doubled_whenever_something_is_killed() {
    let namespace = Netns::new();
    let installed = Installed::new();
    installed.converter("slow");
    let end = AtomicBool::new(false);
    let first = Daemon::start_installed(&installed, "");
    let history = first.history();
    let mut conversions = 0;
    let (daemon, readings) = thread::scope(|scope| {
        let _ending = Ending(&end);
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                connect(&namespace, 10);
                thread::sleep(Duration::from_millis(20));
            }
        });
        // A concurrent reader finds each event once, and all events that it has found before.
        let reader = scope.spawn(|| {
            let mut known = BTreeMap::new();
            let mut readings = 0;
            while !end.load(Ordering::Relaxed) {
                let found = runs(&history.events());
                for (run, numbers) in &known {
                    let numbers: &BTreeSet<u64> = numbers;
                    assert!(found.get(run).is_some_and(|now| now.is_superset(numbers)), "events of {run} have gone");
                }
                known = found;
                readings += 1;
            }
            readings
        });
        let (mut daemon, mut random) = (first, Random(7));
        for round in 0..16 {
            // The times are random, so that the kills come at all moments of a conversion.
            thread::sleep(Duration::from_millis(150 + random.below(300) as u64));
            if round % 2 == 0 {
                let since = std::time::Instant::now();
                // Half of the rounds kill a conversion; the others leave it to end or to die with the daemon.
                let mut child = converter(&daemon);
                while child.is_none() && since.elapsed() < long(500) {
                    thread::sleep(Duration::from_millis(2));
                    child = converter(&daemon);
                }
                thread::sleep(Duration::from_millis(random.below(170) as u64));
                // It may have ended already.
                child.into_iter().for_each(|child| _ = kill(child, Signal::SIGKILL));
            }
            // Some daemons live on, so that a daemon also has to handle a converter that was killed.
            if round % 3 != 2 {
                conversions += number(&daemon, "converted");
                daemon = daemon.kill().start();
            }
        }
        // Before `join`: the reader runs until the flag is set.
        end.store(true, Ordering::Relaxed);
        (daemon, reader.join().unwrap())
    });
    installed.converter("well");
    until(60_000, || format!("{:#} {}", health(&daemon), daemon.log()), || number(&daemon, "waiting") == 0);
    until(20_000, || format!("{:?}", history.names()), || history.counts().1 <= 1);
    conversions += number(&daemon, "converted");
    assert!(conversions > 3 && readings > 10, "{conversions} {readings}");
    assert_eq!(number(&daemon, "lost_queue") + number(&daemon, "lost_disk"), 0);
    let killed = daemon.end();
    history.check_names();
    let names = history.names();
    assert!(names.iter().all(|name| name.starts_with("events-") && !name.ends_with(".tmp")), "{names:?}");
    // The history has all events of each run up to the last one it has written.
    let (kept, written) = (runs(&history.events()), runs(&Events::read(&killed.event_file())));
    assert_eq!(kept.len(), written.len());
    for (run, numbers) in &kept {
        assert_eq!(Some(numbers.len() as u64), numbers.last().copied(), "{run}");
        // Either output may be ahead of the other when the daemon is killed.
        assert!(written[run].is_superset(numbers) || numbers.is_superset(&written[run]), "{run}");
    }
    let last = runs(&history.events().of("Sensor Stop"));
    assert_eq!(last.len(), 1);
    let run = last.keys().next().unwrap();
    assert!(kept[run] == written[run], "a daemon that ends by SIGTERM writes all events");
}

#[test]
fn it_stays_within_its_limits_and_is_converted_once_it_can_be() {
    let namespace = Netns::new();
    let installed = Installed::new();
    let daemon = Daemon::start_installed(&installed, SMALL);
    let history = daemon.history();
    for _ in 0..10 {
        connect(&namespace, 200);
        moment();
        assert!(history.bytes() <= 4 << 20, "{} {:?}", history.bytes(), history.names());
    }
    until(5000, || format!("{:#}", health(&daemon)), || health(&daemon)["conversion"] == "missing");
    assert!(number(&daemon, "waiting") > 3, "{:#}", health(&daemon));
    assert_eq!(history.counts().0, 0);
    assert_eq!(daemon.log().matches("netconn-search is not installed: `cargo build").count(), 1, "{}", daemon.log());
    let text = String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap();
    assert!(text.contains("segments stay NDJSON, which takes more room: netconn-search is not installed"), "{text}");
    // The oldest events are gone, and all others are there.
    let (kept, written) = (runs(&history.events()), runs(&daemon.events()));
    let (run, numbers) = kept.iter().next().unwrap();
    let first = *numbers.first().unwrap();
    assert!(first > 1000, "{first}");
    assert_eq!(numbers.len() as u64, numbers.last().unwrap() - first + 1);
    assert!(numbers.last().unwrap() + 10 > *written[run].last().unwrap());
    installed.converter("well");
    until(60_000, || format!("{:#}", health(&daemon)), || number(&daemon, "waiting") == 0);
    until(20_000, || format!("{:?}", history.names()), || history.counts().1 == 1);
    assert!(history.counts().0 > 3 && daemon.log().contains("the history is converted by "), "{}", daemon.log());
    // Both files of a segment exist during its conversion, and this converter's are no smaller, so more old events had
    // to be removed.
    let kept = runs(&history.events());
    let numbers = &kept[run];
    assert!(numbers.len() > 1000, "{}", numbers.len());
    assert_eq!(numbers.len() as u64, numbers.last().unwrap() - numbers.first().unwrap() + 1);
}

#[test]
fn what_is_too_old_goes_and_what_is_left_over_is_cleared_away() {
    let installed = Installed::new();
    let killed = Daemon::start_installed(&installed, "").kill();
    let history = killed.history();
    assert_eq!(history.counts(), (0, 1));
    let now = UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let write = |name: &str, text: &str| fs::write(history.0.join(name), text).unwrap();
    let parquet = |from: u64, to: u64| format!("events-{:013}-{:013}.parquet", now - from, now - to);
    let segment = |from: u64| format!("events-{:013}.ndjson", now - from);
    let event =
        |ago: u64| format!("{{\"event.type\":\"IP Listen\",\"event.time\":{},\"event.id\":\"x-{ago}\"}}\n", now - ago);
    let days = |days: u64| days * 24 * HOUR;
    let gone = [parquet(days(33), days(30) + HOUR), ".tmpAbC".into(), parquet(HOUR, 1) + ".tmp", segment(days(3))];
    let kept = [parquet(days(32), days(30) - HOUR), parquet(days(2), days(1)), segment(days(4))];
    for name in gone.iter().chain(&kept) {
        write(name, "PAR1\nPAR1\nPAR1");
    }
    // A segment that only has a torn line is removed. A segment with an event before the torn line keeps the event.
    // Half a Parquet file beside its segment is removed, and the segment is converted again.
    write(&gone[3], "{\"event.type\":\"IP Li");
    write(&kept[2], &format!("{}{{\"event.type\":\"IP Li", event(days(4))));
    write(&segment(days(2)), &event(days(2)));
    let broken = parquet(days(5), days(5) - 1);
    write(&broken, "PAR1\n");
    write(&segment(days(5)), &event(days(5)));
    let daemon = killed.start();
    // A segment that is already converted is removed after the time that readers have to finish (docs/history.md).
    until(20_000, || format!("{:?}", history.names()), || !history.names().contains(&segment(days(2))));
    until(20_000, || format!("{:?}", history.names()), || !history.names().contains(&gone[0]));
    let names = history.names();
    assert!(gone.iter().all(|name| !names.contains(name)), "{names:?}");
    assert!(kept.iter().all(|name| names.contains(name)), "{names:?}");
    assert!(!names.contains(&broken) && names.contains(&segment(days(5))), "{names:?}");
    assert_eq!(fs::read_to_string(history.0.join(&kept[2])).unwrap(), event(days(4)));
    let oldest = number(&daemon, "oldest");
    // FROM is ten seconds earlier than the moment at which a segment is begun.
    assert_eq!(oldest, now - days(32) + 10_000, "{:#}", health(&daemon));
    assert_eq!(number(&daemon, "waiting"), 2, "{:#} {names:?}", health(&daemon));
    // The second daemon continues the segment of the first.
    let starts = history.events().of("Sensor Start");
    assert_eq!((starts.len(), history.counts().1), (2, 3), "{names:?}");
    installed.converter("well");
    until(60_000, || format!("{:#} {}", health(&daemon), daemon.log()), || number(&daemon, "converted") == 2);
    history.check_names();
}

#[test]
fn a_start_with_a_clock_that_is_far_ahead_forgets_nothing() {
    let installed = Installed::new();
    let killed = Daemon::start_installed(&installed, "").end();
    let history = killed.history();
    // What the daemon finds is 40 days old, as if the clock had jumped while nothing ran: the clock of this machine stays as
    // it is.
    fs::remove_dir_all(&history).unwrap();
    fs::create_dir(&history).unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let names: Vec<String> = [50, 45, 40]
        .map(|days| now - days * 24 * HOUR)
        .map(|from| format!("events-{from:013}-{:013}.parquet", from + HOUR))
        .into();
    names.iter().for_each(|name| fs::write(history.0.join(name), "PAR1\nPAR1\nPAR1").unwrap());
    let daemon = killed.start();
    until_at_least(&daemon, "overdue", 3);
    assert!(names.iter().all(|name| history.names().contains(name)), "{:?}", history.names());
    let text = String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap();
    assert!(text.contains("3 segments are older than history_days by a clock that has jumped"), "{text}");
    assert_eq!(daemon.log().matches("3 of its segments are too old by it and stay").count(), 1, "{}", daemon.log());
    assert!(daemon.ask("/metrics").unwrap().contains("\nnetconn_history_segments_overdue 3\n"));
}

#[test]
fn what_a_restart_tells_of_old_connections_makes_nothing_old() {
    let namespace = Netns::new();
    let installed = Installed::new();
    let daemon = Daemon::start_installed(&installed, SMALL);
    let history = daemon.history();
    // The next daemon tells of it as of the time when it began: before everything that follows.
    let _old = namespace.run(|| connected("127.0.0.1"));
    connect(&namespace, 300);
    until_at_least(&daemon, "written", 1200);
    let killed = daemon.end();
    // As if ten seconds had passed since the old connection, which is the slack of FROM.
    let shifted = |name: &str| name[7..20].parse::<u64>().unwrap() + 11_000;
    for name in history.names().iter().rev() {
        let new = format!("events-{:013}.ndjson", shifted(name));
        fs::rename(history.0.join(name), history.0.join(new)).unwrap();
    }
    let last = history.names().last().unwrap()[7..20].parse::<u64>().unwrap();
    until(5000, || "the clock stands".into(), || UNIX_EPOCH.elapsed().unwrap().as_millis() > u128::from(last));
    let daemon = killed.start();
    connect(&namespace, 300);
    until_at_least(&daemon, "written", 1200);
    let daemon = daemon.end();
    let (kept, written) = (runs(&history.events()), runs(&Events::read(&daemon.event_file())));
    let starts = history.events().of("Sensor Start");
    let last = starts.values("event.id").last().unwrap_or_else(|| panic!("the newest segment is gone")).clone();
    let run = last.as_str().unwrap().split_once('-').unwrap().0;
    // The history had to forget something: events of the first daemon, and none of the second.
    let sum = |runs: &BTreeMap<String, BTreeSet<u64>>| runs.values().map(BTreeSet::len).sum::<usize>();
    assert!(sum(&kept) < sum(&written), "{} of {}", sum(&kept), sum(&written));
    assert_eq!(kept[run].len(), written[run].len(), "{:?}", history.names());
}

/// Runs a function in a child of the namespace that belongs to this user.
fn as_user(namespace: &Netns, user: u32, function: impl FnOnce() + Send) -> Forked {
    namespace.run(|| {
        Forked::new(move |mut channel| {
            // SAFETY: a system call with numbers.
            assert_eq!(unsafe { nix::libc::setresuid(user, user, user) }, 0);
            function();
            step(&mut channel);
        })
    })
}

#[test]
fn a_flood_by_any_user_pushes_out_nothing() {
    const ATTEMPTS: u64 = 6000;
    // Users of this test alone: others on this host connect as root, and may be folded as well.
    const VICTIM: u32 = 424_242;
    const FLOODER: u32 = 434_343;
    let (namespace, installed) = (Netns::new(), Installed::new());
    // Nothing is converted: each event takes its full length, so the smallest flood fills the history.
    let daemon = Daemon::start_installed(&installed, "history_bytes = 4194304");
    let history = daemon.history();
    let (listener, closed) = namespace.run(|| {
        let bound = || TcpListener::bind("127.0.0.1:0").unwrap();
        (bound(), bound().local_addr().unwrap())
    });
    let open = listener.local_addr().unwrap();
    // Twenty connections before the flood, and twenty after it.
    let evidence = || (0..20).for_each(|_| drop(TcpStream::connect(open).unwrap()));
    as_user(&namespace, VICTIM, evidence).wait();
    let attempts = || (0..ATTEMPTS / 4).for_each(|_| drop(TcpStream::connect(closed).unwrap_err()));
    let mut flood: Vec<_> = (0..4).map(|_| as_user(&namespace, FLOODER, attempts)).collect();
    flood.iter_mut().for_each(Forked::wait);
    as_user(&namespace, VICTIM, evidence).wait();
    let opens = namespace.active_opens();
    assert_eq!(opens, 40 + ATTEMPTS);
    until_at_least(&daemon, "folded_outgoing", 1000);
    let text = String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap();
    assert!(text.contains(" events of floods were counted instead of written"), "{text}");
    let killed = daemon.end();
    assert!(history.bytes() <= 4 << 20, "{} {:?}", history.bytes(), history.names());
    let (kept, written) = (history.events(), Events::read(&killed.event_file()));
    let outgoing =
        |events: &Events| events.within(&namespace).of("IP Connect").with("event.network.direction", "OUTGOING");
    let evidence = outgoing(&kept).with("event.network.connectionStatus", "SUCCESS");
    let foreign = kept.len() - kept.within(&namespace).len();
    assert_eq!(evidence.with("src.process.userId", VICTIM).len(), 40, "{:?}; {foreign} of others", history.names());
    // Told, folded and lost is what the kernel has counted; the other output has all but the lost.
    let folds = kept.of("Data Loss").with("loss.stage", "fold").with("loss.output", "history");
    let of_user = folds.with("src.process.userId", FLOODER).sum("loss.outgoing");
    let of_processes: u64 =
        flood.iter().map(|process| folds.with("src.process.pid", process.pid).sum("loss.outgoing")).sum();
    assert!(of_user > 1000, "{folds:#?}");
    for (events, folded) in [(&kept, of_user + of_processes), (&written, 0)] {
        let stages = ["ring", "queue", "disk"];
        let losses = events.of("Data Loss");
        // Nothing is lost unless the host is overloaded; what others have lost is among these.
        let lost: u64 = stages.iter().map(|stage| losses.with("loss.stage", *stage).sum("loss.outgoing")).sum();
        let told = outgoing(events).len() as u64 + folded;
        assert!((told..=told + lost).contains(&opens), "{told} told, {lost} lost, {opens} counted by the kernel");
    }
}

#[test]
fn a_broken_converter_costs_nothing() {
    let namespace = Netns::new();
    let installed = Installed::new();
    installed.converter("crash");
    let daemon = Daemon::start_installed(&installed, "");
    let history = daemon.history();
    for (mode, reason) in [
        ("crash", "it ended with signal: 6"),
        ("rubbish", "its answer is no report"),
        ("forgetful", " lines"),
        ("hang", "it was not done within 15 s"),
    ] {
        installed.converter(mode);
        connect(&namespace, 300);
        until(
            60_000,
            || format!("{mode}: {}", daemon.log()),
            || daemon.log().lines().any(|line| line.contains("did not convert it: ") && line.contains(reason)),
        );
        // Other processes of this machine also cause events meanwhile, so only those of the test are compared.
        let ours = |events: Events| runs(&events.within(&namespace));
        until(5000, || format!("{mode}: {:?}", history.names()), || ours(history.events()) == ours(daemon.events()));
        assert_eq!(history.counts().0, 0, "{mode}: {:?}", history.names());
    }
    assert!(number(&daemon, "failures") >= 4);
    installed.converter("well");
    until(60_000, || format!("{:#} {}", health(&daemon), daemon.log()), || number(&daemon, "waiting") == 0);
    until(20_000, || format!("{:?}", history.names()), || history.counts().1 == 1);
    let killed = daemon.end();
    assert_eq!(sorted(history.lines()), sorted(lines(&killed.event_file())));
}

/// Waits until the converter has told something.
fn told(installed: &Installed, daemon: &Daemon) -> String {
    let mut told = None;
    until(
        60_000,
        || daemon.log(),
        || {
            told = installed.told();
            told.is_some()
        },
    );
    told.unwrap()
}

/// Returns a line of /proc/PID/status or limits, with single spaces.
fn line<'a>(text: &'a str, start: &str) -> String {
    let line: Option<&'a str> = text.lines().find(|line| line.starts_with(start));
    line.unwrap_or_else(|| panic!("{start}: {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Checks that a status in /proc is that of a process without any right, and returns its user.
fn powerless(status: &str) -> u32 {
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(status, set), format!("{set} 0000000000000000"));
    }
    assert_eq!(line(status, "NoNewPrivs"), "NoNewPrivs: 1");
    assert_eq!(line(status, "Groups:"), "Groups:");
    assert_eq!(line(status, "Seccomp:"), "Seccomp: 2");
    let uid: u32 = line(status, "Uid:").split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(line(status, "Uid:"), format!("Uid: {uid} {uid} {uid} {uid}"));
    let gid = line(status, "Gid:").split(' ').nth(1).unwrap().to_owned();
    assert_eq!(line(status, "Gid:"), format!("Gid: {gid} {gid} {gid} {gid}"));
    assert_ne!((uid, &*gid), (0, "0"));
    // Nobody else has it: `getent` exits with 2 when there is no such key. Packages make an account for it.
    let account = Command::new("getent").args(["passwd", &uid.to_string()]).output().unwrap();
    let name = String::from_utf8(account.stdout).unwrap();
    assert!(account.status.code() == Some(2) || name.starts_with("netconn-convert:"), "{name}");
    uid
}

#[test]
fn a_converter_has_little_to_do_harm_with() {
    let namespace = Netns::new();
    let installed = Installed::new();
    installed.converter("look");
    let daemon = Daemon::start_installed(&installed, "");
    connect(&namespace, 200);
    let told = told(&installed, &daemon);
    powerless(&told);
    assert_eq!(line(&told, "Max data size"), "Max data size 1073741824 1073741824 bytes");
    assert_eq!(line(&told, "Max core file size"), "Max core file size 0 0 bytes");
    assert_eq!(line(&told, "Max processes"), "Max processes 1 1 processes");
    assert!(!line(&told, "Max file size").contains("unlimited"));
    // SCHED_IDLE, `include/uapi/linux/sched.h`.
    assert!(!told.contains("\npolicy") || line(&told, "policy") == "policy : 5", "{told}");
    assert_eq!(line(&told, "nice:"), "nice: 19");
    assert_eq!(line(&told, "variables:"), "variables:");
    let files = line(&told, "files:");
    let others: Vec<_> = files.split(' ').skip(1).filter(|file| !file.starts_with("pipe:")).collect();
    assert_eq!(others.len(), 2, "{files}");
    assert!(others[0].contains("/state/events/events-") && others[0].ends_with(".ndjson"), "{files}");
    assert!(others[1].ends_with("/state/events/.convert/made"), "{files}");
    // The converter ends with the daemon, even if the daemon is killed.
    installed.converter("hang");
    until(60_000, || daemon.log(), || converter(&daemon).is_some());
    let mut child = converter(&daemon).unwrap();
    until(
        60_000,
        || daemon.log(),
        || {
            // Between fork and exec the child still has the arguments of the daemon.
            child = converter(&daemon).unwrap_or(child);
            is_converter(child)
        },
    );
    let _killed = daemon.kill();
    until(5000, || format!("{child} lives on"), || !Path::new(&format!("/proc/{child}")).exists());
}

/// Returns the niceness and the scheduling policy of a process (fields 19 and 41 of proc_pid_stat(5)).
fn scheduling(process: Pid) -> Option<(i64, i64)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may contain spaces, the first is field 3.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(19 - 3)?.parse().ok()?, fields.get(41 - 3)?.parse().ok()?))
}

#[test]
fn a_converter_for_which_much_waits_is_given_time() {
    // `include/uapi/linux/sched.h`.
    const SCHED_BATCH: i64 = 3;
    const SCHED_IDLE: i64 = 5;
    let namespace = Netns::new();
    let installed = Installed::new();
    // It never gets ready: after 15 s another one takes its place.
    installed.converter("hang");
    let daemon = Daemon::start_installed(&installed, SMALL);
    // Of 8 MB that the history may take until it is converted, a segment waits; then a sixteenth and more; then a fourth.
    for (more, expected) in [(45, (19, SCHED_IDLE)), (80, (10, SCHED_BATCH)), (300, (0, SCHED_BATCH))] {
        connect(&namespace, more);
        let seen = || converter(&daemon).and_then(scheduling);
        let waiting = || format!("{:?} of {expected:?}: {:#}", seen(), health(&daemon));
        until(30_000, waiting, || seen() == Some(expected));
    }
}

/// Whether a process is the converter: after `fork` it is still the daemon.
fn is_converter(child: Pid) -> bool {
    fs::read_to_string(format!("/proc/{child}/cmdline"))
        .is_ok_and(|line| line.ends_with("/netconn-search\0--convert\0-\0"))
}

#[test]
fn a_converter_that_was_taken_over_can_do_nothing() {
    let namespace = Netns::new();
    let installed = Installed::new();
    installed.converter("harm");
    let daemon = Daemon::start_installed(&installed, SMALL);
    // All folders above the state folder can be entered, so that only the confinement is in the way.
    let above = daemon.history().0.parent().unwrap().parent().unwrap().to_owned();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    connect(&namespace, 200);
    until(60_000, || daemon.log(), || installed.told().is_some());
    assert_eq!(installed.told().unwrap(), "could: read its input\nend\n");
    assert!(!Path::new("/etc/netconn-converter").exists());
}

/// A small file system mounted over a folder. It is unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn over(folder: &Path) -> Self {
        Self::with("size=16m", folder)
    }

    fn with(options: &str, folder: &Path) -> Self {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(folder.to_owned())
    }

    /// Gives it other options.
    fn change(&self, options: &str) {
        mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT, Some(options)).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_costs_what_does_not_fit_and_nothing_else() {
    let namespace = Netns::new();
    let installed = Installed::new();
    let killed = Daemon::start_installed(&installed, "").end();
    let history = killed.history();
    let _small = Small::over(&history.0);
    let daemon = killed.start();
    connect(&namespace, 50);
    until_at_least(&daemon, "written", 200);
    // There is no old segment to remove, only the current one, which grows.
    let filler = history.0.join("filler");
    // Beside the growing segment, this leaves less than half of the reserve (0.4 MB), below which nothing is written
    // (docs/history.md).
    fs::write(&filler, vec![0; (15 << 20) + (1 << 19)]).unwrap();
    until(
        10_000,
        || format!("{:#}", health(&daemon)),
        || {
            connect(&namespace, 50);
            health(&daemon)["full"] == true && number(&daemon, "lost_disk") > 0
        },
    );
    let text = String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap();
    assert!(text.contains("events are being lost: free some space"), "{text}");
    assert!(daemon.log().contains("events are lost: cannot write to "), "{}", daemon.log());
    fs::remove_file(&filler).unwrap();
    until(
        10_000,
        || format!("{:#}", health(&daemon)),
        || {
            connect(&namespace, 5);
            health(&daemon)["full"] == false
        },
    );
    connect(&namespace, 10);
    moment();
    assert!(daemon.log().contains("are written to"), "{}", daemon.log());
    until(5000, || daemon.log(), || !daemon.events().of("Data Loss").is_empty());
    let lost = number(&daemon, "lost_disk");
    let killed = daemon.end();
    let written = Events::read(&killed.event_file());
    let losses = written.of("Data Loss").with("loss.stage", "disk");
    assert_eq!(losses.sum("loss.count"), lost);
    // The history also has these `Data Loss` events, written when the disk had room again.
    let own = history.events();
    let own = own.of("Data Loss").with("loss.output", "history");
    assert_eq!((own.sum("loss.count"), own.len()), (lost, losses.len()), "{own:#?}");
    // The history lacks exactly as many events as were counted, and the other output has them.
    let run = runs(&written).keys().next_back().unwrap().clone();
    let last = written.of("Sensor Start").values("event.id").last().unwrap().as_str().unwrap().to_owned();
    // Only the last run has losses: the first daemon ended before the disk was small.
    let run = last.split_once('-').map_or(run, |(run, _)| run.to_owned());
    let (kept, written) = (runs(&history.events()), runs(&written));
    assert_eq!((written[&run].len() - kept[&run].len()) as u64, lost);
    assert!(written[&run].is_superset(&kept[&run]) && kept[&run].contains(written[&run].last().unwrap()));
    // The file has each attempt that the kernel has counted, and the history has it or counts it as lost.
    let file = Events::read(&killed.event_file());
    assert_eq!(file.within(&namespace).attempts(), namespace.active_opens());
    assert_eq!(file.attempts(), history.events().attempts() + losses.sum("loss.outgoing"));
}

#[test]
fn a_first_start_on_a_full_disk_is_told_and_made_up_for() {
    let namespace = Netns::new();
    let installed = Installed::new();
    let mut killed = Daemon::start_installed(&installed, "").end();
    let history = killed.history();
    let state = history.0.parent().unwrap().to_owned();
    let id = state.join("sensor-id");
    // First there is room for empty files, then not even for them: the lock cannot be made either.
    for options in ["size=2m,mode=0700", "size=2m,mode=0700,nr_inodes=2"] {
        fs::remove_dir_all(&state).unwrap();
        fs::create_dir(&state).unwrap();
        let small = Small::with(options, &state);
        let filler = state.join("filler");
        assert!(fs::write(&filler, vec![0; 3 << 20]).is_err(), "it is full");
        let daemon = killed.start();
        connect(&namespace, 20);
        until_at_least(&daemon, "lost_disk", 20);
        let unsaved = daemon.health()["state_unsaved"].clone();
        assert!(unsaved.as_str().is_some_and(|reason| reason.contains("No space left on device")), "{unsaved}");
        assert!(!id.exists() && daemon.log().contains("the id of this sensor cannot be kept in "), "{}", daemon.log());
        let text = String::from_utf8(daemon.run(&["doctor"]).stdout).unwrap();
        assert!(text.contains("it cannot be written (No space left on device"), "{text}");
        assert!(daemon.ask("/metrics").unwrap().contains("\nnetconn_state_unsaved 1\n"));
        fs::remove_file(&filler).unwrap();
        small.change("nr_inodes=1000");
        let sensor_id = daemon.health()["sensor_id"].as_str().unwrap().to_owned();
        until(60_000, || daemon.log(), || fs::read_to_string(&id).is_ok_and(|text| text.trim() == sensor_id));
        until(5000, || format!("{:#}", daemon.health()), || daemon.health().get("state_unsaved").is_none());
        connect(&namespace, 20);
        until_at_least(&daemon, "written", 80);
        // What was lost is told in the history itself, and the next daemon is the same sensor.
        let lost = number(&daemon, "lost_disk");
        let told = || history.events().of("Data Loss").with("loss.output", "history").sum("loss.count");
        until(20_000, || format!("{} of {lost}", told()), || told() == lost);
        assert_eq!(daemon.events().within(&namespace).attempts(), namespace.active_opens());
        let daemon = daemon.end().start();
        assert_eq!(daemon.health()["sensor_id"], sensor_id.as_str());
        // Nobody else gets in, and no second daemon.
        assert_eq!(fs::metadata(state.join("lock")).unwrap().permissions().mode() & 0o7777, 0o600);
        killed = daemon.end();
        drop(small);
    }
}

#[test]
fn others_may_fill_the_disk_and_the_oldest_gives_way() {
    let namespace = Netns::new();
    let installed = Installed::new();
    let killed = Daemon::start_installed(&installed, "history_bytes = 16777216\nhistory_floor_hours = 0").end();
    let history = killed.history();
    let _small = Small::over(&history.0);
    let daemon = killed.start();
    connect(&namespace, 1500);
    // Waits for all events: those still to be written would not fit beside the filler.
    until_at_least(&daemon, "written", 4 * 1500);
    until_at_least(&daemon, "bytes", 5 << 20);
    let before = number(&daemon, "oldest");
    // The daemon keeps a twentieth of the 16 MB free.
    let filler = history.0.join("filler");
    let system = statvfs(&history.0).unwrap();
    fs::write(&filler, vec![0; (system.blocks_available() * system.fragment_size()) as usize - (600 << 10)]).unwrap();
    until(
        10_000,
        || format!("{:#}", health(&daemon)),
        || {
            connect(&namespace, 1);
            number(&daemon, "oldest") > before
        },
    );
    assert_eq!(number(&daemon, "lost_disk"), 0, "{:#}", health(&daemon));
    let kept = number(&daemon, "bytes");
    assert!(kept > 1 << 20, "{kept}");
}

#[test]
fn it_can_be_left_out() {
    let daemon = Daemon::start();
    assert!(daemon.health().get("history").is_none());
    assert!(!daemon.history().0.exists());
    let text = daemon.text(&["doctor"]);
    assert!(text.contains("none is kept for `netconn search`"), "{text}");
    assert!(!daemon.ask("/metrics").unwrap().contains("netconn_history"));
}

#[test]
fn what_is_removed_by_hand_is_begun_anew() {
    let namespace = Netns::new();
    let installed = Installed::new();
    let daemon = Daemon::start_installed(&installed, "");
    let history = daemon.history();
    connect(&namespace, 5);
    until_at_least(&daemon, "written", 20);
    fs::remove_dir_all(&history).unwrap();
    until(
        10_000,
        || format!("{:?} {}", history.names(), daemon.log()),
        || {
            connect(&namespace, 1);
            history.events().of("IP Connect").len() > 2
        },
    );
    assert_eq!(number(&daemon, "lost_disk"), 0, "{:#} {}", health(&daemon), daemon.log());
}

#[test]
fn searches_and_hunts_are_handed_over_as_they_are() {
    let installed = Installed::new();
    let run = |arguments: &[&str]| {
        Command::new(installed.netconn()).args(arguments).env("PATH", "/nowhere").output().unwrap()
    };
    for command in ["search", "hunt"] {
        let output = run(&[command, "x"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{text}");
        assert!(text.contains("`cargo build --profile search -p netconn-search` builds it"), "{text}");
    }
    installed.converter("well");
    for (arguments, expected) in [
        (&["search"][..], "[]\n"),
        (&["search", "--help"], "[\"--help\"]\n"),
        (&["search", "-h", "--", "a b", "--"], "[\"-h\", \"--\", \"a b\", \"--\"]\n"),
        (&["search", "x = 'y' | limit 1", "--last=5m"], "[\"x = 'y' | limit 1\", \"--last=5m\"]\n"),
        (&["hunt", "--list", "--version"], "[\"hunt\", \"--list\", \"--version\"]\n"),
    ] {
        let output = run(arguments);
        assert_eq!((String::from_utf8(output.stdout).unwrap().as_str(), output.status.code()), (expected, Some(42)));
    }
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("  search ") && help.contains("  hunt "), "{help}");
}
