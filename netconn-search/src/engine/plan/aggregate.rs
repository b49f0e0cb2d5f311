//! Plans aggregates.

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
use netconn_query::{
    ast::{self, ExprKind, Span},
    catalogue::AggregateId,
    function::{CUT, HACKLIST, RowFunction},
    value::{Unit, ValueKind},
};

use super::{
    operand::{Operand, binary, case, cast, function},
    rows::{RowOrder, column, ordering},
    scope::Scope,
};
use crate::engine::{
    error::{Result, SearchError},
    function::whole,
};

/// An aggregate and the conversion of its result.
pub(crate) struct Aggregate {
    /// DataFusion's aggregate.
    pub(crate) expr: Expr,
    /// Conversion of its result, if it needs one.
    pub(crate) conversion: Option<ResultConversion>,
    /// Kind of the result.
    pub(crate) kind: ValueKind,
    /// What the result stands for.
    pub(crate) unit: Unit,
}

/// The conversion of an aggregate's result.
#[derive(PartialEq)]
pub(crate) enum ResultConversion {
    /// A function of the result and, if there is one, of this expression.
    Call(RowFunction, Option<Expr>),
    /// From a wide sum to a whole number.
    Total,
}

/// The arguments of an aggregate, and which rows it reads in which order.
struct AggregateInput {
    arguments: Vec<Expr>,
    filter: Option<Expr>,
    order: Vec<SortExpr>,
    distinct: bool,
}

