//! The rows between two commands: the plan that makes them, their columns, their order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::{
    arrow::datatypes::Schema,
    common::{
        Column,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        Expr, LogicalPlan, LogicalPlanBuilder, Operator, Sort, SortExpr, expr_rewriter::normalize_sorts,
        utils::split_conjunction_owned,
    },
};
use netconn_query::value::{Unit, ValueKind};

use super::{opaque::opaque, operand::joined, planning::Planning};
use crate::engine::{error::Result, function::column::kind_of};

/// First character of hidden columns' names, which no query can write.
pub(crate) const HIDDEN: char = '\u{1}';

/// A key of an order. Missing values come last in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) column: String,
    pub(crate) descending: bool,
}

/// Cost of evaluating a condition, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    Number,
    Text,
    Pattern,
    Function,
}

/// The order of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// None in particular.
    None,
    /// One that nobody has asked for: events are shown newest first, although they follow each other oldest first.
    Default(Vec<Key>),
    /// By the first of these keys, then by the next.
    Asked(Vec<Key>),
}

/// How many of the rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShownRows {
    /// The first ones, as many as the search shows if the query says nothing.
    Default,
    /// Those that `limit`, `group` and the like have left.
    Decided,
    /// All, by `nolimit`; in no particular order unless a `sort` follows.
    All,
}

/// Rows, before they are made.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// Makes the rows; their order in it means nothing.
    pub(crate) plan: LogicalPlan,
    /// Names of the columns, in order: each is a column of the plan. The plan may have more.
    pub(crate) columns: Vec<String>,
    /// Their order. Its columns may be hidden ones: `distinct` and joins keep no order, so sorting comes last.
    pub(crate) order: RowOrder,
    /// Other names of columns: `a.x` of a join.
    pub(crate) aliases: BTreeMap<String, String>,
    /// What the values of columns stand for; columns that are not listed are told by their names.
    pub(crate) units: BTreeMap<String, Unit>,
    /// The keys of the group that they are.
    pub(crate) keys: Vec<String>,
    /// Whether they are still whole events: fields that no file seems to have can be named too.
    pub(crate) events: bool,
    /// How many are shown.
    pub(crate) shown: ShownRows,
}

impl RowOrder {
    /// Creates an order by these keys; none if there are no keys.
    pub(crate) fn asked(keys: Vec<Key>) -> Self {
        if keys.is_empty() { Self::None } else { Self::Asked(keys) }
    }

    /// Returns the keys, the most important first.
    pub(crate) fn keys(&self) -> &[Key] {
        match self {
            Self::None => &[],
            Self::Default(keys) | Self::Asked(keys) => keys,
        }
    }

    fn keys_mut(&mut self) -> &mut [Key] {
        match self {
            Self::None => &mut [],
            Self::Default(keys) | Self::Asked(keys) => keys,
        }
    }

    /// Returns the same keys as an order that nobody has asked for.
    pub(crate) fn into_default(self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Default(keys) | Self::Asked(keys) => Self::Default(keys),
        }
    }

    /// Takes the keys.
    pub(crate) fn into_keys(self) -> Vec<Key> {
        match self {
            Self::None => Vec::new(),
            Self::Default(keys) | Self::Asked(keys) => keys,
        }
    }
}

impl Key {
    /// Returns DataFusion's form of the key.
    pub(crate) fn sort(&self) -> SortExpr {
        column(&self.column).sort(!self.descending, false)
    }
}

/// Returns a column of the plan, whatever characters its name has.
pub(crate) fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Returns an order without repeated keys, which DataFusion relies on.
pub(crate) fn ordering(keys: impl IntoIterator<Item = SortExpr>) -> Vec<SortExpr> {
    let mut order: Vec<SortExpr> = Vec::new();
    for key in keys {
        if !order.iter().any(|known| known.expr == key.expr) {
            order.push(key);
        }
    }
    order
}

/// Adds a projection; two if new columns are made of old ones of the same name, as in `y = y + 1`. DataFusion merges
/// two consecutive projections with the same expressions into one (`merge_consecutive_projections_one_level` in its
/// optimize_projections); hidden names for the new columns make them differ.
fn projected(plan: LogicalPlan, expressions: Vec<Expr>, planning: &Planning) -> Result<LogicalPlan> {
    // Names of all new columns: an expression that reads one of them means the old column of that name.
    let made: BTreeSet<String> = expressions.iter().filter_map(alias).map(str::to_owned).collect();
    let is_made_of_them = |expr: &Expr| expr.column_refs().iter().any(|column| made.contains(&column.name));
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let mut all = Vec::with_capacity(expressions.len());
    for expr in expressions {
        match alias(&expr).map(str::to_owned) {
            Some(name) if !is_hidden(&name) && is_made_of_them(&expr) => {
                let own = planning.hidden();
                all.push(expr.unalias().alias(&own));
                shown.insert(own, name);
            }
            _ => all.push(expr),
        }
    }
    let plan = LogicalPlanBuilder::from(plan).project(all)?;
    if shown.is_empty() {
        return Ok(plan.build()?);
    }
    // The second projection gives the hidden columns the names that were asked for.
    let all: Vec<Expr> = plan
        .schema()
        .columns()
        .into_iter()
        .map(|old| match shown.get(&old.name) {
            Some(name) => Expr::Column(old).alias(name),
            None => Expr::Column(old),
        })
        .collect();
    Ok(plan.project(all)?.build()?)
}

