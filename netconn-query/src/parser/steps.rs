//! Reads a whole query: the filter, then one command after another.

use std::collections::HashSet;

use super::Parser;
use crate::{
    ast::{Column, Command, CommandKind, Query, Span},
    catalogue,
    diagnostic::Diagnostic,
    keyword::{self, KeywordUse},
    lexer::Kind,
};

/// Form of a filter, for suggestions.
pub(super) const FILTER: &str = "field = 'value'";

impl Parser<'_> {
    /// Reads a query up to the end, or up to the `)` of a subquery.
    pub(super) fn query(&mut self) -> Query {
        let start = self.here().start;
        // A subquery begins with a filter, whatever command it stands in.
        let usage = std::mem::replace(&mut self.usage, FILTER);
        let mut query = Query { filter: None, commands: Vec::new(), span: Span::default() };
        if self.begins_command(0) {
            query.commands.extend(self.command());
            self.finish();
        } else if *self.kind() == Kind::Star && matches!(self.peek(1).kind, Kind::Pipe | Kind::Close | Kind::End) {
            let message = "* alone means all events, as an empty filter does";
            self.warn(Diagnostic::warning(self.here(), message));
            self.advance();
        } else if !self.at_end() {
            query.filter = Some(self.condition());
            self.finish();
        }
        // Ends at the `)` of a subquery or at the end: `finish` has skipped all else.
        while self.take(&Kind::Pipe) {
            query.commands.extend(self.command());
            self.finish();
        }
        query.span = self.span_from(start);
        self.usage = usage;
        query
    }

    /// Reads a subquery behind its `(`. Names that the outer query has given are unknown in it.
    pub(super) fn subquery(&mut self) -> Query {
        if !self.enter() {
            return Query { filter: None, commands: Vec::new(), span: Span::default() };
        }
        // What the subquery names is known behind it too, because joins pass columns on.
        let own = std::mem::take(&mut self.own);
        let labels = std::mem::take(&mut self.labels);
        // The filter of the subquery allows terms itself; its commands do not.
        let terms = std::mem::replace(&mut self.terms, false);
        let query = self.query();
        let inner: HashSet<String> = std::mem::replace(&mut self.own, own);
        self.own.extend(inner);
        self.labels = labels;
        self.terms = terms;
        self.leave();
        query
    }

    /// Continues behind a command or a filter, at a `|` or the end.
    fn finish(&mut self) {
        if !self.at_end() {
            let shown = self.shown();
            let expected = if *self.kind() == Kind::Comma { "an operator or |" } else { "an operator, a comma or |" };
            self.error_here(format!("{shown} is not expected here: {expected} is"));
            self.skip_command();
        }
    }

    /// Whether a command begins at the token ahead, where a filter could begin too.
    pub(super) fn begins_command(&self, ahead: usize) -> bool {
        // Names of commands may be fields too, so what follows decides: `limit = 5` is a condition.
        let Some(word) = self.peek(ahead).keyword() else { return false };
        let next = &self.peek(ahead + 1).kind;
        let is_end = matches!(next, Kind::Pipe | Kind::Close | Kind::End);
        match word.as_str() {
            "limit" => is_end || matches!(next, Kind::Number(_)),
            "nolimit" => is_end,
            "dedup" => is_end || matches!(next, Kind::Word { .. } | Kind::Text(_)),
            "top" => matches!(next, Kind::Number(_)),
            "sequence" => self.is_word(ahead + 1, "by") || self.is_word(ahead + 1, "within"),
            "parse" | "savelookup" => matches!(next, Kind::Text(_)),
            "dataset" => matches!(next, Kind::Text(_) | Kind::Word { .. }),
            "join" | "union" => {
                *next == Kind::Open || (matches!(next, Kind::Word { .. }) && self.peek(ahead + 2).kind == Kind::Equal)
            }
            "inner" | "left" | "outer" => self.is_word(ahead + 1, "join"),
            "sql" => ["inner", "left", "outer", "join"].iter().any(|word| self.is_word(ahead + 1, word)),
            "filter" => self.begins_value(ahead + 1),
            "compare" => matches!(next, Kind::Word { .. } | Kind::Text(_)),
            "sort" => self.begins_value(ahead + 1) || matches!(next, Kind::Plus | Kind::Minus),
            "columns" => self.begins_value(ahead + 1) || *next == Kind::Star,
            "let" | "group" | "lookup" | "transpose" => self.begins_value(ahead + 1),
            _ => false,
        }
    }

    /// Whether the token ahead begins a value and is no operator.
    fn begins_value(&self, ahead: usize) -> bool {
        let token = self.peek(ahead);
        match &token.kind {
            Kind::Text(_)
            | Kind::Regex(_)
            | Kind::Number(_)
            | Kind::Whole(_)
            | Kind::Shortcut(_)
            | Kind::Open
            | Kind::Not => true,
            Kind::Star => self.is_text_operator(ahead + 1),
            Kind::Word { .. } => token.keyword().is_none_or(|word| {
                let goes_on = keyword::by_name(&word).is_some_and(|keyword| {
                    matches!(keyword.r#use, KeywordUse::Conjunction | KeywordUse::OldComparison)
                });
                let is_denied = word == "not" && self.is_text_operator(ahead + 1);
                let is_glued = keyword::behind_not(&word).is_some();
                !(goes_on || is_denied || is_glued || keyword::is_operator(&word))
            }),
            _ => false,
        }
    }

    /// Reads one command, without the `|`.
    fn command(&mut self) -> Option<Command> {
        let start = self.here();
        // Each command may have an error, even if the one before ended at this token with one.
        self.told_at = None;
        let Some(word) = self.peek(0).keyword() else {
            self.no_command();
            return None;
        };
        // A join may begin with its kind, which `join` reads itself.
        let join = matches!(word.as_str(), "inner" | "left" | "outer" | "sql" | "join");
        let Some(known) = catalogue::command(if join { "join" } else { &word }) else {
            self.no_command();
            return None;
        };
        self.usage = known.usage;
        if !join {
            self.advance();
        }
        let kind = match word.as_str() {
            "filter" => {
                let condition = self.condition();
                Some(CommandKind::Filter(condition))
            }
            "columns" => self.columns_command(),
            "let" => Some(self.let_columns()),
            "group" => Some(self.group()),
            "sort" => Some(CommandKind::Sort(self.list(|parser| Some(parser.sort_key())))),
            "limit" => Some(CommandKind::Limit(if self.at_end() { 10 } else { self.whole_number("limit")? })),
            "nolimit" => Some(CommandKind::NoLimit),
            "top" => self.top(),
            "sequence" => self.sequence(),
            "transpose" => self.transpose(),
            "dedup" => Some(CommandKind::Dedup(if self.at_end() { Vec::new() } else { self.names("a column") })),
            "parse" => self.parse_command(),
            "lookup" => self.lookup(),
            "dataset" => Some(CommandKind::Dataset(self.name("the name of a table")?)),
            "savelookup" => self.save_lookup(),
            "union" => Some(CommandKind::Union(self.queries())),
            "compare" => self.compare(),
            "inner" | "left" | "outer" | "sql" | "join" => self.join(),
            // A command of the catalogue that is not read here.
            _ => {
                self.no_command();
                return None;
            }
        };
        kind.map(|kind| Command { kind, span: self.span_from(start.start) })
    }

    /// Reports that no command stands here.
    fn no_command(&mut self) {
        let span = self.here();
        let shown = self.shown();
        let word = self.peek(0).keyword();
        let instead = word.as_deref().and_then(catalogue::command_instead);
        let next = &self.peek(1).kind;
        // What looks like a condition was meant as one: `filter` is missing.
        let is_term = word.is_none() || matches!(next, Kind::Equal | Kind::NotEqual | Kind::Less | Kind::Greater);
        let diagnostic = if self.at_end() {
            Diagnostic::error(span, format!("a command is expected after the |, not {shown}")).suggest("limit 10")
        } else if let Some(instead) = instead {
            Diagnostic::error(span, format!("there is no command {shown}")).suggest(instead)
        } else if is_term && !self.at_end() {
            let rest = self.text.get(span.start..).unwrap_or_default();
            let term = rest.split(['|', '\n']).next().unwrap_or_default().trim_end();
            let message = format!("a command is expected after the |, not {shown}");
            Diagnostic::error(span, message).suggest(format!("filter {term}"))
        } else {
            let names: Vec<_> = catalogue::COMMANDS.iter().map(|command| command.name).collect();
            Diagnostic::error(span, format!("there is no command {shown}: there are {}", names.join(", ")))
        };
        self.tell(diagnostic);
        // Reading goes on at the next `|`, so that errors behind it are reported too.
        self.skip_command();
    }

    /// Reads a whole number of rows.
    pub(super) fn whole_number(&mut self, command: &str) -> Option<u64> {
        let Kind::Number(number) = *self.kind() else {
            let shown = self.shown();
            self.error_here(format!("{command} is followed by a number of rows, not by {shown}"));
            return None;
        };
        // 64-bit floats represent all whole numbers up to this one.
        if number.fract() != 0.0 || number > 9_007_199_254_740_992.0 {
            self.error_here("a number of rows is a whole number, up to 9007199254740992");
        }
        self.advance();
        Some(number as u64)
    }
}

/// Names the columns without a name after their expressions.
pub(super) fn unnamed(columns: &[Column]) -> Vec<String> {
    columns.iter().filter(|column| column.name.is_none()).map(|column| column.label.clone()).collect()
}
