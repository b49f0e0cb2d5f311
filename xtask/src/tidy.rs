//! What compilers do not check: every file says its one job first, files stay short, modules use only those above
//! them, no registry's host is named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use xtask::{command, root};

/// Longest file, in lines that are not tests.
const LINES_MAX: usize = 500;
/// Files that may be longer, with the reason.
const LONGER: [(&str, &str); 0] = [];

/// Checks all files that git knows.
pub(crate) fn run() -> Result<()> {
    let listing = command("git", &["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]).output();
    let listing = String::from_utf8(listing.context("cannot run git")?.stdout)?;
    let mut problems = Vec::new();
    for name in listing.lines() {
        let text = fs::read_to_string(root().join(name)).with_context(|| format!("cannot read {name}"))?;
        problems.extend(file(name, &text));
    }
    problems.extend(order(&root().join("netconn/src"))?);
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() { Ok(()) } else { bail!("{} problems", problems.len()) }
}

/// Problems of one file.
fn file(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(format!("{name}:1: a file begins with `//!` and what its job is"));
    }
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    let is_test = name.starts_with("tests/") || name.ends_with("/tests.rs");
    if lines > LINES_MAX && !is_test && !LONGER.iter().any(|(longer, _)| *longer == name) {
        problems.push(format!("{name}: {lines} lines: split it, or give a reason in xtask/src/tidy.rs"));
    }
    problems
}

/// The order of the modules of netconn: each may use only those above it in `lib.rs`.
fn order(source: &Path) -> Result<Vec<String>> {
    let library = fs::read_to_string(source.join("lib.rs"))?;
    let modules: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut problems = Vec::new();
    for (place, module) in modules.iter().enumerate() {
        for path in files(source, module)? {
            let text = fs::read_to_string(&path)?;
            for later in &modules[place + 1..] {
                if uses(&text, later) {
                    problems.push(format!("{}: {module} uses {later}, which comes after it in lib.rs", path.display()));
                }
            }
        }
    }
    Ok(problems)
}

/// The files of a module.
fn files(source: &Path, module: &str) -> Result<Vec<PathBuf>> {
    let single = source.join(format!("{module}.rs"));
    if single.exists() {
        return Ok(vec![single]);
    }
    let mut found = Vec::new();
    let mut folders = vec![source.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    Ok(found)
}

/// Whether a file imports from a module of the crate: `crate::name` or `crate::{…, name::…}`.
fn uses(text: &str, module: &str) -> bool {
    let mut in_group = false;
    text.lines().any(|line| {
        let trimmed = line.trim_start();
        if trimmed.starts_with("use crate::{") {
            in_group = !trimmed.ends_with("};");
        } else if trimmed == "};" {
            in_group = false;
        }
        let direct = format!("crate::{module}");
        let starts = |rest: &str| rest.strip_prefix(module).is_some_and(|rest| !rest.starts_with(is_name));
        line.split(&direct).skip(1).any(|rest| !rest.starts_with(is_name))
            || (in_group && line.starts_with("    ") && !line.starts_with("     ") && starts(trimmed))
            || trimmed.strip_prefix("use crate::{").is_some_and(|rest| rest.split([',', ' ']).any(starts))
    })
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found() {
        assert!(uses("use crate::table::Table;", "table"));
        assert!(uses("use crate::{\n    clock::Clock,\n    table::Table,\n};\n", "table"));
        assert!(uses("use crate::{clock::Clock, table};\n", "table"));
        assert!(uses("    crate::table::x()", "table"));
        assert!(!uses("use crate::tables::Table;", "table"));
        assert!(!uses("use other::{\n    table::Table,\n};\n", "table"));
        assert!(!uses("use crate::{\n    cli::{\n        table::T,\n    },\n};\n", "table"));
    }

    #[test]
    fn files_are_checked() {
        assert!(file("a.rs", "//! Does something.\n").is_empty());
        assert_eq!(file("a.rs", "fn main() {}\n").len(), 1);
        assert_eq!(file("a.rs", &format!("//! Long.\n{}", "x();\n".repeat(600))).len(), 1);
        assert!(file("tests/a.rs", &format!("//! Long.\n{}", "x();\n".repeat(600))).is_empty());
    }
}