/// Returns the name of a new column; `None` for one that stays as it is.
fn alias(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Alias(alias) => Some(&alias.name),
        _ => None,
    }
}

/// Whether a name is that of a hidden column.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.starts_with(HIDDEN)
}

impl Rows {
    /// Creates rows that are no events, in no order, from a plan.
    pub(crate) fn of(plan: LogicalPlan, columns: Vec<String>) -> Self {
        Self {
            plan,
            columns,
            order: RowOrder::None,
            aliases: BTreeMap::new(),
            units: BTreeMap::new(),
            keys: Vec::new(),
            events: false,
            shown: ShownRows::Default,
        }
    }

    /// Returns the column that a name means.
    pub(crate) fn resolve(&self, name: &str) -> Option<String> {
        // The planner itself writes hidden names into expressions, for what it has computed in advance.
        if self.columns.iter().any(|column| column == name) || is_hidden(name) {
            return Some(name.to_owned());
        }
        if let Some(column) = self.aliases.get(name) {
            return Some(column.clone());
        }
        // The plan of events has more columns than are shown: fields that a query names although no file is known to
        // have them.
        (self.events && self.schema().column_with_name(name).is_some()).then(|| name.to_owned())
    }

    /// Returns Arrow's schema of the plan.
    pub(crate) fn schema(&self) -> &Schema {
        self.plan.schema().as_arrow()
    }

    /// Returns the kind of a column of the plan.
    pub(crate) fn kind(&self, column: &str) -> ValueKind {
        self.schema().column_with_name(column).map_or(ValueKind::Null, |(_, field)| kind_of(field.data_type()))
    }

    /// Returns what the values of a column stand for.
    pub(crate) fn unit(&self, column: &str) -> Unit {
        self.units.get(column).copied().unwrap_or_else(|| Unit::of_field(column))
    }

    /// Returns what the values of an expression stand for, if it is a column.
    fn unit_of(&self, expr: &Expr) -> Unit {
        match expr {
            Expr::Column(column) => self.unit(&column.name),
            _ => Unit::None,
        }
    }

    /// Keeps the rows for which the condition is true. Its cheap parts come first, so that the others are evaluated for
    /// fewer rows.
    pub(crate) fn filter(mut self, condition: Expr) -> Result<Self> {
        let mut parts = split_conjunction_owned(condition);
        // Stable, so that parts of equal cost stay as the user has written them.
        parts.sort_by_cached_key(|part| self.cost(part));
        let condition = joined(parts, Operator::And, true);
        self.plan = LogicalPlanBuilder::from(self.plan).filter(condition)?.build()?;
        Ok(self)
    }

    /// Returns the cost of a condition.
    fn cost(&self, condition: &Expr) -> Cost {
        let mut cost = Cost::Number;
        // The closure never fails.
        let _ = condition.apply(|part| {
            // The dearest node decides: a sum would put long conditions over numbers behind short ones over texts.
            cost = cost.max(match part {
                Expr::Column(column) if self.kind(&column.name) == ValueKind::Text => Cost::Text,
                Expr::Like(_) => Cost::Pattern,
                Expr::ScalarFunction(_) | Expr::ScalarSubquery(_) | Expr::InSubquery(_) => Cost::Function,
                _ => Cost::Number,
            });
            Ok(TreeNodeRecursion::Continue)
        });
        cost
    }

    /// Replaces the columns. Columns that the order needs stay as hidden ones.
    pub(crate) fn project(mut self, columns: Vec<(String, Expr)>, planning: &Planning) -> Result<Self> {
        let mut all: Vec<(String, Expr)> = columns;
        self.columns = all.iter().map(|(name, _)| name.clone()).collect();
        for key in self.order.keys_mut() {
            let old = column(&key.column);
            // The key is still there, perhaps under a new name.
            if let Some((name, _)) = all.iter().find(|(_, expr)| *expr == old) {
                key.column.clone_from(name);
                continue;
            }
            // The visible name may be taken by a new column with other values.
            let name = if is_hidden(&key.column) { key.column.clone() } else { planning.hidden() };
            all.push((name.clone(), old));
            key.column = name;
        }
        self.units = all.iter().map(|(name, expr)| (name.clone(), self.unit_of(expr))).collect();
        // Aliases and keys speak of columns that are still there under the same name.
        self.aliases.retain(|_, column| self.columns.contains(column));
        self.keys.retain(|key| self.columns.contains(key));
        let expressions = all.into_iter().map(|(name, expr)| match expr {
            Expr::Column(ref old) if old.name == name && old.relation.is_none() => expr,
            expr => expr.alias(name),
        });
        self.plan = projected(self.plan, expressions.collect(), planning)?;
        Ok(self)
    }

