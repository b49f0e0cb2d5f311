//! Reads numbers, texts and regular expressions.

use super::{Kind, Lexer};
use crate::{
    ast::Span,
    diagnostic::{Diagnostic, completed},
    keyword,
};

impl Lexer<'_> {
    pub(super) fn number(&mut self) {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'_') {
                at += 1;
            }
            at
        };
        let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let mut end = digits(start);
        // Only with a digit behind: in `1.max(2)` the dot calls a method.
        if bytes.get(end) == Some(&b'.') && is_digit(end + 1) {
            end = digits(end + 1);
        }
        // Only with digits behind: in `5east` the letter begins a word, which is reported below.
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if is_digit(end + 1 + sign) {
                end = digits(end + 1 + sign);
            }
        }
        self.at = end;
        // Read to the end of the word, so that `10.0.0.1` or `5m` is one error with one suggestion.
        if self.number_goes_on() {
            let rest = self.rest();
            let more = |character: char| character.is_alphanumeric() || ".:/_-".contains(character);
            self.at += rest.find(|character| !more(character)).unwrap_or(rest.len());
            // Signs at the end belong to what follows.
            let written = self.text[start..self.at].trim_end_matches(['.', ':', '-', '/']).to_owned();
            self.at = start + written.len();
            let message = format!("'{written}' is not a number: a text, an address or a span of time needs quotes");
            self.diagnostics.push(Diagnostic::error(self.span(start), message).suggest(format!("'{written}'")));
            // As the text that was meant, so that no further errors follow from it.
            self.push(Kind::Text(written), start);
            return;
        }
        // A number that is too large parses as infinity; all others are valid, as only digits have been read.
        let value = self.text[start..end].replace('_', "").parse().unwrap_or(f64::INFINITY);
        if value == f64::INFINITY {
            let message = "this number is too large: the largest is 1.7e308";
            self.diagnostics.push(Diagnostic::error(self.span(start), message).suggest("1.7e308"));
        }
        // A whole number that a float would round stays whole.
        #[expect(clippy::cast_possible_truncation, reason = "a float of a whole number of 64 bits fits into 128")]
        if let Ok(whole) = self.text[start..end].replace('_', "").parse::<i64>()
            && value as i128 != i128::from(whole)
        {
            self.push(Kind::Whole(whole), start);
            return;
        }
        self.push(Kind::Number(value), start);
    }

    /// Whether a number is followed by more that makes it no number, as in `10.0.0.1` or `5m`. A key word does not.
    fn number_goes_on(&self) -> bool {
        let rest = self.rest();
        if rest.strip_prefix(['.', '/']).is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit())) {
            // `10/2` is a division, `10.0.0.0/8` is not a number.
            return rest.starts_with('.');
        }
        let word = rest.split(|character: char| !character.is_alphanumeric() && character != '_').next();
        word.is_some_and(|word| !word.is_empty() && !keyword::may_follow_value(&word.to_lowercase()))
    }

    pub(super) fn text_token(&mut self, opening: char) {
        let start = self.at;
        // Programs pair curly quotes in different ways, so each closing quote of the kind is accepted, also the
        // straight one.
        let (closing, curly): (&[char], bool) = match opening {
            '\'' => (&['\''], false),
            '"' => (&['"'], false),
            '‘' | '’' | '‚' => (&['’', '‘', '\''], true),
            _ => (&['”', '“', '"'], true),
        };
        self.at += opening.len_utf8();
        let mut text = String::new();
        loop {
            let Some(character) = self.peek() else {
                // What has been read is kept as the text, and reading ends.
                self.unclosed(start, opening, closing[0]);
                break;
            };
            self.at += character.len_utf8();
            match character {
                _ if closing.contains(&character) => break,
                '\\' => self.escape(&mut text),
                _ => text.push(character),
            }
        }
        if curly {
            let straight = if closing.contains(&'"') { '"' } else { '\'' };
            let message = "curly quotes are taken as straight ones";
            let suggestion = format!("{straight}{text}{straight}");
            self.diagnostics.push(Diagnostic::warning(self.span(start), message).suggest(suggestion));
        }
        self.push(Kind::Text(text), start);
    }

    fn unclosed(&mut self, start: usize, opening: char, closing: char) {
        let place = Span { start, end: start + opening.len_utf8() };
        let message = format!("the text that begins here has no end: {closing} is missing");
        // A command that follows is most likely not part of the text.
        let text = self.text[start..].split(['\n', '\r']).next().unwrap_or_default();
        let text = text.split(" | ").next().unwrap_or_default().trim_end();
        // A last backslash would escape the closing quote.
        let backslashes = text.len() - text.trim_end_matches('\\').len();
        // An even number of backslashes are pairs, which escape themselves.
        let text = if backslashes % 2 == 1 { format!("{text}\\") } else { text.to_owned() };
        let instead = completed(&text, closing);
        self.diagnostics.push(Diagnostic::error(place, message).suggest(instead));
    }

    /// Reads what follows a backslash in a text. An unknown escape keeps its backslash, so that `'10\.'` and `'10\\.'`
    /// are the same regular expression.
    fn escape(&mut self, text: &mut String) {
        let Some(character) = self.peek() else {
            text.push('\\');
            return;
        };
        let known = match character {
            'n' => Some('\n'),
            't' => Some('\t'),
            'r' => Some('\r'),
            '\\' | '\'' | '"' | '‘' | '’' | '‚' | '“' | '”' | '„' => Some(character),
            'u' => {
                // `get` and not a slice: the query may end here, or a character lie across the fifth byte.
                let digits = self.rest().get(1..5).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let decoded = digits.and_then(|digits| char::from_u32(u32::from_str_radix(digits, 16).ok()?));
                if decoded.is_some() {
                    // `u` itself is counted below.
                    self.at += 4;
                }
                decoded
            }
            _ => None,
        };
        match known {
            Some(known) => text.push(known),
            None => text.extend(['\\', character]),
        }
        self.at += if character == 'u' && known.is_some() { 1 } else { character.len_utf8() };
    }

    /// Reads `$"regex"`. Backslashes stay as they are; one before a quote keeps the text open.
    pub(super) fn regex(&mut self) {
        let start = self.at;
        self.at += 1;
        let Some(quote) = self.peek() else { return };
        self.at += quote.len_utf8();
        let content = self.at;
        loop {
            let Some(character) = self.peek() else {
                self.unclosed(start, quote, quote);
                self.push(Kind::Regex(self.text[content..].to_owned()), start);
                return;
            };
            self.at += character.len_utf8();
            if character == quote {
                break;
            }
            // The character behind it cannot end the expression.
            if character == '\\' {
                self.at += self.peek().map_or(0, char::len_utf8);
            }
        }
        let regex = self.text[content..self.at - quote.len_utf8()].to_owned();
        self.push(Kind::Regex(regex), start);
    }
}
