//! How costs grow with the number of open connections and with the rate of new ones.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::{
    Bench,
    daemon::{BenchDaemon, FULL},
    figures::Figure,
    hooks,
    load::{self, FLOOD_KINDS, HeldSockets},
    machine,
    snapshot::{self, OutputTarget},
    table::BenchReport,
};

/// Numbers of open connections.
const HELD: [usize; 3] = [1000, 10_000, 100_000];
/// Connections per second.
const RATES: [u32; 3] = [100, 1000, 10_000];
const SECONDS: u32 = 5;
/// Case of the flood, which runs at the highest rate that the machine reaches.
const MOST: &str = "the most";
/// Pause after thousands of sockets were closed.
const CALM: Duration = Duration::from_secs(1);

/// Measures every step of both.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    for _ in bench.rounds("growth") {
        for sockets in HELD {
            let held = HeldSockets::start(&bench.workspace, sockets)?;
            measure_held(bench, sockets, report)?;
            drop(held);
            // The kernel frees sockets and their memory after the processes have ended.
            thread::sleep(CALM);
        }
        for rate in RATES {
            measure_rate(bench, &format!("{rate}/s"), report, || load::paced(&bench.workspace, rate, SECONDS))?;
        }
        measure_rate(bench, MOST, report, || load::flood(&bench.workspace, FLOOD_KINDS[2]))?;
    }
    Ok(())
}

fn measure_held(bench: &Bench, sockets: usize, report: &mut BenchReport) -> Result<()> {
    let case = sockets.to_string();
    let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
    report.add(Figure::HeldReady, &case, daemon.ready_after.as_secs_f64());
    daemon.settle()?;
    let (netconn, socket) = (bench.workspace.netconn().display().to_string(), daemon.socket().display().to_string());
    let list = [netconn.as_str(), "list", "--format", "json", "--socket", &socket];
    report.add(Figure::HeldList, &case, snapshot::time(&list, OutputTarget::Pipe)?);
    report.add(Figure::HeldSs, &case, snapshot::time(snapshot::SS, OutputTarget::Pipe)?);
    report.add(Figure::HeldMemory, &case, daemon.resident_megabytes()?);
    daemon.stop()
}

fn measure_rate(
    bench: &Bench,
    case: &str,
    report: &mut BenchReport,
    load: impl FnOnce() -> Result<load::LoadOutcome>,
) -> Result<()> {
    let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
    let lost = daemon.settle()?.lost();
    let counting = hooks::Counting::start()?;
    let (cpu, before, busy) = (daemon.cpu_seconds()?, hooks::runs(daemon.process.pid())?, machine::busy_seconds()?);
    let outcome = load()?;
    // Read before `settle`, which waits and would count as idle time of the machine.
    let busy = machine::busy_seconds()? - busy;
    let ran = hooks::since(&before, &hooks::runs(daemon.process.pid())?);
    drop(counting);
    let health = daemon.settle()?;
    let seconds = daemon.cpu_seconds()? - cpu + hooks::total(&ran).nanoseconds as f64 / 1e9;
    let processors = thread::available_parallelism()?.get() as f64;
    report.add(Figure::RateReached, case, outcome.connections as f64 / outcome.seconds);
    report.add(Figure::RateCpu, case, seconds / outcome.seconds * 100.0);
    report.add(Figure::RateMachine, case, busy / outcome.seconds / processors * 100.0);
    report.add(Figure::RateLost, case, (health.lost() - lost) as f64);
    daemon.stop()
}
