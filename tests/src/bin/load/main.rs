//! Load for `cargo xtask bench`: floods, paced connections, held sockets, datagrams, and events to search. Each mode says what it did in a line of JSON.

mod events;
mod flood;
mod hold;
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

/// Makes TCP connections, or sends datagrams, on loopback.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// As many connections as there is time for.
    Flood {
        #[command(flatten)]
        traffic: Traffic,
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        count: usize,
    },
    /// So many connections a second, evenly.
    Paced {
        #[command(flatten)]
        traffic: Traffic,
        /// Connections a second.
        #[arg(long, default_value_t = 1000)]
        rate: usize,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: usize,
    },
    /// Sockets that stay, two to a connection, until standard input ends; then they are reset.
    Hold {
        /// How many sockets.
        #[arg(long, default_value_t = 100_000)]
        sockets: usize,
        /// Held by how many processes, each with both ends of its connections.
        #[arg(long, default_value_t = 10)]
        processes: usize,
    },
    /// Datagrams of 64 bytes, one sender and one receiver, as fast as possible.
    Udp {
        /// How sockets are used.
        #[arg(long, value_enum, default_value = "connected")]
        manner: Manner,
        /// How many.
        #[arg(long, default_value_t = 2_000_000)]
        count: usize,
        /// For how long at most.
        #[arg(long)]
        seconds: Option<f64>,
        /// By how many pairs of sockets in turn: each is a flow at either end.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        sockets: u16,
        /// In the caller's network namespace, instead of one that is made for this.
        #[arg(long)]
        here: bool,
    },
    /// A history of events, 30 days long, in segments as the daemon writes them.
    Events {
        /// How many.
        #[arg(long, default_value_t = 10_000_000)]
        count: u64,
        /// Where; the folder must be there.
        #[arg(long)]
        folder: PathBuf,
        /// A program that makes Parquet of each segment, run as the daemon does; the segment is removed then.
        #[arg(long, value_name = "PROGRAM")]
        convert: Option<PathBuf>,
    },
    /// One process of `hold`.
    #[command(hide = true)]
    Holder {
        /// How many sockets.
        sockets: usize,
    },
}

#[derive(Args)]
struct Traffic {
    /// What becomes of a connection.
    #[arg(long, value_enum, default_value = "rst")]
    kind: Kind,
    /// In the caller's network namespace, instead of one that is made for this and takes what is left in TIME_WAIT along.
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
        Mode::Hold { sockets, processes } => hold::hold(sockets, processes),
        Mode::Holder { sockets } => hold::holder(sockets),
    }
}
