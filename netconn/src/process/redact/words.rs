//! Words of a command: arguments as the kernel has them, or those of a text that a shell would read.

use std::ops::Range;

/// Where the words of a command come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Arguments of `exec`.
    Arguments,
    /// The text of a script (`sh -c`): it has operators, and names of variables stand for what nobody sees.
    Script,
    /// A text without anything known of its parts: a title, or a part of an argument.
    Text,
}

/// A word, by its place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) begin: usize,
    pub(super) end: usize,
    /// It is an operator, behind which another command begins.
    pub(super) is_operator: bool,
}

impl Word {
    pub(super) fn range(self) -> Range<usize> {
        self.begin..self.end
    }

    /// Returns the word without the quotes around it.
    pub(super) fn bare(self, text: &str) -> Self {
        let inside = text.get(self.range()).and_then(|word| {
            let quote = word.chars().next().filter(|first| matches!(first, '"' | '\''))?;
            // Also without its end, which may be cut.
            (word.len() >= 2).then_some(word.strip_suffix(quote).map_or(0, |_| 1))
        });
        match inside {
            Some(tail) => Self { begin: self.begin + 1, end: self.end - tail, ..self },
            None => self,
        }
    }
}

/// Returns the words of a part of a text. Quotes hold a word together, and belong to it.
pub(super) fn split(text: &str, part: Range<usize>, source: Source, is_cut: bool) -> Vec<Word> {
    let bytes = text.as_bytes();
    let mut words = Vec::new();
    let mut begin = None;
    let mut place = part.start;
    while place < part.end {
        let byte = bytes.get(place).copied().unwrap_or_default();
        let is_operator = source == Source::Script && matches!(byte, b';' | b'|' | b'&' | b'(' | b')' | b'`' | b'\n');
        if byte.is_ascii_whitespace() || is_operator {
            if let Some(begin) = begin.take() {
                words.push(Word { begin, end: place, is_operator: false });
            }
            if is_operator {
                words.push(Word { begin: place, end: place + 1, is_operator: true });
            }
            place += 1;
            continue;
        }
        begin.get_or_insert(place);
        place = match byte {
            // What is escaped begins and ends nothing.
            b'\\' => place + 2,
            b'"' | b'\'' => match closing(bytes, place, part.end) {
                Some(end) => end + 1,
                // The rest is cut off; or it is an apostrophe.
                None if is_cut && part.end == bytes.len() => part.end,
                None => place + 1,
            },
            _ => place + 1,
        };
    }
    if let Some(begin) = begin {
        words.push(Word { begin, end: part.end, is_operator: false });
    }
    words
}

/// Returns the place of the quote that closes the one at `place`, before `end`.
pub(super) fn closing(bytes: &[u8], place: usize, end: usize) -> Option<usize> {
    let quote = *bytes.get(place)?;
    let mut at = place + 1;
    while at < end {
        match bytes.get(at) {
            // Single quotes know no escapes (sh(1)).
            Some(b'\\') if quote == b'"' => at += 2,
            Some(byte) if *byte == quote => return Some(at),
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, source: Source, is_cut: bool) -> Vec<&str> {
        split(text, 0..text.len(), source, is_cut).into_iter().map(|word| &text[word.range()]).collect()
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(of("a 'b c' d\\ e", Source::Text, false), ["a", "'b c'", "d\\ e"]);
        assert_eq!(of("x=\"a \\\" b\" y", Source::Script, false), ["x=\"a \\\" b\"", "y"]);
        assert_eq!(of("it's here", Source::Text, false), ["it's", "here"]);
        assert_eq!(of("it 's here", Source::Text, true), ["it", "'s here"]);
        assert_eq!(of("a&&b|c", Source::Script, false), ["a", "&", "&", "b", "|", "c"]);
        assert_eq!(of("a?b&c", Source::Text, false), ["a?b&c"]);
        assert_eq!(of("a\\", Source::Text, false), ["a\\"]);
        let text = "'a b' \"c\" d 'e";
        let bare: Vec<_> = split(text, 0..text.len(), Source::Text, true)
            .into_iter()
            .map(|word| &text[word.bare(text).range()])
            .collect();
        assert_eq!(bare, ["a b", "c", "d", "e"]);
    }
}
