//! Takes secrets out of command lines before anything is kept of them: passwords, tokens, keys.
//!
//! What is looked for stands in three tables: names of secrets ([`names`]), programs with short options ([`programs`]), forms of keys
//! ([`shapes`]). All of it costs time in proportion to the length of the text.

mod names;
mod programs;
mod shapes;
mod words;
mod command;

use std::{borrow::Cow, ops::Range, rc::Rc};

use netconn_model::json::CUT;
use regex::Regex;
use thiserror::Error;

use self::command::Scan;

/// Stands in the place of a secret.
pub const MASK: &str = "***";
/// Most patterns of the configuration.
const PATTERNS_MAX: usize = 64;
/// Most bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// How often a text without known arguments is looked through at most. Mostly a second look finds nothing more.
const LOOKS_MAX: usize = 4;

/// A pattern of the configuration that cannot be used.
#[derive(Debug, Error)]
#[error("redact_patterns in the configuration: {0}")]
pub struct RedactError(String);

/// Finds secrets in command lines and titles.
#[derive(Debug)]
pub struct Redactor {
    is_on: bool,
    /// Those of the configuration.
    patterns: Vec<Regex>,
    /// Of a later configuration a greater one.
    version: u32,
}

impl Default for Redactor {
    /// What is looked for without a configuration.
    fn default() -> Self {
        Self { is_on: true, patterns: Vec::new(), version: 0 }
    }
}

/// A command line or title as it is kept: without the secrets that were found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    text: Rc<str>,
    /// Whether secrets were taken out.
    pub is_redacted: bool,
    /// That of the redactor that made it.
    version: u32,
}

impl std::ops::Deref for CommandLine {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl From<Redacted> for CommandLine {
    fn from(Redacted { text, is_redacted, version }: Redacted) -> Self {
        Self { text: text.into(), is_redacted, version }
    }
}

#[cfg(test)]
impl From<&str> for CommandLine {
    fn from(text: &str) -> Self {
        Self { text: text.into(), is_redacted: false, version: 0 }
    }
}

/// A text without the secrets that were found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redacted {
    /// The text, with [`MASK`] in the place of secrets.
    pub text: String,
    /// Whether there were any.
    pub is_redacted: bool,
    /// That of the redactor that made it.
    pub(super) version: u32,
}

