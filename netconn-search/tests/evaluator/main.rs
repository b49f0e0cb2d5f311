//! The evaluator of a filter over one event and the engine say the same: random filters over random events, each both ways.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod events;
mod filters;

use std::{collections::BTreeSet, path::Path};

use datafusion::arrow::array::AsArray as _;
use events::{Event, kinds};
use futures::StreamExt as _;
use netconn_query::evaluate::{Predicate, SumBeyond};
use netconn_search::engine::{self, Search};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

/// Sets of events that are tried; `NETCONN_EVALUATOR_CASES` is another number.
const CASES: u32 = 20;

/// Filters for each set of events.
const FILTERS: usize = 20;

/// What the engine finds: the numbers of the events, or why it finds nothing.
async fn found(file: &Path, filter: &str) -> Result<BTreeSet<usize>, String> {
    let query = format!("({filter}) | columns event.id | nolimit");
    let parsed = netconn_query::parse(&query);
    let query = parsed.query.unwrap_or_else(|| panic!("{filter}: {:?}", parsed.diagnostics));
    let mut answer = Search::new(vec![file.to_owned()]).run(&query).await.map_err(|error| error.to_string())?;
    let mut found = BTreeSet::new();
    while let Some(batch) = answer.batches.next().await {
        let batch = batch.map_err(|error| error.to_string())?;
        found.extend(batch.column(0).as_string_view().iter().flatten().map(|id| id.parse::<usize>().unwrap()));
    }
    Ok(found)
}

/// Whether the filter asks for more than a plan of the engine may be large.
fn is_too_large(error: &str) -> bool {
    error.contains("too much within one another")
}

/// Whether a sum was beyond the whole numbers. The engine looks at operands that the evaluator need not look at, and the other way around.
fn is_beyond(error: &str) -> bool {
    error.contains(&SumBeyond.to_string())
}

/// What was compared: a test in which nothing matches, or much is refused, shows nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Filters that both have answered.
    compared: usize,
    /// Filters that both have refused.
    refused: usize,
    /// Filters whose answer the engine does not give.
    unanswered: usize,
    /// Events that filters have found.
    matched: usize,
    /// Events that filters have not found.
    unmatched: usize,
}

/// Compares the verdicts of both for each of the events; and for the events as [`netconn_model`] reads them, the verdict with that
/// of the same line as JSON.
async fn compare(file: &Path, events: &[Event], filter: &str, tally: &mut Tally) -> Result<(), TestCaseError> {
    let query = netconn_query::parse(filter).query.ok_or_else(|| TestCaseError::fail(format!("{filter}: not read")))?;
    let engine = found(file, filter).await;
    let predicate = match Predicate::compile(&query, &kinds(events)) {
        Ok(compiled) => compiled.predicate,
        Err(diagnostics) => {
            let said: Vec<String> = diagnostics.iter().map(|diagnostic| diagnostic.to_string_in(filter)).collect();
            prop_assert!(engine.is_err(), "{} is refused by the evaluator only: {:?}", filter, said);
            tally.refused += 1;
            return Ok(());
        }
    };
    let found = match engine {
        Ok(found) => found,
        Err(error) if is_too_large(&error) || is_beyond(&error) => {
            tally.unanswered += 1;
            return Ok(());
        }
        Err(error) => return Err(TestCaseError::fail(format!("{filter} is refused by the engine only: {error}"))),
    };
    for (number, event) in events.iter().enumerate() {
        if let Ok(verdict) = predicate.verdict(event) {
            let engine = found.contains(&number);
            prop_assert_eq!(verdict, engine, "{} of {}\n{:#?}", filter, event, predicate);
        }
    }
    for event in events.iter().map(Event::readable) {
        let line = event.to_string();
        let read: netconn_model::event::Event<'_> = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(
            predicate.verdict(&read),
            predicate.verdict(&event),
            "{} of {}\n{:#?}",
            filter,
            line,
            predicate
        );
    }
    tally.compared += 1;
    tally.matched += found.len();
    tally.unmatched += events.len() - found.len();
    Ok(())
}

#[test]
fn the_evaluator_and_the_engine_say_the_same() {
    let cases = std::env::var("NETCONN_EVALUATOR_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    let runtime = engine::runtime().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let tally = std::cell::Cell::new(Tally::default());
    let result =
        TestRunner::new(config).run(&(events::events(), vec(filters::filter(), FILTERS)), |(events, filters)| {
            std::fs::write(&file, events::lines(&events)).unwrap();
            for filter in filters {
                let mut all = tally.get();
                runtime.block_on(compare(&file, &events, &filter, &mut all))?;
                tally.set(all);
            }
            Ok(())
        });
    if let Err(error) = result {
        panic!("{error}");
    }
    let tally = tally.get();
    println!("{tally:?}");
    let all = tally.compared + tally.refused + tally.unanswered;
    assert!(tally.compared * 10 > all * 9, "{tally:?}");
    assert!(tally.matched * 5 > tally.unmatched && tally.unmatched * 5 > tally.matched, "{tally:?}");
}

/// Both refuse to count on with a sum that is no whole number.
#[test]
fn sums_beyond_whole_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    let event = Event::new(serde_json::json!({"event.id": "0", "event.network.bytesSent": i64::MAX}));
    std::fs::write(&file, event.to_string()).unwrap();
    let runtime = engine::runtime().unwrap();
    for (filter, is_sum) in [
        ("event.network.bytesSent + 1 > 0", true),
        ("0 - event.network.bytesSent - 2 < 0", true),
        ("event.network.bytesSent * 1.0 + 1 > 0", false),
        ("event.network.bytesSent + 0 > 0", false),
    ] {
        let predicate = Predicate::parse(filter).unwrap().predicate;
        let expected = if is_sum { Err(SumBeyond) } else { Ok(true) };
        assert_eq!(predicate.verdict(&event), expected, "{filter}");
        assert_eq!(predicate.matches(&event), !is_sum, "{filter}");
        let engine = runtime.block_on(found(&file, filter));
        assert_eq!(engine.is_err_and(|error| is_beyond(&error)), is_sum, "{filter}");
    }
}

/// NaN counts as false, with either sign: `inf - inf` has a minus sign on x86, and `abs` removes it.
#[test]
fn nan_is_false() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    let event = Event::new(serde_json::json!({"event.id": "0", "event.network.durationMs": 1e300}));
    std::fs::write(&file, event.to_string()).unwrap();
    let runtime = engine::runtime().unwrap();
    let infinite = "(event.network.durationMs * event.network.durationMs)";
    for (filter, expected) in [
        (infinite.to_owned(), true),
        (format!("-{infinite}"), true),
        (format!("{infinite} - {infinite}"), false),
        (format!("-({infinite} - {infinite})"), false),
        (format!("abs({infinite} - {infinite})"), false),
        (format!("0.0 - abs({infinite} - {infinite})"), false),
        (format!("not ({infinite} * 0)"), true),
        (format!("({infinite} - {infinite}) ? false : true"), true),
        (format!("(({infinite} - {infinite}) or 7) = 7"), true),
    ] {
        let predicate = Predicate::parse(&filter).unwrap().predicate;
        assert_eq!(predicate.verdict(&event), Ok(expected), "{filter}");
        let engine = runtime.block_on(found(&file, &filter)).unwrap();
        assert_eq!(!engine.is_empty(), expected, "{filter}");
    }
}
