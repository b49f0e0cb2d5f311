//! A compiled value with its kind, and its conversions to numbers, texts and truth values.

use netconn_model::value::Domain;

use crate::{
    evaluate::node::Node,
    value::{Unit, Value, ValueKind},
};

/// 2^53: floats represent all whole numbers up to this one.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A compiled value and its kind.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) node: Node,
    pub(super) kind: ValueKind,
    pub(super) unit: Unit,
}

impl Operand {
    pub(super) fn new(node: Node, kind: ValueKind) -> Self {
        Self { node, kind, unit: Unit::None }
    }

    /// Sets what its values stand for.
    pub(super) fn in_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    /// Creates an operand that is always missing.
    pub(super) fn null() -> Self {
        Self::new(Node::Literal(Value::Null), ValueKind::Null)
    }

    /// Creates a number literal; a whole number if it is one.
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the limits")]
    pub(super) fn from_number(value: f64) -> Self {
        if value.fract() == 0.0 && value.abs() <= EXACT {
            Self::integer(value as i64)
        } else {
            Self::new(Node::Literal(Value::Number(value)), ValueKind::Number)
        }
    }

    pub(super) fn integer(value: i64) -> Self {
        Self::new(Node::Literal(Value::Integer(value)), ValueKind::Integer)
    }

    pub(super) fn bool(value: bool) -> Self {
        Self::new(Node::Literal(Value::Bool(value)), ValueKind::Bool)
    }

    pub(super) fn text(value: &str) -> Self {
        Self::new(Node::Literal(Value::owned(value)), ValueKind::Text)
    }

    pub(super) fn time(nanos: i64) -> Self {
        Self::new(Node::Literal(Value::Time(nanos)), ValueKind::Time)
    }

    /// Returns the value of a literal.
    pub(super) fn literal(&self) -> Option<&Value<'static>> {
        match &self.node {
            Node::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the text of a literal.
    pub(super) fn literal_text(&self) -> Option<&str> {
        match self.literal() {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether it is `timestamp`.
    pub(super) fn is_timestamp(&self) -> bool {
        self.unit == Unit::Timestamp && self.kind == ValueKind::Text
    }

    /// Whether it is a field that holds an address.
    pub(super) fn is_address(&self) -> bool {
        matches!(self.node, Node::Field(field, ValueKind::Text) if field.info().domain == Domain::Addresses)
    }

    /// Whether it is a moment in milliseconds.
    pub(super) fn is_milliseconds(&self) -> bool {
        self.unit == Unit::Milliseconds && self.kind.is_numeric()
    }

    /// Whether it is a moment, in any form.
    pub(super) fn is_moment(&self) -> bool {
        self.kind == ValueKind::Time || self.is_timestamp() || self.is_milliseconds()
    }

    /// Whether it counts as a whole number.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.kind, ValueKind::Integer | ValueKind::Bool | ValueKind::Time)
    }

    /// Converts to this kind; a missing value becomes false as a truth value.
    pub(super) fn to(self, kind: ValueKind) -> Node {
        match (self.kind, kind) {
            (ValueKind::Null, ValueKind::Bool) => Self::bool(false).node,
            _ => self.node,
        }
    }
}
