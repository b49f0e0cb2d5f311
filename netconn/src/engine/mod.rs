//! The one thread that owns the table: it reads the ring buffer, keeps processes and connections, encodes events,
//! hands them to the outputs and answers questions of the server between two batches.

mod announcing;
mod check;
mod condition;
mod core;
mod flows;
mod losing;
mod owners;
mod packet;
mod run;
mod snapshot;
mod telling;
mod unsent;

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use netconn_model::{
    filter::Filter,
    health::{Health, HookStatus, Verdict},
};
use nix::sys::eventfd::{EfdFlags, EventFd};
pub use packet::packet_sockets;
pub use snapshot::{Cursor, Rows, RowsRequest};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::{
    encode::event::{EventEncoder, Sensor},
    engine::run::Loop,
    kernel::capture::Capture,
    os,
    process::lookup::Answer,
    sink::Output,
    table::flows::Limits,
};

/// Commands that wait.
const COMMANDS_MAX: usize = 256;

/// What the engine can be asked for.
#[derive(Debug)]
pub enum Command {
    /// Part of a snapshot.
    Rows(RowsRequest, oneshot::Sender<Rows>),
    /// The sockets that no hook sees, as one JSON object.
    PacketSockets(oneshot::Sender<Bytes>),
    /// A stream of events.
    Stream(Arc<Filter>, mpsc::Sender<Bytes>),
    /// How the daemon is.
    Health(oneshot::Sender<Health>),
    /// An answer of the look-up thread.
    Answer(Answer),
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
            os::raise_thread_priority();
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
    /// What flows are kept, and for how long.
    pub flows: Limits,
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
