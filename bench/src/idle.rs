//! What it costs when nothing happens, and what memory connections take.

use std::{fs, thread, time::Duration};

use anyhow::Result;

use crate::{
    Bench,
    daemon::{Daemon, FULL},
    figures::Figure,
    load::Hold,
    table::Report,
};

const SOCKETS: usize = 100_000;
/// After a start.
const CALM: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(10);

/// Measures a daemon that has nothing to do, then one with many connections.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let megabytes = fs::metadata(bench.place.netconn())?.len() as f64 / 1e6;
    report.add(Figure::Binary, "", megabytes);
    for _ in bench.rounds("idle") {
        let daemon = Daemon::start(&bench.place, FULL)?;
        nothing_happens(&daemon, report)?;
        let held = Hold::start(&bench.place, SOCKETS)?;
        daemon.settled()?;
        resident(bench, &daemon, "came while it ran", report)?;
        daemon.stop()?;
        let daemon = Daemon::start(&bench.place, FULL)?;
        resident(bench, &daemon, "were there before", report)?;
        daemon.stop()?;
        drop(held);
    }
    Ok(())
}

fn nothing_happens(daemon: &Daemon, report: &mut Report) -> Result<()> {
    let records = || Ok::<_, anyhow::Error>(daemon.health()?.number("/records/received"));
    let before = records()?;
    // What the question itself has woken is asleep again.
    thread::sleep(CALM);
    report.add(Figure::RssIdle, "", daemon.resident_megabytes()?);
    let (switches, cpu) = (daemon.switches()?, daemon.cpu_seconds()?);
    thread::sleep(WATCHED);
    let seconds = WATCHED.as_secs_f64();
    report.add(Figure::WakeUps, "", (daemon.switches()? - switches) as f64 / seconds);
    report.add(Figure::CpuIdle, "", (daemon.cpu_seconds()? - cpu) * 1000.0 / seconds);
    let came = records()? - before;
    if came > 0 {
        report.note(format!(
            "idle: {came} records of others' processes and connections came in {} s: not quite nothing",
            (WATCHED + CALM).as_secs()
        ));
    }
    Ok(())
}

fn resident(bench: &Bench, daemon: &Daemon, case: &str, report: &mut Report) -> Result<()> {
    daemon.rows(bench.place.namespace)?;
    report.add(Figure::Rss100k, case, daemon.resident_megabytes()?);
    Ok(())
}
