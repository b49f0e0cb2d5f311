//! Costs of an idle daemon, and the memory of its connections.

use std::{fs, thread, time::Duration};

use anyhow::Result;

use crate::{
    Bench,
    daemon::{BenchDaemon, FULL},
    figures::Figure,
    load::HeldSockets,
    table::BenchReport,
};

const SOCKETS: usize = 100_000;
/// Pause between a request to the daemon and the measurement.
const CALM: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(10);

/// Measures an idle daemon, then one with many connections.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    let megabytes = fs::metadata(bench.workspace.netconn())?.len() as f64 / 1e6;
    report.add(Figure::Binary, "", megabytes);
    for _ in bench.rounds("idle") {
        let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
        measure_idle(&daemon, report)?;
        let held = HeldSockets::start(&bench.workspace, SOCKETS)?;
        daemon.settle()?;
        measure_memory(bench, &daemon, "came while it ran", report)?;
        daemon.stop()?;
        let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
        measure_memory(bench, &daemon, "were there before", report)?;
        daemon.stop()?;
        drop(held);
    }
    Ok(())
}

fn measure_idle(daemon: &BenchDaemon, report: &mut BenchReport) -> Result<()> {
    let records = || Ok::<_, anyhow::Error>(daemon.health()?.number("/records/received"));
    let before = records()?;
    // The request for `/v1/health` has woken threads; wait until they sleep again.
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
            "idle: not quite idle: {came} records of other processes and connections arrived in {} s",
            (WATCHED + CALM).as_secs()
        ));
    }
    Ok(())
}

fn measure_memory(bench: &Bench, daemon: &BenchDaemon, case: &str, report: &mut BenchReport) -> Result<()> {
    // A snapshot first: its buffers belong to what a user sees.
    daemon.rows(bench.workspace.namespace)?;
    report.add(Figure::Rss100k, case, daemon.resident_megabytes()?);
    Ok(())
}
