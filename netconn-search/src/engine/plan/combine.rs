//! Plans `join` and `union`.

use std::collections::BTreeMap;

use datafusion::{
    common::{Column, Dependency, JoinType, NullEquality},
    functions::core::expr_fn::coalesce,
    functions_aggregate::count::count_udaf,
    logical_expr::{Expr, LogicalPlanBuilder, WindowFrame, WindowFrameBound, WindowFrameUnits, lit},
    scalar::ScalarValue,
};
use netconn_query::{
    ast::{JoinKey, JoinKind, JoinSide, Name, Query, Span},
    value::{Unit, ValueKind},
};

use super::{
    Planner,
    compare::{as_address, is_address},
    operand::Operand,
    rows::{Key, RowOrder, Rows, ShownRows, column, ordering},
    running::aggregated,
};
use crate::engine::{
    error::{Result, SearchError},
    function::column::data_type,
    plan::following_order,
};

/// One side of a join: its rows and its alias.
struct Side {
    alias: String,
    rows: Rows,
}

/// Plans a join, side by side from left to right.
pub(crate) async fn join(
    planner: &Planner,
    first: Option<Rows>,
    kind: JoinKind,
    all: bool,
    sides: &[JoinSide],
    on: &[JoinKey],
    span: Span,
) -> Result<Rows> {
    // Each side uses up a letter, also one with a name of its own: letters say the place, as in the checker.
    let mut named = Vec::new();
    if let Some(rows) = first {
        named.push(Side { alias: JoinSide::letters(0), rows });
    }
    for side in sides {
        let alias = side.alias.as_ref().map_or_else(|| JoinSide::letters(named.len()), |alias| alias.text.clone());
        named.push(Side { alias, rows: planner.query(&side.query).await? });
    }
    let mut named = named.into_iter();
    let Some(Side { alias, mut rows }) = named.next() else {
        return Err(SearchError::query("join takes two queries or more", span));
    };
    let mut aliases = vec![alias.clone()];
    rows.aliases = rows.columns.iter().map(|name| (format!("{alias}.{name}"), name.clone())).collect();
    // A joined row is no event any more: `a.x` may be meant where `x` alone would have been a field.
    rows.events = false;
    for side in named {
        let keys = keys(&rows, &aliases, &side, on, span)?;
        aliases.push(side.alias.clone());
        // Sides are joined one by one, so a key may name any side before the one that is being added.
        rows = pair(planner, &rows, side, kind, all, &keys)?;
    }
    // What a side says about its own number of rows does not hold for the pairs.
    rows.shown = ShownRows::Default;
    Ok(rows)
}

/// Returns the pairs of columns that must be equal: one of the rows so far, one of the next side.
fn keys(rows: &Rows, aliases: &[String], side: &Side, on: &[JoinKey], span: Span) -> Result<Vec<(String, String)>> {
    let left = |name: &str| rows.resolve(name);
    let right = |name: &str| {
        // The own alias decides first, then a name that belongs to another side is refused, and only then a plain name
        // is tried: a field such as `src.ip.address` begins like an alias.
        let own = name.strip_prefix(side.alias.as_str()).and_then(|rest| rest.strip_prefix('.'));
        own.and_then(|own| side.rows.resolve(own)).or_else(|| {
            let other = aliases.iter().any(|alias| name.starts_with(&format!("{alias}.")));
            if other { None } else { side.rows.resolve(name) }
        })
    };
    let mut pairs = Vec::new();
    for key in on {
        let pair = match &key.right {
            None => left(&key.left.text).zip(right(&key.left.text)),
            Some(other) => {
                // `on b.y = a.x` means the same as `on a.x = b.y`.
                let forward = left(&key.left.text).zip(right(&other.text));
                forward.or_else(|| left(&other.text).zip(right(&key.left.text)))
            }
        };
        match pair {
            Some(pair) => pairs.push(pair),
            // The key may be about a later side.
            None if on.len() > 1 => {}
            None => return Err(missing(&key.left)),
        }
    }
    // A natural join: all columns that both sides show.
    if on.is_empty() {
        pairs = rows
            .columns
            .iter()
            .filter(|name| side.rows.columns.contains(name))
            .map(|name| (name.clone(), name.clone()))
            .collect();
    }
    // A join without keys would pair every row with every other.
    if pairs.is_empty() {
        let message = "these queries have no column in common: say what has to be equal, as in on a.x = b.y";
        return Err(SearchError::query(message, span));
    }
    Ok(pairs)
}

fn missing(name: &Name) -> SearchError {
    SearchError::query(format!("'{}' is not a column of both sides of the join", name.text), name.span)
}

