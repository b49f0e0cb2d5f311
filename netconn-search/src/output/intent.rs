//! What a query's answer is, as far as it matters to how it is shown.

use netconn_query::{
    ast::{Column, CommandKind, ExprKind, Query},
    duration::{self, Bucket},
};

use crate::output::moments::MomentColumns;

/// What an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerIntent {
    /// Which columns are moments.
    pub moments: MomentColumns,
    /// The rows are events, not something made of them.
    pub events: Option<EventRows>,
    /// Columns that rows were grouped by last.
    pub keys: Vec<String>,
    /// Milliseconds of each of the buckets of time among them, if the query says it.
    pub bucket: Option<i64>,
    /// Columns made of the rows of a group that are no 0 where there are no rows, as an average.
    pub averages: Vec<String>,
}

/// Rows that are events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventRows {
    /// Columns that the query has added.
    pub made: Vec<String>,
}

impl AnswerIntent {
    /// That of a query.
    pub fn of(query: &Query) -> Self {
        let mut events = Some(EventRows::default());
        let (mut keys, mut bucket, mut averages) = (Vec::new(), None, Vec::new());
        let labels =
            |columns: &[Column]| -> Vec<String> { columns.iter().map(|column| column.label.clone()).collect() };
        for command in &query.commands {
            match &command.kind {
                CommandKind::Let(columns) => made(&mut events, labels(columns)),
                CommandKind::Lookup { columns, .. } => {
                    made(&mut events, columns.iter().map(|column| column.name.text.clone()).collect());
                }
                CommandKind::Parse { pattern, .. } => made(&mut events, parsed_names(pattern)),
                CommandKind::Group { aggregates, by } | CommandKind::Top { aggregates, by, .. } => {
                    (events, keys, bucket) = (None, labels(by), by.iter().find_map(bucket_of));
                    let averaged = aggregates.iter().filter(|column| !is_counted(column));
                    averages = averaged.map(|column| column.label.clone()).collect();
                }
                CommandKind::Columns(_)
                | CommandKind::Join { .. }
                | CommandKind::Union(_)
                | CommandKind::Dataset(_)
                | CommandKind::Transpose { .. }
                | CommandKind::Compare { .. } => events = None,
                CommandKind::Filter(_)
                | CommandKind::Sort(_)
                | CommandKind::Limit(_)
                | CommandKind::NoLimit
                | CommandKind::SaveLookup { .. }
                | CommandKind::Dedup(_) => {}
            }
        }
        Self { moments: MomentColumns::of(query), events, keys, bucket, averages }
    }
}

/// Whether a column of a group is 0 where there are no rows.
fn is_counted(column: &Column) -> bool {
    let counts = ["count", "count_distinct", "estimate_distinct", "sum"];
    matches!(&column.expr.kind, ExprKind::Call { name, .. } if counts.contains(&name.as_str()))
}

/// How long the buckets are that a key divides the time into.
fn bucket_of(key: &Column) -> Option<i64> {
    let ExprKind::Call { name, arguments, .. } = &key.expr.kind else { return None };
    let ExprKind::Text(length) = &arguments.last().filter(|_| name == "timebucket")?.kind else { return None };
    match duration::bucket(length)? {
        Bucket::Every(nanos) => Some(nanos / 1_000_000).filter(|ms| *ms > 0),
        Bucket::Auto | Bucket::Count(_) => None,
    }
}

fn made(events: &mut Option<EventRows>, names: Vec<String>) {
    if let Some(events) = events {
        events.made.extend(names);
    }
}

/// The names between dollar signs: `$a$`, `$b{regex=…}$`.
fn parsed_names(pattern: &str) -> Vec<String> {
    let names = pattern.split('$').skip(1).step_by(2);
    names.filter_map(|name| name.split(['{', '=']).next()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_patterns_are_found() {
        assert_eq!(parsed_names("from $user$ port $port{regex=\\d+}$ $=text$"), ["user", "port"]);
        assert_eq!(parsed_names("nothing"), Vec::<String>::new());
    }
}
