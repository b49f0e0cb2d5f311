//! Checks which crates use which, and that clients do not depend on the daemon's packages.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use xtask::cargo;

/// Each crate of the workspace and the crates that it may use, also in tests.
const MAY_USE: [(&str, &[&str]); 10] = [
    ("netconn-common", &[]),
    ("netconn-ebpf", &["netconn-common"]),
    ("netconn-manual", &[]),
    ("netconn-model", &["netconn-common"]),
    ("netconn-query", &["netconn-common", "netconn-model"]),
    ("netconn-search", &["netconn-common", "netconn-manual", "netconn-model", "netconn-query"]),
    ("netconn", &["netconn-common", "netconn-manual", "netconn-model", "netconn-query"]),
    ("xtask", &[]),
    ("netconn-tests", &["netconn", "netconn-common", "netconn-model", "netconn-query"]),
    ("netconn-bench", &["netconn", "netconn-common", "netconn-model", "xtask"]),
];
/// Crates that clients use, and name prefixes of packages that only the daemon needs.
const CLIENTS: [&str; 3] = ["netconn-model", "netconn-query", "netconn-search"];
const DAEMON_ONLY: [&str; 4] = ["aya", "axum", "netlink", "sysinfo"];

/// The part of `cargo metadata` that is read.
#[derive(Deserialize)]
struct CargoMetadata {
    packages: Vec<CargoPackage>,
}

#[derive(Deserialize)]
struct CargoPackage {
    name: String,
    dependencies: Vec<CargoDependency>,
}

#[derive(Deserialize)]
struct CargoDependency {
    name: String,
    /// The folder, for a crate of the workspace.
    path: Option<String>,
}

/// Reads the dependencies from cargo and checks them.
pub(super) fn check() -> Result<Vec<String>> {
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: CargoMetadata = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let mut problems: Vec<String> = metadata.packages.iter().flat_map(check_direction).collect();
    for client in CLIENTS {
        // Normal edges only: what a client needs in its tests does not reach users.
        let arguments = ["tree", "--package", client, "--edges", "normal", "--prefix", "none", "--format", "{p}"];
        problems.extend(check_client(client, &output(&mut cargo(&arguments))?));
    }
    Ok(problems)
}

/// Runs a command of cargo and returns its standard output.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns problems with the crates that a crate uses.
fn check_direction(package: &CargoPackage) -> Vec<String> {
    let CargoPackage { name, dependencies } = package;
    let Some((_, allowed)) = MAY_USE.iter().find(|(crate_name, _)| crate_name == name) else {
        return vec![format!("{name}: list in xtask/src/tidy/crates.rs which crates it may use")];
    };
    let used = dependencies.iter().filter(|dependency| dependency.path.is_some()).map(|dependency| &dependency.name);
    let wrong = used.filter(|used| !allowed.contains(&used.as_str()));
    wrong.map(|used| format!("{name} uses {used}, which it may not: see xtask/src/tidy/crates.rs")).collect()
}

/// Returns problems with the packages in a client's dependency tree.
fn check_client(client: &str, tree: &str) -> Vec<String> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let mut wrong: Vec<&str> = names.filter(|name| DAEMON_ONLY.iter().any(|prefix| name.starts_with(prefix))).collect();
    wrong.sort_unstable();
    wrong.dedup();
    wrong.into_iter().map(|name| format!("{client} depends on {name}, which only the daemon needs")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &[(&str, Option<&str>)]) -> CargoPackage {
        let dependency = |(name, path): &(&str, Option<&str>)| CargoDependency {
            name: (*name).into(),
            path: path.map(str::to_owned),
        };
        CargoPackage { name: name.into(), dependencies: uses.iter().map(dependency).collect() }
    }

    #[test]
    fn the_direction_is_checked() {
        assert!(check_direction(&package("netconn", &[("netconn-model", Some("/x")), ("serde", None)])).is_empty());
        assert_eq!(check_direction(&package("netconn-model", &[("netconn", Some("/x"))])).len(), 1);
        assert_eq!(check_direction(&package("netconn-new", &[])).len(), 1);
    }

    #[test]
    fn clients_do_without_the_daemon() {
        let tree = "netconn-search v0.1.0 (/x)\naya-obj v0.2.1\nserde v1.0.0\naya-obj v0.2.1 (*)\n";
        assert_eq!(
            check_client("netconn-search", tree),
            ["netconn-search depends on aya-obj, which only the daemon needs"]
        );
    }
}
