//! Plans `group`, `top` and `dedup`.

use std::collections::BTreeMap;

use datafusion::{
    functions_aggregate::first_last::first_value_udaf,
    logical_expr::{Expr, LogicalPlanBuilder, SortExpr, expr::AggregateFunction},
};
use netconn_query::{
    ast::{self, ExprKind, Name, Span},
    catalogue, printer,
    value::ValueKind,
};

use super::{
    Planner,
    aggregate::Aggregate,
    operand::Operand,
    rows::{Key, RowOrder, Rows, ShownRows, column, ordering},
    running,
    scope::Scope,
};
use crate::engine::{
    error::{Result, SearchError},
    plan::following_order,
};

/// The different aggregates of a command, and the hidden column of each.
struct CollectedAggregates<'a, 'b> {
    scope: &'b Scope<'a>,
    aggregates: Vec<(String, Aggregate)>,
}

impl CollectedAggregates<'_, '_> {
    /// Replaces each aggregate of an expression by its hidden column.
    fn replace_aggregates(&mut self, expr: &ast::Expr) -> Result<ast::Expr> {
        // Nothing inside an aggregate is searched: its arguments are about rows, not about groups.
        if let ExprKind::Call { name, arguments, condition, .. } = &expr.kind
            && let Some(id) = catalogue::aggregate(name, arguments.len())
        {
            let aggregate = self.scope.aggregate(id, arguments, condition.as_deref(), expr.span)?;
            // The same aggregate twice, as in `x = count(), y = count() / 2`, is computed once.
            let known = self.aggregates.iter().find(|(_, known)| {
                known.expr == aggregate.expr && known.conversion == aggregate.conversion && known.kind == aggregate.kind
            });
            let name = match known {
                Some((name, _)) => name.clone(),
                None => {
                    let name = self.scope.planner.planning.hidden();
                    self.aggregates.push((name.clone(), aggregate));
                    name
                }
            };
            return Ok(ast::Expr { kind: ExprKind::Field(name), span: expr.span });
        }
        let mut expr = expr.clone();
        let is_aggregate = |kind: &ExprKind| match kind {
            ExprKind::Call { name, arguments, .. } => catalogue::aggregate(name, arguments.len()).is_some(),
            _ => false,
        };
        // Most expressions below have none, and are not rebuilt.
        if !expr.has(is_aggregate) {
            return Ok(expr);
        }
        for child in expr.children_mut() {
            *child = self.replace_aggregates(child)?;
        }
        Ok(expr)
    }
}

/// Plans `group aggregates by keys`.
pub(crate) fn group(planner: &Planner, rows: &Rows, columns: &[ast::Column], by: &[ast::Column]) -> Result<Rows> {
    // Later steps find columns by their names, so names have to differ. The same column twice is shown once.
    let mut names = BTreeMap::new();
    let (mut once, mut keys_once) = (Vec::new(), Vec::new());
    for (columns, once) in [(by, &mut keys_once), (columns, &mut once)] {
        for column in columns {
            let value = printer::expression(&column.expr);
            match names.get(column.label.as_str()) {
                None => {
                    names.insert(column.label.as_str(), value);
                    once.push(column);
                }
                Some(before) if *before == value => {}
                Some(_) => {
                    let message =
                        format!("'{}' is the name of two columns: give one of them another, as in n = …", column.label);
                    return Err(SearchError::query(message, column.expr.span));
                }
            }
        }
    }
    let (columns, by) = (once, keys_once);
    let scope = Scope::new(planner, rows);
    let mut keys = Vec::with_capacity(by.len());
    let mut shown = Vec::with_capacity(by.len());
    let mut units = BTreeMap::new();
    for key in &by {
        let value = scope.value(&key.expr)?;
        units.insert(key.label.clone(), value.unit);
        // A missing field has no type, so the key becomes a text.
        let kind = if value.kind == ValueKind::Null { ValueKind::Text } else { value.kind };
        // Keys get hidden names: DataFusion goes by names (`calc_func_dependencies_for_aggregate`), takes a key with
        // the name of another column for that column, and leaves out the keys behind it if that column was the only key
        // of an earlier group.
        let name = planner.planning.hidden();
        shown.push(column(&name).alias(&key.label));
        keys.push(value.to(kind).alias(name));
    }
    // Aggregates are planned over the rows, then the expressions around them over the groups.
    let mut found = CollectedAggregates { scope: &scope, aggregates: Vec::new() };
    let mut results = Vec::with_capacity(columns.len());
    for column in &columns {
        results.push(found.replace_aggregates(&column.expr)?);
    }
    let aggregates = found.aggregates;
    let expressions: Vec<Expr> = aggregates.iter().map(|(name, found)| found.expr.clone().alias(name)).collect();
    let plan = LogicalPlanBuilder::from(rows.plan.clone());
    let plan = if expressions.is_empty() {
        // Without aggregates each combination of keys makes one row.
        plan.project(keys)?.distinct()?
    } else {
        plan.aggregate(keys, expressions)?
    };
    // One projection gives the keys their names again.
    shown.extend(aggregates.iter().map(|(name, _)| column(name)));
    let columns_of_keys = by.iter().map(|key| key.label.clone()).collect();
    let mut grouped = Rows {
        shown: ShownRows::Decided,
        units: units.clone(),
        ..Rows::of(plan.project(shown)?.build()?, columns_of_keys)
    };
    // The hidden columns of the aggregates are names of the second scope, with the conversion of each result.
    let mut names: BTreeMap<String, Operand> =
        aggregates.iter().map(|(name, found)| (name.clone(), found.result(name))).collect();
    // Functions over rows see the groups, in the order of their keys.
    if results.iter().any(running::has_calls) {
        let converted = names.iter().map(|(name, result)| (name.clone(), planner.planning.hidden(), result.clone()));
        let converted: Vec<_> = converted.collect();
        let made = converted.iter().map(|(_, hidden, result)| (hidden.clone(), result.expr.clone())).collect();
        grouped = grouped.add_hidden(made)?;
        grouped.order = by_keys(&by);
        names.clear();
        for (name, hidden, result) in converted {
            results.iter_mut().for_each(|result| rename(result, &name, &hidden));
            grouped.units.insert(hidden.clone(), result.unit);
            names.insert(hidden.clone(), Operand::new(column(&hidden), result.kind).in_unit(result.unit));
        }
        for result in &mut results {
            (grouped, *result) = running::replace_calls(planner, grouped, result)?;
        }
    }
    let mut scope = Scope::new(planner, &grouped);
    scope.names = names;
    let mut all: Vec<(String, Expr)> = by.iter().map(|key| (key.label.clone(), column(&key.label))).collect();
    for (result, column) in results.iter().zip(&columns) {
        let value = scope.value(result)?;
        units.insert(column.label.clone(), value.unit);
        all.push((column.label.clone(), value.expr));
    }
    let mut rows = Rows { order: RowOrder::None, ..grouped.clone() }.project(all, &planner.planning)?;
    rows.units.extend(units);
    rows.keys = by.iter().map(|key| key.label.clone()).collect();
    // Groups are shown by their keys, because the order in which a hash table gives them changes from run to run.
    rows.order = by_keys(&by);
    Ok(rows)
}

