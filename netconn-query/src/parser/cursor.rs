//! Moves through the tokens and reports what is wrong with them.

use super::{DEPTH_MAX, HEIGHT_MAX, Parser};
use crate::{
    ast::{Name, Span},
    diagnostic::{Diagnostic, completed},
    keyword,
    lexer::{Kind, Token},
    old::{self, OldField},
};

/// What a pair of parentheses has in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    /// Index of the `)`; `None` if it is missing.
    pub(super) close: Option<usize>,
    /// Whether a `|` stands directly inside, not in inner parentheses.
    pub(super) has_pipe: bool,
    /// Whether a comparison stands directly inside.
    pub(super) has_comparison: bool,
    /// Whether a comma stands directly inside.
    pub(super) has_comma: bool,
}

/// Finds the `)` of each `(`.
pub(super) fn pairs(tokens: &[Token]) -> Vec<Option<Pair>> {
    let mut pairs = vec![None; tokens.len()];
    let mut open: Vec<(usize, Pair)> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match &token.kind {
            Kind::Open => {
                open.push((at, Pair { close: None, has_pipe: false, has_comparison: false, has_comma: false }));
            }
            Kind::Close => {
                if let Some((start, pair)) = open.pop() {
                    pairs[start] = Some(Pair { close: Some(at), ..pair });
                }
            }
            kind => {
                if let Some((_, pair)) = open.last_mut() {
                    pair.has_pipe |= *kind == Kind::Pipe;
                    pair.has_comma |= *kind == Kind::Comma;
                    pair.has_comparison |= is_comparison(token);
                }
            }
        }
    }
    // What is still open keeps what was found in it, so that an unfinished subquery is read as one.
    open.into_iter().for_each(|(start, pair)| pairs[start] = Some(pair));
    pairs
}

pub(super) fn is_comparison(token: &Token) -> bool {
    match &token.kind {
        Kind::Equal
        | Kind::EqualEqual
        | Kind::EqualWith(_)
        | Kind::NotEqual
        | Kind::NotEqualWith(_)
        | Kind::LessGreater
        | Kind::Less
        | Kind::LessOrEqual
        | Kind::Greater
        | Kind::GreaterOrEqual => true,
        _ => token.keyword().is_some_and(|word| keyword::is_operator(&word)),
    }
}

/// The token that is returned behind the last one.
static END: Token = Token { kind: Kind::End, span: Span { start: 0, end: 0 } };

