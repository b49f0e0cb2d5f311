//! Understands the name of the product that the language comes from, in queries that were published for it.

use crate::{
    ast::{BinaryOp, Expr, ExprKind, MatchSubject, Query},
    diagnostic::Diagnostic,
};

/// What published queries call their data source.
const NAME: &str = "SentinelOne";

/// The fields that published queries compare with it.
const FIELDS: [&str; 2] = ["dataSource.name", "dataSource.vendor"];

/// Lets `dataSource.name = 'SentinelOne'` stand for events of netconn too, and says so.
///
/// Most published queries begin with it. They mean "what the agent on the host has seen", not a product: events of netconn are
/// just that, so a query that came unchanged would find nothing for the sake of a name. Events that really have that name still
/// match.
pub fn sentinel_one(query: &mut Query) -> Vec<Diagnostic> {
    let mut said = Vec::new();
    let mut queries = vec![query];
    while let Some(query) = queries.pop() {
        let mut waiting: Vec<&mut Expr> = query.filter.iter_mut().collect();
        for command in &mut query.commands {
            let parts = command.kind.parts_mut();
            waiting.extend(parts.expressions);
            waiting.extend(parts.columns.into_iter().map(|column| &mut column.expr));
            queries.extend(parts.queries);
        }
        // Without recursion: chains of `or` may be long.
        while let Some(expr) = waiting.pop() {
            if is_about_source(&expr.kind) {
                let message = format!(
                    "events of netconn are taken as {NAME} too, because published queries ask for it \
                     (`sentinelone_alias = false` in the section [search] of the configuration ends that)"
                );
                said.push(Diagnostic::warning(expr.span, message));
                widen(expr);
                continue;
            }
            if !matches!(expr.kind, ExprKind::InQuery { .. }) {
                waiting.extend(expr.children_mut());
            } else if let ExprKind::InQuery { case: _, value, query } = &mut expr.kind {
                waiting.push(value);
                queries.push(query);
            }
        }
    }
    // One remark is enough.
    said.truncate(1);
    said
}

/// Whether a condition compares the source of events with the name.
pub fn is_about_source(kind: &ExprKind) -> bool {
    let is_source = |expr: &Expr| matches!(&expr.kind, ExprKind::Field(name) if FIELDS.contains(&name.as_str()));
    let is_name = |expr: &Expr| matches!(&expr.kind, ExprKind::Text(text) if text.eq_ignore_ascii_case(NAME));
    match kind {
        ExprKind::Binary { op, left, right } => {
            matches!(op, BinaryOp::Equal | BinaryOp::EqualAnyCase | BinaryOp::NotEqual)
                && ((is_source(left) && is_name(right)) || (is_name(left) && is_source(right)))
        }
        ExprKind::In { case: _, value, set } => is_source(value) && set.iter().any(is_name),
        ExprKind::Match { op: _, case: _, subject: MatchSubject::Value(value), patterns } => {
            is_source(value) && patterns.iter().any(is_name)
        }
        _ => false,
    }
}

/// Makes a condition true for events of netconn too; one with `!=` false.
fn widen(expr: &mut Expr) {
    let span = expr.span;
    let of = |kind| Box::new(Expr { kind, span });
    let vendor = of(ExprKind::Field(FIELDS[1].to_owned()));
    let name = of(ExprKind::Text("netconn".to_owned()));
    let is_ours = |op| of(ExprKind::Binary { op, left: vendor, right: name });
    let is_denied = matches!(expr.kind, ExprKind::Binary { op: BinaryOp::NotEqual, .. });
    let written = of(std::mem::replace(&mut expr.kind, ExprKind::Null));
    let (op, ours) =
        if is_denied { (BinaryOp::And, is_ours(BinaryOp::NotEqual)) } else { (BinaryOp::Or, is_ours(BinaryOp::Equal)) };
    expr.kind = ExprKind::Binary { op, left: written, right: ours };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse, printer};

    #[test]
    fn published_queries_find_events_of_netconn() {
        for (query, expected) in [
            ("dataSource.name = 'SentinelOne'", "dataSource.name = 'SentinelOne' or dataSource.vendor = 'netconn'"),
            ("dataSource.name != 'SentinelOne'", "dataSource.name != 'SentinelOne' and dataSource.vendor != 'netconn'"),
            (
                "dataSource.name in ('Okta', 'sentinelone') event.type = 'IP Connect'",
                "(dataSource.name in ('Okta', 'sentinelone') or dataSource.vendor = 'netconn') and event.type = 'IP Connect'",
            ),
            (
                "| union (dataSource.vendor contains 'SentinelOne'), (a in (dataSource.name == 'SentinelOne'))",
                "| union (dataSource.vendor contains 'SentinelOne' or dataSource.vendor = 'netconn'), (a in \
                 (dataSource.name = 'SentinelOne' or dataSource.vendor = 'netconn'))",
            ),
        ] {
            let mut read = parse(query).query.unwrap();
            assert_eq!(sentinel_one(&mut read).len(), 1, "{query}");
            assert_eq!(printer::line(&read), expected, "{query}");
        }
        let mut other = parse("dataSource.name = 'Okta' or src.process.name = 'SentinelOne'").query.unwrap();
        assert_eq!(sentinel_one(&mut other), []);
    }
}
