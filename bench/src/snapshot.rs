//! Time to list 100,000 sockets with netconn and with other tools.

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
    daemon::{BenchDaemon, FULL},
    figures::Figure,
    load::{self, HeldSockets},
    machine,
    table::BenchReport,
};

const SOCKETS: usize = 100_000;
/// Number of connections in TIME_WAIT when rows are compared.
const OVER: usize = 1000;
/// Number of attempts until `ss` prints the same number of sockets before and after the list. It may differ because
/// connections in TIME_WAIT expire.
const TRIES: usize = 5;
const MOMENT: Duration = Duration::from_millis(300);
/// The command with which netconn is compared.
pub(crate) const SS: &[&str] = &["ss", "-tanp"];
/// Other commands, shown for comparison, and their packages.
const OTHERS: [(&[&str], &str); 3] =
    [(&["ss", "-tan"], "iproute2"), (&["netstat", "-tanp"], "net-tools"), (&["lsof", "-nP", "-iTCP"], "lsof")];

/// The default socket, at which netconn looks for a daemon before it reads the kernel directly.
const USUAL: &str = "/run/netconn/netconn.sock";

/// Standard output of a command.
#[derive(Clone, Copy)]
pub(crate) enum OutputTarget<'a> {
    /// A pipe that is read to its end.
    Pipe,
    Null,
    File(&'a Path),
}

/// Measures all commands, one after the other in each round.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    let _held = HeldSockets::start(&bench.workspace, SOCKETS)?;
    let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
    let netconn = bench.workspace.netconn().display().to_string();
    let direct = [netconn.as_str(), "list", "--format", "json"];
    let socket = daemon.socket().display().to_string();
    let through = [&direct[..], &["--socket", &socket]].concat();
    // Rows are compared before times: a list that lacks rows is fast for nothing.
    compare(bench, report, "daemon", &through)?;
    // A daemon of this machine would answer in place of the kernel, and would be measured.
    let has_direct = is_available(&direct, report)?;
    if has_direct {
        compare(bench, report, "without", &direct)?;
    }
    let file = bench.workspace.path("list");
    for _ in bench.rounds("snapshot") {
        for (output, name) in
            [(OutputTarget::Pipe, ""), (OutputTarget::Null, "to /dev/null"), (OutputTarget::File(&file), "to a file")]
        {
            let netconn = time(&through, output)?;
            // Right after it, so that both meet the same load of the machine.
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
        // Shown for comparison only, so one kind of output is enough.
        for (command, package) in OTHERS {
            if packages::is_installed(command[0]) {
                report.add(Figure::SnapshotTime, &command.join(" "), time(command, OutputTarget::Pipe)?);
            } else {
                report.note(format!("peer not installed: {} (package {package})", command[0]));
            }
        }
    }
    daemon.stop()
}

/// Makes a command. netconn uses only the socket that the arguments name.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_remove("NETCONN_SOCKET");
    command
}

/// Returns the seconds from spawn until the command has closed its output and exited.
pub(crate) fn time(words: &[&str], output: OutputTarget<'_>) -> Result<f64> {
    let name = words.join(" ");
    let mut command = command(words);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.stdout(match output {
        OutputTarget::Pipe => Stdio::piped(),
        OutputTarget::Null => Stdio::null(),
        OutputTarget::File(path) => child::create_file(path)?.into(),
    });
    let since = Instant::now();
    let mut running = Running::start(&mut command)?;
    let mut length = 0;
    if let Some(mut pipe) = running.0.stdout.take() {
        // Large reads, so that the measured program does not wait for its reader.
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
    if let OutputTarget::File(path) = output {
        length = usize::try_from(fs::metadata(path)?.len())?;
    }
    // lsof exits with 1 even if it has listed everything.
    let is_empty = length == 0 && !matches!(output, OutputTarget::Null);
    if is_empty || !(status.success() || name.starts_with("lsof")) {
        bail!("{name}: {status}, {length} bytes");
    }
    Ok(elapsed.as_secs_f64())
}

/// Returns whether netconn can list without a daemon on this machine.
fn is_available(direct: &[&str], report: &mut BenchReport) -> Result<bool> {
    if UnixStream::connect(USUAL).is_ok() {
        report.miss(Figure::FasterDirect, "", &format!("a daemon listens at {USUAL}"));
        return Ok(false);
    }
    let output = command(direct).output().context("cannot run netconn")?;
    if output.status.success() {
        return Ok(true);
    }
    let message = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    report.miss(Figure::FasterDirect, "", &format!("{}: {message}", output.status));
    Ok(false)
}

/// Compares the number of rows with that of `ss`.
fn compare(bench: &Bench, report: &mut BenchReport, case: &str, list: &[&str]) -> Result<()> {
    load::flood_here(&bench.workspace, "fin", OVER)?;
    // The last connection enters TIME_WAIT shortly after its generator has exited.
    thread::sleep(MOMENT);
    let pattern = format!("\"namespace\":{}", bench.workspace.namespace);
    for _ in 0..TRIES {
        let before = machine::sockets()?;
        let output = command(list).output()?;
        // Sockets in TIME_WAIT have expired meanwhile: nobody can say how many rows are right.
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
    report.miss(Figure::RowsMissing, case, "ss prints another number of sockets each time");
    Ok(())
}
