//! Tells which expressions are moments, as far as their form does, so that advice about spans of time is right.

use super::scope::Scope;
use crate::{
    ast::{BinaryOp, Expr, ExprKind},
    catalogue::{AggregateId, FunctionId, PlainId, RunningId, functions},
    duration,
};

/// Whether an expression is a moment.
pub(super) fn is_moment(expr: &Expr, scope: &Scope) -> bool {
    match &expr.kind {
        ExprKind::Field(name) => scope.is_moment(name),
        ExprKind::Call { name, arguments, .. } => functions(name).any(|function| {
            returns_moment(function.id)
                || (returns_first_argument(function.id)
                    && arguments.first().is_some_and(|first| is_moment(first, scope)))
        }),
        ExprKind::Binary { op: BinaryOp::Add, left, right } => {
            (is_moment(left, scope) && is_span(right)) || (is_span(left) && is_moment(right, scope))
        }
        ExprKind::Binary { op: BinaryOp::Subtract, left, right } => is_moment(left, scope) && is_span(right),
        ExprKind::Ternary { condition: _, then, otherwise } => is_moment(then, scope) && is_moment(otherwise, scope),
        _ => false,
    }
}

/// Whether an expression is a moment, or may be one for all that is known: only the data decide what some columns are.
pub(super) fn may_be_moment(expr: &Expr, scope: &Scope) -> bool {
    is_moment(expr, scope) || matches!(&expr.kind, ExprKind::Field(name) if scope.is_of_data(name))
}

fn is_span(expr: &Expr) -> bool {
    matches!(&expr.kind, ExprKind::Text(text) if duration::span(text).is_some())
}

fn returns_moment(id: FunctionId) -> bool {
    use PlainId::{Now, Queryend, Querystart, Simpledateparse, Strptime, Timebucket};
    matches!(id, FunctionId::Plain(Now | Queryend | Querystart | Simpledateparse | Strptime | Timebucket))
}

/// Whether a function returns one of the values of its first argument.
fn returns_first_argument(id: FunctionId) -> bool {
    use AggregateId::{Any, First, Last, Max, MaxBy, Min, MinBy, Newest, Oldest};
    use RunningId::{Next, OverallMax, OverallMin, Prev};
    match id {
        FunctionId::Plain(id) => matches!(id, PlainId::Min | PlainId::Max),
        FunctionId::Aggregate(id) => matches!(id, Min | Max | First | Last | Newest | Oldest | Any | MinBy | MaxBy),
        FunctionId::Running(id) => matches!(id, OverallMin | OverallMax | Prev | Next),
    }
}
