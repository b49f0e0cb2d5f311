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

/// Sorts the elements in descending order.
pub(super) fn sort_desc<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(values) = list(&arguments[0]) else { return Value::Null };
    let mut values = values.to_vec();
    // Missing values stay last.
    values.sort_by(|left, right| match (left, right) {
        (Value::Null, _) | (_, Value::Null) => compare(left, right),
        _ => compare(right, left),
    });
    Value::List(values)
}

/// `set(array, n, x)`: the array with x at an index; negative indexes count from the end. Without such a place nothing changes.
pub(super) fn set<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(values), Some(place)) = (list(&arguments[0]), arguments[1].integer()) else { return Value::Null };
    let place = if place < 0 { i64::try_from(values.len()).unwrap_or(i64::MAX) + place } else { place };
    let mut values = values.to_vec();
    if let Some(old) = usize::try_from(place).ok().and_then(|place| values.get_mut(place)) {
        *old = arguments[2].clone();
    }
    Value::List(values)
}

/// Keeps the elements that both arrays have.
pub(super) fn intersect<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(values), Some(other)) = (list(&arguments[0]), list(&arguments[1])) else { return Value::Null };
    let both: Vec<Value<'a>> =
        values.iter().filter(|value| other.iter().any(|other| equal(other, value))).cloned().collect();
    distinct(&[Value::List(both)])
}

/// Sums the elements; those that are no number are left out. Missing if none is.
pub(super) fn sum<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(values) = list(&arguments[0]) else { return Value::Null };
    let whole = values.iter().try_fold(0_i64, |sum, value| match value {
        Value::Integer(number) => sum.checked_add(*number),
        Value::Bool(value) => sum.checked_add(i64::from(*value)),
        _ => None,
    });
    let numbers: Vec<f64> = values.iter().filter_map(Value::number).collect();
    match whole {
        _ if numbers.is_empty() => Value::Null,
        Some(sum) => Value::Integer(sum),
        None => Value::Number(numbers.iter().sum()),
    }
}

/// Returns the mean of the elements that are numbers.
#[expect(clippy::cast_precision_loss, reason = "an array has far fewer than 2^53 elements")]
pub(super) fn mean<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let numbers: Vec<f64> = list(&arguments[0]).unwrap_or_default().iter().filter_map(Value::number).collect();
    if numbers.is_empty() { Value::Null } else { Value::Number(numbers.iter().sum::<f64>() / numbers.len() as f64) }
}

/// Returns the middle of the elements that are numbers; of an even number the mean of both in the middle.
pub(super) fn median<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let mut numbers: Vec<f64> = list(&arguments[0]).unwrap_or_default().iter().filter_map(Value::number).collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.get(middle) {
        None => Value::Null,
        Some(upper) if numbers.len() % 2 == 1 => Value::Number(*upper),
        Some(upper) => Value::Number((numbers[middle - 1] + upper) / 2.0),
    }
}

/// Returns the smallest element, or the largest one.
pub(super) fn extreme<'a>(values: &[Value<'a>], wanted: Ordering) -> Value<'a> {
    let there = values.iter().filter(|value| **value != Value::Null);
    let best = there.reduce(|best, value| if compare(value, best) == wanted { value } else { best });
    best.cloned().unwrap_or(Value::Null)
}

/// Returns the elements of a JSON array, as texts.
pub(super) fn from_json<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(text) = arguments[0].text() else { return Value::Null };
    match serde_json::from_str::<Vec<serde_json::Value>>(&text) {
        Ok(values) => Value::List(
            values
                .into_iter()
                .map(|value| match value {
                    serde_json::Value::Null => Value::Null,
                    serde_json::Value::String(text) => Value::owned(text),
                    value => Value::owned(value.to_string()),
                })
                .collect(),
        ),
        Err(_) => Value::Null,
    }
}

/// Writes an array as JSON.
pub(super) fn to_json<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(values) = list(&arguments[0]) else { return Value::Null };
    let json = |value: &Value<'_>| match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Integer(number) => (*number).into(),
        // Infinities and NaN have no number in JSON.
        Value::Number(number) => serde_json::Number::from_f64(*number).map_or(serde_json::Value::Null, Into::into),
        value => value.text().map_or(serde_json::Value::Null, |text| text.into_owned().into()),
    };
    Value::owned(serde_json::Value::Array(values.iter().map(json).collect()).to_string())
}

/// `places(array)`: 0, 1, 2, … for the elements, for `expand`.
pub(super) fn places<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let count = |values: &[Value<'a>]| i64::try_from(values.len()).unwrap_or(i64::MAX);
    list(&arguments[0]).map_or(Value::Null, |values| Value::List((0..count(values)).map(Value::Integer).collect()))
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
