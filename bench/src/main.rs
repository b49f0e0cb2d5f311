//! Measures netconn against its goals, and beside comparable tools: `cargo xtask bench`.

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
mod mixed;
mod paced;
mod peers;
mod workspace;
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

use crate::{figures::Group, table::BenchReport, workspace::Workspace};

/// Programs that every group needs.
const NEEDED: [packages::NeededProgram; 3] = [("ip", "iproute2"), ("ss", "iproute2"), ("unshare", "util-linux")];

/// Measure netconn against its goals, and beside those of ss, netstat, lsof, tcplife, tcpstates and bpftrace that are
/// installed. Needs root. The long help (--help) describes how each figure is measured.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    max_term_width = 100,
    after_long_help = figures::methods(),
)]
struct BenchOptions {
    /// Groups of figures to measure.
    #[arg(value_enum, default_value = "all")]
    groups: Vec<Group>,
    /// Number of times that each figure is measured, with and without netconn in turn. The table shows the median and
    /// the spread.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Also write all figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures of the group `growth` into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What every group needs to measure.
struct Bench {
    workspace: Workspace,
    rounds: u16,
}

impl Bench {
    /// Returns the numbers of a group's rounds and prints each when it begins.
    fn rounds(&self, group: &str) -> impl Iterator<Item = u16> {
        let rounds = self.rounds;
        (1..=rounds).inspect(move |round| eprintln!("{group}: round {round} of {rounds}"))
    }
}

/// Measures figures of a group.
type Measure = fn(&Bench, &mut BenchReport) -> Result<()>;

const GROUPS: [(Group, &[Measure]); 11] = [
    (Group::Connect, &[connect::run, paced::run]),
    (Group::Udp, &[udp::run]),
    (Group::Snapshot, &[snapshot::run]),
    (Group::Latency, &[latency::run]),
    (Group::Idle, &[idle::run]),
    (Group::Mixed, &[mixed::run]),
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

/// Builds the programs, measures the chosen groups and prints the table.
fn run(options: &BenchOptions) -> Result<()> {
    if !is_root() {
        bail!("netconn loads eBPF programs: run this as root");
    }
    if let Some(reason) = packages::obstacle(&NEEDED) {
        bail!("{reason}");
    }
    let wanted = |group: Group| options.groups.iter().any(|asked| [group, Group::All].contains(asked));
    if options.plot.is_some() && !wanted(Group::Growth) {
        bail!("--plot draws the figures of the group growth: add growth to the groups");
    }
    // Built before the namespace is entered, because cargo may need the network.
    check(&mut cargo(&["build", "--release", "--package", "netconn"]))?;
    check(&mut cargo(&["build", "--release", "--package", "netconn-tests", "--bin", "load"]))?;
    let machine = machine::MachineState::read()?;
    let mut bench = Bench { workspace: Workspace::create()?, rounds: options.rounds };
    if wanted(Group::Search) {
        search::prepare(&bench.workspace);
    }
    let mut report = BenchReport::default();
    machine.warning().into_iter().for_each(|warning| report.note(warning));
    let mut failed = Vec::new();
    for (group, measures) in GROUPS.iter().filter(|(group, _)| wanted(*group)) {
        for measure in *measures {
            // Each measurement has a fresh namespace, without sockets in TIME_WAIT of the one before.
            bench.workspace.enter_namespace()?;
            if let Err(error) = measure(&bench, &mut report) {
                eprintln!("{group:?}: {error:#}");
                // The other groups are measured all the same: a run takes long.
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
        bail!("groups that could not be measured completely: {}", failed.join(", "));
    }
    Ok(())
}
