//! Debian packages, by dpkg-deb.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use xtask::{check, command, root};

use crate::dist::{
    Release,
    contents::{Layout, Package, Staged, compressed, read},
    toolchain::Architecture,
};

/// Debian's places.
pub(super) const LAYOUT: Layout = Layout { zsh: "usr/share/zsh/vendor-completions", licenses: "usr/share/doc" };
/// Scripts that dpkg runs, in `packaging/deb`, of the package `netconn`.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// How much time is taken to make a package small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// As small as every dpkg can read.
    Small,
    /// Soon done.
    Fast,
}

/// Makes a package of staged files and returns its path.
pub(super) fn build(
    staged: &Staged,
    architecture: Architecture,
    release: &Release,
    compression: Compression,
    output: &Path,
) -> Result<PathBuf> {
    let name = staged.package.name();
    let changelog = compressed(changelog(name, release)?.as_bytes())?;
    staged.write(&format!("usr/share/doc/{name}/changelog.Debian.gz"), &changelog, 0o644)?;
    let copyright = copyright(&fs::read_to_string(root().join("LICENSE-MIT"))?);
    staged.write(&format!("usr/share/doc/{name}/copyright"), copyright.as_bytes(), 0o644)?;
    // Debian's name for it.
    let upstream = staged.root.join(format!("usr/share/doc/{name}"));
    fs::rename(upstream.join("CHANGELOG.md.gz"), upstream.join("changelog.gz"))?;
    let overrides = root().join("packaging/lintian").join(name);
    if overrides.exists() {
        staged.write(&format!("usr/share/lintian/overrides/{name}"), &read(&overrides)?, 0o644)?;
    }
    write_control(staged, architecture, release)?;
    let file = output.join(format!("{name}_{}_{}.deb", release.debian(), architecture.debian()));
    let options: &[&str] = match compression {
        Compression::Small => &["-Zxz", "-z6"],
        Compression::Fast => &["-Zgzip", "-z1"],
    };
    check(
        command("dpkg-deb", options)
            .args(["--root-owner-group", "--build"])
            .args([&staged.root, &file])
            .env("SOURCE_DATE_EPOCH", release.epoch.to_string())
            .stdout(std::process::Stdio::null()),
    )?;
    fs::remove_dir_all(staged.root.join("DEBIAN"))?;
    Ok(file)
}

/// Writes the folder `DEBIAN`.
fn write_control(staged: &Staged, architecture: Architecture, release: &Release) -> Result<()> {
    let files = staged.files()?;
    let mut bytes = 0;
    let mut conffiles = String::new();
    let mut sums = String::new();
    for file in &files {
        bytes += fs::metadata(staged.root.join(file))?.len();
        if file.starts_with("etc/") {
            writeln!(conffiles, "/{file}")?;
        }
    }
    let output = command("md5sum", &["--"]).current_dir(&staged.root).args(&files).output();
    sums.push_str(&String::from_utf8(output.context("cannot run md5sum")?.stdout)?);
    let control = control(staged.package, architecture, release, bytes);
    staged.write("DEBIAN/control", control.as_bytes(), 0o644)?;
    staged.write("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
    if !conffiles.is_empty() {
        staged.write("DEBIAN/conffiles", conffiles.as_bytes(), 0o644)?;
    }
    if staged.package == Package::Netconn {
        for script in SCRIPTS {
            let text = read(&root().join("packaging/deb").join(script))?;
            staged.write(&format!("DEBIAN/{script}"), &text, 0o755)?;
        }
    }
    Ok(fs::set_permissions(staged.root.join("DEBIAN"), fs::Permissions::from_mode(0o755))?)
}

/// Returns the fields of a package. `bytes` is what it holds.
fn control(package: Package, architecture: Architecture, release: &Release, bytes: u64) -> String {
    let relations = match package {
        // The programs need no library. sysusers makes the user.
        Package::Netconn => {
            "Depends: systemd (>= 247) | systemd-standalone-sysusers\nRecommends: netconn-search\nSuggests: logrotate\n"
        }
        Package::Search => "Recommends: netconn\n",
    };
    let description: String = package.description().iter().map(|line| format!(" {line}\n")).collect();
    format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {}\nSection: net\nPriority: optional\n{relations}\
         Description: {}\n{description}",
        package.name(),
        release.debian(),
        architecture.debian(),
        release.maintainer,
        bytes.div_ceil(1024),
        package.summary(),
    )
}

/// Returns who has written the program and what others may do with it, in Debian's form. `mit` is the text of that license.
fn copyright(mit: &str) -> String {
    let paragraphs = mit.trim().lines().map(|line| if line.is_empty() { " .".into() } else { format!(" {line}") });
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: netconn\n\
         Comment: The programs contain parts of others; third-party.txt.gz beside this file has\n \
         their names and licenses, and sbom.cdx.json.gz their versions.\n\n\
         Files: *\nCopyright: 2026 The netconn authors\nLicense: MIT or Apache-2.0\n\n\
         License: MIT\n{}\n\n\
         License: Apache-2.0\n On Debian systems, the text is in /usr/share/common-licenses/Apache-2.0.\n",
        paragraphs.collect::<Vec<String>>().join("\n")
    )
}

/// Returns the changelog of the package itself: one entry, for the changes of the program are in its own.
fn changelog(name: &str, release: &Release) -> Result<String> {
    let date = release.date("+%a, %d %b %Y %H:%M:%S %z")?;
    Ok(format!(
        "{name} ({}) unstable; urgency=medium\n\n  * Version {}; its changes are in changelog.gz.\n\n -- {}  {}\n",
        release.debian(),
        release.version,
        release.maintainer,
        date
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_debian() {
        let release = Release { version: "1.2.3".into(), epoch: 0, maintainer: "A <a@example.com>".into() };
        let text = control(Package::Netconn, Architecture::Arm, &release, 1025);
        for line in ["Version: 1.2.3-1", "Architecture: arm64", "Installed-Size: 2", "Recommends: netconn-search"] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.lines().all(|line| line.len() <= 80 && !line.is_empty()), "{text}");
        let text = changelog("netconn", &release).unwrap();
        assert!(!copyright("a\n\nb\n").contains("\n\n b"), "an empty line would end the paragraph");
        assert!(text.ends_with(" -- A <a@example.com>  Thu, 01 Jan 1970 00:00:00 +0000\n"), "{text}");
    }
}
