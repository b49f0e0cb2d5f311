//! `netconn run`: runs the daemon.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use netconn_model::{config::EbpfLog, exit::Exit};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::config::read_files,
    daemon::{self, TestHooks},
    kernel::fault::Fault,
    log_output::{JournalFormat, LogOutput},
    os::NoSignals,
    reload::Settings,
    service::{self, Service},
};

/// Options of `netconn run`.
#[derive(Debug, Args)]
pub(super) struct RunOptions {
    /// Append events to this file, one JSON object on each line; `-` is standard output. Can be given more than once.
    #[arg(long, value_name = "PATH")]
    events: Vec<PathBuf>,
    /// Listen for clients at this Unix socket [default: /run/netconn/netconn.sock].
    #[arg(long, value_name = "PATH", env = "NETCONN_SOCKET")]
    socket: Option<PathBuf>,
    /// Read this configuration file [default: /etc/netconn/netconn.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep the history and the daemon's state in this folder [default: /var/lib/netconn].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Become this user when started by root, by name or number; root stays root [default: netconn, if it exists].
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Keep no history for `netconn search`.
    #[arg(long)]
    no_history: bool,
    /// Log messages of the eBPF programs from this level on: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", value_parser = log_levels())]
    ebpf_log: Option<EbpfLog>,
    /// Do not attach a hook (for tests).
    #[arg(long, value_name = "HOOK", hide = true)]
    without_hook: Vec<String>,
    /// Inject a fault (for tests).
    #[arg(long, value_name = "FAULT", value_parser = faults(), hide = true)]
    fault: Vec<Fault>,
    /// Shorten the history's intervals from minutes to seconds (for tests).
    #[arg(long, hide = true)]
    test_fast_history: bool,
    /// Leave a client that reads nothing of its answer for this time (for tests).
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, hide = true)]
    test_patience: Option<Duration>,
}

/// Returns a parser of levels that lists them in help and errors.
fn log_levels() -> impl TypedValueParser<Value = EbpfLog> {
    PossibleValuesParser::new(EbpfLog::NAMES).try_map(|name| name.parse::<EbpfLog>())
}

/// Returns a parser of faults that lists them in help and errors.
fn faults() -> impl TypedValueParser<Value = Fault> {
    PossibleValuesParser::new(Fault::NAMES).try_map(|name| name.parse::<Fault>())
}

/// Reads the configuration, applies the options to it and runs the daemon.
pub(super) fn run(options: RunOptions) -> Result<Exit> {
    // First: until the daemon has handlers, SIGHUP, which a log rotation sends, would end it.
    let quiet = NoSignals::new();
    let service = Service::take();
    let RunOptions {
        events,
        socket,
        config,
        state_dir,
        user,
        no_history,
        ebpf_log,
        without_hook,
        fault,
        test_fast_history,
        test_patience,
    } = options;
    // Again at each reload: options come before the files.
    let read = || -> Result<Settings> {
        let (mut config, rules, redactor) = read_files(config.as_deref())?;
        // Options replace the list of the file: nobody could remove an entry otherwise.
        if !events.is_empty() {
            config.events.clone_from(&events);
        }
        config.socket = socket.clone().unwrap_or(config.socket);
        config.state_dir = state_dir.clone().unwrap_or(config.state_dir);
        config.user = user.clone().unwrap_or(config.user);
        // The option can only switch it off.
        config.history &= !no_history;
        config.ebpf_log = ebpf_log.unwrap_or(config.ebpf_log);
        Ok(Settings { config, rules, redactor })
    };
    let settings = read()?;
    // After the configuration, which sets the level; errors before that are printed by `main`.
    start_log(settings.config.ebpf_log);
    let test_hooks = TestHooks {
        without_hooks: without_hook,
        faults: fault,
        fast_history: test_fast_history,
        patience: test_patience,
    };
    daemon::run(settings, test_hooks, quiet, service, &read)?;
    Ok(Exit::Success)
}

/// Starts logging to standard error, in the form that it needs: for people or for the journal. `NETCONN_LOG` filters the log, with the syntax of `RUST_LOG`.
fn start_log(ebpf: EbpfLog) {
    // Messages of the programs have the target `netconn_ebpf`; which of them are made is decided in the kernel.
    let default = if ebpf == EbpfLog::Off { "warn,netconn=info" } else { "warn,netconn=info,netconn_ebpf=trace" };
    let filter = EnvFilter::try_from_env("NETCONN_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    if service::logs_to_journal() {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LogOutput::of_journal());
        // This fails only if a logger is set already, here and below.
        let _ = log.log_internal_errors(false).with_ansi(false).event_format(JournalFormat).try_init();
        return;
    }
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogOutput::default())
        // It would tell them on standard error, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
