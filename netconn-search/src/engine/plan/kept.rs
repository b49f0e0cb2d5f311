//! What columns that commands have made cost to write out again.
//!
//! DataFusion takes conditions below the projection that makes a column, and puts what the column is made of in its place. When each of
//! a dozen `let` names the column before it twice, that is thousands of times the same.

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

/// What a column may weigh, written out all the way down to the events, so that it is still written out.
const WEIGHT: usize = 256;

/// Buffers that texts may lie in: those of a few files are left as they are.
const BUFFERS: usize = 16;

/// The name of the function.
const NAME: &str = "_kept";

/// Puts columns that are made of much into a function that DataFusion does not look into.
#[derive(Debug)]
pub(crate) struct Keep;

impl AnalyzerRule for Keep {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(keep(plan)?.0)
    }

    fn name(&self) -> &'static str {
        "keep"
    }
}

/// What an expression costs to plan: its nodes, but for literals, of which there are as many as the query or a subquery has. DataFusion
/// asks each condition and result of a `CASE` for its type, and then whether it can be missing (`Expr::to_field`): what stands in it costs
/// twice, and four times in a `CASE` within another.
pub(super) fn weight(expr: &Expr) -> usize {
    weight_with(expr, &|_| 1)
}

/// The same, with what the columns of the expression weigh.
fn weight_with(expr: &Expr, column: &impl Fn(&Column) -> usize) -> usize {
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
            // Nothing in it fails.
            let _ = expr.apply_children(|part| {
                weight = weight.saturating_add(weight_with(part, column));
                Ok(TreeNodeRecursion::Continue)
            });
            weight
        }
    }
}

/// The plan with the function where it is needed, and what each of its columns weighs.
fn keep(plan: LogicalPlan) -> Result<(LogicalPlan, Vec<usize>)> {
    let mut inputs: Vec<Vec<usize>> = Vec::new();
    let plan = plan.map_children(|input| {
        let (input, weights) = keep(input)?;
        inputs.push(weights);
        Ok(Transformed::yes(input))
    })?;
    let plan = plan.data;
    let mut weights: Vec<usize> = match &plan {
        LogicalPlan::Projection(projection) => {
            let inputs = inputs.pop().unwrap_or_default();
            return keep_columns(projection.clone(), &inputs);
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
            let longest = |mut one: Vec<usize>, other: Vec<usize>| {
                one.iter_mut().zip(other).for_each(|(one, other)| *one = other.max(*one));
                one
            };
            inputs.into_iter().reduce(longest).unwrap_or_default()
        }
        // The columns of the inputs, one input after the other; windows add some of their own.
        _ => inputs.concat(),
    };
    weights.resize(plan.schema().fields().len(), 1);
    Ok((plan, weights))
}

fn of_column(schema: &DFSchema, weights: &[usize], name: &Column) -> usize {
    schema.maybe_index_of_column(name).and_then(|place| weights.get(place)).copied().unwrap_or(1)
}

fn keep_columns(projection: Projection, inputs: &[usize]) -> Result<(LogicalPlan, Vec<usize>)> {
    let Projection { expr, input, schema, .. } = projection;
    let mut weights = Vec::with_capacity(expr.len());
    let mut all = Vec::with_capacity(expr.len());
    for (expr, (qualifier, field)) in expr.into_iter().zip(schema.iter()) {
        let own = weight_with(&expr, &|name| of_column(input.schema(), inputs, name));
        if own <= WEIGHT || matches!(expr, Expr::Column(_)) {
            weights.push(own);
            all.push(expr);
        } else {
            weights.push(1);
            all.push(kept(expr.unalias()).alias_qualified(qualifier.cloned(), field.name()));
        }
    }
    Ok((LogicalPlan::Projection(Projection::try_new_with_schema(all, input, schema)?), weights))
}

/// Whether the plan is a filter above columns that are kept.
pub(crate) fn filters_kept(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else { return false };
    let mut input = &filter.input;
    while let LogicalPlan::Projection(projection) = input.as_ref() {
        if projection.expr.iter().any(is_kept) {
            return true;
        }
        input = &projection.input;
    }
    false
}

fn is_kept(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_kept(&alias.expr),
        Expr::ScalarFunction(call) => call.name() == NAME,
        _ => false,
    }
}

/// The value of an expression, of which DataFusion knows nothing.
pub(super) fn kept(expr: Expr) -> Expr {
    ScalarUDF::from(Kept(Signature::any(1, Volatility::Volatile))).call(vec![expr])
}

/// Gives what it is given. It is said to change from one call to the next: such columns stay where they are made.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kept(Signature);

impl ScalarUDFImpl for Kept {
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
            value => value.clone(),
        })
    }
}

/// Texts with buffers of their own. A `CASE` puts the lists of buffers of its results together, as often as they are there
/// (`MutableArrayData`): a chain of them that names a text twice has twice as many with each step.
fn compact(array: &ArrayRef) -> ArrayRef {
    match array.as_string_view_opt() {
        Some(texts) if texts.data_buffers().len() > BUFFERS => Arc::new(texts.gc()),
        _ => Arc::clone(array),
    }
}
