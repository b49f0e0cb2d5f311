//! Floods of connections: how much netconn and other tracers slow them down, and the CPU time per connection.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::{
    Bench,
    daemon::{BenchDaemon, DaemonSetup, FULL},
    figures::Figure,
    hooks, load,
    load::{FLOOD_KINDS, FloodKind, LoadOutcome},
    machine,
    peers::{self, Peer},
    table::BenchReport,
};

/// Pause in which a peer reads its buffers and the kernel frees a network namespace.
const MOMENT: Duration = Duration::from_millis(300);
/// Number of events of a connection with both ends on this machine: two connects, two closes.
const EVENTS: usize = 4;
/// Matches a `Data Loss` event in the file of events.
const LOSS: &str = "^\\{\"event.type\":\"Data Loss\"";

/// The program that runs beside a flood.
enum Observer {
    /// The daemon with events to a file.
    Full,
    /// The daemon without events.
    Table,
    Peer(Peer),
}

/// The measured costs of a flood.
#[derive(Clone, Copy, Debug)]
struct Flood {
    /// Connections per second.
    rate: f64,
    /// Busy seconds of all CPUs, per connection.
    busy: f64,
    /// CPU seconds of the generator and, if one runs, the daemon, per connection.
    tasks: f64,
}

impl Flood {
    fn new(outcome: &LoadOutcome, busy: f64, daemon: f64) -> Self {
        let connections = outcome.connections as f64;
        Self {
            rate: connections / outcome.seconds,
            busy: busy / connections,
            tasks: (outcome.cpu_seconds + daemon) / connections,
        }
    }

    fn mean(self, other: Self) -> Self {
        Self {
            rate: f64::midpoint(self.rate, other.rate),
            busy: f64::midpoint(self.busy, other.busy),
            tasks: f64::midpoint(self.tasks, other.tasks),
        }
    }
}

/// Measures floods of every kind. A flood without an observer precedes and follows each flood with one.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    let mut all = vec![Observer::Full, Observer::Table];
    all.extend(peers::installed(&bench.workspace, report).into_iter().map(Observer::Peer));
    for _ in bench.rounds("connect") {
        for kind in FLOOD_KINDS {
            let mut before = flood_alone(bench, kind)?;
            let mut kept_full = 0.0;
            for beside in &all {
                let with = measure_flood(bench, kind, beside, report)?;
                let after = flood_alone(bench, kind)?;
                let alone = before.mean(after);
                // One flood serves two comparisons: it is the one after this observer and the one before the next.
                before = after;
                report.add(Figure::FloodAlone, kind.name, alone.rate);
                let kept = with.rate / alone.rate;
                let microseconds = (with.busy - alone.busy) * 1e6;
                match beside {
                    Observer::Full => {
                        // `Full` is the first of `all`, so this is set before a peer is compared with it.
                        kept_full = kept;
                        report.add(Figure::KeptFull, kind.name, kept);
                        report.add(Figure::CpuPerConnection, kind.name, microseconds);
                        report.add(Figure::CpuOfTasks, kind.name, (with.tasks - alone.tasks) * 1e6);
                    }
                    Observer::Table => report.add(Figure::KeptTable, kind.name, kept),
                    Observer::Peer(Peer { name, .. }) => {
                        let case = format!("{}, {name}", kind.name);
                        report.add(Figure::KeptPeer, &case, kept);
                        report.add(Figure::CpuPeer, &case, microseconds);
                        if *name == "tcplife" {
                            report.add(Figure::AheadOfPeer, kind.name, kept_full / kept);
                        }
                    }
                }
            }
        }
    }
    measure_hooks(bench, report)
}

/// Measures a flood without an observer.
fn flood_alone(bench: &Bench, kind: FloodKind) -> Result<Flood> {
    thread::sleep(MOMENT);
    let before = machine::busy_seconds()?;
    let outcome = load::flood(&bench.workspace, kind)?;
    Ok(Flood::new(&outcome, machine::busy_seconds()? - before, 0.0))
}