/// Whether each key is unique on the next side: the side is a group by no more than the keys.
fn is_unique(side: &Rows, keys: &[(String, String)]) -> bool {
    let schema = side.plan.schema();
    // After outer joins several rows may have missing keys; such rows are no groups.
    !side.keys.is_empty()
        && schema.functional_dependencies().iter().any(|dependence| {
            let is_key = |place: &usize| keys.iter().any(|(_, key)| key == schema.field(*place).name());
            dependence.mode == Dependency::Single && dependence.source_indices.iter().all(is_key)
        })
}

/// Joins the next side to the rows so far.
fn pair(
    planner: &Planner,
    rows: &Rows,
    side: Side,
    kind: JoinKind,
    all: bool,
    keys: &[(String, String)],
) -> Result<Rows> {
    let Side { alias, rows: mut other } = side;
    // Between two groups, missing keys are equal like any others.
    let groups = !all && keys.iter().all(|(left, right)| rows.keys.contains(left) && other.keys.contains(right));
    let nulls = if groups { NullEquality::NullEqualsNull } else { NullEquality::NullEqualsNothing };
    if !all && !is_unique(&other, keys) {
        // A plain join takes the first row of each key.
        let on: Vec<Expr> = keys.iter().map(|(_, key)| column(key)).collect();
        let sort = ordering(on.iter().map(|key| key.clone().sort(true, false)).chain(following_order(&other)));
        // Hidden columns stay, because the order of the side may need them.
        let everything: Vec<Expr> =
            other.plan.schema().columns().iter().map(|old| column(&old.name).alias(&old.name)).collect();
        other.plan = LogicalPlanBuilder::from(other.plan).distinct_on(on, everything, Some(sort))?.build()?;
    }
    // Hidden names for the columns of the other side, which differ from those of this one.
    let renamed: BTreeMap<String, String> =
        other.columns.iter().map(|name| (name.clone(), planner.planning.hidden())).collect();
    let kinds: BTreeMap<String, ValueKind> =
        other.columns.iter().map(|name| (name.clone(), other.kind(name))).collect();
    let mut expressions: Vec<Expr> = renamed.iter().map(|(name, renamed)| column(name).alias(renamed)).collect();
    let mut pairs = (Vec::new(), Vec::new());
    let mut converted = Vec::new();
    for (left, right) in keys {
        let (left_kind, right_kind) = (rows.kind(left), other.kind(right));
        // DataFusion compares keys of one type only, so both become the kind that holds both.
        let common = left_kind.with(right_kind);
        let key = planner.planning.hidden();
        let (left_key, right_key) = (Operand::new(column(left), left_kind), Operand::new(column(right), right_kind));
        // The column of a table beside a field of addresses may have them in any form.
        let is_left_changed = is_address(&right_key) && !is_address(&left_key);
        let right_key = if is_address(&left_key) { as_address(right_key) } else { right_key };
        expressions.push(right_key.to(common).alias(&key));
        // Keys of the next side always get hidden columns of their own: the visible column keeps its kind.
        pairs.1.push(Column::new_unqualified(key));
        pairs.0.push(Column::new_unqualified(if common == left_kind && !is_left_changed {
            left.clone()
        } else {
            let key = planner.planning.hidden();
            let left_key = if is_left_changed { as_address(left_key) } else { left_key };
            converted.push((key.clone(), left_key.to(common)));
            key
        }));
    }
    let units: Vec<(String, Unit)> =
        renamed.iter().map(|(name, renamed)| (renamed.clone(), other.unit(name))).collect();
    // The projection drops the hidden columns of the side: its order ends here.
    let right = LogicalPlanBuilder::from(other.plan).project(expressions)?.build()?;
    let how = match kind {
        JoinKind::Inner => JoinType::Inner,
        JoinKind::Left => JoinType::Left,
        JoinKind::Outer => JoinType::Full,
    };
    let mut joined = rows.clone().add_hidden(converted)?;
    joined.plan = LogicalPlanBuilder::from(joined.plan).join_detailed(right, how, pairs, None, nulls)?.build()?;

    joined.units.extend(units);
    let mut columns: Vec<(String, Expr)> = rows.columns.iter().map(|name| (name.clone(), column(name))).collect();
    let mut aliases = rows.aliases.clone();
    for name in &other.columns {
        let renamed = &renamed[name];
        // A key that is called the same on both sides is shown once. Behind an outer join it may be missing on either
        // side, so the one that is there is taken.
        let same_key = keys.iter().any(|(left, right)| left == name && right == name);
        let shown = if same_key {
            if let Some((_, value)) = columns.iter_mut().find(|(column, _)| column == name) {
                let (left, right) = (rows.kind(name), kinds[name]);
                let common = left.with(right);
                *value = coalesce(vec![
                    Operand::new(column(name), left).to(common),
                    Operand::new(column(renamed), right).to(common),
                ]);
            }
            name.clone()
        } else if columns.iter().any(|(column, _)| column == name) {
            let shown = format!("{alias}.{name}");
            columns.push((shown.clone(), column(renamed)));
            shown
        } else {
            columns.push((name.clone(), column(renamed)));
            name.clone()
        };
        // `alias.name` stays a way to name the column, under whichever name it is shown.
        aliases.insert(format!("{alias}.{name}"), shown);
    }
    let mut joined = joined.project(columns, &planner.planning)?;
    // A visible column wins over an alias of the same name.
    aliases.retain(|name, _| !joined.columns.contains(name));
    joined.aliases = aliases;
    // With several matches the keys of a group are no longer unique.
    joined.keys.clear();
    Ok(joined)
}

