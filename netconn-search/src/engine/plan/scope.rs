//! Turns expressions of the language into expressions of the plan.

use std::collections::BTreeMap;

use datafusion::{
    logical_expr::{Expr, Operator, lit},
    scalar::ScalarValue,
};
use netconn_model::field;
use netconn_query::{
    ast::{self, BinaryOp, Case, ExprKind, MatchSubject, Span},
    diagnostic::nearest,
    duration,
    function::CONTAINS,
    printer,
    value::{Unit, ValueKind},
    walk,
};

use super::{
    Planner,
    compare::{compare, is_milliseconds, is_moment, is_timestamp},
    member,
    opaque::weight,
    operand::{Operand, binary, case, cases, function, joined, unify},
    pattern,
    rows::{HIDDEN, Rows, column},
};
use crate::engine::{
    error::{Result, SearchError},
    function::whole,
};

/// Largest number of columns that a warning names.
const SHOWN: usize = 12;

/// Weight that an expression may have, whatever its length: 20,000 take about half a second to plan.
const WEIGHT: usize = 20_000;

/// Additional weight for each byte of the expression.
const WEIGHT_PER_BYTE: usize = 64;

/// Additional weight for each byte and each column, if the expression is about all columns.
const WEIGHT_PER_COLUMN: usize = 4;

/// What the names in an expression mean.
pub(crate) struct Scope<'a> {
    pub(crate) planner: &'a Planner,
    pub(crate) rows: &'a Rows,
    /// Names that are no columns: results of aggregates, a lambda's parameter.
    pub(crate) names: BTreeMap<String, Operand>,
    /// Number of enclosing lambdas of `reduce`.
    pub(crate) reduces: usize,
}

impl<'a> Scope<'a> {
    /// Returns the scope of these rows' columns.
    pub(crate) fn new(planner: &'a Planner, rows: &'a Rows) -> Self {
        Self { planner, rows, names: BTreeMap::new(), reduces: 0 }
    }

    /// Returns the value of a name; missing if nothing has it.
    pub(crate) fn field(&self, name: &str) -> Operand {
        if let Some(operand) = self.names.get(name) {
            return operand.clone();
        }
        match self.rows.resolve(name) {
            Some(found) => {
                let kind = self.rows.kind(&found);
                Operand::new(column(&found), kind).in_unit(self.rows.unit(&found))
            }
            None => Operand::null(),
        }
    }

    /// Warns about an unknown column whose existence only the data decide (tables, transposed values). The checker has
    /// already reported the others.
    fn look_for(&self, name: &str, span: Span) {
        let is_field = || field::by_name(name).is_some();
        if self.rows.events || self.names.contains_key(name) || self.rows.resolve(name).is_some() || is_field() {
            return;
        }
        let columns = self.rows.columns.iter().filter(|column| !column.starts_with(HIDDEN)).map(String::as_str);
        let shown: Vec<String> = columns.clone().take(SHOWN).map(printer::name).collect();
        let message =
            format!("there is no column '{name}' here, so it is null in every row: there are {}", shown.join(", "));
        self.planner.warn_with(message, Some(span), nearest(name, columns).map(printer::name));
    }

    /// Returns the value of an expression. A truth value is never missing, unless it is a field.
    pub(crate) fn value(&self, expr: &ast::Expr) -> Result<Operand> {
        let value = self.value_of(expr)?;
        self.sized(&value.expr, expr)?;
        Ok(value)
    }

    /// Returns whether an expression is true. The result may be missing, which counts as false: so comparisons stay
    /// plain, and Parquet files can be skipped by them.
    pub(crate) fn condition(&self, expr: &ast::Expr) -> Result<Expr> {
        let condition = self.condition_of(expr)?;
        self.sized(&condition, expr)?;
        Ok(condition)
    }

    fn value_of(&self, expr: &ast::Expr) -> Result<Operand> {
        Ok(match &expr.kind {
            ExprKind::Null => Operand::null(),
            ExprKind::Bool(value) => Operand::new(lit(*value), ValueKind::Bool),
            ExprKind::Number(number) => Operand::from_number(*number),
            ExprKind::Whole(number) => Operand::integer(*number),
            ExprKind::Text(text) => Operand::from_text(text),
            ExprKind::Field(name) => {
                self.look_for(name, expr.span);
                self.field(name)
            }
            ExprKind::Negative(inner) => self.negative(inner)?,
            ExprKind::Binary { op: BinaryOp::Or, .. } | ExprKind::Ternary { .. } => self.value_and_truth(expr)?.0,
            ExprKind::Binary { op, left, right } if arithmetic(*op).is_some() => self.arithmetic(*op, left, right)?,
            ExprKind::Call { name, arguments, .. } => self.call(name, arguments, expr.span)?,
            ExprKind::Lambda { .. } => {
                let message = "a function (func(x) -> …) can only be an argument of map, filter, match_any, match_all, reduce \
                               and zip";
                return Err(SearchError::query(message, expr.span));
            }
            // `condition_of` handles every kind that ends here, so the two do not call each other for ever.
            _ => Operand::new(Expr::IsTrue(Box::new(self.condition(expr)?)), ValueKind::Bool),
        })
    }

