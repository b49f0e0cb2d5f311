//! The command `cargo xtask`: netconn's chores.

mod btf;
mod ebpf;
mod dist;
mod formats;
mod picture;
mod run;
mod systemd;
mod test;
mod tidy;
mod vm;

use std::{ffi::OsString, os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use xtask::cargo;

/// netconn's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct XtaskArguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build netconn and show the connections of this machine as they happen. Runs netconn as root, with sudo if
    /// needed.
    Run {
        /// netconn is built already; the call through sudo sets this.
        #[arg(long, hide = true)]
        built: bool,
    },
    /// Run all tests, or those with a name. Installs missing packages if possible, and lists the tests that cannot run.
    ///
    /// All tests take about 40 minutes on two CPUs. As root they load eBPF programs, create network namespaces and boot
    /// guests with other kernels in QEMU. On Debian and Ubuntu, as root, apt installs missing packages (nginx, tcpdump,
    /// QEMU, …); cargo installs cargo-machete. A test that fails in a guest is repeated once; the last line counts the
    /// tests that passed on the second try.
    Test(test::TestOptions),
    /// Measure netconn against its goals, and beside those of ss, netstat, lsof, tcplife, tcpstates and bpftrace that
    /// are installed. Needs root. The long help (--help) describes how each figure is measured.
    #[command(disable_help_flag = true)]
    Bench {
        /// Groups and options; see `cargo xtask bench --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build the eBPF object that netconn embeds and write it to netconn/bpf.
    Ebpf {
        /// Do not write the object; fail if it differs from the committed one.
        #[arg(long)]
        check: bool,
    },
    /// Run the live tests on the kernels of tests/kernels.toml, in QEMU.
    Vm {
        /// Run only on this kernel series, such as 6.1, or on one of another architecture: 6.1-arm64.
        series: Option<String>,
        /// Run only tests whose name contains this text.
        test: Option<String>,
    },
    /// Install the packages of a folder in a Debian with systemd, and check service, upgrade and removal. Needs root.
    Systemd {
        /// Run only checks whose name contains this text, and those that prepare them.
        check: Option<String>,
        /// Take the packages from this folder [default: a package of a debug build].
        #[arg(long, value_name = "DIR")]
        packages: Option<PathBuf>,
    },
    /// Make the packages that are released, in target/dist: .deb, .rpm and archives with static programs for x86_64 and
    /// aarch64, bills of materials and sums.
    Dist(dist::DistOptions),
    /// Write the type information of the kernels of tests/kernels.toml, trimmed to the types that netconn reads, to
    /// netconn/tests/data/btf. Run this when netconn reads another type or member.
    Btf {
        /// Write only the file of this kernel series.
        series: Option<String>,
    },
    /// Draw the picture of the README, docs/session.svg, from a real session. Needs root.
    Picture,
    /// Check rules that compilers do not: the order of modules, the length and first line of files, imports, names, the
    /// code map, which crate uses which.
    Tidy,
}

fn main() -> ExitCode {
    let result = match XtaskArguments::parse().chore {
        Chore::Run { built } => run::run(built),
        Chore::Test(options) => test::run(&options),
        Chore::Bench { arguments } => bench(&arguments),
        Chore::Ebpf { check } => ebpf::run(check),
        Chore::Vm { series, test } => matrix(series.as_deref(), test.as_deref()),
        Chore::Systemd { check, packages } => systemd::run(packages.as_deref(), check.as_deref()),
        Chore::Dist(options) => dist::run(&options),
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

/// Replaces this process by the program of the crate `bench`, which has its own options and help.
fn bench(arguments: &[OsString]) -> Result<()> {
    let mut run = cargo(&["run", "--quiet", "--package", "netconn-bench", "--"]);
    // Paths in options are relative to the caller's folder.
    let error = run.current_dir(".").args(arguments).exec();
    Err(error).context("cannot run cargo")
}

/// Runs live tests in guests and lists the tests that passed only on the second try.
fn matrix(series: Option<&str>, test: Option<&str>) -> Result<()> {
    for test in vm::run(series, test)? {
        println!("passed on the second try: {test}");
    }
    Ok(())
}
