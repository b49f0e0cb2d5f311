//! The memory of a daemon under mixed load, and what is left of it afterwards.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    Bench,
    daemon::{BenchDaemon, DaemonSetup},
    figures::Figure,
    load,
    table::BenchReport,
};

/// Time between two measurements.
const PAUSE: Duration = Duration::from_secs(1);
/// Time between two lists that clients ask for.
const LISTS: Duration = Duration::from_secs(15);
/// Time after the load until memory is measured again: the daemon gives freed memory back once a minute.
const REST: Duration = Duration::from_secs(65);
/// All that a daemon does by default, and events to a file.
const WHOLE: DaemonSetup = DaemonSetup { events: true, history: true, config: "history_bytes = 67108864\n" };

/// Measures the most memory under the load, and the memory a minute after it.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    for _ in bench.rounds("mixed") {
        let daemon = BenchDaemon::start(&bench.workspace, WHOLE)?;
        let mut running = load::mixed(&bench.workspace)?;
        let (mut most, mut listed) = (0.0_f64, Instant::now());
        let status = loop {
            if let Some(status) = running.0.try_wait()? {
                break status;
            }
            if listed.elapsed() > LISTS {
                listed = Instant::now();
                // With what has ended: the longest answer that there is.
                daemon.get("/v1/connections?format=ndjson&closed=600")?;
            }
            most = most.max(daemon.resident_megabytes()?);
            thread::sleep(PAUSE);
        };
        if !status.success() {
            bail!("load mixed: {status}");
        }
        report.add(Figure::RssMixed, "at most", most);
        thread::sleep(REST);
        report.add(Figure::RssMixed, "a minute later", daemon.resident_megabytes()?);
        daemon.stop()?;
    }
    Ok(())
}
