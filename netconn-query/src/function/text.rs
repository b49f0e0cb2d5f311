//! Text functions.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use regex::{Captures, Regex};

use super::Patterns;
use crate::{
    ast::MatchOp,
    text_pattern,
    value::{Value, parse_number},
};

/// Counts the characters of a text, or the elements of an array.
pub(super) fn len<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let count = match &arguments[0] {
        Value::Null => return Value::Null,
        Value::List(values) => values.len(),
        value => value.text().map_or(0, |text| text.chars().count()),
    };
    // A count beyond 2^63 does not fit into memory.
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

fn map<'a>(value: &Value<'a>, function: impl FnOnce(&str) -> String) -> Value<'a> {
    value.text().map_or(Value::Null, |text| Value::owned(function(&text)))
}

/// Converts a text to lower case.
pub(super) fn lower<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    map(&arguments[0], str::to_lowercase)
}

/// Converts a text to upper case.
pub(super) fn upper<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    map(&arguments[0], str::to_uppercase)
}

/// Removes white space, or the given characters, from both ends.
pub(super) fn trim<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    strip(arguments, true, true)
}

/// Removes white space, or the given characters, from the beginning.
pub(super) fn ltrim<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    strip(arguments, true, false)
}

/// Removes white space, or the given characters, from the end.
pub(super) fn rtrim<'a>(arguments: &[Value<'a>]) -> Value<'a> {
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
pub(super) fn substr<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(text) = arguments[0].text() else { return Value::Null };
    let Some(start) = arguments[1].integer() else { return Value::Null };
    // Characters, not bytes: a part must not begin within one.
    let count = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let start = if start < 0 { (count + start).max(0) } else { start };
    let length = match arguments.get(2) {
        // A length that is no number takes nothing; without a length the rest of the text is taken.
        Some(value) => value.integer().unwrap_or(0).max(0),
        None => i64::MAX,
    };
    let (start, length) = (usize::try_from(start).unwrap_or(usize::MAX), usize::try_from(length).unwrap_or(usize::MAX));
    Value::owned(text.chars().skip(start).take(length).collect::<String>())
}

/// Whether the value is missing or empty.
pub(super) fn isempty<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    Value::Bool(match &arguments[0] {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        Value::List(values) => values.is_empty(),
        _ => false,
    })
}

/// Whether the value is missing, empty or white space.
pub(super) fn isblank<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    Value::Bool(match &arguments[0] {
        Value::Null => true,
        Value::Text(text) => text.trim().is_empty(),
        _ => false,
    })
}

/// Converts a value to true or false; the texts `false`, `no` and `0` are false.
pub(super) fn bool<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    Value::Bool(match &arguments[0] {
        Value::Text(text) => !matches!(text.trim().to_lowercase().as_str(), "" | "false" | "no" | "0"),
        value => value.truth(),
    })
}

/// Converts a value to a text.
pub(super) fn string<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    arguments[0].text().map_or(Value::Null, |text| Value::owned(text.into_owned()))
}

/// Converts a value to a number; missing if it is none.
pub(super) fn number<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    match &arguments[0] {
        Value::Text(text) => parse_number(text).map_or(Value::Null, Value::Number),
        value => value.number().map_or(Value::Null, Value::Number),
    }
}

/// Rewrites `$1` of a replacement as `${1}`, so that letters behind it do not become part of the group's name.
fn with_numbers(replacement: &str) -> Cow<'_, str> {
    // Compiled once for the process. `None` cannot happen, but library code does not panic.
    static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\$(\$|[0-9]+)").ok());
    let Some(number) = &*NUMBER else { return Cow::Borrowed(replacement) };
    number.replace_all(replacement, |found: &Captures<'_>| match &found[1] {
        // `$$` is the escaped sign and must not begin a group.
        "$" => "$$".to_owned(),
        number => format!("${{{number}}}"),
    })
}

/// Returns the regular expression of the second argument, compiled.
fn regex(patterns: &dyn Patterns, arguments: &[Value<'_>], insensitive: bool) -> Option<Arc<Regex>> {
    let pattern = arguments[1].text()?;
    // The flag is part of the text, so that both ways to compile a pattern are kept apart in the cache.
    if insensitive { patterns.regex(&format!("(?i){pattern}")) } else { patterns.regex(&pattern) }
}

/// `replace(text, regex, replacement)`: replaces every match, case ignored; `$1` in the replacement is the first group.
pub(super) fn replace<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    replaced(regex(patterns, arguments, true), arguments)
}

