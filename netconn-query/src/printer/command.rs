//! Writes queries and their commands.

use super::{
    expression::{expression, is_value},
    word::{name, name_or_text, text},
};
use crate::{
    ast::{Column, CommandKind, JoinKind, JoinSide, LookupColumn, LookupKey, LookupMatch, Name, Query, SortKey},
    lexer,
    walk::label,
};

/// Writes a query with a separator before each `|`, except at the very beginning.
pub(super) fn query(query: &Query, separator: &str) -> String {
    let mut out = query.filter.as_ref().map_or_else(String::new, expression);
    for step in &query.commands {
        if !out.is_empty() {
            out.push_str(separator);
        }
        out.push_str("| ");
        out.push_str(&command(&step.kind));
    }
    out
}

fn command(kind: &CommandKind) -> String {
    match kind {
        CommandKind::Filter(expr) => format!("filter {}", expression(expr)),
        CommandKind::Columns(list) => format!("columns {}", columns(list)),
        // Always with the name, which `let` demands.
        CommandKind::Let(list) => format!("let {}", joined(list, |column| named(column, &expression(&column.expr)))),
        CommandKind::Group { aggregates, by } => format!("group {}{}", columns(aggregates), keys(by)),
        CommandKind::Sort(keys) => format!("sort {}", joined(keys, sort_key)),
        CommandKind::Limit(count) => format!("limit {count}"),
        CommandKind::NoLimit => "nolimit".to_owned(),
        CommandKind::Parse { pattern, pattern_span: _, from } => {
            let from = from.as_ref().map_or_else(String::new, |from| format!(" from {}", expression(from)));
            format!("parse {}{from}", text(pattern))
        }
        CommandKind::Lookup { columns, table, by } => {
            let columns = joined(columns, lookup_column);
            format!("lookup {columns} from {} by {}", name_or_text(&table.text), joined(by, lookup_key))
        }
        // Names of tables are quoted even if they are words, because file names may have any characters.
        CommandKind::Dataset(table) => format!("dataset {}", text(&table.text)),
        CommandKind::SaveLookup { table, merge } => {
            format!("savelookup {}{}", text(&table.text), if *merge { ", 'merge'" } else { "" })
        }
        CommandKind::Join { kind, all, sides, on } => {
            let kind = match kind {
                // Written out behind `sql`, and left out where it is the default.
                JoinKind::Inner if *all => "inner ",
                JoinKind::Inner => "",
                JoinKind::Left => "left ",
                JoinKind::Outer => "outer ",
            };
            let on = joined(on, |key| match &key.right {
                Some(right) => format!("{} = {}", name(&key.left.text), name(&right.text)),
                None => name(&key.left.text),
            });
            // Keys are optional in a join.
            let on = if on.is_empty() { on } else { format!(" on {on}") };
            format!("{}{kind}join {}{on}", if *all { "sql " } else { "" }, joined(sides, side))
        }
        CommandKind::Union(queries) => {
            format!("union {}", joined(queries, |query| format!("({})", super::line(query))))
        }
        CommandKind::Transpose { column, keys, totals, limit } => {
            let on = if keys.is_empty() { String::new() } else { format!(" on {}", names(keys)) };
            let totals = if *totals { " with_totals" } else { "" };
            let limit = limit.map_or_else(String::new, |limit| format!(" limit {limit}"));
            format!("transpose {}{on}{totals}{limit}", name(&column.text))
        }
        CommandKind::Top { count, aggregates, by } => {
            let aggregates = if aggregates.is_empty() { String::new() } else { format!(" {}", columns(aggregates)) };
            format!("top {count}{aggregates}{}", keys(by))
        }
        CommandKind::Compare { name, shift, shift_span: _ } => {
            format!("compare {} = timeshift({})", name_or_text(&name.text), text(shift))
        }
        CommandKind::Dedup(list) if list.is_empty() => "dedup".to_owned(),
        CommandKind::Dedup(list) => format!("dedup {}", names(list)),
        CommandKind::Sequence { by, within, within_span: _, steps } => {
            let steps = joined(steps, |step| format!("({})", expression(step)));
            format!("sequence{} within {} {steps}", keys(by), text(within))
        }
    }
}

fn joined<T>(items: &[T], write: impl FnMut(&T) -> String) -> String {
    items.iter().map(write).collect::<Vec<_>>().join(", ")
}

fn names(list: &[Name]) -> String {
    joined(list, |item| name(&item.text))
}

fn columns(list: &[Column]) -> String {
    joined(list, column)
}

/// Writes a column; without its name where that follows from the expression.
fn column(column: &Column) -> String {
    let written = expression(&column.expr);
    // The name follows from the expression, unless `a = b` would be read as a name and a value.
    if label(&column.expr, &written) == column.label && !lexer::begins_with_name(&written) {
        return written;
    }
    named(column, &written)
}

fn named(column: &Column, written: &str) -> String {
    format!("{} = {written}", name_or_text(&column.label))
}

fn keys(by: &[Column]) -> String {
    if by.is_empty() { String::new() } else { format!(" by {}", columns(by)) }
}

fn sort_key(key: &SortKey) -> String {
    let written = expression(&key.expr);
    if key.descending {
        // `-a + b` would be read as a key `-a`, so all but plain values get parentheses.
        if is_value(&key.expr) { format!("-{written}") } else { format!("-({written})") }
    // A minus sign in front would be read as the direction.
    } else if written.starts_with('-') {
        format!("+{written}")
    } else {
        written
    }
}

fn lookup_column(column: &LookupColumn) -> String {
    if column.name.text == column.source.text {
        return name(&column.source.text);
    }
    format!("{} = {}", name_or_text(&column.name.text), name(&column.source.text))
}

fn lookup_key(key: &LookupKey) -> String {
    let how = match key.how {
        LookupMatch::Equal => "=",
        LookupMatch::AnyCase => "=:anycase",
        LookupMatch::Wildcard => "=:wildcard",
        LookupMatch::Cidr => "=:cidr",
        LookupMatch::AnyOf => "=:anyof",
    };
    format!("{} {how} {}", name(&key.column.text), expression(&key.expr))
}

fn side(side: &JoinSide) -> String {
    let alias = side.alias.as_ref().map_or_else(String::new, |alias| format!("{} = ", name(&alias.text)));
    format!("{alias}({})", super::line(&side.query))
}
