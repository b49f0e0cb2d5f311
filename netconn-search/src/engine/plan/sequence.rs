//! Plans `sequence`: events that follow each other within a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::{
    arrow::datatypes::DataType,
    logical_expr::{
        Expr, LogicalPlanBuilder, Operator, SortExpr, WindowFrame, WindowFunctionDefinition, cast,
        expr::{WindowFunction, WindowFunctionParams},
        lit,
    },
};
use netconn_model::field::Field;
use netconn_query::{
    ast::{self, Span},
    duration,
    facts::{SEQUENCE_ENDS, sequence_columns},
    value::{Unit, ValueKind},
};

use super::{
    Planner,
    operand::{binary, case, joined},
    rows::{Key, RowOrder, Rows, column, is_hidden},
    running,
    scope::Scope,
};
use crate::engine::{
    error::{Result, SearchError},
    function::sequence::first_of_sequence,
};

/// Nanoseconds of a millisecond.
const MILLISECOND: i64 = 1_000_000;

/// Plans `sequence by keys within '5m' (filter), (filter)`.
pub(crate) async fn sequence(
    planner: &Planner,
    rows: Rows,
    by: &[ast::Column],
    (within, span): (&str, Span),
    steps: &[ast::Expr],
) -> Result<Rows> {
    let within = duration::span(within).map(|nanos| nanos / MILLISECOND).filter(|within| *within > 0);
    let within = within.ok_or_else(|| SearchError::query("this is no length of time: write within '5m'", span))?;
    let name = Field::EventTime.info().name;
    let time = rows.resolve(name).filter(|time| rows.kind(time) == ValueKind::Integer).ok_or_else(|| {
        let message = format!("sequence goes by {name}, which these rows do not have: put it before columns or group");
        SearchError::query(message, span)
    })?;
    let mut rows = rows;
    let mut conditions = Vec::with_capacity(steps.len());
    for step in steps {
        let step = planner.resolve(step).await?;
        let replaced;
        (rows, replaced) = running::replace_calls(planner, rows, &step)?;
        conditions.push(Scope::new(planner, &rows).condition(&replaced)?);
    }
    let mut keys = Vec::with_capacity(by.len());
    let mut units = BTreeMap::new();
    for key in planner.resolve_all(by).await? {
        let replaced;
        (rows, replaced) = running::replace_calls(planner, rows, &key.expr)?;
        let value = Scope::new(planner, &rows).value(&replaced)?;
        units.insert(key.label.clone(), value.unit);
        let kind = if value.kind == ValueKind::Null { ValueKind::Text } else { value.kind };
        keys.push((key.label.clone(), planner.planning.hidden(), value.to(kind)));
    }

    // Few events can be in a sequence: only they are sorted. One without a key would follow events that it has nothing to do with.
    let there = |expr: Expr| Expr::IsNotNull(Box::new(expr));
    let mut needed = vec![joined(conditions.clone(), Operator::Or, false), there(column(&time))];
    needed.extend(keys.iter().map(|(_, _, key)| there(key.clone())));
    let rows = rows.filter(joined(needed, Operator::And, true))?;
    let bits = conditions.into_iter().enumerate().map(|(place, step)| case(step, lit(1_i64 << place), lit(0_i64)));
    let bits = bits.reduce(|one, other| binary(one, Operator::Plus, other)).unwrap_or_else(|| lit(0_i64));
    let [steps_name, time_name] = [planner.planning.hidden(), planner.planning.hidden()];
    let mut hidden = vec![(steps_name.clone(), bits), (time_name.clone(), cast(column(&time), DataType::Int64))];
    hidden.extend(keys.iter().map(|(_, name, key)| (name.clone(), key.clone())));
    let rows = rows.add_hidden(hidden)?;

    // The last event of a sequence is the row itself; of the first one, the functions return what the row needs.
    let fields: Vec<(String, String)> = match rows.events {
        true => {
            rows.schema().fields().iter().map(|field| field.name().clone()).map(|name| (name.clone(), name)).collect()
        }
        false => rows.columns.iter().map(|name| (name.clone(), name.clone())).chain(rows.aliases.clone()).collect(),
    };
    let fields: Vec<_> = fields.into_iter().filter(|(name, _)| !is_hidden(name)).collect();
    let function = first_of_sequence(steps.len(), within);
    let partition: Vec<Expr> = keys.iter().map(|(_, name, _)| column(name)).collect();
    let order: Vec<SortExpr> = order(&rows);
    let first_of = |name: &str| {
        let params = WindowFunctionParams {
            args: vec![column(&steps_name), column(&time_name), column(name)],
            partition_by: partition.clone(),
            order_by: order.clone(),
            window_frame: WindowFrame::new(Some(true)),
            filter: None,
            null_treatment: None,
            distinct: false,
        };
        Expr::from(WindowFunction { fun: WindowFunctionDefinition::WindowUDF(Arc::clone(&function)), params })
    };
    let began = planner.planning.hidden();
    let mut windows = vec![first_of(&time_name).alias(&began)];
    let mut made: Vec<(String, Expr)> = keys.iter().map(|(label, name, _)| (label.clone(), column(name))).collect();
    let mut columns: Vec<String> = keys.into_iter().map(|(label, _, _)| label).collect();
    // A column may have two names, behind a join. DataFusion replaces the second of two equal functions in a window by a column, which
    // its own rule for filters does not expect there (`push_down_filter`).
    let mut firsts: BTreeMap<&str, String> = BTreeMap::new();
    for (name, own) in &fields {
        let first = firsts.entry(own).or_insert_with(|| {
            let first = planner.planning.hidden();
            windows.push(first_of(own).alias(&first));
            first
        });
        for (end, value) in SEQUENCE_ENDS.iter().zip([column(first), column(own)]) {
            let full = format!("{end}.{name}");
            units.insert(full.clone(), rows.unit(own));
            made.push((full, value));
        }
    }
    for (name, field) in sequence_columns() {
        if field.is_none() {
            units.insert(name.clone(), Unit::Span(MILLISECOND));
            made.push((name.clone(), binary(column(&time_name), Operator::Minus, column(&began))));
        }
        if made.iter().any(|(known, _)| *known == name) && !columns.contains(&name) {
            columns.push(name);
        }
    }
    // A key with the name of another column goes before it.
    let mut names = BTreeSet::new();
    made.retain(|(name, _)| names.insert(name.clone()));

    let plan = LogicalPlanBuilder::from(rows.plan).window(windows)?.filter(there(column(&began)))?;
    let plan = plan.project(made.into_iter().map(|(name, value)| value.alias(name)))?.build()?;
    // Columns that are not shown are there for who names them; what nobody names is not computed.
    let aliases = names.into_iter().filter(|name| !columns.contains(name)).map(|name| (name.clone(), name)).collect();
    let newest = SEQUENCE_ENDS.iter().rev().map(|end| Key { column: format!("{end}.{name}"), descending: true });
    let order = RowOrder::asked(newest.collect()).into_default();
    Ok(Rows { aliases, units, order, ..Rows::of(plan, columns) })
}

/// Returns the order of events in time. Those of the same moment are in the order of their ids, so that each search finds the same.
fn order(rows: &Rows) -> Vec<SortExpr> {
    [Field::EventTime, Field::Timestamp, Field::EventId]
        .iter()
        .filter_map(|field| rows.resolve(field.info().name))
        .map(|name| column(&name).sort(true, false))
        .collect()
}
