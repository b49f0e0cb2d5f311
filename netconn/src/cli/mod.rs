//! The command line.

mod config;
mod doctor;
mod services;
mod ss_filter;
mod expression;
mod exit;
mod foreign;
mod forget;
mod generate;
mod presentation;
mod run;
mod search;
mod selection;
mod list;
mod watch;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use netconn_model::{
    client::Client,
    config::DEFAULT_SOCKET,
    exit::{Exit, is_broken_pipe},
};

use self::expression::RefusedCondition;
use crate::log_output::tell_error;

/// Knows every network connection of this machine, the process behind it and what became of it.
#[derive(Debug, Parser)]
#[command(name = "netconn", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done (also when nothing was found; -e makes that 1), 2 wrong use, 65 a query that
cannot be read, 69 no daemon or a busy one, no netconn-search, unfit kernel, doctor found what does
not work, 70 internal error, 74 I/O error, 75 timeout, 77 permission denied, 78 configuration,
130 ended by Ctrl-C.";

/// How connections are selected, in the help of `list` and `watch`.
macro_rules! negation {
    () => {
        "\
Each option that takes a value to select connections has an opposite, --not-port 22, and `!` before
a value does the same: --process '!ssh*'. Several values of one option are alternatives, and all
options must hold. Ports may have names: --port https."
    };
}

const ALONE: &str = concat!(
    negation!(),
    "

Without a daemon, and without --socket, list reads the kernel itself and says so on standard error:
root sees the sockets of all network namespaces, other users those of their own one, with the
owners that they may know. With --socket (or NETCONN_SOCKET) list asks that daemon only: if it
does not run, the exit code is 69."
);

#[derive(Debug, Subcommand)]
enum Command {
    /// Trace connections and flows: the daemon. Runs in the foreground until SIGINT or SIGTERM.
    Run(run::RunOptions),
    /// Show the connections there are, like netstat and ss.
    #[command(visible_alias = "ls", after_help = ALONE)]
    List(list::ListOptions),
    /// Show connections as they begin, fail and end.
    #[command(after_help = format!("{}\n\n{}", watch::LINES, negation!()))]
    Watch(watch::WatchOptions),
    /// Search what was recorded on this host (by netconn-search).
    #[command(disable_help_flag = true)]
    Search(search::SearchOptions),
    /// Run ready searches for what attackers do (by netconn-search).
    #[command(disable_help_flag = true)]
    Hunt(search::SearchOptions),
    /// Write files of events in another format: OCSF, ECS, Zeek, CEF, … (by netconn-search).
    #[command(disable_help_flag = true)]
    Convert(search::SearchOptions),
    /// Check this machine and the daemon, and prove that a connection is seen.
    #[command(after_help = doctor::MARKS)]
    Doctor(doctor::DoctorOptions),
    /// Print the configuration in force, as a configuration file.
    Config(config::ConfigOptions),
    /// Remove what a daemon has left on this host: state, history, maps in the kernel, socket. Without --yes, list it.
    Forget(forget::ForgetOptions),
    /// Write man pages and completions into a folder (for packages).
    #[command(hide = true)]
    Generate(generate::GenerateOptions),
}

/// Where the daemon is.
#[derive(Debug, clap::Args)]
struct SocketOption {
    /// The daemon's socket [default: /run/netconn/netconn.sock]
    #[arg(long, value_name = "PATH", env = "NETCONN_SOCKET")]
    socket: Option<PathBuf>,
}

impl SocketOption {
    /// Returns the socket that was named, or the default one.
    fn path(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET))
    }

    /// Returns a client of the daemon there.
    fn client(&self) -> Client {
        Client::new(self.path())
    }

    /// Returns whether a socket was named: then no other daemon, and no look without one, will do.
    fn is_named(&self) -> bool {
        self.socket.is_some()
    }
}

/// Runs a command line, prints its errors, and returns the exit code of the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let given: Vec<OsString> = arguments.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&given) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too; an error of writing them has no reader.
            let _ = error.print();
            if let Some(sentence) = foreign::instead(&given, &error) {
                tell(&sentence);
            }
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.command {
        Command::Run(options) => run::run(options),
        Command::List(options) => list::run(&options),
        Command::Watch(options) => watch::run(&options),
        // The arguments as they were given: the other program decides what `--` means. The subcommand is always the
        // first one, because `netconn` itself has no options.
        Command::Search(_) => search::run(None, given.get(2..).unwrap_or_default()),
        Command::Hunt(_) => search::run(Some("hunt"), given.get(2..).unwrap_or_default()),
        Command::Convert(_) => search::run(Some("convert"), given.get(2..).unwrap_or_default()),
        Command::Doctor(options) => doctor::run(&options),
        Command::Config(options) => config::run(&options),
        Command::Forget(options) => forget::run(&options),
        Command::Generate(options) => generate::run(&options),
    };
    match result {
        Ok(exit) => exit.into(),
        // `head` has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<RefusedCondition>() {
                Some(refused) => refused.report(),
                None => tell_error(&format!("netconn: {error:#}")),
            }
            exit::of(&error).into()
        }
    }
}

/// Tells the user something beside the result.
fn tell(sentence: &str) {
    netconn_model::tell!("netconn: {sentence}");
}

/// Runs a future on this thread to its end.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // One thread: a command waits for one answer at a time.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// Each option stands in the section of its command in docs/commands.md, with its letter if it has one.
    #[test]
    fn every_option_is_documented() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
        let text = std::fs::read_to_string(path).unwrap();
        let section = |title: &str| {
            let section = text.split("\n## ").find_map(|section| section.strip_prefix(title)).unwrap();
            section.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let program = Arguments::command();
        for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
            let title = match command.get_name() {
                // Those of the other program are checked there.
                "search" | "hunt" | "convert" => continue,
                "list" => "Lists",
                "watch" => "Events as they happen",
                _ => "The daemon",
            };
            let name = command.get_name();
            let mut options = 0;
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let Some(long) = argument.get_long() else { continue };
                let written = match argument.get_short() {
                    Some(letter) => format!("`-{letter}`, `--{long}"),
                    None => format!("`--{long}"),
                };
                // Those that select connections are described once.
                let shared = argument.get_help_heading() == Some("Which connections");
                let title = if shared { "Lists" } else { title };
                let is_whole = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '-');
                let is_there = section(title).split(&written).skip(1).any(is_whole);
                assert!(is_there, "{written} of `netconn {name}` is missing in docs/commands.md, {title}");
                options += 1;
            }
            assert!(options > 0, "{name}");
        }
    }

    #[test]
    fn what_everybody_types_is_understood() {
        for line in ["netconn list -tulpn", "netconn list -tanp", "netconn list -H4", "netconn ls -tunape6W"] {
            Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(Arguments::try_parse_from(["netconn", "list", "--prot", "tcp"]).is_err());
        for line in ["search", "search --help", "search -x --y z", "search -- -x", "hunt --list", "hunt -h"] {
            Arguments::try_parse_from(["netconn"].into_iter().chain(line.split(' '))).unwrap();
        }
    }
}