impl Parser<'_> {
    /// Returns a token ahead; 0 is the next one.
    pub(super) fn peek(&self, ahead: usize) -> &Token {
        // Everything looks like the end then, so all loops and levels return without a check of their own.
        if self.given_up {
            return &END;
        }
        self.tokens.get(self.at + ahead).or(self.tokens.last()).unwrap_or(&END)
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.peek(0).kind
    }

    /// Returns the place of the next token.
    pub(super) fn here(&self) -> Span {
        self.tokens.get(self.at).or(self.tokens.last()).map_or_else(Span::default, |token| token.span)
    }

    /// Returns the place from there to the end of the last token that was taken.
    pub(super) fn span_from(&self, start: usize) -> Span {
        let end = self.at.checked_sub(1).and_then(|last| self.tokens.get(last)).map_or(start, |token| token.span.end);
        Span { start, end: end.max(start) }
    }

    /// Takes the next token; the last one, the end, stays.
    pub(super) fn advance(&mut self) -> Token {
        let token = self.peek(0).clone();
        // The last token is never passed, so `here` has a place to point at.
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    /// Takes the next token if it is this.
    pub(super) fn take(&mut self, kind: &Kind) -> bool {
        let found = self.kind() == kind;
        if found {
            self.advance();
        }
        found
    }

    /// Whether the token ahead is this key word.
    pub(super) fn is_word(&self, ahead: usize, word: &str) -> bool {
        self.peek(ahead).keyword().is_some_and(|keyword| keyword == word)
    }

    /// Takes the next token if it is this key word.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(0, word);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a token that must follow, or reports that it is missing.
    pub(super) fn expect(&mut self, kind: &Kind, message: &str, instead: &str) -> bool {
        let found = self.take(kind);
        if !found {
            self.wrong_here(message, instead);
        }
        found
    }

    /// Whether a part of a command ends here.
    pub(super) fn at_end(&self) -> bool {
        matches!(self.kind(), Kind::Pipe | Kind::Close | Kind::End)
    }

    /// Skips to the next `|` or `)` or the end, across whole parentheses.
    pub(super) fn skip_command(&mut self) {
        while !self.at_end() {
            self.skip_token();
        }
    }

    /// Skips a token, or whole parentheses.
    pub(super) fn skip_token(&mut self) {
        if let (Kind::Open, Some(Some(Pair { close: Some(close), .. }))) = (self.kind(), self.pairs.get(self.at)) {
            // Jumps to the `)`, which the step below takes.
            self.at = *close;
        }
        self.advance();
    }

    /// Adds a diagnostic, unless the same token has one.
    pub(super) fn tell(&mut self, diagnostic: Diagnostic) {
        // A token that fits nowhere would be reported by each level that sees it.
        if self.given_up || self.told_at == Some(self.at) {
            return;
        }
        self.told_at = Some(self.at);
        self.diagnostics.push(diagnostic);
    }

    /// Adds a diagnostic; others may be about the same token.
    pub(super) fn warn(&mut self, diagnostic: Diagnostic) {
        if !self.given_up {
            self.diagnostics.push(diagnostic);
        }
    }

    /// Reports an error at the next token. The form of the command, function or filter that is being read is the
    /// suggestion.
    pub(super) fn error_here(&mut self, message: impl Into<String>) {
        self.wrong_here(message, self.usage);
    }

    /// Reports an error at the next token with a suggestion.
    pub(super) fn wrong_here(&mut self, message: impl Into<String>, instead: &str) {
        let place = self.here();
        self.tell(Diagnostic::error(place, message).suggest(instead));
    }

    /// Returns a part of the query's text with the end that it lacks.
    pub(super) fn completed(&self, span: Span, missing: char) -> String {
        completed(self.text_of(span), missing)
    }

    /// Returns the next token for a message.
    pub(super) fn shown(&self) -> String {
        match self.kind() {
            Kind::End => "the end of the query".to_owned(),
            _ => {
                let text = self.text_of(self.here());
                // Long texts would fill the message; the place is underlined anyway.
                let short: String = text.chars().take(40).collect();
                let dots = if short.len() < text.len() { "…" } else { "" };
                // The message goes to a terminal, and the query may come from a file.
                let safe = short.replace(char::is_control, "\u{fffd}");
                if matches!(self.kind(), Kind::Text(_) | Kind::Regex(_)) {
                    format!("{safe}{dots}")
                } else {
                    format!("'{safe}{dots}'")
                }
            }
        }
    }

    /// Returns the query's text at a place.
    pub(super) fn text_of(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// Enters a level of nesting; `false` if that is too deep.
    pub(super) fn enter(&mut self) -> bool {
        if self.depth >= DEPTH_MAX {
            self.give_up();
            return false;
        }
        self.depth += 1;
        true
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Sets the height of an expression from the height of its parts.
    pub(super) fn grow(&mut self, parts: usize) {
        self.height = parts + 1;
        if self.height > HEIGHT_MAX {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let place = self.here();
        // This error must be told even if the same token has one: it is the reason why nothing follows.
        self.told_at = None;
        let message =
            format!("this is nested too deeply: {DEPTH_MAX} levels are allowed, so split it with let or filter");
        self.tell(Diagnostic::error(place, message));
        self.given_up = true;
        // Nothing more is read, not even by loops that look at `tokens` directly.
        self.at = self.tokens.len().saturating_sub(1);
    }

    /// Reads a name of a column, a table or the like: a word, or a text in quotes.
    pub(super) fn name(&mut self, what: &str) -> Option<Name> {
        let span = self.here();
        let (text, literal) = match self.kind() {
            Kind::Word { text, escaped } => (text.clone(), *escaped),
            Kind::Text(text) => (text.clone(), true),
            _ => {
                let shown = self.shown();
                self.error_here(format!("{what} is expected here, not {shown}"));
                return None;
            }
        };
        // The empty name is taken all the same, so that reading goes on behind it.
        if text.is_empty() {
            self.error_here("a name cannot be empty");
        }
        self.advance();
        Some(Name { text: if literal { text } else { self.todays_name(text, span) }, span })
    }

    /// Returns today's name of a field of S1QL 1.0, with a warning.
    pub(super) fn todays_name(&mut self, name: String, span: Span) -> String {
        // A column that the query made is meant, not a field of old that happens to have its name.
        if self.own.contains(&name) {
            return name;
        }
        match old::field(&name) {
            None => name,
            Some(OldField::Now(now)) => {
                let of = if name.contains('.') { "is not recorded" } else { "is a name of S1QL 1.0" };
                let message = format!("'{name}' {of} and is understood as {now}");
                self.warn(Diagnostic::warning(span, message).suggest(now));
                now.to_owned()
            }
            Some(OldField::NotRecorded) => {
                let message =
                    format!("'{name}' is a field of S1QL 1.0 about which netconn records nothing: leave it out");
                self.warn(Diagnostic::error(span, message));
                name
            }
        }
    }

    /// Reads items separated by commas; stops at the first that cannot be read.
    pub(super) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Vec<T> {
        let mut items = Vec::new();
        while let Some(read) = item(self) {
            items.push(read);
            if !self.take(&Kind::Comma) {
                break;
            }
        }
        items
    }
}
