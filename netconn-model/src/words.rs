//! Sets of words as filters have them: whole ones, and patterns with the wildcards of a shell.

use std::collections::BTreeSet;

use glob::Pattern;

/// Longest pattern, bytes. A pattern is compared with each event, and may be anybody's.
const PATTERN_BYTES_MAX: usize = 256;

/// Words, each of them whole or a pattern.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Words {
    whole: BTreeSet<String>,
    patterns: Vec<Pattern>,
}

impl Words {
    /// Adds a word, or what stands for several.
    ///
    /// # Errors
    ///
    /// What is wrong with the pattern.
    pub(crate) fn insert(&mut self, value: &str) -> Result<(), String> {
        if is_pattern(value) {
            if value.len() > PATTERN_BYTES_MAX {
                return Err(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes"));
            }
            let pattern = Pattern::new(value).map_err(|error| {
                format!(
                    "'{value}' is not a pattern: {} (`*`: any characters, `?`: one, `[a-z]`: one of these)",
                    error.msg
                )
            })?;
            if !self.patterns.contains(&pattern) {
                self.patterns.push(pattern);
            }
        }
        // Also what looks like a pattern: a process may be called so.
        self.whole.insert(value.to_owned());
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    /// Returns whether a word is among these, or one of the patterns stands for it. No pattern stands for an empty word, which is
    /// what is not known.
    pub(crate) fn contains(&self, word: &str) -> bool {
        self.whole.contains(word) || (!word.is_empty() && self.patterns.iter().any(|pattern| pattern.matches(word)))
    }
}

/// Returns whether a value stands for several words.
pub(crate) fn is_pattern(value: &str) -> bool {
    value.contains(['*', '?', '['])
}
