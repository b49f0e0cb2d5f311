//! Plans `compare name = timeshift('-1w')`: the same query over another time, joined to this one.

use std::ops::Range;

use datafusion::{
    common::{Column, JoinType, NullEquality},
    functions_aggregate::first_last::first_value_udaf,
    logical_expr::{Expr, LogicalPlanBuilder, Operator, expr::AggregateFunction, lit},
};
use netconn_query::{
    ast::{Command, CommandKind, Name, Query, Span},
    duration,
    function::MOMENT,
    value::ValueKind,
};

use super::{
    Planner,
    operand::{binary, cast, function},
    rows::{Rows, column},
};
use crate::engine::error::{Result, SearchError};

/// Returns the milliseconds of a shift; negative ones look back.
fn millis(shift: &str, range: &Range<i64>, span: Span) -> Result<i64> {
    let length = range.end.saturating_sub(range.start);
    match duration::span(shift) {
        // The parser turns `-queryspan()` and `+queryspan()` into these words.
        _ if shift == "-queryspan" => Ok(-length),
        _ if shift.ends_with("queryspan") => Ok(length),
        // Ranges of searches are in milliseconds: less would shift by nothing.
        Some(nanos) if nanos != 0 && nanos % 1_000_000 == 0 => Ok(nanos / 1_000_000),
        _ => Err(SearchError::query("timeshift takes a span like '-1d' or '-1w'", span)),
    }
}

/// Returns how far the shifts of a query look back and ahead together, in milliseconds.
pub(crate) fn reach(query: &Query, range: &Range<i64>) -> (i64, i64) {
    let (mut back, mut ahead) = (0_i64, 0_i64);
    // Subqueries are searched over the same range, so the one that reaches farthest counts.
    for query in query.subqueries() {
        let (other_back, other_ahead) = reach(query, range);
        (back, ahead) = (back.min(other_back), ahead.max(other_ahead));
    }
    // A shift applies to everything before the command, subqueries included.
    for command in &query.commands {
        if let CommandKind::Compare { shift, shift_span, .. } = &command.kind {
            // A wrong shift is reported when the command is planned.
            let shift = millis(shift, range, *shift_span).unwrap_or(0);
            // Shifts add up: the second `compare` repeats the first one, at another time.
            back = back.saturating_add(shift.min(0));
            ahead = ahead.saturating_add(shift.max(0));
        }
    }
    (back, ahead)
}

/// Returns the number of keys of the last group; `None` if the commands do not say it.
fn keys_of(commands: &[Command]) -> Option<usize> {
    let last = commands.iter().rev().find_map(|command| match &command.kind {
        CommandKind::Group { by, .. } | CommandKind::Top { by, .. } => Some(Some(by.len())),
        // Behind these the rows have other keys than those of an earlier group.
        CommandKind::Transpose { .. } | CommandKind::Join { .. } | CommandKind::Union(_) => Some(None),
        _ => None,
    });
    last.flatten()
}

/// Plans the commands before it over another time and joins their values.
pub(crate) async fn compare(
    planner: &Planner,
    rows: Rows,
    query: &Query,
    place: usize,
    name: &Name,
    shift: &str,
    shift_span: Span,
) -> Result<Rows> {
    let Some(range) = &planner.range else {
        let message = "compare needs a searched time: give one with --since or --last";
        return Err(SearchError::query(message, shift_span));
    };
    let millis = millis(shift, range, shift_span)?;
    if !query.commands[..place]
        .iter()
        .any(|command| matches!(command.kind, CommandKind::Group { .. } | CommandKind::Top { .. }))
    {
        let message = "compare puts the values of a group beside those of another time: group before it";
        return Err(SearchError::query(message, name.span));
    }
    let keys: Vec<String> = rows.keys.iter().filter(|key| rows.columns.contains(key)).cloned().collect();
    // Without all of its keys a row would meet several rows of the other time.
    if keys_of(&query.commands[..place]).map_or(keys.is_empty(), |count| keys.len() < count) {
        let message = "compare puts rows with the same keys side by side: keep the keys of the group in columns";
        return Err(SearchError::query(message, name.span));
    }
    let values: Vec<String> = rows.columns.iter().filter(|column| !keys.contains(column)).cloned().collect();
    let label = |value: &str| if values.len() > 1 { format!("{}.{value}", name.text) } else { name.text.clone() };
    if let Some(known) = values.iter().map(|value| label(value)).find(|label| rows.columns.contains(label)) {
        let message = format!("there is a column '{known}' already: give the values of the other time another name");
        return Err(SearchError::query(message, name.span));
    }
    let then = range.start.saturating_add(millis)..range.end.saturating_add(millis);
    // Everything before the command is planned again from the events on, for the other time.
    let before = Query { filter: query.filter.clone(), commands: query.commands[..place].to_vec(), span: query.span };
    let shifted = planner.at(then).query(&before).await?;

    let renamed: Vec<(String, String)> =
        values.iter().map(|value| (value.clone(), planner.planning.hidden())).collect();
    let now = LogicalPlanBuilder::from(rows.plan.clone());
    let then = LogicalPlanBuilder::from(shifted.plan.clone());
    let mut joined = rows.clone();
    joined.plan = if keys.is_empty() {
        // An aggregate without keys gives one row even without input.
        let first = |value: &str| {
            AggregateFunction::new_udf(first_value_udaf(), vec![column(value)], false, None, Vec::new(), None)
        };
        let firsts = renamed.iter().map(|(value, renamed)| Expr::AggregateFunction(first(value)).alias(renamed));
        now.cross_join(then.aggregate(Vec::<Expr>::new(), firsts)?.build()?)?.build()?
    } else {
        let mut expressions: Vec<Expr> = renamed.iter().map(|(value, renamed)| column(value).alias(renamed)).collect();
        let mut others = Vec::with_capacity(keys.len());
        for key in &keys {
            let other = planner.planning.hidden();
            let value = match shifted.kind(key) {
                // Buckets of the other time are moved by the shift to match those of this time.
                ValueKind::Time => {
                    let nanos = binary(cast(column(key), ValueKind::Integer), Operator::Minus, lit(millis * 1_000_000));
                    function(MOMENT, vec![nanos])
                }
                _ => column(key),
            };
            expressions.push(value.alias(&other));
            others.push(Column::new_unqualified(other));
        }
        let then = then.project(expressions)?.build()?;
        let keys: Vec<Column> = keys.iter().map(Column::new_unqualified).collect();
        // Rows of the other time alone are left out. A missing key is a group like any other, so missing keys are
        // equal.
        now.join_detailed(then, JoinType::Left, (keys, others), None, NullEquality::NullEqualsNull)?.build()?
    };
    let mut columns: Vec<(String, Expr)> = rows.columns.iter().map(|name| (name.clone(), column(name))).collect();
    columns.extend(renamed.iter().map(|(value, renamed)| (label(value), column(renamed))));
    joined.units.extend(renamed.iter().map(|(value, renamed)| (renamed.clone(), shifted.unit(value))));
    joined.project(columns, &planner.planning)
}
