//! From a loss to the truth: the daemon is stopped while thousands of sockets come and go, with the smallest ring.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{
    Bench,
    child::until,
    daemon::{Daemon, Health, Setup},
    figures::Figure,
    load::{self, Hold},
    machine,
    table::Report,
};

const SOCKETS: usize = 100_000;
/// Sockets that end, and others that begin, while nobody reads the ring.
const ENDING: usize = 2000;
const BEGINNING: usize = 3000;
/// Connections that begin and end meanwhile.
const PASSING: usize = 5000;
/// Twenty records.
const SMALL: Setup = Setup { events: true, history: false, config: "ring_bytes = 4096\n" };
const LONG: Duration = Duration::from_secs(30);

/// Measures the repair of a loss: when somebody asks at once, and when nobody does.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let _held = Hold::start(&bench.place, SOCKETS)?;
    for _ in bench.rounds("repair") {
        for (case, repair) in [("asked", asked as Repair), ("alone", alone)] {
            let ending = Hold::start(&bench.place, ENDING)?;
            let daemon = Daemon::start(&bench.place, SMALL)?;
            let queue_before = daemon.settled()?.lost_events();
            daemon.process.signal(Signal::SIGSTOP)?;
            drop(ending);
            let _beginning = Hold::start(&bench.place, BEGINNING)?;
            load::here(&bench.place, "rst", PASSING)?;
            let expected = machine::sockets()?;
            let told = ring_losses(&daemon)?;
            let since = Instant::now();
            daemon.process.signal(Signal::SIGCONT)?;
            let wrong = repair(bench, report, &daemon, expected, told, since)?;
            report.add(Figure::RepairRows, case, wrong);
            let lost = daemon.settled()?.lost_events() - queue_before;
            report.add(Figure::RepairQueue, case, lost as f64);
            daemon.stop()?;
        }
    }
    Ok(())
}

/// Waits for the repair and measures it; gives the rows of the first answer, less the `expected` ones. `told` losses of
/// the ring were told before, and the daemon goes on `since`.
type Repair = fn(&Bench, &mut Report, &Daemon, usize, usize, Instant) -> Result<f64>;

fn asked(
    bench: &Bench,
    report: &mut Report,
    daemon: &Daemon,
    expected: usize,
    _told: usize,
    since: Instant,
) -> Result<f64> {
    let mut wrong = None;
    let mut elapsed = Duration::ZERO;
    until("a snapshot is right", LONG, || {
        let rows = daemon.rows(bench.place.namespace)?;
        elapsed = since.elapsed();
        let difference = rows as f64 - expected as f64;
        wrong.get_or_insert(difference);
        Ok(rows == expected)
    })?;
    let health = daemon.health()?;
    report.add(Figure::RepairAsked, "", elapsed.as_secs_f64());
    check(report, daemon, &health)?;
    Ok(wrong.unwrap_or(f64::NAN))
}

fn alone(
    bench: &Bench,
    report: &mut Report,
    daemon: &Daemon,
    expected: usize,
    told: usize,
    since: Instant,
) -> Result<f64> {
    let mut health = daemon.health()?;
    let mut elapsed = Duration::ZERO;
    until("the loss is told and the table complete", LONG, || {
        // The engine answers when it has done what it is at: a repair is over then.
        health = daemon.health()?;
        elapsed = since.elapsed();
        Ok(health.is_complete() && ring_losses(daemon)? > told)
    })?;
    report.add(Figure::RepairAlone, "", elapsed.as_secs_f64());
    check(report, daemon, &health)?;
    Ok(daemon.rows(bench.place.namespace)? as f64 - expected as f64)
}

/// Something must have been lost, and nothing more when the repair is over.
fn check(report: &mut Report, daemon: &Daemon, health: &Health) -> Result<()> {
    let after = daemon.settled()?;
    if health.lost_records() == 0 {
        report.note("repair: nothing was lost, so nothing was repaired");
    }
    if !after.is_complete() || after.lost_records() > health.lost_records() {
        let more = after.lost_records() - health.lost_records();
        report.note(format!("repair: {more} records were lost after it, complete: {}", after.is_complete()));
    }
    Ok(())
}

/// Losses of records in the file of events.
fn ring_losses(daemon: &Daemon) -> Result<usize> {
    daemon.count_events("^\\{\"event.type\":\"Data Loss\".*\"loss.stage\":\"ring\"")
}
