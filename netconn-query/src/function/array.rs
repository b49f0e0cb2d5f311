//! Array functions.

use std::cmp::Ordering;

use crate::value::Value;

fn list<'b, 'a>(value: &'b Value<'a>) -> Option<&'b [Value<'a>]> {
    match value {
        Value::List(values) => Some(values),
        _ => None,
    }
}

/// Whether two values are equal; a number in a text equals the number.
pub(super) fn equal(left: &Value<'_>, right: &Value<'_>) -> bool {
    match (left, right) {
        (Value::Text(left), Value::Text(right)) => left == right,
        (Value::Null, Value::Null) => true,
        (Value::Null, _) | (_, Value::Null) => false,
        _ => match (left.number(), right.number()) {
            // Not by total order: 0 and -0 are equal here, and NaN is equal to nothing.
            (Some(left), Some(right)) => left.partial_cmp(&right) == Some(Ordering::Equal),
            _ => left.text() == right.text(),
        },
    }
}

/// Orders two values: numbers by size, texts by code point, missing values last.
pub(super) fn compare(left: &Value<'_>, right: &Value<'_>) -> Ordering {
    match (left, right) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Greater,
        (_, Value::Null) => Ordering::Less,
        // Two texts are compared as texts even if both are numbers: `10` is before `9`.
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        _ => match (left.number(), right.number()) {
            (Some(left), Some(right)) => left.total_cmp(&right),
            _ => left.text().cmp(&right.text()),
        },
    }
}

/// Returns an array of the arguments.
pub(super) fn array<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    Value::List(arguments.to_vec())
}

/// Returns the element at an index; a negative index counts from the end.
pub(super) fn get<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(values), Some(place)) = (list(&arguments[0]), arguments[1].integer()) else { return Value::Null };
    // Cannot overflow: a length is not negative, and `place` is.
    let place = if place < 0 { i64::try_from(values.len()).unwrap_or(i64::MAX) + place } else { place };
    usize::try_from(place).ok().and_then(|place| values.get(place)).cloned().unwrap_or(Value::Null)
}

/// Joins the elements by a text, or by a comma.
pub(super) fn to_string<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(values) = list(&arguments[0]) else {
        return arguments[0].text().map_or(Value::Null, |text| Value::owned(text.into_owned()));
    };
    let between = arguments.get(1).and_then(Value::text);
    // Missing elements are left out, with their commas.
    let texts: Vec<String> = values.iter().filter_map(Value::text).map(std::borrow::Cow::into_owned).collect();
    Value::owned(texts.join(between.as_deref().unwrap_or(",")))
}

/// Joins the values of an array in ascending order.
pub(super) fn hacklist<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    match list(&arguments[0]) {
        None => Value::Null,
        Some(values) => {
            let mut values = values.to_vec();
            values.sort_by(compare);
            to_string(&[Value::List(values), Value::owned(", ")])
        }
    }
}

/// Whether an array has an element, or a text another text.
pub fn contains<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    match &arguments[0] {
        Value::Null => Value::Null,
        Value::List(values) => Value::Bool(values.iter().any(|value| equal(value, &arguments[1]))),
        // `x.contains('a')` with a text: case is ignored, as with the operator.
        value => match (value.text(), arguments[1].text()) {
            (Some(text), Some(part)) => Value::Bool(text.to_lowercase().contains(&part.to_lowercase())),
            _ => Value::Null,
        },
    }
}

/// Keeps the first of equal elements.
pub(super) fn distinct<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(values) = list(&arguments[0]) else { return Value::Null };
    // A walk for each element, because values of different kinds may be equal and have no common hash.
    let mut seen: Vec<Value<'a>> = Vec::new();
    for value in values {
        if !seen.iter().any(|other| equal(other, value)) {
            seen.push(value.clone());
        }
    }
    Value::List(seen)
}

/// Sorts the elements in ascending order.
pub(super) fn sort<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(values) = list(&arguments[0]) else { return Value::Null };
    let mut values = values.to_vec();
    values.sort_by(compare);
    Value::List(values)
}

/// `slice(array, start[, end])`: the elements from `start` up to `end`; negative indexes count from the end.
pub(super) fn slice<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(values), Some(start)) = (list(&arguments[0]), arguments[1].integer()) else { return Value::Null };
    let place = |place: i64| {
        let place = if place < 0 { i64::try_from(values.len()).unwrap_or(i64::MAX) + place } else { place };
        usize::try_from(place.max(0)).unwrap_or(usize::MAX).min(values.len())
    };
    let start = place(start);
    let end = arguments.get(2).and_then(Value::integer).map_or(values.len(), place);
    // An end before the start gives an empty array instead of a panic.
    Value::List(values[start..end.max(start)].to_vec())
}

/// Concatenates arrays, or texts if no argument is an array.
pub(super) fn concat<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    if arguments.iter().all(|argument| list(argument).is_none()) {
        return Value::owned(arguments.iter().filter_map(Value::text).collect::<String>());
    }
    let mut all = Vec::new();
    for argument in arguments {
        match argument {
            Value::Null => {}
            Value::List(values) => all.extend(values.iter().cloned()),
            value => all.push(value.clone()),
        }
    }
    Value::List(all)
}

/// `cut(array, n)`: the first n elements, for `array_agg(x, n)`.
pub(super) fn cut<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    slice(&[arguments[0].clone(), Value::Integer(0), arguments[1].clone()])
}
