//! Tests a property of every filter: it and its negation divide the events, wherever the filter stands and in every
//! format.

use std::{collections::BTreeSet, path::Path};

use proptest::{prelude::*, sample::select};

use crate::engine::{
    convert,
    tests::{
        events::{events, write},
        rows,
    },
};

const EVENTS: usize = 60;

/// Fields of every type that all, some or no events have.
const FIELDS: [&str; 12] = [
    "event.type",
    "event.network.direction",
    "src.process.name",
    "src.process.cmdline",
    "x.tag",
    "dst.ip.address",
    "dst.port.number",
    "event.network.bytesSent",
    "event.network.durationMs",
    "event.network.preexisting",
    "event.time",
    "nowhere.to.be.found",
];

const VALUES: [&str; 20] = [
    "'IP Connect'",
    "'curl'",
    "'red'",
    "'GREEN'",
    "''",
    "'443'",
    "'10.0.1.20'",
    "'2001:db8::9'",
    "'10.0.0.0/15'",
    "443",
    "443.5",
    "-1",
    "0",
    "20000",
    "500.25",
    "1790000030000",
    "true",
    "false",
    "null",
    "'true'",
];

const PATTERNS: [&str; 8] = ["'c'", "'F'", "'f3'", "'^c.*l$'", "'10\\.'", "'%e%'", "('f1', 'F2')", "''"];

fn of(choices: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(choices).prop_map(ToOwned::to_owned)
}

fn operand() -> impl Strategy<Value = String> {
    let sum = (of(&FIELDS), select(vec!["+", "-", "*", "/", "%"]), of(&VALUES));
    let sum = sum.prop_map(|(left, sign, right)| format!("({left} {sign} {right})"));
    let call = (select(vec!["len", "lower", "string", "abs", "number"]), of(&FIELDS));
    let call = call.prop_map(|(name, field)| format!("{name}({field})"));
    prop_oneof![6 => of(&FIELDS), 2 => of(&VALUES), 1 => sum, 1 => call]
}

/// Generates a condition on one field.
fn term() -> impl Strategy<Value = String> {
    let compare = (operand(), select(vec!["=", "!=", "<", "<=", ">", ">="]), operand());
    let compare = compare.prop_map(|(left, sign, right)| format!("{left} {sign} {right}"));
    let names = vec!["contains", "matches", "starts_with", "ends_with", "contains:matchcase", "matches:matchcase"];
    let text = (of(&FIELDS), select(names), of(&PATTERNS));
    let text = text.prop_map(|(field, name, pattern)| format!("{field} {name} {pattern}"));
    let set = (of(&FIELDS), select(vec!["in", "in:anycase", "not in"]), proptest::collection::vec(of(&VALUES), 1..4));
    let set = set.prop_map(|(field, name, values)| format!("{field} {name} ({})", values.join(", ")));
    let present = (of(&FIELDS), select(vec!["= *", "!= null", "= null"]));
    let present = present.prop_map(|(field, what)| format!("{field} {what}"));
    let like = of(&FIELDS).prop_map(|field| format!("{field} like '%e_%'"));
    let ternary = (operand(), operand(), operand()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})"));
    prop_oneof![4 => compare, 3 => text, 3 => set, 2 => present, 1 => like, 1 => ternary, 1 => operand()]
}

fn filter() -> impl Strategy<Value = String> {
    term().prop_recursive(3, 8, 2, |inner| {
        let both = (inner.clone(), select(vec!["and", "or"]), inner.clone());
        prop_oneof![
            both.prop_map(|(left, word, right)| format!("({left}) {word} ({right})")),
            inner.prop_map(|inner| format!("not ({inner})")),
        ]
    })
}

fn kept(path: &Path, query: &str) -> BTreeSet<String> {
    let found = rows(path, &format!("{query} | columns event.id | nolimit")).concat();
    let ids: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(ids.len(), found.len(), "{query}: an event came twice");
    ids
}

#[test]
fn a_filter_and_its_negation_split_the_events() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("events.ndjson");
    write(&lines, &events(EVENTS));
    let parquet = convert(&lines).unwrap().file;
    let all = kept(&lines, "");
    assert_eq!(all.len(), EVENTS);
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&(filter(), filter()), |(left, right)| {
        let yes = kept(&lines, &format!("({left})"));
        let no = kept(&lines, &format!("not ({left})"));
        prop_assert!(yes.is_disjoint(&no), "{left}: {yes:?} {no:?}");
        prop_assert_eq!(yes.union(&no).cloned().collect::<BTreeSet<_>>(), all.clone(), "{}", &left);
        prop_assert_eq!(&kept(&lines, &format!("| filter {left}")), &yes, "behind a |: {}", &left);
        prop_assert_eq!(&kept(&parquet, &format!("({left})")), &yes, "from Parquet: {}", &left);
        let other = kept(&parquet, &format!("({right})"));
        let and = kept(&parquet, &format!("({left}) and ({right})"));
        prop_assert_eq!(and, yes.intersection(&other).cloned().collect::<BTreeSet<_>>(), "{} and {}", &left, &right);
        let neither = kept(&lines, &format!("not (({left}) or ({right}))"));
        prop_assert_eq!(neither, no.difference(&other).cloned().collect::<BTreeSet<_>>(), "{} or {}", &left, &right);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
