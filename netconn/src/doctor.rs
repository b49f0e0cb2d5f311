//! Checks of this machine and the daemon, ending with a proof: a loopback connection is made and must be found.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use netconn_common::tcp_state;
use netconn_model::{
    client::{Client, ClientError, RowFormat},
    fact::LossStage,
    health::{Conversion, FlowCounts, Health, HistoryHealth, HookStatus, LostEventCounts, OutputHealth, Verdict},
    row::Row,
};

use crate::{
    kernel::{
        capture::Capture,
        decode::{Record, decode},
        load::{CaptureOptions, LoadError},
        preflight::{self, Lockdown},
    },
    search_program::NotInstalled,
    table::{Silent, Table},
};

/// How long the proof's connection is looked for.
const PROOF: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Ring buffer of a capture that only proves itself.
const RING_BYTES: u32 = 1 << 20;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Good,
    /// Something is missing, and something else is done.
    Fair,
    /// It does not work.
    Bad,
}

/// A check.
#[derive(Clone, Debug)]
pub struct Check {
    /// How it went.
    pub mark: Mark,
    /// What was checked.
    pub subject: String,
    /// What was found, and what to do.
    pub finding: String,
}

impl Check {
    fn new(mark: Mark, subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { mark, subject: subject.into(), finding: finding.into() }
    }
}

/// Checks what netconn needs of this machine.
pub fn machine() -> Vec<Check> {
    let release = preflight::kernel_release();
    let outcome = |subject, found: Result<String, String>| match found {
        Ok(finding) => Check::new(Mark::Good, subject, finding),
        Err(finding) => Check::new(Mark::Bad, subject, finding),
    };
    let kernel = preflight::check_kernel(&release).map(|()| release.clone()).map_err(|error| error.to_string());
    let btf = preflight::read_btf().map(|data| format!("{} kB", data.len() / 1000)).map_err(|error| error.to_string());
    let lockdown = Lockdown::of_this_kernel();
    let mark = if lockdown == Lockdown::Confidentiality { Mark::Fair } else { Mark::Good };
    let lockdown = Check::new(mark, "lockdown", lockdown.name());
    let cgroups = preflight::cgroup_root().map_or_else(
        || {
            Check::new(
                Mark::Fair,
                "cgroups",
                "no cgroup v2 is mounted: units and containers are not known, nor attempts without a route",
            )
        },
        |path| {
            let place = format!("v2 at {}", path.display());
            if !preflight::is_in_cgroup_namespace() {
                return Check::new(Mark::Good, "cgroups", place);
            }
            let finding = format!(
                "{place}, of a cgroup namespace: datagrams, and attempts without a route, are seen of this container only; run \
                 netconn outside of it, or give it the host's (--cgroupns=host)"
            );
            Check::new(Mark::Fair, "cgroups", finding)
        },
    );
    vec![outcome("kernel", kernel), outcome("type information", btf), lockdown, cgroups]
}

/// Checks whether this user may load eBPF programs.
pub fn permission() -> Check {
    match preflight::check_capabilities() {
        Ok(()) => Check::new(Mark::Good, "permission", "eBPF programs may be loaded"),
        Err(error) => Check::new(Mark::Fair, "permission", error.to_string()),
    }
}

/// The verdict on each hook.
pub fn hooks(hooks: &[HookStatus]) -> Vec<Check> {
    hooks
        .iter()
        .map(|hook| {
            let instead = hook.instead.as_deref().unwrap_or("nothing");
            match &hook.verdict {
                Verdict::Attached => Check::new(Mark::Good, &hook.hook, &hook.fact),
                Verdict::Unneeded { reason } => {
                    Check::new(Mark::Good, &hook.hook, format!("{}: not needed, {reason}", hook.fact))
                }
                Verdict::Unsupported { reason } => {
                    Check::new(Mark::Fair, &hook.hook, format!("{}: {reason}; instead: {instead}", hook.fact))
                }
                Verdict::Failed { reason } => {
                    Check::new(Mark::Bad, &hook.hook, format!("{}: {reason}; instead: {instead}", hook.fact))
                }
            }
        })
        .collect()
}

