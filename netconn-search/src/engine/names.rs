//! Finds what a query uses: names that may be fields, and the searched time.

use std::collections::BTreeSet;

use netconn_query::{
    ast::{CommandKind, Expr, ExprKind, JoinSide, Name, Query},
    catalogue::PlainId,
    duration::{self, Bucket, BucketArguments},
    facts::{ColumnsAfter, MadeColumn, SEQUENCE_DURATION, SEQUENCE_ENDS},
};

/// The names that a query uses, its subqueries included.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Names that may be fields.
    pub(crate) used: BTreeSet<String>,
    /// Names of columns that the query makes.
    made: BTreeSet<String>,
    /// Whether it makes columns that only the data decide.
    open: bool,
    /// Whether it has sequences.
    has_ends: bool,
    /// Whether a function in it depends on the searched time.
    pub(crate) asks_for_time: bool,
}

impl Names {
    /// Returns the names of a query.
    pub(crate) fn of(query: &Query) -> Self {
        let mut names = Self::default();
        names.add(query);
        if names.has_ends {
            // `first.x` of a sequence is the x of its first event.
            let used: Vec<String> = names.used.iter().filter_map(|name| of_end(name)).map(str::to_owned).collect();
            names.used.extend(used);
        }
        names
    }

    /// Returns the names that can only be fields, which are worth a read of the files if the index has none of them.
    pub(crate) fn rare(&self) -> BTreeSet<String> {
        // `a.x` of a join is a column of side `a`, so looking for it in the files would read them all for nothing.
        let side = |name: &str| name.split_once('.').is_some_and(|(alias, _)| self.made.contains(alias));
        // After `transpose` or `dataset` every unknown name may be a column, and none is worth a read.
        let rare = self.used.difference(&self.made).filter(|name| !self.open && !side(name));
        rare.cloned().collect()
    }

    fn add(&mut self, query: &Query) {
        query.expressions().into_iter().for_each(|expr| self.expr(expr));
        for command in &query.commands {
            let facts = command.kind.facts();
            self.used.extend(facts.reads.into_iter().map(text));
            if let CommandKind::Join { .. } = command.kind {
                // Sides without a name are called a, b, c.
                // One letter more than queries: the rows before the command may be a side as well.
                self.made.extend((0..=facts.queries.len()).map(JoinSide::letters));
            }
            self.made.extend(facts.aliases.into_iter().map(text));
            facts.queries.into_iter().for_each(|query| self.add(query));
            match facts.columns {
                // The columns of its queries were added with the queries.
                ColumnsAfter::Kept | ColumnsAfter::OfQueries => {}
                ColumnsAfter::Added(columns) | ColumnsAfter::Only(columns) | ColumnsAfter::Grouped(columns) => {
                    // `columns x` makes no new name: `x` may still be a field that only the files know.
                    self.made.extend(columns.into_iter().filter(is_new).map(|column| column.name.into_owned()));
                }
                ColumnsAfter::Partly(_) => self.open = true,
                ColumnsAfter::Compared(name) => {
                    self.made.insert(text(name));
                }
                ColumnsAfter::Sequence(keys) => {
                    self.made.extend(keys.into_iter().filter(is_new).map(|column| column.name.into_owned()));
                    self.made.extend(SEQUENCE_ENDS.map(str::to_owned));
                    self.made.insert(SEQUENCE_DURATION.to_owned());
                    self.has_ends = true;
                }
            }
        }
    }

    fn expr(&mut self, value: &Expr) {
        match &value.kind {
            ExprKind::Field(name) => {
                self.used.insert(name.clone());
            }
            ExprKind::InQuery { query, .. } => self.add(query),
            ExprKind::Call { name, arguments, .. } => self.asks_for_time |= asks_for_time(name, arguments),
            ExprKind::Lambda { parameters, .. } => self.made.extend(parameters.iter().map(text)),
            _ => {}
        }
        value.children().into_iter().for_each(|child| self.expr(child));
    }
}

/// Returns the x of `first.x` and `last.x`.
fn of_end(name: &str) -> Option<&str> {
    SEQUENCE_ENDS.iter().find_map(|end| name.strip_prefix(end)?.strip_prefix('.'))
}

/// Whether a column is more than a field with its own name.
fn is_new(column: &MadeColumn<'_>) -> bool {
    !matches!(column.expr, Some(Expr { kind: ExprKind::Field(name), .. }) if *name == column.name)
}

fn text(name: &Name) -> String {
    name.text.clone()
}

/// Whether the value of a function depends on the searched time.
fn asks_for_time(name: &str, arguments: &[Expr]) -> bool {
    match PlainId::by_name(name) {
        Some(PlainId::Querystart | PlainId::Queryend | PlainId::Queryspan) => true,
        Some(PlainId::Timebucket) => match BucketArguments::of(arguments).width.map(|width| &width.kind) {
            // A width that is written out needs no searched time; `auto` and a number of buckets do.
            Some(ExprKind::Text(width)) => !matches!(duration::bucket(width), Some(Bucket::Every(_))),
            // In doubt the time is asked for: that costs a query for the first and the last event, while lacking it is
            // an error.
            _ => true,
        },
        _ => false,
    }
}
