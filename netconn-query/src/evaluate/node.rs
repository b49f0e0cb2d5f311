//! Evaluates expressions that are not conditions to values of an event.

use std::{borrow::Cow, cell::Cell};

use jiff::tz::TimeZone;
use netconn_model::{field::Field, value::Domain};

use super::{EventFields, call::Call, condition::Condition, lambda::Lambda, relation::Numeric};
use crate::{
    address,
    function::time,
    value::{Value, ValueKind, nanoseconds},
};

/// The event, and what the evaluation learns about it.
pub(super) struct Row<'r, 'e, E: ?Sized> {
    pub(super) event: &'e E,
    /// Elements of the enclosing lambdas, the innermost first.
    pub(super) elements: Option<&'r Element<'r, 'e>>,
    /// Whether a sum was beyond the whole numbers.
    pub(super) beyond: &'r Cell<bool>,
}

/// The parameter of a lambda.
pub(super) struct Element<'r, 'e> {
    pub(super) value: Value<'e>,
    pub(super) outer: Option<&'r Element<'r, 'e>>,
}

/// Arithmetic operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// A compiled expression that gives a value for each event.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Literal(Value<'static>),
    /// A field of the schema.
    Field(Field, ValueKind),
    /// A field that the schema does not have.
    Other(Box<str>, ValueKind),
    /// The parameter of a lambda, counted outwards: 0 is the innermost.
    Parameter(usize),
    /// A text in lower case.
    Lower(Box<Self>),
    /// An address in its usual form, however it is written; any other text as it is.
    Usual(Box<Self>),
    /// A condition, which is never missing.
    Truth(Box<Condition>),
    /// Two texts, joined.
    Joined(Box<(Self, Self)>),
    Arithmetic(Arithmetic, Box<(Self, Self)>),
    Negative(Box<Self>),
    /// The first operand that is true as its own kind, else the last; converted to this kind.
    FirstTrue(Vec<Self>, ValueKind),
    /// One of two values, converted to this kind.
    Choice(Box<(Condition, Self, Self)>, ValueKind),
    /// The beginning of the bucket that a moment is in; the width is in nanoseconds, the zone that of the clocks.
    Bucket(Box<Self>, i64, Option<TimeZone>),
    Call(Box<Call>),
    Lambda(Box<Lambda>),
}

impl Node {
    /// Returns the value for an event.
    pub(super) fn value<'e, E: EventFields + ?Sized>(&'e self, row: &Row<'_, 'e, E>) -> Value<'e> {
        match self {
            Self::Literal(value) => value.borrowed(),
            Self::Field(field, kind) => {
                row.event.value(*field).map_or(Value::Null, |value| as_field(value, *field, *kind))
            }
            Self::Other(name, kind) => row.event.other(name).map_or(Value::Null, |value| as_column(value, *kind)),
            Self::Parameter(place) => parameter(row.elements, *place),
            Self::Lower(inner) => match inner.value(row) {
                Value::Text(text) => Value::Text(lower(text)),
                other => other,
            },
            Self::Usual(inner) => match inner.value(row) {
                Value::Text(Cow::Borrowed(text)) => Value::Text(address::plain(text)),
                Value::Text(Cow::Owned(text)) => Value::owned(address::plain(&text)),
                other => other,
            },
            Self::Truth(condition) => Value::Bool(condition.holds(row)),
            Self::Joined(sides) => match (sides.0.value(row).into_text(), sides.1.value(row).into_text()) {
                (Some(left), Some(right)) => Value::owned(left.into_owned() + &right),
                _ => Value::Null,
            },
            Self::Arithmetic(work, sides) => arithmetic(*work, &sides.0.value(row), &sides.1.value(row), row.beyond),
            Self::Negative(inner) => match Numeric::of(&inner.value(row)) {
                // The smallest whole number has no negative and stays as it is.
                Some(Numeric::Whole(number)) => Value::Integer(number.wrapping_neg()),
                Some(Numeric::Float(number)) => Value::Number(0.0 - number),
                None => Value::Null,
            },
            // One implementation for both: the truth decides which value is taken.
            Self::FirstTrue(..) => self.value_and_truth(row).0,
            Self::Choice(parts, kind) => {
                let (condition, then, otherwise) = parts.as_ref();
                if condition.holds(row) { then.value(row) } else { otherwise.value(row) }.kept_as(*kind)
            }
            Self::Bucket(time, width, zone) => {
                let start = nanoseconds(&time.value(row)).and_then(|nanos| match zone {
                    Some(zone) => time::bucket_in(nanos, *width, zone),
                    None => time::bucket(nanos, *width),
                });
                start.map_or(Value::Null, Value::Time)
            }
            Self::Call(call) => call.value(row),
            Self::Lambda(lambda) => lambda.value(row),
        }
    }

    /// Returns the value, and whether it is true as its own kind, before it is converted to the common kind.
    fn value_and_truth<'e, E: EventFields + ?Sized>(&'e self, row: &Row<'_, 'e, E>) -> (Value<'e>, bool) {
        match self {
            // Operands behind the first true one are not evaluated.
            Self::FirstTrue(operands, kind) => {
                let mut last = Value::Null;
                for operand in operands {
                    let (value, truth) = operand.value_and_truth(row);
                    // The truth is that of the value before its conversion: the text `0` is true, the number 0 is not.
                    if truth {
                        return (value.kept_as(*kind), true);
                    }
                    last = value;
                }
                (last.kept_as(*kind), false)
            }
            Self::Choice(parts, kind) => {
                let (condition, then, otherwise) = parts.as_ref();
                let chosen = if condition.holds(row) { then } else { otherwise };
                let (value, truth) = chosen.value_and_truth(row);
                (value.kept_as(*kind), truth)
            }
            _ => {
                let value = self.value(row);
                let truth = value.truth();
                (value, truth)
            }
        }
    }
}

