//! Splits a query into tokens: names, texts, numbers and signs, with their places. It never fails: characters that
//! cannot be read are reported and left out.

mod literal;

use crate::{ast::Span, diagnostic::Diagnostic, keyword};

/// Kinds of tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A name or a key word. With a backslash in it (`escaped`) it is never a key word.
    Word {
        text: String,
        escaped: bool,
    },
    /// `#name`: a shortcut for several fields, in lower case without the `#`.
    Shortcut(String),
    /// A text in quotes.
    Text(String),
    /// `$"regex"`.
    Regex(String),
    /// A number.
    Number(f64),
    /// A whole number that no float is equal to.
    Whole(i64),
    /// `=:word` and `==:word`, in lower case.
    EqualWith(String),
    /// `!=:word`, in lower case.
    NotEqualWith(String),
    Equal,
    EqualEqual,
    NotEqual,
    /// `<>` of S1QL 1.0.
    LessGreater,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Not,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Question,
    Colon,
    Comma,
    Dot,
    Arrow,
    Pipe,
    Open,
    Close,
    /// The end of the query; always the last token, and only there.
    End,
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    /// Kind of the token.
    pub(super) kind: Kind,
    /// Place in the text.
    pub(super) span: Span,
}

impl Token {
    /// Returns the word in lower case, if it has no backslash.
    pub(super) fn keyword(&self) -> Option<String> {
        match &self.kind {
            Kind::Word { text, escaped: false } => Some(text.to_lowercase()),
            _ => None,
        }
    }
}

/// Signs, the longest first.
const SIGNS: [(&str, Kind); 26] = [
    ("<>", Kind::LessGreater),
    ("==", Kind::EqualEqual),
    ("!=", Kind::NotEqual),
    ("<=", Kind::LessOrEqual),
    (">=", Kind::GreaterOrEqual),
    ("&&", Kind::And),
    ("||", Kind::Or),
    ("->", Kind::Arrow),
    ("=", Kind::Equal),
    ("<", Kind::Less),
    (">", Kind::Greater),
    ("!", Kind::Not),
    ("+", Kind::Plus),
    ("-", Kind::Minus),
    ("*", Kind::Star),
    ("/", Kind::Slash),
    ("%", Kind::Percent),
    ("?", Kind::Question),
    (":", Kind::Colon),
    (",", Kind::Comma),
    (".", Kind::Dot),
    ("|", Kind::Pipe),
    ("(", Kind::Open),
    (")", Kind::Close),
    // Web pages replace the ASCII signs by these, and people paste them.
    ("≤", Kind::LessOrEqual),
    ("≥", Kind::GreaterOrEqual),
];

/// Whether the tokens begin with `name =` and so name a column. `name = *` is a condition (the field is present), but
/// `name = * contains 'x'` names a column again.
pub(super) fn names_column(tokens: &[Token]) -> bool {
    match tokens {
        [name, equal, next, rest @ ..] => {
            let operator = rest.first().and_then(Token::keyword);
            let is_any_field = operator.is_some_and(|word| keyword::pattern(&word).is_some());
            matches!(name.kind, Kind::Word { .. } | Kind::Text(_))
                && equal.kind == Kind::Equal
                && (next.kind != Kind::Star || is_any_field)
        }
        _ => false,
    }
}

/// Whether a text begins with `name =`.
pub(super) fn begins_with_name(text: &str) -> bool {
    names_column(&lex(text).0)
}

struct Lexer<'a> {
    text: &'a str,
    /// Byte that is read next.
    at: usize,
    tokens: Vec<Token>,
    diagnostics: Vec<Diagnostic>,
    /// Number of `[` that are still open.
    brackets: usize,
}