    fn condition_of(&self, expr: &ast::Expr) -> Result<Expr> {
        Ok(match &expr.kind {
            ExprKind::Not(inner) => Expr::IsNotTrue(Box::new(self.condition(inner)?)),
            ExprKind::Binary { op: op @ (BinaryOp::And | BinaryOp::Or), .. } => {
                // A chain is planned as a balanced tree, because DataFusion walks plans recursively.
                let operands = walk::operands(*op, expr)
                    .into_iter()
                    .map(|operand| self.condition(operand))
                    .collect::<Result<_>>()?;
                let all = *op == BinaryOp::And;
                joined(operands, if all { Operator::And } else { Operator::Or }, all)
            }
            ExprKind::Binary { op, left, right } if arithmetic(*op).is_none() => {
                compare(*op, self.value(left)?, self.value(right)?)
            }
            ExprKind::Present(inner) => {
                let inner = self.value(inner)?;
                match inner.kind {
                    // No row has a value, which a literal says without reading any.
                    ValueKind::Null => lit(false),
                    _ => Expr::IsNotNull(Box::new(inner.expr)),
                }
            }
            ExprKind::Match { op, case, subject, patterns } => self.matches(*op, *case, subject, patterns)?,
            ExprKind::In { case, value, set } => {
                let set = set.iter().map(|element| self.value(element)).collect::<Result<Vec<_>>>()?;
                member::member(&self.value(value)?, set, *case == Case::Insensitive)
            }
            ExprKind::InQuery { .. } => {
                let message = "a subquery can stand in a filter, let, columns or group only";
                return Err(SearchError::query(message, expr.span));
            }
            ExprKind::Anywhere(text) => {
                let pattern = ast::Expr { kind: ExprKind::Text(text.clone()), span: expr.span };
                self.matches(ast::MatchOp::Contains, Case::Insensitive, &MatchSubject::AnyField, &[pattern])?
            }
            ExprKind::AnywhereRegex(regex) => {
                let pattern = ast::Expr { kind: ExprKind::Text(regex.clone()), span: expr.span };
                self.matches(ast::MatchOp::Matches, Case::Insensitive, &MatchSubject::AnyField, &[pattern])?
            }
            // Each branch decides as its own kind, not as the common kind of both.
            ExprKind::Ternary { condition, then, otherwise } => {
                case(self.condition(condition)?, self.condition(then)?, self.condition(otherwise)?)
            }
            // Only kinds that `value_of` handles itself end here.
            _ => self.value(expr)?.truth(),
        })
    }

    fn matches(&self, op: ast::MatchOp, case: Case, subject: &MatchSubject, patterns: &[ast::Expr]) -> Result<Expr> {
        let subjects: Vec<Expr> = match subject {
            MatchSubject::Value(value) => {
                let value = self.value(value)?;
                // An array contains an element; all other operators look at its text.
                if op == ast::MatchOp::Contains && matches!(value.kind, ValueKind::List(_)) {
                    let has = |pattern| Ok(function(CONTAINS, vec![value.expr.clone(), self.value(pattern)?.expr]));
                    let any = patterns.iter().map(has).collect::<Result<Vec<_>>>()?;
                    return Ok(joined(any, Operator::Or, false));
                }
                if value.kind == ValueKind::Null {
                    return Ok(lit(false));
                }
                vec![value.text()]
            }
            MatchSubject::AnyField => {
                self.rows.columns.iter().map(|name| Operand::new(column(name), self.rows.kind(name)).text()).collect()
            }
        };
        let insensitive = case == Case::Insensitive;
        let mut any = Vec::with_capacity(subjects.len() * patterns.len());
        for pattern in patterns {
            let value = self.value(pattern)?;
            // `contains 443` looks for the digits as they are written.
            let value = if value.is_literal() && value.kind.is_numeric() { number_text(pattern) } else { value };
            for subject in &subjects {
                any.push(pattern::matches(op, insensitive, subject.clone(), value.clone(), pattern.span)?);
            }
        }
        Ok(joined(any, Operator::Or, false))
    }

