//! Determines from the query how its answer should be shown: as events, as groups over time, with which moments.

use netconn_query::{
    ast::{Expr, ExprKind, Query},
    catalogue::{AggregateId, PlainId},
    duration::{self, Bucket, BucketArguments},
    facts::{ColumnsAfter, MadeColumn, Role},
};

use crate::output::moments::MomentColumns;

/// The properties of an answer that decide how it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerIntent {
    /// The columns that are moments.
    pub moments: MomentColumns,
    /// `Some` if the rows are events rather than groups, joins or chosen columns.
    pub events: Option<EventRows>,
    /// Keys of the last `group` or `top`.
    pub keys: Vec<String>,
    /// Length of the time buckets among the keys, milliseconds, if the query fixes it.
    pub bucket: Option<i64>,
    /// Aggregates that are not 0 for a group without rows, such as an average.
    pub averages: Vec<String>,
}

/// The properties of rows that are events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventRows {
    /// Columns that the query adds.
    pub made: Vec<String>,
}

impl AnswerIntent {
    /// Determines the properties of the answer to a query.
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
                    // A group replaces all columns, and with them the keys of an earlier one.
                    events = None;
                    keys = of(Role::Key).map(name).collect();
                    // Only the first bucket among the keys: a chart over time has one axis.
                    bucket = of(Role::Key).filter_map(|key| key.expr).find_map(bucket_of);
                    averages = of(Role::Aggregate).filter(|column| !is_counted(column)).map(name).collect();
                }
                ColumnsAfter::Only(_)
                | ColumnsAfter::Partly(_)
                | ColumnsAfter::Compared(_)
                | ColumnsAfter::Sequence(_)
                | ColumnsAfter::OfQueries => {
                    events = None;
                }
            }
        }
        Self { moments: MomentColumns::of(query), events, keys, bucket, averages }
    }
}

/// Returns whether an aggregate is 0 for a group without rows.
fn is_counted(column: &MadeColumn<'_>) -> bool {
    use AggregateId::{Count, CountDistinct, EstimateDistinct, Sum};
    let counts =
        |name: &str| matches!(AggregateId::by_name(name), Some(Count | CountDistinct | EstimateDistinct | Sum));
    // Only the count that `top` adds has no expression.
    column.expr.is_none_or(|expr| matches!(&expr.kind, ExprKind::Call { name, .. } if counts(name)))
}

/// Returns the length of the time buckets that a key makes, milliseconds; `None` unless it is a `timebucket` of a fixed
/// length.
fn bucket_of(key: &Expr) -> Option<i64> {
    let ExprKind::Call { name, arguments, .. } = &key.kind else { return None };
    let is_bucket = PlainId::by_name(name) == Some(PlainId::Timebucket);
    let arguments = BucketArguments::of(arguments);
    // Days of a zone differ in length.
    let width = arguments.width.filter(|_| is_bucket && arguments.zone.is_none())?;
    let ExprKind::Text(length) = &width.kind else { return None };
    match duration::bucket(length)? {
        Bucket::Every(nanos) => Some(nanos / 1_000_000).filter(|ms| *ms > 0),
        // The length depends on the time range, which is not known here.
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