/// What the daemon says of itself.
pub fn daemon(health: &Health) -> Vec<Check> {
    let mut checks = vec![Check::new(
        Mark::Good,
        "daemon",
        format!(
            "netconn {}, pid {}, up {} s, {} connections, {} events",
            health.version, health.pid, health.uptime_seconds, health.connections, health.events
        ),
    )];
    if !health.missing_members.is_empty() {
        let missing = health.missing_members.join(", ");
        checks.push(Check::new(Mark::Fair, "kernel structures", format!("without {missing}: absent from events")));
    }
    checks.extend(flows(&health.flows));
    let records = &health.records;
    checks.push(if records.lost == 0 && records.unknown == 0 {
        Check::new(Mark::Good, "records", format!("{} received, none lost", records.received))
    } else {
        let finding = format!(
            "{} received; lost: {} of sockets, {} of processes, {} missed runs; {} not understood; the table was repaired {} \
             times; a larger ring_bytes in the configuration helps against loss",
            records.received,
            records.lost_sockets,
            records.lost_processes,
            records.missed_runs,
            records.unknown,
            health.repairs
        );
        Check::new(Mark::Bad, "records", finding)
    });
    if records.without_memory != 0 {
        let finding = format!(
            "the kernel had none to keep owners with sockets, {} times: who accepted those connections may not be known",
            records.without_memory
        );
        checks.push(Check::new(Mark::Fair, "memory", finding));
    }
    if !health.complete {
        let finding =
            "the kernel's sockets could not be read: what was there before, or was lost, is not shown; see the log";
        checks.push(Check::new(Mark::Bad, "completeness", finding));
    }
    let LostEventCounts { outgoing, incoming, closes, listeners, clients } = health.lost_events;
    checks.push(if outgoing + incoming + closes + listeners + clients == 0 {
        Check::new(Mark::Good, "events", format!("{} made, none lost", health.events))
    } else {
        let finding = format!(
            "{} made; never made, as all records of their connection were lost: {outgoing} outgoing, {incoming} incoming, \
             {closes} closes, {listeners} of listeners; clients were too slow for {clients}",
            health.events
        );
        Check::new(Mark::Bad, "events", finding)
    });
    for output in &health.outputs {
        let (mark, fate) = fate(output);
        checks.push(Check::new(mark, &output.path, fate));
    }
    checks.push(history(health.history.as_ref()));
    checks
}

/// Returns what became of the events of an output, and whether that is well.
fn fate(output: &OutputHealth) -> (Mark, String) {
    let written = output.written;
    if output.lost() == 0 {
        return (Mark::Good, format!("{written} events written, none lost"));
    }
    let causes: Vec<String> = output
        .losses()
        .map(|(stage, lost)| match stage {
            LossStage::Queue => format!("{lost} because its queue was full"),
            LossStage::Disk => format!("{lost} because the disk refused them"),
            LossStage::Sink => format!("{lost} because the receiver refused them"),
            // No output loses events here.
            LossStage::Ring | LossStage::Flows => format!("{lost} in the kernel"),
        })
        .collect();
    (Mark::Bad, format!("{written} events written; lost: {}", causes.join(", ")))
}

