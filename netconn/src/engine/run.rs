//! The engine's loop.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};
use tracing::{error, warn};

use crate::{
    clock::Clock,
    engine::{
        Command, Cursor, Handle, Parts, RowsRequest, core::Core, losing::OutputLoss, owners::Owners, telling::Telling,
        unsent::Unsent,
    },
    kernel::{
        capture::{Capture, Wanted},
        hooks::Program,
        iterate::assign_owners,
        losses::Losses,
        rings::Rings,
    },
    names::Names,
    os,
    process::{Processes, lookup::Lookup, scan},
    sink::{Output, Stream},
    table::{Coverage, Table, flows::Flows},
};

/// Records that are handled before commands are looked at.
const RECORDS_AT_ONCE: usize = 8192;
/// Events are handed over when this many bytes of them are ready, and whenever the ring is empty.
const BATCH_BYTES: usize = 64 << 10;
/// When a record comes, others are waited for this long before any is handled: one wake-up for many records costs less than
/// one for each, and a client hears of a connection this late at most. At 1,000 connections a second, 10 ms take a fifth of
/// the daemon's time less than 5 ms; 15 ms would take a third less, but half of the events would be late by 8 ms or more.
pub(super) const GATHER: Duration = Duration::from_millis(10);
/// After so many records there will be more by then: the kernel need not be asked.
const MANY: usize = 32;
/// Longest sleep.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// How often losses are looked for while records come: that costs 0.2 ms.
const LOOK: Duration = Duration::from_millis(250);
/// How often the table is compared with the kernel while records come: that takes a tenth of a second for 100,000
/// connections.
const CHECK: Duration = Duration::from_secs(60);
/// Longest pause between two dumps that fail.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// How long the last answers of the routing tables are waited for when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// How long outputs may take to write what waits when the daemon ends.
const FINISH: Duration = Duration::from_millis(700);

/// Everything the thread has.
pub(super) struct Loop {
    pub(super) capture: Capture,
    pub(super) outputs: Vec<Output>,
    pub(super) core: Core,
    pub(super) owners: Owners,
    pub(super) started_ns: u64,
    /// Dumps after the first.
    pub(super) repairs: u64,
    /// Losses that were told, and when they were last looked for.
    pub(super) told: Told,
    /// When a dump that failed is taken again, nanoseconds since boot, and how long was waited.
    again: (u64, Duration),
    /// Changes that only a comparison with the kernel has shown.
    pub(super) missed: u64,
    /// When the table was compared with the kernel, nanoseconds since boot, and records received until then.
    pub(super) checked: (u64, u64),
    /// The same of flows.
    pub(super) swept_ns: u64,
}

/// Losses told so far.
pub(super) struct Told {
    pub(super) kernel: Losses,
    /// Records of datagrams that were lost and have been made up for.
    datagrams: u64,
    /// By output.
    pub(super) outputs: Vec<OutputLoss>,
    pub(super) checked_ns: u64,
    /// Records received until then.
    pub(super) records: u64,
}

impl Loop {
    pub(super) fn new(mut parts: Parts, handle: &Handle) -> io::Result<Self> {
        let answers = handle.clone();
        let lookup = Lookup::start(move |answer| {
            if answers.send(Command::Answer(answer)).is_err() {
                warn!("an answer about accounts or cgroups was dropped");
            }
        })?;
        let clock = Clock::new();
        let now = clock.now();
        let told = Told {
            kernel: Losses::default(),
            datagrams: 0,
            outputs: vec![OutputLoss::default(); parts.outputs.len()],
            checked_ns: now,
            records: 0,
        };
        let mut engine = Self {
            core: Core {
                processes: Processes::default(),
                table: Table::default(),
                flows: Flows::new(parts.flows, parts.capture.began_ns()),
                maps: parts.capture.flow_maps(),
                unsent: Unsent::start(Arc::clone(&handle.wake))?,
                boot: parts.sensor.boot.chars().take(16).collect(),
                telling: Telling::new(clock, Names::new(lookup), parts.encoder, !parts.outputs.is_empty()),
                sensor: parts.sensor,
                records: 0,
                without_memory: 0,
                unknown_records: 0,
                complete: false,
                says_folded: false,
            },
            capture: parts.capture,
            outputs: parts.outputs,
            owners: Owners::default(),
            started_ns: now,
            repairs: 0,
            told,
            again: (0, TICK),
            missed: 0,
            checked: (now, 0),
            swept_ns: now,
        };
        engine.core.table.set_began(engine.capture.began_ns());
        if engine.capture.sees_acceptors() {
            engine.core.table.expect_acceptors();
        }
        engine.dump_all();
        Ok(engine)
    }

    /// Handles what is in the ring when this is called; under a flood not also what comes meanwhile.
    pub(super) fn catch_up(&mut self) {
        for _ in 0..=self.capture.ring_records() / RECORDS_AT_ONCE {
            if self.drain() == 0 {
                return;
            }
        }
    }

