//! Runs the live tests on other kernels in QEMU and prints a verdict for each kernel and test.

pub(crate) mod kernels;
mod image;
mod arm64;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use arm64::ForeignPrograms;
use kernels::KernelEntry;
use xtask::{cargo, check, packages, root};

/// Time without output after which a guest counts as hung.
const SILENCE: Duration = Duration::from_secs(120);
/// Time limit for a guest.
const LIFE: Duration = Duration::from_secs(900);
/// Prefix of the lines that the guest's init prints before and after a test, and at its end; see
/// tests/src/bin/guest-init.rs.
const VERDICT: &str = "netconn-guest: ";

/// The tiers of hooks that see attempts; see tests/src/bin/guest-init.rs. Each tier has a separate guest, so that all
/// CPUs are busy until the end and only the tests of one tier are repeated. The first has more tests, so it starts
/// first.
const TIERS: [u32; 2] = [1, 2];

/// A guest to boot.
struct Guest<'a> {
    kernel: &'a KernelEntry,
    /// Paths of the kernel and of the initramfs.
    images: &'a (PathBuf, PathBuf),
    tier: u32,
    /// Texts, separated by commas: the names of the tests to run contain one of them. All tests run if it is empty.
    test: &'a str,
    /// Number of tests that ran in all guests.
    ran: &'a AtomicUsize,
}

/// Returns why guests cannot run here, if so.
pub(crate) fn obstacle() -> Option<String> {
    packages::obstacle(&packages::GUESTS).or_else(kernels::obstacle)
}

/// Builds the daemon and the tests for the guests of this machine's architecture, and returns their folder.
fn build_native() -> Result<PathBuf> {
    check(&mut cargo(&["build", "--quiet", "--release", "--package", "netconn"]))?;
    check(&mut cargo(&["test", "--quiet", "--release", "--package", "netconn-tests", "--no-run"]))?;
    check(&mut cargo(&["build", "--quiet", "--release", "--package", "netconn-tests", "--bins"]))?;
    Ok(root().join("target/release"))
}

/// Builds the image of a kernel's guests and returns its path and that of the kernel.
fn build(kernel: &KernelEntry, target: &Path) -> Result<(PathBuf, PathBuf)> {
    let fetched = kernels::fetch(kernel)?;
    let foreign = match kernel.is_native() {
        true => None,
        false => Some(ForeignPrograms::fetch(&kernels::folder(kernel), &kernel.architecture)?),
    };
    let image = image::build(kernel, &fetched, target, foreign.as_ref())?;
    Ok((fetched.image, image))
}

/// Runs the live tests on every kernel of the list, or on one series; all tests, or those with `test` in their name.
/// Returns those that passed only on the second try.
pub(crate) fn run(series: Option<&str>, test: Option<&str>) -> Result<Vec<String>> {
    if let Some(reason) = obstacle() {
        bail!("guests cannot run here: {reason}");
    }
    let (native, foreign): (Vec<_>, Vec<_>) = kernels::select(series)?.into_iter().partition(KernelEntry::is_native);
    let mut built = Vec::new();
    if !native.is_empty() {
        let target = build_native()?;
        for kernel in native {
            let images = build(&kernel, &target)?;
            built.push((kernel, images));
        }
    }
    for kernel in foreign {
        let target = arm64::build_tests(&kernel.files)?;
        let images = build(&kernel, &target)?;
        built.push((kernel, images));
    }
    let (test, ran) = (test.unwrap_or_default(), &AtomicUsize::new(0));
    let guests: Vec<Guest<'_>> = TIERS
        .iter()
        .flat_map(|tier| built.iter().map(|(kernel, images)| Guest { kernel, images, tier: *tier, test, ran }))
        // A smoke set is the same in both tiers.
        .filter(|guest| guest.tier == TIERS[0] || guest.kernel.is_native())
        .collect();
    // A guest uses one CPU; see `boot`.
    let at_once = thread::available_parallelism()?.get();
    let next = AtomicUsize::new(0);
    // Workers take guests from one list, so none is idle while guests wait.
    let work = || {
        let mut sum = Tries::default();
        while let Some(guest) = guests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let tries = boot_twice(guest).unwrap_or_else(|error| {
                println!("{}: {error:#}", guest.kernel.name());
                Tries { failed: 1, passed_second: Vec::new() }
            });
            sum.add(tries);
        }
        sum
    };
    let mut sum = Tries::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            sum.add(worker.join().unwrap_or(Tries { failed: 1, passed_second: Vec::new() }));
        }
    });
    if ran.load(Ordering::Relaxed) == 0 {
        bail!("no test in guests has '{test}' in its name");
    }
    if sum.failed == 0 { Ok(sum.passed_second) } else { bail!("{} tests failed in guests", sum.failed) }
}

/// Results of guests that were booted once or twice.
#[derive(Default)]
struct Tries {
    /// Number of tests that failed both times.
    failed: usize,
    /// Names of tests that failed only the first time, each with its kernel.
    passed_second: Vec<String>,
}

impl Tries {
    fn add(&mut self, other: Self) {
        self.failed += other.failed;
        self.passed_second.extend(other.passed_second);
    }

    /// Returns the results of a guest from the failed tests of both boots.
    fn compare(guest: &str, first: &BTreeSet<String>, second: &BTreeSet<String>) -> Self {
        Self {
            failed: first.intersection(second).count(),
            passed_second: first.difference(second).map(|test| format!("{guest}: {test}")).collect(),
        }
    }
}

