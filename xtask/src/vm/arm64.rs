//! The programs that tests run in a guest of another architecture: from Debian's packages, because those of this machine
//! cannot run there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use object::{
    Endianness,
    elf::DT_NEEDED,
    read::elf::{Dyn as _, ElfFile64, FileHeader as _},
};
use xtask::check;

use super::{image::Tree, kernels::IsolatedApt};
use crate::dist::{self, Architecture, Package};

/// The suite of Debian that the programs are from.
const SUITE: &str = "bookworm";
/// Packages that have the programs of a guest.
const PACKAGES: [&str; 11] = [
    "bash",
    "coreutils",
    "dash",
    "iproute2",
    "iputils-ping",
    "libc-bin",
    "mount",
    "nftables",
    "procps",
    "tcpdump",
    "util-linux",
];
/// Folders of programs in an unpacked package.
const PROGRAMS: [&str; 4] = ["bin", "usr/bin", "sbin", "usr/sbin"];
/// Folders of libraries in an unpacked package.
const LIBRARIES: [&str; 3] = ["lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib"];
/// Where the guest's dynamic linker looks for libraries.
const LIBRARY: &str = "lib/aarch64-linux-gnu";
/// The dynamic linker, by the name that programs have in them.
const LINKER: &str = "lib/ld-linux-aarch64.so.1";

/// Builds the daemon and some of the tests, and returns their folder.
pub(super) fn build_tests(files: &[String]) -> Result<PathBuf> {
    if let Some(reason) = dist::obstacle() {
        bail!("nothing can be built for arm64: {reason}");
    }
    let daemon = dist::program(Package::Netconn, Architecture::Arm)?;
    let mut build = dist::static_cargo(
        Architecture::Arm,
        &["build", "--quiet", "--locked", "--package", "netconn-tests", "--profile", dist::PROFILE, "--bins"],
    )?;
    check(build.args(files.iter().flat_map(|name| ["--test", name])))?;
    daemon.parent().map(Path::to_owned).context("the daemon is in no folder")
}

/// Programs of another architecture, unpacked.
pub(super) struct ForeignPrograms {
    folder: PathBuf,
}

impl ForeignPrograms {
    /// Downloads and unpacks the packages with all that they depend on, unless an earlier call did.
    pub(super) fn fetch(folder: &Path, architecture: &str) -> Result<Self> {
        let unpacked = folder.join("programs");
        let list = folder.join("programs.list");
        let wanted = format!("{SUITE} {architecture} {}\n", PACKAGES.join(" "));
        if fs::read_to_string(&list).is_ok_and(|found| found == wanted) {
            return Ok(Self { folder: unpacked });
        }
        println!("downloading programs for {architecture}: {}", PACKAGES.join(", "));
        let apt = IsolatedApt::new(&folder.join("apt"), SUITE, architecture)?;
        check(apt.get().args(["update", "-q"]))?;
        // None of the packages of this machine counts as installed, so that all dependencies are downloaded.
        let install = ["install", "--yes", "--download-only", "--no-install-recommends"];
        check(apt.get().args(install).args(PACKAGES))?;
        for path in apt.downloaded()? {
            check(Command::new("dpkg").arg("--extract").arg(&path).arg(&unpacked))?;
            fs::remove_file(&path)?;
        }
        fs::write(list, wanted)?;
        Ok(Self { folder: unpacked })
    }

    /// Adds a program to the tree, and the libraries that it needs.
    pub(super) fn add(&self, tree: &mut Tree, name: &str) -> Result<()> {
        let path = PROGRAMS.iter().map(|folder| self.folder.join(folder).join(name)).find(|path| path.is_file());
        let content = fs::read(path.with_context(|| format!("no package has {name}"))?)?;
        let mut wanted: Vec<String> = needed(&content)?.into_iter().collect();
        tree.file(&format!("bin/{name}"), 0o755, content);
        while let Some(library) = wanted.pop() {
            let to = if LINKER.ends_with(&library) { LINKER.to_owned() } else { format!("{LIBRARY}/{library}") };
            if tree.has(&to) {
                continue;
            }
            let path =
                LIBRARIES.iter().map(|folder| self.folder.join(folder).join(&library)).find(|path| path.is_file());
            let content = fs::read(path.with_context(|| format!("no package has {library}, which {name} needs"))?)?;
            wanted.extend(needed(&content)?);
            tree.file(&to, 0o755, content);
        }
        // No library names it; programs do, in a place of their own.
        if !tree.has(LINKER) {
            bail!("{name} has no dynamic linker");
        }
        Ok(())
    }
}

/// Returns the names of the libraries that a program or a library needs.
fn needed(content: &[u8]) -> Result<BTreeSet<String>> {
    let file = ElfFile64::<Endianness>::parse(content)?;
    let (header, endian) = (file.elf_header(), file.endian());
    let sections = header.sections(endian, content)?;
    let Some((entries, link)) = sections.dynamic(endian, content)? else { return Ok(BTreeSet::new()) };
    let strings = sections.strings(endian, content, link)?;
    entries
        .iter()
        .filter(|entry| entry.tag(endian) == DT_NEEDED)
        .map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found() {
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needed(&program).unwrap().iter().any(|name| name.starts_with("libc.so")));
    }
}
