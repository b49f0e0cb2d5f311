//! Plans comparisons. One that Parquet's statistics can rule out stays a plain comparison of a column with a literal.

use datafusion::{
    logical_expr::{Expr, Operator, lit},
    scalar::ScalarValue,
};
use jiff::Timestamp;
use netconn_query::{
    address::{address, is_field, meant},
    ast::BinaryOp,
    function::{ADDRESS, ORDER},
    value::{Unit, ValueKind, parse_moment, parse_number},
};

use super::operand::{Operand, binary, function, in_list, text};

/// Plans `left op right`. The result may be missing, which counts as false.
pub(crate) fn compare(op: BinaryOp, left: Operand, right: Operand) -> Expr {
    // Not DataFusion's `!=`, which is missing when one side is: both operators together would then lose rows.
    if op == BinaryOp::NotEqual {
        return unequal(compare(BinaryOp::Equal, left, right));
    }
    if op == BinaryOp::Equal
        && let Some(either) = either_spelling(&left, &right).or_else(|| either_spelling(&right, &left))
    {
        return either;
    }
    let (left, right) = spans(left, right);
    let (left, right) = match (is_address(&left), is_address(&right)) {
        (true, false) => (left, as_address(right)),
        (false, true) => (as_address(left), right),
        _ => (left, right),
    };
    let operator = match op {
        BinaryOp::EqualAnyCase => {
            // A literal is lowered once here and not for each row.
            let lower = |operand: Operand| match operand.literal_text() {
                Some(text) => Operand::from_text(&text.to_lowercase()),
                None if operand.kind == ValueKind::Text => Operand::new(lowercase(operand.expr), ValueKind::Text),
                None => operand,
            };
            return compare(BinaryOp::Equal, lower(left), lower(right));
        }
        BinaryOp::Less => Operator::Lt,
        BinaryOp::LessOrEqual => Operator::LtEq,
        BinaryOp::Greater => Operator::Gt,
        BinaryOp::GreaterOrEqual => Operator::GtEq,
        // The parser makes comparisons of no other operators.
        _ => Operator::Eq,
    };
    let equal = operator == Operator::Eq;
    // `event.time` has to stay a plain column, compared with a plain number: only then can files and row groups be
    // skipped. Whether to round up depends on the side: `t >= x.5` and `t < x.5` both mean the next millisecond.
    let (left, right) = match (is_milliseconds(&left), is_milliseconds(&right)) {
        (true, false) => (left, in_milliseconds(right, matches!(operator, Operator::GtEq | Operator::Lt), equal)),
        (false, true) => (in_milliseconds(left, matches!(operator, Operator::LtEq | Operator::Gt), equal), right),
        _ => (left, right),
    };
    match (left.kind, right.kind) {
        // Missing is equal to missing, and neither less nor greater than anything.
        (ValueKind::Null, ValueKind::Null) => lit(equal),
        (ValueKind::Null, _) if equal => Expr::IsNull(Box::new(right.expr)),
        (_, ValueKind::Null) if equal => Expr::IsNull(Box::new(left.expr)),
        (ValueKind::Null, _) | (_, ValueKind::Null) => lit(false),
        (ValueKind::Text, ValueKind::Text) => texts(operator, left, right),
        (ValueKind::Bool, ValueKind::Bool) => same(operator, left, right),
        // Arrays have no order in Arrow, so their texts are compared.
        (ValueKind::List(_), _) | (_, ValueKind::List(_)) => {
            let (left, right) = (left.text(), right.text());
            same(operator, Operand::new(left, ValueKind::Text), Operand::new(right, ValueKind::Text))
        }
        // Of two columns nobody knows whether the texts are words or numbers; `true` as a word is what files have.
        (ValueKind::Text, ValueKind::Bool) | (ValueKind::Bool, ValueKind::Text)
            if equal && left.literal_text().is_none() && right.literal_text().is_none() =>
        {
            let [left, right] = [left, right].map(word);
            same(operator, left, right)
        }
        (ValueKind::Text, _) => numbers(operator, literal_as(left, right.kind), right),
        (_, ValueKind::Text) => {
            let right = literal_as(right, left.kind);
            numbers(operator, left, right)
        }
        _ => numbers(operator, left, right),
    }
}

