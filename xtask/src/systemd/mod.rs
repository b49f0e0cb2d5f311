//! Installs the packages in a Debian with systemd as its first process, and prints a verdict for each thing that is asked of
//! them.

mod guest;
mod leftovers;
mod checks;

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};
use checks::{Bench, CHECKS};
use guest::Guest;
use leftovers::Snapshot;
use xtask::{is_root, packages};

use crate::{
    dist::{self, Package},
    vm::kernels,
};

/// Returns why the guest cannot run here, if so.
pub(crate) fn obstacle() -> Option<String> {
    if !is_root() {
        return Some("systemd-nspawn needs root".into());
    }
    packages::obstacle(&packages::SERVICE).or_else(kernels::obstacle)
}

/// Runs all checks, or those with `name` in their names and what they need, with the packages in a folder, or with one that is
/// made of a debug build.
pub(crate) fn run(packages: Option<&Path>, name: Option<&str>) -> Result<()> {
    if let Some(reason) = obstacle() {
        bail!("the guest cannot run here: {reason}");
    }
    let since = Instant::now();
    let name = name.unwrap_or_default();
    let chosen: Vec<_> = CHECKS.iter().filter(|check| check.is_needed || check.name.contains(name)).collect();
    if !CHECKS.iter().any(|check| check.name.contains(name)) {
        bail!("no check has '{name}' in its name");
    }
    let made = match packages {
        Some(folder) => folder.to_owned(),
        None => dist::quick(Package::Netconn)?.parent().map(Path::to_owned).context("the package is in no folder")?,
    };
    let guest = Guest::boot(&made)?;
    // Before the look at what there is: they stay.
    guest.ok("useradd alice && useradd bob")?;
    let before = Snapshot::take(&guest)?;
    let mut bench = Bench { guest, before };
    let mut failed = Vec::new();
    for check in chosen {
        let result = (check.run)(&mut bench);
        let verdict = if result.is_ok() { "passed" } else { "FAILED" };
        println!("systemd: {:.1} s: {}: {verdict}", since.elapsed().as_secs_f64(), check.name);
        if let Err(error) = result {
            println!("{error:#}\n{}", bench.guest.log());
            failed.push(check.name);
            // What follows would fail for the same reason.
            if check.is_needed {
                break;
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed in the guest with systemd: {}", failed.join("; ")) }
}
