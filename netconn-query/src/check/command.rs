//! Commands: what they need, and which columns are there behind them.

use std::collections::HashSet;

use super::{
    Checker, Place, literal,
    scope::{Scope, of_side},
};
use crate::{
    ast::{Column, Command, CommandKind, Expr, ExprKind, JoinKey, JoinSide, Name, Query, Span},
    diagnostic::Diagnostic,
    duration, pattern, printer,
};

impl Checker<'_> {
    /// A query from its filter on, a subquery too.
    pub(super) fn query(&mut self, query: &Query) -> Scope {
        let mut scope = Scope::events();
        if let Some(filter) = &query.filter {
            self.condition(filter, &scope, Place::FirstFilter);
        }
        for (place, command) in query.commands.iter().enumerate() {
            let is_source = place == 0 && query.filter.is_none();
            scope = self.command(command, scope, is_source);
        }
        scope
    }

    fn command(&mut self, command: &Command, mut scope: Scope, is_source: bool) -> Scope {
        match &command.kind {
            CommandKind::Filter(condition) => self.condition(condition, &scope, Place::Row),
            CommandKind::Columns(columns) => {
                self.columns(columns, &scope, Place::Row);
                return Scope::named(labels(columns));
            }
            CommandKind::Let(columns) => {
                for column in columns {
                    self.expression(&column.expr, &scope, Place::Row);
                    scope.add(column.label.clone());
                }
            }
            CommandKind::Group { aggregates, by } => {
                self.group(aggregates, by, &scope);
                return Scope::named(labels(by).chain(labels(aggregates)));
            }
            CommandKind::Sort(keys) => keys.iter().for_each(|key| self.expression(&key.expr, &scope, Place::Row)),
            CommandKind::Limit(_) | CommandKind::NoLimit | CommandKind::SaveLookup { table: _, merge: _ } => {}
            CommandKind::Parse { pattern, pattern_span, from } => {
                if let Some(from) = from {
                    self.expression(from, &scope, Place::Row);
                }
                self.pattern(pattern, *pattern_span, &mut scope);
            }
            CommandKind::Lookup { columns, table: _, by } => {
                by.iter().for_each(|key| self.expression(&key.expr, &scope, Place::Row));
                columns.iter().for_each(|column| scope.add(column.name.text.clone()));
            }
            CommandKind::Dataset(_) => {
                if !is_source {
                    let message = "dataset takes the rows of a table: what stands before it has no effect";
                    self.diagnostics.push(Diagnostic::warning(command.span, message));
                }
                return Scope::open();
            }
            CommandKind::Join { kind: _, all: _, sides, on } => {
                return self.join(command.span, sides, on, scope, is_source);
            }
            CommandKind::Union(queries) => {
                let mut all = if is_source { Scope::named([]) } else { scope };
                queries.iter().for_each(|query| all.merge(self.query(query)));
                return all;
            }
            CommandKind::Transpose { column, keys, limit: _ } => {
                self.name(column, &scope);
                keys.iter().for_each(|key| self.name(key, &scope));
                let mut rest = Scope::named(keys.iter().map(|key| key.text.clone()));
                rest.widen();
                return rest;
            }
            CommandKind::Top { count: _, aggregates, by } => {
                self.group(aggregates, by, &scope);
                let counted = if aggregates.is_empty() { Some("count".to_owned()) } else { None };
                return Scope::named(labels(by).chain(labels(aggregates)).chain(counted));
            }
            CommandKind::Compare { name: _, shift, shift_span } => {
                if duration::span(shift).is_none() && !shift.ends_with("queryspan") {
                    let message = format!("'{shift}' is no span of time: a number and a unit of s, m, h, d or w are");
                    self.diagnostics.push(Diagnostic::error(*shift_span, message).suggest("'-1w'"));
                }
                scope.widen();
            }
            CommandKind::Dedup(names) => names.iter().for_each(|name| self.name(name, &scope)),
        }
        scope
    }

    fn name(&mut self, name: &Name, scope: &Scope) {
        self.field(&name.text, name.span, scope);
    }

    fn columns(&mut self, columns: &[Column], scope: &Scope, place: Place) {
        columns.iter().for_each(|column| self.expression(&column.expr, scope, place));
        self.twice(columns.iter());
    }

    /// Two columns of one name cannot both be there.
    fn twice<'a>(&mut self, columns: impl Iterator<Item = &'a Column>) {
        let columns: Vec<&Column> = columns.collect();
        let mut labels: HashSet<String> = columns.iter().map(|column| column.label.clone()).collect();
        let mut seen = HashSet::new();
        for column in columns {
            if !seen.insert(column.label.as_str()) {
                let place = column.name.as_ref().map_or(column.expr.span, |name| name.span);
                let message = format!("there are two columns called '{}': give one another name", column.label);
                let mut numbered = (2..).map(|number| format!("{}_{number}", column.label));
                let other = numbered.find(|name| !labels.contains(name)).unwrap_or_default();
                let instead = format!("{} = {}", printer::name(&other), printer::expression(&column.expr));
                labels.insert(other);
                self.diagnostics.push(Diagnostic::error(place, message).suggest(instead));
            }
        }
    }

    fn group(&mut self, aggregates: &[Column], by: &[Column], scope: &Scope) {
        for column in aggregates {
            self.expression(&column.expr, scope, Place::Aggregates);
            if let Some(field) = outside_aggregates(&column.expr) {
                let message = "in a group a field has many values: make one of them, or group by it";
                let suggestion = format!("any({})", printer::expression(field));
                self.diagnostics.push(Diagnostic::error(field.span, message).suggest(suggestion));
            }
        }
        by.iter().for_each(|column| self.expression(&column.expr, scope, Place::Key));
        self.twice(by.iter().chain(aggregates));
    }

    fn pattern(&mut self, pattern: &str, span: Span, scope: &mut Scope) {
        // Patterns that cannot be read are no part of a query.
        for piece in pattern::pieces(pattern).unwrap_or_default() {
            if let pattern::Piece::Column { name, content } = piece {
                if let pattern::Content::Regex(regex) = content {
                    self.diagnostics
                        .extend(literal::regex_problem(&regex).map(|problem| Diagnostic::error(span, problem)));
                }
                scope.add(name);
            }
        }
    }

    fn join(&mut self, span: Span, sides: &[JoinSide], on: &[JoinKey], scope: Scope, is_source: bool) -> Scope {
        // Sides without an alias are called a, b, c, … by their places.
        let letter = |place: usize| char::from(b'a' + (place % 26) as u8).to_string();
        let mut scopes: Vec<(String, Scope)> = if is_source { Vec::new() } else { vec![(letter(0), scope)] };
        for side in sides {
            let alias = side.alias.as_ref().map_or_else(|| letter(scopes.len()), |alias| alias.text.clone());
            scopes.push((alias, self.query(&side.query)));
        }
        if scopes.len() < 2 {
            let message = "a join has two queries at least";
            self.diagnostics.push(Diagnostic::error(span, message).suggest("join (query), (query) on field"));
        }
        for key in on {
            let names = std::iter::once(&key.left).chain(&key.right);
            names.for_each(|name| self.join_name(name, &scopes, key.right.is_none()));
        }
        let keys: Vec<&str> = on.iter().filter(|key| key.right.is_none()).map(|key| key.left.text.as_str()).collect();
        Scope::joined(scopes, &keys)
    }

    /// A column of a side, `a.x`, or of all sides.
    fn join_name(&mut self, name: &Name, scopes: &[(String, Scope)], everywhere: bool) {
        let of_alias = scopes.iter().find_map(|(alias, scope)| Some((of_side(&name.text, alias)?, scope)));
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
        let is_known = if everywhere { lacking.count() == 0 } else { scopes.iter().any(|(_, scope)| has(scope)) };
        if !is_known {
            let message = format!(
                "'{}' is no column of {} of the join",
                name.text,
                if everywhere { "all sides" } else { "a side" }
            );
            let nearest =
                scopes.iter().find_map(|(_, scope)| scope.nearest(&name.text, self.fields)).map(ToOwned::to_owned);
            let nearest = nearest.filter(|nearest| *nearest != name.text);
            self.diagnostics.push(Diagnostic::error(name.span, message).suggest_any(nearest));
        }
    }
}

fn labels(columns: &[Column]) -> impl Iterator<Item = String> {
    columns.iter().map(|column| column.label.clone())
}

/// A field that is in no aggregate.
fn outside_aggregates(expr: &Expr) -> Option<&Expr> {
    match &expr.kind {
        ExprKind::Field(_) => Some(expr),
        ExprKind::Call { name, arguments, .. } if super::call::is_aggregate(name, arguments.len()) => None,
        _ => expr.children().into_iter().find_map(outside_aggregates),
    }
}
