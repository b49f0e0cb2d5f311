//! The daemon: puts the parts together, and takes them apart in an order in which nothing is lost.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use netconn_model::{
    config::{Config, EbpfLog, FlowLevel},
    health::{HookStatus, Verdict},
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing::{info, warn};

use crate::{
    clock::Clock,
    encode::{
        event::{Beginning, EventEncoder},
        packet::in_words,
    },
    engine::{Command, EngineThread, Handle, Parts, hooks_in_words, packet_sockets},
    kernel::{
        capture::Capture,
        fault::Fault,
        keep,
        load::{CaptureOptions, DatagramWatch},
        preflight,
    },
    server::{self, Socket},
    sink::{self, Batch, Output},
    state_dir::{self, StateDir},
    store::Pace,
    table::flows::Limits as FlowLimits,
};

/// What is made not to work, to test what is done then.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Names of hooks that are left out.
    pub without_hooks: Vec<String>,
    /// What else fails.
    pub faults: Vec<Fault>,
    /// The history waits for seconds instead of minutes.
    pub hurry: bool,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
///
/// When it cannot begin; the message says what to do. When it was begun, it ends with an error only if a part of it
/// broke.
pub fn run(config: &Config, trouble: Trouble) -> Result<()> {
    // What most often stands in the way is said first.
    preflight::check_kernel(&preflight::kernel_release())?;
    preflight::check_capabilities()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve(config, trouble))
}

async fn serve(config: &Config, trouble: Trouble) -> Result<()> {
    // From here on a signal ends the daemon in order.
    let mut signals = Signals::new()?;
    let state = StateDir::open(&config.state_dir)?;
    let sensor = state.identify(config)?;
    let socket = Socket::bind(&config.socket, &config.group)?;
    let mut capture = Capture::start(&CaptureOptions {
        ring_bytes: config.ring_bytes,
        log_level: log_level(config.ebpf_log),
        without: trouble.without_hooks,
        datagrams: datagrams(config.flows),
        max_flows: config.max_flows,
        keep: Some(keep::places(&sensor.id, config.max_flows)),
        faults: trouble.faults,
    })?;
    report(capture.hooks(), capture.missing_members());

    let mut encoder = EventEncoder::new(&sensor, state_dir::run_id());
    let pace = if trouble.hurry { Pace::HURRIED } else { Pace::NORMAL };
    let outputs = outputs(config, pace, &mut encoder, &mut capture)?;
    let (handle, commands) = EngineThread::channel().context("cannot start the engine")?;
    let (ended, mut end) = oneshot::channel();
    let parts = Parts { capture, sensor, encoder, outputs, flows: flow_limits(config) };
    let engine = EngineThread::start(handle.clone(), commands, parts, move || {
        let _ = ended.send(()); // The server may have ended before.
    })
    .context("cannot start the engine")?;
    info!("listening at {}; see `netconn list`, `netconn watch` and `netconn doctor`", config.socket.display());

    let ended_by_itself = tokio::select! {
        never = server::serve(&socket, handle.clone()) => match never {},
        () = signals.wait(&handle) => false,
        _ = &mut end => true,
    };
    drop(socket);
    if !ended_by_itself {
        // Busy means that it looks at commands soon; ended, that there is nothing to do.
        while handle.send(Command::Stop).is_err() && end.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = end.await;
    }
    if !engine.join() {
        bail!("the engine broke: please report what stands above");
    }
    Ok(())
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let handler = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            interrupt: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
            hangup: handler(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to end. SIGHUP opens the files of events anew, for log rotation.
    async fn wait(&mut self, engine: &Handle) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => if engine.send(Command::Reopen).is_err() {
                    warn!("too busy to open the files of events anew: send SIGHUP again");
                },
            }
        }
    }
}

/// Opens the outputs, each with `Sensor Start` as its first event.
fn outputs(config: &Config, pace: Pace, encoder: &mut EventEncoder, capture: &mut Capture) -> Result<Vec<Output>> {
    if config.events.is_empty() && !config.history {
        return Ok(Vec::new());
    }
    let mut start = BytesMut::new();
    let (attached, missing) = hooks_in_words(capture.hooks());
    // Records wait in the ring for these few milliseconds.
    let found = packet_sockets(capture, |_| ());
    found.unlisted.iter().for_each(|what| warn!("{what}"));
    let beginning = Beginning {
        kernel: &preflight::kernel_release(),
        attached: &attached,
        missing: &missing,
        packet_sockets: &in_words(&found),
    };
    let mut clock = Clock::new();
    let earliest = clock.epoch_ms(clock.now());
    encoder.start(&mut start, &mut clock, &beginning);
    let start = Batch { lines: start.freeze(), events: 1, earliest };
    Ok(sink::open(config, pace, &start)?)
}

/// What flows are kept, and for how long.
fn flow_limits(config: &Config) -> FlowLimits {
    let nanoseconds = |seconds: u32| u64::from(seconds) * 1_000_000_000;
    FlowLimits {
        flows: config.max_flows as usize,
        idle_ns: nanoseconds(config.flow_idle_seconds),
        idle_both_ns: nanoseconds(config.flow_idle_both_seconds),
        counts: config.flows == FlowLevel::Flows,
    }
}

/// Says in the log what works and what does not.
fn report(hooks: &[HookStatus], missing: &[&str]) {
    let attached = hooks.iter().filter(|hook| hook.verdict == Verdict::Attached).count();
    let version = env!("CARGO_PKG_VERSION");
    info!("netconn {version}, kernel {}: {attached} of {} hooks", preflight::kernel_release(), hooks.len());
    for hook in hooks {
        let instead = hook.instead.as_deref().unwrap_or("nothing instead");
        match &hook.verdict {
            Verdict::Attached | Verdict::Unneeded { .. } => {}
            Verdict::Unsupported { reason } => info!("{}: {reason}; instead: {instead}", hook.hook),
            Verdict::Failed { reason } => warn!("{}: {reason}; instead: {instead}", hook.hook),
        }
    }
    if !missing.is_empty() {
        warn!("this kernel's structures have no {}: what is read there is absent from events", missing.join(", "));
    }
}

fn datagrams(level: FlowLevel) -> DatagramWatch {
    match level {
        FlowLevel::Flows => DatagramWatch::Flows,
        FlowLevel::Sockets => DatagramWatch::Sockets,
        FlowLevel::Off => DatagramWatch::Off { reason: "flows = \"off\" in the configuration" },
    }
}

fn log_level(level: EbpfLog) -> Option<aya_log::Level> {
    Some(match level {
        EbpfLog::Off => return None,
        EbpfLog::Error => aya_log::Level::Error,
        EbpfLog::Warn => aya_log::Level::Warn,
        EbpfLog::Info => aya_log::Level::Info,
        EbpfLog::Debug => aya_log::Level::Debug,
        EbpfLog::Trace => aya_log::Level::Trace,
    })
}