    /// Returns the value of an expression and whether it is true as its own kind, which `or` and `?` choose from.
    /// Planning both at once keeps the time from doubling with each level.
    fn value_and_truth(&self, expr: &ast::Expr) -> Result<(Operand, Expr)> {
        Ok(match &expr.kind {
            // `or` returns the first operand that is true as its own kind, else the last.
            ExprKind::Binary { op: BinaryOp::Or, .. } => {
                let operands = walk::operands(BinaryOp::Or, expr);
                let (values, conditions): (Vec<_>, Vec<_>) = operands
                    .into_iter()
                    .map(|operand| self.value_and_truth(operand))
                    .collect::<Result<Vec<_>>>()?
                    .into_iter()
                    .unzip();
                // The conditions are used twice, for the value and for its truth: `sized` bounds what that costs.
                let any = joined(conditions.clone(), Operator::Or, false);
                if values.iter().all(|value| value.kind == ValueKind::Bool) {
                    return Ok((Operand::new(Expr::IsTrue(Box::new(any.clone())), ValueKind::Bool), any));
                }
                let (mut values, kind) = unify(values);
                // The last operand is the value if none is true, so it needs no condition. A chain has two operands or
                // more.
                let Some(last) = values.pop() else { return Ok((Operand::null(), lit(false))) };
                (Operand::new(cases(conditions.into_iter().zip(values), last), kind), any)
            }
            ExprKind::Ternary { condition, then, otherwise } => {
                let condition = self.condition(condition)?;
                let ((then, is_then), (otherwise, is_otherwise)) =
                    (self.value_and_truth(then)?, self.value_and_truth(otherwise)?);
                let kind = then.kind.with(otherwise.kind);
                let unit = then.unit.with(otherwise.unit);
                let value = case(condition.clone(), then.to(kind), otherwise.to(kind));
                (Operand::new(value, kind).in_unit(unit), case(condition, is_then, is_otherwise))
            }
            _ => {
                let value = self.value(expr)?;
                (value.clone(), value.truth())
            }
        })
    }

    /// Refuses an expression that is too heavy to plan: some operators use an operand twice, so nesting multiplies.
    fn sized(&self, planned: &Expr, expr: &ast::Expr) -> Result<()> {
        let (weight, length) = (weight(planned), expr.span.end.saturating_sub(expr.span.start));
        // Long queries may be heavy; short ones are heavy only if something in them multiplies.
        if weight <= WEIGHT + WEIGHT_PER_BYTE * length {
            return Ok(());
        }
        // A search in all fields is a search in each column.
        let whole = |kind: &ExprKind| {
            matches!(
                kind,
                ExprKind::Anywhere(_)
                    | ExprKind::AnywhereRegex(_)
                    | ExprKind::Match { subject: MatchSubject::AnyField, .. }
            )
        };
        if expr.has(whole) && weight <= WEIGHT + WEIGHT_PER_COLUMN * self.rows.columns.len() * length {
            return Ok(());
        }
        let message = "this is nested too heavily to be planned: name a part of it with let";
        Err(SearchError::query(message, expr.span))
    }

    fn negative(&self, inner: &ast::Expr) -> Result<Operand> {
        if let ExprKind::Number(number) = inner.kind {
            // `0.0 - 0.0` is 0, where `-0.0` would be another value for groups and sorts.
            return Ok(Operand::from_number(0.0 - number));
        }
        let inner = self.value(inner)?;
        let unit = if let Unit::Span(_) = inner.unit { inner.unit } else { Unit::None };
        let inner = inner.numeric();
        let negative = match inner.kind {
            // As above: a minus sign alone would make -0 of 0.
            ValueKind::Number => Operand::new(binary(lit(0.0), Operator::Minus, inner.expr), ValueKind::Number),
            kind => Operand::new(Expr::Negative(Box::new(inner.expr)), kind),
        };
        Ok(negative.in_unit(unit))
    }

