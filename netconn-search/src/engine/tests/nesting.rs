//! Tests nested expressions: they are answered or refused at once and in little memory, however often a column is
//! reused.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::engine::{
    Search,
    tests::{rows, search, table},
};

/// Longest time for a deeply nested query in an unoptimized build. Without limits the time doubles with each level.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Writes events with n from 0 to 9.
fn ten() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ten.ndjson");
    let lines: Vec<String> = (0..10)
        .map(|n| format!(r#"{{"event.id":"{n}","event.time":{},"n":{n}}}"#, 1_700_000_000_000_i64 + n))
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

#[track_caller]
fn gives(query: &str, expected: &[i64]) {
    let (_folder, path) = ten();
    let begun = Instant::now();
    let expected: Vec<[String; 1]> = expected.iter().map(|n| [n.to_string()]).collect();
    assert_eq!(rows(&path, query), expected, "{query}");
    assert!(begun.elapsed() < AT_ONCE, "{:?} for {query}", begun.elapsed());
}

/// In a chain of columns each uses the one before three times. Written out, the last expression would be 3^60 times as
/// long.
#[test]
fn columns_out_of_columns() {
    let step = |y: i64| if y > 3 { y + 1 } else { y - 1 };
    let all: Vec<i64> = (0..10).map(|n| (0..60).fold(n, |y, _| step(y))).collect();
    let large: Vec<i64> = all.iter().copied().filter(|y| *y > 5).collect();
    let chain = " | let y = y > 3 ? y + 1 : y - 1".repeat(60);
    let chain = format!("| sort n | let y = n{chain}");
    gives(&format!("{chain} | columns y"), &all);
    gives(&format!("{chain} | filter y > 5 | columns y"), &large);
    gives(&format!("{chain} | filter not (y <= 5) | filter n >= 0 | columns y | sort y | limit 20"), &large);
    gives(&format!("{chain} | filter y > 5 | group max(y) by y | columns y"), &large);
    gives(&format!("{chain} | filter y in ({chain} | filter y > 5 | columns y) | columns y"), &large);
    gives(&format!("{chain} | columns y = y * 1.0 | filter y > 5 | group a = min(y) by y | columns a"), &large);
    let union = format!("| union ({chain} | columns y), ({chain} | columns y) | filter y > 5 | sort y | dedup y");
    gives(&union, &large);
    let columns = " | columns y = y > 3 ? y + 1 : y - 1".repeat(60);
    gives(&format!("| sort n | columns y = n{columns} | filter y > 5"), &large);
    let either = " | let y = (y or 1) + 1".repeat(60);
    gives(&format!("| let y = n{either} | filter y > 68 | columns y"), &[69]);
}

/// A text chosen from itself must not double the buffers of its column at each step.
#[test]
fn texts_out_of_texts() {
    let (_folder, path) = ten();
    for step in ["n > 3 ? t : t", "t or event.id or t", "n > 3 ? t + '' : t"] {
        let begun = Instant::now();
        let chain = format!(" | let t = {step}").repeat(40);
        let query =
            format!("| sort n | let t = event.id + ' is longer than what a view has room for'{chain} | columns t");
        assert_eq!(rows(&path, &query)[9], ["9 is longer than what a view has room for"], "{step}");
        assert!(begun.elapsed() < AT_ONCE, "{:?} for {step}", begun.elapsed());
    }
}

#[test]
fn columns_of_sides_of_a_join() {
    let chain = " | let y = y > 3 ? y + 1 : y - 1".repeat(60);
    let side = format!("(| let y = n{chain} | columns n, y)");
    let other = format!("(n > 6 | let z = n{} | columns n, z)", chain.replace('y', "z"));
    let joined = format!("| left join {side}, {other} on n");
    gives(&format!("{joined} | filter z > 68 | sort z | columns z"), &[69]);
    gives(&format!("{joined} | filter y > 65 | sort y | columns y"), &[66, 67, 68, 69]);
    gives(
        "| left join (| columns n), (n > 6 | columns n, z = n + 1) on n | filter z > 8 | sort z | columns z",
        &[9, 10],
    );
}

/// An expression that doubles with each level is answered at once, or refused at once with its place and advice.
#[test]
fn expressions_in_expressions() {
    let (_folder, path) = ten();
    let wraps: [fn(&str) -> String; 9] = [
        |x| format!("({x} or 1) + 1"),
        |x| format!("(n > 5 ? {x} : 1) + 1"),
        |x| format!("(({x}) ? 2.5 : 3)"),
        |x| format!("(({x}) > 3 ? 2 : ({x})) + 1"),
        |x| format!("!(({x}) + 0.5) + 1"),
        |x| format!("(({x}) contains ('a', 'b', 'c')) + 1"),
        |x| format!("(({x}) in (1, 2, n)) + 1"),
        |x| format!("(({x}) = '1') + 1"),
        |x| format!("abs((null or null) ? null : {x} or null)"),
    ];
    let mut refused = 0;
    for wrap in wraps {
        let mut nested = "n".to_owned();
        for level in 1..=24 {
            nested = wrap(&nested);
            if nested.len() > 100_000 {
                break;
            }
            let query = format!("| columns y = {nested} | limit 1");
            let begun = Instant::now();
            let answer = search(&Search::new(vec![path.clone()]), &query);
            let took = begun.elapsed();
            assert!(took < AT_ONCE, "{took:?} for {level} levels: {query}");
            if let Err(error) = answer {
                let error = error.to_string();
                assert!(error.contains("name a part of it with let") || error.contains("nested too deeply"), "{error}");
                assert!(level > 4, "{query}");
                refused += 1;
                break;
            }
        }
    }
    assert!(refused >= 5, "{refused} of them were too much");
}

/// A search in the whole event searches each column, of which there may be thousands.
#[test]
fn many_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.ndjson");
    let fields: Vec<String> = (0..3_000).map(|n| format!(r#""f{n}":"v{n}""#)).collect();
    std::fs::write(&path, format!(r#"{{"event.time":1700000000000,{}}}"#, fields.join(","))).unwrap();
    for query in ["'v7'", "* contains 'v2999'", "$'v7$'", "* contains ('v2', 'x', 'y')", "not 'w7'"] {
        assert_eq!(rows(&path, &format!("{query} | group count()")), table(&[&["1"]]), "{query}");
    }
}

/// A long but flat expression is not refused.
#[test]
fn long_expressions() {
    let (_folder, path) = ten();
    let any: Vec<String> = (0..1_000).map(|n| format!("(n = {n} and event.id = '{n}')")).collect();
    assert_eq!(rows(&path, &format!("{} | group count()", any.join(" or "))), table(&[&["10"]]));
    let patterns: Vec<String> = (0..100).map(|n| format!("'x{n}'")).collect();
    assert_eq!(rows(&path, &format!("* contains ({}) | group count()", patterns.join(", "))), table(&[&["0"]]));
    let chain: String = (0..50).map(|n| format!("n = {n} ? '{n}' : ")).collect();
    assert_eq!(rows(&path, &format!("n = 7 | columns {chain} 'none'")), table(&[&["7"]]));
}

/// Each `reduce` may be planned twice, if what its function returns is of another kind than the first value. The evaluator of
/// filters has the same limit and the same message.
#[test]
fn nested_reduces() {
    let (_folder, path) = ten();
    let nested = |levels: usize| {
        (0..levels).fold("x".to_owned(), |inner, _| format!("array(1).reduce(0, func(x, y) -> {inner} + 0.5)"))
    };
    for (levels, expected) in [(1, "0.5"), (8, "4")] {
        let begun = Instant::now();
        let found = rows(&path, &format!("n = 3 | columns x = {}", nested(levels)));
        assert_eq!(found, table(&[&[expected]]), "{levels}");
        assert!(begun.elapsed() < AT_ONCE, "{:?} for {levels}", begun.elapsed());
    }
    let begun = Instant::now();
    let refused = search(&Search::new(vec![path]), &format!("| columns x = {}", nested(25)));
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("reduce is nested too deeply: 8 levels are allowed"), "{message}");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}
