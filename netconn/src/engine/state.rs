//! Everything that is known, and how records of the kernel change it.

use std::{
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use netconn_common::{Flow, FlowKey, Owner};
use netconn_model::{
    event::Sensor,
    fact::{Failure, Outcome},
    health::Privileges,
};
use nix::sys::eventfd::EventFd;
use tracing::warn;

use crate::{
    clock::Clock,
    engine::{frozen::FrozenTotal, publisher::Publisher, route_lookup::RouteLookups},
    kernel::{
        decode::{Record, decode},
        flows::FlowMaps,
        iterate::Unreached,
    },
    names::Names,
    privileged,
    process::{Process, Processes, title::Titles},
    table::{
        Change, Connection, Effects, Table, failure_of,
        flows::{Flows, Limits},
        past::EndedLately,
    },
};

/// How long the start waits for names of accounts, all together: records of the kernel wait in the rings meanwhile.
const NAMES_PATIENCE: Duration = Duration::from_millis(250);

/// Everything that is known.
pub(super) struct State {
    pub(super) table: Table,
    pub(super) flows: Flows,
    /// The kernel's maps of flows.
    pub(super) flow_maps: FlowMaps,
    pub(super) processes: Processes,
    /// What was read of living processes for lists.
    pub(super) titles: Titles,
    pub(super) names: Names,
    pub(super) ended: EndedLately,
    /// What snapshots keep whose clients still read.
    pub(super) frozen: Arc<FrozenTotal>,
    pub(super) route_lookups: RouteLookups,
    pub(super) clock: Clock,
    pub(super) sensor: Sensor,
    /// First half of the boot id.
    pub(super) boot: String,
    /// Records received.
    pub(super) records: u64,
    /// TCP records of sockets for which the kernel had no memory to keep anything.
    pub(super) records_without_memory: u64,
    /// Records of an unknown kind.
    pub(super) unknown_records: u64,
    /// The table holds everything that the kernel has in the network namespaces that were read.
    pub(super) is_complete: bool,
    /// Network namespaces that the last look could not read.
    pub(super) unreached: Unreached,
    /// What the daemon may do.
    pub(super) privileges: Privileges,
    /// Dumps after the first.
    pub(super) repairs: u64,
    /// The log says that flows are folded.
    pub(super) has_logged_folding: bool,
}

impl State {
    /// Returns a state in which nothing is known. What is older than `began_ns`, nanoseconds since boot, existed before
    /// netconn; `wake` wakes the engine when an answer of the routing tables is there.
    ///
    /// # Errors
    ///
    /// When the system gives no thread for look-ups of routes.
    pub(super) fn new(
        sensor: Sensor,
        names: Names,
        (limits, flow_maps): (Limits, FlowMaps),
        began_ns: u64,
        wake: Arc<EventFd>,
    ) -> io::Result<Self> {
        let mut table = Table::default();
        table.set_began(began_ns);
        Ok(Self {
            table,
            flows: Flows::new(limits, began_ns),
            flow_maps,
            processes: Processes::default(),
            titles: Titles::start()?,
            names,
            ended: EndedLately::default(),
            frozen: Arc::default(),
            route_lookups: RouteLookups::start(wake)?,
            clock: Clock::new(),
            // 64 bits tell boots apart and keep the ids short, which are in each event.
            boot: sensor.boot.chars().take(16).collect(),
            sensor,
            records: 0,
            records_without_memory: 0,
            unknown_records: 0,
            is_complete: false,
            unreached: Unreached::default(),
            privileges: Privileges::default(),
            repairs: 0,
            has_logged_folding: false,
        })
    }

    /// Applies a record of the ring.
    pub(super) fn apply(&mut self, data: &[u8], publisher: &mut Publisher) {
        self.records += 1;
        match decode(data) {
            Some(Record::Tcp(record)) => {
                // Programs count lives from 1: 0 means that there was no memory to count in.
                self.records_without_memory += u64::from(record.state.generation == 0);
                let (table, _, mut effects) = self.tables(publisher);
                table.apply(record, &mut effects);
            }
            Some(Record::Owner(record)) => {
                let (table, flows, mut effects) = self.tables(publisher);
                // Generation 0: a UDP socket, which has one life only, or a TCP socket for which there was no memory.
                if record.generation != 0 || !flows.apply_owner(record, &mut effects) {
                    table.apply_owner(record, &mut effects);
                }
            }
            Some(Record::Flow(record)) => {
                let (_, flows, mut effects) = self.tables(publisher);
                flows.apply_flow(record, &mut effects);
                // At once: until the kernel folds the socket, each datagram to a new peer takes room from other
                // sockets.
                self.fold_flows();
            }
            Some(Record::UdpSocket(record)) => {
                let (_, flows, mut effects) = self.tables(publisher);
                flows.apply_socket(record, &mut effects);
            }
            Some(Record::Refused(record)) => {
                let (_, flows, mut effects) = self.tables(publisher);
                flows.apply_refused(record, &mut effects);
            }
            Some(Record::Released(record)) => {
                let (_, flows, mut effects) = self.tables(publisher);
                flows.apply_close(record, &mut effects);
            }
            Some(Record::Unsent(record)) => {
                let (table, _, mut effects) = self.tables(publisher);
                let attempt = table.apply_unsent(record, &mut effects);
                // Comes back only if nobody can be asked: it is published now, without a reason.
                if let Some(attempt) = attempt.and_then(|attempt| self.route_lookups.ask(attempt, record)) {
                    self.publish_failure(&attempt, None, publisher);
                }
            }
            Some(Record::Exec(record, path, arguments)) => self.processes.exec(record, path, arguments),
            Some(Record::Fork(record)) => self.processes.fork(record),
            Some(Record::Exit(record)) => self.processes.exit(record),
            Some(Record::Cgroup(record, path)) => self.names.add_cgroup(record.id, path),
            // Programs and daemon are built together, so this is damage. It is counted rather than fatal.
            None => self.unknown_records += 1,
        }
    }

    /// Notes which network namespaces could not be read, and logs that for the first time.
    pub(super) fn note_unreached(&mut self, unreached: Unreached) {
        // Later only health and lists say so: processes and namespaces come and go.
        if self.unreached == Unreached::default() {
            unreached.sentences().iter().for_each(|sentence| warn!("{sentence}"));
        }
        self.unreached = unreached;
    }

    /// Returns why the tables lack something that the kernel has, in sentences; none if they do not.
    pub(super) fn incomplete(&self) -> Vec<String> {
        let mut sentences = self.unreached.sentences();
        if privileged::child().is_some_and(|child| !child.is_alive) {
            sentences.push(
                "the privileged child has ended: sockets of other network namespaces that are older than netconn, or whose records were \
                 lost, are missing; restart netconn"
                    .into(),
            );
        }
        if !self.is_complete {
            sentences.push(
                "the kernel's sockets could not be read: what was there before, or was lost, is not shown; see the log"
                    .into(),
            );
        }
        sentences
    }

    /// Returns the tables, and the effects that they have on the rest of the state and on the publisher.
    pub(super) fn tables<'a>(
        &'a mut self,
        publisher: &'a mut Publisher,
    ) -> (&'a mut Table, &'a mut Flows, StateEffects<'a>) {
        // One call borrows the tables and, apart from them, all that they have an effect on.
        let Self { table, flows, flow_maps, processes, names, ended, clock, .. } = self;
        (table, flows, StateEffects { flow_maps, processes, names, ended, clock, publisher })
    }

    /// Waits for a moment for the names of the accounts that own what the tables hold.
    pub(super) fn settle_names(&mut self) {
        let Self { table, flows, names, clock, .. } = self;
        let owners = table.from_slot(0).chain(flows.from_slot(0)).map(|(_, connection)| &connection.owner);
        names.settle(owners, clock.now(), NAMES_PATIENCE);
    }

    /// Publishes the attempts whose reason is known by now, or within `patience`.
    pub(super) fn take_route_answers(&mut self, patience: Duration, publisher: &mut Publisher) {
        let until = Instant::now() + patience;
        loop {
            // All answers share the patience; without any left, those that are there are still taken.
            let left = until.saturating_duration_since(Instant::now());
            let Some((attempt, errno)) = self.route_lookups.next_answer(left) else { return };
            self.publish_failure(&attempt, errno, publisher);
        }
    }

    /// Publishes everything that waits for something, as far as it is known: the daemon ends.
    pub(super) fn publish_all(&mut self, publisher: &mut Publisher) {
        for attempt in self.route_lookups.take_unanswered() {
            self.publish_failure(&attempt, None, publisher);
        }
        let now = self.clock.now();
        let (table, flows, mut effects) = self.tables(publisher);
        table.announce_all(now, &mut effects);
        flows.announce_all(now, &mut effects);
    }

    /// Publishes the failure of an attempt that has sent nothing, for a reason that may be unknown.
    fn publish_failure(&mut self, attempt: &Connection, errno: Option<u32>, publisher: &mut Publisher) {
        let failure = errno.and_then(failure_of).unwrap_or(Failure::Other);
        let change = Change::Connect(Outcome::Failure(failure, errno.unwrap_or(0)));
        let (_, _, mut effects) = self.tables(publisher);
        // The attempt failed when it was made, not when the routing tables answered.
        effects.emit(change, attempt, attempt.born_ns);
    }
}

/// The effects of the tables on the rest of the state and on the publisher.
pub(super) struct StateEffects<'a> {
    flow_maps: &'a FlowMaps,
    processes: &'a Processes,
    names: &'a mut Names,
    ended: &'a mut EndedLately,
    clock: &'a Clock,
    publisher: &'a mut Publisher,
}

impl Effects for StateEffects<'_> {
    fn process(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.processes.of(owner)
    }

    fn take_flow(&mut self, key: &FlowKey) -> Option<Flow> {
        self.flow_maps.take(key)
    }

    fn emit(&mut self, change: Change, connection: &Connection, time_ns: u64) {
        // Also without outputs and streams: `--closed` and the owners of TIME_WAIT come from there.
        self.ended.note(change, connection, time_ns);
        self.publisher.publish(self.clock, self.names, (change, connection, time_ns));
    }
}
