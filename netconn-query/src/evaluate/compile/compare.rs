//! Compiles comparisons; the kinds of both operands decide how they are compared.

use jiff::Timestamp;

use super::{member::member, nanoseconds, operand::Operand};
use crate::{
    address::{address, meant},
    ast::BinaryOp,
    evaluate::{
        condition::{Comparison, Condition},
        node::Node,
        relation::{Operator, Relation},
    },
    value::{Unit, Value, ValueKind, parse_moment, parse_number},
};

/// The compiled comparison of a given left side.
pub(super) enum Compared {
    Constant(bool),
    LeftMissing,
    RightMissing(Node),
    Related {
        relation: Relation,
        /// The converted left side, if that is a literal.
        left: Option<Node>,
        right: Node,
    },
}

/// `left op right`
pub(super) fn compare(op: BinaryOp, left: Operand, right: Operand) -> Condition {
    let (left, right) = spans(left, right);
    let (left, right) = match (left.is_address(), right.is_address()) {
        (true, false) => (left, as_address(right)),
        (false, true) => (as_address(left), right),
        _ => (left, right),
    };
    let operator = match op {
        // The exact opposite of `=`, so that both together match all events.
        BinaryOp::NotEqual => return Condition::Not(Box::new(compare(BinaryOp::Equal, left, right))),
        BinaryOp::EqualAnyCase => return compare(BinaryOp::Equal, lower(left), lower(right)),
        BinaryOp::Less => Operator::Less,
        BinaryOp::LessOrEqual => Operator::LessOrEqual,
        BinaryOp::Greater => Operator::Greater,
        BinaryOp::GreaterOrEqual => Operator::GreaterOrEqual,
        _ => Operator::Equal,
    };
    // An equality with an address is a list of one: events hold addresses as numbers, and lists compare those.
    if operator == Operator::Equal && left.is_address() && right.literal_text().and_then(address).is_some() {
        return member(left, vec![right], false);
    }
    match relate(operator, &left, right) {
        Compared::Constant(holds) => Condition::Constant(holds),
        Compared::LeftMissing => Condition::Missing(left.node),
        Compared::RightMissing(right) => Condition::Missing(right),
        Compared::Related { relation, left: instead, right } => {
            let left = instead.unwrap_or(left.node);
            Condition::Compare(Box::new(Comparison { left, operator, relation, right }))
        }
    }
}

/// Brings spans of time into one unit: those in quotes into that of the other side, two different ones into nanoseconds.
fn spans(left: Operand, right: Operand) -> (Operand, Operand) {
    match (left.unit, right.unit) {
        (Unit::Span(one), Unit::Span(other)) if one != other => {
            let span = |operand, unit| Operand::new(nanoseconds(operand, unit), ValueKind::Integer);
            (span(left, one), span(right, other))
        }
        _ => {
            let (new_left, new_right) = (as_span(&right, left.clone()), as_span(&left, right));
            (new_left, new_right)
        }
    }
}

/// Counts a span of time in quotes in the unit of the other side; other operands stay as they are.
pub(super) fn as_span(other: &Operand, operand: Operand) -> Operand {
    let count = operand.literal_text().and_then(|text| other.unit.count(text));
    count.map_or(operand, Operand::from_number)
}

/// Rewrites an address as events write it, because it is compared with a field of addresses.
pub(super) fn as_address(operand: Operand) -> Operand {
    match operand.literal_text() {
        Some(text) => match meant(text) {
            Some(address) => Operand::text(&address.to_string()),
            None => operand,
        },
        None if operand.kind == ValueKind::Text && !operand.is_address() => {
            Operand::new(Node::Usual(Box::new(operand.node)), ValueKind::Text)
        }
        None => operand,
    }
}

/// Converts a text to lower case; other values stay as they are.
pub(super) fn lower(operand: Operand) -> Operand {
    match operand.literal_text() {
        Some(text) => Operand::text(&text.to_lowercase()),
        None if operand.kind == ValueKind::Text => Operand::new(Node::Lower(Box::new(operand.node)), ValueKind::Text),
        None => operand,
    }
}

/// Decides how two operands are compared.
pub(super) fn relate(operator: Operator, left: &Operand, right: Operand) -> Compared {
    let equal = operator == Operator::Equal;
    match (left.is_milliseconds(), right.is_milliseconds()) {
        (true, false) => {
            // `t >= x.5` and `t < x.5` both mean the next whole millisecond.
            let up = matches!(operator, Operator::GreaterOrEqual | Operator::Less);
            let instead = in_milliseconds(&right, up, equal);
            related(operator, left, instead.unwrap_or(right), None)
        }
        (false, true) => {
            let up = matches!(operator, Operator::LessOrEqual | Operator::Greater);
            match in_milliseconds(left, up, equal) {
                // The caller builds the comparison, so it gets the literal to put on the left.
                Some(instead) => related(operator, &instead, right, Some(&instead)),
                None => related(operator, left, right, None),
            }
        }
        _ => related(operator, left, right, None),
    }
}