/// How the history is.
fn history(health: Option<&HistoryHealth>) -> Check {
    let Some(history) = health else {
        return Check::new(Mark::Fair, "history", "none is kept for `netconn search`, as the configuration wants it");
    };
    let HistoryHealth { output, bytes, files, oldest, full, conversion, waiting, converted: _, failures } = history;
    let since = oldest
        .and_then(|oldest| Timestamp::from_millisecond(i64::try_from(oldest).ok()?).ok())
        .map_or_else(String::new, |oldest| format!(" since {oldest:.0}"));
    let (mut mark, fate) = fate(output);
    let mut finding = format!("{}: {:.1} MB in {files} files{since}; {fate}", output.path, *bytes as f64 / 1e6);
    let mut worse = |than, text: String| {
        mark = if mark == Mark::Bad { Mark::Bad } else { than };
        finding.push_str(&text);
    };
    if *full {
        worse(Mark::Bad, "; events are being lost: free some space".into());
    }
    match conversion {
        Conversion::Missing => {
            worse(Mark::Fair, format!("; {waiting} segments stay NDJSON, which takes more room: {NotInstalled}"));
        }
        Conversion::Failing => {
            worse(Mark::Bad, format!("; {waiting} segments could not be converted, see the log"));
        }
        Conversion::Idle | Conversion::Running if *failures != 0 => {
            worse(Mark::Fair, format!("; {failures} conversions have failed and were tried again, see the log"));
        }
        Conversion::Idle | Conversion::Running => {}
    }
    Check::new(mark, "history", finding)
}

/// How many flows there are; nothing where none are watched.
fn flows(flows: &FlowCounts) -> Option<Check> {
    let FlowCounts { protocols, folded, bound, uncounted } = flows;
    if protocols.is_empty() && *bound == 0 {
        return None;
    }
    let mut counts: Vec<String> = protocols.iter().map(|(name, count)| format!("{count} {name}")).collect();
    counts.push(format!("{bound} sockets that wait for datagrams"));
    let counts = counts.join(", ");
    Some(if *uncounted != 0 {
        let finding = format!(
            "{counts}; {uncounted} datagrams were not counted, because there was no room: a larger max_flows in the \
             configuration helps"
        );
        Check::new(Mark::Bad, "flows", finding)
    } else if *folded == 0 {
        Check::new(Mark::Good, "flows", counts)
    } else {
        let finding = format!(
            "{counts}; {folded} of them stand for more than one other end, because there were too many: a larger max_flows \
             in the configuration helps"
        );
        Check::new(Mark::Fair, "flows", finding)
    })
}

/// A connection of this process to itself.
struct Loopback {
    client: SocketAddr,
    server: SocketAddr,
    _held: (TcpListener, TcpStream),
}

impl Loopback {
    fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        Ok(Self { client: stream.local_addr()?, server: stream.peer_addr()?, _held: (listener, stream) })
    }

    fn found(&self, since: Instant) -> Check {
        let finding = format!(
            "{} -> {} of this process ({}) was seen after {} ms",
            self.client,
            self.server,
            std::process::id(),
            since.elapsed().as_millis()
        );
        Check::new(Mark::Good, "proof", finding)
    }

    fn missed(&self) -> Check {
        let finding = format!("{} -> {} of this process was not seen within 2 s", self.client, self.server);
        Check::new(Mark::Bad, "proof", finding)
    }
}

