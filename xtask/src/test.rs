//! All tests, in the order of their cost. Names what cannot run here, and says at the end what each step cost.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::{cargo, check, is_root, packages};

use crate::{ebpf, tidy, vm};

/// A test that is a step of its own: it needs Python.
const ORACLE: &str = "python_gives_the_same_rows";
/// Finds dependencies that nothing uses.
const MACHETE: &str = "cargo-machete";
const MACHETE_VERSION: &str = "0.9.2";
/// Packages whose tests ask no kernel.
const UNIT: [&str; 7] =
    ["netconn", "netconn-bench", "netconn-common", "netconn-model", "netconn-query", "netconn-search", "xtask"];

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct TestOptions {
    /// Run only the unit tests and live tests with this in their names (in guests: `cargo xtask vm SERIES NAME`).
    name: Option<String>,
    /// Install nothing.
    #[arg(long)]
    no_install: bool,
    /// Let a test that cannot run be a failure.
    #[arg(long, env = "CI", num_args = 0..=1, default_missing_value = "true")]
    no_skip: Option<String>,
}

/// A step: its name, why it cannot run here (if so), and what it does.
struct Step {
    name: &'static str,
    obstacle: Option<String>,
    run: fn(&str) -> Result<Done>,
}

/// What a step that passed has to report.
#[derive(Default)]
struct Done {
    /// Number of tests that cargo ran, where it did.
    tests: usize,
    /// Tests in guests that passed only when repeated.
    second_tries: Vec<String>,
}

/// How a step ended.
enum Ended {
    Passed(Done),
    Failed(anyhow::Error),
    Skipped(String),
}

/// A step that is over.
struct Over {
    name: &'static str,
    took: Duration,
    ended: Ended,
}

/// Runs everything, or the tests with a name.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    if !options.no_install
        && let Err(error) = packages::install()
    {
        println!("the packages that the tests need could not be installed: {error:#}");
    }
    let steps = match &options.name {
        Some(name) => named_steps(name),
        None => all_steps(!options.no_install),
    };
    let mut over = Vec::new();
    for Step { name, obstacle, run } in steps {
        println!("\n== {name}");
        let since = Instant::now();
        let ended = match obstacle {
            Some(reason) => Ended::Skipped(reason),
            None => run(options.name.as_deref().unwrap_or_default()).map_or_else(Ended::Failed, Ended::Passed),
        };
        over.push(Over { name, took: since.elapsed(), ended });
        if let Some(line) = over.last().map(line) {
            println!("{line}");
        }
    }
    println!();
    let no_skip = options.no_skip.as_ref().is_some_and(|value| value != "false");
    conclude(&over, options.name.as_deref(), no_skip)
}

/// The steps of a whole run. Installs what cargo can install.
fn all_steps(install: bool) -> Vec<Step> {
    let tool = machete_obstacle(install);
    vec![
        Step { name: "formatting", obstacle: None, run: |_| silent(&mut cargo(&["fmt", "--all", "--check"])) },
        Step { name: "tidy", obstacle: None, run: |_| tidy::run().map(|()| Done::default()) },
        Step { name: "unused dependencies", obstacle: tool, run: |_| silent(&mut cargo(&["machete"])) },
        Step { name: "clippy", obstacle: None, run: |_| clippy() },
        Step { name: "unit tests", obstacle: None, run: unit },
        Step { name: "search against Python", obstacle: packages::obstacle(&packages::ORACLE), run: |_| oracle() },
        Step { name: "ebpf --check", obstacle: ebpf::missing(), run: |_| ebpf::run(true).map(|()| Done::default()) },
        Step { name: "live tests", obstacle: live_obstacle(), run: live },
        Step { name: "kernel matrix", obstacle: live_obstacle().or_else(vm::obstacle), run: |_| matrix() },
    ]
}

/// The steps whose tests can be chosen by name.
fn named_steps(name: &str) -> Vec<Step> {
    let mut steps = vec![
        Step { name: "unit tests", obstacle: None, run: unit },
        Step { name: "live tests", obstacle: live_obstacle(), run: live },
    ];
    if ORACLE.contains(name) {
        let obstacle = packages::obstacle(&packages::ORACLE);
        steps.insert(1, Step { name: "search against Python", obstacle, run: |_| oracle() });
    }
    steps
}

/// One line about a step that is over.
fn line(Over { name, took, ended }: &Over) -> String {
    let seconds = took.as_secs_f64();
    match ended {
        Ended::Passed(_) => format!("{name}: passed in {seconds:.1} s"),
        Ended::Failed(_) => format!("{name}: FAILED after {seconds:.1} s"),
        Ended::Skipped(reason) => format!("{name}: skipped: {reason}"),
    }
}

