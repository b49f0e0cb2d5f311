//! Datagrams: what is left of their rate beside netconn, by what it tells of flows, and what each costs.

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
    daemon::{Daemon, Setup},
    figures::Figure,
    hooks, load,
    load::{DATAGRAMS, Datagrams, Sent},
    machine,
    table::Report,
};

/// What a namespace is given to dissolve.
const MOMENT: Duration = Duration::from_millis(300);

/// Levels of `flows` in the configuration, and what has the figure. The last one is the control: what remains of the rate
/// beside a daemon that does nothing about datagrams.
const LEVELS: [(&str, Figure); 3] = [
    ("flows = 'flows'", Figure::DatagramsKeptFlows),
    ("flows = 'sockets'", Figure::DatagramsKeptSockets),
    ("flows = 'off'", Figure::DatagramsKeptOff),
];

/// A run, by datagram.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Datagrams a second.
    rate: f64,
    /// Seconds of all processors.
    busy: f64,
}

impl Run {
    fn new(sent: &Sent, busy: f64) -> Self {
        let datagrams = sent.datagrams as f64;
        Self { rate: datagrams / sent.seconds, busy: busy / datagrams }
    }
}

/// Measures each kind: alone, beside one level, alone, beside the next, and so on.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    for _ in bench.rounds("udp") {
        for kind in DATAGRAMS {
            let mut before = alone(bench, kind)?;
            for (config, kept) in LEVELS {
                let with = beside(bench, kind, config, report)?;
                let after = alone(bench, kind)?;
                let rate = f64::midpoint(before.rate, after.rate);
                let busy = f64::midpoint(before.busy, after.busy);
                before = after;
                report.add(Figure::DatagramsAlone, kind.name, rate);
                report.add(kept, kind.name, with.rate / rate);
                if kept == Figure::DatagramsKeptFlows {
                    report.add(Figure::CpuPerDatagram, kind.name, (with.busy - busy) * 1e9);
                }
            }
        }
    }
    hook_times(bench, report)
}

/// Datagrams with nothing beside them.
fn alone(bench: &Bench, kind: Datagrams) -> Result<Run> {
    thread::sleep(MOMENT);
    let before = machine::busy_seconds()?;
    let sent = load::datagrams(&bench.place, kind)?;
    Ok(Run::new(&sent, machine::busy_seconds()? - before))
}

/// Datagrams beside a daemon; whether it has counted them all is looked at too, where it counts.
fn beside(bench: &Bench, kind: Datagrams, config: &'static str, report: &mut Report) -> Result<Run> {
    let daemon = Daemon::start(&bench.place, Setup { events: true, history: false, config })?;
    let lost = daemon.settled()?.lost();
    let busy = machine::busy_seconds()?;
    let sent = load::datagrams(&bench.place, kind)?;
    let run = Run::new(&sent, machine::busy_seconds()? - busy);
    let health = daemon.settled()?;
    if config == LEVELS[0].0 {
        report.add(Figure::DatagramsLost, kind.name, (health.lost() - lost) as f64);
        report.add(Figure::DatagramsCounted, kind.name, counted(&daemon, &sent)? as f64 / (2 * sent.datagrams) as f64);
    }
    daemon.stop()?;
    Ok(run)
}

/// How many datagrams the ends of the generator's flows have sent and received, by the file of events.
fn counted(daemon: &Daemon, sent: &Sent) -> Result<u64> {
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

/// How long the hooks run for a datagram, at both ends together: in runs of their own, because to count costs time too.
fn hook_times(bench: &Bench, report: &mut Report) -> Result<()> {
    for round in bench.rounds("udp, run time of hooks") {
        for kind in DATAGRAMS {
            let daemon = Daemon::start(&bench.place, Setup { events: true, history: false, config: LEVELS[0].0 })?;
            let counting = hooks::Counting::start()?;
            let before = hooks::runs(daemon.process.pid())?;
            let sent = load::datagrams(&bench.place, kind)?;
            let ran = hooks::since(&before, &hooks::runs(daemon.process.pid())?);
            drop(counting);
            report.add(
                Figure::HookTimeDatagram,
                kind.name,
                hooks::total(&ran).nanoseconds as f64 / sent.datagrams as f64,
            );
            if round == bench.rounds {
                report.note(format!(
                    "hooks for each datagram, {}: {}",
                    kind.name,
                    hooks::in_words(&ran, sent.datagrams)
                ));
            }
            daemon.stop()?;
        }
    }
    Ok(())
}
