//! Measures netconn, beside what else there is, against its goals: `cargo xtask bench`.

mod child;
mod connect;
mod daemon;
mod figures;
mod growth;
mod hooks;
mod idle;
mod instructions;
mod latency;
mod load;
mod machine;
mod paced;
mod peers;
mod place;
mod plot;
mod repair;
mod search;
mod snapshot;
mod startup;
mod table;
mod udp;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use xtask::{cargo, check, is_root, packages};

use crate::{figures::Group, place::Place, table::Report};

/// Programs without which nothing can be measured.
const NEEDED: [packages::Needed; 3] = [("ip", "iproute2"), ("ss", "iproute2"), ("unshare", "util-linux")];

/// Measure netconn against its goals, and beside what else is installed: ss, netstat, lsof, tcplife, tcpstates, bpftrace.
/// Needs root. How each figure is measured is in the long help (--help).
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    max_term_width = 100,
    after_long_help = figures::methods(),
)]
struct BenchOptions {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    groups: Vec<Group>,
    /// How often each figure is measured, with and without netconn in turn; the table has the median and the spread.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Write all that was measured to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw how cost grows into this file (SVG); needs the group `growth`.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What all groups have.
struct Bench {
    place: Place,
    rounds: u16,
}

impl Bench {
    /// The rounds of a group, each told to whoever waits.
    fn rounds(&self, group: &str) -> impl Iterator<Item = u16> {
        let rounds = self.rounds;
        (1..=rounds).inspect(move |round| eprintln!("{group}: round {round} of {rounds}"))
    }
}

/// A group, and what measures it.
type Measure = fn(&Bench, &mut Report) -> Result<()>;

const GROUPS: [(Group, &[Measure]); 10] = [
    (Group::Connect, &[connect::run, paced::run]),
    (Group::Udp, &[udp::run]),
    (Group::Snapshot, &[snapshot::run]),
    (Group::Latency, &[latency::run]),
    (Group::Idle, &[idle::run]),
    (Group::Startup, &[startup::run]),
    (Group::Repair, &[repair::run]),
    (Group::Growth, &[growth::run]),
    (Group::Instructions, &[instructions::run]),
    (Group::Search, &[search::run]),
];

fn main() -> ExitCode {
    match run(&BenchOptions::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds, measures and prints.
fn run(options: &BenchOptions) -> Result<()> {
    if !is_root() {
        bail!("netconn loads eBPF programs: run this as root");
    }
    if let Some(reason) = packages::obstacle(&NEEDED) {
        bail!("{reason}");
    }
    let wanted = |group: Group| options.groups.iter().any(|asked| [group, Group::All].contains(asked));
    if options.plot.is_some() && !wanted(Group::Growth) {
        bail!("--plot draws the figures of the group growth: name it too");
    }
    check(&mut cargo(&["build", "--release", "--package", "netconn"]))?;
    check(&mut cargo(&["build", "--release", "--package", "netconn-tests", "--bin", "load"]))?;
    let machine = machine::Before::look()?;
    let mut bench = Bench { place: Place::make()?, rounds: options.rounds };
    if wanted(Group::Search) {
        search::prepare(&bench.place);
    }
    let mut report = Report::default();
    machine.warning().into_iter().for_each(|warning| report.note(warning));
    let mut failed = Vec::new();
    for (group, measures) in GROUPS.iter().filter(|(group, _)| wanted(*group)) {
        for measure in *measures {
            bench.place.enter_namespace()?;
            if let Err(error) = measure(&bench, &mut report) {
                eprintln!("{group:?}: {error:#}");
                failed.push(format!("{group:?}").to_lowercase());
            }
        }
    }
    let about = machine.about(&bench)?;
    println!("{}", report.table(&about));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report.json(&about))? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.plot {
        let text = plot::growth(&report).context("nothing to draw")?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !failed.is_empty() {
        bail!("could not be measured to the end: {}", failed.join(", "));
    }
    Ok(())
}
