//! Turns a query into a plan of DataFusion.

mod planning;
mod physical;
mod rows;
mod operand;
mod compare;
mod pattern;
mod member;
mod scope;
mod call;
mod lambda;
mod fold;
mod aggregate;
mod running;
mod sequence;
mod group;
mod expand;
mod parse;
mod subquery;
mod combine;
mod pivot;
mod shift;
mod table;
mod lookup;
mod opaque;

use std::{ops::Range, path::PathBuf, sync::Arc};

use datafusion::{
    datasource::provider_as_source,
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator, SortExpr, lit},
};
use futures::{FutureExt, future::BoxFuture};
use netconn_model::field::Field;
use netconn_query::{
    ast::{self, Command, CommandKind, Query, Span},
    value::ValueKind,
};
pub(crate) use opaque::{HideWideColumns, filters_opaque};
use operand::{Operand, binary};
pub(crate) use physical::physical_plan;
pub(crate) use planning::Planning;
pub use planning::Warning;
pub(crate) use rows::{HIDDEN, column as rows_column};
use rows::{Key, RowOrder, Rows, ShownRows, column};
use scope::Scope;
pub(crate) use shift::reach;

use super::{
    error::{Result, SearchError},
    source::{shape::UNPARSED, table::EventTable},
};
use crate::engine::function::geography::Database;

/// Largest number of commands: DataFusion walks plans recursively.
const COMMANDS: usize = 200;

/// Settings that planning needs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Number of rows that are shown if the query does not say it; `None` for all.
    pub(crate) max_rows: Option<u64>,
    /// Folder of the tables of `lookup`, `dataset` and `savelookup`.
    pub(crate) tables: Option<PathBuf>,
    /// The table of indicators.
    pub(crate) indicators: Option<PathBuf>,
    /// Database of places.
    pub(crate) database: Option<Database>,
    /// Memory that a query may use, bytes.
    pub(crate) memory: usize,
}

/// Plans one query.
pub(crate) struct Planner {
    /// The events.
    pub(crate) events: Arc<EventTable>,
    /// Session of DataFusion.
    pub(crate) state: Arc<SessionState>,
    /// Settings of the search.
    pub(crate) settings: Arc<Settings>,
    /// Searched time, epoch milliseconds; `None` for all.
    pub(crate) range: Option<Range<i64>>,
    /// Searched time for functions that ask for it: without a range, from the first event to the last, if one asks.
    pub(crate) time: Option<Range<i64>>,
    /// Nanoseconds since 1970 when the search began.
    pub(crate) now: i64,
    /// Whether the plan is only shown: nothing is written then.
    pub(crate) dry: bool,
    /// Names of hidden columns, and warnings.
    pub(crate) planning: Arc<Planning>,
}

/// The finished plan of a query.
pub(crate) struct Planned {
    /// Plan of the rows in their order.
    pub(crate) plan: LogicalPlan,
    /// Number of rows that are shown because the query does not say how many it wants. The plan gives one more, if there
    /// are more. `None`: all rows of the plan are shown.
    pub(crate) cut_at: Option<u64>,
}

impl Planner {
    /// Plans a query with its order, number of rows, and columns.
    pub(crate) async fn plan(&self, query: &Query) -> Result<Planned> {
        // The order is applied last, because no step in between keeps one.
        let rows = self.query(query).await?;
        let cut_at = self.settings.max_rows.filter(|_| rows.shown == ShownRows::Default);
        let rows = newest_first(rows);
        // All rows are shown and no order was asked for, so a sort would be wasted.
        let rows = match rows.shown == ShownRows::All && !rows.is_sorted() {
            true => rows,
            // One more row than is shown tells that there are more.
            false => rows.sorted(cut_at.map(|rows| rows.saturating_add(1)))?,
        };
        // Hidden columns go only now: the sort below may use them.
        Ok(Planned { plan: rows.visible()?, cut_at })
    }

    /// Plans the rows of a query or a subquery.
    pub(crate) fn query<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Rows>> {
        async move {
            // Counted for each query by itself: subqueries have a limit of their own.
            if let Some(command) = query.commands.get(COMMANDS) {
                let message = format!("a query has at most {COMMANDS} commands: save what it makes with savelookup");
                return Err(SearchError::query(message, command.span));
            }
            let mut rows = self.source()?;
            if let Some(filter) = &query.filter {
                rows = self.filter(rows, filter).await?;
            }
            for (place, command) in query.commands.iter().enumerate() {
                rows = self.command(rows, query, place, command).await?;
            }
            Ok(rows)
        }
        .boxed()
    }