/// The proof through a running daemon.
pub async fn prove(client: &Client) -> Result<Check, ClientError> {
    let since = Instant::now();
    let loopback = match Loopback::open() {
        Ok(loopback) => loopback,
        Err(error) => {
            return Ok(Check::new(Mark::Bad, "proof", format!("no loopback connection can be made: {error}")));
        }
    };
    let parameters = [("direction", "outgoing".to_owned()), ("pid", std::process::id().to_string())]
        .into_iter()
        .chain([("port", loopback.client.port().to_string())])
        .map(|(name, value)| (name.to_owned(), value))
        .collect::<Vec<_>>();
    while since.elapsed() < PROOF {
        let mut seen = false;
        client
            .connections(&parameters, RowFormat::Ndjson)
            .await?
            .lines(|line| {
                seen = serde_json::from_slice(line).is_ok_and(|row: Row<'_>| {
                    row.state.as_deref() == Some("ESTABLISHED") && row.remote_port == Some(loopback.server.port())
                });
                Ok::<_, ClientError>(!seen)
            })
            .await?;
        if seen {
            return Ok(loopback.found(since));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(loopback.missed())
}

/// The hooks and the proof without a daemon: programs are attached for this moment only.
///
/// # Errors
///
/// When nothing can be captured.
pub fn prove_alone() -> Result<Vec<Check>, LoadError> {
    let mut capture = Capture::start(&CaptureOptions::one_shot(RING_BYTES))?;
    let mut checks = hooks(capture.hooks());
    let since = Instant::now();
    let loopback = match Loopback::open() {
        Ok(loopback) => loopback,
        Err(error) => {
            checks.push(Check::new(Mark::Bad, "proof", format!("no loopback connection can be made: {error}")));
            return Ok(checks);
        }
    };
    let mut table = Table::default();
    while since.elapsed() < PROOF {
        let mut apply = |data: &[u8]| {
            if let Some(Record::Tcp(record)) = decode(data) {
                table.apply(record, &mut Silent(None));
            }
        };
        while capture.rings().next(&mut apply) != 0 {}
        let seen = table.from_slot(0).any(|(_, connection)| {
            connection.owner.tgid == std::process::id()
                && connection.state == tcp_state::ESTABLISHED
                && connection.local.port == loopback.client.port()
                && connection.remote.is_some_and(|end| end.port == loopback.server.port())
        });
        if seen {
            checks.push(loopback.found(since));
            return Ok(checks);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    checks.push(loopback.missed());
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_says_what_is_wrong_with_it() {
        assert_eq!(history(None).mark, Mark::Fair);
        let output = OutputHealth { path: "/h".into(), written: 5, lost_disk: Some(0), ..OutputHealth::default() };
        let well = HistoryHealth {
            output: output.clone(),
            bytes: 12_340_000,
            files: 3,
            oldest: Some(1_767_225_600_999),
            full: false,
            conversion: Conversion::Idle,
            waiting: 0,
            converted: 2,
            failures: 0,
        };
        let check = history(Some(&well));
        let expected = "/h: 12.3 MB in 3 files since 2026-01-01T00:00:00Z; 5 events written, none lost";
        assert_eq!((check.mark, &*check.finding), (Mark::Good, expected));
        for (ill, mark, expected) in [
            (HistoryHealth { full: true, ..well.clone() }, Mark::Bad, "free some space"),
            (
                HistoryHealth { output: OutputHealth { lost_disk: Some(7), ..output }, ..well.clone() },
                Mark::Bad,
                "7 because the disk",
            ),
            (HistoryHealth { failures: 1, ..well.clone() }, Mark::Fair, "1 conversions have failed"),
            (
                HistoryHealth { conversion: Conversion::Failing, waiting: 2, ..well.clone() },
                Mark::Bad,
                "2 segments could not",
            ),
            (
                HistoryHealth { conversion: Conversion::Missing, waiting: 2, ..well },
                Mark::Fair,
                "2 segments stay NDJSON, which takes more room: netconn-search is not installed: `cargo build",
            ),
        ] {
            let check = history(Some(&ill));
            assert_eq!(check.mark, mark);
            assert!(check.finding.contains(expected), "{}", check.finding);
        }
    }

    #[test]
    fn folded_flows_are_worth_a_word() {
        assert!(flows(&FlowCounts::default()).is_none(), "none are watched");
        let mut counts = FlowCounts { protocols: [("UDP".into(), 3)].into(), folded: 0, bound: 2, uncounted: 0 };
        let check = flows(&counts).unwrap();
        assert_eq!((check.mark, &*check.finding), (Mark::Good, "3 UDP, 2 sockets that wait for datagrams"));
        counts.folded = 1;
        let check = flows(&counts).unwrap();
        assert_eq!(check.mark, Mark::Fair);
        assert!(check.finding.contains("; 1 of them stand for more than one other end"), "{}", check.finding);
        counts.uncounted = 7;
        let check = flows(&counts).unwrap();
        assert_eq!(check.mark, Mark::Bad);
        assert!(check.finding.contains("; 7 datagrams were not counted"), "{}", check.finding);
    }
}
