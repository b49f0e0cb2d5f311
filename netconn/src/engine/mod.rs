//! The one thread that owns the table: it reads the ring buffer, keeps processes and connections, encodes events,
//! hands them to the outputs and answers questions of the server between two batches.

mod core;
mod owners;
mod snapshot;
mod telling;
mod unsent;

pub use snapshot::{Cursor, Rows, RowsRequest};

use std::{
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashbrown::HashMap;
use netconn_common::{FileRecord, TcpRecord};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use crate::{
    clock::Clock,
    directory::Directory,
    encode::event::{EventEncoder, Loss, Sensor},
    engine::{core::Core, owners::Owners, snapshot::Minisocks, telling::Telling, unsent::Unsent},
    event::filter::Filter,
    health::{Health, OutputHealth, RecordCounts},
    kernel::{
        hooks::{HookStatus, Verdict},
        load::Capture,
        preflight, route,
    },
    process::{
        Processes,
        lookup::{Answer, Lookup},
        scan,
    },
    sink::{Output, Stream},
    table::Table,
};

/// Commands that wait.
const COMMANDS_MAX: usize = 256;
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

/// What the engine can be asked for.
#[derive(Debug)]
pub enum Command {
    /// Part of a snapshot.
    Rows(RowsRequest, oneshot::Sender<Rows>),
    /// A stream of events.
    Stream(Arc<Filter>, mpsc::Sender<Bytes>),
    /// How the daemon is.
    Health(oneshot::Sender<Health>),
    /// An answer of the look-up thread.
    Answer(Answer),
    /// An answer of the routing tables.
    Route(route::Answer),
    /// Open all files anew.
    Reopen,
    /// End.
    Stop,
}

/// The engine has ended or has too much to do.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the daemon is too busy to answer")]
pub struct Busy;

/// Where commands go.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
}

impl Handle {
    /// Sends a command and wakes the engine, and waits while too many commands wait.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub fn send_patiently(&self, command: Command) -> Result<(), Busy> {
        self.commands.send(command).map_err(|_| Busy)?;
        // As below.
        let _ = self.wake.write(1);
        Ok(())
    }

    /// Sends a command and wakes the engine.
    ///
    /// # Errors
    ///
    /// When too many commands wait or the engine has ended.
    pub fn send(&self, command: Command) -> Result<(), Busy> {
        self.commands.try_send(command).map_err(|_| Busy)?;
        // It fails only when 2^64 wake-ups wait: the engine then wakes anyway.
        let _ = self.wake.write(1);
        Ok(())
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    /// Where commands go.
    pub handle: Handle,
    thread: JoinHandle<()>,
}

impl Engine {
    /// Makes the channel through which an engine will be spoken to.
    ///
    /// # Errors
    ///
    /// When the system gives no event descriptor.
    pub fn channel() -> io::Result<(Handle, Receiver<Command>)> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        Ok((Handle { commands, wake: Arc::new(wake) }, receiver))
    }

    /// Starts the thread. It calls `ended` when it ends, for whatever reason.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(
        handle: Handle,
        commands: Receiver<Command>,
        parts: Parts,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let wake = Arc::clone(&handle.wake);
        let lookups = handle.clone();
        let thread = thread::Builder::new().name("netconn-engine".into()).spawn(move || {
            let _ended = OnDrop(Some(ended));
            match Loop::new(parts, &lookups) {
                Ok(mut engine) => engine.run(&commands, &wake),
                Err(error) => error!("the engine cannot start: {error}"),
            }
        })?;
        Ok(Self { handle, thread })
    }

    /// Waits until the engine has ended; `false` if it panicked.
    pub fn join(self) -> bool {
        self.thread.join().is_ok()
    }
}

/// Calls a function when it goes, also when the thread panics.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// What an engine is made of.
pub struct Parts {
    /// Attached programs.
    pub capture: Capture,
    /// Who this sensor is.
    pub sensor: Sensor,
    /// Writes events.
    pub encoder: EventEncoder,
    /// Where events go.
    pub outputs: Vec<Output>,
}

struct Loop {
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
    fn new(parts: Parts, handle: &Handle) -> io::Result<Self> {
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
                unsent: Unsent::start(handle.clone())?,
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
        self.core.processes.add_scanned(scan::all());
        self.core.table.begin_dump();
        self.core.complete = false;
        let (mut sockets, namespaces) = match self.capture.sockets() {
            Ok(found) => found,
            Err(error) => {
                warn!("connections that were there before are not known: {error}");
                return self.core.table.abandon_dump();
            }
        };
        match self.capture.files(false) {
            Ok(files) => own(&mut sockets, &files),
            Err(error) => warn!("processes of connections that were there before are not known: {error}"),
        }
        self.catch_up();
        let exact = self.capture.dumps_are_exact();
        self.core.end_dump(sockets, |connection| exact && namespaces.contains(&u64::from(connection.namespace)));
        self.core.complete = true;
        self.core.telling.hand_over(&self.outputs);
    }

