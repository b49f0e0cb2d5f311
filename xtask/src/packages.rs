//! What the tests need beside Rust, from the machine's own package manager.

use std::{env, path::Path, process::Stdio};

use anyhow::Result;

use crate::{check, command, is_root};

/// A program, and the Debian package that has it.
pub type Needed = (&'static str, &'static str);

/// What the live tests use.
pub const LIVE: [Needed; 15] = [
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
];

/// What the language of searches is compared with.
pub const ORACLE: [Needed; 1] = [("python3", "python3")];

/// What guests need beside that.
pub const GUESTS: [Needed; 2] = [("qemu-system-x86_64", "qemu-system-x86"), ("xz", "xz-utils")];

/// Why something cannot run without programs that are not there, if so.
pub fn obstacle(needed: &[Needed]) -> Option<String> {
    let missing: Vec<String> =
        missing(needed).map(|(program, package)| format!("{program} (package {package})")).collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

fn missing(needed: &[Needed]) -> impl Iterator<Item = &Needed> {
    needed.iter().filter(|(program, _)| !is_installed(program))
}

/// Installs the missing programs, where there is apt and this process runs as root.
///
/// # Errors
///
/// When apt cannot be run or fails.
pub fn install() -> Result<()> {
    let mut packages: Vec<_> =
        missing(&LIVE).chain(missing(&ORACLE)).chain(missing(&GUESTS)).map(|(_, package)| *package).collect();
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

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| Path::new(&folder).join(program).is_file())
}
