//! Aggregates: what is made of all rows of a group.

use std::sync::Arc;

use datafusion::{
    functions_aggregate::{
        approx_distinct::approx_distinct_udaf,
        array_agg::array_agg_udaf,
        average::avg_udaf,
        bool_and_or::{bool_and_udaf, bool_or_udaf},
        count::count_udaf,
        first_last::{first_value_udaf, last_value_udaf},
        min_max::{max_udaf, min_udaf},
        percentile_cont::percentile_cont_udaf,
        stddev::stddev_udaf,
        sum::sum_udaf,
    },
    logical_expr::{AggregateUDF, Expr, Operator, SortExpr, expr::AggregateFunction, lit},
};
use netconn_model::field::Field;
use netconn_query::ast::{self, ExprKind, Span};

use super::{
    operand::{Operand, binary, case, cast, function},
    rows::{column, ordering},
    scope::Scope,
};
use crate::engine::{
    error::{Result, SearchError},
    function::{value::Kind, whole},
};

/// Names of aggregates, but for `pN`.
const NAMES: [&str; 28] = [
    "all_true",
    "any",
    "any_true",
    "array_agg",
    "array_agg_distinct",
    "average",
    "avg",
    "count",
    "count_distinct",
    "estimate_distinct",
    "first",
    "hacklist",
    "last",
    "max",
    "max_by",
    "mean",
    "median",
    "min",
    "min_by",
    "newest",
    "oldest",
    "pct",
    "percentile",
    "stddev",
    "sum",
    "p50",
    "p99",
    "p999",
];

/// Whether a call is one of an aggregate. `min` and `max` of several values are not.
pub(crate) fn is_aggregate(name: &str, arguments: usize) -> bool {
    match name {
        "min" | "max" => arguments == 1,
        _ => NAMES.contains(&name) || percent(name).is_some(),
    }
}

/// The share of a `p95` or `p999`, 0 to 1.
fn percent(name: &str) -> Option<f64> {
    let digits = name.strip_prefix('p')?;
    if !(2..=4).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = 10_f64.powi(i32::try_from(digits.len()).ok()?);
    Some(digits.parse::<f64>().ok()? / scale)
}

/// An aggregate, and what is made of its result.
pub(crate) struct Aggregate {
    /// For DataFusion.
    pub(crate) expr: Expr,
    /// What is made of the result.
    pub(crate) after: Option<After>,
    /// Kind of the result.
    pub(crate) kind: Kind,
}

/// What is made of the result of an aggregate.
#[derive(PartialEq)]
pub(crate) enum After {
    /// It is given to a function of the table, with a second argument.
    Call(&'static str, Option<Expr>),
    /// It is a sum of whole numbers.
    Total,
}

/// What an aggregate is given.
struct Given {
    arguments: Vec<Expr>,
    filter: Option<Expr>,
    order: Vec<SortExpr>,
    distinct: bool,
}

impl Given {
    fn of(value: Expr, filter: Option<Expr>) -> Self {
        Self { arguments: vec![value], filter, order: Vec::new(), distinct: false }
    }

    fn ordered(self, order: Vec<SortExpr>) -> Self {
        Self { order, ..self }
    }

