//! netconn's chores, as `cargo xtask …`.

mod btf;
mod ebpf;
mod picture;
mod run;
mod test;
mod tidy;
mod vm;

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use xtask::cargo;

/// netconn's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build netconn and show the connections of this machine as they happen. Needs root; asks for it through sudo.
    Run {
        /// It is built already.
        #[arg(long, hide = true)]
        built: bool,
    },
    /// Run all tests, or those with a name. What they need is installed, if that is possible; what cannot run is named.
    ///
    /// All tests take about 40 minutes on two processors. As root they load eBPF programs, make network namespaces and boot
    /// guests with other kernels in QEMU. On Debian and Ubuntu, as root, packages that are missing are installed by apt (nginx,
    /// tcpdump, QEMU, …); cargo-machete is installed by cargo. A guest's test that fails is repeated once: the last line
    /// counts the tests that passed on the second try.
    Test(test::TestOptions),
    /// Measure netconn against its goals, and beside what else is installed: ss, netstat, lsof, tcplife, tcpstates, bpftrace.
    /// Needs root. How each figure is measured is in the long help (--help).
    #[command(disable_help_flag = true)]
    Bench {
        /// Groups and options: see `cargo xtask bench --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build the eBPF object and put it where netconn embeds it from (netconn/bpf).
    Ebpf {
        /// Build, but only compare with the committed object, byte for byte.
        #[arg(long)]
        check: bool,
    },
    /// Run the live tests on the kernels of tests/kernels.toml, in QEMU.
    Vm {
        /// Only on this series.
        series: Option<String>,
        /// Only tests with this in their name.
        test: Option<String>,
    },
    /// Write the unit tests' files of how kernels are built (netconn/tests/data/btf): the types in the kernels of
    /// tests/kernels.toml, trimmed to what netconn reads. To be run when a table of what is read has grown.
    Btf {
        /// Only of this series.
        series: Option<String>,
    },
    /// Draw the picture of the README, docs/session.svg: a real session. Needs root.
    Picture,
    /// Check what compilers do not: the order of modules, the length of files, their first lines.
    Tidy,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Run { built } => run::run(built),
        Chore::Test(options) => test::run(&options),
        Chore::Bench { arguments } => bench(&arguments),
        Chore::Ebpf { check } => ebpf::run(check),
        Chore::Vm { series, test } => matrix(series.as_deref(), test.as_deref()),
        Chore::Btf { series } => btf::run(series.as_deref()),
        Chore::Picture => picture::run(),
        Chore::Tidy => tidy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes the crate `bench`, which has its own options and help.
fn bench(arguments: &[OsString]) -> Result<()> {
    let mut run = cargo(&["run", "--quiet", "--package", "netconn-bench", "--"]);
    // Paths in options are relative to the caller's folder.
    let error = run.current_dir(".").args(arguments).exec();
    Err(error).context("cannot run cargo")
}

/// Runs live tests in guests, and lists what passed only when it was repeated.
fn matrix(series: Option<&str>, test: Option<&str>) -> Result<()> {
    for test in vm::run(series, test)? {
        println!("passed on the second try: {test}");
    }
    Ok(())
}
