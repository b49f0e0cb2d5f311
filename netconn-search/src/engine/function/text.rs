//! Functions of texts.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};

use super::{
    call::Call,
    value::{Value, parse_number},
};

/// Characters of a text, or elements of an array.
pub(crate) fn len<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let count = match &arguments[0] {
        Value::Null => return Value::Null,
        Value::List(values) => values.len(),
        value => value.text().map_or(0, |text| text.chars().count()),
    };
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

fn map<'a>(value: &Value<'a>, function: impl FnOnce(&str) -> String) -> Value<'a> {
    value.text().map_or(Value::Null, |text| Value::owned(function(&text)))
}

/// In lower case.
pub(crate) fn lower<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    map(&arguments[0], str::to_lowercase)
}

/// In upper case.
pub(crate) fn upper<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    map(&arguments[0], str::to_uppercase)
}

/// Without white space, or the characters given, at both ends.
pub(crate) fn trim<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    strip(arguments, true, true)
}

/// The same, on the left.
pub(crate) fn ltrim<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    strip(arguments, true, false)
}

/// The same, on the right.
pub(crate) fn rtrim<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    strip(arguments, false, true)
}

fn strip<'a>(arguments: &[Value<'a>], left: bool, right: bool) -> Value<'a> {
    let set = arguments.get(1).and_then(Value::text);
    let cut = |character: char| match &set {
        Some(set) => set.contains(character),
        None => character.is_whitespace(),
    };
    map(&arguments[0], |text| {
        let text = if left { text.trim_start_matches(cut) } else { text };
        let text = if right { text.trim_end_matches(cut) } else { text };
        text.to_owned()
    })
}

/// `substr(text, start[, length])`: characters from `start`, counted from 0; from the end if negative.
pub(crate) fn substr<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(text) = arguments[0].text() else { return Value::Null };
    let Some(start) = arguments[1].integer() else { return Value::Null };
    let count = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let start = if start < 0 { (count + start).max(0) } else { start };
    let length = match arguments.get(2) {
        Some(value) => value.integer().unwrap_or(0).max(0),
        None => i64::MAX,
    };
    let (start, length) = (usize::try_from(start).unwrap_or(usize::MAX), usize::try_from(length).unwrap_or(usize::MAX));
    Value::owned(text.chars().skip(start).take(length).collect::<String>())
}

/// Whether it is missing or empty.
pub(crate) fn isempty<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    Value::Bool(match &arguments[0] {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        Value::List(values) => values.is_empty(),
        _ => false,
    })
}

/// Whether it is missing, empty or white space.
pub(crate) fn isblank<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    Value::Bool(match &arguments[0] {
        Value::Null => true,
        Value::Text(text) => text.trim().is_empty(),
        _ => false,
    })
}

/// As a truth value; the texts `false`, `no` and `0` are false.
pub(crate) fn bool<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    Value::Bool(match &arguments[0] {
        Value::Text(text) => !matches!(text.trim().to_lowercase().as_str(), "" | "false" | "no" | "0"),
        value => value.truth(),
    })
}

/// As a text.
pub(crate) fn string<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    arguments[0].text().map_or(Value::Null, |text| Value::owned(text.into_owned()))
}

/// As a number; missing if it is none.
pub(crate) fn number<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    match &arguments[0] {
        Value::Text(text) => parse_number(text).map_or(Value::Null, Value::Number),
        value => value.number().map_or(Value::Null, Value::Number),
    }
}

/// A replacement with `$1` as `${1}`: what follows the number is no part of the group's name.
fn with_numbers(replacement: &str) -> Cow<'_, str> {
    static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\$(\$|[0-9]+)").ok());
    let Some(number) = &*NUMBER else { return Cow::Borrowed(replacement) };
    number.replace_all(replacement, |found: &Captures<'_>| match &found[1] {
        "$" => "$$".to_owned(),
        number => format!("${{{number}}}"),
    })
}

/// `replace(text, regex, replacement)`: every match; `$1` in the replacement is the first group.
pub(crate) fn replace<'a>(call: &Call<'_>, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(pattern), Some(new)) = (arguments[0].text(), arguments[1].text(), arguments[2].text()) else {
        return Value::Null;
    };
    match call.regex(&pattern) {
        Some(regex) => Value::owned(regex.replace_all(&text, with_numbers(&new).as_ref()).into_owned()),
        None => Value::Null,
    }
}

/// The third argument: how many are wanted at most.
fn most(arguments: &[Value<'_>]) -> usize {
    let most = arguments.get(2).and_then(Value::integer).map(|most| usize::try_from(most).unwrap_or(0));
    most.unwrap_or(usize::MAX)
}

/// `extract_matches(text, regex[, n])`: all that matches: the first group of it, if there is one.
pub(crate) fn extract_matches<'a>(call: &Call<'_>, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(pattern)) = (arguments[0].text(), arguments[1].text()) else { return Value::Null };
    let Some(regex) = call.regex(&pattern) else { return Value::Null };
    let found = regex.captures_iter(&text).filter_map(|found| found.get(1).or_else(|| found.get(0)));
    Value::List(found.take(most(arguments)).map(|found| Value::owned(found.as_str())).collect())
}

/// `split(text, regex[, n])`: the parts between what matches; the last of n parts is all that is left.
pub(crate) fn split<'a>(call: &Call<'_>, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(pattern)) = (arguments[0].text(), arguments[1].text()) else { return Value::Null };
    let Some(regex) = call.regex(&pattern) else { return Value::Null };
    Value::List(regex.splitn(&text, most(arguments)).map(Value::owned).collect())
}

/// `extract(text, regex, group)`: what `parse` takes out. Missing if it does not match.
pub(crate) fn extract<'a>(call: &Call<'_>, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(pattern), Some(group)) = (arguments[0].text(), arguments[1].text(), arguments[2].integer())
    else {
        return Value::Null;
    };
    let group = usize::try_from(group).unwrap_or(0);
    let found = call.regex(&pattern).and_then(|regex| regex.captures(&text));
    found.and_then(|found| found.get(group)).map_or(Value::Null, |found| Value::owned(found.as_str()))
}

/// `match(text, how, insensitive, pattern)`: for patterns that are not known before the query runs.
pub(crate) fn matches<'a>(call: &Call<'_>, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(how), Some(pattern)) = (arguments[0].text(), arguments[1].text(), arguments[3].text()) else {
        return Value::Null;
    };
    let insensitive = arguments[2].truth();
    if how == "matches" {
        let pattern = if insensitive { Cow::Owned(format!("(?i){pattern}")) } else { pattern };
        return call.regex(&pattern).map_or(Value::Null, |regex| Value::Bool(regex.is_match(&text)));
    }
    let fold = |text: Cow<'_, str>| if insensitive { text.to_lowercase() } else { text.into_owned() };
    let (text, pattern) = (fold(text), fold(pattern));
    Value::Bool(match how.as_ref() {
        "starts_with" => text.starts_with(&pattern),
        "ends_with" => text.ends_with(&pattern),
        _ => text.contains(&pattern),
    })
}

/// `json_object_value(json, key)`: the value of a member of an object in JSON.
pub(crate) fn json_object_value<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(key)) = (arguments[0].text(), arguments[1].text()) else { return Value::Null };
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(serde_json::Value::Object(mut object)) => match object.remove(key.as_ref()) {
            None | Some(serde_json::Value::Null) => Value::Null,
            Some(serde_json::Value::String(value)) => Value::owned(value),
            Some(value) => Value::owned(value.to_string()),
        },
        _ => Value::Null,
    }
}
