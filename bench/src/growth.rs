//! How cost grows: with connections held, and with connections a second.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::{
    Bench,
    daemon::{Daemon, FULL},
    figures::Figure,
    hooks,
    load::{self, Hold, KINDS},
    machine,
    snapshot::{self, Output},
    table::Report,
};

const HELD: [usize; 3] = [1000, 10_000, 100_000];
/// Connections a second.
const RATES: [u32; 3] = [100, 1000, 10_000];
const SECONDS: u32 = 5;
/// How the rate is called that is not asked for but reached.
const MOST: &str = "the most";
/// After thousands of sockets have ended.
const CALM: Duration = Duration::from_secs(1);

/// Measures all steps of both.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    for _ in bench.rounds("growth") {
        for sockets in HELD {
            let held = Hold::start(&bench.place, sockets)?;
            with_held(bench, sockets, report)?;
            drop(held);
            thread::sleep(CALM);
        }
        for rate in RATES {
            at_rate(bench, &format!("{rate}/s"), report, || load::paced(&bench.place, rate, SECONDS))?;
        }
        at_rate(bench, MOST, report, || load::flood(&bench.place, KINDS[2]))?;
    }
    Ok(())
}

fn with_held(bench: &Bench, sockets: usize, report: &mut Report) -> Result<()> {
    let case = sockets.to_string();
    let daemon = Daemon::start(&bench.place, FULL)?;
    report.add(Figure::HeldReady, &case, daemon.ready_after.as_secs_f64());
    daemon.settled()?;
    let (netconn, socket) = (bench.place.netconn().display().to_string(), daemon.socket().display().to_string());
    let list = [netconn.as_str(), "list", "--format", "json", "--socket", &socket];
    report.add(Figure::HeldList, &case, snapshot::time(&list, Output::Pipe)?);
    report.add(Figure::HeldSs, &case, snapshot::time(snapshot::SS, Output::Pipe)?);
    report.add(Figure::HeldMemory, &case, daemon.resident_megabytes()?);
    daemon.stop()
}

fn at_rate(bench: &Bench, case: &str, report: &mut Report, load: impl FnOnce() -> Result<load::Outcome>) -> Result<()> {
    let daemon = Daemon::start(&bench.place, FULL)?;
    let lost = daemon.settled()?.lost();
    let counting = hooks::Counting::start()?;
    let (cpu, before, busy) = (daemon.cpu_seconds()?, hooks::runs(daemon.process.pid())?, machine::busy_seconds()?);
    let outcome = load()?;
    let busy = machine::busy_seconds()? - busy;
    let ran = hooks::since(&before, &hooks::runs(daemon.process.pid())?);
    drop(counting);
    let health = daemon.settled()?;
    let seconds = daemon.cpu_seconds()? - cpu + hooks::total(&ran).nanoseconds as f64 / 1e9;
    let processors = thread::available_parallelism()?.get() as f64;
    report.add(Figure::RateReached, case, outcome.connections as f64 / outcome.seconds);
    report.add(Figure::RateCpu, case, seconds / outcome.seconds * 100.0);
    report.add(Figure::RateMachine, case, busy / outcome.seconds / processors * 100.0);
    report.add(Figure::RateLost, case, (health.lost() - lost) as f64);
    daemon.stop()
}
