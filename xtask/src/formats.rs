//! Checks the golden files of formats by what their makers publish, with Python packages of fixed versions.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use xtask::check;

/// The packages: the schema of OCSF as JSON schemas, a validator of these, a parser of CEF, and behind each what it needs.
const PACKAGES: [&str; 9] = [
    "ocsf-json-schema==1.2.0",
    "jsonschema==4.26.0",
    "attrs==26.1.0",
    "jsonschema-specifications==2025.9.1",
    "referencing==0.37.0",
    "rpds-py==2026.9.1",
    // Of `referencing`, before Python 3.13.
    "typing_extensions==4.16.0",
    "pycef==1.11",
    "future==1.0.0",
];

/// The folder of the packages, below the target folder.
const FOLDER: &str = "formats-python";

/// Installs the packages, if that was not done before, and runs the checks.
///
/// # Errors
///
/// The packages cannot be installed, or a golden file is not as its schema asks.
pub(crate) fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let folder = target.join(FOLDER);
    // Written behind the last package: an unfinished environment is made anew, and so is one of other versions.
    let (mark, wanted) = (folder.join("packages"), PACKAGES.join("\n"));
    if fs::read_to_string(&mark).ok().as_ref() != Some(&wanted) {
        // What an installation that was broken off has left. An error means that there is nothing.
        let _ = fs::remove_dir_all(&folder);
        // Into a folder of its own, so that nothing of the system is changed. Nothing beside the list, which has all versions.
        let install = ["-m", "pip", "install", "--quiet", "--no-deps", "--root-user-action", "ignore", "--target"];
        check(Command::new("python3").args(install).arg(&folder).args(PACKAGES))?;
        fs::write(&mark, wanted).with_context(|| format!("cannot write {}", mark.display()))?;
    }
    let script = root.join("netconn-model/tests/formats/check.py");
    check(Command::new("python3").arg("-B").arg(script).env("PYTHONPATH", &folder))
}
