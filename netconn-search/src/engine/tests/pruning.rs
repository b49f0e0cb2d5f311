//! Tests that row groups ruled out by a filter are not read.

use netconn_query::parser::parse;

use crate::engine::{
    Search, convert, runtime,
    tests::{
        events::{events, write},
        rows,
    },
};

/// Explains a query over four Parquet files; returns its plan and the number of rows that it reads.
fn explained(query: &str) -> (String, u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut events = events(4_000);
    for (number, event) in events.iter_mut().enumerate() {
        event.insert("src.port.number".into(), (1_000 * (number / 1_000) + number % 7).into());
        event.insert("src.process.name".into(), format!("{}-{number}", ["a", "b", "c", "d"][number / 1_000]).into());
    }
    for (part, events) in events.chunks(1_000).enumerate() {
        let path = folder.path().join(format!("part{part}.ndjson"));
        write(&path, events);
        convert(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    let search = Search::new(vec![folder.path().to_owned()]);
    let query = parse(query).query.unwrap();
    let explained = runtime().unwrap().block_on(search.explain(&query, |_| ())).unwrap();
    (explained.plan, explained.read.rows)
}

#[track_caller]
fn check(query: &str, most: u64) {
    let (plan, read) = explained(query);
    assert!(read <= most, "{query} reads {read} rows:\n{plan}");
}

#[test]
fn filters_skip_files() {
    check("src.port.number = 2003 | group n = count(), s = sum(dst.port.number)", 1_000);
    check("src.port.number = '2003' | group n = count(), s = sum(dst.port.number)", 1_000);
    check("src.port.number >= 3000 and src.port.number < 3005 | group n = count(), s = sum(dst.port.number)", 1_000);
    check("src.port.number in (1001, 1002) | group n = count(), s = sum(dst.port.number)", 1_000);
    check("src.process.name = 'b-1005' | group n = count(), s = sum(dst.port.number)", 1_000);
    check("src.process.name in ('b-1005', 'c-2001') | group n = count(), s = sum(dst.port.number)", 2_000);
    check("src.process.name starts_with:matchcase 'd-' | group n = count(), s = sum(dst.port.number)", 1_000);
    check("src.port.number = 2003 or src.port.number = 3003 | group n = count(), s = sum(dst.port.number)", 2_000);
}

#[test]
fn a_plan_is_shown() {
    let (plan, _) = explained("dst.port.number = 443 | group n = count() by src.process.name | sort -n | limit 3");
    for step in ["SortExec: TopK(fetch=3)", "AggregateExec", "DataSourceExec", "file_type=parquet", "metrics="] {
        assert!(plan.contains(step), "no {step} in:\n{plan}");
    }
    assert!(!plan.contains("src.process.cmdline"), "a column too many:\n{plan}");
}

#[test]
fn all_rows_in_no_order_are_not_sorted() {
    let (plan, _) = explained("dst.port.number = 443 | columns src.process.name | nolimit");
    assert!(!plan.contains("SortExec") && !plan.contains("timestamp"), "{plan}");
    let (plan, _) = explained("dst.port.number = 443 | columns src.process.name | nolimit | sort src.process.name");
    assert!(plan.contains("SortExec"), "{plan}");
}

#[test]
fn long_queries_are_planned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    write(&path, &events(20));
    let any: Vec<String> = (0..3_000).map(|number| format!("dst.port.number = {number}")).collect();
    assert!(!rows(&path, &any.join(" or ")).is_empty());
    let steps = "| filter dst.port.number > 0 ".repeat(150);
    assert_eq!(rows(&path, &steps).len(), 20);
    let steps = "| let x = dst.port.number ".repeat(1_000);
    let query = parse(&steps).query.unwrap();
    let search = Search::new(vec![path]);
    let Err(error) = runtime().unwrap().block_on(search.run(&query)) else { panic!("it is too long") };
    assert!(error.to_string().contains("at most 200"), "{error}");
}
