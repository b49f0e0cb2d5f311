//! Archives for machines without a package manager that knows .deb or .rpm, with a script that installs and removes, and the sums of
//! all that is released.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use xtask::{command, root};

use crate::dist::{
    Release,
    contents::{Staged, files, read},
    toolchain::Architecture,
};

/// File of the sums.
pub(super) const SUMS: &str = "SHA256SUMS";

/// Makes an archive of the staged files of all packages and returns its path.
pub(super) fn build(
    staged: &[Staged],
    architecture: Architecture,
    release: &Release,
    output: &Path,
) -> Result<PathBuf> {
    let name = format!("netconn-{}-{}", release.version, architecture.name());
    let stage = output.join("stage").join(architecture.name()).join("archive");
    let folder = stage.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    fs::create_dir_all(&folder)?;
    for package in staged {
        for file in package.files()? {
            let to = folder.join("files").join(&file);
            fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
            // With its permissions.
            fs::copy(package.root.join(&file), to)?;
        }
    }
    for (file, mode) in [("install.sh", 0o755), ("README.md", 0o644), ("LICENSE-MIT", 0o644), ("LICENSE-APACHE", 0o644)]
    {
        let from = if file == "install.sh" { root().join("packaging/install.sh") } else { root().join(file) };
        fs::write(folder.join(file), read(&from)?)?;
        fs::set_permissions(folder.join(file), fs::Permissions::from_mode(mode))?;
    }
    let file = output.join(format!("{name}.tar.zst"));
    let mut tar =
        command("tar", &["--create", "--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"]);
    // The umask of the folders does not count.
    tar.args(["--mode=u+rw,go-w,a+rX", "--use-compress-program", "zstd -q -12 -T1"])
        .arg(format!("--mtime=@{}", release.epoch))
        .arg("--file")
        .arg(&file)
        .arg("--directory")
        .arg(&stage)
        .arg(&name);
    xtask::check(&mut tar)?;
    fs::remove_dir_all(&stage)?;
    Ok(file)
}

/// Writes the sums of all files of a folder, and returns their names.
pub(super) fn write_sums(output: &Path) -> Result<Vec<String>> {
    let names: Vec<String> = files(output)?.into_iter().filter(|file| !file.contains('/') && file != SUMS).collect();
    if names.is_empty() {
        bail!("{}: there is nothing to sum", output.display());
    }
    let sums = command("sha256sum", &["--"]).current_dir(output).args(&names).output();
    let sums = sums.context("cannot run sha256sum")?;
    if !sums.status.success() {
        bail!("sha256sum: {}", String::from_utf8_lossy(&sums.stderr).trim());
    }
    fs::write(output.join(SUMS), sums.stdout)?;
    Ok(names)
}
