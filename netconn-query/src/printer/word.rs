//! Writes names and texts, with backslashes and quotes where they need them.

use crate::{catalogue, keyword, old};

/// Returns the name of a field or column as queries write it.
pub fn name(name: &str) -> String {
    let mut written = String::with_capacity(name.len() + 1);
    let last = name.chars().count().saturating_sub(1);
    for (place, character) in name.chars().enumerate() {
        // These signs end a name when they stand at its edge, see `Lexer::name`.
        let inside = place != 0 && place != last;
        let plain = match character {
            '.' | '-' | ':' => inside,
            '_' => true,
            // A digit at the beginning would be read as a number.
            _ => character.is_alphabetic() || (character.is_alphanumeric() && place != 0),
        };
        if !plain {
            written.push('\\');
        }
        written.push(character);
    }
    let other_meaning =
        keyword::is_keyword(name) || catalogue::command(&name.to_lowercase()).is_some() || old::field(name).is_some();
    // A name with a backslash in it is never a key word.
    if other_meaning && !written.starts_with('\\') {
        written.insert(0, '\\');
    }
    written
}

/// Returns a name, in quotes if it is no plain word.
pub(super) fn name_or_text(given: &str) -> String {
    // A text is easier to read than a word full of backslashes.
    let written = name(given);
    if written == given { written } else { text(given) }
}

/// Returns a text in quotes.
pub fn text(text: &str) -> String {
    let mut written = String::with_capacity(text.len() + 2);
    written.push('\'');
    for character in text.chars() {
        match character {
            '\\' => written.push_str("\\\\"),
            '\'' => written.push_str("\\'"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            _ => written.push(character),
        }
    }
    written.push('\'');
    written
}

/// Returns `$"regex"` unchanged, in the kind of quotes that is not in it, or with its quotes escaped.
pub(super) fn regex(regex: &str) -> String {
    let free_of = |quote: char| {
        let mut escaped = false;
        regex.chars().all(|character| {
            let ends = character == quote && !escaped;
            escaped = character == '\\' && !escaped;
            !ends
        })
    };
    if free_of('"') {
        format!("$\"{regex}\"")
    } else if free_of('\'') {
        format!("$'{regex}'")
    } else {
        // Both kinds of quotes occur. `\x22` is a quote to the regular expression and none to the lexer.
        format!("$\"{}\"", regex.replace('"', "\\x22"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_backslashes_where_needed() {
        for (given, written) in [
            ("src.ip.address", "src.ip.address"),
            ("a-b:c_d", "a-b:c_d"),
            ("Pretty Name", "Pretty\\ Name"),
            ("2nd", "\\2nd"),
            ("a.", "a\\."),
            ("in", "\\in"),
            ("limit", "\\limit"),
            ("contains:x", "\\contains:x"),
            ("SrcIP", "\\SrcIP"),
            ("count", "count"),
            ("sum(x)", "sum\\(x\\)"),
        ] {
            assert_eq!(name(given), written);
        }
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(text("it's\\\n"), "'it\\'s\\\\\\n'");
        assert_eq!(regex("a\\d'"), "$\"a\\d'\"");
        assert_eq!(regex("a\"b"), "$'a\"b'");
        assert_eq!(regex("a\"b'"), "$\"a\\x22b'\"");
        assert_eq!(regex("a\\\"b"), "$\"a\\\"b\"");
    }
}