/// Brings spans of time into one unit: those in quotes into that of the other side, two different ones into nanoseconds.
fn spans(left: Operand, right: Operand) -> (Operand, Operand) {
    match (left.unit, right.unit) {
        (Unit::Span(one), Unit::Span(other)) if one != other => {
            let span = |operand: Operand, unit| Operand::new(operand.nanoseconds(unit), ValueKind::Integer);
            (span(left, one), span(right, other))
        }
        _ => {
            let (new_left, new_right) = (as_span(&right, left.clone()), as_span(&left, right));
            (new_left, new_right)
        }
    }
}

/// Counts a span of time in quotes in the unit of the other side; other operands stay as they are.
pub(crate) fn as_span(other: &Operand, operand: Operand) -> Operand {
    let count = operand.literal_text().and_then(|text| other.unit.count(text));
    count.map_or(operand, Operand::from_number)
}

/// Negates an equality; a missing one counts as false, so that both together cover all rows.
fn unequal(equal: Expr) -> Expr {
    Expr::IsNotTrue(Box::new(equal))
}

/// Returns a text in lower case.
pub(crate) fn lowercase(expr: Expr) -> Expr {
    datafusion::functions::string::expr_fn::lower(expr)
}

/// Compares values of one kind; two missing ones are equal.
fn same(operator: Operator, left: Operand, right: Operand) -> Expr {
    // A literal is never missing, so a plain `=` is enough, and only a plain one is checked against Parquet's
    // statistics.
    let literal = left.is_literal() || right.is_literal();
    let operator = if operator == Operator::Eq && !literal { Operator::IsNotDistinctFrom } else { operator };
    binary(left.expr, operator, right.expr)
}

fn texts(operator: Operator, left: Operand, right: Operand) -> Expr {
    let (left, right) = match (is_timestamp(&left), is_timestamp(&right)) {
        (true, false) => (left, moment(right)),
        (false, true) => (moment(left), right),
        _ => (left, right),
    };
    // A literal that is no address cannot make a pair of addresses, so the slow function is not needed.
    let maybe_address = |operand: &Operand| operand.literal_text().is_none_or(|text| address(text).is_some());
    // Equality is of texts: events have one form for each address, and `as_address` brings all else into it.
    if operator == Operator::Eq || !maybe_address(&left) || !maybe_address(&right) {
        return same(operator, left, right);
    }
    binary(function(ORDER, vec![left.expr, right.expr]), operator, lit(0_i64))
}

/// Whether the operand is a moment in the form of `timestamp`.
pub(crate) fn is_timestamp(operand: &Operand) -> bool {
    operand.unit == Unit::Timestamp && operand.kind == ValueKind::Text
}

/// Whether the operand is a field that holds addresses.
pub(crate) fn is_address(operand: &Operand) -> bool {
    operand.kind == ValueKind::Text && matches!(&operand.expr, Expr::Column(column) if is_field(&column.name))
}

/// Rewrites an address as events write it, because it is compared with a field of addresses. A literal stays one, so that
/// files and row groups can be skipped.
pub(crate) fn as_address(operand: Operand) -> Operand {
    match operand.literal_text() {
        Some(text) => match meant(text) {
            Some(address) => Operand::from_text(&address.to_string()),
            None => operand,
        },
        None if operand.kind == ValueKind::Text && !is_address(&operand) => {
            Operand::new(function(ADDRESS, vec![operand.expr]), ValueKind::Text)
        }
        None => operand,
    }
}

/// Whether the operand is a moment in milliseconds.
pub(crate) fn is_milliseconds(operand: &Operand) -> bool {
    operand.unit == Unit::Milliseconds && operand.kind.is_numeric()
}

/// Plans that an address is equal to a literal that has another form than the usual one: Parquet files of other programs may have
/// it as it is written. Both stay literals, by which files and row groups can be skipped.
fn either_spelling(address: &Operand, literal: &Operand) -> Option<Expr> {
    let written = literal.literal_text().filter(|_| is_address(address))?;
    let usual = meant(written)?.to_string();
    (usual != written).then(|| in_list(address.expr.clone(), vec![text(&usual), text(written)]))
}

/// Whether the operand is a moment, in any form.
pub(crate) fn is_moment(operand: &Operand) -> bool {
    operand.kind == ValueKind::Time || is_timestamp(operand) || is_milliseconds(operand)
}

