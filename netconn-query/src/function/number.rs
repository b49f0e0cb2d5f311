//! Number functions.

use std::cmp::Ordering;

use super::array;
use crate::value::Value;

/// Returns the smallest argument, or the smallest element of an array; missing ones are left out.
pub(super) fn min<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    if let [Value::List(values)] = arguments {
        return array::extreme(values, Ordering::Less);
    }
    extreme(arguments, |new, old| new < old)
}

/// Returns the largest argument, or the largest element of an array; missing ones are left out.
pub(super) fn max<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    if let [Value::List(values)] = arguments {
        return array::extreme(values, Ordering::Greater);
    }
    extreme(arguments, |new, old| new > old)
}

fn extreme<'a>(arguments: &[Value<'a>], better: fn(f64, f64) -> bool) -> Value<'a> {
    let mut best: Option<(f64, &Value<'a>)> = None;
    for value in arguments {
        if let Some(number) = value.number()
            // A strict comparison, so that the first of equal arguments is returned.
            && best.is_none_or(|(old, _)| better(number, old))
        {
            best = Some((number, value));
        }
    }
    best.map_or(Value::Null, |(_, value)| value.clone())
}

/// Returns the absolute value.
pub(super) fn abs<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    match &arguments[0] {
        // The smallest whole number has no positive counterpart.
        Value::Integer(value) => Value::Integer(value.saturating_abs()),
        value => value.number().map_or(Value::Null, |number| Value::Number(number.abs())),
    }
}

/// Rounds up to a whole number.
pub(super) fn ceiling<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    whole(&arguments[0], f64::ceil)
}

/// Rounds down to a whole number.
pub(super) fn floor<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    whole(&arguments[0], f64::floor)
}

#[expect(clippy::cast_possible_truncation, reason = "the conversion saturates")]
fn whole<'a>(value: &Value<'a>, round: fn(f64) -> f64) -> Value<'a> {
    match value {
        // Not by way of a float, which would lose digits.
        Value::Integer(value) => Value::Integer(*value),
        value => match value.number() {
            Some(number) if number.is_finite() => Value::Integer(round(number) as i64),
            _ => Value::Null,
        },
    }
}

/// Applies a function to a number; where it has no result, the value is missing.
fn real<'a>(value: &Value<'a>, function: fn(f64) -> f64) -> Value<'a> {
    match value.number().map(function) {
        Some(number) if number.is_finite() => Value::Number(number),
        _ => Value::Null,
    }
}

/// Square root.
pub(super) fn sqrt<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    real(&arguments[0], f64::sqrt)
}

/// e to the power of the argument.
pub(super) fn exp<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    real(&arguments[0], f64::exp)
}

/// Natural logarithm.
pub(super) fn ln<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    real(&arguments[0], f64::ln)
}

/// Logarithm to base 10, or to the given base.
pub(super) fn log<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    match arguments {
        [value] => real(value, f64::log10),
        [value, base, ..] => match (value.number(), base.number()) {
            (Some(value), Some(base)) => real(&Value::Number(value.log(base)), |result| result),
            _ => Value::Null,
        },
        [] => Value::Null,
    }
}

/// The first argument to the power of the second.
pub(super) fn pow<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    match (arguments[0].number(), arguments[1].number()) {
        (Some(base), Some(exponent)) => real(&Value::Number(base.powf(exponent)), |result| result),
        _ => Value::Null,
    }
}
