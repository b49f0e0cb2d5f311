//! The first process of a guest (see `cargo xtask vm`): mounts file systems, loads modules, runs the tests, prints the
//! verdict of each, and turns the machine off.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};

/// The beginning of the lines that `cargo xtask vm` reads.
const VERDICT: &str = "netconn-guest: ";
/// How many times slower the guest is than the host.
const SLOWNESS: &str = "8";
/// The tiers (see the glossary in ARCHITECTURE.md), each with the hooks to leave out. Tier 2 is also forced on kernels
/// with trampolines.
const TIERS: [(&str, &str); 2] = [("tier 1", ""), ("tier 2", "trampolines")];
/// Tests of datagrams and packet sockets. They involve no trampolines, so they only run in tier 1.
const ONCE: [&str; 5] = ["bound", "crowds", "flows", "icmp", "packet_sockets"];

fn main() {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("securityfs", "/sys/kernel/security"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        // Without one of them only the tests that need it fail; the log has the reason.
        if let Err(error) = mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>) {
            println!("{place}: {error}");
        }
    }
    for name in fs::read_to_string("/modules").unwrap_or_default().lines() {
        // The list is in the order of dependencies; see `xtask/src/vm/image.rs`.
        let file = File::open(format!("/lib/{name}.ko")).unwrap();
        if let Err(error) = finit_module(file, &CString::default(), ModuleInitFlags::empty()) {
            println!("{name}: {error}");
        }
    }
    run("ip", &["link", "set", "lo", "up"]);
    let mut tests: Vec<_> = fs::read_dir("/t/deps").unwrap().map(|entry| entry.unwrap().path()).collect();
    tests.sort();
    let line = fs::read_to_string("/proc/cmdline").unwrap();
    let parameter = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
    let filter = parameter("netconn.test=").unwrap_or_default();
    let wanted = parameter("netconn.tier=");
    let files: Vec<_> =
        parameter("netconn.files=").unwrap_or_default().split(',').filter(|file| !file.is_empty()).collect();
    for (tier, without) in TIERS.into_iter().filter(|(tier, _)| wanted.is_none_or(|wanted| tier.ends_with(wanted))) {
        for path in &tests {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !without.is_empty() && ONCE.contains(&name) || !files.is_empty() && !files.contains(&name) {
                continue;
            }
            let mut command = Command::new(path);
            // A daemon sees the connections of all tests, so only one runs at a time.
            command.args(["--test-threads", "1"]).args(filter.split(',')).stdout(Stdio::piped());
            command.env("PATH", "/bin").env("NETCONN_TEST_SLOWNESS", SLOWNESS).env("NETCONN_TEST_WITHOUT", without);
            let mut test = command.spawn().unwrap();
            for line in BufReader::new(test.stdout.take().unwrap()).lines() {
                let line = line.unwrap();
                let verdict = line.strip_prefix("test ").and_then(|line| line.split_once(" ... "));
                match verdict {
                    Some((test, "ok")) => println!("{VERDICT}{tier}: {name}: {test}: passed"),
                    Some((test, "FAILED")) => println!("{VERDICT}{tier}: {name}: {test}: FAILED"),
                    _ => println!("{line}"),
                }
            }
            println!("{tier}: {name}: {}", test.wait().unwrap());
        }
    }
    println!("{VERDICT}finished");
    // Returns only on an error. Init then ends, the kernel panics and QEMU exits (panic=-1, -no-reboot).
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(format!("/bin/{program}")).args(arguments).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("{program} {arguments:?} failed");
    }
}
