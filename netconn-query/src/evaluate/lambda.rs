//! Evaluates `array.map(func(x) -> …)` and the like for the elements of an array.

use super::{
    EventFields,
    condition::Condition,
    node::{Element, Node, Row},
};
use crate::value::{Value, ValueKind};

/// A call with a lambda.
#[derive(Clone, Debug)]
pub(super) struct Lambda {
    pub(super) array: Node,
    pub(super) body: Body,
}

/// What is made of the elements.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Values of this kind.
    Map(Node, ValueKind),
    /// Those for which it is true.
    Filter(Condition),
    /// Whether it is true for one.
    Any(Condition),
    /// Whether it is true for all.
    All(Condition),
    /// The value that the last step gives, of this kind: the first one, and what makes the next of it and of an element.
    Reduce(Node, Node, ValueKind),
    /// Values of this kind, made of the elements at the same places of this other array.
    Zip(Node, Node, ValueKind),
}

impl Lambda {
    /// Returns the result for an event; missing if the array is.
    pub(super) fn value<'e, E: EventFields + ?Sized>(&'e self, row: &Row<'_, 'e, E>) -> Value<'e> {
        // The compiler has checked the kind, so everything else is a missing value.
        let Value::List(elements) = self.array.value(row) else { return Value::Null };
        let holds = |condition: &'e Condition, value: &Value<'e>| with(row, value, |row| condition.holds(row));
        match &self.body {
            Body::Map(node, kind) => {
                let made = |value: &Value<'e>| with(row, value, |row| node.value(row)).kept_as(*kind);
                Value::List(elements.iter().map(made).collect())
            }
            Body::Filter(condition) => {
                Value::List(elements.into_iter().filter(|value| holds(condition, value)).collect())
            }
            Body::Any(condition) => Value::Bool(elements.iter().any(|value| holds(condition, value))),
            Body::All(condition) => Value::Bool(elements.iter().all(|value| holds(condition, value))),
            Body::Reduce(first, next, kind) => {
                let step = |before: Value<'e>, value: &Value<'e>| {
                    with(row, &before, |row| with(row, value, |row| next.value(row))).kept_as(*kind)
                };
                elements.iter().fold(first.value(row).kept_as(*kind), step)
            }
            Body::Zip(other, node, kind) => {
                let Value::List(others) = other.value(row) else { return Value::Null };
                let pairs = elements.iter().zip(&others);
                let made = |(left, right): (&Value<'e>, &Value<'e>)| {
                    with(row, left, |row| with(row, right, |row| node.value(row))).kept_as(*kind)
                };
                Value::List(pairs.map(made).collect())
            }
        }
    }
}

/// Evaluates with an element as the parameter.
fn with<'e, E: EventFields + ?Sized, T>(
    row: &Row<'_, 'e, E>,
    value: &Value<'e>,
    work: impl FnOnce(&Row<'_, 'e, E>) -> T,
) -> T {
    // A linked list on the stack: each lambda around adds an element without an allocation.
    let element = Element { value: value.clone(), outer: row.elements };
    work(&Row { event: row.event, elements: Some(&element), beyond: row.beyond })
}