fn by_keys(by: &[&ast::Column]) -> RowOrder {
    RowOrder::asked(by.iter().map(|key| Key { column: key.label.clone(), descending: false }).collect())
}

/// Replaces the name of a column in an expression.
fn rename(expr: &mut ast::Expr, old: &str, new: &str) {
    if let ExprKind::Field(name) = &mut expr.kind
        && name == old
    {
        new.clone_into(name);
    }
    expr.children_mut().into_iter().for_each(|child| rename(child, old, new));
}

/// Plans `top K aggregates by keys`: the groups with the highest first aggregate; equal ones are ordered by their keys.
pub(crate) fn top(
    planner: &Planner,
    rows: &Rows,
    count: u64,
    aggregates: &[ast::Column],
    by: &[ast::Column],
) -> Result<Rows> {
    let counted;
    let aggregates = if aggregates.is_empty() {
        // Without an aggregate rows are counted, as if `count()` had been written.
        let call = ExprKind::Call {
            name: "count".to_owned(),
            name_span: Span::default(),
            arguments: Vec::new(),
            condition: None,
            by: Vec::new(),
        };
        let expr = ast::Expr { kind: call, span: Span::default() };
        counted = [ast::Column { name: None, expr, label: "count".to_owned() }];
        &counted
    } else {
        aggregates
    };
    let mut rows = group(planner, rows, aggregates, by)?;
    let highest = Key { column: aggregates[0].label.clone(), descending: true };
    // The keys of the group follow, so that groups with the same value come in the same order each time.
    rows.order = RowOrder::Asked(std::iter::once(highest).chain(rows.order.into_keys()).collect());
    rows.sorted(Some(count))
}

/// Plans `dedup names`: the first row of each combination; of whole rows without names.
pub(crate) fn dedup(planner: &Planner, rows: Rows, names: &[Name]) -> Result<Rows> {
    if names.is_empty() {
        return distinct_rows(rows);
    }
    let scope = Scope::new(planner, &rows);
    let keys: Vec<Expr> = names
        .iter()
        .map(|name| scope.field(&name.text))
        // A column that is missing in every row distinguishes none.
        .filter(|operand: &Operand| operand.kind != ValueKind::Null)
        .map(|operand| operand.expr)
        .collect();
    if keys.is_empty() {
        return rows.sorted(Some(1));
    }
    // DataFusion wants the sort to begin with the keys; their direction does not matter.
    let sort = ordering(keys.iter().map(|key| key.clone().sort(true, false)).chain(following_order(&rows)));
    // `scope` still borrows the rows.
    let mut rows = rows.clone();
    let all: Vec<Expr> = rows.plan.schema().columns().iter().map(|old| column(&old.name).alias(&old.name)).collect();
    rows.plan = LogicalPlanBuilder::from(rows.plan).distinct_on(keys, all, Some(sort))?.build()?;
    Ok(rows)
}

/// Keeps one of equal rows, at the place of the first.
fn distinct_rows(mut rows: Rows) -> Result<Rows> {
    // The order has to survive: which rows are kept is clear, but not at which place each of them was.
    // Equal rows are equal in all visible columns; hidden ones may still order them.
    let unnamed: Vec<&Key> = rows.order.keys().iter().filter(|key| !rows.columns.contains(&key.column)).collect();
    let keep: Vec<Expr> = rows.columns.iter().map(|name| column(name).alias(name)).collect();
    let plan = LogicalPlanBuilder::from(rows.plan.clone());
    if unnamed.is_empty() {
        rows.plan = plan.project(keep)?.distinct()?.build()?;
    } else {
        // The hidden keys are taken from the first of the equal rows, so that it decides the place.
        let order: Vec<SortExpr> = unnamed.iter().map(|key| key.sort()).collect();
        let first = |key: &&Key| {
            let (argument, order) = (vec![column(&key.column)], order.clone());
            let first = AggregateFunction::new_udf(first_value_udaf(), argument, false, None, order, None);
            Expr::AggregateFunction(first).alias(&key.column)
        };
        rows.plan = plan.aggregate(keep, unnamed.iter().map(first))?.build()?;
    }
    Ok(rows)
}
