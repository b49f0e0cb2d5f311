//! Dumps of the kernel's sockets: they bring the tables into line at the start, and repair them after records were lost.

use tracing::warn;

use crate::{
    engine::run::Engine,
    kernel::{hooks::Program, iterate::assign_owners},
    os,
    process::{Key, scan},
    table::Coverage,
};

/// Doubts that a comparison with the kernel has raised although no loss was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Doubts {
    /// Only a dump can decide whether some connections still exist.
    pub(super) connections: bool,
    /// Only a dump can decide whether some flows or UDP sockets still exist.
    pub(super) flows: bool,
}

impl Engine {
    /// Repairs the tables at once if that is needed, so that a snapshot is right.
    pub(super) fn repair_if_needed(&mut self, doubts: Doubts) {
        if doubts != Doubts::default() || self.losses().exceed(self.loss_report.reported()) {
            self.report_and_repair(doubts);
        }
    }

    /// Reports losses and takes the dumps that they, or doubts, call for. A dump calls for no
    /// other: what is lost during it is found at the next tick.
    pub(super) fn report_and_repair(&mut self, doubts: Doubts) {
        let now = self.state.clock.now();
        let losses = self.losses();
        // Before the dump: the `Data Loss` precedes the events that the dump finds.
        let is_lossy = self.report_losses(losses, now, false);
        let has_lost_datagrams = self.loss_report.take_lost_datagrams(&losses);
        // A complete table is repaired at once; a dump that has failed is tried again after a growing pause only.
        let is_due = if self.state.is_complete {
            is_lossy || doubts.connections
        } else {
            // Without the iterator no dump can succeed.
            self.schedule.is_retry_due(now) && self.capture.has(Program::DumpTcp)
        };
        if is_due {
            self.state.repairs += 1;
            self.dump_all();
        // A full dump has done this already.
        } else if has_lost_datagrams || doubts.flows {
            self.dump_flows();
        }
        self.publisher.flush(&self.state.clock);
    }

    /// Takes a dump of everything. Where sockets are not locked while they are read (5.10), one that is about to end may seem
    /// to live: there, a second dump decides what has ended.
    pub(super) fn dump_all(&mut self) {
        if !self.capture.dumps_are_exact() {
            // Adds only; what it did not find is judged by the second dump.
            self.dump_connections(true);
        }
        self.dump_connections(false);
        self.dump_flows();
        // The records of 100,000 sockets took 20 MB, which the C library would keep.
        os::release_free_memory();
    }

    /// Takes a dump of processes and TCP sockets.
    fn dump_connections(&mut self, is_first_of_two: bool) {
        // Records from before /proc is read are applied before what is found there: an `exec` whose record was lost would be undone
        // by the record of an earlier one. At the start no process is known yet, and each record is to find its own.
        if !self.state.processes.is_empty() {
            self.catch_up();
        }
        // The programs are attached, so that everything that begins from here on waits in the rings. They are not emptied
        // while /proc is read: what a process became since is newer than what is found there.
        let found = scan::all();
        // After `/proc`, so that each process in it that still lives has a record; the rings wait here, too.
        let tasks = self.capture.tasks();
        self.state.processes.replace(found, &tasks, self.state.clock.now());
        // Before the sockets are read: their ends must be noted from then on, or a socket that ends after the iterator
        // has passed it would come back to life.
        self.state.table.begin_dump();
        let begun_ns = self.state.clock.now();
        // A snapshot cannot come in between; it is the early return below that leaves the table incomplete.
        self.state.is_complete = false;
        let (mut sockets, namespaces) = match self.scan(|capture, meanwhile| capture.sockets(meanwhile)) {
            Ok(found) => found,
            Err(error) => {
                let pause = self.schedule.dump_failed(self.state.clock.now());
                warn!("cannot read existing connections: {error}; trying again in {} s", pause.as_secs());
                return self.state.table.abandon_dump();
            }
        };
        self.state.note_unreached(namespaces.unreached);
        let mut coverage = Coverage { namespaces: namespaces.read, begun_ns, is_first_of_two, open_sockets: None };
        // The sockets of the dump say who owned them when a hook saw it. Open files say who has those that are older
        // than netconn, and which namespaces still have open sockets.
        match self.scan(|capture, meanwhile| capture.files(meanwhile)) {
            Ok(files) => {
                assign_owners(sockets.iter_mut().map(|socket| (socket.socket, &mut socket.state.owner)), &files);
                coverage.open_sockets = Some(files.iter().map(|file| file.socket).collect());
            }
            // Goes on without: connections without an owner are worth more than none.
            Err(error) => warn!("cannot read the processes of existing connections: {error}"),
        }
        let (table, _, mut effects) = self.state.tables(&mut self.publisher);
        table.end_dump(sockets, &coverage, &mut effects);
        self.state.is_complete = true;
        self.schedule.dump_succeeded();
        // A process may have ended unseen and left its sockets to others.
        let processes = &self.state.processes;
        let gone = self.state.table.unknown_holders(|owner| processes.knows(owner)).collect();
        self.adopt(gone);
        self.publisher.flush(&self.state.clock);
    }

    /// Takes a dump of UDP sockets, and sweeps flows.
    fn dump_flows(&mut self) {
        if !self.capture.has_flows() {
            return;
        }
        // Before the sockets are read, as for TCP.
        self.state.flows.begin_dump(self.state.clock.now());
        let found = self.scan(|capture, meanwhile| capture.datagrams(meanwhile));
        // Flows come first, so that `has_unreadable` and `end_dump` also see those whose records were lost.
        self.sweep_flows();
        match found {
            Ok((sockets, namespaces)) => {
                // Open files are read only if some namespace could not be: it costs a look at all of them.
                let is_partial = self.state.flows.has_unreadable(&namespaces);
                let open_sockets = if is_partial { self.open_sockets() } else { None };
                let now = self.state.clock.now();
                let coverage = Coverage { namespaces, begun_ns: now, open_sockets, is_first_of_two: false };
                let (_, flows, mut effects) = self.state.tables(&mut self.publisher);
                flows.end_dump(&sockets, &coverage, now, &mut effects);
                let processes = &self.state.processes;
                let gone = self.state.flows.unknown_holders(|owner| processes.knows(owner)).collect();
                self.adopt(gone);
            }
            Err(error) => {
                self.state.flows.abandon_dump();
                warn!("cannot read existing UDP sockets: {error}");
            }
        }
        self.publisher.flush(&self.state.clock);
    }

    /// Finds who has the sockets of processes that have ended unseen.
    fn adopt(&mut self, gone: Vec<Key>) {
        if !gone.is_empty() {
            self.schedule.owner_scans.add_ended(gone);
            self.scan_owners();
        }
    }

    /// Returns the numbers of the sockets that a process has open; `None` where files do not lead to cookies (before 5.12).
    fn open_sockets(&mut self) -> Option<hashbrown::HashSet<u64>> {
        if !self.capture.has_cookies() {
            return None;
        }
        let files = self.scan(|capture, meanwhile| capture.files(meanwhile)).inspect_err(|error| {
            warn!("cannot find out which UDP sockets are left in unreadable network namespaces: {error}");
        });
        Some(files.ok()?.iter().map(|file| file.socket).collect())
    }
}