    /// Returns the same planner for another time.
    fn at(&self, range: Range<i64>) -> Self {
        Self {
            events: Arc::clone(&self.events),
            state: Arc::clone(&self.state),
            settings: Arc::clone(&self.settings),
            // `querystart()` and the like in the shifted query speak of the shifted time.
            time: Some(range.clone()),
            range: Some(range),
            now: self.now,
            dry: self.dry,
            planning: Arc::clone(&self.planning),
        }
    }

    /// Plans the events of the searched time.
    fn source(&self) -> Result<Rows> {
        let table = provider_as_source(Arc::<EventTable>::clone(&self.events));
        let mut plan = LogicalPlanBuilder::scan("events", table, None)?;
        // Files and row groups are skipped by these conditions, but what is left in them has to be filtered all the
        // same.
        let mut conditions = Vec::new();
        if let Some(range) = &self.range {
            let time = column(Field::EventTime.info().name);
            conditions.push(binary(time.clone(), Operator::GtEq, lit(range.start)));
            conditions.push(binary(time, Operator::Lt, lit(range.end)));
        }
        // Lines that are no JSON are rows only for a query that names their column.
        if self.events.has_unparsed() && !self.events.wants_unparsed() {
            conditions.push(Expr::IsNull(Box::new(column(UNPARSED))));
        }
        if !conditions.is_empty() {
            plan = plan.filter(operand::joined(conditions, Operator::And, true))?;
        }
        Ok(Rows { events: true, ..Rows::of(plan.build()?, self.events.shown()) })
    }

    async fn filter(&self, rows: Rows, filter: &ast::Expr) -> Result<Rows> {
        // Subqueries first, because planning needs their values; then functions over rows, which become columns.
        let filter = self.resolve(filter).await?;
        let (rows, filter) = running::replace_calls(self, rows, &filter)?;
        let condition = Scope::new(self, &rows).condition(&filter)?;
        rows.filter(condition)
    }

    async fn command(&self, rows: Rows, query: &Query, place: usize, command: &Command) -> Result<Rows> {
        match &command.kind {
            CommandKind::Filter(filter) => self.filter(rows, filter).await,
            CommandKind::Columns(columns) => self.columns(rows, columns).await,
            CommandKind::Let(columns) => {
                let mut rows = rows;
                for column in columns {
                    let expr = self.resolve(&column.expr).await?;
                    let replaced;
                    (rows, replaced) = running::replace_calls(self, rows, &expr)?;
                    let replaced = expand::replace_calls(self, &mut rows, replaced)?;
                    let value = Scope::new(self, &rows).value(&replaced)?;
                    let unit = value.unit;
                    // One projection for each column: a later one may use it.
                    rows = rows.extend(vec![(column.label.clone(), column_value(value))], &self.planning)?;
                    rows.units.insert(column.label.clone(), unit);
                }
                Ok(rows)
            }
            CommandKind::Group { aggregates, by } => {
                let (aggregates, by) = (self.resolve_all(aggregates).await?, self.resolve_all(by).await?);
                group::group(self, &rows, &aggregates, &by)
            }
            CommandKind::Top { count, aggregates, by } => {
                let (aggregates, by) = (self.resolve_all(aggregates).await?, self.resolve_all(by).await?);
                group::top(self, &rows, *count, &aggregates, &by)
            }
            CommandKind::Sort(keys) => self.sort(rows, keys).await,
            CommandKind::Limit(count) => {
                // "The first rows" has to mean something, so unordered events get their order here.
                let mut rows = newest_first(rows).sorted(Some(*count))?;
                if rows.shown == ShownRows::Default {
                    rows.shown = ShownRows::Decided;
                }
                Ok(rows)
            }
            CommandKind::NoLimit => Ok(Rows { shown: ShownRows::All, ..rows }),
            CommandKind::Dedup(names) => group::dedup(self, rows, names),
            CommandKind::Sequence { by, within, within_span, steps } => {
                sequence::sequence(self, rows, by, (within, *within_span), steps).await
            }
            CommandKind::Parse { pattern, pattern_span, from } => {
                parse::parse(self, &rows, pattern, *pattern_span, from.as_ref())
            }
            CommandKind::Lookup { columns, table, by } => lookup::lookup(self, &rows, columns, table, by),
            CommandKind::Dataset(name) => table::dataset(self, name),
            CommandKind::SaveLookup { table, merge } => table::save(self, rows, table, *merge).await,
            CommandKind::Join { kind, all, sides, on } => {
                // At the very beginning the rows are all events, which nobody has asked for as a side.
                let first = (place > 0 || query.filter.is_some()).then_some(rows);
                combine::join(self, first, *kind, *all, sides, on, command.span).await
            }
            CommandKind::Union(queries) => {
                let first = (place > 0 || query.filter.is_some()).then_some(rows);
                combine::union(self, first, queries).await
            }
            CommandKind::Transpose { column, keys, totals, limit } => {
                pivot::transpose(self, rows, column, keys, *totals, *limit).await
            }
            CommandKind::Compare { name, shift, shift_span } => {
                shift::compare(self, rows, query, place, name, shift, *shift_span).await
            }
        }
    }

