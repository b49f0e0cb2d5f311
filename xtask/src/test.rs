//! Runs all tests, the cheapest first. Reports the steps that cannot run here, and at the end the time of each step.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use xtask::{cargo, check, is_root, packages};

use crate::{dist, ebpf, formats, systemd, tidy, vm};

/// The test that is a separate step because it needs Python.
const ORACLE: &str = "python_gives_the_same_rows";
/// The program that finds unused dependencies.
const MACHETE: &str = "cargo-machete";
const MACHETE_VERSION: &str = "0.9.2";
/// Packages with tests that do not load eBPF programs.
const UNIT: [&str; 8] = [
    "netconn",
    "netconn-bench",
    "netconn-common",
    "netconn-manual",
    "netconn-model",
    "netconn-query",
    "netconn-search",
    "xtask",
];

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct TestOptions {
    /// Run only unit tests and live tests whose names contain this text; for guests see `cargo xtask vm SERIES NAME`.
    name: Option<String>,
    /// Do not install missing packages.
    #[arg(long)]
    no_install: bool,
    /// Fail if a test cannot run.
    #[arg(long, env = "CI", num_args = 0..=1, default_missing_value = "true")]
    no_skip: Option<String>,
}

/// A step of the tests.
struct TestStep {
    name: &'static str,
    /// Why the step cannot run here.
    obstacle: Option<String>,
    /// Runs the tests with this text in their names.
    run: fn(&str) -> Result<StepResults>,
}

/// The results of a step that passed.
#[derive(Default)]
struct StepResults {
    /// Number of tests that cargo ran; 0 in steps that run none.
    tests: usize,
    /// Tests in guests that passed only on the second try.
    second_tries: Vec<String>,
}

/// How a step ended.
enum StepOutcome {
    Passed(StepResults),
    Failed(anyhow::Error),
    Skipped(String),
}

/// A step that has ended.
struct FinishedStep {
    name: &'static str,
    took: Duration,
    outcome: StepOutcome,
}

/// Runs all steps, or the tests with a name.
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
    let mut finished = Vec::new();
    for TestStep { name, obstacle, run } in steps {
        println!("\n== {name}");
        let since = Instant::now();
        let outcome = match obstacle {
            Some(reason) => StepOutcome::Skipped(reason),
            None => {
                run(options.name.as_deref().unwrap_or_default()).map_or_else(StepOutcome::Failed, StepOutcome::Passed)
            }
        };
        finished.push(FinishedStep { name, took: since.elapsed(), outcome });
        if let Some(line) = finished.last().map(summary_line) {
            println!("{line}");
        }
    }
    println!();
    // CI services set `CI` to any text; only `false` means that it is off.
    let no_skip = options.no_skip.as_ref().is_some_and(|value| value != "false");
    conclude(&finished, options.name.as_deref(), no_skip)
}

/// Returns the steps of a whole run. With `install`, first installs cargo-machete if it is missing.
fn all_steps(install: bool) -> Vec<TestStep> {
    let tool = machete_obstacle(install);
    vec![
        TestStep { name: "formatting", obstacle: None, run: |_| run_command(&mut cargo(&["fmt", "--all", "--check"])) },
        TestStep { name: "tidy", obstacle: None, run: |_| tidy::run().map(|()| StepResults::default()) },
        TestStep { name: "unused dependencies", obstacle: tool, run: |_| run_machete() },
        TestStep { name: "clippy", obstacle: None, run: |_| run_clippy() },
        TestStep { name: "unit tests", obstacle: packages::obstacle(&packages::UNIT), run: run_unit_tests },
        TestStep {
            name: "search against Python",
            obstacle: packages::obstacle(&packages::ORACLE),
            run: |_| run_oracle(),
        },
        TestStep {
            name: "formats against their schemas",
            obstacle: packages::obstacle(&packages::FORMATS),
            run: |_| formats::run().map(|()| StepResults::default()),
        },
        TestStep {
            name: "ebpf --check",
            obstacle: ebpf::missing_tools(),
            run: |_| ebpf::run(true).map(|()| StepResults::default()),
        },
        TestStep {
            name: "packages",
            obstacle: dist::check::obstacle(),
            run: |_| dist::check::run().map(|()| StepResults::default()),
        },
        TestStep { name: "service", obstacle: systemd::obstacle(), run: |_| run_service() },
        TestStep { name: "live tests", obstacle: live_obstacle(), run: run_live_tests },
        TestStep { name: "kernel matrix", obstacle: live_obstacle().or_else(vm::obstacle), run: |_| run_matrix() },
    ]
}

