//! Runs queries over events and compares their rows.

mod addresses;
mod collection;
mod edges;
mod events;
mod functions;
mod gaps;
mod language;
mod moments;
mod nesting;
mod properties;
mod pruning;
mod reference;
mod store;

use std::path::{Path, PathBuf};

use futures::StreamExt;
use netconn_query::{diagnostic::Severity, parser::parse, value::Value};

use crate::engine::{
    ProgressSnapshot, Search, SearchError,
    function::column::{normal, value_at},
    runtime,
};

/// Rows as texts, with `null` for missing values; the first row holds the names of the columns.
pub(super) type Table = Vec<Vec<String>>;

/// Runs a query; returns its rows and the counters of what was read.
pub(super) fn search(search: &Search, query: &str) -> Result<(Table, ProgressSnapshot), SearchError> {
    let parsed = parse(query);
    let errors: Vec<_> = parsed.diagnostics.iter().filter(|found| found.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{query}: {errors:?}");
    let query = parsed.query.unwrap();
    runtime().unwrap().block_on(async {
        let mut answer = search.run(&query).await?;
        let mut table = vec![answer.schema.fields().iter().map(|field| field.name().clone()).collect()];
        while let Some(batch) = answer.batches.next().await {
            let batch = batch?;
            let columns: Vec<_> = batch.columns().iter().map(|column| normal(column).unwrap()).collect();
            for row in 0..batch.num_rows() {
                let text = |value: Value<'_>| value.text().map_or("null".to_owned(), std::borrow::Cow::into_owned);
                table.push(columns.iter().map(|column| text(value_at(column, row))).collect());
            }
        }
        Ok((table, answer.progress.snapshot()))
    })
}

/// Returns the rows of a query over a file or folder, without the names of the columns.
pub(super) fn rows(path: &Path, query: &str) -> Table {
    let path: PathBuf = path.to_owned();
    match search(&Search::new(vec![path]), query) {
        Ok((mut table, _)) => table.split_off(1),
        Err(error) => panic!("{query}: {error}"),
    }
}

/// Converts rows written in a test.
pub(super) fn table(rows: &[&[&str]]) -> Table {
    rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
}
