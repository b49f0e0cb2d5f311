//! Plans functions over rows: `running_sum`, `overall_max`, `percent_of_total` and the like.

use std::sync::Arc;

use datafusion::{
    functions_aggregate::{
        average::avg_udaf,
        count::count_udaf,
        min_max::{max_udaf, min_udaf},
        sum::sum_udaf,
    },
    functions_window::{
        lead_lag::{lag_udwf, lead_udwf},
        row_number::row_number_udwf,
    },
    logical_expr::{
        AggregateUDF, Expr, LogicalPlanBuilder, Operator, SortExpr, WindowFrame, WindowFrameBound, WindowFrameUnits,
        WindowFunctionDefinition,
        expr::{WindowFunction, WindowFunctionParams},
        lit,
    },
    scalar::ScalarValue,
};
use netconn_query::{
    ast::{self, ExprKind},
    catalogue::RunningId,
    value::{Unit, ValueKind},
};

use super::{
    Planner,
    aggregate::summand,
    operand::{Operand, binary, case},
    rows::{Key, RowOrder, Rows, column},
    scope::Scope,
};
use crate::engine::{
    error::{Result, SearchError},
    function::whole,
    plan::following_order,
};

/// Whether an expression has such a call. `expand` makes rows, and is planned by itself.
pub(crate) fn has_calls(expr: &ast::Expr) -> bool {
    let id = |name: &str| RunningId::by_name(name).filter(|id| *id != RunningId::Expand);
    expr.has(|kind| matches!(kind, ExprKind::Call { name, .. } if id(name).is_some()))
}

/// Adds a hidden column for each such call, and replaces the call by its name.
pub(crate) fn replace_calls(planner: &Planner, rows: Rows, expr: &ast::Expr) -> Result<(Rows, ast::Expr)> {
    // Arguments are not searched: the checker allows no such call within another.
    if let ExprKind::Call { name, arguments, by, .. } = &expr.kind
        && let Some(id) = RunningId::by_name(name).filter(|id| *id != RunningId::Expand)
    {
        let (rows, name) = add(planner, rows, id, arguments, by, expr)?;
        return Ok((rows, ast::Expr { kind: ExprKind::Field(name), span: expr.span }));
    }
    let mut rows = rows;
    let mut expr = expr.clone();
    if !has_calls(&expr) {
        return Ok((rows, expr));
    }
    for child in expr.children_mut() {
        let replaced;
        (rows, replaced) = replace_calls(planner, rows, child)?;
        *child = replaced;
    }
    Ok((rows, expr))
}

