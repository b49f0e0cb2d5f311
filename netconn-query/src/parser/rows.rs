//! Reads commands that make columns of columns: `columns`, `let`, `group`, `sort`, `top`, `sequence`, `transpose`.

use super::{Parser, steps::unnamed};
use crate::{
    ast::{Column, CommandKind, Expr, ExprKind, Name, SortKey},
    diagnostic::Diagnostic,
    lexer::{self, Kind},
    walk::label,
};

impl Parser<'_> {
    pub(super) fn columns(&mut self) -> Vec<Column> {
        self.list(|parser| Some(parser.column()))
    }

    /// Reads the columns of `columns`. With `*` among them all columns stay, so what is left of the command adds columns.
    pub(super) fn columns_command(&mut self) -> Option<CommandKind> {
        let star = std::cell::Cell::new(None);
        let columns = self.list(|parser| {
            if *parser.kind() == Kind::Star && !parser.is_text_operator(1) {
                star.set(Some(parser.here()));
                parser.advance();
                return Some(None);
            }
            Some(Some(parser.column()))
        });
        let mut columns: Vec<Column> = columns.into_iter().flatten().collect();
        let Some(star) = star.get() else {
            self.labels = unnamed(&columns);
            return Some(CommandKind::Columns(columns));
        };
        let message = "columns with * keeps all columns: leave the command out, or add columns with let";
        self.warn(Diagnostic::warning(star, message));
        // A field alone is among the columns that stay. `let` needs a name for everything else.
        columns.retain(|column| column.name.is_some() || !matches!(column.expr.kind, ExprKind::Field(_)));
        self.labels = unnamed(&columns);
        for column in &mut columns {
            column.name.get_or_insert_with(|| Name { text: column.label.clone(), span: column.expr.span });
        }
        (!columns.is_empty()).then_some(CommandKind::Let(columns))
    }

    /// Reads `[name =] expression`.
    fn column(&mut self) -> Column {
        // Looks ahead: `name = value` is a column with a name here, but a comparison elsewhere.
        let named = !self.given_up && self.tokens.get(self.at..).is_some_and(lexer::names_column);
        let name = if named { self.own_name() } else { None };
        if named {
            self.advance();
        }
        // The place of the expression alone: without a name its text becomes the label.
        let start = self.here().start;
        let expr = self.expression();
        // `columns 'a b'` names a column; `x = 'a b'` is a text.
        let expr = if name.is_none() { quoted_column(expr) } else { expr };
        let span = self.span_from(start);
        let label = name.as_ref().map_or_else(|| label(&expr, self.text_of(span)), |name| name.text.clone());
        // A name in quotes too, which `own_name` has not noted.
        if name.is_some() {
            self.own.insert(label.clone());
        }
        Column { name, expr, label }
    }

    /// Reads a name that the query gives; it is never a name of S1QL 1.0.
    pub(super) fn own_name(&mut self) -> Option<Name> {
        if let Kind::Word { text, .. } = self.kind() {
            self.own.insert(text.clone());
        }
        self.name("a name")
    }

    pub(super) fn let_columns(&mut self) -> CommandKind {
        let columns = self.list(|parser| {
            let column = parser.column();
            if column.name.is_none() && !parser.given_up {
                // `let = 5` has its sign in the text already.
                let value = parser.text_of(column.expr.span).trim_start_matches(['=', ' ']);
                let instead = format!("name = {}", if value.is_empty() { "expression" } else { value });
                parser.warn(Diagnostic::error(column.expr.span, "let needs a name for each column").suggest(instead));
            }
            Some(column)
        });
        CommandKind::Let(columns)
    }

    pub(super) fn group(&mut self) -> CommandKind {
        // Within the aggregates a call is a new one; behind `by` it may be a column of the last group.
        let labels = std::mem::take(&mut self.labels);
        let aggregates = if self.is_word(0, "by") {
            self.wrong_here("group needs at least one column or key", "group count() by …");
            Vec::new()
        } else {
            self.columns()
        };
        self.labels = labels;
        let by = self.keys();
        self.set_labels(&aggregates, &by);
        CommandKind::Group { aggregates, by }
    }

    fn keys(&mut self) -> Vec<Column> {
        if self.take_word("by") { self.columns() } else { Vec::new() }
    }

    fn set_labels(&mut self, aggregates: &[Column], by: &[Column]) {
        self.labels = unnamed(aggregates);
        self.labels.extend(unnamed(by));
    }

    /// Reads `-key`, `+key`, `key`, and `key desc` of other languages.
    pub(super) fn sort_key(&mut self) -> SortKey {
        let descending = *self.kind() == Kind::Minus;
        if descending || *self.kind() == Kind::Plus {
            self.advance();
        }
        let expr = self.expression();
        let expr = quoted_column(expr);
        for (word, sign, meaning) in [("desc", "-", true), ("asc", "", false)] {
            if self.is_word(0, word) {
                let message = format!("'{word}' is understood, but it is written with a sign before the column");
                let suggestion = format!("sort {sign}{}", self.text_of(expr.span));
                self.warn(Diagnostic::warning(self.here(), message).suggest(suggestion));
                self.advance();
                // `-x desc` is turned round twice.
                return SortKey { expr, descending: meaning != descending };
            }
        }
        SortKey { expr, descending }
    }

    pub(super) fn top(&mut self) -> Option<CommandKind> {
        let count = self.whole_number("top")?;
        let labels = std::mem::take(&mut self.labels);
        let aggregates = if self.is_word(0, "by") { Vec::new() } else { self.columns() };
        self.labels = labels;
        // The keys are read all the same, so that their errors are reported too.
        if !self.is_word(0, "by") {
            self.wrong_here("top needs a key", "top 10 count() by field");
        }
        let by = self.keys();
        self.set_labels(&aggregates, &by);
        Some(CommandKind::Top { count, aggregates, by })
    }

    /// Reads `sequence [by key, …] within '5m' (filter), (filter), …`.
    pub(super) fn sequence(&mut self) -> Option<CommandKind> {
        let by = self.keys();
        let usage = "within '5m' (filter), (filter)";
        if !self.take_word("within") {
            let shown = self.shown();
            self.wrong_here(format!("within and a span of time are expected here, not {shown}"), usage);
            return None;
        }
        let within_span = self.here();
        let Kind::Text(within) = self.kind().clone() else {
            let shown = self.shown();
            self.wrong_here(format!("a span of time in quotes is expected behind within, not {shown}"), usage);
            return None;
        };
        self.advance();
        let steps = self.list(Self::sequence_step);
        self.labels = unnamed(&by);
        Some(CommandKind::Sequence { by, within, within_span, steps })
    }

    fn sequence_step(&mut self) -> Option<Expr> {
        let open = self.here();
        if !self.expect(&Kind::Open, "a filter in parentheses is expected here", "(event.type = 'IP Connect')") {
            return None;
        }
        let filter = self.condition();
        self.close(open);
        Some(filter)
    }

    pub(super) fn transpose(&mut self) -> Option<CommandKind> {
        let column = self.name("the column whose values become columns")?;
        let keys = if self.take_word("on") { self.names("a column") } else { Vec::new() };
        let mut totals = self.take_word("with_totals");
        let limit = if self.take_word("limit") { Some(self.whole_number("limit")?) } else { None };
        totals |= self.take_word("with_totals");
        // Behind it there are other columns.
        self.labels.clear();
        Some(CommandKind::Transpose { column, keys, totals, limit })
    }

    /// Reads names separated by commas.
    pub(super) fn names(&mut self, what: &str) -> Vec<Name> {
        self.list(|parser| parser.name(what))
    }
}

/// Takes a text where a column belongs as the name of the column.
fn quoted_column(expr: Expr) -> Expr {
    match expr.kind {
        ExprKind::Text(name) if !name.is_empty() => Expr { kind: ExprKind::Field(name), span: expr.span },
        kind => Expr { kind, span: expr.span },
    }
}
