//! Going through a tree: the expressions right below another, comparison without places, and names that follow from expressions.

use crate::ast::{BinaryOp, Column, Command, CommandKind, Expr, ExprKind, Name, Query, Span, Subject};

impl Expr {
    /// The expressions right below this one, in the order of the text. Those of a subquery are not among them.
    pub fn children(&self) -> Vec<&Self> {
        match &self.kind {
            ExprKind::Null
            | ExprKind::Bool(_)
            | ExprKind::Number(_)
            | ExprKind::Text(_)
            | ExprKind::Field(_)
            | ExprKind::Anywhere(_)
            | ExprKind::AnywhereRegex(_) => Vec::new(),
            ExprKind::Not(inner) | ExprKind::Negative(inner) | ExprKind::Present(inner) => vec![inner],
            ExprKind::Binary { op: _, left, right } => vec![left, right],
            ExprKind::Match { op: _, case: _, subject, patterns } => {
                let subject = match subject {
                    Subject::Value(value) => Some(value.as_ref()),
                    Subject::AnyField => None,
                };
                subject.into_iter().chain(patterns).collect()
            }
            ExprKind::In { case: _, value, set } => std::iter::once(value.as_ref()).chain(set).collect(),
            ExprKind::InQuery { case: _, value, query: _ } => vec![value],
            ExprKind::Ternary { condition, then, otherwise } => vec![condition, then, otherwise],
            ExprKind::Call { name: _, name_span: _, arguments, condition } => {
                arguments.iter().chain(condition.as_deref()).collect()
            }
            ExprKind::Lambda { parameter: _, body } => vec![body],
        }
    }

    /// The same, to be changed.
    pub fn children_mut(&mut self) -> Vec<&mut Self> {
        match &mut self.kind {
            ExprKind::Null
            | ExprKind::Bool(_)
            | ExprKind::Number(_)
            | ExprKind::Text(_)
            | ExprKind::Field(_)
            | ExprKind::Anywhere(_)
            | ExprKind::AnywhereRegex(_) => Vec::new(),
            ExprKind::Not(inner) | ExprKind::Negative(inner) | ExprKind::Present(inner) => vec![inner],
            ExprKind::Binary { op: _, left, right } => vec![left, right],
            ExprKind::Match { op: _, case: _, subject, patterns } => {
                let subject = match subject {
                    Subject::Value(value) => Some(value.as_mut()),
                    Subject::AnyField => None,
                };
                subject.into_iter().chain(patterns).collect()
            }
            ExprKind::In { case: _, value, set } => std::iter::once(value.as_mut()).chain(set).collect(),
            ExprKind::InQuery { case: _, value, query: _ } => vec![value],
            ExprKind::Ternary { condition, then, otherwise } => vec![condition, then, otherwise],
            ExprKind::Call { name: _, name_span: _, arguments, condition } => {
                arguments.iter_mut().chain(condition.as_deref_mut()).collect()
            }
            ExprKind::Lambda { parameter: _, body } => vec![body],
        }
    }

    fn forget_places(&mut self) {
        self.span = Span::default();
        match &mut self.kind {
            ExprKind::Call { name_span, .. } => *name_span = Span::default(),
            ExprKind::Lambda { parameter, .. } => parameter.span = Span::default(),
            ExprKind::InQuery { query, .. } => query.forget_places(),
            _ => {}
        }
        for child in self.children_mut() {
            child.forget_places();
        }
    }
}

impl Query {
    /// The expressions of its commands and its filter. Those of subqueries are not among them.
    pub fn expressions(&self) -> Vec<&Expr> {
        let mut found: Vec<&Expr> = self.filter.iter().collect();
        for command in &self.commands {
            match &command.kind {
                CommandKind::Filter(expr) => found.push(expr),
                CommandKind::Columns(columns) | CommandKind::Let(columns) => {
                    found.extend(columns.iter().map(|column| &column.expr));
                }
                CommandKind::Group { aggregates, by } | CommandKind::Top { count: _, aggregates, by } => {
                    found.extend(aggregates.iter().chain(by).map(|column| &column.expr));
                }
                CommandKind::Sort(keys) => found.extend(keys.iter().map(|key| &key.expr)),
                CommandKind::Parse { pattern: _, pattern_span: _, from } => found.extend(from),
                CommandKind::Lookup { columns: _, table: _, by } => found.extend(by.iter().map(|key| &key.expr)),
                CommandKind::Join { .. }
                | CommandKind::Union(_)
                | CommandKind::Limit(_)
                | CommandKind::NoLimit
                | CommandKind::Dataset(_)
                | CommandKind::SaveLookup { .. }
                | CommandKind::Transpose { .. }
                | CommandKind::Compare { .. }
                | CommandKind::Dedup(_) => {}
            }
        }
        found
    }