impl AggregateInput {
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

/// Joins a condition to another if there is one.
fn and_also(left: Option<Expr>, right: Expr) -> Expr {
    match left {
        Some(left) => binary(left, Operator::And, right),
        None => right,
    }
}

fn is_present(value: &Operand) -> Expr {
    Expr::IsNotNull(Box::new(value.expr.clone()))
}

impl Scope<'_> {
    /// Plans a call of an aggregate.
    pub(crate) fn aggregate(
        &self,
        id: AggregateId,
        arguments: &[ast::Expr],
        condition: Option<&ast::Expr>,
        span: Span,
    ) -> Result<Aggregate> {
        // The checker reports it too, but nothing forces a caller to check a query before it is planned.
        if let Some(message) = id.info().wrong_count(arguments.len()) {
            return Err(SearchError::query(message, span));
        }
        let filter = condition.map(|condition| self.condition(condition)).transpose()?;
        let plain = |expr: Expr, kind: ValueKind| Aggregate { expr, conversion: None, kind, unit: Unit::None };
        let Some(first) = arguments.first() else {
            // Only `count` may have no argument: it counts all rows then.
            return Ok(plain(AggregateInput::of(lit(1_i64), filter).call(count_udaf()), ValueKind::Integer));
        };
        // The argument of `count` is a condition, so it must not be planned as a value.
        let value = match id {
            AggregateId::Count => Operand::null(),
            _ => self.value(first)?,
        };
        // Of `pct(N, x)` the value is either argument.
        let unit = match id {
            AggregateId::Pct | AggregateId::Percentile => self.value_and_share(arguments, span)?.0.unit,
            _ => value.unit,
        };
        let unit = kept_unit(id, unit);
        let found = match id {
            AggregateId::Count => {
                let filter = Some(and_also(filter, self.condition(first)?));
                plain(AggregateInput::of(lit(1_i64), filter).call(count_udaf()), ValueKind::Integer)
            }
            AggregateId::Sum => {
                let value = match value.kind {
                    // `case` counts a missing truth value as false, as conditions do.
                    ValueKind::Bool => Operand::new(case(value.expr, lit(1_i64), lit(0_i64)), ValueKind::Integer),
                    _ => value.numeric(),
                };
                // Whole numbers are summed as `Decimal128` (see `whole`), a type that no other part of the plan knows.
                let conversion = (value.kind == ValueKind::Integer).then_some(ResultConversion::Total);
                Aggregate {
                    expr: AggregateInput::of(summand(&value), filter).call(sum_udaf()),
                    conversion,
                    kind: value.kind,
                    unit: Unit::None,
                }
            }
            AggregateId::Avg | AggregateId::Mean | AggregateId::Average => {
                plain(AggregateInput::of(value.number(), filter).call(avg_udaf()), ValueKind::Number)
            }
            AggregateId::Stddev => {
                plain(AggregateInput::of(value.number(), filter).call(stddev_udaf()), ValueKind::Number)
            }
            AggregateId::Min | AggregateId::Max => {
                let value = comparable(value);
                let function = if id == AggregateId::Min { min_udaf() } else { max_udaf() };
                plain(AggregateInput::of(value.expr, filter).call(function), value.kind)
            }
            AggregateId::Median => percentile(value, 0.5, filter),
            AggregateId::Pct | AggregateId::Percentile => {
                let (value, share) = self.value_and_share(arguments, span)?;
                percentile(value, share, filter)
            }
            AggregateId::EstimateDistinct => {
                let value =
                    if matches!(value.kind, ValueKind::Text | ValueKind::Integer) { value.expr } else { value.text() };
                plain(
                    // DataFusion counts without a sign; whole numbers of the language have one.
                    cast(AggregateInput::of(value, filter).call(approx_distinct_udaf()), ValueKind::Integer),
                    ValueKind::Integer,
                )
            }
            AggregateId::CountDistinct => {
                let given = AggregateInput { distinct: true, ..AggregateInput::of(comparable(value).expr, filter) };
                plain(given.call(count_udaf()), ValueKind::Integer)
            }
            AggregateId::AnyTrue => {
                plain(AggregateInput::of(self.certain_condition(first)?, filter).call(bool_or_udaf()), ValueKind::Bool)
            }
            AggregateId::AllTrue => {
                plain(AggregateInput::of(self.certain_condition(first)?, filter).call(bool_and_udaf()), ValueKind::Bool)
            }
            AggregateId::Any => {
                let filter = Some(and_also(filter, is_present(&value)));
                plain(AggregateInput::of(value.expr, filter).call(first_value_udaf()), value.kind)
            }
            AggregateId::First => {
                plain(AggregateInput::of(value.expr, filter).ordered(self.order()).call(first_value_udaf()), value.kind)
            }
            AggregateId::Last => {
                plain(AggregateInput::of(value.expr, filter).ordered(self.order()).call(last_value_udaf()), value.kind)
            }
            AggregateId::Newest => {
                self.has_time(id, span);
                plain(
                    AggregateInput::of(value.expr, filter).ordered(self.by_time(true)).call(first_value_udaf()),
                    value.kind,
                )
            }
            AggregateId::Oldest => {
                self.has_time(id, span);
                plain(
                    AggregateInput::of(value.expr, filter).ordered(self.by_time(false)).call(first_value_udaf()),
                    value.kind,
                )
            }
            AggregateId::MinBy | AggregateId::MaxBy => {
                let by = comparable(self.value(arguments.get(1).unwrap_or(first))?);
                // A row without `by` has neither the smallest nor the largest one, even if no row has one.
                let filter = Some(and_also(filter, is_present(&by)));
                // Rows with the same `by` are taken in their own order, so that the answer does not depend on
                // partitions.
                let order =
                    ordering(std::iter::once(by.expr.sort(id == AggregateId::MinBy, false)).chain(self.order()));
                plain(AggregateInput::of(value.expr, filter).ordered(order).call(first_value_udaf()), value.kind)
            }
            AggregateId::ArrayAgg | AggregateId::ArrayAggDistinct | AggregateId::Hacklist => {
                self.array(id, value, arguments, filter, span)?
            }
            AggregateId::P10 => percentile(value, 0.1, filter),
            AggregateId::P50 => percentile(value, 0.5, filter),
            AggregateId::P90 => percentile(value, 0.9, filter),
            AggregateId::P95 => percentile(value, 0.95, filter),
            AggregateId::P99 => percentile(value, 0.99, filter),
            AggregateId::P999 => percentile(value, 0.999, filter),
        };
        Ok(Aggregate { unit, ..found })
    }

    /// Plans a condition that is never missing.
    fn certain_condition(&self, condition: &ast::Expr) -> Result<Expr> {
        Ok(Expr::IsTrue(Box::new(self.condition(condition)?)))
    }

