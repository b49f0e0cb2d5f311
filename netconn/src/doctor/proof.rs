//! The proof: a connection of this process to itself is made, and has to be seen.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use netconn_common::tcp_state;
use netconn_model::{
    client::{Client, ClientError, RowFormat},
    row::Row,
};

use crate::{
    doctor::{Check, Mark, hooks},
    kernel::{
        capture::Capture,
        decode::{Record, decode},
        load::{CaptureOptions, LoadError},
    },
    table::{Silent, Table},
};

/// Longest wait until the connection is seen.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two looks.
const PROOF_POLL: Duration = Duration::from_millis(5);
/// Ring buffer of a capture that sees little but its own connection, bytes.
const RING_BYTES: u32 = 1 << 20;

/// A connection of this process to itself.
struct Loopback {
    client: SocketAddr,
    server: SocketAddr,
    _held: (TcpListener, TcpStream),
}

impl Loopback {
    fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // No `accept`: the kernel establishes the connection when it is in the backlog.
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
        let finding = format!(
            "{} -> {} of this process was not seen within 2 s: look at the hooks that are not attached, and at the log",
            self.client, self.server
        );
        Check::new(Mark::Bad, "proof", finding)
    }
}

/// Proves that a running daemon sees a connection.
///
/// # Errors
///
/// When the daemon does not answer.
pub async fn prove(client: &Client) -> Result<Check, ClientError> {
    let since = Instant::now();
    let loopback = match Loopback::open() {
        Ok(loopback) => loopback,
        Err(error) => {
            return Ok(Check::new(Mark::Bad, "proof", format!("no loopback connection can be made: {error}")));
        }
    };
    // Only the outgoing half: the other one waits for an `accept` that never comes. Not by the process id, which is another one to
    // the daemon if one of the two is in a pid namespace of its own; the ends name the connection, in this network namespace.
    let namespace = fs::metadata("/proc/self/ns/net").map(|namespace| namespace.ino().to_string());
    let parameters = [("direction", "outgoing".to_owned()), ("port", loopback.client.port().to_string())]
        .into_iter()
        .chain(namespace.ok().map(|namespace| ("namespace", namespace)))
        .map(|(name, value)| (name.to_owned(), value))
        .collect::<Vec<_>>();
    while since.elapsed() < PROOF_TIMEOUT {
        // Asked again and again: the daemon may look at the ring only every 10 ms.
        let mut seen = false;
        client
            .connections(&parameters, RowFormat::Ndjson)
            .await?
            .lines(|line| {
                seen = serde_json::from_slice(line).is_ok_and(|row: Row<'_>| {
                    row.state.as_deref() == Some("ESTABLISHED")
                        && row.remote_port == Some(loopback.server.port().into())
                });
                Ok::<_, ClientError>(!seen)
            })
            .await?;
        if seen {
            return Ok(loopback.found(since));
        }
        tokio::time::sleep(PROOF_POLL).await;
    }
    Ok(loopback.missed())
}

/// Checks the hooks and proves that they see a connection, without a daemon: programs are attached for this moment only.
///
/// # Errors
///
/// When nothing can be captured.
pub fn prove_alone() -> Result<Vec<Check>, LoadError> {
    let mut capture = Capture::start(&CaptureOptions::one_shot(RING_BYTES))?;
    let mut checks = hooks(capture.hooks());
    // Only now: programs see what happens after they were attached.
    let since = Instant::now();
    let loopback = match Loopback::open() {
        Ok(loopback) => loopback,
        Err(error) => {
            checks.push(Check::new(Mark::Bad, "proof", format!("no loopback connection can be made: {error}")));
            return Ok(checks);
        }
    };
    let mut table = Table::default();
    while since.elapsed() < PROOF_TIMEOUT {
        let mut apply = |data: &[u8]| {
            if let Some(Record::Tcp(record)) = decode(data) {
                table.apply(record, &mut Silent(None));
            }
        };
        // Ends when both rings are empty; all records go through the table, because ours may be behind any of them.
        while capture.rings().next(&mut apply) != 0 {}
        // The address is always 127.0.0.1, so that the ports are enough. The process id is another one in a pid namespace.
        let seen = table.from_slot(0).any(|(_, connection)| {
            connection.state == tcp_state::ESTABLISHED
                && connection.local.port == loopback.client.port()
                && connection.remote.is_some_and(|end| end.port == loopback.server.port())
        });
        if seen {
            checks.push(loopback.found(since));
            return Ok(checks);
        }
        std::thread::sleep(PROOF_POLL);
    }
    checks.push(loopback.missed());
    Ok(checks)
}
