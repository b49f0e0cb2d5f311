//! Lists of 100,000 sockets, by netconn and by others.

use std::{
    fs,
    io::Read as _,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use xtask::packages;

use crate::{
    Bench,
    child::{self, Running},
    daemon::{Daemon, FULL},
    figures::Figure,
    load::{self, Hold},
    machine,
    table::Report,
};

const SOCKETS: usize = 100_000;
/// Connections in TIME_WAIT when rows are compared.
const OVER: usize = 1000;
/// How often rows are compared until `ss` says the same before and after: those in TIME_WAIT end.
const TRIES: usize = 5;
const MOMENT: Duration = Duration::from_millis(300);
/// The command that everything is compared with.
pub(crate) const SS: &[&str] = &["ss", "-tanp"];
/// Others, to stand beside.
const OTHERS: [(&[&str], &str); 3] =
    [(&["ss", "-tan"], "iproute2"), (&["netstat", "-tanp"], "net-tools"), (&["lsof", "-nP", "-iTCP"], "lsof")];

/// Where netconn looks for a daemon before it lists by itself.
const USUAL: &str = "/run/netconn/netconn.sock";

/// Where a command writes.
#[derive(Clone, Copy)]
pub(crate) enum Output<'a> {
    /// To somebody who reads it all.
    Pipe,
    Null,
    File(&'a Path),
}

/// Measures all commands, one after the other in each round.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let _held = Hold::start(&bench.place, SOCKETS)?;
    let daemon = Daemon::start(&bench.place, FULL)?;
    let netconn = bench.place.netconn().display().to_string();
    let direct = [netconn.as_str(), "list", "--format", "json"];
    let socket = daemon.socket().display().to_string();
    let through = [&direct[..], &["--socket", &socket]].concat();
    compare(bench, report, "daemon", &through)?;
    let has_direct = is_available(&direct, report)?;
    if has_direct {
        compare(bench, report, "without", &direct)?;
    }
    let file = bench.place.path("list");
    for _ in bench.rounds("snapshot") {
        for (output, name) in [(Output::Pipe, ""), (Output::Null, "to /dev/null"), (Output::File(&file), "to a file")] {
            let netconn = time(&through, output)?;
            let ss = time(SS, output)?;
            let case = |command: &str| [command, name].join(if name.is_empty() { "" } else { " " });
            report.add(Figure::SnapshotTime, &case("netconn list --format json"), netconn);
            report.add(Figure::SnapshotTime, &case("ss -tanp"), ss);
            let figure = if name.is_empty() { Figure::FasterDaemon } else { Figure::FasterElsewhere };
            report.add(figure, name, ss / netconn);
            if name.is_empty() && has_direct {
                let netconn = time(&direct, output)?;
                report.add(Figure::SnapshotTime, "netconn list --format json, no daemon", netconn);
                report.add(Figure::FasterDirect, "", ss / netconn);
            }
        }
        for (command, package) in OTHERS {
            if packages::is_there(command[0]) {
                report.add(Figure::SnapshotTime, &command.join(" "), time(command, Output::Pipe)?);
            } else {
                report.note(format!("peer not installed: {} (package {package})", command[0]));
            }
        }
    }
    daemon.stop()
}

/// A command; of netconn none but that socket is known which it names.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_remove("NETCONN_SOCKET");
    command
}

/// Seconds from spawn until the output has ended and the command has too.
pub(crate) fn time(words: &[&str], output: Output<'_>) -> Result<f64> {
    let name = words.join(" ");
    let mut command = command(words);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(match output {
        Output::Pipe => Stdio::piped(),
        Output::Null => Stdio::null(),
        Output::File(path) => child::file(path)?.into(),
    });
    let since = Instant::now();
    let mut running = Running::start(&mut command)?;
    let mut length = 0;
    if let Some(mut pipe) = running.0.stdout.take() {
        let mut buffer = vec![0; 1 << 20];
        loop {
            match pipe.read(&mut buffer)? {
                0 => break,
                count => length += count,
            }
        }
    }
    let status = running.0.wait()?;
    let elapsed = since.elapsed();
    if let Output::File(path) = output {
        length = usize::try_from(fs::metadata(path)?.len())?;
    }
    // lsof ends with 1 also when it has found everything.
    let is_empty = length == 0 && !matches!(output, Output::Null);
    if is_empty || !(status.success() || name.starts_with("lsof")) {
        bail!("{name}: {status}, {length} bytes");
    }
    Ok(elapsed.as_secs_f64())
}

/// Whether this netconn can list without a daemon.
fn is_available(direct: &[&str], report: &mut Report) -> Result<bool> {
    if UnixStream::connect(USUAL).is_ok() {
        report.miss(Figure::FasterDirect, "", &format!("a daemon listens at {USUAL}"));
        return Ok(false);
    }
    let output = command(direct).output().context("cannot run netconn")?;
    if output.status.success() {
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    report.miss(Figure::FasterDirect, "", &format!("{}: {said}", output.status));
    Ok(false)
}

/// Compares rows with what `ss` says.
fn compare(bench: &Bench, report: &mut Report, case: &str, list: &[&str]) -> Result<()> {
    load::here(&bench.place, "fin", OVER)?;
    // The last of them is in TIME_WAIT a moment after its generator has ended.
    thread::sleep(MOMENT);
    let pattern = format!("\"namespace\":{}", bench.place.namespace);
    for _ in 0..TRIES {
        let before = machine::sockets()?;
        let output = command(list).output()?;
        if machine::sockets()? != before {
            continue;
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let rows = text.lines().filter(|line| line.contains(&pattern)).count();
        report.add(Figure::RowsMissing, case, rows as f64 - before as f64);
        let over = before - SOCKETS.min(before);
        report.note(format!("rows, {case}: {rows} of netconn, {before} of ss -tan; {over} in TIME_WAIT"));
        return Ok(());
    }
    report.miss(Figure::RowsMissing, case, "ss says something else each time");
    Ok(())
}