/// Returns the steps that can run tests by name.
fn named_steps(name: &str) -> Vec<TestStep> {
    let mut steps = vec![
        TestStep { name: "unit tests", obstacle: packages::obstacle(&packages::UNIT), run: run_unit_tests },
        TestStep { name: "live tests", obstacle: live_obstacle(), run: run_live_tests },
    ];
    if ORACLE.contains(name) {
        let obstacle = packages::obstacle(&packages::ORACLE);
        steps.insert(1, TestStep { name: "search against Python", obstacle, run: |_| run_oracle() });
    }
    steps
}

/// Formats one line about a step that has ended.
fn summary_line(FinishedStep { name, took, outcome }: &FinishedStep) -> String {
    let seconds = took.as_secs_f64();
    match outcome {
        StepOutcome::Passed(_) => format!("{name}: passed in {seconds:.1} s"),
        StepOutcome::Failed(_) => format!("{name}: FAILED after {seconds:.1} s"),
        StepOutcome::Skipped(reason) => format!("{name}: skipped: {reason}"),
    }
}

/// Prints a summary of all steps, for readers who have only the end of a long log. Returns an error if a step failed.
fn conclude(finished: &[FinishedStep], wanted: Option<&str>, no_skip: bool) -> Result<()> {
    let (mut tests, mut second_tries, mut failed, mut skipped) = (0, Vec::new(), Vec::new(), 0);
    for step in finished {
        println!("{}", summary_line(step));
        match &step.outcome {
            StepOutcome::Passed(done) => {
                tests += done.tests;
                second_tries.extend(&done.second_tries);
            }
            StepOutcome::Failed(error) => failed.push((step.name, error)),
            StepOutcome::Skipped(_) => skipped += 1,
        }
    }
    // Listed even if all is well: a test that needs two tries hides a race or a slow machine.
    for test in &second_tries {
        println!("passed on the second try: {test}");
    }
    for (name, error) in &failed {
        println!("FAILED: {name}: {error:#}");
    }
    let passed = finished.len() - failed.len() - skipped;
    let tries = second_tries.len();
    println!("steps: {passed} passed, {} failed, {skipped} skipped; passed on the second try: {tries}", failed.len());
    if !failed.is_empty() {
        bail!("failed: {}", failed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
    }
    // After the failures, which matter more.
    if no_skip && skipped > 0 {
        bail!("steps were skipped, which --no-skip and CI forbid");
    }
    match wanted {
        // A mistyped name would otherwise pass.
        Some(name) if tests == 0 => bail!("no test that can run here has '{name}' in its name"),
        _ => Ok(()),
    }
}

/// Runs a command that has no tests to count.
fn run_command(command: &mut Command) -> Result<StepResults> {
    check(command).map(|()| StepResults::default())
}

/// Returns why cargo-machete cannot run here, if so. With `install`, first installs it if it is missing.
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

/// Finds unused dependencies. Not by way of cargo: cargo-machete takes its own name for a folder when it runs below `cargo run`.
fn run_machete() -> Result<StepResults> {
    run_command(&mut xtask::command(MACHETE, &[]))
}

fn run_clippy() -> Result<StepResults> {
    run_command(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))
}

/// Runs the tests that do not load eBPF programs.
fn run_unit_tests(name: &str) -> Result<StepResults> {
    let packages = UNIT.map(|name| ["--package", name]);
    let chosen = ["--", "--skip", ORACLE, name];
    let chosen = if name.is_empty() { &chosen[..3] } else { &chosen };
    cargo_test(&mut cargo(&[&["test", "--quiet", "--no-fail-fast"], packages.as_flattened(), chosen].concat()))
}

