//! Reads commands that bring other rows (tables, joins, unions, other times) and `parse`.

use super::Parser;
use crate::{
    ast::{CommandKind, ExprKind, JoinKey, JoinKind, JoinSide, LookupColumn, LookupKey, LookupMatch, Name, Query},
    diagnostic::{Diagnostic, nearest},
    lexer::Kind,
    pattern,
};

impl Parser<'_> {
    /// Reads `"pattern" [from field]`.
    pub(super) fn parse_command(&mut self) -> Option<CommandKind> {
        let pattern_span = self.here();
        let Kind::Text(pattern) = self.kind().clone() else {
            self.wrong_here("parse is followed by a pattern in quotes", "parse \"port $port$\" from field");
            return None;
        };
        self.advance();
        match pattern::pieces(&pattern) {
            Ok(pieces) => self.own.extend(pattern::columns(&pieces).map(ToOwned::to_owned)),
            // `warn` and not `tell`: the token is taken already, and the next one may have an error of its own.
            Err(error) => self.warn(Diagnostic::error(pattern_span, error.to_string()).suggest(self.usage)),
        }
        let from = if self.take_word("from") { Some(self.expression()) } else { None };
        Some(CommandKind::Parse { pattern, pattern_span, from })
    }

    /// Reads `column, name = column from table by key = expression`.
    pub(super) fn lookup(&mut self) -> Option<CommandKind> {
        let columns = self.list(|parser| {
            // Only a name in front of `=` is a column of the query; a name alone is one of the table.
            let first = if parser.peek(1).kind == Kind::Equal { parser.own_name()? } else { parser.table_column()? };
            let source = if parser.take(&Kind::Equal) { parser.table_column()? } else { first.clone() };
            parser.own.insert(first.text.clone());
            Some(LookupColumn { name: first, source })
        });
        if !self.take_word("from") {
            self.wrong_here("the table is missing", "lookup column from table by key");
            return None;
        }
        let table = self.table_column()?;
        if !self.take_word("by") {
            self.wrong_here("the columns to compare are missing", "lookup column from table by key = field");
            return None;
        }
        let by = self.list(Self::lookup_key);
        Some(CommandKind::Lookup { columns, table, by })
    }

    /// Reads the name of a table or of a column of one; it is never a name of S1QL 1.0.
    fn table_column(&mut self) -> Option<Name> {
        let remarks = self.diagnostics.len();
        let span = self.here();
        let name = self.name("a name")?;
        // `name` warns about names of S1QL 1.0 and replaces them; a table may have a column with such a name.
        self.diagnostics.truncate(remarks);
        // The token itself has the name as it was written.
        let text = match self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map(|token| &token.kind) {
            Some(Kind::Word { text, .. } | Kind::Text(text)) => text.clone(),
            _ => name.text,
        };
        if text.is_empty() {
            self.tell(Diagnostic::error(span, "a name cannot be empty").suggest("name"));
        }
        Some(Name { text, span })
    }

    fn lookup_key(&mut self) -> Option<LookupKey> {
        // The operator stands behind the column, so it is looked at before the column is taken.
        let how = match &self.peek(1).kind {
            Kind::Equal | Kind::EqualEqual => Some(LookupMatch::Equal),
            Kind::EqualWith(suffix) => match suffix.as_str() {
                "matchcase" => Some(LookupMatch::Equal),
                "anycase" => Some(LookupMatch::AnyCase),
                "wildcard" => Some(LookupMatch::Wildcard),
                "cidr" => Some(LookupMatch::Cidr),
                "anyof" => Some(LookupMatch::AnyOf),
                other => {
                    let instead = nearest(other, ["anycase", "anyof", "wildcard", "cidr"]).unwrap_or("anycase");
                    let instead = format!("=:{instead}");
                    let message = format!(
                        "'=:{other}' is not a comparison of lookup: use =, =:anycase, =:anyof, =:wildcard or =:cidr"
                    );
                    let place = self.peek(1).span;
                    self.tell(Diagnostic::error(place, message).suggest(instead));
                    Some(LookupMatch::Equal)
                }
            },
            _ => None,
        };
        let Some(how) = how else {
            // A key alone is compared with the field of its name.
            let expr = self.expression();
            let ExprKind::Field(text) = &expr.kind else {
                let message = "the column of the table is expected first";
                self.tell(Diagnostic::error(expr.span, message).suggest("by key = expression"));
                return None;
            };
            let column = Name { text: text.clone(), span: expr.span };
            return Some(LookupKey { column, how: LookupMatch::Equal, expr });
        };
        // Then the operator itself, which is known already.
        let column = self.table_column()?;
        self.advance();
        let expr = self.expression();
        Some(LookupKey { column, how, expr })
    }

    /// Reads `'name'[, 'merge']`.
    pub(super) fn save_lookup(&mut self) -> Option<CommandKind> {
        let table = self.table_column()?;
        let merge = self.take(&Kind::Comma);
        if merge {
            let option = self.name("'merge'")?;
            if option.text != "merge" {
                let message = format!("'{}' is not an option of savelookup: the only one is 'merge'", option.text);
                self.warn(Diagnostic::error(option.span, message).suggest("'merge'"));
            }
        }
        Some(CommandKind::SaveLookup { table, merge })
    }

    /// Reads `[sql] [inner|left|outer] join side, side [on key, key]`.
    pub(super) fn join(&mut self) -> Option<CommandKind> {
        let all = self.take_word("sql");
        let kind = if self.take_word("left") {
            JoinKind::Left
        } else if self.take_word("outer") {
            JoinKind::Outer
        } else {
            // Optional, because it is the default.
            self.take_word("inner");
            JoinKind::Inner
        };
        if !self.take_word("join") {
            let shown = self.shown();
            self.wrong_here(format!("join is expected here, not {shown}"), "join (query), (query) on field");
            return None;
        }
        let sides = self.list(Self::side);
        // Aliases are known only now: within the queries of the sides they mean nothing.
        self.own.extend(sides.iter().filter_map(|side| Some(side.alias.as_ref()?.text.clone())));
        let on = if self.take_word("on") { self.list(Self::join_key) } else { Vec::new() };
        Some(CommandKind::Join { kind, all, sides, on })
    }

    fn side(&mut self) -> Option<JoinSide> {
        let named = matches!(self.kind(), Kind::Word { .. }) && self.peek(1).kind == Kind::Equal;
        let alias = if named { self.own_name() } else { None };
        if named {
            self.advance();
        }
        Some(JoinSide { alias, query: self.parenthesised_query()? })
    }

    fn parenthesised_query(&mut self) -> Option<Query> {
        let open = self.here();
        if !self.expect(&Kind::Open, "a query in parentheses is expected here", "(event.type = 'IP Connect' | …)") {
            return None;
        }
        let query = self.subquery();
        self.close(open);
        Some(query)
    }

    fn join_key(&mut self) -> Option<JoinKey> {
        let left = self.name("a column")?;
        let right =
            if self.take(&Kind::Equal) || self.take(&Kind::EqualEqual) { Some(self.name("a column")?) } else { None };
        Some(JoinKey { left, right })
    }

    /// Reads `(query), (query)`.
    pub(super) fn queries(&mut self) -> Vec<Query> {
        self.list(Self::parenthesised_query)
    }

    /// Reads `[name =] timeshift('-1w')`.
    pub(super) fn compare(&mut self) -> Option<CommandKind> {
        let named = self.peek(1).kind == Kind::Equal;
        let name = if named { self.own_name() } else { None };
        if named {
            self.advance();
        }
        if !self.take_word("timeshift") {
            self.error_here("timeshift is expected here");
            return None;
        }
        let open = self.here();
        self.expect(&Kind::Open, "a span of time in parentheses is expected behind timeshift", "timeshift('-1w')");
        let shift_span = self.here();
        let shift = self.shift()?;
        if shift.is_empty() {
            // Without a span the column has no name either.
            self.tell(Diagnostic::error(shift_span, "a span of time cannot be empty").suggest("'-1w'"));
        }
        self.close(open);
        // Without a name the column is called by its shift: `-1w`.
        let name = name.unwrap_or_else(|| Name { text: shift.clone(), span: shift_span });
        Some(CommandKind::Compare { name, shift, shift_span })
    }

    /// Reads a span of time: a text, or `queryspan()` with a sign.
    fn shift(&mut self) -> Option<String> {
        let sign = match self.kind() {
            Kind::Minus => "-",
            Kind::Plus => "+",
            Kind::Text(text) => {
                let text = text.clone();
                self.advance();
                return Some(text);
            }
            _ => "",
        };
        if !sign.is_empty() {
            self.advance();
        }
        if !self.take_word("queryspan") {
            self.wrong_here("a span of time in quotes or -queryspan() is expected here", "'-1w'");
            return None;
        }
        let open = self.here();
        self.expect(&Kind::Open, "() is expected behind queryspan", "-queryspan()");
        self.close(open);
        Some(format!("{sign}queryspan"))
    }
}
