//! Patterns that texts are compared with by `contains`, `matches`, `starts_with`, `ends_with` and `like`.

use std::borrow::Cow;

use memchr::memmem::Finder;
use regex::{Regex, RegexBuilder};

use crate::ast::MatchOp;

/// Bytes that a compiled regular expression may have.
pub const REGEX_SIZE: usize = 10 * 1024 * 1024;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// A text that is somewhere in the other.
    Contains(Box<Finder<'static>>),
    /// A text that the other begins with.
    StartsWith(Box<str>),
    /// A text that the other ends with.
    EndsWith(Box<str>),
    /// All other patterns.
    Regex(Regex),
}

impl Matcher {
    /// Compiles a pattern; `None` if it is too large.
    pub fn new(op: MatchOp, insensitive: bool, pattern: &str) -> Option<Self> {
        // Digits and signs look the same in both cases, so plain searches do.
        let insensitive = insensitive && has_case(pattern);
        match op {
            // The three plain searches need no regular expression, which takes longer to compile and to run.
            MatchOp::Contains if !insensitive => {
                return Some(Self::Contains(Box::new(Finder::new(pattern).into_owned())));
            }
            MatchOp::StartsWith if !insensitive => return Some(Self::StartsWith(pattern.into())),
            MatchOp::EndsWith if !insensitive => return Some(Self::EndsWith(pattern.into())),
            _ => {}
        }
        regex(op, insensitive, pattern).ok().map(Self::Regex)
    }

    /// Whether a text matches.
    pub fn fits(&self, text: &str) -> bool {
        match self {
            Self::Contains(finder) => finder.find(text.as_bytes()).is_some(),
            Self::StartsWith(start) => text.starts_with(&**start),
            Self::EndsWith(end) => text.ends_with(&**end),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// Whether a text matches a pattern that is known only with the event.
pub fn fits(op: MatchOp, insensitive: bool, text: &str, pattern: &str) -> bool {
    let (text, pattern) = match op {
        MatchOp::Matches | MatchOp::Like => {
            // An invalid pattern matches nothing.
            return regex(op, insensitive, pattern).is_ok_and(|regex| regex.is_match(text));
        }
        // The pattern may differ from row to row, so a regular expression would be compiled for each.
        _ if insensitive => (Cow::Owned(text.to_lowercase()), Cow::Owned(pattern.to_lowercase())),
        _ => (Cow::Borrowed(text), Cow::Borrowed(pattern)),
    };
    match op {
        MatchOp::StartsWith => text.starts_with(pattern.as_ref()),
        MatchOp::EndsWith => text.ends_with(pattern.as_ref()),
        _ => text.contains(pattern.as_ref()),
    }
}

/// Compiles the pattern of an operator as a regular expression.
///
/// # Errors
///
/// What is wrong with it, or that it is too large.
pub fn regex(op: MatchOp, insensitive: bool, pattern: &str) -> Result<Regex, regex::Error> {
    // A `.` in a regular expression of the user does not match a line feed; the wildcards of other patterns match any
    // character.
    let flags = match (insensitive, op == MatchOp::Matches) {
        (true, true) => "(?i)",
        (true, false) => "(?is)",
        (false, true) => "",
        (false, false) => "(?s)",
    };
    RegexBuilder::new(&format!("{flags}{}", as_regex(op, pattern))).size_limit(REGEX_SIZE).build()
}

/// The pattern of an operator as a regular expression.
fn as_regex(op: MatchOp, pattern: &str) -> Cow<'_, str> {
    Cow::Owned(match op {
        MatchOp::Contains => regex::escape(pattern),
        MatchOp::StartsWith => format!("^{}", regex::escape(pattern)),
        MatchOp::EndsWith => format!("{}$", regex::escape(pattern)),
        MatchOp::Matches => return Cow::Borrowed(pattern),
        MatchOp::Like => {
            // `like` is about the whole text, unlike the other operators.
            let mut regex = String::from("^");
            let mut letters = pattern.chars();
            while let Some(letter) = letters.next() {
                match letter {
                    '%' => regex.push_str(".*"),
                    '_' => regex.push('.'),
                    // A backslash at the end stands for itself.
                    '\\' => regex.push_str(&regex::escape(letters.next().unwrap_or('\\').encode_utf8(&mut [0; 4]))),
                    _ => regex.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4]))),
                }
            }
            regex + "$"
        }
    })
}

/// Whether upper and lower case are two things for some character; `\d` of a regular expression counts too.
pub fn has_case(text: &str) -> bool {
    text.chars().any(|letter| letter.is_alphabetic() || !letter.is_ascii())
}
