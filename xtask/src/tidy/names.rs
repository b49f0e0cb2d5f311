//! Checks that no two public types have the same name, because readers could confuse them.

use std::collections::BTreeMap;

use super::SourceFile;

/// Names that several types may share, each with the reason.
const SHARED: [(&str, &str); 0] = [];
/// Keywords that declare a type.
const KEYWORDS: [&str; 5] = ["struct", "enum", "union", "trait", "type"];

/// Checks the libraries. Every `pub` type there is public, because the lint `unreachable_pub` finds the others.
pub(super) fn check(sources: &[SourceFile]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| is_library(source)) {
        for (index, line) in source.code().enumerate() {
            if let Some(name) = declared_type(line) {
                places.entry(name).or_default().push(format!("{}:{}", source.name, index + 1));
            }
        }
    }
    let shared = |name: &str| SHARED.iter().any(|(shared, _)| *shared == name);
    let twice = places.into_iter().filter(|(name, places)| places.len() > 1 && !shared(name));
    twice.map(|(name, places)| format!("{}: several types are called {name}", places.join(", "))).collect()
}

/// Returns whether a file belongs to a library. `netconn-ebpf`, the tests and the chores are programs.
fn is_library(source: &SourceFile) -> bool {
    let in_crate = source.name.split_once("/src/").map(|(member, _)| member);
    in_crate.is_some_and(|member| member.starts_with("netconn") && member != "netconn-ebpf") && !source.is_test()
}

/// Returns the name of the public type that a line declares, outside functions and inner modules.
fn declared_type(line: &str) -> Option<&str> {
    // rustfmt indents everything but items of the file's own module.
    let rest = line.strip_prefix("pub ")?;
    let (keyword, rest) = rest.strip_prefix("unsafe ").unwrap_or(rest).split_once(' ')?;
    let name = rest.split(|character: char| !character.is_alphanumeric() && character != '_').next()?;
    KEYWORDS.contains(&keyword).then_some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    #[test]
    fn types_are_found() {
        assert_eq!(declared_type("pub struct Answer<'a> {"), Some("Answer"));
        assert_eq!(declared_type("pub unsafe trait Plain {}"), Some("Plain"));
        assert_eq!(declared_type("pub(crate) struct Answer;"), None);
        assert_eq!(declared_type("    pub type Item = u8;"), None);
        assert_eq!(declared_type("pub fn answer() {}"), None);
    }

    #[test]
    fn a_name_is_of_one_type() {
        let first = source("netconn/src/a.rs", "pub struct Answer;\n");
        let problems = |name, text| check(&[source(name, text), source("netconn/src/a.rs", &first.text)]);
        assert_eq!(
            problems("netconn-model/src/b.rs", "\npub enum Answer {}\n"),
            ["netconn-model/src/b.rs:2, netconn/src/a.rs:1: several types are called Answer"]
        );
        assert!(problems("netconn-model/src/b.rs", "pub enum Reply {}\n").is_empty());
        assert!(problems("netconn-model/src/b.rs", "#[cfg(test)]\npub enum Answer {}\n").is_empty());
        assert!(problems("xtask/src/b.rs", "pub enum Answer {}\n").is_empty());
    }
}
