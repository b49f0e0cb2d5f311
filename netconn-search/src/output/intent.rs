//! What a query's answer is, as far as it matters to how it is shown.

use netconn_query::{
    ast::{Expr, ExprKind, Query},
    catalogue::{AggregateId, PlainId},
    duration::{self, Bucket},
    facts::{ColumnsAfter, MadeColumn, Role},
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
        for command in &query.commands {
            match command.kind.facts().columns {
                ColumnsAfter::Kept => {}
                ColumnsAfter::Added(columns) => {
                    if let Some(events) = &mut events {
                        events.made.extend(columns.into_iter().map(|column| column.name.into_owned()));
                    }
                }
                ColumnsAfter::Grouped(columns) => {
                    let of = |role| columns.iter().filter(move |column| column.role == role);
                    let name = |column: &MadeColumn<'_>| column.name.to_string();
                    events = None;
                    keys = of(Role::Key).map(name).collect();
                    bucket = of(Role::Key).filter_map(|key| key.expr).find_map(bucket_of);
                    averages = of(Role::Aggregate).filter(|column| !is_counted(column)).map(name).collect();
                }
                ColumnsAfter::Only(_)
                | ColumnsAfter::Partly(_)
                | ColumnsAfter::Compared(_)
                | ColumnsAfter::OfQueries => {
                    events = None;
                }
            }
        }
        Self { moments: MomentColumns::of(query), events, keys, bucket, averages }
    }
}

/// Whether a column of a group is 0 where there are no rows.
fn is_counted(column: &MadeColumn<'_>) -> bool {
    use AggregateId::{Count, CountDistinct, EstimateDistinct, Sum};
    let counts =
        |name: &str| matches!(AggregateId::by_name(name), Some(Count | CountDistinct | EstimateDistinct | Sum));
    // Only the count that `top` adds has no expression.
    column.expr.is_none_or(|expr| matches!(&expr.kind, ExprKind::Call { name, .. } if counts(name)))
}

/// Returns the milliseconds of the buckets that a key divides the time into.
fn bucket_of(key: &Expr) -> Option<i64> {
    let ExprKind::Call { name, arguments, .. } = &key.kind else { return None };
    let is_bucket = PlainId::by_name(name) == Some(PlainId::Timebucket);
    let ExprKind::Text(length) = &arguments.last().filter(|_| is_bucket)?.kind else { return None };
    match duration::bucket(length)? {
        Bucket::Every(nanos) => Some(nanos / 1_000_000).filter(|ms| *ms > 0),
        Bucket::Auto | Bucket::Count(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use netconn_query::parse;

    use super::*;

    fn made(query: &str) -> Vec<String> {
        AnswerIntent::of(&parse(query).query.unwrap()).events.unwrap().made
    }

    #[test]
    fn names_in_patterns_are_found() {
        assert_eq!(made("| parse 'from $user$ port $port{regex=\\d+}$ $$' from m"), ["user", "port"]);
        // A `$` in a regular expression ends no name.
        assert_eq!(made("| parse '$a{regex=b+$?}$ $c$' from m"), ["a", "c"]);
    }
}
