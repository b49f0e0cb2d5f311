//! Code that the chores share with the benchmarks: commands in the workspace, and the packages of this machine.

pub mod packages;

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

/// Returns the workspace's root folder.
pub fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// Returns the folder in which cargo builds.
pub fn target_dir() -> PathBuf {
    // Relative to the folder in which cargo was called; the chores run below cargo, in the same one.
    match std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from) {
        Some(folder) => std::path::absolute(&folder).unwrap_or(folder),
        None => root().join("target"),
    }
}

/// Makes a command that runs in the workspace's root folder.
pub fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).args(arguments);
    command
}

/// Makes a command of the cargo that runs this program, in the workspace's root folder.
pub fn cargo(arguments: &[&str]) -> Command {
    // cargo sets this to the toolchain that runs; plain `cargo` may be another.
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments)
}

/// Runs a command and waits until it exits.
///
/// # Errors
///
/// The command cannot be started, or it fails.
pub fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|part| part.to_string_lossy()).collect();
        bail!("{} {}: {status}", command.get_program().display(), arguments.join(" "));
    }
    Ok(())
}

/// Returns whether this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