    async fn columns(&self, rows: Rows, columns: &[ast::Column]) -> Result<Rows> {
        let mut rows = rows;
        let mut all: Vec<(String, Expr)> = Vec::new();
        let mut units = Vec::new();
        for column in columns {
            let expr = self.resolve(&column.expr).await?;
            let replaced;
            (rows, replaced) = running::replace_calls(self, rows, &expr)?;
            let replaced = expand::replace_calls(self, &mut rows, replaced)?;
            let value = Scope::new(self, &rows).value(&replaced)?;
            units.push((column.label.clone(), value.unit));
            let value = column_value(value);
            match all.iter_mut().find(|(name, _)| *name == column.label) {
                // The last of two columns of one name wins, at the place of the first.
                Some((_, old)) => *old = value,
                None => all.push((column.label.clone(), value)),
            }
        }
        // Events keep their order when their time is no longer among the columns.
        if rows.order == RowOrder::None && rows.shown == ShownRows::Default {
            rows = newest_first(rows);
            rows.order = rows.order.into_default();
        }
        rows = rows.project(all, &self.planning)?;
        rows.units.extend(units);
        rows.events = false;
        Ok(rows)
    }

    async fn sort(&self, rows: Rows, keys: &[ast::SortKey]) -> Result<Rows> {
        let mut order = Vec::with_capacity(keys.len());
        let mut made = Vec::new();
        let mut rows = rows;
        for key in keys {
            let expr = self.resolve(&key.expr).await?;
            let replaced;
            (rows, replaced) = running::replace_calls(self, rows, &expr)?;
            let value = Scope::new(self, &rows).value(&replaced)?;
            let name = match &value.expr {
                // A plain column needs no copy.
                Expr::Column(column) => column.name.clone(),
                // What is missing in every row orders nothing.
                _ if value.kind == ValueKind::Null => continue,
                _ => {
                    let name = self.planning.hidden();
                    made.push((name.clone(), value.expr));
                    name
                }
            };
            order.push(Key { column: name, descending: key.descending });
        }
        if !made.is_empty() {
            rows = rows.add_hidden(made)?;
        }
        // Rows with equal new keys keep the order that they had.
        let mut rows = newest_first(rows);
        for key in rows.order.into_keys() {
            // A repeated key has no effect, and DataFusion relies on there being none.
            if order.iter().all(|new| new.column != key.column) {
                order.push(key);
            }
        }
        rows.order = RowOrder::asked(order);
        // `nolimit | sort` asks for an order, so the sort is not left out.
        if rows.shown == ShownRows::All {
            rows.shown = ShownRows::Decided;
        }
        Ok(rows)
    }

    /// Adds a warning.
    pub(crate) fn warn(&self, message: String, span: Option<Span>) {
        self.warn_with(message, span, None);
    }

    /// Adds a warning with a suggestion.
    pub(crate) fn warn_with(&self, message: String, span: Option<Span>, suggestion: Option<String>) {
        self.planning.warn(Warning { message, span, suggestion });
    }
}

/// Returns the expression of a column; a value that is always missing becomes a text.
fn column_value(value: Operand) -> Expr {
    match value.kind {
        ValueKind::Null => value.text(),
        _ => value.expr,
    }
}

/// Orders events that have no order by time, the newest first; unless `nolimit` asks for all of them.
fn newest_first(mut rows: Rows) -> Rows {
    if rows.order == RowOrder::None && rows.events && rows.shown != ShownRows::All {
        let times = [Field::EventTime, Field::Timestamp].iter().filter_map(|field| rows.resolve(field.info().name));
        rows.order = RowOrder::asked(times.map(|column| Key { column, descending: true }).collect());
    }
    rows
}

/// Returns the order that `first` and `running_…` go by: the asked one, else by time, the oldest first.
fn following_order(rows: &Rows) -> Vec<SortExpr> {
    let order = rows.following();
    if !order.is_empty() {
        return order;
    }
    [Field::EventTime, Field::Timestamp]
        .iter()
        .filter_map(|field| rows.resolve(field.info().name))
        .map(|name| column(&name).sort(true, false))
        .collect()
}
