//! What a record costs in user space, in instructions: times of microseconds are noise on a shared machine, these are not.

use anyhow::{Context as _, Result, bail};
use xtask::{cargo, packages};

use crate::{Bench, figures::Figure, table::Report};

/// The microbenchmarks of `netconn/benches/record.rs`, and what each handles many of.
const BENCHMARKS: [(&str, &str); 7] = [
    ("decoding", "decode a record"),
    ("applying", "apply a record to the table"),
    ("encoding_events", "encode an event"),
    ("encoding_flows", "encode an event of a flow"),
    ("encoding_packet_sockets", "encode a socket that no hook sees"),
    ("encoding_rows", "encode a row"),
    ("filtering", "filter a connection"),
];
/// Only what runs within `measured` of that file is counted.
const RUNNER: &str = "target.'cfg(all())'.runner = ['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null', \
                      '--toggle-collect=*record::measured*']";

/// Counts each once: it is the same each time.
pub(crate) fn run(_: &Bench, report: &mut Report) -> Result<()> {
    for (benchmark, name) in BENCHMARKS {
        if !packages::is_there("valgrind") {
            report.miss(Figure::Instructions, name, "not installed: valgrind");
            continue;
        }
        let arguments = ["--config", RUNNER, "bench", "--quiet", "--package", "netconn", "--bench", "record", "--"];
        let once = [benchmark, "--sample-count", "1", "--sample-size", "1"];
        let mut command = cargo(&[&arguments[..], &once].concat());
        let output = command.env("NETCONN_BENCH_ITEMS", "1").output().context("cannot run cargo")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let items: f64 = said.lines().filter_map(|line| line.strip_prefix("items: ")?.parse::<f64>().ok()).sum();
        let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
        match collected {
            Some(collected) if items > 0.0 && collected > 0.0 => {
                report.add(Figure::Instructions, name, collected / items);
            }
            _ => bail!("{benchmark}: {}: {said}", output.status),
        }
    }
    Ok(())
}
