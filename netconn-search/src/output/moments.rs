//! Which columns of an answer are moments: what the query makes of the fields that are.

use std::collections::HashSet;

use netconn_model::field::FIELDS;
use netconn_query::ast::{Column, CommandKind, Expr, ExprKind, Query};

/// Functions whose value is a moment.
const FUNCTIONS: [&str; 4] = ["timebucket", "querystart", "queryend", "now"];

/// Functions and aggregates whose value is one of their first argument.
const CHOICES: [&str; 9] = ["min", "max", "first", "last", "newest", "oldest", "any", "min_by", "max_by"];

/// Names of columns that are moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MomentColumns(HashSet<String>);

impl MomentColumns {
    /// Those of the events themselves.
    pub fn of_events() -> Self {
        Self(FIELDS.iter().filter(|field| field.r#type.is_moment()).map(|field| field.name.to_owned()).collect())
    }

    /// Those of a query's answer.
    pub fn of(query: &Query) -> Self {
        let mut moments = Self::of_events();
        for command in &query.commands {
            moments.follow(&command.kind);
        }
        moments
    }

    /// Whether the column of this name is one.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn follow(&mut self, command: &CommandKind) {
        match command {
            CommandKind::Columns(columns) => *self = self.among([columns]),
            CommandKind::Let(columns) => {
                for column in columns {
                    if self.is_moment(&column.expr) {
                        self.0.insert(column.label.clone());
                    } else {
                        self.0.remove(&column.label);
                    }
                }
            }
            CommandKind::Group { aggregates, by } | CommandKind::Top { aggregates, by, .. } => {
                *self = self.among([by, aggregates]);
            }
            CommandKind::Join { sides, .. } => {
                self.0.extend(sides.iter().flat_map(|side| Self::of(&side.query).0));
            }
            CommandKind::Union(queries) => self.0.extend(queries.iter().flat_map(|query| Self::of(query).0)),
            CommandKind::Filter(_)
            | CommandKind::Sort(_)
            | CommandKind::Limit(_)
            | CommandKind::NoLimit
            | CommandKind::Parse { .. }
            | CommandKind::Lookup { .. }
            | CommandKind::Dataset(_)
            | CommandKind::SaveLookup { .. }
            | CommandKind::Transpose { .. }
            | CommandKind::Compare { .. }
            | CommandKind::Dedup(_) => {}
        }
    }

    fn among<const N: usize>(&self, columns: [&Vec<Column>; N]) -> Self {
        let moments = columns.into_iter().flatten().filter(|column| self.is_moment(&column.expr));
        Self(moments.map(|column| column.label.clone()).collect())
    }

    fn is_moment(&self, expr: &Expr) -> bool {
        match &expr.kind {
            ExprKind::Field(name) => self.contains(name),
            ExprKind::Call { name, arguments, .. } => {
                let of_first = || arguments.first().is_some_and(|first| self.is_moment(first));
                FUNCTIONS.contains(&name.as_str()) || (CHOICES.contains(&name.as_str()) && of_first())
            }
            ExprKind::Ternary { then, otherwise, .. } => self.is_moment(then) && self.is_moment(otherwise),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use netconn_query::ast::{Command, Name, Span};

    use super::*;

    fn expr(kind: ExprKind) -> Expr {
        Expr { kind, span: Span::default() }
    }

    fn field(name: &str) -> Expr {
        expr(ExprKind::Field(name.into()))
    }

    fn call(name: &str, argument: Expr) -> Expr {
        let arguments = vec![argument];
        expr(ExprKind::Call { name: name.into(), name_span: Span::default(), arguments, condition: None })
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
