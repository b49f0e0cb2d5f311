//! Latency from the kernel to a line in the file of events, at 1,000 connections per second.

use std::{
    fs::File,
    io::Read as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Bench,
    daemon::{BenchDaemon, FULL},
    figures::Figure,
    load,
    table::BenchReport,
};

/// Connections per second.
const RATE: u32 = 1000;
const SECONDS: u32 = 10;
/// Interval at which the reader polls the file.
const LOOK: Duration = Duration::from_millis(1);

/// The text that was read from a growing file, and for each read the total length after it and its time in nanoseconds
/// since the epoch.
struct Tail {
    text: Vec<u8>,
    reads: Vec<(usize, i128)>,
}

/// Measures the latency of all events of the generator's connections.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    for _ in bench.rounds("latency") {
        let daemon = BenchDaemon::start(&bench.workspace, FULL)?;
        let done = Arc::new(AtomicBool::new(false));
        let reader = {
            let (path, done) = (daemon.events(), Arc::clone(&done));
            thread::spawn(move || tail(path, &done))
        };
        let outcome = load::paced(&bench.workspace, RATE, SECONDS);
        // Both results are examined after the reader has ended: an early return would leave its thread behind.
        let settled = daemon.settle();
        done.store(true, Ordering::Relaxed);
        let tail = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        settled?;
        let mut delays = delays(&tail, outcome?.pid)?;
        delays.sort_unstable();
        let at = |share: f64| {
            let index = ((delays.len() as f64 * share) as usize).min(delays.len().saturating_sub(1));
            delays.get(index).map(|delay| *delay as f64 / 1e6).context("no events")
        };
        report.add(Figure::LatencyP50, "", at(0.5)?);
        report.add(Figure::LatencyP99, "", at(0.99)?);
        report.add(Figure::LatencyMax, "", at(1.0)?);
        daemon.stop()?;
    }
    Ok(())
}

/// Reads a growing file until `done` is set.
fn tail(path: PathBuf, done: &AtomicBool) -> Result<Tail> {
    let mut file = File::open(path)?;
    let mut tail = Tail { text: Vec::new(), reads: Vec::new() };
    loop {
        // Read before the file: what was written until the flag was set is still read.
        let is_last = done.load(Ordering::Relaxed);
        if file.read_to_end(&mut tail.text)? != 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            tail.reads.push((tail.text.len(), i128::try_from(now.as_nanos())?));
        }
        if is_last {
            return Ok(tail);
        }
        thread::sleep(LOOK);
    }
}

/// Returns for each event of a process the nanoseconds from its timestamp until its whole line was read.
fn delays(tail: &Tail, pid: u32) -> Result<Vec<i128>> {
    let mut delays = Vec::new();
    let (mut end, mut reads) = (0, tail.reads.iter().peekable());
    for line in tail.text.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        // A line arrived with the first read that reached its end.
        while reads.next_if(|(length, _)| *length < end).is_some() {}
        let Some((_, read_ns)) = reads.peek() else { break };
        let event: Value = serde_json::from_slice(line).context("a line of the file of events is no JSON")?;
        if event["src.process.pid"] == pid {
            let time: Timestamp = event["timestamp"].as_str().context("an event without timestamp")?.parse()?;
            delays.push(read_ns - time.as_nanosecond());
        }
    }
    Ok(delays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_when_it_is_whole() {
        let line = |pid: u32, time: &str| format!("{{\"timestamp\":\"{time}\",\"src.process.pid\":{pid}}}\n");
        let lines = [
            line(7, "1970-01-01T00:00:00.000000100Z"),
            line(8, "1970-01-01T00:00:00.000000100Z"),
            line(7, "1970-01-01T00:00:00.000000200Z"),
        ];
        let text = lines.concat().into_bytes();
        let reads = vec![(lines[0].len() + 5, 150), (text.len() - 1, 300), (text.len(), 1000)];
        assert_eq!(delays(&Tail { text, reads }, 7).unwrap(), [50, 800]);
    }
}
