//! Short names of the fields that people look at most: headings of tables have them, and queries may use them.

use std::collections::HashSet;

use netconn_model::field::{self, FIELDS};

use crate::{
    ast::{CommandKind, Expr, ExprKind, Query},
    facts::{ColumnsAfter, MadeColumn},
};

/// Short names that do not follow from the name of the field. The columns of `netconn list` are called the same.
const NAMES: [(&str, &str); 8] = [
    ("process", "src.process.name"),
    ("pid", "src.process.pid"),
    ("user", "src.process.user"),
    ("status", "event.network.connectionStatus"),
    ("sent", "event.network.bytesSent"),
    ("received", "event.network.bytesReceived"),
    ("failure", "event.network.failureReason"),
    ("close", "event.network.closeReason"),
];

/// Returns the short name of a field, or the name itself: `event.network.direction` becomes `direction`, `dst.ip.address` becomes
/// `dst.ip`, and `src.process.name` becomes `process`.
pub fn short(name: &str) -> &str {
    if let Some((short, _)) = NAMES.iter().find(|(_, full)| *full == name) {
        return short;
    }
    let Some(field) = field::by_name(name) else { return name };
    shortened(field.name)
}

fn shortened(name: &str) -> &str {
    let rest = name.strip_prefix("event.network.").or_else(|| name.strip_prefix("event.")).unwrap_or(name);
    // What is left must tell more than one word of the name of a process.
    let rest = rest.strip_prefix("src.").filter(|rest| rest.starts_with("process.")).unwrap_or(rest);
    let rest = rest.strip_suffix(".address").filter(|rest| rest.ends_with(".ip")).unwrap_or(rest);
    rest.strip_suffix(".number").filter(|rest| rest.ends_with(".port")).unwrap_or(rest)
}

/// Returns the field with this short name.
pub fn full(short: &str) -> Option<&'static str> {
    if field::by_name(short).is_some() {
        return None;
    }
    if let Some((_, full)) = NAMES.iter().find(|(name, _)| *name == short) {
        return Some(full);
    }
    FIELDS.iter().map(|field| field.name).find(|name| shortened(name) == short)
}

/// Returns whether a query uses names that are short names of fields, and of nothing that it makes itself.
pub fn has_short(query: &Query) -> bool {
    let mut copy = query.clone();
    expand(&mut copy, |_| false) > 0
}

/// Replaces short names by those of the fields; returns how many. A name that the query makes itself, or that `is_known` says is a
/// field of the files, is not replaced.
pub fn expand(query: &mut Query, is_known: impl Fn(&str) -> bool) -> usize {
    let mut made = HashSet::new();
    collect_made(query, &mut made);
    let mut replaced = 0;
    replace(query, &|name| full(name).filter(|_| !made.contains(name) && !is_known(name)), &mut replaced);
    replaced
}

/// Collects the names that a query and its queries make.
fn collect_made(query: &Query, made: &mut HashSet<String>) {
    for command in &query.commands {
        let facts = command.kind.facts();
        let columns = match facts.columns {
            ColumnsAfter::Added(columns) | ColumnsAfter::Only(columns) | ColumnsAfter::Grouped(columns) => columns,
            ColumnsAfter::Compared(name) => {
                made.insert(name.text.clone());
                Vec::new()
            }
            ColumnsAfter::Kept | ColumnsAfter::Partly(_) | ColumnsAfter::OfQueries => Vec::new(),
        };
        // `columns status` makes no new name.
        let is_new = |column: &MadeColumn<'_>| !matches!(column.expr, Some(Expr { kind: ExprKind::Field(name), .. }) if *name == column.name);
        made.extend(columns.into_iter().filter(is_new).map(|column| column.name.into_owned()));
        made.extend(facts.aliases.into_iter().map(|name| name.text.clone()));
    }
    let mut waiting = query.expressions();
    while let Some(expr) = waiting.pop() {
        if let ExprKind::Lambda { parameters, .. } = &expr.kind {
            made.extend(parameters.iter().map(|parameter| parameter.text.clone()));
        }
        waiting.extend(expr.children());
    }
    query.subqueries().into_iter().for_each(|query| collect_made(query, made));
}

fn replace(query: &mut Query, full: &dyn Fn(&str) -> Option<&'static str>, replaced: &mut usize) {
    if let Some(filter) = &mut query.filter {
        replace_in(filter, full, replaced);
    }
    for command in &mut query.commands {
        if let CommandKind::Dedup(names) = &mut command.kind {
            for name in names {
                if let Some(full) = full(&name.text) {
                    name.text = full.to_owned();
                    *replaced += 1;
                }
            }
        }
        let parts = command.kind.parts_mut();
        parts.expressions.into_iter().for_each(|expr| replace_in(expr, full, replaced));
        for column in parts.columns {
            // A column that is only named is called like its field.
            if let ExprKind::Field(name) = &column.expr.kind
                && column.name.is_none()
                && let Some(full) = full(name)
            {
                column.label = full.to_owned();
            }
            replace_in(&mut column.expr, full, replaced);
        }
        parts.queries.into_iter().for_each(|query| replace(query, full, replaced));
    }
}

fn replace_in(expr: &mut Expr, full: &dyn Fn(&str) -> Option<&'static str>, replaced: &mut usize) {
    // Chains of `or` may be thousands long, so it does not recurse.
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match &mut expr.kind {
            ExprKind::Field(name) => {
                if let Some(full) = full(name) {
                    *name = full.to_owned();
                    *replaced += 1;
                }
            }
            ExprKind::InQuery { query, .. } => replace(query, full, replaced),
            _ => {}
        }
        waiting.extend(expr.children_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse, printer};

    #[test]
    fn every_short_name_leads_back_to_its_field() {
        let mut seen = HashSet::new();
        for name in FIELDS.iter().map(|field| field.name) {
            let short = short(name);
            assert!(seen.insert(short), "{short} is the short name of two fields");
            assert!(short == name || full(short) == Some(name), "{name}: {short}");
        }
        assert_eq!(
            (short("src.process.name"), short("dst.port.number"), short("event.time")),
            ("process", "dst.port", "time")
        );
        assert_eq!(short("something.else"), "something.else");
    }

    #[test]
    fn short_names_are_fields_unless_the_query_makes_them() {
        let expanded = |text: &str| {
            let mut query = parse(text).query.unwrap();
            expand(&mut query, |name| name == "user");
            printer::lines(&query).replace('\n', " ")
        };
        assert_eq!(
            expanded("direction = 'OUTGOING' and dst.ip = '::1' | columns time, process, user | sort -time"),
            "event.network.direction = 'OUTGOING' and dst.ip.address = '::1' | columns event.time, src.process.name, user | sort \
             -event.time"
        );
        let made = "| group sent = count() by status = dst.port.number | sort sent, status";
        assert_eq!(expanded(made), made);
        assert!(has_short(&parse("pid = 1").query.unwrap()) && !has_short(&parse("pit = 1").query.unwrap()));
    }
}