fn add(
    planner: &Planner,
    rows: Rows,
    id: RunningId,
    arguments: &[ast::Expr],
    by: &[ast::Expr],
    expr: &ast::Expr,
) -> Result<(Rows, String)> {
    if let Some(message) = id.info().wrong_count(arguments.len()) {
        return Err(SearchError::query(message, expr.span));
    }
    let scope = Scope::new(planner, &rows);
    let value = match arguments.first() {
        Some(argument) => scope.value(argument)?,
        // `running_count()` counts every row.
        None => Operand::new(lit(1_i64), ValueKind::Integer),
    };
    // A key that is missing in every row tells no rows apart.
    let keys = by.iter().map(|key| scope.value(key)).collect::<Result<Vec<_>>>()?;
    let keys: Vec<Expr> = keys.into_iter().filter(|key| key.kind != ValueKind::Null).map(|key| key.expr).collect();
    let order = following_order(&rows);
    // Without an order, the default frame is all rows.
    let all = || WindowFrame::new(None);
    let so_far = || {
        // Rows, not a range of values: rows with equal keys count one after the other. `None` means unbounded.
        let start = WindowFrameBound::Preceding(ScalarValue::UInt64(None));
        WindowFrame::new_bounds(WindowFrameUnits::Rows, start, WindowFrameBound::CurrentRow)
    };
    let window = |function, argument, order, frame| over_keys(aggregated(function, argument, order, frame), &keys);
    let distance = distance(arguments.get(1), expr.span)?;
    let numeric = || value.clone().numeric();
    // As in `count(condition)` of a group, only true conditions count.
    let counted = || case(value.clone().truth(), lit(1_i64), lit(ScalarValue::Int64(None)));
    let windows: Vec<Expr> = match id {
        RunningId::RunningCount => vec![window(count_udaf(), counted(), order, so_far())],
        RunningId::RunningSum => vec![window(sum_udaf(), summand(&numeric()), order, so_far())],
        RunningId::OverallCount => vec![window(count_udaf(), counted(), Vec::new(), all())],
        RunningId::OverallSum => vec![window(sum_udaf(), summand(&numeric()), Vec::new(), all())],
        RunningId::OverallMin => vec![window(min_udaf(), value.expr.clone(), Vec::new(), all())],
        RunningId::OverallMax => vec![window(max_udaf(), value.expr.clone(), Vec::new(), all())],
        RunningId::OverallAvg => vec![window(avg_udaf(), value.clone().number(), Vec::new(), all())],
        RunningId::RunningPercent => vec![
            window(sum_udaf(), value.clone().number(), order, so_far()),
            window(sum_udaf(), value.clone().number(), Vec::new(), all()),
        ],
        RunningId::PercentOfTotal => vec![window(sum_udaf(), value.clone().number(), Vec::new(), all())],
        RunningId::Prev | RunningId::Next => {
            let function = if id == RunningId::Prev { lag_udwf() } else { lead_udwf() };
            let function = WindowFunctionDefinition::WindowUDF(function);
            // A value that is always missing has no type.
            let value = if value.kind == ValueKind::Null { value.clone().text() } else { value.expr.clone() };
            vec![over_keys(over(function, vec![value, lit(distance)], order, WindowFrame::new(Some(true))), &keys)]
        }
        // Planned by itself.
        RunningId::Expand => return Err(SearchError::query("expand cannot stand here", expr.span)),
    };
    let is_sum = matches!(id, RunningId::RunningSum | RunningId::OverallSum);
    // Such sums are wide (see `whole`), as in groups.
    let whole_sum = is_sum && numeric().kind == ValueKind::Integer;
    let names: Vec<String> = windows.iter().map(|_| planner.planning.hidden()).collect();
    let result = planner.planning.hidden();
    // Both percentages divide by the last window: the sum over all rows.
    let unit = match (id, value.unit) {
        (RunningId::Prev | RunningId::Next | RunningId::OverallMin | RunningId::OverallMax, unit) => unit,
        (RunningId::RunningSum | RunningId::OverallSum | RunningId::OverallAvg, unit @ Unit::Span(_)) => unit,
        _ => Unit::None,
    };
    let part = if id == RunningId::RunningPercent { column(&names[0]) } else { value.clone().number() };
    let mut rows = rows;
    // Only what depends on the order has to keep it.
    let is_ordered = matches!(
        id,
        RunningId::RunningSum | RunningId::RunningCount | RunningId::RunningPercent | RunningId::Prev | RunningId::Next
    );
    if is_ordered && rows.is_sorted() {
        // A number for each row fixes the order of rows with equal keys.
        let number = planner.planning.hidden();
        let place = row_number(rows.following()).alias(&number);
        rows.plan = LogicalPlanBuilder::from(rows.plan).window([place])?.build()?;
        rows.order = RowOrder::Asked(vec![Key { column: number, descending: false }]);
    }
    // DataFusion puts windows of the same order into one node of the plan.
    for (window, name) in windows.into_iter().zip(&names) {
        rows.plan = LogicalPlanBuilder::from(rows.plan).window([window.alias(name)])?.build()?;
    }
    let last = column(&names[names.len() - 1]);
    let value = if matches!(id, RunningId::RunningPercent | RunningId::PercentOfTotal) {
        let share = binary(binary(part, Operator::Multiply, lit(100.0)), Operator::Divide, last.clone());
        // Of a total of 0 there is no share.
        case(binary(last, Operator::NotEq, lit(0.0)), share, lit(ScalarValue::Float64(None)))
    } else if whole_sum {
        whole::total(last)
    } else {
        last
    };
    let mut rows = rows.add_hidden(vec![(result.clone(), value)])?;
    rows.units.insert(result.clone(), unit);
    Ok((rows, result))
}

/// Returns how many rows away the row of `prev` or `next` is.
fn distance(argument: Option<&ast::Expr>, span: ast::Span) -> Result<i64> {
    match argument.map(|argument| &argument.kind) {
        None => Ok(1),
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the limits")]
        Some(ExprKind::Number(number)) if number.fract() == 0.0 && (1.0..=1e6).contains(number) => Ok(*number as i64),
        Some(_) => Err(SearchError::query("this takes a number of rows from 1 to 1000000: prev(x, 2)", span)),
    }
}

/// Returns a window function that sees the rows with the same keys only.
fn over_keys(window: Expr, keys: &[Expr]) -> Expr {
    match window {
        Expr::WindowFunction(mut window) => {
            window.params.partition_by = keys.to_vec();
            Expr::WindowFunction(window)
        }
        other => other,
    }
}

/// Returns the number of each row in an order, beginning with 1.
fn row_number(order_by: Vec<SortExpr>) -> Expr {
    over(WindowFunctionDefinition::WindowUDF(row_number_udwf()), Vec::new(), order_by, WindowFrame::new(Some(true)))
}

/// Returns an aggregate over a frame of rows.
pub(crate) fn aggregated(
    function: Arc<AggregateUDF>,
    argument: Expr,
    order_by: Vec<SortExpr>,
    window_frame: WindowFrame,
) -> Expr {
    over(WindowFunctionDefinition::AggregateUDF(function), vec![argument], order_by, window_frame)
}

fn over(fun: WindowFunctionDefinition, args: Vec<Expr>, order_by: Vec<SortExpr>, window_frame: WindowFrame) -> Expr {
    let params = WindowFunctionParams {
        args,
        partition_by: Vec::new(),
        order_by,
        window_frame,
        filter: None,
        null_treatment: None,
        distinct: false,
    };
    Expr::from(WindowFunction { fun, params })
}