    fn call(self, function: Arc<AggregateUDF>) -> Expr {
        let filter = self.filter.map(Box::new);
        Expr::AggregateFunction(AggregateFunction::new_udf(
            function,
            self.arguments,
            self.distinct,
            filter,
            self.order,
            None,
        ))
    }
}

/// Both, if there are two.
fn both(left: Option<Expr>, right: Expr) -> Option<Expr> {
    Some(match left {
        Some(left) => binary(left, Operator::And, right),
        None => right,
    })
}

fn there(value: &Operand) -> Expr {
    Expr::IsNotNull(Box::new(value.expr.clone()))
}

impl Scope<'_> {
    /// Plans a call of an aggregate.
    pub(crate) fn aggregate(
        &self,
        name: &str,
        arguments: &[ast::Expr],
        condition: Option<&ast::Expr>,
        span: Span,
    ) -> Result<Aggregate> {
        let filter = condition.map(|condition| self.condition(condition)).transpose()?;
        let plain = |expr: Expr, kind: Kind| Aggregate { expr, after: None, kind };
        if name == "count" {
            let filter = match arguments.first() {
                Some(condition) => both(filter, self.condition(condition)?),
                None => filter,
            };
            return Ok(plain(Given::of(lit(1_i64), filter).call(count_udaf()), Kind::Integer));
        }
        let Some(first) = arguments.first() else {
            return Err(SearchError::query(format!("{name} needs to know of what: {name}(x)"), span));
        };
        let value = self.value(first)?;
        Ok(match name {
            "sum" => {
                let value = match value.kind {
                    Kind::Bool => Operand::new(case(value.expr, lit(1_i64), lit(0_i64)), Kind::Integer),
                    _ => value.numeric(),
                };
                let after = (value.kind == Kind::Integer).then_some(After::Total);
                Aggregate { expr: Given::of(summand(&value), filter).call(sum_udaf()), after, kind: value.kind }
            }
            "avg" | "mean" | "average" => plain(Given::of(value.number(), filter).call(avg_udaf()), Kind::Number),
            "stddev" => plain(Given::of(value.number(), filter).call(stddev_udaf()), Kind::Number),
            "min" | "max" => {
                let value = comparable(value);
                let function = if name == "min" { min_udaf() } else { max_udaf() };
                plain(Given::of(value.expr, filter).call(function), value.kind)
            }
            "median" => self.percentile(value, 0.5, filter),
            "pct" | "percentile" => {
                let (value, share) = self.share(arguments, span)?;
                self.percentile(value, share, filter)
            }
            "estimate_distinct" => {
                let value = if matches!(value.kind, Kind::Text | Kind::Integer) { value.expr } else { value.text() };
                plain(cast(Given::of(value, filter).call(approx_distinct_udaf()), Kind::Integer), Kind::Integer)
            }
            "count_distinct" => {
                let given = Given { distinct: true, ..Given::of(comparable(value).expr, filter) };
                plain(given.call(count_udaf()), Kind::Integer)
            }
            "any_true" => plain(Given::of(self.two(first)?, filter).call(bool_or_udaf()), Kind::Bool),
            "all_true" => plain(Given::of(self.two(first)?, filter).call(bool_and_udaf()), Kind::Bool),
            "any" => {
                let filter = both(filter, there(&value));
                plain(Given::of(value.expr, filter).call(first_value_udaf()), value.kind)
            }
            "first" => plain(Given::of(value.expr, filter).ordered(self.order()).call(first_value_udaf()), value.kind),
            "last" => plain(Given::of(value.expr, filter).ordered(self.order()).call(last_value_udaf()), value.kind),
            "newest" => {
                self.has_time(name, span);
                plain(Given::of(value.expr, filter).ordered(self.by_time(true)).call(first_value_udaf()), value.kind)
            }
            "oldest" => {
                self.has_time(name, span);
                plain(Given::of(value.expr, filter).ordered(self.by_time(false)).call(first_value_udaf()), value.kind)
            }
            "min_by" | "max_by" => {
                let Some(second) = arguments.get(1) else {
                    return Err(SearchError::query(format!("{name} takes two values: {name}(x, y)"), span));
                };
                let by = comparable(self.value(second)?);
                let filter = both(filter, there(&by));
                let order = ordering(std::iter::once(by.expr.sort(name == "min_by", false)).chain(self.order()));
                plain(Given::of(value.expr, filter).ordered(order).call(first_value_udaf()), value.kind)
            }
            "array_agg" | "array_agg_distinct" | "hacklist" => self.array(name, value, arguments, filter, span)?,
            _ => match percent(name) {
                Some(share) => self.percentile(value, share, filter),
                None => return Err(SearchError::query(format!("there is no aggregate '{name}' here"), span)),
            },
        })
    }

    /// A condition that is never missing.
    fn two(&self, condition: &ast::Expr) -> Result<Expr> {
        Ok(Expr::IsTrue(Box::new(self.condition(condition)?)))
    }

    fn percentile(&self, value: Operand, share: f64, filter: Option<Expr>) -> Aggregate {
        let number = value.number();
        let given = Given {
            arguments: vec![number.clone(), lit(share)],
            filter,
            order: vec![number.sort(true, false)],
            distinct: false,
        };
        Aggregate { expr: given.call(percentile_cont_udaf()), after: None, kind: Kind::Number }
    }

