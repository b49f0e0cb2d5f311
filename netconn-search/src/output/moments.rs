//! Determines which columns of an answer are moments, by following the moment fields through the query.

use std::collections::HashSet;

use netconn_model::field::FIELDS;
use netconn_query::{
    ast::{CommandKind, Expr, ExprKind, Query},
    catalogue::{AggregateId, FunctionId, PlainId, RunningId, functions},
    facts::{ColumnsAfter, MadeColumn, SEQUENCE_ENDS},
};

/// The names of the columns that are moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MomentColumns(HashSet<String>);

impl MomentColumns {
    /// Returns the moment fields of events.
    pub fn of_events() -> Self {
        Self(FIELDS.iter().filter(|field| field.r#type.is_moment()).map(|field| field.name.to_owned()).collect())
    }

    /// Returns the moment columns of a query's answer.
    pub fn of(query: &Query) -> Self {
        let mut moments = Self::of_events();
        for command in &query.commands {
            moments.follow(&command.kind);
        }
        moments
    }

    /// Returns whether the column with this name is a moment.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Applies what a command does to the columns.
    fn follow(&mut self, command: &CommandKind) {
        let facts = command.facts();
        match facts.columns {
            ColumnsAfter::Kept | ColumnsAfter::Partly(_) | ColumnsAfter::Compared(_) => {}
            ColumnsAfter::Added(columns) => {
                for column in columns {
                    if self.is_moment(&column) {
                        self.0.insert(column.name.into_owned());
                    } else {
                        // The new column hides a moment with the same name.
                        self.0.remove(column.name.as_ref());
                    }
                }
            }
            ColumnsAfter::Only(columns) | ColumnsAfter::Grouped(columns) => {
                let moments = columns.into_iter().filter(|column| self.is_moment(column));
                *self = Self(moments.map(|column| column.name.into_owned()).collect());
            }
            ColumnsAfter::Sequence(keys) => {
                let keys = keys.into_iter().filter(|key| self.is_moment(key)).map(|key| key.name.into_owned());
                let ends = SEQUENCE_ENDS.iter().flat_map(|end| self.0.iter().map(move |name| format!("{end}.{name}")));
                *self = Self(keys.chain(ends).collect());
            }
            // Rows of all queries share a column, so it is a moment if it is one in any of them.
            ColumnsAfter::OfQueries => self.0.extend(facts.queries.into_iter().flat_map(|query| Self::of(query).0)),
        }
    }

    /// Returns whether a column that a command makes is a moment.
    fn is_moment(&self, column: &MadeColumn<'_>) -> bool {
        column.expr.is_some_and(|expr| self.returns_moment(expr))
    }

    /// Returns whether the value of an expression is a moment.
    fn returns_moment(&self, expr: &Expr) -> bool {
        match &expr.kind {
            ExprKind::Field(name) => self.contains(name),
            ExprKind::Call { name, arguments, .. } => functions(name).any(|function| match function.id {
                FunctionId::Plain(PlainId::Timebucket | PlainId::Querystart | PlainId::Queryend | PlainId::Now) => true,
                id => returns_first_argument(id) && arguments.first().is_some_and(|first| self.returns_moment(first)),
            }),
            // If only one of them is a moment, a plain number could be shown as a time.
            ExprKind::Ternary { then, otherwise, .. } => self.returns_moment(then) && self.returns_moment(otherwise),
            _ => false,
        }
    }
}

/// Returns whether a function returns one of the values of its first argument.
fn returns_first_argument(id: FunctionId) -> bool {
    use AggregateId::{Any, First, Last, Max, MaxBy, Min, MinBy, Newest, Oldest};
    use RunningId::{Next, OverallMax, OverallMin, Prev};
    match id {
        FunctionId::Plain(id) => matches!(id, PlainId::Min | PlainId::Max),
        FunctionId::Aggregate(id) => matches!(id, Min | Max | First | Last | Newest | Oldest | Any | MinBy | MaxBy),
        FunctionId::Running(id) => matches!(id, OverallMin | OverallMax | Prev | Next),
    }
}

#[cfg(test)]
mod tests {
    use netconn_query::ast::{Column, Command, Name, Span};

    use super::*;

    fn expr(kind: ExprKind) -> Expr {
        Expr { kind, span: Span::default() }
    }

    fn field(name: &str) -> Expr {
        expr(ExprKind::Field(name.into()))
    }

    fn call(name: &str, argument: Expr) -> Expr {
        let arguments = vec![argument];
        expr(ExprKind::Call {
            name: name.into(),
            name_span: Span::default(),
            arguments,
            condition: None,
            by: Vec::new(),
        })
    }

    fn column(name: &str, expr: Expr) -> Column {
        Column { name: Some(Name { text: name.into(), span: Span::default() }), expr, label: name.into() }
    }

    fn query(commands: Vec<CommandKind>) -> Query {
        let commands = commands.into_iter().map(|kind| Command { kind, span: Span::default() }).collect();
        Query { filter: None, commands, span: Span::default() }
    }

    #[test]
    fn moments_follow_the_commands() {
        let grouped = query(vec![
            CommandKind::Let(vec![column("born", field("src.process.startTime")), column("timestamp", field("x"))]),
            CommandKind::Group {
                aggregates: vec![
                    column("first", call("min", field("born"))),
                    column("n", call("count", field("event.time"))),
                    column("overwritten", call("max", field("timestamp"))),
                ],
                by: vec![column("bucket", call("timebucket", expr(ExprKind::Text("1h".into()))))],
            },
        ]);
        let moments = MomentColumns::of(&grouped);
        assert_eq!(moments, MomentColumns(["first", "bucket"].map(str::to_owned).into()));
    }
}
