//! Plans calls of functions.

use datafusion::{
    logical_expr::{Expr, lit},
    scalar::ScalarValue,
};
use netconn_model::field::Field;
use netconn_query::{
    ast::{self, ExprKind, Span},
    catalogue::PlainId,
    duration::{self, Bucket, BucketArguments},
    function::{Code, Planned, Run, code, takes_elements, wants_elements},
    value::ValueKind,
};

use super::{
    compare::lowercase,
    lambda,
    operand::{Operand, case},
    pattern,
    scope::Scope,
};
use crate::engine::{
    error::{Result, SearchError},
    function::{bucket::timebucket, call::call},
};

/// Widths that `auto` chooses from, in seconds.
const ROUND: [i64; 17] =
    [1, 5, 10, 30, 60, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400, 604_800, 2_419_200];

/// Largest number of buckets that `auto` makes.
const BUCKETS: i64 = 60;

/// One second in nanoseconds.
const SECOND: i64 = 1_000_000_000;

impl Scope<'_> {
    /// Plans a call.
    pub(crate) fn call(&self, name: &str, arguments: &[ast::Expr], span: Span) -> Result<Operand> {
        // Aggregates and functions over rows have been replaced by columns before an expression is planned, so only
        // plain functions are valid here.
        let Some(id) = PlainId::by_name(name) else {
            let message = format!("there is no function '{name}' here");
            return Err(SearchError::query(message, span));
        };
        if let Some(message) = id.info().wrong_count(arguments.len()) {
            return Err(SearchError::query(message, span));
        }
        let function = match code(id) {
            Code::Row(function) => function,
            Code::Planned(Planned::Timebucket) => return self.timebucket(arguments, span),
            Code::Planned(Planned::QueryStart) => return moment(self.range(span)?.0, arguments),
            Code::Planned(Planned::QueryEnd) => return moment(self.range(span)?.1, arguments),
            Code::Planned(Planned::QuerySpan) => return self.span(arguments, span),
            // One moment for the whole query, so that all rows are compared with the same one.
            Code::Planned(Planned::Now) => return Ok(time(self.planner.now)),
            Code::Planned(Planned::Lambda(how)) => return lambda::call(self, how, name, arguments, span),
        };
        let database = match function.run {
            Run::Geography(_) => match &self.planner.settings.database {
                Some(database) => Some(database),
                None => {
                    // One sentence for all such functions, without a place.
                    let message = "functions geo_ip_… give null: they need a database of places, an MMDB file in the \
                                   configuration (search.geo_database)";
                    self.planner.warn(message.to_owned(), None);
                    None
                }
            },
            _ => None,
        };
        // A pattern from a column can only be tried row by row; one that is written out is reported before the search.
        if function.has_regex
            && let Some(ast::Expr { kind: ExprKind::Text(regex), span }) = arguments.get(1)
        {
            pattern::check(regex, *span)?;
        }
        let operands = arguments.iter().map(|argument| self.value(argument)).collect::<Result<Vec<_>>>()?;
        // DataFusion's own `lower` works on whole columns.
        if id == PlainId::Lower && operands[0].kind == ValueKind::Text {
            return Ok(Operand::new(lowercase(operands[0].expr.clone()), ValueKind::Text));
        }
        let kinds: Vec<ValueKind> = operands.iter().map(|operand| operand.kind).collect();
        if function.is_of_elements && !takes_elements(&kinds) {
            return Err(SearchError::query(wants_elements(function.name), span));
        }
        let kind = function.returns.of(&kinds);
        Ok(Operand::new(call(function, database, operands.into_iter().map(|operand| operand.expr).collect()), kind))
    }

    /// Plans `timebucket([time,] width)`.
    fn timebucket(&self, arguments: &[ast::Expr], span: Span) -> Result<Operand> {
        let event_time = || {
            let name = Field::EventTime.info().name;
            // Without a time every row would silently be in one bucket, the missing one.
            if self.rows.resolve(name).is_none() && !self.names.contains_key(name) {
                self.planner
                    .warn(format!("timebucket finds no {name} here: keep it in columns, or name a time"), Some(span));
            }
            self.field(name)
        };
        let wrong = || SearchError::query("timebucket takes a width like '10m', '1 hour' or 'auto'", span);
        let arguments = BucketArguments::of(arguments);
        let time = match arguments.time {
            Some(time) => self.value(time)?,
            None => event_time(),
        };
        let bucket = match arguments.width.map(|width| &width.kind) {
            None => Bucket::Auto,
            Some(ExprKind::Text(text)) => duration::bucket(text).ok_or_else(wrong)?,
            // `timebucket(auto)` is accepted without quotes, so `auto` arrives as a field.
            Some(ExprKind::Field(word)) if word == "auto" => Bucket::Auto,
            Some(ExprKind::Number(count)) => duration::bucket_count(*count).ok_or_else(wrong)?,
            // All of the searched time is in one bucket, which begins with it.
            Some(ExprKind::Call { name, arguments, .. }) if name == "queryspan" && arguments.is_empty() => {
                let start = moment(self.range(span)?.0, &[])?;
                let is_there = Expr::IsNotNull(Box::new(time.to(ValueKind::Time)));
                return Ok(Operand::new(
                    case(is_there, start.expr, Operand::null().to(ValueKind::Time)),
                    ValueKind::Time,
                ));
            }
            Some(_) => return Err(wrong()),
        };
        let width = match bucket {
            Bucket::Every(width) => width,
            Bucket::Count(count) => {
                let (start, end) = self.range(span)?;
                // A range shorter than the number of buckets would give a width of 0.
                (end.saturating_sub(start) / i64::from(count)).max(1)
            }
            Bucket::Auto => {
                let (start, end) = self.range(span)?;
                // The smallest round width that makes no more than `BUCKETS`; ranges of more than five years get more
                // of the largest.
                let least = end.saturating_sub(start) / BUCKETS;
                ROUND.iter().map(|seconds| seconds * SECOND).find(|width| *width >= least).unwrap_or(ROUND[16] * SECOND)
            }
        };
        Ok(Operand::new(timebucket(time.expr, width, arguments.time_zone()), ValueKind::Time))
    }

    /// Returns the searched time in nanoseconds.
    fn range(&self, span: Span) -> Result<(i64, i64)> {
        match &self.planner.time {
            // Milliseconds become nanoseconds. An open end is a very large number, which saturates.
            Some(range) => Ok((range.start.saturating_mul(1_000_000), range.end.saturating_mul(1_000_000))),
            None => {
                let message = "this needs a searched time: give one with --since or --last";
                Err(SearchError::query(message, span))
            }
        }
    }

    fn span(&self, unit: &[ast::Expr], span: Span) -> Result<Operand> {
        let (start, end) = self.range(span)?;
        Ok(in_units(end.saturating_sub(start), duration_unit(unit)?.unwrap_or(1)))
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of the language are 64-bit floats")]
fn in_units(nanos: i64, unit: i64) -> Operand {
    Operand::from_number(nanos as f64 / unit as f64)
}

/// Returns a literal moment.
fn time(nanos: i64) -> Operand {
    let literal: Expr = lit(ScalarValue::TimestampNanosecond(Some(nanos), Some("UTC".into())));
    Operand::new(literal, ValueKind::Time)
}

/// Returns the nanoseconds of the unit that an argument names.
fn duration_unit(arguments: &[ast::Expr]) -> Result<Option<i64>> {
    let Some(argument) = arguments.first() else { return Ok(None) };
    match &argument.kind {
        ExprKind::Text(text) if duration::unit(text).is_some() => Ok(duration::unit(text)),
        _ => Err(SearchError::query("this takes a unit like 'seconds', 'hours' or 'd'", argument.span)),
    }
}

/// Returns a moment, or its number of units since 1970.
fn moment(nanos: i64, unit: &[ast::Expr]) -> Result<Operand> {
    match duration_unit(unit)? {
        None => Ok(time(nanos)),
        Some(unit) => Ok(in_units(nanos, unit)),
    }
}
