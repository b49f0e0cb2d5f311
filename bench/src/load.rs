//! Runs the generator of load (`tests/src/bin/load`).

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{child::Running, place::Place};

/// A kind of connection, and how many of them are a flood: some seconds on the machine that this was written on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) count: usize,
}

/// Closed with RST; closed with FIN; a request and an answer.
pub(crate) const KINDS: [Kind; 3] =
    [Kind { name: "rst", count: 200_000 }, Kind { name: "fin", count: 100_000 }, Kind { name: "http", count: 60_000 }];

/// What a generator says when it is done.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) pid: u32,
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    /// Processor time of its threads, in the kernel counted in.
    pub(crate) cpu_seconds: f64,
}

/// Datagrams: how sockets are used, and how many pairs of them there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagrams {
    pub(crate) name: &'static str,
    manner: &'static str,
    sockets: &'static str,
    /// How many datagrams: some seconds on the machine that this was written on.
    count: &'static str,
}

/// Through connected sockets; through others, of which hooks are told at each datagram; and these with so many flows that
/// what is kept of each is in no cache. The worst is a new socket for each.
pub(crate) const DATAGRAMS: [Datagrams; 4] = [
    Datagrams { name: "connected", manner: "connected", sockets: "1", count: "1000000" },
    Datagrams { name: "unconnected", manner: "unconnected", sockets: "1", count: "1000000" },
    Datagrams { name: "unconnected, 2,000 flows", manner: "unconnected", sockets: "1000", count: "1000000" },
    Datagrams { name: "a new socket each", manner: "fresh", sockets: "1", count: "50000" },
];

/// What a generator of datagrams says when it is done.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Sent {
    pub(crate) pid: u32,
    /// All of them were received.
    pub(crate) datagrams: usize,
    pub(crate) seconds: f64,
}

/// Datagrams of 64 bytes in a network namespace of their own.
pub(crate) fn datagrams(place: &Place, Datagrams { manner, sockets, count, .. }: Datagrams) -> Result<Sent> {
    run(place, &["udp", "--manner", manner, "--sockets", sockets, "--count", count])
}

/// A flood in a network namespace of its own.
pub(crate) fn flood(place: &Place, kind: Kind) -> Result<Outcome> {
    run(place, &["flood", "--kind", kind.name, "--count", &kind.count.to_string()])
}

/// So many connections in the bench's own namespace.
pub(crate) fn here(place: &Place, kind: &str, count: usize) -> Result<Outcome> {
    run(place, &["flood", "--here", "--kind", kind, "--count", &count.to_string()])
}

/// So many connections a second, each with a small request and answer.
pub(crate) fn paced(place: &Place, rate: u32, seconds: u32) -> Result<Outcome> {
    run(place, &["paced", "--kind", "http", "--rate", &rate.to_string(), "--seconds", &seconds.to_string()])
}

fn run<T: DeserializeOwned>(place: &Place, arguments: &[&str]) -> Result<T> {
    let mut running = Running::start(Command::new(place.load()).args(arguments).stdout(Stdio::piped()))?;
    let outcome = first_line(&mut running)?;
    let status = running.0.wait()?;
    if !status.success() {
        bail!("load {}: {status}", arguments.join(" "));
    }
    serde_json::from_str(&outcome).with_context(|| format!("load {}: {outcome}", arguments.join(" ")))
}

/// Sockets that are held in the bench's own namespace until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold(Running);

impl Hold {
    /// Makes them, by ten processes.
    pub(crate) fn start(place: &Place, sockets: usize) -> Result<Self> {
        let mut command = Command::new(place.load());
        command.args(["hold", "--processes", "10", "--sockets", &sockets.to_string()]);
        let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        if first_line(&mut running)?.is_empty() {
            bail!("load cannot hold {sockets} sockets");
        }
        Ok(Self(running))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // That is its sign to end, with all its processes.
        drop(self.0.0.stdin.take());
        let _ = self.0.0.wait();
    }
}

fn first_line(running: &mut Running) -> Result<String> {
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().context("no output")?).read_line(&mut line)?;
    Ok(line)
}
