//! What each command does to rows: its expressions, the columns that it reads and makes, its queries, and whether it works
//! row by row. The checker, the planner, the output and `--follow` ask here, so that a new command answers once.

use std::borrow::Cow;

use netconn_model::field::Field;

use crate::{
    ast::{Column, CommandKind, Expr, JoinSide, Name, Query, Span},
    pattern,
};

/// Where an expression of a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides whether a row stays.
    Condition,
    /// It is a value of each row.
    Row,
    /// It is a value of a group.
    Aggregate,
    /// It is a key of a group.
    Key,
}

/// A column that a command makes.
#[derive(Clone, Debug, PartialEq)]
pub struct MadeColumn<'a> {
    /// Name of the column.
    pub name: Cow<'a, str>,
    /// Where its value comes from.
    pub role: Role,
    /// The expression of its value; `None` if a table, a pattern or the command itself gives the value.
    pub expr: Option<&'a Expr>,
}

/// The columns of the rows behind a command.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnsAfter<'a> {
    /// Those before it.
    Kept,
    /// Those before it, and these.
    Added(Vec<MadeColumn<'a>>),
    /// These only, row by row.
    Only(Vec<MadeColumn<'a>>),
    /// These only, for each group.
    Grouped(Vec<MadeColumn<'a>>),
    /// These, and others that only the data decide.
    Partly(Vec<&'a Name>),
    /// Those before it, and others with this name or names that begin with it and a dot.
    Compared(&'a Name),
    /// Those of its queries.
    OfQueries,
    /// These keys, and the columns before it twice, with the names of [`SEQUENCE_ENDS`] and a dot in front.
    Sequence(Vec<MadeColumn<'a>>),
}

/// What the columns of the first and the last event of a sequence have in front of their names.
pub const SEQUENCE_ENDS: [&str; 2] = ["first", "last"];

/// The column with the time from the first event of a sequence to the last, milliseconds.
pub const SEQUENCE_DURATION: &str = "durationMs";

/// The fields of the first and the last event that are shown of a sequence, if the rows before it have them.
pub const SEQUENCE_SHOWN: [Field; 2] = [Field::EventTime, Field::EventId];

/// Returns the columns that are shown of a sequence besides its keys, in their order, each with its field and the end that it is of.
/// `None`: it is [`SEQUENCE_DURATION`].
pub fn sequence_columns() -> impl Iterator<Item = (String, Option<(Field, usize)>)> {
    let of = |field: Field| {
        SEQUENCE_ENDS
            .iter()
            .enumerate()
            .map(move |(end, name)| (format!("{name}.{}", field.info().name), Some((field, end))))
    };
    let [time, id] = SEQUENCE_SHOWN;
    of(time).chain([(SEQUENCE_DURATION.to_owned(), None)]).chain(of(id))
}

/// What a command does to rows.
#[derive(Clone, Debug)]
pub struct CommandFacts<'a> {
    /// Name of the command, as in the catalogue.
    pub name: &'static str,
    /// Its expressions in the order of the text; those of its queries are not among them.
    pub expressions: Vec<(Role, &'a Expr)>,
    /// Columns that it reads by name alone.
    pub reads: Vec<&'a Name>,
    /// Other names of its queries, `a` in `join a = (…)`.
    pub aliases: Vec<&'a Name>,
    /// Its queries.
    pub queries: Vec<&'a Query>,
    /// The columns behind it.
    pub columns: ColumnsAfter<'a>,
    /// Whether it handles each row without looking at others.
    pub is_row_by_row: bool,
}

impl<'a> CommandFacts<'a> {
    fn of(name: &'static str) -> Self {
        Self {
            name,
            expressions: Vec::new(),
            reads: Vec::new(),
            aliases: Vec::new(),
            queries: Vec::new(),
            columns: ColumnsAfter::Kept,
            is_row_by_row: false,
        }
    }

    fn row_by_row(self) -> Self {
        Self { is_row_by_row: true, ..self }
    }

    fn with(self, role: Role, expressions: impl IntoIterator<Item = &'a Expr>) -> Self {
        let mut all = self.expressions;
        all.extend(expressions.into_iter().map(|expr| (role, expr)));
        Self { expressions: all, ..self }
    }

    fn reading(self, names: impl IntoIterator<Item = &'a Name>) -> Self {
        Self { reads: names.into_iter().collect(), ..self }
    }

    fn then(self, columns: ColumnsAfter<'a>) -> Self {
        Self { columns, ..self }
    }

    /// A group: expressions and columns of `group` and `top`.
    fn grouped(self, aggregates: &'a [Column], by: &'a [Column]) -> Self {
        let columns = made(Role::Key, by).chain(made(Role::Aggregate, aggregates)).collect();
        let expr = |column: &'a Column| &column.expr;
        let facts = self.with(Role::Aggregate, aggregates.iter().map(expr)).with(Role::Key, by.iter().map(expr));
        facts.then(ColumnsAfter::Grouped(columns))
    }
}

fn made(role: Role, columns: &[Column]) -> impl Iterator<Item = MadeColumn<'_>> {
    columns.iter().map(move |column| MadeColumn { name: Cow::Borrowed(&column.label), role, expr: Some(&column.expr) })
}

/// A column whose value no expression of the query gives.
fn given(name: Cow<'_, str>) -> MadeColumn<'_> {
    MadeColumn { name, role: Role::Row, expr: None }
}

impl JoinSide {
    /// Returns the alias of a side without one, by its place: a, b, …, z, aa, ab, …
    pub fn letters(place: usize) -> String {
        let letter = char::from(b'a' + u8::try_from(place % 26).unwrap_or(0));
        let before = (place / 26).checked_sub(1).map_or_else(String::new, Self::letters);
        format!("{before}{letter}")
    }
}

impl CommandKind {
    /// Returns what the command does to rows.
    pub fn facts(&self) -> CommandFacts<'_> {
        let of = CommandFacts::of;
        // No `..` in the patterns below: a new part of a command then does not compile until somebody decides about it
        // here.
        match self {
            Self::Filter(condition) => of("filter").row_by_row().with(Role::Condition, [condition]),
            Self::Columns(columns) => of("columns")
                .row_by_row()
                .with(Role::Row, columns.iter().map(|column| &column.expr))
                .then(ColumnsAfter::Only(made(Role::Row, columns).collect())),
            Self::Let(columns) => of("let")
                .row_by_row()
                .with(Role::Row, columns.iter().map(|column| &column.expr))
                .then(ColumnsAfter::Added(made(Role::Row, columns).collect())),
            Self::Group { aggregates, by } => of("group").grouped(aggregates, by),
            Self::Sort(keys) => of("sort").with(Role::Row, keys.iter().map(|key| &key.expr)),
            Self::Limit(_) => of("limit"),
            Self::NoLimit => of("nolimit").row_by_row(),
            Self::Parse { pattern, pattern_span: _, from } => {
                // The parser has refused a pattern that cannot be read.
                // Columns are known from the pattern alone, without a row.
                let pieces = pattern::pieces(pattern).unwrap_or_default();
                let columns = pattern::columns(&pieces).map(|name| given(Cow::Owned(name.to_owned()))).collect();
                of("parse").row_by_row().with(Role::Row, from).then(ColumnsAfter::Added(columns))
            }
            Self::Lookup { columns, table: _, by } => {
                let columns = columns.iter().map(|column| given(Cow::Borrowed(&column.name.text))).collect();
                of("lookup")
                    .row_by_row()
                    .with(Role::Row, by.iter().map(|key| &key.expr))
                    .then(ColumnsAfter::Added(columns))
            }
            Self::Dataset(_) => of("dataset").then(ColumnsAfter::Partly(Vec::new())),
            Self::SaveLookup { table: _, merge: _ } => of("savelookup"),
            Self::Join { kind: _, all: _, sides, on } => CommandFacts {
                reads: on.iter().flat_map(|key| std::iter::once(&key.left).chain(&key.right)).collect(),
                aliases: sides.iter().filter_map(|side| side.alias.as_ref()).collect(),
                queries: sides.iter().map(|side| &side.query).collect(),
                ..of("join").then(ColumnsAfter::OfQueries)
            },
            Self::Union(queries) => {
                CommandFacts { queries: queries.iter().collect(), ..of("union").then(ColumnsAfter::OfQueries) }
            }
            Self::Transpose { column, keys, totals: _, limit: _ } => {
                of("transpose").reading(keys.iter().chain([column])).then(ColumnsAfter::Partly(keys.iter().collect()))
            }
            Self::Top { count: _, aggregates, by } => {
                let mut facts = of("top").grouped(aggregates, by);
                // `top 10 by x` counts, although no expression of the query says so.
                if let (ColumnsAfter::Grouped(columns), []) = (&mut facts.columns, aggregates.as_slice()) {
                    columns.push(MadeColumn { role: Role::Aggregate, ..given(Cow::Borrowed("count")) });
                }
                facts
            }
            Self::Compare { name, shift: _, shift_span: _ } => of("compare").then(ColumnsAfter::Compared(name)),
            Self::Dedup(names) => of("dedup").reading(names),
            Self::Sequence { by, within: _, within_span: _, steps } => of("sequence")
                .with(Role::Key, by.iter().map(|key| &key.expr))
                .with(Role::Condition, steps)
                .then(ColumnsAfter::Sequence(made(Role::Key, by).collect())),
        }
    }

    /// Returns the parts that have places in the text, to be changed.
    pub(crate) fn parts_mut(&mut self) -> PartsMut<'_> {
        let mut parts = PartsMut::default();
        match self {
            // Every field with a `span` has to be listed: `Query::same_as` compares trees with their places taken out.
            Self::Filter(expr) => parts.expressions.push(expr),
            Self::Columns(columns) | Self::Let(columns) => parts.columns.extend(columns),
            Self::Group { aggregates, by } | Self::Top { count: _, aggregates, by } => {
                parts.columns.extend(aggregates.iter_mut().chain(by));
            }
            Self::Sort(keys) => parts.expressions.extend(keys.iter_mut().map(|key| &mut key.expr)),
            Self::Limit(_) | Self::NoLimit => {}
            Self::Parse { pattern: _, pattern_span, from } => {
                parts.spans.push(pattern_span);
                parts.expressions.extend(from);
            }
            Self::Lookup { columns, table, by } => {
                for column in columns {
                    parts.spans.extend([&mut column.name.span, &mut column.source.span]);
                }
                parts.spans.push(&mut table.span);
                for key in by {
                    parts.spans.push(&mut key.column.span);
                    parts.expressions.push(&mut key.expr);
                }
            }
            Self::Dataset(table) | Self::SaveLookup { table, merge: _ } => parts.spans.push(&mut table.span),
            Self::Join { kind: _, all: _, sides, on } => {
                for side in sides {
                    parts.spans.extend(side.alias.iter_mut().map(|alias| &mut alias.span));
                    parts.queries.push(&mut side.query);
                }
                parts.reads.extend(on.iter_mut().flat_map(|key| std::iter::once(&mut key.left).chain(&mut key.right)));
            }
            Self::Union(queries) => parts.queries.extend(queries),
            Self::Transpose { column, keys, totals: _, limit: _ } => {
                parts.reads.extend(std::iter::once(column).chain(keys));
            }
            Self::Compare { name, shift: _, shift_span } => parts.spans.extend([&mut name.span, shift_span]),
            Self::Dedup(names) => parts.reads.extend(names),
            Self::Sequence { by, within: _, within_span, steps } => {
                parts.columns.extend(by);
                parts.spans.push(within_span);
                parts.expressions.extend(steps);
            }
        }
        parts
    }
}

/// The parts of a command that have places in the text.
#[derive(Default)]
pub(crate) struct PartsMut<'a> {
    /// Places that are in none of the other parts.
    pub(crate) spans: Vec<&'a mut Span>,
    /// Columns that the command reads by name alone.
    pub(crate) reads: Vec<&'a mut Name>,
    pub(crate) expressions: Vec<&'a mut Expr>,
    pub(crate) columns: Vec<&'a mut Column>,
    pub(crate) queries: Vec<&'a mut Query>,
}
