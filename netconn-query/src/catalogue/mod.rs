//! The names of the language: commands and functions, each with its meaning and an example, and the names that other
//! languages use. Completion, help and messages are made from it.

mod commands;
mod functions;

pub use commands::{COMMANDS, CommandInfo};
pub use functions::{AggregateId, FUNCTIONS, FunctionId, PlainId, RunningId};

use crate::diagnostic::nearest;

/// Where a function can be called, and over which values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// Over all rows of a group: in `group` and `top` only.
    Aggregate,
    /// Over a row and the rows before it, or over all rows: everywhere but in `group` and `top`.
    Running,
    /// Over its arguments: everywhere. `f(x)` and `x.f()` are the same.
    Plain,
}

/// A function of the language.
#[derive(Clone, Copy, Debug)]
pub struct FunctionInfo {
    /// Identifies the function to an engine.
    pub id: FunctionId,
    /// Name, in lower case. `min` and `max` are two functions each: an aggregate and a plain one.
    pub name: &'static str,
    /// Where it can be called.
    pub kind: FunctionKind,
    /// Least number of arguments; with `x.f()`, `x` is one of them.
    pub least: usize,
    /// Largest number of arguments.
    pub most: usize,
    /// A call with named arguments, optional ones in brackets.
    pub usage: &'static str,
    /// What it returns, in a line.
    pub meaning: &'static str,
    /// A query that uses it.
    pub example: &'static str,
}

/// Largest number of arguments of the functions that take any number.
pub const MANY: usize = 1_000;

impl FunctionInfo {
    /// Returns why a call with this number of arguments is wrong, as one sentence; `None` if it is right.
    pub fn wrong_count(&self, given: usize) -> Option<String> {
        if (self.least..=self.most).contains(&given) {
            return None;
        }
        let expected = match (self.least, self.most) {
            (0, 0) => "no arguments".to_owned(),
            (1, 1) => "one argument".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, MANY) => format!("at least {least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        Some(format!("{} has {expected}, not {given}", self.name))
    }
}

/// Other spellings of functions, which are understood, and the names of the table.
pub const SPELLINGS: [(&str, &str); 25] = [
    ("overall_mean", "overall_avg"),
    ("overall_average", "overall_avg"),
    ("array_split", "split"),
    ("array_slice", "slice"),
    ("array_map", "map"),
    ("array_reduce", "reduce"),
    ("array_zip", "zip"),
    ("array_expand", "expand"),
    ("array_concat", "concat"),
    ("array_contains", "contains"),
    ("array_distinct", "distinct"),
    ("array_intersect", "intersect"),
    ("array_sort", "sort"),
    ("array_sort_desc", "sort_desc"),
    ("array_set", "set"),
    ("array_len", "len"),
    ("array_length", "len"),
    ("array_sum", "sum"),
    ("array_mean", "mean"),
    ("array_median", "median"),
    ("array_min", "min"),
    ("array_max", "max"),
    ("array_match_any", "match_any"),
    ("array_match_all", "match_all"),
    ("to_string", "array_to_string"),
];

/// Names of functions in other languages, and what to write here.
pub const OTHER_FUNCTIONS: [(&str, &str); 50] = [
    ("coalesce", "a or b"),
    ("ifnull", "a or b"),
    ("isnull", "x = null"),
    ("nvl", "a or b"),
    ("if", "condition ? a : b"),
    ("iif", "condition ? a : b"),
    ("case", "condition ? a : b"),
    ("lowercase", "lower(x)"),
    ("tolower", "lower(x)"),
    ("lcase", "lower(x)"),
    ("uppercase", "upper(x)"),
    ("toupper", "upper(x)"),
    ("ucase", "upper(x)"),
    ("substring", "substr(x, from, length)"),
    ("mid", "substr(x, from, length)"),
    ("length", "len(x)"),
    ("strlen", "len(x)"),
    ("tostring", "string(x)"),
    ("tonumber", "number(x)"),
    ("toint", "number(x)"),
    ("int", "number(x)"),
    ("ceil", "ceiling(x)"),
    ("round", "floor(x + 0.5)"),
    ("power", "pow(x, y)"),
    ("regex_replace", "replace(x, regex, y)"),
    ("regexp_replace", "replace(x, regex, y)"),
    ("regex_extract", "extract_matches(x, regex)"),
    ("extract", "extract_matches(x, regex)"),
    ("date_trunc", "timebucket('1 hour')"),
    ("floor_time", "timebucket('1 hour')"),
    ("bin", "timebucket('1 hour')"),
    ("formattime", "strftime(timestamp)"),
    ("formatdate", "strftime(timestamp)"),
    ("lag", "prev(x)"),
    ("lead", "next(x)"),
    ("cidrmatch", "net_ipsubnet(address, network)"),
    ("cidr_match", "net_ipsubnet(address, network)"),
    ("ipv4_is_private", "net_private(address)"),
    ("dcount", "estimate_distinct(x)"),
    ("dc", "estimate_distinct(x)"),
    ("distinct_count", "count_distinct(x)"),
    ("countdistinct", "count_distinct(x)"),
    ("approx_distinct", "estimate_distinct(x)"),
    ("countif", "count(condition)"),
    ("sumif", "sum(x where condition)"),
    ("stdev", "stddev(x)"),
    ("values", "array_agg_distinct(x)"),
    ("make_set", "array_agg_distinct(x)"),
    ("make_list", "array_agg(x)"),
    ("group_unique_values", "array_agg_distinct(x)"),
];

/// Names of commands in other languages, and what to write here.
pub const OTHER_COMMANDS: [(&str, &str); 27] = [
    ("where", "filter"),
    ("search", "filter"),
    ("having", "filter"),
    ("select", "columns"),
    ("project", "columns"),
    ("fields", "columns"),
    ("table", "columns"),
    ("keep", "columns"),
    ("extend", "let"),
    ("eval", "let"),
    ("set", "let"),
    ("summarize", "group"),
    ("summarise", "group"),
    ("stats", "group"),
    ("aggregate", "group"),
    ("group_by", "group"),
    ("groupby", "group"),
    ("count", "group count()"),
    ("order", "sort"),
    ("orderby", "sort"),
    ("head", "limit"),
    ("take", "limit"),
    ("distinct", "dedup"),
    ("uniq", "dedup"),
    ("pivot", "transpose"),
    ("transaction", "sequence"),
    ("scan", "sequence"),
];

/// Returns the functions of that name: one, or for `min` and `max` an aggregate and a plain one.
pub fn functions(name: &str) -> impl Iterator<Item = &'static FunctionInfo> {
    FUNCTIONS.iter().copied().filter(move |function| function.name == name)
}