    fn arithmetic(&self, op: BinaryOp, left: &ast::Expr, right: &ast::Expr) -> Result<Operand> {
        let (left, right) = (self.value(left)?, self.value(right)?);
        if let Some(moment) = moved(op, &left, &right) {
            return Ok(moment);
        }
        let (left, right, unit) = match (op, left.unit, right.unit) {
            // Two moments of different units are both counted in nanoseconds.
            (BinaryOp::Subtract, one, other) if is_moment(&left) && is_moment(&right) => {
                let unit = Unit::of_difference(one, other);
                match is_milliseconds(&left) && is_milliseconds(&right) {
                    true => (left, right, unit),
                    false => (moment(left), moment(right), unit),
                }
            }
            (BinaryOp::Add | BinaryOp::Subtract, Unit::Span(one), Unit::Span(other)) if one == other => {
                (left, right, Unit::Span(one))
            }
            (BinaryOp::Add | BinaryOp::Subtract, Unit::Span(one), Unit::Span(other)) => {
                let span = |operand: Operand, unit| Operand::new(operand.nanoseconds(unit), ValueKind::Integer);
                (span(left, one), span(right, other), Unit::Span(1))
            }
            _ => (left, right, Unit::None),
        };
        // `timestamp` is a text, but in arithmetic it counts nanoseconds.
        let counts =
            (is_timestamp(&left) && right.kind.is_numeric()) || (left.kind.is_numeric() && is_timestamp(&right));
        if op == BinaryOp::Add && !counts && (left.kind == ValueKind::Text || right.kind == ValueKind::Text) {
            let joined = binary(left.text(), Operator::StringConcat, right.text());
            return Ok(Operand::new(joined, ValueKind::Text));
        }
        // The caller has matched the operator already.
        let operator = arithmetic(op).unwrap_or(Operator::Plus);
        let (left, right) = (left.numeric(), right.numeric());
        let both_whole = left.kind == ValueKind::Integer && right.kind == ValueKind::Integer;
        let result = match op {
            // A division by 0 has a missing result.
            BinaryOp::Divide => number(binary(left.number(), operator, not_zero(right.number()))),
            BinaryOp::Remainder if both_whole => {
                // A remainder by 0 would end the query with an error.
                let zero = datafusion::functions::core::expr_fn::nullif(right.expr, lit(0_i64));
                Operand::new(binary(left.expr, operator, zero), ValueKind::Integer)
            }
            BinaryOp::Remainder => number(binary(left.number(), operator, not_zero(right.number()))),
            BinaryOp::Add if both_whole => Operand::new(whole::add(left.expr, right.expr), ValueKind::Integer),
            BinaryOp::Subtract if both_whole => {
                Operand::new(whole::subtract(left.expr, right.expr), ValueKind::Integer)
            }
            // A product of whole numbers may be too large for one, so it is a 64-bit float.
            _ => number(binary(left.number(), operator, right.number())),
        };
        Ok(result.in_unit(unit))
    }
}

/// Returns a moment moved by a span of time: one in quotes, like `now() - '1h'`, or a difference of moments; `None` for other
/// operands.
fn moved(op: BinaryOp, left: &Operand, right: &Operand) -> Option<Operand> {
    let written = |operand: &Operand| operand.literal_text().and_then(duration::span);
    let span = |operand: &Operand| match operand.unit {
        Unit::Span(unit) => Some(operand.clone().nanoseconds(unit)),
        _ => written(operand).map(lit),
    };
    let (time, moving, nanos) = match (span(left), span(right)) {
        (None, Some(nanos)) if is_moment(left) => (left, right, nanos),
        (Some(nanos), None) if is_moment(right) && op == BinaryOp::Add => (right, left, nanos),
        _ => return None,
    };
    // A moment that is known stays a literal, by which files and row groups can be skipped.
    if let (Some(nanos), Expr::Literal(ScalarValue::TimestampNanosecond(Some(known), zone), _)) =
        (written(moving), &time.expr)
        && let Some(sum) = known.checked_add(if op == BinaryOp::Subtract { nanos.checked_neg()? } else { nanos })
    {
        return Some(Operand::new(lit(ScalarValue::TimestampNanosecond(Some(sum), zone.clone())), ValueKind::Time));
    }
    let time = moment(time.clone()).numeric().expr;
    let sum = match op {
        BinaryOp::Add => whole::add(time, nanos),
        BinaryOp::Subtract => whole::subtract(time, nanos),
        _ => return None,
    };
    Some(moment(Operand::new(sum, ValueKind::Integer)))
}

/// Converts a value to the moment that it stands for.
fn moment(operand: Operand) -> Operand {
    Operand::new(operand.to(ValueKind::Time), ValueKind::Time)
}

/// Returns the result of arithmetic. Adding 0 turns -0 into 0, because sorts and distinct values tell them apart.
fn number(result: Expr) -> Operand {
    Operand::new(binary(result, Operator::Plus, lit(0.0)), ValueKind::Number)
}

fn not_zero(number: Expr) -> Expr {
    datafusion::functions::core::expr_fn::nullif(number, lit(0.0))
}

/// Returns DataFusion's operator for one of arithmetic.
fn arithmetic(op: BinaryOp) -> Option<Operator> {
    match op {
        BinaryOp::Add => Some(Operator::Plus),
        BinaryOp::Subtract => Some(Operator::Minus),
        BinaryOp::Multiply => Some(Operator::Multiply),
        BinaryOp::Divide => Some(Operator::Divide),
        BinaryOp::Remainder => Some(Operator::Modulo),
        _ => None,
    }
}

/// Takes a number in a list of patterns as its text in the query.
fn number_text(expr: &ast::Expr) -> Operand {
    match expr.kind {
        ExprKind::Number(number) => Operand::from_text(&number.to_string()),
        ExprKind::Whole(number) => Operand::from_text(&number.to_string()),
        _ => Operand::null(),
    }
}
