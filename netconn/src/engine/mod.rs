//! The one thread that owns the tables: it reads the rings, keeps processes and connections, publishes events and, between
//! two batches of records, answers the server.
//!
//! The thread's [`run::Engine`] has four parts: `capture` (programs and rings), `state` (what is known), `publisher` (events on
//! their way out) and `schedule` (all time stamps). Each question it answers, and each duty it has, is a file that adds methods
//! to it: questions are [`snapshot`] (with [`other_sockets`]), [`health`] and [`packet_sockets`]; duties are [`intake`], [`refresh`], [`repair`],
//! [`flow_sweep`], [`owner_scan`], [`deferred`], [`heartbeat`], [`reload`] and [`loss_report`].

mod route_lookup;
mod limit;
mod publisher;
mod frozen;
mod state;
mod schedule;
mod run;
mod intake;
mod loss_report;
mod owner_scan;
mod flow_sweep;
mod repair;
mod refresh;
mod deferred;
mod other_sockets;
mod snapshot;
mod health;
mod packet_sockets;
mod heartbeat;
mod reload;

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use netconn_model::{
    event::Sensor,
    filter::Filter,
    health::{Health, HookStatus, MissingCapability, Privileges, Verdict},
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot};

use self::run::Engine;
pub use self::{
    frozen::SnapshotsFull,
    packet_sockets::packet_sockets,
    reload::Reload,
    snapshot::{Cursor, Rows, RowsRequest},
};
use crate::{
    encode::event::EventEncoder,
    kernel::{capture::Capture, packet_socket::PacketSockets},
    process::redact::Redactor,
    service::Notifier,
    sink::Output,
    table::flows::Limits,
};

/// Commands that wait at most. Each connection of the server waits for one answer at a time, and gets it although all others wait
/// too: the server has fewer places (`server::places`). The rest is for signals.
pub const COMMANDS_MAX: usize = 2048;

/// A command to the engine. Answers go into the channel that comes with it.
#[derive(Debug)]
pub enum EngineCommand {
    /// Asks for a part of a snapshot.
    Rows(RowsRequest, oneshot::Sender<Result<Rows, SnapshotsFull>>),
    /// Asks for all packet sockets, as one JSON object.
    PacketSockets(oneshot::Sender<Bytes>),
    /// Subscribes to the events of connections that match.
    Stream(StreamRequest),
    /// Asks for the health report.
    Health(oneshot::Sender<Health>),
    /// Opens the files of all outputs again.
    Reopen,
    /// Takes over settings that have changed.
    Reload(Box<Reload>, oneshot::Sender<()>),
    /// Ends the daemon.
    Stop,
}

/// A client that wants to listen to events.
#[derive(Debug)]
pub struct StreamRequest {
    /// Which connections.
    pub filter: Arc<Filter>,
    /// Where its events go.
    pub queue: mpsc::Sender<Bytes>,
    /// It is root or the daemon's own user.
    pub is_root: bool,
}

/// Too many commands wait, or the engine has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the daemon is too busy to answer")]
pub struct Busy;

/// Sends commands to the engine.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: SyncSender<EngineCommand>,
    wake: Arc<EventFd>,
}

impl Handle {
    /// Sends a command and wakes the engine.
    ///
    /// # Errors
    ///
    /// When too many commands wait or the engine has ended.
    pub fn send(&self, command: EngineCommand) -> Result<(), Busy> {
        self.offer(command).map_err(|_| Busy)
    }

    /// Sends a command and wakes the engine; gives the command back if too many wait or the engine has ended.
    pub(crate) fn offer(&self, command: EngineCommand) -> Result<(), EngineCommand> {
        // Never waits: the callers are tasks of tokio, which must not block on a busy engine.
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) | TrySendError::Disconnected(command) => command,
        })?;
        // It fails only when 2^64 wake-ups wait: the engine then wakes anyway.
        let _ = self.wake.write(1);
        Ok(())
    }
}

/// The thread of a running engine.
#[derive(Debug)]
pub struct EngineThread(JoinHandle<io::Result<()>>);

impl EngineThread {
    /// Makes the channel through which an engine takes commands.
    ///
    /// # Errors
    ///
    /// When the system gives no event descriptor.
    pub fn channel() -> io::Result<(Handle, Receiver<EngineCommand>)> {
        // Not blocking: the engine reads it after each sleep, also when nobody has written.
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        Ok((Handle { commands, wake: Arc::new(wake) }, receiver))
    }

    /// Starts the thread. It calls `ready` when its tables are complete, and `ended` when it ends, also when it panics.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(
        handle: Handle,
        commands: Receiver<EngineCommand>,
        parts: Parts,
        (ready, ended): (impl FnOnce() + Send + 'static, impl FnOnce() + Send + 'static),
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name("netconn-engine".into()).spawn(move || {
            // Bound first, so dropped last: when it is called, the engine has closed its outputs.
            let _ended = OnDrop(Some(ended));
            // Made on its own thread: `Rc` in the tables must not move between threads.
            let mut engine = Engine::new(parts, &handle)?;
            ready();
            engine.run(&commands, &handle.wake)
        })?;
        Ok(Self(thread))
    }

    /// Waits until the engine has ended; returns `None` if it panicked.
    ///
    /// # Errors
    ///
    /// When it could not start, or has ended because nobody reads its events any more.
    pub fn join(self) -> Option<io::Result<()>> {
        self.0.join().ok()
    }
}

/// Calls a function when it is dropped, also when the thread panics.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// The parts that an engine is made of.
pub struct Parts {
    /// Attached programs.
    pub capture: Capture,
    /// Identity of this sensor.
    pub sensor: Sensor,
    /// Encodes events.
    pub encoder: EventEncoder,
    /// Where events go.
    pub outputs: Vec<Output>,
    /// Which flows are kept, and for how long.
    pub flows: Limits,
    /// What the daemon may do.
    pub privileges: Privileges,
    /// Most events of a kind in a second; 0: no limit.
    pub event_limit: u32,
    /// Most bytes of a command line.
    pub command_line_bytes: usize,
    /// Packet sockets that `Sensor Start` names; `None` if there is no output that has it.
    pub packet_sockets: Option<PacketSockets>,
    /// Hears of the engine's loop.
    pub notifier: Notifier,
    /// The loop ends at [`EngineCommand::Reopen`], for tests of the watchdog.
    pub gets_stuck: bool,
    /// Takes secrets out of command lines.
    pub redactor: Redactor,
}

/// Returns the hooks that are attached, and those that are missing with the reason, each as one text.
pub fn hooks_in_words(hooks: &[HookStatus]) -> (String, String) {
    let mut attached = Vec::new();
    let mut missing = Vec::new();
    for hook in hooks {
        match &hook.verdict {
            Verdict::Attached => attached.push(hook.hook.clone()),
            // Another hook does its work: neither a gap nor worth a word.
            Verdict::Unneeded { .. } => {}
            Verdict::Unsupported { reason } | Verdict::Failed { reason } => {
                missing.push(format!("{}: {reason}", hook.hook));
            }
        }
    }
    (attached.join(", "), missing.join("; "))
}

/// Returns the capabilities that are missing, with what that costs, as one text.
pub fn lacks_in_words(privileges: &Privileges) -> String {
    let words = |MissingCapability { capability, without }: &MissingCapability| format!("{capability}: {without}");
    privileges.missing.iter().map(words).collect::<Vec<_>>().join("; ")
}
