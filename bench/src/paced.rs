//! CPU time at 1,000 connections per second.

use anyhow::Result;

use crate::{
    Bench,
    daemon::{BenchDaemon, DaemonSetup, FULL},
    figures::Figure,
    hooks, load,
    table::BenchReport,
};

/// Connections per second.
const RATE: u32 = 1000;
const SECONDS: u32 = 10;

/// Measures the daemon and its hooks, without and with a history.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    for round in bench.rounds("connect, 1,000 connections/s") {
        let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
        // The hooks are part of this figure, so their time must be counted.
        let _counting = hooks::Counting::start()?;
        let (cpu, before) = (daemon.cpu_seconds()?, hooks::runs(daemon.process.pid())?);
        let outcome = load::paced(&bench.workspace, RATE, SECONDS)?;
        let user = daemon.cpu_seconds()? - cpu;
        let ran = hooks::since(&before, &hooks::runs(daemon.process.pid())?);
        let total = hooks::total(&ran);
        let kernel = total.nanoseconds as f64 / 1e9;
        for (case, seconds) in [("", user + kernel), ("daemon", user), ("hooks", kernel)] {
            report.add(Figure::CpuPaced, case, seconds / outcome.seconds * 100.0);
        }
        report.add(Figure::HookTimePaced, "", total.nanoseconds as f64 / total.count as f64);
        if round == bench.rounds {
            let words = hooks::describe(&ran, outcome.connections);
            report.note(format!("hook runs per connection, 1,000 per second: {words}"));
        }
        daemon.stop()?;
        let history = with_history(bench)?;
        report.add(Figure::CpuHistory, "", history / user);
    }
    Ok(())
}

/// Returns the CPU seconds of a daemon that writes events to a file and keeps a history.
fn with_history(bench: &Bench) -> Result<f64> {
    let daemon = BenchDaemon::start(&bench.workspace, DaemonSetup { history: true, ..FULL })?;
    // Count program runs here too: counting costs time, and the figure is a quotient.
    let _counting = hooks::Counting::start()?;
    let cpu = daemon.cpu_seconds()?;
    load::paced(&bench.workspace, RATE, SECONDS)?;
    let user = daemon.cpu_seconds()? - cpu;
    daemon.stop()?;
    Ok(user)
}