/// The same, case-sensitive.
pub(super) fn replace_matchcase<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    replaced(regex(patterns, arguments, false), arguments)
}

fn replaced<'a>(regex: Option<Arc<Regex>>, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(new)) = (arguments[0].text(), arguments[2].text()) else {
        return Value::Null;
    };
    match regex {
        Some(regex) => Value::owned(regex.replace_all(&text, with_numbers(&new).as_ref()).into_owned()),
        None => Value::Null,
    }
}

/// Returns the largest number of results, which the third argument says.
fn most(arguments: &[Value<'_>]) -> usize {
    let most = arguments.get(2).and_then(Value::integer).map(|most| usize::try_from(most).unwrap_or(0));
    most.unwrap_or(usize::MAX)
}

/// `extract_matches(text, regex[, n])`: the matches, case ignored, or the first group of each if there is one.
pub(super) fn extract_matches<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    extracted(regex(patterns, arguments, true), arguments)
}

/// The same, case-sensitive.
pub(super) fn extract_matches_matchcase<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    extracted(regex(patterns, arguments, false), arguments)
}

fn extracted<'a>(regex: Option<Arc<Regex>>, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(regex)) = (arguments[0].text(), regex) else { return Value::Null };
    // The first group if there is one: people mark with it what they want.
    let found = regex.captures_iter(&text).filter_map(|found| found.get(1).or_else(|| found.get(0)));
    Value::List(found.take(most(arguments)).map(|found| Value::owned(found.as_str())).collect())
}

/// `split(text, regex[, n])`: the parts between the matches, case ignored; the last of n parts is the rest of the text.
pub(super) fn split<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    parts(regex(patterns, arguments, true), arguments)
}

/// The same, case-sensitive.
pub(super) fn split_matchcase<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    parts(regex(patterns, arguments, false), arguments)
}

fn parts<'a>(regex: Option<Arc<Regex>>, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(regex)) = (arguments[0].text(), regex) else { return Value::Null };
    Value::List(regex.splitn(&text, most(arguments)).map(Value::owned).collect())
}

/// `extract(text, regex, group)`: the group of the first match, for `parse`. Missing if nothing matches.
pub(super) fn extract<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(pattern), Some(group)) = (arguments[0].text(), arguments[1].text(), arguments[2].integer())
    else {
        return Value::Null;
    };
    // The planner numbers the groups, so the conversion does not fail.
    let group = usize::try_from(group).unwrap_or(0);
    let found = patterns.regex(&pattern).and_then(|regex| regex.captures(&text));
    found.and_then(|found| found.get(group)).map_or(Value::Null, |found| Value::owned(found.as_str()))
}

/// `match(text, how, insensitive, pattern)`: whether a pattern fits that is not known before the query runs.
pub(super) fn matches<'a>(patterns: &dyn Patterns, arguments: &[Value<'a>]) -> Value<'a> {
    let (Some(text), Some(how), Some(pattern)) = (arguments[0].text(), arguments[1].text(), arguments[3].text()) else {
        return Value::Null;
    };
    let insensitive = arguments[2].truth();
    if how == "matches" {
        // The flag is part of the text, so that both ways to compile a pattern are kept apart in the cache.
        let pattern = if insensitive { Cow::Owned(format!("(?i){pattern}")) } else { pattern };
        return patterns.regex(&pattern).map_or(Value::Null, |regex| Value::Bool(regex.is_match(&text)));
    }
    let op = match how.as_ref() {
        "starts_with" => MatchOp::StartsWith,
        "ends_with" => MatchOp::EndsWith,
        // The planner writes only four words, and `like` is not among them.
        _ => MatchOp::Contains,
    };
    Value::Bool(text_pattern::fits(op, insensitive, &text, &pattern))
}

/// Writes each part of a version with five digits: `6.1.10` is `00006.00001.00010`.
pub(super) fn pad_version<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let padded = |text: &str| text.split('.').map(|part| format!("{part:0>5}")).collect::<Vec<_>>().join(".");
    map(&arguments[0], padded)
}

/// `json_object_value(json, key)`: a member of a JSON object.
pub(super) fn json_object_value<'a>(arguments: &[Value<'a>]) -> Value<'a> {
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
