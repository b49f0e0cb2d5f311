//! Checks rules that compilers do not. Each module has rules of one kind and returns one line for each violation.

mod crates;
mod imports;
mod map;
mod names;
mod order;

use std::fs;

use anyhow::{Context as _, Result, bail};
use xtask::{command, root};

/// Most lines of a file, without its tests.
const LINES_MAX: usize = 500;
/// Files that may be longer, each with the reason.
const LONGER: [(&str, &str); 0] = [];
/// Hosts of registries. Users may have mirrors, so only cargo's own files name a registry.
const REGISTRIES: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("docker", ".io"),
    concat!("ghcr", ".io"),
    concat!("npmjs", ".com"),
    concat!("pypi", ".org"),
    concat!("quay", ".io"),
];

/// A file that git tracks or would add.
struct SourceFile {
    /// The path from the workspace's root.
    name: String,
    text: String,
}

impl SourceFile {
    /// Returns the lines before the unit tests.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text.lines().take_while(|line| *line != "#[cfg(test)]")
    }

    /// Returns whether the file has only tests.
    fn is_test(&self) -> bool {
        self.name.starts_with("tests/") || self.name.contains("/tests/") || self.name.ends_with("/tests.rs")
    }
}

/// Checks all text files that git tracks or would add, and prints the problems.
pub(crate) fn run() -> Result<()> {
    let listing = command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]).output();
    let listing = String::from_utf8(listing.context("cannot run git: install it")?.stdout)?;
    // A deleted file is listed until the deletion is committed.
    let read =
        |name: &str| Some(SourceFile { name: name.to_owned(), text: fs::read_to_string(root().join(name)).ok()? });
    let all: Vec<SourceFile> = listing.lines().filter_map(read).collect();
    let mut problems: Vec<String> = all.iter().flat_map(check_registries).collect();
    let rust: Vec<SourceFile> = all.into_iter().filter(|source| source.name.ends_with(".rs")).collect();
    for source in &rust {
        problems.extend(check_file(source));
        problems.extend(imports::check(source));
    }
    problems.extend(order::check(&rust));
    problems.extend(names::check(&rust));
    problems.extend(map::check(&fs::read_to_string(root().join(map::FILE))?, &rust));
    problems.extend(crates::check()?);
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() { Ok(()) } else { bail!("{} problems", problems.len()) }
}

/// Returns problems with the first line, the length and the SAFETY notes of a Rust file.
fn check_file(source: &SourceFile) -> Vec<String> {
    let name = &source.name;
    let mut problems = Vec::new();
    if !source.text.starts_with("//!") {
        problems.push(format!("{name}:1: a file must begin with `//!` and its job"));
    }
    let lines = source.code().count();
    if lines > LINES_MAX && !source.is_test() && !LONGER.iter().any(|(longer, _)| longer == name) {
        problems.push(format!("{name}: {lines} lines: split it, or give a reason in xtask/src/tidy/mod.rs"));
    }
    // Written in two parts, so that this file does not violate its own rule.
    let empty = concat!("SAFETY", ": as above");
    for (index, _) in source.text.lines().enumerate().filter(|(_, line)| line.contains(empty)) {
        problems.push(format!("{name}:{}: a SAFETY note must give the reason, not `as above`", index + 1));
    }
    problems
}

/// Returns the lines of a file that name a registry's host.
fn check_registries(source: &SourceFile) -> Vec<String> {
    // cargo writes the registry into this file.
    if source.name.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let names = |line: &str| REGISTRIES.iter().find(|host| line.contains(**host));
    let found = source.text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, names(line)?)));
    found.map(|(line, host)| format!("{}:{line}: names the registry {host}", source.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn source(name: &str, text: &str) -> SourceFile {
        SourceFile { name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn files_are_checked() {
        let long = format!("//! Long.\n{}", "x();\n".repeat(600));
        assert!(check_file(&source("a.rs", "//! Does something.\n")).is_empty());
        assert_eq!(check_file(&source("a.rs", "fn main() {}\n")).len(), 1);
        assert_eq!(check_file(&source("a.rs", &long)).len(), 1);
        assert!(check_file(&source("tests/a.rs", &long)).is_empty());
        assert!(check_file(&source("a.rs", &long.replacen("x();", "#[cfg(test)]", 1))).is_empty());
    }

    #[test]
    fn safety_notes_have_reasons() {
        let note = |reason: &str| check_file(&source("a.rs", &format!("//! A.\n// {}: {reason}\n", "SAFETY")));
        assert_eq!(note("as above."), ["a.rs:2: a SAFETY note must give the reason, not `as above`"]);
        assert!(note("the pointer comes from the kernel.").is_empty());
    }

    #[test]
    fn registries_are_not_named() {
        let text = format!("one\n[source]\nregistry = \"{}\"\n", REGISTRIES[0]);
        assert_eq!(check_registries(&source("a.toml", &text)).len(), 1);
        assert!(check_registries(&source("Cargo.lock", &text)).is_empty());
    }
}