    /// Takes a dump; or two where sockets are not locked while they are read (5.10): what was about to end may then seem
    /// to live.
    pub(super) fn dump_all(&mut self) {
        if !self.capture.dumps_are_exact() {
            self.dump(true);
        }
        self.dump(false);
        self.dump_flows();
        os::release_free_memory();
    }

    /// Brings table and processes into line with the kernel: at the start, and after records were lost.
    fn dump(&mut self, is_first_of_two: bool) {
        // The programs are attached: whatever begins from now on waits in the ring.
        let Self { capture, core, outputs, .. } = self;
        // Nothing is taken from the ring meanwhile: what processes became since is newer than what is found.
        core.processes.replace(scan::all(), core.telling.clock.now());
        core.table.begin_dump();
        core.complete = false;
        let (mut sockets, namespaces) = match capture.sockets(|rings| _ = drain(rings, core, outputs)) {
            Ok(found) => found,
            Err(error) => {
                let (due_ns, pause) = &mut self.again;
                *due_ns = core.telling.clock.now() + pause.as_nanos() as u64;
                warn!("what was there before is not known: {error}; tried again in {} s", pause.as_secs());
                *pause = (*pause * 2).min(AGAIN_MAX);
                return core.table.abandon_dump();
            }
        };
        let mut coverage = Coverage::default();
        match capture.files(|rings| _ = drain(rings, core, outputs)) {
            Ok(files) => {
                assign_owners(sockets.iter_mut().map(|socket| (socket.socket, &mut socket.state.owner)), &files);
                coverage.open_sockets = Some(files.iter().map(|file| file.socket).collect());
            }
            Err(error) => warn!("processes of connections that were there before are not known: {error}"),
        }
        self.catch_up();
        coverage.namespaces = namespaces;
        coverage.is_first_of_two = is_first_of_two;
        let (table, _, mut effects) = self.core.tables();
        table.end_dump(sockets, &coverage, &mut effects);
        self.core.complete = true;
        self.again = (0, TICK);
        // Whoever ended unseen may have left sockets to others.
        let Core { table, processes, .. } = &self.core;
        let gone = table.unknown_owners(|owner| processes.of(owner).is_some());
        if !gone.is_empty() {
            self.find_owners(&gone);
        }
        self.core.telling.hand_over(&self.outputs);
    }