    /// The value and the share of `pct(N, x)` or `pct(x, N)`.
    fn share(&self, arguments: &[ast::Expr], span: Span) -> Result<(Operand, f64)> {
        let wrong = || SearchError::query("this takes a share from 0 to 100 and a value: pct(95, x)", span);
        let [first, second] = arguments else { return Err(wrong()) };
        let (share, value) = match (&first.kind, &second.kind) {
            (ExprKind::Number(share), _) => (*share, second),
            (_, ExprKind::Number(share)) => (*share, first),
            _ => return Err(wrong()),
        };
        if !(0.0..=100.0).contains(&share) {
            return Err(wrong());
        }
        Ok((self.value(value)?, share / 100.0))
    }

    fn array(
        &self,
        name: &str,
        value: Operand,
        arguments: &[ast::Expr],
        filter: Option<Expr>,
        span: Span,
    ) -> Result<Aggregate> {
        // Arrays in arrays are kept as texts.
        let value = match value.kind {
            Kind::List(_) | Kind::Null => Operand::new(value.text(), Kind::Text),
            _ => value,
        };
        let filter = both(filter, there(&value));
        let distinct = name != "array_agg";
        // Of distinct values, DataFusion can only keep an order that is one of the values themselves.
        let order = if distinct { vec![value.expr.clone().sort(true, false)] } else { self.order() };
        let given = Given { distinct, ..Given::of(value.expr, filter).ordered(order) };
        let after = match (name, arguments.get(1).map(|count| &count.kind)) {
            ("hacklist", _) => Some(After::Call("_hacklist", None)),
            (_, None) => None,
            (_, Some(ExprKind::Number(count))) => Some(After::Call("_cut", Some(Operand::from_number(*count).expr))),
            (_, Some(_)) => {
                return Err(SearchError::query(format!("{name} takes a number of elements: {name}(x, 100)"), span));
            }
        };
        let kind = if name == "hacklist" { Kind::Text } else { Kind::list(value.kind) };
        Ok(Aggregate { expr: given.call(array_agg_udaf()), after, kind })
    }

    /// The order of the rows: as they are ordered, else by time.
    fn order(&self) -> Vec<SortExpr> {
        let order = self.rows.following();
        if order.is_empty() { self.by_time(false) } else { order }
    }

    /// Says that there is no time by which one event is newer than another.
    fn has_time(&self, name: &str, span: Span) {
        if self.by_time(true).is_empty() {
            let time = Field::EventTime.info().name;
            let message = format!("{name} finds no {time} here, so it takes any of the rows: keep it in columns");
            self.planner.warn(message, Some(span));
        }
    }

    /// By the time of the events, and by what tells them apart within a millisecond: also where the rows only keep it for
    /// their order.
    fn by_time(&self, newest_first: bool) -> Vec<SortExpr> {
        if self.rows.by_default && !self.rows.events && !self.rows.order.is_empty() {
            let mut order = self.rows.following();
            order.iter_mut().for_each(|key| key.asc = !newest_first);
            return order;
        }
        [Field::EventTime, Field::Timestamp]
            .iter()
            .filter_map(|field| self.rows.resolve(field.info().name))
            .map(|name| column(&name).sort(!newest_first, false))
            .collect()
    }
}

/// What a number adds to a sum.
pub(crate) fn summand(number: &Operand) -> Expr {
    match number.kind {
        Kind::Integer => whole::summand(number.expr.clone()),
        _ => number.expr.clone(),
    }
}

/// As something that has an order: arrays as texts.
fn comparable(value: Operand) -> Operand {
    match value.kind {
        Kind::List(_) | Kind::Null => Operand::new(value.text(), Kind::Text),
        _ => value,
    }
}

impl Aggregate {
    /// The result, once the aggregate is the column `name`.
    pub(crate) fn result(&self, name: &str) -> Operand {
        let expr = match &self.after {
            None => column(name),
            Some(After::Total) => whole::total(column(name)),
            Some(After::Call(called, argument)) => {
                let mut arguments = vec![column(name)];
                arguments.extend(argument.clone());
                function(called, arguments)
            }
        };
        Operand::new(expr, self.kind)
    }
}
