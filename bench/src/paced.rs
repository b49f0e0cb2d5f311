//! What 1,000 connections a second cost.

use anyhow::Result;

use crate::{
    Bench,
    daemon::{Daemon, FULL, Setup},
    figures::Figure,
    hooks, load,
    table::Report,
};

/// Connections a second.
const RATE: u32 = 1000;
const SECONDS: u32 = 10;

/// Measures daemon and hooks together.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    for round in bench.rounds("connect, 1,000 connections/s") {
        let daemon = Daemon::start(&bench.place, FULL)?;
        let _counting = hooks::Counting::start()?;
        let (cpu, before) = (daemon.cpu_seconds()?, hooks::runs(daemon.process.pid())?);
        let outcome = load::paced(&bench.place, RATE, SECONDS)?;
        let user = daemon.cpu_seconds()? - cpu;
        let ran = hooks::since(&before, &hooks::runs(daemon.process.pid())?);
        let total = hooks::total(&ran);
        let kernel = total.nanoseconds as f64 / 1e9;
        for (case, seconds) in [("", user + kernel), ("daemon", user), ("hooks", kernel)] {
            report.add(Figure::CpuPaced, case, seconds / outcome.seconds * 100.0);
        }
        report.add(Figure::HookTimePaced, "", total.nanoseconds as f64 / total.count as f64);
        if round == bench.rounds {
            let words = hooks::in_words(&ran, outcome.connections);
            report.note(format!("hooks for each connection, 1,000 a second: {words}"));
        }
        daemon.stop()?;
        let history = with_history(bench)?;
        report.add(Figure::CpuHistory, "", history / user);
    }
    Ok(())
}

/// Seconds of a daemon that keeps a history beside the same file.
fn with_history(bench: &Bench) -> Result<f64> {
    let daemon = Daemon::start(&bench.place, Setup { history: true, ..FULL })?;
    // The hooks are counted as without a history: that costs time too.
    let _counting = hooks::Counting::start()?;
    let cpu = daemon.cpu_seconds()?;
    load::paced(&bench.place, RATE, SECONDS)?;
    let user = daemon.cpu_seconds()? - cpu;
    daemon.stop()?;
    Ok(user)
}
