//! Checks the code map: it names every module that a library's `lib.rs` declares, each path once, and every path in it
//! exists.

use std::collections::BTreeSet;

use super::SourceFile;

/// The file that has the code map.
pub(super) const FILE: &str = "ARCHITECTURE.md";
/// The heading of the code map.
const SECTION: &str = "## Code map";

/// Compares the code map with the files.
pub(super) fn check(text: &str, sources: &[SourceFile]) -> Vec<String> {
    let paths = paths(text);
    if paths.is_empty() {
        return vec![format!("{FILE}: the section `{SECTION}` names no path")];
    }
    let mut named = BTreeSet::new();
    let twice: BTreeSet<&str> = paths.into_iter().filter(|path| !named.insert(*path)).collect();
    let modules = modules(sources);
    let members: BTreeSet<&str> = sources.iter().filter_map(|source| source.name.split('/').next()).collect();
    let exists = |path: &str| {
        let folder = format!("{path}/");
        let file = format!("{path}.rs");
        sources.iter().any(|source| source.name == path || source.name == file || source.name.starts_with(&folder))
    };
    // Only paths of crates are modules; others, such as those of hunts, are not checked.
    let of_crate = |path: &&&str| members.contains(path.split('/').next().unwrap_or_default());
    let is_source = |path: &&&str| !path.contains('/') || path.contains("/src");
    let mut problems: Vec<String> = named
        .iter()
        .filter(of_crate)
        .filter(is_source)
        .filter(|path| !exists(path))
        .map(|path| format!("{FILE}: the code map names `{path}`, which does not exist"))
        .collect();
    let is_named = |module: &str| {
        let mut above = module;
        loop {
            if named.contains(above) {
                return true;
            }
            // The row of a folder covers everything in it.
            let Some((folder, _)) = above.rsplit_once('/') else { return false };
            above = folder;
        }
    };
    let missing = modules.iter().filter(|module| !is_named(module));
    problems.extend(missing.map(|module| format!("{FILE}: the code map does not name `{module}`")));
    problems.extend(twice.iter().map(|path| format!("{FILE}: the code map names `{path}` twice")));
    problems
}

/// Returns the words between backticks in the first column of the code map, in their order. A folder may end in a slash, which
/// is left out.
fn paths(text: &str) -> Vec<&str> {
    let section = text.split_once(SECTION).map_or("", |(_, rest)| rest);
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(|path| path.trim_end_matches('/')).collect()
}

/// Returns the modules that each `lib.rs` declares, such as `netconn/src/table`.
fn modules(sources: &[SourceFile]) -> Vec<String> {
    let libraries = sources.iter().filter_map(|source| Some((source.name.strip_suffix("/lib.rs")?, &source.text)));
    libraries
        .flat_map(|(folder, text)| {
            let names =
                text.lines().filter_map(|line| line.strip_suffix(';')?.split_once("mod ").map(|(_, name)| name));
            names.map(move |name| format!("{folder}/{name}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    const MAP: &str = "\
# A

## Code map

| where | what |
|---|---|
| `x/src/a`, `x/src/b/c` | `d` |
| `y` | all |

## More

| `z` |
";

    #[test]
    fn the_map_has_what_there_is() {
        let library = |text: &str| {
            let files = [
                source("x/src/lib.rs", text),
                source("x/src/a.rs", ""),
                source("x/src/b/c/mod.rs", ""),
                source("y/src/lib.rs", "mod m;\n"),
                source("y/src/m.rs", ""),
            ];
            check(MAP, &files)
        };
        assert!(library("pub mod a;\n").is_empty());
        assert_eq!(library("mod e;\n"), ["ARCHITECTURE.md: the code map does not name `x/src/e`"]);
        let without = check(MAP, &[source("x/src/lib.rs", ""), source("x/src/a.rs", ""), source("y/src/m.rs", "")]);
        assert_eq!(without, ["ARCHITECTURE.md: the code map names `x/src/b/c`, which does not exist"]);
        assert_eq!(check("# No map", &[]).len(), 1);
    }

    #[test]
    fn a_path_is_named_once_and_a_folder_with_or_without_its_slash() {
        let files =
            [source("x/src/lib.rs", "mod a;\n"), source("x/src/a/mod.rs", "mod b;\n"), source("x/src/a/b.rs", "")];
        let map = |rows: &str| check(&format!("{SECTION}\n\n{rows}"), &files);
        assert!(map("| `x/src/a` | all |\n").is_empty());
        assert!(map("| `x/src/a/`, `x/src/a/b` | the folder, and a module in it |\n").is_empty());
        assert_eq!(
            map("| `x/src/a` | one |\n| `x/src/a/` | two |\n"),
            ["ARCHITECTURE.md: the code map names `x/src/a` twice"]
        );
    }
}