    pub(super) fn run(&mut self, commands: &Receiver<Command>, wake: &EventFd) {
        loop {
            self.core.telling.clock.refresh();
            let count = self.drain();
            self.core.take_answers(Duration::ZERO);
            loop {
                match commands.try_recv() {
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return self.finish(),
                    Ok(command) => self.answer(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            // Whoever read standard output has gone, so there is nobody to run for.
            if self.outputs.iter().any(Output::ends_daemon) {
                return self.finish();
            }
            let now = self.core.telling.clock.now();
            let pause = if self.core.records == self.told.records { TICK } else { LOOK };
            if now.saturating_sub(self.told.checked_ns) >= pause.as_nanos() as u64 {
                self.tick(now);
            }
            let deadline = self.announce_overdue(self.core.telling.clock.now()).min(pause);
            self.announce_found();
            if count >= MANY || self.core.has_backlog() {
                wait(&[wake.as_fd()], GATHER);
            } else {
                let [sockets, processes] = self.capture.rings().descriptors();
                // A connection's records come close together, and as long as one lies there the kernel wakes nobody.
                if matches!(wait(&[sockets, processes, wake.as_fd()], deadline), Some(0 | 1)) {
                    wait(&[wake.as_fd()], GATHER);
                }
            }
            let _ = wake.read();
        }
    }

    /// Handles what is in the ring, and gives how many records that were.
    fn drain(&mut self) -> usize {
        drain(self.capture.rings(), &mut self.core, &self.outputs)
    }

    fn answer(&mut self, command: Command) {
        match command {
            Command::Rows(RowsRequest { filter, is_array, closed_ns, cursor: Cursor::Start }, reply) => {
                let datagrams = filter.wants_datagrams() && self.capture.has_flows();
                let (minisocks, counters) = (filter.wants_minisocks(), filter.wants_counters());
                let wanted = Wanted { minisocks, counters, datagrams };
                // What happened before the question belongs into the answer, and nothing is wrong a moment longer than
                // known.
                let (live, lacks_ports) = self.check(wanted);
                if lacks_ports {
                    self.find_ports();
                }
                if datagrams {
                    self.sweep();
                }
                // An error means that the client has gone.
                let _ = reply.send(self.core.first_rows(&filter, (is_array, closed_ns), live));
            }
            Command::Rows(RowsRequest { filter, cursor, .. }, reply) => {
                let _ = reply.send(self.core.rows_from(&filter, &cursor));
            }
            Command::PacketSockets(reply) => _ = reply.send(self.packet_rows()),
            Command::Stream(filter, queue) => self.core.telling.streams.push(Stream::new(filter, queue)),
            Command::Health(reply) => {
                self.catch_up();
                let _ = reply.send(self.health());
            }
            Command::Answer(answer) => self.core.telling.directory.answer(answer),
            Command::Reopen => {
                for output in self.outputs.iter().filter(|output| !output.reopen()) {
                    warn!("too much waits for {}: send SIGHUP again to open it anew", output.destination());
                }
            }
            Command::Stop => {}
        }
    }

    /// What was lost since the start.
    pub(super) fn losses(&self) -> Losses {
        let losses = self.capture.losses();
        Losses { missed_runs: losses.missed_runs + self.missed, ..losses }
    }

    /// Looks through open files for the owners of sockets.
    pub(super) fn find_owners(&mut self, ended: &[(u32, u64)]) {
        let since = Instant::now();
        let Self { capture, core, outputs, .. } = self;
        let found = capture.owners(ended, |rings| _ = drain(rings, core, outputs));
        // What was found in the kernel may still be on its way into the table.
        self.catch_up();
        let now = self.core.telling.clock.now();
        match found {
            Ok(files) => self.core.apply_files(&files, ended, now),
            Err(error) => warn!("open files cannot be looked through: {error}"),
        }
        self.owners.looked(now, since.elapsed());
    }

    /// Ticks at once if records of the kernel were lost, so that the table is right.
    pub(super) fn tick_if_lossy(&mut self) {
        if self.losses().exceed(&self.told.kernel) {
            self.tick(self.core.telling.clock.now());
        }
    }

    /// What is done once a second while something happens.
    fn tick(&mut self, now: u64) {
        self.capture.flush_log();
        self.core.processes.sweep(now);
        self.core.telling.past.forget(now);
        self.core.telling.past_flows.forget(now);
        self.sweep_if_due(now);
        if self.owners.may_look(now) {
            let ended = self.core.processes.take_ended(now);
            let ended = self.core.table.owners_among(ended);
            if !ended.is_empty() || self.owners.is_due(now) {
                self.find_owners(&ended);
            }
        }
        let (checked_ns, records) = self.checked;
        let is_old = now.saturating_sub(checked_ns) >= CHECK.as_nanos() as u64;
        if is_old && records != self.core.records && self.capture.has(Program::DumpTcp) {
            // This ticks again, if anything was missed.
            self.checked = (now, self.core.records);
            self.core.table.doubt_unreadable();
            self.core.flows.doubt_unreadable();
            self.check(Wanted { minisocks: false, counters: true, datagrams: self.capture.has_flows() });
        }
        let is_lossy = self.tell_losses(now, false);
        let is_due = !self.core.complete && self.again.0 <= now && self.capture.has(Program::DumpTcp);
        if is_due || (is_lossy && self.core.complete) {
            self.repairs += 1;
            self.dump_all();
        } else if self.lost_datagrams() {
            self.dump_flows();
        }
        self.core.telling.hand_over(&self.outputs);
    }

    /// Whether records of datagrams were lost since the last time.
    fn lost_datagrams(&mut self) -> bool {
        let lost = self.capture.losses().datagrams;
        std::mem::replace(&mut self.told.datagrams, lost) != lost
    }

    /// Nothing in flight is lost: the programs are detached, the ring is emptied, the outputs are written.
    fn finish(&mut self) {
        self.capture.detach();
        while self.drain() != 0 {}
        self.core.take_answers(LAST_ANSWERS);
        let deadline = Instant::now() + FINISH;
        while self.announce_found() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.core.tell_all();
        let now = self.core.telling.clock.now();
        self.tell_losses(now, true);
        self.core.telling.stop(self.losses().records());
        self.core.telling.hand_over(&self.outputs);
        self.core.telling.streams.clear();
        for output in self.outputs.drain(..) {
            let destination = output.destination().to_owned();
            if !output.finish(deadline) {
                error!("{destination} took too long: its last events are not written");
            }
        }
    }
}

/// Sleeps until one of the descriptors can be read, at most `limit`. Gives which, the last of them that can.
fn wait(descriptors: &[std::os::fd::BorrowedFd<'_>], limit: Duration) -> Option<usize> {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN)).collect();
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    if let Err(error) = poll(&mut polled, limit)
        && error != nix::errno::Errno::EINTR
    {
        // Never seen; without the pause this would be a busy loop.
        thread::sleep(GATHER);
    }
    polled.iter().rposition(|descriptor| descriptor.any().unwrap_or(false))
}

/// Handles what is in the ring, but not for ever; gives how many records that were.
pub(super) fn drain(rings: &mut Rings, core: &mut Core, outputs: &[Output]) -> usize {
    let mut count = 0;
    while count < RECORDS_AT_ONCE {
        let more = rings.next(|record| core.handle(record));
        if more == 0 {
            break;
        }
        count += more;
        if core.telling.waiting() >= BATCH_BYTES {
            core.telling.hand_over(outputs);
        }
    }
    core.telling.hand_over(outputs);
    count
}
