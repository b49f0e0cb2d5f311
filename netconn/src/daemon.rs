//! The daemon: starts its parts, and stops them in an order in which no event is lost.

use std::{
    cell::Cell,
    convert::Infallible,
    future::pending,
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail};
use bytes::BytesMut;
use netconn_model::{
    config::{Config, DEFAULT_USER, FlowLevel},
    health::{HookStatus, MissingCapability, Privileges, Verdict},
};
use nix::{
    sys::signal::Signal,
    unistd::{User, geteuid},
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tracing::{debug, info, warn};

use crate::{
    clock::Clock,
    encode::{
        event::{Beginning, EventEncoder},
        packet::in_words,
    },
    engine::{EngineCommand, EngineThread, Handle, Parts, hooks_in_words, lacks_in_words, packet_sockets},
    kernel::{
        capture::Capture,
        fault::Fault,
        keep,
        load::{self, CaptureOptions},
        packet_socket::PacketSockets,
        preflight::{self, Capability, CapabilitySet, PID_NAMESPACE, lacks_of},
    },
    os::{self, NoSignals},
    privileged::{self, account::Account, rights},
    reload::{self, ReadAgain, Settings},
    server::{self, Clients, Socket},
    service::{Notifier, Service},
    sink::{self, Batch, Output},
    state_dir::{self, StateDir},
    store::HistoryTiming,
    table::flows::Limits as FlowLimits,
};

/// Pause before the command to stop is sent again to an engine that was busy.
const STOP_RETRY: Duration = Duration::from_millis(5);
/// How long the kernel may take to load the programs, and the engine to read all sockets, before a manager of services gives up: both
/// take seconds on a slow machine.
const LOADING: Duration = Duration::from_secs(120);
const READING: Duration = Duration::from_secs(120);
/// Pause between SIGHUP and the look whether the terminal has gone: a session that ends sends the signal first.
const HANGUP_PAUSE: Duration = Duration::from_millis(100);

/// What tests change in a daemon; hidden options of `netconn run`.
#[derive(Debug, Default)]
pub struct TestHooks {
    /// Names of hooks that are not attached.
    pub without_hooks: Vec<String>,
    /// Failures that are provoked.
    pub faults: Vec<Fault>,
    /// The history does after seconds what it otherwise does after minutes.
    pub fast_history: bool,
    /// How long a client may read nothing of its answer.
    pub patience: Option<Duration>,
}

/// Runs the daemon until a signal ends it. `quiet` has kept signals away since the process began: they arrive when the programs
/// are loaded and there is somebody to handle them. SIGHUP has the configuration read by `read_again`.
///
/// # Errors
///
/// When the daemon cannot start; the message says what to do. A daemon that has started returns an error if nobody reads its events
/// any more, or if its engine has panicked.
pub fn run(
    settings: Settings,
    test_hooks: TestHooks,
    quiet: NoSignals,
    service: Service,
    read_again: ReadAgain<'_>,
) -> Result<()> {
    // First what most often fails.
    preflight::check_kernel(&preflight::kernel_release())?;
    preflight::check_capabilities()?;
    let config = &settings.config;
    let account = Account::find(config).map_err(Error::msg)?;
    let missing = CapabilitySet::of_this_process().missing(&Capability::ALL);
    let privileges = Privileges { missing: lacks_of(&missing), ..Privileges::default() };
    // Before there is another thread, and before anything is read that others have written.
    privileged::fork(account.as_ref(), config.seccomp).context("cannot start the privileged child")?;
    settle(config, account.as_ref())?;
    for MissingCapability { capability, without } in &privileges.missing {
        warn!("without {capability}: {without}");
    }
    // Before there are threads, which have arenas of their own.
    os::bound_free_memory();
    // One thread is enough: the engine, the outputs and the history have threads of their own.
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(start_and_serve(settings, test_hooks, privileges, quiet, service, read_again))
}

/// Becomes the user that the daemon is from now on, with the capabilities that starting takes.
fn settle(config: &Config, account: Option<&Account>) -> Result<()> {
    const TO_START: u64 = rights::BPF | rights::PERFMON | rights::NET_ADMIN;
    const TO_LOAD: u64 = rights::BPF | rights::PERFMON;
    let held = rights::permitted()?;
    // The kernel takes it in their place.
    let instead = if held & TO_LOAD == TO_LOAD { 0 } else { held & rights::SYS_ADMIN };
    let kept = held & TO_START | instead;
    let is_root = geteuid().is_root();
    if let Some(account) = account
        && let Err(reason) = keep::hand_over(account)
    {
        // Also the reason why nothing is kept, which is told with the hooks.
        debug!("{reason}");
    }
    let Some(account) = account else {
        if is_root {
            warn!(
                "the daemon stays root, with its privileges: there is no user '{}' (`useradd -r -s /usr/sbin/nologin {DEFAULT_USER}`), or \
                 the configuration wants it so",
                config.user
            );
            return Ok(());
        }
        os::keep_priority();
        return rights::limit_to(kept).context("cannot give up capabilities");
    };
    os::keep_priority();
    account.take_over(config);
    account.r#become(kept).with_context(|| format!("cannot become user {}", account.name))?;
    account.warn_of_rotation(config);
    Ok(())
}

/// Gives up what starting has taken, and returns what is left. No thread may have been started that still runs.
fn give_up(config: &Config, faults: &[Fault], privileges: Privileges) -> Result<Privileges> {
    let held = rights::permitted()?;
    if geteuid().is_root() {
        // `settle` has told that it stays so.
        let capabilities = rights::names(held).into_iter().map(str::to_owned).collect();
        return Ok(Privileges { user: "root".into(), capabilities, ..privileges });
    }
    let kept = if rights::needs_bpf(preflight::kernel_version()) {
        // The kernel takes it in the other's place.
        if held & rights::BPF != 0 { rights::BPF } else { held & rights::SYS_ADMIN }
    } else {
        0
    };
    rights::limit_to(kept).context("cannot give up capabilities")?;
    rights::no_new_privileges().context("cannot give up privileges of programs that are started")?;
    rights::verify(kept)
        .map_err(Error::msg)
        .context("the daemon does not go on with privileges that it should not have")?;
    let (landlock, seccomp) = privileged::confine(config);
    if faults.contains(&Fault::DeniedCall) {
        // SAFETY: a system call without pointers, which only asks; it is in no list.
        unsafe { libc::syscall(libc::SYS_personality, 0xffff_ffff_u32) };
    }
    let uid = geteuid();
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let capabilities: Vec<String> = rights::names(kept).into_iter().map(str::to_owned).collect();
    let left = if capabilities.is_empty() { "no capability".into() } else { capabilities.join(", ") };
    match privileged::child() {
        Some(child) => {
            let of_child = rights::names(child.capabilities).join(", ");
            info!("runs as user {user} with {left}; its child {} has {of_child}", child.pid);
        }
        None => info!("runs as user {user} with {left}"),
    }
    Ok(Privileges { user, uid: uid.as_raw(), capabilities, landlock, seccomp, ..privileges })
}

async fn start_and_serve(
    settings: Settings,
    test_hooks: TestHooks,
    privileges: Privileges,
    quiet: NoSignals,
    Service { notifier, listener }: Service,
    read_again: ReadAgain<'_>,
) -> Result<()> {
    let Settings { mut config, rules, redactor } = settings;
    let mut signals = Signals::new()?;
    let gets_stuck = test_hooks.faults.contains(&Fault::Stuck);
    // The two locks come before anything is attached: a second daemon must fail without touching the pinned maps of the
    // first.
    let mut state = StateDir::open(&config.state_dir, &config.group)?;
    let sensor = state.identify(&config)?;
    let (unsaved, id) = (state.unsaved().clone(), sensor.id.clone());
    // Clients may connect from here on; they wait in the backlog until `serve` accepts them.
    let socket = Socket::open(&config.socket, &config.group, listener)?;
    notifier.starting("loads the eBPF programs", LOADING);
    // Before the outputs are opened: connections that begin meanwhile wait in the ring.
    let faults = test_hooks.faults;
    let mut capture = Capture::start(&CaptureOptions {
        ring_bytes: config.ring_bytes,
        log_level: load::log_level(config.ebpf_log),
        without: test_hooks.without_hooks,
        datagrams: config.flows.into(),
        max_flows: config.max_flows,
        // Nobody would find the pins of an id that is not kept, and without a lock another daemon may have these.
        keep: Some(match unsaved.reason() {
            None => keep::places(&sensor.id, config.max_flows),
            Some(reason) => Err(format!("the state directory cannot be written: {reason}")),
        }),
        faults: faults.clone(),
    })?;
    // Before there are threads, which would keep what they have.
    let privileges = give_up(&config, &faults, privileges)?;
    // From here on a signal stops the daemon in order, also one that came before. Threads that begin now do not inherit the mask.
    drop(quiet);
    log_hooks(capture.hooks(), capture.missing_members());
    if preflight::is_in_pid_namespace() {
        warn!("{PID_NAMESPACE}");
    }

    let patience = test_hooks.patience.unwrap_or(server::PATIENCE);
    let mut encoder = EventEncoder::new(&sensor, state_dir::run_id());
    rules.warnings().iter().for_each(|warning| warn!("{warning}"));
    encoder.set_rules(rules);
    let timing = if test_hooks.fast_history { HistoryTiming::FAST } else { HistoryTiming::NORMAL };
    // `Sensor Start` is the first event of each output, so it is written before the engine makes any.
    let (outputs, packet_sockets) = open_outputs(&config, timing, &mut encoder, (&mut capture, &privileges))?;
    let (handle, commands) = EngineThread::channel().context("cannot start the engine")?;
    let (ended, mut end) = oneshot::channel();
    let (readied, ready) = oneshot::channel();
    // From here on all of this belongs to the thread of the engine.
    let flows = flow_limits(&config);
    let event_limit = config.event_limit_per_second;
    let command_line_bytes = config.command_line_bytes as usize;
    notifier.starting("reads the sockets that there are", READING);
    let notifier_of_engine = notifier.clone();
    let parts = Parts {
        capture,
        sensor,
        encoder,
        outputs,
        flows,
        privileges,
        event_limit,
        command_line_bytes,
        packet_sockets,
        notifier: notifier_of_engine,
        gets_stuck,
        redactor,
    };
    // Nobody listens any more if the daemon is ending anyway.
    let tellers = (move || _ = readied.send(()), move || _ = ended.send(()));
    let engine = EngineThread::start(handle.clone(), commands, parts, tellers).context("cannot start the engine")?;
    os::lower_thread_priority();
    info!("listening at {}; see `netconn list`, `netconn watch` and `netconn doctor`", socket.path().display());

    // `serve` and `save_later` never end: a daemon ends by a signal, or because its engine does (nobody reads its events, a panic).
    let clients = Clients::default();
    let is_ready = Cell::new(false);
    let ended_by_itself = tokio::select! {
        never = server::serve(&socket, handle.clone(), patience, (&clients, unsaved)) => match never {},
        never = state.save_later(&id) => match never {},
        never = tell_ready(&notifier, ready, &is_ready) => match never {},
        () = signals.wait_for_end(&handle, (&notifier, &is_ready), async || {
            reload::reload(&handle, &mut config, timing, read_again).await
        }) => false,
        _ = &mut end => true,
    };
    notifier.stopping();
    // First, so that no new client waits for an engine that is about to end.
    drop(socket);
    if !ended_by_itself {
        // `send` fails when the engine is busy, which passes, and when it has ended.
        let mut has_ended = false;
        while !has_ended && handle.send(EngineCommand::Stop).is_err() {
            tokio::time::sleep(STOP_RETRY).await;
            has_ended = !matches!(end.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        }
        // A receiver that has its value panics when it is awaited.
        if !has_ended {
            let _ = end.await;
        }
    }
    clients.leave().await;
    // The engine has said that it ends, so this takes no longer than its last destructors.
    match engine.join() {
        Some(end) => end.context("the daemon has ended"),
        None => bail!("the engine has panicked: please report the messages above"),
    }
}

/// Tells the manager of services when the tables are complete. The socket answers by then: clients are served meanwhile.
async fn tell_ready(notifier: &Notifier, ready: oneshot::Receiver<()>, is_ready: &Cell<bool>) -> Infallible {
    // An error means that the engine has failed, which ends the daemon.
    if ready.await.is_ok() {
        is_ready.set(true);
        notifier.ready("the table of connections is complete");
    }
    pending().await
}

/// What the daemon does on a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SignalMeaning {
    /// Ends in order.
    End,
    /// Opens the outputs again, for log rotation.
    Reopen,
    /// Ends in order if the daemon was started in a terminal, and that has been closed; otherwise reads the configuration and opens the
    /// outputs again.
    ReloadOrEnd,
    /// Reads the configuration and opens the outputs again.
    Reload,
    /// Goes on; the signal is logged.
    Nothing,
}

/// All signals that would end a process which does not handle them, but for those that report a fault of the program, SIGKILL and
/// SIGPIPE, which the standard library ignores; see signal(7). A sensor ends only when somebody wants it to.
const SIGNALS: [(Signal, SignalMeaning); 14] = [
    (Signal::SIGINT, SignalMeaning::End),
    (Signal::SIGTERM, SignalMeaning::End),
    (Signal::SIGQUIT, SignalMeaning::End),
    (Signal::SIGHUP, SignalMeaning::ReloadOrEnd),
    // As in nginx.
    (Signal::SIGUSR1, SignalMeaning::Reopen),
    (Signal::SIGUSR2, SignalMeaning::Nothing),
    (Signal::SIGALRM, SignalMeaning::Nothing),
    (Signal::SIGVTALRM, SignalMeaning::Nothing),
    (Signal::SIGPROF, SignalMeaning::Nothing),
    (Signal::SIGIO, SignalMeaning::Nothing),
    (Signal::SIGPWR, SignalMeaning::Nothing),
    (Signal::SIGSTKFLT, SignalMeaning::Nothing),
    // Limits of `ulimit`: a write beyond that of a file's size fails, and is counted as any other that fails.
    (Signal::SIGXFSZ, SignalMeaning::Nothing),
    (Signal::SIGXCPU, SignalMeaning::Nothing),
];

/// Whether standard input or standard error is a terminal: not any more when that was closed.
fn is_in_terminal() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

/// The signals that have arrived, in their order.
struct Signals {
    arrived: mpsc::UnboundedReceiver<(&'static str, SignalMeaning)>,
    /// The daemon was started in a terminal.
    began_in_terminal: bool,
}

impl Signals {
    fn new() -> Result<Self> {
        let (arrived, signals) = mpsc::unbounded_channel();
        // Those for programs' own use have no names.
        let others =
            (libc::SIGRTMIN()..=libc::SIGRTMAX()).map(|number| (number, "a real-time signal", SignalMeaning::Nothing));
        let named = SIGNALS.into_iter().map(|(signal, meaning)| (signal as i32, signal.as_str(), meaning));
        for (number, name, meaning) in named.chain(others) {
            // From here on it no longer ends the process.
            let mut stream = signal(SignalKind::from_raw(number)).context("cannot handle signals")?;
            let arrived = arrived.clone();
            tokio::spawn(
                async move { while stream.recv().await.is_some() && arrived.send((name, meaning)).is_ok() {} },
            );
        }
        Ok(Self { arrived: signals, began_in_terminal: is_in_terminal() })
    }

    /// Finds out what SIGHUP means: that the terminal was closed, or that the configuration has changed or logs are rotated.
    async fn meaning_of_hangup(&self) -> SignalMeaning {
        if !self.began_in_terminal {
            return SignalMeaning::Reload;
        }
        tokio::time::sleep(HANGUP_PAUSE).await;
        if is_in_terminal() {
            return SignalMeaning::Reload;
        }
        // For a log that is a file.
        info!("the terminal was closed: the daemon ends");
        SignalMeaning::End
    }

    /// Waits for a signal to end, and does what the others ask for. `reload` returns what came of it, in one line. The manager hears of
    /// a reload only when it knows that the start is complete.
    async fn wait_for_end(
        &mut self,
        engine: &Handle,
        (notifier, is_ready): (&Notifier, &Cell<bool>),
        mut reload: impl AsyncFnMut() -> String,
    ) {
        while let Some((name, mut meaning)) = self.arrived.recv().await {
            if meaning == SignalMeaning::ReloadOrEnd {
                meaning = self.meaning_of_hangup().await;
            }
            match meaning {
                SignalMeaning::End => return,
                SignalMeaning::Reload | SignalMeaning::ReloadOrEnd => {
                    if is_ready.get() {
                        notifier.reloading();
                    }
                    // Bounded in time, because SIGTERM waits as well.
                    let result = reload().await;
                    reopen(engine, name);
                    if is_ready.get() {
                        notifier.ready(&result);
                    } else {
                        notifier.status(&result);
                    }
                }
                // Not waited for, for the same reason.
                SignalMeaning::Reopen => reopen(engine, name),
                SignalMeaning::Nothing => {
                    info!(
                        "ignored {name}: SIGHUP reads the configuration and opens the outputs again, SIGUSR1 opens the outputs again, \
                         SIGTERM ends"
                    );
                }
            }
        }
    }
}

/// Has the engine open its outputs again, on a signal of this name.
fn reopen(engine: &Handle, signal: &str) {
    if engine.send(EngineCommand::Reopen).is_err() {
        warn!("too busy to open the outputs again: send {signal} once more");
    }
}

/// Opens the outputs and writes `Sensor Start` to each as its first event; returns the packet sockets that it names as well.
fn open_outputs(
    config: &Config,
    timing: HistoryTiming,
    encoder: &mut EventEncoder,
    (capture, privileges): (&mut Capture, &Privileges),
) -> Result<(Vec<Output>, Option<PacketSockets>)> {
    // Nobody would read it, and looking for packet sockets costs a walk through all open files.
    if config.events.is_empty() && !config.history {
        return Ok((Vec::new(), None));
    }
    let mut start = BytesMut::new();
    let (attached, missing) = hooks_in_words(capture.hooks());
    // This takes a few milliseconds, during which records wait in the ring.
    let found = packet_sockets(capture, |_| ());
    found.unlisted.iter().for_each(|what| warn!("{what}"));
    let beginning = Beginning {
        kernel: &preflight::kernel_release(),
        attached: &attached,
        missing: &missing,
        missing_capabilities: &lacks_in_words(privileges),
        packet_sockets: &in_words(&found),
        event_limit: config.event_limit_per_second,
    };
    let clock = Clock::new();
    encoder.start(&mut start, &clock, &beginning);
    let start = Batch::of_daemon(start.freeze());
    Ok((sink::open(config, timing, &start)?, Some(found)))
}

/// Returns how many flows are kept, and for how long.
fn flow_limits(config: &Config) -> FlowLimits {
    let nanoseconds = |seconds: u32| u64::from(seconds) * 1_000_000_000;
    FlowLimits {
        flows: config.max_flows as usize,
        idle_ns: nanoseconds(config.flow_idle_seconds),
        idle_both_ns: nanoseconds(config.flow_idle_both_seconds),
        counts: config.flows == FlowLevel::Flows,
    }
}

/// Logs which hooks are attached, and what is done instead of the others.
fn log_hooks(hooks: &[HookStatus], missing_members: &[&str]) {
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
    if !missing_members.is_empty() {
        let missing = missing_members.join(", ");
        warn!("this kernel's structures have no {missing}: fields that are read from there are absent from events");
    }
}
