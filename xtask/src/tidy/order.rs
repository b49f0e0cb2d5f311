//! Checks that the order of modules is the order of dependency: a module uses only modules above it. This holds for
//! every `lib.rs`, and for each `mod.rs` that claims it.

use super::{SourceFile, imports};

/// The sentence with which a `mod.rs` claims that its modules are in order.
const CLAIM: &str = "order of the modules is the order of dependency";

/// A module that a file declares.
#[derive(Debug, PartialEq)]
struct DeclaredModule<'a> {
    name: &'a str,
    /// Names that the declaring file re-exports from the module.
    exports: Vec<String>,
}

/// Returns all uses of a module that is declared below its user.
pub(super) fn check(sources: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        let Some((folder, file)) = source.name.rsplit_once('/') else { continue };
        let Some((member, inside)) = folder.split_once("/src").filter(|(member, _)| !member.contains('/')) else {
            continue;
        };
        // Paths in the files of a folder begin with the folder's own path.
        let root = match file {
            "lib.rs" if inside.is_empty() => "crate".to_owned(),
            "mod.rs" if source.text.contains(CLAIM) => format!("crate{}", inside.replace('/', "::")),
            _ => continue,
        };
        let modules = declared_modules(&source.text);
        for user in sources.iter().filter(|user| user.name.starts_with(&format!("{member}/src{inside}/"))) {
            // The declaring file itself may use all of its modules.
            let Some(place) = modules.iter().position(|module| is_in(&user.name, folder, module.name)) else {
                continue;
            };
            for path in used_paths(&user.text, &root) {
                let used = modules.iter().position(|module| module.has(&path));
                if let Some(used) = used.filter(|used| *used > place) {
                    let (this, other) = (modules[place].name, modules[used].name);
                    let problem = format!(
                        "{}: {this} uses {other} ({root}::{path}), which is below it in {}",
                        user.name, source.name
                    );
                    // An import and its uses name the same path.
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
            }
        }
    }
    problems
}

/// Returns whether a file belongs to a module of a folder.
fn is_in(file: &str, folder: &str, module: &str) -> bool {
    let rest = file.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')?.strip_prefix(module));
    rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// Returns the modules that a file declares, in order.
fn declared_modules(text: &str) -> Vec<DeclaredModule<'_>> {
    let imports = imports::read(text);
    let exports = |module: &str| {
        let paths = imports.iter().filter(|import| !import.visibility.is_empty()).flat_map(|import| &import.paths);
        let names = paths.filter_map(|path| path.strip_prefix(module)?.strip_prefix("::"));
        names.map(|name| name.rsplit("::").next().unwrap_or_default().to_owned()).collect()
    };
    let names = text.lines().filter_map(|line| {
        let (visibility, name) = line.strip_suffix(';')?.split_once("mod ")?;
        (visibility.is_empty() || visibility.starts_with("pub")).then_some(name)
    });
    names.map(|name| DeclaredModule { name, exports: exports(name) }).collect()
}

impl DeclaredModule<'_> {
    /// Returns whether a path begins with this module or with a name that is re-exported from it.
    fn has(&self, path: &str) -> bool {
        let first = path.split("::").next().unwrap_or_default();
        first == self.name || self.exports.iter().any(|name| name == first)
    }
}

/// Returns the paths below `root` that a file uses, in imports and in code.
fn used_paths(text: &str, root: &str) -> Vec<String> {
    let prefix = format!("{root}::");
    let imports = imports::read(text);
    let imported = imports.iter().flat_map(|import| &import.paths).filter_map(|path| path.strip_prefix(&prefix));
    let mut found: Vec<String> = imported.map(str::to_owned).collect();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let is_name = |character: char| character.is_alphanumeric() || character == '_';
        for (place, _) in line.match_indices(&prefix) {
            let rest = &line[place + prefix.len()..];
            let name = rest.split(|character| !is_name(character)).next().unwrap_or_default();
            // Excludes paths such as `my_crate::x`, which only end like the prefix.
            if !name.is_empty() && !line[..place].ends_with(is_name) {
                found.push(name.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    #[test]
    fn uses_are_found() {
        assert_eq!(used_paths("use crate::table::Table;", "crate"), ["table::Table", "table"]);
        assert_eq!(used_paths("use crate::{\n    clock::Clock,\n    table,\n};\n", "crate"), ["clock::Clock", "table"]);
        assert_eq!(used_paths("    crate::table::x()", "crate"), ["table"]);
        assert_eq!(used_paths("use crate::a::{b, c::d};", "crate::a"), ["b", "c::d"]);
        assert!(used_paths("use other::{\n    table::Table,\n};\n", "crate").is_empty());
        assert!(used_paths("/// See [`crate::table`].", "crate").is_empty());
    }

    #[test]
    fn modules_are_in_order() {
        let library = "//! A.\n\npub mod a;\nmod b;\n\npub use b::B;\n";
        let problems = |a: &str, b: &str| {
            check(&[source("x/src/lib.rs", library), source("x/src/a.rs", a), source("x/src/b/mod.rs", b)])
        };
        assert!(problems("//! A.\n", "use crate::a::A;\n").is_empty());
        assert_eq!(
            problems("use crate::b::C;\n", ""),
            [
                "x/src/a.rs: a uses b (crate::b::C), which is below it in x/src/lib.rs",
                "x/src/a.rs: a uses b (crate::b), which is below it in x/src/lib.rs",
            ]
        );
        assert_eq!(problems("use crate::{B, c};\n", "").len(), 1, "a re-export is of its module");
    }

    #[test]
    fn a_folder_that_claims_an_order_has_it() {
        let used = "use crate::m::b::B;\n";
        let problems = |first: &str| {
            let module = format!("//! {first}\nmod a;\nmod b;\n");
            check(&[source("x/src/m/mod.rs", &module), source("x/src/m/a.rs", used), source("x/src/m/b.rs", "")])
        };
        assert!(problems("M.").is_empty());
        assert!(!problems("The order of the modules is the order of dependency.").is_empty());
    }
}