/// Returns the tokens of a text; the last is [`Kind::End`].
pub(super) fn lex(text: &str) -> (Vec<Token>, Vec<Diagnostic>) {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new(), diagnostics: Vec::new(), brackets: 0 };
    // Ends because each branch of `token` takes at least one character.
    while let Some(character) = lexer.peek() {
        lexer.token(character);
    }
    lexer.push(Kind::End, text.len());
    (lexer.tokens, lexer.diagnostics)
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn span(&self, start: usize) -> Span {
        Span { start, end: self.at }
    }

    fn push(&mut self, kind: Kind, start: usize) {
        self.tokens.push(Token { kind, span: self.span(start) });
    }

    fn token(&mut self, character: char) {
        let start = self.at;
        match character {
            // Editors write a byte order mark, which is invisible.
            _ if character.is_whitespace() || character == '\u{feff}' => self.at += character.len_utf8(),
            // A comment ends with its line; a division has one slash.
            '/' if self.rest().starts_with("//") => {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            }
            '\'' | '"' | '‘' | '’' | '‚' | '“' | '”' | '„' => self.text_token(character),
            // The guards slice behind the first byte, which is safe because these characters are one byte long.
            '$' if self.rest()[1..].starts_with(['\'', '"']) => self.regex(),
            '$' if self.rest()[1..].starts_with(|next: char| next.is_alphabetic() || next == '_') => self.old_field(),
            '#' if self.begins_comment() => {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            }
            '0'..='9' => self.number(),
            // `.5` is a number, but behind a value the dot calls a method.
            '.' if self.rest()[1..].starts_with(|next: char| next.is_ascii_digit()) && !self.follows_value() => {
                self.number();
            }
            // `equal_with` moves on only if it returns true.
            '=' | '!' if self.equal_with() => {}
            '#' if self.rest()[1..].starts_with(char::is_alphabetic) => {
                self.at += 1;
                let (text, _) = self.name();
                self.push(Kind::Shortcut(text.to_lowercase()), start);
            }
            '_' | '\\' => self.word(),
            _ if character.is_alphabetic() => self.word(),
            _ => self.sign(character),
        }
    }

    /// Whether a `#` begins a comment: at the beginning of a line, and with no name behind it, which would be a shortcut.
    fn begins_comment(&self) -> bool {
        let before = self.text[..self.at].rsplit('\n').next().unwrap_or_default();
        let is_first = before.chars().all(|character| character.is_whitespace() || character == '\u{feff}');
        is_first && self.rest()[1..].chars().next().is_none_or(|next| next.is_whitespace() || "#!=-*".contains(next))
    }

    /// Reads `$field`, as fields were written before PowerQuery.
    fn old_field(&mut self) {
        let start = self.at;
        self.at += 1;
        let (text, _) = self.name();
        let message = format!("'${text}' is the field {text}: it needs no $");
        self.diagnostics.push(Diagnostic::warning(self.span(start), message).suggest(text.clone()));
        // It is never a key word.
        self.push(Kind::Word { text, escaped: true }, start);
    }

    /// Whether the token before ends here and may have a method.
    fn follows_value(&self) -> bool {
        self.tokens.last().is_some_and(|token| {
            token.span.end == self.at
                && matches!(token.kind, Kind::Close | Kind::Text(_) | Kind::Number(_) | Kind::Whole(_))
        })
    }

    fn sign(&mut self, character: char) {
        let start = self.at;
        // The first sign that fits is the longest, by the order of the table.
        if let Some((sign, kind)) = SIGNS.iter().find(|(sign, _)| self.rest().starts_with(sign)) {
            self.at += sign.len();
            self.push(kind.clone(), start);
            return;
        }
        self.at += character.len_utf8();
        // Left out, with an error: the query goes on behind it.
        // `[` right behind a name means an element, otherwise a list. The error at `[` covers its `]`.
        let is_element =
            self.tokens.last().is_some_and(|token| token.span.end == start && !matches!(token.kind, Kind::Open));
        if character == '[' {
            self.brackets += 1;
        } else if character == ']' && self.brackets > 0 {
            self.brackets -= 1;
            return;
        }
        let message = match character {
            '[' | ']' if is_element => "an element of an array is taken with a function".to_owned(),
            '[' | ']' => "a list is written in parentheses".to_owned(),
            _ => {
                let shown = character.escape_debug();
                format!("'{shown}' means nothing here: in a name it needs a backslash, in a text quotes")
            }
        };
        let instead = match character {
            '–' | '—' | '−' => Some("-"),
            '×' => Some("*"),
            '&' => Some("and"),
            '[' | ']' if is_element => Some("array_get(x, 0)"),
            '[' => Some("("),
            ']' => Some(")"),
            _ => None,
        };
        self.diagnostics.push(Diagnostic::error(self.span(start), message).suggest_any(instead));
    }

    /// Reads `=:anycase` and the like.
    fn equal_with(&mut self) -> bool {
        let start = self.at;
        let signs = [("==:", false), ("=:", false), ("!=:", true)];
        let Some((sign, negated)) = signs.into_iter().find(|(sign, _)| self.rest().starts_with(sign)) else {
            return false;
        };
        let rest = &self.rest()[sign.len()..];
        let length = rest.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(rest.len());
        // `x = :y` and the like: the colon stands alone.
        if length == 0 {
            return false;
        }
        let suffix = rest[..length].to_lowercase();
        self.at += sign.len() + length;
        self.push(if negated { Kind::NotEqualWith(suffix) } else { Kind::EqualWith(suffix) }, start);
        true
    }

    /// Reads the characters of a name. A sign that may stand inside a name but not at its end is left for the next
    /// token: `a- b`, `c ? a: b`.
    fn name(&mut self) -> (String, bool) {
        let (mut text, mut escaped) = (String::new(), false);
        // Last place where the name can end: in the query and in the name.
        let mut end = (self.at, 0);
        while let Some(character) = self.peek() {
            self.at += character.len_utf8();
            match character {
                '\\' => match self.peek() {
                    Some(literal) => {
                        self.at += literal.len_utf8();
                        text.push(literal);
                        escaped = true;
                        end = (self.at, text.len());
                    }
                    None => break,
                },
                // Not taken as the end of the name: only a letter or digit behind it makes it part of the name.
                '.' | '-' | ':' => text.push(character),
                _ if character.is_alphanumeric() || character == '_' => {
                    text.push(character);
                    end = (self.at, text.len());
                }
                _ => break,
            }
        }
        // Gives back signs at the end of the name.
        self.at = end.0;
        text.truncate(end.1);
        (text, escaped)
    }

    fn word(&mut self) {
        let start = self.at;
        let glued = self.tokens.last().is_some_and(|token| {
            token.span.end == start
                && matches!(token.kind, Kind::Text(_) | Kind::Regex(_) | Kind::Number(_) | Kind::Whole(_))
        });
        let (text, escaped) = self.name();
        if text.is_empty() {
            // Only a backslash at the very end makes an empty name. Without this step `lex` would not end.
            self.at = self.text.len();
            let message = "a backslash ends the query: the character that it escapes is missing";
            self.diagnostics.push(Diagnostic::error(self.span(start), message));
            return;
        }
        if glued && !escaped && keyword::may_follow_value(&text.to_lowercase()) {
            let before = self.tokens.last().map_or(start, |token| token.span.start);
            let separated = format!("{} {text}", &self.text[before..start]);
            let message = format!("'{text}' is glued to the value before it and is taken as a key word");
            self.diagnostics.push(Diagnostic::warning(self.span(start), message).suggest(separated));
        }
        self.push(Kind::Word { text, escaped }, start);
    }
}

#[cfg(test)]
mod tests;