impl Redactor {
    /// Returns a redactor that is on or off, with further patterns: regular expressions of the crate `regex`. What the first group of a
    /// pattern matches is secret; without a group, all that it matches.
    ///
    /// # Errors
    ///
    /// When a pattern is none, matches an empty text, or there are too many.
    pub fn new(is_on: bool, patterns: &[String]) -> Result<Self, RedactError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(RedactError(format!("there are {}; {PATTERNS_MAX} are possible", patterns.len())));
        }
        let compile = |(index, text): (usize, &String)| {
            let number = index + 1;
            let built = regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build();
            let pattern = built.map_err(|error| {
                RedactError(format!("pattern {number} is no regular expression that can be used:\n{error}"))
            })?;
            if pattern.is_match("") {
                let message =
                    format!("pattern {number}, `{text}`, matches an empty text: it must match at least one character");
                return Err(RedactError(message));
            }
            Ok(pattern)
        };
        let patterns = patterns.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { is_on, patterns, version: 0 })
    }

    /// Returns this one as the successor of another: texts of that one are looked through again when they are told.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        Self { version: before.version.wrapping_add(1), ..self }
    }

    /// Joins arguments, each ended by NUL, by spaces, without their secrets; `None` if there are none. With `is_cut` the text ends with
    /// `…`, and what the cut has left of a secret is taken out as well. The text has at most three times as many bytes as the arguments.
    pub fn command_line(&self, arguments: &[u8], is_cut: bool) -> Option<Redacted> {
        // The last argument ends in NUL too: no space for that one.
        let arguments = arguments.strip_suffix(b"\0").unwrap_or(arguments);
        if arguments.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(arguments.len() + CUT.len());
        let mut parts = Vec::new();
        for argument in arguments.split(|byte| *byte == 0) {
            if !parts.is_empty() {
                text.push(' ');
            }
            let begin = text.len();
            // A process chooses these bytes itself: they need not be UTF-8.
            text.push_str(&String::from_utf8_lossy(argument));
            parts.push(begin..text.len());
        }
        let mut redacted = if let [title] = parts.as_slice()
            && text.contains(char::is_whitespace)
        {
            // A process that has written over its arguments shows one text.
            debug_assert_eq!(*title, 0..text.len());
            self.text(&text, is_cut)
        } else {
            let found = self.find(&text, is_cut, |scan| scan.arguments(&parts));
            self.masked(&text, found)
        };
        if is_cut {
            redacted.text.push_str(CUT);
        }
        Some(redacted)
    }

    /// Returns a text without the secrets in it, of which it is not known where an argument begins and ends.
    pub fn text(&self, text: &str, is_cut: bool) -> Redacted {
        let mut redacted = Redacted { text: text.to_owned(), is_redacted: false, version: self.version };
        for _ in 0..LOOKS_MAX {
            let found = self.find(&redacted.text, is_cut, Scan::text);
            let next = self.masked(&redacted.text, found);
            if !next.is_redacted {
                break;
            }
            redacted = next;
        }
        redacted
    }

    /// Returns a command line as it may be told now, and whether secrets were taken out of it: one that was kept under an earlier
    /// configuration is looked through again.
    pub fn current<'a>(&self, line: &'a CommandLine) -> (Cow<'a, str>, bool) {
        if line.version == self.version {
            return (Cow::Borrowed(line), line.is_redacted);
        }
        let (text, is_cut) = line.strip_suffix(CUT).map_or((&**line, false), |text| (text, true));
        let mut redacted = self.text(text, is_cut);
        if is_cut {
            redacted.text.push_str(CUT);
        }
        (Cow::Owned(redacted.text), redacted.is_redacted || line.is_redacted)
    }

    /// Returns where secrets stand, in any order.
    fn find<'a>(&self, text: &'a str, is_cut: bool, look: impl FnOnce(&mut Scan<'a>)) -> Vec<Range<usize>> {
        if !self.is_on {
            return Vec::new();
        }
        let mut scan = Scan::new(text, is_cut);
        look(&mut scan);
        let mut found = scan.found;
        shapes::keys(text, is_cut, &mut found);
        shapes::passwords_in_addresses(text, is_cut, &mut found);
        for pattern in &self.patterns {
            // Without a group, the whole match is group 0.
            let group = usize::from(pattern.captures_len() > 1);
            let groups = pattern.captures_iter(text).filter_map(|captures| captures.get(group));
            found.extend(groups.map(|group| group.range()));
        }
        if is_cut && !self.patterns.is_empty() {
            // Nobody knows whether a pattern would match what is cut off.
            let last = text.rfind(|char: char| char.is_ascii_whitespace()).map_or(0, |space| space + 1);
            found.extend((last < text.len()).then_some(last..text.len()));
        }
        found
    }

    /// Returns the text with [`MASK`] in the place of what was found.
    fn masked(&self, text: &str, mut found: Vec<Range<usize>>) -> Redacted {
        found.retain(|range| text.get(range.clone()).is_some_and(|secret| !secret.is_empty() && secret != MASK));
        if found.is_empty() {
            return Redacted { text: text.to_owned(), is_redacted: false, version: self.version };
        }
        found.sort_unstable_by_key(|range| range.start);
        let mut out = String::with_capacity(text.len());
        let (mut copied, mut masked_to) = (0, None);
        for Range { start, end } in found {
            // Two that touch or overlap are one.
            if masked_to.is_none_or(|masked_to| start > masked_to) {
                out.push_str(text.get(copied..start).unwrap_or_default());
                out.push_str(MASK);
            }
            copied = copied.max(end);
            masked_to = Some(copied);
        }
        out.push_str(text.get(copied..).unwrap_or_default());
        Redacted { text: out, is_redacted: true, version: self.version }
    }
}

#[cfg(test)]
mod tests;