/// Prints the verdict: here those who have only the end of a long log find everything. An error if something failed.
fn conclude(over: &[Over], wanted: Option<&str>, no_skip: bool) -> Result<()> {
    let (mut tests, mut second_tries, mut failed, mut skipped) = (0, Vec::new(), Vec::new(), 0);
    for step in over {
        println!("{}", line(step));
        match &step.ended {
            Ended::Passed(done) => {
                tests += done.tests;
                second_tries.extend(&done.second_tries);
            }
            Ended::Failed(error) => failed.push((step.name, error)),
            Ended::Skipped(_) => skipped += 1,
        }
    }
    for test in &second_tries {
        println!("passed on the second try: {test}");
    }
    for (name, error) in &failed {
        println!("FAILED: {name}: {error:#}");
    }
    let passed = over.len() - failed.len() - skipped;
    let tries = second_tries.len();
    println!("steps: {passed} passed, {} failed, {skipped} skipped; passed on the second try: {tries}", failed.len());
    if !failed.is_empty() {
        bail!("failed: {}", failed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
    }
    if no_skip && skipped > 0 {
        bail!("nothing may be skipped in CI");
    }
    match wanted {
        Some(name) if tests == 0 => bail!("no test that can run here has '{name}' in its name"),
        _ => Ok(()),
    }
}

/// Runs a command in which no tests are counted.
fn silent(command: &mut Command) -> Result<Done> {
    check(command).map(|()| Done::default())
}

/// Why unused dependencies cannot be found here, if so; installs the program first where that is allowed.
fn machete_obstacle(install: bool) -> Option<String> {
    let arguments = ["install", MACHETE, "--version", MACHETE_VERSION, "--locked"];
    if packages::is_installed(MACHETE) {
        return None;
    }
    let advice = format!("not installed: {MACHETE} (cargo {})", arguments.join(" "));
    if !install {
        return Some(advice);
    }
    check(cargo(&arguments).arg("--quiet")).err().map(|error| format!("{advice}: {error:#}"))
}

fn clippy() -> Result<Done> {
    silent(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))
}

/// Runs the tests that need no kernel to be asked.
fn unit(name: &str) -> Result<Done> {
    let packages = UNIT.map(|name| ["--package", name]);
    let chosen = ["--", "--skip", ORACLE, name];
    let chosen = if name.is_empty() { &chosen[..3] } else { &chosen };
    cargo_test(&mut cargo(&[&["test", "--quiet", "--no-fail-fast"], packages.as_flattened(), chosen].concat()))
}

/// Compares the rows of hundreds of queries with those of plain Python.
fn oracle() -> Result<Done> {
    cargo_test(&mut cargo(&["test", "--quiet", "--package", "netconn-search", "--test", "oracle", "--", ORACLE]))
}

fn live_obstacle() -> Option<String> {
    if !is_root() {
        return Some("they load eBPF programs and make network namespaces: run as root".into());
    }
    packages::obstacle(&packages::LIVE)
}

/// Tests netconn on this kernel against real programs. One test at a time, because they measure what a daemon sees.
fn live(name: &str) -> Result<Done> {
    check(&mut cargo(&["build", "--quiet", "--release", "--package", "netconn"]))?;
    let arguments = ["test", "--quiet", "--release", "--package", "netconn-tests", "--no-fail-fast"];
    let chosen = ["--", "--test-threads", "1", name];
    let chosen = if name.is_empty() { &chosen[..3] } else { &chosen };
    cargo_test(&mut cargo(&[&arguments[..], chosen].concat()))
}

fn matrix() -> Result<Done> {
    Ok(Done { second_tries: vm::run(None, None)?, ..Done::default() })
}

/// Runs `cargo test`, shows its output and counts its tests. The error repeats what failed tests printed.
fn cargo_test(command: &mut Command) -> Result<Done> {
    let mut running = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = running.stdout.take().context("no output")?;
    let (mut done, mut failures, mut is_within) = (Done::default(), String::new(), false);
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        done.tests += count(&line).unwrap_or(0);
        // cargo prints the output of failed tests between these two lines.
        is_within = (is_within || line == "failures:") && !line.starts_with("test result:");
        if is_within {
            failures.push_str(&line);
            failures.push('\n');
        }
    }
    let status = running.wait()?;
    if status.success() { Ok(done) } else { bail!("{status}\n{failures}") }
}

/// Number of tests in a line like `running 12 tests`.
fn count(line: &str) -> Option<usize> {
    let (count, unit) = line.strip_prefix("running ")?.split_once(' ')?;
    unit.starts_with("test").then(|| count.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(tests: usize, second_tries: &[&str]) -> Over {
        let second_tries = second_tries.iter().map(ToString::to_string).collect();
        Over { name: "a", took: Duration::ZERO, ended: Ended::Passed(Done { tests, second_tries }) }
    }

    #[test]
    fn tests_are_counted() {
        assert_eq!(count("running 12 tests"), Some(12));
        assert_eq!(count("running 1 test"), Some(1));
        assert_eq!(count("running late"), None);
        assert_eq!(count("test result: ok. 12 passed"), None);
    }

    #[test]
    fn a_name_that_no_test_has_is_an_error() {
        assert!(conclude(&[passed(0, &[])], Some("x"), false).is_err());
        assert!(conclude(&[passed(0, &[])], None, false).is_ok());
        assert!(conclude(&[passed(0, &[]), passed(1, &[])], Some("x"), false).is_ok());
    }

    #[test]
    fn a_skipped_step_fails_only_in_ci() {
        let skipped = Over { name: "b", took: Duration::ZERO, ended: Ended::Skipped("no root".into()) };
        assert_eq!(line(&skipped), "b: skipped: no root");
        let over = [passed(3, &["6.1: a test"]), skipped];
        assert!(conclude(&over, None, false).is_ok());
        assert!(conclude(&over, None, true).is_err());
    }
}