    /// Adds columns, or replaces those of the same name.
    pub(crate) fn extend(mut self, columns: Vec<(String, Expr)>, planning: &Planning) -> Result<Self> {
        let mut all: Vec<Expr> = Vec::new();
        // Hidden columns stay: orders and look-ups need them.
        for old in self.plan.schema().columns() {
            if !columns.iter().any(|(name, _)| *name == old.name) {
                all.push(Expr::Column(old));
            }
        }
        for key in self.order.keys_mut() {
            // A replaced column that the rows are ordered by is kept as a hidden one: `let` changes no order.
            if columns.iter().any(|(name, expr)| *name == key.column && *expr != column(name)) {
                let name = planning.hidden();
                all.push(column(&key.column).alias(&name));
                key.column = name;
            }
        }
        for old in self.aliases.values_mut() {
            // `a.x` still means the x of side `a` after `let x = …`.
            if columns.iter().any(|(name, expr)| name == old && *expr != column(name)) {
                let name = planning.hidden();
                all.push(column(old).alias(&name));
                *old = name;
            }
        }
        let units: Vec<(String, Unit)> =
            columns.iter().map(|(name, expr)| (name.clone(), self.unit_of(expr))).collect();
        self.units.extend(units);
        for (name, expr) in columns {
            all.push(if expr == column(&name) { expr } else { expr.alias(&name) });
            if !self.columns.contains(&name) {
                self.columns.push(name);
            }
        }
        self.plan = projected(self.plan, all, planning)?;
        Ok(self)
    }

    /// Adds hidden columns.
    pub(crate) fn add_hidden(mut self, columns: Vec<(String, Expr)>) -> Result<Self> {
        // Hidden names are new, so no column is replaced and `projected` is not needed.
        let old: Vec<Expr> = self.plan.schema().columns().into_iter().map(Expr::Column).collect();
        let new = columns.into_iter().map(|(name, expr)| expr.alias(name));
        self.plan = LogicalPlanBuilder::from(self.plan).project(old.into_iter().chain(new))?.build()?;
        Ok(self)
    }

    /// Returns the order in DataFusion's form.
    pub(crate) fn sort_expressions(&self) -> Vec<SortExpr> {
        ordering(self.order.keys().iter().map(Key::sort))
    }

    /// Returns the order in which the rows follow each other in time. It differs from the order in which events are
    /// shown by default.
    pub(crate) fn following(&self) -> Vec<SortExpr> {
        let is_default = matches!(self.order, RowOrder::Default(_));
        let ascending = |key: &Key| !key.descending || is_default;
        ordering(self.order.keys().iter().map(|key| column(&key.column).sort(ascending(key), false)))
    }

    /// Whether the query has asked for an order.
    pub(crate) fn is_sorted(&self) -> bool {
        matches!(self.order, RowOrder::Asked(_))
    }

    /// Sorts the rows by their order, and keeps the first `limit` of them.
    pub(crate) fn sorted(mut self, limit: Option<u64>) -> Result<Self> {
        // More than memory can address is no limit.
        let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let mut order = self.sort_expressions();
        if limit.is_some() && self.plan.exists(|node| Ok(matches!(node, LogicalPlan::Window(_))))? {
            // DataFusion moves a sort with a limit below window functions if they keep the order, although they need
            // all rows. A wrapped key hides the order from it.
            for key in &mut order {
                key.expr = opaque(key.expr.clone());
            }
        }
        let order = normalize_sorts(order, &self.plan)?;
        if !order.is_empty() {
            // The builder's own `sort` may resolve a name to a column below a projection that renamed it.
            self.plan = LogicalPlan::Sort(Sort { expr: order, input: Arc::new(self.plan), fetch: None });
        }
        // A limit of its own and no `fetch` in the sort: the optimizer joins both, where it is allowed.
        if limit.is_some() {
            self.plan = LogicalPlanBuilder::from(self.plan).limit(0, limit)?.build()?;
        }
        Ok(self)
    }

    /// Returns the plan with the visible columns only.
    pub(crate) fn visible(self) -> Result<LogicalPlan> {
        let columns: Vec<Expr> = self.columns.iter().map(|name| column(name).alias(name)).collect();
        Ok(LogicalPlanBuilder::from(self.plan).project(columns)?.build()?)
    }
}
