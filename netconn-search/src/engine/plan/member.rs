//! Plans `in`: equal to an element of a set; an element in CIDR form means the addresses inside it.

use std::collections::BTreeSet;

use datafusion::logical_expr::{Expr, Operator};
use netconn_query::{
    address::network,
    ast::BinaryOp,
    function::NET_IPSUBNET,
    value::{ValueKind, parse_number, parse_time},
};

use super::{
    compare::{as_address, as_span, compare, is_address, lowercase},
    operand::{Operand, function, in_list, joined, text},
};

/// Plans `value in (set)`. The result may be missing, which counts as false.
pub(crate) fn member(value: &Operand, set: Vec<Operand>, insensitive: bool) -> Expr {
    // Elements are sorted by how they can be found: `IN` over literals uses a hash table and Parquet's statistics, all
    // others need a comparison each. A subquery may bring a million.
    let (mut texts, mut numbers) = (BTreeSet::new(), Vec::new());
    let (mut networks, mut others) = (Vec::new(), Vec::new());
    for element in set {
        if is_address(value)
            && let Some(written) = element.literal_text()
        {
            // Parquet files of other programs may have an address as it is written.
            texts.insert(if insensitive { written.to_lowercase() } else { written.to_owned() });
        }
        let element = if is_address(value) { as_address(element) } else { as_span(value, element) };
        match (element.literal_text(), element.is_literal() && element.kind.is_numeric()) {
            // A network is also a text, in case the field holds networks.
            (Some(literal), _) if value.kind == ValueKind::Text && network(literal).is_some() => {
                texts.insert(if insensitive { literal.to_lowercase() } else { literal.to_owned() });
                networks.push(element.expr);
            }
            (Some(literal), _) if value.kind == ValueKind::Text => {
                texts.insert(if insensitive { literal.to_lowercase() } else { literal.to_owned() });
            }
            // A moment is left to `compare`, which knows in which unit the field counts.
            (Some(literal), _) if value.kind.is_numeric() && parse_time(literal).is_none() => {
                // A text that is no number equals no number.
                numbers.extend(
                    literal
                        .trim()
                        .parse::<i64>()
                        .map(Operand::integer)
                        .ok()
                        .or_else(|| parse_number(literal).map(Operand::from_number)),
                );
            }
            (None, true) if value.kind.is_numeric() => numbers.push(element),
            _ => others.push(element),
        }
    }
    let mut any = Vec::new();
    if !texts.is_empty() {
        let subject = if insensitive { lowercase(value.expr.clone()) } else { value.expr.clone() };
        any.push(in_list(subject, texts.iter().map(|element| text(element)).collect()));
    }
    if !numbers.is_empty() {
        // One fraction makes all of them floats: a list has one type.
        let whole = numbers.iter().all(|number| number.kind == ValueKind::Integer);
        let kind = if whole { value.kind } else { ValueKind::Number };
        any.push(in_list(value.clone().to(kind), numbers.into_iter().map(|number| number.to(kind)).collect()));
    }
    if !networks.is_empty() {
        let mut arguments = vec![value.expr.clone()];
        arguments.append(&mut networks);
        any.push(function(NET_IPSUBNET, arguments));
    }
    // What is left differs from row to row or has another kind, and is compared by the rules of `=`.
    let op = if insensitive { BinaryOp::EqualAnyCase } else { BinaryOp::Equal };
    any.extend(others.into_iter().map(|element| compare(op, value.clone(), element)));
    joined(any, Operator::Or, false)
}
