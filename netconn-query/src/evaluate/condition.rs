//! Conditions on an event: true or false, never missing.

use std::net::IpAddr;

use ipnet::IpNet;
use netconn_model::field::FIELDS;

use super::{
    EventFields,
    node::{Node, Row},
    relation::{Operator, Relation},
};
use crate::{
    address,
    ast::MatchOp,
    function::contains,
    text_pattern::{self, Matcher},
    value::{Value, ValueKind},
};

/// A compiled condition.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    Constant(bool),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
    /// The second if the first is true, else the third.
    Choice(Box<(Self, Self, Self)>),
    /// The value counts as true.
    True(Node),
    Present(Node),
    Missing(Node),
    Compare(Box<Comparison>),
    In(Box<Membership>),
    Match(Box<(Node, Vec<Pattern>)>),
    /// One of the patterns fits the text of some field.
    MatchAnywhere(Box<Anywhere>),
    /// An array has one of the values.
    Has(Box<(Node, Vec<Node>)>),
}

/// Two values that are compared.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    pub(super) left: Node,
    pub(super) operator: Operator,
    pub(super) relation: Relation,
    pub(super) right: Node,
}

/// A value that is compared with several.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) value: Node,
    /// It may be missing.
    pub(super) or_missing: bool,
    /// Sorted.
    pub(super) texts: Vec<Box<str>>,
    /// Those of the texts that are an address. Sorted.
    pub(super) addresses: Vec<IpAddr>,
    /// Sorted.
    pub(super) integers: Vec<i64>,
    /// Sorted by their total order.
    pub(super) numbers: Vec<f64>,
    pub(super) networks: Vec<IpNet>,
    /// Elements that are values of the event, or that are compared in another way.
    pub(super) others: Vec<(Relation, Node)>,
}

/// A pattern: a literal, or a value of the event.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Fixed(Matcher),
    Computed { op: MatchOp, insensitive: bool, pattern: Node },
}

/// Patterns that are looked for in the whole event.
#[derive(Clone, Debug)]
pub(super) struct Anywhere {
    pub(super) patterns: Vec<Pattern>,
    /// The fields that the schema does not have.
    pub(super) others: Vec<Node>,
}

impl Condition {
    /// Whether the condition is true of an event.
    pub(super) fn holds<'e, E: EventFields + ?Sized>(&'e self, row: &Row<'_, 'e, E>) -> bool {
        match self {
            Self::Constant(holds) => *holds,
            Self::Not(inner) => !inner.holds(row),
            // The first part that decides ends the evaluation. A sum that overflows in a later part is then not
            // noticed.
            Self::All(all) => all.iter().all(|part| part.holds(row)),
            Self::Any(any) => any.iter().any(|part| part.holds(row)),
            Self::Choice(parts) => {
                let (condition, then, otherwise) = parts.as_ref();
                if condition.holds(row) { then.holds(row) } else { otherwise.holds(row) }
            }
            Self::True(node) => node.value(row).truth(),
            Self::Present(node) => node.value(row) != Value::Null,
            Self::Missing(node) => node.value(row) == Value::Null,
            Self::Compare(parts) => {
                parts.relation.holds(parts.operator, &parts.left.value(row), &parts.right.value(row))
            }
            Self::In(membership) => membership.holds(row),
            Self::Match(parts) => {
                let (subject, patterns) = parts.as_ref();
                // A missing value matches no pattern.
                let Some(text) = subject.value(row).into_text() else { return false };
                patterns.iter().any(|pattern| pattern.fits(&text, row))
            }
            Self::MatchAnywhere(anywhere) => anywhere.holds(row),
            Self::Has(parts) => {
                let (array, elements) = parts.as_ref();
                let array = array.value(row);
                let has = |element: &'e Node| contains(&[array.clone(), element.value(row)]) == Value::Bool(true);
                elements.iter().any(has)
            }
        }
    }
}

impl Membership {
    fn holds<'e, E: EventFields + ?Sized>(&'e self, row: &Row<'_, 'e, E>) -> bool {
        // An address is compared as a number; its text would be an allocation for each event.
        let (is_listed, value) = match self.address(row) {
            Some(address) => (self.lists_address(address), None),
            None => {
                let value = self.value.value(row);
                (self.lists(&value), Some(value))
            }
        };
        if is_listed || self.others.is_empty() {
            return is_listed;
        }
        // Only now is the text of an address needed.
        let value = value.unwrap_or_else(|| self.value.value(row));
        let is_equal =
            |(relation, other): &'e (Relation, Node)| relation.holds(Operator::Equal, &value, &other.value(row));
        self.others.iter().any(is_equal)
    }

    /// Returns the address, if the value is a field that the event holds as one.
    fn address<'e, E: EventFields + ?Sized>(&'e self, row: &Row<'_, 'e, E>) -> Option<IpAddr> {
        match &self.value {
            Node::Field(field, ValueKind::Text) => row.event.address(*field),
            _ => None,
        }
    }

    fn lists_address(&self, address: IpAddr) -> bool {
        let in_network = |address: &IpAddr| self.networks.iter().any(|network| network.contains(address));
        // Both sides have mapped addresses as IPv4.
        let address = address.to_canonical();
        self.addresses.binary_search(&address).is_ok() || in_network(&address)
    }

    fn lists(&self, value: &Value<'_>) -> bool {
        match value {
            Value::Text(text) => {
                // Exact texts first; only then is the text parsed as an address.
                self.texts.binary_search_by(|known| known.as_ref().cmp(text)).is_ok()
                    || (!self.networks.is_empty()
                        && address::address(text)
                            .is_some_and(|address| self.networks.iter().any(|network| network.contains(&address))))
            }
            // The compiler fills one of both lists: floats would lose digits of large whole numbers.
            Value::Integer(number) if self.numbers.is_empty() => self.integers.binary_search(number).is_ok(),
            value @ (Value::Integer(_) | Value::Number(_)) => value
                .number()
                .is_some_and(|number| self.numbers.binary_search_by(|known| known.total_cmp(&number)).is_ok()),
            Value::Null => self.or_missing,
            _ => false,
        }
    }
}

impl Pattern {
    fn fits<'e, E: EventFields + ?Sized>(&'e self, text: &str, row: &Row<'_, 'e, E>) -> bool {
        match self {
            Self::Fixed(matcher) => matcher.fits(text),
            Self::Computed { op, insensitive, pattern } => {
                let pattern = pattern.value(row).into_text();
                pattern.is_some_and(|pattern| text_pattern::fits(*op, *insensitive, text, &pattern))
            }
        }
    }
}

impl Anywhere {
    fn holds<'e, E: EventFields + ?Sized>(&'e self, row: &Row<'_, 'e, E>) -> bool {
        let fits = |value: Value<'_>| {
            value.into_text().is_some_and(|text| self.patterns.iter().any(|pattern| pattern.fits(&text, row)))
        };
        // Lazily: the text of a field is made only if no field before it matched.
        let mut fields = FIELDS.iter().filter_map(|field| {
            row.event
                .value(field.field)
                .map(|value| super::node::as_field(value, field.field, ValueKind::from(field.r#type)))
        });
        fields.any(fits) || self.others.iter().any(|other| fits(other.value(row)))
    }
}
