//! The table against a scan of the kernel's counters: shows which state changes were missed.

use std::collections::HashSet;

use netconn_common::{CountersRecord, tcp_state};

use super::{
    Connection, Table,
    coverage::{SETTLED_NS, is_read},
};

/// Result of a comparison of the table with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// State changes that were missed although no loss was counted.
    pub missed: usize,
    /// Whether there are attempts whose local port is not known yet.
    pub lacks_ports: bool,
    /// Whether there are connections in a namespace that could be read before and cannot be read now. Only a dump can
    /// decide whether they still exist.
    pub needs_dump: bool,
}

impl Table {
    /// Updates byte counters from a scan of `namespaces` begun at `since_ns`, nanoseconds since boot, and returns how many
    /// state changes the table has missed. All records up to the end of the scan must have been applied. `has_ended`
    /// returns whether a socket has ended since `since_ns`.
    ///
    /// The kernel counts programs that it could not run, but not all of them: `recursion_misses` came with 5.12, and there
    /// are machines where programs do not run in interrupts of protected processes.
    pub fn compare(
        &mut self,
        counters: &[CountersRecord],
        namespaces: &HashSet<u64>,
        since_ns: u64,
        has_ended: impl Fn(u64) -> bool,
    ) -> Comparison {
        // A number for each comparison marks the entries that it met, so that nothing has to be reset before the next.
        self.comparisons = self.comparisons.wrapping_add(1);
        let (mut met, mut missed, mut lacks_ports, mut needs_dump) = (0, 0, false, false);
        // What the kernel has: each socket should be in the table, in this state.
        for CountersRecord { socket, bytes_sent, bytes_received, state, .. } in counters {
            let slot = self.by_socket.get(socket).copied();
            if let Some(entry) = slot.and_then(|slot| self.connections.get_mut(slot)) {
                // Bytes only: all other counters are as of the last state change.
                (entry.totals.bytes_sent, entry.totals.bytes_received) = (*bytes_sent, *bytes_received);
                // Counts an entry once, also if the walk shows its socket twice: `met` decides below whether one was
                // missing.
                met += usize::from(entry.compared != self.comparisons);
                entry.compared = self.comparisons;
                lacks_ports |= entry.lacks_port();
                // An entry that has changed since the scan began may be newer than what the scan saw.
                missed += usize::from(entry.changed_ns < since_ns && u32::from(entry.state) != *state);
            } else {
                // The table has no half-open connections, and nothing remembers whether a listener has ended since.
                let may_be_absent = [tcp_state::SYN_RECV, tcp_state::LISTEN].map(u32::from).contains(state);
                missed += usize::from(!may_be_absent && !has_ended(*socket));
            }
        }
        // Usually all entries were met, and walking 100,000 entries for nothing costs milliseconds.
        if met < self.len() {
            for entry in self.connections.iter().filter(|entry| self.is_absent(entry, since_ns)) {
                if is_read(namespaces, entry.namespace) {
                    missed += 1;
                } else {
                    // In other states a socket outlives its process: it says nothing about the namespace.
                    let is_open = matches!(
                        entry.state,
                        tcp_state::LISTEN | tcp_state::SYN_SENT | tcp_state::ESTABLISHED | tcp_state::CLOSE_WAIT
                    );
                    needs_dump |= is_open && !self.unreadable.contains(entry.namespace);
                }
            }
            // Attempts that the walk has not met: they get into the kernel's table only with their port.
            lacks_ports = self.has_attempts_without_port();
        }
        Comparison { missed, lacks_ports, needs_dump }
    }

    /// Returns whether the last comparison should have met this entry and has not.
    fn is_absent(&self, entry: &Connection, since_ns: u64) -> bool {
        let is_settled = entry.changed_ns + SETTLED_NS < since_ns;
        is_settled
            && entry.compared != self.comparisons
            // A dump cannot remove a connection for which the kernel had no memory.
            && entry.generation != 0
            && entry.state != tcp_state::SYN_RECV
    }
}