    fn run(&mut self, commands: &Receiver<Command>, wake: &EventFd) {
        loop {
            self.core.telling.clock.refresh();
            let any = self.drain();
            loop {
                match commands.try_recv() {
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return self.finish(commands),
                    Ok(command) => self.answer(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            // Whoever read standard output has gone, so there is nobody to run for.
            if self.outputs.iter().any(|output| output.counters().closed.load(Ordering::Relaxed)) {
                return self.finish(commands);
            }
            let now = self.core.telling.clock.now();
            if now.saturating_sub(self.told.checked_ns) >= TICK.as_nanos() as u64 {
                self.tick(now);
            }
            if any {
                wait(&[wake.as_fd()], GATHER);
            } else {
                let deadline = self.announce_overdue(self.core.telling.clock.now());
                wait(&[wake.as_fd(), self.capture.ring().as_fd()], deadline);
            }
            let _ = wake.read();
        }
    }

    /// Handles what is in the ring; `false` if it was empty.
    fn drain(&mut self) -> bool {
        let ring = self.capture.ring();
        let mut count = 0;
        while count < RECORDS_AT_ONCE
            && let Some(item) = ring.next()
        {
            self.core.handle(&item);
            count += 1;
            if self.core.telling.waiting() >= BATCH_BYTES {
                self.core.telling.hand_over(&self.outputs);
            }
        }
        self.core.telling.hand_over(&self.outputs);
        count != 0
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
            Command::Route(answer) => {
                self.core.answer(&answer);
                self.core.telling.hand_over(&self.outputs);
            }
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
        match self.capture.files(true) {
            Ok(files) => files.iter().for_each(|file| self.core.table.set_port(file.socket, file.local_port)),
            Err(error) => warn!("ports of attempts are not known: {error}"),
        }
        // Sockets without a file (io_uring), and kernels where files do not lead to sockets (5.10): slower.
        if self.core.table.has_attempts_without_port()
            && let Ok((sockets, _)) = self.capture.sockets()
        {
            sockets.iter().for_each(|socket| self.core.table.set_port(socket.socket, socket.local_port));
        }
    }

    /// What the kernel has of connections that are over, if a filter lets any of it through.
    fn minisocks(&mut self, filter: &Filter) -> Minisocks {
        let since_ns = self.core.telling.clock.now();
        let found = if filter.wants_minisocks() { self.capture.minisocks() } else { Ok(Vec::new()) };
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
        let found = self.capture.owners(ended);
        // What was found in the kernel may still be on its way into the table.
        self.catch_up();
        let now = self.core.telling.clock.now();
        match found {
            Ok(files) => self.core.found(&files, now),
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
        let is_lossy = self.told.ring != before;
        for (output, (queue, disk)) in self.outputs.iter().zip(&mut self.told.outputs) {
            tell("queue", output.counters().lost_queue.load(Ordering::Relaxed), queue);
            tell("disk", output.counters().lost_disk.load(Ordering::Relaxed), disk);
        }
        if is_lossy {
            self.dump();
        }
        self.core.telling.hand_over(&self.outputs);
    }

    /// Nothing in flight is lost: the programs are detached, the ring is emptied, the outputs are written.
    fn finish(&mut self, commands: &Receiver<Command>) {
        self.capture.detach();
        while self.drain() {}
        let patience = Instant::now() + LAST_ANSWERS;
        while self.core.unsent.is_waiting()
            && let Ok(command) = commands.recv_timeout(patience.saturating_duration_since(Instant::now()))
        {
            if let Command::Route(answer) = command {
                self.core.answer(&answer);
            }
        }
        self.core.tell_all();
        let now = self.core.telling.clock.now();
        self.tick(now);
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

/// Gives sockets without an owner to the process that has them open: of several to the one that is there longest.
fn own(sockets: &mut [TcpRecord], files: &[FileRecord]) {
    let mut owners: HashMap<u64, &FileRecord> = HashMap::with_capacity(files.len());
    for file in files {
        let owner = owners.entry(file.socket).or_insert(file);
        if file.owner.start_ns < owner.owner.start_ns {
            *owner = file;
        }
    }
    for socket in sockets.iter_mut().filter(|socket| socket.state.owner.tgid == 0) {
        if let Some(file) = owners.get(&socket.socket) {
            socket.state.owner = file.owner;
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

/// The hooks that work, and those that do not with the reason, each as one text.
pub fn hooks_in_words(hooks: &[HookStatus]) -> (String, String) {
    let mut attached = Vec::new();
    let mut missing = Vec::new();
    for hook in hooks {
        match &hook.verdict {
            Verdict::Attached => attached.push(hook.hook.clone()),
            Verdict::Unneeded { .. } => {}
            Verdict::Unsupported { reason } | Verdict::Failed { reason } => {
                missing.push(format!("{}: {reason}", hook.hook));
            }
        }
    }
    (attached.join(", "), missing.join("; "))
}
