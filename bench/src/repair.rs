//! Time from a loss of records to a correct table. The daemon, with the smallest ring, is stopped with SIGSTOP while
//! thousands of sockets open and close.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{
    Bench,
    child::wait_until,
    daemon::{BenchDaemon, DaemonSetup, HealthReport},
    figures::Figure,
    load::{self, HeldSockets},
    machine,
    table::BenchReport,
};

const SOCKETS: usize = 100_000;
/// Number of sockets that close, and of others that open, while the daemon is stopped.
const ENDING: usize = 2000;
const BEGINNING: usize = 3000;
/// Number of connections that open and close while the daemon is stopped.
const PASSING: usize = 5000;
/// The ring holds about twenty records.
const SMALL: DaemonSetup = DaemonSetup { events: true, history: false, config: "ring_bytes = 4096\n" };
const LONG: Duration = Duration::from_secs(30);

/// Measures the repair of a loss when a client requests a snapshot at once, and when no client does.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    let _held = HeldSockets::start(&bench.workspace, SOCKETS)?;
    for _ in bench.rounds("repair") {
        for (case, repair) in [("asked", repair_asked as Repair), ("alone", repair_alone)] {
            let ending = HeldSockets::start(&bench.workspace, ENDING)?;
            let daemon = BenchDaemon::start(&bench.workspace, SMALL)?;
            let queue_before = daemon.settle()?.lost_events();
            // A stopped daemon does not read the ring, so everything until SIGCONT that does not fit is lost.
            daemon.process.signal(Signal::SIGSTOP)?;
            drop(ending);
            let _beginning = HeldSockets::start(&bench.workspace, BEGINNING)?;
            load::flood_here(&bench.workspace, "rst", PASSING)?;
            let expected = machine::sockets()?;
            // The small ring may have lost records at the start too: only later reports count.
            let reported = ring_losses(&daemon)?;
            let since = Instant::now();
            daemon.process.signal(Signal::SIGCONT)?;
            let wrong = repair(bench, report, &daemon, expected, reported, since)?;
            report.add(Figure::RepairRows, case, wrong);
            let lost = daemon.settle()?.lost_events() - queue_before;
            report.add(Figure::RepairQueue, case, lost as f64);
            daemon.stop()?;
        }
    }
    Ok(())
}

/// Waits for the repair, measures it, and returns the number of rows of the first snapshot minus `expected`. `reported`
/// is the number of `Data Loss` events of the ring before the loss, `since` the time at which the daemon was continued.
type Repair = fn(&Bench, &mut BenchReport, &BenchDaemon, usize, usize, Instant) -> Result<f64>;

fn repair_asked(
    bench: &Bench,
    report: &mut BenchReport,
    daemon: &BenchDaemon,
    expected: usize,
    _reported: usize,
    since: Instant,
) -> Result<f64> {
    let mut wrong = None;
    let mut elapsed = Duration::ZERO;
    wait_until("a snapshot is right", LONG, || {
        let rows = daemon.rows(bench.workspace.namespace)?;
        elapsed = since.elapsed();
        let difference = rows as f64 - expected as f64;
        // The figure is about the first snapshot; later ones only show when it is right.
        wrong.get_or_insert(difference);
        Ok(rows == expected)
    })?;
    let health = daemon.health()?;
    report.add(Figure::RepairAsked, "", elapsed.as_secs_f64());
    note_losses(report, daemon, &health)?;
    Ok(wrong.unwrap_or(f64::NAN))
}

fn repair_alone(
    bench: &Bench,
    report: &mut BenchReport,
    daemon: &BenchDaemon,
    expected: usize,
    reported: usize,
    since: Instant,
) -> Result<f64> {
    let mut health = daemon.health()?;
    let mut elapsed = Duration::ZERO;
    wait_until("the loss is reported and the table complete", LONG, || {
        // The engine responds only between two tasks, so a repair that has begun is over then.
        health = daemon.health()?;
        elapsed = since.elapsed();
        Ok(health.is_complete() && ring_losses(daemon)? > reported)
    })?;
    report.add(Figure::RepairAlone, "", elapsed.as_secs_f64());
    note_losses(report, daemon, &health)?;
    Ok(daemon.rows(bench.workspace.namespace)? as f64 - expected as f64)
}

/// Notes if the daemon lost nothing, or lost more after the repair.
fn note_losses(report: &mut BenchReport, daemon: &BenchDaemon, health: &HealthReport) -> Result<()> {
    let after = daemon.settle()?;
    if health.lost_records() == 0 {
        report.note("repair: nothing was lost, so nothing was repaired");
    }
    if !after.is_complete() || after.lost_records() > health.lost_records() {
        let more = after.lost_records() - health.lost_records();
        report.note(format!("repair: {more} records were lost after it, complete: {}", after.is_complete()));
    }
    Ok(())
}

/// Returns the number of `Data Loss` events of the ring in the file of events.
fn ring_losses(daemon: &BenchDaemon) -> Result<usize> {
    daemon.count_events("^\\{\"event.type\":\"Data Loss\".*\"loss.stage\":\"ring\"")
}
