//! The engine's loop.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::Ordering,
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
    directory::Directory,
    encode::event::Loss,
    engine::{
        Command, Cursor, Handle, Parts, RowsRequest, core::Core, owners::Owners, snapshot::Minisocks, telling::Telling,
        unsent::Unsent,
    },
    event::filter::Filter,
    health::{Health, OutputHealth, RecordCounts},
    kernel::{
        iterate::own,
        load::{Capture, Ring},
        preflight,
    },
    process::{Processes, lookup::Lookup, scan},
    sink::{Output, Stream},
    table::Table,
};

/// Records that are handled before commands are looked at.
const RECORDS_AT_ONCE: usize = 8192;
/// Events are handed over when this many bytes of them are ready, and whenever the ring is empty.
const BATCH_BYTES: usize = 64 << 10;
/// After records came, the next are waited for this long without asking the kernel to wake us: one wake-up for many
/// records costs less than one for each, and a client hears of a connection this late at most.
const GATHER: Duration = Duration::from_millis(5);
/// Longest sleep, and how often losses are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Programs that tell who accepts; with one of them it is worth waiting for.
const ACCEPTORS: [&str; 3] = ["inet_csk_accept", "getpeername4", "tcp_rcv_space_adjust"];
/// How long the last answers of the routing tables are waited for when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// How long outputs may take to write what waits when the daemon ends.
const FINISH: Duration = Duration::from_millis(700);

/// Everything the thread has.
pub(super) struct Loop {
    capture: Capture,
    outputs: Vec<Output>,
    core: Core,
    owners: Owners,
    started_ns: u64,
    /// Losses that were told, and when they were last looked for.
    told: Told,
}

/// Losses told so far.
struct Told {
    ring: u64,
    /// By output: queue and disk.
    outputs: Vec<(u64, u64)>,
    checked_ns: u64,
}

impl Loop {
    pub(super) fn new(parts: Parts, handle: &Handle) -> io::Result<Self> {
        let answers = handle.clone();
        let lookup = Lookup::start(move |answer| {
            if answers.send(Command::Answer(answer)).is_err() {
                warn!("an answer about accounts or cgroups was dropped");
            }
        })?;
        let clock = Clock::new();
        let now = clock.now();
        let told = Told { ring: 0, outputs: vec![(0, 0); parts.outputs.len()], checked_ns: now };
        let mut engine = Self {
            core: Core {
                processes: Processes::default(),
                table: Table::default(),
                unsent: Unsent::start(Arc::clone(&handle.wake))?,
                boot: parts.sensor.boot.chars().take(16).collect(),
                telling: Telling::new(clock, Directory::new(lookup), parts.encoder, !parts.outputs.is_empty()),
                sensor: parts.sensor,
                records: 0,
                unknown_records: 0,
                complete: false,
            },
            capture: parts.capture,
            outputs: parts.outputs,
            owners: Owners::default(),
            started_ns: now,
            told,
        };
        if ACCEPTORS.iter().any(|program| engine.capture.has(program)) {
            engine.core.table.expect_acceptors();
        }
        engine.dump();
        Ok(engine)
    }

    /// Handles what is in the ring when this is called; under a flood not also what comes meanwhile.
    fn catch_up(&mut self) {
        for _ in 0..=self.capture.ring_records() / RECORDS_AT_ONCE {
            if !self.drain() {
                return;
            }
        }
    }

    /// Brings table and processes into line with the kernel: at the start, and after records were lost.
    fn dump(&mut self) {
        // The programs are attached: whatever begins from now on waits in the ring.
        let Self { capture, core, outputs, .. } = self;
        // Nothing is taken from the ring meanwhile: what processes became since is newer than what is found.
        core.processes.add_scanned(scan::all());
        core.table.begin_dump();
        core.complete = false;
        let (mut sockets, namespaces) = match capture.sockets(|ring| _ = drain(ring, core, outputs)) {
            Ok(found) => found,
            Err(error) => {
                warn!("connections that were there before are not known: {error}");
                return core.table.abandon_dump();
            }
        };
        match capture.files(|ring| _ = drain(ring, core, outputs)) {
            Ok(files) => own(&mut sockets, &files),
            Err(error) => warn!("processes of connections that were there before are not known: {error}"),
        }
        self.catch_up();
        let exact = self.capture.dumps_are_exact();
        self.core.end_dump(sockets, |connection| exact && namespaces.contains(&u64::from(connection.namespace)));
        self.core.complete = true;
        self.core.telling.hand_over(&self.outputs);
    }