/// Boots a guest, and boots it again for the tests that failed: on a busy host an emulated machine can stop for seconds,
/// which exceeds the time limits of tests. A test fails if it fails both times.
fn boot_twice(guest: &Guest<'_>) -> Result<Tries> {
    let name = format!("{}, tier {}", guest.kernel.name(), guest.tier);
    let first = match boot(guest) {
        Ok(failed) if failed.is_empty() => return Ok(Tries::default()),
        Ok(failed) => failed,
        Err(error) => {
            println!("{name}: {error:#}; booting it again");
            // A second hang is an error of the whole guest.
            let failed = boot(guest)?.len();
            // It is unknown which tests the first boot did not reach, so the guest's name is listed instead.
            return Ok(Tries { failed, passed_second: vec![format!("{name}: {error:#}")] });
        }
    };
    println!("{name}: booting it again because of {}", first.iter().cloned().collect::<Vec<_>>().join("; "));
    let again = first.iter().filter_map(|verdict| verdict.rsplit(": ").next()).collect::<Vec<_>>().join(",");
    Ok(Tries::compare(&name, &first, &boot(&Guest { test: &again, ..*guest })?))
}

/// Makes the command of an emulated machine with two processors.
fn machine(kernel: &KernelEntry) -> Command {
    let mut machine = if kernel.is_native() {
        let mut machine = Command::new("qemu-system-x86_64");
        // -cx16: QEMU emulates each 16-byte atomic by stopping all CPUs.
        machine.args(["-cpu", "max,-cx16"]);
        machine
    } else {
        let mut machine = Command::new("qemu-system-aarch64");
        // A server's processor, with atomics of its own and without signed pointers, which QEMU emulates slowly.
        machine.args(["-machine", "virt", "-cpu", "neoverse-n1"]);
        machine
    };
    // Not thread=multi: a CPU of the guest can keep executing a breakpoint that another CPU has removed. The kernel
    // then finds no breakpoint and repeats the instruction for ever. Daemons that start and stop patch code (static
    // keys of cgroup hooks) that connecting processes execute: 4 of 6 guests with 6.1 hung in __inet_stream_connect
    // (QEMU 7.2).
    machine.args(["-accel", "tcg,thread=single", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot"]);
    machine
}

/// Boots a guest, prints its verdicts and returns the names of the failed tests.
fn boot(
    Guest { kernel: entry @ KernelEntry { cannot, only, tier_2, .. }, images, tier, test, ran }: &Guest<'_>,
) -> Result<BTreeSet<String>> {
    let series = entry.name();
    // Who asks for a test by name wants it in any case.
    let files = if *tier == 2 && test.is_empty() { tier_2.join(",") } else { String::new() };
    let only = only.join(",");
    let test = if test.is_empty() { only.as_str() } else { test };
    let log_path = root().join(format!("target/vm/{series}-{tier}.log"));
    let (kernel, image) = images;
    let console = if entry.is_native() { "ttyS0" } else { "ttyAMA0" };
    let for_init = format!("netconn.tier={tier} netconn.files={files} netconn.test={test}");
    let mut guest = machine(entry)
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        // slab_debug: without cmpxchg16b, kernels from 6.19 on allocate memory for tracing programs only from debugged
        // caches.
        .args(["-append", &format!("console={console} quiet panic=-1 slab_debug=F {for_init}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run QEMU")?;
    let output = guest.stdout.take().context("no output")?;
    // Another thread reads, so that the time limit also ends a guest that prints nothing.
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).replace('\r', "")).is_err() {
                return;
            }
        }
    });
    let since = Instant::now();
    let (mut log, mut failed, mut passed, mut finished) = (String::new(), BTreeSet::new(), 0, false);
    let problem = loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                if let Some((_, verdict)) = line.split_once(VERDICT) {
                    // A test that must fail and passes counts as failed: the list of the kernel is out of date then.
                    let cannot = cannot.iter().any(|name| verdict.contains(name.as_str()));
                    let expected = if cannot { "FAILED" } else { "passed" };
                    let seconds = since.elapsed().as_secs();
                    println!("{series}: {seconds} s: {verdict}{}", if cannot { " (must fail)" } else { "" });
                    match verdict.rsplit_once(": ") {
                        Some((_, found)) if found == expected => passed += 1,
                        Some((test, "passed" | "FAILED")) => drop(failed.insert(test.to_owned())),
                        _ => {}
                    }
                    finished |= verdict == "finished";
                }
                log.push_str(&line);
                log.push('\n');
            }
            // QEMU has closed its output: the guest is off.
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => break Some("hangs"),
        }
        if since.elapsed() > LIFE {
            break Some("takes too long");
        }
    };
    // Otherwise QEMU has closed its output and exits by itself.
    if problem.is_some() {
        guest.kill()?;
    }
    guest.wait()?;
    fs::write(&log_path, &log)?;
    if !failed.is_empty() || problem.is_some() || !finished {
        println!("{log}");
        println!("{series}: the log is {}", log_path.display());
    }
    if let Some(problem) = problem {
        bail!("the guest with kernel {series} {problem}");
    }
    ran.fetch_add(passed + failed.len(), Ordering::Relaxed);
    if !finished {
        bail!("the guest with kernel {series} ended before its tests did");
    }
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_fails_if_it_fails_twice() {
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let tries = Tries::compare("6.1, tier 2", &set(&["a", "b"]), &set(&["b", "c"]));
        assert_eq!(tries.failed, 1);
        assert_eq!(tries.passed_second, ["6.1, tier 2: a"]);
    }
}