/// Converts a value of an event to what its field has in a search: its kind, and addresses in their usual form.
pub(super) fn as_field(value: Value<'_>, field: Field, kind: ValueKind) -> Value<'_> {
    match as_column(value, kind) {
        Value::Text(text) if field.info().domain == Domain::Addresses => Value::Text(usual(text)),
        value => value,
    }
}

fn usual(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => address::usual(text),
        Cow::Owned(text) => Cow::Owned(address::usual(&text).into_owned()),
    }
}

/// Converts a value of an event to the kind of its field, as the reader of a search does.
pub(super) fn as_column(value: Value<'_>, kind: ValueKind) -> Value<'_> {
    match (kind, value) {
        (ValueKind::Text, value @ Value::Text(_))
        | (ValueKind::Integer, value @ Value::Integer(_))
        | (ValueKind::Bool, value @ Value::Bool(_)) => value,
        // Before the conversions, which would make texts of missing values.
        (_, Value::Null) | (ValueKind::Null, _) => Value::Null,
        // Adding 0 turns -0 into 0.
        (ValueKind::Number, Value::Number(number)) => Value::Number(number + 0.0),
        (ValueKind::Number, value @ Value::Integer(_)) => value.kept_as(kind),
        // Other programs write whole numbers as `1.0`.
        (ValueKind::Integer, Value::Number(number)) if is_whole(number) => Value::Number(number).kept_as(kind),
        // What is left goes through its text, as the reader of files does.
        (kind, value) => {
            let Some(text) = value.into_text() else { return Value::Null };
            match kind {
                ValueKind::Integer => text.parse().map_or(Value::Null, Value::Integer),
                ValueKind::Number => text.parse().map_or(Value::Null, Value::Number),
                ValueKind::Bool => text.parse().map_or(Value::Null, Value::Bool),
                _ => Value::Text(text),
            }
        }
    }
}

/// Whether a float is a whole number of the language.
fn is_whole(number: f64) -> bool {
    // A little below 2^63, which a float cannot tell from the numbers around it.
    number.fract() == 0.0 && number.abs() < 9.2e18
}

fn parameter<'e>(mut elements: Option<&Element<'_, 'e>>, place: usize) -> Value<'e> {
    // `place` counts lambdas outwards; the compiler has counted the same ones, so the element exists.
    for _ in 0..place {
        elements = elements.and_then(|element| element.outer);
    }
    elements.map_or(Value::Null, |element| element.value.clone())
}

/// Converts to lower case; most texts need no copy.
fn lower(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        text
    } else {
        text.to_lowercase().into()
    }
}

fn arithmetic<'e>(work: Arithmetic, left: &Value<'_>, right: &Value<'_>, beyond: &Cell<bool>) -> Value<'e> {
    let (Some(left), Some(right)) = (Numeric::of(left), Numeric::of(right)) else { return Value::Null };
    let whole = |sum: Option<i64>| {
        // Set once and never cleared: a later sum that fits does not make up for it.
        beyond.set(beyond.get() || sum.is_none());
        sum.map_or(Value::Null, Value::Integer)
    };
    match (work, left, right) {
        (Arithmetic::Add, Numeric::Whole(left), Numeric::Whole(right)) => whole(left.checked_add(right)),
        (Arithmetic::Subtract, Numeric::Whole(left), Numeric::Whole(right)) => whole(left.checked_sub(right)),
        (Arithmetic::Remainder, Numeric::Whole(_), Numeric::Whole(0)) => Value::Null,
        (Arithmetic::Remainder, Numeric::Whole(left), Numeric::Whole(right)) => {
            // Wrapping for the smallest number modulo -1, which is 0 but overflows.
            Value::Integer(left.wrapping_rem(right))
        }
        (work, left, right) => {
            let (left, right) = (left.float(), right.float());
            // Adding 0 turns -0 into 0.
            let number = |result: f64| Value::Number(result + 0.0);
            match work {
                Arithmetic::Add => number(left + right),
                Arithmetic::Subtract => number(left - right),
                Arithmetic::Multiply => number(left * right),
                // A division by 0 has a missing result.
                Arithmetic::Divide | Arithmetic::Remainder if right == 0.0 => Value::Null,
                Arithmetic::Divide => number(left / right),
                Arithmetic::Remainder => number(left % right),
            }
        }
    }
}
