//! What a query uses: names, which may be fields that are rare in the files, and the time that is searched.

use std::collections::BTreeSet;

use netconn_query::{
    ast::{Column, CommandKind, Expr, ExprKind, Name, Query},
    duration::{self, Bucket},
    pattern::{self, Piece},
};

/// What a query uses, with those within it.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// All that may be fields.
    pub(crate) used: BTreeSet<String>,
    /// Those that the query makes itself.
    made: BTreeSet<String>,
    /// It makes others, which only the data know.
    open: bool,
    /// Some function of it depends on the time that is searched.
    pub(crate) asks_for_time: bool,
}

impl Names {
    /// Those of a query.
    pub(crate) fn of(query: &Query) -> Self {
        let mut names = Self::default();
        names.add(query);
        names
    }

    /// Those that can only be fields: worth reading for, if no file is known to have them.
    pub(crate) fn rare(&self) -> BTreeSet<String> {
        let side = |name: &str| name.split_once('.').is_some_and(|(alias, _)| self.made.contains(alias));
        let rare = self.used.difference(&self.made).filter(|name| !self.open && !side(name));
        rare.cloned().collect()
    }

    fn add(&mut self, query: &Query) {
        if let Some(filter) = &query.filter {
            self.expr(filter);
        }
        for command in &query.commands {
            match &command.kind {
                CommandKind::Filter(filter) => self.expr(filter),
                CommandKind::Columns(list) | CommandKind::Let(list) => self.columns(list),
                CommandKind::Group { aggregates, by } | CommandKind::Top { count: _, aggregates, by } => {
                    self.columns(aggregates);
                    self.columns(by);
                    self.made.insert("count".to_owned());
                }
                CommandKind::Sort(keys) => keys.iter().for_each(|key| self.expr(&key.expr)),
                CommandKind::Parse { pattern, pattern_span: _, from } => {
                    from.iter().for_each(|from| self.expr(from));
                    for piece in pattern::pieces(pattern).unwrap_or_default() {
                        if let Piece::Column { name, .. } = piece {
                            self.made.insert(name);
                        }
                    }
                }
                CommandKind::Lookup { columns, table: _, by } => {
                    by.iter().for_each(|key| self.expr(&key.expr));
                    self.made.extend(columns.iter().map(|column| text(&column.name)));
                }
                CommandKind::Join { kind: _, all: _, sides, on } => {
                    // Sides without a name are called a, b, c.
                    self.made.extend((b'a'..=b'z').take(sides.len() + 1).map(|letter| char::from(letter).to_string()));
                    for side in sides {
                        self.made.extend(side.alias.iter().map(text));
                        self.add(&side.query);
                    }
                    for key in on {
                        self.used.extend(std::iter::once(&key.left).chain(&key.right).map(text));
                    }
                }
                CommandKind::Union(queries) => queries.iter().for_each(|query| self.add(query)),
                CommandKind::Transpose { column, keys, limit: _ } => {
                    self.used.extend(keys.iter().chain([column]).map(text));
                    self.open = true;
                }
                CommandKind::Dedup(list) => self.used.extend(list.iter().map(text)),
                CommandKind::Dataset(_) => self.open = true,
                CommandKind::Compare { name, shift: _, shift_span: _ } => {
                    self.made.insert(text(name));
                }
                CommandKind::Limit(_) | CommandKind::NoLimit | CommandKind::SaveLookup { .. } => {}
            }
        }
    }

    fn columns(&mut self, columns: &[Column]) {
        for column in columns {
            self.expr(&column.expr);
            // A field alone is called by its own name.
            if !matches!(&column.expr.kind, ExprKind::Field(name) if *name == column.label) {
                self.made.insert(column.label.clone());
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
            ExprKind::Lambda { parameter, .. } => {
                self.made.insert(text(parameter));
            }
            _ => {}
        }
        value.children().into_iter().for_each(|child| self.expr(child));
    }
}

fn text(name: &Name) -> String {
    name.text.clone()
}

/// Whether what a function gives depends on the time that is searched.
fn asks_for_time(name: &str, arguments: &[Expr]) -> bool {
    match name {
        "querystart" | "queryend" | "queryspan" => true,
        "timebucket" => match arguments.last().map(|width| &width.kind) {
            Some(ExprKind::Text(width)) => !matches!(duration::bucket(width), Some(Bucket::Every(_))),
            _ => true,
        },
        _ => false,
    }
}
