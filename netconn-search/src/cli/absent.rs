//! Names the constants of a query that found nothing which occur in no event of the searched time.

use std::time::Duration;

use futures::StreamExt as _;
use netconn_query::{
    Diagnostic, alias,
    ast::{BinaryOp, Expr, ExprKind, Query},
    printer,
};

use crate::{engine::Search, output::column};

/// Longest time that a person waits for the look, unless the search itself took longer: the answer is known already.
const PATIENCE: Duration = Duration::from_secs(1);

/// As [`PATIENCE`], for programs: their answers should depend less on how busy the machine is.
const PATIENCE_OF_PROGRAMS: Duration = Duration::from_secs(5);

/// Most constants that are looked for.
const CONSTANTS_MAX: usize = 16;

/// Returns a sentence for each constant of the first filter that no event has; none if that cannot be told soon. What `said`
/// is about needs no second word. `elapsed` is how long the search took.
pub(super) async fn absent(
    search: &Search,
    query: &Query,
    said: &[Diagnostic],
    elapsed: Duration,
    is_person: bool,
) -> Vec<String> {
    let mut constants = Vec::new();
    if let Some(filter) = &query.filter {
        collect(filter, said, &mut constants);
    }
    constants.truncate(CONSTANTS_MAX);
    if constants.is_empty() {
        return Vec::new();
    }
    // What cannot be read or takes too long is no news: the search itself has gone well.
    match tokio::time::timeout(limit(elapsed, is_person), counts(search, &constants)).await {
        Ok(Some(counts)) => {
            let absent = constants.iter().zip(counts).filter(|(_, count)| *count == 0.0);
            absent.map(|(constant, _)| format!("no event of the searched time has {constant}")).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns how long the look may take: as long as the search, or somewhat longer than a short one.
fn limit(elapsed: Duration, is_person: bool) -> Duration {
    elapsed.max(if is_person { PATIENCE } else { PATIENCE_OF_PROGRAMS })
}

/// Collects the equalities of a filter, as texts. Those that are denied are no reason to find nothing.
fn collect(filter: &Expr, said: &[Diagnostic], constants: &mut Vec<String>) {
    let is_said = |expr: &Expr| said.iter().any(|said| said.span == expr.span);
    let is_constant = |expr: &Expr| matches!(expr.kind, ExprKind::Text(_) | ExprKind::Number(_));
    let mut waiting = vec![filter];
    while let Some(expr) = waiting.pop() {
        match &expr.kind {
            // The other half of the alias holds for events of netconn: that half occurs or not, the condition is not about it.
            ExprKind::Binary { op: BinaryOp::Or, left, right } if alias::is_about_source(&left.kind) => {
                waiting.push(right);
            }
            ExprKind::Binary { op: BinaryOp::And | BinaryOp::Or, left, right } => {
                // The left one is popped first, so that constants come in the order of the text.
                waiting.extend([right.as_ref(), left.as_ref()]);
            }
            ExprKind::Binary { op: BinaryOp::Equal, left, right }
                if matches!(left.kind, ExprKind::Field(_))
                    && is_constant(right)
                    && !is_said(left)
                    && !is_said(right) =>
            {
                constants.push(printer::expression(expr));
            }
            ExprKind::In { case, value, set } if matches!(value.kind, ExprKind::Field(_)) && !is_said(value) => {
                for element in set.iter().filter(|element| is_constant(element) && !is_said(element)) {
                    let kind = ExprKind::In { case: *case, value: value.clone(), set: vec![element.clone()] };
                    constants.push(printer::expression(&Expr { kind, span: expr.span }));
                }
            }
            _ => {}
        }
    }
}

/// Returns the number of events for which each condition is true; `None` if there are no events at all.
async fn counts(search: &Search, conditions: &[String]) -> Option<Vec<f64>> {
    let columns: Vec<String> =
        conditions.iter().enumerate().map(|(place, condition)| format!("c{place} = count({condition})")).collect();
    // One pass, which reads only the columns that are asked for.
    let query = netconn_query::parse(&format!("| group all = count(), {}", columns.join(", "))).query?;
    let mut answer = search.run(&query).await.ok()?;
    let batch = answer.batches.next().await?.ok()?;
    let number = |place| column::cell_number(&batch, place, 0);
    number(0).filter(|all| *all > 0.0)?;
    (1..=conditions.len()).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_takes_no_longer_than_the_search() {
        let seconds = Duration::from_secs;
        let limits = [0, 3, 20].map(|elapsed| [true, false].map(|is_person| limit(seconds(elapsed), is_person)));
        assert_eq!(limits, [[seconds(1), seconds(5)], [seconds(3), seconds(5)], [seconds(20), seconds(20)]]);
    }

    #[test]
    fn equalities_are_collected() {
        let query = netconn_query::parse(
            "src.process.name = 'crul' and not event.type = 'a' (dst.port.number = 9 or x in ('a', 1)) and y contains 'z'",
        );
        let mut found = Vec::new();
        collect(&query.query.unwrap().filter.unwrap(), &[], &mut found);
        let mut aliased =
            netconn_query::parse("dataSource.name = 'SentinelOne' and src.process.name = 'crul'").query.unwrap();
        alias::sentinel_one(&mut aliased);
        let mut of_alias = Vec::new();
        collect(&aliased.filter.unwrap(), &[], &mut of_alias);
        assert_eq!(of_alias, ["dataSource.vendor = 'netconn'", "src.process.name = 'crul'"]);
        assert_eq!(found, ["src.process.name = 'crul'", "dst.port.number = 9", "x in ('a')", "x in (1)"]);
    }
}
