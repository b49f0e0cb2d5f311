//! Plans `array.expand()`: a row for each element.

use datafusion::{
    common::{Column, UnnestOptions},
    logical_expr::LogicalPlanBuilder,
};
use netconn_query::{
    ast::{self, ExprKind},
    catalogue::RunningId,
    function::PLACES,
    value::ValueKind,
};

use super::{
    Planner, newest_first,
    operand::{Operand, function},
    rows::{Key, RowOrder, Rows},
    scope::Scope,
};
use crate::engine::error::{Result, SearchError};

/// Makes the rows of each such call, and replaces the call by a hidden column that has the element.
pub(crate) fn replace_calls(planner: &Planner, rows: &mut Rows, expr: ast::Expr) -> Result<ast::Expr> {
    let is_call = |kind: &ExprKind| matches!(kind, ExprKind::Call { name, .. } if RunningId::by_name(name) == Some(RunningId::Expand));
    if !expr.has(is_call) {
        return Ok(expr);
    }
    let mut expr = expr;
    // From the inside outwards: the array may itself be made of elements.
    for child in expr.children_mut() {
        let inner = std::mem::replace(child, ast::Expr { kind: ExprKind::Null, span: child.span });
        *child = replace_calls(planner, rows, inner)?;
    }
    if let ExprKind::Call { name, arguments, .. } = &expr.kind
        && RunningId::by_name(name) == Some(RunningId::Expand)
    {
        if let Some(message) = RunningId::Expand.info().wrong_count(arguments.len()) {
            return Err(SearchError::query(message, expr.span));
        }
        let array = Scope::new(planner, rows).value(&arguments[0])?;
        let name = expanded(planner, rows, array, expr.span)?;
        expr.kind = ExprKind::Field(name);
    }
    Ok(expr)
}

/// Replaces each row by one for each element of an array, and returns the hidden column of the elements. A row without elements
/// is left out.
fn expanded(planner: &Planner, rows: &mut Rows, array: Operand, span: ast::Span) -> Result<String> {
    if !matches!(array.kind, ValueKind::List(_)) {
        // A value that is no array is its only element; a missing one has none.
        if array.kind != ValueKind::Null {
            return Err(SearchError::query("expand takes an array, and this is not one", span));
        }
        let name = planner.planning.hidden();
        let made = vec![(name.clone(), Operand::null().text())];
        *rows = rows.clone().add_hidden(made)?.filter(datafusion::logical_expr::lit(false))?;
        return Ok(name);
    }
    // The places keep the order of the elements, which no step behind this one would.
    let (element, place) = (planner.planning.hidden(), planner.planning.hidden());
    let places = function(PLACES, vec![array.expr.clone()]);
    let mut made = rows.clone().add_hidden(vec![(element.clone(), array.expr), (place.clone(), places)])?;
    let columns = [&element, &place].map(Column::new_unqualified).to_vec();
    let options = UnnestOptions::new().with_preserve_nulls(false);
    made.plan = LogicalPlanBuilder::from(made.plan).unnest_columns_with_options(columns, options)?.build()?;
    if made.order == RowOrder::None {
        // Events get their order here, so that the places follow it.
        made = newest_first(made);
        made.order = made.order.into_default();
    }
    if made.order != RowOrder::None {
        let is_asked = made.is_sorted();
        let mut keys = std::mem::replace(&mut made.order, RowOrder::None).into_keys();
        keys.push(Key { column: place, descending: false });
        made.order = if is_asked { RowOrder::Asked(keys) } else { RowOrder::Default(keys) };
    }
    *rows = made;
    Ok(element)
}
