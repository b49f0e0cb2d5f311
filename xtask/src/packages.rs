//! Finds and installs the programs that tests need beside Rust.

use std::{env, path::Path, process::Stdio};

use anyhow::Result;

use crate::{check, command, is_root};

/// A program and its Debian package.
pub type NeededProgram = (&'static str, &'static str);

/// Programs that the unit tests run: they compress the files that searches read.
pub const UNIT: [NeededProgram; 2] = [("bzip2", "bzip2"), ("xz", "xz-utils")];

/// Programs that the live tests run.
pub const LIVE: [NeededProgram; 17] = [
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("iperf3", "iperf3"),
    ("ping", "iputils-ping"),
    ("traceroute", "traceroute"),
    ("nping", "nmap"),
    ("hping3", "hping3"),
    ("tcpdump", "tcpdump"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nft", "nftables"),
    ("sysctl", "procps"),
    ("setpriv", "util-linux"),
    ("systemd-analyze", "systemd"),
    ("logrotate", "logrotate"),
];

/// The program with which the query language is compared.
pub const ORACLE: [NeededProgram; 1] = [("python3", "python3")];

/// Programs that install and run the schemas of other programs' formats.
pub const FORMATS: [NeededProgram; 2] = [("python3", "python3"), ("pip3", "python3-pip")];

/// Programs that guests need beside those of the live tests.
pub const GUESTS: [NeededProgram; 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("qemu-system-aarch64", "qemu-system-arm"), ("xz", "xz-utils")];

/// Programs that the guest with systemd needs.
pub const SERVICE: [NeededProgram; 3] =
    [("debootstrap", "debootstrap"), ("systemd-nspawn", "systemd-container"), ("bpftool", "bpftool")];

/// Programs that make packages and check them.
pub const PACKAGING: [NeededProgram; 9] = [
    ("dpkg-deb", "dpkg"),
    ("rpmbuild", "rpm"),
    ("zstd", "zstd"),
    ("lintian", "lintian"),
    ("rpmlint", "rpmlint"),
    ("man", "man-db"),
    ("bash", "bash"),
    ("zsh", "zsh"),
    ("fish", "fish"),
];

/// Returns a sentence that names the missing programs and their packages, or `None` if all are installed.
pub fn obstacle(needed: &[NeededProgram]) -> Option<String> {
    let missing: Vec<String> =
        missing(needed).map(|(program, package)| format!("{program} (package {package})")).collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

fn missing(needed: &[NeededProgram]) -> impl Iterator<Item = &NeededProgram> {
    needed.iter().filter(|(program, _)| !is_installed(program))
}

/// Installs the missing programs of all tests. Does nothing without apt or if this process does not run as root.
///
/// # Errors
///
/// apt cannot be run, or it fails.
pub fn install() -> Result<()> {
    let needed = [&UNIT[..], &LIVE, &ORACLE, &FORMATS, &GUESTS, &SERVICE, &PACKAGING].concat();
    let mut packages: Vec<_> = missing(&needed).map(|(_, package)| *package).collect();
    // Programs of the same package are neighbours in the lists.
    packages.dedup();
    if packages.is_empty() || !is_installed("apt-get") || !is_root() {
        return Ok(());
    }
    println!("installing {}", packages.join(", "));
    let apt = |arguments: &[&str]| {
        let mut apt = command("apt-get", arguments);
        apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
        apt
    };
    check(&mut apt(&["update", "-q"]))?;
    check(apt(&["install", "-q", "-y", "--no-install-recommends"]).args(&packages))
}

/// Returns whether a program is installed, on the path or in a folder of system programs.
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| Path::new(&folder).join(program).is_file())
}
