//! Reads the `use` items of a file and checks their style: one item per crate, and no `super::super`.

use super::SourceFile;

/// A `use` item.
#[derive(Debug)]
pub(super) struct Import {
    /// The line it begins on, from 1.
    pub(super) line: usize,
    /// Whether it is in the file's own module, not in a block or an inner module.
    pub(super) is_outer: bool,
    /// The text before `use`: empty, `pub`, `pub(crate)`, ….
    pub(super) visibility: String,
    /// Whether an attribute is on the line before it.
    has_attribute: bool,
    /// The imported paths, without `as` names: `crate::a::b`, `crate::a::self`.
    pub(super) paths: Vec<String>,
}

/// Returns the `use` items of a text that rustfmt has formatted.
pub(super) fn read(text: &str) -> Vec<Import> {
    let lines: Vec<&str> = text.lines().collect();
    let begins = lines.iter().enumerate().filter_map(|(index, line)| Some((index, *line, begin(line)?)));
    let read = |(index, line, visibility): (usize, &str, &str)| {
        let mut tree = String::new();
        for line in &lines[index..] {
            tree.push_str(line.split("//").next().unwrap_or_default().trim());
            if tree.contains(';') {
                break;
            }
        }
        let tree = tree.split_once("use ").map_or("", |(_, tree)| tree).split(';').next().unwrap_or_default();
        Import {
            line: index + 1,
            is_outer: !line.starts_with(' '),
            visibility: visibility.to_owned(),
            has_attribute: index > 0 && lines[index - 1].trim_start().starts_with("#["),
            paths: expand(tree),
        }
    };
    begins.map(read).collect()
}

/// Returns the visibility of the `use` item that begins on a line, or `None` if there is none.
fn begin(line: &str) -> Option<&str> {
    let (visibility, _) = line.split_once("use ")?;
    let visibility = visibility.trim();
    (visibility.is_empty() || (visibility.starts_with("pub") && !visibility.contains(' '))).then_some(visibility)
}

/// Returns the paths of a tree: `a::{b, c::{d, e}}` has `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for part in split(tree) {
        match part.split_once('{') {
            Some((prefix, rest)) => {
                let group = rest.strip_suffix('}').unwrap_or(rest);
                paths.extend(expand(group).into_iter().map(|path| format!("{prefix}{path}")));
            }
            None => paths.push(part.split(" as ").next().unwrap_or_default().to_owned()),
        }
    }
    paths
}

/// Splits at commas outside braces.
fn split(tree: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (index, character) in tree.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Returns problems with the style of a file's imports.
pub(super) fn check(source: &SourceFile) -> Vec<String> {
    let name = &source.name;
    let mut problems = Vec::new();
    let mut roots: Vec<(String, String)> = Vec::new();
    for import in read(&source.text) {
        if import.paths.iter().any(|path| path.starts_with("super::super")) {
            problems.push(format!("{name}:{}: `super::super`: write `crate::…`", import.line));
        }
        let root = import.paths.first().and_then(|path| path.split("::").next()).unwrap_or_default().to_owned();
        // Imports in blocks, re-exports and conditional imports have reasons to be separate.
        if !import.is_outer || import.has_attribute || !import.visibility.is_empty() {
            continue;
        }
        let key = (import.visibility, root);
        if roots.contains(&key) {
            problems.push(format!("{name}:{}: another `use {}::…`: merge them", import.line, key.1));
        }
        roots.push(key);
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    #[test]
    fn trees_are_expanded() {
        assert_eq!(expand("a::{b, c::{d as e, self}}"), ["a::b", "a::c::d", "a::c::self"]);
        assert_eq!(expand("a"), ["a"]);
        let text = "pub(crate) use a::{\n    b, // why\n    c,\n};\nfn f() {\n    use d::*;\n}\n";
        let imports = read(text);
        assert_eq!(imports.len(), 2);
        assert_eq!((imports[0].line, imports[0].is_outer, imports[0].visibility.as_str()), (1, true, "pub(crate)"));
        assert_eq!(imports[0].paths, ["a::b", "a::c"]);
        assert_eq!((imports[1].line, imports[1].is_outer), (6, false));
        assert_eq!(imports[1].paths, ["d::*"]);
    }

    #[test]
    fn imports_of_a_crate_are_one_item() {
        let problems = |text| check(&source("a.rs", text));
        assert!(problems("use a::b;\nuse c::d;\npub use a::e;\n#[cfg(test)]\nuse a::f;\n").is_empty());
        assert_eq!(problems("use a::b;\nuse a::{c, d};\n"), ["a.rs:2: another `use a::…`: merge them"]);
        assert_eq!(problems("use super::super::b;\n"), ["a.rs:1: `super::super`: write `crate::…`"]);
        assert!(problems("use super::b;\n\nmod tests {\n    use super::*;\n}\n").is_empty());
    }
}
