//! Floods of connections: what is left of their rate beside netconn and beside others, and what each connection costs.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::{
    Bench,
    daemon::{Daemon, FULL, Setup},
    figures::Figure,
    hooks, load,
    load::{KINDS, Kind, Outcome},
    machine,
    peers::{self, Peer},
    table::Report,
};

/// What a peer is given to read its buffers, and any namespace to dissolve.
const MOMENT: Duration = Duration::from_millis(300);
/// Events of a connection with both ends here: two connects, two closes.
const EVENTS: usize = 4;
/// A loss in the file of events.
const LOSS: &str = "^\\{\"event.type\":\"Data Loss\"";

/// What runs beside a flood.
enum Beside {
    Full,
    Table,
    Peer(Peer),
}

/// What a flood was like, by connection.
#[derive(Clone, Copy, Debug)]
struct Flood {
    /// Connections a second.
    rate: f64,
    /// Seconds of all processors.
    busy: f64,
    /// Seconds of the generator, and of the daemon if there is one.
    tasks: f64,
}

impl Flood {
    fn new(outcome: &Outcome, busy: f64, daemon: f64) -> Self {
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

/// Measures floods of all kinds: alone, beside one, alone, beside the next, and so on.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut all = vec![Beside::Full, Beside::Table];
    all.extend(peers::tracers(&bench.place, report).into_iter().map(Beside::Peer));
    for _ in bench.rounds("connect") {
        for kind in KINDS {
            let mut before = alone(bench, kind)?;
            let mut kept_full = 0.0;
            for beside in &all {
                let with = measure(bench, kind, beside, report)?;
                let after = alone(bench, kind)?;
                let alone = before.mean(after);
                before = after;
                report.add(Figure::FloodAlone, kind.name, alone.rate);
                let kept = with.rate / alone.rate;
                let microseconds = (with.busy - alone.busy) * 1e6;
                match beside {
                    Beside::Full => {
                        kept_full = kept;
                        report.add(Figure::KeptFull, kind.name, kept);
                        report.add(Figure::CpuPerConnection, kind.name, microseconds);
                        report.add(Figure::CpuOfTasks, kind.name, (with.tasks - alone.tasks) * 1e6);
                    }
                    Beside::Table => report.add(Figure::KeptTable, kind.name, kept),
                    Beside::Peer(Peer { name, .. }) => {
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
    hook_times(bench, report)
}

/// A flood with nothing beside it.
fn alone(bench: &Bench, kind: Kind) -> Result<Flood> {
    thread::sleep(MOMENT);
    let before = machine::busy_seconds()?;
    let outcome = load::flood(&bench.place, kind)?;
    Ok(Flood::new(&outcome, machine::busy_seconds()? - before, 0.0))
}

fn measure(bench: &Bench, kind: Kind, beside: &Beside, report: &mut Report) -> Result<Flood> {
    match beside {
        Beside::Full => full(bench, kind, report),
        Beside::Table => table(bench, kind),
        Beside::Peer(peer) => beside_peer(bench, kind, peer, report),
    }
}

/// A flood beside a daemon that writes all events; whether it did is looked at too.
fn full(bench: &Bench, kind: Kind, report: &mut Report) -> Result<Flood> {
    let daemon = Daemon::start(&bench.place, FULL)?;
    // What is lost by the start is a figure of its own.
    let (lost, losses) = (daemon.settled()?.lost(), daemon.count_events(LOSS)?);
    let (busy, cpu) = (machine::busy_seconds()?, daemon.cpu_seconds()?);
    let outcome = load::flood(&bench.place, kind)?;
    let health = daemon.settled()?;
    let flood = Flood::new(&outcome, machine::busy_seconds()? - busy, daemon.cpu_seconds()? - cpu);
    let pattern = format!("^\\{{\"event.type\":\"IP (Connect|Close)\".*\"src.process.pid\":{},", outcome.pid);
    let told = daemon.count_events(&pattern)?;
    report.add(Figure::Lost, kind.name, (health.lost() - lost) as f64);
    report.add(Figure::LossEvents, kind.name, (daemon.count_events(LOSS)? - losses) as f64);
    report.add(Figure::EventsTold, kind.name, told as f64 / (EVENTS * outcome.connections) as f64);
    daemon.stop()?;
    Ok(flood)
}

/// A flood beside a daemon that only keeps its table.
fn table(bench: &Bench, kind: Kind) -> Result<Flood> {
    let daemon = Daemon::start(&bench.place, Setup::default())?;
    let (busy, cpu) = (machine::busy_seconds()?, daemon.cpu_seconds()?);
    let outcome = load::flood(&bench.place, kind)?;
    daemon.settled()?;
    let flood = Flood::new(&outcome, machine::busy_seconds()? - busy, daemon.cpu_seconds()? - cpu);
    daemon.stop()?;
    Ok(flood)
}

fn beside_peer(bench: &Bench, kind: Kind, peer: &Peer, report: &mut Report) -> Result<Flood> {
    let tracing = peer.start(&bench.place)?;
    let busy = machine::busy_seconds()?;
    let outcome = load::flood(&bench.place, kind)?;
    thread::sleep(MOMENT);
    let flood = Flood::new(&outcome, machine::busy_seconds()? - busy, 0.0);
    let told = tracing.stop()?;
    let case = format!("{}, {}", kind.name, peer.name);
    report.add(Figure::PeerLines, &case, told.lines as f64 / outcome.connections as f64);
    report.add(Figure::PeerLost, &case, told.lost as f64);
    Ok(flood)
}

/// How long the hooks run: in floods of their own, because to count costs time too.
fn hook_times(bench: &Bench, report: &mut Report) -> Result<()> {
    for round in bench.rounds("connect, run time of hooks") {
        for kind in KINDS {
            let daemon = Daemon::start(&bench.place, FULL)?;
            let counting = hooks::Counting::start()?;
            let before = hooks::runs(daemon.process.pid())?;
            let outcome = load::flood(&bench.place, kind)?;
            let ran = hooks::since(&before, &hooks::runs(daemon.process.pid())?);
            drop(counting);
            let total = hooks::total(&ran);
            report.add(Figure::HookTime, kind.name, total.nanoseconds as f64 / total.count as f64);
            if round == bench.rounds {
                let words = hooks::in_words(&ran, outcome.connections);
                report.note(format!("hooks for each connection, {}: {words}", kind.name));
            }
            daemon.settled()?;
            daemon.stop()?;
        }
    }
    Ok(())
}
