//! Scans for facts that are in the kernel only: byte counters, minisocks, UDP sockets without flows. They are made before a
//! snapshot and, to compare the tables with the kernel, once a minute.

use std::thread;

use tracing::warn;

use crate::{
    engine::{repair::Doubts, run::Engine, schedule::GATHER},
    kernel::capture::{Live, LiveParts},
    table::Comparison,
};

/// Result of a scan for facts that are in the kernel only.
pub(super) struct Refreshed {
    pub(super) live: Live,
    /// When the scan began, nanoseconds since boot. All records up to its end are applied.
    pub(super) since_ns: u64,
    /// Doubts about the tables that the scan has raised.
    pub(super) doubts: Doubts,
    /// There are attempts whose local port is not known yet.
    pub(super) lacks_ports: bool,
    /// The scan has failed: what the kernel alone knows is missing.
    pub(super) has_failed: bool,
}

impl Engine {
    /// Scans the kernel for facts that it alone has, updates the tables and compares them with it.
    pub(super) fn refresh(&mut self, wanted: LiveParts) -> Refreshed {
        let (mut live, mut since_ns, mut has_failed) = self.scan_live(wanted);
        let mut doubts = Doubts::default();
        // The comparison needs the state of every connection, which comes with the counters: a scan without them
        // compares nothing.
        let lacks_ports = if wanted.counters {
            let mut comparison = self.compare(&live, since_ns);
            // An incomplete table lacks connections for a known reason, and a dump is due anyway.
            if comparison.missed != 0 && self.state.is_complete {
                // A program that was interrupted within its record keeps later records from us. It has gone on by now.
                thread::sleep(GATHER);
                if self.capture.dumps_are_exact() {
                    self.catch_up();
                } else {
                    // Where sockets are not locked while they are read, a scan may show an outdated state. A second scan shows
                    // it again only if the change was really missed.
                    (live, since_ns, has_failed) = self.scan_live(wanted);
                }
                comparison = self.compare(&live, since_ns);
                // Counts as a loss, so that the caller repairs the table and a `Data Loss` says so.
                self.loss_report.add_missed(comparison.missed as u64);
            }
            // A comparison for a snapshot is as good as one that was due.
            self.schedule.compared(since_ns, self.state.records);
            doubts.connections = comparison.needs_dump && self.state.is_complete;
            comparison.lacks_ports
        } else {
            self.state.table.has_attempts_without_port()
        };
        doubts.flows =
            wanted.datagrams && self.state.flows.needs_dump(&live.datagrams, &live.datagram_namespaces, since_ns);
        Refreshed { live, since_ns, doubts, lacks_ports, has_failed }
    }

    /// Scans the kernel, and returns when the scan began as well, and whether it has failed.
    fn scan_live(&mut self, wanted: LiveParts) -> (Live, u64, bool) {
        // Read before the scan: what changed after it may differ from what the scan found, and is no doubt.
        let since_ns = self.state.clock.now();
        match self.scan(|capture, meanwhile| capture.live(wanted, meanwhile)) {
            Ok(live) => {
                if wanted.minisocks || wanted.counters {
                    self.state.note_unreached(live.namespaces.unreached.clone());
                }
                (live, since_ns, false)
            }
            Err(error) => {
                warn!("cannot read connections in TIME_WAIT and byte counters: {error}");
                // A scan that failed has read no namespace: the comparison asks for a dump then, instead of taking all
                // connections for missed.
                (Live::default(), since_ns, true)
            }
        }
    }

    /// Updates byte counters and counts missed changes, see [`Table::compare`](crate::table::Table::compare).
    fn compare(&mut self, live: &Live, since_ns: u64) -> Comparison {
        // A socket that ended during the scan is in its result and no longer in the table.
        let ended = self.state.ended.connections.sockets_since(since_ns);
        self.state.table.compare(&live.counters, &live.namespaces.read, since_ns, |socket| ended.contains(&socket))
    }

    /// Finds the local ports of attempts that wait for an answer, where only the answer would report them (tier 2).
    pub(super) fn find_ports(&mut self) {
        match self.scan(|capture, meanwhile| capture.attempts(meanwhile)) {
            Ok(files) => files.iter().for_each(|file| self.state.table.set_port(file.socket, file.local_port)),
            Err(error) => warn!("cannot read the ports of attempts: {error}"),
        }
        // A scan of all sockets is slower. It is needed for sockets without a file (io_uring), and where files do not lead to
        // sockets (5.10).
        if self.state.table.has_attempts_without_port()
            && let Ok((sockets, _)) = self.scan(|capture, meanwhile| capture.sockets(meanwhile))
        {
            sockets.iter().for_each(|socket| self.state.table.set_port(socket.socket, socket.local_port));
        }
    }
}