/// Converts a literal moment to milliseconds, which Parquet's statistics are in. A moment between two milliseconds is
/// rounded so that whole milliseconds compare with it as with the moment itself; no millisecond equals it.
fn in_milliseconds(operand: Operand, up: bool, equal: bool) -> Operand {
    let nanos = match &operand.expr {
        Expr::Literal(ScalarValue::TimestampNanosecond(nanos, _), _) => *nanos,
        _ => operand.literal_text().and_then(parse_moment),
    };
    let Some(nanos) = nanos else { return operand };
    // Euclidean, because moments before 1970 are negative and have to be rounded the same way.
    let between = nanos.rem_euclid(1_000_000) != 0;
    // Unchanged, the moment is compared in nanoseconds, and no millisecond equals it.
    if between && equal {
        return operand;
    }
    Operand::integer(nanos.div_euclid(1_000_000) + i64::from(between && up))
}

/// Converts a truth value to the word for it.
fn word(operand: Operand) -> Operand {
    match operand.expr {
        Expr::Literal(ScalarValue::Boolean(Some(value)), _) => Operand::from_text(if value { "true" } else { "false" }),
        _ => Operand::new(operand.text(), ValueKind::Text),
    }
}

/// Rewrites a literal moment as `timestamp` writes moments.
fn moment(operand: Operand) -> Operand {
    let nanos = operand.literal_text().and_then(parse_moment);
    let moment = nanos.and_then(|nanos| Timestamp::from_nanosecond(i128::from(nanos)).ok());
    moment.map_or(operand, |moment| Operand::from_text(&format!("{moment:.9}")))
}

/// Converts a text literal to the kind of the other side (number, moment, truth value) if it is one.
fn literal_as(text: Operand, kind: ValueKind) -> Operand {
    let Some(literal) = text.literal_text() else { return text };
    match kind {
        ValueKind::Bool => match literal.to_lowercase().as_str() {
            "true" => Operand::new(lit(true), ValueKind::Bool),
            "false" => Operand::new(lit(false), ValueKind::Bool),
            _ => text,
        },
        // A text that is no moment may still be a number of seconds, which the last branch reads.
        ValueKind::Time if parse_moment(literal).is_some() => {
            let zone = Some("UTC".into());
            Operand::new(lit(ScalarValue::TimestampNanosecond(parse_moment(literal), zone)), ValueKind::Time)
        }
        // Whole numbers first: a float would lose digits beyond 2^53.
        _ => match literal.trim().parse::<i64>() {
            Ok(number) => Operand::new(lit(number), ValueKind::Integer),
            Err(_) => parse_number(literal).map_or(text, Operand::from_number),
        },
    }
}

/// Compares values of which at most one is a text. A text that is no number is not equal to a number, nor less, nor
/// greater.
fn numbers(operator: Operator, left: Operand, right: Operand) -> Expr {
    // `literal_as` has turned every text that is a number into one.
    if left.literal_text().is_some() || right.literal_text().is_some() {
        return lit(false);
    }
    if left.kind == right.kind && left.kind != ValueKind::Text {
        return same(operator, left, right);
    }
    let missing = |operand: &Operand| Expr::IsNull(Box::new(operand.expr.clone()));
    // Conversions may make missing values of texts, so the test for missing is about the values before them.
    let both_missing = (operator == Operator::Eq && !left.is_literal() && !right.is_literal())
        .then(|| binary(missing(&left), Operator::And, missing(&right)));
    let (left, right) = if moments(&left, &right) || moments(&right, &left) {
        let moment = |operand: Operand| Operand::new(operand.to(ValueKind::Time), ValueKind::Time);
        (moment(left), moment(right))
    } else {
        (left.numeric(), right.numeric())
    };
    let compared = match (left.kind, right.kind) {
        (ValueKind::Integer, ValueKind::Integer)
        | (ValueKind::Number, ValueKind::Number)
        | (ValueKind::Time, ValueKind::Time) => binary(left.expr, operator, right.expr),
        _ => binary(left.number(), operator, right.number()),
    };
    match both_missing {
        Some(missing) => binary(compared, Operator::Or, missing),
        None => compared,
    }
}

/// Whether both are compared as moments, because their numbers have different units.
fn moments(left: &Operand, right: &Operand) -> bool {
    match left.kind {
        ValueKind::Time => right.kind.is_numeric() || is_timestamp(right),
        _ => is_milliseconds(left) && is_timestamp(right),
    }
}
