//! What is linked into a program: crates, Rust's library, musl and the unwinder, each with its licenses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use xtask::{cargo, root};

use crate::{
    dist::{
        contents::Package,
        toolchain::{self, Architecture},
    },
    ebpf,
};

/// Beginnings of the names of files with licenses, in capitals.
const LICENSES: [&str; 5] = ["LICENSE", "LICENCE", "UNLICENSE", "COPYRIGHT", "NOTICE"];
/// Folders below a crate that are not compiled into it.
const NOT_LINKED: [&str; 6] = ["tests", "test", "target", "benches", "examples", "contrib"];

/// A part of a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) version: String,
    /// SPDX expression.
    pub(super) license: String,
    /// SHA-256 of the crate as the registry has it, in hex; of crates from there only.
    pub(super) checksum: Option<String>,
    /// Whether the registry of crates has it.
    pub(super) is_crate: bool,
    /// The texts of its licenses.
    pub(super) texts: BTreeSet<String>,
}

/// The part of `cargo metadata` that is read.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Clone, Deserialize)]
struct MetadataPackage {
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    manifest_path: PathBuf,
    /// The registry; absent for crates of the tree.
    source: Option<String>,
}

/// The part of `Cargo.lock` that is read.
#[derive(Deserialize)]
struct Lock {
    package: Vec<LockPackage>,
}

#[derive(Deserialize)]
struct LockPackage {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Returns the parts of a program, in the order of their names, without the program itself.
///
/// # Errors
///
/// cargo fails, or a part has no text of its license.
pub(super) fn of(package: Package, architecture: Architecture) -> Result<Vec<Part>> {
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let lock: Lock = toml::from_str(&fs::read_to_string(root().join("Cargo.lock"))?)?;
    let known: BTreeMap<(&str, &str), &MetadataPackage> =
        metadata.packages.iter().map(|package| ((&*package.name, &*package.version), package)).collect();
    let mut parts = Vec::new();
    for (name, version) in linked(package, architecture)? {
        if name == package.name() {
            continue;
        }
        let entry = known.get(&(&name, &version)).with_context(|| format!("cargo metadata lacks {name} {version}"))?;
        let checksum = lock
            .package
            .iter()
            .find(|package| package.name == name && package.version == version)
            .and_then(|package| package.checksum.clone());
        parts.push(Part {
            license: expression(entry)?,
            texts: crate_texts(entry, &metadata.packages)?,
            is_crate: entry.source.is_some(),
            name,
            version,
            checksum,
        });
    }
    parts.extend(library()?);
    parts.extend(toolchain::parts()?);
    parts.sort();
    Ok(parts)
}

/// Returns the crates that are linked into a program; procedural macros and build scripts are not.
fn linked(package: Package, architecture: Architecture) -> Result<BTreeSet<(String, String)>> {
    let target = architecture.target();
    let arguments = ["tree", "--locked", "--package", package.name(), "--edges", "normal,no-proc-macro"];
    let rest = ["--target", &target, "--prefix", "none", "--format", "{p}"];
    Ok(crates(&output(cargo(&arguments).args(rest))?))
}

/// Returns names and versions in the output of `cargo tree`.
fn crates(tree: &str) -> BTreeSet<(String, String)> {
    let words = tree.lines().map(|line| line.split(' '));
    words
        .filter_map(|mut words| Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned())))
        .collect()
}

/// Returns the parts of Rust's library: itself, and the crates that come with its sources.
fn library() -> Result<Vec<Part>> {
    let sysroot = ebpf::sysroot()?;
    let sources = sysroot.join("lib/rustlib/src/rust/library");
    let tree = output(
        cargo(&["tree", "--offline", "--package", "std", "--edges", "normal,no-proc-macro", "--prefix", "none"])
            .args(["--format", "{p}", "--target", &Architecture::X86.target()])
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(&sources),
    )?;
    let mut parts = Vec::new();
    for (name, version) in crates(&tree) {
        let folder = sources.join("vendor").join(format!("{name}-{version}"));
        // Those that are not there belong to the library itself.
        if folder.is_dir() {
            let manifest: VendoredManifest = toml::from_str(&fs::read_to_string(folder.join("Cargo.toml"))?)?;
            let license = manifest.package.license.replace('/', " OR ");
            let mut texts = texts(&folder)?;
            if texts.is_empty() {
                // Some distributions of the sources have code only.
                texts = common_text(&license).with_context(|| format!("{}: no text of a license", folder.display()))?;
            }
            parts.push(Part { name, version, license, checksum: None, is_crate: true, texts });
        }
    }
    // In the toolchain's documentation, which minimal profiles have, too; else the same texts are those of netconn.
    let mut own = texts(&sysroot.join("share/doc/rust")).unwrap_or_default();
    if own.is_empty() {
        own = texts(&root())?;
    }
    parts.push(Part {
        name: "rust".into(),
        version: ebpf::RUSTC.into(),
        license: "MIT OR Apache-2.0".into(),
        checksum: None,
        is_crate: false,
        texts: own,
    });
    Ok(parts)
}

#[derive(Deserialize)]
struct VendoredManifest {
    package: VendoredPackage,
}

#[derive(Deserialize)]
struct VendoredPackage {
    license: String,
}