fn measure_flood(bench: &Bench, kind: FloodKind, beside: &Observer, report: &mut BenchReport) -> Result<Flood> {
    match beside {
        Observer::Full => flood_with_events(bench, kind, report),
        Observer::Table => flood_with_table(bench, kind),
        Observer::Peer(peer) => flood_with_peer(bench, kind, peer, report),
    }
}

/// Measures a flood beside a daemon that writes all events, and counts lost and written events.
fn flood_with_events(bench: &Bench, kind: FloodKind, report: &mut BenchReport) -> Result<Flood> {
    let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
    // Losses at startup are not counted here: the group `startup` measures them.
    let (lost, losses) = (daemon.settle()?.lost(), daemon.count_events(LOSS)?);
    let (busy, cpu) = (machine::busy_seconds()?, daemon.cpu_seconds()?);
    let outcome = load::flood(&bench.workspace, kind)?;
    let health = daemon.settle()?;
    let flood = Flood::new(&outcome, machine::busy_seconds()? - busy, daemon.cpu_seconds()? - cpu);
    let pattern = format!("^\\{{\"event.type\":\"IP (Connect|Close)\".*\"src.process.pid\":{},", outcome.pid);
    let written = daemon.count_events(&pattern)?;
    report.add(Figure::Lost, kind.name, (health.lost() - lost) as f64);
    report.add(Figure::LossEvents, kind.name, (daemon.count_events(LOSS)? - losses) as f64);
    report.add(Figure::EventsTold, kind.name, written as f64 / (EVENTS * outcome.connections) as f64);
    daemon.stop()?;
    Ok(flood)
}

/// Measures a flood beside a daemon that only keeps its table.
fn flood_with_table(bench: &Bench, kind: FloodKind) -> Result<Flood> {
    let daemon = BenchDaemon::start(&bench.workspace, DaemonSetup::default())?;
    let (busy, cpu) = (machine::busy_seconds()?, daemon.cpu_seconds()?);
    let outcome = load::flood(&bench.workspace, kind)?;
    daemon.settle()?;
    let flood = Flood::new(&outcome, machine::busy_seconds()? - busy, daemon.cpu_seconds()? - cpu);
    daemon.stop()?;
    Ok(flood)
}

fn flood_with_peer(bench: &Bench, kind: FloodKind, peer: &Peer, report: &mut BenchReport) -> Result<Flood> {
    let tracing = peer.start(&bench.workspace)?;
    let busy = machine::busy_seconds()?;
    let outcome = load::flood(&bench.workspace, kind)?;
    // Peers write what they still hold; nothing reports when they have.
    thread::sleep(MOMENT);
    let flood = Flood::new(&outcome, machine::busy_seconds()? - busy, 0.0);
    let output = tracing.stop()?;
    let case = format!("{}, {}", kind.name, peer.name);
    report.add(Figure::PeerLines, &case, output.lines as f64 / outcome.connections as f64);
    report.add(Figure::PeerLost, &case, output.lost as f64);
    Ok(flood)
}

/// Measures the run time of the hooks, in separate floods because the kernel's counting costs time too.
fn measure_hooks(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    for round in bench.rounds("connect, run time of hooks") {
        for kind in FLOOD_KINDS {
            let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
            let counting = hooks::Counting::start()?;
            let before = hooks::runs(daemon.process.pid())?;
            let outcome = load::flood(&bench.workspace, kind)?;
            let ran = hooks::since(&before, &hooks::runs(daemon.process.pid())?);
            drop(counting);
            let total = hooks::total(&ran);
            report.add(Figure::HookTime, kind.name, total.nanoseconds as f64 / total.count as f64);
            if round == bench.rounds {
                let words = hooks::describe(&ran, outcome.connections);
                report.note(format!("hook runs per connection, {}: {words}", kind.name));
            }
            daemon.settle()?;
            daemon.stop()?;
        }
    }
    Ok(())
}
