//! Datagrams: how much netconn slows them down at each level of `flows`, and the CPU time per datagram.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    thread,
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;

use crate::{
    Bench,
    daemon::{BenchDaemon, DaemonSetup},
    figures::Figure,
    hooks, load,
    load::{DATAGRAM_KINDS, DatagramKind, DatagramOutcome},
    machine,
    table::BenchReport,
};

/// Pause in which the kernel frees a network namespace.
const MOMENT: Duration = Duration::from_millis(300);

/// Levels of `flows` in the configuration, each with its figure. The last one is the control: the daemon ignores
/// datagrams.
const LEVELS: [(&str, Figure); 3] = [
    ("flows = 'flows'", Figure::DatagramsKeptFlows),
    ("flows = 'sockets'", Figure::DatagramsKeptSockets),
    ("flows = 'off'", Figure::DatagramsKeptOff),
];

/// The measured costs of a run.
#[derive(Clone, Copy, Debug)]
struct UdpRun {
    /// Datagrams per second.
    rate: f64,
    /// Busy seconds of all CPUs, per datagram.
    busy: f64,
}

impl UdpRun {
    fn new(sent: &DatagramOutcome, busy: f64) -> Self {
        let datagrams = sent.datagrams as f64;
        Self { rate: datagrams / sent.seconds, busy: busy / datagrams }
    }
}

/// Measures every kind of datagrams. A run without a daemon precedes and follows each run with one.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    for _ in bench.rounds("udp") {
        for kind in DATAGRAM_KINDS {
            let mut before = run_alone(bench, kind)?;
            for (config, kept) in LEVELS {
                let with = run_beside(bench, kind, config, report)?;
                let after = run_alone(bench, kind)?;
                let rate = f64::midpoint(before.rate, after.rate);
                let busy = f64::midpoint(before.busy, after.busy);
                // One run serves two comparisons: it is the one after this daemon and the one before the next.
                before = after;
                report.add(Figure::DatagramsAlone, kind.name, rate);
                report.add(kept, kind.name, with.rate / rate);
                if kept == Figure::DatagramsKeptFlows {
                    report.add(Figure::CpuPerDatagram, kind.name, (with.busy - busy) * 1e9);
                }
            }
        }
    }
    measure_hooks(bench, report)
}

/// Measures datagrams without a daemon.
fn run_alone(bench: &Bench, kind: DatagramKind) -> Result<UdpRun> {
    thread::sleep(MOMENT);
    let before = machine::busy_seconds()?;
    let sent = load::datagrams(&bench.workspace, kind)?;
    Ok(UdpRun::new(&sent, machine::busy_seconds()? - before))
}

/// Measures datagrams beside a daemon. At the level `flows`, it also compares the daemon's count with the generator's.
fn run_beside(bench: &Bench, kind: DatagramKind, config: &'static str, report: &mut BenchReport) -> Result<UdpRun> {
    let daemon = BenchDaemon::start(&bench.workspace, DaemonSetup { events: true, history: false, config })?;
    let lost = daemon.settle()?.lost();
    // After `settle`: the daemon's start is no cost of datagrams.
    let busy = machine::busy_seconds()?;
    let sent = load::datagrams(&bench.workspace, kind)?;
    let run = UdpRun::new(&sent, machine::busy_seconds()? - busy);
    let health = daemon.settle()?;
    if config == LEVELS[0].0 {
        report.add(Figure::DatagramsLost, kind.name, (health.lost() - lost) as f64);
        report.add(
            Figure::DatagramsCounted,
            kind.name,
            count_packets(&daemon, &sent)? as f64 / (2 * sent.datagrams) as f64,
        );
    }
    daemon.stop()?;
    Ok(run)
}

/// Returns the packets sent and received according to the `IP Close` events of the generator.
fn count_packets(daemon: &BenchDaemon, sent: &DatagramOutcome) -> Result<u64> {
    let mut sum = 0;
    for line in BufReader::new(File::open(daemon.events())?).lines() {
        let event: Value = serde_json::from_str(&line?)?;
        if event["event.type"] == "IP Close" && event["src.process.pid"] == sent.pid {
            let number = |name: &str| event[name].as_u64().unwrap_or(0);
            sum += number("event.network.packetsSent") + number("event.network.packetsReceived");
        }
    }
    Ok(sum)
}

/// Measures the run time of the hooks per datagram, both ends together, in separate runs because the kernel's counting
/// costs time too.
fn measure_hooks(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    for round in bench.rounds("udp, run time of hooks") {
        for kind in DATAGRAM_KINDS {
            let daemon = BenchDaemon::start(
                &bench.workspace,
                DaemonSetup { events: true, history: false, config: LEVELS[0].0 },
            )?;
            let counting = hooks::Counting::start()?;
            let before = hooks::runs(daemon.process.pid())?;
            let sent = load::datagrams(&bench.workspace, kind)?;
            let ran = hooks::since(&before, &hooks::runs(daemon.process.pid())?);
            drop(counting);
            report.add(
                Figure::HookTimeDatagram,
                kind.name,
                hooks::total(&ran).nanoseconds as f64 / sent.datagrams as f64,
            );
            if round == bench.rounds {
                report.note(format!(
                    "hook runs per datagram, {}: {}",
                    kind.name,
                    hooks::describe(&ran, sent.datagrams)
                ));
            }
            daemon.stop()?;
        }
    }
    Ok(())
}
