//! Compares two values of an event whose kinds are known.

use std::cmp::Ordering;

use crate::{
    address,
    value::{Value, nanoseconds},
};

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// Unconverted: both have the same kind.
    Same,
    /// As texts: truth values as the words, arrays in JSON.
    Texts,
    /// Two addresses by their number, other texts by code point.
    Addresses,
    /// As numbers; a value that is no number is neither equal nor less nor greater.
    Numbers,
    /// As moments, in nanoseconds.
    Moments,
}

/// A value as a number; whole numbers stay whole.
#[derive(Clone, Copy, Debug)]
pub(super) enum Numeric {
    Whole(i64),
    Float(f64),
}

impl Numeric {
    /// Returns the value as a number; `None` if it is not one.
    pub(super) fn of(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Integer(number) | Value::Time(number) => Some(Self::Whole(*number)),
            Value::Bool(value) => Some(Self::Whole(i64::from(*value))),
            // Adding 0 turns -0 into 0, because floats are compared bit by bit.
            other => other.number().map(|number| Self::Float(number + 0.0)),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers of the language are 64-bit floats")]
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Float(number) => number,
        }
    }
}

impl Relation {
    /// Whether the operator holds between the values. Two missing ones are equal; one alone is not equal to anything, nor less,
    /// nor greater.
    pub(super) fn holds(self, operator: Operator, left: &Value<'_>, right: &Value<'_>) -> bool {
        match (left, right) {
            (Value::Null, Value::Null) => operator == Operator::Equal,
            (Value::Null, _) | (_, Value::Null) => false,
            _ => self.order(left, right).is_some_and(|order| operator.holds(order)),
        }
    }

    fn order(self, left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
        match self {
            Self::Same => same(left, right),
            Self::Texts => Some(left.text()?.as_ref().cmp(right.text()?.as_ref())),
            Self::Addresses => Some(address::order(&left.text()?, &right.text()?)),
            Self::Numbers => Some(match (Numeric::of(left)?, Numeric::of(right)?) {
                (Numeric::Whole(left), Numeric::Whole(right)) => left.cmp(&right),
                // By total order, as Arrow compares floats; NaN is then equal to itself.
                (left, right) => left.float().total_cmp(&right.float()),
            }),
            Self::Moments => Some(nanoseconds(left)?.cmp(&nanoseconds(right)?)),
        }
    }
}

fn same(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
        (Value::Integer(left), Value::Integer(right)) | (Value::Time(left), Value::Time(right)) => {
            Some(left.cmp(right))
        }
        (Value::Number(left), Value::Number(right)) => Some(left.total_cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        // Kinds are known before the first event, so two values of different kinds do not get here.
        _ => None,
    }
}
