//! Time from exec to the first complete response, with many existing sockets.

use anyhow::Result;

use crate::{
    Bench,
    daemon::{BenchDaemon, FULL},
    figures::Figure,
    load::HeldSockets,
    machine,
    table::BenchReport,
};

const SOCKETS: usize = 100_000;

/// Measures starts, and compares the rows of the first snapshot with `ss`.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    let _held = HeldSockets::start(&bench.workspace, SOCKETS)?;
    // Held sockets do not change, so one count serves all rounds.
    let expected = machine::sockets()?;
    for _ in bench.rounds("startup") {
        let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
        report.add(Figure::Ready, "", daemon.ready_after.as_secs_f64());
        report.add(Figure::ReadyRows, "", daemon.rows(bench.workspace.namespace)? as f64 - expected as f64);
        let health = daemon.settle()?;
        report.add(Figure::ReadyLost, "records", health.lost_records() as f64);
        report.add(Figure::ReadyLost, "events", health.lost_events() as f64);
        daemon.stop()?;
    }
    Ok(())
}