/// Returns the name that the table has for another spelling.
pub fn spelled(name: &str) -> Option<&'static str> {
    SPELLINGS.iter().find(|(other, _)| *other == name).map(|(_, name)| *name)
}

/// Returns the aggregate that is called where aggregates may stand: `min(x)` is one, `min(x, y)` is not.
pub fn aggregate(name: &str, arguments: usize) -> Option<AggregateId> {
    let id = AggregateId::by_name(name)?;
    // Only a name of both kinds needs its arguments counted: of others a wrong number is reported as an error of the
    // aggregate.
    (PlainId::by_name(name).is_none() || arguments <= id.info().most).then_some(id)
}

/// Returns the command with this name.
pub fn command(name: &str) -> Option<&'static CommandInfo> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// Returns what to write instead of an unknown function: the counterpart of a name from another language, or the
/// nearest name.
pub fn function_instead(name: &str) -> Option<&'static str> {
    let other = OTHER_FUNCTIONS.iter().find(|(other, _)| *other == name).map(|(_, instead)| *instead);
    other.or_else(|| nearest(name, FUNCTIONS.iter().map(|function| function.name)))
}

/// Returns what to write instead of an unknown command.
pub fn command_instead(name: &str) -> Option<&'static str> {
    let other = OTHER_COMMANDS.iter().find(|(other, _)| *other == name).map(|(_, instead)| *instead);
    other.or_else(|| nearest(name, COMMANDS.iter().map(|command| command.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_others_are_not_ours() {
        for function in FUNCTIONS {
            let same = functions(function.name).filter(|other| other.kind == function.kind).count();
            assert_eq!(same, 1, "{}", function.name);
            assert!(function.least <= function.most, "{}", function.name);
            assert!(function.usage.contains(function.name), "{}", function.name);
            assert!(function.example.contains(function.name), "{}", function.name);
        }
        for (other, name) in SPELLINGS {
            assert_eq!((functions(other).count(), functions(name).count() > 0), (0, true), "{other}");
            assert!(OTHER_FUNCTIONS.iter().all(|(name, _)| *name != other), "{other}");
        }
        for (other, instead) in OTHER_FUNCTIONS {
            assert_eq!(functions(other).count(), 0, "{other}");
            assert_eq!(function_instead(other), Some(instead));
        }
        for (other, instead) in OTHER_COMMANDS {
            assert!(command(other).is_none(), "{other}");
            assert!(command(instead).is_some() || instead == "group count()", "{instead}");
        }
        for command in COMMANDS {
            assert!(command.example.contains(command.name), "{}", command.name);
        }
    }

    #[test]
    fn near_names_are_suggested() {
        assert_eq!(function_instead("estimate_distict"), Some("estimate_distinct"));
        assert_eq!(function_instead("substring"), Some("substr(x, from, length)"));
        assert_eq!(function_instead("frobnicate"), None);
        assert_eq!(command_instead("colums"), Some("columns"));
        assert_eq!(command_instead("where"), Some("filter"));
    }
}
