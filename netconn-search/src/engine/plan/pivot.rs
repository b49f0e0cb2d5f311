//! Plans `transpose`, which runs the query so far to learn the values that become columns.

use datafusion::{
    functions::core::expr_fn::coalesce,
    functions_aggregate::first_last::first_value_udaf,
    logical_expr::{Expr, LogicalPlanBuilder, Operator, expr::AggregateFunction},
    physical_plan::execute_stream,
};
use futures::StreamExt;
use netconn_query::{ast::Name, value::ValueKind};

use super::{
    Planner,
    operand::{Operand, binary, text},
    physical::physical_plan,
    rows::{Key, RowOrder, Rows, ShownRows, column},
};
use crate::engine::{
    error::{Result, SearchError},
    function::{
        column::{normal, value_at},
        whole,
    },
    plan::following_order,
};

/// Largest number of rows that can be transposed.
const MOST_ROWS: usize = 1_000_000;

/// Largest number of columns if the query does not say it.
const COLUMNS: u64 = 100;

/// Plans `transpose name on keys limit N`.
pub(crate) async fn transpose(
    planner: &Planner,
    rows: Rows,
    name: &Name,
    keys: &[Name],
    totals: bool,
    limit: Option<u64>,
) -> Result<Rows> {
    let Some(turned) = rows.resolve(&name.text) else {
        return Err(SearchError::query(format!("there is no column '{}' to transpose", name.text), name.span));
    };
    let mut others: Vec<String> = rows.columns.iter().filter(|column| **column != turned).cloned().collect();
    // Without `on`, the last column has the values and all others are keys: that is what `group n = count() by a, b`
    // gives.
    let keys: Vec<String> = if keys.is_empty() {
        match others.pop() {
            Some(value) => std::mem::replace(&mut others, vec![value]),
            None => Vec::new(),
        }
    } else {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(column) = rows.resolve(&key.text) else {
                return Err(SearchError::query(format!("there is no column '{}' to keep", key.text), key.span));
            };
            found.push(column);
        }
        others.retain(|column| !found.contains(column));
        found
    };
    if others.is_empty() {
        let message = "transpose needs another column for the values: group by both and count, for example";
        return Err(SearchError::query(message, name.span));
    }
    let label = planner.planning.hidden();
    // Names of columns are texts, so the values are compared as texts too.
    let value = Operand::new(column(&turned), rows.kind(&turned)).text();
    let rows = rows.add_hidden(vec![(label.clone(), value)])?;
    // The rows are needed twice, for the names and for the values; running the query twice could see different files.
    let rows = planner.collected(rows, MOST_ROWS, name.span, "transpose").await?;
    let (labels, more) = labels(planner, &rows, &label, limit.unwrap_or(COLUMNS)).await?;
    if more && limit.is_none() {
        let message =
            format!("'{}' has more than {COLUMNS} values: the first are shown; say how many with limit", name.text);
        planner.warn(message, Some(name.span));
    }

    let mut aggregates = Vec::new();
    // Of each column with values, those of the made columns that are added up.
    let mut summands: Vec<Vec<String>> = vec![Vec::new(); others.len()];
    let mut columns: Vec<(String, Expr)> = keys.iter().map(|key| (key.clone(), column(key))).collect();
    for value in &labels {
        let shown = value.as_deref().unwrap_or("null");
        // A missing value has a column of its own, called `null`.
        let filter = match value {
            Some(value) => binary(column(&label), Operator::Eq, text(value)),
            None => Expr::IsNull(Box::new(column(&label))),
        };
        for (other, summands) in others.iter().zip(&mut summands) {
            let name = if others.len() == 1 { shown.to_owned() } else { format!("{shown} {other}") };
            let hidden = planner.planning.hidden();
            let first = Expr::AggregateFunction(AggregateFunction::new_udf(
                first_value_udaf(),
                vec![column(other)],
                false,
                Some(Box::new(filter.clone())),
                following_order(&rows),
                None,
            ));
            aggregates.push(first.alias(&hidden));
            summands.push(hidden.clone());
            // A value may be called like a key, or a text `null` stand beside a missing one.
            let name = free(&name, &columns);
            columns.push((name, column(&hidden)));
        }
    }
    if totals {
        for (other, summands) in others.iter().zip(&summands) {
            let kind = rows.kind(other);
            // A missing value adds nothing.
            let zero = || Operand::integer(0).to(Operand::new(column(other), kind).numeric().kind);
            let value = |name: &String| {
                let number = Operand::new(column(name), kind).numeric();
                Operand::new(coalesce(vec![number.expr, zero()]), number.kind)
            };
            let total = summands.iter().map(value).reduce(|left, right| match left.kind {
                ValueKind::Integer => Operand::new(whole::add(left.expr, right.expr), ValueKind::Integer),
                kind => Operand::new(binary(left.expr, Operator::Plus, right.expr), kind),
            });
            let name = if others.len() == 1 { "total".to_owned() } else { format!("total {other}") };
            columns.push((free(&name, &columns), total.unwrap_or(Operand::integer(0)).expr));
        }
    }
    let rows_unit = |column: &String| rows.unit(column);
    let plan = LogicalPlanBuilder::from(rows.plan.clone());
    let plan = if aggregates.is_empty() {
        plan.project(keys.iter().map(|key| column(key).alias(key)))?.distinct()?
    } else {
        plan.aggregate(keys.iter().map(|key| column(key).alias(key)), aggregates)?
    };
    let order = keys.iter().map(|key| Key { column: key.clone(), descending: false }).collect();
    let units = others.iter().zip(&summands).flat_map(|(other, hidden)| {
        let unit = rows_unit(other);
        hidden.iter().map(move |name| (name.clone(), unit))
    });
    let units = units.collect();
    let turned = Rows {
        units,
        order: RowOrder::asked(order),
        keys,
        shown: ShownRows::Decided,
        ..Rows::of(plan.build()?, Vec::new())
    };
    turned.project(columns, &planner.planning)
}

/// Returns the name, with a number if another column is called so.
fn free(name: &str, columns: &[(String, Expr)]) -> String {
    let names = std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name} ({number})")));
    let mut free = names.filter(|name| columns.iter().all(|(known, _)| known != name));
    // The numbers never end, so there is always a free name.
    free.next().unwrap_or_else(|| name.to_owned())
}

/// Returns the values in the order of the rows, and whether there are more than `most`.
async fn labels(planner: &Planner, rows: &Rows, label: &str, most: u64) -> Result<(Vec<Option<String>>, bool)> {
    // Columns come in the order in which their values first appear.
    let sorted = rows.clone().sorted(None)?;
    let plan = LogicalPlanBuilder::from(sorted.plan).project([column(label).alias(label)])?.build()?;
    let physical = physical_plan(&planner.state, &plan).await?;
    let mut stream = execute_stream(physical, planner.state.task_ctx())?;
    let mut labels: Vec<Option<String>> = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|error| SearchError::engine(error, planner.settings.memory))?;
        let values = normal(batch.column(0))?;
        for row in 0..batch.num_rows() {
            let value = value_at(&values, row).text().map(std::borrow::Cow::into_owned);
            // A walk over at most `most` names; `COLUMNS` keeps that short.
            if labels.contains(&value) {
                continue;
            }
            if labels.len() as u64 >= most {
                return Ok((labels, true));
            }
            labels.push(value);
        }
    }
    Ok((labels, false))
}
