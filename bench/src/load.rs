//! Runs the load generator (`tests/src/bin/load`).

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{child::Running, workspace::Workspace};

/// A kind of connection, and the number of connections in a flood. A flood takes a few seconds on the machine on which
/// these numbers were chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloodKind {
    pub(crate) name: &'static str,
    pub(crate) count: usize,
}

/// Connections closed with RST, connections closed with FIN, and connections with an HTTP request and response.
pub(crate) const FLOOD_KINDS: [FloodKind; 3] = [
    FloodKind { name: "rst", count: 200_000 },
    FloodKind { name: "fin", count: 100_000 },
    FloodKind { name: "http", count: 60_000 },
];

/// The generator's report about connections.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct LoadOutcome {
    pub(crate) pid: u32,
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    /// CPU time of its threads, in user space and kernel.
    pub(crate) cpu_seconds: f64,
}

/// A way to send datagrams: the kind of sockets and the number of socket pairs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatagramKind {
    pub(crate) name: &'static str,
    manner: &'static str,
    sockets: &'static str,
    /// Number of datagrams, chosen as for connections.
    count: &'static str,
}

/// From the cheapest to the most expensive. The hooks run for each datagram of an unconnected socket. With 2,000 flows,
/// the state of a flow is no longer in the CPU's caches.
pub(crate) const DATAGRAM_KINDS: [DatagramKind; 4] = [
    DatagramKind { name: "connected", manner: "connected", sockets: "1", count: "1000000" },
    DatagramKind { name: "unconnected", manner: "unconnected", sockets: "1", count: "1000000" },
    DatagramKind { name: "unconnected, 2,000 flows", manner: "unconnected", sockets: "1000", count: "1000000" },
    DatagramKind { name: "a new socket each", manner: "fresh", sockets: "1", count: "50000" },
];

/// The generator's report about datagrams.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct DatagramOutcome {
    pub(crate) pid: u32,
    /// Number of datagrams sent; the generator has received all of them.
    pub(crate) datagrams: usize,
    pub(crate) seconds: f64,
}

/// Sends datagrams of 64 bytes in a new network namespace.
pub(crate) fn datagrams(
    workspace: &Workspace,
    DatagramKind { manner, sockets, count, .. }: DatagramKind,
) -> Result<DatagramOutcome> {
    run(workspace, &["udp", "--manner", manner, "--sockets", sockets, "--count", count])
}

/// Runs a flood in a new network namespace.
pub(crate) fn flood(workspace: &Workspace, kind: FloodKind) -> Result<LoadOutcome> {
    run(workspace, &["flood", "--kind", kind.name, "--count", &kind.count.to_string()])
}

/// Makes `count` connections in the benchmark's own namespace.
pub(crate) fn flood_here(workspace: &Workspace, kind: &str, count: usize) -> Result<LoadOutcome> {
    run(workspace, &["flood", "--here", "--kind", kind, "--count", &count.to_string()])
}

/// Makes `rate` connections per second, each with a small HTTP request and response.
pub(crate) fn paced(workspace: &Workspace, rate: u32, seconds: u32) -> Result<LoadOutcome> {
    run(workspace, &["paced", "--kind", "http", "--rate", &rate.to_string(), "--seconds", &seconds.to_string()])
}

/// Starts five minutes of mixed load in a new network namespace.
pub(crate) fn mixed(workspace: &Workspace) -> Result<Running> {
    let mut command = Command::new(workspace.load());
    Running::start(command.args(["mixed", "--rate", "300", "--seconds", "300"]).stdout(Stdio::null()))
}

fn run<T: DeserializeOwned>(workspace: &Workspace, arguments: &[&str]) -> Result<T> {
    let mut running = Running::start(Command::new(workspace.load()).args(arguments).stdout(Stdio::piped()))?;
    let outcome = first_line(&mut running)?;
    // The generator has written its only line by now, so it cannot block on the pipe.
    let status = running.0.wait()?;
    if !status.success() {
        bail!("load {}: {status}", arguments.join(" "));
    }
    serde_json::from_str(&outcome).with_context(|| format!("load {}: {outcome}", arguments.join(" ")))
}

/// Sockets that stay open in the benchmark's own namespace until this value is dropped.
#[derive(Debug)]
pub(crate) struct HeldSockets(Running);

impl HeldSockets {
    /// Opens the sockets from ten processes.
    pub(crate) fn start(workspace: &Workspace, sockets: usize) -> Result<Self> {
        let mut command = Command::new(workspace.load());
        command.args(["hold", "--processes", "10", "--sockets", &sockets.to_string()]);
        let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        if first_line(&mut running)?.is_empty() {
            bail!("load cannot open {sockets} sockets");
        }
        Ok(Self(running))
    }
}

impl Drop for HeldSockets {
    fn drop(&mut self) {
        // The generator and its processes exit when their standard input is closed.
        drop(self.0.0.stdin.take());
        let _ = self.0.0.wait();
    }
}

fn first_line(running: &mut Running) -> Result<String> {
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().context("no output")?).read_line(&mut line)?;
    Ok(line)
}