/// Returns the SPDX expression of a crate; a slash is what cargo had for `OR`.
fn expression(package: &MetadataPackage) -> Result<String> {
    let license = package.license.as_ref().with_context(|| format!("{} names no license", package.name))?;
    Ok(license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR "))
}

/// Returns the texts of a crate's licenses: its own, else those of a crate from the same repository, else that of Apache-2.0, which is
/// the same for everybody.
fn crate_texts(package: &MetadataPackage, all: &[MetadataPackage]) -> Result<BTreeSet<String>> {
    if package.source.is_none() {
        return texts(&root());
    }
    let own = texts(&folder(package)?)?;
    if !own.is_empty() {
        return Ok(own);
    }
    let siblings = all.iter().filter(|other| other.repository.is_some() && other.repository == package.repository);
    for sibling in siblings {
        let texts = texts(&folder(sibling)?)?;
        if !texts.is_empty() && expression(sibling)? == expression(package)? {
            return Ok(texts);
        }
    }
    let license = expression(package)?;
    common_text(&license)
        .with_context(|| format!("{} {} has no text of its license ({license})", package.name, package.version))
}

/// Returns the text of Apache-2.0 if the license is that or leaves the choice: it is the same for everybody.
fn common_text(license: &str) -> Result<BTreeSet<String>> {
    if !license.split(" OR ").any(|choice| choice.trim_matches(['(', ')']) == "Apache-2.0") {
        bail!("only the text of Apache-2.0 is common to all who use it");
    }
    Ok([fs::read_to_string(root().join("LICENSE-APACHE"))?.trim().to_owned()].into())
}

fn folder(package: &MetadataPackage) -> Result<PathBuf> {
    Ok(package.manifest_path.parent().context("a manifest is in a folder")?.to_owned())
}

/// Returns the texts in files with licenses in a folder and below it, such as those of C sources.
fn texts(folder: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    // What is deeper belongs to something else; the tree itself has other crates below it.
    add_texts(folder, if folder == root() { 0 } else { 3 }, &mut found)?;
    Ok(found)
}

fn add_texts(folder: &Path, depth: u32, found: &mut BTreeSet<String>) -> Result<()> {
    let (mut licenses, mut copying) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let upper = name.to_uppercase();
        if entry.file_type()?.is_dir() {
            if depth > 0 && !NOT_LINKED.contains(&&*name) && !name.starts_with('.') {
                add_texts(&entry.path(), depth - 1, found)?;
            }
        } else if LICENSES.iter().any(|start| upper.starts_with(start)) && !upper.ends_with(".RS") {
            licenses.push(entry.path());
        } else if upper.starts_with("COPYING") {
            copying.push(entry.path());
        }
    }
    // Where there are both, the other one is the alternative that is not taken (zstd: GPL-2.0).
    for path in if licenses.is_empty() { copying } else { licenses } {
        let text = String::from_utf8_lossy(&fs::read(path)?).replace("\r\n", "\n");
        found.insert(text.trim().to_owned());
    }
    Ok(())
}

/// Runs a command and returns its standard output.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns all licenses as one text: each text once, below the names of the parts that have it.
pub(super) fn notices(parts: &[Part]) -> String {
    // Many have the same text with other line ends: the first stands for all.
    let mut by_words = BTreeMap::<String, (&str, BTreeSet<String>)>::new();
    for part in parts {
        for text in &part.texts {
            let words: Vec<&str> = text.split_whitespace().collect();
            let (_, names) = by_words.entry(words.join(" ")).or_insert_with(|| (text, BTreeSet::new()));
            names.insert(format!("{} {} ({})", part.name, part.version, part.license));
        }
    }
    let mut groups: Vec<_> = by_words.into_values().collect();
    groups.sort_by(|(_, one), (_, other)| one.cmp(other));
    let mut notices = "The program contains these parts of others, each under its license.\n".to_owned();
    for (text, names) in groups {
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        notices.push_str(&format!("\n{}\n{}\n\n{text}\n", "=".repeat(78), names.join("\n")));
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_license() {
        for package in Package::ALL {
            let parts = of(package, Architecture::Arm).unwrap();
            let names: BTreeSet<&str> = parts.iter().map(|part| &*part.name).collect();
            for expected in ["clap", "netconn-model", "rust", "musl", "hashbrown", "libunwind"] {
                assert!(names.contains(expected), "{expected}: {names:?}");
            }
            assert_eq!(names.contains("aya"), package == Package::Netconn);
            // Procedural macros run on the machine that builds.
            assert!(!names.contains("serde_derive") && !names.contains("cc"), "{names:?}");
            let notices = notices(&parts);
            for part in &parts {
                // Some crates have a third file that only names the other two.
                assert!(part.texts.iter().any(|text| text.len() > 500), "{}", part.name);
                assert!(notices.contains(&format!("\n{} {} (", part.name, part.version)), "{}", part.name);
            }
            let with_checksum = parts.iter().filter(|part| part.checksum.is_some()).count();
            assert!(with_checksum > 100, "{with_checksum}");
            if package == Package::Search {
                let zstd = parts.iter().find(|part| part.name == "zstd-sys").unwrap();
                assert!(zstd.texts.iter().any(|text| text.contains("Meta Platforms") || text.contains("Facebook")));
                assert!(zstd.texts.iter().all(|text| !text.contains("GNU GENERAL PUBLIC LICENSE")));
            }
        }
    }
}
