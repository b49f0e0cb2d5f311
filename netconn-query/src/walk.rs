//! Walks through a tree: the expressions right below another, comparison without places, and names that follow from
//! expressions.

use crate::ast::{BinaryOp, Column, Command, Expr, ExprKind, MatchSubject, Query, Span};

/// The expressions right below another, as references or as mutable ones: the names of the methods differ.
macro_rules! children {
    ($kind:expr, $as_ref:ident, $iter:ident, $as_deref:ident) => {
        match $kind {
            ExprKind::Null
            | ExprKind::Bool(_)
            | ExprKind::Number(_)
            | ExprKind::Whole(_)
            | ExprKind::Text(_)
            | ExprKind::Field(_)
            | ExprKind::Anywhere(_)
            | ExprKind::AnywhereRegex(_) => Vec::new(),
            ExprKind::Not(inner) | ExprKind::Negative(inner) | ExprKind::Present(inner) => vec![inner],
            ExprKind::Binary { op: _, left, right } => vec![left, right],
            ExprKind::Match { op: _, case: _, subject, patterns } => {
                let subject = match subject {
                    MatchSubject::Value(value) => Some(value.$as_ref()),
                    MatchSubject::AnyField => None,
                };
                subject.into_iter().chain(patterns).collect()
            }
            ExprKind::In { case: _, value, set } => std::iter::once(value.$as_ref()).chain(set).collect(),
            ExprKind::InQuery { case: _, value, query: _ } => vec![value],
            ExprKind::Ternary { condition, then, otherwise } => vec![condition, then, otherwise],
            ExprKind::Call { name: _, name_span: _, arguments, condition, by } => {
                arguments.$iter().chain(condition.$as_deref()).chain(by.$iter()).collect()
            }
            ExprKind::Lambda { parameters: _, body } => vec![body],
        }
    };
}

impl Expr {
    /// Returns the expressions right below this one, in the order of the text; those of a subquery are not among them.
    pub fn children(&self) -> Vec<&Self> {
        children!(&self.kind, as_ref, iter, as_deref)
    }

    /// Returns the same expressions, to be changed.
    pub fn children_mut(&mut self) -> Vec<&mut Self> {
        children!(&mut self.kind, as_mut, iter_mut, as_deref_mut)
    }

    /// Whether a predicate holds for this expression or for one below it. Chains of `or` may be thousands long, so it does
    /// not recurse.
    pub fn has(&self, predicate: impl Fn(&ExprKind) -> bool) -> bool {
        let mut waiting = vec![self];
        while let Some(expr) = waiting.pop() {
            if predicate(&expr.kind) {
                return true;
            }
            waiting.extend(expr.children());
        }
        false
    }

    fn forget_places(&mut self) {
        self.span = Span::default();
        match &mut self.kind {
            ExprKind::Call { name_span, .. } => *name_span = Span::default(),
            ExprKind::Lambda { parameters, .. } => {
                parameters.iter_mut().for_each(|parameter| parameter.span = Span::default());
            }
            ExprKind::InQuery { query, .. } => query.forget_places(),
            _ => {}
        }
        for child in self.children_mut() {
            child.forget_places();
        }
    }
}

impl Query {
    /// Returns the expressions of the filter and the commands; those of subqueries are not among them.
    pub fn expressions(&self) -> Vec<&Expr> {
        let commands = self.commands.iter().flat_map(|command| command.kind.facts().expressions);
        self.filter.iter().chain(commands.map(|(_, expr)| expr)).collect()
    }

    /// Returns the queries right inside this one: those of joins and unions, and those that give a set of values.
    pub fn subqueries(&self) -> Vec<&Self> {
        let mut found: Vec<&Self> = self.commands.iter().flat_map(|command| command.kind.facts().queries).collect();
        let mut waiting = self.expressions();
        while let Some(expr) = waiting.pop() {
            if let ExprKind::InQuery { case: _, value: _, query } = &expr.kind {
                found.push(query);
            }
            waiting.extend(expr.children());
        }
        found
    }

    /// Whether both queries mean the same. Places in the text do not count, nor whether a column's name was given or follows
    /// from its expression.
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
        // `parts_mut` lists every part that has a place, so nothing is forgotten here when a command gets a new one.
        let parts = self.kind.parts_mut();
        parts.spans.into_iter().for_each(|span| *span = Span::default());
        parts.reads.into_iter().for_each(|name| name.span = Span::default());
        parts.expressions.into_iter().for_each(Expr::forget_places);
        parts.columns.into_iter().for_each(Column::forget_places);
        parts.queries.into_iter().for_each(Query::forget_places);
    }
}

impl Column {
    fn forget_places(&mut self) {
        // A given name and one that follows from the expression print the same; the label tells what matters.
        self.name = None;
        self.expr.forget_places();
    }
}

/// Returns the name of a column without one: of a field its name, of `count()` `count`, of all else its text.
pub fn label(expr: &Expr, written: &str) -> String {
    match &expr.kind {
        ExprKind::Field(name) => name.clone(),
        ExprKind::Call { name, name_span: _, arguments, condition: None, by }
            if name == "count" && arguments.is_empty() && by.is_empty() =>
        {
            name.clone()
        }
        // Line feeds and runs of spaces in the query do not belong to the name of a column.
        _ => written.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// Returns the operands of a chain of `and` or `or`, in their order. Their grouping means nothing, and there may be thousands
/// of them, so it does not recurse.
pub fn operands(op: BinaryOp, expr: &Expr) -> Vec<&Expr> {
    let mut operands = Vec::new();
    let mut rest = vec![expr];
    while let Some(expr) = rest.pop() {
        match &expr.kind {
            // The right one first: the last one in is the next one out.
            ExprKind::Binary { op: own, left, right } if *own == op => rest.extend([right.as_ref(), left.as_ref()]),
            _ => operands.push(expr),
        }
    }
    operands
}
