//! Compiles `in`: equal to an element of a set; an element in CIDR form means the addresses inside it.

use super::{
    compare::{Compared, as_address, as_span, lower, relate},
    operand::Operand,
};
use crate::{
    address::{address, network},
    evaluate::{
        condition::{Comparison, Condition, Membership},
        relation::Operator,
    },
    value::{Value, ValueKind, parse_number, parse_time},
};

/// `value in (set)`
pub(super) fn member(value: Operand, set: Vec<Operand>, insensitive: bool) -> Condition {
    let is_address = value.is_address();
    let value = if insensitive { lower(value) } else { value };
    // Elements that are written out are sorted for binary search; a list of a thousand addresses is one look-up.
    let mut found = Membership {
        value: Operand::null().node,
        or_missing: false,
        texts: Vec::new(),
        addresses: Vec::new(),
        integers: Vec::new(),
        numbers: Vec::new(),
        networks: Vec::new(),
        others: Vec::new(),
    };
    let (mut listed, mut any) = (Vec::new(), Vec::new());
    for element in set {
        let element = if is_address { as_address(element) } else { as_span(&value, element) };
        match element.literal() {
            Some(Value::Text(text)) if value.kind == ValueKind::Text => {
                found.networks.extend(network(text));
                let text = if insensitive { text.to_lowercase() } else { text.clone().into_owned() };
                found.texts.push(text.into());
            }
            Some(Value::Text(text)) if value.kind.is_numeric() && parse_time(text).is_none() => {
                // A text that is no number equals no number.
                let whole = text.trim().parse::<i64>().map(Operand::integer).ok();
                listed.extend(whole.or_else(|| parse_number(text).map(Operand::from_number)));
            }
            Some(Value::Integer(_) | Value::Number(_)) if value.kind.is_numeric() => listed.push(element),
            _ => {
                let element = if insensitive { lower(element) } else { element };
                other(&value, element, &mut found, &mut any);
            }
        }
    }
    let mut whole = Vec::with_capacity(listed.len());
    for number in listed.iter().filter_map(Operand::literal) {
        match number {
            Value::Integer(number) => whole.push(*number),
            other => found.numbers.extend(other.number()),
        }
    }
    // One fraction in the list makes all of it floats, as the type of a column does in a search.
    if value.kind == ValueKind::Integer && found.numbers.is_empty() {
        found.integers = whole;
    } else {
        found.numbers.extend(whole.into_iter().filter_map(|number| Value::Integer(number).number()));
    }
    found.value = value.node;
    found.addresses = found.texts.iter().filter_map(|text| address(text)).collect();
    found.addresses.sort_unstable();
    found.texts.sort_unstable();
    found.integers.sort_unstable();
    found.numbers.sort_unstable_by(f64::total_cmp);
    // First, because it is the cheapest to decide.
    any.insert(0, Condition::In(Box::new(found)));
    Condition::Any(any)
}

/// Adds an element that cannot be looked up. If case is ignored, both are in lower case already.
fn other(value: &Operand, element: Operand, found: &mut Membership, any: &mut Vec<Condition>) {
    match relate(Operator::Equal, value, element) {
        Compared::Constant(holds) => any.push(Condition::Constant(holds)),
        Compared::Related { relation, left: None, right } => found.others.push((relation, right)),
        Compared::LeftMissing => found.or_missing = true,
        Compared::RightMissing(element) => any.push(Condition::Missing(element)),
        // The literal on the left is converted for this element only, so the element gets a comparison of its own.
        Compared::Related { left: Some(left), relation, right } => {
            let operator = Operator::Equal;
            any.push(Condition::Compare(Box::new(Comparison { left, operator, relation, right })));
        }
    }
}
