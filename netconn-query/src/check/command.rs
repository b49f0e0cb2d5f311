//! Checks commands and follows the columns from one to the next.

use std::collections::{HashMap, HashSet};

use netconn_model::field::Field;

use super::{
    Checker, Place, literal, moment,
    scope::{Scope, of_side},
};
use crate::{
    ast::{Column, Command, CommandKind, Expr, ExprKind, JoinKey, JoinSide, Name, Query, Span},
    catalogue::{self, RunningId},
    diagnostic::Diagnostic,
    duration,
    facts::{ColumnsAfter, MadeColumn, Role},
    pattern::{self, Content, Piece},
    printer,
};

/// Fewest and most filters of a sequence.
const SEQUENCE_STEPS: std::ops::RangeInclusive<usize> = 2..=8;

impl Checker<'_> {
    /// Checks a query or a subquery.
    pub(super) fn query(&mut self, query: &Query) -> Scope {
        let mut scope = Scope::events();
        // A query that gives a set of values has rows of its own.
        let around = (std::mem::take(&mut self.over_rows), std::mem::take(&mut self.reduces));
        if let Some(filter) = &query.filter {
            self.condition(filter, &scope, Place::FirstFilter);
        }
        for (place, command) in query.commands.iter().enumerate() {
            // Only at the very beginning are there no rows that `join`, `union` or `dataset` would take or drop.
            let is_source = place == 0 && query.filter.is_none();
            scope = self.command(command, scope, is_source);
        }
        (self.over_rows, self.reduces) = around;
        scope
    }

    fn command(&mut self, command: &Command, mut scope: Scope, is_source: bool) -> Scope {
        // Commands whose columns depend on each other or on queries are handled first; all others by their facts.
        let facts = command.kind.facts();
        match &command.kind {
            // Each column may use those before it.
            CommandKind::Let(columns) => {
                for column in columns {
                    self.expression(&column.expr, &scope, Place::Row);
                    let is_moment = moment::is_moment(&column.expr, &scope);
                    scope.add_made(column.label.clone(), is_moment);
                }
                return scope;
            }
            CommandKind::Join { kind: _, all: _, sides, on } => {
                return self.join(command.span, sides, on, scope, is_source);
            }
            CommandKind::Union(queries) => {
                // At the beginning the events themselves are no side of the union.
                let mut all = if is_source { Scope::named([]) } else { scope };
                queries.iter().for_each(|query| all.merge(self.query(query)));
                return all;
            }
            _ => {}
        }
        if let CommandKind::Filter(_) | CommandKind::Sort(_) | CommandKind::Sequence { .. } = command.kind {
            facts.expressions.iter().for_each(|(_, expr)| self.makes_rows(expr));
        }
        for (role, expr) in facts.expressions {
            match role {
                Role::Condition => self.condition(expr, &scope, Place::Row),
                Role::Row => self.expression(expr, &scope, Place::Row),
                Role::Aggregate => self.expression(expr, &scope, Place::Aggregates),
                Role::Key => self.expression(expr, &scope, Place::Key),
            }
        }
        // Names are checked before the scope changes: a command reads the columns in front of it.
        facts.reads.into_iter().for_each(|name| self.field(&name.text, name.span, &scope));
        match &command.kind {
            // `let` may replace its own columns, so only these commands are checked for names that occur twice.
            CommandKind::Columns(columns) => self.same_names(columns.iter()),
            CommandKind::Group { aggregates, by } | CommandKind::Top { count: _, aggregates, by } => {
                self.same_names(by.iter().chain(aggregates));
                aggregates.iter().for_each(|column| self.fields_of_groups(&column.expr));
            }
            CommandKind::Parse { pattern, pattern_span, from: _ } => self.pattern(pattern, *pattern_span),
            CommandKind::Dataset(_) if !is_source => {
                let message = "dataset takes the rows of a table: what stands before it has no effect";
                self.diagnostics.push(Diagnostic::warning(command.span, message));
            }
            CommandKind::Compare { name: _, shift, shift_span } => self.shift(shift, *shift_span),
            CommandKind::Sequence { by, within, within_span, steps } => {
                self.same_names(by.iter());
                self.within(within, *within_span);
                self.steps(steps.len(), command.span, &scope);
            }
            _ => {}
        }
        match facts.columns {
            ColumnsAfter::Kept | ColumnsAfter::OfQueries => {}
            ColumnsAfter::Added(columns) => {
                columns.into_iter().for_each(|column| scope.add_made(column.name.into_owned(), false));
            }
            ColumnsAfter::Only(columns) | ColumnsAfter::Grouped(columns) => {
                let before = std::mem::replace(&mut scope, Scope::named([]));
                for column in columns {
                    let is_moment = column.expr.is_some_and(|expr| moment::is_moment(expr, &before));
                    scope.add_made(column.name.into_owned(), is_moment);
                }
            }
            ColumnsAfter::Partly(names) => {
                scope = Scope::named(names.into_iter().map(|name| name.text.clone()));
                // From here on an unknown name may be a column of the data, so nothing is reported about it.
                scope.widen();
            }
            ColumnsAfter::Compared(_) => scope.widen(),
            ColumnsAfter::Sequence(keys) => {
                let is_moment = |key: &MadeColumn<'_>| key.expr.is_some_and(|expr| moment::is_moment(expr, &scope));
                let keys = keys.into_iter().map(|key| (key.name.to_string(), is_moment(&key))).collect();
                scope = scope.sequence(keys, self.fields);
            }
        }
        scope
    }

    /// Reports columns that have the name of an earlier one of the same command.
    fn same_names<'a>(&mut self, columns: impl Iterator<Item = &'a Column>) {
        let columns: Vec<&Column> = columns.collect();
        // All names are collected first: the suggested one must not be that of a later column.
        let mut labels: HashSet<String> = columns.iter().map(|column| column.label.clone()).collect();
        let mut seen: HashMap<&str, String> = HashMap::new();
        for column in columns {
            let value = printer::expression(&column.expr);
            if let Some(before) = seen.get(column.label.as_str()) {
                let place = column.name.as_ref().map_or(column.expr.span, |name| name.span);
                if *before == value {
                    let message = format!("the column '{}' is there already, and is shown once", column.label);
                    self.diagnostics.push(Diagnostic::warning(place, message));
                    continue;
                }
                let message = format!("there are two columns called '{}': give one another name", column.label);
                // The numbers never end, so a free name is always found.
                let mut numbered = (2..).map(|number| format!("{}_{number}", column.label));
                let other = numbered.find(|name| !labels.contains(name)).unwrap_or_default();
                let instead = format!("{} = {value}", printer::name(&other));
                labels.insert(other);
                self.diagnostics.push(Diagnostic::error(place, message).suggest(instead));
            } else {
                seen.insert(&column.label, value);
            }
        }
    }

    /// Reports `expand` in a command that neither makes nor changes columns.
    fn makes_rows(&mut self, expr: &Expr) {
        let is_expand = |kind: &ExprKind| matches!(kind, ExprKind::Call { name, .. } if RunningId::by_name(name) == Some(RunningId::Expand));
        if expr.has(is_expand) {
            let message = "expand makes rows, so it can only stand in let or columns: use its column here";
            self.diagnostics.push(Diagnostic::error(expr.span, message).suggest("| let x = array.expand()"));
        }
    }

    /// Reports a field of a group that is in no aggregate.
    fn fields_of_groups(&mut self, aggregate: &Expr) {
        if let Some(field) = outside_aggregates(aggregate) {
            if let ExprKind::Field(name) = &field.kind
                && let Some(function) = catalogue::functions(name).next()
            {
                let message = format!("{name} is a function here: it needs parentheses");
                let call = if function.least == 0 { format!("{name}()") } else { function.usage.to_owned() };
                self.diagnostics.retain(|said| said.span != field.span);
                self.diagnostics.push(Diagnostic::error(field.span, message).suggest(call));
                return;
            }
            let message = "in a group a field has many values: make one of them, or group by it";
            let suggestion = format!("any({})", printer::expression(field));
            self.diagnostics.push(Diagnostic::error(field.span, message).suggest(suggestion));
        }
    }

    /// Reports regular expressions of a `parse` pattern that cannot be compiled.
    fn pattern(&mut self, pattern: &str, span: Span) {
        // The parser has reported a pattern that cannot be read.
        for piece in pattern::pieces(pattern).unwrap_or_default() {
            if let Piece::Column { name: _, content: Content::Regex(regex) } = piece {
                self.diagnostics.extend(literal::regex_problem(&regex).map(|problem| Diagnostic::error(span, problem)));
            }
        }
    }

    fn shift(&mut self, shift: &str, span: Span) {
        let length = duration::span(shift);
        if length.is_none() && !shift.ends_with("queryspan") {
            let message = format!("'{shift}' is not a span of time: write a number and a unit, s, m, h, d or w");
            self.diagnostics.push(Diagnostic::error(span, message).suggest("'-1w'"));
        } else if length.is_some_and(|nanos| nanos % 1_000_000 != 0 || nanos == 0) {
            // Searched times are in milliseconds.
            let message = format!("'{shift}' is no shift: a shift is a number of milliseconds, and not 0");
            self.diagnostics.push(Diagnostic::error(span, message).suggest("'-1w'"));
        }
    }

    /// Reports a span of time that no sequence can be within.
    fn within(&mut self, within: &str, span: Span) {
        if duration::span(within).is_none_or(|nanos| nanos <= 0 || nanos % 1_000_000 != 0) {
            let message = format!("'{within}' is no length of time: write a number and a unit, ms, s, m, h, d or w");
            self.diagnostics.push(Diagnostic::error(span, message).suggest("within '5m'"));
        }
    }

    /// Reports too few or too many steps of a sequence, and rows without a time.
    fn steps(&mut self, count: usize, span: Span, scope: &Scope) {
        let usage = "sequence by src.process.uid within '5m' (filter), (filter)";
        if !SEQUENCE_STEPS.contains(&count) {
            let (least, most) = (SEQUENCE_STEPS.start(), SEQUENCE_STEPS.end());
            let message = format!("sequence takes {least} to {most} filters, not {count}");
            self.diagnostics.push(Diagnostic::error(span, message).suggest(usage));
        }
        let time = Field::EventTime.info().name;
        if !scope.contains(time, self.fields) {
            let message =
                format!("sequence goes by {time}, which these rows do not have: put it before columns or group");
            self.diagnostics.push(Diagnostic::error(span, message));
        }
    }

    fn join(&mut self, span: Span, sides: &[JoinSide], on: &[JoinKey], scope: Scope, is_source: bool) -> Scope {
        let mut scopes: Vec<(String, Scope)> = if is_source { Vec::new() } else { vec![(JoinSide::letters(0), scope)] };
        for side in sides {
            let alias = side.alias.as_ref().map_or_else(|| JoinSide::letters(scopes.len()), |alias| alias.text.clone());
            scopes.push((alias, self.query(&side.query)));
        }
        if scopes.len() < 2 {
            let message = "join needs at least two queries";
            self.diagnostics.push(Diagnostic::error(span, message).suggest("join (query), (query) on field"));
        }
        for key in on {
            let names = std::iter::once(&key.left).chain(&key.right);
            names.for_each(|name| self.join_name(name, &scopes, key.right.is_none()));
        }
        let keys: Vec<&str> = on.iter().filter(|key| key.right.is_none()).map(|key| key.left.text.as_str()).collect();
        Scope::joined(scopes, &keys)
    }

    /// Checks a column of one side, `a.x`, or of all sides.
    fn join_name(&mut self, name: &Name, scopes: &[(String, Scope)], everywhere: bool) {
        let of_alias = scopes.iter().find_map(|(alias, scope)| Some((of_side(&name.text, alias)?, scope)));
        // A name with an alias is checked against its own side only.
        if let Some((column, scope)) = of_alias {
            if !scope.contains(column, self.fields) {
                let message = format!("there is no column '{column}' in that query of the join");
                let nearest = scope.nearest(column, self.fields).map(|nearest| {
                    format!("{}.{}", name.text.strip_suffix(column).unwrap_or_default().trim_end_matches('.'), nearest)
                });
                self.diagnostics.push(Diagnostic::error(name.span, message).suggest_any(nearest));
            }
            return;
        }
        let has = |scope: &Scope| scope.contains(&name.text, self.fields);
        let lacking = scopes.iter().filter(|(_, scope)| !has(scope)).map(|(_, scope)| scope);
        // `on k` needs the column on all sides, `on x = y` each on one of them.
        let is_known = if everywhere { lacking.count() == 0 } else { scopes.iter().any(|(_, scope)| has(scope)) };
        if !is_known {
            let message = format!(
                "'{}' is not a column of {} of the join",
                name.text,
                if everywhere { "all sides" } else { "a side" }
            );
            let nearest =
                scopes.iter().find_map(|(_, scope)| scope.nearest(&name.text, self.fields)).map(ToOwned::to_owned);
            // A suggestion that repeats what was written helps nobody: the column is on another side.
            let nearest = nearest.filter(|nearest| *nearest != name.text);
            self.diagnostics.push(Diagnostic::error(name.span, message).suggest_any(nearest));
        }
    }
}

/// Returns the first field that is in no aggregate.
fn outside_aggregates(expr: &Expr) -> Option<&Expr> {
    match &expr.kind {
        ExprKind::Field(_) => Some(expr),
        ExprKind::Call { name, arguments, .. } if catalogue::aggregate(name, arguments.len()).is_some() => None,
        _ => expr.children().into_iter().find_map(outside_aggregates),
    }
}