fn related(operator: Operator, left: &Operand, right: Operand, instead: Option<&Operand>) -> Compared {
    let equal = operator == Operator::Equal;
    let instead = instead.map(|operand| operand.node.clone());
    let by =
        |relation: Relation, right: Operand| Compared::Related { relation, left: instead.clone(), right: right.node };
    let spelled_out = |operand: &Operand| operand.literal_text().is_some();
    match (left.kind, right.kind) {
        (ValueKind::Null, ValueKind::Null) => Compared::Constant(equal),
        (ValueKind::Null, _) if equal => Compared::RightMissing(right.node),
        (_, ValueKind::Null) if equal => Compared::LeftMissing,
        // Less or greater: missing is neither.
        (ValueKind::Null, _) | (_, ValueKind::Null) => Compared::Constant(false),
        (ValueKind::Text, ValueKind::Text) => texts(operator, left, right),
        (ValueKind::List(_), _) | (_, ValueKind::List(_)) => by(Relation::Texts, right),
        (ValueKind::Text, ValueKind::Bool) | (ValueKind::Bool, ValueKind::Text)
            if equal && !spelled_out(left) && !spelled_out(&right) =>
        {
            by(Relation::Texts, right)
        }
        (ValueKind::Text, kind) if spelled_out(left) => match literal_as(left, kind) {
            Some(literal) => {
                let relation = numbers(&literal, &right);
                Compared::Related { relation, left: Some(literal.node), right: right.node }
            }
            None => Compared::Constant(false),
        },
        (kind, ValueKind::Text) if spelled_out(&right) => match literal_as(&right, kind) {
            Some(literal) => by(numbers(left, &literal), literal),
            // A text that is no number is not equal to a number, nor less, nor greater.
            None => Compared::Constant(false),
        },
        _ => by(numbers(left, &right), right),
    }
}

fn texts(operator: Operator, left: &Operand, right: Operand) -> Compared {
    let (instead, right) = match (left.is_timestamp(), right.is_timestamp()) {
        (true, false) => (None, moment(&right).unwrap_or(right)),
        (false, true) => (moment(left).map(|moment| moment.node), right),
        _ => (None, right),
    };
    // A literal that is no address cannot be one of two addresses.
    let maybe_address = |operand: &Operand| operand.literal_text().is_none_or(|text| address(text).is_some());
    let by_address = operator != Operator::Equal && maybe_address(left) && maybe_address(&right);
    let relation = if by_address { Relation::Addresses } else { Relation::Same };
    Compared::Related { relation, left: instead, right: right.node }
}

/// Rewrites a literal moment as `timestamp` writes moments.
fn moment(operand: &Operand) -> Option<Operand> {
    let nanos = operand.literal_text().and_then(parse_moment)?;
    let moment = Timestamp::from_nanosecond(i128::from(nanos)).ok()?;
    Some(Operand::text(&format!("{moment:.9}")))
}

/// Converts a literal moment to milliseconds. A moment between two milliseconds is rounded so that whole milliseconds
/// compare with it as with the moment itself; no millisecond equals it.
fn in_milliseconds(operand: &Operand, up: bool, equal: bool) -> Option<Operand> {
    let nanos = match operand.literal()? {
        Value::Time(nanos) => *nanos,
        Value::Text(text) => parse_moment(text)?,
        _ => return None,
    };
    let between = nanos.rem_euclid(1_000_000) != 0;
    let rounded = nanos.div_euclid(1_000_000) + i64::from(between && up);
    (!between || !equal).then(|| Operand::integer(rounded))
}

/// Converts a text literal to the kind of the other side (number, moment, truth value); `None` if it is none of them.
fn literal_as(text: &Operand, kind: ValueKind) -> Option<Operand> {
    let literal = text.literal_text()?;
    match kind {
        ValueKind::Bool => match literal.to_lowercase().as_str() {
            "true" => Some(Operand::bool(true)),
            "false" => Some(Operand::bool(false)),
            _ => None,
        },
        ValueKind::Time if parse_moment(literal).is_some() => parse_moment(literal).map(Operand::time),
        // Whole numbers first: a float would lose digits beyond 2^53.
        _ => match literal.trim().parse::<i64>() {
            Ok(number) => Some(Operand::integer(number)),
            Err(_) => parse_number(literal).map(Operand::from_number),
        },
    }
}

/// Decides how two values are compared if at most one is a text.
fn numbers(left: &Operand, right: &Operand) -> Relation {
    let moments = |left: &Operand, right: &Operand| match left.kind {
        ValueKind::Time => right.kind.is_numeric() || right.is_timestamp(),
        _ => left.is_milliseconds() && right.is_timestamp(),
    };
    if left.kind == right.kind {
        Relation::Same
    } else if moments(left, right) || moments(right, left) {
        Relation::Moments
    } else {
        Relation::Numbers
    }
}
