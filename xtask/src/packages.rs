//! What the tests need beside Rust, from the machine's own package manager.

use std::{env, path::Path, process::Stdio};

use anyhow::Result;

use crate::{check, command};

/// A program the live tests use, and the Debian package that has it.
const NEEDED: [(&str, &str); 9] = [
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nft", "nftables"),
    ("sysctl", "procps"),
    ("setpriv", "util-linux"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("xz", "xz-utils"),
];

/// Programs that are not there.
pub(crate) fn missing() -> Vec<(&'static str, &'static str)> {
    NEEDED.into_iter().filter(|(program, _)| !is_there(program)).collect()
}

/// Installs what is missing, where apt is and this is root.
pub(crate) fn install() -> Result<()> {
    let mut packages: Vec<_> = missing().into_iter().map(|(_, package)| package).collect();
    packages.dedup();
    if packages.is_empty() || !is_there("apt-get") || !crate::is_root() {
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
pub(crate) fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| Path::new(&folder).join(program).is_file())
}
