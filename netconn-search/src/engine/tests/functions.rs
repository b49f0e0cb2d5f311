//! Tests that each function of the catalogue can be called with its smallest and its largest number of arguments.

use std::path::PathBuf;

use netconn_query::{
    catalogue::{AggregateId, FUNCTIONS, FunctionId, FunctionInfo, FunctionKind, PlainId, RunningId},
    check,
    fields::Fields,
    parser::parse,
};

use crate::engine::{Search, tests::search};

fn arguments(function: &FunctionInfo, count: usize) -> Vec<String> {
    let (first, others) = match function.id {
        FunctionId::Plain(
            PlainId::Map | PlainId::Filter | PlainId::ArrayFilter | PlainId::MatchAny | PlainId::MatchAll,
        ) => ("array(1)", "func(x) -> x = 1"),
        FunctionId::Plain(PlainId::Reduce) => return three("array(1)", "0", "func(x, y) -> x + y"),
        FunctionId::Plain(PlainId::Zip) => return three("array(1)", "array(2)", "func(x, y) -> x + y"),
        FunctionId::Plain(PlainId::Intersect) => ("array(1)", "array(1)"),
        FunctionId::Plain(PlainId::Min | PlainId::Max) if count == 1 => ("array(1)", ""),
        FunctionId::Running(RunningId::Prev | RunningId::Next) => ("dst.port.number", "2"),
        FunctionId::Plain(PlainId::Timebucket) if count == 1 => ("'10m'", ""),
        FunctionId::Plain(PlainId::Timebucket) if count == 3 => return three("timestamp", "'1d'", "'UTC'"),
        FunctionId::Plain(PlainId::Timebucket) => ("timestamp", "'10m'"),
        FunctionId::Plain(PlainId::Strftime) if count == 3 => return three("timestamp", "'%H'", "'UTC'"),
        FunctionId::Plain(PlainId::Simpledateformat) if count == 3 => return three("timestamp", "'HH'", "'UTC'"),
        FunctionId::Plain(PlainId::Querystart | PlainId::Queryend | PlainId::Queryspan) => ("'minutes'", ""),
        FunctionId::Plain(PlainId::NetIpsubnet) => ("dst.ip.address", "'10.0.0.0/8'"),
        FunctionId::Aggregate(AggregateId::Pct | AggregateId::Percentile) => ("50", "dst.port.number"),
        FunctionId::Aggregate(AggregateId::ArrayAgg | AggregateId::ArrayAggDistinct) => ("dst.port.number", "2"),
        _ if function.usage.starts_with("array.") => ("array(1)", "'1'"),
        _ => ("dst.port.number", "'1'"),
    };
    (0..count).map(|place| if place == 0 { first } else { others }.to_owned()).collect()
}

fn three(first: &str, second: &str, third: &str) -> Vec<String> {
    [first, second, third].map(ToOwned::to_owned).to_vec()
}

#[test]
fn each_function_takes_its_least_and_its_most_arguments() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("one.ndjson");
    let event = r#"{"event.time":1790000000000,"timestamp":"2026-09-21T14:13:20.000000000Z","event.type":"IP Connect","dst.ip.address":"10.0.0.9","dst.port.number":443}"#;
    std::fs::write(&path, event).unwrap();
    for function in FUNCTIONS {
        for count in [function.least, function.most] {
            let mut arguments = arguments(function, count);
            let call = if function.usage.starts_with("array.") {
                // Some of these names are operators: they are functions as methods only.
                let array = arguments.remove(0);
                format!("{array}.{}({})", function.name, arguments.join(", "))
            } else {
                format!("{}({})", function.name, arguments.join(", "))
            };
            let query = match function.kind {
                FunctionKind::Aggregate => format!("| group v = {call}"),
                FunctionKind::Running | FunctionKind::Plain => format!("| let v = {call} | columns v"),
            };
            let parsed = parse(&query);
            assert_eq!(parsed.diagnostics, [], "{} with {count} arguments", function.name);
            let parsed = parsed.query.unwrap();
            let remarks = check(&parsed, &Fields::new(Vec::<String>::new())).diagnostics;
            assert_eq!(remarks, [], "{} with {count} arguments", function.name);
            match search(&Search::new(vec![path.clone()]), &query) {
                Ok((table, _)) => assert_eq!(table.len(), 2, "{} with {count} arguments: {table:?}", function.name),
                Err(error) => panic!("{} with {count} arguments: {error}", function.name),
            }
        }
    }
}

#[test]
fn parts_of_urls_that_could_not_be_asked_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.ndjson");
    std::fs::write(&path, r#"{"event.type":"IP Connect"}"#).unwrap();
    let url = "'https://u@a.example.org:8443/p'";
    let query = format!("| columns u = net_url_userinfo({url}), s = net_url_subdomain({url}), p = net_url_port({url})");
    assert_eq!(super::rows(&path, &query), super::table(&[&["u", "a", "8443"]]));
}