    /// Returns the value and the share (0 to 1) of `pct(N, x)` or `pct(x, N)`.
    fn value_and_share(&self, arguments: &[ast::Expr], span: Span) -> Result<(Operand, f64)> {
        let wrong = || SearchError::query("this takes a share from 0 to 100 and a value: pct(95, x)", span);
        let [first, second] = arguments else { return Err(wrong()) };
        // Of two numbers the first is the share, as in `pct`.
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
        id: AggregateId,
        value: Operand,
        arguments: &[ast::Expr],
        filter: Option<Expr>,
        span: Span,
    ) -> Result<Aggregate> {
        // Arrays in arrays become texts.
        let value = match value.kind {
            ValueKind::List(_) | ValueKind::Null => Operand::new(value.text(), ValueKind::Text),
            _ => value,
        };
        let filter = Some(and_also(filter, is_present(&value)));
        let distinct = id != AggregateId::ArrayAgg;
        // With distinct values DataFusion allows only an order by the values themselves.
        let order = if distinct { vec![value.expr.clone().sort(true, false)] } else { self.order() };
        let given = AggregateInput { distinct, ..AggregateInput::of(value.expr, filter).ordered(order) };
        // The number of elements is applied behind the aggregate, because `array_agg` has no limit.
        let conversion = match (id, arguments.get(1).map(|count| &count.kind)) {
            (AggregateId::Hacklist, _) => Some(ResultConversion::Call(HACKLIST, None)),
            (_, None) => None,
            (_, Some(ExprKind::Number(count))) => {
                Some(ResultConversion::Call(CUT, Some(Operand::from_number(*count).expr)))
            }
            (_, Some(_)) => {
                let message = format!("{0} takes a number of elements: {0}(x, 100)", id.info().name);
                return Err(SearchError::query(message, span));
            }
        };
        let kind = if id == AggregateId::Hacklist { ValueKind::Text } else { ValueKind::list(value.kind) };
        Ok(Aggregate { expr: given.call(array_agg_udaf()), conversion, kind, unit: Unit::None })
    }

    /// Returns the order of the rows: the asked one, else by time.
    fn order(&self) -> Vec<SortExpr> {
        let order = self.rows.following();
        if order.is_empty() { self.by_time(false) } else { order }
    }

    /// Warns if no column tells which event is newer.
    fn has_time(&self, id: AggregateId, span: Span) {
        if self.by_time(true).is_empty() {
            let time = Field::EventTime.info().name;
            let name = id.info().name;
            let message = format!("{name} finds no {time} here, so it takes any of the rows: keep it in columns");
            self.planner.warn(message, Some(span));
        }
    }

    /// Orders by event time, then by the nanosecond timestamp, using hidden columns where the visible ones are gone.
    fn by_time(&self, newest_first: bool) -> Vec<SortExpr> {
        // Behind `columns` the times may be visible no longer, but the default order still has them as hidden columns.
        if !self.rows.events && matches!(self.rows.order, RowOrder::Default(_)) {
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

/// Returns the summand of a number: whole numbers are summed in a wider type.
pub(crate) fn summand(number: &Operand) -> Expr {
    match number.kind {
        ValueKind::Integer => whole::summand(number.expr.clone()),
        _ => number.expr.clone(),
    }
}

/// Converts arrays to texts, because they have no order.
fn comparable(value: Operand) -> Operand {
    match value.kind {
        ValueKind::List(_) | ValueKind::Null => Operand::new(value.text(), ValueKind::Text),
        _ => value,
    }
}

impl Aggregate {
    /// Returns the result from the aggregate's column `name`.
    pub(crate) fn result(&self, name: &str) -> Operand {
        let expr = match &self.conversion {
            None => column(name),
            Some(ResultConversion::Total) => whole::total(column(name)),
            Some(ResultConversion::Call(called, argument)) => {
                let mut arguments = vec![column(name)];
                arguments.extend(argument.clone());
                function(*called, arguments)
            }
        };
        Operand::new(expr, self.kind).in_unit(self.unit)
    }
}

/// Returns what the result of an aggregate stands for, by what its values stand for.
fn kept_unit(id: AggregateId, unit: Unit) -> Unit {
    use AggregateId::{
        Any, Average, Avg, First, Last, Max, MaxBy, Mean, Median, Min, MinBy, Newest, Oldest, P10, P50, P90, P95, P99,
        P999, Pct, Percentile, Sum,
    };
    match (id, unit) {
        (Any | First | Last | Max | MaxBy | Min | MinBy | Newest | Oldest, unit) => unit,
        (
            Avg | Average | Mean | Median | P10 | P50 | P90 | P95 | P99 | P999 | Pct | Percentile | Sum,
            Unit::Span(_),
        ) => unit,
        _ => Unit::None,
    }
}

fn percentile(value: Operand, share: f64, filter: Option<Expr>) -> Aggregate {
    // `percentile_cont` interpolates between two values, so whole numbers become floats first.
    let number = value.number();
    let given = AggregateInput {
        arguments: vec![number.clone(), lit(share)],
        filter,
        order: vec![number.sort(true, false)],
        distinct: false,
    };
    let expr = given.call(percentile_cont_udaf());
    Aggregate { expr, conversion: None, kind: ValueKind::Number, unit: Unit::None }
}
