//! A compiled value with its kind, and what it becomes where a number, a text or a truth value is wanted.

use netconn_model::field::{Field, Type};

use crate::{
    evaluate::node::Node,
    value::{Value, ValueKind},
};

/// Largest whole number up to which a float tells all whole numbers apart.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A value, and of which kind it is.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) node: Node,
    pub(super) kind: ValueKind,
}

impl Operand {
    pub(super) fn new(node: Node, kind: ValueKind) -> Self {
        Self { node, kind }
    }

    /// Always missing.
    pub(super) fn null() -> Self {
        Self::new(Node::Literal(Value::Null), ValueKind::Null)
    }

    /// A number: a whole one if it is one.
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

    /// The value, if the filter spells it out.
    pub(super) fn literal(&self) -> Option<&Value<'static>> {
        match &self.node {
            Node::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// The text, if the filter spells it out.
    pub(super) fn literal_text(&self) -> Option<&str> {
        match self.literal() {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether it is the field whose texts are moments, always to the nanosecond and in UTC: in the order of time.
    pub(super) fn is_timestamp(&self) -> bool {
        matches!(self.node, Node::Field(Field::Timestamp, _))
    }

    /// Whether it is a field that holds an address.
    pub(super) fn is_address(&self) -> bool {
        use Field::{DstAddress, LocalAddress, RemoteAddress, SrcAddress};
        matches!(self.node, Node::Field(SrcAddress | DstAddress | LocalAddress | RemoteAddress, ValueKind::Text))
    }

    /// Whether it is a field that is a moment in milliseconds.
    pub(super) fn is_milliseconds(&self) -> bool {
        matches!(self.node, Node::Field(field, _) if field.info().r#type == Type::EpochMilliseconds)
    }

    /// Whether it counts as a whole number.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.kind, ValueKind::Integer | ValueKind::Bool | ValueKind::Time)
    }

    /// The value for a place that is of this kind; what is always missing is false as a truth value.
    pub(super) fn to(self, kind: ValueKind) -> Node {
        match (self.kind, kind) {
            (ValueKind::Null, ValueKind::Bool) => Self::bool(false).node,
            _ => self.node,
        }
    }
}
