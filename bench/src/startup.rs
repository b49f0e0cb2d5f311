//! From exec to the first complete answer, with many sockets that exist already.

use anyhow::Result;

use crate::{
    Bench,
    daemon::{Daemon, FULL},
    figures::Figure,
    load::Hold,
    machine,
    table::Report,
};

const SOCKETS: usize = 100_000;

/// Measures starts, and whether what is known then is right.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let _held = Hold::start(&bench.place, SOCKETS)?;
    let expected = machine::sockets()?;
    for _ in bench.rounds("startup") {
        let daemon = Daemon::start(&bench.place, FULL)?;
        report.add(Figure::Ready, "", daemon.ready_after.as_secs_f64());
        report.add(Figure::ReadyRows, "", daemon.rows(bench.place.namespace)? as f64 - expected as f64);
        let health = daemon.settled()?;
        report.add(Figure::ReadyLost, "records", health.lost_records() as f64);
        report.add(Figure::ReadyLost, "events", health.lost_events() as f64);
        daemon.stop()?;
    }
    Ok(())
}