    pub(super) fn run(&mut self, commands: &Receiver<Command>, wake: &EventFd) {
        loop {
            self.core.telling.clock.refresh();
            let any = self.drain();
            self.core.take_answers(Duration::ZERO);
            loop {
                match commands.try_recv() {
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return self.finish(),
                    Ok(command) => self.answer(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            // Whoever read standard output has gone, so there is nobody to run for.
            if self.outputs.iter().any(|output| output.counters().closed.load(Ordering::Relaxed)) {
                return self.finish();
            }
            let now = self.core.telling.clock.now();
            if now.saturating_sub(self.told.checked_ns) >= TICK.as_nanos() as u64 {
                self.tick(now);
            }
            let deadline = self.announce_overdue(self.core.telling.clock.now());
            if any {
                wait(&[wake.as_fd()], GATHER);
            } else {
                wait(&[wake.as_fd(), self.capture.ring().as_fd()], deadline);
            }
            let _ = wake.read();
        }
    }

    /// Handles what is in the ring; `false` if it was empty.
    fn drain(&mut self) -> bool {
        drain(self.capture.ring(), &mut self.core, &self.outputs) != 0
    }

    fn answer(&mut self, command: Command) {
        match command {
            Command::Rows(RowsRequest { filter, cursor: Cursor::Start }, reply) => {
                let minisocks = self.minisocks(&filter);
                // What happened before the question belongs into the answer.
                self.catch_up();
                // Not a moment longer than known.
                if self.capture.lost() > self.told.ring {
                    self.tick(self.core.telling.clock.now());
                }
                self.find_ports();
                // An error means that the client has gone.
                let _ = reply.send(self.core.first_rows(&filter, &minisocks));
            }
            Command::Rows(RowsRequest { filter, cursor }, reply) => {
                let _ = reply.send(self.core.rows_from(&filter, &cursor));
            }
            Command::Stream(filter, queue) => self.core.telling.streams.push(Stream::new(filter, queue)),
            Command::Health(reply) => {
                self.catch_up();
                let _ = reply.send(self.health());
            }
            Command::Answer(answer) => self.core.telling.directory.answer(answer),
            Command::Reopen => {
                for output in self.outputs.iter().filter(|output| !output.reopen()) {
                    warn!("too much waits for {}: send SIGHUP again to open it anew", output.path().display());
                }
            }
            Command::Stop => {}
        }
    }

    /// Where only the answer to an attempt tells its own port, the kernel is asked for those that wait.
    fn find_ports(&mut self) {
        if !self.core.table.has_attempts_without_port() {
            return;
        }
        let Self { capture, core, outputs, .. } = self;
        match capture.attempts(|ring| _ = drain(ring, core, outputs)) {
            Ok(files) => files.iter().for_each(|file| core.table.set_port(file.socket, file.local_port)),
            Err(error) => warn!("ports of attempts are not known: {error}"),
        }
        // Sockets without a file (io_uring), and kernels where files do not lead to sockets (5.10): slower.
        if core.table.has_attempts_without_port()
            && let Ok((sockets, _)) = capture.sockets(|ring| _ = drain(ring, core, outputs))
        {
            sockets.iter().for_each(|socket| core.table.set_port(socket.socket, socket.local_port));
        }
    }

    /// What the kernel has of connections that are over, if a filter lets any of it through.
    fn minisocks(&mut self, filter: &Filter) -> Minisocks {
        let since_ns = self.core.telling.clock.now();
        let Self { capture, core, outputs, .. } = self;
        let found = if filter.wants_minisocks() {
            capture.minisocks(|ring| _ = drain(ring, core, outputs))
        } else {
            Ok(Vec::new())
        };
        let found = found.unwrap_or_else(|error| {
            warn!("connections in TIME_WAIT are not known: {error}");
            Vec::new()
        });
        Minisocks { found: found.into(), since_ns }
    }

    /// Announces the accepted connections that have waited long enough, and gives how long to sleep at most.
    fn announce_overdue(&mut self, now: u64) -> Duration {
        let Some(deadline) = self.core.table.next_deadline() else { return TICK };
        if deadline > now {
            return TICK.min(Duration::from_nanos(deadline - now));
        }
        if self.owners.may_look(now) {
            self.find_owners(&[]);
        }
        if self.core.announce_overdue(now) {
            self.owners.want(now);
        }
        self.core.telling.hand_over(&self.outputs);
        GATHER
    }

    /// Looks through open files for the owners of sockets.
    fn find_owners(&mut self, ended: &[(u32, u64)]) {
        let since = Instant::now();
        let Self { capture, core, outputs, .. } = self;
        let found = capture.owners(ended, |ring| _ = drain(ring, core, outputs));
        // What was found in the kernel may still be on its way into the table.
        self.catch_up();
        let now = self.core.telling.clock.now();
        match found {
            Ok(files) => self.core.found(&files, ended, now),
            Err(error) => warn!("open files cannot be looked through: {error}"),
        }
        self.owners.looked(now, since.elapsed());
    }

    /// What is done once a second while something happens.
    fn tick(&mut self, now: u64) {
        self.capture.flush_log();
        self.core.processes.sweep(now);
        self.core.table.sweep(now);
        if self.owners.may_look(now) {
            let ended = self.core.processes.take_ended(now);
            let ended = self.core.table.owners_among(ended);
            if !ended.is_empty() || self.owners.is_due(now) {
                self.find_owners(&ended);
            }
        }
        let is_lossy = self.tell_losses(now);
        // Also after a repair that failed.
        if is_lossy || (!self.core.complete && self.capture.has("dump_tcp")) {
            self.dump();
        }
        self.core.telling.hand_over(&self.outputs);
    }

    /// Tells what was lost since the last time; whether records of the kernel were.
    fn tell_losses(&mut self, now: u64) -> bool {
        let from_ns = std::mem::replace(&mut self.told.checked_ns, now);
        let mut tell = |stage, count: u64, told: &mut u64| {
            if count > *told {
                let loss = Loss { stage, count: count - *told, from_ns, to_ns: now };
                warn!("{} events or records were lost ({stage})", loss.count);
                self.core.telling.lose(loss);
                *told = count;
            }
        };
        let before = self.told.ring;
        tell("ring", self.capture.lost(), &mut self.told.ring);
        for (output, (queue, disk)) in self.outputs.iter().zip(&mut self.told.outputs) {
            tell("queue", output.counters().lost_queue.load(Ordering::Relaxed), queue);
            tell("disk", output.counters().lost_disk.load(Ordering::Relaxed), disk);
        }
        self.told.ring != before
    }

    /// Nothing in flight is lost: the programs are detached, the ring is emptied, the outputs are written.
    fn finish(&mut self) {
        self.capture.detach();
        while self.drain() {}
        self.core.take_answers(LAST_ANSWERS);
        self.core.tell_all();
        let now = self.core.telling.clock.now();
        self.tell_losses(now);
        self.core.telling.stop(self.capture.lost());
        self.core.telling.hand_over(&self.outputs);
        self.core.telling.streams.clear();
        let deadline = Instant::now() + FINISH;
        for output in self.outputs.drain(..) {
            let path = output.path().display().to_string();
            if !output.finish(deadline) {
                error!("{path} took too long: its last events are not written");
            }
        }
    }

    fn health(&self) -> Health {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Health {
            sensor_id: self.core.sensor.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: preflight::kernel_release(),
            uptime_seconds: self.core.telling.clock.now().saturating_sub(self.started_ns) / 1_000_000_000,
            pid: std::process::id(),
            resident_bytes: None,
            hooks: self.capture.hooks().to_vec(),
            missing_members: self.capture.missing_members().iter().map(ToString::to_string).collect(),
            complete: self.core.complete,
            connections: self.core.table.len(),
            processes: self.core.processes.len(),
            clients: self.core.telling.streams.len(),
            records: RecordCounts {
                received: self.core.records,
                unknown: self.core.unknown_records,
                lost: self.capture.lost(),
            },
            events: self.core.telling.encoder.count(),
            outputs: self
                .outputs
                .iter()
                .map(|output| OutputHealth {
                    path: output.path().display().to_string(),
                    written: load(&output.counters().written),
                    lost_queue: load(&output.counters().lost_queue),
                    lost_disk: load(&output.counters().lost_disk),
                })
                .collect(),
        }
    }
}

/// Sleeps until one of the descriptors can be read, at most `limit`.
fn wait(descriptors: &[std::os::fd::BorrowedFd<'_>], limit: Duration) {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN)).collect();
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    if let Err(error) = poll(&mut polled, limit)
        && error != nix::errno::Errno::EINTR
    {
        // Never seen; without the pause this would be a busy loop.
        thread::sleep(GATHER);
    }
}

/// Handles what is in the ring, but not for ever; gives how many records that were.
fn drain(ring: &mut Ring, core: &mut Core, outputs: &[Output]) -> usize {
    let mut count = 0;
    while count < RECORDS_AT_ONCE
        && let Some(item) = ring.next()
    {
        core.handle(&item);
        count += 1;
        if core.telling.waiting() >= BATCH_BYTES {
            core.telling.hand_over(outputs);
        }
    }
    core.telling.hand_over(outputs);
    count
}