/// Compares the rows of hundreds of queries with those that Python code computes.
fn run_oracle() -> Result<StepResults> {
    cargo_test(&mut cargo(&["test", "--quiet", "--package", "netconn-search", "--test", "oracle", "--", ORACLE]))
}

fn live_obstacle() -> Option<String> {
    if !is_root() {
        return Some("they load eBPF programs and make network namespaces: run as root".into());
    }
    packages::obstacle(&packages::LIVE)
}

/// Tests netconn with real programs on this kernel. Runs one test at a time, because a daemon sees the connections of
/// all.
fn run_live_tests(name: &str) -> Result<StepResults> {
    check(&mut cargo(&["build", "--quiet", "--release", "--package", "netconn"]))?;
    let arguments = ["test", "--quiet", "--release", "--package", "netconn-tests", "--no-fail-fast"];
    let chosen = ["--", "--test-threads", "1", name];
    let chosen = if name.is_empty() { &chosen[..3] } else { &chosen };
    cargo_test(&mut cargo(&[&arguments[..], chosen].concat()))
}

/// Tries the packages that the step before has made, if it could.
fn run_service() -> Result<StepResults> {
    let packages = dist::check::made();
    systemd::run(packages.is_dir().then_some(packages.as_path()), None).map(|()| StepResults::default())
}

fn run_matrix() -> Result<StepResults> {
    Ok(StepResults { second_tries: vm::run(None, None)?, ..StepResults::default() })
}

/// Runs `cargo test`, prints its output and counts its tests. The error repeats the output of failed tests.
fn cargo_test(command: &mut Command) -> Result<StepResults> {
    let mut running = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = running.stdout.take().context("no output")?;
    let (mut done, mut failures, mut is_within) = (StepResults::default(), String::new(), false);
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        done.tests += test_count(&line).unwrap_or(0);
        // cargo prints the output of failed tests between these two lines.
        // `failures:` comes twice: before the outputs and before the list of names. Both are kept.
        is_within = (is_within || line == "failures:") && !line.starts_with("test result:");
        if is_within {
            failures.push_str(&line);
            failures.push('\n');
        }
    }
    let status = running.wait()?;
    if status.success() { Ok(done) } else { bail!("{status}\n{failures}") }
}

/// Returns the number of tests in a line like `running 12 tests`.
fn test_count(line: &str) -> Option<usize> {
    let (count, unit) = line.strip_prefix("running ")?.split_once(' ')?;
    unit.starts_with("test").then(|| count.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(tests: usize, second_tries: &[&str]) -> FinishedStep {
        let second_tries = second_tries.iter().map(ToString::to_string).collect();
        FinishedStep {
            name: "a",
            took: Duration::ZERO,
            outcome: StepOutcome::Passed(StepResults { tests, second_tries }),
        }
    }

    #[test]
    fn tests_are_counted() {
        assert_eq!(test_count("running 12 tests"), Some(12));
        assert_eq!(test_count("running 1 test"), Some(1));
        assert_eq!(test_count("running late"), None);
        assert_eq!(test_count("test result: ok. 12 passed"), None);
    }

    #[test]
    fn a_name_that_no_test_has_is_an_error() {
        assert!(conclude(&[passed(0, &[])], Some("x"), false).is_err());
        assert!(conclude(&[passed(0, &[])], None, false).is_ok());
        assert!(conclude(&[passed(0, &[]), passed(1, &[])], Some("x"), false).is_ok());
    }

    #[test]
    fn a_skipped_step_fails_only_in_ci() {
        let skipped = FinishedStep { name: "b", took: Duration::ZERO, outcome: StepOutcome::Skipped("no root".into()) };
        assert_eq!(summary_line(&skipped), "b: skipped: no root");
        let finished = [passed(3, &["6.1: a test"]), skipped];
        assert!(conclude(&finished, None, false).is_ok());
        assert!(conclude(&finished, None, true).is_err());
    }
}
