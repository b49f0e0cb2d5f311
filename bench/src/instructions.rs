//! Instructions in user space per record. Unlike times of microseconds, they do not vary on a shared machine.

use anyhow::{Context as _, Result, bail};
use xtask::{cargo, packages};

use crate::{Bench, figures::Figure, table::BenchReport};

/// The microbenchmarks of `netconn/benches/record.rs`, each with the operation that it repeats.
const BENCHMARKS: [(&str, &str); 7] = [
    ("decoding", "decode a record"),
    ("applying", "apply a record to the table"),
    ("encoding_events", "encode an event"),
    ("encoding_flows", "encode an event of a flow"),
    ("encoding_packet_sockets", "encode a packet socket"),
    ("encoding_rows", "encode a row"),
    ("filtering", "filter a connection"),
];
/// Runs a benchmark under callgrind, which counts only instructions executed within `measured` of that file.
const RUNNER: &str = "target.'cfg(all())'.runner = ['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null', \
                      '--toggle-collect=*record::measured*']";

/// Counts the instructions of each benchmark once, because every run gives the same number.
pub(crate) fn run(_: &Bench, report: &mut BenchReport) -> Result<()> {
    for (benchmark, name) in BENCHMARKS {
        if !packages::is_installed("valgrind") {
            report.miss(Figure::Instructions, name, "not installed: valgrind");
            continue;
        }
        let arguments = ["--config", RUNNER, "bench", "--quiet", "--package", "netconn", "--bench", "record", "--"];
        let once = [benchmark, "--sample-count", "1", "--sample-size", "1"];
        let mut command = cargo(&[&arguments[..], &once].concat());
        let output = command.env("NETCONN_BENCH_ITEMS", "1").output().context("cannot run cargo")?;
        let message = String::from_utf8_lossy(&output.stderr);
        // The benchmark prints how many items its one run had; callgrind counts the run as a whole.
        let items: f64 = message.lines().filter_map(|line| line.strip_prefix("items: ")?.parse::<f64>().ok()).sum();
        let collected = message.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
        match collected {
            Some(collected) if items > 0.0 && collected > 0.0 => {
                report.add(Figure::Instructions, name, collected / items);
            }
            _ => bail!("{benchmark}: {}: {message}", output.status),
        }
    }
    Ok(())
}
