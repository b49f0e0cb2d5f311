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
use netconn_query::{
    ast::{self, ExprKind, Span},
    catalogue::AggregateId,
};

use super::{
    operand::{Operand, binary, case, cast, function},
    rows::{RowOrder, column, ordering},
    scope::Scope,
};
use crate::engine::{
    error::{Result, SearchError},
    function::{
        table::{self, RowFunction},
        value::Kind,
        whole,
    },
};

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
    Call(RowFunction, Option<Expr>),
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
        id: AggregateId,
        arguments: &[ast::Expr],
        condition: Option<&ast::Expr>,
        span: Span,
    ) -> Result<Aggregate> {
        if let Some(message) = id.info().wrong_count(arguments.len()) {
            return Err(SearchError::query(message, span));
        }
        let filter = condition.map(|condition| self.condition(condition)).transpose()?;
        let plain = |expr: Expr, kind: Kind| Aggregate { expr, after: None, kind };
        let Some(first) = arguments.first() else {
            // Only `count` may have no argument: it counts all rows then.
            return Ok(plain(Given::of(lit(1_i64), filter).call(count_udaf()), Kind::Integer));
        };
        let value = match id {
            AggregateId::Count => Operand::null(),
            _ => self.value(first)?,
        };
        Ok(match id {
            AggregateId::Count => {
                let filter = both(filter, self.condition(first)?);
                plain(Given::of(lit(1_i64), filter).call(count_udaf()), Kind::Integer)
            }
            AggregateId::Sum => {
                let value = match value.kind {
                    Kind::Bool => Operand::new(case(value.expr, lit(1_i64), lit(0_i64)), Kind::Integer),
                    _ => value.numeric(),
                };
                let after = (value.kind == Kind::Integer).then_some(After::Total);
                Aggregate { expr: Given::of(summand(&value), filter).call(sum_udaf()), after, kind: value.kind }
            }
            AggregateId::Avg | AggregateId::Mean | AggregateId::Average => {
                plain(Given::of(value.number(), filter).call(avg_udaf()), Kind::Number)
            }
            AggregateId::Stddev => plain(Given::of(value.number(), filter).call(stddev_udaf()), Kind::Number),
            AggregateId::Min | AggregateId::Max => {
                let value = comparable(value);
                let function = if id == AggregateId::Min { min_udaf() } else { max_udaf() };
                plain(Given::of(value.expr, filter).call(function), value.kind)
            }
            AggregateId::Median => self.percentile(value, 0.5, filter),
            AggregateId::Pct | AggregateId::Percentile => {
                let (value, share) = self.share(arguments, span)?;
                self.percentile(value, share, filter)
            }
            AggregateId::EstimateDistinct => {
                let value = if matches!(value.kind, Kind::Text | Kind::Integer) { value.expr } else { value.text() };
                plain(cast(Given::of(value, filter).call(approx_distinct_udaf()), Kind::Integer), Kind::Integer)
            }
            AggregateId::CountDistinct => {
                let given = Given { distinct: true, ..Given::of(comparable(value).expr, filter) };
                plain(given.call(count_udaf()), Kind::Integer)
            }
            AggregateId::AnyTrue => plain(Given::of(self.two(first)?, filter).call(bool_or_udaf()), Kind::Bool),
            AggregateId::AllTrue => plain(Given::of(self.two(first)?, filter).call(bool_and_udaf()), Kind::Bool),
            AggregateId::Any => {
                let filter = both(filter, there(&value));
                plain(Given::of(value.expr, filter).call(first_value_udaf()), value.kind)
            }
            AggregateId::First => {
                plain(Given::of(value.expr, filter).ordered(self.order()).call(first_value_udaf()), value.kind)
            }
            AggregateId::Last => {
                plain(Given::of(value.expr, filter).ordered(self.order()).call(last_value_udaf()), value.kind)
            }
            AggregateId::Newest => {
                self.has_time(id, span);
                plain(Given::of(value.expr, filter).ordered(self.by_time(true)).call(first_value_udaf()), value.kind)
            }
            AggregateId::Oldest => {
                self.has_time(id, span);
                plain(Given::of(value.expr, filter).ordered(self.by_time(false)).call(first_value_udaf()), value.kind)
            }
            AggregateId::MinBy | AggregateId::MaxBy => {
                let by = comparable(self.value(arguments.get(1).unwrap_or(first))?);
                let filter = both(filter, there(&by));
                let order =
                    ordering(std::iter::once(by.expr.sort(id == AggregateId::MinBy, false)).chain(self.order()));
                plain(Given::of(value.expr, filter).ordered(order).call(first_value_udaf()), value.kind)
            }
            AggregateId::ArrayAgg | AggregateId::ArrayAggDistinct | AggregateId::Hacklist => {
                self.array(id, value, arguments, filter, span)?
            }
            AggregateId::P10 => self.percentile(value, 0.1, filter),
            AggregateId::P50 => self.percentile(value, 0.5, filter),
            AggregateId::P90 => self.percentile(value, 0.9, filter),
            AggregateId::P95 => self.percentile(value, 0.95, filter),
            AggregateId::P99 => self.percentile(value, 0.99, filter),
            AggregateId::P999 => self.percentile(value, 0.999, filter),
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
        id: AggregateId,
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
        let distinct = id != AggregateId::ArrayAgg;
        // Of distinct values, DataFusion can only keep an order that is one of the values themselves.
        let order = if distinct { vec![value.expr.clone().sort(true, false)] } else { self.order() };
        let given = Given { distinct, ..Given::of(value.expr, filter).ordered(order) };
        let after = match (id, arguments.get(1).map(|count| &count.kind)) {
            (AggregateId::Hacklist, _) => Some(After::Call(table::HACKLIST, None)),
            (_, None) => None,
            (_, Some(ExprKind::Number(count))) => {
                Some(After::Call(table::CUT, Some(Operand::from_number(*count).expr)))
            }
            (_, Some(_)) => {
                let message = format!("{0} takes a number of elements: {0}(x, 100)", id.info().name);
                return Err(SearchError::query(message, span));
            }
        };
        let kind = if id == AggregateId::Hacklist { Kind::Text } else { Kind::list(value.kind) };
        Ok(Aggregate { expr: given.call(array_agg_udaf()), after, kind })
    }

    /// The order of the rows: as they are ordered, else by time.
    fn order(&self) -> Vec<SortExpr> {
        let order = self.rows.following();
        if order.is_empty() { self.by_time(false) } else { order }
    }

    /// Says that there is no time by which one event is newer than another.
    fn has_time(&self, id: AggregateId, span: Span) {
        if self.by_time(true).is_empty() {
            let time = Field::EventTime.info().name;
            let name = id.info().name;
            let message = format!("{name} finds no {time} here, so it takes any of the rows: keep it in columns");
            self.planner.warn(message, Some(span));
        }
    }

    /// By the time of the events, and by what tells them apart within a millisecond: also where the rows only keep it for
    /// their order.
    fn by_time(&self, newest_first: bool) -> Vec<SortExpr> {
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
                function(*called, arguments)
            }
        };
        Operand::new(expr, self.kind)
    }
}
