//! The table against what the kernel alone knows, before a snapshot and once a minute.

use std::thread;

use tracing::warn;

use crate::{
    engine::{
        core::Core,
        run::{GATHER, Loop, drain},
    },
    kernel::capture::{Live, Wanted},
    table::Comparison,
};

impl Loop {
    /// Where only the answer to an attempt tells its own port, the kernel is asked for those that wait.
    pub(super) fn find_ports(&mut self) {
        let Self { capture, core, outputs, .. } = self;
        match capture.attempts(|rings| _ = drain(rings, core, outputs)) {
            Ok(files) => files.iter().for_each(|file| core.table.set_port(file.socket, file.local_port)),
            Err(error) => warn!("ports of attempts are not known: {error}"),
        }
        // Sockets without a file (io_uring), and kernels where files do not lead to sockets (5.10): slower.
        if core.table.has_attempts_without_port()
            && let Ok((sockets, _)) = capture.sockets(|rings| _ = drain(rings, core, outputs))
        {
            sockets.iter().for_each(|socket| core.table.set_port(socket.socket, socket.local_port));
        }
    }

    /// What the kernel alone knows, and since when it was asked; whether ports of attempts are not known. The table is
    /// compared with it and repaired if need be.
    pub(super) fn check(&mut self, wanted: Wanted) -> ((Live, u64), bool) {
        let (mut live, mut since_ns) = self.live(wanted);
        let lacks_ports = if wanted.counters {
            let mut compared = self.compare(&live, since_ns);
            if compared.missed != 0 && self.core.complete {
                // A program that is interrupted keeps what comes after its record from us. It has gone on by now.
                thread::sleep(GATHER);
                if self.capture.dumps_are_exact() {
                    self.catch_up();
                } else {
                    // Where sockets are not locked while they are read, a state may be older than its change: not twice.
                    (live, since_ns) = self.live(wanted);
                }
                compared = self.compare(&live, since_ns);
                self.missed += compared.missed as u64;
            }
            self.checked = (since_ns, self.core.records);
            if compared.needs_dump && self.core.complete {
                self.repairs += 1;
                self.dump_all();
            }
            compared.lacks_ports
        } else {
            self.core.table.has_attempts_without_port()
        };
        if wanted.datagrams && self.core.flows.needs_dump(&live.datagrams, &live.datagram_namespaces, since_ns) {
            self.dump_flows();
        }
        self.tick_if_lossy();
        ((live, since_ns), lacks_ports)
    }

    /// What the kernel alone knows, and since when it was asked. All that happened until then is in the table.
    fn live(&mut self, wanted: Wanted) -> (Live, u64) {
        let since_ns = self.core.telling.clock.now();
        let Self { capture, core, outputs, .. } = self;
        let live = capture.live(wanted, |rings| _ = drain(rings, core, outputs)).unwrap_or_else(|error| {
            warn!("connections in TIME_WAIT and bytes so far are not known: {error}");
            Live::default()
        });
        self.catch_up();
        (live, since_ns)
    }

    /// Takes how much connections have moved: see [`Table::compare`].
    fn compare(&mut self, live: &Live, since_ns: u64) -> Comparison {
        let Core { table, telling, .. } = &mut self.core;
        let over = telling.past.sockets_since(since_ns);
        table.compare(&live.counters, &live.namespaces, since_ns, |socket| over.contains(&socket))
    }
}
