//! Plans `parse`: columns taken out of a text by a pattern.

use datafusion::logical_expr::{Expr, lit};
use netconn_query::{
    ast::{self, Span},
    function::EXTRACT,
    pattern::{self, Content, Piece},
    value::ValueKind,
};

use super::{
    Planner,
    operand::{Operand, function, text},
    pattern::check,
    rows::{Rows, column},
    scope::Scope,
};
use crate::engine::error::{Result, SearchError};

/// Plans `parse "…" from value`; without a value, the first text column that fits.
pub(crate) fn parse(
    planner: &Planner,
    rows: &Rows,
    written: &str,
    span: Span,
    from: Option<&ast::Expr>,
) -> Result<Rows> {
    let pieces = pattern::pieces(written).map_err(|error| SearchError::query(error.to_string(), span))?;
    let (regex, names) = compile(&pieces);
    // The whole expression is checked, because expressions of columns are put into it as they are.
    check(&regex, span)?;
    let scope = Scope::new(planner, rows);
    let subjects: Vec<Expr> = match from {
        Some(from) => vec![scope.value(from)?.text()],
        None => {
            // Without `from` each text column is tried in order.
            let texts = rows.columns.iter().filter(|name| rows.kind(name) == ValueKind::Text);
            texts.map(|name| column(name)).collect()
        }
    };
    let mut columns = Vec::with_capacity(names.len());
    for (name, group) in names {
        // Each column matches again: a function of DataFusion has one result. Compiled patterns are shared within a
        // call only.
        let extract = |subject: &Expr| function(EXTRACT, vec![subject.clone(), text(&regex), lit(group)]);
        let mut found: Vec<Expr> = subjects.iter().map(extract).collect();
        let value = match found.len() {
            1 => found.swap_remove(0),
            0 => Operand::null().text(),
            _ => datafusion::functions::core::expr_fn::coalesce(found),
        };
        columns.push((name, value));
    }
    rows.clone().extend(columns, &planner.planning)
}

/// Returns the regular expression of a pattern, and the group of each of its columns.
fn compile(pieces: &[Piece]) -> (String, Vec<(String, i64)>) {
    // Text between columns may go over several lines.
    let mut regex = String::from("(?s)");
    let mut names = Vec::new();
    let mut groups = 0;
    for (place, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(text) => regex.push_str(&regex::escape(text)),
            Piece::End => regex.push('$'),
            Piece::Column { name, content } => {
                groups += 1;
                names.push((name.clone(), groups));
                let last = place + 1 == pieces.len();
                match content {
                    // The shortest text would be empty at the end of a pattern, so the last column takes the rest.
                    Content::Any if last => regex.push_str("(.*)"),
                    Content::Any => regex.push_str("(.*?)"),
                    Content::Digits => regex.push_str("([0-9]+)"),
                    Content::Identifier => regex.push_str("([A-Za-z_][A-Za-z0-9_]*)"),
                    Content::Regex(inner) => {
                        regex.push('(');
                        regex.push_str(inner);
                        regex.push(')');
                        // The column's own expression may have groups, which count too.
                        groups += regex::Regex::new(inner)
                            .map_or(0, |inner| i64::try_from(inner.captures_len()).unwrap_or(1) - 1);
                    }
                }
            }
        }
    }
    (regex, names)
}