    /// The queries right inside this one: of joins and unions, and those that give a set of values.
    pub fn subqueries(&self) -> Vec<&Self> {
        let mut found = Vec::new();
        for command in &self.commands {
            match &command.kind {
                CommandKind::Join { kind: _, all: _, sides, on: _ } => {
                    found.extend(sides.iter().map(|side| &side.query));
                }
                CommandKind::Union(queries) => found.extend(queries),
                _ => {}
            }
        }
        let mut waiting = self.expressions();
        while let Some(expr) = waiting.pop() {
            if let ExprKind::InQuery { case: _, value: _, query } = &expr.kind {
                found.push(query);
            }
            waiting.extend(expr.children());
        }
        found
    }

    /// Whether both mean the same: all but the places in the text, and whether a column's name was given or follows from
    /// its expression.
    pub fn same_as(&self, other: &Self) -> bool {
        let forgotten = |query: &Self| {
            let mut query = query.clone();
            query.forget_places();
            query
        };
        forgotten(self) == forgotten(other)
    }

    fn forget_places(&mut self) {
        self.span = Span::default();
        if let Some(filter) = &mut self.filter {
            filter.forget_places();
        }
        for command in &mut self.commands {
            command.forget_places();
        }
    }
}

impl Command {
    fn forget_places(&mut self) {
        self.span = Span::default();
        let forget = |names: &mut dyn Iterator<Item = &mut Name>| names.for_each(|name| name.span = Span::default());
        match &mut self.kind {
            CommandKind::Filter(expr) => expr.forget_places(),
            CommandKind::Columns(columns) | CommandKind::Let(columns) => {
                columns.iter_mut().for_each(Column::forget_places);
            }
            CommandKind::Group { aggregates, by } | CommandKind::Top { count: _, aggregates, by } => {
                aggregates.iter_mut().chain(by).for_each(Column::forget_places);
            }
            CommandKind::Sort(keys) => keys.iter_mut().for_each(|key| key.expr.forget_places()),
            CommandKind::Limit(_) | CommandKind::NoLimit => {}
            CommandKind::Parse { pattern: _, pattern_span, from } => {
                *pattern_span = Span::default();
                from.iter_mut().for_each(Expr::forget_places);
            }
            CommandKind::Lookup { columns, table, by } => {
                forget(&mut columns.iter_mut().flat_map(|column| [&mut column.name, &mut column.source]));
                table.span = Span::default();
                for key in by {
                    key.column.span = Span::default();
                    key.expr.forget_places();
                }
            }
            CommandKind::Dataset(table) | CommandKind::SaveLookup { table, merge: _ } => table.span = Span::default(),
            CommandKind::Join { kind: _, all: _, sides, on } => {
                for side in sides {
                    forget(&mut side.alias.iter_mut());
                    side.query.forget_places();
                }
                forget(&mut on.iter_mut().flat_map(|key| std::iter::once(&mut key.left).chain(&mut key.right)));
            }
            CommandKind::Union(queries) => queries.iter_mut().for_each(Query::forget_places),
            CommandKind::Transpose { column, keys, limit: _ } => {
                forget(&mut std::iter::once(column).chain(keys));
            }
            CommandKind::Compare { name, shift: _, shift_span } => {
                name.span = Span::default();
                *shift_span = Span::default();
            }
            CommandKind::Dedup(names) => forget(&mut names.iter_mut()),
        }
    }
}

impl Column {
    fn forget_places(&mut self) {
        self.name = None;
        self.expr.forget_places();
    }
}

/// What a column without a name is called: a field by its name, `count()` `count`, all else by its own text.
pub fn label(expr: &Expr, written: &str) -> String {
    match &expr.kind {
        ExprKind::Field(name) => name.clone(),
        ExprKind::Call { name, name_span: _, arguments, condition: None }
            if name == "count" && arguments.is_empty() =>
        {
            name.clone()
        }
        _ => written.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// The operands of a chain of `and` or `or`, in their order. How they are grouped means nothing, and there may be thousands: they are
/// walked in a loop.
pub fn operands(op: BinaryOp, expr: &Expr) -> Vec<&Expr> {
    let mut operands = Vec::new();
    let mut rest = vec![expr];
    while let Some(expr) = rest.pop() {
        match &expr.kind {
            ExprKind::Binary { op: own, left, right } if *own == op => rest.extend([right.as_ref(), left.as_ref()]),
            _ => operands.push(expr),
        }
    }
    operands
}
