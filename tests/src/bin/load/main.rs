//! Generates load for `cargo xtask bench`: floods, paced connections, held sockets, datagrams, a mixture of all, and events to
//! search.
//! Each mode prints a line of JSON about what it did.

mod events;
mod flood;
mod hold;
mod mixed;
mod own;
mod traffic;
mod udp;

use std::{
    fs, io,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use traffic::Kind;
use udp::{Limit, Manner};

/// Generates TCP connections, sockets, datagrams or events for benchmarks.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Makes connections as fast as possible.
    Flood {
        #[command(flatten)]
        traffic: Traffic,
        /// The number of connections.
        #[arg(long, default_value_t = 100_000)]
        count: usize,
    },
    /// Makes connections at a fixed rate.
    Paced {
        #[command(flatten)]
        traffic: Traffic,
        /// Connections a second.
        #[arg(long, default_value_t = 1000)]
        rate: usize,
        /// The duration.
        #[arg(long, default_value_t = 10)]
        seconds: usize,
    },
    /// Holds sockets, two for each connection, until standard input ends, and then resets them.
    Hold {
        /// The number of sockets.
        #[arg(long, default_value_t = 100_000)]
        sockets: usize,
        /// The number of processes that hold them, each with both ends of its connections.
        #[arg(long, default_value_t = 10)]
        processes: usize,
    },
    /// Sends and receives datagrams of 64 bytes in one thread, as fast as possible.
    Udp {
        /// How sockets are used.
        #[arg(long, value_enum, default_value = "connected")]
        manner: Manner,
        /// The number of datagrams.
        #[arg(long, default_value_t = 2_000_000)]
        count: usize,
        /// The longest duration.
        #[arg(long)]
        seconds: Option<f64>,
        /// The number of pairs of sockets, used in turn. Each pair is a flow at either end.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        sockets: u16,
        /// Uses the caller's network namespace instead of a new one.
        #[arg(long)]
        here: bool,
    },
    /// Writes a history of 30 days, in segments as the daemon writes them.
    Events {
        /// The number of events.
        #[arg(long, default_value_t = 10_000_000)]
        count: u64,
        /// The folder of the history, which must exist.
        #[arg(long)]
        folder: PathBuf,
        /// A program that converts each segment to Parquet, called as by the daemon; the segment is then removed.
        #[arg(long, value_name = "PROGRAM")]
        convert: Option<PathBuf>,
    },
    /// Makes what a busy host makes: short connections of many processes, failures, datagrams, held connections, bursts.
    Mixed {
        /// Attempts a second, without bursts.
        #[arg(long, default_value_t = 200)]
        rate: u64,
        /// The duration.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// The number of connections that are held at most.
        #[arg(long, default_value_t = 2000)]
        held: usize,
        /// The number of connections that are made at once, every half minute.
        #[arg(long, default_value_t = 2000)]
        burst: usize,
    },
    /// Makes the attempts of one process of `mixed`.
    #[command(hide = true)]
    MixedWorker {
        /// The port of the server.
        port: u16,
        /// Attempts a second.
        rate: u64,
        /// The number of the process.
        number: u64,
        /// Makes the command line as long as it is.
        filler: String,
    },
    /// Holds the sockets of one process of `hold`.
    #[command(hide = true)]
    Holder {
        /// The number of sockets.
        sockets: usize,
    },
}

#[derive(Args)]
struct Traffic {
    /// What each connection transfers, and how it closes.
    #[arg(long, value_enum, default_value = "rst")]
    kind: Kind,
    /// Uses the caller's network namespace instead of a new one, with which all connections in TIME_WAIT end.
    #[arg(long)]
    here: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse().mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: Mode) -> io::Result<()> {
    own::descriptors()?;
    match mode {
        Mode::Flood { traffic: Traffic { kind, here }, count } => {
            own::namespace(here)?;
            flood::flood(kind, count)
        }
        Mode::Paced { traffic: Traffic { kind, here }, rate, seconds } => {
            own::namespace(here)?;
            flood::paced(kind, rate, rate * seconds)
        }
        Mode::Udp { manner, count, seconds, sockets, here } => {
            own::namespace(here)?;
            let duration = seconds.map(Duration::try_from_secs_f64).transpose().map_err(io::Error::other)?;
            udp::udp(manner, sockets.into(), Limit { count, duration })
        }
        Mode::Events { count, folder, convert } => events::events(count, &folder, |segment| {
            let Some(program) = &convert else { return Ok(()) };
            let status = Command::new(program).arg("--convert").arg(segment).stdout(Stdio::null()).status()?;
            if !status.success() {
                return Err(io::Error::other(format!("{} ended with {status}", program.display())));
            }
            fs::remove_file(segment)
        }),
        Mode::Mixed { rate, seconds, held, burst } => {
            own::namespace(false)?;
            mixed::mixed(mixed::Amount { rate, duration: Duration::from_secs(seconds), held, burst })
        }
        Mode::MixedWorker { port, rate, number, .. } => mixed::worker(port, rate, number),
        Mode::Hold { sockets, processes } => hold::hold(sockets, processes),
        Mode::Holder { sockets } => hold::holder(sockets),
    }
}