/// Plans a union: the rows of all queries one after another, with columns matched by name.
pub(crate) async fn union(planner: &Planner, first: Option<Rows>, queries: &[Query]) -> Result<Rows> {
    let mut sides: Vec<Rows> = first.into_iter().collect();
    for query in queries {
        sides.push(planner.query(query).await?);
    }
    // Columns are in the order in which the sides name them; a kind grows until it holds the values of all sides.
    let mut kinds: Vec<(String, ValueKind)> = Vec::new();
    for side in &sides {
        for name in &side.columns {
            let kind = side.kind(name);
            match kinds.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = known.with(kind),
                None => kinds.push((name.clone(), kind)),
            }
        }
    }
    let unit = |name: &String| {
        let units = sides.iter().filter(|side| side.columns.contains(name)).map(|side| side.unit(name));
        units.reduce(Unit::with).unwrap_or_default()
    };
    let units = kinds.iter().map(|(name, _)| (name.clone(), unit(name))).collect();
    // Only unordered events stay events: all others keep the order of the queries and the order within each.
    let events = sides.iter().all(|side| side.events && side.order == RowOrder::None);
    let (number, rank) = (planner.planning.hidden(), planner.planning.hidden());
    let shown = match sides.iter().any(|side| side.shown == ShownRows::Default) {
        true => ShownRows::Default,
        false if sides.iter().any(|side| side.shown == ShownRows::All) => ShownRows::All,
        false => ShownRows::Decided,
    };
    let mut union: Option<LogicalPlanBuilder> = None;
    for (place, side) in sides.into_iter().enumerate() {
        // A union of DataFusion keeps no order, so each row carries the number of its side and its place there.
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        let order = side.sort_expressions();
        let plan = LogicalPlanBuilder::from(side.plan.clone());
        let (plan, rank_value) = if order.is_empty() {
            (plan, lit(ScalarValue::Int64(None)))
        } else {
            // A running count gives the place. `None` means unbounded.
            let start = WindowFrameBound::Preceding(ScalarValue::UInt64(None));
            let frame = WindowFrame::new_bounds(WindowFrameUnits::Rows, start, WindowFrameBound::CurrentRow);
            let place_in_side = aggregated(count_udaf(), lit(1_i64), order, frame).alias(&rank);
            (plan.window([place_in_side])?, column(&rank))
        };
        let mut expressions: Vec<Expr> = Vec::with_capacity(kinds.len() + 2);
        for (name, kind) in &kinds {
            // A column that is always missing has no type that a union could match.
            let kind = if *kind == ValueKind::Null { ValueKind::Text } else { *kind };
            let value = if side.columns.contains(name) {
                Operand::new(column(name), side.kind(name)).to(kind)
            } else {
                lit(ScalarValue::try_from(&data_type(kind))?)
            };
            expressions.push(value.alias(name));
        }
        expressions.push(lit(place).alias(&number));
        expressions.push(rank_value.alias(&rank));
        let plan = plan.project(expressions)?;
        union = Some(match union {
            None => plan,
            Some(union) => union.union(plan.build()?)?,
        });
    }
    // Without any side there are all events. The parser demands a query, so only a hand-made tree gets here.
    let Some(union) = union else {
        return planner.query(&Query { filter: None, commands: Vec::new(), span: Span::default() }).await;
    };
    let order = match events {
        true => RowOrder::None,
        false => RowOrder::Asked([number, rank].map(|column| Key { column, descending: false }).into()),
    };
    let columns = kinds.into_iter().map(|(name, _)| name).collect();
    Ok(Rows { order, events, shown, units, ..Rows::of(union.build()?, columns) })
}
