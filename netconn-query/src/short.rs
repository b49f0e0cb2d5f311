//! Short names of the fields that people look at most: headings of tables have them, and queries may use them.

use std::collections::HashSet;

use netconn_model::field::{self, FIELDS};

use crate::{
    ast::{CommandKind, Expr, ExprKind, JoinKey, JoinSide, Query},
    facts::{ColumnsAfter, SEQUENCE_ENDS, sequence_columns},
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

/// Replaces short names by those of the fields; returns how many. A name that an earlier command of the query makes, or that
/// `is_known` says is a field of the files, is not replaced; nor is one where the rows do not have its field.
pub fn expand(query: &mut Query, is_known: impl Fn(&str) -> bool) -> usize {
    let mut expander = Expander { is_known: &is_known, replaced: 0 };
    expander.query(query);
    expander.replaced
}

/// The columns at a place of a query, as far as short names depend on them.
#[derive(Clone)]
struct Rows {
    /// Whether all fields of events are among them.
    events: bool,
    /// Columns that commands have made or chosen.
    made: HashSet<String>,
    /// Sides of a join with their aliases, and ends of a sequence.
    sides: Vec<(String, Self)>,
}

impl Rows {
    fn events() -> Self {
        Self { events: true, ..Self::nothing() }
    }

    fn nothing() -> Self {
        Self { events: false, made: HashSet::new(), sides: Vec::new() }
    }

    fn merge(&mut self, other: Self) {
        self.events |= other.events;
        self.made.extend(other.made);
    }

    /// Returns the columns behind a command.
    fn behind(mut self, kind: &CommandKind, queries: Vec<Self>, is_source: bool) -> Self {
        match kind.facts().columns {
            ColumnsAfter::Kept => self,
            ColumnsAfter::Added(columns) => {
                self.made.extend(columns.into_iter().map(|column| column.name.into_owned()));
                self
            }
            ColumnsAfter::Only(columns) | ColumnsAfter::Grouped(columns) => {
                Self { made: columns.into_iter().map(|column| column.name.into_owned()).collect(), ..Self::nothing() }
            }
            // Without keys, the columns before `transpose` are its keys.
            ColumnsAfter::Partly(names) if names.is_empty() && matches!(kind, CommandKind::Transpose { .. }) => self,
            ColumnsAfter::Partly(names) => {
                Self { made: names.into_iter().map(|name| name.text.clone()).collect(), ..Self::nothing() }
            }
            ColumnsAfter::Compared(name) => {
                self.made.insert(name.text.clone());
                self
            }
            ColumnsAfter::Sequence(keys) => {
                let made = keys.into_iter().map(|key| key.name.into_owned());
                let made = made.chain(sequence_columns().map(|(name, _)| name)).collect();
                let sides = SEQUENCE_ENDS.map(|end| (end.to_owned(), self.clone())).into();
                Self { made, sides, events: false }
            }
            ColumnsAfter::OfQueries => {
                let first = if is_source { Self::nothing() } else { self };
                queries.into_iter().fold(first, |mut all, query| {
                    all.merge(query);
                    all
                })
            }
        }
    }
}

/// Goes through a query command by command, because a name means what the commands before it have made of it.
struct Expander<'a> {
    is_known: &'a dyn Fn(&str) -> bool,
    replaced: usize,
}

