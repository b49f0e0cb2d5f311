//! All tests, in the order of their cost; what cannot run here is named at the end.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use xtask::{cargo, check, is_root, packages};

use crate::{ebpf, tidy, vm};

/// A test that is a step of its own: it needs what others do not.
const ORACLE: &str = "python_gives_the_same_rows";

/// A step: its name, why it cannot run here (if so), and what it does.
struct Step {
    name: &'static str,
    obstacle: Option<String>,
    run: fn() -> Result<()>,
}

/// Runs everything. With `no_skip` a step that cannot run is a failure.
pub(crate) fn run(install: bool, no_skip: bool) -> Result<()> {
    if install && let Err(error) = packages::install() {
        println!("what the live tests need could not be installed: {error:#}");
    }
    let steps = [
        Step { name: "formatting", obstacle: None, run: || check(&mut cargo(&["fmt", "--all", "--check"])) },
        Step { name: "tidy", obstacle: None, run: tidy::run },
        Step { name: "clippy", obstacle: None, run: clippy },
        Step { name: "unit tests", obstacle: None, run: unit },
        Step { name: "search against Python", obstacle: packages::obstacle(&packages::ORACLE), run: oracle },
        Step { name: "ebpf --check", obstacle: ebpf::missing(), run: || ebpf::run(true) },
        Step { name: "live tests", obstacle: live_obstacle(), run: live },
        Step { name: "kernel matrix", obstacle: live_obstacle().or_else(vm::obstacle), run: || vm::run(None, None) },
    ];
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    for step in steps {
        println!("\n== {}", step.name);
        if let Some(reason) = step.obstacle {
            println!("skipped: {reason}");
            skipped.push((step.name, reason));
            continue;
        }
        let since = Instant::now();
        match (step.run)() {
            Ok(()) => {
                passed += 1;
                println!("{}: passed in {:.1} s", step.name, since.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!("{}: FAILED", step.name);
                failed.push((step.name, error));
            }
        }
    }
    println!();
    for (name, reason) in &skipped {
        println!("skipped: {name}: {reason}");
    }
    // Here, where whoever has only the end of a long log finds them.
    for (name, error) in &failed {
        println!("FAILED: {name}: {error:#}");
    }
    println!("steps: {passed} passed, {} failed, {} skipped", failed.len(), skipped.len());
    if !failed.is_empty() {
        bail!("failed: {}", failed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
    }
    if no_skip && !skipped.is_empty() {
        bail!("nothing may be skipped in CI");
    }
    Ok(())
}

fn clippy() -> Result<()> {
    check(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))
}

/// Everything that needs no kernel to be asked.
fn unit() -> Result<()> {
    let packages =
        ["netconn", "netconn-bench", "netconn-common", "netconn-model", "netconn-query", "netconn-search", "xtask"]
            .map(|name| ["--package", name]);
    let without = ["--", "--skip", ORACLE];
    check(&mut cargo(&[&["test", "--quiet"], packages.as_flattened(), &without].concat()))
}

/// Hundreds of queries, whose rows plain Python has too.
fn oracle() -> Result<()> {
    check(&mut cargo(&["test", "--quiet", "--package", "netconn-search", "--test", "oracle", "--", ORACLE]))
}

fn live_obstacle() -> Option<String> {
    if !is_root() {
        return Some("they load eBPF programs and make network namespaces: run as root".into());
    }
    packages::obstacle(&packages::LIVE)
}

/// netconn on this kernel against real programs; one at a time, because they measure what a daemon sees.
fn live() -> Result<()> {
    check(&mut cargo(&["build", "--quiet", "--release", "--package", "netconn"]))?;
    let arguments = ["test", "--quiet", "--release", "--package", "netconn-tests", "--no-fail-fast"];
    let mut tests = cargo(&[&arguments[..], &["--", "--test-threads", "1"]].concat());
    let mut tests = tests.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = tests.stdout.take().context("no output")?;
    // What failed tests say, which cargo puts between these two lines.
    let (mut failures, mut is_within) = (String::new(), false);
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        is_within = (is_within || line == "failures:") && !line.starts_with("test result:");
        if is_within {
            failures.push_str(&line);
            failures.push('\n');
        }
    }
    let status = tests.wait()?;
    if status.success() { Ok(()) } else { bail!("{status}\n{failures}") }
}
