//! Keeps DataFusion from copying heavy expressions of columns into later steps.
//!
//! DataFusion moves conditions below the projection that makes a column, and puts the column's expression in its place.
//! When each of a dozen `let` names the column before it twice, the expression is there thousands of times.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray},
        datatypes::DataType,
    },
    common::{
        Column, DFSchema, Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        ColumnarValue, Expr, LogicalPlan, Projection, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        Volatility,
    },
    optimizer::AnalyzerRule,
};

/// Largest weight of a column, written out down to the events, at which DataFusion may still copy its expression.
const WEIGHT: usize = 256;

/// Number of buffers of a text column up to which it stays as it is.
const BUFFERS: usize = 16;

/// Name of the function in plans.
const NAME: &str = "_opaque";

/// Analyzer rule that wraps heavy columns in a function that DataFusion does not look into.
#[derive(Debug)]
pub(crate) struct HideWideColumns;

impl AnalyzerRule for HideWideColumns {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(hide_columns(plan)?.0)
    }

    fn name(&self) -> &'static str {
        "hide_wide_columns"
    }
}

/// Returns what an expression costs to plan: the number of its nodes without literals, of which a subquery may bring
/// millions. DataFusion asks each branch of a `CASE` for its type and then whether it can be missing
/// (`Expr::to_field`), so a branch counts twice, and four times in a `CASE` within another.
pub(super) fn weight(expr: &Expr) -> usize {
    weight_with(expr, &|_| 1)
}

/// Returns the weight of an expression whose columns have weights of their own.
fn weight_with(expr: &Expr, column: &impl Fn(&Column) -> usize) -> usize {
    // Saturating everywhere: weights double with each level and would overflow.
    let twice = |part: &Expr| weight_with(part, column).saturating_mul(2);
    match expr {
        Expr::Literal(..) => 0,
        Expr::Column(name) => column(name),
        Expr::Case(case) => {
            let branches = case.when_then_expr.iter().map(|(when, then)| twice(when).saturating_add(twice(then)));
            let otherwise = case.else_expr.iter().map(|otherwise| weight_with(otherwise, column));
            branches.chain(otherwise).fold(1, usize::saturating_add)
        }
        _ => {
            let mut weight = 1_usize;
            // The closure never fails.
            let _ = expr.apply_children(|part| {
                weight = weight.saturating_add(weight_with(part, column));
                Ok(TreeNodeRecursion::Continue)
            });
            weight
        }
    }
}

/// Returns the plan with the function where it is needed, and the weight of each of its columns.
fn hide_columns(plan: LogicalPlan) -> Result<(LogicalPlan, Vec<usize>)> {
    let mut inputs: Vec<Vec<usize>> = Vec::new();
    // From the leaves upwards, because the weight of a column includes that of the columns that it is made of.
    let plan = plan.map_children(|input| {
        let (input, weights) = hide_columns(input)?;
        inputs.push(weights);
        Ok(Transformed::yes(input))
    })?;
    let plan = plan.data;
    let mut weights: Vec<usize> = match &plan {
        LogicalPlan::Projection(projection) => {
            let inputs = inputs.pop().unwrap_or_default();
            // Only projections make columns whose expressions DataFusion copies.
            return hide_wide_columns(projection.clone(), &inputs);
        }
        LogicalPlan::Aggregate(aggregate) => {
            let inputs = inputs.pop().unwrap_or_default();
            let schema = aggregate.input.schema();
            aggregate
                .group_expr
                .iter()
                .map(|expr| weight_with(expr, &|name| of_column(schema, &inputs, name)))
                .collect()
        }
        LogicalPlan::Union(_) => {
            // A condition is copied into each side, so the heaviest side counts.
            let longest = |mut one: Vec<usize>, other: Vec<usize>| {
                one.iter_mut().zip(other).for_each(|(one, other)| *one = other.max(*one));
                one
            };
            inputs.into_iter().reduce(longest).unwrap_or_default()
        }
        // Columns come from the inputs, one input after the other; windows append their own.
        _ => inputs.concat(),
    };
    // Aggregates and windows compute their columns, so nothing can be written out in their place: each weighs 1.
    weights.resize(plan.schema().fields().len(), 1);
    Ok((plan, weights))
}

fn of_column(schema: &DFSchema, weights: &[usize], name: &Column) -> usize {
    // A column that cannot be found is counted as a plain one; the weight is an estimate.
    schema.maybe_index_of_column(name).and_then(|place| weights.get(place)).copied().unwrap_or(1)
}

fn hide_wide_columns(projection: Projection, inputs: &[usize]) -> Result<(LogicalPlan, Vec<usize>)> {
    let Projection { expr, input, schema, .. } = projection;
    let mut weights = Vec::with_capacity(expr.len());
    let mut all = Vec::with_capacity(expr.len());
    for (expr, (qualifier, field)) in expr.into_iter().zip(schema.iter()) {
        let own = weight_with(&expr, &|name| of_column(input.schema(), inputs, name));
        // A plain column is not wrapped: its own projection below has been, if it was heavy.
        if own <= WEIGHT || matches!(expr, Expr::Column(_)) {
            weights.push(own);
            all.push(expr);
        } else {
            // Behind the function a column costs one node, whatever it is made of.
            weights.push(1);
            // The alias has to stay outermost, because the schema of the projection goes by it.
            all.push(opaque(expr.unalias()).alias_qualified(qualifier.cloned(), field.name()));
        }
    }
    Ok((LogicalPlan::Projection(Projection::try_new_with_schema(all, input, schema)?), weights))
}

/// Whether the plan is a filter above wrapped columns.
pub(crate) fn filters_opaque(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else { return false };
    let mut input = &filter.input;
    while let LogicalPlan::Projection(projection) = input.as_ref() {
        if projection.expr.iter().any(is_opaque) {
            return true;
        }
        input = &projection.input;
    }
    false
}

fn is_opaque(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_opaque(&alias.expr),
        Expr::ScalarFunction(call) => call.name() == NAME,
        _ => false,
    }
}

/// Wraps an expression so that DataFusion does not look into it.
pub(super) fn opaque(expr: Expr) -> Expr {
    ScalarUDF::from(Opaque(Signature::any(1, Volatility::Volatile))).call(vec![expr])
}

/// Identity function, declared volatile so that the optimizer does not copy the column's expression into later steps.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Opaque(Signature);

impl ScalarUDFImpl for Opaque {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(match &arguments.args[0] {
            ColumnarValue::Array(array) => ColumnarValue::Array(compact(array)),
            value @ ColumnarValue::Scalar(_) => value.clone(),
        })
    }
}

/// Compacts string views. `CASE` concatenates the buffer lists of its branches (`MutableArrayData`), so a chain of them
/// doubles the list at each step.
fn compact(array: &ArrayRef) -> ArrayRef {
    match array.as_string_view_opt() {
        // `gc` copies the texts, so it is worth it only where lists of buffers have begun to grow.
        Some(texts) if texts.data_buffers().len() > BUFFERS => Arc::new(texts.gc()),
        _ => Arc::clone(array),
    }
}