impl Expander<'_> {
    /// Replaces the names of a query or a subquery; returns the columns behind it.
    fn query(&mut self, query: &mut Query) -> Rows {
        let mut rows = Rows::events();
        if let Some(filter) = &mut query.filter {
            self.expr(filter, &rows, &[]);
        }
        for (place, command) in query.commands.iter_mut().enumerate() {
            // As in the checker: only at the very beginning are there no rows that would be a side.
            let is_source = place == 0 && query.filter.is_none();
            rows = self.command(&mut command.kind, rows, is_source);
        }
        rows
    }

    fn command(&mut self, kind: &mut CommandKind, mut rows: Rows, is_source: bool) -> Rows {
        if let CommandKind::Join { kind: _, all: _, sides, on } = kind {
            return self.join(sides, on, rows, is_source);
        }
        let is_let = matches!(kind, CommandKind::Let(_));
        let parts = kind.parts_mut();
        parts.expressions.into_iter().for_each(|expr| self.expr(expr, &rows, &[]));
        for column in parts.columns {
            // A column that is only named is called like its field.
            if let ExprKind::Field(name) = &column.expr.kind
                && column.name.is_none()
                && let Some(full) = self.full(name, &rows)
            {
                column.label = full;
            }
            self.expr(&mut column.expr, &rows, &[]);
            // Each column of `let` may use those before it.
            if is_let {
                rows.made.insert(column.label.clone());
            }
        }
        parts.reads.into_iter().for_each(|name| self.name(&mut name.text, &rows));
        let queries: Vec<Rows> = parts.queries.into_iter().map(|query| self.query(query)).collect();
        rows.behind(kind, queries, is_source)
    }

    fn join(&mut self, sides: &mut [JoinSide], on: &mut [JoinKey], rows: Rows, is_source: bool) -> Rows {
        let mut all = if is_source { Vec::new() } else { vec![(JoinSide::letters(0), rows)] };
        for side in sides {
            let alias = side.alias.as_ref().map_or_else(|| JoinSide::letters(all.len()), |alias| alias.text.clone());
            all.push((alias, self.query(&mut side.query)));
        }
        let mut joined = Rows::nothing();
        for (_, side) in &all {
            joined.merge(side.clone());
        }
        joined.sides = all;
        for key in on {
            match &mut key.right {
                Some(right) => [&mut key.left, right].into_iter().for_each(|name| self.name(&mut name.text, &joined)),
                // One name for all sides, so all of them have to know it by its short name.
                None if joined.sides.iter().all(|(_, side)| self.full(&key.left.text, side).is_some()) => {
                    self.name(&mut key.left.text, &joined);
                }
                None => {}
            }
        }
        joined
    }

    /// Returns the name of the field that a short name stands for; `None` if it is no short name here.
    fn full(&self, name: &str, rows: &Rows) -> Option<String> {
        if rows.made.contains(name) {
            return None;
        }
        let of_side = |(alias, side): &(String, Rows)| {
            Some((alias.clone(), side.clone(), name.strip_prefix(alias.as_str())?.strip_prefix('.')?))
        };
        if let Some((alias, side, name)) = rows.sides.iter().find_map(of_side) {
            return self.full(name, &side).map(|full| format!("{alias}.{full}"));
        }
        let full = full(name)?;
        let is_there = rows.made.contains(full) || (rows.events && !(self.is_known)(name));
        is_there.then(|| full.to_owned())
    }

    fn name(&mut self, name: &mut String, rows: &Rows) {
        if let Some(full) = self.full(name, rows) {
            *name = full;
            self.replaced += 1;
        }
    }

    /// Replaces the names in an expression; `bound` are the parameters of the lambdas around it.
    fn expr(&mut self, expr: &mut Expr, rows: &Rows, bound: &[String]) {
        // Chains of `or` may be thousands long, so it recurses in lambdas only.
        let mut waiting = vec![expr];
        while let Some(expr) = waiting.pop() {
            match &mut expr.kind {
                ExprKind::Field(name) if !bound.contains(name) => self.name(name, rows),
                ExprKind::InQuery { query, .. } => {
                    self.query(query);
                }
                ExprKind::Lambda { parameters, body } => {
                    let names = parameters.iter().map(|parameter| parameter.text.clone());
                    let bound: Vec<String> = bound.iter().cloned().chain(names).collect();
                    self.expr(body, rows, &bound);
                    continue;
                }
                _ => {}
            }
            waiting.extend(expr.children_mut());
        }
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

    #[test]
    fn short_names_are_read_command_by_command() {
        for (text, expected) in [
            // The names that a command makes do not exist before it, nor in its own expressions.
            (
                "status = 'FAILURE' | group status = count()",
                "event.network.connectionStatus = 'FAILURE' | group status = count()",
            ),
            (
                "| group sent = sum(sent), received = sum(received) by process | sort sent, process, user",
                "| group sent = sum(event.network.bytesSent), received = sum(event.network.bytesReceived) by src.process.name \
                 | sort sent, src.process.name, user",
            ),
            (
                "| let process = lower(process), x = process | filter process = 'a'",
                "| let process = lower(src.process.name), x = process | filter process = 'a'",
            ),
            ("| columns pid = 1 | sort pid", "| columns pid = 1 | sort pid"),
            ("| columns pid, user = 'a' | sort pid", "| columns src.process.pid, user = 'a' | sort src.process.pid"),
            // Names that commands read without an expression.
            ("| dedup process, dst.ip", "| dedup src.process.name, dst.ip.address"),
            (
                "| group n = count() by direction, process | transpose direction on process | sort process",
                "| group n = count() by event.network.direction, src.process.name | transpose event.network.direction on \
                 src.process.name | sort src.process.name",
            ),
            (
                "| group n = count() by process, direction | transpose direction | sort process",
                "| group n = count() by src.process.name, event.network.direction | transpose event.network.direction | sort \
                 src.process.name",
            ),
            (
                "| join (status = 'FAILURE' | columns process), b = (| columns process, pid) on process | sort b.pid",
                "| join (event.network.connectionStatus = 'FAILURE' | columns src.process.name), b = (| columns \
                 src.process.name, src.process.pid) on src.process.name | sort b.src.process.pid",
            ),
            (
                "| join x = (| columns process), y = (| columns process = 1) on x.process = y.process",
                "| join x = (| columns src.process.name), y = (| columns process = 1) on x.src.process.name = y.process",
            ),
            (
                "| join (| columns process), (| columns process = 1) on process",
                "| join (| columns src.process.name), (| columns process = 1) on process",
            ),
            (
                "pid in (user = 'a' | columns pid) | union (| columns pid = 1) | sort pid, user",
                "src.process.pid in (src.process.user = 'a' | columns src.process.pid) | union (| columns pid = 1) | sort pid, \
                 src.process.user",
            ),
            // A table has columns of its own.
            ("| dataset 'x' | sort user", "| dataset 'x' | sort user"),
            (
                "| let x = array(1).map(func(pid) -> pid + 1), y = pid",
                "| let x = map(array(1), func(pid) -> pid + 1), y = src.process.pid",
            ),
        ] {
            let mut query = parse(text).query.unwrap();
            expand(&mut query, |_| false);
            assert!(query.same_as(&parse(expected).query.unwrap()), "{text}\n{}", printer::line(&query));
        }
    }
}
